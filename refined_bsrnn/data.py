"""Songs on disk → training batches and whole validation or test tracks.

    root/{train,valid,test}/<track>/{mixture,<stem>,...}.wav        MUSDB18-HQ's layout, with any stem names

`track_table` lists what is there (headers only) as a Hugging Face `datasets` table with a fingerprint; `make_parts`
decides what a training mixture is summed from; `RandomMixes` draws one training example per index, a pure function of
the seed and the index: the same whatever the number of workers or processes, and a resumed run goes on where it was.
The test split is listed and read by `evaluate` alone.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .audio import AUDIO_SUFFIXES, audio_info, match_channels, read_audio, resample
from .errors import DataError
from .recipe import DATA_ROOT_VARIABLE, AugmentSpec, DataSpec, Recipe
from .suggest import nearest
from .synth import builtin_root

SPLITS = ("train", "valid", "test")
MIXTURE = "mixture"
BUILTIN = "builtin"  # as data.root: the built-in stems, whatever the environment says
REST = "rest-of-mixture"  # mixture − targets; no file can have this name's role
MUSDB_STEMS = ("vocals", "drums", "bass", "other")

# The official validation tracks of MUSDB18 (the musdb package's configuration), held out of its train folder.
MUSDB_VALIDATION_TRACKS = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


@dataclass(frozen=True)
class Track:
    """One song: where its files are and what their headers say."""

    name: str
    split: str
    folder: str
    n_samples: int
    sample_rate_hz: int
    n_channels: int
    files: Mapping[str, str]  # stem (or "mixture") → file name
    content: str  # hash of sizes and samples from the middle of every file

    @property
    def stems(self) -> list[str]:
        return [name for name in self.files if name != MIXTURE]

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz

    def path(self, stem: str) -> Path:
        return Path(self.folder, self.files[stem])


# --- where the data are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataRoot:
    """The folder the songs are in, and whether they are the built-in ones."""

    path: Path
    is_builtin: bool

    @property
    def name(self) -> str:
        return "built-in synthetic stems" if self.is_builtin else self.path.name


def find_root(spec: DataSpec) -> DataRoot:
    """``data.root``, else ``$MUSDB18HQ_ROOT``, else the built-in stems, made on first use (``data.root=builtin``).

    A root that is named and is not there is a `DataError`, never a reason to fall back.
    """
    for source, named in (("data.root", spec.root), (f"${DATA_ROOT_VARIABLE}", os.environ.get(DATA_ROOT_VARIABLE))):
        if named == BUILTIN:
            break
        if named:
            path = Path(named).expanduser()
            if not path.is_dir():
                raise DataError(
                    f"{source} is {named!r}, and there is no such folder. "
                    "Expected a folder that holds train/<track>/<stem>.wav (MUSDB18-HQ's layout)."
                )
            return DataRoot(path.resolve(), False)
    return DataRoot(builtin_root(), True)


# --- the track table --------------------------------------------------------------------------------------------------


def track_table(root: Path, splits: Iterable[str]) -> datasets.Dataset:
    """One row per track of the splits, sorted by split and name, as a `datasets` table of `Track` fields.

    Raises `DataError` where nothing is found, where a file cannot be read, and where the files of one track differ in
    length or rate.
    """
    folders = [(split, folder) for split in splits for folder in _track_folders(root / split)]
    if not folders:
        found = sorted(p.name for p in root.iterdir())[:8]
        raise DataError(
            f"no tracks in {root} for {' or '.join(splits)}. Expected {root.name}/{next(iter(splits))}/<track>/"
            f"<stem>.wav; found {', '.join(found) if found else 'an empty folder'}."
        )
    rows = [asdict(_read_track(split, folder)) for split, folder in folders]
    for row in rows:  # a column of mappings would give every row the union of all keys
        row["files"] = json.dumps(row["files"])
    return datasets.Dataset.from_list(rows)


def tracks_of(table: datasets.Dataset) -> list[Track]:
    """The rows of a track table as `Track` objects."""
    return [Track(**{**row, "files": json.loads(row["files"])}) for row in table]


def fingerprint(tracks: Sequence[Track]) -> str:
    """A hash of which tracks these are and of their content; where they lie does not count."""
    lines = sorted(f"{t.split}\t{t.name}\t{t.n_samples}\t{t.sample_rate_hz}\t{t.content}" for t in tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _track_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_track(split: str, folder: Path) -> Track:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            if path.stem in files:
                raise DataError(f"{folder} has two files for {path.stem!r}: {files[path.stem].name} and {path.name}.")
            files[path.stem] = path
    if not files:
        raise DataError(f"the track folder {folder} holds no audio file; expected <stem>.wav. Remove it or fill it.")
    infos = {stem: audio_info(path) for stem, path in files.items()}
    for what, unit in (("n_samples", "samples"), ("sample_rate_hz", "Hz")):
        values = {stem: getattr(info, what) for stem, info in infos.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{stem} {value}" for stem, value in values.items())
            raise DataError(
                f"the files of track {folder} differ in {unit}: {listed}. Every stem must be as long as its mixture."
            )
    info = infos[next(iter(infos))]
    n_channels = max(i.n_channels for i in infos.values())
    names = {stem: path.name for stem, path in files.items()}
    content = _content_hash(list(files.values()))
    return Track(folder.name, split, str(folder), info.n_samples, info.sample_rate_hz, n_channels, names, content)


def _content_hash(paths: Sequence[Path]) -> str:
    """Of sizes and 16 KiB from the middle: tells two sets of songs apart without reading them whole."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size // 2 - 8192))
            digest.update(f"{path.name}\t{size}\t".encode() + file.read(16384))
    return digest.hexdigest()


