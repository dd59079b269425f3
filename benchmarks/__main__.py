"""Measure speeds side by side: one kind per line of `KINDS`, each with arguments of its own.

python -m benchmarks step --out docs/results
"""

import sys

from refined_bsrnn.threads import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before torch is loaded

from .architecture import ARCHITECTURE
from .check import CHECK
from .data import DATA
from .measure import Kind, run
from .separation import SEPARATION
from .transfer import TRANSFER

KINDS: dict[str, Kind] = {
    "architecture": ARCHITECTURE,
    "check": CHECK,
    "data": DATA,
    "separation": SEPARATION,
    "transfer": TRANSFER,
}

if __name__ == "__main__":
    sys.exit(run(KINDS))
