"""Plans of training examples: their excerpts and settings, drawn from the seed and the example's number without reading
audio.

    print(mixes.plan(3))    song-3 at 41.2 s (vocals) + song-7 at 12.0 s (drums, bass); vocals = vocals; ...

`render` makes the audio of a plan.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..recipe import AugmentSpec, DataSpec, Recipe
from .activity import SEGMENT_SECONDS
from .augment import AUGMENTATIONS, Streams, is_on, music_taken
from .names import REST, is_catch_all
from .parts import TrackParts
from .pools import Pools, holding_targets, joined_targets
from .recordings import NOISE, noise_recordings
from .tracks import Track
from .training_parts import TrainingParts

IN_PLACE = 0.5  # of the added solos of no target replace `other`, the rest are added to it
Settings = dict[str, Any]  # augmentation → what was drawn


@dataclass(frozen=True)
class Format:
    """The shape of an example."""

    length: int  # samples
    sample_rate_hz: int
    channels: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Format":
        rate_hz = recipe.stft.sample_rate_hz
        return cls(round(recipe.train.chunk_seconds * rate_hz), rate_hz, recipe.data.channels)

    def file_length(self, track: Track, settings: Settings) -> int:
        """Samples of a track's file that make an excerpt."""
        length = self.length if not settings else math.ceil(self.length * music_taken(settings))
        return -(-length * track.sample_rate_hz // self.sample_rate_hz)


@dataclass(frozen=True)
class Excerpt:
    """The parts that an example takes from one place of one track."""

    song: TrackParts
    start: int  # in samples of the file
    settings: Settings  # augmentations of all its parts together
    parts: Mapping[str, Settings]  # part → its augmentations
    silent: frozenset[str] = frozenset()  # the parts that this example is without

    def __str__(self) -> str:
        names = [f"{part} (silent)" if part in self.silent else part for part in self.parts]
        return f"{self.song.track.name} at {self.start / self.song.track.sample_rate_hz:.1f} s ({', '.join(names)})"


@dataclass(frozen=True)
class ExamplePlan:
    """The complete plan of one example."""

    excerpts: tuple[Excerpt, ...]
    target_parts: Mapping[str, tuple[str, ...]]  # every target → the parts whose sum it is
    label_weights: Mapping[str, float]  # every target → how much the example counts for it; 0: it is not known
    noise: Excerpt | None = None  # added to the mixture, to no target
    noise_db: float = 0.0  # its level against the mixture

    def __str__(self) -> str:
        noise = [f"noise {self.noise} at {self.noise_db:.1f} dB"] if self.noise else []
        targets = [
            f"{target} = {' + '.join(self.target_parts[target]) or 'silence'}" if weight else f"{target}: not known"
            for target, weight in self.label_weights.items()
        ]
        return "; ".join([" + ".join([*map(str, self.excerpts), *noise]), *targets])


@dataclass(frozen=True, eq=False)
class Place:
    """A song and the place where an excerpt begins; parts that share this object come from the same place."""

    song: int
    start: int  # in samples of the file
    settings: Settings


class Planner:
    """Draws plans; a plan is a function of the seed and the example's number alone."""

    def __init__(self, parts: TrainingParts, recipe: Recipe):
        self.parts, self.targets, self.seed = parts, recipe.targets, recipe.train.seed
        self.data: DataSpec = recipe.data
        self.augment: AugmentSpec = recipe.augment
        self.format = Format.of(recipe)
        self.pools = Pools(parts.songs, recipe.data)
        self.noise = noise_recordings(recipe.augment)

    def plan(self, index: int) -> ExamplePlan:
        streams = Streams(self.seed, index)
        common = self._draw("mixture", streams)
        lead, places = self._draw_places(streams, "remix" in common)
        silent = _silent_parts(lead, common)
        own = {part: self._draw("part", streams) for part in places}
        silent |= {part for part, settings in own.items() if "drop" in settings}
        excerpts = tuple(
            Excerpt(
                self.parts.songs[place.song],
                place.start,
                place.settings,
                {part: {**common, **own[part]} for part in places if places[part] is place},
                frozenset(part for part in silent if places.get(part) is place),
            )
            for place in dict.fromkeys(places.values())
        )
        sums = {target: lead.target_parts.get(target, ()) for target in self.targets}
        weights = {target: self._label_weight(lead, target, places) for target in self.targets}
        noise, noise_db = self._draw_noise(common)
        return ExamplePlan(excerpts, sums, weights, noise, noise_db)

    def _draw(self, shared_by: str, streams: Streams) -> Settings:
        """The settings of the augmentations that have this kind of sharing and are applied this time."""
        drawn = {
            name: augmentation.draw(self.augment, streams[name])
            for name, augmentation in AUGMENTATIONS.items()
            if augmentation.shared_by == shared_by and is_on(self.augment, name)
        }
        return {name: setting for name, setting in drawn.items() if setting is not None}

    def _draw_places(self, streams: Streams, remixed: bool) -> tuple[TrackParts, dict[str, Place]]:
        """The song whose parts make the mixture, the solos added to it, and the place of each part."""
        random, pools = streams["songs"], self.pools
        if pools.leads is None:
            assert pools.mixed_leads is not None
            lead, number = pools.mixed[pools.mixed_leads.draw(random)], None
        else:
            number = pools.leads.draw(random)
            lead = self.parts.songs[number]
        if remixed or number is None:
            places = {
                part: self._draw_place(pools.part(part, lead).draw(random), (part,), streams) for part in lead.parts
            }
        else:
            audible = [part for parts in lead.target_parts.values() for part in parts]
            places = dict.fromkeys(lead.parts, self._draw_place(number, audible, streams))
            self._replace_by_solos(lead, places, streams)
        sums = self._add_targets(lead, places, streams)
        self._add_other(lead, places, sums, streams)
        return replace(lead, parts=tuple(places), target_parts=sums), places

    def _replace_by_solos(self, lead: TrackParts, places: dict[str, Place], streams: Streams) -> None:
        """Replace the song's own stems by solos as often as a remix would, because no song combines a solo with
        anything.
        """
        random = streams["solos"]
        for part in lead.parts:
            solos = None if lead.parts == (part,) else self.pools.solos(part, lead)
            if solos is not None and random.random() * self.pools.part(part, lead).weight < solos.weight:
                places[part] = self._draw_place(solos.draw(random), (part,), streams)

    def _add_targets(self, lead: TrackParts, places: dict[str, Place], streams: Streams) -> dict[str, tuple[str, ...]]:
        """Add places for targets that the lead is known not to contain; returns the parts of every target."""
        random, sums = streams["solos"], dict(lead.target_parts)
        for target in lead.target_parts:
            pool = self.pools.target(target, lead)
            if pool is not None and random.random() < self.data.add_targets:
                number = pool.draw(random)
                added = self.parts.songs[number].target_parts[target]
                for name in (target, *holding_targets(added, target, lead)):
                    sums[name] = (*sums[name], *added)
                places |= dict.fromkeys(added, self._draw_place(number, added, streams))
        return sums

    def _add_other(
        self, lead: TrackParts, places: dict[str, Place], sums: dict[str, tuple[str, ...]], streams: Streams
    ) -> None:
        """Add a solo of no target to the places, or replace `other` by it."""
        random, others = streams["solos"], self.pools.others(lead)
        if others is None or random.random() >= self.data.add_others:
            return
        number = others.draw(random)
        name = self.parts.songs[number].parts[0]
        if random.random() < IN_PLACE and len(lead.parts) > 1:
            for part in [part for part in places if is_catch_all(part) and part != REST]:
                del places[part]
            sums |= {target: tuple(part for part in parts if part in places) for target, parts in sums.items()}
        places[name] = self._draw_place(number, (name,), streams)
        for target in joined_targets(name, lead):
            sums[target] = (*sums[target], name)

    def _draw_place(self, number: int, wanted: Sequence[str], streams: Streams) -> Place:
        """A random place of a song; with ``data.excerpts=active``, a place where one of the wanted parts is active."""
        song, random = self.parts.songs[number], streams["places"]
        settings = self._draw("song", streams)
        needed = self.format.file_length(song.track, settings)
        first, last = 0, max(0, song.track.n_samples - needed)
        active = song.active or {}
        segments = [active[part] for part in wanted if part in active]
        if segments:
            starts = segments[random.integers(len(segments))]
            first = min(last, int(starts[random.integers(len(starts))]))
            within = round(SEGMENT_SECONDS * song.track.sample_rate_hz) - needed
            last = min(last, first + max(0, within))
        return Place(number, int(random.integers(first, last + 1)), settings)

    def _draw_noise(self, common: Settings) -> tuple[Excerpt | None, float]:
        """One of the user's noise recordings, from a random place, and its level in dB."""
        if "noise" not in common or not self.noise:
            return None, 0.0
        level_db, which, where = common["noise"]
        track = self.noise[int(which * len(self.noise))]
        last = max(0, track.n_samples - self.format.file_length(track, {}))
        song = TrackParts(track, (NOISE,), {})
        return Excerpt(song, round(where * last), {}, {NOISE: common}), level_db

    def _label_weight(self, lead: TrackParts, target: str, places: Mapping[str, Place]) -> float:
        """The weight of the example for a target: 0 if the lead does not have it as a separate stem."""
        if target not in lead.target_parts:
            return 0.0
        given = [(self.parts.songs[places[part].song].label_weights, part) for part in lead.target_parts[target]]
        return min([1.0, *(min(weights.get(part, 1.0), weights.get(target, 1.0)) for weights, part in given)])


def _silent_parts(lead: TrackParts, common: Settings) -> set[str]:
    """The parts of the target that is silent in this example (``augment.silent_target``)."""
    if "silent_target" not in common:
        return set()
    audible = [parts for parts in lead.target_parts.values() if parts]
    return set(audible[int(common["silent_target"] * len(audible))]) if audible else set()
