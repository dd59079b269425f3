"""Recipes: one YAML file that defines a run, as frozen, typed dataclasses.

`load_recipe` reads a file (or the name of a recipe that comes with the package), applies ``extends:`` and
``key=value`` overrides, and checks every key and type, so that a typo fails before any data is read. Every default
stands once, in the dataclasses below; the value in the recipe is the value used. This module imports no torch.
"""

import dataclasses
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from .errors import RecipeError, nearest
from .system import expand_home

# (features N, repeats R) of the backbone; `size=tiny` in a recipe or on the command line sets both.
SIZES: dict[str, tuple[int, int]] = {"micro": (16, 2), "tiny": (32, 6), "small": (64, 8), "large": (128, 12)}

DATA_ROOT_VARIABLE = "MUSDB18HQ_ROOT"


def _number(default: Any, *, above: float | None = None, at_least: float | None = None) -> Any:
    """A dataclass field with a bound that `load_recipe` checks."""
    return field(default=default, metadata={"above": above, "at_least": at_least})


def _path(default: Any) -> Any:
    """A field that names a file or folder; a leading ``~`` becomes the user's home folder."""
    return field(default=default, metadata={"path": True})


def _rest(default: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """A field that collects the keys of its section that no other field claims (a component's own options)."""
    return field(default_factory=lambda: dict(default), metadata={"rest": True})


@dataclass(frozen=True)
class StftSpec:
    """The spectrogram; ``hop`` in samples."""

    sample_rate_hz: int = _number(44100, above=0)
    n_fft: int = _number(2048, at_least=16)
    hop: int = _number(512, above=0)


@dataclass(frozen=True)
class BandsSpec:
    """``kind`` names an entry of `bands.SCHEMES`; further keys are that scheme's options."""

    kind: str = "tet24"
    options: Mapping[str, Any] = _rest()


@dataclass(frozen=True)
class BackboneSpec:
    """``kind`` names an entry of `blocks.BLOCKS`, repeated ``repeats`` times on ``features`` features per band."""

    kind: str = "band_sequence_rnn"
    features: int = _number(64, above=0)
    repeats: int = _number(8, at_least=0)
    norm: str = "gn1"
    # apart: channels share all weights and never meet; tac: they meet in every block; joint: one item at the encoder
    stereo: Literal["apart", "tac", "joint"] = "apart"
    causal: bool = False  # no look-ahead but the STFT's; needs a norm that has none either (ln, rms, cumulative, ...)
    final_norm: bool = False  # one more norm behind the last block, before all heads
    options: Mapping[str, Any] = _rest()


@dataclass(frozen=True)
class HeadSpec:
    """``kind`` names an entry of `heads.HEADS`; further keys are that head's options."""

    kind: str = "mlp_mask"
    options: Mapping[str, Any] = _rest()


@dataclass(frozen=True)
class InputSpec:
    """``normalise``: none, or an entry of `signals.NORMALISERS`, which decides the level at which the network hears.

    The same gain is applied to the stems before the loss, so that loud and quiet songs count alike.
    """

    normalise: str = "none"


@dataclass(frozen=True)
class LossSpec:
    """Further keys are terms of `losses.LOSSES` and `losses.JOINT_LOSSES` with their weights."""

    reduction: Literal["sum", "mean"] = "sum"
    weighting: Literal["fixed", "uncertainty"] = "fixed"  # uncertainty: one learned weight per target
    target_weights: Mapping[str, float] = field(default_factory=dict)
    # Of the examples of a batch that have a target, the share with the largest loss that does not count (noisy labels).
    truncate_quantile: float = _number(0.0, at_least=0)
    terms: Mapping[str, float] = _rest({"wave_l1": 1.0, "spec_l1": 1.0})


@dataclass(frozen=True)
class SourceSpec:
    """``kind`` names an entry of `sources.LAYOUTS`; further keys are that source's options, ``root`` for most."""

    kind: str = "auto"
    weight: float = _number(1.0, above=0)  # how often one of its tracks is drawn, beside one of weight 1
    options: Mapping[str, Any] = _rest()


@dataclass(frozen=True)
class DataSpec:
    """Where the songs are and how their files become a mixture and targets (see `tracks` and `examples`)."""

    root: str | None = _path(None)
    sources: tuple[SourceSpec, ...] = ()  # instead of root: several sources, or one whose kind is not to be guessed
    define: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # name: a stem or the stems it sums
    check: bool = True  # read every file to its end before the first training, once; off: names and headers alone
    decode: bool = False  # decode mp3, ogg and opus once into the cache; m4a and others always are
    # The stems of a track may differ in length by so many seconds: silence follows shorter ones, longer ones are cut
    # where the mixture ends.
    fit_seconds: float = _number(0.0, at_least=0)
    channels: Literal[1, 2] = 2
    # The parts a training mixture is made of; empty: vocals, drums, bass, other where they hold every target, else the
    # targets and the rest of the mixture.
    stems: tuple[str, ...] = ()
    # A track that lacks a target (or one of data.stems): mask: it counts for the others; skip: it is left out; silent:
    # what it lacks is silence; error: it is refused.
    missing_stem: Literal["mask", "skip", "silent", "error"] = "mask"
    # Sources that songs without a stem of that name are known not to hold; null: targets that only solos have (a solo
    # is a track with one stem alone). Of these a recording is added to ``add_targets`` of the examples of such songs.
    absent: tuple[str, ...] | None = None
    add_targets: float = _number(0.75, at_least=0)
    add_others: float = _number(0.5, at_least=0)  # share of the examples to which a solo of no target is added
    excerpts: Literal["random", "active"] = "random"  # active: from segments in which a part is to be heard
    energy: Literal["rms", "power"] = "rms"  # by which a segment is found active
    stem_weights: str | None = _path(None)  # a CSV of track, stem, weight: stems that count less (0: are left out)
    # Names or globs of training tracks → how often each is drawn, beside one of weight 1; the last that fits counts.
    track_weights: Mapping[str, float] = field(default_factory=dict)
    # Names or globs of training tracks kept for validation; empty: the 14 official ones of MUSDB18 where they are
    # present, a folder `valid/`, or a share of the tracks chosen by a hash of their names.
    validation_tracks: tuple[str, ...] = ()
    validation_share: float = _number(0.14, at_least=0)
    # Train on part of the training tracks: so many of them, so many minutes, a share of them; 0 and 1: all. Which ones
    # follows from train.seed; a smaller part is contained in every larger one.
    use_tracks: int = _number(0, at_least=0)
    use_minutes: float = _number(0.0, at_least=0)
    use_fraction: float = _number(1.0, above=0)

    def stems_of(self, name: str) -> tuple[str, ...]:
        """The stems on the disk that a name stands for: those of its definition, or the one of that name."""
        defined = self.define.get(name, name)
        return (defined,) if isinstance(defined, str) else tuple(defined)


@dataclass(frozen=True)
class AugmentSpec:
    """What is done to the parts before they are summed to a training mixture; see `augment` and docs/augmentation.md.

    A plain number is a probability: of an example, or of each of its parts. ``off`` switches any of them off, and
    ``preset: NAME`` sets all of them as an entry of `AUGMENT_PRESETS` does.
    """

    remix: float = _number(1.0, at_least=0)  # share of mixtures whose parts come from different songs
    gain_db: tuple[float, float] = (-10.0, 10.0)  # range, per part, always
    gain_uniform: Literal["db", "amplitude"] = "db"
    channel_swap: float = _number(0.5, at_least=0)  # per part
    polarity: float = _number(0.0, at_least=0)  # per part
    drop: float = _number(0.0, at_least=0)  # per part: it is silenced
    silent_target: float = _number(0.0, at_least=0)  # per example: one of its targets is silenced
    time_shift: float = _number(0.0, at_least=0)  # per part: it begins earlier or later than where it was drawn
    time_shift_seconds: tuple[float, float] = (-0.05, 0.05)
    speed: float = _number(0.0, at_least=0)  # per song of the mixture: pitch and tempo together, by resampling
    speed_percent: tuple[float, float] = (-5.0, 5.0)
    tempo: float = _number(0.0, at_least=0)  # per song of the mixture: tempo alone, by FFmpeg's atempo
    tempo_percent: tuple[float, float] = (-10.0, 10.0)
    pitch: float = _number(0.0, at_least=0)  # per song of the mixture: pitch alone, by both
    pitch_semitones: tuple[float, float] = (-2.0, 2.0)
    eq: float = _number(0.0, at_least=0)  # per part
    eq_db: tuple[float, float] = (-6.0, 6.0)  # of each of its three filters
    reverb: float = _number(0.0, at_least=0)  # per part; a folder instead of a number is reverb_folder
    reverb_seconds: tuple[float, float] = (0.2, 1.5)  # the time in which it falls by 60 dB
    reverb_db: tuple[float, float] = (-24.0, -6.0)  # its level against the part
    reverb_folder: str | None = _path(None)  # impulse responses of rooms, instead of modelled ones
    noise: float = _number(0.0, at_least=0)  # per example; a folder instead of a number is noise_folder
    noise_folder: str | None = _path(None)  # recordings that are added to mixtures, to no target
    noise_db: tuple[float, float] = (-30.0, -10.0)  # their level against the mixture
    low_pass: float = _number(0.0, at_least=0)  # per example, all parts alike
    low_pass_hz: tuple[float, float] = (3000.0, 16000.0)
    codec: float = _number(0.0, at_least=0)  # per example, all parts alike: mp3 or Ogg Vorbis and back
    codec_level: tuple[float, float] = (0.4, 0.95)  # from 0, the best, to below 1


_NOTHING: dict[str, Any] = {
    field.name: 0.0
    for field in dataclasses.fields(AugmentSpec)
    if typing.get_type_hints(AugmentSpec)[field.name] is float
}
_NOTHING["gain_db"] = [0.0, 0.0]
# 0.25 to 1.25 times the amplitude
_UMX: dict[str, Any] = {
    "remix": 1.0,
    "gain_db": [-12.041, 1.938],
    "gain_uniform": "amplitude",
    "channel_swap": 0.5,
}
AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    "none": _NOTHING,
    "paper": {**_NOTHING, "remix": 1.0, "gain_db": [-10.0, 10.0], "gain_uniform": "db", "drop": 0.1},
    "umx": {**_NOTHING, **_UMX},
    "obsrnn": {**_NOTHING, **_UMX},  # its best models; those on active segments use the paper's
}


