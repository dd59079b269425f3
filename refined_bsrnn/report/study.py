"""The results of a study: one table, mean ± standard deviation over seeds, and its figures.

<study>/report/study.json      every number, the source of the other files
               study.md, study.csv
               curves, curves_audio, compute_seconds, compute_macs, songs, matrix, forgetting (.png, .svg), if there
               are data for them
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from ..errors import RecipeError, UserError
from ..plain import finite
from ..recipe import Recipe, Study
from ..schema import StudyResults, StudyTraining, check_document, read_document
from ..system import read_json, write_json, write_text
from .figures import Points, curves_figure, heat_map, save
from .results import AGAIN, number, read_results
from .table import MISSING, Column, Record, Table


@dataclass(frozen=True)
class StudyRun:
    """An evaluated run of a study, for its report.

    ``macs`` are the multiply-accumulates of its training: before the first step, and of each step.
    """

    name: str
    label: str  # the same for all seeds
    base: str | None  # the name of the run it is transferred from
    recipe: Recipe
    folder: Path
    macs: tuple[int, int] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: one target of one label, a value per seed in every list."""

    label: str
    base: str | None
    bands: str
    method: str  # "base" for a base itself
    tracks: int  # number of training songs; 0: all
    target: str
    seeds: list[int]
    usdr: list[float]  # dB, mean over tracks
    csdr: list[float]  # dB, median over frames, then over tracks
    trainable_parameters: int
    audio_hours: float
    seconds: list[float]  # of training, validation left out
    base_seconds: list[float]  # of training the base; empty for a base
    device: str
    n_test_tracks: int
    forgetting: list[float]  # dB, change of the base's own heads, mean over them
    macs: list[float] = field(default_factory=list)  # multiply-accumulates of training; empty where not known
    kwh: list[float] = field(default_factory=list)  # energy of training; empty where not measured


def collect(runs: Sequence[StudyRun]) -> list[Row]:
    """Rows of the runs, in their order."""
    by_label: dict[str, list[StudyRun]] = defaultdict(list)
    for run in runs:
        by_label[run.label].append(run)
    results = {run.name: _results(run.folder / "results.json") for run in runs}
    tested = {json.dumps(result["data"]["fingerprint"]) for result in results.values()}
    if len(tested) > 1:
        raise RecipeError(
            f"the runs of this study were scored on {len(tested)} different sets of tracks; expected one. "
            "Remove the results.json of those that are not on the data of now, and start the study again."
        )
    groups = [(label, group, [results[run.name] for run in group]) for label, group in by_label.items()]
    return [_row(label, group, of, target) for label, group, of in groups for target in of[0]["targets"]]


def _results(path: Path) -> dict[str, Any]:
    """The results of one run; `UserError` if a value for the table is missing or wrong."""
    results = read_results(path)
    missing = [target for target in results["targets"] if target not in results["summary"]]
    if missing:
        raise UserError(f"{path}: summary.{missing[0]} is missing. {AGAIN}")
    return check_document(StudyResults, results, str(path), remedy=AGAIN)


def _facts(path: Path) -> dict[str, Any]:
    """The facts of one run's training; `UserError` if a value for the table is missing or wrong."""
    return read_document(StudyTraining, path, remedy="Restore it, or train the run again.")


def _row(label: str, runs: Sequence[StudyRun], results: Sequence[Mapping[str, Any]], target: str) -> Row:
    recipe, first = runs[0].recipe, results[0]
    facts = [_facts(run.folder / "provenance.json") for run in runs]
    bases = [_facts(run.folder.parent / run.base / "provenance.json") for run in runs if run.base]
    summaries = [result["summary"][target] for result in results]
    steps = statistics.fmean(fact["steps_done"] for fact in facts)  # fewer where patience ran out
    hours = steps * recipe.train.batch_size * recipe.train.chunk_seconds / 3600
    return Row(
        label=label,
        base=None if runs[0].base is None else runs[0].base.rpartition(".s")[0],
        bands=recipe.bands.kind,
        method=recipe.base.method if recipe.base else "base",
        tracks=recipe.data.use_tracks,
        target=target,
        seeds=[run.recipe.train.seed for run in runs],
        usdr=[_score(summary, "usdr", "mean") for summary in summaries],
        csdr=[_score(summary, "csdr", "median") for summary in summaries],
        trainable_parameters=first["model"]["trainable_parameters"],
        audio_hours=round(hours, 3),
        seconds=[_training_seconds(fact) for fact in facts],
        base_seconds=[_training_seconds(fact) for fact in bases],
        macs=_all_known(_training_macs(run, fact) for run, fact in zip(runs, facts, strict=True)),
        kwh=_all_known(_training_kwh(fact) for fact in facts),
        device=facts[0]["device"],
        n_test_tracks=summaries[0]["n_tracks"],
        forgetting=[read_json(file)["mean"] for run in runs if (file := run.folder / "forgetting.json").exists()],
    )


