"""Atomic writes: a crash or a full disk leaves the old file as it was. The cache folder. Signals. A job's processes."""

import atexit
import ctypes
import errno
import gc
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError
from .plain import parse_json

CACHE_VARIABLE = "REFINED_BSRNN_CACHE"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of a leading ``~``; unchanged where the system knows no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def cache_folder() -> Path:
    """The folder for files that can be made again."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expand_home(named)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "refined_bsrnn"
    folder = expand_home("~/.cache/refined_bsrnn")
    if not folder.is_absolute():
        raise UserError(
            f"there is no home folder to keep built-in stems and decoded audio in. Set {CACHE_VARIABLE} to a folder."
        )
    return folder


@contextmanager
def taking_part() -> Iterator[None]:
    """For work that the processes of a job share: they separate when Python ends, unless one of them has failed.

    They do not separate at the end of the work, because more work may follow. Enter it before the process group is
    made.
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
    """Separate from the other processes, as PyTorch requires before a process ends; the group's threads end with it.

    A thread that still frees a tensor while the interpreter ends would abort the process.
    """
    from accelerate import PartialState

    gc.collect()  # networks wrapped by DDP hold the group, and are part of cycles
    PartialState().destroy_process_group()


@contextmanager
def atomic_write(path: Path, error: type[UserError] = UserError) -> Iterator[Path]:
    """Yields a temporary path; its content replaces ``path`` when the block ends well.

    The path has the name of ``path`` and is in a hidden folder next to it, because some libraries write another file
    next to the given one. The data are on disk before the rename. If the block fails, the hidden folder is removed; the
    folder of a killed process is removed by the next call that writes there. A full disk or a folder that cannot be
    written becomes an ``error`` that names the file.
    """
    folder = path.with_name(part_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_parts(path.parent)
        folder.mkdir()
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise unwritable(path, problem, error) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


PART = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part")
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
LEFT_SECONDS = 24 * 3600.0  # no file takes so long to write: whoever began it is gone
_looked_at: set[tuple[int, Path]] = set()  # (process, folder)


def part_name() -> str:
    """A new name for the folder of a file in progress; it contains the machine and the process."""
    return f".{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.part"


def is_part(name: str) -> bool:
    """Whether a name is that of a folder for a file in progress, or for one left by a killed process."""
    return PART.fullmatch(name) is not None


def clear_parts(folder: Path) -> None:
    """Delete the half-written files that killed processes left in a folder; every process looks once."""
    place = (os.getpid(), folder.absolute())
    if place in _looked_at:
        return
    _looked_at.add(place)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (part := PART.fullmatch(entry.name)) and _is_left(entry, part[1], int(part[2])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_left(entry: "os.DirEntry[str]", machine: str, process: int) -> bool:
    if machine == MACHINE and not _is_running(process):
        return True
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_SECONDS


def _is_running(process: int) -> bool:
    if not hasattr(os, "getuid"):  # on Windows os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your quota on this disk is used up"}


def reason_of(problem: OSError) -> str:
    """Why the system refused to read or write a file, in words."""
    return FULL.get(problem.errno or 0) or problem.strerror or str(problem)


def unwritable(path: Path, problem: OSError, error: type[UserError] = UserError) -> UserError:
    """The message for the user if the system does not allow writing a file."""
    if problem.errno == errno.ENAMETOOLONG:
        return error(f"{path} cannot be written: its name is too long. Choose a shorter one.")
    return error(f"{path} cannot be written: {reason_of(problem)}. Free some space or choose another folder.")


def address(text: str) -> str:
    """The message for a user who gave an address instead of a file; empty if it is not an address."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) or os.path.lexists(text):
        return ""
    return f"{text} is an address; expected a file. Download it first and give the file."


def can_be_path(text: str) -> bool:
    """Whether a file could have that name: it is not too long and has no zero byte."""
    try:
        os.lstat(text)
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    except ValueError:
        return False
    return True


def is_unicode(text: str) -> bool:
    """Whether a file's name is text: Linux allows any bytes, which Python represents as surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """JSON without NaN or infinity, which JSON does not have: the caller writes null."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, error: Callable[[str], UserError] = UserError) -> Any:
    """The JSON value in a file; an ``error`` that names the file if it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise error(f"{path} is not readable JSON: {problem}.") from None


# --- threads of a program: how long they spin when they wait for each other, and how many processors there are --------


# OpenMP's threads wait for each other after every operation of the network. They spin first, so that the next
# operation begins at once: 300,000 turns (about 3 ms) with GCC's library, 200 ms with LLVM's and Intel's. When other
# programs use the processors too, the spinning threads keep the thread that they wait for from running, and a training
# step costs ten times the processor time and more. With these values it costs a fifth more than on a quiet machine
# (docs/performance.md), where they make a step a few per cent slower. Each library ignores the variable of the others.
SPINNING = {
    # GCC's libgomp: PyTorch's packages for Linux.
    "GOMP_SPINCOUNT": "1000",
    # Milliseconds; LLVM's libomp and Intel's libiomp5: PyTorch's packages for macOS and Windows, and conda's. The value
    # is that of PyTorch's own launcher (torch.backends.xeon.run_cpu).
    "KMP_BLOCKTIME": "1",
}
POLICY = "OMP_WAIT_POLICY"  # the variable of the OpenMP standard; those above would overrule it


def bound_spinning() -> None:
    """Limit the spinning of OpenMP's threads, in this process and in those that it starts.

    For programs, before anything imports torch: OpenMP reads the environment once, when it is loaded. Values that the
    user has set are kept. The package never calls it on import; the command line and the scripts do.
    """
    if POLICY not in os.environ:
        for name, value in SPINNING.items():
            os.environ.setdefault(name, value)


@contextmanager
def environment_set(**values: str) -> Iterator[None]:
    """Within the block these environment variables have these values, here and in processes that are started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def processors() -> int:
    """The number of processors that this process may use; a batch system or ``taskset`` may limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- signals ----------------------------------------------------------------------------------------------------------


def _existing(*names: str) -> list[int]:
    """The signals of these names that the system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


# Ctrl-C, what schedulers send before they kill (some USR1 or USR2), a terminal that is closed, a CPU time that is up.
STOP_SIGNALS = _existing("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


@contextmanager
def stop_signals(
    is_busy: Callable[[], bool] = lambda: False, patience_seconds: float | None = None
) -> Iterator[Callable[[], bool]]:
    """Within the block the first signal to stop makes the yielded function return True; a second one raises.

    It raises `KeyboardInterrupt`, once ``is_busy`` is false. So does the first one, if the block has not ended
    ``patience_seconds`` after it. A signal that was ignored before (``nohup``) stays ignored.
    """
    received: list[int] = []
    timers: list[threading.Timer] = []
    ending = False
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread alone
        yield lambda: False
        return

    guard, main = threading.Lock(), threading.main_thread().ident

    def send(number: int) -> None:
        with guard:
            if old and main is not None:  # a true signal, since it ends a system call that waits
                signal.pthread_kill(main, number)

    def again(number: int, seconds: float) -> None:
        if hasattr(signal, "pthread_kill"):
            timers.append(threading.Timer(seconds, send, (number,)))
            timers[-1].daemon = True
            timers[-1].start()

    def handle(number: int, frame: Any) -> None:
        if received and not (ending or is_busy()):  # at the end it would leave handlers and timers behind
            raise KeyboardInterrupt
        if received:
            again(number, 0.2)
        elif patience_seconds is not None:
            again(number, patience_seconds)
        received.append(number)

    usual = (signal.SIGINT, signal.SIGTERM)
    numbers = [n for n in STOP_SIGNALS if n in usual or signal.getsignal(n) is not signal.SIG_IGN]
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        ending = True
        with guard:
            for timer in timers:
                timer.cancel()
            restored, old = old, {}
        for number, handler in restored.items():
            signal.signal(number, handler)


@contextmanager
def _handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Within the block these signals have these handlers; in another thread than the main one nothing changes."""
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # Python hands signals to it alone
            for number, handler in handlers.items():
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_signals(first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block SIGTERM and a closed terminal call ``first`` and raise `KeyboardInterrupt`."""

    def handle(number: int, frame: Any) -> None:
        first()
        raise KeyboardInterrupt

    numbers = _existing("SIGTERM", "SIGHUP")
    with _handled({n: handle for n in numbers if signal.getsignal(n) != signal.SIG_IGN}):  # nohup stays nohup
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the block Ctrl-C, and other signals that Python code catches, are delayed; for short work only.

    Only the main thread gets signals; in other threads nothing is delayed.
    """
    came: list[int] = []
    numbers = [n for n in _existing("SIGINT", "SIGTERM", "SIGHUP") if callable(signal.getsignal(n))]
    try:
        with _handled(dict.fromkeys(numbers, lambda number, frame: came.append(number))):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextmanager
def children_may_end() -> Iterator[None]:
    """Within the block no ended child process raises an error here: PyTorch's handler raises at any place in the
    program.
    """
    with _handled(dict.fromkeys(_existing("SIGCHLD"), signal.SIG_DFL)):
        yield


FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")  # of the program itself


@contextmanager
def signals_held() -> Iterator[None]:
    """Within the block no signal interrupts this thread, nor threads that begin in it; it is handled at the end.

    For the gradients of PyTorch's LSTM on a CPU: if a signal interrupts them, whatever its handler does, PyTorch 2.11
    damages the memory of the process, which dies ("corrupted size vs. prev_size") with all that it had not saved.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {*_existing(*FAULTS)})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- memory that is freed stays with the process, as long as it does one thing over and over --------------------------


# mallopt's parameters (malloc.h) and glibc's own values for them
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
_KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
_USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 2**10, TOP_PAD: 128 * 2**10, MMAP_THRESHOLD: 128 * 2**10}

_depth = 0


def glibc() -> Any:
    """The C library if it can keep freed memory, else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


def keep_big_blocks() -> None:
    """From now on this process keeps the memory that it frees, for repeated work of the same kind.

    By default the C library returns large blocks to the system at once, and the system clears every page that is
    requested again. This takes a third of the time of a training step, and more time than reading an example. Only
    glibc (Linux) can keep them; elsewhere nothing happens.
    """
    if library := glibc():
        _set_allocator(library, _KEPT)


@contextmanager
def big_blocks_kept() -> Iterator[None]:
    """`keep_big_blocks` within the block; at its end the process returns all memory. May be nested."""
    global _depth
    library = glibc()
    if library is None:
        yield
        return
    _depth += 1
    keep_big_blocks()
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _set_allocator(library, _USUAL)
            library.malloc_trim(0)


def _set_allocator(library: Any, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
