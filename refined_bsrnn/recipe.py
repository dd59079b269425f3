"""Recipes: one YAML file that defines a run, as frozen, typed dataclasses.

`load_recipe` reads a file (or the name of a recipe that comes with the package), applies ``extends:`` and
``key=value`` overrides, and checks every key and type, so that a typo fails before any data is read. Every default
stands once, in the dataclasses below; the value in the recipe is the value used. This module imports no torch.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .errors import RecipeError, nearest, pick
from .plain import parse_yaml, shown
from .schema import bounded, path_field, plain, read_yaml, rest, section, share
from .system import expand_home

# (features N, repeats R) of the backbone; `size=tiny` in a recipe or on the command line sets both.
SIZES = {"micro": (16, 2), "mini": (32, 4), "tiny": (32, 6), "small": (64, 8), "large": (128, 12)}

DATA_ROOT_VARIABLE = "MUSDB18HQ_ROOT"


@dataclass(frozen=True)
class StftSpec:
    """The spectrogram; ``hop`` in samples."""

    sample_rate_hz: int = bounded(44100, above=0, at_most=10**6)
    n_fft: int = bounded(2048, at_least=16, at_most=2**18)
    hop: int = bounded(512, above=0)


@dataclass(frozen=True)
class BandsSpec:
    """``kind`` names an entry of `bands.SCHEMES`; further keys are that scheme's options."""

    kind: str = "tet24"
    options: Mapping[str, Any] = rest()


@dataclass(frozen=True)
class BackboneSpec:
    """``kind`` names an entry of `blocks.BLOCKS`, repeated ``repeats`` times on ``features`` features per band."""

    kind: str = "band_sequence_rnn"
    features: int = bounded(64, above=0, at_most=2**14)
    repeats: int = bounded(8, at_least=0, at_most=256)
    norm: str = "gn1"
    # apart: channels share all weights and never meet; tac: they meet in every block; joint: one item at the encoder
    stereo: Literal["apart", "tac", "joint"] = "apart"
    causal: bool = False  # no look-ahead but the STFT's; needs a norm that has none either (ln, rms, cumulative, ...)
    final_norm: bool = False  # one more norm behind the last block, before all heads
    options: Mapping[str, Any] = rest()


@dataclass(frozen=True)
class HeadSpec:
    """``kind`` names an entry of `heads.HEADS`; further keys are that head's options."""

    kind: str = "mlp_mask"
    options: Mapping[str, Any] = rest()


@dataclass(frozen=True)
class InputSpec:
    """``normalise``: none, or an entry of `signals.NORMALISERS`, which sets the input level of the network.

    The same gain is applied to the stems before the loss, so that loud and quiet songs have the same influence.
    """

    normalise: str = "none"


@dataclass(frozen=True)
class LossSpec:
    """Further keys are terms of `losses.LOSSES` and `losses.JOINT_LOSSES` with their weights."""

    reduction: Literal["sum", "mean"] = "sum"
    weighting: Literal["fixed", "uncertainty"] = "fixed"  # uncertainty: one learned weight per target
    target_weights: Mapping[str, float] = bounded({}, at_least=0)
    # Of the examples of a batch that have a target, the share with the largest loss that does not count (noisy labels).
    truncate_quantile: float = bounded(0.0, at_least=0, below=1)
    # A term of weight 0 is measured and logged only.
    terms: Mapping[str, float] = rest({"wave_l1": 1.0, "spec_l1": 1.0}, at_least=0)


@dataclass(frozen=True)
class SourceSpec:
    """``kind`` names an entry of `sources.LAYOUTS`; further keys are that source's options, ``root`` for most."""

    kind: str = "auto"
    weight: float = bounded(1.0, above=0)  # how often one of its tracks is drawn, beside one of weight 1
    options: Mapping[str, Any] = rest()


