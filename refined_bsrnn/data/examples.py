"""Tracks → training batches and whole validation or test tracks.

`make_parts` decides for every track what a training mixture can take from it; `RandomMixes` draws one training example
per index, a pure function of the seed and the index: the same whatever the number of workers or processes, and a
resumed run goes on where it was. Where tracks come from and how their files are read: `tracks`; what is done to the
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
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..audio import fold_channels, resample
from ..errors import DataError, nearest
from ..recipe import AugmentSpec, DataSpec, Recipe
from ..system import STOP_SIGNALS
from . import activity
from .activity import SEGMENT_SECONDS, active_segments
from .augment import AUGMENTATIONS, Streams, augmented, is_on, music_taken
from .layouts.listing import first
from .layouts.manifest import read_text
from .names import MIXTURE, MUSDB_STEMS, REST, is_catch_all, leaves_out, related
from .pools import Active, Pools, Song, holding_targets, joined_targets, read_part, related_target
from .tracks import Track, read_stem, with_definitions

# --- parts: what a mixture is made of ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The songs of a training set and what was left out or masked (to be told)."""

    songs: list[Song]
    notes: list[str]
    # (number of the song, part) → the first samples of its active segments; None: excerpts begin anywhere
    active: Active | None = None

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
    songs = [_trusted(song, counts) for song in _split_other(tracks, targets, spec, notes)]
    songs = _with_absent(songs, targets, spec, notes)
    songs, told = _usable(songs, targets, spec)
    told += _tell_incomplete(songs, targets, spec)
    _check_mixable(songs, targets, tracks)
    active: Active | None = None
    if spec.excerpts == "active":
        active, note = _active(songs, spec)
        told.append(note)
    songs, active, left_out = _reached(songs, active, targets, spec)
    return Parts(songs, [*notes, *told, *left_out, *_tell_added(songs, targets, spec)], active)


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
        alone = all(MIXTURE not in t.files and len(t.apart) == 1 for t in tracks if target in t.files)
        if spec.stems and not alone and target not in spec.stems and not set(spec.stems_of(target)) <= set(spec.stems):
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


def _split_other(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, notes: list[str]) -> list[Song]:
    """The parts of every track; where a target is finer than `other` and `other` is the sum of finer stems, of these.

    Whether it is their sum is measured.
    """
    fine = {stem for target in targets for stem in (target, *spec.stems_of(target))} - {*MUSDB_STEMS}
    split: dict[int, tuple[str, ...]] = {}
    if fine and "other" not in spec.define and not spec.stems:
        for track in tracks:
            finer = tuple(stem for stem in track.apart if stem not in MUSDB_STEMS)
            if finer and "other" in track.files and _is_sum_of(track, "other", finer):
                split[id(track)] = finer
    made_of = {name: frozenset(spec.stems_of(name)) for name in spec.define}
    if not split:
        return [replace(song, made_of=made_of) for song in _songs(tracks, targets, spec)]
    names = sorted({stem for finer in split.values() for stem in finer})
    notes.append(
        f"{len(split)} tracks: other is the sum of their {', '.join(names)} and is drawn as these "
        "(data.define.other says it otherwise)."
    )
    finer_spec = replace(spec, define={**spec.define, "other": tuple(names)})
    whole = iter(_songs([track for track in tracks if id(track) not in split], targets, spec))
    parts = iter(_songs([with_definitions(t, finer_spec) for t in tracks if id(t) in split], targets, finer_spec))
    made_of["other"] = frozenset(names)
    return [replace(next(parts) if id(track) in split else next(whole), made_of=made_of) for track in tracks]


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
        alone = tuple(track.apart) if MIXTURE not in track.files and len(track.apart) == 1 else ()
        return [there or alone] * len(alike)
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
    return all(_is_sum_of(track, MIXTURE, names) for track in tracks if MIXTURE in track.files)


def _is_sum_of(track: Track, whole: str, names: Sequence[str]) -> bool:
    """Whether a stem (or the mixture) − Σ stems lies 30 dB or more below it, in six places."""
    n_samples = min(track.n_samples, track.sample_rate_hz)
    power, left = 0.0, 0.0
    for share in LISTEN_AT:
        start = round(share * (track.n_samples - n_samples))
        audio = read_part(track, whole, (), start, n_samples)
        power += float((audio**2).sum())
        for stem in names:
            if stem in track.files:
                audio = audio - read_part(track, stem, (), start, n_samples)
        left += float((audio**2).sum())
    return left <= 1e-3 * power


