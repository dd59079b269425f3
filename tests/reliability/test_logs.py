"""The committed logs of the long runs hold what docs/reliability.md says."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.survival.crash import SUBJECTS
from benchmarks.survival.formats import FORMATS

LOGS = Path(__file__).parents[2] / "docs/results/survival"


def log(name):
    return json.loads((LOGS / f"{name}.json").read_text())


def test_ten_thousand_inputs_of_each_kind_were_read():
    inputs = Counter()
    for run in log("fuzz")["runs"]:
        inputs.update({kind: found["inputs"] for kind, found in run["kinds"].items()})
    assert set(inputs) == set(FORMATS)
    assert min(inputs.values()) >= 10_000


def test_every_subject_was_killed_thirty_times():
    subjects = log("crash")["subjects"]
    assert set(subjects) == set(SUBJECTS)
    for found in subjects.values():
        assert found["killed"] == found["rounds"] >= 30
        assert found["failures"] == []


@pytest.mark.parametrize("name", ["app", "crash", "disk", "loggers", "memory", "processes"])
def test_nothing_has_failed(name):
    assert log(name)["n_failures"] == 0
