"""What a study found: one table, mean ± standard deviation over seeds, and its figures.

<study>/report/study.json      every number, the source of what stands below
               study.md, study.csv
               curves, curves_audio, songs, matrix, forgetting (.png, .svg), where there is something to draw
"""

import csv
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from ..errors import RecipeError
from ..recipe import Recipe, Study
from ..system import atomic_write, read_json, write_json, write_text

MISSING = "–"
Curve = list[tuple[float, float]]  # (seconds of training or hours of audio, validation uSDR in dB)


@dataclass(frozen=True)
class StudyRun:
    """An evaluated run of a study, as its report reads it."""

    name: str
    label: str  # the same for all seeds
    base: str | None  # the name of the run it is transferred from
    recipe: Recipe
    folder: Path


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


def collect(runs: Sequence[StudyRun]) -> list[Row]:
    """Rows of the runs, in their order."""
    by_label: dict[str, list[StudyRun]] = defaultdict(list)
    for run in runs:
        by_label[run.label].append(run)
    rows: list[Row] = []
    tested = {json.dumps(read_json(run.folder / "results.json")["data"]["fingerprint"]) for run in runs}
    if len(tested) > 1:
        raise RecipeError(
            f"the runs of this study were scored on {len(tested)} different sets of tracks; expected one. "
            "Remove the results.json of those that are not on the data of now, and start the study again."
        )
    for label, group in by_label.items():
        results = [read_json(run.folder / "results.json") for run in group]
        rows += [_row(label, group, results, target) for target in results[0]["targets"]]
    return rows


def _row(label: str, runs: Sequence[StudyRun], results: Sequence[Mapping[str, Any]], target: str) -> Row:
    recipe, first = runs[0].recipe, results[0]
    facts = [read_json(run.folder / "provenance.json") for run in runs]
    summaries = [result["summary"][target] for result in results]
    steps = statistics.fmean(fact["steps_done"] for fact in facts)  # fewer where patience ran out
    hours = steps * recipe.train.batch_size * recipe.train.chunk_seconds / 3600
    return Row(
        label=label,
        base=_label_of(runs[0].base),
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
        base_seconds=[_base_seconds(run) for run in runs if run.base],
        device=facts[0]["device"],
        n_test_tracks=summaries[0]["n_tracks"],
        forgetting=[read_json(file)["mean"] for run in runs if (file := run.folder / "forgetting.json").exists()],
    )


def _score(summary: Mapping[str, Any], metric: str, statistic: str) -> float:
    """NaN for a target that sounds on no track."""
    value = summary.get("estimate", {}).get(metric, {}).get(statistic)
    return math.nan if value is None else value


def _training_seconds(provenance: Mapping[str, Any]) -> float:
    return round(provenance["seconds"] - provenance.get("validation_seconds", 0.0), 1)


def _label_of(name: str | None) -> str | None:
    return None if name is None else name.rpartition(".s")[0]


def _base_seconds(run: StudyRun) -> float:
    return _training_seconds(read_json(run.folder.parent / str(run.base) / "provenance.json"))


# --- the table --------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[Row], str]] = {
    "run": lambda row: row.label,
    "bands": lambda row: row.bands,
    "method": lambda row: row.method,
    "songs": lambda row: str(row.tracks or "all"),
    "target": lambda row: row.target,
    "uSDR": lambda row: spread(row.usdr),
    "cSDR": lambda row: spread(row.csdr),
    "seeds": lambda row: str(len(row.seeds)),
    "trainable parameters": lambda row: f"{row.trainable_parameters:,}",
    "audio hours": lambda row: f"{row.audio_hours:.2f}",
    "training time, s": lambda row: spread(row.seconds, 0),
    "share of the base's time": lambda row: percent(row.seconds, row.base_seconds),
    "forgetting, dB": lambda row: spread(row.forgetting) if row.forgetting else MISSING,
}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``1.23 ± 0.05``: mean and standard deviation (n − 1) over seeds; the mean alone for one seed."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return MISSING
    mean = f"{statistics.fmean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Over seeds (n − 1); 0 for fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.stdev(known) if len(known) > 1 else 0.0


def percent(part: Sequence[float], whole: Sequence[float]) -> str:
    """The mean of one as a share of the mean of the other, where that is more than nothing: times are rounded."""
    if not whole or statistics.fmean(whole) <= 0:
        return MISSING
    return f"{100 * statistics.fmean(part) / statistics.fmean(whole):.0f} %"


