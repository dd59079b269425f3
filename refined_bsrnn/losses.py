"""Loss terms by name, and their sum over targets.

A term compares an estimate with its stem, both as `Signal`, and gives one number. A new term is one function and one
line in `LOSSES`; the names are the keys of the recipe's ``loss:`` and of the log.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .recipe import LossSpec
from .stft import Signal
from .suggest import pick


def wave_l1(estimate: Signal, stem: Signal) -> Tensor:
    """Mean absolute error of the waveforms (BSRNN, section III-D, third term)."""
    return (estimate.waveform - stem.waveform).abs().mean()


def spec_l1(estimate: Signal, stem: Signal) -> Tensor:
    """Mean absolute errors of the real and of the imaginary parts, added (BSRNN, section III-D, first two terms)."""
    difference = torch.view_as_real(estimate.spectrogram - stem.spectrogram)  # (B, C, F, T, 2)
    return difference.abs().mean() * 2


LOSSES: dict[str, Callable[[Signal, Signal], Tensor]] = {"wave_l1": wave_l1, "spec_l1": spec_l1}


class MultiTargetLoss:
    """The weighted terms of every target, summed over the targets (or averaged: ``reduction: mean``)."""

    def __init__(self, spec: LossSpec, targets: Sequence[str]):
        self.terms = {name: (pick("loss", name, LOSSES), weight) for name, weight in spec.terms.items()}
        scale = 1.0 if spec.reduction == "sum" else 1.0 / len(targets)
        self.weights = {target: scale * spec.target_weights.get(target, 1.0) for target in targets}

    def __call__(
        self, estimates: Mapping[str, Signal], stems: Mapping[str, Signal]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and every term by itself, unweighted, as ``<target>/<term>``."""
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=next(iter(estimates.values())).waveform.device)
        for target, target_weight in self.weights.items():
            for name, (term, weight) in self.terms.items():
                parts[f"{target}/{name}"] = value = term(estimates[target], stems[target])
                total = total + target_weight * weight * value
        return total, {name: value.detach() for name, value in parts.items()}
