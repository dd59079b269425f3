"""Audio files → float32 (channels, samples), full scale at ±1: any part of a file, or as a stream.

libsndfile reads what can be entered at any place (wav, flac, aiff, ...), the FFmpeg inside PyAV all else (mp3, ogg,
m4a, video, ...). Both come with their Python packages: no system package is needed. What a header or a tag announces is
a claim: lengths are those of what is there. `write` and `convert` hold the rest; all names are here, too.
"""

import re
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from os import SEEK_END, PathLike, stat_result
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import av
import numpy as np
import soundfile
import torch
from av.error import FFmpegError
from torch import Tensor

from ..errors import AudioError
from . import ogg
from .base import MAX_CHANNELS, MEND, TAGS, VORBIS_ORDER, AudioInfo, AudioReader, Window, reason, sound_path
from .convert import (
    CODECS,
    Resampler,
    Uniform,
    fold_channels,
    match_channels,
    resample,
    stretch,
    through_codec,
)
from .ffmpeg import FfmpegReader, Pipe, has_jumps, tag_size
from .write import INTEGER_BITS, SUBTYPES, AudioWriter, id3, quantise, write_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "CODECS",
    "INTEGER_BITS",
    "MAX_CHANNELS",
    "SUBTYPES",
    "TAGS",
    "VIDEO_SUFFIXES",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "Resampler",
    "audio_info",
    "fold_channels",
    "id3",
    "match_channels",
    "open_audio",
    "quantise",
    "read_audio",
    "read_tags",
    "resample",
    "stretch",
    "through_codec",
    "write_audio",
]
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
SEEKS_EXACTLY = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU", "RAW")
LOSSLESS = {"PCM_U8": 16, "PCM_S8": 16, "PCM_16": 16, "ALAC_16": 16, "PCM_24": 24, "ALAC_24": 24}  # bits to write with
LOSSY = ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
SAMPLE_BYTES = {"PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1}
BIG_ENDIAN = ("AIFF", "AU", "CAF")
UNKNOWN_FRAMES = 2**62  # libsndfile has the largest number there is for a streamed flac
STEP = 512  # samples; how finely what is damaged is told from what is not


def audio_info(path: str | PathLike[str], stream: int | None = None) -> AudioInfo:
    """Length, rate and channels: of what is there, found by decoding the file once where nothing else tells exactly.

    ``stream`` counts the audio streams of an mp4 or video from 0; None: the one marked as default, else the first.
    Raises `AudioError` for what is no audio file or empty.
    """
    with open_audio(path, stream) as reader:
        return length_of(reader)


def length_of(reader: AudioReader) -> AudioInfo:
    """Length, rate and channels of an open file; it may be read to its end for that."""
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

    Only that part is read, where the format can be entered anywhere; Ogg, MP3 and others are decoded from the
    beginning, since they do not land where they are told to. What is damaged is silence, or with ``strict`` an error.
    Raises `AudioError` for a missing, foreign or empty file, a part beyond the end, and NaN or infinite samples.
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
    """An `AudioReader` of a file, or of an open binary stream that need not be able to go back, as standard input.

    ``stream`` counts the audio streams of an mp4 or video from 0; None: the one marked as default, else the first.
    With ``strict`` damage is an error. Raises `AudioError` that says what is there instead.
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
        raise AudioError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not 1 <= reader.n_channels <= MAX_CHANNELS or reader.sample_rate_hz < 1:
        reader.close()
        raise AudioError(
            f"{path} claims {reader.n_channels} channels at {reader.sample_rate_hz} Hz; expected 1 to {MAX_CHANNELS} "
            f"channels. Its header is damaged. {MEND}"
        )
    return reader


def _reader(path: Path, status: stat_result, stream: int | None, strict: bool) -> AudioReader:
    look = _look(path, status.st_size, status.st_mtime_ns)
    if look.way == "empty":
        raise AudioError(f"{path} holds no samples ({status.st_size} bytes). {MEND}")
    with ExitStack() as stack:
        if stream or look.way in ("ffmpeg", "coded"):
            reader: AudioReader = FfmpegReader(path, path.open("rb"), stream, strict)
        elif look.way == "chain":
            several = len(look.pieces) > 1
            reader = _ChainReader(path, look.pieces, strict) if several else _open_piece(path, look.pieces[0], strict)
        else:
            reader = (
                _raw(path, look, strict) if look.way == "raw" else _SoundfileReader(path, _sound_file(path), strict)
            )
        stack.callback(reader.close)
        if look.way == "coded" and reader.lossless_bits is not None:
            raise AudioError(
                f"{path} is no music as it stands: DTS or another coded sound is packed into its samples, and FFmpeg "
                "does not decode it. Convert it to wav or flac with a program that does."
            )
        reader.notes += [look.note] if look.note else []
        if why := look.cut or (look.promised and reader.promise(look.promised, reader.n_samples or 0)):
            reader.end_early(why)
        stack.pop_all()
    return reader


# --- what a file is ---------------------------------------------------------------------------------------------------


class _Look(NamedTuple):
    """How a file is read: ``whole`` and ``raw`` (its samples from a place on) by libsndfile, ``ffmpeg``, ``coded``
    (FFmpeg must find something else than samples in it), ``chain`` (several files one behind the other), ``empty``."""

    way: str
    pieces: tuple[tuple[int, int, bool], ...] = ()  # of a chain, or raw samples: bytes, and whether libsndfile reads it
    facts: tuple[Any, ...] = ()  # of raw samples: format, rate, channels, subtype, endian
    promised: int = 0  # samples that the header announces, where fewer are there
    cut: str = ""  # why it ends too early
    note: str = ""


@lru_cache(maxsize=1 << 14)  # a training reads small pieces of the same files again and again
def _look(path: Path, size: int, modified_ns: int) -> _Look:
    """What is in a file, whatever its name, its header's lengths and its tags say."""
    with path.open("rb") as file:
        head = file.read(4)
        if head == b"OggS":
            return _look_at_ogg(path, file)
        if head[:3] == b"ID3" and (place := _behind_id3(file)):
            return _Look("chain", ((place, size, _trusted(path, place, size)),))
        if head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0"):  # mp3 and its like
            return _Look("ffmpeg")
        file.seek(0)
        try:
            with _SoundFile(file) as sound:
                if sound.format == "FLAC":
                    return _look_at_flac(path, file, size, sound)
                return _look_at_samples(path, file, size, sound)
        except (soundfile.LibsndfileError, TypeError):
            starts = _files_among_chunks(file, 0, size)  # libsndfile refuses some that have another file behind them
            return _chain(path, starts, size) if len(starts) > 1 else _Look("ffmpeg")


BEHIND_ID3 = rb"RIFF|RIFX|RF64|BW64|FORM|caff"
FILE_BEGINNING = re.compile(rb"RIFF.{4}WAVE|RIFX.{4}WAVE|(?:RF64|BW64).{4}WAVE|FORM.{4}AIF[FC]", re.DOTALL)


def _behind_id3(file: BinaryIO) -> int:
    """Where a wav or its kin begins behind names and pictures that do not belong there; 0: none does."""
    file.seek(0)
    place = tag_size(file.read(10))
    file.seek(place)
    return place if re.match(BEHIND_ID3, file.read(4)) else 0


def _look_at_ogg(path: Path, file: BinaryIO) -> _Look:
    """Whether an Ogg is a chain: each link begins with the first pages of its streams, one right behind the other."""
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        all_pages = list(ogg.pages(data))
    before = [ogg.Page(0, 0, False), *all_pages]
    starts = [page.start for page, last in zip(all_pages, before, strict=False) if page.first and not last.first]
    damaged = [page.start for page in ogg.damaged(all_pages)]
    cut = "it ends in the middle of a page" if all_pages[-1].cut else ""
    return _chain(path, starts, file.seek(0, SEEK_END), cut, damaged)


def _chain(path: Path, starts: list[int], size: int, cut: str = "", damaged: Iterable[int] = ()) -> _Look:
    """The pieces of a file that begin at the bytes ``starts``; libsndfile reads none with a ``damaged`` place in it."""
    ends = [*starts[1:], size]
    pieces = [
        (start, stop, not any(start <= place < stop for place in damaged) and _trusted(path, start, stop))
        for start, stop in zip([0, *ends], ends, strict=False)
    ]
    return _Look("chain", tuple(pieces), cut=cut)


def _trusted(path: Path, start: int, stop: int) -> bool:
    """Whether libsndfile reads a flac or Ogg right: up to the end that it announces, with no page missing before."""
    with Window(path, start, stop) as window:
        try:
            with _SoundFile(window) as sound:
                if sound.format == "FLAC":
                    return _has_its_end(sound)
                if sound.format in SEEKS_EXACTLY:
                    return bool(sound.frames)
                if sound.format != "OGG" or not 1 <= sound.frames < UNKNOWN_FRAMES:
                    return False
        except (soundfile.LibsndfileError, TypeError):
            return False
        window.seek(0)
        return not has_jumps(window)


def _look_at_flac(path: Path, file: BinaryIO, size: int, sound: soundfile.SoundFile) -> _Look:
    """Whether the last sample is there, and the file ends behind it."""
    if not _has_its_end(sound):
        return _Look("ffmpeg")
    if _one_flac(file, size, sound.frames):
        return _Look("whole")
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        starts = [match.start() for match in FLAC_BEGINNING.finditer(data)]
    return _chain(path, starts, size) if len(starts) > 1 else _Look("ffmpeg")


def _has_its_end(sound: soundfile.SoundFile) -> bool:
    """Whether the last sample that a flac announces is there."""
    if not 1 <= sound.frames < UNKNOWN_FRAMES:
        return False
    try:
        sound.seek(sound.frames - 1)
        return len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


FLAC_BEGINNING = re.compile(rb"fLaC[\0\x80]\0\0\x22")
FLAC_LOOKS, FLAC_LOOK_BYTES = 16, 1 << 16


def _one_flac(file: BinaryIO, size: int, n_samples: int) -> bool:
    """Whether the numbers of a flac's frames rise to the announced length and end there, looked at in some places.

    False also where that cannot be seen: then all of the file is searched for another beginning.
    """
    file.seek(0)
    start = file.read(FLAC_LOOK_BYTES).find(b"fLaC") + 4
    file.seek(start + 4)
    block, header = int.from_bytes(file.read(2), "big"), b""
    while not header[:1] >= b"\x80":  # the last block of metadata
        file.seek(start)
        header = file.read(4)
        start += 4 + int.from_bytes(header[1:], "big")
        if len(header) < 4 or start >= size:
            return False
    file.seek(start)
    begins, before = file.read(3), -1  # the same in all frames: synchronisation, and how block size and rate are coded
    for i in range(FLAC_LOOKS):
        file.seek(start + max(0, size - FLAC_LOOK_BYTES - start) * i // (FLAC_LOOKS - 1))
        data = file.read(FLAC_LOOK_BYTES)
        number = _number(data, data.find(begins))
        if number < before:
            return False
        before = number
    block = 1 if begins[1] & 1 else max(1, block)  # numbers of samples, or of blocks
    beyond = chr(-(-n_samples // block) % 0x110000).encode(errors="surrogatepass")  # the last one may be shorter
    more = re.compile(re.escape(begins[:2]) + b".." + re.escape(beyond), re.DOTALL)
    ends = _number(data, data.rfind(begins)) * block < n_samples and (block == 1 or not more.search(data))
    return ends and FLAC_BEGINNING.search(data, 1) is None


def _number(data: bytes, place: int) -> int:
    """The number of the flac frame that begins there; -1 where none does."""
    return _utf8_number(data[place + 4 : place + 11]) if place >= 0 else -1


def _utf8_number(data: bytes) -> int:
    """A number that is coded as UTF-8 codes characters; -1 where it is none."""
    if not data:
        return -1
    n_ones = 8 - (data[0] ^ 0xFF).bit_length()
    number = data[0] & (0x7F >> n_ones)
    for byte in data[1 : max(1, n_ones)]:
        number = number << 6 | byte & 0x3F
    return number


# What a header says of its samples' bytes, in libsndfile's log.
ANNOUNCED = re.compile(r"(?:\bdata|SSND|Data [Ss]ize)\s*: (\d+)\b")
NEVER_KNOWN = (0x7FFFF000, 0xFFFFFFE8)  # from here on: lengths of programs that write to a pipe
CHUNK = re.compile(rb"\0{0,8}(?:TAG|ID3|[A-Za-z][A-Za-z0-9_ ]{3})")
CHUNK_HEADER_BYTES = 24  # at most counted among the samples
ZEROS_BYTES = 4096
SNIFFED_BYTES = 1 << 18
# DTS as 16 and 14 bits, and IEC 61937 (what a digital output carries), in both orders of bytes
PACKED = re.compile(
    rb"\xfe\x7f\x01\x80|\x7f\xfe\x80\x01|\xff\x1f\x00\xe8|\x1f\xff\xe8\x00|\x72\xf8\x1f\x4e|\xf8\x72\x4e\x1f"
)


def _look_at_samples(path: Path, file: BinaryIO, size: int, sound: soundfile.SoundFile) -> _Look:
    """Where the samples lie: behind those that the header announces there may be more of them, or fewer are there."""
    if "MPEG" in sound.subtype:
        return _Look("ffmpeg")
    if sound.format not in SEEKS_EXACTLY:
        return _Look("whole" if sound.frames else "empty")
    width = SAMPLE_BYTES.get(sound.subtype, 0) * sound.channels
    sound.seek(0)
    start = file.tell()
    sound.seek(sound.frames)
    stop = file.tell()
    if not width or stop - start != sound.frames * width:  # coded in blocks
        return _Look("whole" if sound.frames else "empty")
    announced = max(map(int, ANNOUNCED.findall(sound.extra_info)), default=-1)
    if behind := _files_among_chunks(file, stop, size, "big" if sound.format == "AIFF" else "little"):
        return _chain(path, [0, *behind], size)
    never_finished = f"{path} has a header that was never finished: all that follows it is read."
    if size - stop >= width and not _is_other(file, stop, size):
        endian = "BIG" if sound.format in BIG_ENDIAN and sound.endian != "LITTLE" else "LITTLE"
        facts = (sound.format, sound.samplerate, sound.channels, sound.subtype, endian)
        look = _Look("raw", ((start, size, True),), facts, note=never_finished)
    elif sound.frames == 0:
        return _Look("empty")
    else:
        unknown = announced >= NEVER_KNOWN[1] or NEVER_KNOWN[0] <= announced < 1 << 31
        unfinished = 0 <= announced < stop - start - CHUNK_HEADER_BYTES
        cut = not unknown and announced > size - start + CHUNK_HEADER_BYTES
        look = _Look("whole", promised=announced // width if cut else 0, note=never_finished if unfinished else "")
    if sound.subtype == "PCM_16":
        file.seek(start)
        found = [(match[0], match.start()) for match in PACKED.finditer(file.read(SNIFFED_BYTES))]
        places = [place for mark, place in found if mark == found[0][0]][:9]
        if len(places) > 4 and len(set(np.diff(places))) == 1:  # music may hold them by chance, not so regularly
            return _Look("coded")
    return look


def _files_among_chunks(file: BinaryIO, place: int, size: int, order: Literal["big", "little"] = "little") -> list[int]:
    """Where a wav or its kin begins among the chunks from a place on; ``order``: of the bytes of their lengths."""
    found: list[int] = []
    while (place := place + place % 2) + 12 <= size:
        file.seek(place)
        head = file.read(12)
        if FILE_BEGINNING.match(head):
            found.append(place)
            order = "big" if head[:4] in (b"FORM", b"RIFX") else "little"
            place += 12
        elif CHUNK.match(head):
            place += 8 + int.from_bytes(head[4:8], order)
        else:
            break
    return found


def _is_other(file: BinaryIO, place: int, size: int) -> bool:
    """Whether something else than samples follows: a chunk with a name, a tag, or a few zeros."""
    file.seek(place)
    data = file.read(ZEROS_BYTES)
    return CHUNK.match(data) is not None or (not any(data) and size - place <= ZEROS_BYTES)


# --- libsndfile -------------------------------------------------------------------------------------------------------


class _SoundFile(soundfile.SoundFile):
    """soundfile seeks behind every read to where it is already; in an MP3 or Ogg libsndfile lands elsewhere."""

    def seekable(self) -> bool:
        return self.format in SEEKS_EXACTLY and super().seekable()


def _sound_file(path: Path) -> _SoundFile:
    return _SoundFile(sound_path(path))


class _SoundfileReader(AudioReader):
    """What libsndfile reads, and can enter at any place."""

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
        """(n, channels) of a damaged flac: halved until what is good is told from what is not, which is silence."""
        self.file.close()
        if self.window:
            self.window.seek(0)
        try:
            self.file = _SoundFile(self.window) if self.window else _sound_file(self.path)
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


def _raw(path: Path, look: _Look, strict: bool) -> _SoundfileReader:
    """The samples behind a header that says too little of them, as libsndfile opens what has no header."""
    format_, *facts = look.facts
    window = Window(path, *look.pieces[0][:2])
    reader = _SoundfileReader(path, _SoundFile(window, "r", *facts, "RAW"), strict, window)
    reader.format = format_
    return reader


def _as_float(samples: np.ndarray) -> np.ndarray:
    """16-bit integers as float32 from -1 up to 1, contiguous; the values that libsndfile gives."""
    result = np.empty(samples.shape, np.float32)
    np.copyto(result, samples)
    result *= np.float32(2**-15)
    return result


# --- several files in one ---------------------------------------------------------------------------------------------


Piece = tuple[int, int, bool]


def _open_piece(path: Path, piece: Piece, strict: bool) -> AudioReader:
    start, stop, trusted = piece
    window = Window(path, start, stop)
    if trusted:
        return _SoundfileReader(path, _SoundFile(window), strict, window)
    return FfmpegReader(path, window, None, strict)


class _ChainReader(AudioReader):
    """Files one behind the other in one, as recordings of radio are, at the rate and with the channels of the first."""

    def __init__(self, path: Path, pieces: tuple[Piece, ...], strict: bool):
        super().__init__(path, strict)
        self.left = list(pieces)
        self.piece: AudioReader | None = _open_piece(path, self.left.pop(0), strict)
        first = self.piece
        self.sample_rate_hz, self.n_channels, self.format = first.sample_rate_hz, first.n_channels, first.format
        self.lossless_bits = first.lossless_bits
        self.n_samples = None if first.n_samples is None else self._whole_length(pieces)
        first_share = pieces[0][1] / pieces[-1][1]
        self.about_samples = self.n_samples or (first.about_samples and round(first.about_samples / first_share))
        self.uniform = Uniform(self.sample_rate_hz, self.n_channels)
        self.rest = np.empty((self.n_channels, 0), np.float32)
        self.made = self.begun = 0  # samples so far, and where the piece begins
        self.earlier: list[tuple[int, int]] = []  # gaps before the piece

    def _whole_length(self, pieces: tuple[Piece, ...]) -> int | None:
        if not all(trusted for _, _, trusted in pieces):
            return None
        total = 0
        for piece in pieces:
            with _open_piece(self.path, piece, False) as reader:
                total += -(-(reader.n_samples or 0) * self.sample_rate_hz // reader.sample_rate_hz)
        return total

    def _read(self, n_samples: int) -> np.ndarray:
        parts = [self.rest]
        while sum(part.shape[1] for part in parts) < n_samples and self.piece is not None:
            parts += self._more(self.piece, n_samples)
        samples = np.concatenate(parts, axis=1)
        self.rest = samples[:, n_samples:]
        return samples[:, :n_samples]

    def _more(self, piece: AudioReader, n_samples: int) -> list[np.ndarray]:
        """What comes next of the piece; at its end it is closed, and the next one opened."""
        try:
            block = piece.read(n_samples).numpy()
        except AudioError as error:
            self._leave_out(error)
            block = self.rest[:, :0]
        share = self.sample_rate_hz / piece.sample_rate_hz
        here = [(self.begun + round(start * share), self.begun + round(stop * share)) for start, stop in piece.gaps]
        self.gaps = [*self.earlier, *here]
        made = self.uniform.push(block, piece.sample_rate_hz) if block.shape[1] else self.uniform.finish()
        self.made += sum(part.shape[1] for part in made)
        if not block.shape[1]:
            self._advance()
        return made

    def _advance(self) -> None:
        self.close()
        self.piece, self.begun, self.earlier = None, self.made, list(self.gaps)
        while self.left and self.piece is None:
            try:
                self.piece = _open_piece(self.path, self.left.pop(0), self.strict)
            except AudioError as error:
                self._leave_out(error)

    def _leave_out(self, error: AudioError) -> None:
        if self.strict:
            raise error
        self.notes.append(f"A part of {self.path} from {self.made / self.sample_rate_hz:.2f} s on is left out: {error}")

    def skip(self, n_samples: int) -> int:
        """Within pieces that can be entered at any place nothing is decoded."""
        target = self.position + n_samples
        while (
            (piece := self.piece) is not None
            and piece.n_samples is not None
            and piece.sample_rate_hz == self.sample_rate_hz
            and self.rest.shape[1] == 0
            and self.position < target
        ):
            here = min(target - self.position, piece.n_samples - piece.position)
            piece.skip(here)
            self.position += here
            self.made += here
            if piece.position == piece.n_samples:
                self._advance()
        return super().skip(target - self.position)

    def close(self) -> None:
        if self.piece:
            self.piece.close()


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
