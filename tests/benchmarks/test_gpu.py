"""The GPU's benchmark rehearsed on a CPU, and the peers: what is planned, stopped, counted and shown."""

import importlib.metadata
import json
from argparse import Namespace

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import AS_IT_IS, COMPILED, FUSED, GPU, PLAIN, Cell, _tried, gpu_markdown, plan, shares_by_kind
from benchmarks.measure import run
from benchmarks.peers import PEERS, PEERS_KIND, peers_markdown
from refined_bsrnn.errors import RecipeError

CPU = torch.device("cpu")
FLOOR = {"gflop_per_second": 1.0, "dependent_steps": 10, "lstm_step_us": 5.0, "forward_floor_ms": 0.05}
PER_TARGET = "plain BSRNN of size tiny, one per target"


def test_the_plan_has_every_cell_once_the_most_telling_first():
    cells = plan(["tiny", "small"], [4, 1], [FUSED, PLAIN, AS_IT_IS])
    assert len(set(cells)) == len(cells) == 2 * 2 * (2 * 2 + 1 + 2)  # sizes, batches: as it is, fused; plain; separate
    assert cells[0] == Cell("train", "tiny", "float32", PLAIN, 1)
    assert [cell.measure for cell in cells[-8:]] == [FUSED] * 8
    assert not [cell for cell in cells if cell.measure == PLAIN and cell.precision == "bf16"]


def test_kernels_by_hand():
    times = {"lstm_cell_kernel": 5.0, "sgemm_128x64": 3.0, "Memcpy DtoD": 1.0, "tanh": 1.0}
    shares = shares_by_kind(times)
    assert (shares["recurrent"], shares["matrix products"], shares["copies"], shares["others"]) == (0.5, 0.3, 0.1, 0.1)


def test_what_does_not_fit_is_a_row_and_no_larger_batch_is_tried(monkeypatch, tmp_path):
    tried = []

    def out_of_memory(cell, *_):
        tried.append((cell.what, cell.precision, cell.batch))
        if cell.batch > 1:
            raise torch.OutOfMemoryError
        return lambda: None

    monkeypatch.setattr(gpu, "train_job", out_of_memory)
    monkeypatch.setattr(gpu, "separate_job", out_of_memory)
    for name in ("precision_row", "floor_row"):
        monkeypatch.setattr(gpu, name, lambda size, *_: {"size": size, "bf16_db": {"drums": 40.0}, **FLOOR})
    kernels = {"size": "tiny", "batch": 1, "calls": 1, "host_waits": 2, "shares": {"recurrent": 0.5, "others": 0.5}}
    monkeypatch.setattr(gpu, "kernel_shares", lambda *_: kernels)
    words = ["--device", "cpu", "--size", "tiny", "--batch", "1", "--batch", "2", "--batch", "4", "--measure", AS_IT_IS]
    assert run({"gpu": GPU}, ["gpu", *words, "--at-least", "0", "--out", str(tmp_path)]) == 0
    assert tried == [(what, p, b) for what in ("train", "separate") for p in ("float32", "bf16") for b in (1, 2)]
    table = gpu_markdown(json.loads((tmp_path / "gpu.json").read_text()))
    assert table.count("| out of memory |\n") == 4
    assert "recurrent 50 %, others 50 %. Python waits for the device 2 times." in table


def test_when_time_is_up_the_rest_is_listed(monkeypatch):
    for name in ("precision_row", "floor_row", "kernel_shares"):
        monkeypatch.setattr(gpu, name, lambda *_: {})
    args = Namespace(size=["tiny"], batch=[1], measure=[AS_IT_IS, COMPILED], seconds=0.1, minutes=0.0, device="cpu")
    rows = gpu.measure_gpu(args)["rows"]
    assert len(rows) == 6
    assert {row["problem"] for row in rows} == {"not measured: time is up"}


@pytest.mark.parametrize(
    "cell", [Cell("train", "micro", "bf16", AS_IT_IS, 1), Cell("train", "micro", "float32", PLAIN, 1)]
)
def test_a_step_is_measured(cell):
    row = _tried(cell, Namespace(seconds=0.1, at_least=0.0), CPU)
    assert row["audio_seconds_per_second"] == pytest.approx(0.1 / row["seconds_per_call"], rel=0.2)


def test_floors_and_precision_of_a_network():
    """Two blocks; 0.1 s are 9 frames of 512 samples; float32 against itself would be infinitely far."""
    floor = gpu.floor_row("micro", 0.1, CPU)
    recipe = gpu._recipe("micro")
    n_bands = len(gpu.BSRNN.from_recipe(recipe).ranges)
    assert floor["dependent_steps"] == recipe.backbone.repeats * (round(0.1 * 44100 / 512) + 1 + n_bands)
    assert floor["forward_floor_ms"] == pytest.approx(floor["dependent_steps"] * floor["lstm_step_us"] / 1000, rel=0.05)
    assert all(10 < db < 80 for db in gpu.precision_row("micro", 0.1, CPU)["bf16_db"].values())


def test_peers_that_are_not_installed_are_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(RecipeError, match=r"demucs is not installed\..*pip install -e '\.\[benchmark\]'"):
        run({"peers": PEERS_KIND}, ["peers", "--peer", "htdemucs"])


def test_our_networks_among_the_peers(tmp_path, capsys, monkeypatch):
    peers = {name: (n, 0.1, build, None) for name, (n, _, build, package) in PEERS.items() if not package}
    monkeypatch.setattr("benchmarks.peers.PEERS", {k: peers[k] for k in ("tiny, 4 heads", PER_TARGET)})
    assert run({"peers": PEERS_KIND}, ["peers", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "peers.json").read_text())
    ours, plain = values["peers"]
    assert ours["parameters"] < plain["parameters"] < 4 * ours["parameters"]  # four backbones instead of one
    assert peers_markdown(values) in capsys.readouterr().out
