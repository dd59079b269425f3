"""The training loop: exact resume, clean stops, what is written; transfer; two processes."""

import json
import math
import multiprocessing
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from refined_bsrnn.errors import CheckpointError, DataError, RecipeError
from refined_bsrnn.evaluation.evaluate import evaluate
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe, load_recipe, make_recipe
from refined_bsrnn.runs.folder import RunFolder, load_model, load_state, read_tensors, save_weights, tensors_sha256
from refined_bsrnn.system import STOP_SIGNALS, write_text
from refined_bsrnn.training.failures import TrainingStopped
from refined_bsrnn.training.losses import JOINT_LOSSES
from refined_bsrnn.training.objective import Objective
from refined_bsrnn.training.optimiser import lr_at
from refined_bsrnn.training.pace import Pace, duration, validations_left
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume, transfer, transfer_recipe
from refined_bsrnn.training.validation import Validation
from tests.conftest import STEMS, micro_recipe, write_song, write_songs


def metrics(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def losses(run):
    return [line["loss"] for line in metrics(run) if "loss" in line]


def weights(run):
    """Hashes of a run's weight files (their metadata come in any order)."""
    files = [*run.heads.glob("*"), *([run.backbone] if run.backbone.exists() else [])]
    return {path.name: tensors_sha256(load_file(path)) for path in files}


def interrupt_at(step, number=signal.SIGTERM):
    """A real signal in the middle of training; the step that follows is still done."""

    def watch(trainer):
        if trainer.progress.step == step:
            signal.raise_signal(number)

    return watch


def named(recipe, name, **run):
    return replace(recipe, run=replace(recipe.run, name=name, **run))


# --- a run


def test_a_run_leaves_everything(songs):
    run, finished = train(micro_recipe(songs))
    assert finished
    assert run.path == Path("runs/mtl-custom")
    assert run.head_names() == ["drums", "vocals"]
    assert [line["step"] for line in metrics(run)] == [1, 2, 2, 3, 4, 4]
    line = metrics(run)[0]
    assert line.keys() >= {
        "loss",
        "vocals/wave_l1",
        "vocals/spec_l1",
        "drums/wave_l1",
        "drums/spec_l1",
        "lr",
        "seconds",
    }
    assert math.isclose(line["loss"], sum(v for k, v in line.items() if "/" in k), rel_tol=1e-5)
    provenance = json.loads(run.provenance.read_text())
    assert provenance["data"]["train_tracks"] == ["song-1", "song-2"]
    assert provenance["data"]["validation_tracks"] == ["song-0"]
    assert provenance["data"]["builtin"] is False
    assert provenance["steps_done"] == 4
    assert provenance["seed"] == 0
    assert torch.__version__.startswith(provenance["packages"]["torch"])
    import datasets

    assert datasets.Dataset.from_parquet(str(run.tracks))["name"][:] == ["song-0", "song-1", "song-2"]


def test_the_resolved_recipe_alone_repeats_the_run(songs):
    first, _ = train(micro_recipe(songs))
    second, _ = train(named(first.load_recipe(), "again"))
    assert losses(first) == losses(second)
    assert weights(first) == weights(second)


def test_training_learns(songs):
    still = {"gain_db": [0, 0], "channel_swap": 0}
    run, _ = train(micro_recipe(songs, augment=still, train={"steps": 80, "lr": 0.01, "validate_every": 80}))
    assert sum(losses(run)[-10:]) < 0.8 * sum(losses(run)[:10])


def test_best_weights_are_kept_not_the_last(songs, monkeypatch):
    scores = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(Validation, "scores", lambda *_: {"validation/usdr": next(scores)})
    run, _ = train(micro_recipe(songs, train={"steps": 6}))
    assert json.loads(run.provenance.read_text())["best_step"] == 4
    last = load_state(run.state)[0]["trained"]["backbone.encoder.linears.0.bias"]
    assert not torch.equal(load_model(run).backbone.encoder.linears[0].bias, last)


def test_patience(songs, monkeypatch):
    scores = iter([-1.0, -1.0, -3.0])  # as good is not better
    monkeypatch.setattr(Validation, "scores", lambda *_: {"validation/usdr": next(scores)})
    run, finished = train(micro_recipe(songs, train={"steps": 100, "patience": 2}))
    assert finished
    assert json.loads(run.provenance.read_text())["steps_done"] == 6


def test_no_validation_tracks_keeps_the_last_weights(songs):
    values = {"data": {"root": str(songs), "validation_share": 0.0}}
    run, _ = train(micro_recipe(songs, **values))
    last = load_state(run.state)[0]["trained"]["backbone.encoder.linears.0.bias"]
    assert torch.equal(load_model(run).backbone.encoder.linears[0].bias, last)


def test_averaged_weights_are_what_is_kept(songs):
    run, _ = train(micro_recipe(songs, train={"ema": 0.5, "steps": 4, "validate_every": 4}))
    groups, _ = load_state(run.state)
    name = "backbone.encoder.linears.0.bias"
    assert not torch.equal(groups["average"][name], groups["trained"][name])
    assert torch.equal(load_model(run).state_dict()[name], groups["average"][name])


def test_average_by_hand(songs):
    """ema = decay · ema + (1 − decay) · weight after every step, from the initial weights."""
    seen = []

    def watch(trainer):
        seen.append(trainer.learner.trained["backbone.encoder.linears.0.bias"].detach().clone())

    run, _ = train(micro_recipe(songs, train={"ema": 0.75, "steps": 3, "validate_every": 3}), watch)
    expected = seen[0]
    assert len(seen) == 4
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    got = load_state(run.state)[0]["average"]["backbone.encoder.linears.0.bias"]
    torch.testing.assert_close(got, expected)


# --- resume


@pytest.mark.parametrize(
    ("workers", "then", "loss"),
    [(0, 0, {}), (1, 2, {}), (0, 0, {"weighting": "uncertainty", "wave_l1": 1.0, "weighted_sdr": 1.0})],
)
def test_resumed_run_equals_a_straight_one_bit_for_bit(songs, workers, then, loss):
    """With another number of workers, too."""
    recipe = micro_recipe(
        songs,
        loss=loss,
        augment={"polarity": 0.5, "eq": 0.3, "reverb": 0.3, "low_pass": 0.3} if workers else {},
        train={"steps": 20, "ema": 0.9, "decay": "cosine", "warmup_steps": 3, "validate_every": 5, "workers": workers},
    )
    straight, _ = train(named(recipe, "straight"))
    halted, finished = train(named(recipe, "halted"), watch=interrupt_at(9))
    assert not finished
    assert load_state(halted.state)[1]["step"] == 10
    present = load_recipe(halted.recipe)
    write_text(halted.recipe, dump_recipe(replace(present, train=replace(present.train, workers=then))))
    resumed, finished = resume(halted)
    assert finished
    assert losses(resumed) == losses(straight)
    assert [line["step"] for line in metrics(resumed)] == [line["step"] for line in metrics(straight)]
    assert weights(resumed) == weights(straight)
    one, other = load_state(straight.state), load_state(resumed.state)
    assert one[1]["best_step"] == other[1]["best_step"]
    for group, tensors in one[0].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[0][group][name]), f"{group}/{name}"


