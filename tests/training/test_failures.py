"""Whatever ends a training: the good state is kept, the sentence says what to do, and the next call goes on."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from refined_bsrnn.console import say
from refined_bsrnn.errors import AudioError, RecipeError, UserError
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.folder import RunFolder, load_state, read_provenance
from refined_bsrnn.runs.tracking import Mirror
from refined_bsrnn.system import stop_signals
from refined_bsrnn.training import loader, state
from refined_bsrnn.training.failures import TrainingStopped, explained
from refined_bsrnn.training.loader import Patient, fitting_workers
from refined_bsrnn.training.objective import Objective
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume
from refined_bsrnn.training.validation import Validation
from tests.conftest import micro_recipe

RUN = RunFolder(Path("runs/mtl-custom"))


def losses(run):
    return [x["loss"] for x in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in x]


def events(run):
    """What was logged, without times."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def validated(run):
    return [line["step"] for line in events(run) if "validation/usdr" in line]


def named(recipe, name):
    return replace(recipe, run=replace(recipe.run, name=name))


@pytest.fixture
def recipe(songs):
    return micro_recipe(songs, train={"steps": 6, "validate_every": 100, "checkpoint_every": 100})


def at(step, work):
    """A callback that does something after a step."""
    return lambda trainer: work() if trainer.progress.step == step else None


def fails(error):
    def work():
        raise error

    return work


# --- what ends a step


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), TrainingStopped, "train.accumulate=2"),
        (MemoryError(), TrainingStopped, "the memory is too small for a step"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            TrainingStopped,
            r"\(killed by signal: Killed\) has ended: .* train.workers=0",
        ),
        (
            RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"),
            TrainingStopped,
            r"shared memory \(/dev/shm\) was too small",
        ),
        (OSError(errno.ENOSPC, "No space left", "x.wav"), TrainingStopped, "x.wav cannot be read or written: the disk"),
        (AudioError("song.wav is cut off."), AudioError, "song.wav is cut off"),
    ],
    ids=["gpu memory", "memory", "worker", "shared memory", "disk", "audio"],
)
def test_what_ends_a_step_leaves_the_state_before_it_and_the_next_call_goes_on(songs, recipe, error, kind, words):
    straight, _ = train(named(recipe, "straight"))
    with pytest.raises(kind, match=f"{words}.* Go on with --resume runs/mtl-custom"):
        train(recipe, at(3, fails(error)))
    assert load_state(RUN.state)[1]["step"] == 3
    resume(RUN)
    assert losses(RUN) == losses(straight)


def test_in_the_middle_of_a_step_the_state_is_that_of_its_beginning(songs, recipe, monkeypatch):
    """Random numbers that the step has drawn are drawn again."""
    straight, _ = train(named(recipe, "straight"))
    forward, drawn = Objective.forward, []

    def runs_out(self, *batch, **options):
        drawn.append(torch.rand(1))
        if len(drawn) == 4:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, *batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", runs_out)
        with pytest.raises(TrainingStopped):
            train(recipe)
    expected = drawn[3]
    torch.set_rng_state(load_state(RUN.state)[0]["rng"]["cpu"])
    assert torch.equal(torch.rand(1), expected)
    resume(RUN)
    assert losses(RUN) == losses(straight)