def _with_absent(songs: Sequence[Song], targets: Sequence[str], spec: DataSpec, notes: list[str]) -> list[Song]:
    """The songs with what each is known not to hold; a target that is known to be absent is silent there."""
    assumed = _only_in_solos(songs, targets) if spec.absent is None else []
    absent = {*assumed, *(spec.absent or ())}
    if idle := sorted(absent - {*targets}):
        notes.append(f"data.absent names {first(idle)}, which is no target of this run: it changes nothing.")
    names = {*targets, *(part for song in songs for part in song.parts if not is_catch_all(part))}
    known = []
    for song in songs:
        lacks = frozenset(name for name in names - song.track.files.keys() if _lacks(song, name, absent, spec))
        silent = {} if song.is_named_solo else {target: () for target in targets if target in lacks}
        known.append(replace(song, lacks=lacks, sums={**silent, **song.sums}))
    for target in assumed:
        count = sum(not song.is_solo and target in song.lacks for song in known)
        if count:
            notes.append(
                f"ONLY SOLOS HAVE {target!r}: THE {count} SONGS ARE TAKEN TO HOLD NONE, and solos are mixed into them. "
                "If songs may hold it, set data.absent=[] and give them a stem of it."
            )
    return known


def _only_in_solos(songs: Sequence[Song], targets: Sequence[str]) -> list[str]:
    """The targets that some solo has and no song."""
    solos = {target for song in songs if song.is_named_solo for target in song.sums if song.sums[target]}
    in_songs = {stem for song in songs if not song.is_solo for stem in song.track.files}
    return [target for target in targets if target in solos - in_songs]


def _lacks(song: Song, name: str, absent: Collection[str], spec: DataSpec) -> bool:
    """Whether a track without a stem of this name is known not to hold it."""
    stems = [stem for stem in song.track.files if stem != MIXTURE]
    if any(related(name, stem) and not is_catch_all(stem) for stem in stems) and not is_catch_all(name):
        return False
    if song.is_solo and is_catch_all(song.parts[0]):
        return leaves_out(song.parts[0], name) if spec.absent is None else name in spec.absent
    if name in absent:
        return True
    # nothing is in the mixture beside sources with names of their own
    return len(song.parts) > 1 and not any(is_catch_all(part) for part in song.parts)


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
    return replace(song, parts=kept, sums=sums, beside=beside, counts={p: c for p, c in mine.items() if c != 1})


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
    missing = spec.missing_stem
    lacking = {i: gaps for i, song in enumerate(songs) if (gaps := _gaps(song, targets, spec))}
    without = [
        i
        for i, song in enumerate(songs)
        if not (song.parts and (song.sums or (song.is_other_solo and missing == "mask")))
    ]
    if missing == "error" and lacking:
        raise DataError(
            f"{len(lacking)} of {len(songs)} tracks lack a stem ({_told(songs, lacking)}). data.missing_stem=mask "
            "trains on what they have, =skip leaves them out, =silent takes the missing stem as silence."
        )
    left_out = set(lacking) if missing == "skip" else set(without)
    others = {i: gaps for i, gaps in lacking.items() if i not in left_out and not songs[i].is_other_solo}
    notes = []
    if left_out:
        named = ", ".join(
            dict.fromkeys(target for i in left_out for target in targets if not songs[i].sums.get(target))
        )
        hint = f"data.absent=[{named}] says that they hold none, data.missing_stem=silent takes it as silence."
        if missing == "skip":
            hint = "data.missing_stem=mask trains on what they have, =silent takes the missing stem as silence instead."
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
    targets_missing = [target for target in targets if not song.sums.get(target) and target not in song.lacks]
    stems = () if song.is_solo else spec.stems
    return list(dict.fromkeys([*targets_missing, *(s for s in stems if s not in song.parts and s not in song.lacks)]))


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


