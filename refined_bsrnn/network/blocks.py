"""Backbone blocks: modules from features to features of the same shape, (B, C, K, T, N) → (B, C, K, T, N).

To add a block, write one class and one line in `BLOCKS`. The constructor takes the backbone's spec, the number of bands
and, by keyword, the options that a recipe may set under ``backbone:``. The attribute ``reach`` gives the number of
frames that a module depends on; a module without it counts as depending on all frames.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RecipeError, pick
from ..recipe import BackboneSpec

# --- how far a module sees along its sequence -------------------------------------------------------------------------

Reach = tuple[float, float]  # positions before and behind the one that is computed
ITSELF, PAST, EVERYTHING = (0.0, 0.0), (math.inf, 0.0), (math.inf, math.inf)


def reach_of(*modules: nn.Module) -> Reach:
    """The reach of modules that are applied one after the other."""
    reaches = [getattr(module, "reach", _reach_of_torch(module)) for module in modules]
    return sum(before for before, _ in reaches), sum(behind for _, behind in reaches)


def _reach_of_torch(module: nn.Module) -> Reach:
    """The reach of one of PyTorch's own modules."""
    if isinstance(module, nn.RNNBase):
        return EVERYTHING if module.bidirectional else PAST
    return ITSELF if isinstance(module, nn.Linear | nn.Identity) else EVERYTHING


