"""The one training loop. A single target is multi-target with one target; a transfer trains on a frozen backbone.

    accelerate launch scripts/train_mtl.py recipes/mtl_generic.yaml

One optimiser step consumes `train.batch_size` examples, whose indices follow from the step alone and which are shared
out over the processes: the loss curve does not depend on how many there are, and a resumed run continues exactly.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, gather_object, parse_flag_from_env, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..console import Bar, say
from ..data.examples import RandomMixes, begin_worker, load_track
from ..data.tracks import Sources, Track, tell_builtin
from ..data.training_data import TrainingData, training_data
from ..errors import RecipeError, UserError
from ..metrics import usdr
from ..network.model import BSRNN, count_parameters
from ..network.signals import Signal
from ..recipe import Recipe, TrainSpec, default_run_name, dump_recipe
from ..runs.energy import energy_recorded, energy_wanted
from ..runs.folder import (
    RunFolder,
    check_tensors,
    load_state,
    save_backbone,
    save_head,
    save_state,
    save_weights,
    tensors_sha256,
)
from ..runs.tracking import Tracker, device_name, environment
from ..separation.separator import Separator
from ..system import atomic_write, big_blocks_kept, taking_part, write_text
from .feature_cache import GB, CachedMixes, FeatureCache, Remembered, cache_key, example_arrays, fill
from .launch import refuse_sharding
from .losses import MultiTargetLoss

DAY = 86400.0
PROBE_SECONDS = 10.0  # the longest that measuring a whole step may take before training
Batch = dict[str, Tensor]  # "mixture" (B, C, L), "stems" (B, targets, C, L) and "present" (B, targets)


class TrainingStopped(UserError):
    """The loss became NaN or infinite."""


class Objective(nn.Module):
    """Model and loss in one module, so that DDP and autocast wrap the whole step."""

    def __init__(self, model: BSRNN, recipe: Recipe):
        super().__init__()
        self.model, self.targets = model, recipe.targets
        self.loss = MultiTargetLoss(recipe.loss, recipe.targets)

    def forward(
        self,
        mixture: Tensor,
        stems: Tensor,
        present: Tensor | None = None,
        totals: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mixture (B, C, L) and stems (B, targets, C, L) → loss and its parts.

        ``present`` (B, targets) is 0 where a stem is missing, ``totals`` (targets + 1,) as in `MultiTargetLoss`;
        ``features`` what `features` gives, where that is known. Where the recipe normalises the input, mixture and
        stems get the same gain here, measured on the excerpt.
        """
        level = self.model.level(mixture)
        if level is not None:
            mixture, stems = mixture * level.gain, stems * level.gain[:, None]  # the gain is (B, 1, 1)
        known = None if features is None else features.float()
        estimates = self.model.signals(mixture, self.targets, features=known)
        references = self._signals(stems)  # of (B, C, L)
        whole = self._signals(mixture[:, None])[0] if self.loss.joint else None
        return self.loss(estimates, dict(zip(self.targets, references, strict=True)), whole, present, totals)

    def features(self, mixture: Tensor) -> Tensor:
        """What the heads are given for a mixture (B, C, L) in training: (B, C, K, T, N)."""
        level = self.model.level(mixture)
        return self.model.features(mixture if level is None else mixture * level.gain)

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimiser trains: the model's parameters under their own names, the loss's behind ``loss.``."""
        named = {**dict(self.model.named_parameters()), **dict(self.loss.named_parameters(prefix="loss"))}
        return {name: p for name, p in named.items() if p.requires_grad}

    def _signals(self, waveforms: Tensor) -> list[Signal]:
        """Waveforms (B, J, C, L) → J signals, without spectrograms where no term of the loss reads them."""
        if not self.loss.reads_spectrograms:
            return [Signal(waveform, waveform.new_empty(0)) for waveform in waveforms.unbind(1)]
        spectrograms = self.model.stft(waveforms.flatten(1, 2)).unflatten(1, waveforms.shape[1:3])  # (B, J, C, F, T)
        return [Signal(*pair) for pair in zip(waveforms.unbind(1), spectrograms.unbind(1), strict=True)]


# --- small pure pieces ------------------------------------------------------------------------------------------------


def lr_at(step: int, train: TrainSpec) -> float:
    """The learning rate of optimiser step ``step`` (from 0): linear warm-up times decay."""
    warm = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    if train.decay == "cosine":
        return train.lr * warm * 0.5 * (1.0 + math.cos(math.pi * step / train.steps))
    if train.decay == "exponential":
        return train.lr * warm * train.decay_rate ** (step // train.decay_every)
    return train.lr * warm


def precision_for(train: TrainSpec, device: torch.device) -> str:
    """Accelerate's name of the mixed precision: what the recipe says, ``auto`` resolved for this device."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


