"""Run commands as one types them, one after the other, if wanted in a second process meanwhile."""

import multiprocessing
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from ...console import say
from .main import main


def run(*arguments: str) -> None:
    """Show a command and run it; if it fails, the program ends with its exit code."""
    say(f"\n$ refined-bsrnn {shlex.join(arguments)}")
    code = main(arguments)
    if code:
        sys.exit(code)


def run_into(log: Path, commands: Sequence[Sequence[str]]) -> None:
    """Run commands one after the other; what they print goes into a file."""
    with log.open("w", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        for command in commands:
            run(*command)


@contextmanager
def meanwhile(commands: Sequence[Sequence[str]], log: Path) -> Iterator[None]:
    """Run commands in a second process during the block; its end waits for them and shows what they printed.

    If one of them fails, the program ends with its exit code.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=run_into, args=(log, commands))
    process.start()
    try:
        yield
        if process.is_alive():
            say(f"\nWaiting for the second process ({log})...")
        process.join()
    finally:
        process.terminate()
        process.join()
    say(log.read_text(encoding="utf-8").rstrip())
    if process.exitcode:
        sys.exit(process.exitcode)
