"""Lines of code: without blanks, comments and docstrings.

    python -m tests.helpers.code_lines

prints them by room, and the largest files.
"""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "refined_bsrnn"
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


def code_lines(path: Path) -> int:
    """How many lines of a file hold code."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def by_room() -> Counter[str]:
    """{room or file of the package: lines}"""
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        found[path.relative_to(PACKAGE).parts[0].removesuffix(".py")] += code_lines(path)
    return found


if __name__ == "__main__":
    rooms = by_room()
    for room, n in rooms.most_common():
        print(f"{n:6} {room}")
    print(f"{rooms.total():6} in all\n")
    files = {path.relative_to(PACKAGE).as_posix(): code_lines(path) for path in PACKAGE.rglob("*.py")}
    for name, n in Counter(files).most_common(25):
        print(f"{n:6} {name}")
