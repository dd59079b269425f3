"""The heads of several runs in one separation: a backbone that several runs share runs once.

runs ──> separators ──> passes (one per backbone) ──> heads
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...errors import RecipeError, check_has
from ...network.lora import Adapter
from ...network.model import BSRNN
from ...runs.folder import tensors_sha256
from ...separation.separator import Separator


@dataclass(frozen=True)
class HeadRef:
    """One head of one run, or the mean of one head over several: places among the estimates of all passes."""

    model: str
    head: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Ensemble:
    """Separators that each run once, and the heads computed from their estimates."""

    passes: list[tuple[Separator, list[str]]]
    refs: list[HeadRef]

    @property
    def groups(self) -> list[list[int]]:
        """Voices that make up one song: all of them, or, where runs have heads of one name, those of each run."""
        names = [ref.head for ref in self.refs]
        if len(set(names)) == len(names):
            return [list(range(len(names)))]
        models = list(dict.fromkeys(ref.model for ref in self.refs))
        return [[i for i, ref in enumerate(self.refs) if ref.model == model] for model in models]


def load_ensemble(
    runs: Sequence[str], heads: Sequence[str] | None, averaged: bool = False, **options: Any
) -> tuple[Ensemble, list[str]]:
    """The heads of those names (default: all) of all runs; a backbone that several runs share runs once.

    ``averaged``: a head that every run has becomes one, their mean. Also returns messages about it. Raises
    `RecipeError` for a head that is in no run.
    """
    only = list(heads) if heads is not None and len(runs) == 1 else None
    separators = [Separator.from_pretrained(run, heads=only, **options) for run in runs]
    labels = _labels(runs)
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise RecipeError(f"the run {twice} is named twice; expected each run once.")
    available = list(dict.fromkeys(name for separator in separators for name in separator.heads))
    for name in heads or ():
        check_has(", ".join(labels), "head", name, available)
    chosen = list(dict.fromkeys(available if heads is None else heads))
    found = [
        (label, separator, name)
        for label, separator in zip(labels, separators, strict=True)
        for name in chosen
        if name in separator.heads
    ]
    passes, places, shared = _passes(found)
    if not averaged:
        refs = [HeadRef(label, name, (place,)) for (label, _, name), place in zip(found, places, strict=True)]
        return Ensemble(passes, refs), shared
    refs = []
    for name in chosen:
        places_of = tuple(place for (_, _, other), place in zip(found, places, strict=True) if other == name)
        if len(places_of) < len(runs):
            if heads is None:
                continue
            raise RecipeError(f"an ensemble needs a head {name!r} in each of {', '.join(labels)}.")
        refs.append(HeadRef("+".join(labels), name, places_of))
    if not refs:
        raise RecipeError(f"there is no head that all of {', '.join(labels)} have; they have {', '.join(available)}.")
    return Ensemble(passes, refs), shared


def _labels(runs: Sequence[str]) -> list[str]:
    """The last part of each path or id, with as many parts before it as are needed to make them distinct."""
    paths = [Path(run).resolve() if Path(run).exists() else Path(run) for run in runs]

    def label(path: Path, n: int = 1) -> str:
        same = [other for other in paths if other != path and other.parts[-n:] == path.parts[-n:]]
        return label(path, n + 1) if same else "-".join(path.parts[-n:])

    return [label(path) for path in paths]


def _passes(
    found: Sequence[tuple[str, Separator, str]],
) -> tuple[list[tuple[Separator, list[str]]], list[int], list[str]]:
    """(passes, the place of each head found among all passes' estimates, a line per backbone that is shared)."""
    hosts: dict[str, tuple[Separator, list[str], str]] = {}
    places_of: list[tuple[str, int]] = []
    shared: dict[str, None] = {}
    for label, separator, name in found:
        model = separator.model
        tied = model.recipe.together != "none" or any(model.head(head).bridge for head in model.heads)
        digest = f"{tensors_sha256(model.backbone.state_dict())} {model.recipe.input} {label if tied else ''}"
        host, names, first = hosts.setdefault(digest, (separator, [], label))
        key = name
        if host is not separator:
            key = f"{label}/{name}"
            if key not in host.model.heads:
                _lend(model, name, host.model, key, label)
            shared[f"{label} shares the backbone of {first}: it runs once."] = None
        names.append(key)
        places_of.append((digest, len(names) - 1))
    offsets, total = {}, 0
    for digest, (_, names, _) in hosts.items():
        offsets[digest] = total
        total += len(names)
    passes = [(separator, names) for separator, names, _ in hosts.values()]
    return passes, [offsets[digest] + i for digest, i in places_of], list(shared)


def _lend(model: BSRNN, name: str, host: BSRNN, key: str, label: str) -> None:
    """Attach a head, and the adapter it reads its features through, to another model on the same backbone."""
    host.heads[key] = model.heads[name]
    adapter = model.adapters.of.get(name)
    if adapter is not None:
        host.adapters.attach(f"{label}/{adapter}", cast(Adapter, model.adapters[adapter]), [key])
