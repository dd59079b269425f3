"""Figures: what is drawn is checked through the Figure objects, what is written by decoding it again."""

import math
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from refined_bsrnn.bands import SCHEMES, band_ranges, ranges_hz
from refined_bsrnn.errors import UserError
from refined_bsrnn.report.figures import (
    COLOURS,
    LINES,
    MARKERS,
    band_cents,
    bands_figure,
    curve_style,
    curves_figure,
    heat_map,
    save,
)
from refined_bsrnn.runs.spectrograms import draw_spectrograms, spectrogram_db, spectrograms_figure

RATE = 44100
NYQUIST = RATE / 2
CURVES = {"mtl": [(0.0, 1.0), (10.0, 3.0)], "drums-v7": [(0.0, 0.5), (8.0, 2.0)]}


def scheme(name, **options):
    return ranges_hz(band_ranges(name, **options), RATE, 2048)


@pytest.fixture
def schemes():
    return {name: scheme(name) for name in ("v7", "tet24")}


def tone(hz, seconds=1.0, level=1.0):
    return level * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def assert_drawn(image):
    """Not blank: ink as well as paper, in many places."""
    grey = image[..., :3].mean(axis=2)
    ink = grey < 0.9 * grey.max()
    assert 0.01 < ink.mean() < 0.95
    assert ink.any(axis=0).mean() > 0.5
    assert ink.any(axis=1).mean() > 0.5


# --- band schemes -----------------------------------------------------------------------------------------------------


def test_every_band_is_a_rectangle_from_edge_to_edge(schemes):
    upper, _ = bands_figure(schemes).axes
    boxes = [(box.get_x(), box.get_x() + box.get_width()) for box in upper.patches]
    assert len(boxes) == sum(len(bands) for bands in schemes.values())
    left, right = upper.get_xlim()
    for (low, high), (start, stop) in zip([b for bands in schemes.values() for b in bands], boxes, strict=True):
        assert start == pytest.approx(math.log2(low) if low else left)
        assert stop == pytest.approx(math.log2(high))
    assert right == pytest.approx(math.log2(NYQUIST))
    assert 15 < 2**left < 16.35, "C0 is on the axis"


def test_neighbouring_bands_differ_in_shade_also_in_grey(schemes):
    upper, _ = bands_figure(schemes).axes
    grey = [np.mean(to_rgb(box.get_facecolor())) for box in upper.patches[: len(schemes["v7"])]]
    assert min(abs(np.diff(grey))) > 0.15


def test_rows_name_the_scheme_and_its_number_of_bands(schemes):
    upper, _ = bands_figure(schemes).axes
    assert [label.get_text() for label in upper.get_yticklabels()] == ["v7\nK = 41", "tet24\nK = 36"]


def test_axis_is_in_notes_with_hz_on_top(schemes):
    figure = bands_figure(schemes)
    upper, lower = figure.axes
    assert [label.get_text() for label in lower.get_xticklabels()] == [f"C{octave}" for octave in range(11)]
    assert 2 ** lower.get_xticks()[4] == pytest.approx(261.6256, abs=1e-3)
    (top,) = upper.child_axes
    assert dict(zip([t.get_text() for t in top.get_xticklabels()], 2 ** top.get_xticks(), strict=True))["1k"] == 1000


def test_cents_panel_leaves_out_the_band_from_zero(schemes):
    _, lower = bands_figure(schemes).axes
    v7, tet24 = lower.get_lines()[:2]
    assert len(v7.get_xdata()) == 40
    assert v7.get_ydata()[0] == pytest.approx(1200, abs=1), "bins 5 to 10 are an octave"
    assert list(tet24.get_ydata()) == [cents for _, cents in band_cents(schemes["tet24"])]
    assert lower.get_yscale() == "log"


def test_band_cents():
    assert band_cents([(0.0, 100.0), (100.0, 400.0)]) == [(200.0, 2400.0)]


