"""The only module that knows an audio backend: read (any part of a file, or as a stream), write, resample.

Audio is float32, (channels, samples), full scale at ±1. soundfile reads wav, flac, ogg, mp3, aiff and more; what it
does not read (m4a, video, mp3 that does not tell its length, ...) is decoded by the FFmpeg inside PyAV. Both come with
their Python packages: no system package is needed. soxr resamples.
"""

import io
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
import soxr
import torch
from av.error import FFmpegError
from torch import Tensor
from torch.nn import functional

from ..errors import AudioError
from ..system import atomic_write, is_unicode, unwritable

AUDIO_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
    ".mp2",
    ".aiff",
    ".aif",
    ".w64",
    ".rf64",
    ".caf",
    ".au",
    ".m4a",
    ".aac",
    ".oga",
    ".wma",
    ".mka",
    ".ac3",
    ".wv",
    ".ape",
    ".tta",
)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".wmv", ".mpg", ".ts")  # whose sound is read
SEEKS_EXACTLY = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU")
SYSTEM_ERROR = 2  # libsndfile's SF_ERR_SYSTEM: the disk, not the audio
LOSSLESS = {"PCM_U8": 16, "PCM_S8": 16, "PCM_16": 16, "ALAC_16": 16, "PCM_24": 24, "ALAC_24": 24}  # bits to write with
MAX_CHANNELS = 256  # more than any format for listening has: a damaged header
MP4_FRAME = 4096  # samples; the last coded frame of an mp4 may hang over the end by less
PREROLL_SECONDS = 1.0  # decoded and dropped behind a seek: a decoder begins with what came before
WAV_LIMIT = 2**32 - 2**20  # bytes; a longer wav is written as RF64, its 64-bit form
GUESSES_ERR = 4  # at most by so much; FFmpeg's lengths may be guesses
# Vorbis and Opus order channels as Vorbis' specification (4.3.9) says, wav, flac and FFmpeg by their masks; libsndfile
# leaves it at that. Where the former have the latter's channels:
VORBIS_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 4, 5, 3), 7: (0, 2, 1, 5, 6, 4, 3)}
VORBIS_ORDER[8] = (0, 2, 1, 6, 7, 4, 5, 3)

TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license")  # carried over


@dataclass(frozen=True)
class AudioInfo:
    """Length, rate and channels of a file."""

    n_samples: int  # per channel
    sample_rate_hz: int
    n_channels: int

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz


# --- reading ----------------------------------------------------------------------------------------------------------


def audio_info(path: str | PathLike[str], stream: int = 0) -> AudioInfo:
    """Length, rate and channels: from the header, or by decoding the file once where the header does not tell exactly.

    ``stream`` counts the audio streams of an mp4 or video. Raises `AudioError` for what is no audio file or empty.
    """
    with open_audio(path, stream) as reader:
        n_samples = reader.n_samples
        if n_samples is None:
            n_samples = sum(block.shape[1] for block in reader.blocks(1 << 18))
        return AudioInfo(n_samples, reader.sample_rate_hz, reader.n_channels)


