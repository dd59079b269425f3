"""A GPU in at most nine minutes: training and separation speed against batch size, setting by setting.

    python -m benchmarks gpu --out docs/results
    python -m benchmarks gpu --device cpu --size micro --batch 1 --batch 2 --seconds 0.3 --minutes 1   # a test run

The measurements are in the order of `plan`, the most important first. When the time is up, the rest is listed as not
measured. A batch that does not fit is a row that says so, and no larger one is tried. All audio is stereo noise, all
weights are random: bfloat16 is compared with float32 by the ratio of the estimate to the difference, in dB.
"""

import argparse
import gc
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refined_bsrnn.console import say
from refined_bsrnn.network.info import describe
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import Recipe, load_recipe
from refined_bsrnn.separation.device import check_device
from refined_bsrnn.training.objective import Objective

from .measure import Job, Kind, machine
from .reference import Reference

TARGETS = ("vocals", "drums", "bass", "other")
SIZES, BATCHES = ("tiny", "small", "large"), (1, 4, 16, 32, 64)
PRECISIONS = ("float32", "bf16")
# What a training step is measured with; "plain" is one target through the network of `reference`.
PLAIN, AS_IT_IS, FUSED, COMPILED, GRAPHS = "plain BSRNN, 1 target", "as it is", "fused Adam", "compiled", "CUDA graphs"
MEASURES = (AS_IT_IS, PLAIN, FUSED, COMPILED, GRAPHS)
COMPILE_MODES = {COMPILED: "default", GRAPHS: "reduce-overhead"}
COMPILE_SECONDS = 100  # not begun later than this before the end
KERNELS = {  # kind → what is in the names of its kernels, the first that fits
    "recurrent": r"rnn|lstm|elemWiseRNN|persist",
    "STFT": r"fft",
    "optimiser": r"adam|multi_tensor",
    "matrix products": r"gemm|cutlass|cublas|matmul|addmm|::mm|bmm|nvjet",
    "normalisation": r"norm",
    "copies": r"copy|memcpy|memset|cat|fill|index",
}


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    what: str  # train or separate
    size: str
    precision: str
    measure: str
    batch: int


# --- what is measured, in which order ---------------------------------------------------------------------------------