def test_bands_below_the_lowest_note_stay_visible():
    upper, _ = bands_figure({"fine": [(0.0, 5.0), (5.0, 10.0), (10.0, NYQUIST)]}).axes
    assert all(box.get_width() > 0.1 for box in upper.patches)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_bands_are_written_the_same_every_time(schemes, tmp_path, suffix):
    first, second = (save(bands_figure(schemes), tmp_path / name / f"bands{suffix}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [f"bands{suffix}"], "no temporary file is left"


def test_bands_picture_is_legible_in_size(schemes, tmp_path):
    image = matplotlib.image.imread(save(bands_figure(schemes), tmp_path / "bands.png"))
    assert image.shape[1] == 1200
    assert_drawn(image)


def test_widths_in_bins_are_a_third_panel(schemes):
    ranges = {name: band_ranges(name) for name in schemes}
    widths = {name: [stop - start for start, stop in r] for name, r in ranges.items()}
    upper, cents, bins = bands_figure(schemes, widths).axes
    assert len(upper.patches) == 41 + 36
    v7, tet24 = bins.get_lines()[:2]
    assert list(v7.get_ydata()) == widths["v7"][1:]
    assert list(tet24.get_xdata()) == list(cents.get_lines()[1].get_xdata())
    assert (bins.get_ylabel(), bins.get_yscale()) == ("band width (bins)", "log")
    assert bins.get_xticklabels()[0].get_text() == "C0"


def test_overlapping_bands_do_not_hide_each_other():
    upper, _ = bands_figure({"erb": scheme("erb", n_bands=32), "v7": scheme("v7")}).axes
    boxes = [(b.get_x(), b.get_x() + b.get_width(), b.get_y()) for b in upper.patches[:32]]
    assert all(a[2] != b[2] for a, b in pairwise(boxes)), "neighbours lie in different lanes"
    assert all(a[1] <= b[0] for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a[2] == b[2])
    assert all(b.get_y() > -0.5 and b.get_y() + b.get_height() < 0.5 for b in upper.patches[:32]), "inside its row"
    assert {round(b.get_height(), 2) for b in upper.patches[32:]} == {0.76}


def test_all_schemes_in_one_picture(tmp_path):
    options = {"tet": {"divisions": 4}, "even": {"n_bands": 33}, "custom": {"edges_hz": [500.0, 5000.0]}}
    everything = {name: scheme(name, **options.get(name, {})) for name in SCHEMES}
    figure = bands_figure(everything)
    figure.draw_without_rendering()
    upper, _ = figure.axes
    boxes = [label.get_window_extent() for label in upper.get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x0 >= 0 for box in boxes)


# --- curves -----------------------------------------------------------------------------------------------------------


def panel(curves, title=""):
    return {title: {name: [points] for name, points in curves.items()}}


def test_curves_hold_the_points_given():
    figure = curves_figure(panel(CURVES, "validation"), "time (s)", "uSDR (dB)")
    (axes,) = figure.axes
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
    assert drawn == CURVES
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("time (s)", "uSDR (dB)", "validation")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CURVES)


def test_curves_leave_out_what_is_not_finite():
    curves = {"a": [(0.0, math.nan), (1.0, 2.0)], "b": [(0.0, math.inf)], "c": []}
    (axes,) = curves_figure(panel(curves), "x", "y").axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()} == {"a": [2.0]}


def test_curves_with_nothing_to_draw_say_so(tmp_path):
    figure = curves_figure(panel({}), "x", "y")
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing logged"]
    assert save(figure, tmp_path / "curves.svg").stat().st_size > 0


def test_seeds_are_thin_lines_around_their_mean_in_a_band():
    seeds = [[(1.0, 0.0), (2.0, 2.0)], [(3.0, 1.0), (4.0, 4.0), (5.0, 9.0)]]
    figure = curves_figure({"bass": {"a": seeds, "b": seeds[:1]}, "drums": {"b": seeds}}, "x", "y")
    bass, drums = figure.axes
    *thin, mean, alone = bass.get_lines()
    assert [line.get_xydata().tolist() for line in thin] == [[list(p) for p in points] for points in seeds]
    assert mean.get_xydata().tolist() == [[2.0, 0.5], [3.0, 3.0]], "as far as the shortest goes"
    assert [text.get_text() for text in bass.get_legend().get_texts()] == ["a", "b"]
    (band,) = bass.collections
    edges = {tuple(point) for point in np.round(band.get_paths()[0].vertices, 3).tolist()}
    assert {(2.0, -0.207), (2.0, 1.207), (3.0, 1.586), (3.0, 4.414)} <= edges, "one standard deviation, n − 1"
    assert {alone.get_color()} == {line.get_color() for line in drums.get_lines()}, "one name, one colour"


def test_on_a_logarithmic_axis_nothing_lies_at_zero():
    (axes,) = curves_figure({"": {"a": [[(0.0, 1.0), (10.0, 2.0)]]}}, "x", "y", log=True).axes
    assert (axes.get_xscale(), axes.lines[0].get_xydata().tolist()) == ("log", [[10.0, 2.0]])


