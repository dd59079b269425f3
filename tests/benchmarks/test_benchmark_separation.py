"""The benchmark of separation: memory is that of a process of its own, and the tables say what was measured."""

import json

import pytest

from benchmarks.measure import run
from benchmarks.separation import SEPARATION, separation_markdown
from refined_bsrnn.errors import RecipeError


def test_command(tmp_path, capsys):
    short = ["--memory", "4x1:2:1", "--live", "4x1:1", "--live-seconds", "0.1"]
    assert run({"separation": SEPARATION}, ["separation", *short, "--out", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "separation.json").read_text())
    (memory,), (live,) = values["memory"], values["live"]
    assert 100 < memory["peak_mib"] < 4000
    assert all(ms > 0 for ms in live["ms"].values())
    assert separation_markdown(values) in capsys.readouterr().out
    assert run({"separation": SEPARATION}, ["separation", "--live", "4x1:1", "--live-seconds", "0.1"]) == 0
    assert "peak, MiB" not in capsys.readouterr().out  # one kind asked for is one kind measured
    with pytest.raises(RecipeError, match="'tiny:1' cannot be measured; expected 3 parts as in small:1:20"):
        run({"separation": SEPARATION}, ["separation", "--memory", "tiny:1"])


def test_tables_by_hand():
    memory = {"network": "4x1", "heads": 1, "seconds": 10800, "peak_mib": 700, "cpu_seconds": 300.0}
    live = {"network": "tiny", "heads": 4, "ms": {"2048": 23.22, "4410": 50.0}}
    lines = separation_markdown({"memory": [memory], "live": [live]}).splitlines()
    assert lines[2] == "| 4 × 1 | 1 | 3 h | 700 | 5 min |"
    assert separation_markdown({"memory": [{**memory, "cpu_seconds": 9000}], "live": []}).endswith("| 700 | 2.5 h |\n")
    assert lines[-1] == "| `tiny` (32 × 6) | 4 | 23 ms (2.0 × real time) | 50 ms (2.0 × real time) |"
