"""Heads: from the backbone's features to the complex mask of one target, (B, C, K, T, N) → (B, C, F, T).

A new head is one class and one line in `HEADS`; its constructor takes the bin ranges, ``features`` and ``norm`` and,
by keyword, the options a recipe may give under ``head:``. What it makes per band goes through `MergeBands`, which knows
whether bands overlap.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import BandSplit, BinRange
from .blocks import make_norm
from .errors import RecipeError


class MergeBands(nn.Module):
    """From one value per bin of every band to one per bin: K of (B, C, T, G) → (B, C, F, T).

    The bands of a partition are put one behind the other. Overlapping ones are weighted and summed; a bin's weights add
    up to one, so that masks of one are a mask of one.
    """

    index: Tensor | None
    weights: Tensor | None

    def __init__(self, ranges: Sequence[BinRange]):
        super().__init__()
        self.n_bins = max(stop for _, stop in ranges)
        index = weights = None
        if isinstance(ranges, BandSplit) and ranges.weights is not None:
            index = torch.cat([torch.arange(start, stop) for start, stop in ranges])
            weights = torch.tensor([weight for band in ranges.weights for weight in band])
        # They follow from the scheme: not part of what is saved.
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, bands: Sequence[Tensor]) -> Tensor:
        values = torch.cat(list(bands), dim=-1)  # (B, C, T, ΣG)
        if self.index is not None and self.weights is not None:
            values = values * self.weights
            values = values.new_zeros(*values.shape[:-1], self.n_bins).index_add(-1, self.index, values)  # (B, C, T, F)
        return values.transpose(2, 3)


class MlpMask(nn.Module):
    """Per band: norm, ``hidden_layers`` tanh layers of ``hidden_factor``·N, a gated output (BSRNN, section III-C).

    The output layer's rows are (value | gate) × (real | imaginary) × bin, as in the published code.
    """

    def __init__(
        self,
        ranges: Sequence[BinRange],
        features: int,
        norm: str,
        *,
        hidden_layers: Literal[1, 2] = 1,
        hidden_factor: int = 4,
    ):
        super().__init__()
        if hidden_layers not in (1, 2):
            raise RecipeError(f"head.hidden_layers is {hidden_layers!r}; expected 1 (the paper) or 2 (its code).")
        self.bands = nn.ModuleList(
            self._band(stop - start, features, norm, hidden_layers, hidden_factor * features) for start, stop in ranges
        )
        self.merge = MergeBands(ranges)

    @staticmethod
    def _band(n_bins: int, features: int, norm: str, hidden_layers: int, hidden: int) -> nn.Sequential:
        layers: list[nn.Module] = [make_norm(norm, features), nn.Linear(features, hidden), nn.Tanh()]
        for _ in range(hidden_layers - 1):
            layers += [nn.Linear(hidden, hidden), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(hidden, 4 * n_bins))

    def forward(self, features: Tensor) -> Tensor:
        masks = []
        for band, x in zip(self.bands, features.unbind(2), strict=True):  # x: (B, C, T, N)
            real, imag = F.glu(band(x)).float().chunk(2, dim=-1)  # (B, C, T, 4G) → (B, C, T, 2G) → 2 × (B, C, T, G)
            masks.append(torch.complex(real.contiguous(), imag.contiguous()))
        return self.merge(masks)


HEADS: dict[str, Callable[..., nn.Module]] = {"mlp_mask": MlpMask}