def test_learned_weights_train_are_logged_and_stay_out_of_the_network(songs, capsys):
    run, _ = train(micro_recipe(songs, loss={"weighting": "uncertainty", "wave_l1": 1.0}, train={"lr": 0.01}))
    lines = [line for line in metrics(run) if "loss" in line]
    for target in ("vocals", "drums"):
        values = [line[f"{target}/log_variance"] for line in lines]
        assert values[0] == 0.0
        assert values[1] == pytest.approx(-0.01, abs=1e-4)  # Adam's first step is the learning rate
        assert values == sorted(values, reverse=True)  # the errors are far below one: all weights grow
    line = lines[-1]
    by_hand = sum(
        0.5 * math.exp(-line[f"{t}/log_variance"]) * line[f"{t}/wave_l1"] + 0.5 * line[f"{t}/log_variance"]
        for t in ("vocals", "drums")
    )
    assert math.isclose(line["loss"], by_hand, rel_tol=1e-4)
    state = load_state(run.state)[0]
    assert state["trained"]["loss.log_variances"].shape == (2,)
    assert state["optimizer"]["loss.log_variances/exp_avg"].shape == (2,)
    model = load_model(run)
    assert not [name for name in model.state_dict() if "variance" in name]
    n_parameters = sum(p.numel() for p in model.parameters())
    messages = capsys.readouterr().err
    assert f"{n_parameters + 2:,} parameters train, 0 are frozen." in messages
    assert f"vocals {line['vocals/wave_l1']:.3f} drums {line['drums/wave_l1']:.3f} |" in messages
    assert json.loads(run.provenance.read_text())["parameters"] == {"trained": n_parameters + 2, "frozen": 0}


