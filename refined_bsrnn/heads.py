"""Heads: features (B, C, K, T, N) and the mixture's spectrogram → one target's spectrogram, complex (B, C, F, T).

A new head is one class and one line in `HEADS`: a `Head` that says which MLPs it has and what it makes of their
spectra. What is made per band goes through `MergeBands`, which knows whether bands overlap. Inside, spectrograms are
real: planes (B, C, 2, F, T) of real and imaginary parts (see `stft`), so that the same code can be exported.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import BandSplit, BinRange
from .blocks import EVERYTHING, Reach, make_norm, reach_of
from .errors import RecipeError
from .recipe import BackboneSpec
from .stft import as_complex, as_planes


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


class BandMlps(nn.ModuleList):
    """Per band: norm, ``hidden_layers`` tanh layers of width ``hidden``, a gated output (BSRNN, section III-C).

    The output layer's rows are (value | gate) × (real | imaginary) × channel × bin, as in the published code. With
    ``gate_layer`` a linear layer to half as many values stands before it (crlandsc, amanteur).
    """

    def __init__(
        self, widths: Sequence[int], features: int, norm: str, hidden_layers: int, hidden: int, gate_layer: bool
    ):
        super().__init__()
        for n_bins in widths:
            layers: list[nn.Module] = [nn.Identity() if norm == "none" else make_norm(norm, features)]
            width = features
            for _ in range(hidden_layers):
                layers += [nn.Linear(width, hidden), nn.Tanh()]
                width = hidden
            if gate_layer:
                layers.append(nn.Linear(width, 2 * n_bins))
            self.append(nn.Sequential(*layers, nn.Linear(2 * n_bins if gate_layer else width, 4 * n_bins)))

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, C, K, T, N) → per band (B, C, T, 4·joint·G)."""
        return [band(x) for band, x in zip(self, features.unbind(2), strict=True)]  # x: (B, C, T, N)


def bridged(mlps: Sequence[BandMlps], features: Sequence[Tensor]) -> list[list[Tensor]]:
    """What several heads' MLPs give when they go on from the mean of their hidden activations, behind every tanh.

    X-UMX's bridging (Sawata et al. 2021: the mean of the targets' branches behind a layer takes the place of each), per
    band. It has no parameters. One head alone gives what it gives without. ``features`` (B, C, K, T, N) for each.
    """
    outputs: list[list[Tensor]] = [[] for _ in mlps]
    for k, bands in enumerate(zip(*mlps, strict=True)):  # one band of every head
        states = [x[:, :, k] for x in features]  # (B, C, T, N)
        for layers in zip(*bands, strict=True):  # the same layer of every head
            states = [layer(state) for layer, state in zip(layers, states, strict=True)]
            if isinstance(layers[0], nn.Tanh):
                states = [torch.stack(states).mean(0)] * len(states)  # (B, C, T, hidden)
        for output, state in zip(outputs, states, strict=True):
            output.append(state)
    return outputs


class Head(nn.Module):
    """What all heads share: their options, and how the MLPs' outputs become spectra.

    A head with ``bridge`` is one of several that are run together, by `estimate_bridged`.
    """

    of_whole_excerpt = False  # it scales by statistics of all frames
    norm = ""  # of its MLPs; empty: as the backbone's

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        n_joint: int = 1,
        *,
        hidden_layers: Literal[1, 2] = 1,
        hidden_factor: float = 4,
        gate_layer: bool = False,
        bridge: bool = False,
    ):
        super().__init__()
        if round(hidden_factor * backbone.features) < 1:
            raise RecipeError(
                f"head.hidden_factor is {hidden_factor:g} with {backbone.features} features; expected more than 0, and "
                "at least one hidden feature."
            )
        if self.of_whole_excerpt and backbone.causal:
            raise RecipeError("head.kind=spectrum scales by the whole excerpt, which backbone.causal forbids.")
        self.n_joint, self.bridge = n_joint, bridge
        widths, n = [n_joint * (stop - start) for start, stop in ranges], backbone.features
        hidden = round(hidden_factor * n)
        self.build(lambda: BandMlps(widths, n, self.norm or backbone.norm, hidden_layers, hidden, gate_layer))
        self.merge = MergeBands(ranges)

    def build(self, make: Callable[[], BandMlps]) -> None:
        """Make the MLPs that `mlps` gives."""
        self.bands = make()

    @property
    def reach(self) -> Reach:
        """How many frames it sees, see `blocks`."""
        norms = [cast(nn.Sequential, mlps[0])[0] for mlps in self.mlps]
        return EVERYTHING if self.of_whole_excerpt else reach_of(norms[0])

    @property
    def mlps(self) -> tuple[BandMlps, ...]:
        """The sets of MLPs this head has, one per spectrum that `estimate` takes."""
        return (self.bands,)

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        """The estimate from what the MLPs make, all of them planes (B, C, 2, F, T)."""
        raise NotImplementedError

    def forward(self, features: Tensor, mixture: Tensor) -> Tensor:
        """Features (B, C, K, T, N) and the mixture, complex (B, C, F, T) → the estimate, complex (B, C, F, T)."""
        return as_complex(self.planes(features, as_planes(mixture)))

    def planes(self, features: Tensor, mixture: Tensor) -> Tensor:
        """As `forward`, with planes (B, C, 2, F, T) in place of complex numbers."""
        return self.estimate([self.spectrum(mlps(features)) for mlps in self.mlps], mixture)

    def spectrum(self, outputs: Sequence[Tensor]) -> Tensor:
        """The gated outputs of all bands, (B, C, T, 4·joint·G) each → planes (B, C·joint, 2, F, T)."""
        gated = [F.glu(x).float().unflatten(-1, (2, self.n_joint, -1)) for x in outputs]  # (B, C, T, 2, joint, G)
        return self.merge(gated).permute(0, 1, 4, 3, 5, 2).flatten(1, 2)  # (B, C, T, 2, joint, F) → (B, C·j, 2, F, T)


