"""The processes of one job, as `accelerate launch` or torchrun has started them: how they part."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState

if torch.distributed.is_available():
    # Its functions have the group as the default of an argument. Imported once there is one, as DDP does it, they would
    # keep that group for good.
    import torch.distributed.nn.functional


@contextmanager
def taking_part() -> Iterator[None]:
    """Around work that the processes of a job share: they part when Python ends, unless one of them has failed.

    Not at the end of the work: there may be more in these processes.
    """
    atexit.unregister(part)  # who has failed is not waited for
    yield
    atexit.register(part)


def part() -> None:
    """Part from the other processes, as PyTorch wants it of each before it ends; the group's threads end with it.

    A thread that still lets go of a tensor while the interpreter ends would abort the process.
    """
    gc.collect()  # networks wrapped by DDP hold the group, and are part of cycles
    PartialState().destroy_process_group()