@dataclass(frozen=True)
class DataSpec:
    """The place of the songs, and the way in which their files become a mixture and targets (see `tracks` and
    `examples`).
    """

    root: str | None = path_field(None)
    sources: tuple[SourceSpec, ...] = ()  # instead of root: several sources, or one whose kind is not to be guessed
    define: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # name: a stem or the stems it sums
    check: bool = True  # read every file to its end before the first training, once; off: names and headers alone
    decode: bool = False  # decode mp3, ogg and opus once into the cache; m4a and others always are
    # The stems of a track may differ in length by so many seconds: silence follows shorter ones, longer ones are cut
    # where the mixture ends.
    fit_seconds: float = bounded(0.0, at_least=0)
    channels: Literal[1, 2] = 2
    # The parts a training mixture is made of; empty: vocals, drums, bass, other where they hold every target, else the
    # targets and the rest of the mixture.
    stems: tuple[str, ...] = ()
    # A file that cannot be read while a training runs (for half a minute): stop, or skip: take another example instead.
    unreadable: Literal["stop", "skip"] = "stop"
    # A track that lacks a target (or one of data.stems): mask: it counts for the others; skip: it is left out; silent:
    # what it lacks is silence; error: it is refused.
    missing_stem: Literal["mask", "skip", "silent", "error"] = "mask"
    # Sources that songs without a stem of that name are known not to hold; null: targets that only solos have (a solo
    # is a track with one stem alone). Of these a recording is added to ``add_targets`` of the examples of such songs.
    absent: tuple[str, ...] | None = None
    add_targets: float = share(0.75)
    add_others: float = share(0.5)  # share of the examples to which a solo of no target is added
    excerpts: Literal["random", "active"] = "random"  # active: from segments in which a part sounds
    energy: Literal["rms", "power"] = "rms"  # by which a segment is found active
    stem_weights: str | None = path_field(None)  # a CSV of track, stem, weight: stems that count less (0: are left out)
    # Names or globs of training tracks → how often each is drawn, beside one of weight 1; the last that fits counts.
    track_weights: Mapping[str, float] = bounded({}, above=0)
    # Names or globs of training tracks kept for validation; empty: the 14 official ones of MUSDB18 where they are
    # present, a folder `valid/`, or a share of the tracks chosen by a hash of their names.
    validation_tracks: tuple[str, ...] = ()
    validation_share: float = bounded(0.14, at_least=0)
    # Train on part of the training tracks: so many of them, so many minutes, a share of them; 0 and 1: all. Which ones
    # follows from train.seed; a smaller part is contained in every larger one.
    use_tracks: int = bounded(0, at_least=0)
    use_minutes: float = bounded(0.0, at_least=0)
    use_fraction: float = bounded(1.0, above=0, at_most=1)

    def stems_of(self, name: str) -> tuple[str, ...]:
        """The stems on the disk that a name stands for: those of its definition, or the one of that name."""
        defined = self.define.get(name, name)
        return (defined,) if isinstance(defined, str) else tuple(defined)


