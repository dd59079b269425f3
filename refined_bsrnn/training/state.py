"""The state of a run: its progress, everything that an exact resume needs, and the lock of its writer.

However a training ends, the state of its last whole step is on the disk afterwards (`RunState.kept`), and the message
to the user says how to continue.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import Tensor

from ..console import say
from ..errors import AudioError, CheckpointError, UserError
from ..recipe import Recipe, recipe_values
from ..runs.folder import RunFolder, load_state, save_state
from ..system import children_may_end, unwritable
from .failures import Interrupted, TrainingStopped, explained
from .learner import Learner
from .optimiser import copy_into, load_into, moments_of, set_moments

MOST_TRIES = 2  # of one validation: who kills a process says nothing of why, and a second time it is no chance
LOCK_SECONDS = 10.0  # data workers of a training that was killed hold its lock for some seconds more


@dataclass
class Progress:
    """The progress of a run; stored in its state file."""

    step: int = 0
    seconds: float = 0.0  # of training so far, validation included
    validation_seconds: float = 0.0
    best_usdr: float | None = None
    best_of: dict[str, float] = field(default_factory=dict)  # target → uSDR, where each head is kept by itself
    best_step: int = 0
    validated_step: int = 0
    validating_step: int = 0  # of the validation that is going on; 0: none is
    validation_tries: int = 0  # how often that validation has begun
    looks_without_better: int = 0


class RunState:
    """Weights, moments, averages, random numbers and progress of a training, in one file."""

    def __init__(self, run: RunFolder, recipe: Recipe, learner: Learner, accelerator: Accelerator):
        self.run, self.recipe, self.learner, self.accelerator = run, recipe, learner, accelerator
        self.progress = Progress()
        self.loaded_recipe: dict[str, Any] | None = None  # that the state was written with
        self.is_whole = True  # no weight is half changed
        self.is_closing = False
        self.random: Tensor | None = None  # the random numbers' state at the beginning of the step that is under way
        self.when_saved: Callable[[], None] = lambda: None  # is called after every `save`

    # one step, or nothing of it

    def begin_step(self) -> None:
        self.random = torch.get_rng_state()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """For code that changes the weights: if it is interrupted, the half-changed weights are not saved."""
        self.is_whole = False
        with children_may_end():
            yield
        self.is_whole, self.random = True, None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, if the recipe asks for them."""
        if not self.learner.average.weights:
            yield
            return
        with self.changing():
            current = self.learner.average.swap_in()
        try:
            yield
        finally:
            with self.changing():
                copy_into(self.learner.trained, current)

    # the file

    def save(self) -> None:
        """Write the state; the main process alone does. `UserError` if the run's folder has gone."""
        if not self.accelerator.is_main_process:
            return
        self.check_folder()
        groups: dict[str, Mapping[str, Tensor]] = {
            "trained": self.learner.trained,
            "optimizer": moments_of(self.learner.optimizer, self.learner.trained),
            "average": self.learner.average.weights,
            "rng": {"cpu": torch.get_rng_state() if self.random is None else self.random},
        }
        scaler = self.accelerator.scaler
        more = {"scaler": scaler.state_dict() if scaler else None, "recipe": recipe_values(self.recipe)}
        with children_may_end():
            save_state(self.run.state, groups, {**vars(self.progress), **more})
        self.when_saved()

    def check_folder(self) -> None:
        """`UserError` if somebody has moved or removed the run's folder: a new one would hold half a run."""
        if not self.run.recipe.is_file():
            raise UserError(f"{self.run.recipe} is not there any more: the run's folder was moved or removed.")

    def load(self) -> None:
        """Restore the saved state, bit for bit; `CheckpointError` for a file with other content."""
        groups, progress = load_state(self.run.state)
        try:
            self._take_up(groups, progress)
        except (TypeError, LookupError, ValueError, RuntimeError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise CheckpointError(
                f"{self.run.state} is not the state of such a training ({why}). Restore a backup, or start again under "
                "another run.name."
            ) from None

    def _take_up(self, groups: Mapping[str, Mapping[str, Tensor]], progress: dict[str, Any]) -> None:
        scaler, self.loaded_recipe = progress.pop("scaler"), progress.pop("recipe", None)
        self.progress = Progress(**progress)
        learner = self.learner
        load_into(learner.trained, groups.get("trained", {}), f"{self.run.state} (trained weights)")
        load_into(learner.average.weights, groups.get("average", {}), f"{self.run.state} (averaged weights)")
        set_moments(learner.optimizer, learner.trained, groups["optimizer"])
        torch.set_rng_state(groups["rng"]["cpu"])
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """However the block ends, the state is on the disk afterwards, and the error says how to continue."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted):
            self.progress.validating_step = 0  # it was no fault of the validation
            self._keep()
            raise
        except Exception as error:
            if self.progress.validating_step:  # it was saved before, with the mark that it began
                self.progress.validation_tries = MOST_TRIES
            self._keep()
            known = explained(error, self.recipe, self.run, self.accelerator.num_processes)
            if known is None:
                say(self.how_to_go_on())
                raise
            if isinstance(error, AudioError) and not self.run.state.is_file():
                raise  # the file alone is to be mended
            clear_frames(
                error.__traceback__
            )  # they hold data workers, whose end PyTorch would report to who comes next
            kind = type(error) if isinstance(error, UserError) else TrainingStopped
            raise kind(f"{known} {self.how_to_go_on()}") from error

    def _keep(self) -> None:
        self.is_closing = True
        if self.is_whole and self.progress.step:
            # The disk may be full, or the memory: the state that was saved last stays.
            # PyTorch reports a dead worker wherever the program is, even while its end is being handled.
            with suppress(UserError, MemoryError, torch.OutOfMemoryError), children_may_end():
                self.save()

    def is_busy(self) -> bool:
        """Whether an interruption would do harm now."""
        return not self.is_whole or self.is_closing

    def how_to_go_on(self) -> str:
        """A message with the saved step and the command that continues from it."""
        if not self.run.state.is_file():
            return "No state was saved yet, since nothing is learnt yet; the same command starts again."
        return f"The last good state is in {self.run.state}. Go on with --resume {self.run.path}."


# --- who may write a run's folder ------------------------------------------------------------------------------------


@contextmanager
def only_writer(run: RunFolder, accelerator: Accelerator) -> Iterator[None]:
    """Within the block no other training writes this run; `UserError` if one does. The lock of a dead process does
    not count.
    """
    path = run.path / "state" / "lock"
    lock = FileLock(path)

    def acquire() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"Another training seems to write {run.path}; waiting {LOCK_SECONDS:.0f} s for it to end.")
                lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise UserError(
                f"{run.path} is being trained by another process. Let it end (or stop it, it saves its state), or "
                "choose another name: run.name=..."
            ) from None
        except NotImplementedError:
            say(f"The file system of {run.path} has no locks: take care that no other training writes there.")
        except OSError as problem:
            raise unwritable(path, problem) from None

    on_main(accelerator, acquire)
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()
            if not run.recipe.exists():  # nothing was begun
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()
                    run.path.rmdir()


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Call a function in the main process; if it fails with a `UserError`, all processes raise it."""
    from accelerate.utils import broadcast_object_list

    problem: list[UserError | None] = [None]
    if accelerator.is_main_process:
        try:
            work()
        except UserError as error:
            problem[0] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
