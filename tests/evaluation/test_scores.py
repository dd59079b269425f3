"""Scores collected block by block: by hand, against `metrics` and against museval."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from museval.metrics import bss_eval
from scipy.signal import lfilter

from refined_bsrnn.errors import DataError
from refined_bsrnn.evaluation.oracle import CONTEXT, MASKS, context_bounds, masked
from refined_bsrnn.evaluation.scores import TrackScores
from refined_bsrnn.metrics import csdr, csdr_frames, si_sdr, usdr

RATE = 2000


def noise(seed, seconds=4.0, channels=2, scale=0.1):
    x = np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))
    return torch.from_numpy((scale * lfilter([1], [1, -0.7], x)).astype(np.float32))


def scored(stems, estimates, block=10**9, targets=None, **more):
    """`TrackScores` of estimates (one source) given in blocks of any size; every stem is a known part."""
    targets = targets or list(estimates)
    parts = {t: (t, *(name for name in stems if name != t)) for t in targets}
    scores = TrackScores(RATE, parts, ("estimate",), **more)
    length = next(iter(stems.values())).shape[1]
    for start in range(0, length, block):
        cut = slice(start, start + block)
        scores.add({n: x[:, cut] for n, x in stems.items()}, {"estimate": {t: x[:, cut] for t, x in estimates.items()}})
    return scores.finish()


def cases():
    """name → (stems, estimates): estimates as they come, and all that is odd."""
    a, b = noise(0, 5.37), noise(1, 5.37)
    ea, eb = a + 0.3 * noise(2, 5.37), 0.8 * b + 0.1 * a
    gap, gone = a.clone(), eb.clone()
    gap[:, RATE : 2 * RATE] = 0
    gone[:, 3 * RATE : 4 * RATE] = 0
    anti = a.clone()
    anti[1, :RATE] = -anti[0, :RATE]
    return {
        "plain": ({"a": a, "b": b}, {"a": ea, "b": eb}),
        "silent reference": ({"a": gap, "b": b}, {"a": ea, "b": eb}),
        "silent estimate": ({"a": a, "b": b}, {"a": ea, "b": gone}),
        "anti-phase": ({"a": anti, "b": b}, {"a": ea, "b": eb}),
        "mono": ({"a": a[:1], "b": b[:1]}, {"a": ea[:1], "b": eb[:1]}),
        "short": ({"a": a[:, :1501], "b": b[:, :1501]}, {"a": ea[:, :1501], "b": eb[:, :1501]}),
        "odd length": ({"a": a[:, :9001], "b": b[:, :9001]}, {"a": ea[:, :9001], "b": eb[:, :9001]}),
    }


@pytest.mark.parametrize("name", cases())
def test_csdr_is_musevals_sdr(name):
    """Frame for frame to 1e-4 dB, and the median under its rule for silent frames."""
    stems, estimates = cases()[name]
    stacked = (np.stack([x[t].numpy().T.astype(np.float64) for t in stems]) for x in (stems, estimates))
    sdr = bss_eval(*stacked, window=RATE, hop=RATE, filters_len=64)[0]
    found = scored(stems, estimates)
    for i, target in enumerate(stems):
        defined = ~np.isnan(sdr[i])
        assert defined.any()
        ours = csdr_frames(stems[target], estimates[target], RATE)
        np.testing.assert_allclose(ours[defined], sdr[i][defined], atol=1e-4)
        assert found[target]["estimate"]["csdr_museval"] == pytest.approx(np.nanmedian(sdr[i]), abs=1e-4)
        assert found[target]["estimate"]["n_frames_excluded_museval"] == (~defined).sum()
        assert found[target]["estimate"]["n_frames"] == sdr.shape[1]


@pytest.mark.parametrize("block", [1, 700, RATE, 3333, 10**9])
@pytest.mark.parametrize("name", ["plain", "silent reference", "anti-phase", "odd length"])
def test_blocks_do_not_matter_and_scores_are_those_of_whole_signals(name, block):
    stems, estimates = cases()[name]
    if block == 1:
        stems, estimates = ({t: x[:, : RATE + 7] for t, x in y.items()} for y in (stems, estimates))
    found = scored(stems, estimates, block)
    for target in stems:
        s, e, row = stems[target], estimates[target], found[target]["estimate"]
        assert row["usdr"] == pytest.approx(usdr(s, e), abs=1e-9)
        assert row["si_sdr"] == pytest.approx(si_sdr(s, e), abs=1e-8)
        assert row["csdr"] == pytest.approx(csdr(s, e, RATE), abs=1e-9, nan_ok=True)
        assert row["n_frames_excluded"] == np.isnan(csdr_frames(s, e, RATE)).sum()
    assert found == scored(stems, estimates) or block != 10**9


def test_shorter_than_a_second():
    s = noise(0, 0.5)
    row = scored({"a": s}, {"a": 0.9 * s}, block=300)["a"]["estimate"]
    assert (row["n_frames"], row["n_frames_excluded"]) == (1, 0)
    assert row["csdr"] == row["csdr_museval"] == pytest.approx(20)
    assert row["usdr"] == pytest.approx(usdr(s, 0.9 * s))
    assert scored({"a": 1e-5 * s}, {"a": s})["a"]["estimate"]["silent_dbfs"] == pytest.approx(-17, abs=3)


def test_extremes_of_si_sdr():
    s = noise(0)
    for estimate, expected in ((s, math.inf), (0.5 * s, math.inf), (0 * s, -math.inf)):
        assert scored({"a": s}, {"a": estimate})["a"]["estimate"]["si_sdr"] == expected
    assert math.isnan(scored({"a": 0 * s}, {"a": s})["a"]["estimate"]["si_sdr"])


def test_each_target_decides_for_itself_beside_musevals_rule():
    stems, estimates = cases()["silent reference"]
    found = scored(stems, estimates)
    assert found["b"]["estimate"]["n_frames_excluded"] == 0
    assert found["b"]["estimate"]["n_frames_excluded_museval"] == 1
    assert found["a"]["estimate"]["n_frames_excluded"] == 1


def test_a_target_that_never_sounds_excludes_no_frame_of_others():
    a, b = noise(0), noise(1)
    found = scored({"a": a, "b": 0 * b}, {"a": 0.9 * a, "b": b})
    assert found["b"]["reference_silent"]
    assert found["a"]["estimate"]["n_frames_excluded_museval"] == 0


# --- leakage, silence, bandwidth --------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(gains=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2), st.floats(0.01, 2)), artefacts=st.booleans())
def test_leakage_is_the_gain_of_each_other_part(gains, artefacts):
    stems = {name: noise(i, 2.0) for i, name in enumerate("abc")}
    estimate = sum(g * x for g, x in zip(gains, stems.values(), strict=True))
    if artefacts:  # what is in no stem stays out, up to chance correlation
        estimate = estimate + 0.01 * noise(9, 2.0)
    leakage = scored(stems, {"a": estimate})["a"]["estimate"]["leakage_db"]
    assert list(leakage) == ["b", "c"]
    for name, gain in zip("bc", gains[1:], strict=True):
        assert leakage[name] == pytest.approx(20 * math.log10(gain), abs=1.5 if artefacts else 1e-3)


def test_leakage_of_the_mixture_is_0_db_and_of_a_silent_part_undefined():
    stems = {"a": noise(0), "b": noise(1), "c": 0 * noise(2)}
    leakage = scored(stems, {"a": stems["a"] + stems["b"]})["a"]["estimate"]["leakage_db"]
    assert leakage["b"] == pytest.approx(0, abs=1e-4)
    assert math.isnan(leakage["c"])
    assert scored(stems, {"a": 0 * stems["a"]})["a"]["estimate"]["leakage_db"]["b"] == -math.inf


def test_leakage_counts_seconds_by_their_energy():
    """Second 1: b passes at half; second 2, twice as loud: not at all. 10 log10((0.25·1)/(1 + 4))."""
    a, b = noise(0, 2.0), torch.cat([noise(1, 1.0), 2 * noise(1, 1.0)], 1)
    estimate = a.clone()
    estimate[:, :RATE] += 0.5 * b[:, :RATE]
    leakage = scored({"a": a, "b": b}, {"a": estimate})["a"]["estimate"]["leakage_db"]["b"]
    assert leakage == pytest.approx(10 * math.log10(0.25 / 5), abs=1e-3)


def test_level_where_the_reference_is_silent():
    reference, estimate = torch.zeros(2, 3 * RATE), torch.full((2, 3 * RATE), 0.5)
    reference[:, :RATE] = 0.5
    estimate[:, RATE:] = 0.01
    row = scored({"a": reference}, {"a": estimate})["a"]
    assert row["n_frames_silent"] == 2
    assert row["estimate"]["silent_dbfs"] == pytest.approx(-40.0, abs=1e-3)
    assert scored({"a": reference}, {"a": reference})["a"]["estimate"]["silent_dbfs"] == pytest.approx(-120.0)
    assert math.isnan(scored({"a": estimate}, {"a": estimate})["a"]["estimate"]["silent_dbfs"])


def test_what_is_below_70_dbfs_is_silent():
    for level, silent in ((1e-4, 1), (1e-3, 0)):  # −80 and −60 dBFS
        assert scored({"a": torch.full((1, RATE), level)}, {"a": torch.ones(1, RATE)})["a"]["n_frames_silent"] == silent


@pytest.mark.parametrize("hz", [100, 400, 900])
def test_bandwidth_of_a_sine_and_of_white_noise(hz):
    sine = torch.sin(2 * torch.pi * hz * torch.arange(4 * RATE) / RATE)[None]
    white = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4 * RATE))).float()
    row = scored({"a": sine}, {"a": white})["a"]
    assert row["reference"]["bandwidth_hz"] == pytest.approx(hz, abs=3)
    assert row["estimate"]["bandwidth_hz"] == pytest.approx(0.99 * RATE / 2, abs=20)
    assert math.isnan(scored({"a": sine}, {"a": 0 * sine})["a"]["estimate"]["bandwidth_hz"])


def test_quick_is_usdr_alone():
    stems, estimates = cases()["plain"]
    row = scored(stems, estimates, quick=True)["a"]
    assert row == {"estimate": {"usdr": pytest.approx(usdr(stems["a"], estimates["a"]))}, "reference_silent": False}


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (torch.zeros(2, 99), r"estimate/a has the shape \(2, 99\), the others \(2, 4000\)"),
        (torch.full((2, 4000), math.nan), "estimate/a holds NaN or infinite"),
    ],
)
def test_what_cannot_be_scored(estimate, message):
    with pytest.raises(DataError, match=message):
        scored({"a": noise(0, 2.0)}, {"a": estimate})


# --- ceilings ---------------------------------------------------------------------------------------------------------


def test_ideal_masks_are_ceilings():
    stem, rest = noise(0, 8.0), noise(1, 8.0, scale=0.2)
    mixture = stem + rest
    under = masked(mixture, stem)
    assert list(under) == list(MASKS)
    assert usdr(stem, under["complex_mask"]) > 25 > usdr(stem, under["ratio_mask"]) > usdr(stem, mixture) + 3
    assert usdr(rest, masked(mixture, rest)["ratio_mask"]) > usdr(rest, mixture) + 3


def test_ratio_mask_by_hand():
    """The stem is half the mixture everywhere: |S|² / (|S|² + |N|²) is one half."""
    mixture = noise(0)
    assert torch.allclose(masked(mixture, 0.5 * mixture)["ratio_mask"], 0.5 * mixture, atol=1e-6)
    assert torch.allclose(masked(mixture, mixture)["complex_mask"], mixture, atol=1e-6)
    assert not masked(0 * mixture, 0 * mixture)["complex_mask"].any()


def test_complex_mask_is_limited():
    stem = noise(0)
    assert usdr(stem, masked(0.05 * stem, stem)["complex_mask"]) == pytest.approx(usdr(stem, 0.5 * stem), abs=1e-3)


def test_masks_do_not_depend_on_blocks():
    stem, mixture = noise(0, 12.0), noise(0, 12.0) + noise(1, 12.0)
    whole, length, block = masked(mixture, stem), stem.shape[1], 7001
    assert length > 3 * CONTEXT
    for start in range(0, length, block):
        stop = min(start + block, length)
        low, high = context_bounds(start, stop, length)
        part = masked(mixture[:, low:high], stem[:, low:high])
        for mask in MASKS:
            torch.testing.assert_close(
                part[mask][:, start - low : stop - low], whole[mask][:, start:stop], atol=2e-5, rtol=1e-4
            )
