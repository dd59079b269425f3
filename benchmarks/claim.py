"""The main claim in one table: what new heads on a frozen backbone reach of a network trained for their target alone.

It reads the results of a study in which each target is left out of its base (docs/results/leftout): runs
TARGET-v7.sSEED, no-TARGET.sSEED and no-TARGET-to-TARGET[-METHOD].sSEED.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refined_bsrnn.evaluation.stats import interval
from refined_bsrnn.report.study import spread
from refined_bsrnn.system import read_json

TARGETS = ("drums", "bass", "other", "vocals")
TRANSFERS = {  # ending of the run's name → what was trained
    "-random": "head on a frozen random backbone, all songs",
    "-10tracks": "head on the frozen backbone, 10 songs",
    "": "head on the frozen backbone, all songs",
    "-full": "head and backbone, all songs",
}
HEADER = (
    "| target | trained | seeds | uSDR, dB | of v7 | missing, dB (95 % over songs) | of the base's time |",
    "|---|---|---|---:|---:|---:|---:|",
)


def claim_table(folder: Path) -> str:
    """A line per target and method, over the seeds for which the v7 network is there too."""
    results = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/results.json"))}
    lines = list(HEADER)
    for target in TARGETS:
        whole = _by_seed(results, f"{target}-v7")
        if not whole:
            continue
        base = _by_seed(results, f"no-{target}")
        for ending, what in TRANSFERS.items():
            runs = _by_seed(results, f"no-{target}-to-{target}{ending}")
            if seeds := sorted(runs.keys() & whole.keys()):
                lines.append(_line(target, what, seeds, runs, whole, base))
        seeds = sorted(whole)
        alone = spread([_mean(whole[seed], target) for seed in seeds])
        lines.append(f"| {target} | v7, this target alone, to its end | {_listed(seeds)} | {alone} | | | |")
    return "\n".join(lines) + "\n"


def _by_seed(results: Mapping[str, Any], name: str) -> dict[int, Any]:
    return {result["training"]["seed"]: result for run, result in results.items() if run.rpartition(".s")[0] == name}


def _line(
    target: str,
    what: str,
    seeds: Sequence[int],
    runs: Mapping[int, Any],
    whole: Mapping[int, Any],
    base: Mapping[int, Any],
) -> str:
    reached = [_mean(runs[seed], target) for seed in seeds]
    shares = [100 * mean / _mean(whole[seed], target) for mean, seed in zip(reached, seeds, strict=True)]
    missing = [_scores(whole[seed], target) - _scores(runs[seed], target) for seed in seeds]  # (songs,) each
    low, high = interval(np.mean(missing, axis=0), "mean") or (float("nan"),) * 2
    times = [100 * runs[s]["training"]["seconds"] / base[s]["training"]["seconds"] for s in seeds if s in base]
    cells = [target, what, _listed(seeds), spread(reached), f"{spread(shares, 0)} %"]
    cells += [f"{np.mean(missing):.2f} [{low:.2f}, {high:.2f}]", f"{spread(times, 0)} %" if times else "–"]
    return f"| {' | '.join(cells)} |"


def _scores(result: Mapping[str, Any], target: str) -> np.ndarray:
    """uSDR per song, songs in the order of their names."""
    songs = sorted(result["tracks"], key=lambda song: song["track"])
    return np.array([song["targets"][target]["estimate"]["usdr"] for song in songs])


def _mean(result: Mapping[str, Any], target: str) -> float:
    return float(_scores(result, target).mean())


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
