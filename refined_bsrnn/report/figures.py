"""One set of charts for runs and studies: band schemes, curves, heat maps.

Every figure is made by a function that returns a `Figure` and saved by one that takes a path, so nothing depends on
pyplot's global state or on a display. Curves differ in colour, marker and line style, so they can be told apart in
black and white. The same data give the same file, byte for byte.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from ..errors import UserError
from ..runs.spectrograms import TICKS_HZ, hz_label
from ..system import atomic_write

Points = Sequence[tuple[float, float]]
Bands = Sequence[tuple[float, float]]

DPI = 100
WIDTH_INCHES = 12.0

# Okabe and Ito's palette (distinct for colour-blind readers, without the yellow that vanishes on white). The three
# lists have different lengths, so that a combination returns only after 84 curves.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":")

C0_HZ = 440.0 * 2.0 ** (-57 / 12)
LEFT_EDGE_HZ = 15.5
CENTS_TICKS = {
    25: "25",
    50: "50",
    100: "100 (semitone)",
    200: "200",
    300: "300 (minor third)",
    600: "600",
    1200: "1200 (octave)",
    2400: "2400",
    4800: "4800",
}


def curve_style(i: int) -> dict[str, Any]:
    """Colour, marker and line style of the i-th curve."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }


def save(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write a figure as PNG or SVG, by the suffix; the file appears completely or not at all.

    Raises `UserError` for another suffix or a folder that cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise UserError(f"A figure is written as .png or .svg; {path.name!r} is neither.")
    # Without these two an SVG holds the time of writing and random ids.
    metadata = {"Date": None} if kind == ".svg" else None
    with mpl.rc_context({"svg.hashsalt": "refined_bsrnn"}), atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind[1:], dpi=dpi, metadata=metadata)
    return path


def _new_figure(height_inches: float) -> Figure:
    return Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")


# --- band schemes -----------------------------------------------------------------------------------------------------


def band_cents(bands: Bands) -> list[tuple[float, float]]:
    """``(centre in Hz, width in cents)`` per band; the centre is the geometric mean of the edges.

    A band that starts at 0 Hz spans infinitely many cents and is left out.
    """
    return [(math.sqrt(low * high), 1200 * math.log2(high / low)) for low, high in bands if low > 0]


