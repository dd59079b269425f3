"""Waveform ↔ spectrogram with an exact inverse for every length from one sample up."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Signal(NamedTuple):
    """One signal seen both ways, as the losses want it."""

    waveform: Tensor  # (B, C, L) float
    spectrogram: Tensor  # (B, C, F, T) complex


def as_planes(spectrogram: Tensor) -> Tensor:
    """Complex (B, C, F, T) → its real and imaginary parts, (B, C, 2, F, T); no copy."""
    return torch.view_as_real(spectrogram).movedim(-1, 2)


def as_complex(planes: Tensor) -> Tensor:
    """(B, C, 2, F, T) → complex (B, C, F, T)."""
    return torch.view_as_complex(planes.movedim(2, -1).contiguous())


class STFT(nn.Module):
    """Hann window, centred frames, reflected at the ends, not normalised (as in BSRNN, section IV).

    Always computed in float32: half precision has too few bits for a spectrum.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, C, L) → complex (B, C, F, T) with F = n_fft // 2 + 1 and T = L // hop + 1, L after padding."""
        batch, channels, length = waveform.shape
        flat = F.pad(waveform.reshape(batch * channels, length).float(), (0, self.padding(length)))
        with torch.autocast(waveform.device.type, enabled=False):
            spectrogram = torch.stft(flat, self.n_fft, self.hop, window=self.window, return_complex=True)
        return spectrogram.reshape(batch, channels, *spectrogram.shape[-2:])  # (B·C, F, T) → (B, C, F, T)

    def inverse(self, spectrogram: Tensor, length: int) -> Tensor:
        """Complex (B, C, F, T) → (B, C, length), where ``length`` is that of the waveform it came from."""
        batch, channels = spectrogram.shape[:2]
        with torch.autocast(spectrogram.device.type, enabled=False):
            flat = torch.istft(
                spectrogram.flatten(0, 1),  # (B·C, F, T)
                self.n_fft,
                self.hop,
                window=self.window,
                length=length + self.padding(length),
            )
        return flat[:, :length].reshape(batch, channels, length)

    def padding(self, length: int) -> int:
        """Zeros to put behind the waveform.

        Reflecting needs more than n_fft / 2 samples. With frames that overlap by less than 3/4 the tail behind the
        last frame's centre is seen only by the foot of one window, whose inverse is ill-conditioned: there the
        waveform is filled up to whole hops.
        """
        to_reflect = max(0, self.n_fft // 2 + 1 - length)
        to_whole_hops = -(length + to_reflect) % self.hop if self.hop > self.n_fft // 4 else 0
        return to_reflect + to_whole_hops
