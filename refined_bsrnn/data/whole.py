"""Whole tracks read block by block: the mixture, the known parts, and both in step with estimates.

A guitar may be a stem next to `other` or a part of it, so the parts of a mixture are measured (`known_parts`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio import AUDIO_SUFFIXES, audio_info, match_channels, read_audio
from ..errors import DataError, nearest
from .names import MIXTURE, REST
from .parts import possible_sums, read_part, sum_to_mixture
from .tracks import Track, read_stem

MIXTURES = ("auto", "file", "sum")
ALL_BUT = "everything but "  # and a target: the mixture without it
Signals = dict[str, Tensor]  # name → (channels, samples)


def load_track(track: Track, targets: Sequence[str]) -> tuple[Tensor, dict[str, Tensor], str]:
    """The mixture (C, L), the stems of the targets that the track has, and the origin of the mixture.

    At the track's own rate and channels. The mixture is ``mixture.wav`` ("file") if it exists, or else the sum of all
    stems ("sum").
    """
    stems = {target: read_stem(track, target) for target in targets if target in track.files}
    mixture = torch.stack([read_stem(track, stem) for stem in track.whole]).sum(0)
    return mixture, stems, "file" if MIXTURE in track.files else "sum"


def partition(track: Track, targets: Sequence[str]) -> tuple[str, ...]:
    """The track's stems that contain every target and measurably sum to its mixture; empty if no choice does."""
    for names in possible_sums(track):
        if set(targets) <= set(names) and (MIXTURE not in track.files or sum_to_mixture([track], names)):
            return names
    return ()


def known_parts(track: Track, target: str) -> tuple[str, ...]:
    """The parts that make up the mixture, the target first; else the target and the rest of the mixture."""
    names = partition(track, [target])
    return (target, *(name for name in names if name != target)) if names else (target, f"{ALL_BUT}{target}")


def mixture_kind(track: Track, wanted: str = "auto") -> str:
    """``file`` or ``sum``: the mixture.wav, or the sum of stems; ``auto`` uses the file if there is one.

    Raises `DataError` if the requested kind is not available: no file, or no stems that sum to it.
    """
    has_file = MIXTURE in track.files
    if wanted == "file" and not has_file:
        raise DataError(f"track {track.name} has no mixture file; --mixture sum adds up its stems instead.")
    if wanted == "sum" and has_file and not partition(track, ()):
        raise DataError(
            f"the stems of track {track.name} ({', '.join(track.stems)}) do not sum to its mixture; use --mixture file."
        )
    return "file" if has_file and wanted != "sum" else "sum"


def read_mixture(track: Track, kind: str, start: int = 0, n_samples: int | None = None) -> Tensor:
    """(channels, samples) of the mixture of that kind, at the track's own rate."""
    if kind == "file":
        return read_part(track, MIXTURE, (), start, n_samples)
    names = partition(track, ()) or track.apart
    return torch.stack([read_part(track, name, (), start, n_samples) for name in names]).sum(0)


def read_known(track: Track, name: str, start: int = 0, n_samples: int | None = None) -> Tensor:
    """(channels, samples) of one known part of a track."""
    if name.startswith(ALL_BUT) and name not in track.files:
        return read_part(track, REST, (name.removeprefix(ALL_BUT),), start, n_samples)
    return read_part(track, name, (), start, n_samples)


def pieces(blocks: Iterable[Mapping[str, Tensor]], n_samples: int) -> Iterator[Signals]:
    """The same signals in pieces of exactly ``n_samples``, the last one shorter."""
    rest: Signals = {}
    for block in blocks:
        whole = {name: torch.cat([rest[name], x], -1) if rest else x for name, x in block.items()}
        length = next(iter(whole.values())).shape[-1]
        for start in range(0, length - n_samples + 1, n_samples):
            yield {name: x[:, start : start + n_samples] for name, x in whole.items()}
        rest = {name: x[:, length - length % n_samples :] for name, x in whole.items()}
    if rest and next(iter(rest.values())).shape[-1]:
        yield rest


class EstimateFiles:
    """Estimates of another program: ``folder/<track>/<target>.wav``, or ``folder/<split>/<track>/...``."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; expected <track>/<target>.wav in it.")
        self.folder = folder
        self.device = "files"

    def paths(self, track: Track) -> dict[str, Path]:
        """{target: file} of one track."""
        places = [self.folder / track.split / track.name, self.folder / track.name]
        place = next((p for p in places if p.is_dir()), places[1])
        found = sorted(place.iterdir()) if place.is_dir() else []
        return {p.stem: p for p in found if p.suffix.lower() in AUDIO_SUFFIXES and p.stem != MIXTURE}

    def targets(self, tracks: Sequence[Track]) -> list[str]:
        """The targets that any track has an estimate for."""
        names = sorted({name for track in tracks for name in self.paths(track)})
        if not names:
            folders = sorted(p.name for p in self.folder.iterdir() if p.is_dir())
            raise DataError(
                f"{self.folder} has no estimate of any of {len(tracks)} tracks, e.g. {tracks[0].name}/vocals.wav."
                f"{nearest(tracks[0].name, folders)} Name the folder of the references: --data ROOT."
            )
        return names

    def key(self, track: Track) -> list[object]:
        """A value that changes when an estimate of the track changes."""
        facts = {name: path.stat() for name, path in self.paths(track).items()}
        return [[name, s.st_size, s.st_mtime_ns] for name, s in facts.items()]

    def blocks(self, track: Track, targets: Sequence[str], mixture_is: str, n_samples: int) -> Iterator[Signals]:
        """Estimates of those targets in successive blocks; `DataError` for a file of another length or rate."""
        paths = self.paths(track)
        for target in targets:
            self._check(track, target, paths.get(target))
        for start in range(0, track.n_samples, n_samples):
            size = min(n_samples, track.n_samples - start)
            yield {t: match_channels(read_audio(paths[t], start, size)[0], track.n_channels) for t in targets}

    def _check(self, track: Track, target: str, path: Path | None) -> None:
        if path is None:
            raise DataError(f"{self.folder} has no estimate of {target} for track {track.name}; every track needs one.")
        info = audio_info(path)
        for what, found, expected in (
            ("Hz", info.sample_rate_hz, track.sample_rate_hz),
            ("samples", info.n_samples, track.n_samples),
        ):
            if found != expected:
                raise DataError(f"{path} has {found} {what}, its reference {expected}; write it at the track's own.")
        if info.n_channels not in (1, track.n_channels):
            wanted = f"{track.n_channels} or 1" if track.n_channels > 1 else "1"
            raise DataError(f"{path} has {info.n_channels} channels, its reference {track.n_channels}; {wanted} fit.")


def second_energies(track: Track, target: str, n_block: int) -> np.ndarray:
    """The energy of every second of a stem, including the last part; read block by block."""
    rate, energies = track.sample_rate_hz, []
    for start in range(0, track.n_samples, n_block):
        x = read_known(track, target, start, min(n_block, track.n_samples - start))
        energies += [float(second.double().square().sum()) for second in x.split(rate, -1)]
    return np.array(energies)
