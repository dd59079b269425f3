"""Questions of survival, one per line of `QUESTIONS`; each writes what it found as JSON and ends with 1 if it failed.

python -m benchmarks.survival crash --rounds 30 --seed 0 --out docs/results/survival
"""

import argparse
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .world import set_environment

if __name__ == "__main__":
    set_environment()  # before torch is loaded

from refined_bsrnn.console import say
from refined_bsrnn.system import write_json

from .app import app, app_arguments
from .crash import crash, crash_arguments
from .disk import disk, disk_arguments
from .fuzz import fuzz, fuzz_arguments
from .loggers import loggers, loggers_arguments
from .memory import memory, memory_arguments
from .processes import processes, processes_arguments
from .world import warm


@dataclass(frozen=True)
class Question:
    """One question: what it asks, its arguments, and what answers it (values for JSON)."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    answer: Callable[[argparse.Namespace], dict[str, Any]]


QUESTIONS: dict[str, Question] = {
    "crash": Question("kill -9 at random moments", crash_arguments, crash),
    "disk": Question("full, read-only and vanished disks", disk_arguments, disk),
    "processes": Question("lost, stopped and halted processes", processes_arguments, processes),
    "loggers": Question("wandb that fails in every way", loggers_arguments, loggers),
    "app": Question("hostile requests and uploads, many connections", app_arguments, app),
    "memory": Question("memory over a thousand rounds", memory_arguments, memory),
    "fuzz": Question("hostile files of every kind", fuzz_arguments, fuzz),
}


def failures_in(values: Any) -> list[str]:
    """All failures in the answer, wherever they stand."""
    if isinstance(values, Mapping):
        own = [str(text) for text in values.get("failures", [])]
        return own + [text for value in values.values() for text in failures_in(value) if isinstance(value, Mapping)]
    return []


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse, ask, write ``<question>.json``; 1 where something failed."""
    top = argparse.ArgumentParser("python -m benchmarks.survival", description="Try what a run must survive.")
    questions = top.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, question in QUESTIONS.items():
        p = questions.add_parser(name, help=question.help, description=question.help)
        question.arguments(p)
        p.add_argument("--out", type=Path, metavar="DIR", help="write QUESTION.json there")
    args = top.parse_args(arguments)
    began = time.monotonic()
    warm()
    values = QUESTIONS[args.question].answer(args)
    failures = failures_in(values)
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    words = list(arguments or sys.argv[1:])
    if args.out:  # where it is written to is no part of what was found
        place = words.index("--out") if "--out" in words else len(words)
        words = words[:place] + words[place + 2 :]
    command = shlex.join(["python", "-m", "benchmarks.survival", *words])
    values = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in used), 1),
        "n_failures": len(failures),
        **values,
    }
    if args.out:
        write_json(args.out / f"{args.question}.json", values)
        say(f"Written: {args.out / args.question}.json")
    say(f"{len(failures)} failures in {values['seconds']} s ({values['cpu_seconds']} s of processor time).")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(run())
