"""Published BS-RoFormer and Mel-Band RoFormer checkpoints (arXiv 2309.02612, 2310.01809) in MSST's format.

    refined-bsrnn import model.ckpt --config config.yaml --out runs/roformer

The network follows from the configuration and from the names and shapes of the tensors, which must agree exactly. The
published code orders a band's numbers by bin, then channel, then real and imaginary part; ours are ordered by real and
imaginary part, then channel, then bin. The weights are reordered when they are read, so the network is the one that
recipes train (`backbone.kind: rope_transformer`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...bands import band_split
from ...errors import CheckpointError, RecipeError
from ...network.blocks import rotary_speeds
from ...network.model import BSRNN
from ...recipe import make_recipe
from ..folder import refuse_misfits
from .published_network import PublishedNetwork, Shapes, Translated, check_names, without_numbers
from .roformer_config import RoformerConfig, agree
from .torchfile import TorchFile

BS, MEL = "BS-RoFormer", "Mel-Band RoFormer"

# Parts of other networks of the family, by the names of their tensors.
FORMS = (
    (r"\.temperature$|\.to_qkv\.0\.", "linear attention"),
    (r"pope", "PoPE positions"),
    (r"\.branch\.|\.(static|dynamic)_(alpha|beta)", "hyper-connections"),
    (r"value_residual", "value residuals"),
    (r"\.segm\.|hyper_?ace", "HyperACE"),
    (r"\.(conv|dw_conv|ff1|ff2)\.", "Conformer blocks"),
    (r"fno|spectral", "Fourier neural operators"),
)


def is_roformer(names: list[str]) -> bool:
    return any(name.startswith("band_split.") for name in names)


@dataclass(frozen=True)
class Sizes:
    """The sizes in the names and shapes of the tensors."""

    layout: str
    features: int
    blocks: int
    time_layers: int
    band_layers: int
    heads: int
    head_dim: int
    feed_forward: int
    bias: bool
    widths: tuple[int, ...]  # numbers of each band: real and imaginary, of all channels
    stems: int
    mask_layers: int
    mask_hidden: int | None


def read_sizes(file: TorchFile) -> Sizes:
    """The sizes of the network in a checkpoint.

    Raises `CheckpointError` if it is another network, with the feature that shows it, or if a tensor is missing.
    """
    other = [what for pattern, what in FORMS if any(re.search(pattern, name) for name in file.names)]
    if other:
        raise CheckpointError(f"{file.path} is a RoFormer with {' and '.join(other)}, which is not supported.")

    shapes = Shapes(file.views, file.path, "a RoFormer")
    size, count = shapes.size, shapes.count
    layer, mask = "layers.0.0.layers.0.", "mask_estimators.0.to_freqs.0.0."
    features, heads = size("band_split.to_features.0.1.weight"), size(f"{layer}0.to_gates.weight")
    mask_layers = count(rf"{re.escape(mask)}(\d+)\.weight$")
    sizes = Sizes(
        layout=MEL if "layers.0.0.norm.gamma" in file.views else BS,
        features=features,
        blocks=count(r"layers\.(\d+)\."),
        time_layers=count(r"layers\.0\.0\.layers\.(\d+)\."),
        band_layers=count(r"layers\.0\.1\.layers\.(\d+)\."),
        heads=heads,
        head_dim=size(f"{layer}0.to_qkv.weight") // (3 * max(1, heads)),
        feed_forward=size(f"{layer}1.net.1.weight"),
        bias=f"{layer}0.to_qkv.bias" in file.views,
        widths=tuple(
            size(f"band_split.to_features.{i}.0.gamma") for i in range(count(r"band_split\.to_features\.(\d+)\."))
        ),
        stems=count(r"mask_estimators\.(\d+)\."),
        mask_layers=mask_layers,
        mask_hidden=size(f"{mask}0.weight") if mask_layers > 1 else None,
    )
    n_parts = sizes.blocks * (sizes.time_layers + sizes.band_layers) + sizes.stems * len(sizes.widths)
    if n_parts > len(file.names):  # a small file could ask for a network that takes days to make
        raise CheckpointError(f"{file.path} names {n_parts} layers and masks, and has {len(file.names)} tensors.")
    return sizes


# --- the recipe -------------------------------------------------------------------------------------------------------


def make_model(file: TorchFile, config: RoformerConfig) -> BSRNN:
    """The network, without numbers. Raises `RecipeError` if configuration and checkpoint differ or are another's."""
    sizes = read_sizes(file)
    is_mel = sizes.layout == MEL
    config.check_form({"num_bands", "sample_rate"} if is_mel else {"freqs_per_bands"})
    _check_sizes(file, config, sizes)
    rate = _sample_rate_hz(config)
    stft = {"sample_rate_hz": rate, "n_fft": config.whole("stft_n_fft", 2048)}
    stereo = config.flag("stereo", False)
    targets, rest = _targets(file, config, sizes)
    speeds = {f"{axis}_speeds": _speeds(file, number, sizes) for number, axis in enumerate(("time", "band"))}
    values: dict[str, Any] = {
        "targets": [*targets, rest] if rest else targets,
        "stft": {**stft, "hop": config.whole("stft_hop_length", 512)},
        "bands": _bands(file, config, sizes, stft, 2 if stereo else 1),
        "backbone": {
            "kind": "rope_transformer",
            "features": sizes.features,
            "repeats": sizes.blocks,
            "norm": "length",
            "stereo": "joint" if stereo else "apart",
            "final_norm": not is_mel,
            "heads": sizes.heads,
            "head_dim": sizes.head_dim,
            "feed_forward_factor": sizes.feed_forward // sizes.features,
            "time_layers": sizes.time_layers,
            "band_layers": sizes.band_layers,
            "closing_norm": is_mel,
            "attention_bias": sizes.bias,
            **{key: value for key, value in speeds.items() if value},
        },
        "head": {
            "kind": "roformer_mask",
            "hidden_layers": sizes.mask_layers - 1,
            **({"hidden_factor": _ratio(sizes.mask_hidden, sizes.features)} if sizes.mask_hidden else {}),
            "zero_dc": config.flag("zero_dc", True),
        },
        "together": "subtract_last" if rest else "none",
        "separation": config.separation(rate),
    }
    return without_numbers(make_recipe(values))


