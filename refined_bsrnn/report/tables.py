"""Tables that compare evaluated runs: data frames, and the tables that show them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from ..evaluation.stats import compare
from .comparable import (
    CELL,
    CSV_SCORES,
    METRICS,
    NAMES,
    REFERENCES,
    base_of,
    data_letters,
    matching,
    rivals,
    same_ground,
    scored,
    scores_of,
    span,
    with_target,
)
from .notes import notes_on
from .published import Published, protocols
from .results import Run, number
from .table import MISSING, Column, Record, Table, escaped, interval_text, text_of

DETAILS = (
    Column("kind", "kind in words"),
    Column("bands (K)", "bands (K)"),
    Column("trainable parameters", "trainable_parameters", ",.0f"),
    Column("steps", "steps", ",.0f"),
    Column("training time (h:mm:ss)", lambda record: duration(record["training_seconds"]), ">"),
)
CSV_DETAILS = ("kind", "base", "bands", "n_bands", "trainable_parameters", "steps", "training_seconds", "device")


# --- scores -----------------------------------------------------------------------------------------------------------


def section_frame(
    runs: Sequence[Run], targets: Sequence[str], data: Mapping[str, Sequence[Run]], pattern: str | None
) -> pd.DataFrame:
    """A record per run with its best marked, then one per reference and data set.

    References have scores for the targets on which the runs on that data agree.
    """
    letters = {run.name: letter for letter, same in data.items() for run in same}
    records = []
    for run in runs:
        scores = [scores_of(run, target, "estimate", pattern) for target in targets]
        records.append(_named(run.name, letters[run.name]) | details(run) | _merged(scores) | {"best": set()})
    for target in targets:
        for same in data.values():
            _mark_best(records, with_target(same, target), target, pattern)
    for letter, source in ((letter, source) for letter in data for source in REFERENCES):
        if any(run.results["summary"].get(t, {}).get(source) for run in data[letter] for t in run.targets):
            scores = []
            for target in targets:
                same = with_target(data[letter], target)
                agreed = same and same_ground(same, target, pattern)
                none = {f"{target}_n_tracks": 0}
                scores.append(scores_of(same[0], target, source, pattern) if agreed else none)
            of_all = {"group": GROUPS[-1], "soft": True, "best": set()}
            records.append(_named(REFERENCES[source], letter) | _merged(scores) | of_all)
    return pd.DataFrame(records, dtype=object)


def _named(name: str, letter: str) -> dict[str, Any]:
    return {"data": letter, "row": name, "label": f"{name} [{letter}]" if letter else name, "soft": False}


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _mark_best(records: Sequence[dict[str, Any]], same: Sequence[Run], target: str, pattern: str | None) -> None:
    """Mark the best of at least two comparable runs per metric; equal to the printed digit is equally good."""
    names = {run.name for run in same}
    if len(names) < 2 or not same_ground(same, target, pattern):
        return
    for key in (f"{target}_{metric}_{statistic}" for metric, statistic in METRICS.items()):
        rounded = [(round(r[key], 2), r) for r in records if r["row"] in names and r[key] is not None]
        top = max((value for value, _ in rounded), default=None)
        for value, record in rounded:
            if value == top:
                record["best"].add(key)


# --- what a run is ----------------------------------------------------------------------------------------------------

GROUPS = (
    "Single target, v7 bands",
    "Single target, generic bands",
    "Single target, other bands",
    "Several targets, one backbone",
    "Transferred heads",
    "Other systems",
    "For comparison",
)
DETAIL_TEXTS = ("kind in words", "bands (K)")


def group_of(run: Run) -> str:
    """The group in `GROUPS` that a run belongs to."""
    kind, bands = run.results["kind"], str(run.results["model"].get("bands"))
    if kind == "single_target":
        return GROUPS[0] if bands == "v7" else GROUPS[1] if bands.startswith("tet") else GROUPS[2]
    return {"multi_target": GROUPS[3], "transfer": GROUPS[4]}.get(kind, GROUPS[5])


def details(run: Run) -> dict[str, Any]:
    """`CSV_DETAILS`, the same in words, and the group of a run."""
    results, model, training = run.results, run.results["model"], run.results["training"]
    words = results["kind"].replace("_", "-") + (f" from {base_of(run)}" if base_of(run) else "")
    words += f", {results['method']}" if results.get("method") not in (None, "frozen") else ""
    n_bands = number(model, "n_bands")
    bands = str(model.get("bands") or MISSING) + ("" if n_bands is None else f" ({n_bands:g})")
    of_network = (model.get("bands"), n_bands, number(model, "trainable_parameters"))
    of_training = (number(training, "steps"), number(training, "seconds"), training.get("device"))
    named = dict(zip(CSV_DETAILS, (results["kind"], base_of(run), *of_network, *of_training), strict=True))
    return named | dict(zip(DETAIL_TEXTS, (words, bands), strict=True)) | {"group": group_of(run)}


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as h:mm:ss."""
    if seconds is None or math.isnan(seconds):
        return MISSING
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """Records scored on the same tracks: all of them (no label), or a group whose names fit the glob ``pattern``."""

    label: str
    pattern: str | None
    counts: str
    frame: pd.DataFrame


