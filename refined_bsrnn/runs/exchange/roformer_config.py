"""Reads the YAML file of a published RoFormer safely (MSST's format: audio, model, training, ...).

Only plain values and ``!!python/tuple`` are read; other tags are refused, and nothing is executed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import RecipeError
from ...plain import BoundedLoader, parse_yaml, shown

MOST_BYTES = 200_000  # the published ones have 2 to 6 kB
LARGEST = 10**9

# What of ``model:`` does not change the estimates of a trained network.
WITHOUT_EFFECT = {
    *("attn_dropout", "ff_dropout", "flash_attn", "linear_flash_attn", "sage_attention", "use_torch_checkpoint"),
    *("dim_freqs_in", "match_input_audio_length", "stft_normalized"),  # the first norm takes the STFT's scale away
    *("multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes", "multi_stft_hop_size"),
    "multi_stft_normalized",
}
READ = {
    *("dim", "depth", "stereo", "num_stems", "time_transformer_depth", "freq_transformer_depth", "heads", "dim_head"),
    *("stft_n_fft", "stft_hop_length", "stft_win_length", "zero_dc", "mask_estimator_depth", "mlp_expansion_factor"),
    *("ff_mult", "use_shared_bias"),
}
# What makes another network, by the key that asks for it, and the value that does not.
FORMS: dict[str, tuple[str, Any]] = {
    "linear_transformer_depth": ("linear attention", 0),
    "use_pope": ("PoPE positions", False),
    "num_residual_streams": ("hyper-connections", 1),
    "num_residual_fracs": ("hyper-connections", 1),
    "mc_hyper_conn_sinkhorn_iters": ("hyper-connections", None),
    "add_value_residual": ("value residuals", False),
    "skip_connection": ("skip connections between blocks", False),
    "freq_range": ("a limited range of frequencies", None),
}


class _Loader(BoundedLoader):
    """Safe, with tuples, and without merge keys: a few lines of those become gigabytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it merges mappings (<<)", node.start_mark)
        super().flatten_mapping(node)


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),  # type: ignore[arg-type]
)


class RoformerConfig:
    """The values of a published configuration, each checked as it is read; `RecipeError` names file and key."""

    def __init__(self, path: Path):
        self.path = path
        self.sections = self._read()
        self.model = self.section("model")
        if self.model.get("dim") is None:
            raise RecipeError(
                f"{path} has no model.dim: it is no configuration of a RoFormer. Expected the YAML file that was "
                "published beside the checkpoint."
            )

    def _read(self) -> Mapping[str, Any]:
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise RecipeError(f"{self.path} has {self.path.stat().st_size} bytes; a configuration has some 5 000.")
            values = parse_yaml(self.path.read_text(encoding="utf-8"), _Loader)
        except OSError as error:
            raise RecipeError(f"{self.path} cannot be read: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())[:300]
            raise RecipeError(f"{self.path} is no YAML of plain values and tuples: {why}.") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{self.path} holds {shown(values)}; expected the sections audio, model and training.")
        return values

    def section(self, name: str) -> Mapping[str, Any]:
        """A section; an absent one is empty."""
        values = self.sections.get(name)
        if values is not None and not isinstance(values, dict):
            raise RecipeError(f"{self.path}: {name} is {shown(values)}; expected keys and values.")
        return values or {}

    def whole(self, key: str, default: int | None = None, section: str = "model") -> int | None:
        """A whole number, at least 1."""
        value = self.section(section).get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
            raise RecipeError(
                f"{self.path}: {section}.{key} is {shown(value)}; expected a whole number from 1 to {LARGEST}."
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false, of the model."""
        value = self.model.get(key, default)
        if not isinstance(value, bool):
            raise RecipeError(f"{self.path}: model.{key} is {shown(value)}; expected true or false.")
        return value

    def check_form(self, known: set[str]) -> None:
        """`RecipeError` if the network has an unsupported part or an unknown key."""
        for key, value in self.model.items():
            what, harmless = FORMS.get(key, ("", None))
            if what and value not in (harmless, None):
                raise RecipeError(f"{self.path} asks for {what} (model.{key}: {shown(value)}), which is not supported.")
            if not what and key not in READ | WITHOUT_EFFECT | known:
                raise RecipeError(
                    f"{self.path}: model.{str(key)[:80]} is unknown here, so the network may be another one than "
                    f"would be made. Expected {', '.join(sorted(READ | known))}."
                )

    def widths(self) -> tuple[int, ...] | None:
        """``freqs_per_bands``, or None if it is not said."""
        value = self.model.get("freqs_per_bands")
        if value is None:
            return None
        whole = isinstance(value, tuple | list) and all(type(n) is int and n > 0 for n in value)
        if not whole or not value:
            raise RecipeError(f"{self.path}: model.freqs_per_bands is {shown(value)}; expected bins of each band.")
        return tuple(value)

    def targets(self) -> tuple[list[str], str | None]:
        """Names in the order of the masks, and the name of the rest of the mixture for a single mask (None: no
        rest).
        """
        training = self.section("training")
        names, target = training.get("instruments"), training.get("target_instrument")
        if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
            raise RecipeError(f"{self.path}: training.instruments is {shown(names)}; expected a list of names.")
        if target is None:
            return [_as_name(name) for name in names], None
        if target not in names:
            raise RecipeError(
                f"{self.path}: training.target_instrument is {shown(target)}; expected one of training.instruments."
            )
        others = [name for name in names if name != target]
        return [_as_name(target)], _as_name(others[0]) if len(others) == 1 else "rest"

    def separation(self, sample_rate_hz: int) -> dict[str, float]:
        """The published chunk and overlap, for a recipe's ``separation``; what is not said is left out."""
        values: dict[str, float] = {}
        chunk = self.whole("chunk_size", section="inference") or self.whole("chunk_size", section="audio")
        n_overlap = self.whole("num_overlap", section="inference")
        if chunk:
            values["chunk_seconds"] = chunk / sample_rate_hz
        if n_overlap:
            values["overlap"] = 1 - 1 / n_overlap  # every sample lies in so many chunks
        return values


def _as_name(name: str) -> str:
    """A target's name becomes a file's: "Lead Vocals" is Lead_Vocals."""
    return "_".join(name.split())


def agree(config: RoformerConfig, path: Path, found: Mapping[str, int | Sequence[int]]) -> None:
    """`RecipeError` if the configuration has other sizes than the checkpoint's tensors; by key of model."""
    for key, ours in found.items():
        stated = config.model.get(key)
        stated = tuple(stated) if isinstance(stated, list) else stated
        if stated is not None and stated != ours:
            raise RecipeError(
                f"{config.path} says model.{key}: {shown(stated)}, and {path} has {shown(ours)}: they do not belong "
                "together. Expected the configuration that was published with this checkpoint."
            )
