"""Which tracks can stand where in a training mixture.

A song leads: its parts make the mixture. Each part comes from the pool of all tracks that can give it. A solo, a track
that is one stem alone, joins these pools; a solo of a target is added to songs that are known not to hold the target; a
solo of no target is added to songs that have no such part. Without any song the solos are mixed to each other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..recipe import DataSpec
from .names import MIXTURE, MUSDB_STEMS, NO_VOICE, REST, belongs_to, is_catch_all, related, slug
from .tracks import Track, read_stem

Active = Mapping[tuple[int, str], np.ndarray]


@dataclass(frozen=True)
class Song:
    """A track and the parts it can give, whose sum is a mixture and of which no two hold the same."""

    track: Track
    parts: tuple[str, ...]  # stems, and REST: what the mixture holds beside them
    sums: Mapping[str, tuple[str, ...]]  # each target that it has → the parts whose sum that is; none: it is silent
    beside: tuple[str, ...] = ()  # the stems that REST leaves out
    counts: Mapping[str, float] = field(default_factory=dict)  # stem → how much it counts, where not 1
    lacks: frozenset[str] = frozenset()  # the sources that it is known not to hold
    made_of: Mapping[str, frozenset[str]] = field(default_factory=dict)  # target that is a sum → its stems anywhere

    @property
    def is_solo(self) -> bool:
        """Whether it is one stem and nothing else."""
        return len(self.parts) == 1 and self.parts[0] != REST

    @property
    def is_named_solo(self) -> bool:
        """Whether it is one stem whose name says what it holds, and nothing else."""
        return self.is_solo and not is_catch_all(self.parts[0])

    @property
    def is_other_solo(self) -> bool:
        """Whether it is one stem with a name of its own that no target holds."""
        return self.is_named_solo and not any(self.sums.values())

    def read(self, part: str, start: int = 0, n_samples: int | None = None) -> Tensor:
        """Float (channels, samples) of a part at the track's own rate."""
        return read_part(self.track, part, self.beside, start, n_samples)


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
    return (set(lead.parts) - {part, REST}) | others <= set(song.parts) | song.sums.keys() | song.lacks


def holding_targets(parts: Sequence[str], target: str, lead: Song) -> list[str]:
    """The other targets of a mixture that are sums which hold these parts of a target."""
    return [name for name in lead.sums if name != target and lead.made_of.get(name, frozenset()) & {target, *parts}]


def joined_targets(name: str, lead: Song) -> list[str]:
    """The targets of a mixture to which a source that the lead has no part for belongs: those that take up the rest."""
    own = [part for part in lead.parts if not is_catch_all(part)]
    if len(lead.parts) == 1 and slug(lead.parts[0]) not in NO_VOICE:
        own = [*own, *MUSDB_STEMS[:3]]  # what a solo of `other` leaves out
    if any(related(name, part) for part in own):
        return []
    return [
        target
        for target, parts in lead.sums.items()
        if any(is_catch_all(stem) and belongs_to(name, stem) for stem in (target, *parts))
    ]


def related_target(name: str, targets: Sequence[str], spec: DataSpec) -> str | None:
    """The target that a stem of another name may be a part of."""
    for target in targets:
        if any(related(name, stem) and not is_catch_all(stem) for stem in (target, *spec.stems_of(target))):
            return target
    return None


# --- leads ------------------------------------------------------------------------------------------------------------


def find_leads(songs: Sequence[Song]) -> list[int]:
    """The songs whose parts make mixtures: all but solos, and solos of a catch-all that stand in no other song.

    A mixture in which all targets are known to be silent leads too: it is all rest.
    """
    leads = [i for i, song in enumerate(songs) if song.sums and song.parts and not song.is_solo]
    if not leads:
        return []
    kinds = list({kind_of_lead(songs[i]): songs[i] for i in leads}.values())
    return leads + [
        i
        for i, song in enumerate(songs)
        if song.is_solo
        and not song.is_named_solo
        and any(not parts for parts in song.sums.values())
        and not any(can_give(song, song.parts[0], lead) for lead in kinds)
    ]


def kind_of_lead(lead: Song) -> tuple[object, ...]:
    """Leads of one kind can take the same parts from the same tracks."""
    return lead.parts, tuple(lead.sums.items()), tuple(sorted(lead.track.files)), lead.lacks


def mixed_solos(songs: Sequence[Song]) -> list[tuple[Song, float]]:
    """The mixtures that solos make with each other, and their weights: every name of its own, and one catch-all."""
    named = tuple(dict.fromkeys(s.parts[0] for s in songs if s.is_named_solo))
    wanted = {part for song in songs for parts in song.sums.values() for part in parts}
    unnamed = {s.parts[0]: s for s in songs if s.is_solo and not s.is_named_solo}
    found: list[tuple[Song, float]] = []
    for name, solo in unnamed.items():
        mates = tuple(n for n in named if n in solo.lacks or n in solo.sums or n not in wanted)
        if mates:
            found.append((_mixed((*mates, name), songs, solo), sum(s.track.weight for s in songs if name in s.parts)))
    left = set(named) - {part for lead, _ in found for part in lead.parts}
    if left & wanted and len(named) > 1:
        found.append((_mixed(named, songs), sum(s.track.weight for s in songs if left & set(s.parts))))
    return found


