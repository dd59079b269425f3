"""The main claim in one table: what new heads on a frozen backbone reach of a network trained for their target alone.

It reads the results of a study in which each target is left out of its base (docs/results/leftout): runs
TARGET-v7.sSEED, no-TARGET.sSEED and no-TARGET-to-TARGET[-METHOD].sSEED.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

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
    "| target | trained | seeds | rendered songs: uSDR, dB | of v7 | missing, dB (95 % over songs) "
    "| real song: uSDR, dB | all songs: uSDR, dB | of v7 |",
    "|---|---|---|---:|---:|---:|---:|---:|---:|",
)
REAL = "eir_*"  # the test songs that are real recordings: excerpts of one song


def claim_table(folder: Path) -> str:
    """A line per target and method, over the seeds for which the v7 network is there too."""
    results = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/results.json"))}
    lines = list(HEADER)
    for target in TARGETS:
        whole = _by_seed(results, f"{target}-v7", target)
        runs = {what: _by_seed(results, f"no-{target}-to-{target}{end}", target) for end, what in TRANSFERS.items()}
        for what, scores in {**runs, "v7, this target alone, to its end": whole}.items():
            if seeds := sorted(scores.keys() & whole.keys()):
                cells = _cells([scores[seed] for seed in seeds], [whole[seed] for seed in seeds], scores is not whole)
                lines.append(f"| {' | '.join([target, what, ', '.join(map(str, seeds)), *cells])} |")
    return "\n".join(lines) + "\n"


def _by_seed(results: Mapping[str, Any], name: str, target: str) -> dict[int, dict[str, float]]:
    """Seed → song → uSDR."""
    return {
        result["training"]["seed"]: {
            song["track"]: song["targets"][target]["estimate"]["usdr"] for song in result["tracks"]
        }
        for run, result in results.items()
        if run.rpartition(".s")[0] == name
    }


def _cells(reached: Sequence[Mapping[str, float]], whole: Sequence[Mapping[str, float]], compared: bool) -> list[str]:
    """The scores over seeds and, if they are to be compared, what they are of those of the v7 network."""
    names = sorted(whole[0])
    real = [name for name in names if fnmatch(name, REAL)]
    rendered = [name for name in names if name not in real]

    def means(runs: Sequence[Mapping[str, float]], songs: Sequence[str]) -> list[float]:
        return [statistics.fmean(scores[song] for song in songs) for scores in runs]

    def shares(songs: Sequence[str]) -> str:
        pairs = zip(means(reached, songs), means(whole, songs), strict=True)
        return f"{spread([100 * mean / of for mean, of in pairs], 0)} %" if compared else ""

    lacking = [
        statistics.fmean(b[song] - a[song] for a, b in zip(reached, whole, strict=True)) for song in rendered
    ]  # of each song, over seeds
    low, high = interval(lacking, "mean") or (math.nan, math.nan)
    missing = f"{statistics.fmean(lacking):.2f} [{low:.2f}, {high:.2f}]" if compared else ""
    columns = [spread(means(reached, songs)) if songs else "–" for songs in (rendered, real, names)]
    return [columns[0], shares(rendered), missing, columns[1], columns[2], shares(names)]
