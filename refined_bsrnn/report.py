"""Many evaluated runs side by side: one table of scores, one figure of training curves.

Numbers come from each run's ``results.json`` and ``metrics.jsonl`` alone. Runs are ranked against each other only where
that is fair: the same data (by fingerprint), split, protocol, and for each target the same scored tracks.
"""

import csv
import fnmatch
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .errors import UserError
from .figures import plot_curves
from .files import write_text
from .suggest import nearest

RESULTS_FORMAT = 2
MISSING = "–"
METRICS = {
    "usdr": "mean",
    "csdr": "median",
}  # what the table shows: the mean of uSDR and the median of cSDR over tracks
REFERENCES = {"mixture": "mixture (do nothing)", "silence": "silence"}
CELL = "uSDR / cSDR"
DETAILS = ("kind", "bands (K)", "trainable parameters", "steps", "training time (h:mm:ss)")

# What a results file must hold for the table to be made; whatever else is missing becomes a dash.
NEEDED: dict[str, type] = {
    "run": str,
    "kind": str,
    "split": str,
    "data": dict,
    "n_tracks": int,
    "targets": list,
    "model": dict,
    "training": dict,
    "protocol": dict,
    "tracks": list,
    "summary": dict,
}


# --- the pieces of a report -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One evaluated run: its results and its training log as read, and the name it goes by in the table."""

    folder: Path
    name: str
    results: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]

    @property
    def targets(self) -> list[str]:
        return list(self.results["targets"])

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything that must agree before two runs may be compared.

        Not the model's sample rate: estimates are scored at the rate of the tracks.
        """
        data = self.results["data"]
        return {
            "data fingerprint": data.get("fingerprint"),
            "split": self.results["split"],
            "mixture": data.get("mixture"),
            "protocol": tuple(sorted(self.results["protocol"].items())),
        }


@dataclass(frozen=True)
class Cell:
    """Scores in dB of one row on one target; ``best`` names the metrics in which no comparable run does better."""

    usdr: float | None = None
    csdr: float | None = None
    n_tracks: int = 0
    best: frozenset[str] = frozenset()

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """What is printed, piece by piece, each with whether it is bold."""
        if self.usdr is None and self.csdr is None:
            return [(MISSING, False)]
        return [(_db(self.usdr), "usdr" in self.best), (" / ", False), (_db(self.csdr), "csdr" in self.best)]


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
class Report:
    """Side-by-side results. Sections share ``targets`` as columns; ``notes`` say what the numbers are."""

    targets: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    @property
    def markdown(self) -> str:
        """One table per section and the notes; the best of several comparable runs is bold."""
        blocks = ["# Results", "Scores in dB: uSDR mean / cSDR median over tracks; higher is better."]
        for section in self.sections:
            title = f"{_escape(section.label)}: tracks named `{section.pattern}`" if section.label else "All tracks"
            blocks += [f"## {title}", f"{_escape(section.counts)}.", _markdown_table(section, self.targets)]
        blocks += ["## Notes", "\n".join(f"- {_escape(note)}" for note in self.notes)]
        return "\n\n".join(blocks) + "\n"

    @property
    def csv(self) -> str:
        """One line per section and row, for programs: plain numbers, seconds, an empty field where one is missing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        scores = [f"{target}_{what}" for target in self.targets for what in ("usdr_mean", "csdr_median", "n_tracks")]
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


def report(run_folders: Sequence[Path], out: Path | None = None, groups: Mapping[str, str] | None = None) -> Report:
    """Runs side by side, in the order given, with what mixture and silence would score beside them.

    ``groups`` maps a label to a glob on track names: each adds a section scored on those tracks alone. With ``out``
    the folder gets ``report.md``, ``report.csv``, ``curves.png`` and ``curves.svg``.

    Raises `UserError` for a folder that does not exist, a run that was not evaluated, an unreadable or newer file.
    """
    runs = read_runs(run_folders)
    targets = tuple(dict.fromkeys(target for run in runs for target in run.targets))
    data = _data_letters(runs)
    sections, notes = [_section(runs, targets, data, "", None)], _notes(runs, targets, data)
    for label, pattern in (groups or {}).items():
        if any(_matching(run, pattern) for run in runs):
            sections.append(_section(runs, targets, data, label, pattern))
        else:
            notes.append(f"No track is named {pattern}: there is no section {label!r}.")
    curves, x_label, y_label, curve_notes = training_curves(runs)
    made = Report(targets, tuple(sections), (*notes, *curve_notes))
    if out is None:
        return made
    write_text(out / "report.md", made.markdown + "\n![Training curves](curves.png)\n")
    write_text(out / "report.csv", made.csv)
    pictures = [plot_curves(curves, out / name, x_label, y_label) for name in ("curves.png", "curves.svg")]
    return replace(made, files=(out / "report.md", out / "report.csv", *pictures))