# --- norms ------------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """The base of all norms: `standardise`, which has no parameters, then one gain and bias per feature.

    The two steps are separate so that a linear layer after a norm can absorb the gain and bias (`fold`), and so that
    several heads on the same features standardise them only once.
    """

    bias: nn.Parameter | None

    def __init__(self, features: int, eps: float = 1e-7, has_bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.register_parameter("bias", nn.Parameter(torch.zeros(features)) if has_bias else None)

    def standardise(self, x: Tensor) -> Tensor:
        """(..., S, N) → (..., S, N) without gain and bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(..., S, N) → (..., S, N)."""
        x = self.standardise(x)
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)


class GlobalNorm(Norm):
    """Statistics over a sequence and its features together, one gain and bias per feature: GroupNorm(1, N).

    This is the published code's norm ("gn1", spec §2.2). It preserves the changes of level along the sequence. A norm
    per position would erase them: a band of one bin holds two numbers, and after standardising each frame only their
    signs would be left.
    """

    reach = EVERYTHING

    def standardise(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-2:], eps=self.eps)


class CumulativeNorm(Norm):
    """`GlobalNorm` with statistics of the sequence up to each position, therefore causal (2212.00406)."""

    reach = PAST

    def standardise(self, x: Tensor) -> Tensor:
        exact = x.float()
        count = x.shape[-1] * torch.arange(1, x.shape[-2] + 1, device=x.device)  # (S,)
        mean = exact.sum(-1).cumsum(-1) / count  # (..., S)
        power = exact.square().sum(-1).cumsum(-1) / count
        scale = (power - mean.square()).clamp(min=0).add(self.eps).rsqrt()
        return ((exact - mean[..., None]) * scale[..., None]).to(x.dtype)


class LayerNorm(Norm):
    """Statistics of each position alone (PyTorch's `LayerNorm`)."""

    reach = ITSELF

    def __init__(self, features: int):
        super().__init__(features, eps=1e-5)

    def standardise(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class RMSNorm(Norm):
    """Root mean square of each position, with a gain and no bias (BS-RoFormer's). It stays in float32 under half
    precision.
    """

    reach = ITSELF

    def __init__(self, features: int):
        super().__init__(features, has_bias=False)

    def standardise(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class LengthNorm(RMSNorm):
    """Scales each position to the length √N, with a gain and no bias: the norm of the published RoFormers.

    `RMSNorm` adds an epsilon to the power, which matters in quiet bands. Here only silence stays unscaled.
    """

    def standardise(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1) * math.sqrt(x.shape[-1])


class NoNorm(nn.Identity):
    """Replaces a norm: no statistics, no parameters."""

    def standardise(self, x: Tensor) -> Tensor:
        return x


def fold(norms: Sequence[nn.Module], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases of J linear layers with the gains and biases of their norms absorbed; apply them after
    `standardise`.

    The J norms are of the same kind; weight (J, M, N), bias (J, M).
    """
    owners = [norm for norm in norms if isinstance(norm, Norm)]
    if not owners:  # `NoNorm` has none
        return weight, bias
    shifts = tuple(norm.bias for norm in owners if norm.bias is not None)  # J times (N,)
    if shifts:
        bias = bias + (weight * torch.stack(shifts)[:, None]).sum(-1)  # elementwise: exact beside half precision, too
    return weight * torch.stack(tuple(norm.weight for norm in owners))[:, None], bias


# name → module over (..., S, N); "ln", "rms", "length" are per position, independent of how long the sequence is
NORMS: dict[str, Callable[[int], Norm]] = {
    "gn1": GlobalNorm,
    "ln": LayerNorm,
    "cumulative": CumulativeNorm,
    "rms": RMSNorm,
    "length": LengthNorm,
}
CAUSAL_NORMS = ("ln", "cumulative", "rms", "length")  # those that use nothing from later in the sequence


def make_norm(kind: str, features: int) -> Norm:
    """The norm of that name for N = ``features``; `RecipeError` for an unknown one."""
    return pick("norm", kind, NORMS)(features)


# --- the block of the paper, and what oBSRNN adds to it ---------------------------------------------------------------


class Convolution(nn.Module):
    """Three taps and ReLU along the second-to-last axis: (M, S, N) → (M, S, width), causal or centred."""

    def __init__(self, features: int, width: int, causal: bool, dilation: int = 1):
        super().__init__()
        self.padding = (2 * dilation, 0) if causal else (dilation, dilation)
        self.conv = nn.Conv1d(features, width, 3, dilation=dilation)

    @property
    def reach(self) -> Reach:
        return self.padding

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(F.pad(x.transpose(1, 2), self.padding))).transpose(1, 2)


class ConvCell(Convolution):
    """One convolution in place of a recurrent layer, as wide as its output; it has no state."""

    def __init__(self, features: int, hidden: int, causal: bool):
        super().__init__(features, hidden if causal else 2 * hidden, causal)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


def _recurrent(kind: Callable[..., nn.Module]) -> Callable[[int, int, bool], nn.Module]:
    return lambda features, hidden, causal: kind(features, hidden, batch_first=True, bidirectional=not causal)


# name → (features, hidden, causal) → module from (M, S, features) to (M, S, hidden, twice that where not causal), state
CELLS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
    "conv": ConvCell,
}


class ResidualRNN(nn.Module):
    """x + Linear(cell(norm(x))) along the second-to-last axis: (M, S, N) → (M, S, N); the paper's cell is a BLSTM."""

    def __init__(self, features: int, hidden: int, norm: str, cell: str = "lstm", causal: bool = False):
        super().__init__()
        self.norm = make_norm(norm, features)
        self.rnn = CELLS[cell](features, hidden, causal)
        self.linear = nn.Linear(hidden if causal else 2 * hidden, features)

    @property
    def reach(self) -> Reach:
        return reach_of(self.norm, self.rnn)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.rnn(self.norm(x))[0])


class NormedConvolution(nn.Sequential):
    """Norm, three taps, ReLU: (M, S, N) → (M, S, width)."""

    def __init__(self, features: int, width: int, norm: str, causal: bool, dilation: int = 1):
        super().__init__()
        self.norm = make_norm(norm, features)
        self.conv = Convolution(features, width, causal, dilation)

    @property
    def reach(self) -> Reach:
        return reach_of(self.norm, self.conv)


class DilatedConvs(nn.Module):
    """x + a stack of dilated convolutions: (M, S, N) → (M, S, N); BSCNN's layer (oBSRNN's study, after 2306.05887).

    ``dilations`` convolutions with dilations of 1, 2, 4, ... are applied one after the other. Each output is merged
    with its neighbours in the stack, and all of them together make the result.
    """

    def __init__(self, features: int, hidden: int, norm: str, dilations: int, causal: bool = False):
        super().__init__()
        n = dilations
        neighbours = [min(i + 2, n) - max(i - 1, 0) for i in range(n)]  # itself, and one on either side
        self.enter = NormedConvolution(features, hidden, norm, causal)
        self.dilated = nn.ModuleList(NormedConvolution(hidden, hidden, norm, causal, 2**i) for i in range(n))
        self.merged = nn.ModuleList(NormedConvolution(m * hidden, hidden, norm, causal) for m in neighbours)
        self.leave = NormedConvolution(n * hidden, features, norm, causal)

    @property
    def reach(self) -> Reach:
        return reach_of(self.enter, *self.dilated, self.merged[-1], self.leave)

    def forward(self, x: Tensor) -> Tensor:
        state, stack = self.enter(x), []
        for layer in self.dilated:
            state = layer(state)
            stack.append(state)  # (M, S, hidden)
        merged = [layer(torch.cat(stack[max(i - 1, 0) : i + 2], dim=-1)) for i, layer in enumerate(self.merged)]
        return x + self.leave(torch.cat(merged, dim=-1))


TAC_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"prelu": nn.PReLU, "tanh": nn.Tanh}


class TAC(nn.Module):
    """Transform, average, concatenate: exchanges information between the channels (Luo et al., 2020; as in oBSRNN).

    It works for any number of channels, also for one, whose mean is itself. The three activations are one module: with
    PReLU they share its slope, as in the published checkpoints.
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
    """Statistics over the bands and features of a frame, with a gain and bias for each; it needs a fixed number of
    bands.
    """

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
    """One head of `TimeAttention`: every frame attends to all frames, with all bands of a frame together."""

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

    It is quadratic in the number of frames, and its norms need a fixed number of bands.
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
    """One pair of the paper's sequence and band modelling (BSRNN, section III-B), and oBSRNN's variants of it.

    The first layer runs along time, with the same weights for every band; the second runs along the bands, with the
    same weights for every frame. If the recipe asks for them, TAC across the channels and attention over time follow.
    ``time`` and ``band`` name the layers: a cell of `CELLS`, or ``dilated``. The features are split into ``groups``
    equal groups, each a separate item with the same weights (DTTNet's heads).
    """

    def __init__(
        self,
        spec: BackboneSpec,
        n_bands: int,
        *,
        hidden_factor: int = 2,
        time: str = "lstm",
        band: str = "lstm",
        dilations: int = 3,
        groups: int = 1,
        attention_heads: int = 0,
        attention_dim: int = 16,
        tac_activation: str = "prelu",
    ):
        super().__init__()
        if spec.causal and attention_heads:
            raise RecipeError(
                "backbone.attention_heads looks at all frames, which backbone.causal forbids; choose one."
            )
        features = spec.features
        if attention_heads < 0 or hidden_factor < 1:
            raise RecipeError(
                f"backbone.attention_heads is {attention_heads} and hidden_factor {hidden_factor}; expected 0 heads or "
                "more, and a factor of 1 or more."
            )
        if groups < 1 or features % groups:
            raise RecipeError(f"backbone.groups is {groups}; expected a divisor of features {features}.")
        if dilations < 1:
            raise RecipeError(f"backbone.dilations is {dilations}; expected 1 or more convolutions.")
        self.groups, n = groups, features // groups
        # Along the bands everything belongs to one frame: there is nothing to be causal about.
        band_norm = "gn1" if spec.norm == "cumulative" else spec.norm
        self.time = _along("time", time, n, hidden_factor * n, spec.norm, dilations, spec.causal)
        self.band = _along("band", band, n, hidden_factor * n, band_norm, dilations)
        self.tac = TAC(features, tac_activation) if spec.stereo == "tac" else nn.Identity()
        self.attention = (
            TimeAttention(n_bands, features, attention_heads, attention_dim) if attention_heads else nn.Identity()
        )

    @property
    def reach(self) -> Reach:
        return reach_of(self.time, self.attention)

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1:
            x = x.unflatten(-1, (self.groups, -1)).movedim(-2, 2).flatten(1, 2)  # (B, C·groups, K, T, N / groups)
        shape = x.shape  # (B, C, K, T, N)
        x = self.time(x.flatten(0, 2)).view(shape)  # sequences over T: (B·C·K, T, N)
        x = x.transpose(2, 3)  # (B, C, T, K, N)
        x = self.band(x.flatten(0, 2)).view(x.shape)  # sequences over K: (B·C·T, K, N)
        x = x.transpose(2, 3)  # (B, C, K, T, N)
        if self.groups > 1:
            x = x.unflatten(1, (-1, self.groups)).movedim(2, -2).flatten(-2)  # (B, C, K, T, N)
        return self.attention(self.tac(x))


def _along(
    axis: str, kind: str, features: int, hidden: int, norm: str, dilations: int, causal: bool = False
) -> nn.Module:
    """The layer of that name along time or bands: (M, S, N) → (M, S, N)."""
    kind = pick(f"backbone.{axis}", kind, {name: name for name in (*CELLS, "dilated")})
    if kind == "dilated":
        return DilatedConvs(features, hidden, norm, dilations, causal)
    return ResidualRNN(features, hidden, norm, kind, causal)


# --- BS-RoFormer's block ----------------------------------------------------------------------------------------------


def rotary_speeds(head_dim: int, device: torch.device | None = None) -> Tensor:
    """(D/2,) radians per position for each pair of a head's D dimensions (RoFormer, section 3.3)."""
    return 1.0 / 10000.0 ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)


def rotate(x: Tensor, speeds: Sequence[float] = ()) -> Tensor:
    """Rotary positions along the second-to-last axis: (..., S, D) → (..., S, D), D even (RoFormer, section 3.2).

    ``speeds``: D/2 radians per position; if empty, those of `rotary_speeds`.
    """
    usual = rotary_speeds(x.shape[-1], x.device)  # (D/2,)
    per_position = torch.tensor(speeds, device=x.device) if speeds else usual
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * per_position  # (S, D/2)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)  # (..., S, D/2, 2) → (..., S, D)


@dataclass(frozen=True)
class TransformerSpec:
    """The settings that the transformers along time and along the bands share; ``norm`` is that of their sub-layers."""

    features: int
    heads: int
    head_dim: int
    feed_forward_factor: int
    norm: str
    closing_norm: bool
    bias: bool


class RotaryAttention(nn.Module):
    """x + self-attention of norm(x) with rotary positions and a gate per head: (M, S, N) → (M, S, N)."""

    def __init__(self, spec: TransformerSpec, speeds: Sequence[float], causal: bool):
        super().__init__()
        if spec.heads < 1 or spec.head_dim < 2 or spec.head_dim % 2:
            raise RecipeError(
                f"backbone.heads is {spec.heads} with head_dim {spec.head_dim}; expected at least one head of an even "
                "dimension."
            )
        if speeds and len(speeds) != spec.head_dim // 2:
            raise RecipeError(
                f"backbone.time_speeds or band_speeds gives {len(speeds)} speeds; expected {spec.head_dim // 2}, half "
                "of head_dim, or none."
            )
        self.n_heads, self.speeds, self.causal = spec.heads, tuple(speeds), causal
        width = spec.heads * spec.head_dim
        self.norm = make_norm(spec.norm, spec.features)
        self.qkv = nn.Linear(spec.features, 3 * width, bias=spec.bias)
        self.gate = nn.Linear(spec.features, spec.heads)
        self.out = nn.Linear(width, spec.features, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        qkv = self.qkv(normed).unflatten(-1, (3, self.n_heads, -1))  # (M, S, 3, heads, D)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # three of (M, heads, S, D)
        query, key = rotate(query, self.speeds), rotate(key, self.speeds)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        gated = mixed.transpose(1, 2) * self.gate(normed).sigmoid()[..., None]  # (M, S, heads, D)
        return x + self.out(gated.flatten(2))  # (M, S, heads·D) → (M, S, N)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, both pre-norm and residual: (M, S, N) → (M, S, N)."""

    def __init__(self, spec: TransformerSpec, speeds: Sequence[float], causal: bool):
        super().__init__()
        if spec.feed_forward_factor < 1:
            raise RecipeError(f"backbone.feed_forward_factor is {spec.feed_forward_factor}; expected 1 or more.")
        width = spec.feed_forward_factor * spec.features
        self.attention = RotaryAttention(spec, speeds, causal)
        self.feed_forward = nn.Sequential(
            make_norm(spec.norm, spec.features),
            nn.Linear(spec.features, width),
            nn.GELU(),
            nn.Linear(width, spec.features),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.feed_forward(x)


def _transformer(spec: TransformerSpec, n_layers: int, speeds: Sequence[float], causal: bool = False) -> nn.Module:
    """So many layers, and the closing norm: (M, S, N) → (M, S, N). One layer alone is not wrapped."""
    if n_layers < 1:
        raise RecipeError(f"backbone.time_layers or band_layers is {n_layers}; expected 1 or more.")
    layers: list[nn.Module] = [TransformerLayer(spec, speeds, causal) for _ in range(n_layers)]
    if spec.closing_norm:
        layers.append(make_norm(spec.norm, spec.features))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class RopeTransformer(nn.Module):
    """BS-RoFormer's block (Lu et al., 2023): a rotary-position transformer along time, then one along the bands.

    Its own norms are RMSNorm, or those of the published networks if the recipe's ``norm`` is ``length``. The recipe's
    ``norm`` applies to the encoder and the heads. With ``closing_norm`` each transformer ends with one more norm
    (Mel-Band RoFormer). ``time_speeds`` and ``band_speeds`` replace the usual speeds of the rotary positions. The cost
    is quadratic in the number of frames.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        n_bands: int,
        *,
        heads: int = 8,
        head_dim: int = 64,
        feed_forward_factor: int = 4,
        time_layers: int = 1,
        band_layers: int = 1,
        closing_norm: bool = False,
        attention_bias: bool = False,
        time_speeds: Sequence[float] = (),
        band_speeds: Sequence[float] = (),
        tac_activation: str = "prelu",
    ):
        super().__init__()
        self.reach = PAST if spec.causal else EVERYTHING
        norm = "length" if spec.norm == "length" else "rms"
        inner = TransformerSpec(spec.features, heads, head_dim, feed_forward_factor, norm, closing_norm, attention_bias)
        self.time = _transformer(inner, time_layers, time_speeds, spec.causal)
        self.band = _transformer(inner, band_layers, band_speeds)
        self.tac = TAC(spec.features, tac_activation) if spec.stereo == "tac" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape  # (B, C, K, T, N)
        x = self.time(x.flatten(0, 2)).view(shape)  # sequences over T: (B·C·K, T, N)
        x = x.transpose(2, 3)  # (B, C, T, K, N)
        x = self.band(x.flatten(0, 2)).view(x.shape)  # sequences over K: (B·C·T, K, N)
        return self.tac(x.transpose(2, 3))  # (B, C, K, T, N)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "band_sequence_rnn": BandSequenceRNN,
    "rope_transformer": RopeTransformer,
}