@dataclass(frozen=True)
class TrainSpec:
    """``batch_size`` is the number of excerpts per optimiser step, over all processes and accumulated parts."""

    steps: int = _number(200_000, above=0)
    batch_size: int = _number(8, above=0)
    accumulate: int = _number(1, above=0)
    chunk_seconds: float = _number(3.0, above=0)
    lr: float = _number(1e-3, above=0)
    warmup_steps: int = _number(0, at_least=0)
    decay: Literal["constant", "cosine", "exponential"] = "exponential"
    decay_rate: float = _number(0.98, above=0)  # exponential: lr is multiplied by this ...
    decay_every: int = _number(5000, above=0)  # ... every so many steps
    clip_norm: float = _number(5.0, above=0)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, else float32
    ema: float = _number(0.0, at_least=0)  # decay of the averaged weights that are validated and kept; 0: off
    seed: int = _number(0, at_least=0)
    workers: int = _number(2, at_least=0)
    log_every: int = _number(50, above=0)
    validate_every: int = _number(5000, above=0)
    validate_seconds: float = _number(0.0, at_least=0)  # from the middle of each validation song; 0: all of it
    validate_songs: int = _number(0, at_least=0)  # so many of the validation songs, spread over the list; 0: all
    checkpoint_every: int = _number(1000, above=0)
    patience: int = _number(0, at_least=0)  # stop after so many validations without a better uSDR; 0: never


