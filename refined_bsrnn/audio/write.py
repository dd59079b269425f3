"""float32 (channels, samples) → audio files: atomic, block by block, with tags."""

import io
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..errors import AudioError
from ..system import atomic_write, unwritable
from .base import MAX_CHANNELS, VORBIS_ORDER, reason
from .convert import MP3_RATES_HZ

WAV_LIMIT = 2**32 - 2**20  # bytes; a longer wav is written as RF64, its 64-bit form
GUESSES_ERR = 4  # at most by so much; FFmpeg's lengths may be guesses
# suffix → bits → libsndfile's subtype, the default first; the lossy ones have no bits
SUBTYPES: dict[str, dict[str, str]] = {
    "wav": {"32f": "FLOAT", "24": "PCM_24", "16": "PCM_16"},
    "flac": {"24": "PCM_24", "16": "PCM_16"},
    "mp3": {"": "MPEG_LAYER_III"},
    "ogg": {"": "VORBIS"},
}
INTEGER_BITS = {"PCM_16": 16, "PCM_24": 24}
MOST_CHANNELS = {"mp3": 2, "flac": 8}
ID3_FRAMES = {
    **{"title": "TIT2", "artist": "TPE1", "album": "TALB", "date": "TDRC", "genre": "TCON", "tracknumber": "TRCK"},
    **{"comment": "COMM", "copyright": "TCOP", "license": "TXXX", "software": "TSSE"},
}


def quantise(audio: Tensor, subtype: str) -> Tensor:
    """Samples as they will be read back when written with that subtype: rounded to its steps and limited to its range.

    `AudioWriter` writes integers so that they are read back exactly; libsndfile's own conversion scales by one step
    less than its reading does.
    """
    bits = INTEGER_BITS.get(subtype)
    if bits is None:
        return audio
    scale = 2.0 ** (bits - 1)
    return audio.mul(scale).round().clamp(-scale, scale - 1).div(scale)


