"""One optimiser step: losses and gradients of its examples over all processes, then the weights."""

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ..recipe import Recipe
from ..system import signals_held
from .failures import NotFinite
from .loader import Batch
from .objective import Objective
from .optimiser import Average, clip, lr_at, make_adam


class Learner:
    """The trained weights and their optimiser. ``trained`` are the weights by name, ``average`` their moving
    average.
    """

    def __init__(self, recipe: Recipe, objective: Objective, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.model, self.loss = objective.model, objective.loss
        objective.to(accelerator.device).train()
        self.trained = objective.trained()
        self.average = Average(self.trained, recipe.train.ema)
        adam = make_adam(self.trained, recipe.train.lr, accelerator.device)
        self.objective, self.optimizer = accelerator.prepare(objective, adam)

    @property
    def n_trained(self) -> int:
        return sum(p.numel() for p in self.trained.values())

    def gradients(self, accumulated: Sequence[Batch], step: int, flag: bool) -> tuple[dict[str, float], bool]:
        """The gradients of step ``step`` (from 0), clipped; no weight changes.

        Returns the mean loss and its parts over all processes, and whether ``flag`` is true in any process. Raises
        `NotFinite` if one is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(step, self.recipe.train)
        sums: dict[str, Tensor] = {}
        totals = self._totals(accumulated)
        for batch in accumulated:
            with self.accelerator.accumulate(self.objective):
                known = batch.get("features")
                loss, parts = self.objective(batch["mixture"], batch["stems"], batch["present"], totals, known)
                with signals_held():
                    self.accelerator.backward(loss)
                for name, value in {"loss": loss.detach(), **parts}.items():
                    sums[name] = sums.get(name, 0.0) + value.float() / self.recipe.train.accumulate
        self.accelerator.unscale_gradients()
        norm, norms = clip(self.trained, self.recipe)
        flagged = torch.tensor(float(flag), device=self.accelerator.device)
        vector = torch.stack([*sums.values(), norm.detach().float(), flagged])
        *values, norm_value, any_flagged = self.accelerator.reduce(vector, "mean").tolist()
        means = dict(zip(sums, values, strict=True))
        self._check_finite(means, norm_value, norms, step)
        return self._of_present_targets(means, totals), any_flagged > 0

    def update(self) -> None:
        """Change the weights by means of the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    def _totals(self, accumulated: Sequence[Batch]) -> Tensor:
        """The total weight of this step's examples per target, per batch: the mean over its parts and processes."""
        local = torch.stack([self.loss.totals(batch["present"]) for batch in accumulated]).mean(0)
        return self.accelerator.reduce(local, "mean")

    def _of_present_targets(self, means: Mapping[str, float], totals: Tensor) -> dict[str, float]:
        """The losses without those of targets that no example of the step has."""
        absent = {name for name, total in zip([*self.recipe.targets, "all"], totals.tolist(), strict=True) if not total}
        return {name: value for name, value in means.items() if name.split("/")[0] not in absent}

    def _check_finite(self, means: Mapping[str, float], norm: float, norms: Mapping[str, Tensor], step: int) -> None:
        """Stop before a NaN reaches the weights. fp16 may overflow: there the gradient scaler skips such a step."""
        bad = [name for name, value in means.items() if not math.isfinite(value) and name != "loss"]
        if not bad and (math.isfinite(norm) or self.accelerator.mixed_precision == "fp16"):
            return
        parts = dict.fromkeys(_part_of(name) for name, own in norms.items() if not math.isfinite(own))
        what = f"the loss {', '.join(bad)}" if bad else f"the gradient of {', '.join(parts) or 'another process'}"
        raise NotFinite(
            f"{what} became NaN or infinite at step {step + 1}; no weight was changed by it. Use a lower train.lr or "
            "train.clip_norm, or train.precision=no (they may stand behind --resume RUN), or check the stems of that "
            "target."
        )


def _part_of(name: str) -> str:
    """The part of the network that a weight belongs to: ``head drums``, ``backbone``, ``adapters``, ``loss``."""
    words = name.removeprefix("model.").split(".")
    if words[0] == "heads":
        return f"head {words[1]}"
    return words[0] if words[0] in ("adapters", "loss") else "backbone"
