"""The layout: which room may import which, what may import torch, how long a function may be."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.helpers.code_lines import code_lines

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "refined_bsrnn"
ORDER = (
    "errors, console, plain < system, temporary < schema < recipe < bands | metrics | audio < network | data < runs < "
    "separation < evaluation < training | report < apps < scripts, benchmarks"
)
# Room → (how far right it stands, its group): those joined by a comma may know each other, those by | are strangers.
PLACE = {
    room: (rank, group)
    for rank, groups in enumerate(ORDER.split(" < "))
    for group in groups.split(" | ")
    for room in group.split(", ")
}
FILES = sorted(path for folder in (PACKAGE, ROOT / "scripts", ROOT / "benchmarks") for path in folder.rglob("*.py"))
MODULES = [path for path in FILES if path.is_relative_to(PACKAGE)]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


BY_NAME = {name_of(path): path for path in FILES}


def room_of(name: str) -> str:
    """The room or file of a module: ``data`` of ``refined_bsrnn.data.layouts.hub``; empty for the package itself."""
    parts = name.split(".")
    return parts[0] if parts[0] != "refined_bsrnn" else (parts[1] if len(parts) > 1 else "")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, everywhere: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; not ``everywhere``: of those that run when the module is imported."""
    package, tree = path.relative_to(ROOT).parent.parts, tree_of(path)
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                yield node.lineno, inner if inner in BY_NAME else name


def own_imports(path: Path, everywhere: bool = True) -> dict[str, int]:
    return {name: line for line, name in imports(path, everywhere) if name in BY_NAME}


def test_a_room_imports_only_what_stands_left_of_it():
    wrong = []
    for name, path in BY_NAME.items():
        room = room_of(name)
        if room in ("", "__main__"):  # the front doors may name anything
            continue
        assert room in PLACE, f"{name} is in no room of ORDER"
        rank, group = PLACE[room]
        for other, line in own_imports(path).items():
            present, its = PLACE.get(room_of(other), (-1, ""))
            if present >= rank and its != group:
                wrong.append(f"{name}, line {line}: {other}")
    assert not wrong


def test_no_import_cycle():
    left = {name: set(own_imports(path)) - {name, "refined_bsrnn"} for name, path in BY_NAME.items()}
    while free := {name for name, needed in left.items() if not needed & set(left)}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert not left


NO_TORCH = ("errors", "console", "plain", "system", "schema", "recipe", "bands", "metrics", "report")


def test_these_load_no_torch():
    """Neither do the modules they import; in `report` not even a function does."""
    seen, waiting = set(), {path for path in MODULES if room_of(name_of(path)) in NO_TORCH}
    assert len(waiting) > 20
    while waiting:
        module = waiting.pop()
        seen.add(module)
        everywhere = room_of(name_of(module)) == "report"
        found = {name.split(".")[0] for _, name in imports(module, everywhere)}
        assert "torch" not in found, f"{name_of(module)} imports torch"
        waiting |= {BY_NAME[name] for name in own_imports(module, everywhere) if name != "refined_bsrnn"} - seen


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                yield f"{name_of(path)}.{node.name}", node


def test_no_function_is_longer_than_60_lines():
    """Without its signature and docstring: those of a command are the whole of its command line."""
    lengths = {}
    for name, node in functions():
        first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
        lengths[name] = node.end_lineno - first.lineno + 1
    assert len(lengths) > 1000
    assert not {name: length for name, length in lengths.items() if length > 60}


def test_no_file_has_more_than_400_lines_of_code():
    lengths = {name_of(path): code_lines(path) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_blanks_comments_and_docstrings_are_no_code(tmp_path):
    lines = ['"""A\n\nb."""', "# c", "", "x = 1  # d", "def f(", "    y=1,", "):", '    """E."""', "    return y"]
    (tmp_path / "x.py").write_text("\n".join(lines))
    assert code_lines(tmp_path / "x.py") == 5


def test_public_functions_say_what_they_are():
    for path in MODULES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                one_idea = len(node.body) <= 2  # a line or two that says it itself
                assert ast.get_docstring(node) or one_idea, f"{path.name}: {node.name}"


def test_contributing_shows_this_order_and_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert ORDER in " ".join(text.split())
    rooms = {room for room in PLACE if room not in ("scripts", "benchmarks")}
    shown = {line.split("`")[1].removesuffix(".py").strip("/") for line in text.splitlines() if line.startswith("| `")}
    assert rooms <= shown
    assert {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__")} - {"recipes", "models"} == rooms
