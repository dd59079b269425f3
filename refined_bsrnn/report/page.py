"""The report as one static web page: tables, figures and players in a single file that needs no network.

HTML, style and script lie beside this module in ``page/``; here they are filled. Every number comes from `Report` and
the runs' results.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .listening import Item
from .published import protocols
from .results import Run, number
from .tables import (
    METRICS,
    MISSING,
    REFERENCES,
    VERSUS_COLUMNS,
    VERSUS_TEXT,
    Report,
    Row,
    Section,
    data_letters,
    decibels,
    n_without,
)

FOLDER = Path(__file__).parent / "page"
GROUPS = (
    "Single target, v7 bands",
    "Single target, generic bands",
    "Single target, other bands",
    "Several targets, one backbone",
    "Transferred heads",
    "Other systems",
    "For comparison",
)
STATISTICS = {
    "usdr": ("uSDR", "mean over tracks, dB"),
    "csdr": ("cSDR", "median over 1 s frames, then over tracks, dB"),
}
MORE = {  # metric → (name, statistic, unit, decimals)
    "si_sdr": ("SI-SDR", "mean", "dB", 2),
    "csdr_museval": ("cSDR, museval's rule for silent frames", "median", "dB", 2),
    "museval_sdr": ("museval SDR", "median", "dB", 2),
    "museval_isr": ("museval ISR", "median", "dB", 2),
    "museval_sir": ("museval SIR", "median", "dB", 2),
    "museval_sar": ("museval SAR", "median", "dB", 2),
    "silent_dbfs": ("Level where the reference is silent (lower is better)", "mean", "dBFS", 1),
    "bandwidth_hz": ("Bandwidth: 99 % of the energy lies below", "median", "Hz", 0),
}
SHOWN = ("estimate", *REFERENCES)
Cells = Mapping[tuple[str, str], list[str]]  # (run, one of SHOWN) → what is printed


def render(report: Report, figures: Mapping[str, tuple[Figure, str]], items: Sequence[Item]) -> str:
    """The page as text; ``figures`` are shown in their order."""
    parts: list[tuple[str, str, str]] = [("scores", "Scores", _scores(report))]
    if report.versus:
        parts.append(("differences", "Differences between runs", _versus(report)))
    if items:
        parts.append(("listen", "Listen", _players(items)))
    parts.append(("figures", "Figures", _figures(figures)))
    parts.append(("more", "More measurements", _more(report)))
    parts.append(("notes", "Notes", _list(report.notes)))
    sections = "\n".join(
        f'<section id="{name}" aria-labelledby="h-{name}">\n<h2 id="h-{name}">{title}</h2>\n{text}\n</section>'
        for name, title, text in parts
    )
    return _fill(
        (FOLDER / "page.html").read_text(encoding="utf-8"),
        title="Separation results",
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
        js=(FOLDER / "page.js").read_text(encoding="utf-8"),
        lede=_lede(report),
        nav="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in parts),
        sections=sections,
        listening=_json([_item(item) for item in items]),
    )


def _fill(template: str, **values: str) -> str:
    """The template with every ``{{name}}`` replaced, in one pass: what is filled in is never searched."""
    pieces = template.split("{{")
    text = pieces[0]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        text += values[name] + rest
    return text


def _json(values: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _list(texts: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def _lede(report: Report) -> str:
    runs, first = report.runs, report.runs[0].results
    data = first["data"]
    counts = ", ".join(f"{t} {most}" for t in report.targets if (most := _most_tracks(runs, t)))
    warnings = [note for note in report.notes if note.isupper() or note.split(" ")[0].isupper() or "SYNTHETIC" in note]
    warnings += [note for note in report.notes if "QUICK EVALUATION" in note or " TRACKS." in note]
    text = f'<p class="lede">{len(runs)} run{"s" * (len(runs) > 1)} on {escape(str(data.get("name")))}, split '
    text += f"{escape(first['split'])}. Tracks scored: {escape(counts)}. Mixture: {MIXTURES[data.get('mixture')]}. "
    text += "Higher is better unless said otherwise.</p>"
    return text + "".join(f'<p class="warning">{escape(w)}</p>' for w in dict.fromkeys(warnings))


MIXTURES = {
    "file": "the mixture file of each track",
    "sum": "the sum of each track's stems",
    "file+sum": "the mixture file of a track where it has one, else the sum of its stems",
    None: "not stated",
}


def _most_tracks(runs: Sequence[Run], target: str) -> int:
    return max(int(number(run.results["summary"], target, "n_tracks") or 0) for run in runs)


# --- tables -----------------------------------------------------------------------------------------------------------


def group_of(run: Run) -> str:
    """Which of `GROUPS` a run stands in."""
    kind, bands = run.results["kind"], str(run.results["model"].get("bands"))
    if kind == "single_target":
        return GROUPS[0] if bands == "v7" else GROUPS[1] if bands.startswith("tet") else GROUPS[2]
    return {"multi_target": GROUPS[3], "transfer": GROUPS[4]}.get(kind, GROUPS[5])


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {name: [] for name in GROUPS}
    for row in rows:
        groups[GROUPS[-1] if row.run is None else group_of(row.run)].append(row)
    return {name: members for name, members in groups.items() if members}


def _table(caption: str, header: Sequence[str], bodies: Mapping[str, Sequence[str]], name: str) -> str:
    """A table whose bodies are rows of HTML under a heading each (none for one without a name)."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    text = ""
    for group, rows in bodies.items():
        heading = f'<tr class="group"><th colspan="{len(header)}" scope="rowgroup">{escape(group)}</th></tr>'
        text += f"<tbody>{heading if group else ''}{''.join(rows)}</tbody>"
    table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>{text}</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{table}</div>'


