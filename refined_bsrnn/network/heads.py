"""Heads: features (B, C, K, T, N) and the mixture's spectrogram → the targets' spectrograms.

To add a head, write one class and one line in `HEADS`: a `Head` that lists its MLPs and computes an estimate from their
outputs. Heads of the same form on the same features run as one stack (`estimate`): the features are normalised once,
and each band needs one matrix product per layer for all heads. `MergeBands` combines the results of the bands; only it
depends on whether bands overlap. Inside, spectrograms are pairs (B, C, T, F, 2) of real and imaginary parts (see
`signals`), so that the same code can be exported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bands import BandSplit, BinRange
from ..errors import RecipeError
from ..recipe import BackboneSpec, HeadSpec
from .blocks import EVERYTHING, NoNorm, Norm, Reach, fold, make_norm, reach_of


class MergeBands(nn.Module):
    """Combines one pair per bin of every band to one pair per bin: K of (..., G, 2) → (..., F, 2).

    The bands of a partition are concatenated. Overlapping bands are weighted and summed; the weights at a bin add up to
    one, so that masks of one give a mask of one.
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
        values = torch.cat(list(bands), dim=-2)  # (..., ΣG, 2)
        if self.index is not None and self.weights is not None:
            values = values * self.weights[:, None]
            empty = values.new_zeros(*values.shape[:-2], self.n_bins, 2)
            values = empty.index_add(-2, self.index, values)  # (..., F, 2)
        return values


class BandMlps(nn.ModuleList):
    """Per band: norm, ``hidden_layers`` tanh layers of width ``hidden``, a gated output (BSRNN, section III-C).

    The rows of the output layer are (value | gate) × (real | imaginary) × channel × bin, as in the published code. With
    ``gate_layer`` a linear layer to half as many values precedes it (crlandsc, amanteur).
    """

    def __init__(
        self, widths: Sequence[int], features: int, norm: str, hidden_layers: int, hidden: int, gate_layer: bool
    ):
        super().__init__()
        for n_bins in widths:
            layers: list[nn.Module] = [NoNorm() if norm == "none" else make_norm(norm, features)]
            width = features
            for _ in range(hidden_layers):
                layers += [nn.Linear(width, hidden), nn.Tanh()]
                width = hidden
            if gate_layer:
                layers.append(nn.Linear(width, 2 * n_bins))
            self.append(nn.Sequential(*layers, nn.Linear(2 * n_bins if gate_layer else width, 4 * n_bins)))

    def layers(self, k: int) -> nn.Sequential:
        """Of band ``k``: norm, linear, tanh, ..., linear."""
        return cast(nn.Sequential, self[k])


def run_stack(stack: Sequence[BandMlps], features: Tensor, bridge: bool = False) -> list[Tensor]:
    """Outputs of J heads of one form for the same features (B, C, K, T, N): per band pairs (J, B, C, T, joint·G, 2).

    With ``bridge``, after every tanh each head continues with the mean of the hidden activations of all heads, per
    band. This is X-UMX's bridging (Sawata et al. 2021), which replaces the output of a layer in each target's branch by
    the mean over the branches. It has no parameters and does not change a single head.
    """
    frames = (*features.shape[:2], features.shape[3])  # B, C, T
    outputs = []
    for k, (x, first) in enumerate(zip(features.unbind(2), _first_layers(stack), strict=True)):
        norm = cast(Norm, stack[0].layers(k)[0])
        state = norm.standardise(x).flatten(0, 2)  # (M, N) for all heads, M = B·C·T
        same_layers = [*zip(*(mlps.layers(k)[1:] for mlps in stack), strict=True)]  # linear, tanh, ..., linear
        for i, layers in enumerate(same_layers[:-1]):
            if isinstance(layers[0], nn.Linear):
                state = _linear(state, *(_stacked(layers) if i else first))  # (J, M, hidden)
                continue
            state = tanh(state)
            if bridge:
                state = state.mean(0, keepdim=True).expand_as(state)
        weight, bias = _stacked(same_layers[-1]) if len(same_layers) > 1 else first
        value, gate = map(_linear, [state] * 2, _in_pairs(weight), _in_pairs(bias))  # (J, M, joint·G·2)
        output = (value * gate.sigmoid()).float()
        outputs.append(output.unflatten(1, frames).unflatten(-1, (-1, 2)))
    return outputs


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. On a CPU it is computed from the sigmoid: accurate to 1e-7, in a third of the time."""
    return _Tanh.apply(x) if x.device.type == "cpu" and not torch.compiler.is_compiling() else x.tanh()


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = (2 * x).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, result)


def _first_layers(stack: Sequence[BandMlps]) -> Iterator[tuple[Tensor, Tensor]]:
    """Per band weight (J, hidden, N) and bias (J, hidden) of all heads' first layers, with their norms folded in."""
    bands = [[mlps.layers(k) for mlps in stack] for k in range(len(stack[0]))]
    if len(stack[0].layers(0)) == 2:  # norm and output layer: no band is as wide as another
        return (fold([band[0] for band in same], *_stacked([band[1] for band in same])) for same in bands)
    every = [band for same in bands for band in same]
    folded = fold([band[0] for band in every], *_stacked([band[1] for band in every]))  # (K·J, ...): one operation
    return zip(*(x.unflatten(0, (-1, len(stack))).unbind() for x in folded), strict=True)


