"""Files that are whole or not there; memory kept within a block of work, and given back behind it."""

import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from refined_bsrnn.system import big_blocks_kept, glibc, signals_held, write_json, write_text

PROGRAM = """
import torch
from pathlib import Path
from refined_bsrnn.system import big_blocks_kept

def resident():
    torch.ones(16_000_000)  # 64 MB, freed at once
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

before = resident()
with big_blocks_kept():
    with big_blocks_kept():
        pass
    inside = resident()
print(inside - before, resident() - before)
"""


@pytest.mark.skipif(glibc() is None, reason="only glibc can be told to keep memory")
def test_memory_is_kept_within_the_block_and_given_back_behind_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inside, behind = map(float, done.stdout.split())
    assert inside > 50
    assert behind < 20


def test_nothing_happens_withoutglibc(monkeypatch):
    monkeypatch.setattr("refined_bsrnn.system.glibc", lambda: None)
    with big_blocks_kept():
        pass


def test_data_are_on_the_disk_before_a_file_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.txt", []
    path.write_text("old")

    def sync(descriptor):
        synced.append((path.read_text(), os.fstat(descriptor).st_ino))

    monkeypatch.setattr("refined_bsrnn.system.os.fsync", sync)
    write_text(path, "new")
    assert synced == [("old", path.stat().st_ino)]
    assert path.read_text() == "new"


def test_what_is_no_json_is_not_written(tmp_path):
    write_json(tmp_path / "a.json", {"usdr": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"usdr": math.nan})
    assert [p.read_text() for p in tmp_path.iterdir()] == ['{\n "usdr": 1.0\n}\n']


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held here")
def test_signals_are_held_in_the_block_and_handled_behind_it():
    came = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with signals_held():
            with signals_held():
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            time.sleep(0.01)
            assert came == []
        time.sleep(0.01)
        assert came == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
