"""The cost of separation: memory of the whole command by network and length, and time of live blocks.

python -m benchmarks separation --memory small:1:120 --memory 4x1:1:10800 --live tiny:1
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile
import torch

from refined_bsrnn.console import say
from refined_bsrnn.errors import RecipeError, UserError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import SIZES, Recipe, dump_recipe, load_recipe
from refined_bsrnn.report.table import Column, Table
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.separation.live import Live
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.system import write_text

from .measure import Kind, machine, run_measured

TARGETS = ("vocals", "drums", "bass", "other")
MEMORY = ("small:1:20", "small:1:60", "micro:4:20", "micro:4:180", "4x1:1:10800")
LIVE = ("tiny:1", "tiny:4", "micro:1", "micro:4")
BLOCKS = (2048, 4410)  # samples: 46 ms, as the window is long, and 100 ms, as the command takes them
RATE_HZ = 44100


def separation_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_separation`."""
    network = "NETWORK: a size or N×R as 4x1"
    p.add_argument(
        "--memory", action="append", metavar="NETWORK:HEADS:SECONDS", help=f"{network} (default, unless --live: five)"
    )
    p.add_argument(
        "--live", action="append", metavar="NETWORK:HEADS", help=f"{network} (default, unless --memory: four)"
    )
    p.add_argument("--overlap", type=float, default=0.25, help="of the chunks (default: 0.25)")
    p.add_argument("--live-seconds", type=float, default=6.0, help="of audio, after one to warm up (default: 6)")


def measure_separation(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and processor time of ``refined-bsrnn separate``; processor time of live blocks. Random weights."""
    torch.set_num_threads(1)
    asked = bool(args.memory or args.live)  # then for nothing else
    memory = [_peak(args.overlap, *_parts(text, 3)) for text in args.memory or (() if asked else MEMORY)]
    live = [_live(args.live_seconds, *_parts(text, 2)) for text in args.live or (() if asked else LIVE)]
    facts = {"seed": 0, "sample_rate_hz": RATE_HZ, "channels": 2}
    settings = {"overlap": args.overlap, "live_seconds": args.live_seconds}
    return {"kind": "separation", **machine(torch.device("cpu")), **facts, **settings, "memory": memory, "live": live}


def _parts(text: str, n: int) -> list[str]:
    parts = text.split(":")
    if len(parts) != n or not all(part.isdecimal() for part in parts[1:]):
        raise RecipeError(f"{text!r} cannot be measured; expected {n} parts as in {(MEMORY if n == 3 else LIVE)[0]}.")
    return parts


def _recipe(name: str, network: str, n_heads: int) -> Recipe:
    n, r = SIZES[network] if network in SIZES else network.split("x")
    targets = ",".join(TARGETS[:n_heads])
    return load_recipe(name, [f"targets=[{targets}]", f"backbone.features={n}", f"backbone.repeats={r}"])


def _peak(overlap: float, network: str, heads: str, seconds: str) -> dict[str, Any]:
    """One song through the command in a separate process."""
    say(f"memory: {network}, {heads} heads, {seconds} s")
    torch.manual_seed(0)
    recipe = _recipe("mtl_generic", network, int(heads))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        write_text(run.recipe, dump_recipe(recipe))
        save_weights(run, BSRNN.from_recipe(recipe))
        song = Path(folder) / "song.wav"
        with soundfile.SoundFile(song, "w", RATE_HZ, 2, "PCM_16") as file:
            block = 0.1 * torch.randn(RATE_HZ, 2)
            for _ in range(int(seconds)):
                file.write(block.numpy())
        words = [str(song), "--model", str(run.path), "--device", "cpu", "--out", str(Path(folder) / "out")]
        words += ["--overlap", str(overlap)]
        command = [sys.executable, "-m", "refined_bsrnn.apps.cli.main", "separate", *words]
        status, _, used = run_measured(command, {"OMP_NUM_THREADS": "1"})
        frames = [soundfile.info(path).frames for path in (Path(folder) / "out").rglob("*.wav")]
    if status or frames != [int(seconds) * RATE_HZ] * int(heads):
        raise UserError(f"separating {seconds} s with {network} failed; what it said stands above.")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return {
        "network": network,
        "heads": int(heads),
        "seconds": int(seconds),
        "peak_mib": round(used.ru_maxrss / unit),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


def _live(seconds: float, network: str, heads: str) -> dict[str, Any]:
    """Processor time per block of stereo noise, by the block's length."""
    torch.manual_seed(0)
    separator = Separator(BSRNN.from_recipe(_recipe("causal", network, int(heads))))
    row: dict[str, Any] = {"network": network, "heads": int(heads), "ms": {}}
    for size in BLOCKS:
        live = Live(separator)
        for _ in range(RATE_HZ // size):
            live.push(0.1 * torch.randn(2, size))
        count = max(1, round(seconds * RATE_HZ / size))
        started = time.process_time()
        for _ in range(count):
            live.push(0.1 * torch.randn(2, size))
        row["ms"][str(size)] = round(1000 * (time.process_time() - started) / count, 1)
    say(f"live: {row}")
    return row


def separation_markdown(values: Mapping[str, Any]) -> str:
    """The tables of `docs/separation.md`: memory, then live; only what was measured."""
    first = (Column("network", _network), Column("heads", "heads", ".0f"))
    memory = (
        Column("length", lambda row: _clock(row["seconds"]), ">"),
        Column("peak, MiB", "peak_mib", ".0f"),
        Column("CPU time", lambda row: _clock(row["cpu_seconds"]), ">"),
    )
    live = tuple(Column(f"blocks of {1000 * size / RATE_HZ:.0f} ms", _block(size), ">") for size in BLOCKS)
    measured = [(values[kind], columns) for kind, columns in (("memory", memory), ("live", live)) if values[kind]]
    tables = [Table(pd.DataFrame(rows), (*first, *columns), literal=True) for rows, columns in measured]
    return "\n".join(f"{table.markdown}\n" for table in tables)


def _block(size: int) -> Callable[[Mapping[str, Any]], str]:
    def text(row: Mapping[str, Any]) -> str:
        ms = row["ms"][str(size)]
        return f"{ms:.0f} ms ({1000 * size / RATE_HZ / ms:.1f} × real time)"

    return text


def _network(row: Mapping[str, Any]) -> str:
    sizes = SIZES.get(row["network"])
    return f"`{row['network']}` ({sizes[0]} × {sizes[1]})" if sizes else str(row["network"]).replace("x", " × ")


def _clock(seconds: float) -> str:
    return (
        f"{round(seconds / 3600, 1):g} h"
        if seconds >= 7200
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )


SEPARATION = Kind(
    "peak memory of separation by network and length, and processor time of live blocks",
    separation_arguments,
    measure_separation,
    separation_markdown,
)