def _score(summary: Mapping[str, Any], metric: str, statistic: str) -> float:
    """The score; NaN for a target that is silent on all tracks."""
    value = number(summary, "estimate", metric, statistic)
    return math.nan if value is None else value


def _training_seconds(provenance: Mapping[str, Any]) -> float:
    return round(provenance["seconds"] - (provenance.get("validation_seconds") or 0.0), 1)


def _training_macs(run: StudyRun, provenance: Mapping[str, Any]) -> float | None:
    if run.macs is None:
        return None
    before, each = run.macs
    return float(before + provenance["steps_done"] * each)


def _training_kwh(provenance: Mapping[str, Any]) -> float | None:
    """The sum over all starts of the training, without later work on the run."""
    measured = [entry["kwh"] for entry in provenance.get("energy", []) if entry["what"] in ("train", "transfer")]
    return sum(measured) if measured else None


def _all_known(values: Iterable[float | None]) -> list[float]:
    found = list(values)
    return [] if None in found else [value for value in found if value is not None]


# --- the tables -------------------------------------------------------------------------------------------------------


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Over seeds (n − 1); 0 for fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.stdev(known) if len(known) > 1 else 0.0


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``1.23 ± 0.05``: mean and standard deviation (n − 1) over seeds; the mean alone for one seed."""
    n = sum(not math.isnan(value) for value in values)
    mean = f"{_mean(values):.{digits}f}" if n else MISSING
    return f"{mean} ± {_deviation(values):.{digits}f}" if n > 1 else mean


def percent(part: Sequence[float], whole: Sequence[float]) -> str:
    """The mean of one as a share of the mean of the other, where that is more than nothing: times are rounded."""
    if not whole or statistics.fmean(whole) <= 0:
        return MISSING
    return f"{100 * statistics.fmean(part) / statistics.fmean(whole):.0f} %"


COLUMNS = (
    *(Column(key, key) for key in ("run", "bands", "method")),
    Column("songs", lambda row: str(row["tracks"] or "all"), ">"),
    Column("target", "target"),
    Column("uSDR", lambda row: spread(row["usdr"]), ">"),
    Column("cSDR", lambda row: spread(row["csdr"]), ">"),
    Column("seeds", lambda row: str(len(row["seeds"])), ">"),
    Column("trainable parameters", "trainable_parameters", ",.0f"),
    Column("audio hours", "audio_hours", ".2f"),
    Column("training time, s", lambda row: spread(row["seconds"], 0), ">"),
    Column("share of the base's time", lambda row: percent(row["seconds"], row["base_seconds"]), ">"),
    Column("multiply-accumulates, 10¹²", lambda row: spread([macs / 1e12 for macs in row["macs"]]), ">"),
    Column("energy, kWh", lambda row: spread(row["kwh"], 4), ">"),
    Column("forgetting, dB", lambda row: spread(row["forgetting"]), ">"),
)


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame([{"run": row.label, **asdict(row)} for row in rows], dtype=object)


def table(rows: Sequence[Row]) -> Table:
    """A line per target of every label; without the columns of costs that are not known of any run."""
    unknown = {"multiply-accumulates, 10¹²": "macs", "energy, kWh": "kwh"}
    columns = [c for c in COLUMNS if c.title not in unknown or any(getattr(row, unknown[c.title]) for row in rows)]
    return Table(_frame(rows), columns, literal=True)


def _of_full(text: Callable[[Record], str]) -> Callable[[Record], str]:
    return lambda pair: text(pair) if pair["paired"] else MISSING


FULL_COLUMNS = (
    *(Column(key, key) for key in ("run", "target")),
    Column("uSDR", _of_full(lambda pair: f"{_mean([a for a, _ in pair['paired']]):.2f}"), ">"),
    Column("of `full`'s uSDR", _of_full(lambda pair: percent(*zip(*pair["paired"], strict=True))), ">"),
    Column("minus `full`, dB (95 % over seeds)", _of_full(lambda p: paired([a - b for a, b in p["paired"]])), ">"),
    Column("of `full`'s training time", _of_full(lambda pair: percent(pair["seconds"], pair["full_seconds"])), ">"),
    Column("of the base's training time", _of_full(lambda pair: percent(pair["seconds"], pair["base_seconds"])), ">"),
)


def against_full(rows: Sequence[Row]) -> Table:
    """The share of `full`'s uSDR and of its cost for every other method on the same base and songs.

    uSDR is itself the gain over silence, which scores 0 dB: a stricter measure than the gain over the mixture.
    """
    full = {(row.base, row.target, row.tracks): row for row in rows if row.method == "full"}
    pairs = []
    for row in rows:
        whole = full.get((row.base, row.target, row.tracks)) if row.method not in ("base", "full") else None
        if whole is not None:
            ours, theirs = (dict(zip(r.seeds, r.usdr, strict=True)) for r in (row, whole))
            both = [(ours[s], theirs[s]) for s in ours if s in theirs and not math.isnan(ours[s] + theirs[s])]
            pairs.append({"run": row.label, **asdict(row), "paired": both, "full_seconds": whole.seconds})
    return Table(pd.DataFrame(pairs, dtype=object), FULL_COLUMNS, literal=True)


def paired(differences: Sequence[float]) -> str:
    """``-0.10 (-0.35 to +0.15)``: the mean and its 95 % interval by Student's t; the mean alone of one seed."""
    from scipy.stats import ttest_1samp  # takes half a second to import

    mean = f"{statistics.fmean(differences):+.2f}"
    if len(differences) < 2:
        return mean
    low, high = ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return f"{mean} ({low:+.2f} to {high:+.2f})"


