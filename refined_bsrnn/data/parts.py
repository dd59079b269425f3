"""The parts of a track that a mixture is made of, and the targets that they make up.

Names are not trusted: a guitar may be a stem next to `other` or a part of it, so it is measured whether stems sum to a
mixture.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..recipe import DataSpec
from .names import MIXTURE, MUSDB_STEMS, REST, is_catch_all, leaves_out, related
from .tracks import Track, read_stem, with_definitions


@dataclass(frozen=True)
class TrackParts:
    """One track, split into non-overlapping parts that add up to its mixture."""

    track: Track
    parts: tuple[str, ...]  # stems, and REST: the mixture without the stems `subtracted`
    target_parts: Mapping[str, tuple[str, ...]]  # each target it has → the parts whose sum that is; none: silence
    subtracted: tuple[str, ...] = ()  # the stems that REST leaves out
    label_weights: Mapping[str, float] = field(default_factory=dict)  # stem → how much it counts, where not 1
    absent: frozenset[str] = frozenset()  # the sources that it is known not to hold
    # Part → the first samples of its active segments, without parts that have none; None: excerpts begin anywhere.
    active: Mapping[str, np.ndarray] | None = field(default=None, compare=False)
    definitions: Mapping[str, frozenset[str]] = field(default_factory=dict)  # target that is a sum → its stems anywhere

    @property
    def is_solo(self) -> bool:
        """Whether the track is one stem and nothing else."""
        return len(self.parts) == 1 and self.parts[0] != REST

    @property
    def is_named_solo(self) -> bool:
        """Whether the track is one stem and nothing else, with a specific name."""
        return self.is_solo and not is_catch_all(self.parts[0])

    @property
    def is_other_solo(self) -> bool:
        """Whether the track is one stem with a specific name that belongs to no target."""
        return self.is_named_solo and not any(self.target_parts.values())

    def n_segments(self, parts: Sequence[str]) -> int:
        """The number of active segments of these parts."""
        return sum(len((self.active or {}).get(part, ())) for part in parts)

    def read(self, part: str, start: int = 0, n_samples: int | None = None) -> Tensor:
        """Float (channels, samples) of a part at the track's own rate."""
        return read_part(self.track, part, self.subtracted, start, n_samples)


def read_part(
    track: Track, part: str, subtracted: Sequence[str], start: int = 0, n_samples: int | None = None
) -> Tensor:
    """Float (channels, samples) of one part at the track's own rate; a stem that the track lacks is silent.

    REST is the mixture without the stems ``subtracted``. The result may be a view that is not contiguous, because an
    excerpt is copied only when it is summed.
    """
    if part == REST:
        rest = read_part(track, MIXTURE, (), start, n_samples)
        for stem in subtracted:
            if stem in track.files:
                rest = rest - read_stem(track, stem, start, n_samples, contiguous=False)
        return rest
    if part not in track.files:
        return torch.zeros(track.n_channels, track.n_samples - start if n_samples is None else n_samples)
    return read_stem(track, part, start, n_samples, contiguous=False)


# --- which parts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitOther:
    """The tracks whose `other` is the sum of finer stems, by measurement, and these stems."""

    n_tracks: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usable:
    """The songs to use, and, by number among all songs, the stems that the other songs (and some of these) lack."""

    used: list[TrackParts]
    left_out: dict[int, list[str]]
    lacking: dict[int, list[str]]  # songs that are used for some of the targets


