"""Causal networks live: block in, block out, with all state carried from block to block.

No part of a network is written twice. The network runs unchanged on a few frames at a time, in a copy whose modules
with a state over time (recurrent and convolutional cells, cumulative norms) continue from that state. The copy shares
the weights, so any number of live streams may use one network. The blocks together equal the result for the whole
signal.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..audio import MAX_CHANNELS
from ..errors import AudioError, RecipeError
from ..network.blocks import ConvCell, Convolution, CumulativeNorm, RotaryAttention
from ..network.core import MaskCore
from ..network.model import BSRNN
from ..network.signals import STFT, as_complex, as_pairs
from .separator import Separator
from .source import Source, as_float32

BLOCK_SECONDS = 0.1


# --- modules that remember --------------------------------------------------------------------------------------------


class LiveNorm(CumulativeNorm):
    """A `CumulativeNorm` that continues its statistics; the sums are in float64, which is exact enough for hours."""

    def __init__(self, norm: CumulativeNorm):
        nn.Module.__init__(self)
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.count = 0
        self.sums: Tensor | float = 0.0  # of values and squares

    def standardise(self, x: Tensor) -> Tensor:
        exact = x.double()
        count = self.count + x.shape[-1] * torch.arange(1, x.shape[-2] + 1, device=x.device)  # (S,)
        sums = torch.stack([exact.sum(-1), exact.square().sum(-1)]).cumsum(-1) + self.sums  # (2, ..., S)
        self.count, self.sums = self.count + x.shape[-1] * x.shape[-2], sums[..., -1:]
        mean, power = (sums / count)[..., None].unbind()
        return ((exact - mean) * (power - mean.square()).clamp(min=0).add(self.eps).rsqrt()).to(x.dtype)


class LiveRNN(nn.Module):
    """A recurrent cell that continues from its last state."""

    def __init__(self, cell: nn.RNNBase):
        super().__init__()
        self.cell = cell
        self.state: Any = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(M, S, N) → (M, S, hidden)."""
        y, self.state = self.cell(x, self.state)
        return y, None


class LiveConvolution(nn.Module):
    """A causal `Convolution` that stores as many past positions as it reads."""

    def __init__(self, convolution: Convolution):
        super().__init__()
        self.conv, self.reach = convolution.conv, convolution.padding[0]
        self.past: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(M, S, N) → (M, S, width)."""
        x = x.transpose(1, 2)  # (M, N, S)
        x = F.pad(x, (self.reach, 0)) if self.past is None else torch.cat([self.past, x], dim=2)
        self.past = x[..., -self.reach :]
        return torch.relu(self.conv(x)).transpose(1, 2)


class LiveConvCell(LiveConvolution):
    """The same for a `ConvCell`."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class LiveCore(nn.Module):
    """The network between STFT and iSTFT with modules that keep their state, beginning at silence; it shares the
    weights.

    Raises `RecipeError` for a network that is not causal, and for one that must store all of its input.
    """

    def __init__(self, model: BSRNN, heads: list[str]):
        super().__init__()
        if not model.recipe.backbone.causal:
            raise RecipeError(
                "this network looks at the whole signal; live it needs one trained with backbone.causal=true."
            )
        core = MaskCore(model, heads)
        kept = {id(tensor): tensor for tensor in (*core.parameters(), *core.buffers())}
        self.core = copy.deepcopy(core, kept).eval()
        for module in list(self.core.modules()):
            for name, child in module.named_children():
                setattr(module, name, self._live(child))

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        """The next frames' planes (B, C, 2, F, T) → those of every estimate."""
        return self.core(planes)

    def _live(self, module: nn.Module) -> nn.Module:
        """The form that remembers, of a module that works along time; any other as it is."""
        if isinstance(module, RotaryAttention) and module.causal:
            raise RecipeError(
                "a rope_transformer attends to all of its input, which grows; live it needs another block."
            )
        if isinstance(module, CumulativeNorm):
            return LiveNorm(module)
        if isinstance(module, nn.RNNBase) and not module.bidirectional:  # along the bands they look both ways
            return LiveRNN(module)
        if isinstance(module, Convolution) and module.padding[1] == 0:
            return (LiveConvCell if isinstance(module, ConvCell) else LiveConvolution)(module)
        return module


# --- the STFT, piece by piece -----------------------------------------------------------------------------------------


