"""Facts about a run for its files: its origin, its cost, and the training data of its heads."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from ..console import say
from ..data.training_data import TrainingData
from ..errors import RecipeError
from ..network.model import BSRNN, count_parameters
from ..recipe import Recipe
from ..runs.folder import RunFolder, read_provenance
from ..runs.tracking import device_name, environment
from .feature_cache import FeatureCache
from .learner import Learner
from .state import Progress


class Description:
    """A run in words and numbers, for provenance.json and the heads' files."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        data: TrainingData,
        learner: Learner,
        accelerator: Accelerator,
        cache: FeatureCache | None = None,
    ):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.tracks, self.n_trained, self.n_frozen = data.describe(), learner.n_trained, count_frozen(learner.model)
        self.n_total = count_parameters(learner.model)
        self.n_validation = len(data.validation)
        self.cache = cache.describe() if cache else None

    def lines(self) -> list[str]:
        """What is trained, on what, by what."""
        precision = {"no": "float32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision)
        return [
            f"{self.n_trained:,} parameters train, {self.n_frozen:,} are frozen.",
            f"{self.run.name}: {self.n_total:,} parameters on {device_name(self.accelerator.device)} × "
            f"{self.accelerator.num_processes} in {precision}, {len(self.tracks['train_tracks'])} training and "
            f"{self.n_validation} validation tracks. The first steps show how long it takes.",
        ]

    def head_facts(self, step: int, validation_usdr: float | None) -> dict[str, Any]:
        """The facts about a head's training for the head's file."""
        spec = self.recipe.train
        return {
            "run": self.run.name,
            "targets": list(self.recipe.targets),
            "method": self.recipe.base.method if self.recipe.base else "base",
            "steps": step,
            "audio_hours": round(step * spec.batch_size * spec.chunk_seconds / 3600, 3),
            "validation_usdr": validation_usdr,
            "data": {
                "name": self.tracks["name"],
                "fingerprint": self.tracks["fingerprint"],
                "n_tracks": len(self.tracks["train_tracks"]),
            },
        }

    def provenance(self, progress: Progress, old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """The values of provenance.json. ``old``: those of the run that is resumed, ``changes`` in its recipe."""
        now = environment()
        first: dict[str, Any] = {"step": 0, "started": old.get("started"), "command": old.get("command"), "changed": {}}
        before = old.get("history", [first]) if old else []
        start = {"step": progress.step, "started": now["started"], "command": now["command"], "changed": dict(changes)}
        return {
            "format": 1,
            "run": self.run.name,
            **now,
            "wandb_id": old.get("wandb_id"),
            "resumed_at_steps": [*old.get("resumed_at_steps", []), *([progress.step] if old else [])],
            "history": [*before, start],
            **({"energy": old["energy"]} if "energy" in old else {}),
            "seed": self.recipe.train.seed,
            "data": self.tracks,
            "device": device_name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "parameters": {"trained": self.n_trained, "frozen": self.n_frozen},
            "cache": self.cache,
            "seconds": progress.seconds,
            "validation_seconds": progress.validation_seconds,
            "steps_done": progress.step,
        }


def count_frozen(model: BSRNN) -> int:
    return count_parameters(model, of=lambda p: not p.requires_grad)


def provenance_of(run: RunFolder) -> dict[str, Any]:
    """The values that an earlier start of the run wrote; empty if there is no file."""
    return read_provenance(run) if run.provenance.exists() else {}


def check_same_songs(run: RunFolder, data: TrainingData) -> None:
    """`RecipeError` unless the songs are those the run was trained on, in any place; reports changed files."""
    old, new = provenance_of(run).get("data"), data.describe()
    if old is None:
        return
    if old["fingerprint"] != new["fingerprint"]:
        raise RecipeError(
            f"{run.path} was trained on data with fingerprint {old['fingerprint'][:12]}; {new['root']} has "
            f"{new['fingerprint'][:12]}. A resumed run needs the same data; tell it where they are now: --resume "
            f"{run.path} data.root=... To train on other songs: train --from {run.path} data.root=..."
        )
    if old.get("written") != new["written"]:
        say("The data were written again since this run began; names, lengths and a part of the samples are alike.")