def split_into_parts(
    tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec
) -> tuple[list[TrackParts], SplitOther]:
    """The parts of every track. If a target is finer than `other` and finer stems sum to it, they replace `other`."""
    fine = {stem for target in targets for stem in (target, *spec.stems_of(target))} - {*MUSDB_STEMS}
    split: dict[int, tuple[str, ...]] = {}
    if fine and "other" not in spec.define and not spec.stems:
        for track in tracks:
            finer = tuple(stem for stem in track.apart if stem not in MUSDB_STEMS)
            if finer and "other" in track.files and _is_sum_of(track, "other", finer):
                split[id(track)] = finer
    definitions = {name: frozenset(spec.stems_of(name)) for name in spec.define}
    if not split:
        return [replace(song, definitions=definitions) for song in _songs(tracks, targets, spec)], SplitOther()
    names = tuple(sorted({stem for finer in split.values() for stem in finer}))
    finer_spec = replace(spec, define={**spec.define, "other": names})
    whole = iter(_songs([track for track in tracks if id(track) not in split], targets, spec))
    parts = iter(_songs([with_definitions(t, finer_spec) for t in tracks if id(t) in split], targets, finer_spec))
    definitions["other"] = frozenset(names)
    songs = [replace(next(parts) if id(track) in split else next(whole), definitions=definitions) for track in tracks]
    return songs, SplitOther(len(split), names)


