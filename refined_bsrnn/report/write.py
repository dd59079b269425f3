"""The comparison of many evaluated runs: a web page with players, Markdown, CSV and figures.

All numbers come from each run's ``results.json`` and ``metrics.jsonl`` (`results`); `tables` decides which runs may be
ranked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..system import write_text
from .charts import all_figures, training_curves
from .figures import save
from .page import render
from .players import listening_items
from .published import PUBLISHED
from .results import Run, read_runs, summaries
from .tables import Report, build


def report(
    run_folders: Sequence[Path],
    out: Path | None = None,
    groups: Mapping[str, str] | None = None,
    published: bool = False,
    audio: bool = True,
) -> Report:
    """Runs side by side, in the order given, with what mixture, silence and ideal masks would score beside them.

    ``groups`` maps a label to a glob on track names: each adds a section scored on those tracks alone. ``published``
    adds the numbers of papers, each marked with its protocol and never ranked. With ``out`` the folder gets
    ``index.html`` (one file, no network), ``report.md``, ``report.csv``, ``scores.csv`` and every figure as PNG and
    SVG; ``audio=False`` leaves out the players.

    Raises `UserError` for a folder that does not exist, a run that was not evaluated, an unreadable or newer file.
    """
    runs = read_runs(run_folders)
    made = build(runs, groups or {}, PUBLISHED if published else ())
    if out is None:
        curve_notes = training_curves(runs)[3]
        return replace(made, notes=(*made.notes, *curve_notes))
    return _write(made, runs, out, audio)


def _write(made: Report, runs: Sequence[Run], out: Path, audio: bool) -> Report:
    figures, figure_notes = all_figures(runs, made.targets)
    items, item_notes = listening_items(runs, made.targets) if audio else ([], [])
    made = replace(made, notes=(*made.notes, *figure_notes, *item_notes))
    pictures = [
        save(figure, out / f"{name}.{kind}") for name, (figure, _) in figures.items() for kind in ("png", "svg")
    ]
    shown = "".join(f"\n![{text}]({name}.png)\n" for name, (_, text) in figures.items())
    write_text(out / "report.md", made.markdown + shown)
    write_text(out / "report.csv", made.csv)
    write_text(out / "scores.csv", summaries(runs).to_csv(index=False, lineterminator="\n"))
    write_text(out / "index.html", render(made, figures, items))
    files = [out / name for name in ("index.html", "report.md", "report.csv", "scores.csv")]
    return replace(made, files=(*files, *pictures))
