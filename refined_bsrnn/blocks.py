"""Backbone blocks: modules from features to features of the same shape, (B, C, K, T, N) → (B, C, K, T, N).

A new block is one class and one line in `BLOCKS`; its constructor takes the backbone's spec and the number of bands
and, by keyword, the options a recipe may give under ``backbone:``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import RecipeError
from .recipe import BackboneSpec
from .suggest import pick

# --- norms ------------------------------------------------------------------------------------------------------------


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


# --- the block of the paper, and what oBSRNN adds to it ---------------------------------------------------------------


class ResidualRNN(nn.Module):
    """x + Linear(BLSTM(norm(x))) along the second-to-last axis: (M, S, N) → (M, S, N)."""

    def __init__(self, features: int, hidden: int, norm: str):
        super().__init__()
        self.norm = make_norm(norm, features)
        self.rnn = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.rnn(self.norm(x))[0])


TAC_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"prelu": nn.PReLU, "tanh": nn.Tanh}


class TAC(nn.Module):
    """Transform, average, concatenate: how the channels learn of each other (Luo et al., 2020; as in oBSRNN).

    Works for any number of channels, also one, whose mean is itself. The three activations are one module: with PReLU
    they share its slope, as in the published checkpoints.
    """

    def __init__(self, features: int, activation: str = "prelu", factor: int = 3):
        super().__init__()
        hidden = factor * features
        self.transform = nn.Linear(features, hidden)
        self.average = nn.Linear(hidden, hidden)
        self.combine = nn.Linear(2 * hidden, features)
        self.activation = pick("backbone.tac_activation", activation, TAC_ACTIVATIONS)()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, K, T, N) → (B, C, K, T, N)."""
        own = self.activation(self.transform(x))  # (B, C, K, T, 3N)
        mean = self.activation(self.average(own.mean(1, keepdim=True)))  # (B, 1, K, T, 3N)
        both = torch.cat([own, mean.expand_as(own)], dim=-1)  # (B, C, K, T, 6N)
        return x + self.activation(self.combine(both))  # (B, C, K, T, N)


class FrameNorm(nn.Module):
    """Statistics over a frame's bands and features together, a gain and bias for each: bound to the band count."""

    def __init__(self, n_bands: int, features: int, eps: float = 1e-7):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_bands, features))
        self.bias = nn.Parameter(torch.zeros(n_bands, features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, K, D) → (..., T, K, D)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class FrameProjection(nn.Sequential):
    """Linear, PReLU, norm over the frame: (..., T, K, N) → (..., T, K, D)."""

    def __init__(self, n_bands: int, features: int, width: int):
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.activation = nn.PReLU()
        self.norm = FrameNorm(n_bands, width)


class AttentionHead(nn.Module):
    """One head of `TimeAttention`: every frame looks at all frames, each of them all its bands at once."""

    def __init__(self, n_bands: int, features: int, dim: int, width: int):
        super().__init__()
        self.query = FrameProjection(n_bands, features, dim)
        self.key = FrameProjection(n_bands, features, dim)
        self.value = FrameProjection(n_bands, features, width)

    def forward(self, x: Tensor) -> Tensor:
        """(M, T, K, N) → (M, T, K, width)."""
        value = self.value(x)
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)  # (M, T, K·dim)
        mixed = F.scaled_dot_product_attention(query, key, value.flatten(2))  # (M, T, K·width)
        return mixed.view(value.shape)


class TimeAttention(nn.Module):
    """Self-attention over time with all bands of a frame in one query (TF-GridNet; as in oBSRNN, spec §2.3).

    Quadratic in the number of frames, and bound to the band count by its norms.
    """

    def __init__(self, n_bands: int, features: int, heads: int, dim: int):
        super().__init__()
        if dim < 1 or features % heads:
            raise RecipeError(
                f"backbone.attention_heads is {heads} with attention_dim {dim} and features {features}; "
                "expected a number of heads that divides features, and at least 1 dimension."
            )
        self.heads = nn.ModuleList(AttentionHead(n_bands, features, dim, features // heads) for _ in range(heads))
        self.projection = FrameProjection(n_bands, features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, K, T, N) → (B, C, K, T, N)."""
        frames = x.transpose(2, 3).flatten(0, 1)  # (B, C, T, K, N) → (B·C, T, K, N)
        mixed = torch.cat([head(frames) for head in self.heads], dim=-1)  # (B·C, T, K, N)
        mixed = self.projection(mixed).unflatten(0, x.shape[:2])  # (B, C, T, K, N)
        return x + mixed.transpose(2, 3)  # (B, C, K, T, N)


class BandSequenceRNN(nn.Module):
    """One pair of the paper's sequence and band modelling (BSRNN, section III-B), and oBSRNN's two additions.

    First along time, with the same weights for every band, then along the bands, with the same weights for every frame;
    then, where the recipe asks for them, TAC across the channels and attention over time.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        n_bands: int,
        *,
        hidden_factor: int = 2,
        attention_heads: int = 0,
        attention_dim: int = 16,
        tac_activation: str = "prelu",
    ):
        super().__init__()
        features = spec.features
        self.time = ResidualRNN(features, hidden_factor * features, spec.norm)
        self.band = ResidualRNN(features, hidden_factor * features, spec.norm)
        self.tac = TAC(features, tac_activation) if spec.stereo == "tac" else nn.Identity()
        self.attention = (
            TimeAttention(n_bands, features, attention_heads, attention_dim) if attention_heads else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape  # (B, C, K, T, N)
        x = self.time(x.flatten(0, 2)).view(shape)  # sequences over T: (B·C·K, T, N)
        x = x.transpose(2, 3)  # (B, C, T, K, N)
        x = self.band(x.flatten(0, 2)).view(x.shape)  # sequences over K: (B·C·T, K, N)
        return self.attention(self.tac(x.transpose(2, 3)))  # (B, C, K, T, N)


BLOCKS: dict[str, Callable[..., nn.Module]] = {"band_sequence_rnn": BandSequenceRNN}
