"""Evaluation: tracks × targets → results.json. Only this module opens the test split.

Every score is given together with the scores of the mixture, of silence and of ideal masks on the same track.
Definitions: `metrics`, `scores`, `oracle`. A stem that is silent over the whole track has no defined score; it is
counted and left out of the means. Each track's scores are written when it is done (``evaluation/<split>/``), with a key
of the weights and the audio: an interrupted evaluation continues, a changed one starts again. Under ``accelerate
launch`` the processes share the tracks.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import say
from ..console import track as progress
from ..data.sources import Sources
from ..data.splits import scan_split
from ..data.tracks import Track, fingerprint
from ..data.whole import (
    EstimateFiles,
    Signals,
    known_parts,
    mixture_kind,
    pieces,
    read_known,
    read_mixture,
    second_energies,
)
from ..errors import DataError, fits, nearest
from ..network.model import BSRNN
from ..plain import finite, parse_json
from ..recipe import DataSpec, Recipe
from ..runs.folder import RunFolder, load_model, tensors_sha256
from ..runs.heads import note_in_head
from ..schema import RESULTS_FORMAT
from ..separation.separator import Separator
from ..separation.source import Source
from ..system import read_json, taking_part, write_json
from ..temporary import owned_folder
from .excerpts import SECONDS, Excerpts, loudest
from .museval_scores import MusevalPool, write_museval_json
from .oracle import MASKS, STATED, context_bounds, masked
from .scores import TrackScores
from .stats import nan_median
from .summary import SOURCES, describe_run, summarise

SCORES_VERSION = 2  # of the definitions: another one makes stored tracks stale
BLOCK_SECONDS = 10
QUICK_TRACKS = 8
PROTOCOL = {
    "usdr": "10 log10((sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7)) over all samples and channels; mean over tracks",
    "csdr": "framewise SDR (museval image SDR, 1 s frames), median over the frames in which neither reference nor "
    "estimate of this target is silent; median over tracks",
    "si_sdr": "scale-invariant SDR over all samples and channels; mean over tracks",
}
MORE_PROTOCOL = {
    "csdr_museval": "as csdr, but a frame is left out for all targets of the run when any is silent in it, as museval "
    "does; targets silent over the whole track do not count",
    "silent_dbfs": "RMS level of the estimate over the seconds in which the reference is below -70 dBFS, floor -120",
    "bandwidth_hz": "frequency below which 99 % of the energy lies",
    "leakage_db": "level at which each other known part remains in the estimate, 0 dB as in the mixture: projection "
    "on all known parts per second, one gain each",
    "ratio_mask": f"ceiling: |S|^2 / (|S|^2 + |X - S|^2) on the mixture, {STATED}",
    "complex_mask": f"ceiling: S / X, magnitude limited to 10, {STATED}",
}
QUICK_SOURCES = SOURCES[:3]


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation; by default every track of the test split is scored in full."""

    split: str = "test"
    tracks: tuple[str, ...] = ()  # globs on names; none: all
    quick: bool = False  # uSDR alone, on at most 8 tracks
    mixture: str = "auto"  # mixture.wav ("file"), the sum of stems ("sum"), or the file where there is one
    with_museval: bool = False
    museval_json: Path | None = None
    jobs: int = 1  # processes for museval
    excerpts: bool = True  # keep ten seconds per target to listen to
    define: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # target: the stems whose sum it is scored on

    @property
    def museval(self) -> bool:
        return self.with_museval or self.museval_json is not None

    @property
    def partial(self) -> bool:
        return self.quick or bool(self.tracks)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, the same in every process that shares it."""

    folder: Path  # gets results.json and evaluation/
    targets: list[str]
    sources: Sources
    listed: list[Track]  # of the whole split
    tracks: list[Track]  # to be scored
    estimates: Any  # NetworkEstimates or EstimateFiles
    options: EvaluationOptions

    def stored(self, track: Track) -> Path:
        name = "".join(c if c.isalnum() or c in " -_.,&'()" else "_" for c in track.name)
        end = ".quick.json" if self.options.quick else ".json"
        return self.folder / "evaluation" / self.options.split / f"{name}{end}"

    def key(self, track: Track) -> str:
        """A hash of everything that a track's scores depend on: definitions, weights or files, audio, options."""
        estimates = self.estimates.key(track)
        audio = [track.name, track.n_samples, track.sample_rate_hz, track.content, track.written]
        read = {t: [asdict(file) for file in track.files.get(t, ())] for t in self.targets}
        asked = [self.targets, read, self.options.mixture, self.options.quick, self.options.excerpts]
        return hashlib.sha256(json.dumps([SCORES_VERSION, estimates, audio, asked]).encode()).hexdigest()


