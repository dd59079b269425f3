"""Which evaluated runs may be compared, on which tracks, and their scores there.

Runs are ranked only if the comparison is fair: the same data (by fingerprint), split, protocol, and for each target the
same scored tracks.
"""

import fnmatch
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.stats import interval
from .results import Run, number, pair

# What is shown of each metric: the mean of uSDR and the median of cSDR over tracks.
METRICS = {"usdr": "mean", "csdr": "median"}
NAMES = {"usdr": "uSDR", "csdr": "cSDR"}
CELL = "uSDR / cSDR"
REFERENCES = {
    "mixture": "mixture (do nothing)",
    "silence": "silence",
    "ratio_mask": "ideal ratio mask (ceiling)",
    "complex_mask": "ideal complex mask (ceiling)",
}
CSV_SCORES = ("usdr_mean", "csdr_median", "n_tracks", "usdr_low", "usdr_high", "csdr_low", "csdr_high")


def matching(run: Run, pattern: str | None) -> list[Mapping[str, Any]]:
    """The run's tracks whose name matches the pattern; all of them without a pattern."""
    return [track for track in run.results["tracks"] if pattern is None or fnmatch.fnmatchcase(track["track"], pattern)]


def scored(run: Run, target: str, pattern: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Track name → scores, for the tracks on which the target is not silent (a silent reference has no score)."""
    entries = {track["track"]: track["targets"].get(target) for track in matching(run, pattern)}
    return {name: entry for name, entry in entries.items() if entry and not entry.get("reference_silent")}


def with_target(runs: Iterable[Run], target: str) -> list[Run]:
    return [run for run in runs if target in run.targets]


def same_ground(runs: Sequence[Run], target: str, pattern: str | None = None) -> bool:
    """Whether runs on the same data were scored on the same tracks and the same references of a target.

    The reference "everything else" depends on a run's other targets, and then the mixture's scores against it differ
    too.
    """
    grounds = [(scored(run, target, pattern).keys(), usdr_of(run, target, "mixture", pattern) or 0) for run in runs]
    return all(tracks == grounds[0][0] and abs(usdr - grounds[0][1]) < 0.005 for tracks, usdr in grounds)


def usdr_of(run: Run, target: str, source: str, pattern: str | None = None) -> float | None:
    """The mean uSDR of a run's estimates or of one of `REFERENCES`."""
    return scores_of(run, target, source, pattern)[f"{target}_usdr_mean"]


def rivals(runs: Sequence[Run]) -> list[tuple[Run, Run, list[str]]]:
    """Pairs of runs that may be compared, in the given order, with the targets that both estimate under equal
    conditions.
    """
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :] if a.conditions == b.conditions]
    shared = [[t for t in a.targets if t in b.targets and same_ground([a, b], t)] for a, b in pairs]
    return [(a, b, targets) for (a, b), targets in zip(pairs, shared, strict=True) if targets]


def data_letters(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Letters A, B, ... for the data of the runs, in order of appearance; none if all runs have the same data."""
    grounds: list[list[Run]] = []
    for run in runs:
        same = next((members for members in grounds if members[0].conditions == run.conditions), None)
        if same is None:
            grounds.append([run])
        else:
            same.append(run)
    letters = [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(grounds))]
    return dict(zip(letters, grounds, strict=True)) if len(grounds) > 1 else {"": grounds[0]}


def scores_of(run: Run, target: str, source: str, pattern: str | None) -> dict[str, Any]:
    """`CSV_SCORES` of estimates or of one of `REFERENCES`: the run's own summary, or the same made from a group."""
    entries = scored(run, target, pattern)
    found: dict[str, Any] = {"n_tracks": len(entries)}
    for metric, statistic in METRICS.items():
        if pattern is None:
            summary = run.results["summary"].get(target, {}).get(source, {})
            value, ends = number(summary, metric, statistic), pair(summary, metric, f"{statistic}_95")
        else:
            column = [x for e in entries.values() if (x := number(e, source, metric)) is not None]
            value = getattr(statistics, statistic)(column) if column else None
            ends = interval(column, statistic)
        low, high = ends or (None, None)
        found |= {f"{metric}_{statistic}": value, f"{metric}_low": low, f"{metric}_high": high}
    return {f"{target}_{what}": found[what] for what in CSV_SCORES}


def base_of(run: Run) -> str:
    """The name of the run's base; empty if there is none."""
    return Path(str(run.results["base"])).name if run.results.get("base") else ""


def span(counts: Iterable[int]) -> str:
    """``4``, or ``2 to 4``."""
    distinct = sorted(set(counts))
    return f"{distinct[0]}" if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"