def has_fused_adam(device: torch.device) -> bool:
    """Whether Adam has one kernel for all weights there: on a CPU it takes a fifth of the time."""
    return device.type in ("cpu", "cuda")


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    for unit, size in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            smaller = {"d": ("h", 3600.0), "h": ("min", 60.0), "min": ("s", 1.0)}[unit]
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller[1])} {smaller[0]}"
    return f"{seconds:.1f} s"


def peak_memory(device: torch.device) -> str:
    """``1.2 GiB of memory``: the most this process has had so far."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU memory"
    try:
        import resource
    except ImportError:  # Windows has no such count
        return "memory not measured"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB of memory"


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C or SIGTERM only sets a flag, which the function given tells; a second ends."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread alone
        yield lambda: False
        return

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; what a user can mend comes out of a worker as the one sentence that it is."""
    try:
        return next(batches)
    except UserError as error:  # PyTorch puts the worker's traceback into the message
        kind, text = type(error), str(error)
        raise kind(text.rpartition(f"{kind.__name__}: ")[2].strip()) from None


# --- the loop ---------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run stands; kept in its state file."""

    step: int = 0
    seconds: float = 0.0  # of training so far, validation included
    validation_seconds: float = 0.0
    best_usdr: float | None = None
    best_of: dict[str, float] = field(default_factory=dict)  # target → uSDR, where each head is kept by itself
    best_step: int = 0
    validated_step: int = 0
    looks_without_better: int = 0


