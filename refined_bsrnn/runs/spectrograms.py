"""Spectrograms of logged audio, as pictures."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Audio = npt.NDArray[np.floating]

TICKS_HZ = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
N_FFT = 2048
MAX_FRAMES = 800
ROWS = 256
RANGE_DB = 80.0
LOWEST_HZ = 40.0


def spectrogram_db(audio: Audio, sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """Power in dB (full-scale sine about 0), ``(frequency rows, frames)``, rows logarithmic from 40 Hz to Nyquist.

    ``audio`` is ``(samples,)`` or ``(channels, samples)``; channel powers are averaged. Hann frames of 2048 samples,
    512 apart, further in a signal of more than 800 frames: the picture has no more pixels than that.
    """
    mono_or_more = np.nan_to_num(np.atleast_2d(np.asarray(audio, dtype=np.float64)))  # (C, L)
    n_samples = max(mono_or_more.shape[1], 1)
    hop = max(N_FFT // 4, math.ceil(n_samples / MAX_FRAMES))
    padded = np.pad(mono_or_more, ((0, 0), (N_FFT // 2, N_FFT // 2 + n_samples - mono_or_more.shape[1])))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=1)[:, ::hop]  # (C, T, n_fft)
    window = np.hanning(N_FFT + 1)[:-1]
    power = np.mean(np.abs(np.fft.rfft(frames * window) * 2 / window.sum()) ** 2, axis=0).T  # (F, T)
    row_hz = np.geomspace(LOWEST_HZ, sample_rate_hz / 2, ROWS)
    position = np.minimum(row_hz * N_FFT / sample_rate_hz, len(power) - 1)
    below = np.minimum(position.astype(int), len(power) - 2)
    share = (position - below)[:, None]
    decibels = 10 * np.log10(np.maximum((1 - share) * power[below] + share * power[below + 1], 1e-12))  # (rows, T)
    return decibels


def hz_label(hz: float) -> str:
    return f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}"


def spectrograms_figure(panels: Mapping[str, Audio], sample_rate_hz: int) -> Figure:
    """Log-frequency spectrograms side by side (mixture, reference, estimate) on one dB scale.

    Each panel is ``(samples,)`` or ``(channels, samples)``. The scale ends at the loudest point of all panels and
    covers 80 dB below it.
    """
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    levels = {name: spectrogram_db(audio, sample_rate_hz) for name, audio in panels.items()}
    loudest = max(float(level.max()) for level in levels.values())
    bottom, top = math.log2(LOWEST_HZ), math.log2(sample_rate_hz / 2)
    seconds = [max(np.shape(audio)[-1], 1) / sample_rate_hz for audio in panels.values()]
    for axes, (name, level), length in zip(row, levels.items(), seconds, strict=True):
        image = axes.imshow(
            level, origin="lower", aspect="auto", extent=(0.0, length, bottom, top), cmap="magma",
            vmin=loudest - RANGE_DB, vmax=loudest, interpolation="nearest",
        )  # fmt: skip
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("time (s)", fontsize=11)
    row[0].set_xlim(0.0, max(seconds))
    ticks = [hz for hz in TICKS_HZ if LOWEST_HZ <= hz <= sample_rate_hz / 2]
    row[0].set_yticks([math.log2(hz) for hz in ticks], [hz_label(hz) for hz in ticks])
    row[0].set_ylabel("frequency (Hz)", fontsize=11)
    figure.colorbar(image, ax=list(row), label="power (dB re full scale)", pad=0.01)
    return figure


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as it would be on screen: ``(height, width, 3)``, uint8 RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def draw_spectrograms(panels: Mapping[str, Audio], sample_rate_hz: int) -> npt.NDArray[np.uint8]:
    """The picture of `spectrograms_figure`: ``(height, width, 3)``, uint8 RGB."""
    return pixels(spectrograms_figure(panels, sample_rate_hz))
