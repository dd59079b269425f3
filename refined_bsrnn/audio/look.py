"""Detects the content of an audio file, independent of its name, header and tags, and so the way to read it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import soundfile

from . import ogg
from .base import SNIFFED_SAMPLES, Window, is_packed
from .ffmpeg import has_jumps, tag_size
from .sndfile import SEEKS_EXACTLY, SoundFile

SAMPLE_BYTES = {"PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1}
BIG_ENDIAN = ("AIFF", "AU", "CAF")
UNKNOWN_FRAMES = 2**62  # libsndfile has the largest number there is for a streamed flac


class Look(NamedTuple):
    """The way to read a file: ``whole`` and ``raw`` (its samples from a place on) by libsndfile, ``ffmpeg``,
    ``coded`` (FFmpeg must find something else than samples in it), ``chain`` (several joined files), ``empty``.
    """

    way: str
    pieces: tuple[tuple[int, int, bool], ...] = ()  # of a chain, or raw samples: bytes, and whether libsndfile reads it
    facts: tuple[Any, ...] = ()  # of raw samples: format, rate, channels, subtype, endian
    promised: int = 0  # samples that the header announces, where fewer are there
    cut: str = ""  # why it ends too early
    note: str = ""


@lru_cache(maxsize=1 << 14)  # a training reads small pieces of the same files again and again
def look(path: Path, size: int, modified_ns: int) -> Look:
    """Detect the content of a file, independent of its name, its header's lengths and its tags."""
    with path.open("rb") as file:
        head = file.read(4)
        if head == b"OggS":
            return _look_at_ogg(path, file)
        if head[:3] == b"ID3" and (place := _behind_id3(file)):
            return Look("chain", ((place, size, _trusted(path, place, size)),))
        if head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0"):  # mp3 and its like
            return Look("ffmpeg")
        if len(starts := _same_again(file, head, size)) > 1:
            return _chain(path, starts, size)
        if re.match(WAV_KIN, head) and (several := _first_samples(file, size))[0]:
            stop, unread = several
            note = f"{path} has more than one chunk of samples: only the first is read, {unread} bytes are not."
            return Look("chain", ((0, stop, _trusted(path, 0, stop)),), note=note)
        file.seek(0)
        try:
            with SoundFile(file) as sound:
                if sound.format == "FLAC":
                    return _look_at_flac(path, file, size, sound)
                return _look_at_samples(path, file, size, sound)
        except (soundfile.LibsndfileError, TypeError):
            starts = _files_among_chunks(file, 0, size)  # libsndfile refuses some that have another file behind them
            return _chain(path, starts, size) if len(starts) > 1 else Look("ffmpeg")


WAV_KIN = rb"RIFF|RIFX|RF64|BW64|FORM|caff"
FILE_BEGINNING = re.compile(rb"RIFF.{4}WAVE|RIFX.{4}WAVE|(?:RF64|BW64).{4}WAVE|FORM.{4}AIF[FC]", re.DOTALL)


# How files of other formats begin, by their first four bytes; readers stop at the second beginning.
INITIAL = re.escape(bytes(flags for flags in range(256) if flags & 8))  # of a WavPack block: the first of its channels
BEGINNINGS = {
    b"caff": rb"caff\0\x01\0\0desc",
    b".snd": rb"\.snd\0\0..(?:.{4})\0\0\0[\x01-\x1b]",
    b"riff": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
    b"FLV\1": rb"FLV\x01[\x01\x04\x05]\0\0\0\x09",
    b"TTA1": rb"TTA1\x01\0",
    b"\x30\x26\xb2\x75": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c",  # ASF
    b"wvpk": rb"wvpk.{12}\0{4}.{5}[" + INITIAL + rb"]",
}


