"""Run commands of refined-bsrnn, each as JSON, one behind the other: Python starts once for all. See `conftest`."""

import json
import sys

from refined_bsrnn.cli import main

for words in map(json.loads, sys.argv[1:]):
    if main(words):
        sys.exit(f"failed: {words}")
