"""A table of band schemes: their resolution, their redundancy and the size of the networks on them.

Parameters are computed by formula for the published layout: per band of G bins, the encoder has a norm and a linear
layer from 2G to N; the head has a norm, ``hidden_layers`` layers of 4N and a gated output of 2 · 2G. Tests compare the
formulas with the network.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from ..bands import SCHEMES, BandSplit, band_split, match_bands, ranges_hz
from ..errors import RecipeError
from .table import Column, Table

N_FFTS = (2048, 4096, 6144)
FEATURES, REPEATS = 64, 8  # the size the table is for, `size=small`

NamedScheme = tuple[str, Mapping[str, Any]]
# Options for the schemes that have no size of their own.
TABLE_OPTIONS: dict[str, dict[str, Any]] = {"tet": {"divisions": 4}, "even": {"n_bands": 41}}
TABLE_SCHEMES: list[NamedScheme] = [(kind, TABLE_OPTIONS.get(kind, {})) for kind in SCHEMES if kind != "custom"]


# --- parameters by formula --------------------------------------------------------------------------------------------


def encoder_parameters(widths: Iterable[int], features: int) -> int:
    """Parameters of the encoder for bands of ``widths`` bins."""
    return sum(4 * g + 2 * g * features + features for g in widths)


def head_parameters(widths: Iterable[int], features: int, hidden_layers: int = 1) -> int:
    """Parameters of one head, its hidden layers 4N wide."""
    hidden = 4 * features
    per_band = 2 * features + features * hidden + hidden + (hidden_layers - 1) * (hidden * hidden + hidden)
    return sum(per_band + 4 * g * hidden + 4 * g for g in widths)


def model_parameters(widths: Sequence[int], features: int, repeats: int) -> int:
    """Encoder, ``repeats`` pairs of time and band RNN (hidden 2N), one head with one hidden layer."""
    hidden = 2 * features
    rnn = 2 * (4 * hidden * features + 4 * hidden * hidden + 8 * hidden)  # both directions
    pair = 2 * (2 * features + rnn + 2 * hidden * features + features)
    return encoder_parameters(widths, features) + repeats * pair + head_parameters(widths, features)


def match_features(widths: Sequence[int], n_parameters: int, repeats: int) -> int:
    """The N with which a model on these bands is closest to ``n_parameters``."""
    features = 1
    while model_parameters(widths, features + 1, repeats) <= n_parameters:
        features += 1
    sizes = {n: abs(model_parameters(widths, n, repeats) - n_parameters) for n in (features, features + 1)}
    return min(sizes, key=lambda n: sizes[n])


# --- one scheme -------------------------------------------------------------------------------------------------------


def band_facts(split: BandSplit, sample_rate_hz: int = 44100, n_fft: int = 2048) -> dict[str, Any]:
    """The table's facts about a split.

    ``cents_below`` and ``cents_above`` are median widths of the bands centred below and from 1 kHz, without a band that
    starts at 0 Hz (None: there is no such band); ``redundancy`` is the sum of all widths divided by the number of bins.
    """
    hz = [(low, high) for low, high in ranges_hz(split, sample_rate_hz, n_fft) if low > 0]
    below = [1200 * math.log2(high / low) for low, high in hz if low * high < 1000.0**2]
    above = [1200 * math.log2(high / low) for low, high in hz if low * high >= 1000.0**2]
    widths = tuple(stop - start for start, stop in split)
    return {
        "widths": widths,
        "cents_below": median(below) if below else None,
        "cents_above": median(above) if above else None,
        "single_bin_bands": widths.count(1),
        "redundancy": sum(widths) / split.n_bins,
    }


def scheme_label(kind: str, options: Mapping[str, Any]) -> str:
    """A scheme as it is written on the command line, e.g. ``tet divisions=4``."""
    return " ".join([kind, *(f"{name}={value}" for name, value in options.items())])


# --- tables -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    Column("scheme", "scheme", code=True),
    *(Column(f"K at {n_fft}", str(n_fft), ".0f") for n_fft in N_FFTS),
    Column("cents < 1 kHz", "cents_below", ".0f"),
    Column("cents ≥ 1 kHz", "cents_above", ".0f"),
    Column("single-bin bands", "single_bin_bands", ".0f"),
    Column("redundancy", "redundancy", ".2f"),
    Column("encoder", "encoder", ",.0f"),
    Column("head", "head", ",.0f"),
)


def band_table(schemes: Sequence[NamedScheme] = (), sample_rate_hz: int = 44100) -> Table:
    """One row per scheme (default: all but ``custom``), with a dash if a scheme is not defined.

    All columns but K are at n_fft 2048; parameters at N = 64. Raises `RecipeError` for unknown schemes and options.
    """
    return Table(_frame(schemes or TABLE_SCHEMES, sample_rate_hz), COLUMNS, literal=True)


def matched_table(n_bands: int, schemes: Sequence[NamedScheme] = (), sample_rate_hz: int = 44100) -> Table:
    """The schemes that can have exactly ``n_bands`` bands at n_fft 2048, with the option that gives them.

    ``schemes`` (default: all but ``custom``) may fix options; schemes that cannot are left out without a message.

    The last column is the N with which the whole model (8 repeats, one head) is as large as that of the first row with
    N = 64: the comparison in which neither K nor the number of parameters differs. Raises `RecipeError` if no scheme
    has that many bands.
    """
    families = schemes or [(kind, {}) for kind, _ in TABLE_SCHEMES]
    found = match_bands(families, n_bands, sample_rate_hz=sample_rate_hz)
    matched = [(kind, options) for (kind, _), options in zip(families, found, strict=True) if options is not None]
    if not matched:
        raise RecipeError(f"no scheme has {n_bands} bands at {sample_rate_hz} Hz and n_fft 2048.")
    frame = _frame(matched, sample_rate_hz)
    size = model_parameters(frame["widths"][0], FEATURES, REPEATS)
    frame["n"] = [match_features(widths, size, REPEATS) for widths in frame["widths"]]
    return Table(frame, [*COLUMNS, Column("N at equal size", "n", ".0f")], literal=True)


def _frame(schemes: Sequence[NamedScheme], sample_rate_hz: int) -> pd.DataFrame:
    records = []
    for kind, options in schemes:
        facts = band_facts(band_split(kind, sample_rate_hz=sample_rate_hz, **options), sample_rate_hz)
        sizes = {"encoder": encoder_parameters(facts["widths"], FEATURES)}
        sizes["head"] = head_parameters(facts["widths"], FEATURES)
        counts = {str(n_fft): _n_bands(kind, options, sample_rate_hz, n_fft) for n_fft in N_FFTS}
        records.append({"scheme": scheme_label(kind, options)} | counts | facts | sizes)
    return pd.DataFrame(records, dtype=object)


def _n_bands(kind: str, options: Mapping[str, Any], sample_rate_hz: int, n_fft: int) -> int | None:
    try:
        return len(band_split(kind, sample_rate_hz=sample_rate_hz, n_fft=n_fft, **options))
    except RecipeError:
        return None
