"""Averages, intervals and paired comparisons: by hand, and against scipy and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.evaluation.stats import compare, interval, nan_median, signed_rank_p, spread


def test_spread_by_hand():
    found = spread([1.0, 2.0, None, 3.0, 10.0, math.nan])
    assert (found["mean"], found["median"], found["q1"], found["q3"]) == (4.0, 2.5, 1.75, 4.75)
    assert (found["n"], found["n_undefined"]) == (4, 2)
    assert found["mean_95"][0] < 4.0 < found["mean_95"][1]


def test_infinite_scores_count_as_undefined():
    assert spread([math.inf, 1.0, -math.inf])["n_undefined"] == 2


def test_nothing_defined():
    assert spread([None, math.nan])["mean"] is None
    assert spread([])["n"] == 0


def test_intervals_are_quantiles_of_what_drawn_tracks_give():
    """Ten thousand draws with numpy's generator of seed 0."""
    x = np.random.default_rng(1).standard_normal(40) + 3
    draws = x[np.random.default_rng(0).integers(40, size=(10_000, 40))]
    for name, figures in (("mean", draws.mean(1)), ("median", np.median(draws, 1))):
        assert interval(x, name) == pytest.approx(np.quantile(figures, [0.025, 0.975]).tolist(), abs=1e-12)
    assert interval(x, "mean") == interval(x, "mean"), "the same scores give the same interval"
    assert interval([2.0, 2.0, 2.0], "median") == [2.0, 2.0]


def test_too_few_tracks_have_no_interval():
    assert interval([1.0, 2.0], "mean") is None
    assert spread([1.0, 2.0])["mean_95"] is None


def test_comparison_is_paired():
    a = {"x": 3.0, "y": 5.0, "z": 1.0, "only a": 9.0, "undefined": None}
    b = {"x": 1.0, "y": 4.0, "z": 2.0, "only b": 9.0, "undefined": 1.0}
    found = compare(a, b)
    assert (found.n, found.n_left_out, found.n_better) == (3, 3, 2)
    assert found.mean == pytest.approx(2 / 3)
    assert found.median == 1.0
    assert compare({"x": 1.0}, {"y": 1.0}) is None


def test_signed_rank_by_hand():
    """All of n differences positive: the exact two-sided p is 2 / 2**n."""
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 64)
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0])) == pytest.approx(2 / 64), "exact without zeros"
    assert signed_rank_p(np.zeros(5)) is None
    assert compare({"x": 1.0}, {"x": 1.0}).p is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=12))
def test_an_interval_holds_its_sample(values):
    low, high = interval(values, "mean")
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    swapped = compare(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    assert swapped.mean == pytest.approx(np.mean(values))


def test_median_is_numpys():
    assert nan_median([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(nan_median([math.nan]))