def gpu_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_gpu`."""
    p.add_argument("--size", action="append", default=[], help=f"(default: {' '.join(SIZES)})")
    p.add_argument("--batch", action="append", default=[], type=int, help=f"(default: {' '.join(map(str, BATCHES))})")
    p.add_argument("--measure", action="append", default=[], choices=MEASURES, help="(default: all)")
    p.add_argument("--seconds", type=float, default=3.0, help="of an excerpt (default: 3)")
    p.add_argument("--minutes", type=float, default=8.5, help="to begin nothing after (default: 8.5)")
    p.add_argument("--at-least", type=float, default=0.5, metavar="S", help="seconds per measurement (default: 0.5)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def plan(sizes: Sequence[str], batches: Sequence[int], measures: Sequence[str]) -> list[Cell]:
    """Training as it is and plain for every size, then separation, then the other measures; small batches first."""
    first = [m for m in measures if m in (AS_IT_IS, PLAIN)]
    cells = [Cell("train", s, p, m, b) for s in sizes for p in PRECISIONS for m in first for b in sorted(batches)]
    cells += [Cell("separate", s, p, AS_IT_IS, b) for s in sizes for p in PRECISIONS for b in sorted(batches)]
    later = [m for m in measures if m not in first]
    cells += [Cell("train", s, p, m, b) for m in later for s in sizes for p in PRECISIONS for b in sorted(batches)]
    return [cell for cell in cells if (cell.measure, cell.precision) != (PLAIN, "bf16")]


def measure_gpu(args: argparse.Namespace) -> dict[str, Any]:
    """Audio seconds per second of every cell that the time allows, precision, kernels, and the floors."""
    device, stop = check_device(args.device), time.monotonic() + 60 * args.minutes
    sizes, batches = args.size or list(SIZES), args.batch or list(BATCHES)
    once = {
        "precision": [precision_row(size, args.seconds, device) for size in sizes],
        "floors": [floor_row(size, args.seconds, device) for size in sizes],
        "kernels": kernel_shares(sizes[0], min(4, max(batches)), args.seconds, device),
    }
    rows: list[dict[str, Any]] = []
    full: set[tuple[str, ...]] = set()  # what did not fit, or cannot be measured here: no larger batch is tried
    for cell in plan(sizes, batches, args.measure or MEASURES):
        series = (cell.what, cell.size, cell.precision, cell.measure)
        if time.monotonic() > stop - (COMPILE_SECONDS if cell.measure in COMPILE_MODES else 0):
            rows.append({**asdict(cell), "problem": "not measured: time is up"})
        elif series not in full:
            rows.append({**asdict(cell), **_tried(cell, args, device)})
            say(str(rows[-1]))
            if "problem" in rows[-1]:
                full.add(series)
    facts = {**machine(device), "cuda": torch.version.cuda, "seconds": args.seconds, "minutes": args.minutes, "seed": 0}
    return {"kind": "gpu", **facts, "rows": rows, **once}


def _tried(cell: Cell, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The speed of a cell, or why there is none."""
    torch.manual_seed(0)
    if cell.measure in COMPILE_MODES:
        torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        build = train_job if cell.what == "train" else separate_job
        taken = repeated(build(cell, args.seconds, device), args.at_least, device)
    except torch.OutOfMemoryError:
        return {"problem": "out of memory"}
    except RuntimeError as error:  # also what torch.compile raises
        return {"problem": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None
    speed = cell.batch * args.seconds / taken
    return {"seconds_per_call": round(taken, 5), "audio_seconds_per_second": round(speed, 2), "peak_mib": peak}


def repeated(job: Job, at_least: float, device: torch.device) -> float:
    """Seconds of the clock per call, after three to warm up; nothing waits for the device between the calls."""
    for _ in range(3):
        job()
    _wait(device)
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < at_least:
        for _ in range(3):
            job()
        _wait(device)
        calls += 3
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


# --- the jobs ---------------------------------------------------------------------------------------------------------


def _recipe(size: str) -> Recipe:
    return load_recipe("mtl_generic", [f"size={size}"])


def _stems(recipe: Recipe, batch: int, seconds: float, device: torch.device) -> Tensor:
    shape = (batch, len(TARGETS), recipe.data.channels, round(seconds * recipe.stft.sample_rate_hz))
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def train_job(cell: Cell, seconds: float, device: torch.device) -> Job:
    """A training step with the cell's measure."""
    recipe = _recipe(cell.size)
    stems = _stems(recipe, cell.batch, seconds, device)
    mixture = stems.sum(1)
    loss_of, parameters = _plain(recipe, device) if cell.measure == PLAIN else _ours(recipe, device)
    if cell.measure in COMPILE_MODES:
        loss_of = torch.compile(loss_of, mode=COMPILE_MODES[cell.measure])
    optimizer = torch.optim.Adam(parameters, lr=1e-6, fused=cell.measure == FUSED or None)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.precision == "bf16"):
            loss = loss_of(mixture, stems)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ours(recipe: Recipe, device: torch.device) -> tuple[Callable[..., Tensor], list[nn.Parameter]]:
    objective = Objective(BSRNN.from_recipe(recipe), recipe).to(device).train()
    return lambda mixture, stems: objective(mixture, stems)[0], list(objective.trained().values())


def _plain(recipe: Recipe, device: torch.device) -> tuple[Callable[..., Tensor], list[nn.Parameter]]:
    """One target, float32, the loss of the waveform and of real and imaginary parts (the paper's)."""
    stft = recipe.stft
    network = Reference.from_recipe(recipe).to(device).train()
    window = torch.hann_window(stft.n_fft, device=device)

    def loss_of(mixture: Tensor, stems: Tensor) -> Tensor:
        error = network(mixture.flatten(0, 1)) - stems[:, 0].flatten(0, 1)  # (B·C, L)
        spectrum = torch.stft(error, stft.n_fft, stft.hop, window=window, return_complex=True)
        return error.abs().mean() + torch.view_as_real(spectrum).abs().mean()

    return loss_of, list(network.parameters())


def separate_job(cell: Cell, seconds: float, device: torch.device) -> Job:
    """All four heads on a batch of chunks."""
    recipe = _recipe(cell.size)
    network = BSRNN.from_recipe(recipe).to(device).eval()
    mixture = _stems(recipe, cell.batch, seconds, device).sum(1)

    @torch.inference_mode()
    def separate() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.precision == "bf16"):
            network(mixture)

    return separate


# --- precision, kernels, floors ---------------------------------------------------------------------------------------


def precision_row(size: str, seconds: float, device: torch.device) -> dict[str, Any]:
    """How far bfloat16 estimates lie below those of float32, in dB, by target; 0.02 dB uSDR need about 30 dB."""
    torch.manual_seed(0)
    recipe = _recipe(size)
    network = BSRNN.from_recipe(recipe).to(device).eval()
    mixture = _stems(recipe, 1, seconds, device).sum(1)
    estimates = []
    for half in (False, True):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            estimates.append(network(mixture))
    exact, rough = estimates
    ratios = {t: exact[t].square().sum() / (exact[t] - rough[t]).square().sum() for t in exact}
    return {"size": size, "bf16_db": {t: round(10 * ratio.log10().item(), 1) for t, ratio in ratios.items()}}


def floor_row(size: str, seconds: float, device: torch.device) -> dict[str, Any]:
    """The limits for any batch: dependent steps of the LSTMs, and the arithmetic.

    ``lstm_step_us`` is measured on one LSTM of the network's size with batch 1. A forward pass has R × (T + K)
    dependent steps (both directions at once), a training step three times as many (backward counts twice).
    """
    recipe = _recipe(size)
    info, n = describe(recipe), recipe.backbone.features
    frames = round(seconds * recipe.stft.sample_rate_hz / recipe.stft.hop) + 1
    lstm = nn.LSTM(n, 2 * n, batch_first=True, bidirectional=True).to(device).eval()
    x = torch.randn(1, frames, n, device=device)

    def forward() -> None:
        with torch.inference_mode():
            lstm(x)

    step = repeated(forward, 0.2, device) / frames
    dependent = recipe.backbone.repeats * (frames + info.n_bands)
    return {
        "size": size,
        "parameters": info.parameters,
        "gflop_per_second": round(2 * info.macs_per_second / 1e9, 2),  # of audio, one forward pass with four heads
        "dependent_steps": dependent,
        "lstm_step_us": round(1e6 * step, 2),
        "forward_floor_ms": round(1000 * dependent * step, 2),
        "training_floor_ms": round(3000 * dependent * step, 2),
    }


def kernel_shares(size: str, batch: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Share of a training step's time on the device by kind of kernel; float32, as it is."""
    step = train_job(Cell("train", size, "float32", AS_IT_IS, batch), seconds, device)
    step()
    with torch.profiler.profile() as profile:
        step()
        _wait(device)
    on_cpu = device.type == "cpu"
    events = profile.key_averages()
    times = {e.key: e.self_cpu_time_total if on_cpu else e.self_device_time_total for e in events}
    facts = {
        "size": size,
        "batch": batch,
        "calls": sum(e.count for e in events),
        "host_waits": host_waits(step, device),
    }
    return {**facts, "shares": shares_by_kind(times)}


def host_waits(job: Job, device: torch.device) -> int | None:
    """How often Python waits for a CUDA device in a call; None on others."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            job()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in found)


def shares_by_kind(times: Mapping[str, float]) -> dict[str, float]:
    """Shares of `KERNELS` and of all others, from times by name."""
    total = sum(times.values()) or 1.0
    found = dict.fromkeys([*KERNELS, "others"], 0.0)
    for name, taken in times.items():
        found[next((kind for kind, words in KERNELS.items() if re.search(words, name, re.I)), "others")] += taken
    return {kind: round(taken / total, 3) for kind, taken in found.items()}


# --- the table --------------------------------------------------------------------------------------------------------


def gpu_markdown(values: Mapping[str, Any]) -> str:
    """Audio seconds per second, a line per series and a column per batch; then precision, floors and kernels."""
    batches = sorted({row["batch"] for row in values["rows"]})
    lines = [f"| | size | precision | with | {' | '.join(f'batch {b}' for b in batches)} |"]
    lines.append(f"|---|---|---|---|{'---:|' * len(batches)}")
    lines += [f"| {' | '.join([*series, *cells])} |" for series, cells in _series(values["rows"], batches)]
    lines += [
        "",
        "| size | GFLOP per s of audio | dependent steps | LSTM step, µs | floor of a forward pass, ms | bf16 |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for floor, precision in zip(values["floors"], values["precision"], strict=True):
        worst = min(precision["bf16_db"].values())
        cells = [
            f"{floor[key]:,}" for key in ("gflop_per_second", "dependent_steps", "lstm_step_us", "forward_floor_ms")
        ]
        lines.append(f"| {floor['size']} | {' | '.join(cells)} | {worst} dB |")
    kernels = values["kernels"]
    shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in kernels["shares"].items() if share)
    waits = "" if kernels["host_waits"] is None else f" Python waits for the device {kernels['host_waits']} times."
    return "\n".join([*lines, "", f"A step of `{kernels['size']}`, batch {kernels['batch']}: {shares}.{waits}"]) + "\n"


def _series(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> Iterator[tuple[list[str], list[str]]]:
    """The description of a line, and its cells."""
    keys = ("what", "size", "precision", "measure")
    for series in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        own_rows = {row["batch"]: row for row in rows if tuple(row[key] for key in keys) == series}
        yield list(series), [_cell(own_rows.get(batch)) for batch in batches]


def _cell(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else row.get("problem") or f"{row['audio_seconds_per_second']:,.1f}"


GPU = Kind(
    "training and separation on a GPU against batch size, in nine minutes", gpu_arguments, measure_gpu, gpu_markdown
)