# --- reading ----------------------------------------------------------------------------------------------------------


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the order given; a folder given twice is read once."""
    if not folders:
        raise UserError("There is nothing to report on: give the folder of at least one evaluated run.")
    distinct: dict[Path, Path] = {}
    for folder in folders:
        distinct.setdefault(folder.resolve(), folder)
    runs = [_read_run(folder) for folder in distinct.values()]
    return [replace(run, name=name) for run, name in zip(runs, _distinct_names(runs), strict=True)]


def _read_run(folder: Path) -> Run:
    if folder.suffix == ".json" and folder.is_file():  # of a part of the tracks, which lies beside the whole
        results = _read_results(folder)
        return Run(folder.parent, results["run"], results, _read_log(folder.parent / "metrics.jsonl"))
    if not folder.is_dir():
        beside = _runs_in(folder.absolute().parent)
        listed = f"Runs beside it: {', '.join(beside)}." if beside else "There are no runs beside it either."
        raise UserError(f"There is no run folder {folder}.{nearest(folder.name, beside)} {listed}")
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{folder} has no results.json yet; run: refined-bsrnn evaluate {folder}")
    results = _read_results(path)
    return Run(folder, results["run"], results, _read_log(folder / "metrics.jsonl"))


def _runs_in(folder: Path) -> list[str]:
    signs = ("recipe.yaml", "results.json")
    return sorted({path.parent.name for sign in signs for path in folder.glob(f"*/{sign}")})


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} cannot be read ({problem}); evaluate the run again.") from None
    if not isinstance(results, dict) or not isinstance(results.get("format"), int):
        raise UserError(f"{path} is not an evaluation of this program: it has no format number.")
    if results["format"] > RESULTS_FORMAT:
        raise UserError(
            f"{path} has format {results['format']}; this version reads up to {RESULTS_FORMAT}. "
            "Update refined_bsrnn or evaluate the run again."
        )
    for key, kind in NEEDED.items():
        if not isinstance(results.get(key), kind):
            found = f"is {results[key]!r:.40}" if key in results else "is missing"
            raise UserError(f"{path}: {key!r} {found}, expected {kind.__name__}; evaluate the run again.")
    tracks = results["tracks"]
    whole = all(isinstance(track, dict) and {"track", "targets"} <= track.keys() for track in tracks)
    if not whole or not all(isinstance(summary, dict) for summary in results["summary"].values()):
        raise UserError(f"{path}: a track or a summary lacks its scores; evaluate the run again.")
    return results


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of a training log; empty without a file. A crash may have cut off the last line: it is left out.

    A resumed run starts again from its last saved state, so lines from that step on replace the earlier ones.
    """
    if not path.is_file():
        return ()
    texts = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("not a JSON object")
        except ValueError as problem:
            if number == len(texts):
                break
            raise UserError(f"{path}, line {number} of {len(texts)} is broken ({problem}).") from None
        while lines and _number(line, "step") is not None and (_number(lines[-1], "step") or 0) > line["step"]:
            lines.pop()
        lines.append(line)
    return tuple(lines)


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Each run's own name, with as much of its folder behind it as tells it from others of that name."""
    names = []
    for run in runs:
        parts = run.folder.resolve().parts
        twins = [other.folder.resolve().parts for other in runs if other.name == run.name and other is not run]
        depth = next((n for n in range(1, len(parts)) if all(twin[-n:] != parts[-n:] for twin in twins)), len(parts))
        names.append(f"{run.name} ({Path(*parts[-depth:])})" if twins else run.name)
    return names


