"""Heads: features (B, C, K, T, N) and the mixture's spectrogram → one target's spectrogram, complex (B, C, F, T).

A new head is one class and one line in `HEADS`; its constructor takes the bands, the backbone's spec and how many
channels are taken together and, by keyword, the options a recipe may give under ``head:``. What it makes per band goes
through `MergeBands`, which knows whether bands overlap.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import BandSplit, BinRange
from .blocks import make_norm
from .errors import RecipeError
from .recipe import BackboneSpec


class MergeBands(nn.Module):
    """From one value per bin of every band to one per bin: K of (..., G) → (..., F).

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
        values = torch.cat(list(bands), dim=-1)  # (..., ΣG)
        if self.index is not None and self.weights is not None:
            values = values * self.weights
            values = values.new_zeros(*values.shape[:-1], self.n_bins).index_add(-1, self.index, values)  # (..., F)
        return values


class BandMlp(nn.Module):
    """Per band: norm, ``hidden_layers`` tanh layers of ``hidden_factor``·N, a gated output (BSRNN, section III-C).

    The output layer's rows are (value | gate) × (real | imaginary) × channel × bin, as in the published code.
    """

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        n_joint: int = 1,
        *,
        hidden_layers: Literal[1, 2] = 1,
        hidden_factor: int = 4,
    ):
        super().__init__()
        if hidden_layers not in (1, 2):
            raise RecipeError(f"head.hidden_layers is {hidden_layers!r}; expected 1 (the paper) or 2 (its code).")
        self.n_joint = n_joint
        features, norm = backbone.features, backbone.norm
        self.bands = nn.ModuleList(
            self._band(n_joint * (stop - start), features, norm, hidden_layers, hidden_factor * features)
            for start, stop in ranges
        )
        self.merge = MergeBands(ranges)

    @staticmethod
    def _band(n_bins: int, features: int, norm: str, hidden_layers: int, hidden: int) -> nn.Sequential:
        layers: list[nn.Module] = [make_norm(norm, features), nn.Linear(features, hidden), nn.Tanh()]
        for _ in range(hidden_layers - 1):
            layers += [nn.Linear(hidden, hidden), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(hidden, 4 * n_bins))

    def spectrum(self, features: Tensor) -> Tensor:
        """(B, C, K, T, N) → complex (B, C·joint, F, T)."""
        bands = []
        for band, x in zip(self.bands, features.unbind(2), strict=True):  # x: (B, C, T, N)
            real, imag = F.glu(band(x)).float().chunk(2, dim=-1)  # (B, C, T, 4·joint·G) → 2 × (B, C, T, joint·G)
            both = torch.complex(real.contiguous(), imag.contiguous())
            bands.append(both.unflatten(-1, (self.n_joint, -1)))  # (B, C, T, joint, G)
        return self.merge(bands).permute(0, 1, 3, 4, 2).flatten(1, 2)  # (B, C, T, joint, F) → (B, C·joint, F, T)


class MlpMask(BandMlp):
    """The paper's head: what the MLPs give is a complex mask on the mixture."""

    def forward(self, features: Tensor, mixture: Tensor) -> Tensor:
        return self.spectrum(features) * mixture


class MaskAndResidual(nn.Module):
    """A mask, and a spectrum from a second set of MLPs added to what it leaves (as in 2212.00406).

    The norms have taken the level out of the features, so the residual is in units of each frame's root mean square.
    """

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        n_joint: int = 1,
        *,
        hidden_layers: Literal[1, 2] = 1,
        hidden_factor: int = 4,
    ):
        super().__init__()
        self.mask, self.residual = (
            BandMlp(ranges, backbone, n_joint, hidden_layers=hidden_layers, hidden_factor=hidden_factor)
            for _ in range(2)
        )

    def forward(self, features: Tensor, mixture: Tensor) -> Tensor:
        level = mixture.abs().square().mean(2, keepdim=True).sqrt()  # (B, C, 1, T)
        return self.mask.spectrum(features) * mixture + self.residual.spectrum(features) * level


class DirectSpectrum(BandMlp):
    """The target's spectrum itself, no mask: what the code that this project grew from does (spec §2.4).

    Given in the mixture's units: times the standard deviation of its spectrogram, plus the mean. Both are taken over
    the whole excerpt, so it cannot be causal.
    """

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        n_joint: int = 1,
        *,
        hidden_layers: Literal[1, 2] = 1,
        hidden_factor: int = 4,
    ):
        if backbone.causal:
            raise RecipeError("head.kind=spectrum scales by the whole excerpt, which backbone.causal forbids.")
        super().__init__(ranges, backbone, n_joint, hidden_layers=hidden_layers, hidden_factor=hidden_factor)

    def forward(self, features: Tensor, mixture: Tensor) -> Tensor:
        mean = mixture.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        deviation = (mixture - mean).abs().square().mean((2, 3), keepdim=True).sqrt()
        return self.spectrum(features) * deviation + mean


HEADS: dict[str, Callable[..., nn.Module]] = {
    "mlp_mask": MlpMask,
    "residual": MaskAndResidual,
    "spectrum": DirectSpectrum,
}
