"""Memory kept within a block of work: fewer page faults inside, all given back behind it."""

import subprocess
import sys

import pytest

from refined_bsrnn.allocator import _glibc, big_blocks_kept

PROGRAM = """
import resource
import torch
from refined_bsrnn.allocator import big_blocks_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)  # 16 MB: 4000 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with big_blocks_kept():
    with big_blocks_kept():
        pass
    torch.ones(4_000_000)
    inside = faults()
print(inside, faults())
"""


@pytest.mark.skipif(_glibc() is None, reason="only glibc can be told to keep memory")
def test_pages_are_asked_for_once():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < 3 * 4000  # a block may be put elsewhere once or twice
    assert outside > 15 * 4000


def test_nothing_happens_without_glibc(monkeypatch):
    monkeypatch.setattr("refined_bsrnn.allocator._glibc", lambda: None)
    with big_blocks_kept():
        pass
