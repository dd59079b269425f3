"""The weights that a run keeps: those of its best validation."""

from collections.abc import Mapping

from ..recipe import Recipe
from ..runs.folder import RunFolder, save_head, save_weights
from .description import Description
from .learner import Learner
from .state import Progress


class Best:
    """Keeps the best weights so far; separately for each head if the heads share no trained weight."""

    def __init__(self, recipe: Recipe, run: RunFolder, learner: Learner, description: Description, writes: bool):
        self.recipe, self.run, self.learner = recipe, run, learner
        self.description, self.writes = description, writes

    def keep(self, progress: Progress, scores: Mapping[str, float]) -> None:
        """Save the weights that are better than before; without scores, the latest weights."""
        mean = scores.get("validation/usdr")
        better_mean = improved = is_better(mean, progress.best_usdr)
        if self.recipe.trains_heads_alone:
            values = {name: scores.get(f"validation/{name}/usdr") for name in self.recipe.targets}
            better = {name: value for name, value in values.items() if is_better(value, progress.best_of.get(name))}
            for name, value in better.items():
                if self.writes:
                    facts = self.description.head_facts(progress.step, value)
                    save_head(self.run.head(name), self.learner.model, name, trained=facts)
            progress.best_of |= {name: value for name, value in better.items() if value is not None}
            improved = bool(better)
        elif better_mean and self.writes:
            save_weights(self.run, self.learner.model, trained=self.description.head_facts(progress.step, mean))
        if better_mean:
            progress.best_usdr, progress.best_step = mean, progress.step
        progress.looks_without_better = 0 if improved else progress.looks_without_better + 1


def is_better(value: float | None, best: float | None) -> bool:
    """Whether a score is the best so far; a missing score counts as better, so that the latest weights are kept."""
    return value is None or best is None or value > best
