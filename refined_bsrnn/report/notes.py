"""Notes that explain the numbers of a report: data, metrics, left-out items, limits of comparison."""

from collections.abc import Iterable, Mapping, Sequence

from .comparable import base_of, same_ground, scored, span, usdr_of, with_target
from .results import Run, number

Data = Mapping[str, Sequence[Run]]  # letter → the runs that were evaluated on that data


def notes_on(runs: Sequence[Run], targets: Sequence[str], data: Data) -> list[str]:
    """The notes below the tables of these runs."""
    notes = [*_not_comparable(data), *(_data_note(letter, members) for letter, members in data.items())]
    notes += _metrics_notes(data)
    notes += [note for letter, members in data.items() for note in _target_notes(letter, members, targets)]
    notes.append("Bold: the best of the runs that may be compared, per target and metric.")
    notes += [note for run in runs for note in _left_out(run)]
    bases = sorted({base_of(run) for run in runs} - {""})
    if bases:
        own = "Parameters, steps and time of a transfer are its own"
        notes.append(f"{own}, without those of its base ({', '.join(bases)}).")
    trained_on = {run.name: _short(run.results["training"].get("data_fingerprint")) for run in runs}
    if len(set(trained_on.values())) > 1:
        notes.append(f"The runs were TRAINED on different data, by fingerprint: {_each(trained_on)}.")
    devices = {run.name: str(run.results["training"].get("device") or "unknown") for run in runs}
    same = set(devices.values())
    notes.append(f"Trained on: {same.pop() if len(same) == 1 else _each(devices)}.")
    return notes


def n_without(run: Run, target: str) -> int:
    """The number of tracks that were to be scored and have no such stem."""
    return len((run.results.get("tracks_without") or {}).get(target, ()))


def _short(fingerprint: object) -> str:
    return str(fingerprint or "unknown")[:12]


def _each(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in values.items())


def _not_comparable(data: Data) -> Iterable[str]:
    if len(data) > 1:
        first, *others = [members[0].conditions for members in data.values()]
        differ = [key for key in first if any(other[key] != first[key] for other in others)]
        how = "ON THE SAME DATA" if {"data fingerprint", "split"} & set(differ) else "IN THE SAME WAY"
        yield (
            f"THE RUNS WERE NOT EVALUATED {how} (they differ in: {', '.join(differ)}). Scores may only be "
            "compared between rows with the same letter; bold and reference rows are per letter."
        )


def _data_note(letter: str, runs: Sequence[Run]) -> str:
    results, data = runs[0].results, runs[0].results["data"]
    where = f"Data {letter} ({', '.join(run.name for run in runs)})" if letter else "Data"
    synthetic = "; BUILT-IN SYNTHETIC STEMS, so the scores say nothing about music" if data.get("builtin") else ""
    tracks = span(run.results["n_tracks"] for run in runs)
    facts = f"fingerprint {_short(data.get('fingerprint'))}, split {results['split']}, {tracks} tracks{synthetic}"
    return f"{where}: {data.get('name') or 'unnamed'}, {facts}."


def _metrics_notes(data: Data) -> list[str]:
    """The definitions of the metrics: once, or per data set if they differ."""
    worded = {letter: _each(members[0].results["protocol"]) for letter, members in data.items()}
    if len(set(worded.values())) == 1:
        worded = {"": next(iter(worded.values()))}
    notes = [f"Metrics{f' {x}' if x else ''}: {text or 'not stated in the results'}." for x, text in worded.items()]
    further = [run.results.get("more_protocol") or {} for members in data.values() for run in members]
    return notes + [f"{x}: {text}." for x, text in {x: t for more in further for x, t in more.items()}.items()]


def _target_notes(letter: str, members: Sequence[Run], targets: Sequence[str]) -> Iterable[str]:
    """Targets that cannot be ranked although the data are the same, and those that no run improves on."""
    where, no_gain = f" on data {letter}" if letter else "", []
    for target in targets:
        runs = with_target(members, target)
        if runs and not same_ground(runs, target):
            yield f"{target}{where}: the runs were scored on other tracks or references, so they are not ranked."
        elif runs:
            mixture, estimates = usdr_of(runs[0], target, "mixture"), [usdr_of(r, target, "estimate") for r in runs]
            known = [usdr for usdr in estimates if usdr is not None]
            if mixture is not None and known and max(known) <= mixture:
                no_gain.append(target)
    if no_gain:
        yield f"No run beats the mixture itself in uSDR{where}: {', '.join(no_gain)}."


def _left_out(run: Run) -> Iterable[str]:
    """The tracks, silent references and frames that a run's scores do not include."""
    partial = run.results.get("partial")
    if partial:
        how = "QUICK EVALUATION, uSDR alone, on" if partial.get("quick") else "scored on"
        yield f"{run.name}: {how} {run.results['n_tracks']} OF {partial.get('of')} TRACKS."
    counts = []
    for target in run.targets:
        silent = int(number(run.results["summary"], target, "n_silent") or 0)
        text = f"{target} {silent} silent and {n_without(run, target)} missing tracks"
        frames, excluded, together = (
            sum(int(number(entry, "estimate", key) or 0) for entry in scored(run, target).values())
            for key in ("n_frames", "n_frames_excluded", "n_frames_excluded_museval")
        )
        if frames:
            rule = f" ({together} by museval's rule)" if run.results["format"] > 1 else ""
            text += f", {excluded} of {frames} frames{rule}"
        counts.append(text)
    yield f"Left out for {run.name}: {'; '.join(counts)}."
