"""The reason why a training ended, in one sentence that says what to do."""

import re

from ..errors import UserError
from ..recipe import Recipe
from ..runs.folder import RunFolder
from ..separation.chunks import out_of_memory
from ..system import reason_of


class Interrupted(Exception):
    """The user or the system asked the training to end."""


class TrainingStopped(UserError):
    """The training cannot go on; its state is kept."""


class NotFinite(TrainingStopped):
    """A loss or a gradient is NaN or infinite."""


OUT_OF_SHARED_MEMORY = ("shared memory", "shm", "Bus error", "unable to write to file </torch_")
OTHER_PROCESS = ("Connection closed by peer", "Connection reset by peer", "NCCL", "[c10d]", "[gloo]", "/gloo/")


def explained(error: Exception, recipe: Recipe, run: RunFolder, n_processes: int) -> str | None:
    """The message for an error in training; None for an unexpected error."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
        return f"the memory is too small for a step of training. {_less_memory(recipe, run, n_processes)}"
    if "DataLoader worker (pid" in text or any(words in text for words in OUT_OF_SHARED_MEMORY):
        why = re.search(r"(?:is )?killed by signal: [^.]+|exited unexpectedly", text)
        how = why[0].removeprefix("is ") if why else "stopped"
        return (
            f"a process that reads the songs ({how}) has ended: the memory or the shared memory (/dev/shm) was too "
            "small for it, or it was ended from outside. Fewer of them, or none (slower), need less: train.workers=0 "
            "behind the words with which the training goes on."
        )
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be read or written: {reason_of(error).splitlines()[-1]}."
    if n_processes > 1 and any(words in text for words in OTHER_PROCESS):
        return f"another process of this job has ended ({text.splitlines()[0]}); it says why."
    return None


def _less_memory(recipe: Recipe, run: RunFolder, n_processes: int) -> str:
    """The setting with which the same steps need less memory."""
    batch, now = recipe.train.batch_size, recipe.train.accumulate
    more = [n for n in range(now + 1, batch + 1) if batch % (n * n_processes) == 0]
    if not more:
        return "Train with a smaller size= or train.chunk_seconds under another run.name, or on another device."
    return (
        f"With train.accumulate={more[0]} (now {now}) it takes fewer examples at a time and learns the same: --resume "
        f"{run.path} train.accumulate={more[0]}, or the same words added to the command if there is no state yet."
    )
