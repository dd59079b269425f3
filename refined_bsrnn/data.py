"""Tracks → training batches and whole validation or test tracks.

`make_parts` decides for every track what a training mixture can take from it; `RandomMixes` draws one training example
per index, a pure function of the seed and the index: the same whatever the number of workers or processes, and a
resumed run goes on where it was. Where tracks come from and how their files are read: `sources`; what is done to the
parts of a mixture: `augment`; where something is to be heard: `activity`.
"""

import csv
import ctypes
import hashlib
import io
import json
import math
import os
import signal
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import activity
from .activity import SEGMENT_SECONDS, active_segments
from .audio import fold_channels, resample
from .augment import AUGMENTATIONS, Streams, augmented, is_on, music_taken
from .errors import DataError
from .layouts import MIXTURE, REST, first, read_text
from .recipe import AugmentSpec, DataSpec, Recipe
from .sources import Track, read_stem
from .suggest import nearest

MUSDB_STEMS = ("vocals", "drums", "bass", "other")
# Stems that are named for what they leave out: what such a one holds depends on which other stems there are.
CATCH_ALL = {"other", "others", "rest", "residual", "remaining", "misc", "band", "music", "backing"} | {
    "accompaniment",
    "instrumental",
    "instruments",
}


# --- parts: what a mixture is made of ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Song:
    """A track and the parts it can give, whose sum is a mixture and of which no two hold the same."""

    track: Track
    parts: tuple[str, ...]  # stems, and REST: what the mixture holds beside them
    sums: Mapping[str, tuple[str, ...]]  # each target that it has → the parts whose sum that is; none: it is silent
    beside: tuple[str, ...] = ()  # the stems that REST leaves out
    counts: Mapping[str, float] = field(default_factory=dict)  # stem → how much it counts, where not 1

    def read(self, part: str, start: int = 0, n_samples: int | None = None) -> Tensor:
        """Float (channels, samples) of a part at the track's own rate."""
        return read_part(self.track, part, self.beside, start, n_samples)


def is_catch_all(part: str) -> bool:
    return part == REST or part.lower() in CATCH_ALL


@dataclass(frozen=True)
class Parts:
    """The songs of a training set and what was left out or masked (to be told)."""

    songs: list[Song]
    notes: list[str]
    # (number of the song, part) → the first samples of its active segments; None: excerpts begin anywhere
    active: Mapping[tuple[int, str], np.ndarray] | None = None

    @property
    def tracks(self) -> list[Track]:
        return [song.track for song in self.songs]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every part that a mixture may be made of."""
        return tuple(dict.fromkeys(part for song in self.songs for part in song.parts))


def make_parts(
    tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, elsewhere: Collection[str] = ()
) -> Parts:
    """What each track gives to mixtures for these targets.

    The stems in ``data.stems`` when given; else vocals, drums, bass, other, or all stems that the track has, whichever
    hold its targets and are heard to sum to its mixture; else its targets and the rest of its mixture. A track that
    lacks a target counts for the others, is left out, taken as silent there or refused, as ``data.missing_stem`` says.
    ``elsewhere``: stems of tracks that are not used, which ``data.stems`` may name all the same.
    Raises `DataError` where no track has a target.
    """
    _check_names(tracks, targets, spec, elsewhere)
    counts = read_stem_weights(Path(spec.stem_weights)) if spec.stem_weights else {}
    notes = _tell_counts(tracks, counts, spec)
    songs = [_trusted(song, counts) for song in _songs(tracks, targets, spec)]
    songs, told = _usable(songs, targets, spec)
    told += _tell_incomplete(songs, targets, spec)
    _check_mixable(songs, targets)
    active = None
    if spec.excerpts == "active":
        active, note = _active(songs, spec)
        told.append(note)
    return Parts(songs, [*notes, *told], active)


def _check_names(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, elsewhere: Collection[str]) -> None:
    available = {stem for t in tracks for stem in t.stems}
    for target in targets:
        if target in elsewhere and target not in available:
            raise DataError(
                f"none of the {len(tracks)} tracks that data.use_tracks (--tracks), use_minutes and use_fraction leave "
                f"has a stem {target!r}; others have. Expected one for each target: use more."
            )
    for name in [*targets, *(n for n in spec.stems if n != REST and n not in elsewhere)]:
        if name not in available:
            parts = [f"{stem!r}.{nearest(stem, available)}" for stem in spec.stems_of(name)]
            sums = f" data.define.{name} is the sum of {' '.join(parts)}" if name in spec.define else ""
            raise DataError(
                f"no track has a stem {name!r}.{sums or nearest(name, available)} "
                f"Stems found in {len(tracks)} tracks: {', '.join(sorted(available)) or 'none'}."
            )
    for target in targets:
        if spec.stems and target not in spec.stems and not set(spec.stems_of(target)) <= set(spec.stems):
            raise DataError(
                f"the target {target!r} is not among data.stems {list(spec.stems)}, which make the mixture."
            )


def _songs(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[Song]:
    """The parts of every track. Tracks with the same stems are listened to together."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, track in enumerate(tracks):
        alike.setdefault(tuple(sorted(track.files)), []).append(i)
    songs: dict[int, Song] = {}
    for places in alike.values():
        for i, parts in zip(places, _stem_parts([tracks[i] for i in places], targets, spec), strict=True):
            songs[i] = _song(tracks[i], parts, targets, spec)
    return [songs[i] for i in range(len(tracks))]


