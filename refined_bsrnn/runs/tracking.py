"""What a run leaves for people: provenance.json, metrics.jsonl and, mirrored, wandb.

metrics.jsonl is the truth: one JSON object per log event, always written. wandb gets the same numbers plus audio and
pictures; it never asks a question, needs no account (then it writes offline files) and may be off. TensorBoard gets the
numbers if `log.tensorboard` asks for it. No logger ends a training.
"""

import errno
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import say
from ..errors import UserError
from ..recipe import Recipe, recipe_values
from ..system import write_json, write_text
from .folder import RunFolder
from .wandb_mode import wandb_mode

PACKAGES = ("refined-bsrnn", "torch", "soxr", "av", "accelerate", "datasets", "safetensors", "numpy", "museval")


def environment() -> dict[str, Any]:
    """Versions, code and command: what a reader needs to make a run again."""
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
    """A tracker of Accelerate that gets what is logged. A failure of it is reported once, and ends only the tracker."""

    def __init__(self, tracker: Any):
        self.tracker: Any = tracker
        self.attempt("start")  # does nothing without a tracker

    def attempt(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the tracker."""
        self.guard(lambda: getattr(self.tracker, method)(*arguments, **options))

    def guard(self, work: Callable[[], Any]) -> None:
        """Do something with the tracker that may fail for any reason: no logger may end a training."""
        if self.tracker is None:
            return
        try:
            work()
        except Exception as error:
            name, why = self.tracker.name, " ".join(str(error).split()) or type(error).__name__
            self.tracker = None
            if name == "wandb" and isinstance(error, ConnectionError):
                forget_wandb_helper()
            say(f"{name} has failed ({why}): from here on it gets nothing. metrics.jsonl has every number.")


def forget_wandb_helper() -> None:
    """Let go of wandb's writing process, which is dead: else wandb waits for it at the end, with a traceback."""
    import wandb

    with suppress(Exception):
        wandb.teardown(exit_code=1)


class Tracker:
    """Writes a run's log. On all but the main process make it with ``enabled=False``: it then does nothing.

    metrics.jsonl is written here: none of Accelerate's trackers writes JSON lines, and none can drop the lines behind
    the step from which a run is resumed. wandb and TensorBoard are Accelerate's trackers.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, provenance: dict[str, Any], enabled: bool, after_step: int = 0):
        self.run, self.provenance, self.enabled = run, provenance, enabled
        self.waiting: list[str] = []  # lines that could not be written yet
        self.wandb, self.mirrors = Mirror(None), list[Mirror]()
        if enabled:
            self._cut_metrics(after_step)
            self._start_mirrors(recipe)
            self.save_provenance()

    def _cut_metrics(self, after_step: int) -> None:
        """Drop what a run that was cut off logged after its last state: those steps are done again."""
        if not self.run.metrics.exists():
            return
        lines = self.run.metrics.read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        write_text(self.run.metrics, "".join(f"{x}\n" for x in whole if json.loads(x)["step"] <= after_step))

    def _start_mirrors(self, recipe: Recipe) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        if recipe.log.tensorboard:
            self.mirrors.append(Mirror(TensorBoardTracker("tensorboard", self.run.path)))
        mode = wandb_mode(recipe.log)
        if mode == "disabled":
            return
        options = self._wandb_options(recipe)
        self.wandb = Mirror(WandBTracker(recipe.log.project, mode=mode, **options))
        if self.wandb.tracker is None and mode == "online":
            say("Logging to wandb offline.")
            self.wandb = Mirror(WandBTracker(recipe.log.project, mode="offline", **options))
        self.mirrors.append(self.wandb)
        self.wandb.guard(lambda: self.provenance.update(wandb_id=self.wandb.tracker.run.id))

    def _wandb_options(self, recipe: Recipe) -> dict[str, Any]:
        import wandb  # half a second that runs without it need not wait

        return {
            "group": recipe.log.group,
            "name": self.run.name,
            "dir": str(self.run.path.resolve()),  # its writer is another process, in the folder it was started in
            "id": self.provenance.get("wandb_id"),
            "resume": "allow",
            "config": {"recipe": recipe_values(recipe), "provenance": self.provenance},
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
                say(f"{self.run.metrics} cannot be written: {error.strerror}. Training goes on; its lines wait.")
        else:
            self.waiting.clear()

    def log_media(self, step: int, make: Callable[[], Media]) -> None:
        """Sounds, and a picture of the spectrograms of each panel; to wandb only."""

        def send() -> None:
            import wandb

            from .spectrograms import draw_spectrograms  # Matplotlib takes a while to load

            audio, panels, sample_rate_hz = make()
            pictures = {name: draw_spectrograms(panel, sample_rate_hz) for name, panel in panels.items()}
            sounds = {f"audio/{k}": wandb.Audio(x.T, sample_rate=sample_rate_hz) for k, x in audio.items()}
            images = {f"spectrogram/{k}": wandb.Image(x) for k, x in pictures.items()}
            self.wandb.tracker.log({**sounds, **images}, step=step)

        self.wandb.guard(send)

    def finish(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], **values: Any) -> None:
        """The summary table and last provenance values; closes the log."""
        if self.waiting:
            self.write_waiting()
        self.save_provenance(**values)
        self.wandb.attempt("log_table", "summary", list(columns), [list(row) for row in rows])
        summary = {key: v for key, v in values.items() if isinstance(v, int | float | str)}
        self.wandb.guard(lambda: self.wandb.tracker.run.summary.update(summary))
        self.close()

    def close(self) -> None:
        """Close the log, at whatever end."""
        for mirror in self.mirrors:
            mirror.attempt("finish")
            mirror.tracker = None


def append(path: Path, text: str) -> None:
    """Add text to a file, all of it or nothing."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        data = text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise
