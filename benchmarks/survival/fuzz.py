"""Ten thousand hostile inputs of each kind: a result or one sentence; never a traceback, a hang, a write elsewhere.

Inputs are a function of the seed, the kind and their number, so that one that failed can be made again (``--number``).
They are read in forked processes, some hundreds in each: one that hangs is interrupted, one that dies takes only itself
along, memory is bounded, and an audit hook notes what is executed and written.
"""

import argparse
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say
from refined_bsrnn.errors import UserError

from . import formats
from .formats import FORMATS, Format
from .world import Child, place

HANG_SECONDS = 10  # of processor time: other programs may use the processors too
SILENT_SECONDS = 60  # in all, for an input that waits
MEMORY_MB = 1500  # that a process may take beyond what it has when it starts
GROWTH_MB = 700  # that it may have taken at its end
BATCH = 250
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "ctypes.dlopen")


class Hang(BaseException):
    """An input took too long."""


@dataclass
class Noted:
    """What the audit hook saw of an input."""

    folder: str
    is_on: bool = False
    events: list[str] | None = None


NOTED = Noted("")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not NOTED.is_on or NOTED.events is None:
        return
    if event in FORBIDDEN:
        NOTED.events.append(f"{event} {str(arguments)[:100]}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not path.startswith((NOTED.folder, "/dev/")):
            NOTED.events.append(f"writes {path}")
    elif event in ("os.remove", "os.rename", "shutil.rmtree", "os.mkdir"):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith(NOTED.folder):
            NOTED.events.append(f"{event} {path}")


def make_input(kind: str, number: int, seed: int, seeds: list[Any]) -> bytes:
    """Input ``number`` of a kind."""
    chance = random.Random(f"{seed} {kind} {number}")
    return FORMATS[kind].make(chance.choice(seeds), chance)


def read_one(form: Format, data: bytes, folder: Path) -> str | None:
    """None where an input is read or refused with a sentence; else what went wrong."""
    NOTED.events, NOTED.is_on = [], True
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SILENT_SECONDS)
    wrong = None
    try:
        form.read(data, folder)
    except UserError as error:
        text = str(error)
        wrong = "an empty sentence" if not text.strip() else None
        wrong = f"a sentence of {len(text)} letters" if len(text) > 3000 else wrong
    except Hang:
        wrong = f"more than {HANG_SECONDS} s of work or {SILENT_SECONDS} s in all"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f for f in place if "/refined_bsrnn/" in f.filename] or place
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        wrong = f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        NOTED.is_on = False
    return "; ".join(filter(None, [wrong, *NOTED.events[:3]])) or None


def _batch(kind: str, numbers: range, seed: int, seeds: list[Any], folder: Path, shared: mmap.mmap) -> int:
    """In a child: read the inputs; failures are printed as lines, the number at work stands in ``shared``."""

    def hang(number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGPROF, hang)
    form = FORMATS[kind]
    NOTED.folder = str(folder)
    sys.addaudithook(_audit)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    form.begin(folder)
    slowest = (0.0, numbers.start)
    for number in numbers:
        shared[:8] = struct.pack("<q", number)
        data, began = make_input(kind, number, seed, seeds), time.process_time()
        if wrong := read_one(form, data, folder):
            print(f"FAILED {number} {wrong}", flush=True)
        slowest = max(slowest, (time.process_time() - began, number))
    print(f"SLOWEST {slowest[0]:.3f} {slowest[1]}", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"GREW {grown:.0f}", flush=True)
    return 0


def carry_out(kind: str, count: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Read ``count`` inputs of a kind; values for JSON. Failures are grouped by what went wrong."""
    began, failures = time.monotonic(), dict[str, list[int]]()
    most_mb, slowest, shared = 0.0, (0.0, first), mmap.mmap(-1, 8)

    def note(number: int, wrong: str) -> None:
        failures.setdefault(wrong, []).append(number)

    with place() as folder:
        seeds = formats.seeds_of(kind, folder)
        at, stop = first, first + count
        while at < stop:
            numbers = range(at, min(stop, at + BATCH))
            inside = folder / "inside"
            inside.mkdir(exist_ok=True)
            child = Child(lambda n=numbers, i=inside: _batch(kind, n, seed, seeds, i, shared), inside)  # type: ignore[misc]
            ended = child.wait(BATCH * 8.0 + 60)
            at = numbers.stop
            for line in ended.said.splitlines():
                word, _, rest = line.partition(" ")
                if word == "FAILED":
                    number, _, wrong = rest.partition(" ")
                    note(int(number), wrong)
                elif word == "SLOWEST":
                    seconds, _, number = rest.partition(" ")
                    slowest = max(slowest, (float(seconds), int(number)))
                elif word == "GREW":
                    most_mb = max(most_mb, float(rest))
            if ended.code:  # the input it died of; the rest of the batch is done by the next child
                [died] = struct.unpack("<q", shared[:8])
                note(died, f"the process ended with {ended.code} ({ended.said[-200:]!r})")
                at = died + 1
            for stray in (folder / "escaped", inside / "escaped", Path("/tmp/escaped")):
                if stray.exists():
                    note(numbers.start, f"{stray} was made")
                    with suppress(OSError):
                        stray.unlink()
    if most_mb > GROWTH_MB:
        note(-1, f"a process grew by {most_mb:.0f} MB")
    told = [f"{kind} {numbers[0]} ({len(numbers)} ×): {wrong}" for wrong, numbers in failures.items()]
    values = {"inputs": count, "first": first, "most_grown_mb": round(most_mb), "failures": told}
    values |= {"slowest_cpu_seconds": slowest[0], "slowest": slowest[1]}
    return {**values, "seconds": round(time.monotonic() - began, 1)}


def fuzz_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `fuzz`."""
    p.add_argument("--count", type=int, default=10_000, help="inputs of each kind (default: 10000)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", action="append", default=[], choices=list(FORMATS), help="these kinds only")
    p.add_argument("--number", type=int, default=0, metavar="N", help="the first input")


def fuzz(args: argparse.Namespace) -> dict[str, Any]:
    """Every kind of file."""
    kinds = {}
    for name in args.only or FORMATS:
        kinds[name] = carry_out(name, args.count, args.seed, args.number)
        seconds, n_wrong = kinds[name]["seconds"], len(kinds[name]["failures"])
        say(
            f"{name}: {args.count} inputs in {seconds} s, {n_wrong} kinds of failure, {kinds[name]['most_grown_mb']} MB"
        )
        for text in kinds[name]["failures"][:25]:
            say(f"  {text}")
    bounds = {"hang_seconds": HANG_SECONDS, "memory_mb": MEMORY_MB, "growth_mb": GROWTH_MB}
    return {"seed": args.seed, **bounds, "kinds": kinds}


Make = Callable[[Any, random.Random], bytes]
