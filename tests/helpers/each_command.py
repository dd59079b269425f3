"""Run commands of refined-bsrnn, each as JSON, one behind the other: Python starts once for all. See `conftest`."""

import atexit
import gc
import json
import os
import sys
from pathlib import Path

from refined_bsrnn.apps.cli.main import main


def check_threads() -> None:
    """No thread of a process group outlives it: what it lets go of while the interpreter ends could abort the process.

    Whether it does is a matter of milliseconds; whether there is one is not. Where the system lists threads (Linux).
    """
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in names if "gloo" in name]:
        print("threads left:", *left, file=sys.stderr, flush=True)
        os._exit(3)


gc.disable()  # what is part of a cycle is let go by those who say so, not by chance
atexit.register(check_threads)  # before the commands register theirs: the last to be called
for words in map(json.loads, sys.argv[1:]):
    if main(words):
        sys.exit(f"failed: {words}")