def _stacked(linears: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Weights (J, M, N) and biases (J, M) of J linear layers."""
    weights, biases = zip(*((linear.weight, linear.bias) for linear in linears), strict=True)
    return torch.stack(cast(Any, weights)), torch.stack(cast(Any, biases))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """J linear layers at once: (J, M, N), or (M, N) for all of them, weight (J, H, N), bias (J, H) → (J, M, H)."""
    if x.dim() == 3:
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
    return F.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(1, bias.shape).transpose(0, 1)


def _in_pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the values and the rows of the gates, bin by bin, from the rows (J, 4·joint·G, ...) of J last layers.

    Files store the rows as (value | gate) × (real | imaginary) × bin. With the real and imaginary part of a bin next to
    each other, the products come out in pairs, and the mask needs no copy.
    """
    values, gates = rows.unflatten(1, (2, 2, -1)).transpose(2, 3).flatten(2, 3).unbind(1)  # (J, joint·G·2, ...)
    return values, gates


class Head(nn.Module):
    """The base of all heads: their options, and the step from the MLPs' outputs to spectra.

    A head with ``bridge`` must run together with the other bridged heads.
    """

    of_whole_excerpt = False  # it scales by statistics of all frames
    spec: HeadSpec  # what it was made from
    norm = ""  # of its MLPs; empty: as the backbone's

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        channels_per_item: int = 1,
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
        self.channels_per_item, self.bridge = channels_per_item, bridge
        self.facts: dict[str, Any] = {}  # what its file says about its training, once it has been loaded
        self.form: tuple[Any, ...] = (
            type(self),
            hidden_layers,
            hidden_factor,
            gate_layer,
            bridge,
        )  # heads of one form can be stacked
        widths, n = [channels_per_item * (stop - start) for start, stop in ranges], backbone.features
        hidden = round(hidden_factor * n)
        self.build(lambda: BandMlps(widths, n, self.norm or backbone.norm, hidden_layers, hidden, gate_layer))
        self.merge = MergeBands(ranges)

    def build(self, make: Callable[[], BandMlps]) -> None:
        """Make the MLPs that `mlps` gives."""
        self.bands = make()

    @property
    def reach(self) -> Reach:
        """The number of frames that it depends on, see `blocks`."""
        norms = [cast(nn.Sequential, mlps[0])[0] for mlps in self.mlps]
        return EVERYTHING if self.of_whole_excerpt else reach_of(norms[0])

    @property
    def mlps(self) -> tuple[BandMlps, ...]:
        """The sets of MLPs this head has, one per spectrum that `estimate` takes."""
        return (self.bands,)

    def forward(self, features: Tensor, mixture: Tensor) -> Tensor:
        """Features (B, C, K, T, N) and the mixture's pairs (B, C, T, F, 2) → the estimate's pairs (B, C, T, F, 2)."""
        return estimate({"": self}, {"": features}, mixture)[""]

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        """The estimates of a stack of J heads of this kind from what their MLPs make: one (J, B, C, T, F, 2) for each
        of `mlps`, the mixture (B, C, T, F, 2) → (J, B, C, T, F, 2)."""
        raise NotImplementedError

    def spectrum(self, bands: Sequence[Tensor]) -> Tensor:
        """Pairs of all bands, (J, B, C, T, joint·G, 2) each → (J, B, C·joint, T, F, 2)."""
        apart = [x.unflatten(4, (self.channels_per_item, -1)) for x in bands]  # (J, B, C, T, joint, G, 2)
        return self.merge(apart).transpose(3, 4).flatten(2, 3)


def estimate(heads: Mapping[str, Head], features: Mapping[str, Tensor], mixture: Tensor) -> dict[str, Tensor]:
    """The estimates of heads from the features (B, C, K, T, N) of each and the mixture (B, C, T, F, 2): by target
    (B, C, T, F, 2)."""
    stacks: dict[Any, dict[str, Head]] = {}
    for target, head in heads.items():
        stacks.setdefault((head.form, id(features[target])), {})[target] = head
    estimates: dict[str, Tensor] = {}
    for stack in stacks.values():
        any_target, any_head = next(iter(stack.items()))
        same = zip(*(head.mlps for head in stack.values()), strict=True)  # e.g. all masks, then all residuals
        outputs = [run_stack(mlps, features[any_target], any_head.bridge) for mlps in same]
        stacked = any_head.estimate([any_head.spectrum(bands) for bands in outputs], mixture)
        estimates |= zip(stack, stacked.unbind(), strict=True)
    return {target: estimates[target] for target in heads}


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The complex product of pairs (..., 2)."""
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(a) * torch.view_as_complex(b))
    (a_real, a_imag), (b_real, b_imag) = a.unbind(-1), b.unbind(-1)  # other runtimes know no complex numbers
    return torch.stack([a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real], dim=-1)


class MlpMask(Head):
    """The paper's head: the output of the MLPs is a complex mask on the mixture."""

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        return multiply(spectra[0], mixture)


class RoformerMask(MlpMask):
    """The published RoFormers' mask: MLPs without a norm, any number of hidden layers, no DC in the estimate."""

    norm = "none"

    def __init__(
        self,
        ranges: Sequence[BinRange],
        backbone: BackboneSpec,
        channels_per_item: int = 1,
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
            channels_per_item,
            hidden_layers=hidden_layers,  # type: ignore[arg-type]
            hidden_factor=hidden_factor,
            gate_layer=gate_layer,
            bridge=bridge,
        )
        self.zero_dc = zero_dc
        self.form = (*self.form, zero_dc)

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        masked = super().estimate(spectra, mixture)
        return F.pad(masked[..., 1:, :], (0, 0, 1, 0)) if self.zero_dc else masked


class MaskAndResidual(Head):
    """A mask, and a spectrum from a second set of MLPs that is added to the masked mixture (as in 2212.00406).

    The norms remove the level from the features, so the residual is in units of each frame's root mean square.
    """

    def build(self, make: Callable[[], BandMlps]) -> None:
        self.mask, self.residual = (nn.ModuleDict({"bands": make()}) for _ in range(2))

    @property
    def mlps(self) -> tuple[BandMlps, ...]:
        return cast(BandMlps, self.mask["bands"]), cast(BandMlps, self.residual["bands"])

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        level = mixture.square().sum(-1, keepdim=True).mean(3, keepdim=True).sqrt()  # (B, C, T, 1, 1)
        return multiply(spectra[0], mixture) + spectra[1] * level


class DirectSpectrum(Head):
    """The spectrum of the target without a mask, as in the code that this project grew from (spec §2.4).

    The output of the MLPs is converted to the units of the mixture: it is multiplied by the standard deviation of the
    mixture's spectrogram, and the mean is added. Both are computed over the whole excerpt, so this head cannot be
    causal.
    """

    of_whole_excerpt = True

    def estimate(self, spectra: Sequence[Tensor], mixture: Tensor) -> Tensor:
        mean = mixture.mean((2, 3), keepdim=True)  # (B, C, 1, 1, 2)
        deviation = (mixture - mean).square().sum(-1, keepdim=True).mean((2, 3), keepdim=True).sqrt()  # (B, C, 1, 1, 1)
        return spectra[0] * deviation + mean


HEADS: dict[str, Callable[..., Head]] = {
    "mlp_mask": MlpMask,
    "roformer_mask": RoformerMask,
    "residual": MaskAndResidual,
    "spectrum": DirectSpectrum,
}
