"""Steps of two checkouts: they take turns, must agree, and the figures are those of the clock."""

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import step as step_benchmark
from benchmarks.measure import run
from benchmarks.step import (
    STEP,
    _check,
    by_kind,
    difference,
    in_turns,
    profile_markdown,
    settings_of,
    step_markdown,
    summary,
)
from refined_bsrnn.errors import RecipeError, UserError

ROOT = Path(__file__).parents[2]


def results(loss=2.0, estimate=(1.0, -4.0), **gradients):
    gradients = gradients or {"weight": (0.5, 0.0)}
    named = {name: torch.tensor(value) for name, value in gradients.items()}
    return {"loss": torch.tensor(loss), "estimates": {"drums": torch.tensor(estimate)}, "gradients": named}


def test_difference_by_hand():
    assert difference(results(), results()) == {
        "loss": 0.0,
        "estimates": 0.0,
        "gradients": 0.0,
        "gradients_compared": 1,
        "unmatched": [],
    }
    found = difference(results(), results(1.5, (1.0, -3.0), weight=(0.4, 0.1), bias=(1.0,)))
    assert found["loss"] == 0.25
    assert found["estimates"] == 0.25
    assert found["gradients"] == pytest.approx(0.2)
    assert found["unmatched"] == ["bias"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (results(2.1), "differ in loss by 4.8e-02; expected at most 1e-05"),
        (results(estimate=(1.0, -4.1)), "differ in estimates"),
        (results(weight=(0.5, 1e-4)), "differ in gradients by 2.0e-04"),
        (results(weight=((0.5, 0.0),)), "differ in gradients by inf"),
        (results(weight=(0.5, 0.0), bias=(1.0,)), "only one checkout has a gradient of bias"),
    ],
)
def test_checkouts_that_compute_something_else_are_not_compared(other, message):
    with pytest.raises(UserError, match=message):
        _check("micro:4", difference(results(), other), 1e-5)


def test_one_side_alone_has_nothing_to_agree_with():
    _check("micro:4", {}, 1e-5)


def test_sides_take_turns_and_the_first_round_does_not_count():
    asked = []

    class Side:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, iter(seconds)

        def ask(self, word):
            asked.append((self.name, word))
            second = next(self.seconds)
            return {"processor": second, "wall": 2 * second}

    taken = in_turns({"there": Side("there", [9.0, 4.0, 6.0]), "here": Side("here", [9.0, 2.0, 2.0])}, 2)
    assert asked == [("there", "step"), ("here", "step")] * 3
    found = summary(taken, audio=2.0)
    assert found["sides"]["there"]["processor"] == {"median": 2.5, "low": 2.0, "high": 3.0}
    assert found["sides"]["here"]["wall"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["times_as_fast"] == {"median": 2.5, "low": 2.0, "high": 3.0}


def test_table_by_hand():
    spread = {"median": 0.5, "low": 0.25, "high": 1.0}
    row = {"network": "micro:4", "peak_mib": {"there": 800, "here": 700}, "times_as_fast": spread}
    row |= {"sides": {name: {"processor": spread, "wall": spread} for name in ("there", "here")}}
    row |= {"difference": {"loss": 0.0, "estimates": 1e-6, "gradients": 2e-6}}
    cell = "0.500 (0.250–1.000)"
    last = step_markdown({"networks": [row]}).splitlines()[-1]
    both = f"{cell} | {cell} | 800 | {cell} | {cell} | 700"
    assert last == f"| `micro:4` | {both} | 0.50 (0.25–1.00) | 0e+00, 1e-06, 2e-06 |"


def test_profile_by_hand():
    found = by_kind({"aten::mkldnn_rnn_layer_backward": 30.04, "aten::bmm": 10.0, "aten::cat": 5.0, "AddBackward": 5.0})
    assert found["recurrent layers"] == 30.0
    assert (found["matrix products"], found["copies"], found["the rest"], found["FFT"]) == (10.0, 5.0, 5.0, 0.0)
    assert found["all"] == 50.0
    rows = [{"network": "micro:4", "profile_ms": {"there": {**found, "all": 100.0}, "here": found}}, {"network": "x"}]
    lines = profile_markdown({"networks": rows}).splitlines()
    assert lines[0] == "| ms of a step | `micro:4`, there | `micro:4`, here |"
    assert lines[2] == "| recurrent layers | 30 (30 %) | 30 (60 %) |"
    assert lines[-1] == "| all | 100 (100 %) | 50 (100 %) |"


def test_networks_and_checkouts_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="'huge:4' cannot be measured; expected one of micro, tiny, small"):
        settings_of("huge:4")
    with pytest.raises(RecipeError, match="is no checkout of this project"):
        run({"step": STEP}, ["step", "--against", str(tmp_path)])


@pytest.mark.slow
def test_command_against_the_same_checkout(tmp_path, monkeypatch, capfd):
    short = {"recipe": "micro", "batch": 1, "seconds": 0.2, "channels": 1}
    monkeypatch.setitem(step_benchmark.BATCHES, "micro", short)
    monkeypatch.setattr(step_benchmark, "PROFILED_STEPS", 1)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    words = ["--network", "micro:1", "--rounds", "1", "--against", os.path.relpath(ROOT)]
    words += ["--profile", "--out", str(tmp_path)]
    assert run({"step": STEP}, ["step", *words]) == 0
    values = json.loads((tmp_path / "step.json").read_text())
    (row,) = values["networks"]
    assert row["difference"]["gradients"] == 0.0
    assert row["difference"]["gradients_compared"] > 50
    assert list(row["sides"]) == ["there", "here"]
    assert row["sides"]["here"]["processor"]["median"] > 0
    assert 100 < row["peak_mib"]["here"] < 4000
    profile = row["profile_ms"]["here"]
    assert min(profile["recurrent layers"], profile["matrix products"], profile["FFT"]) > 0
    assert sum(profile.values()) == pytest.approx(2 * profile["all"], abs=0.5)
    assert step_markdown(values) in capfd.readouterr().out
