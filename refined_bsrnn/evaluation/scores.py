"""Scores of one track, collected block by block; only a few numbers are stored per second of audio.

Every metric but the bandwidth follows from inner products of signals within each second (a shorter rest at the end
counts as a second), so memory does not depend on the length of a song. Definitions: `metrics`; and here

- **leakage** of part j into an estimate: within each second the estimate is projected on all known parts together
  (least squares, one gain per part); 10 log10(Σ ‖g_j s_j‖² / Σ ‖s_j‖²) over the seconds. 0 dB: the part passes
  unchanged, as in the mixture; −∞: it is removed completely. Parts that are silent throughout have no leakage.
- **silent_dbfs**: the estimate's RMS level over the whole seconds in which the reference is below −70 dBFS; at least
  −120. 0 dBFS is an RMS of 1.
- **bandwidth_hz**: the frequency below which 99 % of the energy lies (Hann windows of 2048 samples without overlap).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError
from ..metrics import EPS
from .stats import nan_median

SILENT_DBFS = -70.0
FLOOR_DBFS = -120.0
ENERGY_SHARE = 0.99
WINDOW = 2048
PERFECT = 1e-14  # share of an estimate's energy that is rounding

Signals = Mapping[str, Tensor]  # name → (channels, samples)


class TrackScores:
    """Scores of estimates of one track.

    ``parts[target]`` are the names of the known parts (including the target) on which its estimates are projected. With
    ``quick`` only uSDR is computed.
    """

    def __init__(self, rate_hz: int, parts: Mapping[str, Sequence[str]], sources: Sequence[str], quick: bool = False):
        self.rate_hz, self.parts, self.sources, self.quick = rate_hz, parts, tuple(sources), quick
        self.rest: dict[str, np.ndarray] = {}  # name → (C, less than a second)
        self.products: list[np.ndarray] = []  # per second (M, M): inner products of all signals
        self.errors: list[np.ndarray] = []  # per second (targets, sources): ‖reference − estimate‖²
        self.silent: list[np.ndarray] = []  # per second (M,): the sum over channels is zero throughout
        self.lengths: list[int] = []  # per second: its number of values, channels times samples
        self.n_whole = 0  # seconds that are whole; what is behind them has no cSDR, unless it is all there is
        self.powers: np.ndarray | float = 0.0  # (M, bins)
        self.names: list[str] = []

    def add(self, parts: Signals, candidates: Mapping[str, Signals]) -> None:
        """The next samples: every known part, and ``candidates[source][target]``. All (channels, samples)."""
        named = {f"part/{name}": x for name, x in parts.items()}
        named |= {f"{source}/{t}": x for source, per_target in candidates.items() for t, x in per_target.items()}
        signals = {name: x.numpy().astype(np.float64) for name, x in named.items()}
        _check(signals)
        self.names = list(signals)
        if self.rest:
            signals = {name: np.concatenate([self.rest[name], x], 1) for name, x in signals.items()}
        stacked = np.stack(list(signals.values()))  # (M, C, n)
        n_seconds = stacked.shape[-1] // self.rate_hz
        for i in range(n_seconds):
            self._second(stacked[..., i * self.rate_hz : (i + 1) * self.rate_hz])
        self.n_whole += n_seconds
        left = stacked[..., n_seconds * self.rate_hz :]
        self.rest = dict(zip(self.names, left, strict=True))

    def _second(self, x: np.ndarray) -> None:
        """One second of all signals, (M, C, samples)."""
        flat = x.reshape(len(x), -1)
        self.products.append(flat @ flat.T)
        index = {name: i for i, name in enumerate(self.names)}
        differences = [
            [flat[index[f"part/{target}"]] - flat[index[f"{source}/{target}"]] for source in self.sources]
            for target in self.parts
        ]
        self.errors.append(np.array([[d @ d for d in row] for row in differences]))
        self.silent.append(~x.sum(1).any(1))
        self.lengths.append(flat.shape[1])
        window = min(WINDOW, x.shape[-1])
        if not self.quick and x.shape[-1] == self.rate_hz:
            n_windows = x.shape[-1] // window
            pieces = x[..., : n_windows * window].reshape(*x.shape[:2], n_windows, window)
            spectra = np.fft.rfft(pieces * np.hanning(window), axis=-1)
            self.powers = self.powers + (np.abs(spectra) ** 2).sum((1, 2))  # (M, bins)

    def finish(self) -> dict[str, Any]:
        """{target: {source: scores, "reference_silent", "n_frames_silent", "reference"}}; NaN where undefined."""
        if self.rest and next(iter(self.rest.values())).shape[1]:
            self._second(np.stack([self.rest[name] for name in self.names]))
            self.n_whole = max(1, self.n_whole)  # museval takes a track below a second as one frame
        self.rest = {}
        self.p, self.e, self.s = np.stack(self.products), np.stack(self.errors), np.stack(self.silent)
        together = {source: self._excluded_together(source) for source in self.sources}
        return {target: self._target(target, together) for target in self.parts}

    def _target(self, target: str, together: Mapping[str, np.ndarray]) -> dict[str, Any]:
        energy = self._energy(f"part/{target}")
        quiet = self._quiet(target)
        found: dict[str, Any] = {
            source: self._scores(target, source, together[source], quiet) for source in self.sources
        }
        found["reference_silent"] = not energy.any()
        if not self.quick:
            found["n_frames_silent"] = int(quiet.sum())
            found["reference"] = {"bandwidth_hz": self._bandwidth(f"part/{target}")}
        return found

    def _scores(self, target: str, source: str, together: np.ndarray, quiet: np.ndarray) -> dict[str, Any]:
        t, c = list(self.parts).index(target), self.sources.index(source)
        signal, noise = self._energy(f"part/{target}"), self.e[:, t, c]
        usdr = 10 * math.log10((math.fsum(signal) + EPS) / (math.fsum(noise) + EPS))
        if self.quick:
            return {"usdr": usdr}
        frames = self.frames(target, source)
        seen_together = np.where(together, np.nan, frames)
        return {
            "usdr": usdr,
            "csdr": nan_median(frames),
            "csdr_museval": nan_median(seen_together),
            "si_sdr": self._si_sdr(target, source),
            "n_frames": len(frames),
            "n_frames_excluded": int(np.isnan(frames).sum()),
            "n_frames_excluded_museval": int(np.isnan(seen_together).sum()),
            "silent_dbfs": self._silent_level(target, source, quiet),
            "bandwidth_hz": self._bandwidth(f"{source}/{target}"),
            "leakage_db": self._leakage(target, source),
        }

    def frames(self, target: str, source: str) -> np.ndarray:
        """cSDR of every whole second, NaN where reference or estimate is silent (this target's own affair)."""
        t, c = list(self.parts).index(target), self.sources.index(source)
        signal, noise = self._energy(f"part/{target}")[: self.n_whole], self.e[: self.n_whole, t, c]
        with np.errstate(divide="ignore", invalid="ignore"):
            frames = 10 * np.log10(signal / noise)
        return np.where(self._silent(target, source), np.nan, frames)

    def _silent(self, target: str, source: str) -> np.ndarray:
        reference, estimate = (self.names.index(name) for name in (f"part/{target}", f"{source}/{target}"))
        return (self.s[:, reference] | self.s[:, estimate])[: self.n_whole]

    def _excluded_together(self, source: str) -> np.ndarray:
        """museval's rule: a frame counts for no target if any target is silent in it. (whole seconds,) bool.

        Targets that are silent throughout are ignored, because museval refuses them.
        """
        silent = [self._silent(target, source) for target in self.parts]
        return np.any([x for x in silent if not x.all()] or [np.zeros(self.n_whole, bool)], axis=0)

    def _energy(self, name: str) -> np.ndarray:
        i = self.names.index(name)
        return self.p[:, i, i]

    def _si_sdr(self, target: str, source: str) -> float:
        """From ⟨s, s⟩, ⟨s, e⟩ and ‖s − e‖²; the last keeps it exact where the estimate is close."""
        s, e = (self.names.index(name) for name in (f"part/{target}", f"{source}/{target}"))
        t, c = list(self.parts).index(target), self.sources.index(source)
        ss, se, ee = (math.fsum(self.p[:, i, j]) for i, j in ((s, s), (s, e), (e, e)))
        if ss <= 0:
            return math.nan
        signal, noise = se**2 / ss, math.fsum(self.e[:, t, c]) - (se - ss) ** 2 / ss
        if signal <= 0:
            return -math.inf
        return math.inf if noise <= PERFECT * ee else 10 * math.log10(signal / noise)

    def _quiet(self, target: str) -> np.ndarray:
        """Whole seconds in which the reference lies below the level of silence."""
        mean_square = self._energy(f"part/{target}") / np.array(self.lengths)
        quiet = mean_square < 10 ** (SILENT_DBFS / 10)
        quiet[self.n_whole :] = False
        return quiet

    def _silent_level(self, target: str, source: str, quiet: np.ndarray) -> float:
        if not quiet.any():
            return math.nan
        mean_square = math.fsum(self._energy(f"{source}/{target}")[quiet]) / np.array(self.lengths)[quiet].sum()
        return 10 * math.log10(mean_square + 10 ** (FLOOR_DBFS / 10))

    def _bandwidth(self, name: str) -> float:
        if isinstance(self.powers, float):
            return math.nan
        power = self.powers[self.names.index(name)]
        if power.sum() <= 0:
            return math.nan
        row = int(np.searchsorted(np.cumsum(power), ENERGY_SHARE * power.sum()))
        return row * self.rate_hz / min(WINDOW, self.rate_hz)

    def _leakage(self, target: str, source: str) -> dict[str, float]:
        rows = [self.names.index(f"part/{name}") for name in self.parts[target]]
        gram = self.p[:, rows][:, :, rows]  # (seconds, parts, parts)
        onto = self.p[:, rows, self.names.index(f"{source}/{target}")]  # (seconds, parts)
        gains = np.einsum("tij,tj->ti", np.linalg.pinv(gram, rcond=1e-10, hermitian=True), onto)
        energies = np.diagonal(gram, axis1=1, axis2=2)
        leaked, whole = (gains**2 * energies).sum(0), energies.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            decibels = 10 * np.log10(leaked / whole)
        return {n: float(d) for n, d in zip(self.parts[target], decibels, strict=True) if n != target}


def _check(signals: Mapping[str, np.ndarray]) -> None:
    """`DataError` for signals that cannot be scored: different shapes, or NaN."""
    first = next(iter(signals.values()))
    for name, x in signals.items():
        what = name.replace("part/", "reference/")
        if x.ndim != 2 or x.shape != first.shape:
            raise DataError(f"{what} has the shape {x.shape}, the others {first.shape}; expected one for all.")
        if not np.isfinite(x).all():
            raise DataError(f"{what} holds NaN or infinite samples; it cannot be scored.")
