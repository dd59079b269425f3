"""Ogg: pages and their checksums, the borders between streams, and the losses at their ends.

Source: RFC 3533.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from mmap import mmap
from types import MappingProxyType
from typing import NamedTuple

MARK = b"OggS\0"
HEADER_BYTES = 27  # before the table of segments
FIRST, LAST = 2, 4  # flags
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte's bits in the other order


class OggPage(NamedTuple):
    """Bytes ``start`` to ``stop``: a ``good`` page with a right checksum, a damaged one, or bytes between pages."""

    start: int
    stop: int
    good: bool
    first: bool = False  # of a stream
    last: bool = False  # of a stream
    granule: int = -1  # the place of its end, in samples; -1: no packet ends in it
    cut: bool = False  # the file ends in its middle
    serial: int = 0  # of its stream
    number: int = 0  # within its stream


def pages(data: bytes | mmap, start: int = 0, stop: int | None = None) -> Iterator[OggPage]:
    """All of ``data`` from byte ``start`` to ``stop`` (default: its end)."""
    stop = len(data) if stop is None else stop
    while start < stop:
        page = _page(data, start, stop)
        yield page
        start = page.stop


def _page(data: bytes | mmap, start: int, stop: int) -> OggPage:
    if data[start : start + len(MARK)] != MARK:
        return OggPage(start, _next(data, start, stop), False)
    n_segments = int.from_bytes(data[start + HEADER_BYTES - 1 : min(stop, start + HEADER_BYTES)], "little")
    table = data[start + HEADER_BYTES : min(stop, start + HEADER_BYTES + n_segments)]
    end = start + HEADER_BYTES + n_segments + sum(table)
    content = data[start : min(end, stop)]
    if end > stop or checksum(content) != int.from_bytes(content[22:26], "little"):
        behind = _next(data, start + 4, stop)  # where its own length may not tell
        return OggPage(start, behind, False, cut=end > stop and behind == stop)
    granule = int.from_bytes(content[6:14], "little", signed=True)
    serial, number = (int.from_bytes(content[i : i + 4], "little") for i in (14, 18))
    return OggPage(start, end, True, bool(content[5] & FIRST), bool(content[5] & LAST), granule, False, serial, number)


def _next(data: bytes | mmap, start: int, stop: int) -> int:
    found = data.find(MARK, start, stop)
    return found if found >= 0 else stop


def checksum(page: bytes) -> int:
    """A page's checksum: zlib's polynomial, but with all bits in the other order and none inverted."""
    content = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(content.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def damaged(all_pages: Iterable[OggPage]) -> Iterator[OggPage]:
    """The pages that are not good, except those outside of streams, such as tags."""
    inside = False
    for page in all_pages:
        inside = (inside or page.first) and not page.last
        if inside and not page.good:
            yield page


class Losses(NamedTuple):
    """The places where pages of a stream are lost: before its first audio, after its last, and before which of its
    pages.
    """

    before: bool = False
    behind: bool = False
    followed_by: Mapping[int, OggPage] = MappingProxyType({})  # by the byte where the page begins

    @classmethod
    def of(cls, data: bytes | mmap, start: int, stop: int) -> "Losses":
        """In the stream from byte ``start`` to ``stop``; `followed_by` counts from ``start`` on."""
        all_pages = list(pages(data, start, stop))
        places = [page.start for page in damaged(all_pages)]
        sound = [page for page in all_pages if page.granule > 0]
        if not sound:
            return cls(bool(places), bool(places))
        numbers: dict[int, int] = {}  # of the page before, by stream
        followed_by = {}
        for page in sound:
            if page.number != numbers.get(page.serial, page.number - 1) + 1:
                followed_by[page.start - start] = page
            numbers[page.serial] = page.number
        return cls(
            bool(places) and places[0] < sound[0].start, bool(places) and places[-1] > sound[-1].start, followed_by
        )
