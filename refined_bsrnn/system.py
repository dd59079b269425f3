"""Atomic writes: a crash or a full disk leaves the old file as it was. The cache folder. The processes of one job."""

import atexit
import ctypes
import errno
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError

CACHE_VARIABLE = "REFINED_BSRNN_CACHE"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of a leading ``~``; unchanged where the system knows no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def cache_folder() -> Path:
    """Where what can be made again is kept."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expand_home(named)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "refined_bsrnn"
    try:
        return expand_home("~/.cache/refined_bsrnn")
    except RuntimeError as problem:
        raise UserError(
            f"there is no home folder to keep built-in stems and decoded audio in. Set {CACHE_VARIABLE} to a folder."
        ) from problem


@contextmanager
def taking_part() -> Iterator[None]:
    """Around work that the processes of a job share: they part when Python ends, unless one of them has failed.

    Not at the end of the work: there may be more in these processes. Enter it before the process group is made.
    """
    import torch.distributed  # here and below: what writes files alone does not wait for PyTorch

    if torch.distributed.is_available():
        # Its functions have the group as the default of an argument. Imported once there is one, as DDP does it, they
        # would keep that group for good.
        import torch.distributed.nn.functional
    atexit.unregister(part)  # who has failed is not waited for
    yield
    atexit.register(part)


def part() -> None:
    """Part from the other processes, as PyTorch wants it of each before it ends; the group's threads end with it.

    A thread that still lets go of a tensor while the interpreter ends would abort the process.
    """
    from accelerate import PartialState

    gc.collect()  # networks wrapped by DDP hold the group, and are part of cycles
    PartialState().destroy_process_group()


@contextmanager
def atomic_write(path: Path, error: type[UserError] = UserError) -> Iterator[Path]:
    """Gives a temporary path in the same folder; what is written there replaces ``path`` when the block ends well.

    The data are on disk before the rename. When the block fails the temporary file is removed; a full disk or a folder
    that cannot be written becomes an ``error`` that names the file.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise unwritable(path, problem, error) from problem
    finally:
        with suppress(OSError):
            temporary.unlink()


def unwritable(path: Path, problem: OSError, error: type[UserError] = UserError) -> UserError:
    """What to tell a person where the system lets no file be made."""
    if problem.errno == errno.ENAMETOOLONG:
        return error(f"{path} cannot be written: its name is too long. Choose a shorter one.")
    why = "the disk is full" if problem.errno == errno.ENOSPC else problem.strerror or str(problem)
    return error(f"{path} cannot be written: {why}. Free some space or choose another folder.")


def is_unicode(text: str) -> bool:
    """Whether a file's name is text: Linux allows any bytes, which Python gives as surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """JSON without NaN or infinity, which are no JSON: the caller writes null."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, error: Callable[[str], UserError] = UserError) -> Any:
    """The JSON value in a file; an ``error`` that names the file where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise error(f"{path} is not readable JSON: {problem}.") from None


# --- memory that is freed stays with the process, as long as it does one thing over and over --------------------------


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
