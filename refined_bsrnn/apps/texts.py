"""Conversion of typed texts to values."""

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from typing import Annotated, Literal

from ..system import expand_home

TIME = "seconds, m:ss or h:mm:ss"


def names(text: str, separator: str = ",") -> list[str]:
    return [name.strip() for name in text.split(separator) if name.strip()]


def whole(text: str) -> list[str]:
    """One text, including its commas."""
    return [text]


def sums(text: str) -> list[list[str]]:
    """``a+b,c+d``"""
    return [names(one, "+") for one in text.split(",")]


def place(text: str) -> str:
    """The path of a folder or the name of a run."""
    return str(expand_home(text)) if text.startswith("~") else text


def runs(text: str) -> list[str]:
    """Names or folders of runs; a folder whose name contains a comma is one run."""
    return [str(expand_home(name)) for name in ([text] if os.path.lexists(expand_home(text)) else names(text))]


def seconds(text: str) -> float:
    """``90``, ``1:30``, ``1:02:03.5``."""
    try:
        *larger, last = text.split(":")
        if larger and (len(larger) > 2 or not 0 <= float(last) < 60):
            raise ValueError
        return float(last) + sum(60**power * int(part) for power, part in enumerate(reversed(larger), 1))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time; expected {TIME}") from None


def number_or_text(text: str) -> int | str:
    """``auto``, ``4``"""
    return int(text) if text.isdecimal() else text


WORDS = "words"
Place = Annotated[str, place]
Runs = Annotated[Sequence[str], runs]
Split = Literal["train", "valid", "test"]
Sums = Annotated[Sequence[Sequence[str]], sums]
Texts = Annotated[Sequence[str], whole]
Time = Annotated[float, seconds]
Words = Annotated[Sequence[str], WORDS]  # ``--target a b``; key=value among them are overrides