@dataclass(frozen=True)
class AugmentSpec:
    """Augmentations of the parts before they are summed to a training mixture; see `augment` and docs/augmentation.md.

    A plain number is a probability: of an example, or of each of its parts. ``off`` switches any of them off, and
    ``preset: NAME`` sets all of them as an entry of `AUGMENT_PRESETS` does.
    """

    remix: float = share(1.0)  # share of mixtures whose parts come from different songs
    gain_db: tuple[float, float] = bounded((-10.0, 10.0))  # range, per part, always
    gain_uniform: Literal["db", "amplitude"] = "db"
    channel_swap: float = share(0.5)  # per part
    polarity: float = share(0.0)  # per part
    drop: float = share(0.0)  # per part: it is silenced
    silent_target: float = share(0.0)  # per example: one of its targets is silenced
    time_shift: float = share(0.0)  # per part: it begins earlier or later than where it was drawn
    time_shift_seconds: tuple[float, float] = bounded((-0.05, 0.05))
    speed: float = share(0.0)  # per song of the mixture: pitch and tempo together, by resampling
    speed_percent: tuple[float, float] = bounded((-5.0, 5.0), at_least=-50, at_most=100)
    tempo: float = share(0.0)  # per song of the mixture: tempo alone, by FFmpeg's atempo
    tempo_percent: tuple[float, float] = bounded((-10.0, 10.0), at_least=-50, at_most=100)
    pitch: float = share(0.0)  # per song of the mixture: pitch alone, by both
    pitch_semitones: tuple[float, float] = bounded((-2.0, 2.0), at_least=-12, at_most=12)
    eq: float = share(0.0)  # per part
    eq_db: tuple[float, float] = bounded((-6.0, 6.0), at_least=-24, at_most=24)  # of each of its three filters
    reverb: float = share(0.0)  # per part; a folder instead of a number is reverb_folder
    reverb_seconds: tuple[float, float] = bounded((0.2, 1.5), at_least=0.02, at_most=10)  # in which it falls by 60 dB
    reverb_db: tuple[float, float] = bounded((-24.0, -6.0), at_least=-100, at_most=20)  # its level against the part
    reverb_folder: str | None = path_field(None)  # impulse responses of rooms, instead of modelled ones
    noise: float = share(0.0)  # per example; a folder instead of a number is noise_folder
    noise_folder: str | None = path_field(None)  # recordings that are added to mixtures, to no target
    noise_db: tuple[float, float] = bounded((-30.0, -10.0), at_least=-100, at_most=40)  # against the mixture
    low_pass: float = share(0.0)  # per example, all parts alike
    low_pass_hz: tuple[float, float] = bounded((3000.0, 16000.0), at_least=20)
    codec: float = share(0.0)  # per example, all parts alike: mp3 or Ogg Vorbis and back
    codec_level: tuple[float, float] = bounded((0.4, 0.95), at_least=0, at_most=0.99)  # from 0, the best, to below 1


_NOTHING: dict[str, Any] = {name: 0.0 for name, kind in typing.get_type_hints(AugmentSpec).items() if kind is float}
_NOTHING["gain_db"] = [0.0, 0.0]
# 0.25 to 1.25 times the amplitude
_UMX: dict[str, Any] = {"remix": 1.0, "gain_db": [-12.041, 1.938], "gain_uniform": "amplitude", "channel_swap": 0.5}
AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    "none": _NOTHING,
    "paper": {**_NOTHING, "remix": 1.0, "gain_db": [-10.0, 10.0], "gain_uniform": "db", "drop": 0.1},
    "umx": {**_NOTHING, **_UMX},
    "obsrnn": {**_NOTHING, **_UMX},  # its best models; those on active segments use the paper's
}


@dataclass(frozen=True)
class TrainSpec:
    """``batch_size`` is the number of excerpts per optimiser step, over all processes and accumulated parts."""

    steps: int = bounded(200_000, above=0)
    batch_size: int = bounded(8, above=0)
    accumulate: int = bounded(1, above=0)
    chunk_seconds: float = bounded(3.0, above=0)
    lr: float = bounded(1e-3, above=0)
    warmup_steps: int = bounded(0, at_least=0)
    decay: Literal["constant", "cosine", "exponential"] = "exponential"
    decay_rate: float = bounded(0.98, above=0)  # exponential: lr is multiplied by this ...
    decay_every: int = bounded(5000, above=0)  # ... every so many steps
    clip_norm: float = bounded(5.0, above=0)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, else float32
    ema: float = bounded(0.0, at_least=0, below=1)  # decay of the averaged weights that are validated and kept; 0: off
    seed: int = bounded(0, at_least=0)
    workers: int = bounded(2, at_least=0)
    log_every: int = bounded(50, above=0)
    validate_every: int = bounded(5000, above=0)
    validate_seconds: float = bounded(0.0, at_least=0)  # from the middle of each validation song; 0: all of it
    validate_songs: int = bounded(0, at_least=0)  # so many of the validation songs, spread over the list; 0: all
    checkpoint_every: int = bounded(1000, above=0)
    patience: int = bounded(0, at_least=0)  # stop after so many validations without a better uSDR; 0: never


