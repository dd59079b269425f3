"""Sources of audio: files, open files and arrays, as blocks that can be read more than once."""

import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..audio import MAX_CHANNELS, AudioReader, open_audio
from ..errors import AudioError, RecipeError
from ..system import address, expand_home

Audio = str | os.PathLike[str] | BinaryIO | bytes | Tensor | np.ndarray

BLOCK = 1 << 16  # samples read at a time
MOST_SAMPLES = 2.0**48  # longer than any audio, and a number that everything here can calculate with
RATES_HZ = (1_000, 1_000_000)  # beyond them a header is damaged, or the audio is no music
# How the channels of mono, stereo, 2.1, quad, 5.0, 5.1, 6.1 and 7.1 (in the order of wav) go in pairs through a network
# that takes two: a channel that has no partner is its own.
PAIRS: dict[int, list[tuple[int, int]]] = {
    1: [(0, 0)],
    2: [(0, 1)],
    3: [(0, 1), (2, 2)],
    4: [(0, 1), (2, 3)],
    5: [(0, 1), (2, 2), (3, 4)],
    6: [(0, 1), (2, 2), (3, 3), (4, 5)],
    7: [(0, 1), (2, 2), (3, 3), (4, 4), (5, 6)],
    8: [(0, 1), (2, 2), (3, 3), (4, 5), (6, 7)],
}


@dataclass(frozen=True)
class Source:
    """Audio that can be read more than once, in blocks of (channels, n); ``n_samples`` may be a guess, or None."""

    sample_rate_hz: int
    n_channels: int
    n_samples: int | None
    blocks: Callable[[], Iterator[Tensor]]
    remarks: list[str] = field(default_factory=list)  # on the file, known when all blocks have been read


def open_source(
    audio: Audio,
    sample_rate_hz: int,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    stream: int | None = None,
    strict: bool = False,
) -> Source:
    """A file, open or not, or (channels, samples) or (samples,) at ``sample_rate_hz``; or a part of it.

    ``stream`` and ``strict`` are those of `open_audio`. The rest of an open file is stored on the disk as long as the
    source is in use. Raises `AudioError` for audio that cannot be read or used, and if nothing is left of it.
    """
    if isinstance(audio, bytes | bytearray | memoryview):
        audio = io.BytesIO(audio)
    if hasattr(audio, "read") and not isinstance(audio, str | os.PathLike):
        kept = _Kept(audio)
        try:
            source = open_source(kept.path, sample_rate_hz, start_seconds, duration_seconds, stream, strict)
        except AudioError as error:
            raise kept.named(error) from None
        return replace(source, blocks=lambda: kept.blocks(source))
    if isinstance(audio, str | os.PathLike):
        path = expand_home(audio)
        if problem := address(os.fspath(audio)):
            raise AudioError(f"{problem} Or give the open answer: urllib.request.urlopen(address).")
        with open_audio(path, stream, strict) as reader:
            rate_hz, n_channels, about = reader.sample_rate_hz, reader.n_channels, reader.about_samples
    else:
        path, waveform = None, check_waveform(audio)
        rate_hz, n_channels, about = sample_rate_hz, *waveform.shape
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        lowest, highest = RATES_HZ
        raise AudioError(f"{path or 'the audio'} is at {rate_hz} Hz; expected {lowest} to {highest} Hz.")
    start, wanted = as_samples(rate_hz, start_seconds, duration_seconds)

    remarks: list[str] = []

    def file_blocks(path: Path) -> Iterator[Tensor]:
        reader = open_audio(path, stream, strict)
        yield from read_blocks(reader, start, wanted)
        remarks[:] = reader.remarks()

    def blocks() -> Iterator[Tensor]:
        found = False
        for block in file_blocks(path) if path else cut_blocks(waveform, start, wanted):
            found = True
            yield block
        if not found:
            raise AudioError(f"{path or 'the audio'} has ended before {start_seconds:g} s, where separation begins.")

    left = None if about is None else max(0, about - start)
    return Source(rate_hz, n_channels, left if wanted is None else min(wanted, left or wanted), blocks, remarks)


class _Kept:
    """What is left of an open file, in a temporary one that goes when nobody uses this any more."""

    def __init__(self, file: Any):
        name = getattr(file, "name", None)
        self.label = name if isinstance(name, str) and name else f"the {type(file).__name__}"
        handle, text = tempfile.mkstemp(prefix="refined-bsrnn-")
        self.path = Path(text)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        try:
            with os.fdopen(handle, "wb") as copy:
                shutil.copyfileobj(file, copy, BLOCK)
        except TypeError:
            raise AudioError(f"{self.label} gives text; expected bytes: open it with the mode 'rb'.") from None
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise AudioError(f"{self.label} cannot be read: {error}.") from None
        if not self.path.stat().st_size:
            raise AudioError(f"{self.label} has no bytes left to read. Go to its beginning first: file.seek(0).")

    def named(self, error: AudioError) -> AudioError:
        """The error with the name that the user gave."""
        return AudioError(str(error).replace(str(self.path), self.label))

    def blocks(self, source: Source) -> Iterator[Tensor]:
        """The blocks of the source of the temporary file, which holds it as long as they are read."""
        try:
            yield from source.blocks()
        except AudioError as error:
            raise self.named(error) from None


def as_samples(rate_hz: int, start_seconds: float, duration_seconds: float | None) -> tuple[int, int | None]:
    """The first sample and the number of samples (None: all); `RecipeError` for a place before the beginning."""
    if not 0 <= start_seconds < float("inf"):
        raise RecipeError(f"start {start_seconds:g} s; expected 0 or more.")
    if duration_seconds is not None and not 0 < duration_seconds < float("inf"):
        raise RecipeError(f"duration {duration_seconds:g} s; expected more than 0.")
    wanted = None if duration_seconds is None else max(1, round(min(duration_seconds * rate_hz, MOST_SAMPLES)))
    return round(min(start_seconds * rate_hz, MOST_SAMPLES)), wanted


def read_blocks(
    reader: AudioReader, start: int = 0, n_samples: int | None = None, size: int = BLOCK
) -> Iterator[Tensor]:
    """Samples from ``start`` on, (channels, ``size``) each, the last one shorter; then the file is closed."""
    with reader:
        reader.skip(start)
        left = n_samples
        while left is None or left > 0:
            block = reader.read(size if left is None else min(size, left))
            if block.shape[1] == 0:
                return
            left = None if left is None else left - block.shape[1]
            yield block


def cut_blocks(waveform: Tensor, start: int, n_samples: int | None) -> Iterator[Tensor]:
    stop = waveform.shape[1] if n_samples is None else min(start + n_samples, waveform.shape[1])
    for begin in range(start, stop, BLOCK):
        yield waveform[:, begin : min(begin + BLOCK, stop)]


def as_float32(audio: Tensor | np.ndarray) -> Tensor:
    """A float32 tensor on the CPU; `AudioError` for integers, whose full scale is unknown."""
    if not isinstance(audio, Tensor):
        try:
            audio = np.asarray(audio)
        except ValueError:  # lists of unequal lengths
            raise AudioError("audio is no array of numbers; expected floats, (channels, samples).") from None
        if np.issubdtype(audio.dtype, np.floating):
            return torch.from_numpy(np.require(audio, np.float32, ["C", "W"]))
    elif audio.is_floating_point():
        return audio.detach().to("cpu", torch.float32)
    raise AudioError(
        f"audio is of the type {audio.dtype}; expected floats, full scale at ±1: divide 16-bit integers by 32768."
    )


def check_waveform(audio: Tensor | np.ndarray) -> Tensor:
    """(channels, samples) float32 from a tensor or array; `AudioError` for empty, misshapen or non-finite audio."""
    waveform = as_float32(audio)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    doubtful = waveform.ndim == 2 and waveform.shape[1] < len(waveform) > max(PAIRS)
    if waveform.ndim != 2 or 0 in waveform.shape or len(waveform) > MAX_CHANNELS or doubtful:
        hint = f" More than {max(PAIRS)} channels need at least as many samples: if these are (samples, channels), "
        raise AudioError(
            f"audio has the shape {tuple(waveform.shape)}; expected (channels, samples), neither empty, at most "
            f"{MAX_CHANNELS} channels.{hint + 'give audio.T.' if doubtful else ''}"
        )
    if not torch.isfinite(waveform).all():
        raise AudioError("the audio holds NaN or infinite samples; expected finite numbers.")
    return waveform