def markdown(study: Study, rows: Sequence[Row]) -> str:
    """The table with what it is about above it."""
    devices = sorted({row.device for row in rows})
    lines = [
        f"# Study `{study.study}`",
        "",
        f"Seeds {', '.join(map(str, study.seeds))}; scores in dB on the {study.split} split, mean ± standard deviation "
        f"over seeds of the mean over tracks (cSDR: median over tracks). Device: {'; '.join(devices)}.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---" for _ in COLUMNS) + " |",
        *("| " + " | ".join(cell(row) for cell in COLUMNS.values()) + " |" for row in rows),
        "",
        *against_full(rows),
    ]
    return "\n".join(lines)


FULL_COLUMNS = (
    *("run", "target", "uSDR", "of `full`'s uSDR", "minus `full`, dB (95 % over seeds)"),
    *("of `full`'s training time", "of the base's training time"),
)


def against_full(rows: Sequence[Row]) -> list[str]:
    """What every other method reaches of `full` from the same base on the same songs, and for what; or nothing.

    uSDR is itself the gain over silence, which scores 0 dB: a stricter measure than the gain over the mixture.
    """
    full = {(row.base, row.target, row.tracks): row for row in rows if row.method == "full"}
    pairs = [(row, full.get((row.base, row.target, row.tracks))) for row in rows if row.method not in ("base", "full")]
    cells = [_full_cells(row, whole) for row, whole in pairs if whole is not None]
    if not cells:
        return []
    return [
        "Against training everything (`full`) on the same base, songs and seeds; uSDR is the gain over silence (0 dB).",
        "",
        f"| {' | '.join(FULL_COLUMNS)} |",
        f"| {' | '.join('---' for _ in FULL_COLUMNS)} |",
        *(f"| {' | '.join(line)} |" for line in cells),
        "",
    ]


def _full_cells(row: Row, full: Row) -> list[str]:
    ours, theirs = (dict(zip(r.seeds, r.usdr, strict=True)) for r in (row, full))
    seeds = [s for s in ours if s in theirs and not math.isnan(ours[s] + theirs[s])]
    if not seeds:
        return [row.label, row.target, *[MISSING] * (len(FULL_COLUMNS) - 2)]
    reached, whole = (statistics.fmean(scores[s] for s in seeds) for scores in (ours, theirs))
    share = percent([reached], [whole])
    time = percent(row.seconds, full.seconds)
    return [
        row.label,
        row.target,
        f"{reached:.2f}",
        share,
        _paired([ours[s] - theirs[s] for s in seeds]),
        time,
        percent(row.seconds, row.base_seconds),
    ]


def _paired(differences: Sequence[float]) -> str:
    """``-0.10 (-0.35 to +0.15)``: the mean and its 95 % interval by Student's t; the mean alone of one seed."""
    from scipy.stats import t  # takes half a second to import

    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return f"{mean:+.2f}"
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def table_csv(rows: Iterable[Row]) -> str:
    """One line per label, target and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    one = ("label", "base", "bands", "method", "tracks", "target", "trainable_parameters", "audio_hours", "device")
    each = ("seeds", "usdr", "csdr", "seconds")
    writer.writerow([*one, *each])
    for row in rows:
        values = asdict(row)
        for i in range(len(row.seeds)):
            writer.writerow([*(values[key] for key in one), *(values[key][i] for key in each)])
    return text.getvalue()


# --- figures ----------------------------------------------------------------------------------------------------------


TIME, AUDIO = "training time, s", "audio seen in training, h"


def curve_of(run: StudyRun, target: str, against: str = TIME) -> Curve:
    """Validation uSDR over training time without validation, or over the hours of audio seen, from metrics.jsonl.

    Logs that are older than ``training_seconds`` know the time with validation alone.
    """
    key, points = f"validation/{target}/usdr", []
    hours_per_step = run.recipe.train.batch_size * run.recipe.train.chunk_seconds / 3600
    for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event.get(key) is not None:
            seconds = event.get("training_seconds", event["seconds"])
            points.append((seconds if against == TIME else event["step"] * hours_per_step, event[key]))
    return points


def plot_curves(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]], bands: Mapping[str, str], against: str = TIME
) -> Figure:
    """One panel per target: every seed's curve thin, their mean thick; v7 in reds, every other scheme in blues.

    ``curves`` is target → label → one curve per seed. The line styles tell the labels apart in black and white, too.
    """
    columns = len(curves) if len(curves) <= 3 else math.ceil(len(curves) / 2)
    n_rows = math.ceil(len(curves) / columns)
    figure = pyplot.figure(figsize=(4.2 * columns + 1, 4.4 * n_rows), layout="constrained")
    axes = [figure.add_subplot(n_rows, columns, i + 1) for i in range(len(curves))]
    for axis, (target, by_label) in zip(axes, curves.items(), strict=True):
        for (label, seeds), style in zip(by_label.items(), _styles(list(by_label), bands), strict=True):
            for curve in seeds:
                axis.plot(*zip(*curve, strict=True), alpha=0.3, linewidth=0.8, **style)
            axis.plot(*zip(*_mean_curve(seeds), strict=True), linewidth=2.0, label=label, **style)
        axis.set(title=target, xlabel=against)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[::columns]:
        axis.set_ylabel("validation uSDR, dB")
    return figure


def _styles(labels: Sequence[str], bands: Mapping[str, str]) -> list[dict[str, Any]]:
    reds = [label for label in labels if bands[label] == "v7"]
    styles = []
    for label in labels:
        family, name = (reds, "Reds") if label in reds else ([x for x in labels if x not in reds], "Blues")
        place = family.index(label)
        shade = 0.9 - 0.5 * place / max(1, len(family) - 1)
        styles.append({"color": matplotlib.colormaps[name](shade), "linestyle": ("-", "--", "-.", ":")[place % 4]})
    return styles


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Point by point: all seeds look at the same steps, as far as the shortest goes."""
    return [tuple(map(statistics.fmean, zip(*points, strict=True))) for points in zip(*curves, strict=False)]  # type: ignore[misc]