def _songs(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[TrackParts]:
    """The parts of every track. Tracks with the same stems are measured together."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, track in enumerate(tracks):
        alike.setdefault(tuple(sorted(track.files)), []).append(i)
    songs: dict[int, TrackParts] = {}
    for places in alike.values():
        for i, parts in zip(places, _stem_parts([tracks[i] for i in places], targets, spec), strict=True):
            songs[i] = _song(tracks[i], parts, targets, spec)
    return [songs[i] for i in range(len(tracks))]


def _song(track: Track, parts: tuple[str, ...] | None, targets: Sequence[str], spec: DataSpec) -> TrackParts:
    """The track with these parts; with None, its targets and the rest of the mixture."""
    sums = {target: _drawn_as(track, target, spec, parts) for target in targets if target in track.files}
    sums = {target: names for target, names in sums.items() if names}
    if parts is None:
        units: list[tuple[str, ...]] = [(target,) for target in sums]
        if _share_files(track, list(sums)):  # then each is the sum of smaller ones
            units = [_finest(track, target, spec) for target in sums]
            sums = dict(zip(sums, units, strict=True))
        stems = tuple(dict.fromkeys(name for names in units for name in names))
        parts = (*stems, REST) if MIXTURE in track.files else stems
    if spec.missing_stem == "silent":
        sums = {target: sums.get(target, ()) for target in targets}
    return TrackParts(track, parts, sums, tuple(part for part in parts if part != REST))


def _drawn_as(track: Track, target: str, spec: DataSpec, parts: tuple[str, ...] | None) -> tuple[str, ...]:
    """The parts whose sum is a target: the target itself, or the stems of its definition that are among the parts."""
    if parts is None or target in parts:
        return (target,)
    return tuple(stem for stem in spec.stems_of(target) if stem in parts)


def _finest(track: Track, target: str, spec: DataSpec) -> tuple[str, ...]:
    """The stems of the target's definition that the track has, if they share no files; else the target itself."""
    stems = tuple(stem for stem in spec.stems_of(target) if stem in track.files)
    return (target,) if not stems or _share_files(track, stems) else stems


def _share_files(track: Track, names: Sequence[str]) -> bool:
    """Whether two of these stems are read from the same part of a file."""
    files = [(file.name, file.start) for name in dict.fromkeys(names) for file in track.files[name]]
    return len(set(files)) < len(files)


def _stem_parts(alike: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[tuple[str, ...] | None]:
    """For tracks with the same stems: the stems that sum to the mixture and contain the targets, or None."""
    track = alike[0]
    if spec.stems:
        existing = tuple(name for name in spec.stems if (MIXTURE if name == REST else name) in track.files)
        alone = tuple(track.apart) if track.is_solo else ()
        return [existing or alone] * len(alike)
    drawn = [stem for target in targets if target in track.files for stem in _finest(track, target, spec)]
    everything = list(dict.fromkeys(drawn))
    for stem in track.apart:
        if stem not in everything and not _share_files(track, [*everything, stem]):
            everything.append(stem)
    musdb = MUSDB_STEMS if set(drawn) <= set(MUSDB_STEMS) <= set(track.files) else None
    found: list[tuple[str, ...] | None] = [None] * len(alike)
    for names in (musdb, tuple(sorted(everything))):
        if names and not _share_files(track, names):
            measured = _measure(alike, names)
            found = [old or (names if sums else None) for old, sums in zip(found, measured, strict=True)]
    return found


# --- whether stems sum to a mixture -----------------------------------------------------------------------------------

MEASURED_TRACKS = 3  # of those with the same stems; if these differ, all
MEASURED_AT = (0.08, 0.24, 0.4, 0.6, 0.76, 0.92)  # of a track's length, a second each: all may play at one of them


def _measure(tracks: Sequence[Track], names: Sequence[str]) -> list[bool]:
    """Whether these stems sum to the mixture of each track."""
    few = list(tracks)[:: max(1, len(tracks) // MEASURED_TRACKS)]
    measured = {id(track): sum_to_mixture([track], names) for track in few}
    if len(set(measured.values())) == 1:
        return [measured[id(few[0])]] * len(tracks)
    return [measured[id(t)] if id(t) in measured else sum_to_mixture([t], names) for t in tracks]


def possible_sums(track: Track) -> list[tuple[str, ...]]:
    """The sets of stems that may sum to a mixture: vocals, drums, bass, other; all stems; all but `other`, which may
    contain finer ones.
    """
    stems = tuple(track.apart)
    choices = dict.fromkeys([MUSDB_STEMS, stems, tuple(stem for stem in stems if stem != "other")])
    return [names for names in choices if names and set(names) <= set(stems)]


def sum_to_mixture(tracks: Sequence[Track], names: Sequence[str]) -> bool:
    """Whether mixture − Σ stems is at least 30 dB below the mixture, at six places of each track that has one."""
    return all(_is_sum_of(track, MIXTURE, names) for track in tracks if MIXTURE in track.files)


def _is_sum_of(track: Track, whole: str, names: Sequence[str]) -> bool:
    """Whether a stem (or the mixture) − Σ stems is at least 30 dB below it, at six places."""
    n_samples = min(track.n_samples, track.sample_rate_hz)
    power, left = 0.0, 0.0
    for share in MEASURED_AT:
        start = round(share * (track.n_samples - n_samples))
        audio = read_part(track, whole, (), start, n_samples)
        power += float((audio**2).sum())
        for stem in names:
            if stem in track.files:
                audio = audio - read_part(track, stem, (), start, n_samples)
        left += float((audio**2).sum())
    return left <= 1e-3 * power


# --- sources that a song is known not to contain: only to such songs a recording of one may be added ------------------


def with_absent(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> list[TrackParts]:
    """The songs with the sources that each is known not to contain; known absent targets are silent in them."""
    absent = {*assumed_absent(songs, targets, spec), *(spec.absent or ())}
    names = {*targets, *(part for song in songs for part in song.parts if not is_catch_all(part))}
    known = []
    for song in songs:
        lacking = frozenset(n for n in names - song.track.files.keys() if _is_absent(song, n, absent, spec))
        silent = {} if song.is_named_solo else {target: () for target in targets if target in lacking}
        known.append(replace(song, absent=lacking, target_parts={**silent, **song.target_parts}))
    return known


def assumed_absent(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The targets that only solos have: songs are assumed not to contain them unless ``data.absent`` is set."""
    if spec.absent is not None:
        return []
    solos = {target for song in songs if song.is_named_solo for target, parts in song.target_parts.items() if parts}
    in_songs = {stem for song in songs if not song.is_solo for stem in song.track.files}
    return [target for target in targets if target in solos - in_songs]


def _is_absent(song: TrackParts, name: str, absent: Collection[str], spec: DataSpec) -> bool:
    """Whether a track without a stem of this name is known not to contain the source."""
    stems = [stem for stem in song.track.files if stem != MIXTURE]
    if any(related(name, stem) and not is_catch_all(stem) for stem in stems) and not is_catch_all(name):
        return False
    if song.is_solo and is_catch_all(song.parts[0]):
        return leaves_out(song.parts[0], name) if spec.absent is None else name in spec.absent
    if name in absent:
        return True
    # all parts are named sources, so nothing else is in the mixture
    return len(song.parts) > 1 and not any(is_catch_all(part) for part in song.parts)
