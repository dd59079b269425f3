"""Transfer: take a base's backbone and learn heads for new targets on it.

    scripts/transfer.py --base drums --target bass [--method frozen|partial|lora|full|scratch|random]

By default the backbone is frozen and the heads alone are kept. `METHODS` says what else can be done with it.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..console import say
from ..data.sources import find_sources
from ..errors import RecipeError, nearest
from ..network.model import BSRNN
from ..recipe import (
    BaseSpec,
    HeadSpec,
    Recipe,
    find_recipe,
    make_recipe,
    merge,
    parse_overrides,
    read_recipe_values,
    recipe_values,
)
from ..runs.folder import (
    ADAPTER,
    RunFolder,
    backbone_file,
    base_of,
    find_run,
    load_backbone,
    load_strict,
    read_tensors,
    said,
)
from .train import new_run, run_training

# What the base decides: a head fits this backbone and no other.
BASE_SECTIONS = ("stft", "bands", "backbone", "input")


def transfer_recipe(
    base: RunFolder,
    targets: Sequence[str],
    settings: str | os.PathLike[str] = "transfer",
    overrides: Sequence[str] = (),
    **how: Any,
) -> Recipe:
    """The recipe of a transfer: the base's, with new targets and what ``settings`` (a recipe) and overrides say.

    ``how`` stands above all of them: fields of `BaseSpec`, e.g. ``method="lora"``. Raises `RecipeError` where they
    would change the STFT, the bands, the backbone or the input.
    """
    above = merge(read_recipe_values(find_recipe(settings)), parse_overrides(overrides))
    return derive_recipe(base.load_recipe(), str(base.path), targets, above, how)


def derive_recipe(
    base: Recipe, run: str, targets: Sequence[str], above: Mapping[str, Any], how: Mapping[str, Any]
) -> Recipe:
    """The recipe of a transfer from the recipe of its base, which is the run ``run``; see `transfer_recipe`."""
    below = recipe_values(base)
    for section in BASE_SECTIONS:
        for key, value in (above.get(section) or {}).items():
            if below[section].get(key) != value:
                raise RecipeError(
                    f"{section}.{key}={value!r} differs from the base {run}, which has {below[section].get(key)!r}. "
                    f"A transfer keeps the base's {', '.join(BASE_SECTIONS)}; train a new base to change them."
                )
    fresh: Mapping[str, Any] = {
        "targets": list(targets) or above.get("targets"),
        "base": {**(above.get("base") or {}), **how, "run": run, "sha256": None},
        "together": "none",  # it ties all the base's targets, of which none is left
        "head": {key: value for key, value in below["head"].items() if key != "bridge"},  # and so does this
        "loss": {**below["loss"], "target_weights": {}},
        "run": {**below["run"], "name": None},
    }
    return make_recipe(merge(merge({**below, **fresh}, above), {"targets": fresh["targets"], "base": fresh["base"]}))


# --- what is done with the backbone -----------------------------------------------------------------------------------


def _freeze(model: BSRNN, spec: BaseSpec) -> None:
    model.freeze_backbone()


def _partial(model: BSRNN, spec: BaseSpec) -> None:
    model.freeze_backbone(except_blocks=spec.blocks)


def _lora(model: BSRNN, spec: BaseSpec) -> None:
    model.freeze_backbone()
    model.add_adapter("lora", list(model.heads), spec.rank, spec.alpha)


def _train_all(model: BSRNN, spec: BaseSpec) -> None:
    pass


@dataclass(frozen=True)
class Method:
    """Whether the backbone begins with the base's weights, and what is done with it, in words and in deed."""

    keeps_weights: bool
    words: str
    prepare: Callable[[BSRNN, BaseSpec], None]


METHODS = {
    "frozen": Method(True, "its backbone is frozen", _freeze),
    "partial": Method(True, "its backbone is frozen but for the last blocks", _partial),
    "lora": Method(True, "its backbone is frozen, low-rank updates of it are trained", _lora),
    "full": Method(True, "all of its backbone is trained too", _train_all),
    "scratch": Method(False, "the same backbone with random weights is trained, as a control", _train_all),
    "random": Method(False, "the same backbone with random weights is frozen, as a control", _freeze),
}


