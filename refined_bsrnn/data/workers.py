"""The set-up of a data loader's worker process."""

import os
import signal
import threading

from ..system import STOP_SIGNALS, keep_big_blocks


def begin_worker(worker: int) -> None:
    """For `DataLoader`'s ``worker_init_fn`` in training."""
    keep_big_blocks()
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Let only its parent end this worker, not a stop signal that all processes of a job get.

    The trainer finishes its step after such a signal and needs its workers for that. If the system does not say who
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