FULL_TEXT = (
    "Against training everything (`full`) on the same base, songs and seeds; uSDR is the gain over silence (0 dB)."
)


def markdown(study: Study, rows: Sequence[Row]) -> str:
    """The tables with explanations above them."""
    about = (
        f"Seeds {', '.join(map(str, study.seeds))}; scores in dB on the {study.split} split, mean ± standard deviation "
        f"over seeds of the mean over tracks (cSDR: median over tracks). "
        f"Device: {'; '.join(sorted({row.device for row in rows}))}."
    )
    blocks, pairs = [f"# Study `{study.study}`", about, table(rows).markdown], against_full(rows)
    blocks += [FULL_TEXT, pairs.markdown] if len(pairs.frame) else []
    return "\n\n".join(blocks) + "\n"


def table_csv(rows: Sequence[Row]) -> str:
    """One line per label, target and seed."""
    one = ["label", "base", "bands", "method", "tracks", "target", "trainable_parameters", "audio_hours", "device"]
    each = ["seeds", "usdr", "csdr", "seconds"]
    return _frame(rows)[[*one, *each]].explode(each).to_csv(index=False, lineterminator="\n")


# --- figures ----------------------------------------------------------------------------------------------------------

TIME, AUDIO = "training time, s", "audio seen in training, h"
WALL_CLOCK, MACS = "training time, s (wall clock)", "multiply-accumulates of training"
# Figure → what stands below it, and whether its axis is a logarithmic one, on which methods are compared.
AXES = {
    "curves": (TIME, False),
    "curves_audio": (AUDIO, False),
    "compute_seconds": (WALL_CLOCK, True),
    "compute_macs": (MACS, True),
}


def curve_of(run: StudyRun, target: str, against: str = TIME) -> list[tuple[float, float]]:
    """Validation uSDR over training time without validation, hours of audio or compute, from metrics.jsonl.

    Logs from before ``training_seconds`` contain only the time with validation. Compute is the run's own, without that
    of the base of a transfer.
    """
    key, train = f"validation/{target}/usdr", run.recipe.train
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for event in map(json.loads, lines) if event.get(key) is not None]
    if against == MACS:
        before, each = run.macs or (math.nan, math.nan)
        return [(before + event["step"] * each, event[key]) for event in events if run.macs]
    if against == AUDIO:
        return [(event["step"] * train.batch_size * train.chunk_seconds / 3600, event[key]) for event in events]
    return [(event.get("training_seconds", event["seconds"]), event[key]) for event in events]


def curves_of(runs: Sequence[StudyRun], against: str) -> dict[str, dict[str, list[Points]]]:
    """Target → label → one curve per seed."""
    curves: dict[str, dict[str, list[Points]]] = defaultdict(lambda: defaultdict(list))
    for run, target in ((each, target) for each in runs for target in each.recipe.targets):
        curve = curve_of(run, target, against)
        if curve:
            curves[target][run.label].append(curve)
    return curves


