"""Where songs come from: sources of tracks → one table of tracks and what their stems are read from.

    root/{train,valid,test}/<track>/{mixture,<stem>,...}.wav        MUSDB18-HQ's layout, with any stem names

`track_table` lists what is there (headers only) as a Hugging Face `datasets` table with a fingerprint; `read_stem`
reads any piece of a stem, at the track's own rate and channels. Nothing else knows how a stem lies on the disk. The
test split is listed and read by `evaluate` alone.
"""

import fnmatch
import hashlib
import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import datasets
import torch
from torch import Tensor

from .audio import AUDIO_SUFFIXES, audio_info, match_channels, read_audio
from .errors import DataError
from .recipe import DATA_ROOT_VARIABLE, DataSpec
from .synth import builtin_root

SPLITS = ("train", "valid", "test")
MIXTURE = "mixture"
BUILTIN = "builtin"  # as data.root: the built-in stems, whatever the environment says

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
class StemFile:
    """A file, or a piece of one, that a stem is read from; it begins where the track begins."""

    name: str  # within the track's folder, or absolute
    n_samples: int  # of the file used; where the track is longer silence follows
    start: int = 0  # first sample of the file used


@dataclass(frozen=True)
class Track:
    """One song: where its files are and what their headers say. All of its files have one rate."""

    name: str
    split: str
    folder: str
    n_samples: int
    sample_rate_hz: int
    n_channels: int
    files: Mapping[str, tuple[StemFile, ...]]  # stem (or "mixture") → the files whose sum it is
    content: str  # hash of sizes and samples from the middle of every file
    weight: float = 1.0  # how often it is drawn, beside a track of weight 1

    @property
    def stems(self) -> list[str]:
        return [name for name in self.files if name != MIXTURE]

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz

    def path(self, stem: str) -> Path:
        """The stem's first file."""
        return self.paths(stem)[0]

    def paths(self, stem: str) -> list[Path]:
        return [Path(self.folder, file.name) for file in self.files[stem]]


def read_stem(track: Track, stem: str, start: int = 0, n_samples: int | None = None) -> Tensor:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) of a stem that the track has.

    Float (channels, samples) at the track's own rate and channels: the sum of the stem's files, mono ones repeated,
    shorter ones followed by silence.
    """
    n_samples = track.n_samples - start if n_samples is None else n_samples
    if start < 0 or n_samples < 1 or start + n_samples > track.n_samples:
        raise DataError(
            f"track {track.name} has {track.n_samples} samples; samples {start} to {start + n_samples} were asked for."
        )
    total: Tensor | None = None
    for file, path in zip(track.files[stem], track.paths(stem), strict=True):
        n_here = min(n_samples, file.n_samples - start)
        if n_here < 1:
            continue
        audio, _ = read_audio(path, file.start + start, n_here)
        audio = torch.nn.functional.pad(match_channels(audio, track.n_channels), (0, n_samples - n_here))
        total = audio if total is None else total + audio
    return torch.zeros(track.n_channels, n_samples) if total is None else total


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
    return table_of([_read_track(split, folder) for split, folder in folders])


def table_of(tracks: Iterable[Track]) -> datasets.Dataset:
    """Tracks as the rows of a `datasets` table."""
    rows = [asdict(track) for track in tracks]
    for row in rows:  # a column of mappings would give every row the union of all keys
        row["files"] = json.dumps(row["files"])
    return datasets.Dataset.from_list(rows)


def tracks_of(table: datasets.Dataset) -> list[Track]:
    """The rows of a track table as `Track` objects."""

    def files(text: str) -> dict[str, tuple[StemFile, ...]]:
        return {stem: tuple(StemFile(**file) for file in listed) for stem, listed in json.loads(text).items()}

    return [Track(**{**row, "files": files(row["files"])}) for row in table]


def with_definitions(track: Track, spec: DataSpec) -> Track:
    """The track with the stems that the recipe defines: each the sum of those of its stems that the track has.

    A definition of which the track has nothing leaves it as it is: its own file of that name counts.
    """
    defined = {
        name: tuple(file for stem in spec.stems_of(name) for file in track.files.get(stem, ())) for name in spec.define
    }
    return replace(track, files={**track.files, **{name: files for name, files in defined.items() if files}})


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
    names = {stem: (StemFile(path.name, infos[stem].n_samples),) for stem, path in files.items()}
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


def use_part(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, seed: int) -> list[Track]:
    """The training tracks a recipe asks for: all, or some of those that have a target, in an order set by the seed.

    Of ``use_tracks``, ``use_minutes`` and ``use_fraction`` the one that leaves least decides; at least one track stays.
    """
    if not (spec.use_tracks or spec.use_minutes or spec.use_fraction < 1):
        return list(tracks)
    having = [t for t in tracks if set(targets) & set(t.stems)]
    order = sorted(having, key=lambda t: hashlib.sha256(f"{seed}\t{t.name}".encode()).hexdigest())
    count = math.ceil(spec.use_fraction * len(order))
    if spec.use_tracks:
        count = min(count, spec.use_tracks)
    if spec.use_minutes:
        minutes = list(accumulate(t.seconds / 60 for t in order))
        count = min(count, bisect_left(minutes, spec.use_minutes) + 1)
    return sorted(order[:count], key=lambda t: t.name)


def tell_builtin(say: Callable[[str], None]) -> None:
    """The banner of a run on built-in stems."""
    say("=" * 88)
    say("NO DATA SET GIVEN: using the BUILT-IN SYNTHETIC STEMS. Good for trying things out, not for results.")
    say(f"For real music: data.root=/path/to/musdb18hq, or set {DATA_ROOT_VARIABLE}.")
    say("=" * 88)
