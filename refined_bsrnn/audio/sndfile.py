"""Reads files with libsndfile, which has exact seeking."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..errors import AudioError
from .base import MEND, VORBIS_ORDER, AudioReader, Window, reason, sound_path

SEEKS_EXACTLY = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU", "RAW")
LOSSLESS = {"PCM_U8": 16, "PCM_S8": 16, "PCM_16": 16, "ALAC_16": 16, "PCM_24": 24, "ALAC_24": 24}  # bits to write with
LOSSY = ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
STEP = 512  # samples; how finely damage is located


class SoundFile(soundfile.SoundFile):
    """Avoids the seek that soundfile makes after every read: in an MP3 or Ogg libsndfile lands at another place.

    An error in here would be printed with its traceback, because there is C code between it and its handler.
    """

    def seekable(self) -> bool:
        return self.format in SEEKS_EXACTLY and super().seekable()

    def _init_virtual_io(self, file: Any) -> Any:
        return super()._init_virtual_io(_Steady(file))


class _Steady:
    """A file of which a place that it has not is no error: a header may ask for any, and libsndfile would go on.

    An error would be printed with its traceback, since there is C between it and who could catch it.
    """

    def __init__(self, file: Any):
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def seek(self, offset: int, whence: int = 0) -> None:
        with suppress(OSError, ValueError, OverflowError):
            self.file.seek(offset, whence)


def open_window(window: Window, *arguments: Any) -> SoundFile:
    """A part of a file as libsndfile reads it; closed again if it cannot."""
    try:
        return SoundFile(window, *arguments)
    except BaseException:
        window.close()
        raise


def open_sound(path: Path) -> SoundFile:
    """A file for libsndfile, with any bytes in its name."""
    return SoundFile(sound_path(path))


class SoundfileReader(AudioReader):
    """Reads files with libsndfile, with exact seeking."""

    n_samples: int

    def __init__(self, path: Path, file: soundfile.SoundFile, strict: bool = False, window: Window | None = None):
        super().__init__(path, strict)
        self.file, self.window = file, window
        self.sample_rate_hz, self.n_channels, self.format = file.samplerate, file.channels, file.format
        self.n_samples = self.about_samples = file.frames
        self.order = np.argsort(VORBIS_ORDER.get(file.channels, range(file.channels))) if file.format == "OGG" else None
        self.lossless_bits = None if file.subtype in LOSSY or file.format == "OGG" else LOSSLESS.get(file.subtype, 32)
        # libsndfile makes floats of integers one by one, which takes longer than all else there is to reading
        self.read_as = "int16" if file.subtype == "PCM_16" else "float32"

    def _read(self, n_samples: int) -> np.ndarray:
        wanted = min(n_samples, self.n_samples - self.position)
        try:
            samples = self.file.read(wanted, dtype=self.read_as, always_2d=True)
            if len(samples) < wanted and self.format == "FLAC":
                samples = self._mended(self.position, wanted)
        except soundfile.LibsndfileError as error:
            if self.format != "FLAC":
                raise AudioError(f"{self.path} cannot be read: {reason(error)}. {MEND}") from None
            samples = self._mended(self.position, wanted)
        if len(samples) < wanted and self.format == "OGG":
            self._lose(self.position + len(samples), wanted - len(samples))
            samples = np.pad(samples, ((0, wanted - len(samples)), (0, 0)))
        if len(samples) < wanted:
            raise AudioError(f"{self.path} became shorter while it was read. {MEND}")
        if self.position + wanted == self.n_samples:
            self._check_share(self.n_samples)
        if self.read_as == "int16":
            return _as_float(samples.T)
        return samples.T if self.order is None else samples.T[self.order]

    def _mended(self, start: int, n_samples: int) -> np.ndarray:
        """(n, channels) of a damaged flac: halved until the damage is located, which becomes silence."""
        self.file.close()
        if self.window:
            self.window.seek(0)
        try:
            self.file = SoundFile(self.window) if self.window else open_sound(self.path)
            self.file.seek(start)
            samples = self.file.read(n_samples, dtype=self.read_as, always_2d=True)
        except soundfile.LibsndfileError:
            samples = np.empty((0, self.n_channels))
        if len(samples) == n_samples:
            return samples
        if n_samples <= STEP:
            self._lose(start, n_samples)
            return np.zeros((n_samples, self.n_channels), self.read_as)
        half = n_samples // 2
        return np.concatenate([self._mended(start, half), self._mended(start + half, n_samples - half)])

    def skip(self, n_samples: int) -> int:
        if self.format not in SEEKS_EXACTLY:
            return super().skip(n_samples)
        try:
            self.position = self.file.seek(min(self.position + n_samples, self.n_samples))
        except soundfile.LibsndfileError:  # into what is damaged
            self.position = min(self.position + n_samples, self.n_samples)
        return self.position

    def close(self) -> None:
        self.file.close()
        if self.window:
            self.window.close()


def open_raw(path: Path, facts: Sequence[Any], piece: tuple[int, int, bool], strict: bool) -> SoundfileReader:
    """The samples after a header that announces too few; libsndfile opens them as a file without a header.

    ``facts``: format, rate, channels, subtype and endian; ``piece``: the first and the last byte.
    """
    format_, *others = facts
    window = Window(path, *piece[:2])
    reader = SoundfileReader(path, open_window(window, "r", *others, "RAW"), strict, window)
    reader.format = format_
    return reader


def _as_float(samples: np.ndarray) -> np.ndarray:
    """16-bit integers as float32 from -1 up to 1, contiguous; the values that libsndfile gives."""
    result = np.empty(samples.shape, np.float32)
    np.copyto(result, samples)
    result *= np.float32(2**-15)
    return result