def plot_curves(
    curves: Mapping[str, Mapping[str, Sequence[Points]]], bands: Mapping[str, str], against: str = TIME
) -> Figure:
    """One panel per target: v7 in reds, every other scheme in blues; on an axis of compute each label in its colour."""
    log = dict(AXES.values())[against]
    styles = {target: _styles(list(by_label), bands) for target, by_label in curves.items()}
    return curves_figure(curves, against, "validation uSDR, dB", None if log else styles, log)


def _styles(labels: Sequence[str], bands: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The line styles tell the labels apart in black and white, too."""
    reds, blues = ([label for label in labels if (bands[label] == "v7") == is_v7] for is_v7 in (True, False))
    styles = {}
    for family, name in ((reds, "Reds"), (blues, "Blues")):
        for place, label in enumerate(family):
            shade = 0.9 - 0.5 * place / max(1, len(family) - 1)
            style = {"color": matplotlib.colormaps[name](shade), "linestyle": ("-", "--", "-.", ":")[place % 4]}
            styles[label] = style
    return styles


def plot_songs(rows: Sequence[Row]) -> Figure:
    """uSDR against the number of training songs, a line per base, method and target; bars are over seeds."""
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axis, lines = figure.subplots(), defaultdict(list)
    for row in sorted(rows, key=lambda row: row.tracks or math.inf):
        lines[f"{row.base} to {row.target}, {row.method}"].append(row)
    amounts = sorted({row.tracks for row in rows}, key=lambda tracks: tracks or math.inf)
    place = {n: n or 2 * max(amounts) for n in amounts}  # all songs stand to the right
    for label, points in lines.items():
        if len(points) > 1:
            means, spreads = ([f(row.usdr) for row in points] for f in (_mean, _deviation))
            axis.errorbar([place[row.tracks] for row in points], means, spreads, marker="o", capsize=3, label=label)
    axis.set_xscale("log")
    axis.set_xticks(list(place.values()), [str(n or "all") for n in amounts])
    axis.minorticks_off()
    axis.set(xlabel="training songs", ylabel="uSDR, dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def plot_matrix(rows: Sequence[Row]) -> Figure:
    """Base × target as a heat map, every cell with its number."""
    bases, targets = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("base", "target"))
    cells = {(bases.index(row.base), targets.index(row.target)): _mean(row.usdr) for row in reversed(rows)}
    return heat_map({at: (value, "") for at, value in cells.items()}, bases, targets, "uSDR, dB")


def plot_forgetting(rows: Sequence[Row]) -> Figure:
    """How the base's own heads changed, per transfer; bars are over seeds."""
    figure = Figure(figsize=(6, 0.4 * len(rows) + 1.4), layout="constrained")
    axis = figure.subplots()
    means, spreads = ([f(row.forgetting) for row in rows] for f in (_mean, _deviation))
    bars = axis.barh([row.label for row in rows], means, xerr=spreads, color="0.6")
    axis.bar_label(bars, [f"{mean:.2f}" for mean in means], padding=3)
    axis.margins(x=0.2)  # room for the numbers
    axis.axvline(0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("change of the base's own heads, dB uSDR")
    return figure


# --- all of it --------------------------------------------------------------------------------------------------------


def report_study(study: Study, runs: Sequence[StudyRun], out: Path) -> list[Row]:
    """Write table and figures of the evaluated runs to ``out``; returns the rows."""
    rows = collect(runs)
    values = {"study": study.study, "split": study.split, "rows": [finite(asdict(row)) for row in rows]}
    write_json(out / "study.json", values)
    write_text(out / "study.md", markdown(study, rows))
    write_text(out / "study.csv", table_csv(rows))
    for name, figure in study_figures(runs, rows):
        for suffix in ("png", "svg"):
            save(figure, out / f"{name}.{suffix}", dpi=150)
    return rows


def study_figures(runs: Sequence[StudyRun], rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of every figure that there are data for."""
    bands = {run.label: run.recipe.bands.kind for run in runs}
    for name, (against, _) in AXES.items():
        curves = curves_of(runs, against)
        if curves:
            yield name, plot_curves(curves, bands, against)
    transfers = [row for row in rows if row.base]
    if any(row.tracks for row in transfers):
        yield "songs", plot_songs(transfers)
    frozen = [row for row in transfers if row.method == "frozen" and not row.tracks]
    if frozen:
        yield "matrix", plot_matrix(frozen)
    forgetful = [row for row in transfers if row.forgetting]
    if forgetful:
        yield "forgetting", plot_forgetting(forgetful)