class AudioWriter:
    """An audio file that is written block by block; it appears only if the ``with`` around it ends well.

    ``subtype`` is one of `SUBTYPES`; ``n_samples``: the approximate number of samples, if it is known (a wav that may
    grow beyond 4 GB begins with 64-bit lengths); ``tags`` are those of `TAGS`; ``compression`` is libsndfile's level, 0
    (best) to 1 (smallest). Integer formats clamp samples beyond full scale: ``peak`` is the highest sample. Raises
    `AudioError` for audio that the format cannot hold and for a disk that cannot be written.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        sample_rate_hz: int,
        n_channels: int,
        subtype: str | None = None,
        n_samples: int | None = None,
        tags: Mapping[str, str] | None = None,
        compression: float | None = None,
    ):
        self.path, self.n_channels, self.n_samples, self.peak = Path(path), n_channels, 0, 0.0
        suffix = self.path.suffix.lower()[1:]
        if suffix not in SUBTYPES:
            expected = ", ".join(f".{name}" for name in SUBTYPES)
            raise AudioError(f"{path} cannot be written; expected one of the suffixes {expected}.")
        self.subtype = subtype or next(iter(SUBTYPES[suffix].values()))
        if not soundfile.check_format(suffix, self.subtype):
            known = ", ".join(soundfile.available_subtypes(suffix))
            raise AudioError(f"{path} cannot be written with subtype {self.subtype}; expected one of {known}.")
        if n_channels > MOST_CHANNELS.get(suffix, MAX_CHANNELS) or (
            suffix == "mp3" and sample_rate_hz not in MP3_RATES_HZ
        ):
            rates = f" at {', '.join(map(str, MP3_RATES_HZ))} Hz" if suffix == "mp3" else ""
            raise AudioError(
                f"{path} cannot be written: {n_channels} channels at {sample_rate_hz} Hz; {suffix} holds at most "
                f"{MOST_CHANNELS.get(suffix, MAX_CHANNELS)} channels{rates}. Take another format, as wav."
            )
        self.order = VORBIS_ORDER.get(n_channels) if suffix == "ogg" else None
        self._options = {
            "samplerate": int(sample_rate_hz),
            "channels": n_channels,
            "subtype": self.subtype,
            "format": _container(suffix, n_channels, n_samples),
            "compression_level": compression,
        }
        self._tags = {name: text for name, text in (tags or {}).items() if name in ID3_FRAMES and text}
        self._stack = ExitStack()

    def __enter__(self) -> "AudioWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path, AudioError))
            with self._problems():
                self._sink = stack.enter_context(_Sink(temporary))
                self._file = soundfile.SoundFile(self._sink, "w", **self._options)
            stack.callback(self._close, temporary)
            for name, text in self._tags.items() if self._options["format"] != "MP3" else ():
                with suppress(soundfile.LibsndfileError):  # a tag that this format does not have
                    setattr(self._file, name, text)
            self._stack = stack.pop_all()
        return self

    def write(self, audio: Tensor | np.ndarray) -> None:
        """Append (channels, samples)."""
        samples = _writable(self.path, audio, self.n_channels)
        if samples.shape[1] == 0:
            return
        self.peak = max(self.peak, float(np.abs(samples).max()))
        self.n_samples += samples.shape[1]
        bits = INTEGER_BITS.get(self.subtype)
        if bits is not None:
            scaled = np.rint(samples * 2.0 ** (bits - 1)).clip(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
            # 24 bits are the upper ones of 32
            samples = scaled.astype(np.int16) if bits == 16 else scaled.astype(np.int32) << 8
        samples = samples if self.order is None else samples[list(self.order)]
        with self._problems():
            self._file.write(samples.T)

    @contextmanager
    def _problems(self) -> Iterator[None]:
        """What the disk or libsndfile complains about, as an `AudioError` that names this file."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, error, AudioError) from error
        except (soundfile.LibsndfileError, AssertionError) as error:  # fewer samples were written than were given
            if self._sink.problem is None:
                raise AudioError(f"{self.path} cannot be written: {reason(error)}") from error
        if self._sink.problem is not None:
            raise unwritable(self.path, self._sink.problem, AudioError) from self._sink.problem

    def _close(self, temporary: Path) -> None:
        with self._problems():
            self._file.close()
        with self._problems():
            self._sink.close()
            if self._options["format"] == "MP3" and self._tags:
                _put_before(temporary, id3(self._tags))
            if self._options["format"] == "RF64" and temporary.stat().st_size <= WAV_LIMIT:
                _shorten(temporary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class _Sink(io.FileIO):
    """A file that remembers what kept it from being written.

    As libsndfile closes a flac, an mp3 or an ogg it writes the last tenths of a second, and does not look whether it
    could: on a full disk the music would end early without a word.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            while written < len(data):  # what is left gives the reason
                written += super().write(data[written:])
        except OSError as error:
            self.problem = self.problem or error
            return 0
        return written


def id3(tags: Mapping[str, str]) -> bytes:
    """An ID3v2.4 tag in UTF-8, written before an mp3; libsndfile's own tag declares its UTF-8 as Latin-1."""
    body = b""
    for name, text in tags.items():
        described = {"COMM": b"XXX\0", "TXXX": name.encode() + b"\0"}  # a comment's language; then a description each
        content = b"\x03" + described.get(ID3_FRAMES[name], b"") + text.encode(errors="replace")
        body += ID3_FRAMES[name].encode() + _seven_bits(len(content)) + b"\0\0" + content
    return b"ID3\x04\0\0" + _seven_bits(len(body)) + body


def _seven_bits(n: int) -> bytes:
    """ID3's numbers: four bytes, the highest bit of each left free."""
    return bytes(n >> shift & 0x7F for shift in (21, 14, 7, 0))


def _put_before(path: Path, head: bytes) -> None:
    """Put bytes before all that is in a file."""
    with path.open("rb+") as file, tempfile.TemporaryFile(dir=path.parent) as whole:
        whole.write(head)
        shutil.copyfileobj(file, whole)
        file.seek(0)
        whole.seek(0)
        shutil.copyfileobj(whole, file)


def _container(suffix: str, n_channels: int, n_samples: int | None) -> str:
    """libsndfile's name of the format: wav with an order of channels, or with 64-bit lengths, where it may have to."""
    if suffix != "wav":
        return suffix.upper()
    if n_samples is None or n_samples * n_channels * 4 * GUESSES_ERR > WAV_LIMIT:
        return "RF64"
    return "WAVEX" if n_channels > 2 else "WAV"


def _shorten(path: Path) -> None:
    """Make a plain wav of an RF64 that did not become long: only the lengths are at other places."""
    with path.open("rb+") as file:
        head = file.read(36)  # RF64, -1, WAVE, ds64, 28, then the sizes of all and of the samples in 64 bits
        place = 12
        file.seek(place)
        while (chunk := file.read(8))[:4] != b"data":
            size = int.from_bytes(chunk[4:], "little")
            place += 8 + size + size % 2
            file.seek(place)
        for at, content in ((place + 4, head[28:32]), (12, b"JUNK"), (4, head[20:24]), (0, b"RIFF")):
            file.seek(at)
            file.write(content)


def write_audio(
    path: str | PathLike[str], audio: Tensor | np.ndarray, sample_rate_hz: int, subtype: str | None = None
) -> Path:
    """Write (channels, samples) as ``.wav`` (32-bit float), ``.flac`` (24 bit), ``.mp3``, ``.ogg`` or another subtype.

    Writing is atomic: after a crash or with a full disk the old file is still there. Raises `AudioError` for other
    suffixes, subtypes and shapes, NaN or infinite samples, a disk that cannot be written, and if integers would clip
    (float files keep samples above full scale).
    """
    path = Path(path)
    n_channels = audio.shape[0] if audio.ndim == 2 else 0
    samples = _writable(path, audio, n_channels)
    if 0 in samples.shape:
        raise AudioError(f"{path} cannot be written: the audio has the shape {samples.shape}; {SHAPE}, neither empty.")
    peak = float(np.abs(samples).max())
    with AudioWriter(path, sample_rate_hz, n_channels, subtype, samples.shape[1]) as writer:
        if writer.subtype not in ("FLOAT", "DOUBLE") and peak > 1.0:
            raise AudioError(
                f"{path} would clip: the peak is {20 * math.log10(peak):.2f} dB above full scale. "
                "Write a float .wav or lower the level."
            )
        writer.write(samples)
    return path


SHAPE = "expected (channels, samples)"


def _writable(path: Path, audio: Tensor | np.ndarray, n_channels: int) -> np.ndarray:
    """(channels, samples) float32 on the CPU; `AudioError` for another shape, NaN or infinity."""
    samples = torch.as_tensor(audio).detach().to("cpu", torch.float32).numpy()
    if samples.ndim != 2 or samples.shape[0] != n_channels:
        raise AudioError(f"{path} cannot be written: the audio has the shape {samples.shape}; {SHAPE}.")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} cannot be written: the audio holds NaN or infinite samples.")
    return samples
