"""Normalising the mixture before the network: how its level is measured, by name.

Only what the backbone sees is normalised. The masks are applied to the mixture as it came, so that nothing has to be
undone afterwards: estimates have the mixture's own level and offset, and scale exactly with it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SILENT = 1e-10  # below this amplitude there is nothing to raise


class Level(NamedTuple):
    """What a mixture is normalised by, one value per item, shared by its channels and stems."""

    offset: Tensor  # (B, 1, 1), subtracted first
    gain: Tensor  # (B, 1, 1), multiplied by

    def apply(self, mixture: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        return (mixture - self.offset) * self.gain


def peak(mixture: Tensor) -> Level:
    """To a peak of 0.1 (sahandevs; the RMS normalisation that its code does before cancels out)."""
    highest = mixture.abs().amax((1, 2), keepdim=True)  # (B, C, L) → (B, 1, 1)
    return Level(torch.zeros_like(highest), _gain(0.1, highest))


def standardise(mixture: Tensor) -> Level:
    """To mean 0 and standard deviation 1 over channels and samples."""
    mean = mixture.mean((1, 2), keepdim=True)  # (B, C, L) → (B, 1, 1)
    deviation = (mixture - mean).square().mean((1, 2), keepdim=True).sqrt()  # (B, C, L) → (B, 1, 1)
    return Level(mean, _gain(1.0, deviation))


def _gain(wanted: float, found: Tensor) -> Tensor:
    """wanted / found; 1 for silence."""
    silent = found < SILENT
    return torch.where(silent, 1.0, wanted / found.masked_fill(silent, 1.0))


NORMALISERS: dict[str, Callable[[Tensor], Level]] = {"peak": peak, "standardise": standardise}
OF_WHOLE_TRACKS = {"peak"}  # measured once per track; the others on every excerpt or chunk
