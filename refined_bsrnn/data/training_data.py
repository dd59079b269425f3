"""The data of a run: training and validation tracks, listed, split and checked."""

from dataclasses import dataclass
from typing import Any

from ..recipe import Recipe
from .check.checker import opening, read_all
from .recordings import IMPULSE, impulse_recordings, impulse_response, noise_recordings, notes_on_recordings
from .scan import scan
from .sources import Sources
from .splits import split_tracks, use_part
from .tracks import Track, fingerprint, last_written, table_of
from .training_parts import TrainingParts, make_parts


@dataclass(frozen=True)
class TrainingData:
    """The training and validation tracks of a run."""

    sources: Sources
    table: Any  # the datasets table of all tracks
    parts: TrainingParts
    validation: list[Track]
    recordings: list[Track]  # the user's own, that augmentation uses
    opening: list[str]  # sentences to print before the first step

    def describe(self) -> dict[str, Any]:
        """For provenance.json."""
        return {
            "name": self.sources.name,
            "root": self.sources.where,
            "builtin": self.sources.is_builtin,
            "fingerprint": fingerprint([*self.parts.tracks, *self.validation, *self.recordings]),
            "written": last_written([*self.parts.tracks, *self.validation, *self.recordings]),
            "parts": list(self.parts.names),
            "train_tracks": [t.name for t in self.parts.tracks],
            "validation_tracks": [t.name for t in self.validation],
            "train_seconds": round(sum(t.seconds for t in self.parts.tracks), 1),
        }


def training_data(recipe: Recipe) -> TrainingData:
    """All data of a training, listed, split and checked; never the test split."""
    found = scan(recipe.data, ("train", "valid"))
    tracks = found.usable()
    divided = split_tracks(tracks, recipe.targets, recipe.data)
    rooms = impulse_recordings(recipe.augment)
    for room in rooms:  # a silent one is refused now, not in a worker
        impulse_response(room.path(IMPULSE), recipe.stft.sample_rate_hz)
    recordings = [*noise_recordings(recipe.augment), *rooms]
    used = use_part(divided.train, recipe.targets, recipe.data, recipe.train.seed)
    if recipe.data.check and not found.sources.is_builtin:
        read_all([*used, *divided.kept, *recordings])
    parts = make_parts(used, recipe.targets, recipe.data, {stem for track in divided.train for stem in track.stems})
    opened = [
        *opening(recipe, found, parts.tracks, divided),
        *divided.solos.notes,
        *notes_on_recordings(recipe.augment),
    ]
    validation = divided.validated(recipe.targets)
    return TrainingData(found.sources, table_of(tracks), parts, validation, recordings, opened)
