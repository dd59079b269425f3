"""The report as one static web page: tables, figures and players in a single file that needs no network.

``page/page.html`` is the template; this module contains the tables that only the page has. Every number comes from
`Report` and the runs' results.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from .comparable import METRICS, NAMES, REFERENCES, data_letters
from .notes import n_without
from .players import Item
from .published import protocols
from .results import Run, number, summaries
from .table import Column, Table
from .tables import DETAILS, GROUPS, Report, Section

FOLDER = Path(__file__).parent / "page"
STATISTICS = {"usdr": "mean over tracks, dB", "csdr": "median over 1 s frames, then over tracks, dB"}
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
LEAKAGE = "How loud each other part still is in an estimate: mean over tracks, dB; 0 as loud as in the mixture"
MIXTURES = {
    "file": "the mixture file of each track",
    "sum": "the sum of each track's stems",
    "file+sum": "the mixture file of a track where it has one, else the sum of its stems",
    None: "not stated",
}


def render(report: Report, figures: Mapping[str, tuple[Figure, str]], items: Sequence[Item]) -> str:
    """The page as text; ``figures`` are shown in their order."""
    loader = jinja2.FileSystemLoader(FOLDER, encoding="utf-8")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return template.get_template("page.html").render(
        report=report,
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
        js=(FOLDER / "page.js").read_text(encoding="utf-8"),
        data=report.runs[0].results["data"],
        mixture=MIXTURES[report.runs[0].results["data"].get("mixture")],
        tracks={t: n for t in report.targets if (n := _most_tracks(report.runs, t))},
        warnings=[note for note in dict.fromkeys(report.notes) if _warns(note)],
        scores=[(section, [score_table(report, section, metric) for metric in METRICS]) for section in report.sections],
        otherwise=_otherwise(report),
        what_runs_are=runs_table(report),
        counts=counts_table(report.runs),
        further=list(further_tables(report)),
        players=_players(items),
        figures=[_figure(name, *drawn) for name, drawn in figures.items()],
        listening=items,
    )


def _warns(note: str) -> bool:
    shouted = note.split(" ")[0].isupper() or any(word in note for word in ("SYNTHETIC", "QUICK EVALUATION"))
    return shouted or " TRACKS." in note


def _most_tracks(runs: Sequence[Run], target: str) -> int:
    return max(int(number(run.results["summary"], target, "n_tracks") or 0) for run in runs)


def _players(items: Sequence[Item]) -> dict[str, str]:
    """Target → the run by whose scores its tracks were chosen."""
    named: dict[str, str] = {}
    for item in items:
        named.setdefault(item["target"], item["sources"][2]["name"])
    return named


def _figure(name: str, figure: Figure, caption: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "refined_bsrnn"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    picture = base64.b64encode(buffer.getvalue()).decode()
    return {"name": name, "caption": caption, "wide": figure.get_size_inches()[0] > 9, "svg": picture}


# --- tables -----------------------------------------------------------------------------------------------------------


def _grouped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("group", key=lambda group: group.map(GROUPS.index), kind="stable")


def score_table(report: Report, section: Section, metric: str) -> Table:
    """One metric of a section, rows in groups; published scores in this metric are below, never marked as best."""
    keys = {target: f"{target}_{metric}_{METRICS[metric]}" for target in report.targets}
    ends = {target: (f"{target}_{metric}_low", f"{target}_{metric}_high") for target in report.targets}
    frame, columns = _grouped(section.frame), [Column(t, keys[t], ".2f", ends[t]) for t in report.targets]
    if not section.label:
        frame = pd.concat([frame, _published(report, metric, keys)])
    name = f"{NAMES[metric]} {section.label}"
    return Table(frame, [Column("run", "label"), *columns], STATISTICS[metric], name, title=NAMES[metric])


def _published(report: Report, metric: str, keys: Mapping[str, str]) -> pd.DataFrame:
    """Published scores in a metric, a group per protocol, as records of a table of scores."""
    found = protocols([row for row in report.published if row.metric == metric], report.targets)
    fixed: dict[str, Any] = {"soft": True, "best": ()}
    records = [
        {"label": row.name, "group": f"Published, not ranked. {protocol}"}
        | {key: row.text(target) for target, key in keys.items()}
        for protocol, rows in found.items()
        for row in rows
    ]
    return pd.DataFrame([record | fixed for record in records], dtype=object)


def _otherwise(report: Report) -> Table:
    """Published scores by metrics that are not computed here."""
    columns = [Column("system", "label"), *(Column(target, target, ">") for target in report.targets)]
    frame = _published(report, "other", {target: target for target in report.targets})
    return Table(frame, columns, "dB; comparable within a group at most", "published otherwise")


def runs_table(report: Report) -> Table:
    """The settings and the cost of the runs."""
    frame = report.sections[0].frame
    columns = [
        Column("run", lambda r: f"{r['label']} ({r['kind in words']})" if r["base"] else r["label"]),
        DETAILS[1],
        Column("parameters trained", "trainable_parameters", ",.0f"),
        *(Column(title, DETAILS[i].key, ",.0f") for title, i in (("steps", 3), ("training time", 4))),
        Column("trained on", "device"),
    ]
    caption = "a transfer's cost is its own, without its base's"
    return Table(_grouped(frame[~frame["soft"].astype(bool)]), columns, caption, "runs", title="What the runs are")


COUNTS = {
    "silent tracks left out": ("n_silent",),
    "tracks without cSDR": ("estimate", "csdr", "n_undefined"),
    "frames": ("estimate", "n_frames", "sum"),
    "frames left out": ("estimate", "n_frames_excluded", "sum"),
    "by museval's rule": ("estimate", "n_frames_excluded_museval", "sum"),
}


def counts_table(runs: Sequence[Run]) -> Table:
    """The items that the scores do not include."""
    records = []
    for run, target in ((each, target) for each in runs for target in each.targets):
        summary = run.results["summary"].get(target, {})
        first = {"tracks scored": number(summary, "n_tracks"), "tracks without the stem": n_without(run, target)}
        records.append(
            {"run: target": f"{run.name}: {target}"} | first | {k: number(summary, *path) for k, path in COUNTS.items()}
        )
    frame = pd.DataFrame(records, dtype=object)
    columns = [Column(key, key, ",.0f" if i else "") for i, key in enumerate(frame)]
    return Table(frame, columns, name="counts", title="What was scored and what was left out")


def further_tables(report: Report) -> Iterator[tuple[str, Table]]:
    """(title, table) of every other measurement that some run has, estimates before the baselines."""
    figures = summaries(report.runs)
    figures = figures[figures["source"].isin(["estimate", *REFERENCES])]
    for metric, (name, statistic, unit, decimals) in MORE.items():
        chosen = figures[(figures["metric"] == metric) & (figures["statistic"] == statistic)]
        wide = chosen.pivot(index=["source", "run"], columns="target", values="value")
        frame = _with_baselines(wide.reindex(columns=list(report.targets)), report.runs, decimals)
        if len(frame):
            columns = [Column(target, target, f",.{decimals}f") for target in report.targets]
            yield name, Table(frame, [Column("run", "label"), *columns], f"{statistic} over tracks, {unit}", name)
    leaks = figures[figures["metric"].str.startswith("leakage_db ") & (figures["statistic"] == "mean")]
    leaks = leaks.assign(part=leaks["metric"].str.removeprefix("leakage_db "))
    parts, frames = list(dict.fromkeys(leaks["part"])), []
    for target in report.targets if parts else ():
        wide = leaks[leaks["target"] == target].pivot(index=["source", "run"], columns="part", values="value")
        frame = _with_baselines(wide.reindex(columns=parts), report.runs, 1)
        frames.append(frame.assign(label=frame["label"] + f": {target}"))
    if frames:
        columns = [Column("estimate", "label"), *(Column(part, part, ",.1f") for part in parts)]
        yield "Leakage between targets", Table(pd.concat(frames), columns, LEAKAGE, "leakage")


def _with_baselines(wide: pd.DataFrame, runs: Sequence[Run], decimals: int) -> pd.DataFrame:
    """Estimates, then doing nothing, silence and ideal masks: one row where all runs on the same data agree.

    Where they do not, as `csdr_museval` depends on a run's other targets, each run has rows of its own. ``wide`` holds
    values by (source, run); lines without any are left out.
    """
    values, lines = wide.astype(float), []
    for source, label in {"estimate": "", **REFERENCES}.items():
        for letter, members in data_letters(runs).items() if label else {"": runs}.items():
            names = [run.name for run in members if (source, run.name) in values.index]
            rows = values.loc[[(source, name) for name in names]].set_axis(names)
            if label and (rows.round(decimals).nunique() < 2).all():
                rows = rows.bfill().head(1).set_axis([f"{label} [{letter}]" if letter else label][: len(rows)])
            elif label:
                rows = rows.set_axis([f"{name}, {label}" for name in names])
            lines.append(rows.assign(soft=bool(label)))
    frame = pd.concat(lines).dropna(how="all", subset=list(wide.columns))
    return frame.rename_axis(index=None, columns=None).reset_index(names="label").astype(object)
