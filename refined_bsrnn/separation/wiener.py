"""A multichannel Wiener filter that makes several estimates consistent with the mixture.

Every source is modelled per bin as a Gaussian with its own power in every frame and a spatial covariance (Duong et al.,
2010; Nugraha et al., 2016). Both are fitted to the estimates by expectation maximisation, as in the norbert package.
The difference between the mixture and the sum of the estimates is one more source, so that all sources add up to the
mixture.
"""

import torch
from torch import Tensor

from ..network.signals import STFT

FLOOR = 1e-7  # of a bin's power, added to its covariance so that it can be inverted where the channels are alike
TINY = 1e-30  # power of what is taken for silence


def wiener(mixture: Tensor, estimates: Tensor, n_fft: int, iterations: int = 1) -> Tensor:
    """Waveforms (C, L) and (J, C, L) → (J, C, L). ``n_fft``: about 0.1 s; the hop is a quarter of it."""
    stft = STFT(n_fft, n_fft // 4)
    sources = torch.cat([estimates, (mixture - estimates.sum(0))[None]])  # (J+1, C, L)
    spectra = stft(torch.cat([mixture[None], sources]))  # (J+2, C, F, T)
    filtered = expectation_maximisation(spectra[0], spectra[1:], iterations)[:-1]
    return stft.inverse(filtered, mixture.shape[-1])


def expectation_maximisation(mixture: Tensor, sources: Tensor, iterations: int) -> Tensor:
    """Spectrograms, complex (C, F, T) and (J, C, F, T) that sum to it → (J, C, F, T) that sum to it."""
    x = mixture.permute(1, 2, 0).to(torch.complex128)  # (F, T, C)
    y = sources.permute(0, 2, 3, 1).to(torch.complex128)  # (J, F, T, C)
    identity = torch.eye(x.shape[-1], device=x.device, dtype=x.dtype)
    for _ in range(iterations):
        power = y.abs().square().mean(-1)  # v_j: (J, F, T)
        # R_j, the sum over frames of y yᴴ by that of v: (J, F, C, C)
        spatial = torch.einsum("jftc,jftd->jfcd", y, y.conj()) / (power.sum(2) + TINY)[..., None, None]
        total = torch.einsum("jft,jfcd->ftcd", power.to(x.dtype), spatial)  # the mixture's covariance
        total = total + (FLOOR * power.sum(0) + TINY)[..., None, None] * identity
        whitened = torch.linalg.solve(total, x[..., None])[..., 0]  # (F, T, C)
        y = power[..., None] * torch.einsum("jfcd,ftd->jftc", spatial, whitened)
        y = y + (x - y.sum(0)) / len(y)  # what the floor has taken
    return y.permute(0, 3, 1, 2).to(sources.dtype)