def _tr(name: str, cells: Sequence[str], reference: bool = False) -> str:
    kind = ' class="reference"' if reference else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _td(text: str, kind: str = "") -> str:
    kind = kind or ("none" if text == MISSING else "")
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _scores(report: Report) -> str:
    text = '<p class="hint">Below each score: the 95 % interval of a bootstrap over tracks. <strong>Bold and '
    text += "underlined</strong>: the best of runs that may be compared.</p>"
    for section in report.sections:
        if section.label:
            pattern = f"<code>{escape(section.pattern or '')}</code>"
            text += f'<h3>{escape(section.label)}: tracks named {pattern}</h3><p class="hint">{section.counts}.</p>'
        for metric in METRICS:
            text += _score_table(report, section, metric)
    return text + _published_otherwise(report) + _runs_table(report) + _counts(report)


def _score_table(report: Report, section: Section, metric: str) -> str:
    name, statistic = STATISTICS[metric]
    bodies = {}
    for group, rows in _grouped(section.rows).items():
        bodies[group] = [
            _tr(row.label, [_score(row, target, metric) for target in report.targets], row.run is None) for row in rows
        ]
    if not section.label:
        bodies |= _published_rows(report, metric)
    caption = f"<b>{name}</b>, {statistic}"
    return _table(caption, ["run", *report.targets], bodies, f"{name} {section.label}")


def _score(row: Row, target: str, metric: str) -> str:
    cell = row.cells[target]
    value = getattr(cell, metric)
    if value is None:
        return _td(MISSING)
    text = decibels(value)
    text = f"<strong>{text}</strong>" if metric in cell.best else text
    interval = cell.interval(metric)
    return _td(f'{text}<span class="ci">{interval}</span>' if interval else text)


def _runs_table(report: Report) -> str:
    header = ["run", "bands (K)", "parameters trained", "steps", "training time", "trained on"]
    bodies: dict[str, list[str]] = {}
    for group, rows in _grouped(report.sections[0].rows).items():
        for row in rows:
            if row.run is None:
                continue
            kind, bands, parameters, steps, time = row.details
            device = str(row.run.results["training"].get("device") or MISSING)
            name = f"{row.label} ({kind})" if row.run.results.get("base") else row.label
            values = [bands, parameters, steps, time, device]
            bodies.setdefault(group, []).append(_tr(name, [_td(escape(value)) for value in values]))
    return _table("<b>What the runs are</b>; a transfer's cost is its own, without its base's", header, bodies, "runs")


