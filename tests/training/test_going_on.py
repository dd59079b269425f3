"""Going on: moved songs, more steps, a new run from another's weights, heads trained on; what stays with the base."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import DataError, RecipeError
from refined_bsrnn.recipe import dump_recipe, make_recipe
from refined_bsrnn.runs.folder import RunFolder, load_model, load_state, read_provenance, read_tensors
from refined_bsrnn.system import write_text
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import from_recipe, resume, resumed_recipe, transfer, transfer_recipe
from tests.conftest import STEMS, micro_recipe, write_song, write_songs

QUICK = ["train.steps=2", "train.validate_every=2", "train.warmup_steps=0", "train.log_every=1"]


@pytest.fixture
def root(tmp_path):
    return write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))


def base_of(root, name="mtl", **values):
    recipe = micro_recipe(root, **values)
    return train(replace(recipe, run=replace(recipe.run, name=name)))[0]


def losses(run):
    return [x["loss"] for x in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in x]


def interrupt_at(step):
    return lambda trainer: signal.raise_signal(signal.SIGTERM) if trainer.progress.step == step else None


# --- the same run


def test_a_run_whose_songs_have_moved_goes_on_as_if_they_had_not(root, capsys):
    straight = base_of(root, "straight")
    recipe = micro_recipe(root)
    halted, _ = train(replace(recipe, run=replace(recipe.run, name="halted")), interrupt_at(1))
    moved = root.rename(root.with_name("moved"))
    assert main(["train", "--resume", "halted"]) == 1
    assert f"trained on the songs in {root}, which is not there now. Tell it where they are now: --resume" in (
        capsys.readouterr().err
    )
    assert main(["train", "--resume", "halted", f"data.root={moved}", "train.workers=1", "log.project=else"]) == 0
    assert losses(halted) == losses(straight)
    assert halted.load_recipe().data.root == str(moved)
    [first, second] = read_provenance(halted)["history"]
    assert (first["step"], first["changed"]) == (0, {})
    assert second["step"] == 2
    assert second["changed"]["data.root"] == [str(root), str(moved)]


def test_sources_may_move_to_one_root_and_back(root, tmp_path):
    run = base_of(root, data={"sources": [{"kind": "folder", "root": str(root)}], "validation_tracks": ["song-0"]})
    moved = root.rename(root.with_name("moved"))
    assert resumed_recipe(run, [f"data.root={moved}"]).data.sources == ()
    resume(run, overrides=[f"data.root={moved}", "train.steps=6"])
    again = resumed_recipe(run, [f"data.sources=[{{kind: folder, root: {moved}}}]"])
    assert again.data.root is None


def test_a_finished_run_takes_more_steps_at_another_rate_and_says_so(root, capsys):
    run = base_of(root)
    short = losses(run)
    resume(run, overrides=["train.steps=6", "train.lr=0.0005"])
    assert losses(run)[:4] == short
    assert len(losses(run)) == 6
    rates = [x["lr"] for x in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in x]
    assert rates[3:] == [0.001, 0.0005, 0.0005]
    assert "From step 4 on: train.steps is 6, it was 4." in capsys.readouterr().err
    assert read_provenance(run)["history"][-1]["changed"] == {"train.steps": [4, 6], "train.lr": [0.001, 0.0005]}


def test_no_fewer_steps_than_are_done(root):
    run = base_of(root)
    before = run.recipe.read_text(), run.provenance.read_text()
    with pytest.raises(RecipeError, match=r"train.steps is 3, but .* has done 4 steps"):
        resume(run, overrides=["train.steps=3"])
    assert (run.recipe.read_text(), run.provenance.read_text()) == before


def test_a_recipe_that_was_edited_leaves_a_trace(root):
    run = base_of(root)
    recipe = run.load_recipe()
    write_text(run.recipe, dump_recipe(replace(recipe, train=replace(recipe.train, steps=5))))
    resume(run)
    assert read_provenance(run)["history"][-1]["changed"] == {"train.steps": [4, 5]}


def test_a_run_of_before_has_a_history_too(root):
    """Files that are older than the history and the recipe in the state."""
    run = base_of(root)
    from safetensors.torch import load_file, save_file

    values = read_provenance(run)
    del values["history"]
    run.provenance.write_text(json.dumps(values))
    groups, progress = load_state(run.state)
    old = {k: v for k, v in progress.items() if k not in ("recipe", "validating_step")}
    tensors, metadata = read_tensors(run.state, "state")
    assert groups
    assert load_file(run.state).keys() == tensors.keys()
    save_file(tensors, run.state, {**metadata, "progress": json.dumps(old)})
    resume(run, overrides=["train.steps=5"])
    assert [start["step"] for start in read_provenance(run)["history"]] == [0, 4]
    assert len(losses(run)) == 5


@pytest.mark.parametrize("word", ["train.batch_size=4", "augment.remix=0.5", "targets=[drums]", "backbone.features=8"])
def test_what_cannot_change_in_the_middle_is_refused_with_the_way_that_there_is(root, word):
    run = base_of(root)
    with pytest.raises(RecipeError, match="cannot become .* in the middle of a training.*train --from runs/mtl"):
        resume(run, overrides=[word])


def test_a_base_that_has_moved_can_be_named(root):
    base = base_of(root)
    run, _ = transfer(transfer_recipe(base, ["guitar"], "transfer", QUICK))
    base.path.rename("elsewhere")
    resume(run, overrides=["base.run=elsewhere", "train.steps=3"])
    assert len(losses(run)) == 3
    assert load_model(run).targets == ["guitar"]


# --- a new run from the weights of another


def weights(run):
    return {name: t.clone() for name, t in load_model(run).state_dict().items()}


def start_of(recipe, then=None):
    """The weights with which a training begins."""
    seen = []
    watch = lambda trainer: seen.append({n: t.clone() for n, t in trainer.learner.model.state_dict().items()})  # noqa: E731
    run, _ = transfer(recipe, watch)
    return run, seen[0]


def test_a_new_run_begins_with_all_the_weights_of_another(root, tmp_path):
    base = base_of(root)
    for i in (3, 4):
        write_song(root / "train" / f"song-{i}", i, (*STEMS, "guitar"))
    before = weights(base)
    run, first = start_of(from_recipe(base, None, [*QUICK, f"data.root={root}"]))
    assert first.keys() == before.keys()
    assert all(torch.equal(first[name], tensor) for name, tensor in before.items())
    assert len(read_provenance(run)["data"]["train_tracks"]) == 4
    assert run.backbone.exists()
    assert run.head_names() == ["drums", "vocals"]
    assert run.load_recipe().base.sha256 == read_tensors(base.backbone, "backbone")[1]["sha256"]
    assert weights(base).keys() == before.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(run).items())


def test_from_on_the_command_line_with_and_without_a_recipe(root, capsys):
    base = base_of(root)
    assert main(["train", "--from", "mtl", *QUICK]) == 0
    assert RunFolder(Path("runs/mtl-tuned-vocals-drums-full")).head_names() == ["drums", "vocals"]
    assert main(["train", str(base.recipe), "--from", "mtl", "run.name=other", *QUICK]) == 0
    assert main(["train", str(base.recipe), "--from", "mtl", "targets=[bass]", "run.name=x", *QUICK]) == 2
    assert "runs/mtl has no head 'bass'" in capsys.readouterr().err
    assert main(["train", "--from", "mtl", "--resume", "mtl"]) == 2


def test_tied_targets_stay_tied(root):
    base = base_of(root, together="consistent")
    recipe = from_recipe(base, None, QUICK)
    assert recipe.together == "consistent"
    _, first = start_of(recipe)
    assert all(torch.equal(first[name], tensor) for name, tensor in weights(base).items())


# --- heads trained on


@pytest.mark.parametrize("method", ["frozen", "partial", "lora", "full"])
def test_every_head_goes_on_from_its_own_weights(root, method):
    base = base_of(root)
    own = {name: tensor for name, tensor in weights(base).items() if name.startswith("heads.")}
    recipe = transfer_recipe(base, [], "transfer", QUICK, heads="own", method=method)
    assert recipe.targets == ("vocals", "drums")
    run, first = start_of(recipe)
    assert all(torch.equal(first[name], tensor) for name, tensor in own.items())
    assert run.head_names() == ["drums", "vocals"]
    assert any(not torch.equal(weights(run)[name], tensor) for name, tensor in own.items())


def test_heads_with_low_rank_updates_keep_them(root):
    base = base_of(root)
    bent, _ = transfer(transfer_recipe(base, ["guitar", "bass"], "transfer", QUICK, method="lora", rank=2))
    _, first = start_of(
        transfer_recipe(bent, [], "transfer", [*QUICK, "run.name=further"], heads="own", method="lora", rank=2)
    )
    [adapter] = {name.split(".")[1] for name in first if name.startswith("adapters.")}
    before = weights(bent)
    [old] = {name.split(".")[1] for name in before if name.startswith("adapters.")}
    renamed = {name.replace(f"adapters.{old}.", f"adapters.{adapter}."): tensor for name, tensor in before.items()}
    assert all(torch.equal(first[name], tensor) for name, tensor in renamed.items())
    with pytest.raises(RecipeError, match=r"--target guitar bass --method lora --rank 2 base\.alpha=16"):
        transfer(transfer_recipe(bent, [], "transfer", QUICK, heads="own"))


def test_continue_on_the_command_line(root, capsys):
    base_of(root)
    assert main(["transfer", "--base", "mtl", "--continue", *QUICK]) == 0
    assert RunFolder(Path("runs/mtl-tuned-vocals-drums")).head_names() == ["drums", "vocals"]
    assert main(["transfer", "--base", "mtl", "--continue", "--target", "drums", *QUICK]) == 0
    assert RunFolder(Path("runs/mtl-tuned-drums")).head_names() == ["drums"]
    for words, message in (
        (["--continue", "--method", "scratch"], "a trained head cannot start on a random backbone"),
        (["--continue", "--target", "guitar"], "--continue: runs/mtl has no head 'guitar'"),
        ([], "expected --target NAME"),
        (["--continue", "--init-from", "drums"], "Remove one of the two"),
    ):
        capsys.readouterr()
        assert main(["transfer", "--base", "mtl", *words, *QUICK]) == 2
        assert message in capsys.readouterr().err


# --- what stays with the base


@pytest.fixture
def others(tmp_path):
    """Other songs under other names, two of six among them with names of the base's songs."""
    root = write_songs(tmp_path / "others", train=6, stems=(*STEMS, "guitar"))
    (root / "train" / "song-0").rename(root / "train" / "mine")
    return root


