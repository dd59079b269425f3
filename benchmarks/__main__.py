"""Measure speeds side by side: one kind per line of `KINDS`, each with its own arguments.

python -m benchmarks step --out docs/results
"""

import sys

from refined_bsrnn.errors import UserError
from refined_bsrnn.system import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before torch is loaded

from .architecture import ARCHITECTURE
from .busy import BUSY
from .check import CHECK
from .data import DATA
from .gpu import GPU
from .measure import Kind, run
from .peers import PEERS_KIND
from .separation import SEPARATION
from .step import STEP
from .transfer import TRANSFER

KINDS: dict[str, Kind] = {
    "architecture": ARCHITECTURE,
    "busy": BUSY,
    "check": CHECK,
    "data": DATA,
    "gpu": GPU,
    "peers": PEERS_KIND,
    "separation": SEPARATION,
    "step": STEP,
    "transfer": TRANSFER,
}

if __name__ == "__main__":
    try:
        sys.exit(run(KINDS))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
