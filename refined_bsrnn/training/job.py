"""The processes that train together, and the folder they train into."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, parse_flag_from_env

from ..console import say
from ..data.sources import Sources
from ..data.training_data import TrainingData
from ..errors import RecipeError
from ..network.model import BSRNN
from ..recipe import Recipe, TrainSpec, dump_recipe
from ..runs.folder import RunFolder, save_backbone
from ..system import atomic_write, write_text

# Validation songs differ in length, caches and data are read by one process first: the others wait, and do not give up.
PATIENCE = timedelta(days=1)
SHARDED = {  # variable that accelerate launch sets → what it stands for
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}
PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch`, to "no" if it is not told


def make_accelerator(recipe: Recipe) -> Accelerator:
    """An Accelerator, as `accelerate launch` configured it (or alone), with the recipe's precision and accumulation."""
    refuse_sharding()
    # Where there is only a CPU, Accelerate must be told, or several processes would train apart from each other.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
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


def refuse_sharding() -> None:
    """`RecipeError` if each process would hold a part of the network instead of a copy.

    Averaged weights, clipping per head, the hash of a frozen backbone and the state of a run need whole parameters by
    name, which a sharded network does not have. Sharding would also save little: see docs/scaling.md.
    """
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise RecipeError(
                f"accelerate launch was told to use {name}, which splits the network over the processes; expected data "
                "parallelism, where every process has the whole network: it needs less than 1 GB with its optimiser "
                "state. Leave that option out of the accelerate config, or use recipes/accelerate/gpu8.yaml."
            )


def precision_for(train: TrainSpec, device: torch.device) -> str:
    """Accelerate's name of the mixed precision: the recipe's value; for ``auto`` the launcher's, or else the
    device's.
    """
    launched = os.environ.get(PRECISION_VARIABLE, "no").lower()
    if train.precision != "auto":
        if launched not in ("no", train.precision):
            say(f"train.precision={train.precision} is used; accelerate launch was told {launched}.")
        return train.precision
    if launched in ("bf16", "fp16"):
        return launched
    if launched != "no":
        raise RecipeError(f"accelerate launch was told --mixed_precision {launched}; expected bf16, fp16 or no.")
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


def new_run(recipe: Recipe, sources: Sources) -> tuple[Recipe, RunFolder]:
    """The folder of a new run (not created yet), and the recipe with the run's name; refused if the folder holds a
    run.
    """
    name = recipe.run.name or default_run_name(recipe, sources.is_builtin)
    run = RunFolder(Path(recipe.run.root) / name)
    check_free(run)
    # With the recipe alone the run can be repeated, whatever the environment says then.
    return replace(recipe, run=replace(recipe.run, name=name), data=sources.resolved(recipe.data)), run


def check_free(run: RunFolder) -> None:
    """`RecipeError` if the folder holds something that would be lost."""
    if not run.is_free():
        hint = f"go on with --resume {run.path}, " if run.state.exists() else ""
        raise RecipeError(f"{run.path} exists already and is not overwritten: {hint}choose run.name=..., or remove it.")


def begin_run(run: RunFolder, recipe: Recipe, data: TrainingData, model: BSRNN) -> None:
    """Write the recipe and the track table to the run's folder, and the backbone if it is random and frozen."""
    check_free(run)  # again: another training may have had the lock before
    run.backbone.unlink(missing_ok=True)
    write_text(run.recipe, dump_recipe(recipe))
    datasets.disable_progress_bars()  # it is written in no time
    with atomic_write(run.tracks) as temporary:
        data.table.to_parquet(temporary)
    if recipe.base is not None and recipe.owns_backbone and model.backbone.frozen:
        save_backbone(run.backbone, model)  # what it was cannot be found out later


def default_run_name(recipe: Recipe, builtin: bool) -> str:
    """``mtl``, ``drums``, ``drums-v7``, ``mtl-to-guitar``, ``mtl-to-guitar-lora``, ``mtl-tuned-drums``.

    ``-builtin`` is appended if the built-in stems are used.
    """
    if recipe.base is not None:
        base = Path(recipe.base.run).name.removesuffix("-builtin")
        word = "to" if recipe.base.heads == "fresh" else "tuned"
        name = f"{base}-{word}-{'-'.join(recipe.targets)}"
        name += "" if recipe.base.method == "frozen" else f"-{recipe.base.method}"
    else:
        name = recipe.targets[0] if len(recipe.targets) == 1 else "mtl"
        name += "" if recipe.bands.kind == "tet24" else f"-{recipe.bands.kind}"
    return name + ("-builtin" if builtin else "")
