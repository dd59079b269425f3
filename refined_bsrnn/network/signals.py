"""Waveform ↔ spectrogram with an exact inverse for every length from one sample up."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Signal(NamedTuple):
    """A waveform and its spectrogram, as the losses need them."""

    waveform: Tensor  # (B, C, L) float
    spectrogram: Tensor  # (B, C, F, T) complex


def as_pairs(spectrogram: Tensor) -> Tensor:
    """Complex (B, C, F, T) → its real and imaginary parts, (B, C, T, F, 2); no copy."""
    return torch.view_as_real(spectrogram.transpose(-2, -1))


def as_complex(pairs: Tensor) -> Tensor:
    """(B, C, T, F, 2) → complex (B, C, F, T); no copy of what `as_pairs` and the heads give."""
    return torch.view_as_complex(pairs.contiguous()).transpose(-2, -1)


class STFT(nn.Module):
    """Hann window, centred frames, reflected at the ends, not normalised (as in BSRNN, section IV).

    It is always computed in float32, because half precision has too few bits for a spectrum. Spectrograms have the
    shape (B, C, F, T), but are stored frame by frame, (B, C, T, F), as FFTs read and write them.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        window = torch.empty(n_fft)
        if not window.is_meta:  # where hann_window loads PyTorch's symbolic shapes, which takes a second
            window = torch.hann_window(n_fft)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, C, L) → complex (B, C, F, T) with F = n_fft // 2 + 1 and T = L // hop + 1, L after padding."""
        batch, channels, length = waveform.shape
        flat = F.pad(waveform.reshape(batch * channels, length).float(), (0, self.padding(length)))
        with torch.autocast(waveform.device.type, enabled=False):
            spectrogram = torch.stft(flat, self.n_fft, self.hop, window=self.window, return_complex=True)
        return spectrogram.unflatten(0, (batch, channels))  # (B·C, F, T) → (B, C, F, T)

    def inverse(self, spectrogram: Tensor, length: int) -> Tensor:
        """Complex (B, C, F, T) → (B, C, length), where ``length`` is that of the waveform it came from."""
        frames = spectrogram.transpose(-2, -1)  # (B, C, T, F)
        with torch.autocast(spectrogram.device.type, enabled=False):
            padded = _OverlapAdd.apply(frames.flatten(0, 1), self.window, self.hop, length + self.padding(length))
        return padded[:, :length].unflatten(0, frames.shape[:2])

    def padding(self, length: int) -> int:
        """The number of zeros to append to the waveform.

        Reflection needs more than n_fft / 2 samples. If frames overlap by less than 3/4, only the edge of one window
        covers the end after the last frame's centre, and its inverse is ill-conditioned; therefore the waveform is
        padded to whole hops.
        """
        to_reflect = max(0, self.n_fft // 2 + 1 - length)
        to_whole_hops = -(length + to_reflect) % self.hop if self.hop > self.n_fft // 4 else 0
        return to_reflect + to_whole_hops


class _OverlapAdd(torch.autograd.Function):
    """`torch.istft` of centred frames (M, T, F), whose gradient is one forward transform.

    The gradient of an inverse FFT is a forward FFT with every bin but the first and the last doubled. Autograd would
    make several passes over all frames, and copy them to another layout and back.
    """

    @staticmethod
    def forward(ctx: Any, spectra: Tensor, window: Tensor, hop: int, length: int) -> Tensor:
        n_fft, n_frames = len(window), spectra.shape[1]
        frames = torch.fft.irfft(spectra, n_fft).mul_(window)  # (M, T, n_fft)
        padded = overlap_add(frames, hop)
        envelope = overlap_add(window.square().expand(1, n_frames, -1), hop)
        inside = slice(n_fft // 2, n_fft // 2 + length)
        ctx.save_for_backward(window, envelope)
        ctx.inside, ctx.hop = inside, hop
        return padded[:, inside] / envelope[:, inside]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        window, envelope = ctx.saved_tensors
        padded = gradient.new_zeros(len(gradient), envelope.shape[1])
        padded[:, ctx.inside] = gradient / envelope[:, ctx.inside]
        frames = padded.unfold(-1, len(window), ctx.hop) * (window * (2 / len(window)))  # (M, T, n_fft)
        spectra = torch.fft.rfft(frames)  # (M, T, F)
        torch.view_as_real(spectra)[..., :: max(1, len(window) // 2), :] *= 0.5
        return spectra, None, None, None


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Frames (M, T, n_fft), ``hop`` samples apart → their sum (M, (T − 1)·hop + n_fft)."""
    n_frames, n_fft = frames.shape[1:]
    total = frames.new_zeros(len(frames), (n_frames - 1) * hop + n_fft)
    places = total.unfold(-1, n_fft, hop)  # (M, T, n_fft), a view
    n_apart = math.ceil(n_fft / hop)  # frames so far apart do not overlap: they can be added at once
    for first in range(min(n_apart, n_frames)):
        places[:, first::n_apart] += frames[:, first::n_apart]
    return total


# --- normalising the mixture before the network: how its level is measured, by name -----------------------------------


SILENT = 1e-10  # below this amplitude there is nothing to raise


class Level(NamedTuple):
    """The normalisation of a mixture, one value per item, shared by its channels and stems."""

    offset: Tensor  # (B, 1, 1), subtracted first
    gain: Tensor  # (B, 1, 1), multiplied by

    def apply(self, mixture: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        return (mixture - self.offset) * self.gain


def peak(mixture: Tensor) -> Level:
    """To a peak of 0.1 (sahandevs; the RMS normalisation that its code does before cancels out)."""
    highest = mixture.abs().amax((1, 2), keepdim=True)  # (B, C, L) → (B, 1, 1)
    return Level(torch.zeros_like(highest), _gain(0.1, highest))


def standardise(mixture: Tensor) -> Level:
    """To mean 0 and standard deviation 1 over channels and samples."""
    mean = mixture.mean((1, 2), keepdim=True)  # (B, C, L) → (B, 1, 1)
    deviation = (mixture - mean).square().mean((1, 2), keepdim=True).sqrt()  # (B, C, L) → (B, 1, 1)
    return Level(mean, _gain(1.0, deviation))


def _gain(wanted: float, found: Tensor) -> Tensor:
    """wanted / found; 1 for silence."""
    silent = found < SILENT
    return torch.where(silent, 1.0, wanted / found.masked_fill(silent, 1.0))


NORMALISERS: dict[str, Callable[[Tensor], Level]] = {"peak": peak, "standardise": standardise}
OF_WHOLE_TRACKS = {"peak"}  # measured once per track; the others on every excerpt or chunk