def split_validation(tracks: Sequence[Track], spec: DataSpec) -> tuple[list[Track], list[Track]]:
    """Training and validation tracks: by the recipe's names, MUSDB18's official ones, `valid/`, or a hash of names."""
    if spec.validation_tracks:
        chosen = {t.name for t in tracks if any(fnmatch.fnmatchcase(t.name, p) for p in spec.validation_tracks)}
        if not chosen:
            raise DataError(
                f"data.validation_tracks {list(spec.validation_tracks)} match none of {len(tracks)} tracks."
            )
    elif any(t.split == "valid" for t in tracks):
        chosen = {t.name for t in tracks if t.split == "valid"}
    else:
        chosen = {t.name for t in tracks if t.name in MUSDB_VALIDATION_TRACKS} or _share(tracks, spec.validation_share)
    train = [t for t in tracks if t.name not in chosen and t.split == "train"]
    if not train:
        raise DataError(f"all {len(tracks)} tracks are kept for validation; none is left to train on.")
    return train, [t for t in tracks if t.name in chosen]


def _share(tracks: Sequence[Track], share: float) -> set[str]:
    """The share of the track names with the lowest hash: adding a song moves no other song."""
    by_hash = sorted((t.name for t in tracks), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(by_hash[: round(share * len(tracks))])


# --- parts: what a mixture is made of ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The parts whose sum is a mixture, the tracks usable for them, and what was left out (to be told)."""

    names: tuple[str, ...]
    tracks: list[Track]
    notes: list[str]


def make_parts(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> Parts:
    """Which parts to draw and sum, for these targets.

    ``data.stems`` when given; else vocals, drums, bass, other, or all stems there are, whichever hold every target and
    are heard to sum to the mixture; else the targets and the rest of the mixture. A track that lacks a part is left
    out, taken as silent or refused, as ``data.missing_stem`` says. Raises `DataError` where no track has a target.
    """
    names = tuple(spec.stems) or _default_parts(tracks, targets)
    available = {stem for t in tracks for stem in t.stems}
    for name in [*targets, *(n for n in names if n != REST)]:
        if name not in available:
            raise DataError(
                f"no track has a stem {name!r}.{nearest(name, available)} "
                f"Stems found in {len(tracks)} tracks: {', '.join(sorted(available)) or 'none'}."
            )
    for target in targets:
        if target not in names:
            raise DataError(f"the target {target!r} is not among data.stems {list(names)}, which make the mixture.")
    usable, notes = _usable(tracks, names, spec.missing_stem)
    return Parts(names, usable, notes)


def _default_parts(tracks: Sequence[Track], targets: Sequence[str]) -> tuple[str, ...]:
    """Names are not trusted: a guitar may lie beside `other` or be a part of it, only listening tells."""
    everywhere = [stem for stem in tracks[0].stems if all(stem in t.stems for t in tracks)] if tracks else []
    for names in (MUSDB_STEMS, tuple(everywhere)):
        if set(targets) <= set(names) <= set(everywhere) and _sum_to_mixture(tracks, names):
            return names
    return (*targets, REST)


def _sum_to_mixture(tracks: Sequence[Track], names: Sequence[str]) -> bool:
    """Whether mixture − Σ stems lies 30 dB or more below the mixture, in the middle of a few tracks."""
    for track in [t for t in tracks if MIXTURE in t.files][:: max(1, len(tracks) // 4)]:
        n_samples = min(track.n_samples, 4 * track.sample_rate_hz)
        start = (track.n_samples - n_samples) // 2
        mixture = read_part(track, MIXTURE, (), start, n_samples)
        rest = read_part(track, REST, names, start, n_samples)
        if (rest**2).sum() > 1e-3 * (mixture**2).sum():
            return False
    return True


def _usable(tracks: Sequence[Track], names: Sequence[str], missing: str) -> tuple[list[Track], list[str]]:
    lacking: dict[str, list[str]] = {}
    for track in tracks:
        needed = [MIXTURE if name == REST else name for name in names]
        gaps = [name for name in needed if name not in track.files]
        if MIXTURE in gaps and REST in names:  # what is not in a stem can only be heard in the mixture
            lacking[track.name] = [MIXTURE]
        elif gaps:
            lacking[track.name] = gaps
    told = "; ".join(f"{track}: {', '.join(gaps)}" for track, gaps in list(lacking.items())[:6])
    told += f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
    if missing == "error" and lacking:
        raise DataError(
            f"{len(lacking)} of {len(tracks)} tracks lack a stem ({told}). "
            "data.missing_stem=skip leaves them out, =silent takes the missing stem as silence."
        )
    left_out = {t for t, gaps in lacking.items() if missing == "skip" or MIXTURE in gaps}
    notes = []
    if left_out:
        notes.append(
            f"{len(left_out)} of {len(tracks)} tracks lack a stem and are left out ({told}). "
            "data.missing_stem=silent takes the missing stem as silence instead."
        )
    elif lacking:
        notes.append(f"{len(lacking)} of {len(tracks)} tracks lack a stem, which is taken as silence ({told}).")
    usable = [t for t in tracks if t.name not in left_out]
    if not usable:
        raise DataError(f"none of {len(tracks)} tracks has all of {', '.join(names)} ({told}).")
    return usable, notes


def read_part(track: Track, part: str, targets: Sequence[str], start: int = 0, n_samples: int | None = None) -> Tensor:
    """Float (channels, samples) of one part at the track's own rate; a stem that is not there is silent."""
    if part == REST:
        rest = read_part(track, MIXTURE, targets, start, n_samples)
        for target in targets:
            if target in track.files:
                rest = rest - read_part(track, target, targets, start, n_samples)
        return rest
    if part not in track.files:
        return torch.zeros(track.n_channels, track.n_samples - start if n_samples is None else n_samples)
    audio, _ = read_audio(track.path(part), start, n_samples)
    return match_channels(audio, track.n_channels)


# --- training examples ------------------------------------------------------------------------------------------------

RESAMPLE_MARGIN_SECONDS = (
    0.05  # read beside an excerpt and cut away again, so that its ends are not resampled from zeros
)


class RandomMixes(Dataset):
    """Training examples ``{"mixture": (C, L), "stems": (targets, C, L)}`` by index.

    Each part comes from a random place of a random song (``augment.remix``: the share of mixtures made so; the others
    take all parts from one place of one song), with a random gain, the channels swapped at random; the mixture is their
    sum, so mixture and stems always agree.
    """

    def __init__(self, parts: Parts, recipe: Recipe, n_examples: int):
        self.parts, self.targets, self.n_examples = parts, recipe.targets, n_examples
        self.augment: AugmentSpec = recipe.augment
        self.seed, self.channels = recipe.train.seed, recipe.data.channels
        self.sample_rate_hz = recipe.stft.sample_rate_hz
        self.length = round(recipe.train.chunk_seconds * self.sample_rate_hz)

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((self.seed, index))
        remixed = random.random() < self.augment.remix
        song = self._draw(random)
        drawn = {}
        for name in self.parts.names:
            track, start = self._draw(random) if remixed else song
            drawn[name] = self._augmented(self._excerpt(track, name, start), random)
        mixture = torch.stack(list(drawn.values())).sum(0)
        return {"mixture": mixture, "stems": torch.stack([drawn[target] for target in self.targets])}

    def _draw(self, random: np.random.Generator) -> tuple[Track, int]:
        """A song, each as likely as the next, and the first sample of an excerpt, in samples of its file."""
        track = self.parts.tracks[random.integers(len(self.parts.tracks))]
        room = track.n_samples - self._file_length(track)
        return track, int(random.integers(room + 1)) if room > 0 else 0

    def _file_length(self, track: Track) -> int:
        return -(-self.length * track.sample_rate_hz // self.sample_rate_hz)

    def _excerpt(self, track: Track, part: str, start: int) -> Tensor:
        """(C, L) at the recipe's rate and channels; a song shorter than L is followed by silence."""
        from_hz, to_hz = track.sample_rate_hz, self.sample_rate_hz
        margin = round(RESAMPLE_MARGIN_SECONDS * from_hz) if from_hz != to_hz else 0
        before = min(margin, start)
        n_samples = min(before + self._file_length(track) + margin, track.n_samples - start + before)
        audio = read_part(track, part, self.targets, start - before, n_samples)
        audio = resample(match_channels(audio, self.channels), from_hz, to_hz)
        audio = audio[:, round(before * to_hz / from_hz) :][:, : self.length]
        return torch.nn.functional.pad(audio, (0, self.length - audio.shape[-1]))

    def _augmented(self, audio: Tensor, random: np.random.Generator) -> Tensor:
        gain_db = random.uniform(*self.augment.gain_db)
        swap, drop = random.random() < self.augment.channel_swap, random.random() < self.augment.drop
        audio = audio.flip(0) if swap else audio
        return audio * (0.0 if drop else 10.0 ** (gain_db / 20.0))


# --- whole tracks, for validation and test ----------------------------------------------------------------------------


def load_track(track: Track, targets: Sequence[str]) -> tuple[Tensor, dict[str, Tensor], str]:
    """The mixture (C, L), the stems of those targets that the track has, and where the mixture came from.

    At the track's own rate and channels. The mixture is ``mixture.wav`` ("file") where it exists, else the sum of all
    stems ("sum").
    """
    stems = {target: read_part(track, target, targets) for target in targets if target in track.files}
    if MIXTURE in track.files:
        return read_part(track, MIXTURE, targets), stems, "file"
    return torch.stack([read_part(track, stem, targets) for stem in track.stems]).sum(0), stems, "sum"


def tell_builtin(say: Callable[[str], None]) -> None:
    """The banner of a run on built-in stems."""
    say("=" * 88)
    say("NO DATA SET GIVEN: using the BUILT-IN SYNTHETIC STEMS. Good for trying things out, not for results.")
    say(f"For real music: data.root=/path/to/musdb18hq, or set {DATA_ROOT_VARIABLE}.")
    say("=" * 88)
