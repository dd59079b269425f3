"""The one training loop. A single target is a list of one target; a transfer trains on a frozen backbone.

    accelerate launch scripts/train_mtl.py recipes/mtl_generic.yaml

One optimiser step uses `train.batch_size` examples. The step alone determines their indices, and the processes share
them. So the loss curve does not depend on the number of processes, and a resumed run continues exactly.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..console import Bar, say
from ..data.examples import RandomMixes
from ..data.sources import announce_builtin
from ..data.training_data import TrainingData, training_data
from ..errors import RecipeError
from ..network.model import BSRNN
from ..recipe import Recipe, dump_recipe, recipe_values
from ..runs.energy import energy_recorded, energy_wanted
from ..runs.folder import RunFolder
from ..runs.tracking import Tracker
from ..schema import differences
from ..system import big_blocks_kept, signals_held, stop_signals, taking_part, write_text
from .best import Best
from .description import Description, check_same_songs, provenance_of
from .failures import Interrupted, NotFinite
from .feature_cache import CachedMixes, FeatureCache, filled_cache
from .job import begin_run, make_accelerator, new_run
from .learner import Learner
from .loader import Batch, make_loader, next_batch
from .objective import Objective
from .optimiser import lr_at
from .pace import Pace
from .state import MOST_TRIES, RunState, on_main, only_writer
from .validation import Validation

END_SECONDS = 10.0  # a step that takes longer than this after a signal to stop is given up
Watch = Callable[["Trainer"], None]


class Trainer:
    """Trains the parameters of model and loss that require a gradient, as the recipe says, and writes to ``run``.

    ``watch`` is called with the trainer before the first step and after every step.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        objective: Objective,
        data: TrainingData,
        accelerator: Accelerator,
        resume: bool,
        cache: FeatureCache | None = None,
        watch: Watch | None = None,
    ):
        self.recipe, self.spec, self.run, self.data = recipe, recipe.train, run, data
        self.accelerator, self.cache, self.watch = accelerator, cache, watch or (lambda trainer: None)
        self.learner = Learner(recipe, objective, accelerator)
        self.state = RunState(run, recipe, self.learner, accelerator)
        self.state.progress.seconds = cache.seconds_to_fill if cache else 0.0
        if resume:
            self.state.load()
        self.progress = self.state.progress
        self.validation = Validation(recipe, self.learner.model, data.validation, accelerator, cache)
        self.pace = Pace(self.spec, accelerator.device, self.validation.about_seconds)
        self.description = Description(recipe, run, data, self.learner, accelerator, cache)
        self.bar = self._bar()
        is_main = accelerator.is_main_process
        self.best = Best(recipe, run, self.learner, self.description, is_main)
        if self.progress.step > self.spec.steps:
            raise RecipeError(
                f"train.steps is {self.spec.steps}, but {run.path} has done {self.progress.step} steps; expected that "
                "or more."
            )
        old = provenance_of(run) if resume else {}
        changes = differences(self.state.loaded_recipe or recipe_values(recipe), recipe_values(recipe))
        if old.get("processes", accelerator.num_processes) != accelerator.num_processes:
            changes["processes"] = (old["processes"], accelerator.num_processes)
        for key, (before, now) in changes.items():
            say(f"From step {self.progress.step} on: {key} is {now!r}, it was {before!r}.")
        provenance = self.description.provenance(self.progress, old, changes)
        steps = (self.progress.step, self.progress.validated_step)
        self.tracker = Tracker(run, recipe, provenance, is_main, *steps)
        self.state.when_saved = self._note_progress

    def fit(self) -> bool:
        """Train to the last step; False if it was interrupted. However it ends, the state is kept."""
        progress, spec = self.progress, self.spec
        for line in [*self.description.lines(), *self.data.opening, *self.data.parts.notes]:
            say(line)
        began = time.monotonic() - progress.seconds
        patience = END_SECONDS if self.accelerator.num_processes == 1 else None  # all end together, after a step
        try:
            with (
                stop_signals(self.state.is_busy, patience) as stopped,
                self.bar,
                self.state.kept(),
                self._batches() as data,
            ):
                self.watch(self)
                self.validate(stopped)  # the run may have ended before it
                while progress.step < spec.steps and not self._is_out_of_patience():
                    started = time.monotonic()
                    losses, is_stopped = self.step(data, stopped)
                    progress.seconds = time.monotonic() - began
                    self._log(losses)
                    for line in self.pace.after_step(progress.step, time.monotonic() - started):
                        say(line)
                    self.watch(self)
                    if is_stopped:
                        raise Interrupted
                    if self.validation_is_due:
                        self.validate(stopped)
                    elif progress.step % spec.checkpoint_every == 0:
                        self.state.save()
                progress.seconds = time.monotonic() - began
                self._finish()
        except (Interrupted, KeyboardInterrupt):
            say(f"Interrupted after step {progress.step}. {self.state.how_to_go_on()}")
            return False
        finally:
            self.tracker.close()
        return True

    def step(self, batches: Iterator[Batch], stopped: Callable[[], bool]) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns its losses, and whether any process got a signal to stop."""
        self.state.begin_step()
        accumulated = [next_batch(batches) for _ in range(self.spec.accumulate)]
        try:
            losses, is_stopped = self.learner.gradients(accumulated, self.progress.step, stopped())
        except NotFinite as error:
            songs = "" if self.cache is not None else f" The songs of this step: {', '.join(self._songs())}."
            raise NotFinite(f"{error}{songs}") from None
        with self.state.changing():
            self.learner.update()
            self.progress.step += 1
        return losses, is_stopped

    def _songs(self) -> list[str]:
        """The songs in the examples of the current step, over all processes."""
        size, step = self.spec.batch_size, self.progress.step
        plans = [self.examples.plan(index) for index in range(step * size, (step + 1) * size)]
        return list(dict.fromkeys(excerpt.song.track.name for plan in plans for excerpt in plan.excerpts))

    @property
    def validation_is_due(self) -> bool:
        step, spec = self.progress.step, self.spec
        due = step % spec.validate_every == 0 or step == spec.steps
        return bool(step) and due and step != self.progress.validated_step

    def validate(self, stopped: Callable[[], bool]) -> None:
        """Save the state, validate if it is due, keep the best weights, save again."""
        progress, started = self.progress, time.monotonic()
        if not self.validation_is_due:
            return
        begun = progress.validation_tries if progress.validating_step == progress.step else 0
        if begun >= MOST_TRIES:
            say(f"The training ended in the validation of step {progress.step}, which is left out now.")
        else:
            progress.validating_step, progress.validation_tries = progress.step, begun + 1
            self.state.save()  # with the mark that it ended in here, if it does
            with self.state.averaged():
                scores = self.validation.scores(stopped, self.bar.validating)
                progress.validating_step = progress.validation_tries = 0
                self.best.keep(progress, scores)
                self._log_scores(scores)
        progress.validated_step = progress.step
        progress.validating_step = progress.validation_tries = 0
        taken = time.monotonic() - started
        progress.validation_seconds += taken
        progress.seconds += taken
        self.state.save()

    # --- what it calls

    @contextmanager
    def _batches(self) -> Iterator[Iterator[Batch]]:
        n_examples = self.spec.steps * self.spec.batch_size
        self.examples = RandomMixes(self.data.parts, self.recipe, n_examples)
        examples: RandomMixes | CachedMixes = self.examples
        if self.cache is not None:
            examples = CachedMixes(self.cache, self.spec.seed, n_examples)
        loader = make_loader(examples, self.recipe, self.progress.step, self.accelerator.device)
        batches = iter(self.accelerator.prepare(loader))
        try:
            yield batches
        finally:
            batches.close()  # ends the workers

    def _bar(self) -> Bar:
        seconds = self.spec.batch_size * self.spec.chunk_seconds
        shown = self.accelerator.is_main_process
        return Bar(self.run.name, self.spec.steps, self.progress.step, audio_seconds=seconds, shown=shown)

    def _log(self, losses: Mapping[str, float]) -> None:
        step, spec = self.progress.step, self.spec
        self.bar.update(step, **losses)
        if step == 1 or step % spec.log_every == 0 or step == spec.steps:
            audio = step * spec.batch_size * spec.chunk_seconds
            speed = audio / self.progress.seconds if self.progress.seconds else 0.0
            more = {"lr": lr_at(step - 1, spec), "audio_seconds": audio, "audio_seconds_per_second": speed}
            self.tracker.log(step, self.progress.seconds, {**losses, **more})

    def _log_scores(self, scores: Mapping[str, float]) -> None:
        if not scores:
            return
        progress, seconds = self.progress, self.recipe.log.audio_seconds
        self.bar.update(progress.step, usdr=scores["validation/usdr"])
        training = round(progress.seconds - progress.validation_seconds, 3)
        self.tracker.log(progress.step, progress.seconds, {**scores, "training_seconds": training})
        if seconds:
            self.tracker.log_media(progress.step, lambda: self.validation.audio(seconds))

    def _note_progress(self) -> None:
        self.tracker.note(seconds=round(self.progress.seconds, 1), steps_done=self.progress.step)

    def _is_out_of_patience(self) -> bool:
        patience, progress = self.spec.patience, self.progress
        if not patience or progress.looks_without_better < patience:
            return False
        say(
            f"No better uSDR in {patience} validations: stopping at step {progress.step}, best {progress.best_step}. "
            f"To go on: --resume {self.run.path} train.patience=0."
        )
        return True

    def _finish(self) -> None:
        p = self.progress
        if self.accelerator.is_main_process:
            self.state.check_folder()
        if p.best_usdr is None:  # nothing to validate on: the last weights are the run's
            with self.state.averaged():
                self.best.keep(p, {})
        columns = ["run", "steps", "best step", "best validation uSDR", "seconds"]
        values = {"best_step": p.best_step, "best_validation_usdr": p.best_usdr, "seconds": round(p.seconds, 1)}
        values["validation_seconds"] = round(p.validation_seconds, 1)
        rows = [[self.run.name, p.step, p.best_step, p.best_usdr, p.seconds]]
        self.tracker.finish(columns, rows, steps_done=p.step, finished=True, **values)
        self.accelerator.wait_for_everyone()


# --- from a recipe to a run -------------------------------------------------------------------------------------------


@taking_part()
@big_blocks_kept()
def run_training(
    recipe: Recipe,
    make_model: Callable[[Recipe], BSRNN],
    resume: RunFolder | None = None,
    watch: Watch | None = None,
) -> tuple[RunFolder, bool]:
    """Train a model into a run folder; returns the folder and whether the training reached its end.

    ``make_model`` is called with the same seed in every process.
    """
    with signals_held():
        torch.ones(1 << 20).sum()  # PyTorch begins its threads here: no signal will interrupt them either
    accelerator = make_accelerator(recipe)
    set_seed(recipe.train.seed)
    objective = Objective(make_model(recipe), recipe)  # a typo in the recipe fails here, before any data are read
    data = training_data(recipe)
    if data.sources.is_builtin:
        announce_builtin(say)
    if resume is None:
        recipe, run = new_run(recipe, data.sources)
        accelerator.wait_for_everyone()  # all have looked before one makes the folder
    else:
        recipe, run = replace(recipe, data=data.sources.resolved(recipe.data)), resume
        check_same_songs(run, data)
    what, wanted = "transfer" if recipe.base else "train", energy_wanted(recipe.log.energy)
    with only_writer(run, accelerator), energy_recorded(run.provenance, what, wanted, accelerator):
        cache = filled_cache(recipe, objective, data, accelerator) if recipe.cache.enabled else None
        if resume is None:
            on_main(accelerator, lambda: begin_run(run, recipe, data, objective.model))
        trainer = Trainer(recipe, run, objective, data, accelerator, resume is not None, cache, watch)
        if resume is not None:
            on_main(accelerator, lambda: write_text(run.recipe, dump_recipe(recipe)))
        return run, trainer.fit()


def train(recipe: Recipe, watch: Watch | None = None) -> tuple[RunFolder, bool]:
    """Train a new network as the recipe says."""
    return run_training(recipe, BSRNN.from_recipe, watch=watch)
