"""The schema layer: types and bounds of what is read, in one sentence each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypedDict

import pytest

from refined_bsrnn.errors import CheckpointError, RecipeError, UserError
from refined_bsrnn.schema import bounded, check_document, plain, read_document, rest, section, share, typed


@dataclass(frozen=True)
class Inner:
    kind: str = "a"
    weights: Mapping[str, float] = rest(at_least=0)


@dataclass(frozen=True)
class Outer:
    names: tuple[str, ...]
    inner: Inner = Inner()
    ratio: float = share(0.5)
    span_db: tuple[float, float] = bounded((-1.0, 1.0), at_least=-9, below=9)
    levels: Mapping[str, float] = bounded({}, above=0)
    size: int | None = None


class Part(TypedDict):
    n: int


class Document(TypedDict):
    name: str
    part: Part
    score: Real | None


def test_a_section_is_what_it_was_made_from():
    values = {
        "names": ["x", "y"],
        "inner": {"kind": "b", "z": 2.0},
        "ratio": 1.0,
        "span_db": [0.0, 3.0],
        "levels": {"k": 1.0},
        "size": None,
    }
    made = section(Outer, values, "")
    assert made == Outer(("x", "y"), Inner("b", {"z": 2.0}), 1.0, (0.0, 3.0), {"k": 1.0})
    assert plain(made) == {**values, "inner": {"kind": "b", "z": 2.0}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the recipe lacks the required key 'names'"),
        ({"names": [], "raito": 1}, "unknown recipe key 'raito'. Did you mean 'ratio'"),
        ({"names": [3]}, r"names\[0\] is 3; expected a text"),
        ({"names": [], "inner": {"z": -1}}, r"inner\.z is -1\.0; expected 0 or more"),
        ({"names": [], "inner": {"z": "loud"}}, r"inner\.z is 'loud'; expected a number"),
        ({"names": [], "ratio": 1.1}, "ratio is 1.1; expected 1 or less"),
        ({"names": [], "ratio": float("nan")}, "ratio is nan; expected a number"),
        ({"names": [], "span_db": [2, 1]}, "the lower value first"),
        ({"names": [], "span_db": [0, 9]}, "span_db is 9.0; expected less than 9"),
        ({"names": [], "levels": {"k": 0}}, r"levels\.k is 0\.0; expected more than 0"),
        ({"names": [], "size": True}, "size is True; expected a whole number"),
        ({"names": [], "inner": "x" * 500}, r"inner is 'x{50,60}\.\.\.x{50,60}'; expected a mapping"),
    ],
)
def test_what_does_not_fit_a_section_is_one_sentence(values, message):
    with pytest.raises(RecipeError, match=message):
        section(Outer, values, "")


@pytest.mark.parametrize(("hint", "value", "made"), [(Literal[1, 2], 1.0, 1), (float, "3e-4", 3e-4), (int, 3.0, 3)])
def test_a_value_of_another_type_is_converted_where_nothing_is_lost(hint, value, made):
    found = typed(hint, value, "x")
    assert found == made
    assert type(found) is type(made)


def test_a_document_stays_as_it_is_but_for_what_may_be_null():
    document = {"name": "a", "part": {"n": 3, "more": float("inf")}, "extra": [1]}
    found = check_document(Document, document, "here")
    assert found == {**document, "score": None}
    assert "score" not in document
    assert check_document(Document, {**document, "score": 2}, "here")["score"] == 2


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"here: it is \[\]; expected a mapping of keys to values. Copy it."),
        ({"part": {"n": 3}}, "here: name is missing. Copy it."),
        ({"name": "a", "part": {}}, r"here: part\.n is missing. Copy it."),
        ({"name": "a", "part": {"n": "3"}}, r"here: part\.n is '3'; expected a whole number. Copy it."),
        ({"name": "a", "part": {"n": 3}, "score": "good"}, "here: score is 'good'; expected a number. Copy it."),
    ],
)
def test_what_does_not_fit_a_document_is_one_sentence_of_the_callers_error(document, message):
    with pytest.raises(CheckpointError, match=message):
        check_document(Document, document, "here", CheckpointError, "Copy it.")


def test_a_value_without_end_does_not_become_text():
    """Each of ten lists holds the last one ten times: 10^10 items, as ten lines of YAML can say it."""
    value: list[Any] = [1]
    for _ in range(10):
        value = [value] * 10
    for hint in (int, str, Mapping[str, Any], Literal["a", "b"], Inner):
        with pytest.raises(RecipeError, match=r"x is \[\["):
            typed(hint, value, "x")


def test_a_document_is_read_from_its_file(tmp_path):
    file = tmp_path / "a.json"
    document: dict[str, Any] = {"name": "a", "part": {"n": 3}, "score": 1.5}
    file.write_text(json.dumps(document))
    assert read_document(Document, file) == document
    file.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not readable JSON"):
        read_document(Document, file)
