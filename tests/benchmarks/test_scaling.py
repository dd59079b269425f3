"""Predictions of speed on many GPUs: the formula by hand, and the document that shows them."""

from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import Size, scaling_markdown, size
from refined_bsrnn.network.info import describe
from refined_bsrnn.recipe import load_recipe, recipe_folder

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "scaling.md").read_text()
# 1 G multiply-accumulates in the backbone and 0.1 G in each of two heads per second of audio; 1000 dependent steps.
SIZE = Size("x", 25_000_000, 1e9, 1e8, 2, 1000.0, 1e6)


@pytest.fixture(scope="module")
def small():
    return size("small")


def test_a_step_by_hand():
    """Forward: 1000 × 10 µs and 8 × 3 s × 2 × 1.2 G at 50 T per second; backward twice that."""
    assert SIZE.step(8) == pytest.approx(3 * (0.01 + 8 * 3 * 2.4e9 / 50e12))
    assert SIZE.full_step(8) == pytest.approx(3 * (0.01 + 8 * 3 * 2.2e9 / 50e12))
    assert SIZE.frozen_step(8) == pytest.approx(0.01 + 24 * 2e9 / 50e12 + 3 * 24 * 2e8 / 50e12)
    assert SIZE.cached_step(8) == pytest.approx(24 * 1e6 / 2e9 + 3 * 24 * 2e8 / 50e12)


@pytest.mark.parametrize(
    ("n_gpus", "seconds"),
    [
        (1, 0.0),
        (8, 2 * 7 / 8 * 100e6 / 200e9 + 3 * 14 * 20e-6),
        (16, 2 * 7 / 8 * 100e6 / 200e9 + 2 * 1 / 2 * 100e6 / 25e9 + 3 * 30 * 20e-6),
        (64, 2 * 7 / 8 * 100e6 / 200e9 + 2 * 7 / 8 * 100e6 / 25e9 + 3 * 126 * 20e-6),
    ],
)
def test_communication_by_hand(n_gpus, seconds):
    assert SIZE.communication(n_gpus) == pytest.approx(seconds)
    assert SIZE.efficiency(n_gpus) == pytest.approx(SIZE.step(8) / (SIZE.step(8) + seconds))


def test_eight_gpus_on_one_batch_are_held_up_by_the_dependent_steps():
    one, eight = SIZE.step(8), SIZE.step(1) + SIZE.communication(8)
    assert SIZE.speed_up(8) == pytest.approx(one / eight)
    assert SIZE.speed_up(8) < one / (3 * 0.01)


def test_gpu_hours_by_hand():
    assert SIZE.hours(24 / 3600) == pytest.approx(SIZE.step(8) / 3600)  # 24 s of audio are one step


def test_counts_are_those_of_the_network(small):
    recipe = load_recipe(recipe_folder() / "mtl_generic.yaml", ["size=small"])
    info = describe(recipe)
    assert small.parameters == sum(part.parameters for part in info.parts) == 10_210_708
    assert small.macs_backbone + 4 * small.macs_head == sum(part.macs_per_second for part in info.parts)
    assert small.dependent_steps == pytest.approx(8 * (3 * 44100 / 512 + 36))
    assert small.cache_bytes == pytest.approx(2 * 2 * 36 * 44100 / 512 * 64)


def test_the_passes_over_musdb_are_those_of_the_recipe():
    train = load_recipe(recipe_folder() / "mtl_generic.yaml").train
    hours, passes = scaling.DATA["MUSDB18-HQ"]
    seen = train.steps * train.batch_size * train.chunk_seconds / 3600
    assert hours * passes == pytest.approx(seen, rel=0.01)
    assert load_recipe(recipe_folder() / "transfer.yaml").train.steps == scaling.TRANSFER_STEPS


def test_the_document_shows_these_predictions(small):
    for table in scaling_markdown([small, size("large")]).split("\n\n"):
        assert table in DOCUMENT


def test_the_document_names_every_assumption():
    for shown in ("50 TFLOP/s", "10 µs", "200 GB/s", "25 GB/s", "20 µs", "2 GB/s"):
        assert shown in DOCUMENT
