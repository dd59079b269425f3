#!/usr/bin/env python3
"""Write the table of classes in docs/glossary.md: every public class and the first paragraph of its docstring.

`make docs` runs it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, GLOSSARY = ROOT / "refined_bsrnn", ROOT / "docs" / "glossary.md"
BEGIN, END = "<!-- classes: written by `make docs` -->", "<!-- end of classes -->"


def classes() -> Iterator[tuple[str, Path, str]]:
    """Name, file in the package and first paragraph of the docstring of every public class that a module defines."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                text = (ast.get_docstring(node) or "").partition("\n\n")[0]
                yield node.name, path.relative_to(PACKAGE), " ".join(text.split())


def class_table() -> str:
    """The classes as Markdown, by name."""
    rows = sorted(classes(), key=lambda row: (row[0].lower(), row[1]))
    cells = (f"| `{name}` | `{path.as_posix()}` | {text.replace('|', chr(92) + '|')} |" for name, path, text in rows)
    return "\n".join(["| class | where | what it is |", "| --- | --- | --- |", *cells])


def with_table(text: str) -> str:
    """The glossary with the table between its markers made again."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"{GLOSSARY} has no lines {BEGIN!r} and {END!r}, between which the table belongs; put them back.")
    return f"{before}{BEGIN}\n\n{class_table()}\n\n{END}{after}"


if __name__ == "__main__":
    GLOSSARY.write_text(with_table(GLOSSARY.read_text(encoding="utf-8")), encoding="utf-8")
