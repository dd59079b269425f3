"""The cost of a training step, and whether it computes the same: this checkout against another one, in turns.

    git worktree add --detach ../before v0.1.0
    python -m benchmarks step --against ../before --out docs/results

Each side runs in a separate process. The second side loads the first side's weights; before anything is measured, loss,
estimates and gradients of one step on the same data must agree.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from refined_bsrnn.console import say
from refined_bsrnn.errors import RecipeError, UserError

from .measure import Kind, machine

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("step_worker.py")
TARGETS = ("vocals", "drums", "bass", "other")
# What a step is of: `micro` as recipes/micro.yaml has it, the others on stereo excerpts of 3 s.
BATCHES: dict[str, dict[str, Any]] = {
    "micro": {"recipe": "micro", "batch": 6, "seconds": 2.0, "channels": 1},
    "tiny": {"recipe": "mtl_generic", "batch": 1, "seconds": 3.0, "channels": 2},
    "small": {"recipe": "mtl_generic", "batch": 1, "seconds": 3.0, "channels": 2},
}
NETWORKS = ("micro:4", "micro:1", "tiny:4", "tiny:1")
OTHERS = "the rest"
KINDS = {  # of operators → what their names have in them
    "recurrent layers": r"rnn|lstm",
    "matrix products": r"aten::(mm|bmm|baddbmm|addmm|addbmm|matmul|linear)$|convolution",
    "FFT": r"fft",
    "products by elements": r"aten::(mul|mul_|addcmul|addcmul_|div|div_)$",
    "copies": r"aten::(copy_|cat|stack|clone|contiguous|_to_copy)$",
    OTHERS: "",
}
PROFILED_STEPS = 3


class Side:
    """The steps of one checkout, in a separate process."""

    def __init__(self, checkout: Path, threads: int, settings: Mapping[str, Any]):
        self.checkout = checkout
        command = [sys.executable, "-c", WORKER.read_text(encoding="utf-8"), str(threads), json.dumps(settings)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=checkout, stdin=pipe, stdout=pipe, text=True)
        self.questions, self.answers = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)

    def ask(self, *words: str | int) -> dict[str, float]:
        """The result of the method of that name; `UserError` if the process ended."""
        try:
            self.questions.write(json.dumps(words) + "\n")
            self.questions.flush()
            answer = self.answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UserError(f"the steps of {self.checkout} ended; what they said stands above.")
        return json.loads(answer)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.questions.close()
        self.answers.close()
        self.process.wait()


def step_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_step`."""
    p.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project (default: none)")
    p.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="SIZE:TARGETS",
        help=f"{', '.join(BATCHES)} with 1 to 4 targets (default: {' '.join(NETWORKS)})",
    )
    p.add_argument("--rounds", type=int, default=5, help="pairs of steps (default: 5)")
    p.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    p.add_argument("--profile", action="store_true", help="also where the time goes, by kind of operator")
    p.add_argument("--tolerance", type=float, default=1e-5, help="of the check (default: 1e-5)")


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    """Processor and wall seconds of a step per second of audio, and the peak memory, by network and checkout."""
    checkouts = {"here": ROOT}
    if args.against:
        if not (args.against / "refined_bsrnn" / "recipe.py").exists():
            raise RecipeError(f"{args.against} is no checkout of this project; expected refined_bsrnn/recipe.py in it.")
        checkouts = {"there": args.against.resolve(), **checkouts}
    commits = {name: _commit(path) for name, path in checkouts.items()}
    rows = [_network(text, checkouts, args) for text in args.network or NETWORKS]
    facts = {**machine(torch.device("cpu")), "threads": args.threads}
    return {"kind": "step", **facts, "rounds": args.rounds, "commits": commits, "networks": rows}


