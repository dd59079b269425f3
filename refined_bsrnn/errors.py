"""Errors that a user can cause and fix. Each message says what was found, what was expected and what to do.

The command line prints the message alone and exits with the class's code; anything else is a bug and keeps its
traceback.
"""

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

MOST_LETTERS = 2000  # of a message: what it quotes may come from any file


class UserError(Exception):
    """The work failed for a reason the user can mend (exit code 1)."""

    exit_code = 1

    def __init__(self, text: str = ""):
        cut = len(text) > MOST_LETTERS
        super().__init__(f"{text[: MOST_LETTERS - 600]} [...] {text[-500:]}" if cut else text)


class RecipeError(UserError):
    """The recipe or the command line is wrong (exit code 2)."""

    exit_code = 2


class AudioError(UserError):
    """An audio file cannot be read, written or used."""


class DataError(UserError):
    """A data set is missing something or disagrees with itself."""


class CheckpointError(UserError):
    """A run folder, backbone or head cannot be loaded or does not belong where it was put."""


# --- words of messages ------------------------------------------------------------------------------------------------


def first(names: Sequence[str], n_shown: int = 6, separator: str = ", ") -> str:
    """The first few names, and the number of the others."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return separator.join(names[:n_shown]) + more


def first_line(error: object) -> str:
    """The first line of an error's message, or its class if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


# --- choosing a component by name, with errors that name the valid choices --------------------------------------------


T = TypeVar("T")


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' for a close spelling, else nothing."""
    close = _closest(word, choices)
    return f" Did you mean {close[0]!r}?" if close else ""


def queried(word: str, choices: Iterable[str]) -> str:
    """The word in quotes and, where one is close, in brackets what may have been meant: ``'drum' (drums?)``."""
    close = _closest(word, choices)
    return f"{word!r} ({close[0]}?)" if close else repr(word)


def _closest(word: str, choices: Iterable[str]) -> list[str]:
    """The choice that is most like the word, in whichever case; none if nothing is like it."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return [by_lower[name] for name in close]


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


def check_has(where: str, what: str, name: str, names: Collection[str]) -> None:
    """`RecipeError` with all names if this one is none of them: ``runs/a has no head 'drum'. Did you mean ...``."""
    if name not in names:
        known = ", ".join(names) or "none"
        raise RecipeError(f"{where} has no {what} {name!r}.{nearest(name, names)} {what.capitalize()}s: {known}.")
