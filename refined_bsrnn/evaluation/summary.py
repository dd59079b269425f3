"""A summary of the scores of all tracks, and the description of the run for results.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..network.model import BSRNN, count_parameters
from ..recipe import Recipe
from ..runs.folder import RunFolder, read_provenance
from ..schema import RESULTS_FORMAT
from .oracle import MASKS
from .stats import spread

METRICS = ("usdr", "csdr", "csdr_museval", "si_sdr", "silent_dbfs", "bandwidth_hz")
SOURCES = ("estimate", "mixture", "silence", *MASKS)


def summarise(target: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`stats.spread` over the tracks in which the target is not silent, of every metric, for estimate and baselines.

    The level in silence is over all tracks, because tracks without the target are its hardest cases.
    """
    scored = [row["targets"][target] for row in rows if target in row["targets"]]
    audible = [s for s in scored if not s["reference_silent"]]
    summary: dict[str, Any] = {"n_tracks": len(audible), "n_silent": len(scored) - len(audible)}
    for source in SOURCES:
        of = [s[source] for s in audible if source in s]
        found: dict[str, Any] = {}
        for metric in METRICS:
            wanted = scored if metric == "silent_dbfs" else audible
            values = [s[source][metric] for s in wanted if metric in s.get(source, {})]
            if values:
                sure = metric in ("usdr", "csdr") or (source == "estimate" and metric in METRICS[:4])
                found[metric] = spread(values, intervals=sure)
        if of and "n_frames" in of[0]:
            for count in ("n_frames", "n_frames_excluded", "n_frames_excluded_museval"):
                found[count] = {"sum": sum(s[count] for s in of)}
            names = dict.fromkeys(name for s in of for name in s["leakage_db"])
            found["leakage_db"] = {n: spread([s["leakage_db"].get(n) for s in of], intervals=False) for n in names}
        for name in ("SDR", "ISR", "SIR", "SAR"):
            values = [s["museval"][name] for s in of if "museval" in s]
            if values:
                found[f"museval_{name.lower()}"] = spread(values)
        summary[source] = found
    return summary


def describe_run(run: RunFolder, recipe: Recipe, model: BSRNN) -> dict[str, Any]:
    """The table's facts about a run besides its scores."""
    provenance = read_provenance(run)
    kind = "transfer" if recipe.base else "multi_target" if len(recipe.targets) > 1 else "single_target"
    return {
        "format": RESULTS_FORMAT,
        "run": run.name,
        "kind": kind,
        "base": Path(recipe.base.run).name if recipe.base else None,
        "method": recipe.base.method if recipe.base else None,
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
