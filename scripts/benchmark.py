#!/usr/bin/env python3
"""Measure speeds side by side: one kind per line of `KINDS`, each with arguments of its own.

scripts/benchmark.py architecture --rounds 5 --out docs/results
"""

import sys

from refined_bsrnn.threads import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before torch is loaded

from refined_bsrnn.benchmark import ARCHITECTURE, Kind, run
from refined_bsrnn.benchmark_check import CHECK
from refined_bsrnn.benchmark_separation import SEPARATION
from refined_bsrnn.benchmark_transfer import TRANSFER
from refined_bsrnn.data_speed import DATA

KINDS: dict[str, Kind] = {
    "architecture": ARCHITECTURE,
    "check": CHECK,
    "data": DATA,
    "separation": SEPARATION,
    "transfer": TRANSFER,
}

if __name__ == "__main__":
    sys.exit(run(KINDS))