def _reached(
    songs: Sequence[Song], active: Active | None, targets: Sequence[str], spec: DataSpec
) -> tuple[list[Song], Active | None, list[str]]:
    """The songs of which some example reads something, and what is told of the others."""
    allowed = [i for i, song in enumerate(songs) if not _refused(song, targets, spec)]
    reached = {allowed[i] for i in Pools([songs[i] for i in allowed], _moved(active, allowed), spec).reached()}
    reasons: dict[str, list[str]] = {}
    for i, song in enumerate(songs):
        if i not in reached:
            silent = active is not None and not any((i, part) in active for part in song.parts)
            inactive = f"no part of them is active for {SEGMENT_SECONDS:g} s (data.excerpts=active)"
            why = _refused(song, targets, spec) or (inactive if silent else _no_place(song, targets, spec))
            reasons.setdefault(why, []).append(song.track.name)
    notes = [
        f"{len(names)} of {len(songs)} tracks are left out: {why} ({first(names)})." for why, names in reasons.items()
    ]
    kept = sorted(reached)
    return [songs[i] for i in kept], _moved(active, kept), notes


def _moved(active: Active | None, kept: Sequence[int]) -> Active | None:
    """The active segments of some of the songs, by their numbers among these."""
    if active is None:
        return None
    place = {number: i for i, number in enumerate(kept)}
    return {(place[i], part): starts for (i, part), starts in active.items() if i in place}


def _refused(song: Song, targets: Sequence[str], spec: DataSpec) -> str:
    """Why a solo of no target is not to be added to mixtures; empty: it is."""
    if not song.is_other_solo:
        return ""
    name = song.parts[0]
    if spec.stems and name not in spec.stems:
        return f"{name} is not among data.stems, which make the mixture"
    target = related_target(name, targets, spec)
    if target is not None:
        return (
            f"{name} may be a part of {target}, so it cannot stand beside it; data.define={{{target}: "
            f"[{', '.join(dict.fromkeys([*spec.stems_of(target), name]))}]}} makes it one"
        )
    return ""


def _no_place(song: Song, targets: Sequence[str], spec: DataSpec) -> str:
    """Why no mixture takes a part of a song."""
    name = song.parts[0]
    if song.is_other_solo:
        return f"data.add_others=0 adds no solo of {name}"
    if song.is_named_solo:
        return f"no song is known to be without {name}; data.absent=[{name}] says that those without its stem are"
    unknown = [target for target in targets if target not in song.sums]
    if unknown:
        return f"{name} may hold {', '.join(unknown)}; data.absent=[{', '.join(unknown)}] says that it does not"
    return f"no mixture can take their {', '.join(song.parts)}"