def _number(values: Any, *keys: str) -> float | None:
    """The finite number at ``values[key][key]...``, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    is_number = isinstance(values, (int, float)) and not isinstance(values, bool) and math.isfinite(values)
    return values if is_number else None


# --- scores -----------------------------------------------------------------------------------------------------------


def _matching(run: Run, pattern: str | None) -> list[Mapping[str, Any]]:
    """The run's tracks whose name fits the glob; all of them without one."""
    return [track for track in run.results["tracks"] if pattern is None or fnmatch.fnmatchcase(track["track"], pattern)]


def _scored(run: Run, target: str, pattern: str | None) -> dict[str, Mapping[str, Any]]:
    """Track name → scores for the tracks on which the target is heard (nothing can be scored on a silent reference)."""
    entries = {track["track"]: track["targets"].get(target) for track in _matching(run, pattern)}
    return {name: entry for name, entry in entries.items() if entry and not entry.get("reference_silent")}


def _cell(run: Run, target: str, what: str, pattern: str | None) -> Cell:
    """Scores of ``what`` (estimate, mixture or silence): the run's own summary, or the same made from a group."""
    scored = _scored(run, target, pattern)
    if pattern is None:
        summary = run.results["summary"].get(target, {}).get(what, {})
        values = {metric: _number(summary, metric, statistic) for metric, statistic in METRICS.items()}
    else:
        per_track = {m: [_number(entry, what, m) for entry in scored.values()] for m in METRICS}
        defined = {m: [value for value in column if value is not None] for m, column in per_track.items()}
        values = {m: getattr(statistics, METRICS[m])(column) if column else None for m, column in defined.items()}
    return Cell(values["usdr"], values["csdr"], len(scored))


def _same_ground(runs: Sequence[Run], target: str, pattern: str | None) -> bool:
    """Whether runs on the same data were scored on the same tracks and the same references of a target.

    "Everything else" differs with a run's other targets, and then so do the mixture's scores against it.
    """
    first, *others = [
        (_scored(run, target, pattern).keys(), _cell(run, target, "mixture", pattern).usdr) for run in runs
    ]
    return all(tracks == first[0] and abs((usdr or 0) - (first[1] or 0)) < 0.005 for tracks, usdr in others)


def _with(runs: Iterable[Run], target: str) -> list[Run]:
    return [run for run in runs if target in run.targets]


def _section(
    runs: Sequence[Run], targets: Sequence[str], data: Mapping[str, Sequence[Run]], label: str, pattern: str | None
) -> Section:
    letters = {run.name: letter for letter, same in data.items() for run in same}
    rows = [
        Row(run.name, letters[run.name], {t: _cell(run, t, "estimate", pattern) for t in targets}, run) for run in runs
    ]
    for target in targets:
        for same in data.values():
            rows = _mark_best(rows, _with(same, target), target, pattern)
    references = [_reference_row(what, data, letter, targets, pattern) for letter in data for what in REFERENCES]
    return Section(label, pattern, _track_counts(runs, targets, pattern), (*rows, *references))


def _mark_best(rows: Sequence[Row], rivals: Sequence[Run], target: str, pattern: str | None) -> list[Row]:
    """The rows, with the best of at least two rivals marked per metric; equal to the printed digit is equally good."""
    names = {run.name for run in rivals}
    if len(names) < 2 or not _same_ground(rivals, target, pattern):
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
        runs = _with(data[letter], target)
        agreed = bool(runs) and _same_ground(runs, target, pattern)
        cells[target] = _cell(runs[0], target, what, pattern) if agreed else Cell()
    return Row(REFERENCES[what], letter, cells)


def _track_counts(runs: Sequence[Run], targets: Sequence[str], pattern: str | None) -> str:
    """How many tracks there are and, where not all of them could be scored, how many were."""
    n_tracks = _span(len(_matching(run, pattern)) for run in runs)
    scored = {t: _span(len(_scored(run, t, pattern)) for run in _with(runs, t)) for t in targets}
    fewer = [f"{target} scored on {n}" for target, n in scored.items() if n != n_tracks]
    return ", ".join([f"{n_tracks} track{'' if n_tracks == '1' else 's'}", *fewer])


def _span(counts: Iterable[int]) -> str:
    distinct = sorted(set(counts))
    return f"{distinct[0]}" if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


# --- notes ------------------------------------------------------------------------------------------------------------


