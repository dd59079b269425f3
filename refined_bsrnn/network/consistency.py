"""Ties between the estimates of all targets that make them sum to the mixture: `TOGETHER`, by name.

Each function takes the spectrograms of all targets of a recipe at once. An iSTFT is linear, so the waveforms sum to the
mixture too. The targets together must be the whole mixture.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Spectrograms = dict[str, Tensor]  # by target, complex (B, C, F, T)


def consistent(masked: Mapping[str, Tensor], mixture: Tensor, targets: Sequence[str]) -> Spectrograms:
    """Divides the difference between the mixture and the sum of the estimates evenly among the targets.

    This equals subtracting (Σ − 1) / J from the real parts of the J masks and Σ / J from the imaginary parts
    (TS-BSMamba2). It has no parameters.
    """
    missing = (mixture - torch.stack([masked[name] for name in targets]).sum(0)) / len(targets)  # (B, C, F, T)
    return {name: masked[name] + missing for name in targets}


def subtract_last(masked: Mapping[str, Tensor], mixture: Tensor, targets: Sequence[str]) -> Spectrograms:
    """The last target is the mixture minus all others, and has no head (SIMO-BSRNN's ``subtract_last_trgt``)."""
    *others, last = targets
    rest = mixture - torch.stack([masked[name] for name in others]).sum(0)  # (B, C, F, T)
    return {**{name: masked[name] for name in others}, last: rest}


TOGETHER: dict[str, Callable[[Mapping[str, Tensor], Tensor, Sequence[str]], Spectrograms]] = {
    "consistent": consistent,
    "subtract_last": subtract_last,
}
