"""The network, top to bottom.

    mixture ──> STFT ──> encoder ──> R blocks ──> features ──┬──> head "vocals" ──> mask × STFT ──> iSTFT ──> vocals
    (B,C,L)    (B,C,F,T)  (B,C,K,T,N)             (B,C,K,T,N) ├──> head "drums"
                                                              └──> ...

`BSRNN.features` is the seam: what lies before it is the backbone, shared by all targets and frozen in a transfer; what
lies behind it is heads. The channels are independent items that share all weights, as in the authors' code.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bands import BinRange, band_ranges
from .blocks import BLOCKS, make_norm
from .errors import CheckpointError, UserError
from .heads import HEADS
from .recipe import BackboneSpec, HeadSpec, Recipe
from .stft import STFT, Signal
from .suggest import bind_options, nearest, pick


class Encoder(nn.Module):
    """The band split: per band, norm and linear layer from the real and imaginary parts to N features."""

    def __init__(self, ranges: Sequence[BinRange], features: int, norm: str):
        super().__init__()
        self.ranges = list(ranges)
        widths = [2 * (stop - start) for start, stop in ranges]
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths)
        self.linears = nn.ModuleList(nn.Linear(width, features) for width in widths)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Complex (B, C, F, T) → (B, C, K, T, N)."""
        bins = spectrogram.transpose(2, 3)  # (B, C, T, F)
        bands = []
        for (start, stop), norm, linear in zip(self.ranges, self.norms, self.linears, strict=True):
            band = bins[..., start:stop]
            bands.append(linear(norm(torch.cat([band.real, band.imag], dim=-1))))  # (B, C, T, 2G) → (B, C, T, N)
        return torch.stack(bands, dim=2)


class Backbone(nn.Module):
    """Encoder and blocks: what all targets share."""

    def __init__(self, ranges: Sequence[BinRange], spec: BackboneSpec):
        super().__init__()
        block = pick("backbone.kind", spec.kind, BLOCKS)
        options = bind_options(f"backbone.kind={spec.kind}", block, spec.options, skip=("spec", "n_bands"))
        self.encoder = Encoder(ranges, spec.features, spec.norm)
        self.blocks = nn.Sequential(*(block(spec, len(ranges), **options) for _ in range(spec.repeats)))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Complex (B, C, F, T) → features (B, C, K, T, N)."""
        return self.blocks(self.encoder(spectrogram))


class BSRNN(nn.Module):
    """A backbone and one head per target.

    Attributes: ``ranges`` (the K bin ranges), ``stft``, ``backbone``, ``heads`` (a ModuleDict by target), ``targets``.
    """

    def __init__(self, recipe: Recipe, targets: Sequence[str]):
        super().__init__()
        self.recipe = recipe
        self.sample_rate_hz = recipe.stft.sample_rate_hz
        self.ranges = band_ranges(
            recipe.bands.kind,
            sample_rate_hz=recipe.stft.sample_rate_hz,
            n_fft=recipe.stft.n_fft,
            **recipe.bands.options,
        )
        self.stft = STFT(recipe.stft.n_fft, recipe.stft.hop)
        self.backbone = Backbone(self.ranges, recipe.backbone)
        self.heads = nn.ModuleDict()
        self.backbone_is_frozen = False
        for target in targets:
            self.add_head(target, recipe.head)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "BSRNN":
        """A fresh network with one head per target of the recipe. Raises `RecipeError` for what cannot be built."""
        return cls(recipe, recipe.targets)

    @property
    def targets(self) -> list[str]:
        return list(self.heads)

    def add_head(self, target: str, spec: HeadSpec) -> nn.Module:
        """Attach a fresh head; `CheckpointError` where one of that name is already attached."""
        if target in self.heads:
            raise CheckpointError(f"there is a head {target!r} already; heads: {', '.join(self.heads)}.")
        kind = pick("head.kind", spec.kind, HEADS)
        options = bind_options(f"head.kind={spec.kind}", kind, spec.options, skip=("ranges", "features", "norm"))
        backbone = self.recipe.backbone
        self.heads[target] = kind(self.ranges, backbone.features, backbone.norm, **options)
        return self.heads[target]

    def freeze_backbone(self) -> "BSRNN":
        """From here on the backbone stays bit-identical: no gradient, no graph, always in eval mode."""
        self.backbone_is_frozen = True
        self.backbone.requires_grad_(False).eval()
        return self

    def train(self, mode: bool = True) -> "BSRNN":
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self

    def features(self, mixture: Tensor) -> Tensor:
        """Waveform (B, C, L) → the universal features (B, C, K, T, N)."""
        return self._features(self.stft(mixture))

    def _features(self, spectrogram: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.backbone_is_frozen):
            return self.backbone(spectrogram)

    def forward(self, mixture: Tensor, targets: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Waveform (B, C, L) → {target: waveform (B, C, L)}, only the heads asked for (default: all)."""
        return {target: signal.waveform for target, signal in self.signals(mixture, targets).items()}

    def signals(self, mixture: Tensor, targets: Iterable[str] | None = None) -> dict[str, Signal]:
        """As `forward`, with each estimate's masked spectrogram beside its waveform: what the losses compare."""
        wanted = self.check_targets(targets)
        spectrogram = self.stft(mixture)
        features = self._features(spectrogram)
        masked = {target: self.heads[target](features) * spectrogram for target in wanted}
        length = mixture.shape[-1]
        return {target: Signal(self.stft.inverse(spectrum, length), spectrum) for target, spectrum in masked.items()}

    def check_targets(self, targets: Iterable[str] | None) -> list[str]:
        """The heads asked for, in that order, or all; `UserError` for one that is not there."""
        wanted = self.targets if targets is None else list(targets)
        for target in wanted:
            if target not in self.heads:
                raise UserError(
                    f"there is no head {target!r}.{nearest(target, self.heads)} Heads here: {', '.join(self.heads)}."
                )
        return wanted


def count_parameters(module: nn.Module, of: Callable[[nn.Parameter], Any] = lambda p: True) -> int:
    """Number of parameters, or of those for which ``of`` holds."""
    return sum(p.numel() for p in module.parameters() if of(p))
