"""For each part of a training mixture, the tracks that it may come from.

A *lead* is the song whose parts make up the mixture. Each part comes from the pool of all tracks that can give it. A
solo (a track with a single stem) is in these pools too. A solo of a target is added to songs that are known not to
contain the target; a solo of no target is added to songs without such a part. Without any song, the solos are mixed
with each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..recipe import DataSpec
from .names import MUSDB_STEMS, REST, belongs_to, is_catch_all, lacking, related
from .parts import TrackParts


def can_give(song: TrackParts, part: str, lead: TrackParts) -> bool:
    """Whether a part of this song can be used in a mixture of the lead's parts without a source occurring twice.

    A stem with a specific name contains that source and nothing else. The content of a catch-all depends on the other
    stems of its song: that song must have all of the lead's other parts as separate stems, or be known not to contain
    them.
    """
    if part not in song.parts:
        return False
    if not is_catch_all(part) or song is lead:
        return True
    if part != REST and REST in lead.parts:  # the content of the lead's rest is not known
        return set(song.track.files) == set(lead.track.files)
    others = {target for target, parts in lead.target_parts.items() if part not in parts}
    return (set(lead.parts) - {part, REST}) | others <= set(song.parts) | song.target_parts.keys() | song.absent


def holding_targets(parts: Sequence[str], target: str, lead: TrackParts) -> list[str]:
    """The other targets of a mixture that are sums containing these parts of a target."""
    return [
        name
        for name in lead.target_parts
        if name != target and lead.definitions.get(name, frozenset()) & {target, *parts}
    ]


def joined_targets(name: str, lead: TrackParts) -> list[str]:
    """The targets that a source belongs to, but for which the lead has no part: those that contain the rest of a
    mixture.
    """
    own = [part for part in lead.parts if not is_catch_all(part)]
    if len(lead.parts) == 1 and not lacking(lead.parts[0]):
        own = [*own, *MUSDB_STEMS[:3]]  # a solo of `other` holds none of these
    if any(related(name, part) for part in own):
        return []
    return [
        target
        for target, parts in lead.target_parts.items()
        if any(is_catch_all(stem) and belongs_to(name, stem) for stem in (target, *parts))
    ]


def related_target(name: str, targets: Sequence[str], spec: DataSpec) -> str | None:
    """The target that a stem of another name may be a part of."""
    for target in targets:
        if any(related(name, stem) and not is_catch_all(stem) for stem in (target, *spec.stems_of(target))):
            return target
    return None


# --- leads ------------------------------------------------------------------------------------------------------------


def find_leads(songs: Sequence[TrackParts]) -> list[int]:
    """The songs whose parts make mixtures: all but solos, and solos of a catch-all that no other song has as a stem.

    A mixture in which all targets are known to be silent is a lead too; all of it is rest.
    """
    leads = [i for i, song in enumerate(songs) if song.target_parts and song.parts and not song.is_solo]
    if not leads:
        return []
    kinds = list({kind_of_lead(songs[i]): songs[i] for i in leads}.values())
    return leads + [
        i
        for i, song in enumerate(songs)
        if song.is_solo
        and not song.is_named_solo
        and any(not parts for parts in song.target_parts.values())
        and not any(can_give(song, song.parts[0], lead) for lead in kinds)
    ]


def kind_of_lead(lead: TrackParts) -> tuple[object, ...]:
    """Leads of one kind can take the same parts from the same tracks."""
    return lead.parts, tuple(lead.target_parts.items()), tuple(sorted(lead.track.files)), lead.absent


def mixed_solos(songs: Sequence[TrackParts]) -> list[tuple[TrackParts, float]]:
    """The mixtures that solos make with each other, and their weights: all named sources and one catch-all."""
    named = tuple(dict.fromkeys(s.parts[0] for s in songs if s.is_named_solo))
    wanted = {part for song in songs for parts in song.target_parts.values() for part in parts}
    unnamed = {s.parts[0]: s for s in songs if s.is_solo and not s.is_named_solo}
    found: list[tuple[TrackParts, float]] = []
    for name, solo in unnamed.items():
        mates = tuple(n for n in named if n in solo.absent or n in solo.target_parts or n not in wanted)
        if mates:
            found.append((_mixed((*mates, name), songs, solo), sum(s.track.weight for s in songs if name in s.parts)))
    left = set(named) - {part for lead, _ in found for part in lead.parts}
    if left & wanted and len(named) > 1:
        found.append((_mixed(named, songs), sum(s.track.weight for s in songs if left & set(s.parts))))
    return found


def _mixed(parts: tuple[str, ...], songs: Sequence[TrackParts], solo: TrackParts | None = None) -> TrackParts:
    sums: dict[str, tuple[str, ...]] = dict(solo.target_parts) if solo else {}
    for song in songs:
        for target, summed in song.target_parts.items():
            if summed and set(summed) <= set(parts):
                sums[target] = tuple(dict.fromkeys((*sums.get(target, ()), *summed)))
    lead = TrackParts(
        songs[0].track, parts, sums, absent=solo.absent if solo else frozenset(), definitions=songs[0].definitions
    )
    if solo is None:
        return lead
    whole = replace(lead, parts=(solo.parts[0],))
    for part in parts[:-1]:
        if not any(part in summed for summed in sums.values()):
            for target in joined_targets(part, whole):
                sums[target] = (*sums[target], part)
    return replace(lead, target_parts=sums)


# --- pools ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """Songs to draw from for one purpose, and their probabilities."""

    songs: np.ndarray
    odds: np.ndarray | None  # cumulated; None: all alike
    weight: float = 0.0  # of all

    @classmethod
    def of(cls, songs: Sequence[int], weights: np.ndarray) -> "Pool":
        own = weights[list(songs)]
        alike = len(set(own.tolist())) == 1
        return cls(np.asarray(songs), None if alike else np.cumsum(own) / own.sum(), float(own.sum()))

    def draw(self, random: np.random.Generator) -> int:
        if self.odds is None:
            return int(self.songs[random.integers(len(self.songs))])
        return int(self.songs[np.searchsorted(self.odds, random.random(), side="right").clip(max=len(self.songs) - 1)])


class Pools:
    """The leads of a training set, and for each lead the tracks that can give a part or be added; each is found
    once.
    """

    def __init__(self, songs: Sequence[TrackParts], spec: DataSpec):
        self.songs, self.spec = songs, spec
        self.weights = np.array([song.track.weight for song in songs])
        leads = find_leads(songs)
        self.leads = Pool.of(leads, self.weights) if leads else None
        mixed = [] if leads else mixed_solos(songs)
        self.mixed = [lead for lead, _ in mixed]  # of solos: each part comes from another track
        self.mixed_leads = Pool.of(range(len(mixed)), np.array([weight for _, weight in mixed])) if mixed else None
        self.found: dict[object, Pool | None] = {}
        self.kinds: dict[int, tuple[object, ...]] = {}

    def all_leads(self) -> list[TrackParts]:
        """One lead of each kind."""
        leads = self.mixed if self.leads is None else [self.songs[i] for i in self.leads.songs]
        return list({kind_of_lead(lead): lead for lead in leads}.values())

    def kind(self, lead: TrackParts) -> tuple[object, ...]:
        if id(lead) not in self.kinds:
            self.kinds[id(lead)] = kind_of_lead(lead)
        return self.kinds[id(lead)]

    def part(self, part: str, lead: TrackParts) -> Pool:
        """The tracks that can give this part to a mixture of the lead's parts."""
        key = (part, self.kind(lead)) if is_catch_all(part) else part
        pool = self._pool(key, ((i, (part,)) for i, song in enumerate(self.songs) if can_give(song, part, lead)))
        assert pool is not None  # the lead itself
        return pool

    def solos(self, part: str, lead: TrackParts) -> Pool | None:
        """The tracks among them that consist of this part alone."""
        key = ("solo", part, self.kind(lead))
        return self._pool(
            key, ((i, (part,)) for i, s in enumerate(self.songs) if s.parts == (part,) and can_give(s, part, lead))
        )

    def target(self, target: str, lead: TrackParts) -> Pool | None:
        """The tracks whose target can be added to a lead that is known to lack it; None if the lead has it or no
        track does.
        """
        if lead.target_parts.get(target, (target,)):
            return None
        key = ("target", target, self.kind(lead))
        return self._pool(
            key,
            (
                (i, parts)
                for i, song in enumerate(self.songs)
                if (parts := song.target_parts.get(target, ()))
                and REST not in parts
                and not set(parts) & set(lead.parts)
                and all(can_give(song, part, lead) for part in parts)
            ),
        )

    def others(self, lead: TrackParts) -> Pool | None:
        """The solos of no target for whose source the lead has no part."""
        if any(lead is mixed for mixed in self.mixed):  # it has all of them
            return None
        key = ("others", lead.parts)
        return self._pool(
            key,
            (
                (i, song.parts)
                for i, song in enumerate(self.songs)
                if song.is_other_solo and song.parts[0] not in lead.parts
            ),
        )

    def _pool(self, key: object, givers: Iterable[tuple[int, tuple[str, ...]]]) -> Pool | None:
        """The pool of the givers (number of the song, its parts), made once per key."""
        if key not in self.found:
            fitting = list(givers)
            numbers, weights = [i for i, _ in fitting], self.weights
            segments = {
                i: sum(len((self.songs[i].active or {}).get(part, ())) for part in parts) for i, parts in fitting
            }
            # a part that is nowhere active is drawn as it is: silence is a part of music
            if audible := [i for i in numbers if segments[i]]:
                numbers, weights = audible, weights * [segments.get(i, 0) for i in range(len(self.songs))]
            self.found[key] = Pool.of(numbers, weights) if numbers else None
        return self.found[key]

    def reached(self) -> set[int]:
        """The tracks of which some example reads something."""
        return {int(i) for lead in self.all_leads() for pool in self._pools_of(lead) for i in pool.songs}

    def _pools_of(self, lead: TrackParts) -> Iterator[Pool]:
        for part in lead.parts:
            yield self.part(part, lead)
        added = [self.target(target, lead) for target in lead.target_parts] if self.spec.add_targets else []
        others = [self.others(lead)] if self.spec.add_others else []
        yield from (pool for pool in (*added, *others) if pool is not None)
