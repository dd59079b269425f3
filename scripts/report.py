#!/usr/bin/env python3
"""Compare evaluated runs: tables, figures, and a page with players.

scripts/report.py RUN... --out DIR [--published] [--group NAME=PATTERN] [--wandb]
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
