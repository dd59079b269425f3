"""Metrics: by hand, and against museval."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.errors import UserError
from refined_bsrnn.metrics import csdr, csdr_frames, museval_scores, si_sdr, usdr

RATE = 4000


def noise(seed, *shape, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    ("reference", "estimate", "decibel"),
    [
        (np.ones((2, 4)), np.full((2, 4), 0.9), 19.99999462),
        (np.zeros((2, 4)), np.zeros((2, 4)), 0.0),
        (np.zeros((2, 4)), np.full((2, 4), 0.1), -59.0309),
        (np.ones((2, 4)), np.zeros((2, 4)), 0.0),
    ],
)
def test_usdr_by_hand(reference, estimate, decibel):
    assert usdr(reference, estimate) == pytest.approx(decibel, abs=1e-4)
    assert usdr(torch.from_numpy(reference), torch.from_numpy(estimate)) == usdr(reference, estimate)


def test_usdr_is_computed_in_float64():
    long = np.full((1, 10_000_000), 0.1, dtype=np.float32)
    assert usdr(long, 0.9 * long) == pytest.approx(20.0, abs=1e-4)


# --- cSDR is museval's SDR


def silent_part(x, start, stop):
    x = x.copy()
    x[:, start:stop] = 0
    return x


def anti_phase(x, start, stop):
    x = x.copy()
    x[1, start:stop] = -x[0, start:stop]
    return x


S = np.round(noise(0, 2, 5 * RATE) * 1000)  # whole numbers: a sum that cancels is exactly zero
E_ = S + noise(1, 2, 5 * RATE, scale=300)
CASES = {
    "noise": (S, E_),
    "silent reference": (silent_part(S, RATE, 3 * RATE), E_),
    "silent estimate": (S, silent_part(E_, 0, RATE)),
    "silent in half a frame": (silent_part(S, RATE // 2, RATE), E_),
    "anti-phase reference": (anti_phase(S, RATE, 2 * RATE), E_),
    "samples that cancel over a frame": (np.tile([1.0, -1.0], (2, RATE)), noise(6, 2, 2 * RATE)),
    "odd length": (S[:, : 3 * RATE + 1234], E_[:, : 3 * RATE + 1234]),
    "just under a frame more": (S[:, : 4 * RATE - 1], E_[:, : 4 * RATE - 1]),
    "under a frame": (S[:, :3999], E_[:, :3999]),
    "shorter than museval's filters": (S[:, :300], E_[:, :300]),
    "exactly a frame": (S[:, :RATE], E_[:, :RATE]),
    "mono": (S[:1], E_[:1]),
    "quiet": (1e-6 * S, 1e-6 * E_),
    "worse than nothing": (S, -S),
    "sums to zero, not silent": (np.tile([1000.0, -1000.0], (2, RATE)), S[:, : 2 * RATE]),
    "one silent channel": (S * [[1.0], [0.0]], E_),
    "the same in both channels": (S[[0, 0]], E_[[0, 0]]),
    "perfect": (S, S),
}


@pytest.mark.parametrize("case", CASES)
def test_csdr_equals_museval_on_every_frame(case):
    reference, estimate = CASES[case]
    expected = museval_scores({"a": reference}, {"a": estimate}, RATE)["a"]["SDR"]
    np.testing.assert_allclose(csdr_frames(reference, estimate, RATE), expected, atol=1e-4)
    assert csdr(reference, estimate, RATE) == pytest.approx(np.nanmedian(expected), abs=1e-4)


def test_each_target_decides_for_itself_which_frames_are_silent():
    """museval gives NaN to all when one is silent; a score here does not depend on the other targets."""
    quiet = silent_part(S, 0, RATE)
    together = museval_scores({"a": S, "b": quiet}, {"a": E_, "b": E_}, RATE)
    assert math.isnan(together["a"]["SDR"][0])
    frames = csdr_frames(S, E_, RATE)
    assert not np.isnan(frames).any()
    np.testing.assert_allclose(frames[1:], together["a"]["SDR"][1:], atol=1e-4)


def test_median_of_an_even_number_of_frames_is_the_mean_of_the_middle_two():
    reference = np.ones((1, 4 * RATE))
    errors = np.repeat([0.1, 0.2, 0.4, 0.8], RATE)[None]
    frames = -20 * np.log10([0.1, 0.2, 0.4, 0.8])
    np.testing.assert_allclose(csdr_frames(reference, reference - errors, RATE), frames)
    assert csdr(reference, reference - errors, RATE) == pytest.approx((frames[1] + frames[2]) / 2)


def test_with_silence_alone_there_is_no_csdr():
    assert math.isnan(csdr(np.zeros_like(S), E_, RATE))
    assert math.isnan(csdr(0 * S[:, :9], E_[:, :9], RATE))


def test_a_perfect_frame_is_infinite():
    assert csdr_frames(S, S, RATE).tolist() == [math.inf] * 5


def test_four_minutes_take_less_than_two_seconds():
    reference = noise(2, 2, 240 * 44100)
    estimate = 0.9 * reference
    started = time.perf_counter()
    csdr(reference, estimate, 44100)
    assert time.perf_counter() - started < 2.0


# --- SI-SDR


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), decibel=st.floats(-20, 40))
def test_si_sdr_does_not_see_the_scale(scale, decibel):
    s, n = noise(3, 2, 500), noise(4, 2, 500)
    n -= (n * s).sum() / (s * s).sum() * s  # orthogonal: the ratio is known
    n *= np.sqrt((s**2).sum() / (n**2).sum()) * 10 ** (-decibel / 20)
    assert si_sdr(s, scale * (s + n)) == pytest.approx(decibel, abs=1e-6)


def test_si_sdr_at_its_edges():
    s = noise(5, 1, 100)
    assert math.isnan(si_sdr(np.zeros((1, 100)), s))
    assert si_sdr(s, np.zeros((1, 100))) == -math.inf
    assert si_sdr(np.ones((1, 4)), np.full((1, 4), 3.0)) == math.inf
    assert si_sdr(s, s + 5, zero_mean=True) > 100 > si_sdr(s, s + 5)


# --- what cannot be scored


@pytest.mark.parametrize("metric", [usdr, si_sdr, lambda s, e: csdr(s, e, RATE)])
@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (np.zeros((2, 4)), np.zeros((2, 5)), r"reference \(2, 4\) and estimate \(2, 5\) differ"),
        (np.zeros(4), np.zeros(4), r"expected one \(channels, samples\)"),
        (np.zeros((2, 0)), np.zeros((2, 0)), r"reference \(2, 0\)"),
        (np.full((1, 4), np.nan), np.zeros((1, 4)), "the reference holds NaN"),
        (np.zeros((1, 4)), np.full((1, 4), np.inf), "the estimate holds NaN or infinite"),
    ],
)
def test_what_cannot_be_compared(metric, reference, estimate, message):
    with pytest.raises(UserError, match=message):
        metric(reference, estimate)


def test_bad_rate_and_silent_target():
    with pytest.raises(UserError, match="sample rate is 0"):
        csdr(S, E_, 0)
    with pytest.raises(UserError, match="silent signal: b"):
        museval_scores({"a": S, "b": 0 * S}, {"a": E_, "b": E_}, RATE)


def test_tensors_of_any_kind_are_scored():
    x = torch.ones(2, 4, requires_grad=True)
    assert usdr(x, 0.9 * x) == pytest.approx(20.0, abs=1e-4)
    assert usdr(x.bfloat16(), 0 * x) == 0.0


def test_the_mean_that_si_sdr_leaves_out_is_that_of_each_channel():
    s, means = noise(7, 2, 1000), np.array([[5.0], [-5.0]])
    assert si_sdr(s, s + means, zero_mean=True) > 100 > si_sdr(s, s + means)


def test_a_constant_has_no_si_sdr_without_its_mean():
    assert math.isnan(si_sdr(np.full((1, 1000), 0.1), noise(6, 1, 1000), zero_mean=True))


@pytest.mark.parametrize("rate", [-1, 0, 0.5, 4000.5, math.nan])
def test_rates_that_are_none(rate):
    for score in (lambda: csdr(S, E_, rate), lambda: museval_scores({"a": S}, {"a": E_}, rate)):
        with pytest.raises(UserError, match="the sample rate is .*; expected a positive whole number of Hz"):
            score()


@pytest.mark.parametrize(
    ("references", "estimates", "message"),
    [
        ({}, {}, r"references \[\] and estimates \[\] differ"),
        ({"a": S}, {"b": E_}, r"references \['a'\] and estimates \['b'\] differ; expected the same targets"),
        ({"a": S, "b": S[:, 9:]}, {"a": S, "b": S[:, 9:]}, r"the targets have the shapes .*; expected one for all"),
        ({"a": S * [[1.0], [0.0]] - S[[1, 0]] * [[0.0], [1.0]]}, {"a": S}, "silent signal: a"),
    ],
)
def test_what_museval_cannot_score(references, estimates, message):
    with pytest.raises(UserError, match=message):
        museval_scores(references, estimates, RATE)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (RuntimeError("ffmpeg or ffprobe could not be found!"), "museval cannot be imported .* apt-get install ffmpeg"),
        (ImportError("No module named 'museval'"), "museval cannot be imported .* pip install museval"),
    ],
)
def test_without_ffmpeg_or_museval(monkeypatch, problem, message):
    import builtins

    real = builtins.__import__

    def no_museval(name, *args, **kwargs):
        if name.startswith("museval"):
            raise problem
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_museval)
    with pytest.raises(UserError, match=message):
        museval_scores({"a": S}, {"a": E_}, RATE)
