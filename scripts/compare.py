#!/usr/bin/env python3
"""Run a whole study and write its table and figures: bases × targets × methods × seeds.

scripts/compare.py recipes/compare_transfer.yaml [--jobs N] [key=value ...]
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