def _commit(checkout: Path) -> str:
    """As git describes it: a commit, and whether files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def settings_of(network: str) -> dict[str, Any]:
    """What the worker builds for ``SIZE:TARGETS``."""
    size, _, count = network.partition(":")
    if size not in BATCHES or count not in ("1", "2", "3", "4"):
        raise RecipeError(f"{network!r} cannot be measured; expected one of {', '.join(BATCHES)}, then :1 to :4.")
    words = [f"size={size}", f"targets=[{','.join(TARGETS[: int(count)])}]"]
    return {**BATCHES[size], "words": words, "weights": None}


def _network(network: str, checkouts: Mapping[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    settings = settings_of(network)
    audio = settings["batch"] * settings["seconds"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, checkout in checkouts.items():
            sides[name] = stack.enter_context(Side(checkout, args.threads, settings))
            facts = sides[name].ask("results", f"{folder}/{name}")
            settings["weights"] = settings["weights"] or f"{folder}/{name}.weights"
        found = {name: torch.load(f"{folder}/{name}.results", weights_only=True) for name in sides}
        same = difference(*found.values()) if len(found) == 2 else {}
        _check(network, same, args.tolerance)
        seconds = in_turns(sides, args.rounds)
        peaks = {name: round(side.ask("peak")["mib"]) for name, side in sides.items()}
        profiles = {name: by_kind(side.ask("profile", PROFILED_STEPS)) for name, side in sides.items() if args.profile}
    say(f"{network}: measured")
    row = {"network": network, **facts, "audio_seconds": audio, "difference": same, "peak_mib": peaks}
    return {**row, **summary(seconds, audio), **({"profile_ms": profiles} if profiles else {})}


def by_kind(milliseconds: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds per step by kind of operator, all others together; and their sum."""
    kinds = dict.fromkeys(KINDS, 0.0)
    for operator, value in milliseconds.items():
        kinds[next((kind for kind, names in KINDS.items() if re.search(names, operator)), OTHERS)] += value
    return {**{kind: round(value, 1) for kind, value in kinds.items()}, "all": round(sum(kinds.values()), 1)}


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[dict[str, float]]]:
    """{side: processor and wall seconds of a step in every round}; one step of each before, to warm up."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, side in sides.items():
            seconds = side.ask("step")
            if i:
                taken[name].append(seconds)
    return taken


def summary(taken: Mapping[str, Sequence[Mapping[str, float]]], audio: float) -> dict[str, Any]:
    """Median and range of seconds per second of audio by side, and how many times as fast ``here`` is, by pairs."""
    values: dict[str, Any] = {"sides": {}}
    for name, steps in taken.items():
        values["sides"][name] = {
            clock: _spread([step[clock] / audio for step in steps]) for clock in ("processor", "wall")
        }
    if "there" in taken:
        pairs = zip(taken["there"], taken["here"], strict=True)
        values["times_as_fast"] = _spread([base["processor"] / here["processor"] for base, here in pairs])
    return values


def _spread(numbers: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(numbers), 4),
        "low": round(min(numbers), 4),
        "high": round(max(numbers), 4),
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How far two sides' results differ: largest difference over largest value, of gradients that of the worst tensor.

    Gradients are compared by the parameter's name; ``unmatched`` are names that only one side has.
    """

    def relative(a: Tensor, b: Tensor) -> float:
        if a.shape != b.shape:
            return float("inf")
        largest = max(a.abs().max().item(), b.abs().max().item())
        return (a - b).abs().max().item() / largest if largest else 0.0

    estimates, gradients = one["estimates"], one["gradients"]
    common = gradients.keys() & other["gradients"].keys()
    return {
        "loss": relative(one["loss"], other["loss"]),
        "estimates": max(relative(estimates[target], other["estimates"][target]) for target in estimates),
        "gradients": max(relative(gradients[name], other["gradients"][name]) for name in sorted(common)),
        "gradients_compared": len(common),
        "unmatched": sorted(gradients.keys() ^ other["gradients"].keys()),
    }


def _check(network: str, same: Mapping[str, Any], tolerance: float) -> None:
    """`UserError` if the sides differ; ``same`` is empty if there is one side only."""
    if not same:
        return
    wrong = [f"{key} by {same[key]:.1e}" for key in ("loss", "estimates", "gradients") if same[key] > tolerance]
    if wrong:
        raise UserError(f"{network}: the two checkouts differ in {', '.join(wrong)}; expected at most {tolerance:g}.")
    if same["unmatched"]:
        raise UserError(f"{network}: only one checkout has a gradient of {', '.join(same['unmatched'][:3])}.")


def step_markdown(values: Mapping[str, Any]) -> str:
    """One line per network."""
    names = list(values["networks"][0]["sides"]) if values["networks"] else []
    head = ["step of"]
    for name in names:
        head += [f"{name}: processor s per s", "wall s per s", "peak, MiB"]
    head += ["times as fast", "loss, estimates, gradients differ by"] if len(names) == 2 else []
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for row in values["networks"]:
        cells = [f"`{row['network']}`"]
        for name in names:
            side = row["sides"][name]
            cells += [_cell(side["processor"], 3), _cell(side["wall"], 3), str(row["peak_mib"][name])]
        if len(names) == 2:
            same = row["difference"]
            cells += [_cell(row["times_as_fast"], 2)]
            cells += [", ".join(f"{same[key]:.0e}" for key in ("loss", "estimates", "gradients"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def profile_markdown(values: Mapping[str, Any]) -> str:
    """Milliseconds of the processor per step by kind of operator, for the networks that were profiled."""
    rows = [row for row in values["networks"] if "profile_ms" in row]
    heads = [f"`{row['network']}`, {name}" for row in rows for name in row["profile_ms"]]
    lines = [f"| ms of a step | {' | '.join(heads)} |", f"|---{'|---:' * len(heads)}|"]
    for kind in (*KINDS, "all"):
        cells = [_share(profile, kind) for row in rows for profile in row["profile_ms"].values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(profile: Mapping[str, float], kind: str) -> str:
    return f"{profile[kind]:.0f} ({100 * profile[kind] / profile['all']:.0f} %)"


def _cell(spread: Mapping[str, float], digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}–{spread['high']:.{digits}f})"


STEP = Kind(
    "processor seconds of a training step per second of audio, this checkout against another",
    step_arguments,
    measure_step,
    step_markdown,
)