def test_a_state_without_the_learned_weights_is_refused(songs):
    run, _ = train(micro_recipe(songs, loss={"weighting": "uncertainty", "wave_l1": 1.0}))
    other, _ = train(named(micro_recipe(songs), "other"))
    run.state.write_bytes(other.state.read_bytes())
    with pytest.raises(CheckpointError, match="does not fit the network: loss.log_variances is missing"):
        resume(run)


def test_joint_terms_train_and_are_logged(songs):
    joint = dict.fromkeys(JOINT_LOSSES, 0.1)
    run, _ = train(micro_recipe(songs, loss={"mrstft": 1.0, "l1snr": 0.1, "si_sdr": 0.1, **joint}))
    assert metrics(run)[0].keys() >= {*(f"all/{name}" for name in JOINT_LOSSES), "drums/mrstft", "vocals/si_sdr"}


def test_a_run_that_was_killed_repeats_the_steps_after_its_last_state(songs):
    recipe = micro_recipe(songs, train={"steps": 6, "checkpoint_every": 4})
    straight, _ = train(named(recipe, "straight"))

    run = RunFolder(Path("runs/killed"))

    def as_if_killed(trainer):
        if trainer.progress.step == 5:
            shutil.copytree(run.path, "runs/copy")  # a process that is killed leaves what is on the disk then
            signal.raise_signal(signal.SIGTERM)

    train(named(recipe, "killed"), as_if_killed)
    shutil.rmtree(run.path)
    Path("runs/copy").rename(run.path)
    assert load_state(run.state)[1]["step"] == 4
    run.metrics.write_text(run.metrics.read_text() + '{"step": 5, "lo')  # cut off in the middle of a line
    resume(run)
    assert losses(run) == losses(straight)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="who sent a signal cannot be told here")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_to_all_processes_of_a_job_loses_nothing(songs, number):
    def watch(trainer):
        if trainer.progress.step == 3:
            workers = [str(child.pid) for child in multiprocessing.active_children()]
            assert workers
            subprocess.run(["kill", f"-{int(number)}", *workers], check=True)
            time.sleep(0.2)  # they would be dead by then
            signal.raise_signal(number)

    recipe = micro_recipe(songs, train={"steps": 60, "workers": 1, "validate_every": 100})
    halted, finished = train(recipe, watch)
    assert not finished
    assert load_state(halted.state)[1]["step"] == 4
    assert not multiprocessing.active_children()  # the parent's own word still ends them


def test_resume_needs_a_state_and_the_same_data(songs):
    run, _ = train(micro_recipe(songs))
    write_song(songs / "train" / "song-9", seed=9)
    with pytest.raises(RecipeError, match="trained on data with fingerprint .* needs the same data"):
        resume(run)
    run.state.unlink()
    with pytest.raises(RecipeError, match="has no state to resume from"):
        resume(run)


