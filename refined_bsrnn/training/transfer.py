"""Transfer: train heads for new targets on the backbone of a base.

    scripts/transfer.py --base drums --target bass [--method frozen|partial|lora|full|scratch|random]

By default the backbone is frozen and only the heads are saved. `METHODS` lists the other methods.
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
from ..errors import DataError, RecipeError, check_has
from ..network.model import BSRNN
from ..recipe import (
    BaseSpec,
    DataSpec,
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
    RunFolder,
    backbone_file,
    base_of,
    find_run,
    header_facts,
    load_backbone,
    load_strict,
    read_metadata,
    read_tensors,
    without_adapter,
)
from ..schema import AdapterFacts, HeadKind, differences
from .job import new_run
from .train import Watch, run_training

# What the base decides: a head fits this backbone and no other.
BASE_SECTIONS = ("stft", "bands", "backbone", "input")


def transfer_recipe(
    base: RunFolder,
    targets: Sequence[str],
    settings: str | os.PathLike[str] = "transfer",
    overrides: Sequence[str] = (),
    **how: Any,
) -> Recipe:
    """The recipe of a transfer: the base's recipe with new targets, the values of ``settings`` (a recipe) and
    overrides.

    ``how`` takes precedence over all of them: fields of `BaseSpec`, e.g. ``method="lora"``. Raises `RecipeError` if
    they would change the STFT, the bands, the backbone or the input.
    """
    above = merge(read_recipe_values(find_recipe(settings)), parse_overrides(overrides))
    recipe = base.load_recipe()
    say_own_choice(base.path, recipe.data, above)
    if how.get("heads") == "own" and not targets:  # all: also those that were added
        targets = [*recipe.targets, *(name for name in base.head_names() if name not in recipe.targets)]
    return derive_recipe(recipe, str(base.path), targets, above, how)


def derive_recipe(
    base: Recipe, run: str, targets: Sequence[str], above: Mapping[str, Any], how: Mapping[str, Any]
) -> Recipe:
    """The recipe of a transfer from the recipe of its base, which is the run ``run``; see `transfer_recipe`."""
    below = recipe_values(base)
    below["data"] = own_choice_left(below["data"], above.get("data") or {})
    for section in BASE_SECTIONS:
        for key, value in (above.get(section) or {}).items():
            if below[section].get(key) != value:
                raise RecipeError(
                    f"{section}.{key}={value!r} differs from the base {run}, which has {below[section].get(key)!r}. "
                    f"A transfer keeps the base's {', '.join(BASE_SECTIONS)}; train a new base to change them."
                )
    start = {**(above.get("base") or {}), **how, "run": run, "sha256": None}
    own = start.get("heads") == "own"
    wanted = list(targets) or (below if own else above).get("targets") or []
    stems = below["data"]["stems"]
    fresh: Mapping[str, Any] = {
        "targets": wanted,
        "base": start,
        "data": {**below["data"], "stems": stems if set(wanted) <= set(stems) else []},
        "loss": {**below["loss"], "target_weights": {}},
        "run": {**below["run"], "name": None},
    }
    if own and set(wanted) == set(below["targets"]):
        fresh = {**fresh, "loss": below["loss"]}
    elif own and base.tie:
        raise RecipeError(
            f"{run} ties its targets together ({base.tie}): its heads can only go on together. Expected --target "
            f"{' '.join(below['targets'])}, or none."
        )
    else:  # both tie all of the base's targets
        untied = {key: value for key, value in below["head"].items() if key != "bridge"}
        fresh = {**fresh, "together": "none", "head": untied}
    return make_recipe(merge(merge({**below, **fresh}, above), {"targets": wanted, "base": start}))


# What is said of particular songs, or of how many: it holds for the base's training alone.
AMOUNTS = ("use_tracks", "use_minutes", "use_fraction")
PARTICULAR = ("validation_tracks", "stems", "stem_weights", "absent")


def own_choice_left(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The base's `data` section without its choice of songs; names of particular songs stay if the songs stay."""
    usual = recipe_values(DataSpec())
    left = {**below, **{key: usual[key] for key in AMOUNTS}}
    if has_other_songs(below, above):
        left |= {key: usual[key] for key in (*PARTICULAR, "root", "sources")}
    return left