def test_fields_of_a_heat_map_are_numbers_or_dashes():
    axes = heat_map({(0, 1): (1.234, "*"), (1, 0): (2.0, "")}, ["a", "b"], ["x", "y"], "dB").axes[0]
    assert [text.get_text() for text in axes.texts] == ["–", "1.23*", "2.00", "–"]


def test_styles_stay_distinct_for_many_runs():
    assert len({tuple(curve_style(i).values()) for i in range(math.lcm(len(COLOURS), len(MARKERS), len(LINES)))}) == 84


def test_long_names_leave_room_for_the_curves():
    for name in ("mtl", "mtl-to-acoustic_guitar-with-a-very-long-name-indeed"):
        figure = curves_figure(panel({name: CURVES["mtl"], f"{name}-2": CURVES["mtl"]}), "x", "y")
        figure.draw_without_rendering()
        assert figure.axes[0].get_window_extent().width > 0.75 * figure.bbox.width
        assert not figure.axes[0].get_window_extent().overlaps(figure.legends[0].get_window_extent())


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_curves_are_written_the_same_every_time(tmp_path, suffix):
    first, second = (save(curves_figure(panel(CURVES), "x", "y"), tmp_path / f"{name}{suffix}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.png or \.svg; 'curves\.jpg' is neither"):
        save(curves_figure(panel(CURVES), "x", "y"), tmp_path / "curves.jpg")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(curves_figure(panel(CURVES), "x", "y"), tmp_path / "curves.png")
    before = path.read_bytes()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(UserError, match="cannot be written"):
        save(curves_figure(panel({}), "x", "y"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


# --- spectrograms -----------------------------------------------------------------------------------------------------


def test_a_tone_lies_at_its_frequency_and_level():
    level = spectrogram_db(tone(1000.0, level=0.5), RATE)
    rows_hz = np.geomspace(40, NYQUIST, level.shape[0])
    middle = level[:, level.shape[1] // 2]
    assert rows_hz[middle.argmax()] == pytest.approx(1000, rel=0.03)
    assert -7.5 < middle.max() < -6.0, "a Hann window shows a tone between two bins up to 1.4 dB low"


def test_channels_are_averaged_in_power():
    left = tone(1000.0)
    stereo = spectrogram_db(np.stack([left, -left]), RATE)
    np.testing.assert_allclose(stereo, spectrogram_db(left, RATE), atol=1e-6)


def test_panels_share_one_scale():
    figure = spectrograms_figure({"mixture": tone(440.0), "estimate": 0.01 * tone(440.0)}, RATE)
    images = [axes.images[0] for axes in figure.axes[:2]]
    assert images[0].get_clim() == images[1].get_clim()
    assert images[0].get_array().max() - images[1].get_array().max() == pytest.approx(40, abs=0.1)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["mixture", "estimate"]


def test_picture_as_array_and_as_file_agree(tmp_path):
    panels = {"mixture": tone(440.0), "reference": np.stack([tone(880.0)] * 2)}
    array = draw_spectrograms(panels, RATE)
    assert array.dtype == np.uint8
    assert array.shape == (420, 1200, 3)
    assert_drawn(array / 255)
    read = matplotlib.image.imread(save(spectrograms_figure(panels, RATE), tmp_path / "s.png"))
    np.testing.assert_array_equal(np.round(read[..., :3] * 255).astype(np.uint8), array)


@pytest.mark.parametrize("audio", [np.zeros(RATE), np.zeros((2, 0)), np.full(100, np.nan), np.ones(1, np.float32)])
def test_silence_and_short_or_broken_audio_are_drawn(audio):
    assert draw_spectrograms({"a": audio, "b": tone(440.0)}, RATE).shape[2] == 3
    assert draw_spectrograms({"a": audio}, RATE).shape[2] == 3


def test_long_audio_costs_no_more_pixels():
    assert spectrogram_db(np.zeros((2, 60 * RATE)), RATE).shape[1] <= 801


def test_a_logarithmic_axis_is_labelled_at_1_2_and_5():
    """Also within a power of ten, where matplotlib labels what overlaps."""
    (axes,) = curves_figure({"drums": {"a": [[(2e12, 1.0), (8e12, 2.0)]]}}, "x", "y", log=True).axes
    axes.figure.draw_without_rendering()
    shown = [label.get_text() for label in axes.get_xticklabels(which="both") if label.get_text()]
    low, high = axes.get_xlim()
    inside = [round(tick / 1e12, 6) for tick in axes.get_xticks() if low <= tick <= high]
    assert inside == [2.0, 5.0]
    assert any("5" in text for text in shown)
    assert not any("3" in text or "4" in text for text in shown)