def test_a_resumed_run_says_that_files_were_written_again(songs, capsys):
    run, _ = train(micro_recipe(songs))
    resume(run)
    assert "were written again" not in capsys.readouterr().err
    path = songs / "train" / "song-1" / "drums.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    samples[len(samples) // 3] += 1  # beside the pieces that the fingerprint is of
    soundfile.write(path, samples, rate)
    resume(run)
    assert "The data were written again since this run began" in capsys.readouterr().err


def test_a_finished_run_resumes_to_nothing(songs):
    run, _ = train(micro_recipe(songs))
    before = losses(run)
    _, finished = resume(run)
    assert finished
    assert losses(run) == before


def test_state_of_another_network_is_refused(songs):
    run, _ = train(micro_recipe(songs))
    other, _ = train(named(micro_recipe(songs, backbone={"features": 6, "repeats": 1}), "other"))
    run.state.write_bytes(other.state.read_bytes())
    with pytest.raises(CheckpointError, match=r"trained weights\) does not fit"):
        resume(run)


def test_one_process_trains_with_one_precision_after_another(songs):
    for precision in ("no", "bf16", "no"):
        run, _ = train(named(micro_recipe(songs, train={"precision": precision}), f"{precision}-{time.monotonic_ns()}"))
        assert json.loads(run.provenance.read_text())["precision"] == precision


