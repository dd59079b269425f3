"""The players of a report: stored excerpts of mixture, reference and every run's estimate, for chosen tracks."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .comparable import same_ground, scored, with_target
from .results import Run, number
from .table import text_of

MATCHED_DBFS = -23.0  # the RMS level that everything is played at, unless the reader chooses otherwise
MAX_GAIN_DB = 30.0
WHICH = ("best", "median", "worst")

Item = dict[str, Any]  # excerpts of one track and target that start at the same sample, as the page's script reads them


def choose(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """(kind, track) of the best, the median and the worst track; fewer if there are fewer tracks."""
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen = {ranked[place]: which for which, place in reversed(places.items())}  # the best wins where two are one
    return [(which, name) for which in WHICH for name, w in chosen.items() if w == which]


def listening_items(runs: Sequence[Run], targets: Sequence[str]) -> tuple[list[Item], list[str]]:
    """The players of each target, and notes on targets without any; tracks are chosen by the first run's uSDR."""
    items, silent = [], []
    for target in targets:
        kept = [(run, found) for run in with_target(runs, target) if (found := excerpts(run, target))]
        if not kept:
            silent.append(target)
            continue
        first, tracks = kept[0]
        known = scored(first, target)
        scores = {name: value for name in tracks if (value := number(known[name], "estimate", "usdr")) is not None}
        fair = [(r, x) for r, x in kept if r.conditions == first.conditions and same_ground([first, r], target)]
        items += [_item(fair, target, track, which) for which, track in choose(scores)]
    nothing = f"Nothing to listen to for {', '.join(silent)}: no excerpts were kept."
    return items, [f"{nothing} Evaluate again (not --quick) to have some."] if silent else []


def excerpts(run: Run, target: str) -> dict[str, Mapping[str, Any]]:
    """Track → the facts about its excerpt in results.json, for excerpts whose files all exist."""
    kept = {name: entry["excerpt"] for name, entry in scored(run, target).items() if entry.get("excerpt")}
    return {
        name: excerpt
        for name, excerpt in kept.items()
        if excerpt["files"].keys() >= {"mixture", "reference", "estimate"}
        and all(_file(run, facts).is_file() for facts in excerpt["files"].values())
    }


def _file(run: Run, facts: Mapping[str, Any]) -> Path:
    return run.folder / "evaluation" / str(run.results["split"]) / facts["file"]


def _item(kept: Sequence[tuple[Run, Mapping[str, Any]]], target: str, track: str, which: str) -> Item:
    run, first = kept[0][0], kept[0][1][track]
    sources = [_source(kind, run, first, kind, target, track) for kind in ("mixture", "reference")]
    for other, found in kept:
        if track in found and found[track]["start_seconds"] == first["start_seconds"]:
            sources.append(_source(other.name, other, found[track], "estimate", target, track))
    facts = {"target": target, "track": track, "which": which, "sources": sources}
    return {**facts, "start": first["start_seconds"], "seconds": first["seconds"]}


def _source(name: str, run: Run, excerpt: Mapping[str, Any], kind: str, target: str, track: str) -> dict[str, Any]:
    """One player: its audio, the gain at which it has its own level, and the one that matches levels."""
    facts = excerpt["files"][kind]
    rms = number(facts, "rms_dbfs")
    wanted_db = 0.0 if rms is None else min(MAX_GAIN_DB, MATCHED_DBFS - rms)
    usdr = number(scored(run, target)[track], kind, "usdr") if kind != "reference" else None
    return {
        "name": name,
        "gain": 1 / facts["gain"],
        "matched": 10 ** (wanted_db / 20) / facts["gain"],
        "score": "" if usdr is None else f"uSDR {text_of(usdr, '.2f')} dB",
        "audio": base64.b64encode(_file(run, facts).read_bytes()).decode(),
    }