class LiveSTFT:
    """`STFT` of a signal that arrives in blocks: the same frames, with the ends reflected in the same way."""

    def __init__(self, stft: STFT):
        self.stft, self.half = stft, stft.n_fft // 2
        self.waiting: Tensor | None = None  # padded samples that frames still need
        self.tail: Tensor | None = None  # the last samples, which the end reflects
        self.started = False
        self.length = 0

    def push(self, block: Tensor) -> Tensor:
        """(B, C, n) → complex (B, C, F, T) of the frames that are complete."""
        self.length += block.shape[-1]
        self.waiting = block if self.waiting is None else torch.cat([self.waiting, block], dim=-1)
        self.tail = block if self.tail is None else torch.cat([self.tail, block], dim=-1)
        self.tail = self.tail[..., -self.half - 1 :]
        if not self.started:
            if self.waiting.shape[-1] <= self.half:
                return self._frames(self.waiting[..., :0])
            self.waiting = torch.cat([self.waiting[..., 1 : self.half + 1].flip(-1), self.waiting], dim=-1)
            self.started = True
        return self._frames(self.waiting)

    def finish(self) -> Tensor:
        """The last frames."""
        assert self.waiting is not None
        zeros = self.waiting.new_zeros(*self.waiting.shape[:-1], self.stft.padding(self.length))
        before_end = self.push(zeros)
        assert self.tail is not None
        self.waiting = torch.cat([self.waiting, self.tail[..., :-1].flip(-1)], dim=-1)
        return torch.cat([before_end, self._frames(self.waiting)], dim=-1)

    def _frames(self, samples: Tensor) -> Tensor:
        n_fft, hop = self.stft.n_fft, self.stft.hop
        count = max(0, (samples.shape[-1] - n_fft) // hop + 1)
        if count == 0:
            return torch.empty(*samples.shape[:-1], self.half + 1, 0, dtype=torch.complex64, device=samples.device)
        frames = samples.unfold(-1, n_fft, hop) * self.stft.window  # (B, C, T, n_fft)
        self.waiting = samples[..., count * hop :]
        return torch.fft.rfft(frames).transpose(-2, -1)  # (B, C, F, T)


class LiveInverse:
    """The inverse, block by block: frames in, samples out as soon as no later frame changes them."""

    def __init__(self, stft: STFT):
        self.stft = stft
        self.skip = stft.n_fft // 2  # the reflected beginning
        self.total: Tensor | None = None
        self.weight = torch.empty(0)

    def push(self, spectrogram: Tensor) -> Tensor:
        """Complex (B, C, F, T) → (B, C, n)."""
        n_fft, hop, window = self.stft.n_fft, self.stft.hop, self.stft.window
        count = spectrogram.shape[-1]
        if self.total is None:
            self.total = spectrogram.real.new_zeros(*spectrogram.shape[:2], n_fft)
            self.weight = window.new_zeros(n_fft)
        self.total, self.weight = (F.pad(x, (0, count * hop)) for x in (self.total, self.weight))
        frames = torch.fft.irfft(spectrogram.transpose(-2, -1), n_fft) * window  # (B, C, T, n_fft)
        for t in range(count):
            self.total[..., t * hop : t * hop + n_fft] += frames[..., t, :]
            self.weight[t * hop : t * hop + n_fft] += window.square()
        return self._take(count * hop)

    def finish(self, n_samples: int) -> Tensor:
        """The last ``n_samples``, (B, C, n)."""
        return self._take(n_samples + self.skip)[..., :n_samples]

    def _take(self, n: int) -> Tensor:
        assert self.total is not None
        done = self.total[..., :n] / self.weight[:n].clamp(min=1e-11)
        self.total, self.weight = self.total[..., n:], self.weight[n:]
        skipped = min(self.skip, n)
        self.skip -= skipped
        return done[..., skipped:]


# --- live separation --------------------------------------------------------------------------------------------------


class Live:
    """One live stream through a separator's causal network: `push` blocks, `finish` at the end.

    All audio is at the network's rate. A sample comes out once ``latency_samples`` more have gone in. Raises
    `RecipeError` for a network that cannot run live.
    """

    def __init__(self, separator: Separator, heads: Iterable[str] | None = None):
        model = separator.model
        self.separator = separator
        self.heads = model.check_targets(heads)
        self.core = LiveCore(model, self.heads)
        self.latency_samples = model.stft.n_fft - 1
        self.analysis, self.inverse = LiveSTFT(model.stft), LiveInverse(model.stft)
        self.n_channels = self.n_in = self.n_out = 0
        self.ended = False

    def push(self, block: Tensor | np.ndarray) -> Tensor:
        """The next (channels, n) → the finished part of the estimates, (heads, channels, m).

        Raises `AudioError` for other shapes, integers, NaN or infinite samples, and after `finish`.
        """
        block = self._checked(block)
        self.n_in += block.shape[1]
        items = self.separator.to_items(block[None])  # (P, M, n)
        with torch.no_grad():
            return self._give(self._estimate(self.analysis.push(items)))

    def finish(self) -> Tensor:
        """The rest of the estimates, (heads, channels, m); this ends the stream."""
        if self.n_in == 0 or self.ended:
            raise AudioError("there is nothing to finish; expected blocks first, and one end.")
        self.ended = True
        with torch.no_grad():
            ready = self._give(self._estimate(self.analysis.finish()))[..., : self.n_in]
            rest = self.separator.from_items(
                self._stacked(self.inverse.finish(self.n_in - self.n_out)), self.n_channels
            )
            return torch.cat([ready, rest[0]], dim=-1)

    def _checked(self, block: Tensor | np.ndarray) -> Tensor:
        block = as_float32(block)
        if block.ndim != 2 or len(block) not in ([self.n_channels] if self.n_channels else range(1, MAX_CHANNELS + 1)):
            expected = self.n_channels or "channels"
            raise AudioError(f"a block has the shape {tuple(block.shape)}; expected ({expected}, samples).")
        if self.ended:
            raise AudioError("this stream has ended; expected a new Live for the next one.")
        if not torch.isfinite(block).all():
            raise AudioError("the audio holds NaN or infinite samples; expected finite numbers.")
        self.n_channels = len(block)
        return block

    def _estimate(self, spectrogram: Tensor) -> Tensor:
        """Complex (P, M, F, T) → samples (P, heads·M, n)."""
        if spectrogram.shape[-1] == 0:
            return spectrogram.real.new_zeros(spectrogram.shape[0], len(self.heads) * spectrogram.shape[1], 0)
        planes = self.core(as_pairs(spectrogram).permute(0, 1, 4, 3, 2))
        return self.inverse.push(torch.cat([as_complex(x.permute(0, 1, 4, 3, 2)) for x in planes], dim=1))

    def _stacked(self, samples: Tensor) -> Tensor:
        return samples.unflatten(1, (len(self.heads), -1))  # (P, heads, M, n)

    def _give(self, samples: Tensor) -> Tensor:
        result = self.separator.from_items(self._stacked(samples), self.n_channels)[0]  # (heads, C, n)
        result = result[..., : self.n_in - self.n_out]
        self.n_out += result.shape[-1]
        return result


@dataclass
class LiveEstimates:
    """Replaces `Separator.estimates` with live estimates, and measures the time of each block."""

    block_seconds: float = BLOCK_SECONDS
    seconds: list[float] = field(default_factory=list)
    audio_seconds: list[float] = field(default_factory=list)
    latency_seconds: float = 0.0

    def __call__(
        self, separator: Separator, source: Source, blocks: Iterable[Tensor], heads: list[str]
    ) -> Iterator[Tensor]:
        live = Live(separator, heads)
        rate_hz = separator.model.sample_rate_hz
        self.latency_seconds = max(self.latency_seconds, live.latency_samples / rate_hz)

        def run(inner: Iterable[Tensor]) -> Iterator[Tensor]:
            for block in inner:
                yield self._timed(live.push, block, rate_hz)
            yield live.finish()

        size = max(1, round(self.block_seconds * source.sample_rate_hz))
        small = (part for block in blocks for part in block.split(size, dim=1))
        return separator.at_network_rate(source, small, run)

    def _timed(self, push: Callable[[Tensor], Tensor], block: Tensor, rate_hz: int) -> Tensor:
        started = time.perf_counter()
        result = push(block)
        self.seconds.append(time.perf_counter() - started)
        self.audio_seconds.append(block.shape[1] / rate_hz)
        return result

    def line(self) -> str:
        """A message about the time it took."""
        if not self.seconds:
            return "Live: no block was complete."
        mean, worst = sum(self.seconds) / len(self.seconds), max(self.seconds)
        speed = sum(self.audio_seconds) / sum(self.seconds)
        return (
            f"Live: blocks of {1000 * self.block_seconds:.0f} ms took {1000 * mean:.0f} ms on average and "
            f"{1000 * worst:.0f} ms at worst ({speed:.1f} × real time). Latency: {1000 * self.latency_seconds:.0f} ms "
            "of the network's window, with the block and its computing "
            f"{1000 * (self.latency_seconds + self.block_seconds + worst):.0f} ms at worst."
        )
