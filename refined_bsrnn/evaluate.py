"""Evaluation: tracks × targets → results.json. The one place that opens the test split.

Every number stands beside what doing nothing (estimate = mixture) and silence score on the same track. Definitions:
`metrics`. A stem that is silent over the whole track has no defined score: it is counted and left out of the means.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import RunFolder, load_model, read_provenance
from .data import load_track
from .errors import DataError
from .files import write_json
from .metrics import csdr_frames, museval_scores, si_sdr, usdr
from .model import BSRNN, count_parameters
from .progress import track as progress
from .recipe import Recipe
from .separate import Separator
from .sources import DataRoot, Track, find_root, fingerprint, track_table, tracks_of

PROTOCOL = {
    "usdr": "10 log10((sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7)) over all samples and channels; mean over tracks",
    "csdr": "framewise SDR (museval image SDR, 1 s frames), median over the frames in which neither reference nor "
    "estimate of this target is silent; median over tracks",
    "si_sdr": "scale-invariant SDR over all samples and channels; mean over tracks",
}
METRICS = ("usdr", "csdr", "si_sdr")
SOURCES = ("estimate", "mixture", "silence")


def evaluate(
    run: RunFolder, data_root: str | None = None, split: str = "test", device: str = "auto", with_museval: bool = False
) -> dict[str, Any]:
    """Score every track of the split, write ``results.json`` into the run's folder and return it.

    Raises `DataError` where no track of the split has any of the run's targets.
    """
    recipe = run.load_recipe()
    root = find_root(replace(recipe.data, root=data_root) if data_root else recipe.data)
    model = load_model(run)
    targets = model.targets
    listed = tracks_of(track_table(root.path, (split,)))
    tracks = tracks_with(targets, listed, root, split)
    separator = Separator(model, device)
    rows, mixtures = [], set()
    for track in progress(tracks, len(tracks), f"evaluating {run.name}"):
        mixture, stems, mixture_is = load_track(track, targets)
        estimates = separator.separate(mixture, track.sample_rate_hz, list(stems))
        rows.append(score_track(track, mixture, stems, estimates, with_museval))
        mixtures.add(mixture_is)
    results: dict[str, Any] = {
        **describe_run(run, recipe, model),
        "split": split,
        "data": {
            "name": root.name,
            "fingerprint": fingerprint(listed),
            "builtin": root.is_builtin,
            "mixture": "+".join(sorted(mixtures)),
        },
        "n_tracks": len(tracks),
        "targets": targets,
        "protocol": PROTOCOL,
        "evaluated_on": str(separator.device),
        "tracks": rows,
        "summary": {target: summarise(target, rows) for target in targets},
    }
    results = finite(results)
    write_json(run.results, results)
    return results


def tracks_with(targets: Sequence[str], tracks: Sequence[Track], root: DataRoot, split: str) -> list[Track]:
    """The tracks that have at least one target; `DataError` where none has."""
    usable = [t for t in tracks if set(targets) & set(t.stems)]
    if not usable:
        stems = sorted({stem for t in tracks for stem in t.stems})
        raise DataError(
            f"none of {len(tracks)} tracks in {root.path}/{split} has a stem for {', '.join(targets)}; "
            f"stems there: {', '.join(stems) or 'none'}."
        )
    return usable


def score_track(
    track: Track, mixture: Tensor, stems: Mapping[str, Tensor], estimates: Mapping[str, Tensor], with_museval: bool
) -> dict[str, Any]:
    """One row of results.json."""
    per_target: dict[str, Any] = {}
    for name, stem in stems.items():
        candidates = {"estimate": estimates[name], "mixture": mixture, "silence": torch.zeros_like(mixture)}
        scores = {source: score(stem, candidates[source], track.sample_rate_hz) for source in SOURCES}
        per_target[name] = {**scores, "reference_silent": not bool(stem.any())}
    audible = [name for name in stems if not per_target[name]["reference_silent"]]
    if with_museval and audible:
        true, guess = ({name: x[name].numpy() for name in audible} for x in (stems, estimates))
        for name, frames in museval_scores(true, guess, track.sample_rate_hz).items():
            medians = {key: nan_median(values) for key, values in frames.items()}
            per_target[name]["estimate"]["museval"] = medians
    return {"track": track.name, "seconds": track.seconds, "targets": per_target}


def score(reference: Tensor, estimate: Tensor, sample_rate_hz: int) -> dict[str, float | int]:
    frames = csdr_frames(reference, estimate, sample_rate_hz)
    return {
        "usdr": usdr(reference, estimate),
        "csdr": nan_median(frames),
        "si_sdr": si_sdr(reference, estimate),
        "n_frames": len(frames),
        "n_frames_excluded": int(np.isnan(frames).sum()),
    }


def summarise(target: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and median over the tracks in which the target sounds, of every metric, for estimate and baselines."""
    scored = [row["targets"][target] for row in rows if target in row["targets"]]
    audible = [s for s in scored if not s["reference_silent"]]
    summary: dict[str, Any] = {"n_tracks": len(audible), "n_silent": len(scored) - len(audible)}
    for source in SOURCES:
        values = {metric: [s[source][metric] for s in audible] for metric in METRICS}
        summary[source] = {
            metric: {"mean": nan_mean(v), "median": nan_median(v), "n_undefined": sum(map(math.isnan, v))}
            for metric, v in values.items()
        }
    return summary


def describe_run(run: RunFolder, recipe: Recipe, model: BSRNN) -> dict[str, Any]:
    """What the table says about a run beside its scores."""
    provenance = read_provenance(run)
    kind = "transfer" if recipe.base else "multi_target" if len(recipe.targets) > 1 else "single_target"
    return {
        "format": 1,
        "run": run.name,
        "kind": kind,
        "base": Path(recipe.base.run).name if recipe.base else None,
        "sample_rate_hz": recipe.stft.sample_rate_hz,
        "model": {
            "bands": recipe.bands.kind,
            "n_bands": len(model.ranges),
            "features": recipe.backbone.features,
            "repeats": recipe.backbone.repeats,
            "backbone_parameters": count_parameters(model.backbone),
            "head_parameters": {name: count_parameters(head) for name, head in model.heads.items()},
            "trainable_parameters": provenance["parameters"]["trained"],
        },
        "training": {
            "steps": provenance["steps_done"],
            "best_step": provenance.get("best_step"),
            "batch_size": recipe.train.batch_size,
            "chunk_seconds": recipe.train.chunk_seconds,
            "seconds": provenance["seconds"],
            "device": provenance["device"],
            "seed": provenance["seed"],
            "data_fingerprint": provenance["data"]["fingerprint"],
        },
    }


def nan_median(values: Sequence[float] | np.ndarray) -> float:
    """numpy's median of what is not NaN; NaN where nothing is left."""
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return float(np.median(kept)) if kept.size else math.nan


def nan_mean(values: Sequence[float]) -> float:
    kept = [v for v in values if not math.isnan(v)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
