"""Excerpts of a track that an evaluation stores for listening: mixture, reference and estimate of each target.

An excerpt is the ten seconds in which the reference is loudest, so every run stores the same ones. The format is Opus,
because a report must stay small enough to send.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio import AudioWriter, resample

SECONDS = 10.0
KINDS = ("mixture", "reference", "estimate")
OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)
PEAK = 0.9  # of what is encoded; a lossy codec overshoots
QUALITY = 0.8  # libsndfile's compression level: about 110 kbit/s in stereo


class Excerpts:
    """Collects the excerpts of one track block by block; ``starts[target]`` is the first sample of each."""

    def __init__(self, starts: Mapping[str, int], n_samples: int, rate_hz: int):
        self.starts, self.n_samples, self.rate_hz = starts, n_samples, rate_hz
        self.pieces: dict[tuple[str, str], list[Tensor]] = {(t, kind): [] for t in starts for kind in KINDS}

    def add(self, start: int, target: str, **signals: Tensor) -> None:
        """The samples from ``start`` on of ``mixture``, ``reference`` and ``estimate``, each (channels, samples)."""
        if target not in self.starts:
            return
        first = self.starts[target] - start
        for kind, x in signals.items():
            piece = x[:, max(0, first) : max(0, first + self.n_samples)]
            if piece.shape[1]:
                self.pieces[target, kind].append(piece.clone())

    def write(self, folder: Path, track: str) -> dict[str, dict[str, Any]]:
        """Write ``folder/<track>.<target>.<kind>.ogg``; {target: where, how loud, which gain was applied}."""
        facts: dict[str, dict[str, Any]] = {}
        for (target, kind), pieces in self.pieces.items():
            if not pieces:
                continue
            x = torch.cat(pieces, 1)
            path = folder / f"{track}.{target}.{kind}.ogg"
            times = {"start_seconds": self.starts[target] / self.rate_hz, "seconds": x.shape[1] / self.rate_hz}
            entry = facts.setdefault(target, {**times, "files": {}})
            gain = write_opus(path, x, self.rate_hz)
            entry["files"][kind] = {"file": path.name, "rms_dbfs": _rms_dbfs(x), "gain": gain}
        return facts


def loudest(energies: np.ndarray, n_seconds: int) -> int:
    """The second at which the loudest ``n_seconds`` begin; ``energies`` is one number per second."""
    if len(energies) <= n_seconds:
        return 0
    return int(np.argmax(np.convolve(energies, np.ones(n_seconds), "valid")))


def _rms_dbfs(x: Tensor) -> float | None:
    mean_square = float(x.double().square().mean())
    return 10 * math.log10(mean_square) if mean_square > 0 else None


def write_opus(path: Path, audio: Tensor, rate_hz: int) -> float:
    """Write (channels, samples) as Ogg Opus; returns the gain applied before (below 1 where it would have clipped)."""
    opus_hz = next((hz for hz in OPUS_RATES_HZ if hz >= rate_hz), OPUS_RATES_HZ[-1])
    x = resample(audio.float(), rate_hz, opus_hz)[:2]
    gain = min(1.0, PEAK / max(float(x.abs().max()), 1e-9))
    with AudioWriter(path, opus_hz, x.shape[0], "OPUS", compression=QUALITY) as writer:
        for second in x.split(opus_hz, 1):  # libsndfile encodes a long piece on its stack
            writer.write(second * gain)
    return gain
