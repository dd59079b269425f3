"""What a data loader's worker process does before it reads anything."""

import ctypes
import os
import signal
import threading
from contextlib import suppress

from ..system import STOP_SIGNALS

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 1 << 28  # malloc.h


def begin_worker(worker: int) -> None:
    """For `DataLoader`'s ``worker_init_fn`` in training."""
    keep_memory()
    leave_signals_to_parent()


def keep_memory(worker: int = 0) -> None:
    """Let this process keep the memory it frees, for the next example.

    glibc returns big blocks to the system and asks for them again, cleared page by page, which takes longer than
    reading the audio. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def leave_signals_to_parent() -> None:
    """End this worker only if its parent ends it, not by a signal to stop that all processes of a job get.

    The trainer finishes its step after such a signal, and needs its workers for that. If the system does not say who
    sent a signal (macOS, Windows), SIGTERM still ends them.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def watch() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
