"""What a report lets people hear: kept excerpts of mixture, reference and every run's estimate, of chosen tracks."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .comparable import same_ground, scored, with_target
from .results import Run, number

MATCHED_DBFS = -23.0  # the RMS level that everything is played at, unless told otherwise
MAX_GAIN_DB = 30.0
WHICH = ("best", "median", "worst")


@dataclass(frozen=True)
class Source:
    """One thing to hear: an Opus file, the gain at which it has its own level, and the one that matches levels."""

    name: str
    file: Path
    gain: float
    matched_gain: float
    score: str

    def values(self) -> dict[str, Any]:
        """For the page; the audio is in it."""
        audio = base64.b64encode(self.file.read_bytes()).decode()
        return {"name": self.name, "gain": self.gain, "matched": self.matched_gain, "score": self.score, "audio": audio}


@dataclass(frozen=True)
class Item:
    """Excerpts of one track and target that start at the same sample."""

    target: str
    track: str
    which: str  # best, median, worst; by the first run's uSDR
    start_seconds: float
    seconds: float
    sources: tuple[Source, ...]

    def values(self) -> dict[str, Any]:
        """For the page; the audio is in it."""
        facts = {"target": self.target, "track": self.track, "which": self.which, "start": self.start_seconds}
        return {**facts, "seconds": self.seconds, "sources": [source.values() for source in self.sources]}


def choose(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """(which, track) of the best, the median and the worst track; fewer where there are fewer tracks."""
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen = {ranked[place]: which for which, place in reversed(places.items())}  # the best wins where two are one
    return [(which, name) for which in WHICH for name, w in chosen.items() if w == which]


def listening_items(runs: Sequence[Run], targets: Sequence[str]) -> tuple[list[Item], list[str]]:
    """What there is to hear per target, and notes on what there is not."""
    items, silent = [], []
    for target in targets:
        members = [run for run in with_target(runs, target) if _folder(run) is not None]
        members = [run for run in members if any(_excerpt(run, target, name) for name in scored(run, target))]
        members = [run for run in members if run.conditions == members[0].conditions]
        if not members:
            silent.append(target)
            continue
        first = members[0]
        scores = {n: v for n, e in scored(first, target).items() if (v := number(e, "estimate", "usdr")) is not None}
        heard = {name: value for name, value in scores.items() if _excerpt(first, target, name)}
        items += [_item(members, target, name, which) for which, name in choose(heard)]
    notes = []
    if silent:
        notes.append(
            f"Nothing to listen to for {', '.join(silent)}: no excerpts were kept. Evaluate again (not --quick) to "
            "have some."
        )
    return items, notes


def _item(runs: Sequence[Run], target: str, track: str, which: str) -> Item:
    first = _excerpt(runs[0], target, track)
    assert first is not None
    sources = [_source("mixture", runs[0], first, "mixture", target, track)]
    sources.append(_source("reference", runs[0], first, "reference", target, track))
    for run in runs:
        own = _excerpt(run, target, track)
        if own and own["start_seconds"] == first["start_seconds"] and same_ground([runs[0], run], target):
            sources.append(_source(run.name, run, own, "estimate", target, track))
    return Item(target, track, which, first["start_seconds"], first["seconds"], tuple(sources))


def _source(name: str, run: Run, excerpt: Mapping[str, Any], kind: str, target: str, track: str) -> Source:
    facts = excerpt["files"][kind]
    rms = number(facts, "rms_dbfs")
    wanted_db = 0.0 if rms is None else min(MAX_GAIN_DB, MATCHED_DBFS - rms)
    value = number(scored(run, target)[track], kind, "usdr") if kind != "reference" else None
    score = "" if value is None else f"uSDR {round(value, 2) + 0.0:.2f} dB"
    folder = _folder(run)
    assert folder is not None
    own = 1 / facts["gain"]
    return Source(name, folder / facts["file"], own, own * 10 ** (wanted_db / 20), score)


def _folder(run: Run) -> Path | None:
    folder = run.folder / "evaluation" / run.results["split"]
    return folder if folder.is_dir() else None


def _excerpt(run: Run, target: str, track: str) -> Mapping[str, Any] | None:
    """What results.json says about an excerpt whose files are all there."""
    excerpt = scored(run, target).get(track, {}).get("excerpt")
    folder = _folder(run)
    if not excerpt or folder is None:
        return None
    there = all((folder / entry["file"]).is_file() for entry in excerpt["files"].values())
    return excerpt if there and excerpt["files"].keys() >= {"mixture", "reference", "estimate"} else None
