"""A disk or a quota that is full: one sentence, the old files stay, and with room the same command goes on.

`python -m benchmarks.survival disk` fills real file systems; none of them has quotas.
"""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from refined_bsrnn.audio import write_audio
from refined_bsrnn.errors import CheckpointError, UserError
from refined_bsrnn.runs.folder import RunFolder, load_state, write_tensors
from refined_bsrnn.system import reason_of, write_json
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume
from tests.conftest import micro_recipe

RUN = RunFolder(Path("runs/mtl-custom"))
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your quota on this disk is used up"}
WRITERS = {
    "x.json": lambda path: write_json(path, 1),
    "x.safetensors": lambda path: write_tensors(path, {"a": torch.ones(3)}, {}),
    "x.wav": lambda path: write_audio(path, torch.zeros(1, 10), 8000),
}


def fails(number):
    """A function that does what the system does on such a disk."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_or_quota_is_a_sentence_and_the_old_file_stays(tmp_path, monkeypatch, name, number):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    monkeypatch.setattr("refined_bsrnn.system.os.fsync", fails(number))
    with pytest.raises(UserError, match=f"{name} cannot be written: {FULL[number]}. Free some space or choose"):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", FULL)
def test_what_safetensors_makes_of_it_is_the_same_sentence(tmp_path, monkeypatch, number):
    def fail(*_):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    monkeypatch.setattr("refined_bsrnn.runs.folder.save_file", fail)
    with pytest.raises(CheckpointError, match=f"cannot be written: {FULL[number]}. Free"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(3)}, {})


def test_other_reasons_are_those_of_the_system():
    assert reason_of(OSError(errno.EROFS, "Read-only file system", "x")) == "Read-only file system"
    assert reason_of(OSError("of a library")) == "of a library"


def test_a_training_whose_quota_is_used_up_stops_and_goes_on_with_room(songs, monkeypatch, capsys):
    recipe = micro_recipe(songs, train={"steps": 4, "validate_every": 4, "checkpoint_every": 2})
    with monkeypatch.context() as patch:

        def watch(trainer):
            if trainer.progress.step == 3:
                patch.setattr("refined_bsrnn.system.os.fsync", fails(errno.EDQUOT))
                patch.setattr("refined_bsrnn.runs.tracking.append", fails(errno.EDQUOT))

        with pytest.raises(UserError, match="your quota on this disk is used up. Free some space"):
            train(recipe, watch)
    said = " ".join(capsys.readouterr().err.split())
    assert "metrics.jsonl cannot be written: your quota on this disk is used up. Training goes on" in said
    assert load_state(RUN.state)[1]["step"] == 2
    assert resume(RUN)[1]
    steps = [line["step"] for line in map(json.loads, RUN.metrics.read_text().splitlines()) if "loss" in line]
    assert steps == [1, 2, 3, 4]