class Trainer:
    """Trains the parameters of model and loss that require a gradient, as the recipe says, into ``run``."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        objective: Objective,
        data: TrainingData,
        accelerator: Accelerator,
        resume: bool,
        cache: FeatureCache | None = None,
    ):
        self.recipe, self.spec, self.run, self.data = recipe, recipe.train, run, data
        self.accelerator, self.model, self.loss = accelerator, objective.model, objective.loss
        objective.to(accelerator.device).train()
        self.cache, self.progress = cache, Progress(seconds=cache.seconds_to_fill if cache else 0.0)
        self.trained = objective.trained()
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if self.spec.ema else {}
        optimizer = torch.optim.Adam(self.trained.values(), lr=self.spec.lr, fused=has_fused_adam(accelerator.device))
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        if resume:
            self._load_state()
        provenance = self._provenance(resume)
        self.tracker = Tracker(run, recipe, provenance, accelerator.is_main_process, self.progress.step)

    @property
    def per_process(self) -> int:
        """Examples that one process takes at a time."""
        return self.spec.batch_size // self.spec.accumulate // self.accelerator.num_processes

    # the loop itself

    def fit(self) -> bool:
        """Train to the last step; False when it was interrupted (its state is then saved)."""
        self._announce()
        started, seconds_before = time.monotonic(), self.progress.seconds
        batches = iter(self._loader())
        with stop_signals() as stopped, self._bar() as bar:
            self._validate_if_due(bar)  # a run may have been interrupted just before it
            while self.progress.step < self.spec.steps:
                parts, interrupted = self._step(batches, stopped)
                self.progress.step += 1
                self.progress.seconds = seconds_before + time.monotonic() - started
                bar.update(self.progress.step, **parts)
                self._log(parts)
                if interrupted:
                    self._save_state()
                    say(
                        f"Interrupted. State of step {self.progress.step} is in {self.run.state}. {self._resume_hint()}"
                    )
                    return False
                if self._after_step(bar):
                    break
        self.progress.seconds = seconds_before + time.monotonic() - started
        self._finish()
        return True

    def _step(self, batches: Iterator[Batch], stopped: Callable[[], bool]) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns the mean loss and its parts over all processes, and whether to stop."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.progress.step, self.spec)
        sums: dict[str, Tensor] = {}
        accumulated = [next_batch(batches) for _ in range(self.spec.accumulate)]
        totals = self._totals(accumulated)
        for batch in accumulated:
            with self.accelerator.accumulate(self.objective):
                known = batch.get("features")
                loss, parts = self.objective(batch["mixture"], batch["stems"], batch["present"], totals, known)
                self.accelerator.backward(loss)
                for name, value in {"loss": loss.detach(), **parts}.items():
                    sums[name] = sums.get(name, 0.0) + value.float() / self.spec.accumulate
        norm = self._clip()
        flag = torch.tensor(float(stopped()), device=self.accelerator.device)
        vector = torch.stack([*sums.values(), norm.detach().float(), flag])
        *values, norm_value, told = self.accelerator.reduce(vector, "mean").tolist()
        means = dict(zip(sums, values, strict=True))
        self._check_finite(means, norm_value)
        means = self._heard(means, totals)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._update_average()
        return means, told > 0

    def _clip(self) -> Tensor:
        """Clip the gradient of what is trained together; returns the norm of all of it.

        Heads on a frozen backbone have nothing in common: each is clipped by itself, and learns what it would alone.
        """
        self.accelerator.unscale_gradients()
        groups: dict[str, list[nn.Parameter]] = {}
        for name, p in self.trained.items():
            groups.setdefault(name.split(".")[1] if self.recipe.trains_heads_alone else "", []).append(p)
        norms = [nn.utils.clip_grad_norm_(group, self.spec.clip_norm) for group in groups.values()]
        return torch.stack(norms).norm()

    def _totals(self, accumulated: Sequence[Batch]) -> Tensor:
        """How much the examples of this step count per target, per batch: the mean over its parts and processes."""
        local = torch.stack([self.loss.totals(batch["present"]) for batch in accumulated]).mean(0)
        return self.accelerator.reduce(local, "mean")

    def _heard(self, means: Mapping[str, float], totals: Tensor) -> dict[str, float]:
        """Without the losses of targets that no example of the step has: there is nothing to tell of them."""
        absent = {name for name, total in zip([*self.recipe.targets, "all"], totals.tolist(), strict=True) if not total}
        return {name: value for name, value in means.items() if name.split("/")[0] not in absent}

    def _check_finite(self, means: Mapping[str, float], norm: float) -> None:
        """Stop before a NaN reaches the weights. fp16 may overflow: there the gradient scaler skips such a step."""
        bad = [name for name, value in means.items() if not math.isfinite(value) and name != "loss"]
        if not bad and (math.isfinite(norm) or self.accelerator.mixed_precision == "fp16"):
            return
        what = f"the loss {', '.join(bad)}" if bad else "the gradient"
        kept = f"The last good state is in {self.run.state}." if self.run.state.exists() else "No state was saved yet."
        raise TrainingStopped(
            f"{what} became NaN or infinite at step {self.progress.step + 1}; no weight was changed by it. {kept} "
            "Lower train.lr or train.clip_norm, use train.precision=no, or check the stems of that target."
        )

    def _update_average(self) -> None:
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1.0 - self.spec.ema)

    def _log(self, parts: Mapping[str, float]) -> None:
        step = self.progress.step
        if step == 1 or step % self.spec.log_every == 0 or step == self.spec.steps:
            audio = step * self.spec.batch_size * self.spec.chunk_seconds
            speed = audio / self.progress.seconds if self.progress.seconds else 0.0
            values = {
                **parts,
                "lr": lr_at(step - 1, self.spec),
                "audio_seconds": audio,
                "audio_seconds_per_second": speed,
            }
            self.tracker.log(step, self.progress.seconds, values)

    def _after_step(self, bar: Bar) -> bool:
        """Validate and save where it is time to; True when patience has run out."""
        step = self.progress.step
        self._validate_if_due(bar)
        if step % self.spec.checkpoint_every == 0 or step == self.spec.steps:
            self._save_state()
        patience = self.spec.patience
        if patience and self.progress.looks_without_better >= patience:
            say(f"No better uSDR in {patience} validations: stopping at step {step}, best {self.progress.best_step}.")
            self._save_state()
            return True
        return False

    def _validate_if_due(self, bar: Bar) -> None:
        step = self.progress.step
        due = step and (step % self.spec.validate_every == 0 or step == self.spec.steps)
        if due and step != self.progress.validated_step:
            self.progress.validated_step = step
            scores = self._validate()
            if scores:
                bar.update(step, usdr=scores["validation/usdr"])

    # data, and what is said before the first step

    def _loader(self) -> DataLoader:
        n_examples = self.spec.steps * self.spec.batch_size
        examples: RandomMixes | CachedMixes = RandomMixes(self.data.parts, self.recipe, n_examples)
        if self.cache is not None:
            examples = CachedMixes(self.cache, self.spec.seed, n_examples)
        loader = DataLoader(
            examples,
            batch_size=self.spec.batch_size // self.spec.accumulate,  # shared out over the processes by Accelerate
            sampler=range(self.progress.step * self.spec.batch_size, len(examples)),
            # More than there are processors only get in each other's way; the examples do not depend on it.
            num_workers=min(self.spec.workers, os.cpu_count() or 1),
            worker_init_fn=begin_worker,
            generator=torch.Generator(),  # its own, so that making a loader does not move the global one
            pin_memory=self.accelerator.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)

    def _bar(self) -> Bar:
        seconds = self.spec.batch_size * self.spec.chunk_seconds
        shown = self.accelerator.is_main_process
        return Bar(self.run.name, self.spec.steps, self.progress.step, audio_seconds=seconds, shown=shown)

    def _announce(self) -> None:
        trained, total = sum(p.numel() for p in self.trained.values()), count_parameters(self.model)
        say(f"{trained:,} parameters train, {count_frozen(self.model):,} are frozen.")
        for line in [*self.data.opening, *self.data.parts.notes]:
            say(line)
        seconds, measured = self._time_step()
        steps = self.spec.steps - self.progress.step
        left = seconds * steps
        say(
            f"{self.run.name}: {total:,} parameters on {device_name(self.accelerator.device)} × "
            f"{self.accelerator.num_processes}, {len(self.data.parts.tracks)} training and {len(self.data.validation)} "
            f"validation tracks; {seconds:.2f} s per step ({measured}), {steps} steps: about {duration(left)} without "
            f"validation; {peak_memory(self.accelerator.device)}."
        )
        if left > DAY:
            say(
                f"That is more than a day. For an hour: train.steps={max(1, int(3600 / seconds))}. For faster steps: "
                "size=tiny, train.batch_size=2, or recipes/micro.yaml, which is made for CPUs."
            )

    def _time_step(self) -> tuple[float, str]:
        """Seconds of one optimiser step's computing on noise, and how they were found; nothing is changed by it."""
        one = self._time_examples(1)
        if one * self.per_process * self.spec.accumulate > PROBE_SECONDS:
            return one * self.per_process * self.spec.accumulate, f"measured on 1 of {self.per_process} examples"
        return self._time_examples(self.per_process) * self.spec.accumulate, "measured"

    def _time_examples(self, n_examples: int) -> float:
        """Seconds of forward and backward for so many examples, the mean over the processes."""
        noise = torch.Generator(self.accelerator.device).manual_seed(0)
        length = round(self.spec.chunk_seconds * self.recipe.stft.sample_rate_hz)
        shape = (n_examples, len(self.recipe.targets), self.recipe.data.channels, length)
        stems = torch.randn(shape, generator=noise, device=self.accelerator.device) * 0.1
        started = time.monotonic()
        known = None
        if self.cache is not None:
            known = torch.zeros(n_examples, *self.cache.arrays["features"].shape, device=self.accelerator.device)
        loss, _ = self.objective(stems.sum(1), stems, features=known)
        # Scaling and Accelerate's step count stay out of it: a plain backward, thrown away.
        loss.backward()
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.objective.zero_grad(set_to_none=True)
        # The same number in every process: they must agree on what is measured next.
        seconds = torch.tensor(time.monotonic() - started, device=self.accelerator.device)
        return float(self.accelerator.reduce(seconds, "mean"))

    def _resume_hint(self) -> str:
        return f"Go on with --resume {self.run.path}."

    # validation

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, where the recipe asks for them."""
        current = {name: self.trained[name].detach().clone() for name in self.average}
        with torch.no_grad():
            for name, value in self.average.items():
                self.trained[name].copy_(value)
            try:
                yield
            finally:
                for name, value in current.items():
                    self.trained[name].copy_(value)

    def _validate(self) -> dict[str, float]:
        """uSDR on whole validation tracks, shared out over the processes; keeps the weights when they are the best."""
        started = time.monotonic()
        if self.cache is not None:
            left_gb = (self.recipe.cache.max_gb - self.cache.n_bytes / GB) / self.accelerator.num_processes
            self.model.remembered = Remembered(self.cache.path / "validation", left_gb)
        with self._averaged_weights() if self.average else nullcontext():
            scores = self._scores()
            if scores:
                training = round(self.progress.seconds - self.progress.validation_seconds, 3)  # before this look
                self.tracker.log(self.progress.step, self.progress.seconds, {**scores, "training_seconds": training})
                if self.accelerator.is_main_process:
                    self._log_media()
            self._keep_best(scores)
        self.model.remembered = None
        self.model.train()
        taken = time.monotonic() - started
        self.progress.validation_seconds += taken
        self.progress.seconds += taken  # a state that is saved before the next step has both
        return scores

    def _scores(self) -> dict[str, float]:
        """{"validation/<target>/usdr": mean over tracks, ..., "validation/usdr": mean over targets}."""
        separator = Separator(self.model, str(self.accelerator.device))
        rows: list[tuple[str, float]] = []
        for track in self.data.validation[self.accelerator.process_index :: self.accelerator.num_processes]:
            mixture, stems, _ = load_track(track, self.recipe.targets)
            estimates = separator.separate(mixture, track.sample_rate_hz, list(stems))
            # A silent stem has no defined uSDR; the others of the track count.
            rows += [(name, usdr(stems[name], estimates[name])) for name in stems if stems[name].any()]
        rows = gather_object(rows)
        by_target = {name: [value for n, value in rows if n == name] for name in self.recipe.targets}
        means = {name: sum(values) / len(values) for name, values in by_target.items() if values}
        scores = {f"validation/{name}/usdr": value for name, value in means.items()}
        return {**scores, "validation/usdr": sum(means.values()) / len(means)} if means else {}

    def _keep_best(self, scores: Mapping[str, float]) -> None:
        """Keep the weights that are the best so far: of every head by itself where heads have nothing in common."""
        progress, mean = self.progress, scores.get("validation/usdr")
        better_mean = _better(mean, progress.best_usdr)
        improved = better_mean
        if self.recipe.trains_heads_alone:
            values = {name: scores.get(f"validation/{name}/usdr") for name in self.recipe.targets}
            better = {name: value for name, value in values.items() if _better(value, progress.best_of.get(name))}
            progress.best_of |= {name: value for name, value in better.items() if value is not None}
            improved = bool(better)
            for name, value in better.items():
                if self.accelerator.is_main_process:
                    save_head(self.run.head(name), self.model, name, trained=self._facts(value))
        elif better_mean and self.accelerator.is_main_process:
            save_weights(self.run, self.model, trained=self._facts(mean))
        if better_mean:
            progress.best_usdr, progress.best_step = mean, progress.step
        progress.looks_without_better = 0 if improved else progress.looks_without_better + 1

    def _log_media(self) -> None:
        """Audio and spectrograms of mixture, reference and estimate from the first validation track."""
        seconds = self.recipe.log.audio_seconds
        if not (self.tracker.wandb and seconds and self.data.validation):
            return
        from ..runs.spectrograms import draw_spectrograms  # Matplotlib takes a while to load

        track = self.data.validation[0]
        mixture, stems, _ = load_track(track, self.recipe.targets)
        middle, length = track.n_samples // 2, round(seconds * track.sample_rate_hz)
        window = slice(max(0, middle - length // 2), middle + length // 2)
        separator = Separator(self.model, str(self.accelerator.device))
        estimates = separator.separate(mixture[:, window], track.sample_rate_hz, list(stems))
        audio, pictures = {"mixture": mixture[:, window].numpy()}, {}
        for name in stems:
            pair = {f"{name} reference": stems[name][:, window].numpy(), f"{name} estimate": estimates[name].numpy()}
            audio.update(pair)
            pictures[name] = draw_spectrograms({"mixture": audio["mixture"], **pair}, track.sample_rate_hz)
        self.tracker.log_media(self.progress.step, audio, pictures, track.sample_rate_hz)

    def _facts(self, validation_usdr: float | None) -> dict[str, Any]:
        """What a head's file says about where the head came from."""
        spec, data = self.spec, self.data.describe()
        return {
            "run": self.run.name,
            "targets": list(self.recipe.targets),
            "method": self.recipe.base.method if self.recipe.base else "base",
            "steps": self.progress.step,
            "audio_hours": round(self.progress.step * spec.batch_size * spec.chunk_seconds / 3600, 3),
            "validation_usdr": validation_usdr,
            "data": {"name": data["name"], "fingerprint": data["fingerprint"], "n_tracks": len(data["train_tracks"])},
        }

    # state, provenance, end

    def _save_state(self) -> None:
        if not self.accelerator.is_main_process:
            return
        moments = {
            f"{name}/{key}": value for name, p in self.trained.items() for key, value in self.optimizer.state[p].items()
        }
        groups: dict[str, Mapping[str, Tensor]] = {
            "trained": self.trained,
            "optimizer": moments,
            "average": self.average,
            "rng": {"cpu": torch.get_rng_state()},
        }
        scaler = self.accelerator.scaler
        progress = {**vars(self.progress), "scaler": scaler.state_dict() if scaler else None}
        save_state(self.run.state, groups, progress)
        self.tracker.save_provenance(seconds=round(self.progress.seconds, 1), steps_done=self.progress.step)

    def _load_state(self) -> None:
        groups, progress = load_state(self.run.state)
        scaler = progress.pop("scaler")
        self.progress = Progress(**progress)
        load_into(self.trained, groups.get("trained", {}), f"{self.run.state} (trained weights)")
        load_into(self.average, groups.get("average", {}), f"{self.run.state} (averaged weights)")
        for name, p in self.trained.items():
            moments = {
                key.removeprefix(f"{name}/"): value
                for key, value in groups["optimizer"].items()
                if key.rpartition("/")[0] == name
            }
            # Moments live where the weight does; so does the count of steps, where one kernel updates all weights.
            there = torch.device("cpu") if not has_fused_adam(p.device) else p.device
            self.optimizer.state[p] = {k: v.to(there if k == "step" else p.device) for k, v in moments.items()}
        torch.set_rng_state(groups["rng"]["cpu"])
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)

    def _provenance(self, resume: bool) -> dict[str, Any]:
        old = json.loads(self.run.provenance.read_text()) if resume and self.run.provenance.exists() else {}
        trained = sum(p.numel() for p in self.trained.values())
        data = self.data.describe()
        if old and old["data"]["fingerprint"] != data["fingerprint"]:
            raise RecipeError(
                f"{self.run.path} was trained on data with fingerprint {old['data']['fingerprint'][:12]}; "
                f"{data['root']} has {data['fingerprint'][:12]}. A resumed run needs the same data: set data.root."
            )
        if old and old["data"].get("written") != data["written"] and self.accelerator.is_main_process:
            say("The data were written again since this run began; names, lengths and a part of the samples are alike.")
        return {
            "format": 1,
            "run": self.run.name,
            **environment(),
            "wandb_id": old.get("wandb_id"),
            "resumed_at_steps": [*old.get("resumed_at_steps", []), *([self.progress.step] if resume else [])],
            "seed": self.spec.seed,
            "data": data,
            "device": device_name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "parameters": {"trained": trained, "frozen": count_frozen(self.model)},
            "cache": self.cache.describe() if self.cache else None,
            **({"energy": old["energy"]} if "energy" in old else {}),
            "seconds": self.progress.seconds,
            "validation_seconds": self.progress.validation_seconds,
            "steps_done": self.progress.step,
        }

    def _finish(self) -> None:
        if self.progress.best_usdr is None:  # nothing to validate on: the last weights are the run's
            with self._averaged_weights() if self.average else nullcontext():
                self._keep_best({})
        p = self.progress
        columns = ["run", "steps", "best step", "best validation uSDR", "seconds"]
        values = {"best_step": p.best_step, "best_validation_usdr": p.best_usdr, "seconds": round(p.seconds, 1)}
        values["validation_seconds"] = round(p.validation_seconds, 1)
        rows = [[self.run.name, p.step, p.best_step, p.best_usdr, p.seconds]]
        self.tracker.finish(columns, rows, steps_done=p.step, finished=True, **values)
        self.accelerator.wait_for_everyone()