class NetworkEstimates:
    """Estimates by a trained network, loaded once."""

    def __init__(self, model: BSRNN, device: str):
        self.separator = Separator(model, device)
        self.device = str(self.separator.device)
        state = tensors_sha256(model.state_dict())
        self.identity = [state, self.separator.chunk, self.separator.overlap, self.separator.shifts]

    def key(self, track: Track) -> list[object]:
        return [*self.identity]

    def blocks(self, track: Track, targets: Sequence[str], mixture_is: str, n_samples: int) -> Iterator[Signals]:
        """Estimates of those targets for one track in successive blocks; the mixture is read as it is needed."""

        def mixture() -> Iterator[torch.Tensor]:
            for start in range(0, track.n_samples, n_samples):
                block = read_mixture(track, mixture_is, start, min(n_samples, track.n_samples - start))
                for second in block.split(track.sample_rate_hz, 1):  # the separator keeps some dozens of blocks
                    yield second.clone()

        source = Source(track.sample_rate_hz, track.n_channels, track.n_samples, mixture)
        yield from self.separator.stream_source(source, list(targets))


# --- evaluating a run, or a folder of estimates -----------------------------------------------------------------------


def evaluate(
    run: RunFolder,
    data_root: str | None = None,
    split: str = "test",
    device: str = "auto",
    out: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score every track of the split, write ``results.json`` to ``out`` (default: the run's folder) and return it.

    Scores are noted in the heads' files only in the run's own folder. ``options``: further fields of
    `EvaluationOptions`. Under ``accelerate launch`` each process scores a share of the tracks and all of them return
    the results. Raises `DataError` if no track of the split has any of the run's targets, if audio does not fit
    together, and for estimates with NaN.
    """
    chosen = EvaluationOptions(split=split, **options)
    recipe = run.load_recipe()
    model = load_model(run)
    facts = describe_run(run, recipe, model)  # before the hours of work
    with shared_tracks(device) as (rank, n_processes, own_device, barrier):
        data = replace(recipe.data, define={**recipe.data.define, **chosen.define})
        found = scan_split(replace(recipe, data=data), split, data_root or None)
        listed = found.usable()
        if split != "test" and rank == 0:
            say(found.notes[-1])
        tracks = tracks_to_score(model.targets, listed, found.sources, chosen)
        estimates = NetworkEstimates(model, own_device)
        evaluation = Evaluation(out or run.path, model.targets, found.sources, listed, tracks, estimates, chosen)
        results = _evaluate(evaluation, facts, rank, n_processes, barrier)
        if rank == 0 and not chosen.partial and out is None:
            note_scores(run, results)
        return results


def note_scores(run: RunFolder, results: Mapping[str, Any]) -> None:
    """Write the scores of each head to its file, so that the file can be shared alone."""
    for name in run.head_names():
        if results["summary"].get(name, {}).get("estimate", {}).get("usdr"):  # scored on a track at least
            estimate, data = results["summary"][name]["estimate"], results["data"]
            score = {"usdr": estimate["usdr"]["mean"], "csdr": estimate["csdr"]["median"], "split": results["split"]}
            about = {"n_tracks": results["summary"][name]["n_tracks"], "data": data["name"]}
            note_in_head(run.head(name), score={**score, **about, "fingerprint": data["fingerprint"]})


def evaluate_estimates(folder: Path, data_root: str | None = None, **options: Any) -> dict[str, Any]:
    """Score the estimates in a folder, ``<track>/<target>.wav``; ``results.json`` is written there.

    Raises `DataError` for a track without an estimate, and for an estimate with another length or rate or with NaN
    samples.
    """
    chosen = EvaluationOptions(**options)
    files = EstimateFiles(folder)
    found = scan_split(Recipe((), data=DataSpec(root=data_root, define=chosen.define)), chosen.split)
    listed = found.usable()
    targets = files.targets(listed)
    tracks = tracks_to_score(targets, listed, found.sources, chosen)
    facts = {"format": RESULTS_FORMAT, "run": folder.resolve().name, "kind": "estimates", "base": None}
    evaluation = Evaluation(folder, targets, found.sources, listed, tracks, files, chosen)
    return _evaluate(evaluation, {**facts, "model": {}, "training": {}}, 0, 1, lambda: None)


@contextmanager
def shared_tracks(device: str) -> Iterator[tuple[int, int, str, Callable[[], None]]]:
    """(rank, number of processes, this one's device, a barrier) of the processes that Accelerate started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1, device, lambda: None
        return
    from accelerate import PartialState

    with taking_part():
        # Songs differ in length: nobody gives up on the others before a week has passed.
        state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
        own = "cpu" if state.device.type == "cpu" else str(state.device)
        yield state.process_index, state.num_processes, own, state.wait_for_everyone


def tracks_to_score(
    targets: Sequence[str], tracks: Sequence[Track], sources: Sources, options: EvaluationOptions
) -> list[Track]:
    """The tracks whose name matches and that have at least one target; with ``quick`` at most eight, spread over the
    list.

    Reports the tracks without any target; `DataError` if all are without.
    """
    available = {stem for track in tracks for stem in track.files}
    for name, listed in options.define.items():
        if missing := [stem for stem in listed if stem not in available]:
            raise DataError(f"--define {name}: no track has a stem {missing[0]!r}.{nearest(missing[0], available)}")
    asked = named(tracks, options)
    usable = [t for t in asked if set(targets) & set(t.stems)]
    if not usable:
        stems = sorted({stem for t in asked for stem in t.stems})
        raise DataError(
            f"none of {len(asked)} tracks in {sources.where} ({options.split}) has a stem for {', '.join(targets)}; "
            f"stems there: {', '.join(stems) or 'none'}. What a target of another name is: --define NAME=STEM."
        )
    if len(usable) < len(asked):
        without = next(t.name for t in asked if t not in usable)
        say(
            f"{len(asked) - len(usable)} of {len(asked)} tracks have no stem for {' or '.join(targets)} and are left "
            f"out, e.g. {without}."
        )
    if options.quick and len(usable) > QUICK_TRACKS:
        usable = [usable[i * len(usable) // QUICK_TRACKS] for i in range(QUICK_TRACKS)]
    return usable


def named(tracks: Sequence[Track], options: EvaluationOptions) -> list[Track]:
    """The tracks whose name matches; `DataError` if there is none."""
    fitting = [t for t in tracks if not options.tracks or fits(t.name, options.tracks)]
    if not fitting:
        names = ", ".join(t.name for t in tracks[:5])
        raise DataError(f"no track is named {' or '.join(options.tracks)}; there are {len(tracks)}, e.g. {names}.")
    return fitting


# --- sharing out the tracks, and going on where an evaluation was cut off ---------------------------------------------


def _evaluate(
    evaluation: Evaluation, facts: Mapping[str, Any], rank: int, n_processes: int, barrier: Callable[[], None]
) -> dict[str, Any]:
    todo = [t for t in evaluation.tracks if not _is_done(evaluation, t)]
    if len(todo) < len(evaluation.tracks):
        n_tracks = len(evaluation.tracks)
        say(f"{n_tracks - len(todo)} of {n_tracks} tracks were scored before; going on with the rest.")
    longest_first = sorted(todo, key=lambda t: (-t.n_samples, t.name))
    barrier()  # nobody writes before all have looked
    _score_all(evaluation, longest_first[rank::n_processes], n_processes)
    barrier()
    done = [_read_stored(evaluation.stored(t)) for t in evaluation.tracks]
    unseen = [t.name for t, stored in zip(evaluation.tracks, done, strict=True) if "row" not in stored]
    if unseen:
        raise DataError(
            f"the scores of {len(unseen)} tracks ({unseen[0]}, ...) are not in {evaluation.folder / 'evaluation'}; "
            "processes on several machines need one folder that all of them see."
        )
    results = finite({**facts, **summary_of(evaluation, done)})
    if rank == 0:
        write_json(results_path(evaluation.folder, evaluation.options.partial), results)
        if evaluation.options.museval_json:
            _write_museval(evaluation, done, evaluation.options.museval_json)
    barrier()
    return results


def results_path(folder: Path, partial: bool) -> Path:
    """``results.json``; for a part of the tracks ``results-part.json`` if the former is a full evaluation."""
    whole = folder / "results.json"
    if partial and whole.is_file() and not read_json(whole).get("partial"):
        return folder / "results-part.json"
    return whole


def _is_done(evaluation: Evaluation, track: Track) -> bool:
    path = evaluation.stored(track)
    if not path.is_file():
        return False
    stored = _read_stored(path)
    if stored.get("key") != evaluation.key(track) or (evaluation.options.museval and stored.get("museval") is None):
        return False
    excerpts = [scores["excerpt"] for scores in stored["row"]["targets"].values() if "excerpt" in scores]
    return all((path.parent / kind["file"]).is_file() for excerpt in excerpts for kind in excerpt["files"].values())


def _read_stored(path: Path) -> dict[str, Any]:
    """The scores of an earlier evaluation; empty if they are unreadable, so that the track is scored again."""
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _score_all(evaluation: Evaluation, tracks: Sequence[Track], n_processes: int) -> None:
    def write(stored: dict[str, Any], frames: Any) -> None:
        for target, metrics in (frames or {}).items():
            if target in stored["row"]["targets"]:
                medians = {name: nan_median([math.nan if v is None else v for v in x]) for name, x in metrics.items()}
                stored["row"]["targets"][target]["estimate"]["museval"] = medians
        path = Path(stored.pop("path"))
        write_json(path, finite({**stored, "museval": frames}))

    pool = MusevalPool(evaluation.options.jobs, write)
    shared = f", one of {n_processes} processes" if n_processes > 1 else ""
    with owned_folder(Path(tempfile.gettempdir()), "refined-bsrnn-evaluate-") as folder:
        try:
            for i, track in enumerate(
                progress(tracks, len(tracks), f"evaluating {evaluation.folder.resolve().name}{shared}")
            ):
                stored = {
                    "path": str(evaluation.stored(track)),
                    "key": evaluation.key(track),
                    "device": evaluation.estimates.device,
                }
                kept = Path(folder, str(i)) if evaluation.options.museval else None
                stored["row"] = score_track(evaluation, track, kept)
                if kept is None:
                    write(stored, None)
                else:
                    scored = list(stored["row"]["targets"])
                    pool.submit(stored, track, scored, stored["row"]["mixture"], kept)
            waiting = len(pool.pending)
            for _ in progress(pool.finish(), waiting, "museval"):
                pass
        finally:
            pool.close()


def _write_museval(evaluation: Evaluation, done: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for track, stored in zip(evaluation.tracks, done, strict=True):
        if stored["museval"]:
            write_museval_json(
                folder / evaluation.options.split / f"{evaluation.stored(track).stem}.json", stored["museval"]
            )


# --- one track --------------------------------------------------------------------------------------------------------


def score_track(evaluation: Evaluation, track: Track, keep: Path | None = None) -> dict[str, Any]:
    """One row of results.json; with ``keep`` the estimates are written there too, as ``<target>.npy``."""
    options, rate, length = evaluation.options, track.sample_rate_hz, track.n_samples
    targets = [target for target in evaluation.targets if target in track.files]
    mixture_is = mixture_kind(track, options.mixture)
    parts = {target: (target,) if options.quick else known_parts(track, target) for target in targets}
    n_block = BLOCK_SECONDS * rate
    sources = QUICK_SOURCES if options.quick else SOURCES
    scores = TrackScores(rate, parts, sources, options.quick)
    excerpts = _excerpts(evaluation, track, targets, n_block)
    kept = _memory_maps(keep, track, targets)
    estimates = pieces(_checked(evaluation, track, targets, mixture_is, n_block), n_block)
    for start, estimate in zip(range(0, length, n_block), estimates, strict=True):
        stop = min(start + n_block, length)
        low, high = context_bounds(start, stop, length)
        mixture = read_mixture(track, mixture_is, low, high - low)
        known = _read_parts(track, parts, low, high - low)
        inside = slice(start - low, stop - low)
        candidates: dict[str, dict[str, torch.Tensor]] = {"estimate": estimate}
        candidates["mixture"] = dict.fromkeys(targets, mixture[:, inside])
        candidates["silence"] = dict.fromkeys(targets, torch.zeros_like(mixture[:, inside]))
        if not options.quick:
            under = {target: masked(mixture, known[target]) for target in targets}
            candidates |= {mask: {t: under[t][mask][:, inside] for t in targets} for mask in MASKS}
        scores.add({name: x[:, inside] for name, x in known.items()}, candidates)
        for target in targets:
            scored = {"reference": known[target][:, inside], "estimate": estimate[target]}
            excerpts.add(start, target, mixture=mixture[:, inside], **scored)
            if kept:
                kept[target][:, start:stop] = estimate[target].numpy()
    row: dict[str, Any] = {"track": track.name, "seconds": track.seconds, "mixture": mixture_is}
    row["targets"] = scores.finish()
    for target, facts in excerpts.write(evaluation.stored(track).parent, evaluation.stored(track).stem).items():
        row["targets"][target]["excerpt"] = facts
    return row


def _checked(
    evaluation: Evaluation, track: Track, targets: Sequence[str], mixture_is: str, n_block: int
) -> Iterator[Signals]:
    """The estimates' blocks; `DataError` for NaN and for another length than the references'."""
    done = 0
    for block in evaluation.estimates.blocks(track, targets, mixture_is, n_block):
        for target, x in block.items():
            if not torch.isfinite(x).all():
                raise DataError(
                    f"the estimate of {target} for track {track.name} holds NaN or infinite samples; it cannot be "
                    "scored. A network that gives NaN has to be trained again from an earlier state."
                )
        done += next(iter(block.values())).shape[-1]
        if done <= track.n_samples:
            yield block
    if done != track.n_samples:
        raise DataError(f"the estimates of track {track.name} have {done} samples, the references {track.n_samples}.")


def _read_parts(track: Track, parts: Mapping[str, Sequence[str]], start: int, n_samples: int) -> Signals:
    """Every part on which some target is projected, each read once."""
    names = dict.fromkeys(name for of_target in parts.values() for name in of_target)
    return {name: read_known(track, name, start, n_samples) for name in names}


def _excerpts(evaluation: Evaluation, track: Track, targets: Sequence[str], n_block: int) -> Excerpts:
    if evaluation.options.quick or not evaluation.options.excerpts:
        return Excerpts({}, 0, track.sample_rate_hz)
    n_seconds = int(min(SECONDS, max(1, track.n_samples // track.sample_rate_hz)))
    starts = {}
    for target in targets:
        energies = second_energies(track, target, n_block)
        starts[target] = loudest(energies[: track.n_samples // track.sample_rate_hz], n_seconds) * track.sample_rate_hz
    return Excerpts(starts, n_seconds * track.sample_rate_hz, track.sample_rate_hz)


def _memory_maps(folder: Path | None, track: Track, targets: Sequence[str]) -> dict[str, np.ndarray]:
    if folder is None:
        return {}
    folder.mkdir(parents=True)
    shape = (track.n_channels, track.n_samples)
    return {t: np.lib.format.open_memmap(folder / f"{t}.npy", "w+", np.float32, shape) for t in targets}


# --- the results ------------------------------------------------------------------------------------------------------


def summary_of(evaluation: Evaluation, done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything in results.json that is about scores."""
    rows = [stored["row"] for stored in done]
    options = evaluation.options
    asked = evaluation.tracks if options.quick else named(evaluation.listed, options)
    partial = {"tracks": list(options.tracks) or None, "quick": options.quick, "of": len(evaluation.listed)}
    return {
        "split": options.split,
        "data": {
            "name": evaluation.sources.name,
            "fingerprint": fingerprint(evaluation.listed),
            "builtin": evaluation.sources.is_builtin,
            "mixture": "+".join(sorted({row["mixture"] for row in rows})),
            **({"define": {name: list(stems) for name, stems in options.define.items()}} if options.define else {}),
        },
        "n_tracks": len(rows),
        "partial": partial if options.partial else None,
        "targets": evaluation.targets,
        "protocol": PROTOCOL,
        "more_protocol": {} if options.quick else MORE_PROTOCOL,
        "evaluated_on": "+".join(sorted({stored["device"] for stored in done})),
        "tracks_without": {t: [x.name for x in asked if t not in x.files] for t in evaluation.targets},
        "tracks": rows,
        "summary": {target: summarise(target, rows) for target in evaluation.targets},
    }