def _same_again(file: BinaryIO, head: bytes, size: int) -> list[int]:
    """Where files begin in one of a format in `BEGINNINGS`, or in an mp4; none: it is something else."""
    if head in BEGINNINGS:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return [match.start() for match in re.finditer(BEGINNINGS[head], data, re.DOTALL)]
    starts, place = [], 0
    while place + 16 <= size:  # the boxes of an mp4
        file.seek(place)
        header = file.read(16)
        if header[4:8] == b"ftyp":
            starts.append(place)
        elif not starts:
            break
        length = int.from_bytes(header[:4], "big")
        length = int.from_bytes(header[8:], "big") if length == 1 else length
        if length < 8:
            break
        place += length
    return starts


def _behind_id3(file: BinaryIO) -> int:
    """Where a wav or its kin begins behind names and pictures that do not belong there; 0: none does."""
    file.seek(0)
    place = tag_size(file.read(10))
    file.seek(place)
    return place if re.match(WAV_KIN, file.read(4)) else 0


def _look_at_ogg(path: Path, file: BinaryIO) -> Look:
    """Whether an Ogg is a chain: each link begins with the first pages of its streams, one right behind the other."""
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        all_pages = list(ogg.pages(data))
    before = [ogg.OggPage(0, 0, False), *all_pages]
    starts = [page.start for page, last in zip(all_pages, before, strict=False) if page.first and not last.first]
    damaged = [page.start for page in ogg.damaged(all_pages)]
    several = [page.start for page, last in zip(all_pages, before, strict=False) if page.first and last.first]
    cut = "it ends in the middle of a page" if all_pages[-1].cut else ""
    return _chain(path, starts, file.seek(0, SEEK_END), cut, [*damaged, *several])


def _chain(path: Path, starts: list[int], size: int, cut: str = "", others: Iterable[int] = ()) -> Look:
    """The pieces of a file that begin at the bytes ``starts``; libsndfile reads none with a place in ``others``."""
    ends = [*starts[1:], size]
    pieces = [
        (start, stop, not any(start <= place < stop for place in others) and _trusted(path, start, stop))
        for start, stop in zip([0, *ends], ends, strict=False)
    ]
    return Look("chain", tuple(pieces), cut=cut)


def _trusted(path: Path, start: int, stop: int) -> bool:
    """Whether libsndfile reads a flac or Ogg right: up to the end that it announces, with no page missing before."""
    with Window(path, start, stop) as window:
        try:
            with SoundFile(window) as sound:
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


def _look_at_flac(path: Path, file: BinaryIO, size: int, sound: soundfile.SoundFile) -> Look:
    """Whether the last sample is there, and the file ends behind it."""
    if not _has_its_end(sound):
        return Look("ffmpeg")
    sound.seek(0)
    with suppress(soundfile.LibsndfileError):  # damage is for the reader
        if is_packed(sound.read(SNIFFED_SAMPLES, "int16").tobytes()):
            return Look("coded")
    if _one_flac(file, size, sound.frames):
        return Look("whole")
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        starts = [match.start() for match in FLAC_BEGINNING.finditer(data)]
    return _chain(path, starts, size) if len(starts) > 1 else Look("ffmpeg")


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


