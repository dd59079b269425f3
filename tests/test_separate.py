"""The separator: lengths, rates, channels, seams."""

import numpy as np
import pytest
import torch
from conftest import RATE, micro_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.errors import AudioError, RecipeError, UserError
from refined_bsrnn.model import BSRNN
from refined_bsrnn.separate import Separator, check_device, chunk_bounds, fade_weights


class Identity(BSRNN):
    """Every head gives the mixture back."""

    def forward(self, mixture, targets=None):
        return {target: mixture.clone() for target in self.check_targets(targets)}


def separator(model=BSRNN, **options):
    torch.manual_seed(0)
    return Separator(model.from_recipe(micro_recipe(None)), **options)


@given(length=st.integers(1, 500), chunk=st.integers(1, 120), share=st.floats(0, 0.99))
def test_chunks_cover_everything_and_weights_sum_to_one(length, chunk, share):
    overlap = min(round(share * chunk), chunk - 1)
    total, covered = torch.zeros(length), torch.zeros(length)
    bounds = list(chunk_bounds(length, chunk, overlap))
    for start, stop in bounds:
        assert stop - start == min(chunk, length)
        covered[start:stop] += 1
        total[start:stop] += fade_weights(stop - start, overlap)
    assert covered.min() >= 1
    normalised = sum(place(fade_weights(b - a, overlap), a, length) / total for a, b in bounds)
    torch.testing.assert_close(normalised, torch.ones(length))


def place(weights, start, length):
    return torch.nn.functional.pad(weights, (start, length - start - len(weights)))


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 30000),
    channels=st.integers(1, 4),
    rate=st.sampled_from([4000, 8000, 11025, 44100]),
    chunk_seconds=st.sampled_from([0.1, 0.37, 5.0]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_length_and_channels_come_back_at_every_rate(length, channels, rate, chunk_seconds, overlap):
    mixture = torch.randn(channels, length, generator=torch.Generator().manual_seed(length))
    estimates = separator(Identity, chunk_seconds=chunk_seconds, overlap=overlap).separate(mixture, rate)
    assert {name: x.shape for name, x in estimates.items()} == {"vocals": mixture.shape, "drums": mixture.shape}
    if rate == RATE:  # no resampling: exact, without a seam
        assert (estimates["drums"] - mixture).abs().max() < 1e-5


def test_one_chunk_equals_the_model():
    s = separator(chunk_seconds=10.0)
    mixture = torch.randn(2, 3 * RATE)
    with torch.inference_mode():
        assert torch.allclose(s.separate(mixture)["vocals"], s.model(mixture[None])["vocals"][0], atol=1e-6)


def test_only_the_heads_asked_for_run():
    s = separator()
    s.model.heads["drums"].forward = None  # calling it would fail
    assert list(s.separate(torch.randn(1, 500), heads=["vocals"])) == ["vocals"]
    with pytest.raises(UserError, match="no head 'vocal'. Did you mean 'vocals'"):
        s.separate(torch.randn(1, 500), heads=["vocal"])


def test_arrays_and_single_channels_come_in_too():
    assert separator().separate(np.zeros(500))["vocals"].shape == (1, 500)


def test_progress_ends_at_one():
    seen = []
    separator(chunk_seconds=0.1).separate(torch.randn(1, RATE), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 0), r"shape \(2, 0\); expected \(channels, samples\)"),
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
    ],
)
def test_audio_that_cannot_be_used(audio, message):
    with pytest.raises(AudioError, match=message):
        separator().separate(audio)


def test_bad_options():
    with pytest.raises(RecipeError, match="overlap 1.0; expected"):
        separator(overlap=1.0)
    with pytest.raises(RecipeError, match="device 'gpu7' cannot be used here"):
        check_device("gpu7")
