"""Tables of evaluated runs side by side.

Runs are ranked against each other only where that is fair: the same data (by fingerprint), split, protocol, and for
each target the same scored tracks.
"""

import csv
import fnmatch
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..evaluation.stats import Comparison, compare, interval
from .published import Published, protocols
from .results import Run, number

MISSING = "–"
METRICS = {
    "usdr": "mean",
    "csdr": "median",
}  # what the table shows: the mean of uSDR and the median of cSDR over tracks
REFERENCES = {
    "mixture": "mixture (do nothing)",
    "silence": "silence",
    "ratio_mask": "ideal ratio mask (ceiling)",
    "complex_mask": "ideal complex mask (ceiling)",
}
CELL = "uSDR / cSDR"
METRIC_NAMES = {"usdr": "uSDR", "csdr": "cSDR"}
DETAILS = ("kind", "bands (K)", "trainable parameters", "steps", "training time (h:mm:ss)")


# --- the pieces of a report -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Scores in dB of one row on one target; ``best`` names the metrics in which no comparable run does better."""

    usdr: float | None = None
    csdr: float | None = None
    n_tracks: int = 0
    best: frozenset[str] = frozenset()
    sure: Mapping[str, Sequence[float] | None] = field(default_factory=dict)  # metric → its 95 % interval over tracks

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """What is printed, piece by piece, each with whether it is bold."""
        if self.usdr is None and self.csdr is None:
            return [(MISSING, False)]
        return [(decibels(self.usdr), "usdr" in self.best), (" / ", False), (decibels(self.csdr), "csdr" in self.best)]

    def interval(self, metric: str) -> str:
        """As ``low to high``; empty where there is none, or where all tracks score the same (silence)."""
        ends = self.sure.get(metric)
        return f"{decibels(ends[0])} to {decibels(ends[1])}" if ends and ends[0] < ends[1] else ""


@dataclass(frozen=True)
class Row:
    """A line of the table: a run, or what mixture or silence would score in its place (``run`` is None)."""

    name: str
    data: str
    cells: Mapping[str, Cell]
    run: Run | None = None

    @property
    def label(self) -> str:
        return f"{self.name} [{self.data}]" if self.data else self.name

    @property
    def details(self) -> list[str]:
        return [MISSING] * len(DETAILS) if self.run is None else _details(self.run)


@dataclass(frozen=True)
class Section:
    """Rows scored on the same tracks: all of them (no label), or a group whose names fit the glob ``pattern``."""

    label: str
    pattern: str | None
    counts: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Versus:
    """Two runs on one target, in one metric, track by track."""

    a: str
    b: str
    target: str
    metric: str
    found: Comparison

    @property
    def texts(self) -> list[str]:
        """Target, what is compared, metric, mean difference with interval, median, tracks won, p."""
        f = self.found
        interval = f" [{decibels(f.mean_95[0])}, {decibels(f.mean_95[1])}]" if f.mean_95 else ""
        left_out = f" ({f.n_left_out} left out)" if f.n_left_out else ""
        p = MISSING if f.p is None else "< 0.001" if f.p < 0.001 else f"{f.p:.3f}"
        won = f"{f.n_better} of {f.n}{left_out}"
        name = METRIC_NAMES[self.metric]
        return [self.target, f"{self.a} − {self.b}", name, f"{decibels(f.mean)}{interval}", decibels(f.median), won, p]


VERSUS_COLUMNS = ("target", "difference", "metric", "mean [95 %] (dB)", "median (dB)", "better on", "p (signed rank)")


@dataclass(frozen=True)
class Report:
    """Side-by-side results. Sections share ``targets`` as columns; ``notes`` say what the numbers are."""

    targets: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    versus: tuple[Versus, ...] = ()
    published: tuple[Published, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def markdown(self) -> str:
        """One table per section and the notes; the best of several comparable runs is bold."""
        blocks = ["# Results", "Scores in dB: uSDR mean / cSDR median over tracks; higher is better."]
        for section in self.sections:
            title = f"{_escape(section.label)}: tracks named `{section.pattern}`" if section.label else "All tracks"
            blocks += [f"## {title}", f"{_escape(section.counts)}.", _markdown_table(section, self.targets)]
        for section in self.sections:
            blocks += _markdown_intervals(section, self.targets)
        if self.versus:
            lines = [list(VERSUS_COLUMNS), ["---", "---", "---", *["---:"] * 4]]
            lines += [[_escape(text) for text in v.texts] for v in self.versus]
            blocks += ["## Differences between runs", VERSUS_TEXT, _lines(lines)]
        for protocol, rows in protocols(self.published, self.targets).items():
            targets = list(dict.fromkeys(target for row in rows for target in row.scores))
            lines = [["published", *targets], ["---", *["---:"] * len(targets)]]
            lines += [[_escape(row.name), *(row.text(t) for t in targets)] for row in rows]
            blocks += [f"## Published: {_escape(protocol)}", "Not measured here and not ranked.", _lines(lines)]
        blocks += ["## Notes", "\n".join(f"- {_escape(note)}" for note in self.notes)]
        return "\n\n".join(blocks) + "\n"

    @property
    def csv(self) -> str:
        """One line per section and row, for programs: plain numbers, seconds, an empty field where one is missing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        scores = [f"{target}_{what}" for target in self.targets for what in CSV_SCORES]
        writer.writerow(["section", "data", "row", *CSV_DETAILS, *scores])
        for section in self.sections:
            for row in section.rows:
                writer.writerow(
                    [section.label or "all", row.data, row.name, *_csv_details(row), *_csv_scores(row, self)]
                )
        return text.getvalue()

    def rich_table(self) -> Table:
        """For a terminal: the scores, below them what the runs are (side by side would be too wide), the notes."""
        counts = Text(f"Results in dB, uSDR mean / cSDR median over {self.sections[0].counts}", style="italic")
        grid = Table.grid()
        for part in (counts, _rich_scores(self), _rich_runs(self.sections[0]), Text("\n".join(self.notes))):
            grid.add_row(part)
        return grid


def build(runs: Sequence[Run], groups: Mapping[str, str], published: Sequence[Published] = ()) -> Report:
    """The tables of runs; ``groups`` maps a label to a glob on track names."""
    targets = tuple(dict.fromkeys(target for run in runs for target in run.targets))
    data = data_letters(runs)
    sections, notes = [section(runs, targets, data, "", None)], _notes(runs, targets, data)
    for label, pattern in groups.items():
        if any(_matching(run, pattern) for run in runs):
            sections.append(section(runs, targets, data, label, pattern))
        else:
            notes.append(f"No track is named {pattern}: there is no section {label!r}.")
    return Report(targets, tuple(sections), tuple(notes), tuple(runs), tuple(comparisons(runs)), tuple(published))


def long_csv(runs: Sequence[Run]) -> str:
    """Every figure of every summary, one per line, unrounded, for programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "target", "source", "metric", "statistic", "value"])
    for run in runs:
        for target, summary in run.results["summary"].items():
            for path, value in _leaves(summary):
                source = path[0] if len(path) > 1 else ""
                metric, statistic = (" ".join(path[1:-1]), path[-1]) if source else (path[0], "")
                writer.writerow([run.name, target, source, metric, statistic, "" if value is None else value])
    return text.getvalue()


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, list):
            yield from ((((*path, f"{key}_{end}")), x) for end, x in zip(("low", "high"), value, strict=True))
        else:
            yield (*path, key), value


# --- scores -----------------------------------------------------------------------------------------------------------


def _matching(run: Run, pattern: str | None) -> list[Mapping[str, Any]]:
    """The run's tracks whose name fits the glob; all of them without one."""
    return [track for track in run.results["tracks"] if pattern is None or fnmatch.fnmatchcase(track["track"], pattern)]


