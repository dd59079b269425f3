"""The exported core gives what the network gives: torch.export and ONNX, any number of items, channels and frames."""

import json
from pathlib import Path

import pytest
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import RecipeError
from refined_bsrnn.network.blocks import BLOCKS, CELLS, NORMS, TAC_ACTIVATIONS
from refined_bsrnn.network.consistency import TOGETHER
from refined_bsrnn.network.core import MaskCore
from refined_bsrnn.network.heads import HEADS
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.network.signals import as_pairs
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.exchange.export import export_core, make_program
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.system import write_text
from tests.conftest import micro_recipe


def as_planes(spectrogram):
    """Complex (B, C, F, T) → what a core takes and gives, (B, C, 2, F, T)."""
    return torch.stack([spectrogram.real, spectrogram.imag], dim=2)


def from_planes(planes):
    return torch.complex(*planes.unbind(2))


RNN, ROPE = "band_sequence_rnn", {"kind": "rope_transformer", "heads": 2, "head_dim": 4}
slow = pytest.mark.slow
# What every cell, norm, block, stereo mode, head, tie and kind of bands comes to when it is traced; in few networks,
# since tracing one takes seconds.
CASES = [
    pytest.param({}, id="lstm-gn1"),
    pytest.param(
        {
            "backbone": {"time": "gru", "norm": "ln", "causal": True, "groups": 2},
            "head": {"bridge": True, "hidden_layers": 2, "gate_layer": True},
        },
        id="causal-gru-ln-groups-bridge-gate",
        marks=slow,
    ),
    pytest.param(
        {
            "backbone": {
                **{"causal": True, "norm": "cumulative", "time": "conv", "band": "conv"},
                **{"stereo": "tac", "tac_activation": "tanh"},
            },
            "head": {"kind": "residual"},
            "together": "consistent",
        },
        id="causal-conv-cumulative-tac-residual-consistent",
        marks=slow,
    ),
    pytest.param(
        {
            "backbone": {
                **{"time": "dilated", "band": "dilated", "norm": "rms", "stereo": "joint"},
                "attention_heads": 2,
            },
            "bands": {"kind": "mel", "n_bands": 3},
            "head": {"kind": "spectrum"},
        },
        id="bscnn-attention-rms-overlapping-joint-spectrum",
        marks=slow,
    ),
    pytest.param({"backbone": ROPE}, id="rope", marks=slow),
    pytest.param(
        {
            "backbone": {
                **ROPE,
                "causal": True,
                "norm": "length",
                "stereo": "joint",
                "final_norm": True,
                "closing_norm": True,
            },
            "bands": {"kind": "mel", "n_bands": 3},
            "head": {"kind": "roformer_mask"},
            "together": "subtract_last",
        },
        id="causal-roformer",
    ),
]


PLAIN_CASE, PROGRAM_CASE = (next(case for case in CASES if case.id == name) for name in ("lstm-gn1", "rope"))


def test_every_registered_component_is_among_the_cases():
    cases = [case.values[0] for case in CASES]
    backbones = [case.get("backbone", {}) for case in cases]
    assert {b.get("kind", RNN) for b in backbones} == set(BLOCKS)
    assert {b.get("norm", "gn1") for b in backbones} == set(NORMS)
    assert {b.get("time", "lstm") for b in backbones} == {*CELLS, "dilated"}
    assert {b.get("tac_activation", "prelu") for b in backbones} == set(TAC_ACTIVATIONS)
    assert {case.get("head", {}).get("kind", "mlp_mask") for case in cases} == set(HEADS)
    assert {case.get("together", "none") for case in cases} == {"none", *TOGETHER}


def model(values):
    torch.manual_seed(0)
    backbone = {"features": 4, "repeats": 1, **values.get("backbone", {})}
    # Tracing takes as long as there are operations: two heads and three bands only where they matter.
    several = not values.get("backbone") or "together" in values or "bridge" in values.get("head", {})
    targets = ["vocals", "drums"] if several else ["vocals"]
    bands = values.get("bands") or {"kind": "custom", "edges_hz": [500, 2000] if not values else [1000]}
    recipe = micro_recipe(None, **{**values, "backbone": backbone, "bands": bands, "targets": targets})
    return BSRNN.from_recipe(recipe).eval()


def inputs(net):
    """Planes of other sizes than those that were traced."""
    shapes = [(1, 1, 1), (3, 2, 30), (2, 3, 5)] if net.channels_per_item == 1 else [(1, 2, 1), (3, 2, 30)]
    return [torch.randn(b, c, 2, 129, t) for b, c, t in shapes]


@torch.no_grad()
def test_the_core_is_the_network_between_stft_and_istft():
    net, mixture = model({"together": "consistent"}), torch.randn(2, 2, 1000)
    planes = MaskCore(net, ["drums"])(as_planes(net.stft(mixture)))
    assert len(planes) == 1
    assert torch.equal(net.stft.inverse(from_planes(planes[0]), 1000), net(mixture, ["drums"])["drums"])