def _better(value: float | None, best: float | None) -> bool:
    """Whether a score is the best so far; without a score the latest weights are."""
    return value is None or best is None or value > best


def count_frozen(model: BSRNN) -> int:
    return count_parameters(model, of=lambda p: not p.requires_grad)


def load_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into those of the same names; strict, as everything that is loaded."""
    check_tensors(own, tensors, where)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


# --- from a recipe to a run -------------------------------------------------------------------------------------------


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate as `accelerate launch` (or nothing) set it up, with the recipe's precision and accumulation."""
    refuse_sharding()
    # Where there is only a CPU, Accelerate must be told, or several processes would train apart from each other.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu)
    share = recipe.train.accumulate * state.num_processes
    if recipe.train.batch_size % share:
        raise RecipeError(
            f"train.batch_size {recipe.train.batch_size} cannot be shared out over {state.num_processes} processes "
            f"× train.accumulate {recipe.train.accumulate}; expected a multiple of {share}."
        )
    AcceleratorState._reset_state()  # another training in this process may have had another precision
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision_for(recipe.train, state.device),
        gradient_accumulation_steps=recipe.train.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )


def new_run(recipe: Recipe, sources: Sources) -> tuple[Recipe, RunFolder]:
    """The folder of a new run (not made yet), and the recipe with its name in it; refused where it exists."""
    name = recipe.run.name or default_run_name(recipe, sources.is_builtin)
    if sources.is_builtin and not name.endswith("-builtin"):
        name += "-builtin"
    run = RunFolder(Path(recipe.run.root) / name)
    if run.path.exists() and any(run.path.iterdir()):
        hint = f"go on with --resume {run.path}, " if run.state.exists() else ""
        raise RecipeError(f"{run.path} exists already and is not overwritten: {hint}choose run.name=..., or remove it.")
    # With the recipe alone the run can be repeated, whatever the environment says then.
    return replace(recipe, run=replace(recipe.run, name=name), data=sources.resolved(recipe.data)), run


