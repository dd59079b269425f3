"""Fingerprints: detect the same audio in two recordings of any format, level, rate or cut."""

import base64
from collections.abc import Sequence

import numpy as np
from scipy import fft

SILENCE = 1e-5  # peak; -100 dB
PRINT_RATE_HZ = 5512.5
PRINT_HOP_SECONDS, PRINT_FRAME_SECONDS = 0.0929, 0.3715
PRINT_BANDS = 17
PRINT_HZ = (200.0, 2000.0)
NO_PRINT = 0  # the word of a frame with too little in it
SAME_SHARE, SAME_WORDS = 0.2, 16  # of the shorter one's words at one place, and at least so many
MANY_WORDS, COMMON_WORD = 1_000_000, 128
SAME_STEM_SHARE = 0.6  # of a single stem: songs may share a loop


def decimation(sample_rate_hz: int) -> int:
    return max(1, round(sample_rate_hz / PRINT_RATE_HZ))


def hop_length(sample_rate_hz: int) -> int:
    """Samples per word of the fingerprint; blocks are whole numbers of them, so that words count time."""
    step = decimation(sample_rate_hz)
    return step * max(1, round(PRINT_HOP_SECONDS * sample_rate_hz / step))


def fingerprint_words(mono: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """uint16 words, one per hop: the signs of differences of band energies over bands and time.

    They survive coding, gain, another rate and a shift by less than a hop.
    """
    step, hop = decimation(sample_rate_hz), hop_length(sample_rate_hz)
    n_words = -(-len(mono) // hop)
    if np.abs(mono).max() < SILENCE:
        return np.full(n_words, NO_PRINT, np.uint16)
    low = mono[: len(mono) // step * step].reshape(-1, step) @ np.full(step, 1 / step, np.float32)
    rate, hop = sample_rate_hz / step, hop // step
    size = round(PRINT_FRAME_SECONDS * rate)
    low = np.pad(low, (0, n_words * hop + hop + size - len(low)))
    frames = np.lib.stride_tricks.sliding_window_view(low, size)[: (n_words + 1) * hop : hop]
    power = np.abs(fft.rfft(frames * np.hanning(size).astype(np.float32))) ** 2  # (words + 1, bins)
    edges = np.round(np.geomspace(*PRINT_HZ, PRINT_BANDS + 1) * size / rate).astype(int)
    bands = np.add.reduceat(power, edges[:-1], axis=1)[:, :PRINT_BANDS]
    bands[:, -1] = power[:, edges[-2] : edges[-1]].sum(1)
    bits = np.diff(np.diff(bands, axis=1), axis=0) > 0  # (words, 16)
    words = np.packbits(bits, axis=1).view(np.uint16)[:, 0].copy()
    words[bands[1:].sum(1) < 1e-6 * max(1e-9, float(bands.sum(1).max()))] = NO_PRINT
    return words


def words_of(prints: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(prints), np.uint16)


def same_audio(prints: Sequence[np.ndarray], least: float = SAME_SHARE) -> list[tuple[int, int, float, float]]:
    """(i, j, share, seconds): pairs of the same audio, i before j, their share of equal words, and how much later the
    same place is in i than in j.
    """
    owners = np.repeat(np.arange(len(prints)), [len(words) for words in prints])
    places = np.concatenate([np.arange(len(words)) for words in prints] or [np.empty(0, int)])
    words = np.concatenate([*prints, np.empty(0, np.uint16)]).astype(np.int64)
    if len(words) > MANY_WORDS:  # two in a row tell apart what one does not
        words = np.where(words == NO_PRINT, NO_PRINT, words * 65536 + np.append(words[1:], 0))
    _, inverse, counts = np.unique(words, return_inverse=True, return_counts=True)
    kept = (words != NO_PRINT) & (counts[inverse] <= COMMON_WORD)  # what is everywhere identifies nothing
    useful = np.maximum(1, np.bincount(owners[kept], minlength=len(prints)))
    order = np.argsort(words[kept], kind="stable")
    words, owners, places = words[kept][order], owners[kept][order], places[kept][order]
    codes = []
    for distance in range(1, COMMON_WORD):
        equal = np.flatnonzero((words[distance:] == words[:-distance]) & (owners[distance:] != owners[:-distance]))
        i, j = owners[equal], owners[equal + distance]
        codes.append((i * len(prints) + j) * 2**32 + places[equal] - places[equal + distance] + 2**31)
    pairs, votes = np.unique(np.concatenate([*codes, np.empty(0, int)]), return_counts=True)
    best: dict[tuple[int, int], tuple[float, float]] = {}
    for code, n_equal in zip(pairs[votes >= SAME_WORDS].tolist(), votes[votes >= SAME_WORDS].tolist(), strict=True):
        i, j = divmod(code // 2**32, len(prints))
        share = n_equal / int(min(useful[i], useful[j]))
        if share >= max(least, best.get((i, j), (0.0, 0.0))[0]):
            best[i, j] = (share, (code % 2**32 - 2**31) * PRINT_HOP_SECONDS)
    return [(i, j, share, seconds) for (i, j), (share, seconds) in sorted(best.items())]
