"""The split into training tracks and held-out tracks."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ..errors import DataError, fits
from ..recipe import DataSpec, Recipe
from .scan import Scan, scan
from .solo_validation import SoloValidation, solo_validation
from .sources import check_patterns
from .tracks import Track, by_hash

# The official validation tracks of MUSDB18 (the musdb package's configuration), held out of its train folder.
MUSDB_VALIDATION_TRACKS = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


@dataclass(frozen=True)
class Split:
    """The tracks of a recipe, divided into those trained on and those held out."""

    train: list[Track]
    validation: list[Track]
    solos: SoloValidation  # further held-out tracks, of targets that no song has

    @property
    def held_out(self) -> list[Track]:
        """The tracks for validation: whole tracks, and mixtures with held-out solos."""
        return [*self.validation, *self.solos.mixtures]

    @property
    def kept(self) -> list[Track]:
        """The same as they are on the disk: whole tracks, and solos."""
        return [*self.validation, *self.solos.held_out]

    def validated(self, targets: Sequence[str]) -> list[Track]:
        """The tracks for validation that have one of these targets."""
        return [track for track in self.held_out if set(targets) & set(track.stems)]


def split_tracks(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> Split:
    """Divide the tracks of the splits ``train`` and ``valid`` as a recipe says; see `split_validation`."""
    train, validation = split_validation(tracks, spec)
    solos = solo_validation(tracks, validation, targets, spec)
    kept = {(t.split, t.name) for t in solos.held_out}
    alone = bool(solos.mixtures) and all(t.is_solo for t in tracks)
    songs = [] if alone else validation  # a stem alone is nothing to separate
    return Split([t for t in train if (t.split, t.name) not in kept], songs, solos)


def scan_split(recipe: Recipe, split: str, other_root: str | None = None) -> Scan:
    """The tracks of one split: ``test`` as it is on the disk, ``train`` and ``valid`` as a run divides them.

    ``train`` contains the tracks that the run trains on (`use_part`). ``other_root`` replaces the recipe's data; names
    and patterns of the recipe that match none of its tracks are ignored. The last note says which tracks they are.
    Raises `DataError` if there is no such track.
    """
    spec = recipe.data if other_root is None else replace(recipe.data, root=other_root, sources=())
    if split == "test":
        return scan(spec, ("test",))
    found = scan(spec, ("train", "valid"))
    tracks = found.usable()
    if not any(t.split == "train" for t in tracks):  # a folder with the split `valid` alone
        chosen = tracks if split == "valid" else []
        note = f"{split}: {len(chosen)} tracks; there is no split to train on."
        return replace(found, tracks=chosen, notes=[*found.notes, note])
    spec = spec if other_root is None else _without_idle_patterns(spec, tracks)
    divided = split_tracks(tracks, recipe.targets, spec)
    used = use_part(divided.train, recipe.targets, spec, recipe.train.seed)
    chosen = divided.held_out if split == "valid" else used
    if not chosen:
        raise DataError(
            f"the recipe keeps none of {len(tracks)} tracks for validation; data.validation_tracks or "
            "data.validation_share do."
        )
    what = "keeps for validation" if split == "valid" else "trains on"
    note = f"{split}: the {len(chosen)} of {len(tracks)} tracks that the run {what}."
    return replace(found, tracks=chosen, notes=[*found.notes, note])


def _without_idle_patterns(spec: DataSpec, tracks: Sequence[Track]) -> DataSpec:
    """The section without names and patterns that match none of these tracks, for data that are not the recipe's."""
    names = [track.name for track in tracks]
    kept = tuple(p for p in spec.validation_tracks if any(fits(name, [p]) for name in names))
    weights = {p: w for p, w in spec.track_weights.items() if any(fits(name, [p]) for name in names)}
    return replace(spec, validation_tracks=kept, track_weights=weights)


def split_validation(tracks: Sequence[Track], spec: DataSpec) -> tuple[list[Track], list[Track]]:
    """Training and validation tracks: by the recipe's names, MUSDB18's official ones, `valid/`, or a hash of names.

    Solos are validation tracks if they are named, or if there is nothing else.
    """
    if not any(t.split == "train" for t in tracks):
        raise DataError("there is no track to train on: none is in a folder train/, or of that split in a table.")
    if spec.validation_tracks:
        check_patterns("data.validation_tracks", spec.validation_tracks, [t.name for t in tracks])
        validation = [t for t in tracks if fits(t.name, spec.validation_tracks)]
    elif any(t.split == "valid" for t in tracks):
        validation = [t for t in tracks if t.split == "valid"]
        validation = [t for t in validation if not t.is_solo] or validation
    else:
        songs = [t for t in tracks if not t.is_solo] or tracks
        chosen = {t.name for t in songs if t.name in MUSDB_VALIDATION_TRACKS} or {
            t.name for t in by_hash(songs)[: round(spec.validation_share * len(songs))]
        }
        validation = [t for t in tracks if t.name in chosen]
    kept = {(t.split, t.name) for t in validation}
    train = [t for t in tracks if t.split == "train" and (t.split, t.name) not in kept]
    train = _weighted(train, spec, [t.name for t in tracks])
    if not train:
        raise DataError(f"all {len(tracks)} tracks are kept for validation; none is left to train on.")
    return train, validation


def _weighted(train: Sequence[Track], spec: DataSpec, names: Sequence[str]) -> list[Track]:
    """The training tracks with the weights of the recipe; if several patterns fit a name, the last one counts."""
    check_patterns("data.track_weights", spec.track_weights, names)
    weighted = []
    for track in train:
        fitting = [weight for pattern, weight in spec.track_weights.items() if fits(track.name, [pattern])]
        weighted.append(replace(track, weight=track.weight * fitting[-1]) if fitting else track)
    return weighted


def use_part(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, seed: int) -> list[Track]:
    """The training tracks that a recipe asks for: all, or some of those that have a target, in an order set by the
    seed.

    If several of ``use_tracks``, ``use_minutes`` and ``use_fraction`` are set, the smallest choice counts; at least one
    track stays. With several targets, each has one song before any has a second. If no track has a target, all are
    returned, and `make_parts` lists the existing stems.
    """
    having = [t for t in tracks if set(targets) & set(t.stems)]
    others = [] if any(not t.is_solo for t in having) else [t for t in tracks if t not in having]  # solos need songs
    if not having or not (spec.use_tracks or spec.use_minutes or spec.use_fraction < 1):
        return list(tracks)
    order = _each_target_first(by_hash(having, f"{seed}\t"), targets)
    count = math.ceil(spec.use_fraction * len(order))
    if spec.use_tracks:
        count = min(count, spec.use_tracks)
    if spec.use_minutes:
        minutes = list(accumulate(t.seconds / 60 for t in order))
        count = min(count, bisect_left(minutes, spec.use_minutes) + 1)
    return sorted([*order[:count], *others], key=lambda t: t.name)


def _each_target_first(order: Sequence[Track], targets: Sequence[str]) -> list[Track]:
    """The same tracks, with the first track of each target moved to the front."""
    first: dict[str, Track] = {}
    for target in targets:
        if not any(target in track.stems for track in first.values()):
            first |= {track.name: track for track in [t for t in order if target in t.stems][:1]}
    return [*first.values(), *(track for track in order if track.name not in first)]
