"""Evaluated runs as read from their files: ``results.json`` and ``metrics.jsonl``, checked.

All numbers in a report come from here. Results of formats 1 and 2 are read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UserError, nearest
from ..plain import parse_json, shown
from ..schema import RESULTS_FORMAT, Results, check_document
from ..system import read_json

AGAIN = "Evaluate the run again."


@dataclass(frozen=True)
class Run:
    """One evaluated run: its results, its training log, and its name in the table."""

    folder: Path
    name: str
    results: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]

    @property
    def targets(self) -> list[str]:
        return list(self.results["targets"])

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything that must agree before two runs may be compared.

        The model's sample rate is not part of it, because estimates are scored at the rate of the tracks.
        """
        data = self.results["data"]
        return {
            "data fingerprint": data.get("fingerprint"),
            "split": self.results["split"],
            "mixture": data.get("mixture"),
            "protocol": tuple(sorted(self.results["protocol"].items())),
        }


# --- reading ----------------------------------------------------------------------------------------------------------


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the given order; a folder that is given twice is read once."""
    if not folders:
        raise UserError("There is nothing to report on: give the folder of at least one evaluated run.")
    distinct: dict[Path, Path] = {}
    for folder in folders:
        distinct.setdefault(folder.resolve(), folder)
    runs = [_read_run(folder) for folder in distinct.values()]
    return [replace(run, name=name) for run, name in zip(runs, _distinct_names(runs), strict=True)]


def _read_run(folder: Path) -> Run:
    if folder.suffix == ".json" and folder.is_file():  # of a part of the tracks, which lies beside the whole
        results = read_results(folder)
        return Run(folder.parent, results["run"], results, _read_log(folder.parent / "metrics.jsonl"))
    if not folder.is_dir():
        neighbours = _runs_in(folder.absolute().parent)
        listed = f"Runs beside it: {', '.join(neighbours)}." if neighbours else "There are no runs beside it either."
        raise UserError(f"There is no run folder {folder}.{nearest(folder.name, neighbours)} {listed}")
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{folder} has no results.json yet; run: refined-bsrnn evaluate {folder}")
    results = read_results(path)
    return Run(folder, results["run"], results, _read_log(folder / "metrics.jsonl"))


def _runs_in(folder: Path) -> list[str]:
    signs = ("recipe.yaml", "results.json")
    return sorted({path.parent.name for sign in signs for path in folder.glob(f"*/{sign}")})


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results file; `UserError` for a file that is damaged, from a newer or another program."""
    results = read_json(path, lambda problem: UserError(f"{problem} {AGAIN}"))
    if not isinstance(results, dict) or type(results.get("format")) is not int:
        raise UserError(f"{path} is not an evaluation of this program: it has no format number.")
    if results["format"] > RESULTS_FORMAT:
        raise UserError(
            f"{path} has format {shown(results['format'])}; this version reads up to {RESULTS_FORMAT}. "
            "Update refined_bsrnn or evaluate the run again."
        )
    return check_document(Results, results, str(path), remedy=AGAIN)


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of a training log; empty without a file. A last line that a crash cut off is left out.

    A resumed run starts again from its last saved state, so lines from that step on replace the earlier ones.
    """
    if not path.is_file():
        return ()
    texts = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    lines: list[dict[str, Any]] = []
    for place, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = parse_json(text)
            if not isinstance(line, dict):
                raise ValueError("not a JSON object")
        except ValueError as problem:
            if place == len(texts):
                break
            raise UserError(f"{path}, line {place} of {len(texts)} is broken ({problem}).") from None
        step = number(line, "step")
        while lines and step is not None and (number(lines[-1], "step") or 0) > step:
            lines.pop()
        lines.append(line)
    return tuple(lines)


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Each run's own name, followed by as much of its folder as is needed to distinguish runs of that name."""
    names = []
    for run in runs:
        parts = run.folder.resolve().parts
        twins = [other.folder.resolve().parts for other in runs if other.name == run.name and other is not run]
        depth = next((n for n in range(1, len(parts)) if all(twin[-n:] != parts[-n:] for twin in twins)), len(parts))
        names.append(f"{run.name} ({Path(*parts[-depth:])})" if twins else run.name)
    return names


def number(values: Any, *keys: str) -> float | None:
    """The finite number at ``values[key][key]...``, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    is_number = isinstance(values, (int, float)) and not isinstance(values, bool) and math.isfinite(values)
    return values if is_number else None


def pair(values: Any, *keys: str) -> list[float] | None:
    """The two finite numbers at ``values[key][key]...``, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    found = [number({"": value}, "") for value in values] if isinstance(values, list) else []
    return [x for x in found if x is not None] if len(found) == 2 and None not in found else None


# --- as data frames ---------------------------------------------------------------------------------------------------


def summaries(runs: Sequence[Run]) -> pd.DataFrame:
    """Every figure of every summary, one per line, unrounded: run, target, source, metric, statistic, value."""
    lines = []
    for run in runs:
        for target, summary in run.results["summary"].items():
            for path, value in _leaves(summary):
                source = path[0] if len(path) > 1 else ""
                metric, statistic = (" ".join(path[1:-1]), path[-1]) if source else (path[0], "")
                lines.append((run.name, target, source, metric, statistic, value))
    return pd.DataFrame(lines, columns=["run", "target", "source", "metric", "statistic", "value"], dtype=object)


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, list):
            yield from ((((*path, f"{key}_{end}")), x) for end, x in zip(("low", "high"), value, strict=True))
        else:
            yield (*path, key), value
