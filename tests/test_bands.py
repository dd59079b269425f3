"""Band schemes against published and recomputed bin tables."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refined_bsrnn.bands import (
    SCHEMES,
    Grid,
    band_ranges,
    band_split,
    check_cover,
    match_bands,
    quarter_tones_hz,
    ranges_hz,
    tet24_edges_hz,
    thin,
)
from refined_bsrnn.errors import RecipeError

# {n_fft: {scheme or scheme/rounding: [first bin of every band, ..., number of bins]}} at 44.1 kHz
VECTORS = json.loads((Path(__file__).parent / "vectors" / "bands.json").read_text())
# {n_fft: {scheme/n_bands: [[first bin, one past the last], ...]}} at 44.1 kHz
OVERLAPPING = json.loads((Path(__file__).parent / "vectors" / "overlapping_bands.json").read_text())
OPTIONS = {"tet": {"divisions": 4}, "even": {"n_bands": 33}, "custom": {"edges_hz": [200.0, 2000.0]}}


@pytest.mark.parametrize(("n_fft", "name"), [(n_fft, name) for n_fft, table in VECTORS.items() for name in table])
def test_bins_are_those_of_the_table(n_fft, name):
    kind, _, rounding = name.partition("/")
    ranges = band_ranges(kind, n_fft=int(n_fft), **({"rounding": rounding} if rounding else {}))
    assert [start for start, _ in ranges] + [ranges[-1][1]] == VECTORS[n_fft][name]


@pytest.mark.parametrize(("n_fft", "name"), [(n_fft, name) for n_fft, table in OVERLAPPING.items() for name in table])
def test_overlapping_bins_are_those_of_the_table(n_fft, name):
    kind, n_bands = name.split("/")
    expected = [tuple(band) for band in OVERLAPPING[n_fft][name]]
    if kind == "erb":  # the published code leaves the Nyquist bin in no band; here it is in the last one
        start, stop = expected[-1]
        assert stop == int(n_fft) // 2
        expected[-1] = (start, stop + 1)
    assert band_ranges(kind, n_fft=int(n_fft), n_bands=int(n_bands)) == expected


PAPER_K = {"v1": 22, "v2": 19, "v3": 14, "v4": 23, "v5": 28, "v6": 26, "v7": 41, "bass": 30, "drums": 55, "joint": 57}
OTHER_K = {"tet24": 36, "tet24_seed": 38, "tet24_fixed": 42, "semitone": 88, "quarter_tone": 150, "bs_roformer": 62}
FILTERBANK_K = {"musical": 64, "mel": 64, "tbark": 64, "erb": 64, "mel_band_roformer": 60}


@pytest.mark.parametrize(("kind", "k"), {**PAPER_K, **OTHER_K, **FILTERBANK_K}.items())
def test_number_of_bands_at_2048(kind, k):
    assert len(band_ranges(kind)) == k


@pytest.mark.parametrize("rounding", ["hz", "floor"])
@pytest.mark.parametrize("n_fft", [2048, 4096, 6144])
@pytest.mark.parametrize(("kind", "k"), PAPER_K.items())
def test_paper_schemes_have_as_many_bands_at_every_size(kind, k, n_fft, rounding):
    assert len(band_ranges(kind, n_fft=n_fft, rounding=rounding)) == k


def test_v1_keeps_what_is_left_above_21_khz_in_one_band():
    assert band_ranges("v1")[-1] == (976, 1025)
    assert Grid(44100, 2048).bins_below(21000) == 976


@pytest.mark.parametrize(("kind", "k"), [("semitone", (88, 99, 105)), ("quarter_tone", (150, 173, 186))])
def test_full_grids(kind, k):
    assert tuple(len(band_ranges(kind, n_fft=n_fft)) for n_fft in (2048, 4096, 6144)) == k


def test_edges_are_thinned_evenly():
    assert thin(list(range(10)), 5) == [0, 2, 5, 7]  # int(i · 10 / 4)
    assert thin([1.0, 2.0], 7) == thin([1.0, 2.0], None) == [1.0, 2.0]
    assert thin([1.0, 2.0], 1) == []
    assert tet24_edges_hz() == thin(quarter_tones_hz(2, 1), 42)
    assert band_ranges("tet", divisions=12, max_bands=42) == band_ranges("tet24")


@given(kind=st.sampled_from(["tet24", "semitone", "quarter_tone"]), max_bands=st.integers(1, 300))
def test_never_more_than_max_bands(kind, max_bands):
    assert len(band_ranges(kind, max_bands=max_bands)) <= max_bands


@given(max_bands=st.integers(1, 121))
def test_fixed_bands_are_as_many_as_asked_for(max_bands):
    assert len(band_ranges("tet24_fixed", max_bands=max_bands)) == max_bands


@pytest.mark.parametrize(("sample_rate_hz", "n_bands"), [(8000, 33), (16000, 37), (22050, 39), (48000, 42)])
def test_fixed_bands_end_at_nyquist_whatever_n_fft_is(sample_rate_hz, n_bands):
    assert sum(hz < sample_rate_hz / 2 for hz in tet24_edges_hz()) == n_bands - 1
    for n_fft in (512, 2048, 4096):
        assert len(band_ranges("tet24_fixed", sample_rate_hz=sample_rate_hz, n_fft=n_fft)) == n_bands


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert band_ranges("tet24", top_edge_hz="2e4") == band_ranges("tet24", top_edge_hz=20000)


def test_even_bands_differ_by_one_bin_at_most():
    assert {stop - start for start, stop in band_ranges("even", n_bands=33)} == {31, 32}


def test_bs_roformer_widths():
    widths = [stop - start for start, stop in band_ranges("bs_roformer")]
    assert widths[:24] + widths[-2:] == [2] * 24 + [128, 129]


@pytest.mark.parametrize(
    ("kind", "n_bands", "bins"),
    [("musical", 64, 2142), ("musical", 48, 2097), ("mel", 64, 1992), ("tbark", 64, 1982), ("erb", 64, 1977 + 1),
     ("mel_band_roformer", 60, 1979)],
)  # fmt: skip
def test_sum_of_overlapping_widths(kind, n_bands, bins):
    assert sum(stop - start for start, stop in band_ranges(kind, n_bands=n_bands)) == bins


def test_weights_by_hand():
    # mel, 64 bands: bin 2 lies between the centres of bands 0 and 1, the corners 1 and 2 of 65 evenly spaced in mel
    top = 2595 * math.log10(1 + 22050 / 700)
    first, second = (700 * (10 ** (top * i / 65 / 2595) - 1) for i in (1, 2))
    share = (2 * 44100 / 2048 - first) / (second - first)
    split = band_split("mel", n_bands=64)
    assert split.ranges[:2] == ((0, 4), (2, 6))
    assert split.weights[0][2] == pytest.approx(1 - share)
    assert split.weights[1][0] == pytest.approx(share)
    # rectangles: (0, 3) and five times (1, 3), then (1, 4), (1, 4): bin 2 is in those and (2, 4), (2, 4), (2, 5)
    assert band_split("musical", n_bands=64).weights[0] == (1, 1 / 8, 1 / 11)


@pytest.mark.parametrize(("n_fft", "clean", "seed"), [(1024, 32, 34), (8192, 41, 43)])
def test_generic_bands_at_other_sizes(n_fft, clean, seed):
    assert len(band_ranges("tet24", n_fft=n_fft)) == clean
    assert len(band_ranges("tet24_seed", n_fft=n_fft)) == seed
    assert len(band_ranges("tet24_fixed", n_fft=n_fft)) == 42


def test_generic_edges_are_quarter_tones_between_semitones():
    edges = tet24_edges_hz()
    assert len(edges) == 41
    assert edges[0] == pytest.approx(20.015231, abs=1e-6)
    assert edges[-1] == pytest.approx(17234.673890, abs=1e-5)


def test_top_edge_adds_one_band():
    assert len(band_ranges("tet24", top_edge_hz=20000)) == 37


def test_edge_on_a_bin_belongs_to_the_upper_band():
    # 3000 Hz is exactly bin 128 at 48 kHz and n_fft 2048
    assert Grid(48000, 2048).bins_below(3000) == 128
    assert 128 in [start for start, _ in band_ranges("v7", sample_rate_hz=48000)]


def test_custom_edges():
    expected = [(0, 47), (47, 465), (465, 1025)]
    assert band_ranges("custom", n_fft=2048, edges_hz=[1000, 10000]) == expected
    assert band_ranges("custom", n_fft=2048, edges_bins=[47, 465]) == expected
    assert band_ranges("custom", n_fft=16384, edges_bins=[8000]) == [(0, 8000), (8000, 8193)]


@given(
    kind=st.sampled_from(sorted(SCHEMES)),
    sample_rate_hz=st.sampled_from([8000, 16000, 22050, 32000, 44100, 48000, 96000]),
    n_fft=st.sampled_from([256, 1024, 2048, 4096, 6144]),
)
def test_every_scheme_covers_every_bin_or_is_refused(kind, sample_rate_hz, n_fft):
    n_bins = n_fft // 2 + 1
    try:
        split = band_split(kind, sample_rate_hz=sample_rate_hz, n_fft=n_fft, **OPTIONS.get(kind, {}))
    except RecipeError:
        return
    assert split.n_bins == n_bins
    total = [0.0] * n_bins
    for i, (start, stop) in enumerate(split):
        assert 0 <= start < stop <= n_bins
        for k in range(start, stop):
            total[k] += 1.0 if split.weights is None else split.weights[i][k - start]
    assert total == pytest.approx([1.0] * n_bins, abs=1e-6)
    assert [start for start, _ in split] == sorted(start for start, _ in split)


@pytest.mark.parametrize("kind", SCHEMES)
def test_no_scheme_is_refused_where_it_was_published(kind):
    split = band_split(kind, **OPTIONS.get(kind, {}))
    assert split.overlapping == (kind in FILTERBANK_K)


@given(divisions=st.integers(1, 48))
def test_more_divisions_never_give_fewer_bands(divisions):
    assert len(band_ranges("tet", divisions=divisions)) <= len(band_ranges("tet", divisions=divisions * 2))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0, 4), (4, 4), (4, 10)], "band 1 of 3 is empty"),
        ([(0, 4), (5, 10)], "leaves bins 4 to 4 uncovered"),
        ([(0, 4), (3, 10)], "overlaps"),
        ([(0, 4), (4, 9)], "end at bin 9; the spectrogram has 10"),
    ],
)
def test_a_split_that_is_no_partition_is_refused(ranges, message):
    with pytest.raises(RecipeError, match=message):
        check_cover(ranges, 10)


@pytest.mark.parametrize(
    ("ranges", "weights", "message"),
    [
        ([(0, 4), (3, 3)], [[1] * 4, []], "band 1 of 2 is empty"),
        ([(0, 4), (5, 6)], [[1] * 4, [1]], "bin 4 of 6 is in no band"),
        ([(0, 4), (3, 6)], [[1, 1, 1, 0.5], [0.4, 1, 1]], "at bin 3 add up to 0.9; expected 1"),
        ([(0, 4), (3, 6)], [[1, 1, 1, float("nan")], [0.4, 1, 1]], "at bin 3 add up to nan"),
        ([(0, 4), (3, 7)], [[1] * 4, [1] * 4], "the spectrogram has 6 bins"),
        ([(0, 4), (3, 6)], [[1] * 4, [1] * 4], "band 1 (bins 3 to 6) has 4 weights"),
    ],
)
def test_overlapping_bands_that_are_unsound_are_refused(ranges, weights, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        check_cover(ranges, 6, weights)


def test_overlapping_bands_whose_weights_add_up_are_accepted():
    check_cover([(0, 4), (3, 6)], 6, [[1, 1, 1, 0.25], [0.75, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tet42", {}, "Did you mean 'tet"),
        ("v7", {"roundign": "hz"}, "Did you mean 'rounding'"),
        ("v7", {"rounding": "ceil"}, "expected 'hz' or 'floor'"),
        ("tet", {}, "needs the option 'divisions'"),
        ("tet", {"divisions": 0}, "1 to 1200 divisions"),
        ("tet", {"divisions": "many"}, "bands.divisions is 'many'; expected a whole number"),
        ("tet", {"divisions": 4, "high_hz": float("inf")}, "bands.high_hz is inf; expected a number"),
        ("tet", {"divisions": 4, "low_hz": 30000, "high_hz": 40000}, "low_hz below 22050 Hz"),
        ("tet24", {"top_edge_hz": float("nan")}, "bands.top_edge_hz is nan; expected a number"),
        ("tet24", {"top_edge_hz": 100}, "top_edge_hz is 100; expected more than the highest edge, 17235 Hz"),
        ("tet24", {"max_bands": None}, "bands.max_bands is None; expected a whole number"),
        ("custom", {"edges_hz": [500, 100]}, "must rise strictly"),
        ("custom", {"edges_bins": [5, 5]}, "must rise strictly"),
        ("custom", {"edges_bins": [5, 1025]}, "1024 or less"),
        ("custom", {"edges_bins": [5.5]}, r"edges_bins\[0\] is 5.5; expected a whole number"),
        ("custom", {"edges_hz": 500}, "expected a list, e.g. "),
        ("custom", {"edges_hz": ["low"]}, r"edges_hz\[0\] is 'low'; expected a number"),
        ("custom", {}, "'edges_hz' or 'edges_bins', one of the two"),
        ("custom", {"edges_hz": [500], "edges_bins": [5]}, "one of the two"),
        ("bs_roformer", {"n_fft": 4096}, "for stft.n_fft 2048, not 4096"),
        ("mel", {"n_bands": 0}, "bands.n_bands is 0"),
        ("even", {"n_bands": 2.5}, "bands.n_bands is 2.5"),
        ("even", {"n_bands": 300, "n_fft": 512}, "is empty"),
        ("erb", {"n_bands": 64, "n_fft": 512}, "is empty"),
        ("semitone", {"max_bands": 0}, "bands.max_bands is 0"),
        ("drums", {"n_fft": 512}, "is empty"),
    ],
)
def test_bad_schemes_are_refused_with_the_choices(kind, options, message):
    with pytest.raises(RecipeError, match=message):
        band_ranges(kind, **options)


def test_ranges_in_hz_meet_and_end_at_nyquist():
    hz = ranges_hz(band_ranges("v7"), 44100, 2048)
    assert hz[0][0] == 0
    assert hz[-1][1] == 22050
    assert all(a[1] == b[0] for a, b in pairwise(hz))


def test_schemes_are_matched_to_one_number_of_bands():
    families = [("tet", {}), ("tet", {"divisions": 12}), ("tet24", {}), ("tet24_fixed", {}), ("mel", {}), ("v7", {})]
    found = match_bands(families, 41)
    assert found[-1] == {}
    assert [len(band_split(kind, **options)) for (kind, _), options in zip(families[1:], found[1:], strict=True)] == (
        [41] * 5
    )
    assert match_bands(families, 42)[-1] is None


def test_matching_keeps_what_is_given_and_refuses_what_is_unknown():
    assert match_bands([("tet", {"divisions": 12, "max_bands": 42})], 36) == [{"divisions": 12, "max_bands": 42}]
    with pytest.raises(RecipeError, match="no option 'divisons'"):
        match_bands([("tet", {"divisons": 12})], 42)
