"""The STFT and its inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.network.signals import STFT


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 20000), hop=st.sampled_from([256, 512, 1024]), channels=st.integers(1, 3))
def test_inverse_is_exact_at_every_length(length, hop, channels):
    waveform = torch.randn(2, channels, length, generator=torch.Generator().manual_seed(length))
    stft = STFT(2048, hop)
    assert (stft.inverse(stft(waveform), length) - waveform).abs().max() < 1e-5


@pytest.mark.parametrize(("length", "frames"), [(44100, 87), (132300, 259), (134144, 263)])
def test_number_of_frames(length, frames):
    assert STFT(2048, 512)(torch.zeros(1, 1, length)).shape == (1, 1, 1025, frames)


def test_values_are_those_of_a_windowed_dft():
    waveform = torch.randn(1, 1, 8192, generator=torch.Generator().manual_seed(0))
    frame = STFT(2048, 512)(waveform)[0, 0, :, 6]  # centred on sample 6 · 512
    piece = waveform[0, 0, 6 * 512 - 1024 : 6 * 512 + 1024].double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    expected = np.fft.rfft(piece * window)
    np.testing.assert_allclose(frame.numpy(), expected, atol=2e-4)


def test_stays_in_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert STFT(2048, 512)(torch.randn(1, 1, 5000)).dtype == torch.complex64