def plot_songs(rows: Sequence[Row]) -> Figure:
    """uSDR against the number of training songs, a line per base, method and target; bars are over seeds."""
    figure, axis = pyplot.subplots(figsize=(6, 4.4), layout="constrained")
    lines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        lines[f"{row.base} to {row.target}, {row.method}"].append(row)
    most = max(row.tracks for row in rows)
    for label, points in lines.items():
        if len(points) < 2:
            continue
        points = sorted(points, key=lambda row: row.tracks or math.inf)
        x = [row.tracks or 2 * most for row in points]
        means, spreads = ([f(row.usdr) for row in points] for f in (_mean, _deviation))
        axis.errorbar(x, means, spreads, marker="o", capsize=3, label=label)
    ticks = sorted({row.tracks or 2 * most for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [("all" if any(not r.tracks for r in rows) and t == 2 * most else str(t)) for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="training songs", ylabel="uSDR, dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def plot_matrix(rows: Sequence[Row], what: str = "uSDR, dB") -> Figure:
    """Base × target as a heat map, every cell with its number."""
    bases, targets = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("base", "target"))
    values = [[_cell(rows, base, target) for target in targets] for base in bases]
    figure, axis = pyplot.subplots(figsize=(1.4 * len(targets) + 2.4, 0.8 * len(bases) + 1.6), layout="constrained")
    picture = axis.imshow(values, cmap="Greys", aspect="auto")
    axis.set_xticks(range(len(targets)), targets)
    axis.set_yticks(range(len(bases)), bases)
    axis.set(xlabel="target", ylabel="base")
    known = [value for line in values for value in line if not math.isnan(value)]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            text = MISSING if math.isnan(value) else f"{value:.2f}"
            axis.text(x, y, text, ha="center", va="center", color="white" if value > middle else "black")
    figure.colorbar(picture, label=what)
    return figure


def _cell(rows: Sequence[Row], base: str, target: str) -> float:
    values = [_mean(row.usdr) for row in rows if (row.base, row.target) == (base, target)]
    return values[0] if values else math.nan


def plot_forgetting(rows: Sequence[Row]) -> Figure:
    """How the base's own heads changed, per transfer; bars are over seeds."""
    figure, axis = pyplot.subplots(figsize=(6, 0.4 * len(rows) + 1.4), layout="constrained")
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
    """Write table and figures of the evaluated runs into ``out``; returns the rows."""
    rows = collect(runs)
    values = {"study": study.study, "split": study.split, "rows": [_finite(asdict(row)) for row in rows]}
    write_json(out / "study.json", values)
    write_text(out / "study.md", markdown(study, rows))
    write_text(out / "study.csv", table_csv(rows))
    for name, figure in _figures(runs, rows):
        for suffix in ("png", "svg"):
            with atomic_write(out / f"{name}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=150)
        pyplot.close(figure)
    return rows


def _figures(runs: Sequence[StudyRun], rows: Sequence[Row]) -> Iterable[tuple[str, Figure]]:
    bands = {run.label: run.recipe.bands.kind for run in runs}
    for name, against in (("curves", TIME), ("curves_audio", AUDIO)):
        curves = _curves(runs, against)
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


def _curves(runs: Sequence[StudyRun], against: str) -> dict[str, dict[str, list[Curve]]]:
    """Target → label → one curve per seed."""
    curves: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for target in run.recipe.targets:
            curve = curve_of(run, target, against)
            if curve:
                curves[target][run.label].append(curve)
    return curves


def _finite(value: Any) -> Any:
    """The value with null for NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