def read_audio(
    path: str | PathLike[str],
    start: int = 0,
    n_samples: int | None = None,
    stream: int = 0,
    contiguous: bool = True,
) -> tuple[Tensor, int]:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) as float32 (channels, samples), and the rate.

    Only that part is read, where the format can be entered anywhere; Ogg, MP3 and others are decoded from the
    beginning, since they do not land where they are told to. Raises `AudioError` for a missing, foreign, empty or
    truncated file, a part beyond the end, and NaN or infinite samples. An Ogg that was cut off carries no length to
    compare with: what is left of it is read.
    """
    with open_audio(path, stream) as reader:
        total = reader.n_samples
        stop = total if n_samples is None else start + n_samples
        if start < 0 or (stop is not None and stop <= start) or (total is not None and (stop or 0) > total):
            raise AudioError(f"{path} has {_count(total)}; samples {start} to {stop} were asked for.")
        found = reader.skip(start)
        parts = list(reader.blocks(1 << 18)) if stop is None else [reader.read(stop - start, contiguous)]
        samples = parts[0] if len(parts) == 1 else torch.cat(parts or [torch.empty(reader.n_channels, 0)], dim=1)
        if samples.shape[1] < 1 or (stop is not None and samples.shape[1] < stop - start):
            total = found + samples.shape[1]
            raise AudioError(f"{path} has {_count(total)}; samples {start} to {stop or 'the end'} were asked for.")
        return samples, reader.sample_rate_hz


def _count(n_samples: int | None) -> str:
    return "an unknown length" if n_samples is None else f"{n_samples} samples"


class AudioReader:
    """An open audio file that is read from its beginning to its end, block by block.

    Attributes: ``path``; ``sample_rate_hz``; ``n_channels``; ``n_samples`` (None where only decoding tells);
    ``about_samples`` (None or a guess for progress bars); ``format`` (``WAV``, ``FLAC``, ... or FFmpeg's name);
    ``lossless_bits`` (16, 24, 32 for float, None for lossy coding). Close it, or use it in a ``with``.
    """

    path: Path
    sample_rate_hz: int
    n_channels: int
    n_samples: int | None
    about_samples: int | None
    format: str
    lossless_bits: int | None
    position = 0

    def read(self, n_samples: int, contiguous: bool = True) -> Tensor:
        """The next (channels, n_samples) as float32; fewer only at the end, then (channels, 0).

        Without ``contiguous`` they may be a view of samples that alternate between channels, as in the file. Raises
        `AudioError` for a damaged or truncated file and for NaN or infinite samples.
        """
        samples = self._read(n_samples)
        if self.lossless_bits in (16, 24):
            suspicious = False  # integers cannot be anything else
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(samples.sum())  # one pass over all; only then look at each
        if suspicious and (bad := ~np.isfinite(samples).all(0)).any():
            seconds = (self.position + int(bad.argmax())) / self.sample_rate_hz
            raise AudioError(
                f"{self.path} holds NaN or infinite samples, the first at {seconds:.3f} s; export it again."
            )
        self.position += samples.shape[1]
        return torch.from_numpy(np.ascontiguousarray(samples) if contiguous else samples)

    def blocks(self, n_samples: int) -> Iterator[Tensor]:
        """What is left, in blocks of (channels, n_samples), the last one shorter."""
        while (block := self.read(n_samples)).shape[1]:
            yield block

    def skip(self, n_samples: int) -> int:
        """Go ``n_samples`` ahead; returns the place reached, which is less than asked for behind the end only."""
        target = self.position + n_samples
        while self.position < target:
            skipped = self._read(min(1 << 18, target - self.position)).shape[1]
            self.position += skipped
            if not skipped:
                break
        return self.position

    def _read(self, n_samples: int) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(path: str | PathLike[str] | BinaryIO, stream: int = 0) -> AudioReader:
    """An `AudioReader` of a file, or of an open binary stream that need not be able to go back, as standard input.

    ``stream`` counts the audio streams of an mp4 or video. Raises `AudioError` that says what is there instead.
    """
    if not isinstance(path, str | PathLike):
        return _FfmpegReader(Path(str(getattr(path, "name", "stream"))), _Piped(path), stream)
    path = Path(path)
    try:
        status = path.stat()  # once: a training opens many files for a moment each
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path} is a folder; expected an audio file.")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"there is no file {path}.")
        if status.st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes). Copy it again or restore a backup.")
        known = None if stream else _SoundfileReader.open(path, status)
        reader: AudioReader = known or _FfmpegReader(path, path.open("rb"), stream)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
        raise AudioError(f"there is no file {path}.") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not 1 <= reader.n_channels <= MAX_CHANNELS or reader.sample_rate_hz < 1:
        reader.close()
        raise AudioError(
            f"{path} claims {reader.n_channels} channels at {reader.sample_rate_hz} Hz; expected 1 to {MAX_CHANNELS} "
            "channels. Its header is damaged: copy it again or restore a backup."
        )
    return reader


class _SoundFile(soundfile.SoundFile):
    """soundfile seeks behind every read to where it is already; in an MP3 or Ogg libsndfile lands elsewhere."""

    def seekable(self) -> bool:
        return self.format in SEEKS_EXACTLY and super().seekable()


def _named(path: Path) -> Path | bytes:
    """A path as soundfile takes it: it refuses names that are no Unicode, which Linux allows, but as bytes."""
    return path if is_unicode(str(path)) else os.fsencode(path)


class _SoundfileReader(AudioReader):
    """What libsndfile reads, and tells the length of."""

    def __init__(self, path: Path, file: soundfile.SoundFile):
        self.path, self.file = path, file
        self.sample_rate_hz, self.n_channels, self.format = file.samplerate, file.channels, file.format
        self.n_samples = self.about_samples = file.frames
        self.order = np.argsort(VORBIS_ORDER.get(file.channels, range(file.channels))) if file.format == "OGG" else None
        lossy = file.format in ("OGG", "MP3") or file.subtype in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
        self.lossless_bits = None if lossy else LOSSLESS.get(file.subtype, 32)
        # libsndfile makes floats of integers one by one, which takes longer than all else there is to reading
        self.read_as = "int16" if file.subtype == "PCM_16" else "float32"

    @classmethod
    def open(cls, path: Path, status: os.stat_result) -> "_SoundfileReader | None":
        """None where FFmpeg should try; `AudioError` for an empty or truncated file."""
        try:
            file = _SoundFile(_named(path))
        except (soundfile.LibsndfileError, TypeError):  # TypeError: it takes an unknown suffix for raw samples
            return None
        try:
            if file.frames < 1:
                raise AudioError(
                    f"{path} holds no samples ({status.st_size} bytes). Copy it again or restore a backup."
                )
            known = _check_length(path, status.st_size, status.st_mtime_ns, file.format, file.frames)
        except AudioError:
            file.close()
            raise
        if not known:
            file.close()
            return None
        return cls(path, file)

    def _read(self, n_samples: int) -> np.ndarray:
        wanted = min(n_samples, self.file.frames - self.position)
        try:
            samples = self.file.read(wanted, dtype=self.read_as, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._damage(error) from None
        if len(samples) < wanted:
            raise AudioError(
                f"{self.path} is cut off: it holds {self.position + len(samples)} of the samples that its header "
                f"promises up to {self.position + wanted}. Copy it again or restore a backup."
            )
        if self.read_as == "int16":
            return _as_float(samples.T)
        return samples.T if self.order is None else samples.T[self.order]

    def skip(self, n_samples: int) -> int:
        if self.format not in SEEKS_EXACTLY:
            return super().skip(n_samples)
        try:
            self.position = self.file.seek(min(self.position + n_samples, self.file.frames))
        except soundfile.LibsndfileError as error:
            raise self._damage(error) from None
        return self.position

    def _damage(self, error: soundfile.LibsndfileError) -> AudioError:
        """What libsndfile's error means: of a flac it depends on where it was entered, so the samples are counted."""
        what = f"is damaged: {_reason(error)}"
        if self.format == "FLAC" and (n_good := _decodable(self.path)) < self.file.frames:
            what = (
                f"is cut off or damaged: {n_good} of the {self.file.frames} samples that its header promises can be "
                "decoded."
            )
        return AudioError(f"{self.path} {what} Copy it again or restore a backup.")

    def close(self) -> None:
        self.file.close()


def _as_float(samples: np.ndarray) -> np.ndarray:
    """16-bit integers as float32 from -1 up to 1, contiguous; the values that libsndfile gives."""
    result = np.empty(samples.shape, np.float32)
    np.copyto(result, samples)
    result *= np.float32(2**-15)
    return result


def _decodable(path: Path) -> int:
    """Samples from the beginning of a file to where decoding fails."""
    n_samples = 0
    with suppress(soundfile.LibsndfileError), _SoundFile(path) as file:
        while n_read := len(file.read(1 << 12, dtype="float32", always_2d=True)):
            n_samples += n_read
    return n_samples


class _Piped:
    """A stream for PyAV: it gives what there is without waiting for more, and keeps what is raised meanwhile.

    PyAV calls it from within FFmpeg and drops exceptions, Ctrl-C among them; the reader raises them behind that.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.raised = file, None
        self.close = file.close

    raised: BaseException | None

    def read(self, n_bytes: int) -> bytes:
        if self.raised is not None:  # FFmpeg asks again
            return b""
        try:
            return self.file.read1(n_bytes) if hasattr(self.file, "read1") else self.file.read(n_bytes)
        except BaseException as error:
            self.raised = error
            return b""

    def check(self) -> None:
        if self.raised is not None:
            raise self.raised


# What FFmpeg may read of a stream before it gives the first sample; else it waits for seconds of it.
PIPE_PROBING = {"probesize": "32768", "analyzeduration": "100000"}  # bytes, microseconds


class _FfmpegReader(AudioReader):
    """What FFmpeg decodes: one audio stream of the file."""

    def __init__(self, path: Path, file: BinaryIO | _Piped, stream: int):
        self.path, self.n_samples = path, None
        self.resources = ExitStack()
        self.resources.callback(file.close)
        self.pipe = file if isinstance(file, _Piped) else None
        try:
            # Given an open file and no protocol, a playlist cannot make FFmpeg open anything else.
            options = {"protocol_whitelist": "none", **(PIPE_PROBING if self.pipe else {})}
            self.container = self.resources.enter_context(av.open(file, options=options))
            if len(self.container.streams.audio) <= stream:
                wanted = "no sound" if stream == 0 else f"no audio stream {stream}"
                raise AudioError(f"{path} has {wanted}: {_streams(self.container)}.")
            self.stream = self.container.streams.audio[stream]
            self._describe()
        except (FFmpegError, ValueError) as error:
            self.close()
            if self.pipe:
                self.pipe.check()
            size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
            raise AudioError(
                f"{path}{size} cannot be read as audio: {_ffmpeg_reason(error)}. If it plays elsewhere, export it as "
                "wav or flac there; else copy it again or restore a backup."
            ) from None
        except AudioError:
            self.close()
            raise
        self.decoded = self._frames()
        self.frame_pts = 0
        self.rest = np.empty((self.n_channels, 0), np.float32)

    def _describe(self) -> None:
        stream, codec = self.stream, self.stream.codec_context
        if codec is None or codec.format is None or not codec.channels or not stream.rate:
            raise AudioError(
                f"{self.path} cannot be read as audio: FFmpeg finds no sound in it that it could decode. "
                "Copy it again or restore a backup."
            )
        self.sample_rate_hz, self.n_channels, self.format = stream.rate or 0, codec.channels, self.container.format.name
        ints = {"u8": 16, "s16": 16, "s32": 24}  # FFmpeg gives 24-bit samples as 32
        exact = codec.name.startswith("pcm_") or codec.name in ("flac", "alac", "wavpack", "tta", "ape")
        self.lossless_bits = ints.get(codec.format.name.removesuffix("p"), 32) if exact else None
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self.container.duration:
            seconds = self.container.duration / av.time_base
        self.about_samples = round(seconds * self.sample_rate_hz) if seconds else None
        # The last frame of AAC is filled up; an mp4 says where the sound ends, and FFmpeg leaves that to us.
        self.end = self.stated_end = self.about_samples if "mp4" in self.format and stream.duration else None
        self.scale = (stream.time_base or 0) * self.sample_rate_hz  # samples per time stamp

    def _frames(self) -> Iterator[np.ndarray]:
        """(channels, n) per frame, as float32."""
        # Interleaved: PyAV reads only eight planes.
        convert = av.AudioResampler(format="flt", layout=self.stream.layout, rate=self.sample_rate_hz)
        try:
            for frame in self._decode():
                if frame.sample_rate != self.sample_rate_hz or frame.layout.nb_channels != self.n_channels:
                    raise AudioError(f"{self.path} changes its rate or channels on the way; export it as wav first.")
                self.frame_pts = frame.pts or 0
                frame.pts = None  # the resampler would fill gaps between time stamps
                for converted in convert.resample(frame):
                    yield converted.to_ndarray().reshape(-1, self.n_channels).T
            if self.pipe:
                self.pipe.check()
        except (FFmpegError, ValueError) as error:
            if self.pipe:
                self.pipe.check()
                if "mp4" in self.format and self.position == 0:
                    raise AudioError(
                        f"{self.path} is an mp4 whose index may lie at its end, which cannot be read from a stream; "
                        "give it as a file, or write it with ffmpeg -movflags +faststart."
                    ) from None
            raise AudioError(
                f"{self.path} is damaged: {_ffmpeg_reason(error)}. Copy it again or restore a backup."
            ) from None

    def _decode(self) -> Iterator[Any]:
        for packet in self.container.demux(self.stream):
            if self.end is not None and packet.pts is not None and packet.duration:
                coded_end = round((packet.pts - (self.stream.start_time or 0) + packet.duration) * self.scale)
            else:
                coded_end = None
            yield from packet.decode()
            # The length that an mp4 states may be rounded to milliseconds; where its last packet agrees, that counts.
            if coded_end is not None and abs(coded_end - self.stated_end) <= self.sample_rate_hz / 1000:
                self.end = coded_end

    def skip(self, n_samples: int) -> int:
        """In an mp4, where time stamps count samples, decoding begins a little before the place.

        That is exact but for noise that an AAC decoder is told to make up.
        """
        target, preroll = self.position + n_samples, round(PREROLL_SECONDS * self.sample_rate_hz)
        entry = min(target, self.end or 0) - preroll  # FFmpeg takes no place far behind the end
        if self.end is not None and self.scale == 1 and entry > self.position + preroll:
            self.container.seek(entry + (self.stream.start_time or 0), stream=self.stream)
            self.decoded = self._frames()
            self.rest = next(self.decoded, self.rest[:, :0])
            self.position = self.frame_pts - (self.stream.start_time or 0)
        return super().skip(target - self.position)

    def _read(self, n_samples: int) -> np.ndarray:
        parts, there = [self.rest], self.rest.shape[1]
        # Of an mp4 some frames ahead, to see whether the end is near.
        wanted = n_samples + (MP4_FRAME if self.end is not None else 0)
        while there < wanted and (frame := next(self.decoded, None)) is not None:
            parts.append(frame)
            there += frame.shape[1]
        samples = np.concatenate(parts, axis=1)
        at_end = there < wanted
        if at_end and self.end is not None and 0 < self.position + there - self.end < MP4_FRAME:
            samples = samples[:, : max(0, self.end - self.position)]
        if at_end and self.position + samples.shape[1] == 0:
            raise AudioError(f"{self.path} holds no samples. Copy it again or restore a backup.")
        self.rest = samples[:, n_samples:]
        return samples[:, :n_samples]

    def close(self) -> None:
        with suppress(FFmpegError):
            self.resources.close()


def _streams(container: Any) -> str:
    kinds = [f"{stream.type} stream {stream.index}" for stream in container.streams]
    return f"FFmpeg finds {' and '.join(kinds)} in it" if kinds else "FFmpeg finds nothing in it"


def _ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's last words about the file, without its error number."""
    logged = getattr(error, "log", None)
    text = logged[2] if logged else getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".")[:1].lower() + text.strip().rstrip(".")[1:]