def filled_cache(recipe: Recipe, objective: Objective, data: TrainingData, accelerator: Accelerator) -> FeatureCache:
    """The feature cache of a transfer, complete: what is missing of it is computed, shared out over the processes.

    A training on the same cache that is filling it is waited for.
    """
    objective.to(accelerator.device).eval()
    pool = min(recipe.cache.pool, recipe.train.steps * recipe.train.batch_size)
    examples = RandomMixes(data.parts, recipe, pool)

    def features(mixture: Tensor) -> Tensor:
        with torch.no_grad(), accelerator.autocast():
            return objective.features(mixture)

    probe = torch.zeros(1, recipe.data.channels, examples.length, device=accelerator.device)
    arrays = example_arrays(recipe, tuple(features(probe).shape[1:]))
    digest = tensors_sha256(objective.model.backbone.state_dict())
    key = cache_key(recipe, digest, data.describe(), pool, accelerator.mixed_precision)
    cache = FeatureCache(key, arrays, pool)
    with cache.alone() if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            says = cache.check_room(recipe.cache.max_gb)
            say(f"Feature cache: {says}{_beside(cache, recipe, objective, data)}.")
            cache.prepare()
            say(f"{len(cache.missing_blocks())} of {cache.n_blocks} blocks to compute.")
        accelerator.wait_for_everyone()
        missing = cache.missing_blocks()
        accelerator.wait_for_everyone()  # all have looked before one writes
        started = time.monotonic()
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        fill(cache, examples, features, mine, accelerator.device, min(recipe.train.workers, os.cpu_count() or 1))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            cache.add_seconds(time.monotonic() - started)
        accelerator.wait_for_everyone()
    return cache.checked()