def scored(run: Run, target: str, pattern: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Track name → scores for the tracks on which the target is heard (nothing can be scored on a silent reference)."""
    entries = {track["track"]: track["targets"].get(target) for track in _matching(run, pattern)}
    return {name: entry for name, entry in entries.items() if entry and not entry.get("reference_silent")}


def _cell(run: Run, target: str, what: str, pattern: str | None) -> Cell:
    """Scores of ``what`` (estimate, mixture or silence): the run's own summary, or the same made from a group."""
    entries = scored(run, target, pattern)
    sure: dict[str, Sequence[float] | None]
    if pattern is None:
        summary = run.results["summary"].get(target, {}).get(what, {})
        values = {metric: number(summary, metric, statistic) for metric, statistic in METRICS.items()}
        sure = {m: summary[m].get(f"{statistic}_95") for m, statistic in METRICS.items() if summary.get(m)}
    else:
        per_track = {m: [number(entry, what, m) for entry in entries.values()] for m in METRICS}
        defined = {m: [value for value in column if value is not None] for m, column in per_track.items()}
        values = {m: getattr(statistics, METRICS[m])(column) if column else None for m, column in defined.items()}
        sure = {metric: interval(column, METRICS[metric]) for metric, column in defined.items()}
    return Cell(values["usdr"], values["csdr"], len(entries), sure=sure)


def same_ground(runs: Sequence[Run], target: str, pattern: str | None = None) -> bool:
    """Whether runs on the same data were scored on the same tracks and the same references of a target.

    "Everything else" differs with a run's other targets, and then so do the mixture's scores against it.
    """
    first, *others = [
        (scored(run, target, pattern).keys(), _cell(run, target, "mixture", pattern).usdr) for run in runs
    ]
    return all(tracks == first[0] and abs((usdr or 0) - (first[1] or 0)) < 0.005 for tracks, usdr in others)


def with_target(runs: Iterable[Run], target: str) -> list[Run]:
    return [run for run in runs if target in run.targets]


def section(
    runs: Sequence[Run], targets: Sequence[str], data: Mapping[str, Sequence[Run]], label: str, pattern: str | None
) -> Section:
    """One section: a row per run with its best marked, then the reference rows."""
    letters = {run.name: letter for letter, same in data.items() for run in same}
    rows = [
        Row(run.name, letters[run.name], {t: _cell(run, t, "estimate", pattern) for t in targets}, run) for run in runs
    ]
    for target in targets:
        for same in data.values():
            rows = _mark_best(rows, with_target(same, target), target, pattern)
    references = [
        _reference_row(what, data, letter, targets, pattern)
        for letter in data
        for what in REFERENCES
        if any(run.results["summary"].get(t, {}).get(what) for run in data[letter] for t in run.targets)
    ]
    return Section(label, pattern, _track_counts(runs, targets, pattern), (*rows, *references))


def _mark_best(rows: Sequence[Row], rivals: Sequence[Run], target: str, pattern: str | None) -> list[Row]:
    """The rows, with the best of at least two rivals marked per metric; equal to the printed digit is equally good."""
    names = {run.name for run in rivals}
    if len(names) < 2 or not same_ground(rivals, target, pattern):
        return list(rows)
    marked = list(rows)
    for metric in METRICS:
        values = {row.name: getattr(row.cells[target], metric) for row in rows if row.name in names}
        rounded = {name: round(value, 2) for name, value in values.items() if value is not None}
        top = max(rounded.values(), default=None)
        for i, row in enumerate(marked):
            if top is not None and rounded.get(row.name) == top:
                cell = replace(row.cells[target], best=row.cells[target].best | {metric})
                marked[i] = replace(row, cells={**row.cells, target: cell})
    return marked


def _reference_row(
    what: str, data: Mapping[str, Sequence[Run]], letter: str, targets: Sequence[str], pattern: str | None
) -> Row:
    """What mixture or silence would score on one data set, for the targets whose runs agree on it."""
    cells = {}
    for target in targets:
        runs = with_target(data[letter], target)
        agreed = bool(runs) and same_ground(runs, target, pattern)
        cells[target] = _cell(runs[0], target, what, pattern) if agreed else Cell()
    return Row(REFERENCES[what], letter, cells)


def _track_counts(runs: Sequence[Run], targets: Sequence[str], pattern: str | None) -> str:
    """How many tracks there are and, where not all of them could be scored, how many were."""
    n_tracks = _span(len(_matching(run, pattern)) for run in runs)
    counts = {t: _span(len(scored(run, t, pattern)) for run in with_target(runs, t)) for t in targets}
    fewer = [f"{target} scored on {n}" for target, n in counts.items() if n != n_tracks]
    return ", ".join([f"{n_tracks} track{'' if n_tracks == '1' else 's'}", *fewer])


def _span(counts: Iterable[int]) -> str:
    distinct = sorted(set(counts))
    return f"{distinct[0]}" if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


def rivals(runs: Sequence[Run]) -> list[tuple[Run, Run, list[str]]]:
    """Pairs of runs that may be compared, in the order given, with the targets they share on the same ground."""
    pairs = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            shared = [t for t in a.targets if t in b.targets and a.conditions == b.conditions]
            shared = [t for t in shared if same_ground([a, b], t)]
            if shared:
                pairs.append((a, b, shared))
    return pairs


VERSUS_TEXT = (
    "Per track, on the tracks both have a score for; intervals by bootstrap over tracks (10,000 draws); p by "
    "Wilcoxon's signed-rank test, two-sided, not corrected for several comparisons. Each run is one training: "
    "nothing here speaks of seeds."
)


def comparisons(runs: Sequence[Run]) -> list[Versus]:
    """Every pair of runs that may be compared, per target and metric, as paired differences over tracks."""
    found = []
    for a, b, targets in rivals(runs):
        for target in targets:
            for metric in METRICS:
                ours, theirs = (
                    {name: number(e, "estimate", metric) for name, e in scored(r, target).items()} for r in (a, b)
                )
                result = compare(ours, theirs)
                if result:
                    found.append(Versus(a.name, b.name, target, metric, result))
    return found


# --- notes ------------------------------------------------------------------------------------------------------------


def data_letters(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what they were evaluated on, as A, B, ... in order of appearance; one common ground needs no letter."""
    grounds: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        same = next((members for conditions, members in grounds if conditions == run.conditions), None)
        if same is None:
            grounds.append((run.conditions, [run]))
        else:
            same.append(run)
    letters = [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(grounds))]
    return {letter if len(grounds) > 1 else "": members for letter, (_, members) in zip(letters, grounds, strict=True)}


def _notes(runs: Sequence[Run], targets: Sequence[str], data: Mapping[str, Sequence[Run]]) -> list[str]:
    notes = []
    if len(data) > 1:
        first, *others = [members[0].conditions for members in data.values()]
        differ = [key for key in first if any(other[key] != first[key] for other in others)]
        how = "ON THE SAME DATA" if {"data fingerprint", "split"} & set(differ) else "IN THE SAME WAY"
        notes.append(
            f"THE RUNS WERE NOT EVALUATED {how} (they differ in: {', '.join(differ)}). Scores may only be "
            "compared between rows with the same letter; bold and reference rows are per letter."
        )
    notes += [_data_note(letter, members) for letter, members in data.items()]
    notes += _metrics_notes(data)
    notes += [note for letter, members in data.items() for note in _target_notes(letter, members, targets)]
    notes.append("Bold: the best of the runs that may be compared, per target and metric.")
    notes += [note for run in runs for note in _left_out(run)]
    bases = sorted({_base_name(run) for run in runs if run.results.get("base")})
    if bases:
        notes.append(
            f"Parameters, steps and time of a transfer are its own, without those of its base ({', '.join(bases)})."
        )
    trained_on = {run.name: str(run.results["training"].get("data_fingerprint") or "unknown")[:12] for run in runs}
    if len(set(trained_on.values())) > 1:
        listed = "; ".join(f"{name}: {fingerprint}" for name, fingerprint in trained_on.items())
        notes.append(f"The runs were TRAINED on different data, by fingerprint: {listed}.")
    devices = {run.name: str(run.results["training"].get("device") or "unknown") for run in runs}
    same = len(set(devices.values())) == 1
    listed = next(iter(devices.values())) if same else "; ".join(f"{n}: {d}" for n, d in devices.items())
    notes.append(f"Trained on: {listed}.")
    return notes


def _data_note(letter: str, runs: Sequence[Run]) -> str:
    results = runs[0].results
    data = results["data"]
    where = f"Data {letter} ({', '.join(run.name for run in runs)})" if letter else "Data"
    synthetic = "; BUILT-IN SYNTHETIC STEMS, so the scores say nothing about music" if data.get("builtin") else ""
    fingerprint = str(data.get("fingerprint") or "unknown")[:12]
    return (
        f"{where}: {data.get('name') or 'unnamed'}, fingerprint {fingerprint}, split {results['split']}, "
        f"{_span(run.results['n_tracks'] for run in runs)} tracks{synthetic}."
    )


def n_without(run: Run, target: str) -> int:
    """How many tracks were to be scored and have no such stem."""
    return len((run.results.get("tracks_without") or {}).get(target, ()))


def _left_out(run: Run) -> list[str]:
    """What a run's scores do not include: tracks, silent references, frames."""
    notes = []
    partial = run.results.get("partial")
    if partial:
        how = "QUICK EVALUATION, uSDR alone, on" if partial.get("quick") else "scored on"
        notes.append(f"{run.name}: {how} {run.results['n_tracks']} OF {partial.get('of')} TRACKS.")
    counts = []
    for target in run.targets:
        summary = run.results["summary"].get(target, {})
        tracks = list(scored(run, target).values())
        frames, excluded, together = (
            sum(int(number(entry, "estimate", key) or 0) for entry in tracks)
            for key in ("n_frames", "n_frames_excluded", "n_frames_excluded_museval")
        )
        missing = n_without(run, target)
        parts = [f"{int(number(summary, 'n_silent') or 0)} silent and {missing} missing tracks"]
        if frames:
            rule = f" ({together} by museval's rule)" if run.results["format"] > 1 else ""
            parts.append(f"{excluded} of {frames} frames{rule}")
        counts.append(f"{target} {', '.join(parts)}")
    return [*notes, f"Left out for {run.name}: {'; '.join(counts)}."]


def _metrics_notes(data: Mapping[str, Sequence[Run]]) -> list[str]:
    """The definitions of the metrics: once, or per data set where they differ."""
    protocols = {letter: members[0].results["protocol"] for letter, members in data.items()}
    worded = {letter: "; ".join(f"{name}: {text}" for name, text in p.items()) for letter, p in protocols.items()}
    if len(set(worded.values())) == 1:
        worded = {"": next(iter(worded.values()))}
    more = {name: text for runs in data.values() for run in runs for name, text in _more_protocol(run).items()}
    return [
        *(
            f"Metrics{f' {letter}' if letter else ''}: {text or 'not stated in the results'}."
            for letter, text in worded.items()
        ),
        *(f"{name}: {text}." for name, text in more.items()),
    ]


def _more_protocol(run: Run) -> Mapping[str, str]:
    return run.results.get("more_protocol") or {}


def _target_notes(letter: str, members: Sequence[Run], targets: Sequence[str]) -> list[str]:
    """Targets that cannot be ranked although the data are the same, and those that no run improves on."""
    where = f" on data {letter}" if letter else ""
    notes, no_gain = [], []
    for target in targets:
        runs = with_target(members, target)
        if not runs:
            continue
        if not same_ground(runs, target, None):
            notes.append(
                f"{target}{where}: the runs were scored on other tracks or references, so they are not ranked."
            )
            continue
        mixture = _cell(runs[0], target, "mixture", None).usdr
        estimates = [usdr for run in runs if (usdr := _cell(run, target, "estimate", None).usdr) is not None]
        if mixture is not None and estimates and max(estimates) <= mixture:
            no_gain.append(target)
    if no_gain:
        notes.append(f"No run beats the mixture itself in uSDR{where}: {', '.join(no_gain)}.")
    return notes


# --- wording ----------------------------------------------------------------------------------------------------------

CSV_SCORES = ("usdr_mean", "csdr_median", "n_tracks", "usdr_low", "usdr_high", "csdr_low", "csdr_high")
CSV_DETAILS = ("kind", "base", "bands", "n_bands", "trainable_parameters", "steps", "training_seconds", "device")


def decibels(value: float | None) -> str:
    return MISSING if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def _base_name(run: Run) -> str:
    return Path(str(run.results["base"])).name


def _details(run: Run) -> list[str]:
    results = run.results
    kind = results["kind"].replace("_", "-") + (f" from {_base_name(run)}" if results.get("base") else "")
    kind += f", {results['method']}" if results.get("method") not in (None, "frozen") else ""
    n_bands = number(results["model"], "n_bands")
    bands = str(results["model"].get("bands") or MISSING) + ("" if n_bands is None else f" ({n_bands:g})")
    counts = [number(results["model"], "trainable_parameters"), number(results["training"], "steps")]
    seconds = number(results["training"], "seconds")
    return [kind, bands, *(MISSING if n is None else f"{n:,.0f}" for n in counts), _duration(seconds)]


def _duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as h:mm:ss."""
    if seconds is None:
        return MISSING
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


def _csv_details(row: Row) -> list[Any]:
    if row.run is None:
        return [""] * len(CSV_DETAILS)
    results, model, training = row.run.results, row.run.results["model"], row.run.results["training"]
    values = [model.get("bands"), model.get("n_bands"), model.get("trainable_parameters"), training.get("steps")]
    seconds = number(training, "seconds")
    values += [None if seconds is None else f"{seconds:.2f}", training.get("device")]
    base = _base_name(row.run) if results.get("base") else ""
    return [results["kind"], base, *("" if value is None else value for value in values)]


def _csv_scores(row: Row, of: Report) -> list[str]:
    values = []
    for target in of.targets:
        cell = row.cells[target]
        values += ["" if value is None else decibels(value) for value in (cell.usdr, cell.csdr)] + [str(cell.n_tracks)]
        for metric in METRICS:
            values += [decibels(end) for end in cell.sure.get(metric) or ()] or ["", ""]
    return values


def _escape(text: str) -> str:
    """Text as Markdown shows it literally (track globs hold stars, run names underscores)."""
    for mark in "\\`*_|<":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _markdown_table(section: Section, targets: Sequence[str]) -> str:
    """A group's table has scores alone: what the runs are stands in the first one."""
    details = () if section.label else DETAILS
    header = ["run", *(f"{_escape(target)} {CELL}" for target in targets), *details]
    aligned = ["---", *("---:" for _ in targets), *("---:" if detail in DETAILS[2:] else "---" for detail in details)]
    lines = [header, aligned]
    for row in section.rows:
        cells = ["".join(f"**{text}**" if bold else text for text, bold in row.cells[t].parts) for t in targets]
        lines.append([_escape(row.label), *cells, *map(_escape, row.details if details else ())])
    return _lines(lines)


def _markdown_intervals(section: Section, targets: Sequence[str]) -> list[str]:
    """Heading and table of the 95 % intervals of a section; nothing where no row has one."""
    names = [f"{_escape(target)} {METRIC_NAMES[metric]}" for target in targets for metric in METRICS]
    lines = [["run", *names], ["---", *("---:" for _ in names)]]
    for row in section.rows:
        cells = [row.cells[target].interval(metric) for target in targets for metric in METRICS]
        if any(cells):
            lines.append([_escape(row.label), *(cell or MISSING for cell in cells)])
    title = f"## 95 % intervals{f', {_escape(section.label)}' if section.label else ''}"
    return [title, "By bootstrap over tracks, in dB.", _lines(lines)] if len(lines) > 2 else []


def _lines(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rich_scores(of: Report) -> Table:
    table = Table("run", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for target in of.targets:
        table.add_column(Text(f"{target}\n{CELL}"), justify="right", no_wrap=True)
    for section in of.sections:
        if section.label:
            table.add_section()
            table.add_row(Text(f"{section.label}: {section.counts}", style="italic"))
        for row in section.rows:
            table.add_row(Text(row.label), *(_rich_cell(row.cells[target]) for target in of.targets))
    return table


def _rich_runs(section: Section) -> Table:
    table = Table("run", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for detail in DETAILS:
        table.add_column(detail, justify="left" if detail in DETAILS[:2] else "right")
    for row in section.rows:
        if row.run is not None:
            table.add_row(Text(row.label), *(Text(detail) for detail in row.details))
    return table


def _rich_cell(cell: Cell) -> Text:
    return Text.assemble(*((text, "bold" if bold else "") for text, bold in cell.parts))