def test_the_launchers_precision_counts_where_the_recipe_leaves_it_open(songs, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run, _ = train(micro_recipe(songs))
    assert json.loads(run.provenance.read_text())["precision"] == "bf16"
    assert "× 1 in bf16, " in capsys.readouterr().err
    run, _ = train(named(micro_recipe(songs, train={"precision": "no"}), "own"))
    assert json.loads(run.provenance.read_text())["precision"] == "no"
    assert "train.precision=no is used; accelerate launch was told bf16" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(RecipeError, match="--mixed_precision fp8; expected bf16, fp16 or no"):
        train(named(micro_recipe(songs), "eight"))


def test_a_network_is_built_once(songs, monkeypatch):
    base, _ = train(named(micro_recipe(songs), "mtl"))
    built, init = [], BSRNN.__init__

    def spy(self, *args, **options):
        built.append(1)
        init(self, *args, **options)

    monkeypatch.setattr(BSRNN, "__init__", spy)
    transfer(transfer_recipe(base, ["bass"], "transfer", ["train.steps=1"]))
    assert built == [1]


def test_an_existing_run_is_not_overwritten(songs):
    run, _ = train(micro_recipe(songs))
    before = run.backbone.read_bytes()
    with pytest.raises(
        RecipeError, match=r"exists already and is not overwritten: go on with --resume runs/mtl-custom"
    ):
        train(micro_recipe(songs))
    assert run.backbone.read_bytes() == before


# --- stops


def test_nan_loss_names_the_target_and_keeps_the_last_good_state(songs, monkeypatch):
    forward = Objective.forward

    def poisoned(self, *batch, **options):
        loss, parts = forward(self, *batch, **options)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 4:
            parts["drums/spec_l1"] = parts["drums/spec_l1"] * float("nan")
        return loss, parts

    monkeypatch.setattr(Objective, "forward", poisoned)
    with pytest.raises(TrainingStopped, match=r"loss drums/spec_l1 became NaN or infinite at step 4;.*last good state"):
        train(micro_recipe(songs, train={"steps": 8}))
    groups, progress = load_state(Path("runs/mtl-custom/state/last.safetensors"))
    assert progress["step"] == 3
    assert all(torch.isfinite(t).all() for group in groups.values() for t in group.values())


def test_nan_gradient_changes_no_weight(songs, monkeypatch):
    monkeypatch.setattr("refined_bsrnn.training.learner.clip", lambda *_: (torch.tensor(float("inf")), {}))
    with pytest.raises(
        TrainingStopped,
        match="the gradient of another process became NaN or infinite at step 1; no weight .* No state was",
    ):
        train(micro_recipe(songs))


# --- small pieces


def test_learning_rate_by_hand():
    spec = make_recipe({"targets": ["a"], "train": {"lr": 0.1, "steps": 100, "warmup_steps": 4}}).train
    assert [lr_at(i, replace(spec, decay="constant")) for i in range(5)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1]
    )
    assert lr_at(50, replace(spec, decay="cosine")) == pytest.approx(0.05)
    assert lr_at(25, replace(spec, decay_rate=0.5, decay_every=10)) == pytest.approx(0.1 * 0.25)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.04, "3.0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min"), (200000, "2 d 7 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def pace_of(recipe, times, validation_seconds=0.0):
    """(after which step, what is said) with steps that take so long."""
    pace = Pace(recipe.train, torch.device("cpu"), lambda: validation_seconds)
    return [(i, line) for i, seconds in enumerate(times, 1) for line in pace.after_step(i, seconds)]


def test_the_time_left_comes_from_the_first_steps_but_the_very_first(songs):
    recipe = micro_recipe(songs, train={"steps": 100, "validate_every": 30})
    [(step, line)] = pace_of(recipe, [60.0 / 3, 2.0, 4.0, 1.0], validation_seconds=5.0)
    assert step == 3
    assert "3.00 s per step, 97 steps left: about 4 min 51 s, and about 20.0 s for 4 validations; " in line
    [(step, line)] = pace_of(recipe, [40.0, 2.0, 4.0])  # so slow a step is told at once
    assert step == 1
    assert "40.00 s per step, 99 steps left: about 1 h 6 min; " in line


@pytest.mark.parametrize(
    ("step", "steps", "every", "left"), [(0, 100, 30, 4), (30, 100, 30, 3), (90, 90, 30, 0), (1, 90, 30, 3)]
)
def test_validations_left_by_hand(step, steps, every, left):
    spec = make_recipe({"targets": ["a"], "train": {"steps": steps, "validate_every": every}}).train
    assert validations_left(step, spec) == left


def test_what_makes_a_long_run_short_is_said(songs):
    recipe = micro_recipe(songs, train={"steps": 1000})
    assert len(pace_of(recipe, [80.0])) == 1
    messages = [line for _, line in pace_of(recipe, [100.0])]
    assert "That is more than a day. For an hour: train.steps=36. For faster steps: size=tiny" in messages[1]
    messages = [line for _, line in pace_of(recipe, [1.0, 1.0, 1.0], validation_seconds=100.0)]
    assert any("train.validate_every=... makes it rarer, train.validate_seconds=30" in line for line in messages)


def test_the_announcement_comes_before_the_first_step_and_the_time_after_some(songs, capsys):
    train(micro_recipe(songs, train={"steps": 6}))
    messages = capsys.readouterr().err
    assert "parameters on cpu" in messages
    assert " s per step, 3 steps left: about " in messages
    assert " for 2 validations; " in messages


def test_accumulated_parts_give_the_step_of_the_whole_batch(songs):
    whole, _ = train(named(micro_recipe(songs, train={"batch_size": 4}), "whole"))
    parts, _ = train(named(micro_recipe(songs, train={"batch_size": 4, "accumulate": 2}), "parts"))
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


def test_built_in_stems_are_named_everywhere(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("refined_bsrnn.data.layouts.builtin.builtin_root", lambda: write_songs(tmp_path / "cache"))
    run, _ = train(micro_recipe(None, train={"steps": 1}))
    assert run.name == "mtl-custom-builtin"
    assert json.loads(run.provenance.read_text())["data"]["builtin"] is True
    assert run.load_recipe().data.root == "builtin"
    assert "BUILT-IN SYNTHETIC STEMS" in capsys.readouterr().err


# --- wandb


def test_wandb_gets_everything_offline(songs, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path / "before")  # wandb's writer stays in the folder in which the first run started it
    train(micro_recipe(songs, log={"wandb": "auto"}, train={"steps": 1}))
    monkeypatch.chdir(tmp_path)
    recipe = micro_recipe(songs, log={"wandb": "auto", "audio_seconds": 0.5}, train={"steps": 2})
    run, _ = train(recipe)
    records = finished_wandb(next(run.path.glob("wandb/offline-run-*/*.wandb")))
    keys = {key for row in records["history"] for key in row}
    assert keys >= {"loss", "vocals/wave_l1", "validation/drums/usdr", "lr", "seconds"}
    files = {key.removesuffix("/path") for key in keys if key.endswith("/path")}
    assert files >= {"audio/mixture", "audio/drums estimate", "audio/drums reference", "spectrogram/vocals", "summary"}
    logged = [row["loss"] for row in records["history"] if "loss" in row]
    assert logged == losses(run)
    assert records["config"]["recipe"]["targets"] == ["vocals", "drums"]
    assert records["config"]["provenance"]["data"]["fingerprint"]


def finished_wandb(path, seconds=60):
    """`read_wandb` once the last row is there: another process writes the file, and may take its time."""
    from google.protobuf.message import DecodeError

    for _ in range(10 * seconds):
        with suppress(DecodeError):  # of a record that is half written
            records = read_wandb(path)
            if any("summary/path" in row for row in records["history"]):
                return records
        time.sleep(0.1)
    return read_wandb(path)


def test_tensorboard_gets_the_numbers(songs):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = train(micro_recipe(songs, log={"wandb": "off", "tensorboard": True}))
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(run))


def read_wandb(path):
    """History rows and configuration from an offline run's file, which is a LevelDB log of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    found = {"history": [], "config": {}}
    for data in leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            found["history"].append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        elif kind in ("run", "config"):
            updates = record.run.config.update if kind == "run" else record.config.update
            found["config"].update({i.key: json.loads(i.value_json) for i in updates})
    return found


def leveldb_records(data, block=32768, header=7):
    """Behind a header of 7 bytes: blocks of 32 KiB with pieces (crc 4, length 2, type 1); 1 whole, 4 a last piece."""
    place, pieces = header, b""
    while place + header <= len(data):
        left = block - place % block
        if left < header:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        pieces += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


# --- transfer


@pytest.fixture
def base(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    return train(named(micro_recipe(root), "mtl"))[0]


def transfer_to(base, *targets, overrides=(), watch=None):
    quick = ["train.steps=3", "train.validate_every=3", "train.warmup_steps=0"]
    return transfer(transfer_recipe(base, targets, "transfer", [*quick, *overrides]), watch)[0]


def test_transfer_trains_heads_alone_and_leaves_the_backbone_bit_identical(base, capsys):
    before = base.backbone.read_bytes()
    in_optimizer = []

    def watch(trainer):
        in_optimizer[:] = [p for group in trainer.learner.optimizer.param_groups for p in group["params"]]

    run = transfer_to(base, "guitar", watch=watch)
    assert run.path == Path("runs/mtl-to-guitar")
    assert not run.backbone.exists()
    assert run.head_names() == ["guitar"]
    assert base.backbone.read_bytes() == before
    model = load_model(run)
    assert sum(p.numel() for p in in_optimizer) == sum(p.numel() for p in model.heads.parameters())
    for name, tensor in load_model(base).backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    messages = capsys.readouterr().err
    total = sum(p.numel() for p in model.parameters())
    head = sum(p.numel() for p in model.heads.parameters())
    assert f"{head:,} parameters train, {total - head:,} are frozen." in messages


def test_transferred_head_has_learnt_and_knows_its_backbone(base):
    run = transfer_to(base, "guitar")
    trained = load_file(run.head("guitar"))
    torch.manual_seed(0)
    fresh = BSRNN(run.load_recipe(), ["guitar"]).heads["guitar"].state_dict()
    assert any(not torch.equal(trained[name], fresh[name]) for name in fresh)
    _, metadata = read_tensors(run.head("guitar"), "head")
    assert metadata["backbone_sha256"] == read_tensors(base.backbone, "backbone")[1]["sha256"]
    assert run.load_recipe().base.sha256 == metadata["backbone_sha256"]
    assert run.load_recipe().base.run == "../mtl"


def test_runs_can_be_moved_as_a_whole(base, tmp_path):
    transfer_to(base, "guitar")
    Path("runs").rename(tmp_path / "elsewhere")
    assert load_model(RunFolder(tmp_path / "elsewhere" / "mtl-to-guitar")).targets == ["guitar"]


def test_transfer_from_a_transfer_uses_the_first_backbone(base):
    second = transfer_to(transfer_to(base, "guitar"), "bass")
    assert second.name == "mtl-to-guitar-to-bass"
    assert load_model(second).targets == ["bass"]


def test_several_heads_at_once(base):
    run = transfer_to(base, "guitar", "bass", overrides=["data.stems=[vocals,drums,bass,other,guitar]"])
    assert run.head_names() == ["bass", "guitar"]


def test_transfer_resumes_bit_for_bit(base):
    straight = transfer_to(base, "guitar", overrides=["run.name=straight"])
    halted = transfer_to(base, "guitar", overrides=["run.name=halted"], watch=interrupt_at(1))
    resumed, _ = resume(halted)
    assert losses(resumed) == losses(straight)
    assert len(losses(straight)) == 3
    assert weights(resumed) == weights(straight)


def test_a_base_that_was_trained_again_is_noticed(base):
    run = transfer_to(base, "guitar")
    torch.manual_seed(7)
    save_weights(base, BSRNN.from_recipe(base.load_recipe()))
    with pytest.raises(CheckpointError, match="The base has been trained again since"):
        load_model(run)


def test_a_base_that_is_gone_is_named(base):
    run = transfer_to(base, "guitar")
    base.path.rename("elsewhere")
    with pytest.raises(CheckpointError, match=r"was transferred from \.\./mtl, and there is no run at"):
        load_model(run)


def test_transfer_cannot_change_the_backbone(base):
    with pytest.raises(RecipeError, match="bands.kind='v7' differs from the base"):
        transfer_recipe(base, ["guitar"], overrides=["bands.kind=v7"])
    with pytest.raises(RecipeError, match="backbone.features=32 differs from the base"):
        transfer_recipe(base, ["guitar"], overrides=["size=tiny"])


def test_transfer_to_a_stem_nobody_has(base):
    with pytest.raises(DataError, match="no track has a stem 'gitar'. Did you mean 'guitar'"):
        transfer_to(base, "gitar")


# --- evaluation


def test_results_hold_scores_beside_doing_nothing_and_silence(base):
    results = evaluate(base)
    assert results == json.loads(base.results.read_text())
    assert results["n_tracks"] == 1
    assert results["kind"] == "multi_target"
    row = results["tracks"][0]["targets"]["drums"]
    assert row["silence"]["usdr"] == pytest.approx(0.0, abs=1e-3)
    assert row["estimate"]["n_frames"] == 2
    assert results["summary"]["drums"]["estimate"]["usdr"]["mean"] == pytest.approx(row["estimate"]["usdr"])


# --- two processes (what they do is compared in test_two_processes)


def test_batches_that_cannot_be_shared_out_are_refused(songs, monkeypatch):
    class TwoProcesses:
        def __init__(self, cpu, timeout):
            self.num_processes, self.device = 2, torch.device("cpu")

    monkeypatch.setattr("refined_bsrnn.training.job.PartialState", TwoProcesses)
    with pytest.raises(RecipeError, match="batch_size 3 cannot be shared out over 2 processes .* multiple of 2"):
        train(micro_recipe(songs, train={"batch_size": 3}))
