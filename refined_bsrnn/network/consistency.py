"""What ties the estimates of all targets together, so that they sum to the mixture: `TOGETHER`, by name.

Each works on the spectrograms of all targets of a recipe at once; an iSTFT is linear, so the waveforms sum to the
mixture too. The targets must be all that the mixture is made of.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Spectrograms = dict[str, Tensor]  # by target, complex (B, C, F, T)


def consistent(masked: Mapping[str, Tensor], mixture: Tensor, targets: Sequence[str]) -> Spectrograms:
    """What is missing from the mixture is shared out evenly over the targets.

    The same as subtracting (Σ − 1) / J from the real parts of the J masks and Σ / J from the imaginary ones
    (TS-BSMamba2). It costs no parameters.
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