def test_half_a_step_is_never_saved(songs, recipe, monkeypatch):
    step = torch.optim.Adam.step

    def dies(self, *args, **options):
        step(self, *args, **options)
        if next(iter(self.state.values()))["step"] == 3:
            raise MemoryError

    recipe = replace(recipe, train=replace(recipe.train, checkpoint_every=1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", dies)
        with pytest.raises(TrainingStopped):
            train(recipe)
    assert load_state(RUN.state)[1]["step"] == 2


def test_an_error_that_nobody_expected_keeps_the_state_and_its_traceback(songs, recipe, capsys):
    with pytest.raises(ZeroDivisionError):
        train(recipe, at(2, lambda: 1 / 0))
    assert "The last good state is in runs/mtl-custom/state/last.safetensors. Go on with" in capsys.readouterr().err
    assert load_state(RUN.state)[1]["step"] == 2


def test_what_fails_before_the_first_step_leaves_the_name_free(songs, recipe):
    straight, _ = train(named(recipe, "straight"))
    with pytest.raises(TrainingStopped, match="the same command starts again"):
        train(recipe, at(0, fails(MemoryError())))
    assert RUN.recipe.exists()
    with pytest.raises(RecipeError, match="It ended before its first state: start it again with train"):
        resume(RUN)
    assert train(recipe)[1]
    assert losses(RUN) == losses(straight)


def test_a_folder_with_anything_else_is_not_taken(songs, recipe):
    for name in ("notes.txt", "heads/drums.safetensors", "state/last.safetensors", "results.json"):
        path = RUN.path / name
        path.parent.mkdir(parents=True)
        path.write_text("")
        with pytest.raises(RecipeError, match="exists already and is not overwritten"):
            train(recipe)
        assert path.exists()
        shutil.rmtree(RUN.path)


def test_nan_at_step_two_keeps_step_one_and_another_rate_goes_on(songs, recipe, monkeypatch):
    forward = Objective.forward
    calls = []

    def poisoned(self, *batch, **options):
        loss, parts = forward(self, *batch, **options)
        calls.append(1)
        return loss, {**parts, "drums/spec_l1": parts["drums/spec_l1"] * (float("nan") if len(calls) == 2 else 1)}

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", poisoned)
        with pytest.raises(TrainingStopped, match=r"at step 2; .*lower train\.lr.* Go on with --resume"):
            train(recipe)
    assert load_state(RUN.state)[1]["step"] == 1
    assert resume(RUN, overrides=["train.lr=0.0001"])[1]
    assert len(losses(RUN)) == 6


def test_fewer_examples_at_a_time_learn_the_same(songs, recipe):
    straight, _ = train(named(recipe, "straight"))
    with pytest.raises(TrainingStopped, match="--resume runs/mtl-custom train.accumulate=2"):
        train(recipe, at(3, fails(MemoryError())))
    resume(RUN, overrides=["train.accumulate=2"])
    assert losses(RUN) == pytest.approx(losses(straight), rel=1e-5)


def test_memory_that_cannot_be_saved_by_smaller_parts(songs, recipe):
    recipe = replace(recipe, train=replace(recipe.train, accumulate=2))
    assert "Train with a smaller size=" in explained(MemoryError(), recipe, RUN, 1)
    assert explained(ValueError("x"), recipe, RUN, 1) is None
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9")
    assert "another process of this job has ended" in explained(lost, recipe, RUN, 2)
    assert explained(RuntimeError("Caught ValueError in DataLoader worker process 0."), recipe, RUN, 1) is None


# --- reading


def test_a_killed_worker_is_a_sentence(songs, recipe):
    def kill():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    recipe = replace(recipe, train=replace(recipe.train, workers=1, steps=60))
    with pytest.raises(TrainingStopped, match=r"reads the songs \((killed by signal: Killed|exited unexpectedly)\)"):
        train(recipe, at(2, kill))
    assert load_state(RUN.state)[1]["step"] >= 2


def test_a_worker_whose_end_is_reported_while_the_state_is_saved(songs, recipe, monkeypatch):
    """PyTorch's handler of SIGCHLD raises an error at any place of the program."""

    def report(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    def die():
        signal.signal(signal.SIGCHLD, report)
        monkeypatch.setattr(state, "recipe_values", lambda r: os.kill(os.getpid(), signal.SIGCHLD) or values(r))
        raise RuntimeError("DataLoader worker (pid not known) exited unexpectedly")

    values, before = state.recipe_values, signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(TrainingStopped, match=r"reads the songs \(exited unexpectedly\)"):
            train(recipe, at(2, die))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert load_state(RUN.state)[1]["step"] >= 2


def test_a_drive_that_is_away_for_a_moment_is_tried_again(songs, recipe, monkeypatch, capsys):
    """It comes back while the training waits for the second time."""
    straight, _ = train(named(recipe, "straight"))
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            songs.with_name("away").rename(songs)

    monkeypatch.setattr(loader, "time", SimpleNamespace(sleep=wait))  # threads of others sleep too
    run, finished = train(recipe, at(3, lambda: songs.rename(songs.with_name("away"))))
    assert finished
    assert waits == list(loader.RETRY_SECONDS[:2])
    assert losses(run) == losses(straight)
    assert "Trying again for 30 s." in capsys.readouterr().err


def test_a_file_that_stays_unreadable_ends_with_its_own_words(monkeypatch):
    monkeypatch.setattr(loader, "RETRY_SECONDS", (0.0, 0.0))

    class Broken:
        calls = 0

        def __getitem__(self, index):
            Broken.calls += 1
            raise AudioError("x.wav is damaged.")

    with pytest.raises(AudioError, match="x.wav is damaged"):
        Patient(Broken())[0]
    assert Broken.calls == 3


def test_no_more_workers_than_the_shared_memory_bears(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=64_000_000))
    assert fitting_workers(4, 1_000_000) == 4
    assert not capsys.readouterr().err
    assert fitting_workers(4, 10_000_000) == 1  # 0.8 · 64 MB hold the three batches of one
    assert fitting_workers(4, 42_000_000) == 0
    assert "has 64 MB free, too little for train.workers=4 (126 MB each): 0 read" in capsys.readouterr().err
    assert fitting_workers(0, 42_000_000) == 0


# --- loggers


class Broken:
    name = "wandb"

    def start(self):
        pass

    def log(self, values, step):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_logger_that_fails_is_told_once_and_ends_nothing(capsys):
    mirror = Mirror(Broken())
    mirror.attempt("log", {}, step=1)
    mirror.attempt("log", {}, step=2)
    mirror.close(10)
    assert capsys.readouterr().err.count("wandb has failed ([Errno 32] Broken pipe): from here on it gets nothing") == 1


def test_wandb_that_dies_in_the_middle_ends_nothing(songs, recipe, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = replace(recipe, log=replace(recipe.log, wandb="auto", audio_seconds=0.5))

    def watch(trainer):
        if trainer.progress.step == 2:
            trainer.tracker.wandb.guard(lambda tracker: monkeypatch.setattr(tracker, "run", None))

    run, finished = train(recipe, watch)
    assert finished
    assert len(losses(run)) == 6
    assert "wandb has failed" in capsys.readouterr().err


def test_lines_that_cannot_be_written_wait(songs, recipe, monkeypatch, capsys):
    straight, _ = train(named(recipe, "straight"))
    hidden = RUN.path / "hidden"

    def watch(trainer):
        if trainer.progress.step == 2:
            RUN.metrics.rename(hidden)
            RUN.metrics.mkdir()  # cannot be opened
        if trainer.progress.step == 4:
            RUN.metrics.rmdir()
            hidden.rename(RUN.metrics)

    run, finished = train(recipe, watch)
    assert finished
    assert losses(run) == losses(straight)
    assert "metrics.jsonl cannot be written: Is a directory. Training goes on" in capsys.readouterr().err


def test_tensorboard_without_its_package_is_told(songs, recipe, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run, finished = train(replace(recipe, log=replace(recipe.log, tensorboard=True)))
    assert finished
    assert "tensorboard has failed" in capsys.readouterr().err
    assert len(losses(run)) == 6


def test_a_terminal_that_is_closed_ends_nothing(monkeypatch):
    class Closed:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

        def flush(self):
            raise BrokenPipeError

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stderr", Closed())
    say("nobody reads this")


# --- the disk


def test_a_full_disk_leaves_the_last_state(songs, recipe, monkeypatch):
    recipe = replace(recipe, train=replace(recipe.train, checkpoint_every=2))
    straight, _ = train(named(recipe, "straight"))
    save = state.save_state

    def full(path, groups, progress):
        if progress["step"] > 2:
            raise UserError(f"{path} cannot be written: the disk is full. Free some space or choose another folder.")
        save(path, groups, progress)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_state", full)
        with pytest.raises(UserError, match=r"the disk is full\. Free some space.* Go on with --resume"):
            train(recipe)
    assert load_state(RUN.state)[1]["step"] == 2
    resume(RUN)
    assert losses(RUN) == losses(straight)


# --- validation


@pytest.fixture
def looked(songs):
    return micro_recipe(songs, train={"steps": 8, "validate_every": 3, "checkpoint_every": 100})


def test_the_state_is_saved_before_validation(songs, looked, monkeypatch):
    steps, scores = [], Validation.scores

    def spy(self, *how):
        steps.append(load_state(RUN.state)[1]["step"])
        return scores(self, *how)

    monkeypatch.setattr(Validation, "scores", spy)
    train(looked)
    assert steps == [3, 6, 8]


def test_a_signal_in_validation_is_heard_and_the_validation_done_again(songs, looked, monkeypatch):
    straight, _ = train(named(looked, "straight"))
    scores = Validation.scores

    def interrupted(self, stopped, show):
        signal.raise_signal(signal.SIGTERM)
        return scores(self, stopped, show)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "scores", interrupted)
        run, finished = train(named(looked, "halted"))
    assert not finished
    assert load_state(run.state)[1]["step"] == 3
    assert resume(run)[1]
    for one, other in zip(*(map(json.loads, r.metrics.read_text().splitlines()) for r in (straight, run)), strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {
            k: v for k, v in other.items() if "second" not in k
        }
    assert read_provenance(run)["best_step"] == read_provenance(straight)["best_step"]


def test_a_run_that_dies_in_validation_does_not_die_there_again(songs, looked, monkeypatch, capsys):
    copy = Path("runs/copy")

    def dies(*_):
        if not copy.exists():
            shutil.copytree(RUN.path, copy)  # what a process that is killed here leaves
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "scores", dies)
        with pytest.raises(TrainingStopped, match="--resume runs/mtl-custom"):
            train(looked)
        with pytest.raises(TrainingStopped):  # once more: it may have been killed for any reason
            resume(RunFolder(copy))
        assert load_state(copy / "state" / "last.safetensors")[1]["step"] == 3
        for folder in (RUN, RunFolder(copy)):
            with pytest.raises(TrainingStopped):  # the next one, three steps on
                resume(folder)
            assert "The training ended in the validation of step 3, which is left out now" in capsys.readouterr().err
            assert load_state(folder.state)[1]["step"] == 6
    assert resume(RUN)[1]
    assert validated(RUN) == [8]


def test_a_disk_that_is_full_for_the_weights_validates_again(songs, looked, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("refined_bsrnn.training.best.save_weights", lambda *_, **__: fails(UserError("disk is full."))())
        with pytest.raises(UserError, match="disk is full"):
            train(looked)
    assert load_state(RUN.state)[1]["step"] == 3
    assert not RUN.head_names()
    resume(RUN)
    assert validated(RUN) == [
        3,
        6,
        8,
    ]


# --- signals


def test_a_second_signal_ends_at_once_and_keeps_the_state(songs, recipe, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    straight, _ = train(named(recipe, "straight"))
    run, finished = train(recipe, at(3, twice))
    assert not finished
    assert load_state(run.state)[1]["step"] == 3
    resume(run)
    assert losses(run) == losses(straight)


def test_a_step_that_takes_too_long_after_a_signal_is_given_up():
    began, audible = time.monotonic(), False
    with suppress(KeyboardInterrupt), stop_signals(patience_seconds=0.3) as stopped:
        signal.raise_signal(signal.SIGTERM)
        audible = stopped()
        time.sleep(20)
    assert audible
    assert 0.2 < time.monotonic() - began < 10


def test_an_interruption_waits_until_it_does_no_harm():
    began, busy = time.monotonic(), [True]
    with suppress(KeyboardInterrupt), stop_signals(lambda: busy[0]):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.5)
        busy[0] = False
        time.sleep(20)
    assert not busy[0]
    assert time.monotonic() - began < 10


def test_a_signal_that_comes_as_the_block_ends_does_nothing_any_more(monkeypatch):
    def late(thread, number):
        sending.set()
        time.sleep(0.2)  # the block ends
        pthread_kill(thread, number)

    pthread_kill, sending, before = signal.pthread_kill, threading.Event(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "pthread_kill", late)
    try:
        with stop_signals(patience_seconds=0.01) as stopped:
            signal.raise_signal(signal.SIGINT)
            assert sending.wait(10)
        assert stopped()
        assert signal.getsignal(signal.SIGINT) is before
    except KeyboardInterrupt:
        pytest.fail("it interrupted what follows")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_was_ignored_stays_ignored():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


# --- two at once


def test_a_run_that_is_training_is_not_trained_by_another(songs, recipe, monkeypatch):
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.2)
    run, _ = train(recipe)
    with FileLock(run.path / "state" / "lock"), pytest.raises(UserError, match="is being trained by another process"):
        resume(run)
    assert resume(run)[1]


def test_two_of_one_name_before_the_first_state(songs, recipe, monkeypatch):
    """The second is refused, and what the first has begun is left alone."""
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.2)
    messages = []

    def second():
        with suppress(SystemExit), pytest.raises(UserError, match="is being trained by another process") as caught:
            train(recipe)
        messages.append(caught)

    run, finished = train(recipe, at(2, second))
    assert len(messages) == 1
    assert finished
    assert len(losses(run)) == 6


def test_the_lock_of_a_killed_training_is_void(songs, recipe, tmp_path):
    recipe = replace(recipe, train=replace(recipe.train, steps=100_000, workers=1, checkpoint_every=5))
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    process = subprocess.Popen(
        [sys.executable, "-m", "refined_bsrnn.apps.cli.main", "train", "r.yaml"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(2000):
            if RUN.state.exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    step = load_state(RUN.state)[1]["step"]
    assert step % 5 == 0
    run, finished = resume(RUN, at(step + 1, lambda: signal.raise_signal(signal.SIGTERM)))
    assert not finished
    assert load_state(run.state)[1]["step"] == step + 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held here")
def test_signals_do_not_damage_memory(songs, tmp_path):
    """PyTorch's LSTM does, on a CPU, if a signal interrupts its gradients: the process died within 300 signals."""
    backbone = {"kind": "band_sequence_rnn", "features": 32, "repeats": 2}
    lengths = {"batch_size": 6, "chunk_seconds": 2.0, "validate_every": 1000, "checkpoint_every": 1000, "workers": 1}
    recipe = micro_recipe(songs, backbone=backbone, train={"steps": 1000, **lengths})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "refined_bsrnn", "train", str(tmp_path / "recipe.yaml"), "log.wandb=off"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=said)
    metrics = tmp_path / "runs/mtl-custom/metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and losses(RunFolder(metrics.parent))):
        time.sleep(0.1)
    for _ in range(400):
        time.sleep(0.004)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCHLD)  # as a worker that ends, is stopped or goes on sends it
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130, (tmp_path / "said").read_text()
    assert RunFolder(metrics.parent).state.is_file()