@lru_cache(maxsize=1 << 14)  # a training reads small pieces of the same files again and again
def _check_length(path: Path, size: int, modified_ns: int, format_: str, frames: int) -> bool:
    """Whether libsndfile's length is right; `AudioError` for a file that was cut off.

    libsndfile quietly takes what is left of a cut wav, aiff, w64 or au, and guesses the length of an untagged MP3 from
    its first frame: with a variable bit rate it would drop the rest of the song without a word.
    """
    with path.open("rb") as raw:
        head = raw.read(28)
        promised = _promised_bytes(head)
        untagged = format_ == "MP3" and not _has_length_tag(raw, head)
    if promised is not None and size < promised - 1:  # one: some writers leave out the last padding byte
        raise AudioError(
            f"{path} is cut off: its header promises {promised} bytes, and it has {size}. "
            "Copy it again or restore a backup."
        )
    return not untagged and frames < 2**62  # the largest number there is stands for a streamed flac


def _promised_bytes(head: bytes) -> int | None:
    """The file size that the first 28 bytes announce; None where the format, or a writer that streamed, does not."""
    kind, size = head[:4], int.from_bytes(head[4:8], "little")
    if kind == b"RIFF":
        # Streaming writers cannot know the length: ffmpeg leaves all ones, sox 2 GiB less a page, others 0.
        unknown = size == 0 or size >= 0xFFFFFFE8 or 0x7FFFF000 <= size < 0x80000000
        return None if unknown else size + 8
    if kind == b"RF64" and head[12:16] == b"ds64":
        size = int.from_bytes(head[20:28], "little")
        return size + 8 if 0 < size < 2**62 else None
    if kind == b"riff":  # w64: a 16-byte id, then the size of all
        size = int.from_bytes(head[16:24], "little")
        return size if 0 < size < 2**62 else None
    size = int.from_bytes(head[4:8], "big")
    if kind == b"FORM":
        return size + 8 if 0 < size < 0xFFFFFFE8 else None
    if kind == b".snd":  # here it is the place of the samples; their size follows
        n_bytes = int.from_bytes(head[8:12], "big")
        return size + n_bytes if n_bytes < 0xFFFFFFE8 else None
    return None


