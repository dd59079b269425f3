"""Figures of a report, from results alone: curves, box plots per target, tracks of two runs, bases × targets, bands."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from matplotlib.figure import Figure

from ..bands import SCHEMES, BandSplit, band_split, ranges_hz
from ..errors import UserError
from ..recipe import load_recipe
from .comparable import NAMES, base_of, rivals, scored, with_target
from .figures import COLOURS, MARKERS, bands_figure, curves_figure, heat_map, tint
from .results import Run, number

HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\")


# --- training curves --------------------------------------------------------------------------------------------------


def training_curves(runs: Sequence[Run]) -> tuple[dict[str, list[tuple[float, float]]], str, str, list[str]]:
    """Validation uSDR against training time: ``(curves, x label, y label, notes)``.

    The mean over each run's targets, or the one target that all runs share. If no run has validated: the loss.
    """
    shared = [target for target in runs[0].targets if all(target in run.targets for run in runs)]
    y_label, keys = "validation uSDR, mean over targets (dB)", ["validation/usdr"]
    if len(shared) == 1:
        y_label, keys = f"validation uSDR, {shared[0]} (dB)", [f"validation/{shared[0]}/usdr"]
    curves = {run.name: _curve(run, keys, shared) for run in runs}
    if not any(curves.values()):
        y_label, curves = "training loss", {run.name: _curve(run, ["loss"], ()) for run in runs}
    empty = [name for name, points in curves.items() if not points]
    notes = [f"Not in the figure of {y_label.split(',')[0]}, nothing logged: {', '.join(empty)}."] if empty else []
    longest = max((x for points in curves.values() for x, _ in points), default=0.0)
    unit, seconds = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 120 else ("seconds", 1)
    scaled = {name: [(x / seconds, y) for x, y in points] for name, points in curves.items()}
    return scaled, f"training time ({unit})", y_label, notes


def _curve(run: Run, keys: Sequence[str], shared: Sequence[str]) -> list[tuple[float, float]]:
    """``(seconds, value)`` of the log lines that hold a key; a run with one target may log its mean alone."""
    keys = [*keys, "validation/usdr"] if run.targets == list(shared) else keys
    points = []
    for line in run.log:
        seconds = number(line, "seconds")
        value = next((value for key in keys if (value := number(line, key)) is not None), None)
        if seconds is not None and value is not None:
            points.append((seconds, value))
    return points


# --- scores -----------------------------------------------------------------------------------------------------------


def boxes_figure(runs: Sequence[Run], targets: Sequence[str], metric: str) -> Figure:
    """Scores of single tracks, one panel per target, one box per run, as in SiSEC.

    Box: quartiles and median; whiskers: the last track within 1.5 box heights; circles: tracks beyond. The dashed line
    is the median of the unprocessed mixture. Boxes also differ in hatching.
    """
    n_boxes = sum(len(with_target(runs, target)) for target in targets)
    figure = Figure(figsize=(max(7.0, 1.6 + 0.75 * n_boxes + 0.5 * len(targets)), 4.8), layout="constrained")
    widths = [max(1, len(with_target(runs, target))) for target in targets]
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, target in zip(panels, targets, strict=True):
        members = with_target(runs, target)
        values = [
            [x for e in scored(r, target).values() if (x := number(e, "estimate", metric)) is not None] for r in members
        ]
        drawn = axes.boxplot(values, widths=0.6, patch_artist=True, medianprops={"color": "black", "linewidth": 2})
        for box, run in zip(drawn["boxes"], members, strict=True):
            i = runs.index(run)
            box.set(facecolor=tint(COLOURS[i % len(COLOURS)], 0.55), hatch=HATCHES[i % len(HATCHES)], edgecolor="black")
        nothing = [x for e in scored(members[0], target).values() if (x := number(e, "mixture", metric)) is not None]
        if nothing:
            axes.axhline(statistics.median(nothing), color="0.35", linestyle="--", linewidth=1.2, zorder=0)
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.set_title(f"{target}\n{len(values[0])} tracks", fontsize=11)
        axes.set_xticks(range(1, len(members) + 1), [run.name for run in members], rotation=30, ha="right")
        axes.grid(axis="y", linewidth=0.4, color="0.85")
    panels[0].set_ylabel(f"{NAMES[metric]} per track (dB)", fontsize=11)
    return figure


def scatter_figure(a: Run, b: Run, targets: Sequence[str], metric: str = "usdr") -> Figure:
    """Every track on which both runs were scored: a's score over b's. Above the diagonal a is better."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    seen = []
    for i, target in enumerate(targets):
        ours, theirs = scored(a, target), scored(b, target)
        names = [n for n in ours if n in theirs]
        pairs = [(number(theirs[n], "estimate", metric), number(ours[n], "estimate", metric)) for n in names]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        seen += [value for point in points for value in point]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        colour, marker = (values[i % len(values)] for values in (COLOURS, MARKERS))
        label = f"{target} ({len(points)} tracks)"
        axes.scatter(xs, ys, s=46, marker=marker, label=label, edgecolors=colour, facecolors="none", linewidths=1.6)
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    margin = 0.05 * (high - low) + 0.1
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color="0.4", linewidth=1, linestyle="--", zorder=0)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(f"{b.name}: {NAMES[metric]} (dB)", fontsize=11)
    axes.set_ylabel(f"{a.name}: {NAMES[metric]} (dB)", fontsize=11)
    axes.text(0.03, 0.97, f"above the line: {a.name} is better", transform=axes.transAxes, va="top", fontsize=9)
    axes.grid(linewidth=0.4, color="0.85")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def heat_figure(runs: Sequence[Run], targets: Sequence[str], metric: str = "usdr") -> Figure | None:
    """Bases × targets: the mean score of a base's own heads and of those transferred to it; None without a transfer.

    If several transfers have the same target, the best is shown. A star marks transfers.
    """
    bases = [run for run in runs if any(base_of(other) == run.results["run"] for other in runs)]
    others = dict.fromkeys(b for run in runs if (b := base_of(run)) and b not in {x.results["run"] for x in bases})
    names = [run.results["run"] for run in bases] + [str(name) for name in others]
    if not names:
        return None
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    for run in runs:
        base, star = (base_of(run), "*") if base_of(run) else (run.results["run"], "")
        for target in run.targets:
            value = number(run.results["summary"], target, "estimate", metric, "mean")
            place = (names.index(base), targets.index(target)) if base in names else None
            if place and value is not None and (place not in cells or value > cells[place][0]):
                cells[place] = value, star
    figure = heat_map(cells, names, targets, f"mean {NAMES[metric]} (dB)")
    figure.axes[0].set_title("* transferred to the target; others are the base's own heads", fontsize=10)
    return figure


