"""The benchmark of transfers: every kind of step runs, what is frozen stays, and the table says what was measured."""

import json

import torch

from benchmarks.measure import run
from benchmarks.transfer import BASE, JOBS, TRANSFER, _rounds, _speed, transfer_markdown


def test_command(tmp_path, capsys):
    short = ["--size", "micro", "--seconds", "0.1", "--rounds", "1", "--device", "cpu"]
    assert run({"transfer": TRANSFER}, ["transfer", *short, "--out", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "transfer.json").read_text())
    assert set(values["sizes"]["micro"]) == set(JOBS)
    for speed in values["sizes"]["micro"].values():
        assert speed["seconds"] > 0
        assert abs(speed["steps_per_second"] * speed["seconds"] - 1) < 0.1
    assert values["sizes"]["micro"][BASE]["median"] == 1.0
    assert transfer_markdown(values) in capsys.readouterr().out


def test_steps_of_all_sizes_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, calls = iter(range(100)), []
    jobs = {size: {name: lambda at=(size, name): calls.append(at) for name in "ab"} for size in ("tiny", "small")}
    monkeypatch.setattr("benchmarks.transfer.seconds_of", lambda job, device: job() or float(next(clock)))
    found = _rounds(jobs, 2, torch.device("cpu"))
    assert calls == [("tiny", "a"), ("tiny", "b"), ("small", "a"), ("small", "b")] * 3
    assert found == {"tiny": {"a": [4.0, 8.0], "b": [5.0, 9.0]}, "small": {"a": [6.0, 10.0], "b": [7.0, 11.0]}}


def test_speed_by_hand():
    """In the rounds 4 and 10 times as fast as the base; the base's own seconds do not enter the steps per second."""
    speed = _speed([0.5, 0.25], [2.0, 2.5])
    assert speed == {"median": 7.0, "low": 4.0, "high": 10.0, "seconds": 0.375, "steps_per_second": 2.667}


def test_table_by_hand():
    speed = {"median": 12.34, "low": 1.0, "high": 20.0, "seconds": 0.5, "steps_per_second": 2.0}
    table = transfer_markdown({"sizes": {"tiny": dict.fromkeys(JOBS, speed), "small": dict.fromkeys(JOBS, speed)}})
    lines = table.splitlines()
    size = "{0}: s per step | {0}: steps per s | {0}: × base (lowest–highest)"
    assert lines[0] == f"| step | {size.format('tiny')} | {size.format('small')} |"
    assert len(lines) == 2 + len(JOBS)
    assert lines[2].endswith("| 0.500 | 2.00 | 12.3 (1.0–20.0) |" + " 0.500 | 2.00 | 12.3 (1.0–20.0) |")
