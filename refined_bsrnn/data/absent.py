"""The sources that a song is known not to contain: only to such songs a recording of the source may be added."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..recipe import DataSpec
from .names import MIXTURE, is_catch_all, leaves_out, related
from .parts import TrackParts


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
