"""Memory kept within a block of work, and given back behind it."""

import subprocess
import sys

import pytest

from refined_bsrnn.system import big_blocks_kept, glibc

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