def _look_at_samples(path: Path, file: BinaryIO, size: int, sound: soundfile.SoundFile) -> Look:
    """Where the samples lie: behind those that the header announces there may be more of them, or fewer are there."""
    if "MPEG" in sound.subtype:
        return Look("ffmpeg")
    if sound.format not in SEEKS_EXACTLY:
        return Look("whole" if sound.frames else "empty")
    width = SAMPLE_BYTES.get(sound.subtype, 0) * sound.channels
    sound.seek(0)
    start = file.tell()
    sound.seek(sound.frames)
    stop = file.tell()
    announced = max(map(int, ANNOUNCED.findall(sound.extra_info)), default=-1)
    never_finished = f"{path} has a header that was never finished: all that follows it is read."
    unknown = announced >= NEVER_KNOWN[1] or NEVER_KNOWN[0] <= announced < 1 << 31
    if not width or stop - start != sound.frames * width:
        return _look_at_blocks(file, size, sound, announced, "" if unknown else never_finished)
    cut = not unknown and announced > size - start + CHUNK_HEADER_BYTES
    file.seek(0)
    if behind := _files_among_chunks(file, stop, size, _order(file.read(4))):
        return _chain(path, [0, *behind], size)
    if size - stop >= width and not _is_other(file, stop, size):
        endian = "BIG" if sound.format in BIG_ENDIAN and sound.endian != "LITTLE" else "LITTLE"
        facts = (sound.format, sound.samplerate, sound.channels, sound.subtype, endian)
        look = Look("raw", ((start, size, True),), facts, note=never_finished)
    elif sound.frames == 0:
        return Look("empty")
    else:
        unfinished = 0 <= announced < stop - start - CHUNK_HEADER_BYTES
        look = Look("whole", promised=announced // width if cut else 0, note=never_finished if unfinished else "")
    if sound.subtype == "PCM_16":
        file.seek(start)
        data = file.read(SNIFFED_SAMPLES * width)
    else:
        sound.seek(0)
        data = sound.read(SNIFFED_SAMPLES, "int16").tobytes()  # the upper bits of longer integers
    return Look("coded") if is_packed(data) else look


def _look_at_blocks(file: BinaryIO, size: int, sound: soundfile.SoundFile, announced: int, never_finished: str) -> Look:
    """Samples that are coded in blocks, such as ADPCM: fewer may be there than the header announces, or all unnamed."""
    file.seek(0)
    order = _order(file.read(4))
    start = next((place + 8 for place, head in _chunks(file, 12, size, order) if head[:4] in SAMPLES), size)
    if sound.frames:
        cut = never_finished and start < size < start + announced - CHUNK_HEADER_BYTES
        return Look("whole", promised=sound.frames * announced // (size - start) if cut else 0)
    unread = announced == 0 and size > start + CHUNK_HEADER_BYTES and not _is_other(file, start, size)
    return Look("ffmpeg", note=never_finished) if unread else Look("empty")


SAMPLES = (b"data", b"SSND")
Order = Literal["big", "little"]  # of the bytes of a length


def _order(head: bytes) -> Order:
    return "big" if head[:4] in (b"FORM", b"RIFX") else "little"


def _chunks(file: BinaryIO, place: int, size: int, order: Order) -> Iterator[tuple[int, bytes]]:
    """Where chunks, and beginnings of files, stand from a place on, and their first 12 bytes."""
    while (place := place + place % 2) + 12 <= size:
        file.seek(place)
        head = file.read(12)
        if FILE_BEGINNING.match(head):
            yield place, head
            order = _order(head)
            place += 12
        elif CHUNK.match(head):
            yield place, head
            place += 8 + int.from_bytes(head[4:8], order)
        else:
            break


def _files_among_chunks(file: BinaryIO, place: int, size: int, order: Order = "little") -> list[int]:
    """Where a wav or its kin begins among the chunks from a place on."""
    return [place for place, head in _chunks(file, place, size, order) if FILE_BEGINNING.match(head)]


def _first_samples(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the first of several chunks of samples ends, and the bytes in the others; (0, 0): there are no others.

    The formats allow one chunk; FFmpeg and libsndfile would read the last one, or none.
    """
    file.seek(0)
    order, found = _order(file.read(4)), []
    for place, head in _chunks(file, 12, size, order):
        if FILE_BEGINNING.match(head):
            break
        length = int.from_bytes(head[4:8], order)
        if head[:4] in SAMPLES and length:
            found.append((place + 8 + length, length))
    return (found[0][0], sum(length for _, length in found[1:])) if len(found) > 1 else (0, 0)


def _is_other(file: BinaryIO, place: int, size: int) -> bool:
    """Whether something else than samples follows: a chunk with a name, a tag, or a few zeros."""
    file.seek(place)
    data = file.read(ZEROS_BYTES)
    return CHUNK.match(data) is not None or (not any(data) and size - place <= ZEROS_BYTES)