@dataclass(frozen=True)
class SeparationSpec:
    """How a long signal is cut where nothing else is asked for; ``overlap``: the share of a chunk that is repeated."""

    chunk_seconds: float = _number(6.0, above=0)
    overlap: float = _number(0.25, at_least=0)


@dataclass(frozen=True)
class RunSpec:
    """Where the run's folder goes."""

    root: str = _path("runs")
    name: str | None = None  # None: made from targets, bands and base, see `default_run_name`


@dataclass(frozen=True)
class LogSpec:
    """wandb: auto = online where an account is set up, else offline; never asks."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "refined_bsrnn"
    group: str | None = None
    tensorboard: bool = False  # also write files for TensorBoard (needs the package tensorboard)
    audio_seconds: float = _number(8.0, at_least=0)  # length of the audio logged at validation; 0: none
    energy: bool = False  # kWh and CO2 into provenance.json; needs codecarbon


@dataclass(frozen=True)
class CacheSpec:
    """Training heads from stored features (see `feature_cache`); needs a frozen backbone."""

    enabled: bool = False
    pool: int = _number(2000, above=0)  # training mixtures drawn once and used again and again
    max_gb: float = _number(20.0, above=0)


@dataclass(frozen=True)
class BaseSpec:
    """The run whose backbone a transfer starts from, and what is done with it.

    frozen: it stays as it is and fresh heads are trained on it; random: the same on a backbone of random weights, a
    control; partial: its last ``blocks`` blocks are trained too; lora: low-rank updates of its weights are trained and
    stored with the heads; full: all of it is trained; scratch: all of it is trained from random weights, a control.
    """

    run: str = field(metadata={"path": True})
    sha256: str | None = None  # of the base's backbone, written when the transfer starts
    method: Literal["frozen", "partial", "lora", "full", "scratch", "random"] = "frozen"
    blocks: int = _number(1, above=0)
    rank: int = _number(8, above=0)
    alpha: float = _number(16.0, above=0)
    init_from: str | None = None  # the base's head that the new ones start from; None: fresh ones
    heads: Literal["fresh", "own"] = "fresh"  # own: each target goes on from the base's head of its name


@dataclass(frozen=True)
class Recipe:
    """One run: what is separated, with which network, from which data, trained how."""

    targets: tuple[str, ...]
    stft: StftSpec = StftSpec()
    bands: BandsSpec = BandsSpec()
    backbone: BackboneSpec = BackboneSpec()
    head: HeadSpec = HeadSpec()
    # How the estimates of all targets are made to sum to the mixture, see `consistency`.
    together: Literal["none", "consistent", "subtract_last"] = "none"
    input: InputSpec = InputSpec()
    loss: LossSpec = LossSpec()
    data: DataSpec = DataSpec()
    augment: AugmentSpec = AugmentSpec()
    train: TrainSpec = TrainSpec()
    separation: SeparationSpec = SeparationSpec()
    run: RunSpec = RunSpec()
    log: LogSpec = LogSpec()
    cache: CacheSpec = CacheSpec()
    base: BaseSpec | None = None

    @property
    def tie(self) -> str:
        """What makes the targets need each other's heads, in words; empty where nothing does."""
        if self.together != "none":
            return f"together is {self.together}"
        return "head.bridge is true" if self.head.options.get("bridge") else ""

    @property
    def owns_backbone(self) -> bool:
        """Whether the run keeps a backbone of its own; a frozen one is its base's, by reference."""
        return self.base is None or self.base.method not in ("frozen", "lora")

    @property
    def trains_heads_alone(self) -> bool:
        return self.base is not None and self.base.method in ("frozen", "random")


