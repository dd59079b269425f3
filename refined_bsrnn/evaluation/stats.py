"""Statistics over many tracks: averages, spread, intervals, and the comparison of two runs.

The sample is the set of tracks: intervals come from drawing tracks again with replacement (bootstrap, percentile
method, 10,000 draws, fixed seed: the same scores give the same interval). They describe how the figure would change
with other songs of the same kind, not with another training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

N_DRAWS = 10_000
LEVEL = 0.95
MIN_TRACKS = 3  # an interval from fewer would be a play on words


def defined(values: Sequence[float | None]) -> np.ndarray:
    """The values that are finite numbers; None, NaN (undefined) and infinity are left out."""
    return np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)


def spread(values: Sequence[float | None], intervals: bool = True) -> dict[str, object]:
    """Mean, median and quartiles (numpy's) with 95 % intervals of the first two, over the defined values.

    ``n`` values are defined, ``n_undefined`` are left out. None if no value is defined.
    """
    x = defined(values)
    counts: dict[str, object] = {"n": len(x), "n_undefined": len(values) - len(x)}
    if not len(x):
        return {"mean": None, "median": None, "q1": None, "q3": None, "mean_95": None, "median_95": None, **counts}
    q1, median, q3 = (float(q) for q in np.quantile(x, (0.25, 0.5, 0.75)))
    sure = {f"{name}_95": interval(x, name) for name in ("mean", "median")} if intervals else {}
    return {"mean": math.fsum(x) / len(x), "median": median, "q1": q1, "q3": q3, **sure, **counts}


def interval(values: Sequence[float] | np.ndarray, statistic: str) -> list[float] | None:
    """The 95 % bootstrap interval of the ``mean`` or ``median`` over tracks; None for fewer than three."""
    from scipy.stats import bootstrap  # takes half a second to import

    x = np.asarray(values, dtype=np.float64)
    if len(x) < MIN_TRACKS:
        return None
    figure, rng = {"mean": np.mean, "median": np.median}[statistic], np.random.default_rng(0)
    found = bootstrap((x,), figure, n_resamples=N_DRAWS, confidence_level=LEVEL, method="percentile", rng=rng)
    return [float(end) for end in found.confidence_interval]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same tracks: ``a − b`` per track, in dB."""

    n: int  # tracks both have a score for
    n_left_out: int  # tracks that only one of them has, or whose score is undefined
    mean: float
    mean_95: list[float] | None
    median: float
    n_better: int  # tracks on which a is better
    p: float | None  # Wilcoxon's signed-rank test, two-sided; None where it has nothing to rank


def compare(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Comparison | None:
    """The paired comparison of two runs' scores per track; None if they share no scored track.

    The test asks whether the differences are symmetric about zero. It assumes independent tracks and says nothing about
    other seeds.
    """
    both = [name for name in a if len(defined([a[name], b.get(name)])) == 2]
    if not both:
        return None
    differences = np.array([a[name] - b[name] for name in both])  # type: ignore[operator]
    return Comparison(
        n=len(both),
        n_left_out=len(a.keys() | b.keys()) - len(both),
        mean=float(differences.mean()),
        mean_95=interval(differences, "mean"),
        median=float(np.median(differences)),
        n_better=int((differences > 0).sum()),
        p=signed_rank_p(differences),
    )


def signed_rank_p(differences: np.ndarray) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test; zero differences are left out. None if no difference is left.

    They are left out before scipy is called, because some of its versions give no exact p with zeros.
    """
    from scipy.stats import wilcoxon  # takes half a second to import

    nonzero = differences[differences != 0]
    return float(wilcoxon(nonzero).pvalue) if len(nonzero) else None


def nan_median(values: Sequence[float] | np.ndarray) -> float:
    """numpy's median of the values that are not NaN; NaN if there is none."""
    kept = [v for v in values if not math.isnan(v)]
    return float(np.median(kept)) if kept else math.nan
