"""Temporary folders that the next call removes if they are no longer in use, files that replace no others, and a lock.

A killed process cannot clean up. Therefore the owner of a temporary folder holds a lock in it, which the system
releases when the process ends. The next call that makes a folder of the same kind in the same place deletes the folders
whose lock is free.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .console import say
from .errors import UserError

LOCK = ".owner"
KEPT = ".kept"  # ends the name of a file that stood in a place of which the folder's owner had need


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent`` with that prefix, deleted at the end; abandoned ones are deleted first.

    If the file system has no locks, the folder is one that nobody else will delete.
    """
    clear_unowned(parent, prefix)
    folder, lock = _new_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release(force=True)
            shutil.rmtree(folder, ignore_errors=True)  # where a file that is open cannot be deleted


def _new_folder(parent: Path, prefix: str) -> tuple[Path, FileLock | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:  # somebody who clears up took it for a forgotten one: it will be deleted
            continue
        except (OSError, NotImplementedError):
            if folder.is_dir():
                (folder / LOCK).unlink(missing_ok=True)
                return folder, None
            continue
        if (folder / LOCK).exists():
            return folder, lock
        lock.release(force=True)


def clear_unowned(parent: Path, prefix: str) -> list[Path]:
    """Delete the folders of that kind whose owner is gone; returns them. Files kept in them return to their place."""
    cleared = []
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False) and _is_ours(entry):
                folder = Path(entry.path)
                if _clear(folder):
                    cleared.append(folder)
    return cleared


def _is_ours(entry: "os.DirEntry[str]") -> bool:
    return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _clear(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        with suppress(OSError):  # not empty: nobody knows whose it is
            folder.rmdir()
            return True
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return False
    for kept in folder.glob(f"*{KEPT}"):
        with suppress(OSError):
            place_new(kept, folder.parent / kept.name[: -len(KEPT)])
    shutil.rmtree(folder, ignore_errors=True)
    lock.release(force=True)
    shutil.rmtree(folder, ignore_errors=True)
    return True


@contextmanager
def alone(lock_file: Path, text: str, unusable: Callable[[OSError], UserError]) -> Iterator[None]:
    """Within the block no other process holds this lock; says ``text`` if it has to wait for one that does.

    ``unusable`` makes the error for a place that can have no lock.
    """
    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(text)
            lock.acquire()
    except (OSError, NotImplementedError) as problem:
        raise unusable(problem if isinstance(problem, OSError) else OSError(str(problem))) from None
    try:
        yield
    finally:
        lock.release()


def place_new(made: Path, path: Path) -> None:
    """Move a file to a place that must be free; otherwise `FileExistsError`, and nothing is changed.

    No other process can put a file there at the same time: a hard link is made or, if the file system has none, an
    empty file first; both fail if a file exists.
    """
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            made.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return
    made.unlink()


def place_over(made: Path, path: Path, kept: Path) -> None:
    """Move a file to a place where another may be, which is then ``kept``; the place is never empty."""
    with suppress(FileNotFoundError):
        try:
            os.link(path, kept)
        except FileNotFoundError:
            raise
        except OSError:  # no hard links here
            path.replace(kept)
    made.replace(path)
