"""The benchmark of transfers: every kind of step runs, what is frozen stays, and the table says what was measured."""

import json

from refined_bsrnn.benchmark import run
from refined_bsrnn.benchmark_transfer import JOBS, TRANSFER, transfer_markdown


def test_command(tmp_path, capsys):
    short = ["--size", "micro", "--seconds", "0.1", "--rounds", "1", "--device", "cpu"]
    assert run({"transfer": TRANSFER}, ["transfer", *short, "--out", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "transfer.json").read_text())
    assert set(values["sizes"]["micro"]) == set(JOBS)
    assert all(speed["seconds"] > 0 for speed in values["sizes"]["micro"].values())
    assert transfer_markdown(values) in capsys.readouterr().out


def test_table_by_hand():
    speed = {"median": 12.34, "low": 1.0, "high": 20.0, "seconds": 0.5}
    table = transfer_markdown({"sizes": {"tiny": dict.fromkeys(JOBS, speed)}})
    lines = table.splitlines()
    assert lines[0] == "| step | tiny: s per step | × base |"
    assert len(lines) == 2 + len(JOBS)
    assert lines[2].endswith("| 0.500 | 12.3 |")