VERSUS_TEXT = (
    "Per track, on the tracks both have a score for; intervals by bootstrap over tracks (10,000 draws); p by "
    "Wilcoxon's signed-rank test, two-sided, not corrected for several comparisons. Each run is one training: "
    "nothing here speaks of seeds."
)


def _mean_text(r: Record) -> str:
    ends = r["mean_95"]
    return text_of(r["mean"], ".2f") + (f" [{text_of(ends[0], '.2f')}, {text_of(ends[1], '.2f')}]" if ends else "")


def _won_text(r: Record) -> str:
    return f"{r['n_better']} of {r['n']}" + (f" ({r['n_left_out']} left out)" if r["n_left_out"] else "")


def _p_text(r: Record) -> str:
    return "< 0.001" if r["p"] is not None and r["p"] < 0.001 else text_of(r["p"], ".3f")


VERSUS_COLUMNS = (
    Column("target", "target"),
    Column("difference", lambda r: f"{r['a']} − {r['b']}"),
    Column("metric", lambda r: NAMES[r["metric"]]),
    Column("mean [95 %] (dB)", _mean_text, ">"),
    Column("median (dB)", "median", ".2f"),
    Column("better on", _won_text, ">"),
    Column("p (signed rank)", _p_text, ">"),
)


@dataclass(frozen=True)
class Report:
    """Side-by-side results. Sections share ``targets`` as columns; ``notes`` say what the numbers are."""

    targets: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    versus: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: tuple[Published, ...] = ()
    files: tuple[Path, ...] = ()

    def scores(self, section: Section, details: bool) -> Table:
        """uSDR and cSDR of a section side by side, with or without the details of the runs."""
        pairs = [(t, tuple(f"{t}_{m}_{s}" for m, s in METRICS.items())) for t in self.targets]
        columns = [Column(f"{target}\n{CELL}", keys, ".2f") for target, keys in pairs]
        return Table(section.frame, [Column("run", "label"), *columns, *(DETAILS if details else ())])

    def intervals(self, section: Section) -> Table:
        """The 95 % intervals of a section, of the records that have one."""
        columns = [_interval_column(t, metric) for t in self.targets for metric in METRICS]
        has = [any(column.cell(r).texts != (MISSING,) for column in columns) for r in section.frame.to_dict("records")]
        return Table(section.frame[has], [Column("run", "label"), *columns])

    @cached_property
    def differences(self) -> Table:
        """Every pair of runs that may be compared, per target and metric, as paired differences over tracks."""
        return Table(self.versus, VERSUS_COLUMNS, VERSUS_TEXT, "differences")

    @property
    def markdown(self) -> str:
        """One table per section and the notes; the best of several comparable runs is bold."""
        blocks = ["# Results", "Scores in dB: uSDR mean / cSDR median over tracks; higher is better."]
        for section in self.sections:  # what the runs are stands in the first one
            title = f"{escaped(section.label)}: tracks named `{section.pattern}`" if section.label else "All tracks"
            table = self.scores(section, details=not section.label)
            blocks += [f"## {title}", f"{escaped(section.counts)}.", table.markdown]
        for section in self.sections:
            table = self.intervals(section)
            if len(table.frame):
                title = f"## 95 % intervals{f', {escaped(section.label)}' if section.label else ''}"
                blocks += [title, "By bootstrap over tracks, in dB.", table.markdown]
        if len(self.versus):
            blocks += ["## Differences between runs", VERSUS_TEXT, self.differences.markdown]
        for protocol, rows in protocols(self.published, self.targets).items():
            targets = list(dict.fromkeys(target for row in rows for target in row.scores))
            frame = pd.DataFrame([{"row": row.name} | {t: row.text(t) for t in targets} for row in rows])
            table = Table(frame, [Column("published", "row"), *(Column(t, t, ">") for t in targets)])
            blocks += [f"## Published: {escaped(protocol)}", "Not measured here and not ranked.", table.markdown]
        blocks += ["## Notes", "\n".join(f"- {escaped(note)}" for note in self.notes)]
        return "\n\n".join(blocks) + "\n"

    @property
    def frame(self) -> pd.DataFrame:
        """One line per section and row, for programs: numbers as they are printed, seconds."""
        frames = [section.frame.assign(section=section.label or "all") for section in self.sections]
        scores = [f"{target}_{what}" for target in self.targets for what in CSV_SCORES]
        whole = pd.concat(frames)[["section", "data", "row", *CSV_DETAILS, *scores]].reset_index(drop=True)
        decimals = [key for key in [*scores, "training_seconds"] if not key.endswith("n_tracks")]
        whole[decimals] = whole[decimals].astype(float).round(2) + 0.0
        counts = ["n_bands", "trainable_parameters", "steps"]
        whole[counts] = whole[counts].astype("Int64")
        return whole

    @property
    def csv(self) -> str:
        """`frame`, with an empty field where something is missing."""
        return self.frame.to_csv(index=False, float_format="%.2f", lineterminator="\n")

    def rich_table(self) -> Group:
        """For a terminal: the scores, below them the details of the runs (next to them would be too wide), the
        notes.
        """
        first, *others = self.sections
        titled = [s.frame.assign(group=f"{s.label}: {s.counts}") for s in others]
        frame = pd.concat([first.frame.assign(group=""), *titled])
        scores = self.scores(Section("", None, "", frame), details=False)
        runs = Table(first.frame[~first.frame["soft"].astype(bool)].assign(group=""), [scores.columns[0], *DETAILS])
        counts = f"Results in dB, uSDR mean / cSDR median over {first.counts}"
        return Group(Text(counts, style="italic"), scores.rich, runs.rich, Text("\n".join(self.notes)))


