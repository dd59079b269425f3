"""Backbone blocks: modules from features to features of the same shape, (B, C, K, T, N) → (B, C, K, T, N).

A new block is one class and one line in `BLOCKS`; its constructor takes ``features`` and ``norm`` and, by keyword,
the options a recipe may give under ``backbone:``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .suggest import pick


class GlobalNorm(nn.Module):
    """Statistics over a sequence and its features together, one gain and bias per feature: GroupNorm(1, N).

    The published code's norm ("gn1", spec §2.2). It keeps how the level moves along the sequence, which a norm per
    position would erase: a band of one bin holds two numbers, and standardised frame by frame only signs would be left.
    """

    def __init__(self, features: int, eps: float = 1e-7):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., S, N) → (..., S, N)."""
        return F.layer_norm(x, x.shape[-2:], eps=self.eps) * self.weight + self.bias


# name → module over (..., S, N); "ln" is per position, independent of how long the sequence is
NORMS: dict[str, Callable[[int], nn.Module]] = {"gn1": GlobalNorm, "ln": nn.LayerNorm}


def make_norm(kind: str, features: int) -> nn.Module:
    """The norm of that name for N = ``features``; `RecipeError` for an unknown one."""
    return pick("norm", kind, NORMS)(features)


class ResidualRNN(nn.Module):
    """x + Linear(BLSTM(norm(x))) along the second-to-last axis: (M, S, N) → (M, S, N)."""

    def __init__(self, features: int, hidden: int, norm: str):
        super().__init__()
        self.norm = make_norm(norm, features)
        self.rnn = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.rnn(self.norm(x))[0])


class BandSequenceRNN(nn.Module):
    """One pair of the paper's sequence and band modelling (BSRNN, section III-B).

    First along time, with the same weights for every band, then along the bands, with the same weights for every frame.
    """

    def __init__(self, features: int, norm: str, *, hidden_factor: int = 2):
        super().__init__()
        self.time = ResidualRNN(features, hidden_factor * features, norm)
        self.band = ResidualRNN(features, hidden_factor * features, norm)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape  # (B, C, K, T, N)
        x = self.time(x.flatten(0, 2)).view(shape)  # sequences over T: (B·C·K, T, N)
        x = x.transpose(2, 3)  # (B, C, T, K, N)
        x = self.band(x.flatten(0, 2)).view(x.shape)  # sequences over K: (B·C·T, K, N)
        return x.transpose(2, 3)  # (B, C, K, T, N)


BLOCKS: dict[str, Callable[..., nn.Module]] = {"band_sequence_rnn": BandSequenceRNN}
