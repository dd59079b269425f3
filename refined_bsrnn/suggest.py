"""Choosing a component by name and binding its options, with errors that name the valid choices."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from .errors import RecipeError

T = TypeVar("T")


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' for a close spelling, else nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def alike(word: str, choices: Collection[str]) -> str:
    """The one of the choices that the word may be a misspelling of: the same letters and digits but for one or two."""

    def letters(name: str) -> str:
        return "".join(c for c in name.casefold() if c.isalnum())

    plain = {letters(choice): choice for choice in sorted(choices)}
    close = difflib.get_close_matches(letters(word), list(plain), n=1, cutoff=0.8)
    return plain[close[0]] if close else ""


def pick(where: str, name: str, choices: Mapping[str, T]) -> T:
    """``choices[name]``, or a `RecipeError` that lists what there is."""
    if name not in choices:
        raise RecipeError(f"{where}={name!r} is unknown.{nearest(name, choices)} Known: {', '.join(sorted(choices))}.")
    return choices[name]


def bind_options(
    where: str, component: Callable[..., Any], options: Mapping[str, Any], skip: Collection[str] = ()
) -> dict[str, Any]:
    """Check recipe options against a component's own signature and return them.

    ``skip`` names the parameters that the caller fills in. Raises `RecipeError` for an option the component does not
    take or one that it needs and did not get.
    """
    known = {name: p for name, p in inspect.signature(component).parameters.items() if name not in skip}
    for name in options:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise RecipeError(f"{where} has no option {name!r}.{nearest(name, known)} Options: {takes}.")
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise RecipeError(f"{where} needs the option {missing[0]!r}.")
    return dict(options)