def bands_figure(schemes: Mapping[str, Bands], widths_bins: Mapping[str, Sequence[int]] | None = None) -> Figure:
    """Band schemes over the musical scale; ``schemes[name]`` is ``[(low_hz, high_hz), ...]`` from 0 Hz to Nyquist.

    Above: one row per scheme, its bands as rectangles in alternating shades over log2 of the frequency, with the notes
    C0 to C10 below and Hz on top; overlapping bands are staggered in three lanes. Below: each band's width in cents at
    its centre, and where ``widths_bins[name]`` is given, in bins. A band that starts at 0 Hz is drawn to the left edge
    of the upper panel and left out of the others: on these axes it has no centre and in cents no finite width.
    """
    rows_inches = 0.55 * len(schemes) + 0.9
    heights = [rows_inches, 4.4] if widths_bins is None else [rows_inches, 3.8, 3.8]
    figure = _new_figure(sum(heights))
    upper, *lower = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    positive = [edge for bands in schemes.values() for band in bands for edge in band if edge > 0]
    left = math.log2(min([LEFT_EDGE_HZ, *(0.8 * edge for edge in positive)]))
    right = math.log2(max([20000.0, *positive]))
    for row, (_, bands) in enumerate(schemes.items()):
        _draw_row(upper, row, bands, left)
    _label_rows(upper, schemes)
    _draw_widths(lower[0], {name: band_cents(bands) for name, bands in schemes.items()}, CENTS_TICKS)
    lower[0].set_ylabel("band width (cents)", fontsize=11)
    if widths_bins is not None:
        points = {name: _band_bins(bands, widths_bins[name]) for name, bands in schemes.items()}
        _draw_widths(lower[1], points, {2**i: str(2**i) for i in range(14)})
        lower[1].set_ylabel("band width (bins)", fontsize=11)
    _frequency_axes([upper, *lower], left, right)
    longest = max(map(len, schemes), default=0)
    handles = lower[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(1, 120 // (longest + 10)))
    return figure


def _band_bins(bands: Bands, widths_bins: Sequence[int]) -> list[tuple[float, float]]:
    """``(centre in Hz, width in bins)`` per band that starts above 0 Hz."""
    return [(math.sqrt(low * high), n) for (low, high), n in zip(bands, widths_bins, strict=True) if low > 0]


LANES = 3  # a band of a triangular filterbank meets its two neighbours, a rectangular one little more


def _draw_row(axes: Axes, row: int, bands: Bands, left: float) -> None:
    colour = COLOURS[row % len(COLOURS)]
    n_lanes = LANES if any(low < high for (_, high), (low, _) in pairwise(bands)) else 1
    height = 0.76 / n_lanes
    for i, (low_hz, high_hz) in enumerate(bands):
        start = max(left, math.log2(low_hz)) if low_hz > 0 else left
        stop = max(left, math.log2(high_hz))
        bottom = row - 0.38 + height * (i % n_lanes)
        # Within a lane neighbours differ in shade too, where there are lanes by every other one of its bands.
        shade = 0.75 if (i // n_lanes + i % n_lanes) % 2 else 0.25
        box = Rectangle((start, bottom), stop - start, height, facecolor=tint(colour, shade))
        box.set(edgecolor="black", linewidth=0.6)
        axes.add_patch(box)


def tint(colour: str, share: float) -> tuple[float, ...]:
    """A colour thinned with white (opaque, so that no grid line shows through)."""
    return tuple(1 - share * (1 - channel) for channel in to_rgb(colour))


def _label_rows(axes: Axes, schemes: Mapping[str, Bands]) -> None:
    axes.set_yticks(range(len(schemes)), [f"{name}\nK = {len(bands)}" for name, bands in schemes.items()], fontsize=11)
    axes.set_ylim(len(schemes) - 0.45, -0.55)  # the first scheme on top
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)


def _draw_widths(axes: Axes, curves: Mapping[str, Points], ticks: Mapping[int, str]) -> None:
    """One curve per scheme over log2 of the centre, widths on a log scale."""
    widths = [width for points in curves.values() for _, width in points]
    for i, (name, points) in enumerate(curves.items()):
        x = [math.log2(hz) for hz, _ in points]
        # Schemes share bands: each curve is thinner than the one below it, so that both are seen where they coincide.
        over = i / max(1, len(curves) - 1)
        size: dict[str, Any] = {"linewidth": 2.8 - 1.7 * over, "markersize": 7.5 - 3.5 * over}
        axes.plot(x, [width for _, width in points], label=name, **size, **curve_style(i))
    low, high = min(widths, default=100.0) / 1.15, max(widths, default=1200.0) * 1.15
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    shown = {width: label for width, label in ticks.items() if low <= width <= high}
    axes.set_yticks(list(shown), list(shown.values()))
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", linewidth=0.4, color="0.8")


def _frequency_axes(panels: Sequence[Axes], left: float, right: float) -> None:
    """Notes below the first and the last panel, Hz on top; x is log2 of the frequency in Hz throughout."""
    upper, lower = panels[0], panels[-1]
    octaves = range(11)
    lower.set_xticks([math.log2(C0_HZ) + octave for octave in octaves], [f"C{octave}" for octave in octaves])
    lower.set_xlim(left, right)
    lower.set_xlabel("frequency (note)", fontsize=11)
    upper.tick_params(axis="x", labelbottom=True)
    top = upper.secondary_xaxis("top")
    top.set_xticks([math.log2(hz) for hz in TICKS_HZ], [hz_label(hz) for hz in TICKS_HZ])
    top.set_xlabel("frequency (Hz)", fontsize=11)
    for axes in panels:
        axes.grid(axis="x", linewidth=0.4, color="0.8")


# --- curves -----------------------------------------------------------------------------------------------------------


def curves_figure(
    panels: Mapping[str, Mapping[str, Sequence[Points]]],
    x_label: str,
    y_label: str,
    styles: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    log: bool = False,
) -> Figure:
    """``panels[title][name]`` are curves ``[(x, y), ...]``, one per seed; the names are the legend.

    With several seeds, each is thin, their mean thick and its standard deviation a band. Non-finite points are left
    out, on a logarithmic axis also points at zero; without data the axes say so. ``styles[title][name]`` are options of
    matplotlib's `plot`; without them a name has the same style in all panels.
    """
    columns = len(panels) if len(panels) <= 3 else math.ceil(len(panels) / 2)
    n_rows = math.ceil(len(panels) / columns)
    figure = _new_figure(6.0) if len(panels) == 1 else Figure((4.2 * columns + 1, 4.4 * n_rows), layout="constrained")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    by_name = {name: curve_style(i) for i, name in enumerate(names)}
    for place, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(n_rows, columns, place + 1)
        of_panel = by_name if styles is None else styles[title]
        for name, seeds in curves.items():
            _draw_seeds(axes, name, [points for seed in seeds if (points := _drawable(seed, log))], of_panel[name])
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", fontsize=14)
            axes.set(xticks=[], yticks=[])
        elif len(panels) > 1:
            axes.legend(fontsize=7)
        if log:
            _logarithmic(axes)
        axes.set_title(title)
        axes.set_xlabel(x_label, fontsize=11)
        axes.set_ylabel(y_label if place % columns == 0 else "", fontsize=11)
        axes.grid(linewidth=0.4, color="0.8")
        axes.margins(x=0.02)
    if len(panels) == 1 and figure.axes[0].lines:
        # Beside the curves when the names leave room for them, else below.
        below = max(map(len, names)) > 28
        figure.legend(loc="outside lower center" if below else "outside right upper", ncols=2 if below else 1)
    return figure


def _logarithmic(axes: Axes) -> None:
    """A logarithmic x axis that is labelled at 1, 2 and 5 times each power of ten, also if it spans less than that."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _drawable(points: Points, log: bool) -> Points:
    return [(x, y) for x, y in points if math.isfinite(x + y) and (x > 0 or not log)]


def _draw_seeds(axes: Axes, name: str, seeds: Sequence[Points], style: Mapping[str, Any]) -> None:
    """Curves of one name. The mean is point by point: all seeds look at the same steps, as far as the shortest goes."""
    if not seeds:
        return
    cut = np.array([points[: min(map(len, seeds))] for points in seeds])  # (seeds, points, 2)
    (x, y), n_points = cut.mean(0).T, cut.shape[1]
    if len(seeds) > 1:
        for points in seeds:
            axes.plot(*zip(*points, strict=True), alpha=0.3, linewidth=0.8, **{**style, "marker": ""})
        deviation = cut[:, :, 1].std(0, ddof=1)
        axes.fill_between(x, y - deviation, y + deviation, color=style["color"], alpha=0.15, linewidth=0)
    # Markers at every point of a long curve would merge into a thick line.
    width = 1.6 if len(seeds) == 1 else 2.0
    axes.plot(x, y, label=name, linewidth=width, markersize=5.5, markevery=max(1, n_points // 25), **style)


# --- numbers in fields ------------------------------------------------------------------------------------------------


def heat_map(
    cells: Mapping[tuple[int, int], tuple[float, str]], bases: Sequence[str], targets: Sequence[str], label: str
) -> Figure:
    """Bases × targets: every field with its number and its uncertainty, a dash if there is none."""
    table = [[cells.get((i, j), (math.nan, ""))[0] for j in range(len(targets))] for i in range(len(bases))]
    figure = Figure(figsize=(1.9 + 1.15 * len(targets), 1.5 + 0.75 * len(bases)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Greys", aspect="auto")
    middle = sum(image.get_clim()) / 2
    for i, j in np.ndindex(len(bases), len(targets)):
        value, mark = cells.get((i, j), (math.nan, ""))
        colour = "white" if value > middle else "black"
        text = "–" if math.isnan(value) else f"{value:.2f}{mark}"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(len(targets)), targets)
    axes.set_yticks(range(len(bases)), bases)
    axes.set(xlabel="target", ylabel="base")
    figure.colorbar(image, ax=axes, label=label)
    return figure
