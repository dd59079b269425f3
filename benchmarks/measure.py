"""Speeds measured side by side, in rounds with turns: on a shared machine only ratios of one run are meaningful.

`interleaved` measures; a kind of benchmark is one `Kind` in the dict of `benchmarks/__main__.py`.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refined_bsrnn.console import say
from refined_bsrnn.runs.tracking import device_name
from refined_bsrnn.system import write_json

Job = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """One benchmark: its arguments, its measurement (values for JSON), and those values as Markdown."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    markdown: Callable[[Mapping[str, Any]], str]


def seconds_of(job: Job, device: torch.device) -> float:
    """Seconds of one call: of processor time on a CPU, which other programs disturb least, else of the clock."""
    if device.type == "cpu":
        started = time.process_time()
        job()
        return time.process_time() - started
    torch.accelerator.synchronize()
    started = time.perf_counter()
    job()
    torch.accelerator.synchronize()
    return time.perf_counter() - started


def interleaved(
    jobs: Mapping[str, Job], reference: str, rounds: int, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """{job: (its seconds, the reference's just before it) in every round}; each job is called once to warm up."""
    for job in jobs.values():
        job()
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for i in range(rounds):
        for name, job in jobs.items():
            theirs = seconds_of(jobs[reference], device)
            pairs[name].append((seconds_of(job, device), theirs))
        say(f"round {i + 1} of {rounds}")
    return pairs


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference: median and range over the rounds; and the seconds themselves."""

    median: float
    low: float
    high: float
    seconds: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Speed":
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        median, seconds = statistics.median(ratios), statistics.median(ours for ours, _ in pairs)
        return cls(round(median, 3), round(ratios[0], 3), round(ratios[-1], 3), round(seconds, 4))


def run_measured(
    words: Sequence[str], environment: Mapping[str, str], cwd: str | None = None, output: Any = None
) -> tuple[int, float, Any]:
    """A command in a separate process: its exit status, seconds from start to end, and `resource.struct_rusage`.

    Its output goes to the file ``output`` (default: to this process's own).
    """
    started = time.perf_counter()
    errors = None if output is None else subprocess.STDOUT
    process = subprocess.Popen(words, env={**os.environ, **environment}, cwd=cwd, stdout=output, stderr=errors)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.perf_counter() - started, used


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": device_name(device), "threads": torch.get_num_threads(), **versions}


def run(kinds: Mapping[str, Kind], arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, write ``<kind>.json`` and print the table."""
    top = argparse.ArgumentParser("python -m benchmarks", description="Measure speeds, interleaved.")
    commands = top.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in kinds.items():
        p = commands.add_parser(name, help=kind.help, description=kind.help)
        kind.arguments(p)
        p.add_argument("--out", type=Path, metavar="DIR", help="write KIND.json there")
    args = top.parse_args(arguments)
    command = " ".join(["python -m benchmarks", *(arguments or sys.argv[1:])])
    values = {"command": command, **kinds[args.kind].measure(args)}
    markdown = kinds[args.kind].markdown(values)
    print(markdown)
    if args.out:
        write_json(args.out / f"{args.kind}.json", values)
        say(f"Written: {args.out / args.kind}.json")
    return 0