def _ratio(hidden: int, features: int) -> float:
    return hidden / features if hidden % features else hidden // features


def _check_sizes(file: TorchFile, config: RoformerConfig, sizes: Sizes) -> None:
    """That each size in the configuration is that of the checkpoint, and that the rest can be made here."""
    stated_layers = sizes.mask_layers - (sizes.layout == MEL)  # the two count the layers of their masks differently
    found: dict[str, int] = {
        "dim": sizes.features,
        "depth": sizes.blocks,
        "time_transformer_depth": sizes.time_layers,
        "freq_transformer_depth": sizes.band_layers,
        "heads": sizes.heads,
        "dim_head": sizes.head_dim,
        "ff_mult": sizes.feed_forward // sizes.features,
        "num_stems": sizes.stems,
        "num_bands": len(sizes.widths),
        "mask_estimator_depth": stated_layers,
    }
    if sizes.mask_hidden:
        found["mlp_expansion_factor"] = sizes.mask_hidden // sizes.features
    agree(config, file.path, found)
    if config.flag("use_shared_bias", False) and not sizes.bias:
        raise RecipeError(f"{config.path} says model.use_shared_bias: True, and {file.path} has no such biases.")
    window, n_fft = config.whole("stft_win_length", 2048), config.whole("stft_n_fft", 2048)
    if window != n_fft:
        raise RecipeError(f"{config.path}: a window of {window} samples with n_fft {n_fft} is not supported.")
    if sizes.feed_forward % sizes.features:
        raise CheckpointError(
            f"{file.path} has feed-forward layers of {sizes.feed_forward} features; expected a multiple of "
            f"{sizes.features}."
        )


def _sample_rate_hz(config: RoformerConfig) -> int:
    of_audio, of_model = config.whole("sample_rate", section="audio"), config.whole("sample_rate")
    if of_audio and of_model and of_audio != of_model:
        raise RecipeError(f"{config.path} says audio.sample_rate {of_audio} and model.sample_rate {of_model}.")
    return of_audio or of_model or 44100


def _targets(file: TorchFile, config: RoformerConfig, sizes: Sizes) -> tuple[list[str], str | None]:
    targets, rest = config.targets()
    if len(targets) != sizes.stems:
        raise RecipeError(
            f"{file.path} has {sizes.stems} masks, and {config.path} names {len(targets)}: {', '.join(targets)} "
            "(training.instruments, or target_instrument alone). They do not belong together."
        )
    return targets, rest


