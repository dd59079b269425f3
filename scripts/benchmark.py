#!/usr/bin/env python3
"""Measure speeds side by side: one kind per line of `KINDS`, each with arguments of its own.

scripts/benchmark.py architecture --rounds 5 --out docs/results
"""

import sys

from benchmarks.benchmark import ARCHITECTURE, Kind, run
from benchmarks.benchmark_check import CHECK
from benchmarks.benchmark_separation import SEPARATION
from benchmarks.benchmark_transfer import TRANSFER
from benchmarks.data_speed import DATA

KINDS: dict[str, Kind] = {
    "architecture": ARCHITECTURE,
    "check": CHECK,
    "data": DATA,
    "separation": SEPARATION,
    "transfer": TRANSFER,
}

if __name__ == "__main__":
    sys.exit(run(KINDS))
