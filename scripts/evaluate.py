#!/usr/bin/env python3
"""Score the heads of a run on whole tracks; writes RUN/results.json.

scripts/evaluate.py RUN [--data ROOT] [--split test]
"""

import sys

from refined_bsrnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