@torch.no_grad()
def test_adapters_are_merged_into_the_core():
    net, mixture = model({}), torch.randn(2, 2, 1000)
    adapter = net.add_adapter("a", ["drums"], rank=2, alpha=4.0)
    for up in adapter.up.values():
        up.copy_(torch.randn_like(up))
    planes = MaskCore(net)(as_planes(net.stft(mixture)))
    for target, x in zip(net.targets, planes, strict=True):
        torch.testing.assert_close(net.stft.inverse(from_planes(x), 1000), net(mixture)[target], atol=1e-5, rtol=1e-4)
    assert torch.equal(net.backbone(as_pairs(net.stft(mixture))), net.features(mixture))


# ONNX is made of the same trace: there all the others are tried.
@torch.no_grad()
def test_torch_export_gives_the_same():
    net = model(PROGRAM_CASE.values[0])
    program = make_program(net).module()
    for planes in inputs(net):
        for ours, theirs in zip(MaskCore(net)(planes), program(planes), strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # what torch.export.load does
@torch.no_grad()
def test_a_program_is_read_without_this_package(tmp_path):
    net = model({})
    path = export_core(net, tmp_path / "core.pt2")
    extra = {"refined_bsrnn.json": ""}
    program = torch.export.load(path, extra_files=extra)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.lstm.input" in operators
    assert not [name for name in operators if "refined" in name]
    planes = inputs(net)[1]
    torch.testing.assert_close(program.module()(planes), MaskCore(net)(planes), atol=1e-5, rtol=1e-5)
    facts = json.loads(extra["refined_bsrnn.json"])
    assert (facts["targets"], facts["n_fft"], facts["hop"]) == (["vocals", "drums"], 256, 64)


@pytest.mark.parametrize("values", [case for case in CASES if case not in (PLAIN_CASE, PROGRAM_CASE)])
@torch.no_grad()
def test_onnxruntime_gives_the_same(values, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = model(values)
    session = runtime.InferenceSession(export_core(net, tmp_path / "core.onnx"))
    assert [output.name for output in session.get_outputs()] == net.targets
    check_session(session, net, net.targets)


@torch.no_grad()
def check_session(session, net, targets):
    for planes in inputs(net):
        outputs = session.run(None, {"mixture": planes.numpy()})
        for ours, theirs in zip(MaskCore(net, targets)(planes), outputs, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-5, rtol=1e-4)


def test_command(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, run = model(PLAIN_CASE.values[0]), RunFolder(tmp_path / "runs" / "mtl")
    write_text(run.recipe, dump_recipe(net.recipe))
    save_weights(run, net)
    assert main(["export-onnx", "mtl", "--head", "drums", "--out", "drums.onnx"]) == 0
    session = runtime.InferenceSession("drums.onnx")
    assert [output.name for output in session.get_outputs()] == ["drums"]
    check_session(session, net, ["drums"])
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["sample_rate_hz"], facts["window"]) == ("8000", "hann, periodic")
    assert json.loads(facts["targets"]) == ["drums"]
    for value in (*session.get_inputs(), *session.get_outputs()):
        assert value.shape == ["batch", "channels", 2, 129, "frames"]
    messages = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in messages] == ["Exporting", "Traced;", "Written:"]
    before = Path("drums.onnx").read_bytes()
    assert main(["export-onnx", "mtl", "--head", "drums", "--out", "drums.onnx"]) == 2
    assert (
        "drums.onnx is there already and is not replaced; take another --out, or --overwrite" in capsys.readouterr().err
    )
    Path("folder.pt2").mkdir()
    assert main(["export-onnx", "mtl", "--out", "folder.pt2", "--overwrite"]) == 2
    assert "folder.pt2 is a folder" in capsys.readouterr().err
    assert Path("drums.onnx").read_bytes() == before
    assert main(["export-onnx", "mtl", "--out", "drums.pb"]) == 2
    assert "ends in '.pb'; expected .onnx, or .pt2" in capsys.readouterr().err
    assert main(["export-onnx", "mtl", "--head", "drum", "--out", "drums.onnx"]) == 1
    assert "no head 'drum'. Did you mean 'drums'" in capsys.readouterr().err


def test_a_network_that_needs_two_inputs_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="input.normalise is standardise: .* Expected none or peak"):
        export_core(model({"input": {"normalise": "standardise"}}), tmp_path / "core.pt2")


@torch.no_grad()
def test_a_normalised_peak_is_a_gain_outside_of_the_core():
    net, mixture = model({"input": {"normalise": "peak"}}), torch.randn(1, 2, 1000)
    gain = net.level(mixture).gain
    planes = MaskCore(net, ["drums"])(as_planes(net.stft(mixture * gain)))[0]
    torch.testing.assert_close(net.stft.inverse(from_planes(planes), 1000) / gain, net(mixture)["drums"])


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(RecipeError, match=r"needs the package onnx, .* pip install 'refined-bsrnn\[export\]'"):
        export_core(model({}), tmp_path / "core.onnx")
