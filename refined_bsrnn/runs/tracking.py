"""The records of a run: provenance.json, metrics.jsonl and their mirror in wandb.

metrics.jsonl is the reference: one JSON object per log event, always written. wandb gets the same numbers plus audio
and pictures; it never asks a question, needs no account (it then writes offline files) and may be off. TensorBoard gets
the numbers if `log.tensorboard` is set. No logger ends a training.
"""

import errno
import importlib.metadata
import json
import math
import os
import platform
import queue
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import say
from ..errors import UserError
from ..plain import parse_json
from ..recipe import Recipe, recipe_values
from ..system import reason_of, write_json, write_text
from .folder import RunFolder
from .wandb_mode import wandb_mode

START_SECONDS = 5.0  # that a training waits for a logger to begin
MOST_WAITING = 1000  # entries that a logger has not taken yet
FINISH_SECONDS = 120.0  # that a logger has for the rest when the training is done
END_SECONDS = 8.0  # the same when something else ended it: a scheduler kills after half a minute
PACKAGES = ("refined-bsrnn", "torch", "soxr", "av", "accelerate", "datasets", "safetensors", "numpy", "museval")


def environment() -> dict[str, Any]:
    """Versions, code and command: the facts that are needed to repeat a run."""
    return {
        "git_commit": _git_commit(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `+` where it was changed; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed into some other project's checkout must not report that project's commit.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


# (channels, samples) by name, the same sorted by target, and the sample rate in Hz
Media = tuple[Mapping[str, np.ndarray], Mapping[str, Mapping[str, np.ndarray]], int]


class Mirror:
    """A tracker of Accelerate that logs in a separate thread, so that no training waits for it.

    The first of ``trackers`` that starts is used. A failure is reported once and ends only the tracker.
    """

    def __init__(self, *trackers: Any):
        self.trackers = list(trackers)
        self.name: str = trackers[0].name if trackers else ""
        self.failed = not trackers
        self.waiting: queue.Queue[Callable[[Any], Any] | None] = queue.Queue(MOST_WAITING)
        self.left_out = 0
        self.began, self.done = threading.Event(), threading.Event()
        if trackers:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()
            self.began.wait(START_SECONDS)  # mostly it takes less; data workers are forked after it then

    def attempt(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the tracker, when its turn comes."""
        self.guard(lambda tracker: getattr(tracker, method)(*arguments, **options))

    def guard(self, work: Callable[[Any], Any]) -> None:
        """Do something with the tracker, when its turn comes, that may fail for any reason."""
        if self.failed:
            return
        try:
            self.waiting.put_nowait(work)
        except queue.Full:
            self.left_out += 1

    def close(self, seconds: float) -> None:
        """Let the tracker finish; what it has not taken after so many seconds is left out."""
        if self.failed:
            return
        self.attempt("finish")
        with suppress(queue.Full):
            self.waiting.put(None, timeout=seconds)
        self.left_out += 0 if self.done.wait(seconds) else self.waiting.qsize()
        self.failed = True
        if self.left_out:
            say(f"{self.name} is too slow: {self.left_out} entries are left out. metrics.jsonl has every number.")
        if not self.done.is_set() and self.name == "wandb":
            threading.Thread(target=forget_wandb_helper, daemon=True).start()

    def _work(self) -> None:
        try:
            tracker = self._started()
            self.began.set()
            while (work := self.waiting.get()) is not None:
                work(tracker)
        except Exception as error:
            self.failed = True
            why = " ".join(str(error).split()) or type(error).__name__
            if self.name == "wandb" and isinstance(error, ConnectionError):
                forget_wandb_helper()
            say(f"{self.name} has failed ({why}): from here on it gets nothing. metrics.jsonl has every number.")
        finally:
            self.began.set()
            self.done.set()

    def _started(self) -> Any:
        for tracker in self.trackers[:-1]:
            with suppress(Exception):
                tracker.start()
                return tracker
            say(f"{self.name} cannot be reached: logging to it offline.")
        self.trackers[-1].start()
        return self.trackers[-1]


def forget_wandb_helper() -> None:
    """Detach wandb's writing process if it is dead or slow; otherwise wandb waits for it at the end of Python."""
    import wandb

    with suppress(Exception):
        wandb.teardown(exit_code=1)


class Tracker:
    """Writes a run's log. On all but the main process, create it with ``enabled=False``: it then does nothing.

    metrics.jsonl is written here, because none of Accelerate's trackers writes JSON lines or can drop the lines after
    the step from which a run is resumed. wandb and TensorBoard are Accelerate's trackers.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        provenance: dict[str, Any],
        enabled: bool,
        after_step: int = 0,
        validated_step: int | None = None,
    ):
        self.run, self.provenance, self.enabled = run, provenance, enabled
        self.waiting: list[str] = []  # lines that could not be written yet
        self.wandb, self.mirrors = Mirror(), list[Mirror]()
        if enabled:
            self._cut_metrics(after_step, after_step if validated_step is None else validated_step)
            self._start_mirrors(recipe)
            self.save_provenance()

    def _cut_metrics(self, after_step: int, validated_step: int) -> None:
        """Drop what a run that was cut off logged after its last state: that is done again."""
        if not self.run.metrics.exists():
            return
        kept = []
        for line in self.run.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            step, is_validation = _step_of(line)
            if step <= (validated_step if is_validation else after_step):
                kept.append(f"{line}\n")
        write_text(self.run.metrics, "".join(kept))

    def _start_mirrors(self, recipe: Recipe) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        if recipe.log.tensorboard:
            self.mirrors.append(Mirror(TensorBoardTracker("tensorboard", self.run.path)))
        mode = wandb_mode(recipe.log)
        if mode == "disabled":
            return
        options = self._wandb_options(recipe)
        modes = ["online", "offline"] if mode == "online" else [mode]
        self.wandb = Mirror(*(WandBTracker(recipe.log.project, mode=each, **options) for each in modes))
        self.mirrors.append(self.wandb)

    def _wandb_options(self, recipe: Recipe) -> dict[str, Any]:
        import wandb  # half a second that runs without it need not wait

        self.provenance.setdefault("wandb_id", secrets.token_hex(4))
        return {
            "group": recipe.log.group,
            "name": self.run.name,
            "dir": str(self.run.path.resolve()),  # its writer is another process, in the folder it was started in
            "id": self.provenance["wandb_id"],
            "resume": "allow",
            "config": {"recipe": recipe_values(recipe), "provenance": dict(self.provenance)},
            "tags": ["built-in synthetic stems"] if self.provenance["data"]["builtin"] else [],
            # Its monitor looks at the machine every 15 s by default, which a small CPU feels.
            "settings": wandb.Settings(silent=True, console="off", x_stats_sampling_interval=60.0),
        }

    def save_provenance(self, **values: Any) -> None:
        """Add values to provenance.json."""
        self.provenance.update(values)
        if self.enabled:
            write_json(self.run.provenance, self.provenance)

    def note(self, **values: Any) -> None:
        """As `save_provenance`, but a full disk ends nothing: the values are written with the next ones."""
        with suppress(UserError):
            self.save_provenance(**values)

    def log(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """One event: the step, seconds of training so far, and numbers (NaN is written as null).

        Lines that cannot be written wait for the next event.
        """
        if not self.enabled:
            return
        plain = {key: value if np.isfinite(value) else None for key, value in values.items()}
        self.waiting.append(json.dumps({"step": step, "seconds": round(seconds, 3), **plain}) + "\n")
        self.write_waiting()
        for mirror in self.mirrors:
            finite = plain if mirror is self.wandb else {k: v for k, v in plain.items() if v is not None}
            mirror.attempt("log", {"seconds": seconds, **finite}, step=step)

    def write_waiting(self) -> None:
        """Write the lines that wait into metrics.jsonl, if that can be written now."""
        text = "".join(self.waiting)
        try:
            append(self.run.metrics, text)
        except OSError as error:
            if len(self.waiting) == 1:
                say(f"{self.run.metrics} cannot be written: {reason_of(error)}. Training goes on; its lines wait.")
        else:
            self.waiting.clear()

    def log_media(self, step: int, make: Callable[[], Media]) -> None:
        """Sounds, and a picture of the spectrograms of each panel; to wandb only."""
        if self.wandb.failed:
            return
        try:
            audio, panels, sample_rate_hz = make()
        except Exception as error:  # no logger ends a training, nor does what it would have got
            say(f"There is nothing to listen to of step {step}: {' '.join(str(error).split())}")
            return

        def send(tracker: Any) -> None:
            import wandb

            from .spectrograms import draw_spectrograms  # Matplotlib takes a while to load

            pictures = {name: draw_spectrograms(panel, sample_rate_hz) for name, panel in panels.items()}
            sounds = {f"audio/{k}": wandb.Audio(x.T, sample_rate=sample_rate_hz) for k, x in audio.items()}
            images = {f"spectrogram/{k}": wandb.Image(x) for k, x in pictures.items()}
            tracker.log({**sounds, **images}, step=step)

        self.wandb.guard(send)

    def finish(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], **values: Any) -> None:
        """The summary table and last provenance values; closes the log."""
        if self.waiting:
            self.write_waiting()
        self.save_provenance(**values)
        self.wandb.attempt("log_table", "summary", list(columns), [list(row) for row in rows])
        summary = {key: v for key, v in values.items() if isinstance(v, int | float | str)}
        self.wandb.guard(lambda tracker: tracker.run.summary.update(summary))
        self.close(FINISH_SECONDS)

    def close(self, seconds: float | None = None) -> None:
        """Close the log, at whatever end; the loggers have so long (default: `END_SECONDS`) for what they still do."""
        for mirror in self.mirrors:
            mirror.close(END_SECONDS if seconds is None else seconds)


def _step_of(line: str) -> tuple[float, bool]:
    """The step of a line of the log, and whether it is that of a validation; infinity for half a line."""
    try:
        values = parse_json(line)
        return float(values["step"]), any(key.startswith("validation/") for key in values)
    except (ValueError, TypeError, LookupError, OverflowError):
        return math.inf, False


def append(path: Path, text: str) -> None:
    """Add text to a file, completely or not at all."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        data = text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise
