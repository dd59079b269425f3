"""Separation by this and other systems: the networks alone, random weights, stereo noise, in turns.

    pip install -e '.[benchmark]'     # openunmix and demucs
    python -m benchmarks peers --out docs/results

Every network gets chunks of its usual length, without overlap; seconds are per second of audio. Speed does not depend
on the weights, and quality is not compared here.
"""

import argparse
import importlib.metadata
import statistics
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from refined_bsrnn.console import say
from refined_bsrnn.errors import RecipeError
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import load_recipe
from refined_bsrnn.separation.device import check_device

from .measure import Job, Kind, machine, seconds_of
from .reference import Reference

RATE_HZ = 44100
TARGETS = ("vocals", "drums", "bass", "other")


def _ours(size: str, n_heads: int) -> nn.Module:
    return BSRNN.from_recipe(load_recipe("mtl_generic", [f"size={size}", f"targets=[{','.join(TARGETS[:n_heads])}]"]))


class _InBf16(nn.Module):
    """A network in automatic mixed precision, as `--precision bf16` runs it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, mixture: Tensor) -> Any:
        with torch.autocast(mixture.device.type, torch.bfloat16):
            return self.network(mixture)


class _PerTarget(nn.Module):
    """As many single-target networks as there are targets, each on the whole mixture (B, C, L)."""

    def __init__(self, networks: list[Reference]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, mixture: Tensor) -> list[Tensor]:
        return [network(mixture.flatten(0, 1)).unflatten(0, mixture.shape[:2]) for network in self.networks]


def _plain(size: str, n_targets: int) -> nn.Module:
    recipe = load_recipe("mtl_generic", [f"size={size}"])
    return _PerTarget([Reference.from_recipe(recipe) for _ in range(n_targets)])


def _openunmix(hidden: int) -> nn.Module:
    from openunmix.model import OpenUnmix, Separator

    models = {name: OpenUnmix(nb_bins=2049, hidden_size=hidden, max_bin=1487) for name in TARGETS}
    return Separator(models, niter=1)  # as `umxl`: one iteration of its Wiener filter


def _htdemucs() -> nn.Module:
    from demucs.htdemucs import HTDemucs

    # The published model: its arguments that are not the class's defaults.
    return HTDemucs(list(TARGETS), bottom_channels=512, segment=Fraction(39, 5), dconv_mode=3, t_dropout=0.02)


# name → (targets, seconds of a chunk, what builds it, its package where it is not ours)
PEERS: dict[str, tuple[int, float, Callable[[], nn.Module], str | None]] = {
    "small, 4 heads": (4, 3.0, lambda: _ours("small", 4), None),
    "small, 1 head": (1, 3.0, lambda: _ours("small", 1), None),
    "tiny, 4 heads": (4, 3.0, lambda: _ours("tiny", 4), None),
    "small, 4 heads, bf16": (4, 3.0, lambda: _InBf16(_ours("small", 4)), None),
    "tiny, 4 heads, bf16": (4, 3.0, lambda: _InBf16(_ours("tiny", 4)), None),
    "plain BSRNN of size small": (1, 3.0, lambda: _plain("small", 1), None),
    "plain BSRNN of size small, one per target": (4, 3.0, lambda: _plain("small", 4), None),
    "plain BSRNN of size tiny, one per target": (4, 3.0, lambda: _plain("tiny", 4), None),
    "plain BSRNN of size small, one per target, bf16": (4, 3.0, lambda: _InBf16(_plain("small", 4)), None),
    "openunmix 512": (4, 12.0, lambda: _openunmix(512), "openunmix"),
    "htdemucs": (4, 7.8, _htdemucs, "demucs"),
}


def peers_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_peers`."""
    p.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="only these (default: all)")
    p.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    p.add_argument("--threads", type=int, default=1, help="on a CPU (default: 1)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def measure_peers(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds (of the processor on a CPU) per second of audio of every network."""
    device = check_device(args.device)
    torch.set_num_threads(args.threads)
    chosen = args.peer or list(PEERS)
    versions = {name: _version(package) for name in chosen if (package := PEERS[name][3])}
    torch.manual_seed(0)
    networks = {name: PEERS[name][2]().to(device).eval() for name in chosen}
    jobs = {name: _job(network, PEERS[name][1], device) for name, network in networks.items()}
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for i in range(args.rounds + 1):
        for name, job in jobs.items():
            seconds = seconds_of(job, device)
            if i:  # the first is to warm up
                taken[name].append(seconds / PEERS[name][1])
        say(f"round {i} of {args.rounds}" if i else "warmed up")
    rows = [
        {
            "name": name,
            "version": versions.get(name),
            "targets": PEERS[name][0],
            "chunk_seconds": PEERS[name][1],
            "parameters": count_parameters(networks[name]),
            "median": round(statistics.median(taken[name]), 4),
            "low": round(min(taken[name]), 4),
            "high": round(max(taken[name]), 4),
        }
        for name in chosen
    ]
    return {"kind": "peers", **machine(device), "rounds": args.rounds, "seed": 0, "peers": rows}


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(
            f"{package} is not installed. Install what is measured beside this project: pip install -e '.[benchmark]', "
            "or name networks with --peer."
        ) from None


def _job(network: nn.Module, seconds: float, device: torch.device) -> Job:
    noise = 0.1 * torch.randn(1, 2, round(seconds * RATE_HZ), generator=torch.Generator().manual_seed(0))
    mixture = noise.to(device)

    @torch.inference_mode()
    def separate() -> None:
        network(mixture)

    return separate


def peers_markdown(values: Mapping[str, Any]) -> str:
    """One line per network."""
    clock = "processor s" if values["device"].startswith("cpu") else "s"
    lines = [f"| network | targets | parameters | chunk | {clock} per s of audio |", "|---|---:|---:|---:|---:|"]
    for row in values["peers"]:
        name = f"{row['name']} ({row['version']})" if row["version"] else row["name"]
        speed = f"{row['median']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
        lines.append(f"| {name} | {row['targets']} | {row['parameters']:,} | {row['chunk_seconds']:g} s | {speed} |")
    return "\n".join(lines) + "\n"


PEERS_KIND = Kind(
    "separation beside openunmix, demucs and a plain BSRNN", peers_arguments, measure_peers, peers_markdown
)
