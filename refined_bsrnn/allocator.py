"""Memory that is freed stays with the process, as long as it is doing one thing over and over.

A training step or a chunk of a song takes and frees the same few hundred megabytes each time. The C library gives big
blocks back to the system at once, and the system clears every page that is asked for again: a third of the time of a
training step. Within `big_blocks_kept` they are kept. glibc alone (Linux) can be told so; elsewhere nothing happens.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# mallopt's parameters (malloc.h) and glibc's own values for them
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
DEFAULT = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 2**10, TOP_PAD: 128 * 2**10, MMAP_THRESHOLD: 128 * 2**10}

_depth = 0


def _glibc() -> Any:
    """The C library, where it is one that can be told; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


@contextmanager
def big_blocks_kept() -> Iterator[None]:
    """Within the block the process keeps what it frees; at its end it gives all back. May be nested."""
    global _depth
    library = _glibc()
    if library is None:
        yield
        return
    _depth += 1
    _set(library, KEPT)
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _set(library, DEFAULT)
            library.malloc_trim(0)


def _set(library: Any, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