def _interval_column(target: str, metric: str) -> Column:
    low, high = (f"{target}_{metric}_{end}" for end in ("low", "high"))
    return Column(f"{target} {NAMES[metric]}", lambda r: interval_text(r[low], r[high]) or MISSING, ">")


def build(runs: Sequence[Run], groups: Mapping[str, str], published: Sequence[Published] = ()) -> Report:
    """The tables of runs; ``groups`` maps a label to a glob on track names."""
    targets = tuple(dict.fromkeys(target for run in runs for target in run.targets))
    data = data_letters(runs)
    named = [(label, pattern) for label, pattern in groups.items() if any(matching(run, pattern) for run in runs)]
    sections = [
        Section(label, pattern, track_counts(runs, targets, pattern), section_frame(runs, targets, data, pattern))
        for label, pattern in [("", None), *named]
    ]
    notes = notes_on(runs, targets, data)
    empty = [(label, pattern) for label, pattern in groups.items() if (label, pattern) not in named]
    notes += [f"No track is named {pattern}: there is no section {label!r}." for label, pattern in empty]
    return Report(targets, tuple(sections), tuple(notes), tuple(runs), comparisons(runs), tuple(published))


def comparisons(runs: Sequence[Run]) -> pd.DataFrame:
    """Every pair of runs that may be compared, per target and metric: a, b, target, metric and a `Comparison`."""
    found = []
    for a, b, targets in rivals(runs):
        for target, metric in ((target, metric) for target in targets for metric in METRICS):
            ours, theirs = ({n: number(e, "estimate", metric) for n, e in scored(r, target).items()} for r in (a, b))
            result = compare(ours, theirs)
            if result:
                found.append({"a": a.name, "b": b.name, "target": target, "metric": metric, **asdict(result)})
    return pd.DataFrame(found, dtype=object)


def track_counts(runs: Sequence[Run], targets: Sequence[str], pattern: str | None) -> str:
    """The number of tracks and, if not all of them could be scored, the number of scored ones."""
    n_tracks = span(len(matching(run, pattern)) for run in runs)
    counts = {t: span(len(scored(run, t, pattern)) for run in with_target(runs, t)) for t in targets}
    fewer = [f"{target} scored on {n}" for target, n in counts.items() if n != n_tracks]
    return ", ".join([f"{n_tracks} track{'' if n_tracks == '1' else 's'}", *fewer])
