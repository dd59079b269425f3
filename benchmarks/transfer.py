"""The cost of a transfer step, with a frozen backbone and with cached features, compared with steps of the base.

python -m benchmarks transfer --size tiny --size small
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from refined_bsrnn.console import say
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import Recipe, load_recipe
from refined_bsrnn.report.table import Column, Table
from refined_bsrnn.separation.device import check_device
from refined_bsrnn.training.feature_cache import BLOCK, CachedMixes, FeatureCache, example_arrays
from refined_bsrnn.training.objective import Objective

from .measure import Job, Kind, Speed, machine, seconds_of

TARGETS = ("vocals", "drums", "bass", "other")
BASE = "base, 4 targets"
JOBS = {
    BASE: "a full training step of the multi-target base",
    "base, 1 target": "a full training step of a single-target base",
    "frozen, 1 head": "a step of one new head, the backbone run without a graph",
    "frozen, 4 heads": "a step of four new heads on one pass of the backbone",
    "frozen, 4 x 1 head": "steps of four transfers of one head each",
    "cached, 1 head": "a step of one new head from features read from the disk",
    "cached, 4 heads": "a step of four new heads from features read from the disk",
}


def transfer_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_transfer`."""
    p.add_argument("--size", action="append", default=[], help="micro, tiny, small or large (default: tiny and small)")
    p.add_argument("--seconds", type=float, default=3.0, help="length of the excerpts (default: 3)")
    p.add_argument("--batch", type=int, default=1, help="excerpts per step (default: 1)")
    p.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    p.add_argument("--threads", type=int, default=1, help="on a CPU (default: 1)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def measure_transfer(args: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of every kind in `JOBS`, and how many times as many as of the base in the same round."""
    device = check_device(args.device)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            size: _jobs(size, args.seconds, args.batch, device, Path(folder) / size)
            for size in args.size or ["tiny", "small"]
        }
        rounds = _rounds(jobs, args.rounds, device)
    sizes = {size: {name: _speed(taken, rounds[size][BASE]) for name, taken in rounds[size].items()} for size in jobs}
    settings = {key: vars(args)[key] for key in ("seconds", "batch", "rounds")}
    return {"kind": "transfer", **machine(device), **settings, "sizes": sizes}


def _rounds(
    jobs: Mapping[str, Mapping[str, Job]], rounds: int, device: torch.device
) -> dict[str, dict[str, list[float]]]:
    """{size: {job: its seconds in every round}}; in each, all of all sizes take turns. Each is called once before."""
    seconds: dict[str, dict[str, list[float]]] = {size: {name: [] for name in named} for size, named in jobs.items()}
    for i in range(rounds + 1):  # the first is to warm up
        for size, named in jobs.items():
            for name, job in named.items():
                taken = seconds_of(job, device)
                if i:
                    seconds[size][name].append(taken)
        say(f"round {i} of {rounds}" if i else "warmed up")
    return seconds


def _speed(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Against the base's seconds in the same rounds; ``steps_per_second`` from the median of the seconds."""
    speed = Speed.of(list(zip(ours, theirs, strict=True)))
    return {**asdict(speed), "steps_per_second": round(1 / statistics.median(ours), 3)}


def _jobs(size: str, seconds: float, batch: int, device: torch.device, folder: Path) -> dict[str, Job]:
    def recipe(targets: tuple[str, ...]) -> Recipe:
        return load_recipe("mtl_generic", [f"size={size}", f"targets=[{','.join(targets)}]"])

    one, four = recipe(TARGETS[:1]), recipe(TARGETS)
    frozen_one, frozen_four = _step(one, seconds, batch, device, True), _step(four, seconds, batch, device, True)

    def four_times() -> None:
        for _ in TARGETS:
            frozen_one()

    return {
        BASE: _step(four, seconds, batch, device),
        "base, 1 target": _step(one, seconds, batch, device),
        "frozen, 1 head": frozen_one,
        "frozen, 4 heads": frozen_four,
        "frozen, 4 x 1 head": four_times,
        "cached, 1 head": _step(one, seconds, batch, device, True, folder / "1"),
        "cached, 4 heads": _step(four, seconds, batch, device, True, folder / "4"),
    }


def _step(
    recipe: Recipe, seconds: float, batch: int, device: torch.device, frozen: bool = False, cache: Path | None = None
) -> Job:
    """An optimiser step on noise; with ``cache``, on examples read from one made there."""
    torch.manual_seed(0)
    model = BSRNN.from_recipe(recipe)
    if frozen:
        model.backbone.freeze()
    objective = Objective(model, recipe).to(device).train()
    optimizer = torch.optim.Adam(objective.trained().values(), lr=1e-6)
    length = round(seconds * recipe.stft.sample_rate_hz)
    shape = (batch, len(recipe.targets), recipe.data.channels, length)
    stems = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    examples = None if cache is None else _cached(objective, recipe, stems, cache, device)
    turn = iter(range(10**9))

    def step() -> None:
        if examples is None:
            mixture, references, known = stems.sum(1), stems, None
        else:
            drawn = [examples[next(turn) % BLOCK] for _ in range(batch)]
            mixture, references, known = (
                torch.stack([x[key] for x in drawn]) for key in ("mixture", "stems", "features")
            )
        features = None if known is None else known.to(device)
        loss, _ = objective(mixture.to(device), references.to(device), features=features)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _cached(objective: Objective, recipe: Recipe, stems: Tensor, folder: Path, device: torch.device) -> CachedMixes:
    """A block of equal examples on the disk."""
    with torch.no_grad():
        features = objective.features(stems[:1].sum(1).to(device))
    seconds = stems.shape[-1] / recipe.stft.sample_rate_hz
    sized = load_recipe("mtl_generic", [f"targets=[{','.join(recipe.targets)}]", f"train.chunk_seconds={seconds}"])
    cache = FeatureCache({}, example_arrays(sized, tuple(features.shape[1:])), BLOCK, folder)
    cache.prepare()
    present = torch.ones(1, len(recipe.targets))
    block = {"features": features, "mixture": stems[:1].sum(1), "stems": stems[:1], "present": present}
    cache.write_block(0, {name: value.cpu().expand(BLOCK, *value.shape[1:]) for name, value in block.items()})
    return CachedMixes(cache, 0, 10**9)


def transfer_markdown(values: Mapping[str, Any]) -> str:
    """One table for all sizes."""
    records = [
        {"step": f"{name}: {what}", **{size: speeds[name] for size, speeds in values["sizes"].items()}}
        for name, what in JOBS.items()
    ]
    columns = [Column("step", "step")]
    for size in values["sizes"]:
        for title, text in (("s per step", _seconds), ("steps per s", _steps), ("× base (lowest–highest)", _times)):
            columns.append(Column(f"{size}: {title}", _of(size, text), ">"))
    return Table(pd.DataFrame(records), columns, literal=True).markdown


def _of(size: str, text: Callable[[Mapping[str, float]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: text(row[size])


def _seconds(speed: Mapping[str, float]) -> str:
    return f"{speed['seconds']:.3f}"


def _steps(speed: Mapping[str, float]) -> str:
    return f"{speed['steps_per_second']:.{2 if speed['steps_per_second'] < 10 else 1}f}"


def _times(speed: Mapping[str, float]) -> str:
    return f"{speed['median']:.1f} ({speed['low']:.1f}–{speed['high']:.1f})"


TRANSFER = Kind(
    "a step of a new head, frozen and cached, against a step of the base",
    transfer_arguments,
    measure_transfer,
    transfer_markdown,
)
