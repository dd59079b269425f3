"""Choosing a component by name, with errors that name the valid choices."""

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from .errors import RecipeError

T = TypeVar("T")


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' for a close spelling, else nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def queried(word: str, choices: Iterable[str]) -> str:
    """The word in quotes and, where one is close, in brackets what may have been meant: ``'drum' (drums?)``."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"{word!r} ({close[0]}?)" if close else repr(word)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, or fits one that is a pattern (``*``, ``?``, ``[...]``)."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


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
