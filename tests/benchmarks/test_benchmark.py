"""Benchmarks: what takes turns with what, what is made of the measurements; every variant can be built."""

import json

import pytest
import torch

from benchmarks.architecture import ARCHITECTURE, VARIANTS, architecture_markdown, variant_recipe
from benchmarks.measure import Speed, interleaved, run
from refined_bsrnn.network.model import BSRNN


@pytest.fixture
def calls(monkeypatch):
    """A clock on which job "a" takes 1 s and "b" 2 s, and the order in which they were called."""
    order, clock = [], [0.0]
    monkeypatch.setattr("benchmarks.measure.time.process_time", lambda: clock[0])

    def job(name, seconds):
        def call():
            order.append(name)
            clock[0] += seconds

        return call

    return order, {"a": job("a", 1.0), "b": job("b", 2.0)}


def test_every_measurement_has_one_of_the_reference_just_before_it(calls):
    order, jobs = calls
    pairs = interleaved(jobs, "a", rounds=2, device=torch.device("cpu"))
    assert order == ["a", "b", *["a", "a", "a", "b"] * 2]  # once to warm up, then in turns
    assert pairs == {"a": [(1.0, 1.0)] * 2, "b": [(2.0, 1.0)] * 2}


def test_speed_is_the_median_of_ratios_with_their_range():
    assert Speed.of([(2.0, 1.0), (1.0, 1.0), (4.0, 1.0)]) == Speed(median=0.5, low=0.25, high=1.0, seconds=2.0)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variant_builds_at_the_sizes_asked_for(variant):
    recipe = variant_recipe(variant, 16, 2)
    with torch.device("meta"):
        model = BSRNN.from_recipe(recipe)
    assert (len(model.backbone.blocks), recipe.backbone.features, len(model.targets)) == (2, 16, 4)


def test_names_and_recipes_of_variants_differ():
    assert len({v.name for v in VARIANTS}) == len({(v.recipe, v.words) for v in VARIANTS}) == len(VARIANTS)


def test_command(tmp_path, capsys):
    sizes = ["--features", "2", "--repeats", "1", "--seconds", "0.05", "--rounds", "1", "--device", "cpu"]
    assert (
        run({"architecture": ARCHITECTURE}, ["architecture", *sizes, "--variant", "GRU", "--out", str(tmp_path)]) == 0
    )
    values = json.loads((tmp_path / "architecture.json").read_text())
    assert [row["name"] for row in values["variants"]] == ["BLSTM (default)", "GRU"]
    assert values["command"].startswith("python -m benchmarks architecture --features 2")
    assert architecture_markdown(values) in capsys.readouterr().out
    gru = architecture_markdown(values).splitlines()[3]
    assert gru.startswith("| GRU | `backbone.time=gru backbone.band=gru` | oBSRNN's study")
    assert f"| {values['variants'][1]['training']['median']:.2f} (" in gru
