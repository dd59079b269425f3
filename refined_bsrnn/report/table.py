"""One table, three views: `Table` shows a data frame as Markdown, in a terminal and, by `page.html`, on a web page."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

MISSING = "–"
Record = Mapping[str, Any]  # one line of a data frame


def text_of(value: Any, form: str = "") -> str:
    """A value by a format such as ``.2f`` or ``,.0f``: a dash if there is none, no minus before a zero."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, str):
        return value
    text = format(value, form)
    return text if any(digit in text for digit in "123456789") else text.lstrip("-")


class Cell(NamedTuple):
    """The text of a cell: one text, or two; which of them are the best; and small print below."""

    texts: tuple[str, ...]
    best: tuple[bool, ...]
    below: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: values of the frame under ``key`` (several: side by side), or a text made from a record.

    ``form`` formats numbers; a column without one holds text and is aligned to the left. ``interval`` names the ends of
    the interval of a value. The value ``best`` of a record lists the keys with the best value.
    """

    title: str
    key: str | tuple[str, ...] | Callable[[Record], str]
    form: str = ""
    interval: tuple[str, str] | None = None
    code: bool = False  # Markdown marks it as code

    @property
    def keys(self) -> tuple[str, ...]:
        return () if callable(self.key) else (self.key,) if isinstance(self.key, str) else self.key

    def cell(self, record: Record) -> Cell:
        """The cell of a record."""
        texts = (self.key(record),) if callable(self.key) else tuple(text_of(record[k], self.form) for k in self.keys)
        if set(texts) == {MISSING}:
            return Cell((MISSING,), (False,))
        best = record.get("best", ())
        below = interval_text(*(record[end] for end in self.interval)) if self.interval else ""
        return Cell(texts, tuple(key in best for key in self.keys) or (False,), below)


def interval_text(low: float | None, high: float | None) -> str:
    """``low to high``; empty if there is no interval, or if all tracks score the same (silence)."""
    both = low is not None and high is not None and low < high
    return f"{text_of(low, '.2f')} to {text_of(high, '.2f')}" if both else ""


@dataclass(frozen=True)
class Table:
    """A data frame by its columns. Records may say ``group`` (a heading above them) and ``soft`` (for comparison)."""

    frame: pd.DataFrame
    columns: Sequence[Column]
    caption: str = ""
    name: str = ""  # by which screen readers announce it
    title: str = ""  # stands before the caption, in bold
    literal: bool = False  # its texts are Markdown already

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.frame.to_dict("records")

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells, row by row."""
        return [[column.cell(record) for column in self.columns] for record in self.records]

    @property
    def groups(self) -> list[tuple[str, list[tuple[bool, list[Cell]]]]]:
        """(heading, [(for comparison, cells)]) of neighbouring records of one group."""
        lines = zip(self.records, self.rows, strict=True)
        grouped = groupby(lines, key=lambda line: line[0].get("group", ""))
        return [(group, [(bool(record.get("soft")), cells) for record, cells in same]) for group, same in grouped]

    @property
    def markdown(self) -> str:
        """The best values are bold."""
        escape = str if self.literal else escaped
        lines = [[escape(c.title) for c in self.columns], ["---:" if c.form else "---" for c in self.columns]]
        for cells in self.rows:
            texts = [[f"**{escape(t)}**" if b else escape(t) for t, b in zip(*cell[:2], strict=True)] for cell in cells]
            joined = map(" / ".join, texts)
            lines.append([f"`{t}`" if c.code else t for c, t in zip(self.columns, joined, strict=True)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @property
    def rich(self) -> RichTable:
        """For a terminal; each group stands below a line."""
        table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in self.columns:
            justify: Any = "right" if column.form else "left"
            table.add_column(Text(column.title), justify=justify, no_wrap=len(column.keys) > 1)
        for number, (group, rows) in enumerate(self.groups):
            if number:
                table.add_section()
            if group.strip():
                table.add_row(Text(group, style="italic"))
            for _, cells in rows:
                table.add_row(*map(_rich_cell, cells))
        return table


def _rich_cell(cell: Cell) -> Text:
    parts = [(text, "bold" if best else "") for text, best in zip(*cell[:2], strict=True)]
    return Text(" / ").join(Text(*part) for part in parts)


def escaped(text: str) -> str:
    """Text as Markdown shows it literally (track globs hold stars, run names underscores)."""
    for mark in "\\`*_|<":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
