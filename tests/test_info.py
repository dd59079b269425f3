"""What a network is made of: against sums by hand and published counts."""

import json

import pytest
from conftest import micro_recipe

from refined_bsrnn.cli import main
from refined_bsrnn.info import describe
from refined_bsrnn.recipe import make_recipe


# GFLOP (two per multiply-accumulate) per second of stereo audio at 41 bands, one target, two hidden layers
@pytest.mark.parametrize(("features", "repeats", "gflop"), [(64, 8, 49.6), (32, 6, 9.5), (128, 12, 293.8)])
def test_multiply_accumulates_of_known_networks(features, repeats, gflop):
    recipe = make_recipe(
        {
            "targets": ["vocals"],
            "bands": {"kind": "v7"},
            "backbone": {"features": features, "repeats": repeats},
            "head": {"hidden_layers": 2},
        }
    )
    info = describe(recipe)
    assert 2 * info.macs_per_second / 1e9 == pytest.approx(gflop, rel=5e-3)


def test_parts_by_hand():
    info = describe(micro_recipe(None))
    encoder, block, head = info.parts[0], info.parts[1], info.parts[2]
    widths, n, frames = (16, 48, 65), 4, 125  # bins per band, features, frames in a second; two channels
    assert encoder.parameters == sum(4 * g + 2 * g * n + n for g in widths)
    assert encoder.macs_per_second == 2 * frames * sum(2 * g * n for g in widths)
    h = 2 * n
    assert block.parameters == 2 * (2 * n + 2 * (4 * h * n + 4 * h * h + 8 * h) + 2 * h * n + n)
    assert block.macs_per_second == 2 * frames * 3 * 2 * (2 * (4 * h * n + 4 * h * h) + 2 * h * n)
    m = 4 * n
    assert head.parameters == sum(2 * n + n * m + m + 4 * g * m + 4 * g for g in widths)
    assert head.macs_per_second == 2 * frames * sum(n * m + 4 * g * m for g in widths)
    assert head.output == "(B, C, F, T) = 1 × 2 × 129 × 125"
    assert info.parameters == encoder.parameters + block.parameters + 2 * head.parameters


def test_command(capsys):
    assert main(["info", "mtl_generic", "size=tiny"]) == 0
    shown = capsys.readouterr().err
    assert "3,456,340 parameters, 36 bands" in shown
    assert "blocks 1 to 6" in shown
    assert main(["info", "mtl_generic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 10_210_708
    assert main(["info", "mtl_generik"]) == 2
    assert "Did you mean 'mtl_generic'" in capsys.readouterr().err
