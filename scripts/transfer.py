#!/usr/bin/env python3
"""Freeze the backbone of a base and train new heads for new sources.

scripts/transfer.py --base drums --target bass [key=value ...]
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["transfer", *sys.argv[1:]]))
