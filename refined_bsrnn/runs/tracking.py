"""What a run leaves for people: provenance.json, metrics.jsonl and, mirrored, wandb.

metrics.jsonl is the truth: one JSON object per log event, always written. wandb gets the same numbers plus audio and
pictures; it never asks a question, needs no account (then it writes offline files) and may be off.
"""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

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


class Tracker:
    """Writes a run's log. On all but the main process make it with ``enabled=False``: it then does nothing."""

    def __init__(self, run: RunFolder, recipe: Recipe, provenance: dict[str, Any], enabled: bool, after_step: int = 0):
        self.run, self.provenance, self.enabled = run, provenance, enabled
        self.wandb: Any = None
        if enabled:
            self._cut_metrics(after_step)
            self._start_wandb(recipe)
            self.save_provenance()

    def _cut_metrics(self, after_step: int) -> None:
        """Drop what a run that was cut off logged after its last state: those steps are done again."""
        if not self.run.metrics.exists():
            return
        lines = self.run.metrics.read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        write_text(self.run.metrics, "".join(f"{x}\n" for x in whole if json.loads(x)["step"] <= after_step))

    def _start_wandb(self, recipe: Recipe) -> None:
        mode = wandb_mode(recipe.log)
        if mode == "disabled":
            return
        import wandb  # here and below: half a second that runs without it need not wait

        options: dict[str, Any] = {
            "mode": mode,
            "project": recipe.log.project,
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
        try:
            self.wandb = wandb.init(**options)
        except wandb.Error as error:
            print(f"wandb cannot be reached ({error}); logging offline.", file=sys.stderr)
            self.wandb = wandb.init(**{**options, "mode": "offline"})
        self.provenance["wandb_id"] = self.wandb.id

    def save_provenance(self, **values: Any) -> None:
        """Add values to provenance.json."""
        self.provenance.update(values)
        if self.enabled:
            write_json(self.run.provenance, self.provenance)

    def log(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """One event: the step, seconds of training so far, and numbers (NaN is written as null)."""
        if not self.enabled:
            return
        plain = {key: value if np.isfinite(value) else None for key, value in values.items()}
        try:
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(seconds, 3), **plain}) + "\n")
        except OSError as error:
            raise UserError(f"{self.run.metrics} cannot be written: {error.strerror}.") from None
        if self.wandb:
            self.wandb.log({"seconds": seconds, **plain}, step=step)

    def log_media(
        self, step: int, audio: Mapping[str, np.ndarray], pictures: Mapping[str, np.ndarray], sample_rate_hz: int
    ) -> None:
        """Audio (channels, samples) and pictures (H, W, 3) by name; to wandb only."""
        if self.wandb:
            import wandb

            sounds = {f"audio/{k}": wandb.Audio(x.T, sample_rate=sample_rate_hz) for k, x in audio.items()}
            images = {f"spectrogram/{k}": wandb.Image(x) for k, x in pictures.items()}
            self.wandb.log({**sounds, **images}, step=step)

    def finish(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], **values: Any) -> None:
        """The summary table and last provenance values; closes the log."""
        self.save_provenance(**values)
        if self.wandb:
            import wandb

            self.wandb.log({"summary": wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
            self.wandb.summary.update({key: v for key, v in values.items() if isinstance(v, int | float | str)})
            self.wandb.finish()
            self.wandb = None
