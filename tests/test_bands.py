"""Band schemes against published and recomputed bin tables."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refined_bsrnn.bands import SCHEMES, Grid, band_ranges, check_cover, ranges_hz, tet24_edges_hz
from refined_bsrnn.errors import RecipeError

# {n_fft: {scheme or scheme/rounding: [first bin of every band, ..., number of bins]}} at 44.1 kHz
VECTORS = json.loads((Path(__file__).parent / "vectors" / "bands.json").read_text())
OPTIONS = {"tet": {"divisions": 4}, "custom": {"edges_hz": [200.0, 2000.0]}}


@pytest.mark.parametrize(("n_fft", "name"), [(n_fft, name) for n_fft, table in VECTORS.items() for name in table])
def test_bins_are_those_of_the_table(n_fft, name):
    kind, _, rounding = name.partition("/")
    ranges = band_ranges(kind, n_fft=int(n_fft), **({"rounding": rounding} if rounding else {}))
    assert [start for start, _ in ranges] + [ranges[-1][1]] == VECTORS[n_fft][name]


@pytest.mark.parametrize(
    ("kind", "k"),
    [("v7", 41), ("bass", 30), ("drums", 55), ("joint", 57), ("tet24", 36), ("tet24_seed", 38), ("tet24_fixed", 42)],
)
def test_number_of_bands_at_2048(kind, k):
    assert len(band_ranges(kind)) == k


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
    assert band_ranges("custom", n_fft=2048, edges_hz=[1000, 10000]) == [(0, 47), (47, 465), (465, 1025)]


@given(
    kind=st.sampled_from(sorted(SCHEMES)),
    sample_rate_hz=st.sampled_from([16000, 22050, 32000, 44100, 48000, 96000]),
    n_fft=st.sampled_from([1024, 2048, 4096, 6144]),
)
def test_every_scheme_covers_every_bin_once_or_is_refused(kind, sample_rate_hz, n_fft):
    try:
        ranges = band_ranges(kind, sample_rate_hz=sample_rate_hz, n_fft=n_fft, **OPTIONS.get(kind, {}))
    except RecipeError as error:
        assert "empty" in str(error) or "end at bin" in str(error)  # noqa: PT017 (either refusal is right)
        return
    covered = [k for start, stop in ranges for k in range(start, stop)]
    assert covered == list(range(n_fft // 2 + 1))
    assert all(stop > start for start, stop in ranges)


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
    ("kind", "options", "message"),
    [
        ("tet42", {}, "Did you mean 'tet"),
        ("v7", {"roundign": "hz"}, "Did you mean 'rounding'"),
        ("v7", {"rounding": "ceil"}, "expected 'hz' or 'floor'"),
        ("tet", {}, "needs the option 'divisions'"),
        ("tet", {"divisions": 0}, "at least 1 division"),
        ("custom", {"edges_hz": [500, 100]}, "must rise strictly"),
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