def _beside(cache: FeatureCache, recipe: Recipe, objective: Objective, data: TrainingData) -> str:
    """In words: what validation adds to a cache, and what the caches of other trainings take."""
    left = recipe.cache.max_gb * GB - cache.n_bytes
    adds = min(left, validation_bytes(cache, recipe, objective, data.validation))
    others = cache.others_bytes()
    beside = f"; other caches in {cache.path.parent} take {others / GB:.2f} GB" if others else ""
    return f", up to {adds / GB:.2f} GB more of validation tracks{beside}"


def validation_bytes(cache: FeatureCache, recipe: Recipe, objective: Objective, tracks: Sequence[Track]) -> float:
    """About what the features of all chunks of whole validation tracks take on the disk."""
    separator = Separator(objective.model, str(next(objective.parameters()).device))
    example = recipe.train.chunk_seconds * recipe.stft.sample_rate_hz * recipe.data.channels
    total = 0.0
    for track in tracks:
        length = track.seconds * recipe.stft.sample_rate_hz
        n_chunks = max(1, math.ceil((length - separator.overlap) / (separator.chunk - separator.overlap)))
        total += n_chunks * min(separator.chunk, length) * track.n_channels / example
    return total * cache.arrays["features"].n_bytes


def write_run(run: RunFolder, recipe: Recipe, data: TrainingData) -> None:
    """Recipe and track table into the run's folder."""
    write_text(run.recipe, dump_recipe(recipe))
    datasets.disable_progress_bars()  # it is written in no time
    with atomic_write(run.tracks) as temporary:
        data.table.to_parquet(temporary)