def transfer_model(recipe: Recipe, base: RunFolder, own: Path | None = None) -> tuple[BSRNN, str]:
    """The base's backbone as `METHODS` prepares it, with fresh heads; and the hash of the base's weights.

    ``own`` is the backbone the run has saved already: what was random stays what it was when the run is resumed.
    """
    assert recipe.base is not None
    method = METHODS[recipe.base.method]
    model = BSRNN(recipe, targets=())
    file = backbone_file(base)
    fresh = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    digest = load_backbone(file, model)
    if recipe.base.sha256 not in (None, digest):
        raise RecipeError(f"the backbone of {base.path} is {digest}; this run began with {recipe.base.sha256}.")
    if not method.keeps_weights:
        model.backbone.load_state_dict(fresh)
    for target in recipe.targets:
        _add_head(model, target, base)
    if own is not None and own.is_file() and not method.keeps_weights:
        load_backbone(own, model)
    method.prepare(model, recipe.base)
    return model, digest


def _add_head(model: BSRNN, target: str, base: RunFolder) -> None:
    """A head whose first weights depend on the seed and its own name alone, not on what is trained beside it."""
    recipe = model.recipe
    assert recipe.base is not None
    words = f"{recipe.train.seed} {target}".encode()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:8], "little"))
        head = model.add_head(target, recipe.head)
    if recipe.base.init_from is not None:
        start_from(head, base, recipe.base.init_from, recipe.head)


def start_from(head: nn.Module, base: RunFolder, name: str, spec: HeadSpec) -> None:
    """Give a head the weights of the base's head ``name``; `RecipeError` where there is none or it is another kind."""
    names = base.head_names()
    if name not in names:
        raise RecipeError(
            f"base.init_from: {base.path} has no head {name!r}.{nearest(name, names)} Heads: {', '.join(names)}."
        )
    tensors, metadata = read_tensors(base.head(name), "head")
    found = said(base.head(name), metadata, "head", kind=str, options=dict)
    if HeadSpec(found["kind"], found["options"]) != spec:
        raise RecipeError(f"base.init_from: the head {name!r} is {found}; the new head is {asdict(spec)}.")
    load_strict(head, {key: t for key, t in tensors.items() if not key.startswith(ADAPTER)}, str(base.head(name)))
    if any(key.startswith(ADAPTER) for key in tensors):
        say(f"The head {name!r} was trained with low-rank updates of the backbone, which the new heads begin without.")


def check_name_is_free(base: RunFolder, name: str) -> None:
    """`RecipeError` where the base has a head of that name, which a new one would stand in the way of."""
    if name in base.head_names():
        raise RecipeError(
            f"{base.path} has a head {name!r} already. Call the new one otherwise with --as {name}2, or say "
            f"--overwrite to train another {name!r} in a run of its own; the base keeps its head either way."
        )


# --- runs -------------------------------------------------------------------------------------------------------------


def transfer(recipe: Recipe) -> tuple[RunFolder, bool]:
    """Train the heads of a transfer recipe into a run of its own; returns it and whether training came to its end."""
    spec = recipe.base
    if spec is None:
        raise RecipeError("the recipe names no base; expected base: {run: NAME}.")
    # A resolved recipe names its base relative to its run's own folder: then the run can be repeated from it alone.
    beside = RunFolder(Path(os.path.normpath(Path(recipe.run.root) / "run" / spec.run)))
    base = beside if beside.recipe.is_file() else find_run(spec.run, recipe.run.root)
    recipe = replace(recipe, base=replace(spec, run=str(base.path)))
    recipe, run = new_run(recipe, find_sources(recipe.data))
    _, digest = transfer_model(recipe, base)
    relative = os.path.relpath(base.path.resolve(), run.path.resolve())  # `runs/` can be moved as a whole
    recipe = replace(recipe, base=replace(spec, run=Path(relative).as_posix(), sha256=digest))
    heads = f"heads that start as {spec.init_from}" if spec.init_from else "fresh heads"
    say(f"Transfer from {base.path}: {METHODS[spec.method].words}; {heads}: {', '.join(recipe.targets)}.")
    return run_training(recipe, lambda r: transfer_model(r, base)[0])


def resume(run: RunFolder) -> tuple[RunFolder, bool]:
    """Continue an interrupted run, transfer or not, exactly where its state is."""
    if not run.state.is_file():
        raise RecipeError(f"{run.path} has no state to resume from ({run.state} is not there).")
    recipe = run.load_recipe()
    say(f"Resuming {run.path}.")
    if recipe.base is None:
        return run_training(recipe, BSRNN.from_recipe, run)
    base = base_of(run)
    return run_training(recipe, lambda r: transfer_model(r, base, run.backbone)[0], run)
