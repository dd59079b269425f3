"""Band schemes: functions that split the F bins of a spectrogram into K bands.

A scheme is a function of a :class:`Grid` (and its own options) that returns either

- the first bin of every band: a partition, in which each bin is in one band; or
- a filterbank (K, F) for overlapping bands: each band runs from its first to its last bin with a weight above zero.

To add a scheme, write such a function and add it to `SCHEMES`.

`band_split` converts the result to half-open bin ranges and, for overlapping bands, to the weights with which their
masks are summed. At each bin the weights add up to one, so that masks of one leave the mixture unchanged. A split with
an uncovered bin or an empty band is refused.

The BSRNN paper gives its schemes in Hz. Two incompatible roundings to bins are in use:

- ``hz`` (default): a band ends with the last bin below its edge, at bin ``ceil(edge / bin width)``, as in the paper.
- ``floor``: every width is floored to whole bins and the widths are added up, so edges drift downwards. The authors'
  code and the published oBSRNN checkpoints use this rounding.

A bin exactly on an edge belongs to the upper band; edges are compared in exact arithmetic.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RecipeError, pick
from .schema import bind_options

BinRange = tuple[int, int]
Filterbank = npt.NDArray[np.float64]  # (K, F), not negative
Scheme = Callable[..., list[int] | Filterbank]


@dataclass(frozen=True)
class Grid:
    """The frequency bins of an STFT: bin k lies at ``k * sample_rate_hz / n_fft`` Hz."""

    sample_rate_hz: int
    n_fft: int

    @property
    def n_bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def bin_width_hz(self) -> float:
        return self.sample_rate_hz / self.n_fft

    def bins_below(self, edge_hz: float) -> int:
        """The number of bins strictly below ``edge_hz`` (exact: no rounding decides a tie)."""
        return math.ceil(Fraction(edge_hz) * self.n_fft / self.sample_rate_hz)


# --- the paper's schemes (BSRNN, section V-A) and the joint one of SIMO-BSRNN -----------------------------------------
# Each is a list of (up to Hz, band width in Hz); whatever lies above the last edge is one more band.

PAPER_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "v1": ((21000, 1000),),
    "v2": ((16000, 1000), (20000, 2000)),
    "v3": ((8000, 1000), (16000, 2000), (20000, 4000)),
    "v4": ((1000, 100), (8000, 1000), (16000, 2000), (20000, 4000)),
    "v5": ((1000, 100), (16000, 1000), (20000, 2000)),
    "v6": ((1000, 100), (4000, 500), (8000, 1000), (16000, 2000), (20000, 4000)),
    "v7": ((1000, 100), (4000, 250), (8000, 500), (16000, 1000), (20000, 2000)),
    "bass": ((500, 50), (1000, 100), (4000, 500), (8000, 1000), (16000, 2000)),
    "drums": ((1000, 50), (2000, 100), (4000, 250), (8000, 500), (16000, 1000)),
    "joint": ((1000, 50), (2000, 100), (4000, 250), (8000, 500), (16000, 1000), (20000, 2000)),
}


def paper_widths_hz(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Band widths in Hz, lowest first, without the remainder at the top."""
    widths, low_hz = [], 0
    for high_hz, width_hz in ranges:
        widths += [width_hz] * ((high_hz - low_hz) // width_hz)
        low_hz = high_hz
    return widths


def _paper_scheme(name: str) -> Scheme:
    widths_hz = paper_widths_hz(PAPER_RANGES[name])

    def scheme(grid: Grid, *, rounding: str = "hz") -> list[int]:
        if rounding == "hz":
            edges = [grid.bins_below(sum(widths_hz[: i + 1])) for i in range(len(widths_hz))]
        elif rounding == "floor":
            widths = [math.floor(Fraction(2 * width * grid.n_bins, grid.sample_rate_hz)) for width in widths_hz]
            edges = [sum(widths[: i + 1]) for i in range(len(widths))]
        else:
            raise RecipeError(f"bands.rounding is {rounding!r}; expected 'hz' or 'floor'.")
        # Below 44.1 kHz the scheme simply ends at the Nyquist frequency.
        return [0, *(edge for edge in edges if edge < grid.n_bins)]

    scheme.__doc__ = f"The {name} scheme of the BSRNN family: {len(widths_hz) + 1} bands at 44.1 kHz."
    return scheme


# --- generic schemes: evenly spread over the musical scale ------------------------------------------------------------


def quarter_tone_hz(q: int) -> float:
    """Frequency of the note q quarter tones above A4 = 440 Hz."""
    return 440.0 * 2.0 ** (q / 24)


def quarter_tones_hz(step: int, first: int = 0) -> list[float]:
    """Every ``step``-th quarter tone from 20 Hz to 20 kHz, those congruent to ``first``: (2, 0) are the semitones."""
    notes = [quarter_tone_hz(q) for q in range(-120, 144) if (q - first) % step == 0]
    return [hz for hz in notes if 20.0 <= hz <= 20000.0]


def thin(edges_hz: Sequence[float], max_bands: int | None) -> list[float]:
    """At most ``max_bands`` - 1 edges, evenly spread: entry ``int(i * n / m)`` of the n for i = 0 ... m - 1.

    These edges make at most ``max_bands`` bands, including the one above the last edge. None keeps all edges.
    """
    if max_bands is None:
        return list(edges_hz)
    _check_count("max_bands", max_bands)
    n_kept = min(max_bands - 1, len(edges_hz))
    return [edges_hz[i * len(edges_hz) // n_kept] for i in range(n_kept)]


def tet24_edges_hz(max_bands: int = 42) -> list[float]:
    """The 41 edges of the published generic scheme.

    The 120 odd quarter tones (those between the semitones) from 20 Hz to 20 kHz are thinned to 41. Bands are three
    semitones wide, three of them two. The edges are computed from the integer quarter tone, not by adding steps in
    floating point as in the published code.
    """
    return thin(quarter_tones_hz(2, 1), max_bands)


# Where the published code's accumulated rounding yields an edge twice: these four stand beside true edges.
SEED_SPURIOUS_EDGES_HZ = (43.795, 87.591, 9988.39, 19976.77)


def _starts(grid: Grid, edges_hz: Sequence[float]) -> list[int]:
    """Band starts from edges in Hz; an edge that adds no bin is dropped."""
    inner = {grid.bins_below(edge) for edge in edges_hz}
    return [0, *sorted(start for start in inner if 0 < start < grid.n_bins)]


def tet24(grid: Grid, *, max_bands: int = 42, top_edge_hz: float | None = None) -> list[int]:
    """The published generic scheme in exact arithmetic, empty bands dropped: 36 bands at n_fft 2048.

    ``max_bands`` sets the number to which the 120 notes are thinned before empty bands are dropped. ``top_edge_hz``
    adds one more edge (20000 puts inaudible frequencies into their own band).
    """
    edges_hz = tet24_edges_hz(max_bands)
    if top_edge_hz is not None:
        highest_hz = max(edges_hz, default=0.0)
        if top_edge_hz <= highest_hz:
            raise RecipeError(
                f"bands.top_edge_hz is {top_edge_hz:g}; expected more than the highest edge, {highest_hz:.0f} Hz."
            )
        edges_hz = [*edges_hz, top_edge_hz]
    return _starts(grid, edges_hz)


def tet24_seed(grid: Grid) -> list[int]:
    """The bands that the published code really builds, including its rounding artefacts: 38 bands at n_fft 2048."""
    return _starts(grid, [*tet24_edges_hz(), *SEED_SPURIOUS_EDGES_HZ])


def tet24_fixed(grid: Grid, *, max_bands: int = 42) -> list[int]:
    """The edges of `tet24`, each at least one bin above the previous: ``max_bands`` bands (up to 121) for any n_fft.

    Edges above the Nyquist frequency are left out: at 16 kHz there are 37 bands.
    """
    starts = [0]
    for edge_hz in tet24_edges_hz(max_bands):
        if edge_hz < grid.sample_rate_hz / 2:
            starts.append(max(grid.bins_below(edge_hz), starts[-1] + 1))
    return starts


def semitone(grid: Grid, *, max_bands: int | None = None) -> list[int]:
    """Edges on all notes of the 12-tone scale from 20 Hz to 20 kHz, empty bands dropped: 88 bands at n_fft 2048."""
    return _starts(grid, thin(quarter_tones_hz(2), max_bands))


def quarter_tone(grid: Grid, *, max_bands: int | None = None) -> list[int]:
    """Edges on all quarter tones from 20 Hz to 20 kHz, empty bands dropped: 150 bands at n_fft 2048."""
    return _starts(grid, thin(quarter_tones_hz(1), max_bands))


MOST_DIVISIONS = 1200  # of an octave: cents
MOST_BANDS = 512  # twice the finest scheme here (quarter tones); the time that a network takes grows with them
MOST_WEIGHTS = 10**7  # of a filterbank, bands × bins: 64 bands at the largest n_fft


def tet(
    grid: Grid, *, divisions: int, low_hz: float = 20.0, high_hz: float = 20000.0, max_bands: int | None = None
) -> list[int]:
    """``divisions`` equal bands per octave from ``low_hz`` to ``high_hz``; edges are half a step from A4 = 440 Hz.

    With 12 divisions every band holds one semitone, with its note in the middle; with 4 it holds three, about like
    ``tet24``. ``max_bands`` thins the edges evenly.
    """
    nyquist_hz = grid.sample_rate_hz / 2
    if not 1 <= divisions <= MOST_DIVISIONS or not 0 < low_hz < min(high_hz, nyquist_hz):
        raise RecipeError(
            f"bands: divisions {divisions}, low_hz {low_hz}, high_hz {high_hz}; expected 1 to {MOST_DIVISIONS} "
            f"divisions per octave and 0 < low_hz < high_hz, and low_hz below {nyquist_hz:g} Hz."
        )
    first = math.ceil(divisions * math.log2(low_hz / 440.0) - 0.5)
    last = math.floor(divisions * math.log2(high_hz / 440.0) - 0.5)
    return _starts(grid, thin([440.0 * 2.0 ** ((i + 0.5) / divisions) for i in range(first, last + 1)], max_bands))


# --- linear schemes and those written by hand -------------------------------------------------------------------------


def even(grid: Grid, *, n_bands: int) -> list[int]:
    """``n_bands`` bands of equal width (to the bin)."""
    _check_count("n_bands", n_bands)
    return [i * grid.n_bins // n_bands for i in range(n_bands)]


# (number of bands, width in bins): the default of the published code, made for n_fft 2048
BS_ROFORMER_WIDTHS = ((24, 2), (12, 4), (8, 12), (8, 24), (8, 48), (1, 128), (1, 129))


def bs_roformer(grid: Grid) -> list[int]:
    """The 62 bands of BS-RoFormer, given in bins and therefore for n_fft 2048 only."""
    if grid.n_fft != 2048:
        raise RecipeError(
            f"bands.kind=bs_roformer is defined for stft.n_fft 2048, not {grid.n_fft}; "
            "choose v7 or mel_band_roformer, or write bands.edges_bins with bands.kind=custom."
        )
    widths = [width for n_bands, width in BS_ROFORMER_WIDTHS for _ in range(n_bands)]
    return [sum(widths[:i]) for i in range(len(widths))]


def custom(grid: Grid, *, edges_hz: Sequence[float] = (), edges_bins: Sequence[int] = ()) -> list[int]:
    """Inner band edges as written in the recipe, in Hz or as first bins; the outer ones are 0 Hz and Nyquist."""
    if bool(edges_hz) == bool(edges_bins):
        raise RecipeError("bands.kind=custom needs the option 'edges_hz' or 'edges_bins', one of the two.")
    if edges_bins:
        if list(edges_bins) != sorted(set(edges_bins)) or edges_bins[0] < 1 or edges_bins[-1] >= grid.n_bins:
            raise RecipeError(
                f"bands.edges_bins {list(edges_bins)} must rise strictly, from 1 or more to {grid.n_bins - 1} or less."
            )
        return [0, *edges_bins]
    edges = [float(edge) for edge in edges_hz]
    if edges != sorted(set(edges)) or edges[0] <= 0 or edges[-1] > grid.sample_rate_hz / 2:
        raise RecipeError(
            f"bands.edges_hz {edges} must rise strictly and lie above 0 and up to {grid.sample_rate_hz / 2:g} Hz."
        )
    return [0, *(grid.bins_below(edge) for edge in edges)]


def _check_count(option: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_BANDS:
        raise RecipeError(f"bands.{option} is {value!r}; expected a whole number from 1 to {MOST_BANDS}.")


# --- overlapping schemes: filterbanks ---------------------------------------------------------------------------------


def _check_filters(grid: Grid, n_bands: int) -> None:
    _check_count("n_bands", n_bands)
    if n_bands * grid.n_bins > MOST_WEIGHTS:
        raise RecipeError(
            f"{n_bands} overlapping bands of {grid.n_bins} bins are {n_bands * grid.n_bins} weights; expected up to "
            f"{MOST_WEIGHTS}. Lower bands.n_bands or stft.n_fft."
        )


def musical(grid: Grid, *, n_bands: int = 64) -> Filterbank:
    """Bandit's overlapping log-spaced bands: centres spaced evenly over the notes from the first bin to Nyquist.

    Each band is a rectangle that extends from its centre by one ``n_bands``-th of that range to either side. At low
    frequencies, where a band is narrower than a bin, neighbouring bands may be equal. Published with 64 bands.
    """
    _check_filters(grid, n_bands)
    low_hz, high_hz = grid.bin_width_hz, grid.sample_rate_hz / 2
    factor = (high_hz / low_hz) ** (1 / n_bands)
    lowest_note = max(0.0, 69 + 12 * math.log2(low_hz / 440))
    notes = np.linspace(lowest_note, 69 + 12 * math.log2(high_hz / 440), n_bands)
    filters = np.zeros((n_bands, grid.n_bins))
    for band, note in zip(filters, notes, strict=True):
        centre = 440 * 2 ** ((note - 69) / 12) / grid.bin_width_hz
        band[math.floor(centre / factor) : math.ceil(centre * factor) + 1] = 1
    # What lies outside the outermost rectangles belongs to them.
    filters[0, : np.flatnonzero(filters[0])[0]] = 1
    filters[-1, np.flatnonzero(filters[-1])[-1] :] = 1
    return filters


def _triangles(
    grid: Grid,
    n_bands: int,
    from_hz: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    to_hz: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> Filterbank:
    """Triangles in Hz with corners evenly spaced on a scale; each begins and ends at the centres of its neighbours."""
    _check_filters(grid, n_bands)
    low, high = from_hz(np.array([0.0, grid.sample_rate_hz / 2]))
    corners = to_hz(np.linspace(low, high, n_bands + 2))[:, None]
    widths = np.diff(corners, axis=0)
    bins = np.arange(grid.n_bins) * grid.bin_width_hz
    rising, falling = (bins - corners[:-2]) / widths[:-1], (corners[2:] - bins) / widths[1:]  # both (K, F)
    filters = np.maximum(np.minimum(rising, falling), 0)
    filters[filters < 1e-9] = 0  # a bin on a corner: rounding must not decide
    # DC and Nyquist are the outermost corners, where the triangles are zero.
    filters[0, 0] = filters[-1, -1] = 1
    return filters


def mel(grid: Grid, *, n_bands: int = 64) -> Filterbank:
    """Bandit's triangles on the HTK mel scale, 2595·log10(1 + f/700)."""
    return _triangles(grid, n_bands, lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1))


def tbark(grid: Grid, *, n_bands: int = 64) -> Filterbank:
    """Bandit's triangles on the bark scale, 6·asinh(f/600)."""
    return _triangles(grid, n_bands, lambda f: 6 * np.arcsinh(f / 600), lambda z: 600 * np.sinh(z / 6))


def erb(grid: Grid, *, n_bands: int = 64) -> Filterbank:
    """Bandit's triangles on the scale of equivalent rectangular bandwidths, A·log10(1 + 0.00437·f).

    The published code leaves the Nyquist bin in no band; here it belongs to the last one.
    """
    a = 1000 * math.log(10) / (24.7 * 4.37)
    return _triangles(grid, n_bands, lambda f: a * np.log10(1 + 0.00437 * f), lambda e: (10 ** (e / a) - 1) / 0.00437)


def mel_band_roformer(grid: Grid, *, n_bands: int = 60) -> Filterbank:
    """Mel-Band RoFormer's bands: the extents of triangles on Slaney's mel scale; overlapping masks are averaged.

    The scale is linear up to 1 kHz, 15 mel, and logarithmic above, 27 mel for a factor of 6.4.
    """
    step = math.log(6.4) / 27
    return np.ceil(
        _triangles(
            grid,
            n_bands,
            lambda f: np.where(f < 1000, f * 3 / 200, 15 + np.log(np.maximum(f, 1000) / 1000) / step),
            lambda m: np.where(m < 15, m * 200 / 3, 1000 * np.exp((np.maximum(m, 15) - 15) * step)),
        )
    )


SCHEMES: dict[str, Scheme] = {
    **{name: _paper_scheme(name) for name in PAPER_RANGES},
    "tet24": tet24,
    "tet24_seed": tet24_seed,
    "tet24_fixed": tet24_fixed,
    "tet": tet,
    "semitone": semitone,
    "quarter_tone": quarter_tone,
    "musical": musical,
    "mel": mel,
    "tbark": tbark,
    "erb": erb,
    "mel_band_roformer": mel_band_roformer,
    "bs_roformer": bs_roformer,
    "even": even,
    "custom": custom,
}


# --- from a scheme to a split that is known to be sound ---------------------------------------------------------------


@dataclass(frozen=True)
class BandSplit(Sequence[BinRange]):
    """The K bin ranges of a scheme, lowest band first; usable as the sequence of its ranges.

    ``weights`` is None for a partition. For overlapping bands it holds, for every band, one weight per bin of its
    range; at each bin the weights of all bands add up to one.
    """

    ranges: tuple[BinRange, ...]
    weights: tuple[tuple[float, ...], ...] | None = None

    @property
    def overlapping(self) -> bool:
        return self.weights is not None

    @property
    def n_bins(self) -> int:
        return max(stop for _, stop in self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: Any) -> Any:
        return self.ranges[index]


def check_cover(ranges: Sequence[BinRange], n_bins: int, weights: Sequence[Sequence[float]] | None = None) -> None:
    """Raise `RecipeError` unless no band is empty and all bins from 0 to ``n_bins`` - 1 are covered.

    Without ``weights`` the bands must be disjoint and in order. With weights, one per bin of each band, they may
    overlap, and the weights must add up to one at every bin.
    """
    for i, (start, stop) in enumerate(ranges):
        if stop <= start:
            raise RecipeError(
                f"band {i} of {len(ranges)} is empty (bins {start} to {stop}): the bands are finer than the bins. "
                "Raise stft.n_fft or choose a coarser scheme (the tet24 family drops or widens empty bands)."
            )
    if weights is None:
        _check_partition(ranges, n_bins)
    else:
        _check_weights(ranges, n_bins, weights)


def _check_partition(ranges: Sequence[BinRange], n_bins: int) -> None:
    reached = 0
    for i, (start, stop) in enumerate(ranges):
        if start != reached:
            what = "overlaps the one before" if start < reached else f"leaves bins {reached} to {start - 1} uncovered"
            raise RecipeError(f"band {i} (bins {start} to {stop}) {what}.")
        reached = stop
    if reached != n_bins:
        raise RecipeError(f"the bands end at bin {reached}; the spectrogram has {n_bins} bins.")


def _check_weights(ranges: Sequence[BinRange], n_bins: int, weights: Sequence[Sequence[float]]) -> None:
    total, n_bands = np.zeros(n_bins), np.zeros(n_bins, dtype=int)
    for i, ((start, stop), band) in enumerate(zip(ranges, weights, strict=True)):
        if start < 0 or stop > n_bins or len(band) != stop - start:
            raise RecipeError(
                f"band {i} (bins {start} to {stop}) has {len(band)} weights; the spectrogram has {n_bins} bins."
            )
        total[start:stop] += band
        n_bands[start:stop] += 1
    if not n_bands.all():
        raise RecipeError(f"bin {int(np.argmin(n_bands))} of {n_bins} is in no band.")
    worst = int(np.argmax(abs(total - 1)))
    if not abs(total[worst] - 1) < 1e-6:
        raise RecipeError(f"the weights of the bands at bin {worst} add up to {total[worst]:g}; expected 1.")


def _overlapping(filters: Filterbank) -> BandSplit:
    """Bands from their first to their last bin above zero, with weights that add up to one at each bin."""
    total = filters.sum(axis=0)  # (F)
    weights = np.divide(filters, total, out=np.zeros_like(filters), where=total > 0)
    inside = [np.flatnonzero(band) for band in filters]
    ranges = tuple((int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 0) for bins in inside)
    rows = tuple(tuple(map(float, band[slice(*span)])) for band, span in zip(weights, ranges, strict=True))
    return BandSplit(ranges, rows)


def band_split(kind: str, *, sample_rate_hz: int = 44100, n_fft: int = 2048, **options: Any) -> BandSplit:
    """The bands of a scheme: their ranges, and their weights where they overlap.

    Raises `RecipeError` for an unknown scheme or option and for a split that `check_cover` refuses.

    >>> split = band_split("mel", n_bands=32)
    >>> split.overlapping, split.ranges[:2]
    (True, ((0, 8), (4, 13)))
    """
    grid = Grid(sample_rate_hz, n_fft)
    scheme = pick("bands.kind", kind, SCHEMES)
    bands = scheme(grid, **bind_options(f"bands.kind={kind}", scheme, options, skip=("grid",)))
    if len(bands) > MOST_BANDS:
        raise RecipeError(f"bands.kind={kind} makes {len(bands)} bands; expected up to {MOST_BANDS}.")
    if isinstance(bands, np.ndarray):
        split = _overlapping(bands)
    else:
        split = BandSplit(tuple(zip(bands, [*bands[1:], grid.n_bins], strict=True)))
    check_cover(split.ranges, grid.n_bins, split.weights)
    return split


def band_ranges(kind: str, *, sample_rate_hz: int = 44100, n_fft: int = 2048, **options: Any) -> list[BinRange]:
    """The half-open bin ranges ``[(start, stop), ...]`` of a scheme, lowest band first.

    ``band_ranges("v7")[:3]`` is ``[(0, 5), (5, 10), (10, 14)]``. Raises `RecipeError` as `band_split` does.
    """
    return list(band_split(kind, sample_rate_hz=sample_rate_hz, n_fft=n_fft, **options).ranges)


def ranges_hz(ranges: Sequence[BinRange], sample_rate_hz: int, n_fft: int) -> list[tuple[float, float]]:
    """Band edges in Hz, computed from the bins (as the network uses them, not the nominal edges)."""
    width = Grid(sample_rate_hz, n_fft).bin_width_hz
    nyquist_hz = sample_rate_hz / 2
    return [(start * width, min(stop * width, nyquist_hz)) for start, stop in ranges]


# --- schemes of one size ----------------------------------------------------------------------------------------------

# The options that set how many bands a scheme has, and the values that may give ``n_bands`` of them.
SIZE_OPTIONS: dict[str, Callable[[int], Iterable[int]]] = {
    "n_bands": lambda n_bands: [n_bands],
    "divisions": lambda n_bands: range(1, n_bands + 1),
    "max_bands": lambda n_bands: range(n_bands, 3 * n_bands + 1),  # more than asked for: empty bands are dropped
}


def match_bands(
    schemes: Iterable[tuple[str, Mapping[str, Any]]], n_bands: int, *, sample_rate_hz: int = 44100, n_fft: int = 2048
) -> list[dict[str, Any] | None]:
    """For each (kind, options), the options with which it has exactly ``n_bands`` bands, or None if there are none.

    The option for the size (``n_bands``, ``divisions`` or ``max_bands``) is searched for, the smallest value first,
    unless it is given. Raises `RecipeError` for an unknown scheme or option.
    """
    found = []
    for kind, options in schemes:
        scheme = pick("bands.kind", kind, SCHEMES)
        takes = inspect.signature(scheme).parameters
        size = next((name for name in SIZE_OPTIONS if name in takes and name not in options), None)
        tried = [{**options, size: value} for value in SIZE_OPTIONS[size](n_bands)] if size else [dict(options)]
        bind_options(f"bands.kind={kind}", scheme, tried[0], skip=("grid",))
        found.append(next((o for o in tried if _n_bands(kind, sample_rate_hz, n_fft, o) == n_bands), None))
    return found


def _n_bands(kind: str, sample_rate_hz: int, n_fft: int, options: Mapping[str, Any]) -> int | None:
    try:
        return len(band_split(kind, sample_rate_hz=sample_rate_hz, n_fft=n_fft, **options))
    except RecipeError:
        return None