def _has_length_tag(raw: BinaryIO, head: bytes) -> bool:
    """Whether the first frame of an MP3 is an encoder's Xing, Info or VBRI tag, which holds the number of frames."""
    start = 0
    while head[:3] == b"ID3" and len(head) >= 10:  # names and pictures, more than once in some files
        a, b, c, d = head[6:10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d)  # seven bits each
        raw.seek(start)
        head = raw.read(10)
    raw.seek(start)
    first_frame = raw.read(4096)  # a frame has at most 1441 bytes; some tag writers leave zeros before it
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path and the 'Error'."""
    text = getattr(error, "error_string", "") or "format not recognised."
    text = text.removeprefix("Error :").strip()
    return text[:1].lower() + text[1:]


# --- writing ----------------------------------------------------------------------------------------------------------

# suffix → bits → libsndfile's subtype, the default first; the lossy ones have no bits
SUBTYPES: dict[str, dict[str, str]] = {
    "wav": {"32f": "FLOAT", "24": "PCM_24", "16": "PCM_16"},
    "flac": {"24": "PCM_24", "16": "PCM_16"},
    "mp3": {"": "MPEG_LAYER_III"},
    "ogg": {"": "VORBIS"},
}
INTEGER_BITS = {"PCM_16": 16, "PCM_24": 24}
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MOST_CHANNELS = {"mp3": 2, "flac": 8}
ID3_FRAMES = {
    **{"title": "TIT2", "artist": "TPE1", "album": "TALB", "date": "TDRC", "genre": "TCON", "tracknumber": "TRCK"},
    **{"comment": "COMM", "copyright": "TCOP", "license": "TXXX"},
}


def quantise(audio: Tensor, subtype: str) -> Tensor:
    """What will be read back of samples written with that subtype: rounded to its steps and kept in its range.

    Written by `AudioWriter`, integers come back exactly so; libsndfile's own conversion scales by one step less than
    its reading does.
    """
    bits = INTEGER_BITS.get(subtype)
    if bits is None:
        return audio
    scale = 2.0 ** (bits - 1)
    return audio.mul(scale).round().clamp(-scale, scale - 1).div(scale)


class AudioWriter:
    """An audio file that is written block by block, and is there only when the ``with`` around it ends well.

    ``subtype`` is one of `SUBTYPES`; ``n_samples``: about how many will come, where that is known (a wav that could go
    beyond 4 GB is begun with 64-bit lengths); ``tags`` are those of `TAGS`; ``compression`` is libsndfile's level, 0
    (best) to 1 (smallest). Integer formats clamp what is beyond full scale: ``peak`` says how far the samples reached.
    Raises `AudioError` for what the format cannot hold and for a disk that cannot be written.
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
        self._tags = {name: text for name, text in (tags or {}).items() if name in TAGS and text}
        self._stack = ExitStack()

    def __enter__(self) -> "AudioWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path, AudioError))
            with self._problems():
                temporary.touch()  # where that fails the system says why; libsndfile does not
                self._file = soundfile.SoundFile(_named(temporary), "w", **self._options)
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
        why = ""
        try:
            yield
        except soundfile.LibsndfileError as error:
            why = "the disk is full or does not answer" if error.code == SYSTEM_ERROR else ""
            if not why:
                raise AudioError(f"{self.path} cannot be written: {_reason(error)}") from error
        except AssertionError:  # how soundfile says that fewer samples were written than it was given
            why = "the disk is full"
        except OSError as error:
            raise unwritable(self.path, error, AudioError) from error
        if why:
            raise AudioError(f"{self.path} cannot be written: {why}. Free some space or choose another folder.")

    def _close(self, temporary: Path) -> None:
        with self._problems():
            self._file.close()
            if self._options["format"] == "MP3" and self._tags:
                _put_before(temporary, id3(self._tags))
            if self._options["format"] == "RF64" and temporary.stat().st_size <= WAV_LIMIT:
                _shorten(temporary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def id3(tags: Mapping[str, str]) -> bytes:
    """An ID3v2.4 tag in UTF-8, to stand before an mp3; libsndfile's own says that its UTF-8 were Latin-1."""
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

    Atomic: a crash or a full disk leaves the old file. Raises `AudioError` for other suffixes, subtypes and shapes, NaN
    or infinite samples, a disk that cannot be written, and where integers would clip (float files keep what lies above
    full scale).
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


# --- rates and channels -----------------------------------------------------------------------------------------------


class Resampler:
    """A stream at another rate: blocks of (channels, samples) in, blocks out, together as if it were one piece.

    A filter of soxr's very high quality: flat to 0.1 dB up to 0.9 of the lower Nyquist frequency; what lies above that
    frequency is more than 80 dB down. Its delay is made up for: n samples become ceil(n · to / from), in place.
    Raises `AudioError` for rates below 1.
    """

    def __init__(self, from_hz: int, to_hz: int, n_channels: int):
        if from_hz < 1 or to_hz < 1:
            raise AudioError(
                f"audio at {from_hz} Hz cannot be resampled to {to_hz} Hz; expected rates of at least 1 Hz."
            )
        self.from_hz, self.to_hz, self.n_channels = from_hz, to_hz, n_channels
        self.n_in = self.n_out = 0
        same = from_hz == to_hz
        self._stream = None if same else soxr.ResampleStream(from_hz, to_hz, n_channels, "float32", "VHQ")

    def push(self, block: Tensor) -> Tensor:
        """(channels, n) → what is ready of the result, (channels, m)."""
        return self._run(block, last=False)

    def finish(self) -> Tensor:
        """What is left behind the last block, (channels, m)."""
        rest = self._run(torch.empty(self.n_channels, 0), last=True)
        missing = -(-self.n_in * self.to_hz // self.from_hz) - self.n_out
        self.n_out += missing
        return functional.pad(rest, (0, missing))  # soxr rounds; a negative number cuts

    def _run(self, block: Tensor, last: bool) -> Tensor:
        if self._stream is None:
            return block
        self.n_in += block.shape[1]
        if self.n_in == 0:
            return block
        samples = np.ascontiguousarray(block.numpy().T)  # (n, channels)
        result = self._stream.resample_chunk(samples, last=last)
        self.n_out += len(result)
        return torch.from_numpy(np.ascontiguousarray(result.T))


def resample(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., samples) at another rate, ceil(samples · to / from) long: see `Resampler`."""
    if from_hz == to_hz >= 1:
        return audio
    flat = audio.detach().cpu().float().reshape(-1, audio.shape[-1])
    resampler = Resampler(from_hz, to_hz, flat.shape[0])
    whole = torch.cat([resampler.push(flat), resampler.finish()], dim=1)
    return whole.reshape(*audio.shape[:-1], -1).to(audio)


# FFmpeg's names of channel layouts, by their number of channels: what it takes as one sound.
LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1", 8: "octagonal", 16: "hexadecagonal", 24: "22.2"}
ATEMPO = (0.5, 2.0)  # what one pass can do


def stretch(audio: Tensor, sample_rate_hz: int, rate: float) -> Tensor:
    """(n, L) played ``rate`` times as fast at the same pitch, (n, round(L / rate)): FFmpeg's atempo, a WSOLA.

    Up to 24 channels are moved together, so that what belongs together stays so; more are taken in turns.
    """
    if not ATEMPO[0] <= rate <= ATEMPO[1]:
        raise AudioError(f"audio cannot be played {rate} times as fast; expected {ATEMPO[0]} to {ATEMPO[1]}.")
    length = round(audio.shape[-1] / rate)
    stretched = [_atempo(group, sample_rate_hz, rate)[:, :length] for group in audio.split(max(LAYOUTS))]
    return torch.cat([functional.pad(group, (0, length - group.shape[-1])) for group in stretched])


def _atempo(audio: Tensor, sample_rate_hz: int, rate: float) -> Tensor:
    n_channels = min(n for n in LAYOUTS if n >= len(audio))
    layout = LAYOUTS[n_channels]
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=sample_rate_hz, format="flt", layout=layout, time_base=Fraction(1, sample_rate_hz)
    )
    tempo, sink = graph.add("atempo", str(rate)), graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    silence = torch.zeros(n_channels - len(audio), audio.shape[-1])
    packed = torch.cat([audio.float(), silence]).T.reshape(1, -1)  # one frame behind the other
    frame = av.AudioFrame.from_ndarray(packed.numpy(), format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
    source.push(frame)
    source.push(None)
    blocks = []
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while isinstance(done := sink.pull(), av.AudioFrame):
            blocks.append(done.to_ndarray().reshape(-1, n_channels))
    return torch.from_numpy(np.concatenate(blocks).T[: len(audio)].copy())


CODECS = ("mp3", "ogg")


def through_codec(audio: Tensor, sample_rate_hz: int, codec: str, level: float) -> Tensor:
    """(C, L) encoded and decoded again in memory, in place and as loud as it was.

    ``codec`` is mp3 or ogg (Vorbis; also for rates that mp3 does not have), ``level`` libsndfile's from 0 (best) to
    below 1: at 44.1 kHz in stereo 0.5 is about 130 kbit/s, 0.9 about 80.
    """
    peak = float(audio.abs().max())
    if peak == 0:
        return audio
    codec = codec if sample_rate_hz in MP3_RATES_HZ else "ogg"
    memory = io.BytesIO()
    soundfile.write(memory, (audio / (2 * peak)).numpy().T, sample_rate_hz, format=codec, compression_level=level)
    memory.seek(0)
    samples, _ = soundfile.read(memory, dtype="float32", always_2d=True)
    decoded = torch.from_numpy(samples.T.copy())[:, : audio.shape[-1]] * (2 * peak)
    return functional.pad(decoded, (0, audio.shape[-1] - decoded.shape[-1]))


def match_channels(audio: Tensor, n_channels: int) -> Tensor:
    """(C, L) with the wanted number of channels: mono is repeated, anything is averaged to mono; else `AudioError`."""
    if audio.shape[0] == n_channels:
        return audio
    if n_channels == 1:
        return audio.mean(0, keepdim=True)
    if audio.shape[0] == 1:
        return audio.expand(n_channels, -1)
    raise AudioError(f"audio with {audio.shape[0]} channels cannot become {n_channels}; expected {n_channels} or 1.")


_H = math.sqrt(0.5)  # 3 dB down
# What the left channel takes of those of 3.0, quad, 5.0, 5.1, 6.1 and 7.1, in the order of wav; the right one takes the
# same of its own side (ITU-R BS.775: the middle and the surround channels 3 dB down, nothing of the LFE).
LEFT_OF: dict[int, tuple[float, ...]] = {
    3: (1, 0, _H),
    4: (1, 0, _H, 0),
    5: (1, 0, _H, _H, 0),
    6: (1, 0, _H, 0, _H, 0),
    7: (1, 0, _H, 0, 0.5, _H, 0),
    8: (1, 0, _H, 0, _H, 0, _H, 0),
}
MIDDLE = {3: (2,), 5: (2,), 6: (2, 3), 7: (2, 3, 4), 8: (2, 3)}  # channels of no side


def fold_channels(audio: Tensor, n_channels: int) -> Tensor:
    """(C, L) with the wanted number of channels, whatever it has: for data, whose files may differ.

    As `match_channels`; beyond it, surround sound is mixed down to stereo (of more than eight channels every second one
    to each side), and stereo beside surround sound is its front. Linear: a sum of stems stays one.
    """
    n_given = audio.shape[0]
    if n_given == n_channels or 1 in (n_given, n_channels):
        return match_channels(audio, n_channels)
    if n_given == 2:
        return functional.pad(audio, (0, 0, 0, n_channels - 2))
    if n_channels > 2:
        return fold_channels(fold_channels(audio, 2), n_channels)
    sides = _to_stereo(n_given).tolist()
    return torch.stack([sum((w * c for w, c in zip(side, audio, strict=True) if w), torch.zeros(())) for side in sides])


def _to_stereo(n_channels: int) -> Tensor:
    """(2, C): the matrix that mixes so many channels down."""
    left = LEFT_OF.get(n_channels)
    if left is None:
        side = torch.arange(n_channels) % 2
        weights = torch.stack([side == 0, side == 1]).float()
        return weights / weights.sum(1, keepdim=True)
    middle = MIDDLE.get(n_channels, ())
    sides = [i for i in range(n_channels) if i not in middle]  # left and right by turns
    right = list(left)
    for i, j in zip(sides[::2], sides[1::2], strict=True):
        right[i], right[j] = left[j], left[i]
    return torch.tensor([left, right])


# --- tags -------------------------------------------------------------------------------------------------------------


def read_tags(path: str | PathLike[str]) -> dict[str, str]:
    """Those of `TAGS` that a file has; nothing where it cannot be read."""
    named = {"track": "tracknumber", "year": "date"}
    try:
        with Path(path).open("rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
            streams = [dict(stream.metadata) for stream in container.streams.audio[:1]]  # Ogg has them there
            found = {key.lower(): text for tags in (*streams, dict(container.metadata)) for key, text in tags.items()}
    except (FFmpegError, OSError, ValueError):
        return {}
    found = {named.get(key, key): text for key, text in found.items()}
    return {name: found[name] for name in TAGS if found.get(name)}
