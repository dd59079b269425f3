"""Checks the data before training: every file of every track is read to its end, once.

    scan (names, headers) ──> facts (levels, spectrum, fingerprints; cached) ──> findings, hours, duplicates

A `Finding` is one message of one kind (`KINDS`); some kinds stop training. Before its first step, training reads the
files that no check has read yet (`read_all`; off by `data.check`) and gives the same messages.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock
from rich.table import Table

from ...errors import DataError, UserError, first
from ...recipe import DataSpec, Recipe
from ...system import cache_folder
from ..layouts.listing import SPLITS, Finding
from ..scan import Scan, refuse, scan
from ..splits import Split, split_tracks
from ..tracks import Track
from ..training_parts import make_parts
from .facts import TrackFacts, all_facts, facts_file, known_facts
from .findings import (
    KINDS,
    duplicates,
    findings_of,
    in_order,
    mixed_rates,
    name_findings,
    rate_findings,
    sentences,
    validation_findings,
)


def read_all(tracks: Sequence[Track]) -> None:
    """Read the files that no check has read yet, before a training; one process reads while the others wait.

    Raises `DataError` with every file that would stop training sooner or later.
    """
    facts: list[TrackFacts] | None = None
    if not all(facts_file(track).is_file() for track in tracks):
        with suppress(OSError):  # where nothing can be written each process reads for itself
            cache_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(cache_folder() / "checks.lock"):
                facts = all_facts(tracks)
    refuse(finding for found in facts or all_facts(tracks) for finding in findings_of(found))


@dataclass(frozen=True)
class Check:
    """All findings about the data of a recipe or a root."""

    scan: Scan
    facts: list[TrackFacts]
    findings: list[Finding]
    targets: tuple[str, ...]  # of the recipe; empty: all stems are listed

    @property
    def stops(self) -> bool:
        return any(finding.stops for finding in self.findings)

    def splits(self) -> dict[str, dict[str, Any]]:
        """{split: {"tracks", "hours", "targets": {target or stem: {"tracks", "hours"}}}}."""
        rows = {}
        for split in SPLITS:
            tracks = [t for t in self.scan.tracks if t.split == split]
            names = list(self.targets) or sorted({stem for track in self.scan.tracks for stem in track.stems})
            having = {name: [t for t in tracks if name in t.files] for name in names}
            targets = {name: {"tracks": len(some), "hours": hours(some)} for name, some in having.items()}
            rows[split] = {"tracks": len(tracks), "hours": hours(tracks), "targets": targets}
        return {split: row for split, row in rows.items() if row["tracks"]}

    def values(self) -> dict[str, Any]:
        """For programs."""
        tracks = [asdict(f) for f in self.facts]
        for track in tracks:
            del track["prints"]
            for stem in track["stems"].values():
                del stem["prints"]
        return {
            "ok": not self.stops,
            "data": self.scan.sources.name,
            "where": self.scan.sources.where,
            "splits": self.splits(),
            "notes": self.scan.notes,
            "findings": [asdict(finding) for finding in self.findings],
            "tracks": tracks,
        }

    def tables(self) -> list[Table]:
        """Tables for the user: the data, and the findings by kind."""
        stock, splits = Table(title=self.scan.sources.name), self.splits()
        stock.add_column("target" if self.targets else "stem")
        for split in splits:
            stock.add_column(f"{split}: tracks", justify="right")
            stock.add_column("hours", justify="right")
        rows: dict[str, list[Mapping[str, float]]] = {"all": list(splits.values())}
        for name in next(iter(splits.values()), {"targets": {}})["targets"]:
            rows[name] = [row["targets"][name] for row in splits.values()]
        for name, values in rows.items():
            stock.add_row(
                name, *(f"{row[key]:{form}}" for row in values for key, form in (("tracks", "d"), ("hours", ".2f")))
            )
        found = Table("found", "number", "training", "where")
        for kind, words in KINDS.items():
            cases = [finding for finding in self.findings if finding.kind == kind]
            if cases:
                places = list(dict.fromkeys(finding.where for finding in cases))
                stops = "stops" if any(finding.stops for finding in cases) else "goes on"
                found.add_row(words, str(len(cases)), stops, first(places, 3))
        return [stock, found] if self.findings else [stock]

    def sentences(self, shown: int = 5) -> list[str]:
        """Every finding that stops training, and of each other kind the first few, the rest counted."""
        return sentences(self.findings, shown)


def hours(tracks: Iterable[Track]) -> float:
    return sum(track.seconds for track in tracks) / 3600


def check(data: Recipe | DataSpec, jobs: int | None = None) -> Check:
    """Read all of the data and report all problems.

    With a recipe its targets, its rate and its validation tracks are checked too. Raises `DataError` if there are no
    tracks at all.
    """
    spec = data.data if isinstance(data, Recipe) else data
    found = scan(spec, SPLITS)
    facts = all_facts(found.tracks, jobs)
    findings = [*found.findings, *(finding for f in facts for finding in findings_of(f)), *duplicates(facts)]
    if isinstance(data, Recipe):
        findings += recipe_findings(data, found, {(f.split, f.track) for f in facts if f.problems})
    else:
        findings += [*name_findings(found.tracks, (), data), *mixed_rates(found.tracks)]
        to_train_on = [track for track in found.tracks if track.split == "train" and track.stems]
        if not (to_train_on or any(finding.stops for finding in found.findings)):  # what stops may be why
            text = "there is no track to train on: none with a stem is in a folder train/, or of that split in a table."
            findings.append(Finding("validation", "train", text))
    return Check(found, facts, in_order(findings, facts), data.targets if isinstance(data, Recipe) else ())


def unchecked(where: str, error: UserError) -> dict[str, Any]:
    """For programs: the data could not be checked at all, as `Check.values` would say it."""
    finding = Finding("unreadable", where, str(error))
    return {"ok": False, "where": where, "splits": {}, "notes": [], "findings": [asdict(finding)], "tracks": []}


def recipe_findings(recipe: Recipe, found: Scan, unreadable: Collection[tuple[str, str]] = ()) -> list[Finding]:
    """The problems of these data for this recipe, as training would report them.

    ``unreadable`` are the (split, name) of tracks that are already reported as unreadable.
    """
    findings = [*rate_findings(recipe, found.tracks), *name_findings(found.tracks, recipe.targets, recipe.data)]
    try:
        divided = split_tracks([t for t in found.tracks if t.split != "test"], recipe.targets, recipe.data)
    except DataError as error:
        return [*findings, Finding("validation", "train", str(error))]
    findings += validation_findings(recipe, divided.held_out)
    train = [track for track in divided.train if (track.split, track.name) not in unreadable]
    if not train:  # what is wrong with them is said
        return findings
    try:
        notes = make_parts(train, recipe.targets, recipe.data).notes
    except UserError as error:
        return [*findings, Finding("target", "train", str(error))]
    found.notes.extend([*divided.solos.notes, *notes])
    return findings


def opening(recipe: Recipe, found: Scan, train: Sequence[Track], divided: Split) -> list[str]:
    """The first lines of a training: its data and their known problems.

    Raises `DataError` if an earlier check of the same files found a problem that stops training.
    """
    shown = ", ".join(f"{name} {hours([t for t in train if name in t.files]):.2f} h" for name in recipe.targets)
    n_used = len(divided.validated(recipe.targets))
    lines = [f"Data: {found.sources.name}: {len(train)} training tracks ({shown}), {n_used} for validation."]
    lines += found.notes
    if solos := [t.name for t in found.tracks if t.split == "valid" and t.is_solo and t not in divided.kept]:
        lines.append(
            f"{len(solos)} validation tracks are one stem alone, from which nothing can be separated, and are left out "
            f"({first(solos)}); data.validation_tracks names them all the same."
        )
    tracks = [*train, *divided.kept]
    known = [f for t in tracks if (f := known_facts(t)) is not None]
    findings = [
        *found.findings,
        *rate_findings(recipe, tracks),
        *name_findings(found.tracks, recipe.targets, recipe.data),
    ]
    findings += [finding for f in known for finding in findings_of(f)]
    refuse(findings)
    findings += [*validation_findings(recipe, divided.held_out), *duplicates(known)]
    lines += sentences(in_order(findings, known), shown=2)
    unknown = len(tracks) - len(known)
    if unknown and not found.sources.is_builtin:
        lines.append(f"{unknown} tracks were never read to their ends; refined-bsrnn check-data does that.")
    return lines
