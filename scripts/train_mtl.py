#!/usr/bin/env python3
"""Train one backbone on the targets of a recipe.

accelerate launch scripts/train_mtl.py recipes/mtl_generic.yaml [key=value ...] [--resume RUN]
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
