"""The cost of other programs: the same commands on a quiet and on a busy machine, in turns.

    python -m benchmarks busy --out docs/results
    python -m benchmarks busy --job train --setting GOMP_SPINCOUNT=300000 --setting OMP_NUM_THREADS=1

On the busy machine one endless loop per processor runs at the same time. A command does the same work both times: quiet
processor seconds over busy ones give the remaining share of the audio per processor second. The commands are those that
a user types, including their start; ``--setting`` also runs them with environment variables.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
import torch

from refined_bsrnn.console import say
from refined_bsrnn.data.synth import builtin_root
from refined_bsrnn.errors import RecipeError, UserError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe, load_recipe
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.system import processors, write_json, write_text

from .measure import Kind, machine, run_measured

ROOT = Path(__file__).parent.parent
LOOP = "while True: pass"
RATE_HZ = 44100


def _train(folder: Path, steps: int) -> list[str]:
    length = [f"train.steps={steps}", f"train.validate_every={steps}", f"train.checkpoint_every={steps}"]
    length += ["train.warmup_steps=0", "log.wandb=off"]
    return ["-m", "refined_bsrnn", "train", "micro", "data.root=builtin", f"run.root={folder}", "run.name=run", *length]


def _run(folder: Path) -> str:
    """A `micro` run with random weights."""
    torch.manual_seed(0)
    recipe, run = load_recipe("micro", ["data.root=builtin"]), RunFolder(folder / "random")
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, BSRNN.from_recipe(recipe))
    facts = {"steps_done": 0, "seconds": 0.0, "device": "cpu", "seed": 0, "data": {"fingerprint": ""}}
    write_json(run.provenance, {**facts, "parameters": {"trained": 0, "frozen": 0}})
    return str(run.path)


def _evaluate(folder: Path, steps: int) -> list[str]:
    return ["-m", "refined_bsrnn", "evaluate", _run(folder), "--device", "cpu"]


def _separate(folder: Path, steps: int) -> list[str]:
    song = folder / "song.wav"
    soundfile.write(song, 0.1 * torch.randn(2 * steps * RATE_HZ, 2).numpy(), RATE_HZ)
    where = ["--model", _run(folder), "--device", "cpu", "--out", str(folder / "out")]
    return ["-m", "refined_bsrnn", "separate", str(song), *where]


def _demo(folder: Path, steps: int) -> list[str]:
    return [str(ROOT / "scripts" / "demo.py")]


# name → (a new folder, --steps) → the words behind ``python``
JOBS: dict[str, Callable[[Path, int], list[str]]] = {
    "train": _train,
    "evaluate": _evaluate,
    "separate": _separate,
    "demo": _demo,
}


def busy_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_busy`."""
    names = ", ".join(JOBS)
    p.add_argument("--job", action="append", default=[], choices=list(JOBS), help=f"{names} (default: all but demo)")
    p.add_argument("--steps", type=int, default=60, help="training steps; seconds of a song over 2 (default: 60)")
    p.add_argument("--rounds", type=int, default=3, help="pairs of each (default: 3)")
    p.add_argument("--loops", type=int, default=processors(), help="that keep busy (default: one per processor)")
    p.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE[,NAME=VALUE]", help="measured beside the default"
    )


def measure_busy(args: argparse.Namespace) -> dict[str, Any]:
    """Processor and wall seconds of each job, quiet and busy, by setting."""
    settings = {"as it is": {}, **{text: setting_of(text) for text in args.setting}}
    builtin_root()  # made once, not as a part of what is measured
    names = args.job or [name for name in JOBS if name != "demo"]
    taken: dict[tuple[str, str], list[dict[str, float]]] = {(job, how): [] for job in names for how in settings}
    for i in range(args.rounds):
        for job, how in taken:
            pair: dict[str, float] = {}
            for state, n_loops in (("quiet", 0), ("busy", args.loops)):
                with loops(n_loops):
                    pair |= {f"{state} {k}": v for k, v in _once(JOBS[job], args.steps, settings[how]).items()}
            taken[job, how].append(pair)
            say(f"round {i + 1} of {args.rounds}: {job}, {how}: {pair}")
    rows = [{"job": job, "setting": how, **summary(pairs)} for (job, how), pairs in taken.items()]
    facts = {**machine(torch.device("cpu")), "processors": processors(), "load_before": os.getloadavg()[1]}
    return {"kind": "busy", **facts, "steps": args.steps, "rounds": args.rounds, "loops": args.loops, "rows": rows}


def setting_of(text: str) -> dict[str, str]:
    """``A=1,B=2`` as environment variables."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        raise RecipeError(f"--setting {text!r} sets nothing; expected NAME=VALUE, e.g. OMP_NUM_THREADS=1.")
    return {name: value for name, _, value in pairs}


@contextmanager
def loops(count: int) -> Iterator[None]:
    """That many endless loops, each in a separate process, until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _once(job: Callable[[Path, int], list[str]], steps: int, setting: Mapping[str, str]) -> dict[str, float]:
    """Processor and wall seconds of a job in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        words = job(Path(folder), steps)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        log = Path(folder) / "log.txt"
        with log.open("wb") as file:
            status, wall, used = run_measured(
                [sys.executable, *words], {"PYTHONPATH": path, **setting}, cwd=folder, output=file
            )
        if status:
            output = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"python {' '.join(words)} ended with {status}: {output[-1] if output else 'no word'}")
    return {"processor": round(used.ru_utime + used.ru_stime, 2), "wall": round(wall, 2)}


def summary(pairs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians of the seconds, and median and range, over the pairs, of the remaining share on the busy machine."""
    shares = [pair["quiet processor"] / pair["busy processor"] for pair in pairs]
    medians = {name: round(statistics.median(pair[name] for pair in pairs), 2) for name in pairs[0]}
    share = {"median": statistics.median(shares), "low": min(shares), "high": max(shares)}
    return {**medians, "share_left": {name: round(value, 3) for name, value in share.items()}}


def busy_markdown(values: Mapping[str, Any]) -> str:
    """One line per job and setting."""
    clocks = ("quiet processor", "quiet wall", "busy processor", "busy wall")
    lines = [
        f"| job | setting | {' | '.join(f'{clock}, s' for clock in clocks)} | audio per processor s left |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in values["rows"]:
        left = row["share_left"]
        cells = [row["job"], row["setting"], *(f"{row[clock]:.1f}" for clock in clocks)]
        cells.append(f"{left['median']:.2f} ({left['low']:.2f}–{left['high']:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


BUSY = Kind("what other programs on the processors cost, by command", busy_arguments, measure_busy, busy_markdown)