def has_other_songs(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    """Whether a transfer uses other songs than its base."""
    root = above.get("root")
    if root is not None and below["root"] is not None:
        return Path(root).expanduser().resolve() != Path(below["root"]).expanduser().resolve()
    return root is not None or bool(above.get("sources"))


def say_own_choice(base: Path, data: DataSpec, above: Mapping[str, Any]) -> None:
    """Report the parts of the base's choice of songs that a transfer does not use."""
    below = recipe_values(data)
    asked = above.get("data") or {}
    left = own_choice_left(below, asked)
    gone = [key for key in (*AMOUNTS, *PARTICULAR) if left[key] != below[key] and key not in asked]
    if gone:
        words = ", ".join(f"data.{key}={below[key]}" for key in gone)
        say(f"Of {base} this transfer does not take over {words}; it trains on all songs that have a target.")


# --- what is done with the backbone -----------------------------------------------------------------------------------


def _lora(model: BSRNN, spec: BaseSpec) -> None:
    model.backbone.freeze()
    model.add_adapter("lora", list(model.heads), spec.rank, spec.alpha)


def _freeze(model: BSRNN, spec: BaseSpec) -> None:
    model.backbone.freeze(except_blocks=spec.blocks if spec.method == "partial" else 0)


@dataclass(frozen=True)
class Method:
    """A method of transfer: whether the backbone starts from the base's weights, a description, and its preparation."""

    keeps_weights: bool
    words: str
    prepare: Callable[[BSRNN, BaseSpec], None] = lambda model, spec: None


METHODS = {
    "frozen": Method(True, "its backbone is frozen", _freeze),
    "partial": Method(True, "its backbone is frozen but for the last blocks", _freeze),
    "lora": Method(True, "its backbone is frozen, low-rank updates of it are trained", _lora),
    "full": Method(True, "all of its backbone is trained too"),
    "scratch": Method(False, "the same backbone with random weights is trained, as a control"),
    "random": Method(False, "the same backbone with random weights is frozen, as a control", _freeze),
}


def transfer_model(recipe: Recipe, base: RunFolder, own: Path | None = None) -> BSRNN:
    """The base's backbone as `METHODS` prepares it, with the heads of the recipe.

    ``own`` is the backbone that the run has saved already, so that a random backbone stays the same when the run is
    resumed.
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
        if target != model.ties.remainder_target:
            _add_head(model, target, base)
    if own is not None and own.is_file() and not method.keeps_weights:
        load_backbone(own, model)
    method.prepare(model, recipe.base)
    if recipe.base.heads == "own":
        continue_adapters(model, base)
    return model


def _add_head(model: BSRNN, target: str, base: RunFolder) -> None:
    """Add a head whose first weights depend only on the seed and its own name, not on other heads."""
    recipe = model.recipe
    assert recipe.base is not None
    words = f"{recipe.train.seed} {target}".encode()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:8], "little"))
        head = model.add_head(target, recipe.head)
    if recipe.base.init_from is not None:
        start_from(head, base, recipe.base.init_from, recipe.head)
    if recipe.base.heads == "own":
        start_from(head, base, target, recipe.head, with_adapter=True)


def start_from(head: nn.Module, base: RunFolder, name: str, spec: HeadSpec, with_adapter: bool = False) -> None:
    """Give a head the weights of the base's head ``name``; `RecipeError` if there is none or it has another kind.

    With ``with_adapter`` the updates of the backbone that it was trained with are loaded elsewhere.
    """
    names, word = base.head_names(), "--continue" if with_adapter else "base.init_from"
    check_has(f"{word}: {base.path}", "head", name, names)
    tensors, metadata = read_tensors(base.head(name), "head")
    found = header_facts(base.head(name), metadata, "head", HeadKind)
    if HeadSpec(found["kind"], found["options"]) != spec:
        raise RecipeError(f"{word}: the head {name!r} is {found}; the new head is {asdict(spec)}.")
    own, adapter = without_adapter(tensors)
    load_strict(head, own, str(base.head(name)))
    if adapter and not with_adapter:
        say(f"The head {name!r} was trained with low-rank updates of the backbone, which the new heads begin without.")


def continue_adapters(model: BSRNN, base: RunFolder) -> None:
    """Continue the low-rank updates of heads that were trained with them; refused if the recipe does not allow it.

    All heads of a training share one adapter, so they must have shared one before.
    """
    files = {target: base.head(target) for target in model.heads}
    found = {
        target: header_facts(file, read_metadata(file), "adapter", AdapterFacts, needed=False)
        for target, file in files.items()
    }
    if not any(found.values()):
        return
    shared = {facts.get("sha256") for facts in found.values()}
    first = next(facts for facts in found.values() if facts)
    adapter = next(iter(model.adapters.values()), None)
    same = adapter is not None and (adapter.rank, adapter.alpha) == (first["rank"], first["alpha"])
    if len(shared) > 1 or adapter is None or not same:
        together = [target for target, facts in found.items() if facts.get("sha256") == first["sha256"]]
        raise RecipeError(
            f"the heads {', '.join(together)} of {base.path} were trained with low-rank updates of the backbone, which "
            f"are a part of them. Expected --target {' '.join(together)} --method lora --rank {first['rank']} "
            f"base.alpha={first['alpha']:g}."
        )
    tensors, _ = read_tensors(next(iter(files.values())), "head")
    load_strict(adapter, without_adapter(tensors)[1], f"{base.path} (adapter)")


def check_name_is_free(base: RunFolder, name: str) -> None:
    """`RecipeError` if the base already has a head of that name, because a new one would conflict with it."""
    if name in base.head_names():
        raise RecipeError(
            f"{base.path} has a head {name!r} already. Call the new one otherwise with --as {name}2, or say "
            f"--continue to train it on or --overwrite to train another {name!r}, in a run of its own; the base keeps "
            "its head either way."
        )


# --- runs -------------------------------------------------------------------------------------------------------------


def transfer(recipe: Recipe, watch: Watch | None = None) -> tuple[RunFolder, bool]:
    """Train the heads of a transfer recipe into a new run; returns it and whether the training reached its end."""
    spec = recipe.base
    if spec is None:
        raise RecipeError("the recipe names no base; expected base: {run: NAME}.")
    # A resolved recipe names its base relative to its run's own folder: then the run can be repeated from it alone.
    resolved = RunFolder(Path(os.path.normpath(Path(recipe.run.root) / "run" / spec.run)))
    base = resolved if resolved.recipe.is_file() else find_run(spec.run, recipe.run.root)
    recipe = replace(recipe, base=replace(spec, run=str(base.path)))
    recipe, run = new_run(recipe, find_sources(recipe.data))
    digest = read_metadata(backbone_file(base)).get("sha256")  # that the weights have it is checked where they are read
    relative = os.path.relpath(base.path.resolve(), run.path.resolve())  # `runs/` can be moved as a whole
    recipe = replace(recipe, base=replace(spec, run=Path(relative).as_posix(), sha256=digest))
    heads = f"heads that start as {spec.init_from}" if spec.init_from else "fresh heads"
    heads = "heads that go on from their own weights" if spec.heads == "own" else heads
    say(f"Transfer from {base.path}: {METHODS[spec.method].words}; {heads}: {', '.join(recipe.targets)}.")
    return run_training(recipe, lambda r: transfer_model(r, base), watch=watch)


def resume(run: RunFolder, watch: Watch | None = None, overrides: Sequence[str] = ()) -> tuple[RunFolder, bool]:
    """Continue a run, transfer or not, exactly from its state; ``overrides`` as in `resumed_recipe`."""
    if not run.state.is_file():
        again = f" It ended before its first state: start it again with train {run.recipe}." if run.is_free() else ""
        raise RecipeError(f"{run.path} has no state to resume from ({run.state} is not there).{again}")
    recipe = resumed_recipe(run, overrides)
    say(f"Resuming {run.path}.")
    if recipe.base is None:
        return run_training(recipe, BSRNN.from_recipe, run, watch)
    base = base_of(run, recipe)
    return run_training(recipe, lambda r: transfer_model(r, base, run.backbone), run, watch)


# What may change when a run is resumed: where things are, how the machine is used, how long and how fast it learns.
RESUMABLE = (
    *("data.root", "data.sources", "data.stem_weights", "data.decode", "data.check", "data.unreadable"),
    *("base.run", "log", "cache"),
    *("train.workers", "train.precision", "train.accumulate", "train.checkpoint_every", "train.log_every"),
    *("train.validate_every", "train.validate_seconds", "train.validate_songs", "train.patience"),
    *("train.steps", "train.lr", "train.warmup_steps", "train.decay", "train.decay_rate", "train.decay_every"),
    "train.clip_norm",
)


def resumed_recipe(run: RunFolder, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a resumed run with the allowed changes; `RecipeError` for any other change."""
    old = recipe_values(run.load_recipe())
    above = parse_overrides(overrides)
    for one, other in (("root", "sources"), ("sources", "root")):
        if (above.get("data") or {}).get(one):  # either says where the songs are
            above["data"].setdefault(other, None if other == "root" else [])
    if named := (above.get("base") or {}).get("run"):
        found = find_run(named, run.path.parent)
        above["base"]["run"] = Path(os.path.relpath(found.path.resolve(), run.path.resolve())).as_posix()
    recipe = make_recipe(merge(old, above))
    for key, (before, now) in differences(old, recipe_values(recipe), RESUMABLE).items():
        raise RecipeError(
            f"{key} is {before!r} in {run.path} and cannot become {now!r} in the middle of a training. A new run goes "
            f"on from its weights: train --from {run.path} {key}=... ; --resume takes {', '.join(RESUMABLE)}."
        )
    gone = [root for root in roots_of(recipe.data) if Path(root).is_absolute() and not Path(root).exists()]
    if gone:
        raise DataError(
            f"{run.path} was trained on the songs in {gone[0]}, which is not there now. Tell it where they are now: "
            f"--resume {run.path} data.root=... (or data.sources)."
        )
    return recipe


def roots_of(data: DataSpec) -> list[str]:
    named = [source.options.get("root") for source in data.sources]
    return [root for root in (data.root, *named) if isinstance(root, str)]


def from_recipe(base: RunFolder, path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a new run that starts from the weights of another: the given recipe (default: that run's own).

    This recipe decides whether the backbone is trained; one on random weights starts from the trained weights.
    """
    own = base.recipe.resolve()
    file = own if path is None else find_recipe(path).resolve()
    below, above = read_recipe_values(file), parse_overrides(overrides)
    if file == own:
        say_own_choice(base.path, base.load_recipe().data, above)
        below["data"] = own_choice_left(recipe_values(base.load_recipe())["data"], above.get("data") or {})
        below["run"] = {**(below.get("run") or {}), "name": None}
    start = below.get("base") or {}
    method = {"scratch": "full", "random": "frozen"}.get(start.get("method", "full"), start.get("method", "full"))
    start = {**start, "run": str(base.path), "sha256": None, "method": method, "heads": "own", "init_from": None}
    return make_recipe(merge({**below, "base": start}, above))
