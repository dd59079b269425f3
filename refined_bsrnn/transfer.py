"""Transfer: take a base's backbone, freeze it, learn fresh heads for new targets, keep the heads alone.

scripts/transfer.py --base drums --target bass
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .checkpoint import RunFolder, backbone_file, find_run, load_backbone
from .errors import RecipeError
from .model import BSRNN
from .progress import say
from .recipe import (
    BaseSpec,
    Recipe,
    find_recipe,
    make_recipe,
    merge,
    parse_overrides,
    read_recipe_values,
    recipe_values,
)
from .sources import find_root
from .train import new_run, run_training

# What the base decides: a head fits this backbone and no other.
BASE_SECTIONS = ("stft", "bands", "backbone", "input")


def transfer_recipe(
    base: RunFolder,
    targets: Sequence[str],
    settings: str | os.PathLike[str] = "transfer",
    overrides: Sequence[str] = (),
) -> Recipe:
    """The recipe of a transfer: the base's, with new targets and what ``settings`` (a recipe) and overrides say.

    Raises `RecipeError` where they would change the STFT, the bands, the backbone or the input.
    """
    above = merge(read_recipe_values(find_recipe(settings)), parse_overrides(overrides))
    below = recipe_values(base.load_recipe())
    for section in BASE_SECTIONS:
        for key, value in (above.get(section) or {}).items():
            if below[section].get(key) != value:
                raise RecipeError(
                    f"{section}.{key}={value!r} differs from the base {base.path}, which has "
                    f"{below[section].get(key)!r}. A transfer keeps the base's {', '.join(BASE_SECTIONS)}; "
                    "train a new base to change them."
                )
    fresh: Mapping[str, Any] = {
        "targets": list(targets) or above.get("targets"),
        "base": {"run": str(base.path)},
        "together": "none",  # it ties all the base's targets, of which none is left
        "loss": {**below["loss"], "target_weights": {}},
        "run": {**below["run"], "name": None},
    }
    return make_recipe(merge(merge({**below, **fresh}, above), {"targets": fresh["targets"], "base": fresh["base"]}))


def transfer_model(recipe: Recipe, base: RunFolder) -> tuple[BSRNN, str]:
    """The base's backbone, loaded strictly and frozen, with fresh heads; and the backbone's hash."""
    model = BSRNN(recipe, targets=())
    digest = load_backbone(backbone_file(base), model)
    if recipe.base and recipe.base.sha256 not in (None, digest):
        raise RecipeError(f"the backbone of {base.path} is {digest}; this run began with {recipe.base.sha256}.")
    for target in recipe.targets:
        model.add_head(target, recipe.head)
    return model.freeze_backbone(), digest


def transfer(recipe: Recipe) -> tuple[RunFolder, bool]:
    """Train the heads of a transfer recipe into a run of its own; returns it and whether training came to its end."""
    if recipe.base is None:
        raise RecipeError("the recipe names no base; expected base: {run: NAME}.")
    # A resolved recipe names its base relative to its run's own folder: then the run can be repeated from it alone.
    beside = RunFolder(Path(os.path.normpath(Path(recipe.run.root) / "run" / recipe.base.run)))
    base = beside if beside.recipe.is_file() else find_run(recipe.base.run, recipe.run.root)
    recipe = replace(recipe, base=BaseSpec(str(base.path), recipe.base.sha256))
    recipe, run = new_run(recipe, find_root(recipe.data))
    _, digest = transfer_model(recipe, base)
    relative = os.path.relpath(base.path.resolve(), run.path.resolve())  # `runs/` can be moved as a whole
    recipe = replace(recipe, base=BaseSpec(Path(relative).as_posix(), digest))
    say(f"Transfer from {base.path}: its backbone is frozen; fresh heads: {', '.join(recipe.targets)}.")
    return run_training(recipe, lambda r: transfer_model(r, base)[0])


def resume(run: RunFolder) -> tuple[RunFolder, bool]:
    """Continue an interrupted run, transfer or not, exactly where its state is."""
    if not run.state.is_file():
        raise RecipeError(f"{run.path} has no state to resume from ({run.state} is not there).")
    recipe = run.load_recipe()
    say(f"Resuming {run.path}.")
    if recipe.base is None:
        return run_training(recipe, BSRNN.from_recipe, run)
    base = RunFolder(run.path.resolve() / recipe.base.run)
    return run_training(recipe, lambda r: transfer_model(r, base)[0], run)
