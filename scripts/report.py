#!/usr/bin/env python3
"""Compare evaluated runs: a table and training curves.

scripts/report.py RUN... [--out DIR]
"""

import sys

from refined_bsrnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