def band_schemes_figure(runs: Sequence[Run]) -> Figure | None:
    """The band schemes of the runs, each once; None if no run has one."""
    schemes: dict[str, tuple[BandSplit, dict[str, int]]] = {}
    for name, found in (each for run in runs for each in _bands(run)):
        schemes.setdefault(name, found)
    hz = {name: ranges_hz(split, **grid) for name, (split, grid) in schemes.items()}
    widths = {name: [stop - start for start, stop in split] for name, (split, _) in schemes.items()}
    return bands_figure(hz, widths) if schemes else None


def _bands(run: Run) -> Iterator[tuple[str, tuple[BandSplit, dict[str, int]]]]:
    """The scheme of a run and the split, at which rate and n_fft: as its recipe says, else the scheme's defaults."""
    kind, grid = run.results["model"].get("bands"), {"sample_rate_hz": 44100, "n_fft": 2048}
    options: Mapping[str, Any] = {}
    with suppress(UserError):  # a recipe of another version, or a scheme that has no defaults
        if (run.folder / "recipe.yaml").is_file():
            recipe = load_recipe(run.folder / "recipe.yaml")
            kind, options = recipe.bands.kind, recipe.bands.options
            grid = {"sample_rate_hz": recipe.stft.sample_rate_hz, "n_fft": recipe.stft.n_fft}
        if kind in SCHEMES:
            yield str(kind), (band_split(kind, **grid, **options), grid)


def all_figures(runs: Sequence[Run], targets: Sequence[str]) -> tuple[dict[str, tuple[Figure, str]], list[str]]:
    """{file name: (figure, description)} and notes, for all figures that these runs have data for."""
    curves, x_label, y_label, notes = training_curves(runs)
    scored_targets = [t for t in targets if any(scored(run, t) for run in with_target(runs, t))]
    figures: dict[str, tuple[Figure | None, str]] = {}
    for metric in NAMES if scored_targets else ():
        text = f"{NAMES[metric]} of single tracks per target and run: median, quartiles; dashed: doing nothing (median)"
        figures[f"boxes-{metric}"] = boxes_figure(runs, scored_targets, metric), text
    drawn: set[str] = set()
    for a, b, shared in rivals(runs):
        if b.name in drawn:  # each run against the first it may be compared with; the table has all pairs
            continue
        drawn.add(b.name)
        name = f"tracks-{_file(a.name)}-{_file(b.name)}"
        figures[name] = scatter_figure(a, b, shared), f"Every track: uSDR of {a.name} against {b.name}"
    figures["transfer"] = heat_figure(runs, targets), "Mean uSDR per base and target; * transferred"
    panels = {"": {name: [points] for name, points in curves.items()}}
    figures["curves"] = curves_figure(panels, x_label, y_label), f"Training curves: {y_label} over {x_label}"
    figures["bands"] = band_schemes_figure(runs), "Band schemes of the runs over the musical scale, and their widths"
    return {name: (figure, text) for name, (figure, text) in figures.items() if figure is not None}, notes


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
