"""The sharp upper frequency limit that lossy coding or a lower rate leaves in a recording."""

import numpy as np
from scipy import fft

SPECTRUM_FRAME = 4096
SPECTRUM_FRAMES = 24  # of a block: enough to find the highest frequencies
EDGE_DB = 24.0  # a fall of so much within EDGE_HZ is no instrument's
EDGE_HZ = 400.0
EDGE_FLOOR_DB = -75.0  # beside the strongest bin: an edge below that is of noise
EDGE_FROM_HZ = 3000.0


def peak_spectrum(mono: np.ndarray) -> np.ndarray:
    """The largest power per bin over some frames of a block."""
    n_frames = len(mono) // SPECTRUM_FRAME
    if n_frames == 0:
        mono, n_frames = np.pad(mono, (0, SPECTRUM_FRAME - len(mono))), 1
    frames = mono[: n_frames * SPECTRUM_FRAME].reshape(n_frames, SPECTRUM_FRAME)[:: max(1, n_frames // SPECTRUM_FRAMES)]
    window = np.blackman(SPECTRUM_FRAME).astype(np.float32)  # its side lobes are far down
    return (np.abs(fft.rfft(frames * window)) ** 2).max(0)


def sharp_edge(spectrum: np.ndarray, sample_rate_hz: int) -> float | None:
    """The frequency above which a power spectrum is empty, if it drops more sharply than with any instrument; else
    None.
    """
    hz_per_bin = sample_rate_hz / 2 / (len(spectrum) - 1)
    width = max(2, round(EDGE_HZ / hz_per_bin))
    db = 10 * np.log10(spectrum + 1e-20)
    floor = db.max() + EDGE_FLOOR_DB
    above = np.maximum.accumulate(db[::-1])[::-1]  # the strongest at or above each bin
    last = len(db) - 2 * width  # an edge at the very top is every resampler's
    best: tuple[float, int] | None = None
    for i in range(round(EDGE_FROM_HZ / hz_per_bin), last, max(1, width // 8)):
        below = float(np.median(db[max(0, i - width) : i]))
        fall = below - float(above[i + width // 2])
        if below > floor and fall >= EDGE_DB and (best is None or fall > best[0]):
            best = (fall, i)
    return None if best is None else round(best[1] * hz_per_bin, -2)
