"""An estimate of the duration of a training, from its first steps."""

import sys
from collections.abc import Callable

import torch

from ..recipe import TrainSpec

DAY = 86400.0
FIRST_STEPS = 3  # of which the very first is left out: in it everything is still made ready
LONG_SECONDS = 30.0  # a step that takes so long is reported at once


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    for unit, size in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            smaller = {"d": ("h", 3600.0), "h": ("min", 60.0), "min": ("s", 1.0)}[unit]
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller[1])} {smaller[0]}"
    return f"{seconds:.1f} s"


def validations_left(step: int, train: TrainSpec) -> int:
    """The number of validations due after that step, including the one after the last step."""
    regular = train.steps // train.validate_every - step // train.validate_every
    return regular + (step < train.steps and train.steps % train.validate_every > 0)


def time_left(step: int, train: TrainSpec, step_seconds: float, validation_seconds: float) -> list[str]:
    """A text: the remaining time, and how to shorten it if it is more than a day."""
    left = train.steps - step
    looks = validations_left(step, train) if validation_seconds else 0
    training, validating = step_seconds * left, validation_seconds * looks
    text = f"{step_seconds:.2f} s per step, {left} steps left: about {duration(training)}"
    if looks:
        text += f", and about {duration(validating)} for {looks} validation{'s' if looks > 1 else ''}"
    lines = [text]
    if training + validating > DAY:
        lines.append(
            f"That is more than a day. For an hour: train.steps={max(1, int(3600 / step_seconds))}. For faster steps: "
            "size=tiny, train.batch_size=2, or recipes/micro.yaml, which is made for CPUs."
        )
    if validating > training:
        lines.append(
            "Validation takes most of it: train.validate_every=... makes it rarer, train.validate_seconds=30 or "
            "train.validate_songs=10 shorter."
        )
    return lines


def peak_memory(device: torch.device) -> str:
    """``1.2 GiB of memory``: the highest memory use of this process so far."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU memory"
    try:
        import resource
    except ImportError:  # Windows has no such count
        return "memory not measured"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB of memory"


class Pace:
    """Measures the first steps and estimates the duration of the training once."""

    def __init__(self, train: TrainSpec, device: torch.device, validation_seconds: Callable[[], float]):
        self.train, self.device, self.validation_seconds = train, device, validation_seconds
        self.times: list[float] = []
        self.is_reported = False

    def after_step(self, step: int, seconds: float) -> list[str]:
        """The message to print after a step of that duration: the estimate, as soon as it is known."""
        self.times.append(seconds)
        if self.is_reported or (len(self.times) < FIRST_STEPS and seconds < LONG_SECONDS):
            return []
        self.is_reported = True
        measured = self.times[1:] or self.times
        per_validation = self.validation_seconds() if validations_left(step, self.train) else 0.0
        lines = time_left(step, self.train, sum(measured) / len(measured), per_validation)
        return [f"{lines[0]}; {peak_memory(self.device)}.", *lines[1:]]