@dataclass(frozen=True)
class SeparationSpec:
    """The default cutting of a long signal into chunks; ``overlap``: the fraction of a chunk that is repeated."""

    chunk_seconds: float = bounded(6.0, above=0)
    overlap: float = bounded(0.25, at_least=0, below=1)


@dataclass(frozen=True)
class RunSpec:
    """The place of the run's folder."""

    root: str = path_field("runs")
    name: str | None = None  # None: made from targets, bands and base, see `default_run_name`


@dataclass(frozen=True)
class LogSpec:
    """wandb: auto = online where an account is set up, else offline; never asks."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "refined_bsrnn"
    group: str | None = None
    tensorboard: bool = False  # also write files for TensorBoard (needs the package tensorboard)
    audio_seconds: float = bounded(8.0, at_least=0)  # length of the audio logged at validation; 0: none
    energy: bool = False  # kWh and CO2 into provenance.json; needs codecarbon


@dataclass(frozen=True)
class CacheSpec:
    """Training heads from stored features (see `feature_cache`); needs a frozen backbone."""

    enabled: bool = False
    pool: int = bounded(2000, above=0)  # training mixtures drawn once and used again and again
    max_gb: float = bounded(20.0, above=0)


@dataclass(frozen=True)
class BaseSpec:
    """The run whose backbone a transfer starts from, and the method of transfer.

    frozen: the backbone stays unchanged, and new heads are trained on it; random: the same on a backbone of random
    weights, a control; partial: its last ``blocks`` blocks are trained too; lora: low-rank updates of its weights are
    trained and stored with the heads; full: all of it is trained; scratch: all of it is trained from random weights, a
    control.
    """

    run: str = path_field()
    sha256: str | None = None  # of the base's backbone, written when the transfer starts
    method: Literal["frozen", "partial", "lora", "full", "scratch", "random"] = "frozen"
    blocks: int = bounded(1, above=0)
    rank: int = bounded(8, above=0, at_most=2**14)
    alpha: float = bounded(16.0, above=0)
    init_from: str | None = None  # the base's head that the new ones start from; None: fresh ones
    heads: Literal["fresh", "own"] = "fresh"  # own: each target goes on from the base's head of its name


@dataclass(frozen=True)
class Recipe:
    """One run: the targets, the network, the data and the training."""

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
        """A text that says why the targets need each other's heads; empty if they do not."""
        if self.together != "none":
            return f"together is {self.together}"
        return "head.bridge is true" if self.head.options.get("bridge") else ""

    @property
    def owns_backbone(self) -> bool:
        """Whether the run stores its own backbone; a frozen backbone is the base's, by reference."""
        return self.base is None or self.base.method not in ("frozen", "lora")

    @property
    def trains_heads_alone(self) -> bool:
        return self.base is not None and self.base.method in ("frozen", "random")


@dataclass(frozen=True)
class Transfers:
    """A block of transfers: all combinations of the listed values. ``tracks`` are numbers of training songs, 0: all."""

    bases: tuple[str, ...]
    targets: tuple[str, ...]
    methods: tuple[str, ...] = ("frozen",)
    tracks: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe values laid over recipes/transfer.yaml


