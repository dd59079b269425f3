"""What kill -9 leaves: nothing that stands in the way, nothing that stays for good, and a resume to the same end.

`python -m benchmarks.survival crash` really kills, hundreds of times; here are the cases that it has found.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.survival import crash
from benchmarks.survival.world import Ended
from refined_bsrnn import system
from refined_bsrnn.errors import CheckpointError, UserError
from refined_bsrnn.runs.folder import RunFolder, load_state, read_tensors, write_tensors
from refined_bsrnn.system import MACHINE, atomic_write, write_json
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume
from refined_bsrnn.training.validation import Validation
from tests.conftest import micro_recipe

RUN = RunFolder(Path("runs/mtl-custom"))


@pytest.fixture
def recipe(songs):
    return micro_recipe(songs, train={"steps": 4, "validate_every": 2, "checkpoint_every": 1})


def log_of(run):
    """What was logged, without times."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def weights_of(run):
    paths = [run.backbone, *(run.head(name) for name in run.head_names())]
    return {(path.name, key): t.tolist() for path in paths for key, t in read_tensors_of(path).items()}


def read_tensors_of(path):
    return read_tensors(path, "backbone" if path.name == "backbone.safetensors" else "head")[0]


def ended_process():
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def left_by(process, folder):
    """What a process leaves that is killed while it writes a file."""
    part = folder / f".{MACHINE}-{process}-0123abcd.part"
    part.mkdir(parents=True)
    (part / ".tmpX1y2Z3").write_text("half of a state, under the name that safetensors gives it")
    return part


# --- files that were being written


def test_killed_in_the_middle_of_saving_a_file_is_old_or_new_and_nothing_is_left():
    found = crash.carry_out("saving", rounds=2, seed=0)  # a round is repeated until its kill comes before the end
    assert found["failures"] == []
    assert found["killed"] == 2


@pytest.mark.parametrize(
    ("endings", "killed", "failures"), [([0, 0, -9, 0], 1, []), ([0] * 50, 0, ["1 rounds had no kill in time"])]
)
def test_a_round_is_repeated_until_its_kill_comes_before_the_end(monkeypatch, endings, killed, failures):
    codes = iter([0, *endings])  # the first is the undisturbed run
    subject = crash.Subject(lambda folder: None, lambda: 0, lambda folder: lambda: 0)
    monkeypatch.setitem(crash.SUBJECTS, "any", lambda: subject)
    monkeypatch.setattr(crash, "forked", lambda *_, **__: Ended(next(codes), 0.0, "", 0.0))
    found = crash.carry_out("any", rounds=1, seed=0)
    assert (found["killed"], found["failures"]) == (killed, failures)
    assert list(codes) == []


def test_the_next_process_that_writes_there_clears_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_looked_at", set())
    dead, alive = left_by(ended_process(), tmp_path), left_by(os.getppid(), tmp_path)
    write_json(tmp_path / "x.json", 1)
    assert not dead.exists()
    assert alive.exists()
    os.utime(alive, (0, 0))  # of another machine, or of another program that has the number now
    monkeypatch.setattr(system, "_looked_at", set())
    write_json(tmp_path / "x.json", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_what_a_library_writes_beside_the_file_goes_with_it(tmp_path):
    def fails():
        with atomic_write(tmp_path / "x.bin") as temporary:
            temporary.with_name("of-the-library.data").write_text("large")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_while_its_recipe_was_written_leaves_its_name_free(recipe):
    left_by(ended_process(), RUN.path)
    assert train(recipe)[1]
    assert not [path for path in RUN.path.rglob("*") if system.is_part(path.name)]


# --- going on


def test_a_validation_that_was_killed_is_done_again_and_logged_once(recipe, monkeypatch):
    straight, _ = train(replace(recipe, run=replace(recipe.run, name="straight")))
    copy, scores, keep = RunFolder(Path("runs/copy")), Validation.scores, []

    def spy(self, *how):
        keep.append(1)
        if len(keep) == 2:  # the last validation
            shutil.copytree(RUN.path, copy.path)
        return scores(self, *how)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "scores", spy)
        train(recipe)
    # Killed a moment later: the scores were logged, the state after them was not saved.
    copy.metrics.write_text(RUN.metrics.read_text())
    assert load_state(copy.state)[1]["validating_step"] == 4
    assert resume(copy)[1]
    assert log_of(copy) == log_of(straight)
    assert weights_of(copy) == weights_of(straight)


def test_half_a_line_and_zeros_in_the_log_are_dropped(recipe):
    run, _ = train(recipe)
    before = log_of(run)
    with run.metrics.open("ab") as file:
        file.write(b'\0\0\0\0}\n{"step": 3, "loss": {"a": 1}\n[1]\n{"step": "x"}\n' + b"[" * 9999)
    assert resume(run)[1]
    assert log_of(run) == before


def test_a_folder_that_vanishes_under_its_training_stops_it(recipe):
    def watch(trainer):
        if trainer.progress.step == 1:
            shutil.rmtree(RUN.path)

    with pytest.raises(UserError, match="recipe.yaml is not there any more: the run's folder was moved or removed"):
        train(recipe, watch)
    assert train(recipe)[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [("progress", "{"), ("progress", "[" * 5000), ("progress", '{"step": "x"}'), ("progress", '{"step": 1, "new": 2}')],
)
def test_a_state_that_is_none_is_a_sentence(recipe, key, value):
    run, _ = train(recipe)
    tensors, metadata = read_tensors(run.state, "state")
    write_tensors(run.state, tensors, {**metadata, key: value})
    with pytest.raises(CheckpointError, match="last.safetensors"):
        resume(run)


def test_a_state_without_random_numbers_is_a_sentence(recipe):
    run, _ = train(recipe)
    tensors, metadata = read_tensors(run.state, "state")
    write_tensors(run.state, {name: t for name, t in tensors.items() if "rng" not in name}, metadata)
    with pytest.raises(CheckpointError, match="is not the state of such a training"):
        resume(run)
