"""Adam with the recipe's additions: a learning rate per step, clipping, averaged weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..recipe import Recipe, TrainSpec
from ..runs.folder import check_tensors


def lr_at(step: int, train: TrainSpec) -> float:
    """The learning rate of optimiser step ``step`` (from 0): linear warm-up times decay."""
    warm = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    if train.decay == "cosine":
        return train.lr * warm * 0.5 * (1.0 + math.cos(math.pi * step / train.steps))
    if train.decay == "exponential":
        return train.lr * warm * train.decay_rate ** (step // train.decay_every)
    return train.lr * warm


def has_fused_adam(device: torch.device) -> bool:
    """Whether Adam has one kernel for all weights on this device: on a CPU it takes a fifth of the time."""
    return device.type in ("cpu", "cuda")


def make_adam(trained: Mapping[str, nn.Parameter], lr: float, device: torch.device) -> torch.optim.Adam:
    return torch.optim.Adam(trained.values(), lr=lr, fused=has_fused_adam(device))


def clip(trained: Mapping[str, nn.Parameter], recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Clip the gradient of weights that are trained together.

    Returns the norm of the whole gradient, and the norm for every weight by its name, both before clipping.

    Heads on a frozen backbone share no weight. Each is clipped separately, so it is trained as it would be alone.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, p in trained.items():
        if p.grad is not None:
            groups.setdefault(name.split(".")[1] if recipe.trains_heads_alone else "", {})[name] = p
    totals, of = [], dict[str, Tensor]()
    for group in groups.values():
        norms = torch._foreach_norm([p.grad for p in group.values() if p.grad is not None], 2.0)
        totals.append(torch.stack(norms).norm())
        nn.utils.clip_grads_with_norm_(group.values(), recipe.train.clip_norm, totals[-1])
        of |= dict(zip(group, norms, strict=True))
    return torch.stack(totals).norm(), of


class Average:
    """The moving average of the weights with the factor ``decay``; with decay 0 there is none."""

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float):
        self.trained, self.decay = trained, decay
        self.weights = {name: p.detach().clone() for name, p in trained.items()} if decay else {}

    def update(self) -> None:
        """After every step: average = decay · average + (1 − decay) · weight."""
        if self.weights:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.weights.values()), list(self.trained.values()), 1.0 - self.decay)

    def swap_in(self) -> dict[str, Tensor]:
        """Give the model the averaged weights; returns its current ones."""
        current = {name: self.trained[name].detach().clone() for name in self.weights}
        copy_into(self.trained, self.weights)
        return current


def copy_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def load_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors to those of the same names; a missing, extra or misshapen one is a `CheckpointError`."""
    check_tensors(own, tensors, where)
    copy_into(own, tensors)


def moments_of(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's tensors by ``<weight>/<name>``."""
    return {f"{name}/{key}": value for name, p in trained.items() for key, value in optimizer.state[p].items()}


def set_moments(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]
) -> None:
    """The inverse of `moments_of`."""
    for name, p in trained.items():
        own = {key.rpartition("/")[2]: value for key, value in moments.items() if key.rpartition("/")[0] == name}
        # Moments live on the device of their weight; so does the count of steps, if one kernel updates all weights.
        device = p.device if has_fused_adam(p.device) else torch.device("cpu")
        optimizer.state[p] = {k: v.to(device if k == "step" else p.device) for k, v in own.items()}