def _published_rows(report: Report, metric: str) -> dict[str, list[str]]:
    """Published scores in this metric, a group per protocol; none is ever marked as best."""
    bodies = {}
    for protocol, rows in protocols([r for r in report.published if r.metric == metric], report.targets).items():
        cells = [(row.name, [_td(row.text(target)) for target in report.targets]) for row in rows]
        bodies[f"Published, not ranked. {protocol}"] = [_tr(name, texts, True) for name, texts in cells]
    return bodies


def _published_otherwise(report: Report) -> str:
    """Published scores by measures that are not computed here."""
    bodies = _published_rows(report, "other")
    if not bodies:
        return ""
    table = _table("dB; comparable within a group at most", ["system", *report.targets], bodies, "published otherwise")
    return f"<details><summary>Published by other measures</summary>{table}</details>"


def _versus(report: Report) -> str:
    rows = [
        _tr(v.texts[0], [_td(escape(t), "text" if i < 2 else "") for i, t in enumerate(v.texts[1:])])
        for v in report.versus
    ]
    return _table(escape(VERSUS_TEXT), VERSUS_COLUMNS, {"": rows}, "differences")


def _more(report: Report) -> str:
    text = ""
    for metric, (name, statistic, unit, decimals) in MORE.items():
        path = (metric, statistic)
        cells = {
            (run.name, source): [
                _decimals(number(run.results["summary"], target, source, *path), decimals) for target in report.targets
            ]
            for run in report.runs
            for source in SHOWN
        }
        table = _more_table(
            f"{statistic} over tracks, {unit}", ["run", *report.targets], report.runs, {"": cells}, name
        )
        text += f"<details><summary>{escape(name)}</summary>{table}</details>" if table else ""
    return text + _leakage(report)


def _leakage(report: Report) -> str:
    """Estimates and baselines of each target down, parts across."""
    summaries = {run.name: run.results["summary"] for run in report.runs}
    of = [
        s[what].get("leakage_db") or {} for x in summaries.values() for s in x.values() for what in s if what in SHOWN
    ]
    parts = list(dict.fromkeys(name for leaks in of for name in leaks))
    cells = {
        f": {target}": {
            (name, source): [_decimals(number(x, target, source, "leakage_db", part, "mean"), 1) for part in parts]
            for name, x in summaries.items()
            for source in SHOWN
        }
        for target in report.targets
    }
    caption = "How loud each other part still is in an estimate: mean over tracks, dB; 0 as loud as in the mixture"
    table = _more_table(caption, ["estimate", *parts], report.runs, cells, "leakage")
    return f"<details><summary>Leakage between targets</summary>{table}</details>" if table else ""


def _more_table(
    caption: str, header: Sequence[str], runs: Sequence[Run], groups: Mapping[str, Cells], name: str
) -> str:
    """A table of estimates and baselines, rows of dashes left out; empty where no row is left.

    ``groups`` maps what ends the names of rows to their cells.
    """
    lines = []
    for end, cells in groups.items():
        rows = [(run.name, cells[run.name, "estimate"], False) for run in runs]
        rows += [(label, texts, True) for label, texts in _baselines(runs, cells)]
        filled = [row for row in rows if set(row[1]) - {MISSING}]
        lines += [_tr(label + end, [_td(text) for text in texts], soft) for label, texts, soft in filled]
    return _table(caption, header, {"": lines}, name) if lines else ""


