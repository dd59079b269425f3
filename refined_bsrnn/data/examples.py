"""Training examples by number: each is planned (`plan`) and then rendered (`render`).

An example is a pure function of the seed and its number. It is the same for any number of workers or processes, and a
resumed run continues with the next one.
"""

from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ..recipe import Recipe
from .names import MIXTURE, REST
from .plan import ExamplePlan, Planner
from .render import render
from .training_parts import TrainingParts


class RandomMixes(Dataset):
    """Training examples ``{"mixture": (C, L), "stems": (targets, C, L), "present": (targets,)}`` by index.

    A song is drawn according to its weight; its parts make up the mixture. In the share ``augment.remix`` of the
    mixtures each part comes from a random place of a random song that has it; in the others all parts come from one
    place of this song. They are augmented and summed, so mixture and stems always agree. A target that the song does
    not have as a separate stem is not ``present``, because the mixture may contain it.
    """

    def __init__(self, parts: TrainingParts, recipe: Recipe, n_examples: int):
        self.parts, self.n_examples = parts, n_examples
        self.planner = Planner(parts, recipe)
        self.pools = self.planner.pools

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return render(self.plan(index), self.planner.format)

    def plan(self, index: int) -> ExamplePlan:
        """The plan of an example; ``print`` shows it."""
        return self.planner.plan(index)

    def reads(self, index: int) -> list[tuple[Path, int, int]]:
        """(file, first sample, samples) of everything that an example reads without augmentation; for measurements."""
        found = []
        for excerpt in self.plan(index).excerpts:
            song = excerpt.song
            length = min(self.planner.format.file_length(song.track, {}), song.track.n_samples - excerpt.start)
            for part in excerpt.parts:
                for stem in (MIXTURE, *song.subtracted) if part == REST else (part,):
                    found += [(path, excerpt.start, length) for path in song.track.paths(stem)]
        return found
