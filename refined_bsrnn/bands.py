"""Band schemes: how the F bins of a spectrogram are split into K bands.

A scheme is a function from a :class:`Grid` (and its own options) to the first bin of every band. `band_ranges` turns
that into half-open bin ranges and refuses a split that leaves a bin uncovered, overlaps or has an empty band.

The BSRNN paper gives its schemes in Hz; two incompatible roundings to bins are in use:

- ``hz`` (default): a band ends where the bins below its edge end, ``ceil(edge / bin width)``: true to the paper.
- ``floor``: every width is floored to whole bins and the widths are added up, so edges drift low. This is what the
  authors' code and the published oBSRNN checkpoints use.

A bin that lies exactly on an edge belongs to the upper band; edges are compared in exact arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .errors import RecipeError
from .suggest import bind_options, pick

BinRange = tuple[int, int]


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
        """How many bins lie strictly below ``edge_hz`` (exact: no rounding decides a tie)."""
        return math.ceil(Fraction(edge_hz) * self.n_fft / self.sample_rate_hz)


# --- the paper's schemes (BSRNN, section V-A) and the joint one of SIMO-BSRNN -----------------------------------------
# Each is a list of (up to Hz, band width in Hz); whatever lies above the last edge is one more band.

PAPER_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
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


def _paper_scheme(name: str) -> Callable[..., list[int]]:
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


def tet24_edges_hz() -> list[float]:
    """The 41 edges of the published generic scheme.

    All odd quarter tones (those that lie between the semitones) from 20 Hz to 20 kHz, 120 of them, thinned to 41 by
    ``int(i * 120 / 41)``: bands of three semitones, three of them of two. Generated from the integer quarter tone, not
    by adding steps in floating point as the published code did.
    """
    odd = [q for q in range(-107, 133, 2) if 20.0 <= quarter_tone_hz(q) <= 20000.0]
    return [quarter_tone_hz(odd[i * len(odd) // 41]) for i in range(41)]


# Where the published code's accumulated rounding yields an edge twice: these four stand beside true edges.
SEED_SPURIOUS_EDGES_HZ = (43.795, 87.591, 9988.39, 19976.77)


def _starts(grid: Grid, edges_hz: Sequence[float]) -> list[int]:
    """Band starts from edges in Hz; an edge that adds no bin is dropped."""
    inner = {grid.bins_below(edge) for edge in edges_hz}
    return [0, *sorted(start for start in inner if 0 < start < grid.n_bins)]


def tet24(grid: Grid, *, top_edge_hz: float | None = None) -> list[int]:
    """The published generic scheme in exact arithmetic, empty bands dropped: 36 bands at n_fft 2048.

    ``top_edge_hz`` adds one more edge (20000 keeps what is inaudible apart).
    """
    return _starts(grid, tet24_edges_hz() + ([top_edge_hz] if top_edge_hz else []))


def tet24_seed(grid: Grid) -> list[int]:
    """What the published code really builds, its rounding artefacts included: 38 bands at n_fft 2048."""
    return _starts(grid, [*tet24_edges_hz(), *SEED_SPURIOUS_EDGES_HZ])


def tet24_fixed(grid: Grid) -> list[int]:
    """The same 41 edges, each at least one bin above the one before: 42 bands whatever n_fft is."""
    starts = [0]
    for edge_hz in tet24_edges_hz():
        starts.append(max(grid.bins_below(edge_hz), starts[-1] + 1))
    return starts


def tet(grid: Grid, *, divisions: int, low_hz: float = 20.0, high_hz: float = 20000.0) -> list[int]:
    """``divisions`` equal bands per octave from ``low_hz`` to ``high_hz``, edges half a step beside A4 = 440 Hz.

    With 12 every band holds one semitone, its note in the middle; with 4 it holds three, about as ``tet24`` does.
    """
    if divisions < 1 or not 0 < low_hz < high_hz:
        raise RecipeError(
            f"bands: divisions {divisions}, low_hz {low_hz}, high_hz {high_hz}; "
            "expected at least 1 division per octave and 0 < low_hz < high_hz."
        )
    first = math.ceil(divisions * math.log2(low_hz / 440.0) - 0.5)
    last = math.floor(divisions * math.log2(high_hz / 440.0) - 0.5)
    return _starts(grid, [440.0 * 2.0 ** ((i + 0.5) / divisions) for i in range(first, last + 1)])


def custom(grid: Grid, *, edges_hz: Sequence[float]) -> list[int]:
    """Inner band edges in Hz as written in the recipe; the first band starts at 0 Hz, the last ends at Nyquist."""
    edges = [float(edge) for edge in edges_hz]
    if edges != sorted(set(edges)) or not edges or edges[0] <= 0 or edges[-1] > grid.sample_rate_hz / 2:
        raise RecipeError(
            f"bands.edges_hz {edges} must rise strictly and lie above 0 and up to {grid.sample_rate_hz / 2:g} Hz."
        )
    return [0, *(grid.bins_below(edge) for edge in edges)]


SCHEMES: dict[str, Callable[..., list[int]]] = {
    **{name: _paper_scheme(name) for name in PAPER_RANGES},
    "tet24": tet24,
    "tet24_seed": tet24_seed,
    "tet24_fixed": tet24_fixed,
    "tet": tet,
    "custom": custom,
}


def check_cover(ranges: Sequence[BinRange], n_bins: int) -> None:
    """Raise `RecipeError` unless the ranges are non-empty, disjoint, in order and cover bins 0 to ``n_bins`` - 1."""
    reached = 0
    for i, (start, stop) in enumerate(ranges):
        if stop <= start:
            raise RecipeError(
                f"band {i} of {len(ranges)} is empty (bins {start} to {stop}): the bands are finer than the bins. "
                "Raise stft.n_fft or choose a coarser scheme (the tet24 family drops or widens empty bands)."
            )
        if start != reached:
            what = "overlaps the one before" if start < reached else f"leaves bins {reached} to {start - 1} uncovered"
            raise RecipeError(f"band {i} (bins {start} to {stop}) {what}.")
        reached = stop
    if reached != n_bins:
        raise RecipeError(f"the bands end at bin {reached}; the spectrogram has {n_bins} bins.")


def band_ranges(kind: str, *, sample_rate_hz: int = 44100, n_fft: int = 2048, **options: Any) -> list[BinRange]:
    """The half-open bin ranges ``[(start, stop), ...]`` of a scheme, lowest band first.

    Raises `RecipeError` for an unknown scheme or option and for a split that is not a partition of all bins.

    >>> band_ranges("v7")[:3]
    [(0, 5), (5, 10), (10, 14)]
    """
    grid = Grid(sample_rate_hz, n_fft)
    scheme = pick("bands.kind", kind, SCHEMES)
    starts = scheme(grid, **bind_options(f"bands.kind={kind}", scheme, options, skip=("grid",)))
    ranges = list(zip(starts, [*starts[1:], grid.n_bins], strict=True))
    check_cover(ranges, grid.n_bins)
    return ranges


def ranges_hz(ranges: Sequence[BinRange], sample_rate_hz: int, n_fft: int) -> list[tuple[float, float]]:
    """Band edges in Hz as the bins have them (what the network sees, not the nominal edges)."""
    width = Grid(sample_rate_hz, n_fft).bin_width_hz
    nyquist_hz = sample_rate_hz / 2
    return [(start * width, min(stop * width, nyquist_hz)) for start, stop in ranges]