def _baselines(runs: Sequence[Run], cells: Cells) -> list[tuple[str, list[str]]]:
    """(label, cells) of doing nothing, silence and ideal masks: one row where all runs on the same data agree.

    Where they do not, as `csdr_museval` depends on a run's other targets, each run has rows of its own.
    """
    rows = []
    for source, label in REFERENCES.items():
        for letter, members in data_letters(runs).items():
            columns = [set(c) - {MISSING} for c in zip(*(cells[run.name, source] for run in members), strict=True)]
            if all(len(column) < 2 for column in columns):
                rows.append((f"{label} [{letter}]" if letter else label, [next(iter(c), MISSING) for c in columns]))
            else:
                rows += [(f"{run.name}, {label}", cells[run.name, source]) for run in members]
    return rows


def _decimals(value: float | None, n: int) -> str:
    return MISSING if value is None else f"{round(value, n) + 0.0:,.{n}f}"


COUNTS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "tracks scored": lambda s: number(s, "n_tracks"),
    "silent tracks left out": lambda s: number(s, "n_silent"),
    "tracks without cSDR": lambda s: number(s, "estimate", "csdr", "n_undefined"),
    "frames": lambda s: number(s, "estimate", "n_frames", "sum"),
    "frames left out": lambda s: number(s, "estimate", "n_frames_excluded", "sum"),
    "by museval's rule": lambda s: number(s, "estimate", "n_frames_excluded_museval", "sum"),
}


def _counts(report: Report) -> str:
    """What the scores do not include, always shown."""
    first, *others = COUNTS
    header, rows = ["run: target", first, "tracks without the stem", *others], []
    for run in report.runs:
        for target in run.targets:
            values = [count(run.results["summary"].get(target, {})) for count in COUNTS.values()]
            values.insert(1, n_without(run, target))
            rows.append(_tr(f"{run.name}: {target}", [_td(MISSING if v is None else f"{v:,.0f}") for v in values]))
    return _table("<b>What was scored and what was left out</b>", header, {"": rows}, "counts")


# --- players and figures ----------------------------------------------------------------------------------------------


def _players(items: Sequence[Item]) -> str:
    targets = list(dict.fromkeys(item.target for item in items))
    folds = ""
    for i, target in enumerate(targets):
        hint = f'<span class="hint">best, median and worst track of {escape(_first_run(items, target))}</span>'
        folds += f'<details data-target="{escape(target)}"{"" if i else " open"}>'
        folds += f"<summary>{escape(target)} {hint}</summary></details>"
    return (
        '<p class="hint">All sources of a track run together; switching is immediate. Keys, inside a track: '
        "<kbd>Space</kbd> play or pause, <kbd>1</kbd> to <kbd>9</kbd> switch, <kbd>,</kbd> <kbd>.</kbd> one second "
        "back or on; arrow keys on list and slider. A click into a spectrogram (50 Hz to 16 kHz) goes there. "
        "The uSDR is that of the whole track.</p>"
        '<div class="settings"><label><input type="checkbox" id="matched" checked> Play everything equally loud '
        "(-23 dBFS RMS; all of a track less where one would clip)</label></div>"
        '<noscript><p class="warning">Listening needs JavaScript.</p></noscript>'
        f'<div id="players">{folds}</div>'
    )


def _first_run(items: Sequence[Item], target: str) -> str:
    return next(item for item in items if item.target == target).sources[2].name


def _item(item: Item) -> dict[str, Any]:
    return {
        "target": item.target,
        "track": item.track,
        "which": item.which,
        "start": item.start_seconds,
        "seconds": item.seconds,
        "sources": [source.values() for source in item.sources],
    }


def _figures(figures: Mapping[str, tuple[Figure, str]]) -> str:
    text = ""
    for name, (figure, caption) in figures.items():
        picture = base64.b64encode(_svg(figure)).decode()
        wide = ' class="wide"' if figure.get_size_inches()[0] > 9 else ""
        text += f'<figure{wide} id="figure-{escape(name)}"><img alt="{escape(caption)}" '
        text += f'src="data:image/svg+xml;base64,{picture}"><figcaption>{escape(caption)}</figcaption></figure>'
    return f'<div class="figures">{text}</div>'


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "refined_bsrnn"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