def _mixed(parts: tuple[str, ...], songs: Sequence[Song], solo: Song | None = None) -> Song:
    sums: dict[str, tuple[str, ...]] = dict(solo.sums) if solo else {}
    for song in songs:
        for target, summed in song.sums.items():
            if summed and set(summed) <= set(parts):
                sums[target] = tuple(dict.fromkeys((*sums.get(target, ()), *summed)))
    lead = Song(songs[0].track, parts, sums, lacks=solo.lacks if solo else frozenset(), made_of=songs[0].made_of)
    if solo is None:
        return lead
    whole = replace(lead, parts=(solo.parts[0],))
    for part in parts[:-1]:
        if not any(part in summed for summed in sums.values()):
            for target in joined_targets(part, whole):
                sums[target] = (*sums[target], part)
    return replace(lead, sums=sums)


# --- pools ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """Songs that can be drawn for a purpose, and their odds."""

    songs: np.ndarray
    odds: np.ndarray | None  # cumulated; None: all alike
    weight: float = 0.0  # of all

    @classmethod
    def of(cls, songs: Sequence[int], weights: np.ndarray) -> "Pool":
        mine = weights[list(songs)]
        alike = len(set(mine.tolist())) == 1
        return cls(np.asarray(songs), None if alike else np.cumsum(mine) / mine.sum(), float(mine.sum()))

    def draw(self, random: np.random.Generator) -> int:
        if self.odds is None:
            return int(self.songs[random.integers(len(self.songs))])
        return int(self.songs[np.searchsorted(self.odds, random.random(), side="right").clip(max=len(self.songs) - 1)])


class Pools:
    """The leads of a training set, and for each lead the tracks that can give a part or be added; found once each."""

    def __init__(self, songs: Sequence[Song], active: Active | None, spec: DataSpec):
        self.songs, self.active, self.spec = songs, active, spec
        self.weights = np.array([song.track.weight for song in songs])
        leads = find_leads(songs)
        self.leads = Pool.of(leads, self.weights) if leads else None
        mixed = [] if leads else mixed_solos(songs)
        self.mixed = [lead for lead, _ in mixed]  # of solos: each part comes from another track
        self.mixed_leads = Pool.of(range(len(mixed)), np.array([weight for _, weight in mixed])) if mixed else None
        self.found: dict[object, Pool | None] = {}
        self.kinds: dict[int, tuple[object, ...]] = {}

    def all_leads(self) -> list[Song]:
        """One lead of each kind."""
        leads = self.mixed if self.leads is None else [self.songs[i] for i in self.leads.songs]
        return list({kind_of_lead(lead): lead for lead in leads}.values())

    def kind(self, lead: Song) -> tuple[object, ...]:
        if id(lead) not in self.kinds:
            self.kinds[id(lead)] = kind_of_lead(lead)
        return self.kinds[id(lead)]

    def part(self, part: str, lead: Song) -> Pool:
        """The tracks that can give this part to a mixture made of the lead's parts."""
        key = (part, self.kind(lead)) if is_catch_all(part) else part
        pool = self._pool(key, ((i, (part,)) for i, song in enumerate(self.songs) if can_give(song, part, lead)))
        assert pool is not None  # the lead itself
        return pool

    def solos(self, part: str, lead: Song) -> Pool | None:
        """Those of them that are this part alone."""
        key = ("solo", part, self.kind(lead))
        return self._pool(
            key, ((i, (part,)) for i, s in enumerate(self.songs) if s.parts == (part,) and can_give(s, part, lead))
        )

    def target(self, target: str, lead: Song) -> Pool | None:
        """The tracks whose target can be added to a lead that is known not to hold it; None: it holds it, or none."""
        if lead.sums.get(target, (target,)):
            return None
        key = ("target", target, self.kind(lead))
        return self._pool(
            key,
            (
                (i, parts)
                for i, song in enumerate(self.songs)
                if (parts := song.sums.get(target, ()))
                and REST not in parts
                and not set(parts) & set(lead.parts)
                and all(can_give(song, part, lead) for part in parts)
            ),
        )

    def others(self, lead: Song) -> Pool | None:
        """The solos of no target whose source the lead has no part for."""
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
        """The pool of the givers (number of the song, its parts), which are looked at once."""
        if key not in self.found:
            fitting = list(givers)
            numbers, weights, active = [i for i, _ in fitting], self.weights, self.active
            if active is not None:
                # a part that is nowhere active is drawn as it is: silence is a part of music
                segments = {i: sum(len(active.get((i, part), ())) for part in parts) for i, parts in fitting}
                if heard := [i for i in numbers if segments[i]]:
                    numbers, weights = heard, weights * [segments.get(i, 0) for i in range(len(self.songs))]
            self.found[key] = Pool.of(numbers, weights) if numbers else None
        return self.found[key]

    def reached(self) -> set[int]:
        """The tracks of which some example reads something."""
        return {int(i) for lead in self.all_leads() for pool in self._pools_of(lead) for i in pool.songs}

    def _pools_of(self, lead: Song) -> Iterator[Pool]:
        for part in lead.parts:
            yield self.part(part, lead)
        added = [self.target(target, lead) for target in lead.sums] if self.spec.add_targets else []
        others = [self.others(lead)] if self.spec.add_others else []
        yield from (pool for pool in (*added, *others) if pool is not None)
