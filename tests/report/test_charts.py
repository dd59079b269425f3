"""Figures of a report: what is drawn is what the results say."""

import json

import numpy as np
import pytest

from refined_bsrnn.report.charts import (
    all_figures,
    band_schemes_figure,
    boxes_figure,
    heat_figure,
    scatter_figure,
)
from refined_bsrnn.report.results import read_runs
from refined_bsrnn.report.write import report
from refined_bsrnn.runs.spectrograms import pixels
from tests.report.test_report import make_run


def test_boxes_hold_every_track_of_every_run(tmp_path):
    values = {"a": (1.0, 2.0, 3.0, 10.0), "b": (2.0, 4.0, 6.0, 8.0)}
    runs = read_runs([make_run(tmp_path / name, {"drums": v, "bass": v}) for name, v in values.items()])
    figure = boxes_figure(runs, ["drums", "bass"], "usdr")
    drums, bass = figure.axes
    medians = [line.get_ydata()[0] for line in drums.lines if line.get_linewidth() == 2]
    assert medians == [np.median(v) for v in values.values()]
    dashed = [line.get_ydata()[0] for line in bass.lines if line.get_linestyle() == "--"]
    assert dashed == [np.median([-3.0, -2.0, -1.0, 0.0])], "doing nothing: numpy's median"
    assert drums.get_title() == "drums\n4 tracks"
    hatches = {box.get_hatch() for box in drums.patches}
    assert len(hatches) == 2, "boxes differ without colour too"


def test_every_track_of_two_runs_is_a_point(tmp_path):
    runs = read_runs(
        [
            make_run(tmp_path / "a", {"drums": (1.0, 2.0, 3.0, 4.0)}),
            make_run(tmp_path / "b", {"drums": (4.0, 3.0, 2.0, None)}),
        ]
    )
    axes = scatter_figure(*runs, ["drums"]).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[4.0, 1.0], [3.0, 2.0], [2.0, 3.0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("b: uSDR (dB)", "a: uSDR (dB)")


def test_bases_by_targets(tmp_path):
    runs = read_runs(
        [
            make_run(tmp_path / "mtl", {"drums": (1.0,) * 4, "bass": (2.0,) * 4}),
            make_run(tmp_path / "low", {"guitar": (3.0,) * 4}, kind="transfer", base="../mtl"),
            make_run(tmp_path / "high", {"guitar": (4.0,) * 4}, kind="transfer", base="mtl"),
            make_run(tmp_path / "far", {"bass": (5.0,) * 4}, kind="transfer", base="elsewhere"),
        ]
    )
    axes = heat_figure(runs, ["drums", "bass", "guitar"]).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["mtl", "elsewhere"]
    assert {text.get_position(): text.get_text() for text in axes.texts if text.get_text() != "–"} == {
        (0, 0): "1.00",
        (1, 0): "2.00",
        (2, 0): "4.00*",
        (1, 1): "5.00*",
    }
    assert heat_figure(runs[:1], ["drums", "bass"]) is None


def test_band_schemes_are_those_of_the_recipes(tmp_path):
    v7 = make_run(tmp_path / "v7", {"drums": (1.0,) * 4})
    tet = make_run(tmp_path / "tet", {"drums": (1.0,) * 4}, model={"bands": "v7"})
    (tet / "recipe.yaml").write_text("targets: [drums]\nbands: {kind: tet, divisions: 12}\n")
    unknown = make_run(tmp_path / "unknown", {"drums": (1.0,) * 4}, model={"bands": "custom"})
    labels = [t.get_text() for t in band_schemes_figure(read_runs([v7, tet, unknown])).axes[0].get_yticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["v7", "tet"]
    assert band_schemes_figure(read_runs([unknown])) is None


def test_figures_of_runs_without_scores(tmp_path):
    run = make_run(
        tmp_path / "drums", {"drums": (1.0,) * 4}, silent={(f"{n}_{x}", "drums") for n in ("song", "eir") for x in "ab"}
    )
    figures, _ = all_figures(read_runs([run]), ["drums"])
    assert list(figures) == ["curves", "bands"]
    assert pixels(figures["curves"][0]).std() > 1


@pytest.mark.slow
def test_the_same_to_wandb(tmp_path):
    from refined_bsrnn.report.to_wandb import send

    runs = [make_run(tmp_path / name, {"drums": (1.0, 2.0, 3.0, i)}) for i, name in enumerate(("a", "b"))]
    made = report(runs, tmp_path / "out")
    assert "offline-run" in send(made, tmp_path / "out")
    tables = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.table.json")]
    assert {len(table["columns"]) for table in tables} == {6, 7, len(made.csv.splitlines()[0].split(","))}
    table = next(t for t in tables if "drums_usdr_mean" in t["columns"])
    first = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (first["row"], first["drums_usdr_mean"], first["drums_usdr_low"]) == ("a", 1.5, None), "numbers as numbers"
    scores = next(t for t in tables if t["columns"][-1] == "value")
    assert all(isinstance(row[-1], int | float | None) for row in scores["data"])
    pictures = {path.stem.split("_")[0] for path in (tmp_path / "out").rglob("wandb/**/*.png")}
    assert {"boxes-usdr", "curves", "tracks-a-b"} <= pictures