def _bands(file: TorchFile, config: RoformerConfig, sizes: Sizes, stft: dict[str, Any], n: int) -> dict[str, Any]:
    """The band scheme; `RecipeError` unless its widths are those of the checkpoint."""
    widths = tuple(width // (2 * n) for width in sizes.widths)
    n_bins = stft["n_fft"] // 2 + 1
    if sizes.layout == MEL:
        scheme: dict[str, Any] = {"kind": "mel_band_roformer", "n_bands": len(widths)}
    else:
        usual = {"kind": "bs_roformer"}
        is_usual = stft["n_fft"] == 2048 and widths == _widths(stft, usual)
        edges = list(accumulate(widths[:-1]))
        scheme = usual if is_usual else {"kind": "custom", "edges_bins": edges}
    fits = all(width == 2 * n * bins for width, bins in zip(sizes.widths, widths, strict=True))
    # More bins than there are numbers would only take memory.
    if not fits or n_bins > sum(widths) or _widths(stft, scheme) != widths:
        raise RecipeError(
            f"{file.path} has bands of {', '.join(map(str, sizes.widths[:3]))}, ... numbers, {sum(sizes.widths)} in "
            f"all, which are not the {len(widths)} bands of {n_bins} bins, real and imaginary, of {n} channels that "
            f"{config.path} asks for (model.stft_n_fft, stereo, sample_rate). They do not belong together."
        )
    if sizes.layout == BS and config.widths():
        agree(config, file.path, {"freqs_per_bands": widths})
    return scheme


def _widths(stft: dict[str, Any], scheme: dict[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(stop - start for start, stop in band_split(**stft, **scheme))
    except RecipeError:
        return ()


def _speeds(file: TorchFile, axis: int, sizes: Sizes) -> list[float]:
    """The rotary speeds along an axis if they are not the usual ones; all layers of the axis share them.

    In half precision the usual speeds are rounded, which would rotate a song's last positions too far; they are
    recognised and replaced by the exact ones. A checkpoint without speeds has the usual ones.
    """
    names = [name for name in _speed_names(file) if int(name.split(".")[2]) == axis]
    if not names:
        return []
    first, usual = file.read(names[0]), rotary_speeds(sizes.head_dim)
    different = [name for name in names if not torch.equal(file.read(name), first)]
    if different or first.shape != usual.shape:
        name = different[0] if different else names[0]
        raise CheckpointError(
            f"{file.path}: {name} differs from {names[0]}, or does not give {len(usual)} speeds; in the published "
            "network all layers along an axis share one set of rotary speeds."
        )
    rounded = (usual.to(kind).float() for kind in (torch.float32, torch.float16, torch.bfloat16))
    if any(torch.allclose(first, speeds, rtol=1e-6, atol=0) for speeds in rounded):
        return []
    return [float(speed) for speed in first]


def _speed_names(file: TorchFile) -> list[str]:
    return [name for name in file.names if re.match(r"layers\.\d+\.[01]\.layers\.\d+\.0\.rotary_embed\.freqs$", name)]


# --- their names and order, and ours ----------------------------------------------------------------------------------

LAYER = (
    ("attention.norm.weight", "0.norm.gamma"),
    ("attention.qkv.", "0.to_qkv."),
    ("attention.gate.", "0.to_gates."),
    ("attention.out.", "0.to_out.0."),
    ("feed_forward.0.weight", "1.net.0.gamma"),
    ("feed_forward.1.", "1.net.1."),
    ("feed_forward.3.", "1.net.4."),
)
SHARED_BIASES = {"shared_qkv_bias": "to_qkv.bias", "shared_out_bias": "to_out.0.bias"}


def their_name(ours: str) -> str:
    """The published name of a parameter of our backbone."""
    if ours == "norm.weight":
        return "final_norm.gamma"
    if match := re.match(r"encoder\.norms\.(\d+)\.weight$", ours):
        return f"band_split.to_features.{match[1]}.0.gamma"
    if match := re.match(r"encoder\.linears\.(\d+)\.(weight|bias)$", ours):
        return f"band_split.to_features.{match[1]}.1.{match[2]}"
    match = re.match(r"blocks\.(\d+)\.(time|band)\.(?:(\d+)\.)?(.*)$", ours)
    if match is None:
        raise KeyError(ours)
    transformer = f"layers.{match[1]}.{('time', 'band').index(match[2])}."
    for prefix, theirs in LAYER:
        if match[4].startswith(prefix):
            return f"{transformer}layers.{match[3] or 0}.{theirs}{match[4].removeprefix(prefix)}"
    return f"{transformer}norm.gamma"  # behind the layers


def their_mask_name(ours: str, stem: int) -> str:
    """The published name of a parameter of our head: ours begins with a norm that has no parameters."""
    _, band, layer, kind = ours.split(".")
    return f"mask_estimators.{stem}.to_freqs.{band}.0.{int(layer) - 1}.{kind}"


def _reordered(tensor: Tensor, name: str, n_channels: int, last_layer: int) -> Tensor:
    """A tensor with the numbers of a band in our order."""
    if re.match(r"band_split\.to_features\.\d+\.(0\.gamma|1\.weight)$", name):
        # bin × channel × (real | imaginary) → (real | imaginary) × channel × bin
        return tensor.unflatten(-1, (-1, n_channels, 2)).transpose(-3, -1).flatten(-3)
    if re.match(rf"mask_estimators\.\d+\.to_freqs\.\d+\.0\.{last_layer}\.", name):
        # (value | gate) × bin × channel × (real | imaginary) → (value | gate) × (real | imaginary) × channel × bin
        return tensor.unflatten(0, (2, -1, n_channels, 2)).transpose(1, 3).flatten(0, 3)
    return tensor


def read_roformer(file: TorchFile, config: RoformerConfig) -> PublishedNetwork:
    """A published RoFormer, all names and shapes checked; its numbers are read from ``file`` when they are needed.

    Raises `CheckpointError` and `RecipeError` for a network that is not supported, a configuration that belongs to
    another checkpoint, and a missing, extra or misshapen tensor.
    """
    model = make_model(file, config)
    last_layer = 2 * int(model.recipe.head.options["hidden_layers"])
    backbone = {name: their_name(name) for name in model.backbone.state_dict()}
    heads = {
        target: {name: their_mask_name(name, stem) for name in head.state_dict()}
        for stem, (target, head) in enumerate(model.heads.items())
    }
    _check(file, model, backbone, heads)

    def read(name: str) -> Tensor:
        return _reordered(file.read(name), name, model.channels_per_item, last_layer)

    return PublishedNetwork(
        layout=f"{read_sizes(file).layout} (MSST)",
        files={"checkpoint": file.path, "config": config.path},
        model=model,
        backbone=Translated(backbone, read),
        heads={target: Translated(names, read) for target, names in heads.items()},
    )


def _check(file: TorchFile, model: BSRNN, backbone: dict[str, str], heads: dict[str, dict[str, str]]) -> None:
    """That the checkpoint has every tensor of the network, of its shape, and no other."""
    parts = [(backbone, model.backbone), *((names, model.heads[target]) for target, names in heads.items())]
    shapes = {names[ours]: tuple(tensor.shape) for names, part in parts for ours, tensor in part.state_dict().items()}
    speeds = dict.fromkeys(_expected_speeds(file, shapes), (model.recipe.backbone.options["head_dim"] // 2,))
    shared = (
        {name: shapes[f"layers.0.0.layers.0.0.{copy}"] for name, copy in SHARED_BIASES.items() if name in file.views}
        if model.recipe.backbone.options["attention_bias"]
        else {}
    )
    expected = {**shapes, **speeds, **shared}
    check_names(expected, file.names, file.path)
    problems = [
        f"{name} has shape {file.shape(name)}, the network {shape}"
        for name, shape in expected.items()
        if file.shape(name) != shape
    ]
    refuse_misfits(problems, str(file.path))
    for name in shared:
        if not torch.equal(file.read(name), file.read(f"layers.0.0.layers.0.0.{SHARED_BIASES[name]}")):
            raise CheckpointError(f"{file.path}: {name} is not the bias of its layers, which share it.")


def _expected_speeds(file: TorchFile, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Rotary speeds, which every attention layer has, or none."""
    for name in shapes if _speed_names(file) else ():
        if name.endswith(".0.to_qkv.weight"):
            yield name.replace("to_qkv.weight", "rotary_embed.freqs")
