"""The clock goes an hour forward or back: nothing is lost, no lock is broken, and no duration is wrong."""

import itertools
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from refined_bsrnn import console, system
from refined_bsrnn.apps.browser.studio import Studio
from refined_bsrnn.errors import UserError
from refined_bsrnn.runs.folder import RunFolder, load_state, read_provenance
from refined_bsrnn.system import part_name, write_json
from refined_bsrnn.temporary import owned_folder
from refined_bsrnn.training import state
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume
from tests.conftest import micro_recipe

HOUR = 3600.0
JUMPS = [HOUR, -HOUR]
RUN = RunFolder(Path("runs/mtl-custom"))


def jump(monkeypatch, *seconds):
    """From now on the clock is wrong by so many seconds, in turns."""
    true, wrong = time.time, itertools.cycle(seconds)
    monkeypatch.setattr(time, "time", lambda: true() + next(wrong))


def log_of(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def without_times(lines):
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_training_under_a_jumping_clock_is_the_same_and_its_durations_are_true(songs, monkeypatch):
    recipe = micro_recipe(songs, train={"steps": 6, "validate_every": 3, "checkpoint_every": 1})
    straight, _ = train(replace(recipe, run=replace(recipe.run, name="straight")))
    jump(monkeypatch, 0.0, HOUR, -HOUR)

    class Stop(Exception):
        pass

    def stop(trainer):
        if trainer.progress.step == 4:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, stop)
    assert load_state(RUN.state)[1]["step"] == 4
    assert resume(RUN)[1]
    assert without_times(log_of(RUN)) == without_times(log_of(straight))
    seconds = [line["seconds"] for line in log_of(RUN)]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < HOUR / 2
    assert 0 <= read_provenance(RUN)["seconds"] < HOUR / 2


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_run_that_is_trained_stays_locked(songs, monkeypatch, seconds):
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.1)
    run, _ = train(micro_recipe(songs, train={"steps": 1, "validate_every": 1}))
    with FileLock(run.path / "state" / "lock"):
        jump(monkeypatch, seconds)
        with pytest.raises(UserError, match="is being trained by another process"):
            resume(run)
    assert resume(run)[1]


@pytest.mark.parametrize("seconds", JUMPS)
def test_files_in_progress_and_folders_in_use_stay(tmp_path, monkeypatch, seconds):
    part = tmp_path / part_name().replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    part.mkdir()
    monkeypatch.setattr(system, "_looked_at", set())
    with owned_folder(tmp_path, "in-use-") as used:
        jump(monkeypatch, seconds)
        write_json(tmp_path / "x.json", 1)
        with owned_folder(tmp_path, "in-use-") as other:
            assert part.is_dir()
            assert used.is_dir()
            assert other.is_dir()


@pytest.mark.parametrize("seconds", JUMPS)
def test_an_upload_to_the_app_stays(monkeypatch, seconds):
    with Studio(None, "any") as studio:
        arriving, whole = studio.uploads / "tmpa", studio.uploads / "0" / "song.wav"
        whole.parent.mkdir()
        for path in (arriving, whole):
            path.write_bytes(b"RIFF")
        studio.sweep()
        jump(monkeypatch, seconds)
        studio.sweep()
        assert arriving.is_file()
        assert whole.is_file()


@pytest.mark.parametrize("seconds", [0.0, *JUMPS])
def test_the_time_left_and_the_speed_are_of_the_clock_that_does_not_jump(monkeypatch, capsys, seconds):
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0] + seconds))
    with console.Bar("run", 10, 0, 1.0) as bar:
        now[0] += 20.0
        bar.update(5)
        assert bar.summary().endswith("0.2 s audio/s")
    assert "5/10" in (said := capsys.readouterr().err)
    assert "20 s left" in said
