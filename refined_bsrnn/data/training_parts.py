"""The parts of a training set: which songs train which targets, and which songs are left out.

This module decides; `part_notes` writes the messages about the decisions.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from ..errors import DataError, nearest
from ..recipe import DataSpec
from . import part_notes
from .activity import SEGMENT_SECONDS, ActivityPart, active_segments
from .label_weights import label_weight_notes, read_stem_weights, with_label_weights
from .names import MIXTURE, REST
from .parts import TrackParts, Usable, split_into_parts, with_absent
from .pools import Pools
from .tracks import Track


@dataclass(frozen=True)
class TrainingParts:
    """The songs of a training set, and messages about songs that are left out or do not count."""

    songs: list[TrackParts]
    notes: list[str]

    @property
    def tracks(self) -> list[Track]:
        return [song.track for song in self.songs]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every part that a mixture may be made of."""
        return tuple(dict.fromkeys(part for song in self.songs for part in song.parts))


def make_parts(
    tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, elsewhere: Collection[str] = ()
) -> TrainingParts:
    """The parts of each track for mixtures with these targets.

    The parts are the stems in ``data.stems`` if given; else vocals, drums, bass, other, or all stems of the track,
    whichever contain its targets and measurably sum to its mixture; else its targets and the rest of its mixture.
    ``data.missing_stem`` decides whether a track that lacks a target trains the others, is left out, counts as silent,
    or is refused. ``elsewhere``: stems of tracks that are not used, which ``data.stems`` may still name. Raises
    `DataError` if no track has a target.
    """
    _check_names(tracks, targets, spec, elsewhere)
    weights = read_stem_weights(Path(spec.stem_weights)) if spec.stem_weights else {}
    notes = label_weight_notes(tracks, weights, spec.stem_weights)
    songs, split_other = split_into_parts(tracks, targets, spec)
    songs = [with_label_weights(song, weights) for song in songs]
    notes += part_notes.of_split_other(split_other)
    songs = with_absent(songs, targets, spec)
    notes += part_notes.of_absent(songs, targets, spec)
    usable = usable_songs(songs, targets, spec)
    notes += part_notes.of_usable(usable, songs, targets, spec)
    songs = usable.used
    notes += part_notes.of_incomplete(songs, incomplete_sums(songs, targets, spec))
    _check_mixable(songs, targets, tracks)
    if spec.excerpts == "active":
        songs = with_active(songs, spec)
        notes.append(part_notes.of_active(songs, spec))
    songs, unread = reached_songs(songs, targets, spec)
    return TrainingParts(songs, [*notes, *unread, *part_notes.of_added(songs, targets, spec)])


# --- names ------------------------------------------------------------------------------------------------------------


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
        alone = all(t.is_solo for t in tracks if target in t.files)
        if spec.stems and not alone and target not in spec.stems and not set(spec.stems_of(target)) <= set(spec.stems):
            raise DataError(
                f"the target {target!r} is not among data.stems {list(spec.stems)}, which make the mixture."
            )


def _check_mixable(songs: Sequence[TrackParts], targets: Sequence[str], tracks: Sequence[Track]) -> None:
    """`DataError` for a target that no mixture could contain together with something else."""
    pools = Pools(songs, DataSpec())
    leads = pools.all_leads()
    for target in targets:
        if not any(len(lead.parts) > 1 and lead.target_parts.get(target) for lead in leads) and not any(
            pools.target(target, lead) for lead in leads
        ):
            without = any(target not in track.files and MIXTURE in track.files for track in tracks)
            absent = f" data.absent=[{target}] says that tracks without it hold none." if without else ""
            raise DataError(
                f"the tracks that have {target!r} hold nothing else: there is nothing to separate it from. Give them a "
                f"mixture or other stems, or add tracks that have it beside others.{absent}"
            )


# --- which songs ------------------------------------------------------------------------------------------------------


