"""Memory that is freed stays with the process, as long as it does one thing over and over."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# mallopt's parameters (malloc.h) and glibc's own values for them
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
_KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
_USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 2**10, TOP_PAD: 128 * 2**10, MMAP_THRESHOLD: 128 * 2**10}

_depth = 0


def _glibc() -> Any:
    """The C library, where it is one that can be told; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


@contextmanager
def big_blocks_kept() -> Iterator[None]:
    """Within the block the process keeps the memory that it frees; at its end it gives all back. May be nested.

    A training step takes and frees the same few hundred megabytes each time. The C library gives big blocks back to the
    system at once, and the system clears every page that is asked for again: a third of the time of a step. glibc alone
    (Linux) can be told to keep them; elsewhere nothing happens.
    """
    global _depth
    library = _glibc()
    if library is None:
        yield
        return
    _depth += 1
    _tell_allocator(library, _KEPT)
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _tell_allocator(library, _USUAL)
            library.malloc_trim(0)


def _tell_allocator(library: Any, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
