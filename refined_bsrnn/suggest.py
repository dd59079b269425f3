"""Choosing a component by name, with errors that name the valid choices."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from .errors import RecipeError

T = TypeVar("T")


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' for a close spelling, else nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def pick(where: str, name: str, choices: Mapping[str, T]) -> T:
    """``choices[name]``, or a `RecipeError` that lists what there is."""
    if name not in choices:
        raise RecipeError(f"{where}={name!r} is unknown.{nearest(name, choices)} Known: {', '.join(sorted(choices))}.")
    return choices[name]