def usable_songs(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> Usable:
    """The songs that ``data.missing_stem`` keeps. Raises `DataError` for a missing stem if it is ``error``."""
    missing = spec.missing_stem
    gaps = {i: found for i, song in enumerate(songs) if (found := _gaps(song, targets, spec))}
    if missing == "error" and gaps:
        raise DataError(part_notes.missing_stems(songs, gaps))
    useless = [
        i
        for i, song in enumerate(songs)
        if not (song.parts and (song.target_parts or (song.is_other_solo and missing == "mask")))
    ]
    left_out = set(gaps) if missing == "skip" else set(useless)
    lacking = {i: found for i, found in gaps.items() if i not in left_out and not songs[i].is_other_solo}
    used = [song for i, song in enumerate(songs) if i not in left_out]
    usable = Usable(used, {i: gaps.get(i, []) for i in sorted(left_out)}, lacking)
    if not used:
        raise DataError(f"none of {len(songs)} tracks has all of {', '.join(spec.stems or targets)}.")
    for target in targets:
        if not any(song.target_parts.get(target) for song in used):
            notes = " ".join(part_notes.of_usable(usable, songs, targets, spec))
            raise DataError(f"no track that can be trained on has the target {target!r}. {notes}")
    return usable


def _gaps(song: TrackParts, targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The targets, and stems of ``data.stems``, that a song lacks."""
    missing = [target for target in targets if not song.target_parts.get(target) and target not in song.absent]
    stems = () if song.is_solo else spec.stems
    return list(dict.fromkeys([*missing, *(s for s in stems if s not in song.parts and s not in song.absent)]))


def incomplete_sums(songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec) -> dict[int, list[str]]:
    """Number of a song → ``target without stem``, for sums of which the mixture may contain more than the stems."""
    gaps: dict[int, list[str]] = {}
    for i, song in enumerate(songs):
        for target in set(targets) & spec.define.keys() & song.target_parts.keys() if REST in song.parts else ():
            missing = [stem for stem in spec.stems_of(target) if stem not in song.track.files]
            gaps.setdefault(i, []).extend(f"{target} without {stem}" for stem in missing)
    return {i: missing for i, missing in gaps.items() if missing}


# --- which songs some example reads -----------------------------------------------------------------------------------


def reached_songs(
    songs: Sequence[TrackParts], targets: Sequence[str], spec: DataSpec
) -> tuple[list[TrackParts], list[str]]:
    """The songs that some example reads, and notes on the others, with the reason."""
    allowed = [i for i, song in enumerate(songs) if not part_notes.why_refused(song, targets, spec)]
    reached = {allowed[i] for i in Pools([songs[i] for i in allowed], spec).reached()}
    reasons: dict[str, list[str]] = {}
    for i, song in enumerate(songs):
        if i not in reached:
            reasons.setdefault(part_notes.why_unread(song, targets, spec), []).append(song.track.name)
    return [songs[i] for i in sorted(reached)], part_notes.of_unread(reasons, len(songs))


# --- where parts are active -------------------------------------------------------------------------------------------


def with_active(songs: Sequence[TrackParts], spec: DataSpec) -> list[TrackParts]:
    """The songs with the active segments of their parts; `DataError` if there is none at all."""
    parts = [_activity_part(song, part) for song in songs for part in song.parts]
    starts = iter(active_segments(parts, spec.energy))
    found = [{part: places for part in song.parts if len(places := next(starts))} for song in songs]
    if not any(found):
        raise DataError(
            f"no part of {len(songs)} tracks has an active segment of {SEGMENT_SECONDS:g} s (data.energy="
            f"{spec.energy}). Tracks shorter than that need data.excerpts=random."
        )
    return [replace(song, active=active) for song, active in zip(songs, found, strict=True)]


def _activity_part(song: TrackParts, part: str) -> ActivityPart:
    track = song.track
    stems = [MIXTURE, *sorted(song.subtracted)] if part == REST else [part]
    files = [[asdict(file) for file in track.files[stem]] for stem in stems]
    content = hashlib.sha256(json.dumps([track.name, track.content, track.written, files]).encode()).hexdigest()
    return ActivityPart(content, track.name, part, track.n_samples, track.sample_rate_hz, partial(song.read, part))