def _tell_added(songs: Sequence[Song], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """Which solos are mixed into which songs."""
    pools, notes = Pools(songs, None, spec), []
    leads = pools.all_leads()
    for target in targets:
        if spec.add_targets and any(pools.target(target, lead) for lead in leads):
            notes.append(
                f"{target}: a recording is added to {spec.add_targets:.0%} of the examples of songs that hold none "
                "(data.add_targets); the others teach silence."
            )
    others: dict[str, int] = {}
    for song in songs:
        if song.is_other_solo and pools.leads is not None and any(song.parts[0] not in lead.parts for lead in leads):
            others[song.parts[0]] = others.get(song.parts[0], 0) + 1
    if others and spec.add_others:
        told = []
        for name, count in others.items():
            joined = dict.fromkeys(t for lead in leads if name not in lead.parts for t in joined_targets(name, lead))
            told.append(f"{count} {name} ({'as part of ' + ', '.join(joined) if joined else 'as no target'})")
        notes.append(
            f"solos of no target: {', '.join(told)}: one is added to {spec.add_others:.0%} of the examples "
            "(data.add_others)."
        )
    return notes


def _listed(song: Song, part: str) -> activity.Part:
    track = song.track
    stems = [MIXTURE, *sorted(song.beside)] if part == REST else [part]
    files = [[asdict(file) for file in track.files[stem]] for stem in stems]
    content = hashlib.sha256(json.dumps([track.name, track.content, track.written, files]).encode()).hexdigest()
    return activity.Part(content, track.name, part, track.n_samples, track.sample_rate_hz, partial(song.read, part))


# --- training examples ------------------------------------------------------------------------------------------------

# Read beside an excerpt and cut away again, so that its ends are not resampled from zeros.
RESAMPLE_MARGIN_SECONDS = 0.05
IN_PLACE = 0.5  # of the added solos of no target stand in place of `other`, the rest beside it
Settings = dict[str, Any]  # augmentation → what was drawn


@dataclass(frozen=True, eq=False)
class Place:
    """Where in which song an excerpt begins, and what is done to all that comes from there."""

    song: int
    start: int  # in samples of the file
    settings: Settings


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
        self.data = recipe.data
        self.pools = Pools(parts.songs, parts.active, recipe.data)

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
        """The song that says what the mixture is made of, with what is added to it, and where each part comes from."""
        random, pools = streams["songs"], self.pools
        if pools.leads is None:
            assert pools.mixed_leads is not None
            lead, number = pools.mixed[pools.mixed_leads.draw(random)], None
        else:
            number = pools.leads.draw(random)
            lead = self.parts.songs[number]
        if remixed or number is None:
            places = {part: self._place(pools.part(part, lead).draw(random), (part,), streams) for part in lead.parts}
        else:
            heard = [part for parts in lead.sums.values() for part in parts]
            places = dict.fromkeys(lead.parts, self._place(number, heard, streams))
            self._stand_in(lead, places, streams)
        return self._add(lead, places, streams)

    def _stand_in(self, lead: Song, places: dict[str, Place], streams: Streams) -> None:
        """Solos in place of the song's own stems, as often as in a remix: no song keeps them together with anything."""
        random = streams["solos"]
        for part in lead.parts:
            solos = None if lead.parts == (part,) else self.pools.solos(part, lead)
            if solos is not None and random.random() * self.pools.part(part, lead).weight < solos.weight:
                places[part] = self._place(solos.draw(random), (part,), streams)

    def _add(self, lead: Song, places: dict[str, Place], streams: Streams) -> tuple[Song, dict[str, Place]]:
        """Targets that the song is known not to hold, and a solo of no target."""
        random, sums = streams["solos"], dict(lead.sums)
        for target in lead.sums:
            pool = self.pools.target(target, lead)
            if pool is not None and random.random() < self.data.add_targets:
                number = pool.draw(random)
                added = self.parts.songs[number].sums[target]
                for name in (target, *holding_targets(added, target, lead)):
                    sums[name] = (*sums[name], *added)
                places |= dict.fromkeys(added, self._place(number, added, streams))
        others = self.pools.others(lead)
        if others is not None and random.random() < self.data.add_others:
            number = others.draw(random)
            name = self.parts.songs[number].parts[0]
            if random.random() < IN_PLACE and len(lead.parts) > 1:  # of what the song has no name for
                places = {part: place for part, place in places.items() if not is_catch_all(part) or part == REST}
                sums = {target: tuple(part for part in parts if part in places) for target, parts in sums.items()}
            places[name] = self._place(number, (name,), streams)
            for target in joined_targets(name, lead):
                sums[target] = (*sums[target], name)
        return replace(lead, parts=tuple(places), sums=sums), places

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
    """Let this worker end when its parent says so, and by no signal to stop that all processes of a job get.

    The trainer finishes its step on such a signal, for which it needs its workers. Where the system cannot tell who has
    sent a signal (macOS, Windows), SIGTERM still ends them.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def watch() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _check_mixable(songs: Sequence[Song], targets: Sequence[str], tracks: Sequence[Track]) -> None:
    """`DataError` for a target that no mixture could hold beside something else."""
    pools = Pools(songs, None, DataSpec())
    leads = pools.all_leads()
    for target in targets:
        if not any(len(lead.parts) > 1 and lead.sums.get(target) for lead in leads) and not any(
            pools.target(target, lead) for lead in leads
        ):
            without = any(target not in track.files and MIXTURE in track.files for track in tracks)
            absent = f" data.absent=[{target}] says that tracks without it hold none." if without else ""
            raise DataError(
                f"the tracks that have {target!r} hold nothing else: there is nothing to separate it from. Give them a "
                f"mixture or other stems, or add tracks that have it beside others.{absent}"
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