def estimate_bridged(heads: Mapping[str, Head], features: Mapping[str, Tensor], mixture: Tensor) -> dict[str, Tensor]:
    """The estimates of heads that are bridged to each other: planes (B, C, 2, F, T) by target.

    ``features`` (B, C, K, T, N) of each, ``mixture`` planes (B, C, 2, F, T).
    """
    spectra: dict[str, list[Tensor]] = {target: [] for target in heads}
    for mlps in zip(*(head.mlps for head in heads.values()), strict=True):  # e.g. all masks, then all residuals
        outputs = bridged(mlps, [features[target] for target in heads])
        for (target, head), own in zip(heads.items(), outputs, strict=True):
            spectra[target].append(head.spectrum(own))
    return {target: head.estimate(spectra[target], mixture) for target, head in heads.items()}


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The complex product of planes (B, C, 2, F, T)."""
    (a_real, a_imag), (b_real, b_imag) = a.unbind(2), b.unbind(2)
    return torch.stack([a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real], dim=2)


class MlpMask(Head):
    """The paper's head: what the MLPs give is a complex mask on the mixture."""

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        return multiply(spectra[0], mixture)


class RoformerMask(MlpMask):
    """The published RoFormers' mask: MLPs without a norm, any number of hidden layers, no DC in the estimate."""

    norm = "none"

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        n_joint: int = 1,
        *,
        hidden_layers: int = 1,
        hidden_factor: float = 4,
        gate_layer: bool = False,
        bridge: bool = False,
        zero_dc: bool = True,
    ):
        if not 0 <= hidden_layers <= 8:
            raise RecipeError(f"head.hidden_layers is {hidden_layers}; expected 0 to 8.")
        super().__init__(
            ranges,
            backbone,
            n_joint,
            hidden_layers=hidden_layers,  # type: ignore[arg-type]
            hidden_factor=hidden_factor,
            gate_layer=gate_layer,
            bridge=bridge,
        )
        self.zero_dc = zero_dc

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        masked = super().estimate(spectra, mixture)
        return F.pad(masked[..., 1:, :], (0, 0, 1, 0)) if self.zero_dc else masked


class MaskAndResidual(Head):
    """A mask, and a spectrum from a second set of MLPs added to what it leaves (as in 2212.00406).

    The norms have taken the level out of the features, so the residual is in units of each frame's root mean square.
    """

    def build(self, make: Callable[[], BandMlps]) -> None:
        self.mask, self.residual = (nn.ModuleDict({"bands": make()}) for _ in range(2))

    @property
    def mlps(self) -> tuple[BandMlps, ...]:
        return cast(BandMlps, self.mask["bands"]), cast(BandMlps, self.residual["bands"])

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        level = mixture.square().sum(2, keepdim=True).mean(3, keepdim=True).sqrt()  # (B, C, 1, 1, T)
        return multiply(spectra[0], mixture) + spectra[1] * level


class DirectSpectrum(Head):
    """The target's spectrum itself, no mask: what the code that this project grew from does (spec §2.4).

    Given in the mixture's units: times the standard deviation of its spectrogram, plus the mean. Both are taken over
    the whole excerpt, so it cannot be causal.
    """

    of_whole_excerpt = True

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        mean = mixture.mean((3, 4), keepdim=True)  # (B, C, 2, 1, 1)
        deviation = (mixture - mean).square().sum(2, keepdim=True).mean((3, 4), keepdim=True).sqrt()  # (B, C, 1, 1, 1)
        return spectra[0] * deviation + mean


HEADS: dict[str, Callable[..., Head]] = {
    "mlp_mask": MlpMask,
    "roformer_mask": RoformerMask,
    "residual": MaskAndResidual,
    "spectrum": DirectSpectrum,
}
