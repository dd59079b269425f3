"""The upper limit of masking: the scores of masks made from the true stem.

Two masks on the same STFT (Hann, 2048 samples, hop 512, at the track's own rate, independent of the network), for a
stem S and the rest of the mixture N = X − S:

- ``ratio_mask``: |S|² / (|S|² + |N|²), the power ratio mask; it is real, so the phase of the mixture is kept.
- ``complex_mask``: S / X, its magnitude limited to 10 (as the bounded cIRM of Williamson et al., 2016).

Both need only the stem and the mixture, so the limit does not depend on the other targets of a run.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network.signals import STFT

N_FFT, HOP = 2048, 512
MAX_MAGNITUDE = 10.0
MASKS = ("ratio_mask", "complex_mask")
CONTEXT = N_FFT  # samples on either side that decide about a block's first and last
STATED = f"STFT Hann {N_FFT}, hop {HOP}, at the track's rate"


def context_bounds(start: int, stop: int, length: int) -> tuple[int, int]:
    """The samples around ``start`` to ``stop`` that must be read so that masks do not depend on the cut into blocks."""
    return max(0, (start - CONTEXT) // HOP * HOP), min(length, stop + CONTEXT)


@torch.no_grad()
def masked(mixture: Tensor, stem: Tensor) -> dict[str, Tensor]:
    """{mask: (C, L)}: the mixture (C, L) under both ideal masks for the stem (C, L)."""
    stft, length = STFT(N_FFT, HOP), mixture.shape[-1]
    padded = F.pad(torch.stack([mixture, stem]), (CONTEXT, CONTEXT))  # zeros, not mirrored music, at a song's ends
    x, s = stft(padded)  # each (C, F, T)
    power, rest = s.abs() ** 2, (x - s).abs() ** 2
    ratio = power / (power + rest).clamp(min=1e-20)
    exact = s / torch.where(x == 0, torch.ones_like(x), x)
    limited = exact * (MAX_MAGNITUDE / exact.abs().clamp(min=MAX_MAGNITUDE))
    both = stft.inverse(torch.stack([ratio * x, limited * x]), padded.shape[-1])
    return dict(zip(MASKS, both[..., CONTEXT : CONTEXT + length], strict=True))
