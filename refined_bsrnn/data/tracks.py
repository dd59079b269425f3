"""A track: the files of one song, and the reading of a part of a stem.

Only this module knows how a stem is stored on the disk.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import torch
from torch import Tensor

from ..audio import fold_channels, read_audio
from ..errors import DataError
from ..recipe import DataSpec
from .names import MIXTURE


@dataclass(frozen=True)
class StemFile:
    """A file, or a part of one, from which a stem is read; it begins where the track begins."""

    name: str  # within the track's folder, or absolute
    n_samples: int  # of the file used; where the track is longer silence follows
    start: int = 0  # first sample of the file used


@dataclass(frozen=True)
class Track:
    """One song: its files and the facts in their headers. All of its files have one rate."""

    name: str
    split: str
    folder: str
    n_samples: int
    sample_rate_hz: int
    n_channels: int
    files: Mapping[str, tuple[StemFile, ...]]  # stem (or "mixture") → the files whose sum it is
    content: str  # hash of names, sizes and pieces of every file
    weight: float = 1.0  # how often it is drawn, beside a track of weight 1
    written: str = ""  # hash of sizes and times of writing of every file: for what is kept on this machine

    @property
    def stems(self) -> list[str]:
        return [name for name in self.files if name != MIXTURE]

    @property
    def apart(self) -> list[str]:
        """The finest stems that share no file with each other and together contain all files: without sums of others.

        A sum with a file of its own, as the definition ``vocals: [vocals, choir]``, replaces its other parts.
        """
        kept: dict[str, set[StemFile]] = {}
        for stem in sorted(self.stems, key=lambda name: len(self.files[name])):
            files = set(self.files[stem])
            shared = [name for name, others in kept.items() if others & files]
            if not shared or (all(kept[name] < files for name in shared) and files - set().union(*kept.values())):
                kept = {name: others for name, others in kept.items() if name not in shared} | {stem: files}
        return [stem for stem in self.stems if stem in kept]

    @property
    def whole(self) -> list[str]:
        """The stems whose sum is the mixture: its file, where there is one."""
        return [MIXTURE] if MIXTURE in self.files else self.apart

    @property
    def is_solo(self) -> bool:
        """Whether it is one stem without a mixture, so that there is nothing to separate."""
        return MIXTURE not in self.files and len(self.apart) == 1

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz

    def path(self, stem: str) -> Path:
        """The stem's first file."""
        return self.paths(stem)[0]

    def paths(self, stem: str) -> list[Path]:
        return [Path(self.folder, file.name) for file in self.files[stem]]


def read_stem(track: Track, stem: str, start: int = 0, n_samples: int | None = None, contiguous: bool = True) -> Tensor:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) of a stem that the track has.

    Float (channels, samples) at the track's own rate and channels: the sum of the stem's files; mono files are
    repeated, shorter files extended by silence. Without ``contiguous`` it may be a view, see `AudioReader.read`.
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
        audio, _ = read_audio(path, file.start + start, n_here, contiguous=contiguous)
        audio = fold_channels(audio, track.n_channels)
        if n_here < n_samples:  # padding by nothing would copy it
            audio = torch.nn.functional.pad(audio, (0, n_samples - n_here))
        total = audio if total is None else total + audio
    return torch.zeros(track.n_channels, n_samples) if total is None else total


def by_hash(tracks: Iterable[Track], salt: str = "") -> list[Track]:
    """The tracks in an order that only their names decide: another song moves no other one."""
    return sorted(tracks, key=lambda track: hashlib.sha256(f"{salt}{track.name}".encode()).hexdigest())


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
    """The track with the stems that the recipe defines: each is the sum of those of its stems that the track has.

    If the track has none of the stems of a definition, it stays unchanged, and its own file of that name counts.
    """
    defined = {
        name: tuple(file for stem in spec.stems_of(name) for file in track.files.get(stem, ())) for name in spec.define
    }
    return replace(track, files={**track.files, **{name: files for name, files in defined.items() if files}})


def fingerprint(tracks: Sequence[Track]) -> str:
    """A hash of the tracks and their content, independent of their place."""
    lines = sorted(f"{t.split}\t{t.name}\t{t.n_samples}\t{t.sample_rate_hz}\t{t.content}" for t in tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def last_written(tracks: Sequence[Track]) -> str:
    """A hash of the modification times of the files of these tracks, for copies on this machine."""
    return hashlib.sha256("\n".join(sorted(track.written for track in tracks)).encode()).hexdigest()