def _data_letters(runs: Sequence[Run]) -> dict[str, list[Run]]:
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


def _metrics_notes(data: Mapping[str, Sequence[Run]]) -> list[str]:
    """The definitions of the metrics: once, or per data set where they differ."""
    protocols = {letter: members[0].results["protocol"] for letter, members in data.items()}
    worded = {letter: "; ".join(f"{name}: {text}" for name, text in p.items()) for letter, p in protocols.items()}
    if len(set(worded.values())) == 1:
        worded = {"": next(iter(worded.values()))}
    return [
        f"Metrics{f' {letter}' if letter else ''}: {text or 'not stated in the results'}."
        for letter, text in worded.items()
    ]


def _target_notes(letter: str, members: Sequence[Run], targets: Sequence[str]) -> list[str]:
    """Targets that cannot be ranked although the data are the same, and those that no run improves on."""
    where = f" on data {letter}" if letter else ""
    notes, no_gain = [], []
    for target in targets:
        runs = _with(members, target)
        if not runs:
            continue
        if not _same_ground(runs, target, None):
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


# --- training curves --------------------------------------------------------------------------------------------------


def training_curves(runs: Sequence[Run]) -> tuple[dict[str, list[tuple[float, float]]], str, str, list[str]]:
    """Validation uSDR against training time: ``(curves, x label, y label, notes)``.

    The mean over each run's targets, or the one target that all runs share. When no run has validated: the loss.
    """
    shared = [target for target in runs[0].targets if all(target in run.targets for run in runs)]
    y_label, keys = "validation uSDR, mean over targets (dB)", ["validation/usdr"]
    if len(shared) == 1:
        y_label, keys = f"validation uSDR, {shared[0]} (dB)", [f"validation/{shared[0]}/usdr"]
    curves = {run.name: _curve(run, keys, shared) for run in runs}
    if not any(curves.values()):
        y_label, curves = "training loss", {run.name: _curve(run, ["loss"], ()) for run in runs}
    empty = [name for name, points in curves.items() if not points]
    notes = [f"Not in the figure of {y_label.split(',')[0]}, nothing logged: {', '.join(empty)}."] if empty else []
    longest = max((x for points in curves.values() for x, _ in points), default=0.0)
    unit, seconds = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 120 else ("seconds", 1)
    scaled = {name: [(x / seconds, y) for x, y in points] for name, points in curves.items()}
    return scaled, f"training time ({unit})", y_label, notes


def _curve(run: Run, keys: Sequence[str], shared: Sequence[str]) -> list[tuple[float, float]]:
    """``(seconds, value)`` of the log lines that hold a key; a run with one target may log its mean alone."""
    keys = [*keys, "validation/usdr"] if run.targets == list(shared) else keys
    points = []
    for line in run.log:
        seconds = _number(line, "seconds")
        value = next((value for key in keys if (value := _number(line, key)) is not None), None)
        if seconds is not None and value is not None:
            points.append((seconds, value))
    return points


# --- wording ----------------------------------------------------------------------------------------------------------

CSV_DETAILS = ("kind", "base", "bands", "n_bands", "trainable_parameters", "steps", "training_seconds", "device")


def _db(value: float | None) -> str:
    return MISSING if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def _base_name(run: Run) -> str:
    return Path(str(run.results["base"])).name


def _details(run: Run) -> list[str]:
    results = run.results
    kind = results["kind"].replace("_", "-") + (f" from {_base_name(run)}" if results.get("base") else "")
    n_bands = _number(results["model"], "n_bands")
    bands = str(results["model"].get("bands") or MISSING) + ("" if n_bands is None else f" ({n_bands:g})")
    counts = [_number(results["model"], "trainable_parameters"), _number(results["training"], "steps")]
    seconds = _number(results["training"], "seconds")
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
    seconds = _number(training, "seconds")
    values += [None if seconds is None else f"{seconds:.2f}", training.get("device")]
    base = _base_name(row.run) if results.get("base") else ""
    return [results["kind"], base, *("" if value is None else value for value in values)]


def _csv_scores(row: Row, of: Report) -> list[str]:
    values = []
    for target in of.targets:
        cell = row.cells[target]
        values += ["" if value is None else _db(value) for value in (cell.usdr, cell.csdr)] + [str(cell.n_tracks)]
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
