"""The benchmark of busy machines: what runs beside a command, and the share that it leaves."""

import json
import subprocess

import pytest

from benchmarks import busy
from benchmarks.busy import BUSY, JOBS, busy_markdown, loops, setting_of, summary
from benchmarks.measure import run
from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import RecipeError, UserError
from tests.conftest import write_song, write_songs


def test_the_share_that_is_left_by_hand():
    pairs = [
        {"quiet processor": 2.0, "quiet wall": 1.0, "busy processor": 4.0, "busy wall": 3.0},
        {"quiet processor": 3.0, "quiet wall": 1.0, "busy processor": 3.0, "busy wall": 5.0},
        {"quiet processor": 2.0, "quiet wall": 1.0, "busy processor": 2.5, "busy wall": 4.0},
    ]
    row = summary(pairs)
    assert row["share_left"] == {"median": 0.8, "low": 0.5, "high": 1.0}
    assert (row["busy processor"], row["busy wall"]) == (3.0, 4.0)
    last = busy_markdown({"rows": [{"job": "train", "setting": "as it is", **row}]}).splitlines()[-1]
    assert last == "| train | as it is | 2.0 | 1.0 | 3.0 | 4.0 | 0.80 (0.50–1.00) |"


def test_settings_are_environment_variables():
    assert setting_of("OMP_NUM_THREADS=1,A=b=c") == {"OMP_NUM_THREADS": "1", "A": "b=c"}
    with pytest.raises(RecipeError, match="--setting 'OMP_NUM_THREADS' sets nothing; expected NAME=VALUE"):
        setting_of("OMP_NUM_THREADS")


def test_loops_run_until_the_block_ends(monkeypatch):
    started = []
    begin = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words: started.append(begin(words)) or started[-1])
    with loops(2):
        assert [process.poll() for process in started] == [None, None]
    assert [process.poll() for process in started] == [-9, -9]


def test_every_pair_is_quiet_then_busy_with_the_setting(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(busy, "builtin_root", lambda: None)
    monkeypatch.setattr(busy, "LOOP", "pass")
    code = "import os; sum(range(10**6)); print(os.environ.get('A', '-'), file=open(os.environ['LOG'], 'a'))"
    monkeypatch.setitem(JOBS, "train", lambda folder, steps: ["-c", code])
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    words = ["busy", "--job", "train", "--setting", "A=1", "--rounds", "2", "--out", str(tmp_path)]
    assert run({"busy": BUSY}, words) == 0
    assert (tmp_path / "log").read_text().split() == ["-", "-", "1", "1"] * 2
    values = json.loads((tmp_path / "busy.json").read_text())
    assert [row["setting"] for row in values["rows"]] == ["as it is", "A=1"]
    assert all(row["quiet processor"] > 0 for row in values["rows"])
    assert busy_markdown(values) in capsys.readouterr().out


def test_a_command_that_fails_is_no_measurement(monkeypatch):
    monkeypatch.setattr(busy, "builtin_root", lambda: None)
    monkeypatch.setitem(JOBS, "train", lambda folder, steps: ["-c", "import sys; sys.exit('no data')"])
    with pytest.raises(UserError, match="ended with 1: no data"):
        run({"busy": BUSY}, ["busy", "--job", "train", "--rounds", "1", "--loops", "0"])


@pytest.mark.parametrize("job", ["train", "evaluate", "separate"])
def test_the_jobs_are_commands_that_work(job, tmp_path, monkeypatch):
    """On two short songs instead of the built-in ones, and in this process: that others work is tested above."""
    songs = write_songs(tmp_path / "songs", train=1, rate=44100)
    write_song(songs / "valid" / "song", seed=0, rate=44100)
    monkeypatch.setattr("refined_bsrnn.data.layouts.builtin.builtin_root", lambda: songs)
    (tmp_path / "job").mkdir()
    python, module, *words = JOBS[job](tmp_path / "job", 1)
    assert (python, module) == ("-m", "refined_bsrnn")
    assert main(words) == 0