@dataclass(frozen=True)
class Transfers:
    """A block of transfers: all combinations of what is listed. ``tracks`` are numbers of training songs, 0: all."""

    bases: tuple[str, ...]
    targets: tuple[str, ...]
    methods: tuple[str, ...] = ("frozen",)
    tracks: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe values laid over recipes/transfer.yaml


@dataclass(frozen=True)
class Study:
    """A study's recipe. ``bases`` maps names to recipe values that are laid over ``common``."""

    study: str
    bases: Mapping[str, Any]
    transfers: tuple[Transfers, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    common: Mapping[str, Any] = field(default_factory=dict)
    root: str = _path("runs")
    split: str = "test"
    forgetting: bool = False  # also score the base's own heads on the backbones that were trained on


# --- from plain values to typed ones ----------------------------------------------------------------------------------

Spec = TypeVar("Spec")


def build_spec(spec: type[Spec], values: Any, where: str) -> Spec:
    """A spec from a mapping; unknown keys, wrong types and values out of bounds raise `RecipeError`."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where or 'the recipe'} is {values!r}; expected a mapping of keys to values.")
    hints = typing.get_type_hints(spec)
    fields = {f.name: f for f in dataclasses.fields(spec)}  # type: ignore[arg-type]
    rest = next((name for name, f in fields.items() if f.metadata.get("rest")), None)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key in fields and key != rest:
            arguments[key] = _coerce(value, hints[key], path)
            if fields[key].metadata.get("path") and arguments[key]:
                arguments[key] = str(expand_home(arguments[key]))
            _check_bound(arguments[key], fields[key].metadata, path)
        elif rest is None:
            known = [name for name in fields if name != rest]
            raise RecipeError(f"unknown recipe key {path!r}.{nearest(str(key), known)} Known here: {', '.join(known)}.")
        else:
            item_type = typing.get_args(hints[rest])[1]
            arguments.setdefault(rest, {})[str(key)] = _coerce(value, item_type, path)
    for name, f in fields.items():
        if name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"the recipe says no {f'{where}.{name}' if where else name!r}, which has no default.")
    return spec(**arguments)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """``value`` as the type ``hint`` or a `RecipeError` that shows both."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        if str in inner and len(inner) > 1:  # a text or something else
            inner = [a for a in inner if (a is str) == isinstance(value, str)]
        return None if value is None and len(inner) < len(args) else _coerce(value, inner[0], path)
    if dataclasses.is_dataclass(hint):
        return build_spec(typing.cast(type, hint), value, path)
    if origin is Literal:
        value = "off" if value is False and "off" in args else value  # YAML reads off as false
        if value not in args or isinstance(value, bool) != isinstance(args[0], bool):
            raise RecipeError(f"{path} is {value!r}; expected one of {', '.join(map(str, args))}.")
        return args[args.index(value)]  # 1 for 1.0
    if origin is tuple or origin is Sequence:
        return _coerce_tuple(value, args if origin is tuple else (*args, ...), path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{path} is {value!r}; expected a mapping.")
        return {str(k): _coerce(v, args[1], f"{path}.{k}") for k, v in value.items()}
    return _coerce_scalar(value, hint, path)


def _coerce_tuple(value: Any, args: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecipeError(f"{path} is {value!r}; expected a list, e.g. [{value}].")
    if Ellipsis not in args and len(value) != len(args):
        raise RecipeError(f"{path} is {list(value)!r}; expected {len(args)} values.")
    return tuple(_coerce(item, args[0], f"{path}[{i}]") for i, item in enumerate(value))


def _coerce_scalar(value: Any, hint: type, path: str) -> Any:
    if hint is float and not isinstance(value, bool):
        try:  # PyYAML reads 3e-4 as a string
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint is int and not isinstance(value, bool):
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif hint not in (int, float) and isinstance(value, hint):
        return value
    raise RecipeError(f"{path} is {value!r}; expected {_TYPE_WORDS.get(hint, hint.__name__)}.")


_TYPE_WORDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def _check_bound(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    above, at_least = bounds.get("above"), bounds.get("at_least")
    # `not >` also refuses nan
    if value is not None and above is not None and not value > above:
        raise RecipeError(f"{path} is {value}; expected more than {above}.")
    if value is not None and at_least is not None and not value >= at_least:
        raise RecipeError(f"{path} is {value}; expected {at_least} or more.")


def bind_options(
    where: str, component: Callable[..., Any], options: Mapping[str, Any], skip: Collection[str] = ()
) -> dict[str, Any]:
    """Check recipe options against a component's own signature and return them, each of the type it is annotated with.

    ``where`` is e.g. ``bands.kind=tet``, ``skip`` names the parameters that the caller fills in. Raises `RecipeError`
    for an option the component does not take, one of another type, or one that it needs and did not get.
    """
    known = {name: p for name, p in inspect.signature(component).parameters.items() if name not in skip}
    for name in options:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise RecipeError(f"{where} has no option {name!r}.{nearest(name, known)} Options: {takes}.")
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise RecipeError(f"{where} needs the option {missing[0]!r}.")
    hints = typing.get_type_hints(component.__init__ if inspect.isclass(component) else component)
    section = re.sub(r"\.kind=.*", "", where)
    return {name: _coerce(value, hints.get(name, Any), f"{section}.{name}") for name, value in options.items()}


# --- what one field alone cannot say ----------------------------------------------------------------------------------


def _check(recipe: Recipe) -> Recipe:
    targets, train, stft = recipe.targets, recipe.train, recipe.stft
    if not targets:
        raise RecipeError("targets is empty; expected at least one, e.g. targets=[vocals].")
    for name in targets:
        check_target_name(name)
    if len(set(targets)) < len(targets):
        raise RecipeError(f"targets {list(targets)} names one twice.")
    _check_truncation(recipe)
    _check_weights(recipe)
    if stft.hop > stft.n_fft // 2:
        raise RecipeError(
            f"stft.hop is {stft.hop} with n_fft {stft.n_fft}; expected at most half of n_fft, "
            "otherwise samples between the windows are lost."
        )
    if train.batch_size % train.accumulate:
        raise RecipeError(
            f"train.batch_size {train.batch_size} cannot be taken in train.accumulate={train.accumulate} equal parts."
        )
    if not 0 <= train.ema < 1:
        raise RecipeError(f"train.ema is {train.ema}; expected 0 (off) or a decay below 1, e.g. 0.999.")
    if not recipe.separation.overlap < 1:
        raise RecipeError(f"separation.overlap is {recipe.separation.overlap}; expected a share of a chunk below 1.")
    if recipe.data.use_fraction > 1:
        raise RecipeError(f"data.use_fraction is {recipe.data.use_fraction}; expected a share up to 1.")
    _check_data(recipe.data)
    _check_shares(recipe.data)
    _check_augment(recipe.augment)
    _check_together(recipe)
    _check_base(recipe)
    return recipe


def _check_base(recipe: Recipe) -> None:
    if recipe.cache.enabled and not recipe.trains_heads_alone:
        method = f"base.method={recipe.base.method}" if recipe.base else "no base"
        raise RecipeError(
            f"cache.enabled (--cache) with {method}: features can be kept where the backbone stays what it is, "
            "in a transfer with the method frozen or random."
        )
    base = recipe.base
    if base is None:
        return
    trained_heads = f"base.init_from={base.init_from}" if base.init_from else ""
    trained_heads = "base.heads=own (--continue)" if base.heads == "own" else trained_heads
    if trained_heads and base.method in ("scratch", "random"):
        raise RecipeError(
            f"{trained_heads} with base.method={base.method}: a trained head knows nothing of random "
            "weights. Leave it away, or use another method."
        )
    if base.init_from and base.heads == "own":
        raise RecipeError(
            f"base.init_from={base.init_from} with base.heads=own: the heads begin with the weights of that head or "
            "with their own. Leave one of them away."
        )
    if base.method == "partial" and base.blocks > recipe.backbone.repeats:
        raise RecipeError(
            f"base.blocks is {base.blocks}; the backbone has {recipe.backbone.repeats} blocks. "
            "base.method=full trains all of it."
        )


def _check_data(data: DataSpec) -> None:
    if data.root is not None and not data.root.strip():
        raise RecipeError("data.root is empty; expected the folder that holds the songs, or null.")
    if data.root is not None and data.sources:
        raise RecipeError(
            "the recipe has both data.root and data.sources; expected one of them (data.root=null or data.sources=[])."
        )
    for name, weight in data.track_weights.items():
        if weight <= 0:
            raise RecipeError(f"data.track_weights.{name} is {weight:g}; expected more than 0.")
    for name in data.define:
        check_target_name(name)
        stems = data.stems_of(name)
        if not stems or len(set(stems)) < len(stems):
            raise RecipeError(f"data.define.{name} is {list(stems)}; expected one stem or more, each once.")


def _check_shares(data: DataSpec) -> None:
    for name, share in (("add_targets", data.add_targets), ("add_others", data.add_others)):
        if share > 1:
            raise RecipeError(f"data.{name} is {share}; expected a share of the examples from 0 to 1.")


def _check_truncation(recipe: Recipe) -> None:
    share, n_examples = recipe.loss.truncate_quantile, recipe.train.batch_size // recipe.train.accumulate
    if share >= 1:
        raise RecipeError(f"loss.truncate_quantile is {share}; expected a share below 1, e.g. 0.1.")
    if share and round(share * n_examples) < 1:
        raise RecipeError(
            f"loss.truncate_quantile is {share} of {n_examples} examples taken at a time, which drops none; expected "
            f"more than {0.5 / n_examples:.3g}, or a larger train.batch_size / train.accumulate."
        )


def _check_weights(recipe: Recipe) -> None:
    loss, targets = recipe.loss, recipe.targets
    for name in loss.target_weights:
        if name not in targets:
            raise RecipeError(f"loss.target_weights names {name!r}, which is no target. Targets: {', '.join(targets)}.")
    weights = {**loss.terms, **{f"target_weights.{name}": weight for name, weight in loss.target_weights.items()}}
    for name, weight in weights.items():
        if weight < 0:
            raise RecipeError(f"loss.{name} is {weight:g}; expected 0 (measured and logged only) or more.")
    if not any(loss.terms.values()) or not any(loss.target_weights.get(name, 1.0) for name in targets):
        raise RecipeError(
            f"nothing would be learned: in loss, {', '.join(loss.terms)} or all target_weights are 0. Expected one of "
            "each above 0."
        )


def _check_together(recipe: Recipe) -> None:
    if recipe.together == "none":
        return
    if len(recipe.targets) < 2:
        raise RecipeError(
            f"together is {recipe.together} with the target {recipe.targets[0]} alone, which would be the mixture "
            "itself; expected two or more targets, or together=none."
        )
    if recipe.base is not None and recipe.base.heads == "fresh":
        raise RecipeError(
            f"together is {recipe.together} in a transfer: fresh heads do not know the other targets of the mixture, "
            "to which theirs would have to add up. Leave it at together=none."
        )


def _check_augment(augment: AugmentSpec) -> None:
    if augment.noise and not augment.noise_folder:
        raise RecipeError(
            f"augment.noise is {augment.noise:g} without recordings; expected a folder of them: augment.noise=FOLDER, "
            "or augment.noise_folder."
        )
    for name, hint in typing.get_type_hints(AugmentSpec).items():
        value = getattr(augment, name)
        if hint is float and value > 1:
            raise RecipeError(f"augment.{name} is {value}; expected a probability from 0 to 1, or off.")
        if typing.get_origin(hint) is tuple and not value[0] <= value[1]:
            lower = "the lower gain" if name == "gain_db" else "the lower value"
            raise RecipeError(f"augment.{name} is {list(value)}; expected {lower} first.")
    for name, lowest, highest in (
        ("speed_percent", -50.0, 100.0),
        ("tempo_percent", -50.0, 100.0),
        ("pitch_semitones", -12.0, 12.0),
        ("low_pass_hz", 20.0, math.inf),
        ("codec_level", 0.0, 0.99),
        ("eq_db", -24.0, 24.0),
        ("reverb_seconds", 0.02, 10.0),
        ("reverb_db", -100.0, 20.0),
        ("noise_db", -100.0, 40.0),
    ):
        low, high = getattr(augment, name)
        if low < lowest or high > highest:
            raise RecipeError(f"augment.{name} is [{low}, {high}]; expected values from {lowest} to {highest}.")


def check_target_name(name: str) -> str:
    """A target's name becomes a file name and a log key; refuse what cannot be one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name) or name == "mixture":
        raise RecipeError(
            f"{name[:120]!r} cannot name a target; expected up to 100 letters, digits, '_' and '-', and not 'mixture'."
        )
    return name


# --- files, names, overrides ------------------------------------------------------------------------------------------


def recipe_folder() -> Path:
    """Where the recipes that come with the package are: in the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def find_recipe(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of a recipe given by path, or by the name of one that comes with the package."""
    path = expand_home(path_or_name)
    shipped = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.is_file():
        return path
    if shipped.is_file() and str(path_or_name) in (shipped.stem, shipped.name, f"recipes/{shipped.name}"):
        return shipped
    names = sorted(p.stem for p in recipe_folder().glob("*.yaml"))
    raise RecipeError(
        f"there is no recipe {str(path_or_name)!r}.{nearest(path.stem, names)} "
        f"Recipes that come with the package: {', '.join(names)}."
    )


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that a mapping has twice; PyYAML would drop the first one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise yaml.YAMLError(
                    f"the key {key.value!r} stands in line {lines[key.tag, key.value]} and again in line {line}; "
                    "expected each key once. Join the two or remove one."
                )
            lines[key.tag, key.value] = line
        return node


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text; raises `yaml.YAMLError`, also for a mapping that has a key twice."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; `RecipeError` for anything else."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}; expected a mapping of recipe keys.")
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping. Another ``kind`` leaves the options of the old one behind."""
    if "kind" in above and "kind" in below and above["kind"] != below["kind"]:
        # The backbone's own fields, whatever its blocks are.
        keep = {f.name for f in dataclasses.fields(BackboneSpec)} - {"kind", "options"}
        below = {key: value for key, value in below.items() if key in keep}
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _expand_size(values: Mapping[str, Any]) -> dict[str, Any]:
    """``size: tiny`` written out as the backbone's features and repeats; what the same layer says itself wins."""
    values = dict(values)
    if "size" in values:
        size = values.pop("size")
        if size not in SIZES:
            raise RecipeError(f"size is {size!r}; expected one of {', '.join(SIZES)}.")
        features, repeats = SIZES[size]
        backbone = values.get("backbone") or {}
        values["backbone"] = {"features": features, "repeats": repeats, **backbone}
    return values


FOLDER_SHARES = {"noise": 0.5, "reverb": 0.5}  # augment.NAME=FOLDER: how often it is applied


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _expand_augment(values: Mapping[str, Any]) -> dict[str, Any]:
    """``augment: {preset: paper}`` and ``off`` written out; what the same layer says itself wins."""
    augment = values.get("augment")
    if not isinstance(augment, Mapping):
        return dict(values)
    augment = dict(augment)
    for name, value in list(augment.items()):
        if value is False or value == "off":  # YAML reads off as false
            augment[name] = _NOTHING.get(name, value)
        elif name in FOLDER_SHARES and isinstance(value, str) and not _is_number(value):
            augment[name] = FOLDER_SHARES[name]
            augment[f"{name}_folder"] = value
    if "preset" in augment:
        preset = augment.pop("preset")
        if preset not in AUGMENT_PRESETS:
            known = ", ".join(AUGMENT_PRESETS)
            raise RecipeError(
                f"augment.preset is {preset!r}.{nearest(str(preset), AUGMENT_PRESETS)} Expected one of {known}."
            )
        augment = {**AUGMENT_PRESETS[preset], **augment}
    return {**values, "augment": augment}


def _expand(values: Mapping[str, Any]) -> dict[str, Any]:
    return _expand_augment(_expand_size(values))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["train.lr=3e-4", "size=tiny"]`` as nested values, later ones over earlier ones."""
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            raise RecipeError(f"{override!r} is not an override; expected key=value, e.g. train.steps=1000.")
        if not text.strip():
            raise RecipeError(
                f"{override!r} gives no value (is a variable of the shell not set?). Expected one, or {key}=null for "
                "the default."
            )
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"the value in {override!r} is not valid YAML: {' '.join(str(error).split())}") from None
        for name in reversed(key.split(".")):
            value = {name: value}
        values = merge(values, _expand(value))
    return values


def read_recipe_values(path: Path, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The plain values of a recipe file, ``extends`` and ``size`` resolved, not yet checked.

    ``values`` stand in for what is in the file: then its place alone counts.
    """
    values = read_yaml(path) if values is None else dict(values)
    if "extends" in values:
        name = values.pop("extends")
        beside = path.parent / expand_home(name)
        base = beside if beside.is_file() else find_recipe(name)
        below = read_yaml(base)
        if "extends" in below:
            raise RecipeError(f"{path} extends {base.name}, which extends another; one level is allowed.")
        values = merge(_expand(below), _expand(values))
    return _expand(values)


def load_recipe(path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The checked recipe of a YAML file with ``key=value`` overrides applied.

    ``extends: other.yaml`` (one level; beside the file, or one that comes with the package) names a recipe whose values
    are taken where this one is silent.
    Raises `RecipeError` for a file that is not there, an unknown key, a wrong type or a value out of bounds.
    """
    path = find_recipe(path_or_name)
    values = read_recipe_values(path)
    if "study" in values:
        raise RecipeError(
            f"{path} is a study, which plans several runs; expected the recipe of one run. `refined-bsrnn compare "
            f"{path_or_name}` trains them all, with --dry-run it lists them."
        )
    return make_recipe(values, overrides)


def make_recipe(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from plain nested values (what YAML gives) and overrides."""
    return _check(build_spec(Recipe, merge(_expand_augment(values), parse_overrides(overrides)), ""))


def recipe_values(recipe: Any) -> dict[str, Any]:
    """A recipe or a section as plain nested values, every default written out; `make_recipe` gives the recipe back."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            values: dict[str, Any] = {}
            for f in dataclasses.fields(value):
                item = plain(getattr(value, f.name))
                values.update(item) if f.metadata.get("rest") else values.update({f.name: item})
            return values
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return plain(recipe)


def differences(old: Any, new: Any, skip: Collection[str] = (), path: str = "") -> dict[str, tuple[Any, Any]]:
    """{key: (old, new)} of the values that differ between two recipes' plain values, but those of sections to skip."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {**old, **new}:
            where = f"{path}.{key}" if path else key
            if where not in skip:
                found |= differences(old.get(key), new.get(key), skip, where)
        return found
    return {} if old == new else {path: (old, new)}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe_values(recipe), sort_keys=False, default_flow_style=None, width=120)


def default_run_name(recipe: Recipe, builtin: bool) -> str:
    """``mtl``, ``drums``, ``drums-v7``, ``mtl-to-guitar``, ``mtl-to-guitar-lora``, ``mtl-tuned-drums``.

    ``-builtin`` behind it when the built-in stems are used.
    """
    if recipe.base is not None:
        base = Path(recipe.base.run).name.removesuffix("-builtin")
        word = "to" if recipe.base.heads == "fresh" else "tuned"
        name = f"{base}-{word}-{'-'.join(recipe.targets)}"
        name += "" if recipe.base.method == "frozen" else f"-{recipe.base.method}"
    else:
        name = recipe.targets[0] if len(recipe.targets) == 1 else "mtl"
        name += "" if recipe.bands.kind == "tet24" else f"-{recipe.bands.kind}"
    return name + ("-builtin" if builtin else "")
