"""The Wiener filter against its closed forms."""

import numpy as np
import pytest
import torch

from refined_bsrnn.separation.wiener import expectation_maximisation, wiener


def spectra(sources, channels, frames=7, seed=0):
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(sources, channels, 5, frames, dtype=torch.complex64, generator=random)
    y *= torch.rand(sources, 1, 5, frames, generator=random)
    return y.sum(0), y


def test_one_channel_is_the_classical_ratio_of_powers():
    x, y = spectra(3, 1)
    got = expectation_maximisation(x, y, 1)
    power = y.abs() ** 2
    torch.testing.assert_close(got, power / power.sum(0) * x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_several_channels_against_the_formula_bin_by_bin(iterations):
    x, y = (a.numpy().astype(complex) for a in spectra(3, 2))
    got = expectation_maximisation(torch.from_numpy(x), torch.from_numpy(y), iterations).numpy()
    for _ in range(iterations):
        v = (np.abs(y) ** 2).mean(1)  # (J, F, T)
        new = np.zeros_like(y)
        for f in range(y.shape[2]):
            spatial = [
                sum(np.outer(y[j, :, f, t], y[j, :, f, t].conj()) for t in range(y.shape[3])) / v[j, f].sum()
                for j in range(3)
            ]
            for t in range(y.shape[3]):
                inverse = np.linalg.inv(sum(v[j, f, t] * spatial[j] for j in range(3)))
                for j in range(3):
                    new[j, :, f, t] = v[j, f, t] * spatial[j] @ inverse @ x[:, f, t]
        y = new
    np.testing.assert_allclose(got, y, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("length", [1, 100, 9000])
def test_estimates_and_what_they_leave_are_the_mixture(channels, length):
    random = torch.Generator().manual_seed(length)
    sources = 0.1 * torch.randn(3, channels, length, generator=random)
    filtered = wiener(sources.sum(0), sources, 1024)  # nothing is left: the estimates sum to the mixture
    assert filtered.shape == sources.shape
    torch.testing.assert_close(filtered.sum(0), sources.sum(0), atol=1e-4, rtol=0)
    silent = wiener(torch.zeros(channels, length), torch.zeros(2, channels, length), 1024)
    assert not silent.any()


@pytest.mark.parametrize("channels", [1, 2])
def test_nothing_of_the_mixture_is_lost(channels):
    x, y = (a.to(torch.complex128) for a in spectra(3, channels))
    torch.testing.assert_close(expectation_maximisation(x, y, 2).sum(0), x, atol=1e-12, rtol=0)


def test_alike_channels_stay_alike():
    mono = 0.1 * torch.randn(3, 1, 5000, generator=torch.Generator().manual_seed(0))
    sources = mono.expand(3, 2, 5000)
    filtered = wiener(sources.sum(0), sources, 1024)
    torch.testing.assert_close(filtered[:, 0], filtered[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(filtered[:, :1], wiener(mono.sum(0), mono, 1024), atol=1e-4, rtol=0)


def test_it_mends_estimates_that_leak():
    """Two sources panned apart; each estimate holds a third of the other."""
    random = torch.Generator().manual_seed(0)
    tones = torch.sin(torch.arange(20000) * torch.tensor([[0.05], [0.31]]))
    noise = torch.randn(2, 20000, generator=random) * tones
    sources = torch.stack([noise[:1] * torch.tensor([[1.0], [0.2]]), noise[1:] * torch.tensor([[0.1], [1.0]])])
    leaky = sources + 0.33 * sources.flip(0)
    better = wiener(sources.sum(0), leaky, 2048, iterations=2)
    assert ((better - sources) ** 2).sum() < 0.3 * ((leaky - sources) ** 2).sum()
