#!/usr/bin/env python3
"""Score the heads of a run on whole tracks; writes RUN/results.json.

scripts/evaluate.py RUN [--data ROOT] [--split test] [--quick] [--museval --jobs 4]
    accelerate launch scripts/evaluate.py RUN     # the processes share the tracks
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
