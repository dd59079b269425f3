"""The backbone: the band split and the blocks. All targets share it, and a transfer freezes it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bands import BinRange
from ..errors import AudioError, RecipeError, pick
from ..recipe import BackboneSpec
from ..schema import bind_options
from .blocks import BLOCKS, CAUSAL_NORMS, Norm, fold, make_norm


class Encoder(nn.Module):
    """The band split: per band, a norm and a linear layer turn the real and imaginary parts into N features.

    Bands may overlap; each reads its bins unweighted. ``channels_per_item`` channels are concatenated to one item; with
    1 each channel is an item.
    """

    def __init__(self, ranges: Sequence[BinRange], features: int, norm: str, channels_per_item: int = 1):
        super().__init__()
        self.ranges, self.channels_per_item = list(ranges), channels_per_item
        widths = [2 * channels_per_item * (stop - start) for start, stop in ranges]
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths)
        self.linears = nn.ModuleList(nn.Linear(width, features) for width in widths)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Pairs (B, C, T, F, 2) → (B, C, K, T, N); C is 1 if all channels are one item.

        Raises `AudioError` if all channels are one item and there are not as many.
        """
        if self.channels_per_item > 1 and spectrogram.shape[1] != self.channels_per_item:
            raise AudioError(
                f"this network takes {self.channels_per_item} channels together (backbone.stereo=joint); the audio has "
                f"{spectrogram.shape[1]}. Bring it to {self.channels_per_item} channels, or use a network with "
                "stereo=apart or tac."
            )
        bins = spectrogram.unflatten(1, (-1, self.channels_per_item)).permute(
            0, 1, 3, 5, 2, 4
        )  # (B, C, T, 2, joint, F)
        bands = []
        for (start, stop), norm, linear in zip(self.ranges, self.norms, self.linears, strict=True):
            standard = cast(Norm, norm).standardise(bins[..., start:stop].flatten(3))  # (B, C, T, 2·joint·G)
            weight, bias = fold([norm], cast(Tensor, linear.weight)[None], cast(Tensor, linear.bias)[None])
            bands.append(F.linear(standard, weight[0], bias[0]))  # (B, C, T, N)
        return torch.stack(bands, dim=2)


class Backbone(nn.Module):
    """Encoder, blocks and, if the recipe asks for it, a final norm.

    ``frozen``: no parameter changes any more, so no graph is needed.
    """

    def __init__(self, ranges: Sequence[BinRange], spec: BackboneSpec, channels_per_item: int = 1):
        super().__init__()
        if spec.causal and spec.norm not in CAUSAL_NORMS:
            raise RecipeError(
                f"backbone.norm={spec.norm} has statistics over the whole excerpt, which backbone.causal forbids; "
                f"expected one of {', '.join(CAUSAL_NORMS)}."
            )
        block = pick("backbone.kind", spec.kind, BLOCKS)
        options = bind_options(f"backbone.kind={spec.kind}", block, spec.options, skip=("spec", "n_bands"))
        self.encoder = Encoder(ranges, spec.features, spec.norm, channels_per_item)
        self.blocks = nn.Sequential(*(block(spec, len(ranges), **options) for _ in range(spec.repeats)))
        self.norm = make_norm(spec.norm, spec.features) if spec.final_norm else nn.Identity()
        self.frozen = False

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Pairs (B, C, T, F, 2) → features (B, C, K, T, N)."""
        return self.norm(self.blocks(self.encoder(spectrogram)))

    def freeze(self, except_blocks: int = 0) -> None:
        """From now on it does not change by a single bit, except for its last ``except_blocks`` blocks.

        Frozen parameters have no gradient; a completely frozen backbone is always in eval mode.
        """
        self.requires_grad_(False)
        for block in list(self.blocks)[len(self.blocks) - except_blocks :]:
            block.requires_grad_(True)
        self.frozen = not except_blocks
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(mode and not self.frozen)
