#!/usr/bin/env python3
"""Separate songs with chosen heads.

scripts/separate.py song.mp3 album/ --model mtl,mtl-to-guitar --head bass,guitar --residual
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["separate", *sys.argv[1:]]))
