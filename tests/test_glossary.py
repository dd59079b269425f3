"""The glossary has every class and every word; a class name exists once; the site shows every room."""

import ast
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
import yaml

from .test_layers import PACKAGE, PLACE

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "glossary.py"))
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
BY_HAND = GLOSSARY.split("## Classes")[0]
NAMES = Counter(name for name, _, _ in SCRIPT["classes"]())


def test_the_table_of_classes_is_that_of_the_package():
    assert SCRIPT["with_table"](GLOSSARY) == GLOSSARY, "docs/glossary.md is old: run `make docs`"


def test_every_public_class_is_in_the_table_once():
    """Read in another way than the table is made: line by line."""
    found = Counter(
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text(), re.MULTILINE)
    )
    assert len(found) > 100
    assert Counter(re.findall(r"^\| `(\w+)` \| `[\w/]+\.py` \|", GLOSSARY, re.MULTILINE)) == found


def test_a_class_name_exists_once():
    assert [name for name, count in NAMES.items() if count > 1] == []


def identifiers(path):
    """The names that a file gives to things: variables, parameters, functions, classes, attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_a_thing_is_named_by_a_noun(path):
    no_nouns = {"heard", "told", "said", "there", "mine", "beside"}
    assert [name for name in identifiers(path) if no_nouns & set(name.lower().split("_"))] == []


def test_every_word_of_the_vocabulary_is_explained_once():
    words = [re.split(r" \| ", row)[0].strip("| ") for row in BY_HAND.splitlines() if row.startswith("| ")]
    assert len(words) == len(set(words))
    vocabulary = {"mixture", "target", "stem", "track", "estimate", "band scheme, bands", "encoder", "backbone", "head"}
    assert vocabulary | {"base", "recipe", "run"} | set("BCLFTKN") <= set(words)


def attributes():
    """`Class.name` that the hand-written part names, and whether the class body or its methods define it."""
    for name in re.findall(r"`([A-Z]\w*\.\w+)`", BY_HAND):
        kind, attribute = name.split(".")
        bodies = [
            node
            for path in PACKAGE.rglob("*.py")
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef) and node.name == kind
        ]
        fields = {getattr(x, "name", getattr(getattr(x, "target", None), "id", "")) for b in bodies for x in b.body}
        yield name, attribute in fields


def test_names_in_the_glossary_exist():
    assert not [name for name in re.findall(r"`([A-Z]\w*)`", BY_HAND) if name not in NAMES]
    found = dict(attributes())
    assert found
    assert all(found.values()), found
    for path in re.findall(r"`refined_bsrnn\.([\w.]+)`", BY_HAND):
        place, name = PACKAGE.joinpath(*path.split(".")), path.rpartition(".")[2]
        module = place.parent.with_suffix(".py")
        defined = module.exists() and re.search(rf"^def {name}\(", module.read_text(), re.MULTILINE)
        assert place.is_dir() or place.with_suffix(".py").exists() or defined, path


def test_the_site_has_every_room_and_every_document():
    listed = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == {name for name in documents if not name.startswith("results/")}
    assert len(listed) == len(set(listed))
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    shown = re.findall(r"^::: refined_bsrnn\.(\w+)$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(room for room in PLACE if room not in ("scripts", "benchmarks"))


def test_the_site_is_built_strictly():
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["strict"] is True
