"""The generated tables of README and docs/: everything between `<!-- table: NAME -->` and its end marker.

    make docs

writes them again from the results in docs/results and the code; a test compares them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from refined_bsrnn.errors import UserError, nearest
from refined_bsrnn.report import study
from refined_bsrnn.report.band_table import band_table, matched_table
from refined_bsrnn.report.write import report
from refined_bsrnn.system import read_json, write_text
from refined_bsrnn.training.study import load_study

from .architecture import architecture_markdown
from .busy import busy_markdown
from .claim import claim_table
from .peers import peers_markdown
from .separation import separation_markdown
from .step import profile_markdown, step_markdown
from .transfer import transfer_markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
RUNS = ("mtl", "drums-v7", "mtl-to-guitar", "mtl-to-piano")
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(?:.*?\n)??(<!-- end of table -->)", re.S)


def runs(number: int, details: bool) -> str:
    """A section of the report on the measured runs."""
    made = report([RESULTS / name for name in RUNS], groups={"real recordings": "eir_*"})
    return made.scores(made.sections[number], details).markdown


def rows(name: str) -> list[study.Row]:
    return [study.Row(**row) for row in json.loads((RESULTS / name / "study.json").read_text())["rows"]]


def folder(name: str) -> str:
    """The runs whose results are in one folder, those of a study that goes on for instance."""
    made = report(sorted(path.parent for path in (RESULTS / name).glob("*/results.json")))
    return made.scores(made.sections[0], details=True).markdown


TABLES: dict[str, Callable[[], str]] = {
    "architecture": lambda: architecture_markdown(read_json(RESULTS / "architecture.json")),
    "bands": lambda: band_table().markdown,
    "busy": lambda: busy_markdown(read_json(RESULTS / "busy.json")),
    "claim": lambda: folder("claim"),
    "claim-answer": lambda: claim_table(RESULTS / "leftout"),
    "bands-41": lambda: matched_table(41).markdown,
    "compare-methods": lambda: study.table(rows("compare-methods")).markdown,
    "compare-methods-full": lambda: study.against_full(rows("compare-methods")).markdown,
    "compare-transfer": lambda: study.table(rows("compare-transfer")).markdown,
    "data": lambda: folder("data"),
    "label-noise": lambda: study.table(rows("label-noise")).markdown,
    "leftout": lambda: folder("leftout"),
    "peers": lambda: peers_markdown(read_json(RESULTS / "peers.json")),
    "runs": lambda: runs(0, details=True),
    "runs-without-details": lambda: runs(0, details=False),
    "runs-on-real-recordings": lambda: runs(1, details=False),
    "separation-3h": lambda: separation_markdown(read_json(RESULTS / "separation-3h.json")),
    "separation-live": lambda: separation_markdown(read_json(RESULTS / "separation-live.json")),
    "separation-memory": lambda: separation_markdown({**read_json(RESULTS / "separation.json"), "live": []}),
    "separation-shared": lambda: separation_markdown({**read_json(RESULTS / "separation.json"), "memory": []}),
    "step": lambda: step_markdown(read_json(RESULTS / "step.json")),
    "step-profile": lambda: profile_markdown(read_json(RESULTS / "step.json")),
    "transfer": lambda: transfer_markdown(read_json(RESULTS / "transfer.json")),
}


def filled(text: str, tables: dict[str, Callable[[], str]] = TABLES) -> str:
    """The text with the table of each marker. Raises `UserError` if a marker names no table."""

    def table(match: re.Match[str]) -> str:
        before, name, end = match.groups()
        if name not in tables:
            raise UserError(f"there is no table {name!r}.{nearest(name, tables)} Tables: {', '.join(tables)}.")
        return f"{before}\n{tables[name]().strip()}\n\n{end}"

    return MARKED.sub(table, text)


def documents() -> dict[Path, str]:
    """What each document should hold: those with markers, and the tables beside the measured studies."""
    texts = {path: filled(path.read_text()) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    for path in sorted(RESULTS.glob("*/study.json")):
        texts[path.with_suffix(".md")] = study.markdown(
            load_study(path.with_name("study.yaml"))[0], rows(path.parent.name)
        )
    return texts


if __name__ == "__main__":
    for path, text in documents().items():
        if text != path.read_text():
            write_text(path, text)
            print(f"Written: {path.relative_to(ROOT)}")
