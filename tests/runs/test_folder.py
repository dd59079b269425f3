"""Run folders: strict, atomic, hashed."""

import errno
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refined_bsrnn import bands
from refined_bsrnn.errors import CheckpointError, RecipeError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.folder import (
    RunFolder,
    find_run,
    load_backbone,
    load_head,
    load_model,
    load_state,
    read_tensors,
    save_backbone,
    save_state,
    save_weights,
    tensors_sha256,
    write_tensors,
)
from refined_bsrnn.system import write_text
from tests.conftest import micro_recipe


def make_run(path, seed=0, **values):
    torch.manual_seed(seed)
    recipe = micro_recipe(None, **values)
    run = RunFolder(path)
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, BSRNN.from_recipe(recipe))
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "mtl")


def rewrite(path, change):
    """Change the tensors of a safetensors file and keep its metadata."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(("channels", "others"), [(2, 1), (1, 2)])
def test_a_joint_backbone_says_for_how_many_channels_it_is(tmp_path, channels, others):
    joint = {"features": 4, "repeats": 1, "stereo": "joint"}
    net, other = (
        BSRNN.from_recipe(micro_recipe(None, backbone=joint, data={"channels": n})) for n in (channels, others)
    )
    save_backbone(tmp_path / "backbone.safetensors", net)
    load_backbone(tmp_path / "backbone.safetensors", net)
    message = (
        f"takes {channels} channels together .*; data.channels is {others} here. Leave data.channels at {channels}"
    )
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path / "backbone.safetensors", other)


def test_what_is_saved_is_what_is_loaded(run):
    torch.manual_seed(0)
    model = BSRNN.from_recipe(micro_recipe(None)).eval()
    loaded = load_model(run)
    assert not loaded.training
    mixture = torch.randn(1, 2, 1000)
    for target in ("vocals", "drums"):
        assert torch.equal(loaded(mixture)[target], model(mixture)[target])


def test_only_the_heads_asked_for_are_loaded(run):
    assert load_model(run, ["drums"]).targets == ["drums"]
    with pytest.raises(RecipeError, match="has no head 'drum'. Did you mean 'drums'.* Heads: drums, vocals"):
        load_model(run, ["drum"])


def test_hash_is_of_the_weights_not_of_the_file(run):
    tensors, metadata = read_tensors(run.backbone, "backbone")
    assert metadata["sha256"] == tensors_sha256(tensors)
    assert metadata["sha256"] == tensors_sha256(dict(reversed(list(tensors.items()))))
    name = next(iter(tensors))
    assert metadata["sha256"] != tensors_sha256({**tensors, name: tensors[name] + 1})
    assert metadata["sha256"] != tensors_sha256({**tensors, name: tensors[name].reshape(1, *tensors[name].shape)})


def test_a_file_older_than_a_field_of_the_backbone_loads(run):
    def forget(tensors, metadata):
        backbone = json.loads(metadata["backbone"])
        metadata["backbone"] = json.dumps({k: v for k, v in backbone.items() if k not in ("stereo", "causal")})

    for path in (run.backbone, run.head("drums")):
        rewrite(path, forget)
    assert load_model(run, ["drums"]).targets == ["drums"]


def test_metadata_says_what_the_file_is(run):
    _, metadata = read_tensors(run.head("drums"), "head")
    _, backbone = read_tensors(run.backbone, "backbone")
    assert metadata["format"] == "refined_bsrnn/1"
    assert metadata["backbone_sha256"] == backbone["sha256"]
    assert json.loads(metadata["ranges"]) == [[0, 16], [16, 64], [64, 129]]
    assert json.loads(metadata["stft"]) == {"sample_rate_hz": 8000, "n_fft": 256, "hop": 64}
    assert not any("drums" in name for name in load_file(run.head("drums")))


def test_a_head_can_be_attached_under_any_name(run):
    model = load_model(run, [])
    load_head(run.head("drums"), model, "beats")
    mixture = torch.randn(1, 1, 500)
    assert torch.equal(model(mixture)["beats"], load_model(run)(mixture)["drums"])


def test_head_of_another_backbone_is_refused_with_both_hashes(run, tmp_path):
    other = make_run(tmp_path / "runs" / "other", seed=1)
    shutil.copy(other.head("drums"), run.head("drums"))
    ours, theirs = (read_tensors(r.backbone, "backbone")[1]["sha256"] for r in (run, other))
    with pytest.raises(CheckpointError, match=f"a head of the backbone {theirs}; this one is {ours}"):
        load_model(run)


def test_missing_extra_and_misshapen_tensors_are_refused(run):
    whole = run.backbone.read_bytes()

    def drop(tensors, _):
        del tensors["encoder.linears.0.bias"]

    def add(tensors, _):
        tensors["stray"] = torch.zeros(1)

    def reshape(tensors, _):
        tensors["encoder.linears.0.bias"] = torch.zeros(5)

    for change, message in (
        (drop, "encoder.linears.0.bias is missing"),
        (add, "stray is not part of the network"),
        (reshape, r"encoder.linears.0.bias has shape \(5,\), the network \(4,\)"),
    ):
        rewrite(run.backbone, change)
        with pytest.raises(CheckpointError, match=message):
            load_model(run)
        run.backbone.write_bytes(whole)
    load_model(run)


def test_changed_weights_are_noticed(run):
    def change(tensors, _):
        tensors["encoder.linears.0.bias"] += 1

    rewrite(run.backbone, change)
    with pytest.raises(CheckpointError, match=r"holds weights with hash \w+, but was written as \w+"):
        load_model(run)


@pytest.mark.parametrize("of_adapter", [False, True])
def test_changed_weights_of_a_head_and_of_its_adapter_are_noticed(run, of_adapter):
    model = load_model(run)
    model.add_adapter("lora", ["drums"], rank=2, alpha=4.0)
    save_weights(run, model)

    def change(tensors, _):
        tensors[next(name for name in tensors if name.startswith("adapter/") == of_adapter)] += 1

    load_model(run)
    rewrite(run.head("drums"), change)
    with pytest.raises(CheckpointError, match=r"drums.safetensors holds other weights than it was written with"):
        load_model(run)


def test_other_band_edges_are_refused(run):
    text = run.recipe.read_text()
    run.recipe.write_text(text.replace("[500, 2000]", "[500, 2500]"))
    assert text != run.recipe.read_text()
    with pytest.raises(CheckpointError, match=r"was made for ranges \[\[0, 16\].*; this network has"):
        load_model(run)


def test_other_weights_of_the_same_bands_are_refused(tmp_path, monkeypatch):
    run = make_run(tmp_path / "mel", bands={"kind": "mel", "n_bands": 8})
    load_model(run)
    # the same extents, but averaged where they overlap
    monkeypatch.setitem(bands.SCHEMES, "mel", lambda grid, *, n_bands: np.ceil(bands.mel(grid, n_bands=n_bands)))
    with pytest.raises(CheckpointError, match="was made for band_weights"):
        load_model(run)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head", None, "head.kind is missing"),
        ("head", "{", "head is '{', which is no JSON"),
        ("head", "[]", r"head is \[\]; expected a mapping"),
        ("head", "[" * 100_000, "which is no JSON"),
        ("head", '{"kind": "mlp_mask", "options": 7}', "head.options is 7; expected a mapping"),
        ("head", '{"kind": "nope", "options": {}}', "cannot be made here: head.kind='nope' is unknown"),
        ("head", json.dumps({"kind": "mlp_mask", "options": {"hidden_factor": 10**12}}), "has shape .*, the network"),
        ("head", json.dumps({"kind": "mlp_mask", "options": {"hidden_factor": 10**30}}), "cannot be made here"),
        ("adapter", '{"rank": 4}', "adapter.alpha is missing"),
        ("adapter", json.dumps({"rank": 0, "alpha": 1, "sha256": tensors_sha256({})}), "an adapter of rank 0"),
        (
            "adapter",
            json.dumps({"rank": 1, "alpha": math.nan, "sha256": tensors_sha256({})}),
            "alpha nan; expected",
        ),
        ("trained", '{"run": "mtl"}', "trained.steps is missing"),
        ("score", json.dumps({"split": "test", "n_tracks": "all"}), "score.n_tracks is 'all'; expected a whole"),
        ("trained", "{", "trained is '{', which is no JSON"),
        ("score", "nope", "score is 'nope', which is no JSON"),
        ("stft", "{", "stft is '{', which is no JSON"),
        ("ranges", None, "was made for ranges None"),
        ("backbone", "7", "was made for backbone 7"),
    ],
)
def test_what_a_heads_file_says_is_checked_and_a_bad_one_leaves_nothing_behind(run, key, value, message):
    def change(_, metadata):
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value

    rewrite(run.head("drums"), change)
    model = load_model(run, ["vocals"])
    with pytest.raises(CheckpointError, match=f"drums.safetensors.*{message}"):
        load_head(run.head("drums"), model, "drums")
    assert model.targets == ["vocals"]
    assert not model.adapters


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_file_is_refused(run, size):
    data = run.head("drums").read_bytes()
    run.head("drums").write_bytes(data[:size])
    with pytest.raises(CheckpointError, match=rf"drums.safetensors \({len(data[:size])} bytes\) .*it is damaged"):
        load_model(run)


def test_another_kind_of_file_is_refused(run):
    shutil.copy(run.backbone, run.head("drums"))
    with pytest.raises(CheckpointError, match="is 'backbone' of format .*; expected 'head'"):
        load_model(run)
    save_file({"a": torch.zeros(1)}, run.head("drums"))
    with pytest.raises(CheckpointError, match="is 'something' of format 'unknown'"):
        load_model(run)


def test_missing_backbone(run):
    run.backbone.unlink()
    with pytest.raises(CheckpointError, match="backbone.safetensors is not there"):
        load_model(run)


def test_full_disk_leaves_the_old_file(run, monkeypatch):
    before = run.backbone.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("refined_bsrnn.system.os.fsync", full)
    with pytest.raises(CheckpointError, match="backbone.safetensors cannot be written: the disk is full"):
        save_weights(run, BSRNN.from_recipe(micro_recipe(None)))
    assert run.backbone.read_bytes() == before
    assert not list(run.path.rglob("*.part*"))


def test_state_comes_back_whole(tmp_path):
    path = tmp_path / "state" / "last.safetensors"
    groups = {"a": {"x/y": torch.arange(3.0)}, "b": {"z": torch.ones(2, 2)}}
    save_state(path, groups, {"step": 3, "best": None})
    loaded, progress = load_state(path)
    assert progress == {"step": 3, "best": None}
    assert torch.equal(loaded["a"]["x/y"], groups["a"]["x/y"])
    assert torch.equal(loaded["b"]["z"], groups["b"]["z"])


def test_runs_are_found_by_name_and_folder(run):
    assert find_run("mtl").path.resolve() == run.path
    assert find_run(run.path).path == run.path
    assert find_run("mtl", run.path.parent).name == "mtl"
    with pytest.raises(RecipeError, match=r"no run 'mlt'. Did you mean 'mtl'\? Runs in runs/: mtl"):
        find_run("mlt")


def test_a_name_finds_its_builtin_run_only_where_there_is_no_other(run, tmp_path):
    make_run(tmp_path / "runs" / "drums-builtin")
    assert find_run("drums").name == "drums-builtin"
    make_run(tmp_path / "runs" / "drums")
    assert find_run("drums").name == "drums"


def test_no_runs_at_all(tmp_path):
    with pytest.raises(RecipeError, match="Runs in nowhere/: none yet"):
        find_run("mtl", "nowhere")


def test_others_may_read_weights_as_they_may_other_files(tmp_path):
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "head"})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_network_is_loaded_without_the_modules_that_compile(tmp_path):
    """They take a second, before every separation."""
    run = RunFolder(tmp_path / "run")
    model = BSRNN.from_recipe(micro_recipe(None))
    write_text(run.recipe, dump_recipe(model.recipe))
    save_weights(run, model)
    code = "import sys; from refined_bsrnn.runs.folder import RunFolder, load_model; from pathlib import Path\n"
    code += "load_model(RunFolder(Path('run'))); print({'sympy', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "set()\n"
