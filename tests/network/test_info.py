"""What a network is made of: against sums by hand and published counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.network.heads import Head
from refined_bsrnn.network.info import Info, Part, describe, describe_network, training_macs
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.network.receptive_field import reach_samples
from refined_bsrnn.recipe import HeadSpec, dump_recipe, load_recipe, make_recipe
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.system import write_text
from tests.conftest import micro_recipe


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
    assert head.output == "(B, C, T, F, 2) = 1 × 2 × 125 × 129 × 2"
    assert info.parameters == encoder.parameters + block.parameters + 2 * head.parameters


def test_heads_of_one_form_are_counted_once(monkeypatch):
    """With hundreds of bands to count a head takes seconds."""
    model, ran = BSRNN.from_recipe(micro_recipe(None)), []
    model.add_head("bass", HeadSpec("mlp_mask", {"hidden_layers": 2}))
    forward = Head.forward
    monkeypatch.setattr(Head, "forward", lambda head, *inputs: ran.append(head) or forward(head, *inputs))
    parts = {part.name: part for part in describe_network(model).parts}
    assert ran == [model.heads["vocals"], model.heads["bass"]]
    assert parts["head drums"] == replace(parts["head vocals"], name="head drums")
    n_bands, hidden, frames = 3, 16, 125  # of the second hidden layer; two channels
    assert parts["head bass"].macs_per_second - parts["head drums"].macs_per_second == 2 * frames * n_bands * hidden**2


def test_what_a_block_is_made_of():
    """Shares of the published oBSRNN-SIMO: TAC 3 549 708 and attention 933 204 parameters of its 12 blocks."""
    info = describe(load_recipe("obsrnn_simo"))
    block = info.parts[1]
    parts = {part.name: part for part in block.parts}
    assert list(parts) == ["time", "band", "tac", "attention"]
    assert 12 * parts["tac"].parameters == 3_549_708
    assert 12 * parts["attention"].parameters == 933_204
    assert sum(part.parameters for part in block.parts) == block.parameters
    assert sum(part.macs_per_second for part in block.parts) == block.macs_per_second
    k, t, n, channels = 57, 86, 128, 2
    assert parts["time"].output == f"{channels * k} × {t} × {n}"
    average = channels * 3 * n * n + 9 * n * n + channels * 6 * n * n  # the mean is transformed once
    assert parts["tac"].macs_per_second == k * t * average
    projections = k * t * (2 * 2 * 16 * n + n * n + n * n)  # two heads of 16, values, output
    assert parts["attention"].macs_per_second == channels * (projections + 2 * t * t * k * (16 + n // 2))


def test_an_adapter_has_its_parameters_and_the_second_run_of_the_backbone():
    values = {"base": {"run": "x", "method": "lora", "rank": 2}}
    alone = describe(micro_recipe(None, targets=["guitar"], **values))
    (adapter,) = (part for part in alone.parts if part.name.startswith("adapter"))
    plain = describe(micro_recipe(None, targets=["guitar"]))
    assert alone.parameters == plain.parameters + adapter.parameters
    assert alone.macs_per_second == plain.macs_per_second  # nothing reads the features without it
    both = BSRNN.from_recipe(micro_recipe(None))
    both.add_adapter("a", ["drums"], rank=2, alpha=4.0)
    backbone = sum(part.macs_per_second for part in plain.parts[:2])
    assert describe_network(both).macs_per_second == describe(micro_recipe(None)).macs_per_second + backbone


BACKBONE, HEADS = 10 + 100 + 1000, 2  # of an encoder and two blocks, and of two heads, per second of audio
STEP_SECONDS = 4 * 0.5
COSTS = [  # base → what is computed before the first step, and per step and second of audio
    (None, {}, 0, 3 * BACKBONE + 3 * HEADS),
    ("full", {}, 0, 3 * BACKBONE + 3 * HEADS),
    ("lora", {}, 0, 3 * BACKBONE + 3 * HEADS),
    ("partial", {}, 0, BACKBONE + 2 * 1000 + 3 * HEADS),
    ("frozen", {}, 0, BACKBONE + 3 * HEADS),
    ("frozen", {"enabled": True, "pool": 5}, 5 * 0.5 * BACKBONE, 3 * HEADS),
    ("frozen", {"enabled": True, "pool": 1000}, 7 * STEP_SECONDS * BACKBONE, 3 * HEADS),
]


@pytest.mark.parametrize(("method", "cache", "before", "each"), COSTS)
def test_multiply_accumulates_of_a_training_by_hand(method, cache, before, each):
    parts = [Part(n, "", 1, m) for n, m in (("encoder", 10), ("block 1", 100), ("block 2", 1000), ("adapter x", 9))]
    parts += [Part(f"head {name}", "", 1, HEADS // 2) for name in "ab"]
    info = Info(tuple(parts), 3, 2, "", "", None, None)
    base = {"base": {"run": "x", "method": method, "blocks": 1}} if method else {}
    train = {"batch_size": 4, "chunk_seconds": 0.5, "steps": 7}
    recipe = make_recipe({"targets": ["a", "b"], "train": train, "cache": cache, **base})
    assert training_macs(recipe, info) == (before, STEP_SECONDS * each)


def test_a_run_is_shown_with_the_heads_that_it_has(capsys):
    net, run = BSRNN.from_recipe(micro_recipe(None)), RunFolder(Path("runs/mtl"))
    write_text(run.recipe, dump_recipe(net.recipe))
    assert main(["info", "mtl", "--json"]) == 0  # nothing saved yet: what its recipe says
    assert [part["name"] for part in json.loads(capsys.readouterr().out)["parts"][-2:]] == ["head vocals", "head drums"]
    save_weights(run, net)
    run.head("drums").unlink()
    assert main(["info", "mtl", "--json"]) == 0
    assert [part["name"] for part in json.loads(capsys.readouterr().out)["parts"][2:]] == ["head vocals"]


def test_a_study_is_no_network(capsys):
    assert main(["info", "compare_bands"]) == 2
    assert "is a study, which plans several runs" in capsys.readouterr().err


def test_command(capsys):
    assert main(["info", "mtl_generic", "size=tiny"]) == 0
    shown = capsys.readouterr().err
    assert "3,456,340 parameters, 36 bands" in shown
    assert "blocks 1 to 6" in shown
    assert "along bands" in shown
    assert main(["info", "mtl_generic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 10_210_708
    assert main(["info", "mtl_generik"]) == 2
    assert "Did you mean 'mtl_generic'" in capsys.readouterr().err


LN = {"features": 4, "repeats": 2, "norm": "ln"}
ROPE = {**LN, "kind": "rope_transformer", "heads": 1, "head_dim": 4}
# backbone → frames before and behind that it sees, by hand; None: all
REACHES = [
    ({**LN, "time": "conv"}, 2, 2),  # ±1 in each of two blocks
    ({**LN, "time": "conv", "causal": True}, 4, 0),
    ({**LN, "time": "dilated", "dilations": 3}, 20, 20),  # ±(1 + 1 + 2 + 4 + 1 + 1)
    ({**LN, "time": "dilated", "dilations": 1, "norm": "rms", "causal": True}, 16, 0),
    ({**LN, "time": "conv", "band": "dilated", "stereo": "tac", "groups": 2}, 2, 2),
    ({**LN, "time": "conv", "norm": "gn1"}, None, None),
    ({**LN, "time": "conv", "norm": "cumulative"}, None, 2),
    ({**LN, "time": "conv", "attention_heads": 1}, None, None),
    (LN, None, None),
    ({**LN, "causal": True}, None, 0),
    (ROPE, None, None),
    ({**ROPE, "causal": True}, None, 0),
]


@pytest.mark.parametrize(("backbone", "before", "behind"), REACHES, ids=str)
@pytest.mark.parametrize("head", ["mlp_mask", "residual"])
def test_receptive_field_is_exact(backbone, before, behind, head):
    """The samples on which a sample of the estimate depends, by its gradient: no more than said, and the outermost."""
    torch.manual_seed(0)
    model = BSRNN.from_recipe(micro_recipe(None, targets=["vocals"], backbone=backbone, head={"kind": head})).eval()
    n_fft, hop, middle = 256, 64, 2000
    stated = tuple(None if frames is None else n_fft - 2 + hop * frames for frames in (before, behind))
    assert reach_samples(model) == stated
    # The outermost are reached from one position within a hop: every item of the batch looks from another one.
    at = middle + torch.arange(1 if stated == (None, None) else hop)
    mixture = torch.randn(len(at), 1, 2 * middle, requires_grad=True)
    model(mixture)["vocals"][torch.arange(len(at)), 0, at].sum().backward()
    item, sample = mixture.grad[:, 0].nonzero(as_tuple=True)
    furthest = int((at[item] - sample).max()), int((sample - at[item]).max())
    for found, messages in zip(furthest, stated, strict=True):
        # All of the past or future: to the ends of the signal.
        assert found == messages if messages is not None else found >= middle - 100


def test_what_else_sees_everything():
    conv = {**LN, "time": "conv"}
    for values in ({"head": {"kind": "spectrum"}}, {"input": {"normalise": "peak"}}):
        assert reach_samples(BSRNN.from_recipe(micro_recipe(None, backbone=conv, **values))) == (None, None)


def test_receptive_field_in_words():
    assert describe(micro_recipe(None)).receptive_field == "the whole signal it is given"
    info = describe(micro_recipe(None, backbone={**LN, "causal": True}))
    assert info.receptive_field == "all that came before, 254 samples (31.8 ms) behind"
    assert info.latency == "254 samples (31.8 ms)"
    info = describe(micro_recipe(None, backbone={**LN, "time": "conv"}))
    assert info.receptive_field == "382 samples (47.8 ms) before, 382 samples (47.8 ms) behind"
    assert info.values()["samples_behind"] == 382