def _song(track: Track, parts: tuple[str, ...] | None, targets: Sequence[str], spec: DataSpec) -> Song:
    """``parts`` None: the targets and the rest of the mixture."""
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
    return Song(track, parts, sums, tuple(part for part in parts if part != REST))


def _drawn_as(track: Track, target: str, spec: DataSpec, parts: tuple[str, ...] | None) -> tuple[str, ...]:
    """The parts whose sum a target is: itself, or those stems of its definition that are there."""
    if parts is None or target in parts:
        return (target,)
    return tuple(stem for stem in spec.stems_of(target) if stem in parts)


def _finest(track: Track, target: str, spec: DataSpec) -> tuple[str, ...]:
    """The stems of the target's definition that the track has, where they are distinct; else the target as it is."""
    stems = tuple(stem for stem in spec.stems_of(target) if stem in track.files)
    return (target,) if not stems or _share_files(track, stems) else stems


def _share_files(track: Track, names: Sequence[str]) -> bool:
    """Whether two of these stems are read from the same piece of a file."""
    files = [(file.name, file.start) for name in dict.fromkeys(names) for file in track.files[name]]
    return len(set(files)) < len(files)


def _stem_parts(alike: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[tuple[str, ...] | None]:
    """For tracks with the same stems: those that sum to the mixture and hold the targets, or None."""
    track = alike[0]
    if spec.stems:
        there = tuple(name for name in spec.stems if (MIXTURE if name == REST else name) in track.files)
        return [there] * len(alike)
    drawn = [stem for target in targets if target in track.files for stem in _finest(track, target, spec)]
    everything = list(dict.fromkeys(drawn))
    for stem in track.apart:
        if stem not in everything and not _share_files(track, [*everything, stem]):
            everything.append(stem)
    musdb = MUSDB_STEMS if set(drawn) <= set(MUSDB_STEMS) <= set(track.files) else None
    found: list[tuple[str, ...] | None] = [None] * len(alike)
    for names in (musdb, tuple(sorted(everything))):
        if names and not _share_files(track, names):
            heard = _listen(alike, names)
            found = [old or (names if sums else None) for old, sums in zip(found, heard, strict=True)]
    return found


LISTEN_TO = 3  # so many tracks of those with the same stems; where they differ, all


def _listen(tracks: Sequence[Track], names: Sequence[str]) -> list[bool]:
    """Whether they sum to each track's mixture: names are not trusted, a guitar may lie beside `other` or be in it."""
    few = list(tracks)[:: max(1, len(tracks) // LISTEN_TO)]
    heard = {id(track): sum_to_mixture([track], names) for track in few}
    if len(set(heard.values())) == 1:
        return [heard[id(few[0])]] * len(tracks)
    return [heard[id(track)] if id(track) in heard else sum_to_mixture([track], names) for track in tracks]


LISTEN_AT = (0.08, 0.24, 0.4, 0.6, 0.76, 0.92)  # of a track's length, a second each: all may play at one of them


def sum_to_mixture(tracks: Sequence[Track], names: Sequence[str]) -> bool:
    """Whether mixture − Σ stems lies 30 dB or more below the mixture, in six places of each track that has one."""
    for track in [t for t in tracks if MIXTURE in t.files]:
        n_samples = min(track.n_samples, track.sample_rate_hz)
        whole, left = 0.0, 0.0
        for share in LISTEN_AT:
            start = round(share * (track.n_samples - n_samples))
            whole += float((read_part(track, MIXTURE, (), start, n_samples) ** 2).sum())
            left += float((read_part(track, REST, names, start, n_samples) ** 2).sum())
        if left > 1e-3 * whole:
            return False
    return True


def _trusted(song: Song, counts: Mapping[tuple[str, str], float]) -> Song:
    """Without the parts that count for nothing: what they hold is in no mixture, unless a rest of one holds it."""
    mine = {part: counts.get((song.track.name, part), 1.0) for part in (*song.parts, *song.sums)}
    bad = {part for part, count in mine.items() if count == 0}
    bad_targets = bad | {t for t, parts in song.sums.items() if bad & set(parts)}
    if REST in song.parts:  # a bad stem stays in the mixture that it cannot be told from: only its label goes
        kept = song.parts if not bad & set(song.parts) else tuple(p for p in song.parts if p not in bad)
        beside = tuple(part for part in kept if part != REST)
    else:
        kept, beside = tuple(part for part in song.parts if part not in bad), song.beside
    sums = {target: parts for target, parts in song.sums.items() if target not in bad_targets}
    return Song(song.track, kept, sums, beside, {part: count for part, count in mine.items() if count != 1})


def read_stem_weights(path: Path) -> dict[tuple[str, str], float]:
    """(track, stem) → how much that stem counts, from a CSV with the columns track, stem and weight (0 to 1; none: 0).

    Raises `DataError` for a file that is not there, lacks a column, or has another weight.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    except OSError as problem:
        raise DataError(f"data.stem_weights is {path}, which cannot be read: {problem.strerror}.") from None
    columns, rows = [str(column) for column in reader.fieldnames or ()], list(reader)
    misspelt = "weight" not in columns and nearest("weight", columns)
    if rows and (misspelt or not {"track", "stem"} <= set(columns)):
        raise DataError(f"{path} has the columns {', '.join(columns)}; expected track, stem and weight.")
    weights = {}
    for line, row in enumerate(rows, 2):
        try:
            weight = float(row.get("weight") or 0.0)
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 1:
            raise DataError(f"{path}, line {line}: the weight is {row['weight']!r}; expected a number from 0 to 1.")
        weights[row["track"], row["stem"]] = weight
    return weights


def _tell_counts(tracks: Sequence[Track], counts: Mapping[tuple[str, str], float], spec: DataSpec) -> list[str]:
    if not counts:
        return []
    here = {key: count for key, count in counts.items() if any(t.name == key[0] and key[1] in t.files for t in tracks)}
    if not here:
        raise DataError(
            f"none of the {len(counts)} stems in {spec.stem_weights} is one of the training tracks'; its first is "
            f"{' / '.join(next(iter(counts)))}."
        )
    dropped = sum(count == 0 for count in here.values())
    others = [" / ".join(key) for key in counts if key not in here]
    return [
        f"{spec.stem_weights}: {dropped} training stems are left out and {len(here) - dropped} count less; "
        f"{len(others)} of its lines name no stem of a training track{f' ({first(others)})' if others else ''}."
    ]


def _usable(songs: Sequence[Song], targets: Sequence[str], spec: DataSpec) -> tuple[list[Song], list[str]]:
    """The songs to be used and what is told of the others, as ``data.missing_stem`` says."""
    lacking = {i: gaps for i, song in enumerate(songs) if (gaps := _gaps(song, targets, spec))}
    without = [i for i, song in enumerate(songs) if not (song.sums and song.parts)]
    missing = spec.missing_stem
    if missing == "error" and lacking:
        raise DataError(
            f"{len(lacking)} of {len(songs)} tracks lack a stem ({_told(songs, lacking)}). data.missing_stem=mask "
            "trains on what they have, =skip leaves them out, =silent takes the missing stem as silence."
        )
    left_out = set(lacking) if missing == "skip" else set(without)
    others = {i: gaps for i, gaps in lacking.items() if i not in left_out}
    notes = []
    if left_out:
        hint = "data.missing_stem=silent takes the missing stem as silence instead."
        if missing == "skip":
            hint = f"data.missing_stem=mask trains on what they have, {hint.removeprefix('data.missing_stem')}"
        told = _told(songs, {i: lacking.get(i, []) for i in sorted(left_out)})
        notes.append(f"{len(left_out)} of {len(songs)} tracks lack a stem and are left out ({told}). {hint}")
    if others:
        what = "which is taken as silence" if missing == "silent" else "and count for those that they have"
        notes.append(f"{len(others)} of {len(songs)} tracks lack a stem, {what} ({_told(songs, others)}).")
    usable = [song for i, song in enumerate(songs) if i not in left_out]
    if not usable:
        raise DataError(f"none of {len(songs)} tracks has all of {', '.join(spec.stems or targets)}.")
    for target in targets:
        if not any(song.sums.get(target) for song in usable):
            raise DataError(f"no track that can be trained on has the target {target!r}. {' '.join(notes)}")
    return usable, notes


def _gaps(song: Song, targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The targets, and stems of ``data.stems``, that a song lacks."""
    targets_missing = [target for target in targets if not song.sums.get(target)]
    return list(dict.fromkeys([*targets_missing, *(part for part in spec.stems if part not in song.parts)]))


def _tell_incomplete(songs: Sequence[Song], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """Sums of which a song has a part while its mixture holds more than its stems: maybe the other parts, too."""
    gaps: dict[int, list[str]] = {}
    for i, song in enumerate(songs):
        for target in set(targets) & spec.define.keys() & song.sums.keys() if REST in song.parts else ():
            missing = [stem for stem in spec.stems_of(target) if stem not in song.track.files]
            gaps.setdefault(i, []).extend(f"{target} without {stem}" for stem in missing)
    gaps = {i: missing for i, missing in gaps.items() if missing}
    if not gaps:
        return []
    return [
        f"{len(gaps)} of {len(songs)} tracks have only some of the stems that a target is made of, and mixtures that "
        f"hold more than their stems ({_told(songs, gaps)}). If the others are in there, leave these tracks out."
    ]


def _told(songs: Sequence[Song], gaps: Mapping[int, Sequence[str]]) -> str:
    told = "; ".join(f"{songs[i].track.name}: {', '.join(names)}" for i, names in list(gaps.items())[:6])
    return told + (f" and {len(gaps) - 6} more" if len(gaps) > 6 else "")


def _active(songs: Sequence[Song], spec: DataSpec) -> tuple[dict[tuple[int, str], np.ndarray], str]:
    """Where each part of each song is active; a part that is silent throughout is not there."""
    keys = [(i, part) for i, song in enumerate(songs) for part in song.parts]
    starts = active_segments([_listed(songs[i], part) for i, part in keys], spec.energy)
    found = {key: places for key, places in zip(keys, starts, strict=True) if len(places)}
    if not found:
        raise DataError(
            f"no part of {len(songs)} tracks has an active segment of {SEGMENT_SECONDS:g} s (data.energy="
            f"{spec.energy}). Tracks shorter than that need data.excerpts=random."
        )
    total = sum(len(places) for places in found.values())
    return found, (
        f"{total} active segments of {SEGMENT_SECONDS:g} s (data.energy={spec.energy}); "
        f"{len(keys) - len(found)} of {len(keys)} parts have none."
    )


def _listed(song: Song, part: str) -> activity.Part:
    track = song.track
    stems = [MIXTURE, *sorted(song.beside)] if part == REST else [part]
    files = [[asdict(file) for file in track.files[stem]] for stem in stems]
    content = hashlib.sha256(json.dumps([track.name, track.content, track.written, files]).encode()).hexdigest()
    return activity.Part(content, track.name, part, track.n_samples, track.sample_rate_hz, partial(song.read, part))


def read_part(track: Track, part: str, beside: Sequence[str], start: int = 0, n_samples: int | None = None) -> Tensor:
    """Float (channels, samples) of one part at the track's own rate; a stem that is not there is silent.

    REST is the mixture without the stems ``beside`` it. It may be a view that is not contiguous: an excerpt is copied
    once, to where it is summed.
    """
    if part == REST:
        rest = read_part(track, MIXTURE, (), start, n_samples)
        for stem in beside:
            if stem in track.files:
                rest = rest - read_stem(track, stem, start, n_samples, contiguous=False)
        return rest
    if part not in track.files:
        return torch.zeros(track.n_channels, track.n_samples - start if n_samples is None else n_samples)
    return read_stem(track, part, start, n_samples, contiguous=False)


# --- training examples ------------------------------------------------------------------------------------------------

# Read beside an excerpt and cut away again, so that its ends are not resampled from zeros.
RESAMPLE_MARGIN_SECONDS = 0.05
Settings = dict[str, Any]  # augmentation → what was drawn


@dataclass(frozen=True, eq=False)
class Place:
    """Where in which song an excerpt begins, and what is done to all that comes from there."""

    song: int
    start: int  # in samples of the file
    settings: Settings


@dataclass(frozen=True)
class Pool:
    """Songs that can be drawn for a purpose, and their odds."""

    songs: np.ndarray
    odds: np.ndarray | None  # cumulated; None: all alike

    @classmethod
    def of(cls, songs: Sequence[int], weights: np.ndarray) -> "Pool":
        mine = weights[list(songs)]
        alike = len(set(mine.tolist())) == 1
        return cls(np.asarray(songs), None if alike else np.cumsum(mine) / mine.sum())

    def draw(self, random: np.random.Generator) -> int:
        if self.odds is None:
            return int(self.songs[random.integers(len(self.songs))])
        return int(self.songs[np.searchsorted(self.odds, random.random(), side="right").clip(max=len(self.songs) - 1)])


class RandomMixes(Dataset):
    """Training examples ``{"mixture": (C, L), "stems": (targets, C, L), "present": (targets,)}`` by index.

    A song is drawn, each as likely as its weight says; its parts are what the mixture is made of. In the share
    ``augment.remix`` of the mixtures each of these parts comes from a random place of a random song that has it, in the
    others all come from one place of this song. They are augmented and summed: mixture and stems always agree. A target
    that the song does not have by itself is not ``present``, since the mixture may hold it all the same.
    """

    def __init__(self, parts: Parts, recipe: Recipe, n_examples: int):
        self.parts, self.targets, self.n_examples = parts, recipe.targets, n_examples
        self.augment: AugmentSpec = recipe.augment
        self.seed, self.channels = recipe.train.seed, recipe.data.channels
        self.sample_rate_hz = recipe.stft.sample_rate_hz
        self.length = round(recipe.train.chunk_seconds * self.sample_rate_hz)
        songs = parts.songs
        self.weights = np.array([song.track.weight for song in songs])
        leads = _leads(songs)
        self.leads = Pool.of(leads, self.weights) if leads else None
        self.together = None if leads else _all_together(songs)  # every song is a stem of its own
        self.pools: dict[Any, Pool] = {}

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        streams = Streams(self.seed, index)
        common = self._drawn("mixture", streams)
        lead, places = self._places(streams, "remix" in common)
        silent = self._silent(lead, common)
        own = {part: self._drawn("part", streams) for part in places}
        shape = (self.channels, self.length)
        stems = torch.empty(len(self.targets), *shape)
        rows = dict(zip(self.targets, stems, strict=True))
        sums = {target: lead.sums.get(target, ()) for target in self.targets}
        # A part that is a target is copied there at once: what it was read into is free for the next, and still cached.
        alone = {parts[0]: rows[target] for target, parts in sums.items() if len(parts) == 1}
        sounds: dict[str, Tensor] = {}  # of the parts that are not silent
        for place in dict.fromkeys(places.values()):
            heard = {
                part: {**common, **own[part]}
                for part in places
                if places[part] is place and part not in silent and "drop" not in own[part]
            }
            sounds |= {
                part: sum_into(alone[part], [audio]) if part in alone else audio
                for part, audio in (self._sounds(place, heard) if heard else {}).items()
            }
        for target, parts in sums.items():
            there = [sounds[part] for part in parts if part in sounds]
            if not (there and there[0] is rows[target]):
                sum_into(rows[target], there)
        mixture = sum_into(torch.empty(shape), list(sounds.values()))
        present = torch.tensor([self._counts(lead, target, places) for target in self.targets])
        return {"mixture": mixture, "stems": stems, "present": present}

    def _drawn(self, shared_by: str, streams: Streams) -> Settings:
        """What is done this time, by the augmentations whose draws are shared so."""
        drawn = {
            name: augmentation.draw(self.augment, streams[name])
            for name, augmentation in AUGMENTATIONS.items()
            if augmentation.shared_by == shared_by and is_on(self.augment, name)
        }
        return {name: setting for name, setting in drawn.items() if setting is not None}

    def reads(self, index: int) -> list[tuple[Path, int, int]]:
        """(file, first sample, samples) of all that an example reads when nothing is done to it; for measuring."""
        streams = Streams(self.seed, index)
        _, places = self._places(streams, "remix" in self._drawn("mixture", streams))
        found = []
        for part, place in places.items():
            song = self.parts.songs[place.song]
            length = min(self._file_length(song.track, {}), song.track.n_samples - place.start)
            for stem in (MIXTURE, *song.beside) if part == REST else (part,):
                found += [(path, place.start, length) for path in song.track.paths(stem)]
        return found

    # which songs, and where in them

    def _places(self, streams: Streams, remixed: bool) -> tuple[Song, dict[str, Place]]:
        """The song that says what the mixture is made of, and where each of its parts is taken from."""
        random = streams["songs"]
        number = self.leads.draw(random) if self.leads else -1
        lead = self.parts.songs[number] if self.together is None else self.together
        if remixed or self.together is not None:
            return lead, {
                part: self._place(self._pool(part, lead).draw(random), (part,), streams) for part in lead.parts
            }
        heard = [part for parts in lead.sums.values() for part in parts]
        place = self._place(number, heard, streams)
        return lead, dict.fromkeys(lead.parts, place)

    def _pool(self, part: str, lead: Song) -> Pool:
        """The songs that can give this part to a mixture made of the lead's parts, found once."""
        key: Any = part
        if is_catch_all(part):
            key = (part, lead.parts, tuple(lead.sums), tuple(sorted(lead.track.files)))
        if key not in self.pools:
            songs, active = self.parts.songs, self.parts.active
            fitting = [i for i, song in enumerate(songs) if can_give(song, part, lead)]
            # a part that is nowhere active is drawn as it is: silence is a part of music
            weights, heard = self.weights, [i for i in fitting if active and (i, part) in active]
            if active and heard:
                fitting, weights = heard, self.weights * [len(active.get((i, part), ())) for i in range(len(songs))]
            self.pools[key] = Pool.of(fitting, weights)
        return self.pools[key]

    def _place(self, number: int, heard: Sequence[str], streams: Streams) -> Place:
        """A random place of a song; with active excerpts one in which one of these parts is to be heard."""
        song, random = self.parts.songs[number], streams["places"]
        settings = self._drawn("song", streams)
        needed = self._file_length(song.track, settings)
        first, last = 0, max(0, song.track.n_samples - needed)
        active = self.parts.active or {}
        segments = [active[number, part] for part in heard if (number, part) in active]
        if segments:
            starts = segments[random.integers(len(segments))]
            first = min(last, int(starts[random.integers(len(starts))]))
            within = round(SEGMENT_SECONDS * song.track.sample_rate_hz) - needed
            last = min(last, first + max(0, within))
        return Place(number, int(random.integers(first, last + 1)), settings)

    def _file_length(self, track: Track, settings: Settings) -> int:
        """Samples of the file that make an excerpt."""
        length = self.length if not settings else math.ceil(self.length * music_taken(settings))
        return -(-length * track.sample_rate_hz // self.sample_rate_hz)

    # what is heard there

    def _silent(self, lead: Song, common: Settings) -> set[str]:
        """The parts of the target that this example is to be without."""
        if "silent_target" not in common:
            return set()
        there = [parts for parts in lead.sums.values() if parts]
        return set(there[int(common["silent_target"] * len(there))]) if there else set()

    def _counts(self, lead: Song, target: str, places: Mapping[str, Place]) -> float:
        """How much the example counts for a target: 0 where it is not known by itself."""
        if target not in lead.sums:
            return 0.0
        given = [(self.parts.songs[places[part].song].counts, part) for part in lead.sums[target]]
        return min([1.0, *(min(counts.get(part, 1.0), counts.get(target, 1.0)) for counts, part in given)])

    def _sounds(self, place: Place, heard: Mapping[str, Settings]) -> dict[str, Tensor]:
        """(C, L) of each part that comes from one place, augmented as its settings say."""
        song = self.parts.songs[place.song]
        last = max(0, song.track.n_samples - self._file_length(song.track, place.settings))
        length = math.ceil(self.length * music_taken(place.settings)) if place.settings else self.length
        excerpts = []
        for part, settings in heard.items():
            shift = round(settings.get("time_shift", 0.0) * song.track.sample_rate_hz)
            excerpts.append(self._excerpt(song, part, min(last, max(0, place.start + shift)), length))
        if place.settings:  # what comes from one place is played faster or higher as one sound: (parts · C, L)
            together = augmented(torch.cat(excerpts), place.settings, self.sample_rate_hz)
            excerpts = list(fitted(together, self.length).split(self.channels))
        return {
            part: augmented(audio, settings, self.sample_rate_hz)
            for (part, settings), audio in zip(heard.items(), excerpts, strict=True)
        }

    def _excerpt(self, song: Song, part: str, start: int, length: int) -> Tensor:
        """(C, length) at the recipe's rate and channels; a song shorter than that is followed by silence."""
        track = song.track
        from_hz, to_hz = track.sample_rate_hz, self.sample_rate_hz
        margin = round(RESAMPLE_MARGIN_SECONDS * from_hz) if from_hz != to_hz else 0
        before = min(margin, start)
        needed = before + -(-length * from_hz // to_hz) + margin
        audio = song.read(part, start - before, min(needed, track.n_samples - start + before))
        audio = resample(fold_channels(audio, self.channels), from_hz, to_hz)
        return fitted(audio[:, round(before * to_hz / from_hz) :], length)


def sum_into(result: Tensor, sounds: Sequence[Tensor]) -> Tensor:
    """``result`` overwritten with the sum of the sounds, silence where there are none."""
    total = result.numpy()  # numpy copies what alternates between channels eight times as fast as torch
    arrays = [sound.numpy() for sound in sounds]
    if len(arrays) < 2:
        np.copyto(total, arrays[0] if arrays else np.float32(0))
    else:
        np.add(arrays[0], arrays[1], out=total)
    for sound in arrays[2:]:
        np.add(total, sound, out=total)
    return result


def fitted(audio: Tensor, length: int) -> Tensor:
    """(C, L) cut or followed by silence to (C, length); not copied where it fits."""
    missing = length - audio.shape[-1]
    return torch.nn.functional.pad(audio, (0, missing)) if missing > 0 else audio[:, :length]


def keep_memory(worker: int = 0) -> None:
    """Let this process keep the memory it frees, for the next example; for `DataLoader`'s workers.

    glibc gives big blocks back to the system and gets them anew, cleared page by page, which takes longer than reading
    the audio. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 1 << 28  # malloc.h


def begin_worker(worker: int) -> None:
    """What a `DataLoader`'s worker in training does first."""
    keep_memory()
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Let this worker end when its parent says so, and by no Ctrl-C or SIGTERM that all processes of a job get.

    The trainer finishes its step on such a signal, for which it needs its workers. Where the system cannot tell who has
    sent a signal (macOS, Windows), SIGTERM still ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def watch() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def can_give(song: Song, part: str, lead: Song) -> bool:
    """Whether a part of this song can stand in a mixture made of the lead's parts, no source being in it twice.

    A stem of a name of its own holds that source and nothing else. What a catch-all holds depends on what lies beside
    it: its song must have all of the lead's other parts by themselves, or be known to be without them.
    """
    if part not in song.parts:
        return False
    if not is_catch_all(part) or song is lead:
        return True
    if part != REST and REST in lead.parts:  # what the lead's rest holds beside it is not known
        return set(song.track.files) == set(lead.track.files)
    others = {target for target, parts in lead.sums.items() if part not in parts}
    return (set(lead.parts) - {part, REST}) | others <= set(song.parts) | song.sums.keys()


def _leads(songs: Sequence[Song]) -> list[int]:
    """The songs whose parts can be what a mixture is made of: those that are not a single stem.

    A mixture in which all targets are known to be silent is one: it is all rest.
    """
    return [i for i, song in enumerate(songs) if song.sums and (len(song.parts) > 1 or REST in song.parts)]


def _all_together(songs: Sequence[Song]) -> Song:
    """A mixture of everything with a name of its own: what songs that are single stems are mixed to."""
    parts = tuple(dict.fromkeys(part for song in songs for part in song.parts if not is_catch_all(part)))
    sums = {t: summed for song in songs for t, summed in song.sums.items() if set(summed) <= set(parts)}
    return Song(songs[0].track, parts, sums)


def _check_mixable(songs: Sequence[Song], targets: Sequence[str]) -> None:
    """`DataError` for a target that no mixture could hold beside something else."""
    leads = [songs[i] for i in _leads(songs)]
    if not leads:
        together = _all_together(songs)
        leads = [together] if len(together.parts) > 1 else []
    for target in targets:
        if not any(target in lead.sums for lead in leads):
            raise DataError(
                f"the tracks that have {target!r} hold nothing else: there is nothing to separate it from. Give them a "
                "mixture or other stems, or add tracks that have it beside others."
            )


# --- whole tracks, for validation and test ----------------------------------------------------------------------------


def load_track(track: Track, targets: Sequence[str]) -> tuple[Tensor, dict[str, Tensor], str]:
    """The mixture (C, L), the stems of those targets that the track has, and where the mixture came from.

    At the track's own rate and channels. The mixture is ``mixture.wav`` ("file") where it exists, else the sum of all
    stems ("sum").
    """
    stems = {target: read_stem(track, target) for target in targets if target in track.files}
    if MIXTURE in track.files:
        return read_stem(track, MIXTURE), stems, "file"
    return torch.stack([read_stem(track, stem) for stem in track.apart]).sum(0), stems, "sum"