@taking_part()
@big_blocks_kept()
def run_training(
    recipe: Recipe, make_model: Callable[[Recipe], BSRNN], resume: RunFolder | None = None
) -> tuple[RunFolder, bool]:
    """Train a model into a run folder; returns the folder and whether training came to its end.

    ``make_model`` is called with the seed set, the same in every process.
    """
    accelerator = make_accelerator(recipe)
    set_seed(recipe.train.seed)
    objective = Objective(make_model(recipe), recipe)  # a typo in the recipe fails here, before any data are read
    data = training_data(recipe)
    if data.sources.is_builtin:
        tell_builtin(say)
    if resume is None:
        recipe, run = new_run(recipe, data.sources)
        accelerator.wait_for_everyone()  # all have looked before one makes the folder
    else:
        run = resume
    what = "transfer" if recipe.base else "train"
    with energy_recorded(run.provenance, what, energy_wanted(recipe.log.energy), accelerator):
        cache = filled_cache(recipe, objective, data, accelerator) if recipe.cache.enabled else None
        if resume is None and accelerator.is_main_process:
            write_run(run, recipe, data)
            if recipe.base is not None and recipe.owns_backbone and objective.model.backbone_is_frozen:
                save_backbone(run.backbone, objective.model)  # random: what it was cannot be found out later
        trainer = Trainer(recipe, run, objective, data, accelerator, resume is not None, cache)
        return run, trainer.fit()


def train(recipe: Recipe) -> tuple[RunFolder, bool]:
    """Train a fresh network as the recipe says."""
    return run_training(recipe, BSRNN.from_recipe)
