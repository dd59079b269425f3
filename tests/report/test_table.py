"""The table: what each of its views makes of the same data frame, by hand."""

import math

import pandas as pd
import pytest

from refined_bsrnn.report.table import Column, Table, text_of


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1.005, ".1f", "1.0"),
        (-0.001, ".2f", "0.00"),
        (-0.05, ".2f", "-0.05"),
        (1234567, ",.0f", "1,234,567"),
        (None, ".2f", "–"),
        (math.nan, ".2f", "–"),
        ("8.1", ".2f", "8.1"),
    ],
)
def test_values_as_text(value, form, text):
    assert text_of(value, form) == text


RECORDS = [
    {"run": "a_b|c", "x": 1.0, "y": 2.0, "low": 0.5, "high": 1.5, "group": "ours", "best": {"y"}},
    {"run": "plain", "x": None, "y": 1.0, "low": None, "high": None, "group": "ours"},
    {"run": "none", "x": None, "y": None, "low": 0.0, "high": 0.0, "group": "theirs", "soft": True},
]
COLUMNS = [
    Column("run", "run"),
    Column("both", ("x", "y"), ".1f"),
    Column("x", "x", ".2f", interval=("low", "high")),
    Column("sum", lambda record: f"{record['y'] or 0:+.0f}", ">"),
]


def table(**options):
    frame = pd.DataFrame([{"best": (), "soft": False, **record} for record in RECORDS], dtype=object)
    return Table(frame, COLUMNS, **options)


def test_markdown_marks_the_best_and_shows_names_literally():
    assert table().markdown.splitlines() == [
        "| run | both | x | sum |",
        "| --- | ---: | ---: | ---: |",
        "| a\\_b\\|c | 1.0 / **2.0** | 1.00 | +2 |",
        "| plain | – / 1.0 | – | +1 |",
        "| none | – | – | +0 |",
    ]
    assert "| a_b|c |" in table(literal=True).markdown


def test_cells_have_their_interval_and_rows_their_group():
    (ours, first), (theirs, (last,)) = table().groups
    assert (ours, theirs) == ("ours", "theirs")
    assert [soft for soft, _ in [*first, last]] == [False, False, True]
    assert [cells[2].below for _, cells in [*first, last]] == ["0.50 to 1.50", "", ""]


def test_code_stands_between_backticks():
    assert Table(pd.DataFrame([{"a": "tet_24"}]), [Column("a", "a", code=True)], literal=True).markdown.endswith(
        "| `tet_24` |"
    )
