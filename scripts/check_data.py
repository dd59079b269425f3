#!/usr/bin/env python3
"""Read every file of a data set and report all problems: exit code 1 if training cannot start.

scripts/check_data.py RECIPE|ROOT [key=value ...] [--json]
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]]))
