"""Training examples in batches, read by workers; reading is repeated while a network drive is away."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..console import say
from ..data.scan import kind_of
from ..errors import AudioError, UserError
from ..recipe import Recipe
from ..system import STOP_SIGNALS, keep_big_blocks

Batch = dict[str, Tensor]  # "mixture" (B, C, L), "stems" (B, targets, C, L) and "present" (B, targets)

SHARED_MEMORY = Path("/dev/shm")  # Linux; batches of workers go through it
SHARED_MEMORY_SHARE = 0.8
BATCHES_PER_WORKER = 3  # two that wait, one that is being made
MOST_SKIPPED = 20  # examples that cannot be read, one after the other
STRIDE = 7919  # a prime: the example that takes the place of another is drawn from all of them
RETRY_SECONDS = (0.5, 1.5, 4.0, 9.0, 15.0)


class Patient(Dataset):
    """Examples. If one cannot be read, reading is repeated for half a minute, because network drives may come back.

    With ``skips``, another example then takes its place, and a message names the file; a file that was named is not
    tried again.
    """

    def __init__(self, examples: Any, skips: bool = False):
        self.examples, self.skips = examples, skips
        self.named: set[str] = set()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Batch:
        if not self.skips:
            return self._patiently(index)
        for attempt in range(MOST_SKIPPED):
            try:
                return self._patiently((index + attempt * STRIDE) % len(self))
            except (AudioError, OSError) as error:
                if _what(error) not in self.named:
                    self.named.add(_what(error))
                    say(f"{error} Examples that need it are left out (data.unreadable=skip).")
        raise AudioError(f"{MOST_SKIPPED} examples one after the other cannot be read; the last sentences say why.")

    def _patiently(self, index: int) -> Batch:
        for seconds in RETRY_SECONDS:
            try:
                return self.examples[index]
            except (AudioError, OSError) as error:
                if isinstance(error, AudioError) and kind_of(error) != "unreadable":  # its content is wrong
                    raise
                if _what(error) in self.named:
                    raise
                if seconds == RETRY_SECONDS[0]:
                    say(f"{error} Trying again for {sum(RETRY_SECONDS):.0f} s.")
                time.sleep(seconds)
        return self.examples[index]


def _what(error: Exception) -> str:
    """The message of an error without the place in the file, which differs from example to example."""
    return " ".join(word for word in str(error).split() if os.sep in word or not re.search(r"\d", word))


def make_loader(examples: Any, recipe: Recipe, first_step: int, device: torch.device) -> DataLoader:
    """Batches of examples, beginning with that step. Accelerate divides each batch among the processes."""
    train = recipe.train
    batch_size = train.batch_size // train.accumulate
    length = round(train.chunk_seconds * recipe.stft.sample_rate_hz)
    example_bytes = 4 * (1 + len(recipe.targets)) * recipe.data.channels * length
    return DataLoader(
        Patient(examples, recipe.data.unreadable == "skip"),
        batch_size=batch_size,
        sampler=range(first_step * train.batch_size, len(examples)),
        num_workers=fitting_workers(train.workers, batch_size * example_bytes),
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # its own, so that making a loader does not move the global one
        pin_memory=device.type == "cuda",
    )


def fitting_workers(wanted: int, batch_bytes: int) -> int:
    """The number of workers that the processors and the shared memory allow; reports too little memory.

    More workers than processors would only slow each other down; the examples do not depend on the number.
    """
    wanted = min(wanted, os.cpu_count() or 1)
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free
    fitting = int(SHARED_MEMORY_SHARE * free // (BATCHES_PER_WORKER * batch_bytes))  # of all processes together
    if fitting < wanted:
        say(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, too little for train.workers={wanted} "
            f"({BATCHES_PER_WORKER * batch_bytes / 1e6:.0f} MB each): {fitting} read the songs. For more: a larger "
            "/dev/shm (docker run --shm-size=8g)."
        )
    return min(wanted, fitting)


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


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; a `UserError` in a worker is raised here as the same single message."""
    try:
        return next(batches)
    except UserError as error:  # PyTorch puts the worker's traceback into the message
        kind, text = type(error), str(error)
        raise kind(text.rpartition(f"{kind.__name__}: ")[2].strip()) from None
    except (ConnectionError, EOFError) as error:  # in the middle of what a worker sent
        raise RuntimeError("DataLoader worker (pid not known) exited unexpectedly") from error