@dataclass(frozen=True)
class Study:
    """A study's recipe. ``bases`` maps names to recipe values that override ``common``."""

    study: str
    bases: Mapping[str, Any]
    transfers: tuple[Transfers, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    common: Mapping[str, Any] = field(default_factory=dict)
    root: str = path_field("runs")
    split: str = "test"
    forgetting: bool = False  # also score the base's own heads on the backbones that were trained on


# --- what one field alone cannot say ----------------------------------------------------------------------------------


def _problems(recipe: Recipe) -> Iterator[str]:
    targets, train, stft, loss = recipe.targets, recipe.train, recipe.stft, recipe.loss
    if not targets:
        yield "targets is empty; expected at least one, e.g. targets=[vocals]."
    for name in targets:
        check_target_name(name)
    if len(set(targets)) < len(targets):
        yield f"targets {list(targets)} names one twice."
    part, n_examples = loss.truncate_quantile, train.batch_size // train.accumulate
    if part and round(part * n_examples) < 1:
        yield (
            f"loss.truncate_quantile is {part} of {n_examples} examples taken at a time, which drops none; expected "
            f"more than {0.5 / n_examples:.3g}, or a larger train.batch_size / train.accumulate."
        )
    for name in sorted(set(loss.target_weights) - set(targets)):
        yield f"loss.target_weights names {name!r}, which is no target. Targets: {', '.join(targets)}."
    if not any(loss.terms.values()) or not any(loss.target_weights.get(name, 1.0) for name in targets):
        yield (
            f"nothing would be learned: in loss, {', '.join(loss.terms)} or all target_weights are 0. Expected one of "
            "each above 0."
        )
    if stft.hop > stft.n_fft // 2:
        yield (
            f"stft.hop is {stft.hop} with n_fft {stft.n_fft}; expected at most half of n_fft, otherwise samples "
            "between the windows are lost."
        )
    if train.batch_size % train.accumulate:
        yield f"train.batch_size {train.batch_size} cannot be taken in train.accumulate={train.accumulate} equal parts."
    if recipe.augment.noise and not recipe.augment.noise_folder:
        yield (
            f"augment.noise is {recipe.augment.noise:g} without recordings; expected a folder of them: "
            "augment.noise=FOLDER, or augment.noise_folder."
        )
    yield from _data_problems(recipe.data)
    yield from _transfer_problems(recipe)


def _data_problems(data: DataSpec) -> Iterator[str]:
    if data.root is not None and not data.root.strip():
        yield "data.root is empty; expected the folder that holds the songs, or null."
    if data.root is not None and data.sources:
        yield "the recipe has both data.root and data.sources; remove one of them (data.root=null or data.sources=[])."
    for name in data.define:
        stems = data.stems_of(check_target_name(name))
        if not stems or len(set(stems)) < len(stems):
            yield f"data.define.{name} is {list(stems)}; expected one stem or more, each once."


def _transfer_problems(recipe: Recipe) -> Iterator[str]:
    base, together = recipe.base, recipe.together
    if together != "none" and len(recipe.targets) < 2:
        yield (
            f"together is {together} with the target {recipe.targets[0]} alone, which would be the mixture itself; "
            "expected two or more targets, or together=none."
        )
    if together != "none" and base is not None and base.heads == "fresh":
        yield (
            f"together is {together} in a transfer: fresh heads do not know the other targets of the mixture, to which "
            "theirs would have to add up. Leave it at together=none."
        )
    if recipe.cache.enabled and not recipe.trains_heads_alone:
        yield (
            f"cache.enabled (--cache) with {f'base.method={base.method}' if base else 'no base'}: features can be kept "
            "where the backbone stays what it is, in a transfer with the method frozen or random."
        )
    if base is None:
        return
    if base.method in ("scratch", "random") and (base.init_from or base.heads == "own"):
        option = "base.heads=own (--continue)" if base.heads == "own" else f"base.init_from={base.init_from}"
        yield f"{option} with base.method={base.method}: a trained head cannot start on a random backbone. Remove one."
    if base.init_from and base.heads == "own":
        yield (
            f"base.init_from={base.init_from} with base.heads=own: the heads start from the weights of that head or "
            "from their own. Remove one of the two."
        )
    if base.method == "partial" and base.blocks > recipe.backbone.repeats:
        yield (
            f"base.blocks is {base.blocks}; the backbone has {recipe.backbone.repeats} blocks. base.method=full trains "
            "all of it."
        )


def check_target_name(name: str) -> str:
    """A target's name becomes a file name and a log key; names that cannot be one are refused."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name) or name == "mixture":
        raise RecipeError(
            f"{name[:120]!r} cannot name a target; expected up to 100 letters, digits, '_' and '-', and not 'mixture'."
        )
    return name


# --- files, names, overrides ------------------------------------------------------------------------------------------


def recipe_folder() -> Path:
    """The folder of the recipes that come with the package: in the package if installed, next to it in a checkout."""
    package = Path(__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def find_recipe(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of a recipe given by path, or by the name of one that comes with the package."""
    path = expand_home(path_or_name)
    shipped = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    names = (shipped.stem, shipped.name, f"recipes/{shipped.name}")
    for candidate, is_meant in ((path, True), (shipped, str(path_or_name) in names)):
        if is_meant and os.path.isfile(candidate):  # noqa: PTH113 (no error for a name that is too long)
            return candidate
    known = sorted(p.stem for p in recipe_folder().glob("*.yaml"))
    raise RecipeError(
        f"there is no recipe {str(path_or_name)!r}.{nearest(path.stem, known)} "
        f"Recipes that come with the package: {', '.join(known)}."
    )


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the values of ``above`` taking precedence, mapping by mapping. Another ``kind`` drops the
    options of the old one.
    """
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
        features, repeats = pick("size", str(values.pop("size")), SIZES)
        backbone = values.get("backbone") or {}
        if isinstance(backbone, Mapping):
            values["backbone"] = {"features": features, "repeats": repeats, **backbone}
    return values


FOLDER_SHARES = {"noise": 0.5, "reverb": 0.5}  # augment.NAME=FOLDER: how often it is applied


def _expand_augment(values: Mapping[str, Any]) -> dict[str, Any]:
    """``augment: {preset: paper}`` and ``off`` written out; what the same layer says itself wins."""
    augment = values.get("augment")
    if not isinstance(augment, Mapping):
        return dict(values)
    augment = dict(augment)
    for name, value in list(augment.items()):
        if value is False or value == "off":  # YAML reads off as false
            augment[name] = _NOTHING.get(name, value)
        elif name in FOLDER_SHARES and isinstance(value, str) and not re.fullmatch(r"[-+.\deE]+", value):
            augment[name] = FOLDER_SHARES[name]
            augment[f"{name}_folder"] = value
    if "preset" in augment:
        augment = {**pick("augment.preset", str(augment.pop("preset")), AUGMENT_PRESETS), **augment}
    return {**values, "augment": augment}


def _expand(values: Mapping[str, Any]) -> dict[str, Any]:
    return _expand_augment(_expand_size(values))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["train.lr=3e-4", "size=tiny"]`` as nested values; later ones override earlier ones."""
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
    """The plain values of a recipe file, with ``extends`` and ``size`` resolved, not yet checked.

    With ``values`` the content of the file is replaced by them, and only its place counts.
    """
    values = read_yaml(path) if values is None else dict(values)
    if "extends" in values:
        name = values.pop("extends")
        if not isinstance(name, str):
            raise RecipeError(f"{path}: extends is {shown(name)}; expected the name of a recipe.")
        neighbour = path.parent / expand_home(name)
        base = neighbour if os.path.isfile(neighbour) else find_recipe(name)  # noqa: PTH113 (any length)
        below = read_yaml(base)
        if "extends" in below:
            raise RecipeError(f"{path} extends {base.name}, which extends another; one level is allowed.")
        values = merge(_expand(below), _expand(values))
    return _expand(values)


def load_recipe(path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The checked recipe of a YAML file with ``key=value`` overrides applied.

    ``extends: other.yaml`` (one level; next to the file, or one that comes with the package) names a recipe that gives
    all values that this one does not set. Raises `RecipeError` for a missing file, an unknown key, a wrong type or a
    value out of bounds.
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
    recipe = section(Recipe, merge(_expand_augment(values), parse_overrides(overrides)), "")
    for problem in _problems(recipe):
        raise RecipeError(problem)
    return recipe


def recipe_values(recipe: Any) -> dict[str, Any]:
    """A recipe or a section as plain nested values, every default written out; `make_recipe` gives the recipe back."""
    return dict(plain(recipe))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe_values(recipe), sort_keys=False, default_flow_style=None, width=120)