CHOICES = {
    "validation_tracks": {"validation_tracks": ["song-0"]},
    "use_tracks": {"use_tracks": 1},
    "use_minutes": {"use_minutes": 0.03},
    "use_fraction": {"use_fraction": 0.5},
    "stems": {"stems": ["vocals", "drums", "bass", "other"]},
    "absent": {"absent": ["tabla"]},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_transfer_to_other_songs_makes_its_own_choice(root, others, choice, capsys):
    base = base_of(root, data={"root": str(root), "validation_share": 0.34, **CHOICES[choice]})
    run, _ = transfer(transfer_recipe(base, ["guitar"], "transfer", [*QUICK, f"data.root={others}"]))
    data = read_provenance(run)["data"]
    assert len(data["train_tracks"]) + len(data["validation_tracks"]) == 6
    assert f"does not take over data.{choice}=" in capsys.readouterr().err


def test_sources_and_stem_weights_stay_with_the_base(root, others, tmp_path):
    table = tmp_path / "weights.csv"
    table.write_text("track,stem,weight\nsong-1,drums,0.5\n")
    sources = [{"kind": "folder", "root": str(root)}]
    base = base_of(root, data={"sources": sources, "stem_weights": str(table), "validation_tracks": ["song-0"]})
    recipe = transfer_recipe(base, ["guitar"], "transfer", [f"data.root={others}"])
    assert (recipe.data.root, recipe.data.sources, recipe.data.stem_weights) == (str(others), (), None)
    back = transfer_recipe(base_of(root, "one"), ["guitar"], "transfer", [f"data.sources={json.dumps(sources)}"])
    assert back.data.root is None


def test_on_the_same_songs_the_held_out_ones_stay_held_out_and_the_amount_is_the_transfers_own(root):
    base = base_of(root, data={"root": str(root), "validation_tracks": ["song-0"], "use_tracks": 1})
    for overrides in ([], [f"data.root={root}"]):
        data = transfer_recipe(base, ["guitar"], "transfer", overrides).data
        assert data.validation_tracks == ("song-0",)
        assert data.use_tracks == 0
    assert transfer_recipe(base, ["guitar"], "transfer", ["data.use_tracks=2"]).data.use_tracks == 2


def test_the_name_that_is_given_is_the_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("refined_bsrnn.data.layouts.builtin.builtin_root", lambda: write_songs(tmp_path / "cache"))
    run, _ = train(make_recipe(json.loads(json.dumps(_builtin())), ["run.name=mine"]))
    assert run.path == Path("runs/mine")
    assert read_provenance(run)["data"]["builtin"] is True
    assert "BUILT-IN SYNTHETIC STEMS" in capsys.readouterr().err
    shutil.rmtree(run.path)


def _builtin():
    from tests.conftest import micro_values

    return micro_values(None, train={"steps": 1})


def test_an_empty_value_is_no_value(root):
    for word in ("data.root=", "data.root= ", "train.steps=", "log.group="):
        with pytest.raises(RecipeError, match="gives no value .is a variable of the shell not set"):
            micro_recipe(root) and make_recipe(_builtin(), [word])
    with pytest.raises(RecipeError, match=r"data\.root is empty"):
        make_recipe({**_builtin(), "data": {"root": ""}})
    assert make_recipe(_builtin(), ["log.group=null"]).log.group is None


def test_a_root_that_is_gone_names_itself(root):
    run = base_of(root)
    shutil.rmtree(root)
    with pytest.raises(DataError, match="which is not there now"):
        resume(run)
