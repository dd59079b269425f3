"""Audio files → float32 (channels, samples), full scale at ±1: any part of a file, or a stream.

libsndfile reads formats with exact seeking (wav, flac, aiff, ...), the FFmpeg libraries inside PyAV read all others
(mp3, ogg, m4a, video, ...). Both come with their Python packages; no system package is needed. Headers and tags are not
trusted: lengths are those of the audio that can be decoded. `write` and `convert` contain the rest; all names are
available here, too.
"""

import stat
from contextlib import ExitStack
from os import PathLike, stat_result
from pathlib import Path
from typing import BinaryIO

import av
import torch
from av.error import FFmpegError
from torch import Tensor

from ..errors import AudioError
from ..system import reason_of
from .base import MAX_CHANNELS, MEND, TAGS, AudioInfo, AudioReader, packed_error
from .chain import ChainReader, open_piece
from .convert import (
    CODECS,
    Resampler,
    fold_channels,
    match_channels,
    resample,
    stretch,
    through_codec,
)
from .ffmpeg import FfmpegReader, Pipe
from .look import look
from .sndfile import SoundfileReader, open_raw, open_sound
from .write import INTEGER_BITS, SUBTYPES, AudioWriter, id3, quantise, write_audio

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".mp2", ".aiff", ".aif", ".w64", ".rf64", ".caf", ".au", ".m4a"),
    *(".aac", ".oga", ".wma", ".mka", ".ac3", ".wv", ".ape", ".tta"),
)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".wmv", ".mpg", ".ts")  # whose sound is read


def audio_info(path: str | PathLike[str], stream: int | None = None) -> AudioInfo:
    """Length, rate and channels of the actual audio; the file is decoded once if nothing else gives the exact length.

    ``stream`` counts the audio streams of an mp4 or video from 0; None: the one marked as default, else the first.
    Raises `AudioError` for a file that is empty or contains no audio.
    """
    with open_audio(path, stream) as reader:
        return length_of(reader)


def length_of(reader: AudioReader) -> AudioInfo:
    """Length, rate and channels of an open file; this may read it to its end."""
    n_samples = reader.n_samples
    if n_samples is None:
        n_samples = sum(block.shape[1] for block in reader.blocks(1 << 18))
    return AudioInfo(n_samples, reader.sample_rate_hz, reader.n_channels)


def read_audio(
    path: str | PathLike[str],
    start: int = 0,
    n_samples: int | None = None,
    stream: int | None = None,
    contiguous: bool = True,
    strict: bool = False,
) -> tuple[Tensor, int]:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) as float32 (channels, samples), and the rate.

    Only that part is read, if the format has exact seeking; Ogg, MP3 and others are decoded from the beginning. Damaged
    parts are silence, or an error with ``strict``. Raises `AudioError` for a missing, foreign or empty file, a part
    beyond the end, and NaN or infinite samples.
    """
    with open_audio(path, stream, strict) as reader:
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


def open_audio(path: str | PathLike[str] | BinaryIO, stream: int | None = None, strict: bool = False) -> AudioReader:
    """An `AudioReader` of a file, or of an open binary stream that need not be seekable, such as standard input.

    ``stream`` counts the audio streams of an mp4 or video from 0; None: the one marked as default, else the first. With
    ``strict`` damage is an error. Raises `AudioError`, which says what the file is instead.
    """
    if not isinstance(path, str | PathLike):
        return FfmpegReader(Path(str(getattr(path, "name", "stream"))), Pipe(path), stream, strict)
    path = Path(path)
    try:
        status = path.stat()  # once: a training opens many files for a moment each
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path} is a folder; expected an audio file.")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"there is no file {path}.")
        if status.st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes). {MEND}")
        reader = _reader(path, status, stream, strict)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
        raise AudioError(f"there is no file {path}.") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {reason_of(error)}.") from None
    if not 1 <= reader.n_channels <= MAX_CHANNELS or reader.sample_rate_hz < 1:
        reader.close()
        raise AudioError(
            f"{path} claims {reader.n_channels} channels at {reader.sample_rate_hz} Hz; expected 1 to {MAX_CHANNELS} "
            f"channels. Its header is damaged. {MEND}"
        )
    return reader


def _reader(path: Path, status: stat_result, stream: int | None, strict: bool) -> AudioReader:
    found = look(path, status.st_size, status.st_mtime_ns)
    if found.way == "empty":
        raise AudioError(f"{path} holds no samples ({status.st_size} bytes). {MEND}")
    with ExitStack() as stack:
        if stream or found.way in ("ffmpeg", "coded"):
            reader: AudioReader = FfmpegReader(path, path.open("rb"), stream, strict)
        elif found.way == "chain":
            several = len(found.pieces) > 1
            reader = ChainReader(path, found.pieces, strict) if several else open_piece(path, found.pieces[0], strict)
        else:
            reader = (
                open_raw(path, found.facts, found.pieces[0], strict)
                if found.way == "raw"
                else SoundfileReader(path, open_sound(path), strict)
            )
        stack.callback(reader.close)
        if found.way == "coded" and reader.lossless_bits is not None:
            raise packed_error(path)
        reader.notes += [found.note] if found.note else []
        if why := found.cut or (found.promised and reader.promise(found.promised, reader.n_samples or 0)):
            reader.end_early(why)
        stack.pop_all()
    return reader


# --- tags -------------------------------------------------------------------------------------------------------------


def read_tags(path: str | PathLike[str]) -> dict[str, str]:
    """The tags in `TAGS` that a file has; empty if it cannot be read."""
    named = {"track": "tracknumber", "year": "date"}
    try:
        with Path(path).open("rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
            streams = [dict(stream.metadata) for stream in container.streams.audio[:1]]  # Ogg has them there
            found = {key.lower(): text for tags in (*streams, dict(container.metadata)) for key, text in tags.items()}
    except (FFmpegError, OSError, ValueError):
        return {}
    found = {named.get(key, key): text for key, text in found.items()}
    return {name: found[name] for name in TAGS if found.get(name)}
