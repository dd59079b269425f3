"""Forgetting: the loss of a base's own heads when its backbone is trained further, as by all methods but `frozen`."""

import statistics
from typing import Any

from ..console import track as progress
from ..data.splits import scan_split
from ..data.whole import load_track
from ..errors import DataError, RecipeError
from ..metrics import usdr
from ..network.model import BSRNN
from ..runs.folder import RunFolder, base_of, load_backbone, load_model
from ..separation.separator import Separator
from ..system import write_json


def forgetting(
    run: RunFolder, data_root: str | None = None, split: str = "test", device: str = "auto"
) -> dict[str, Any]:
    """Mean uSDR of the base's heads on its own backbone and on the run's, written to ``forgetting.json``.

    If the run uses the base's backbone, the change is zero, and only the hash is compared.
    """
    recipe = run.load_recipe()
    if recipe.base is None:
        raise RecipeError(f"{run.path} is no transfer: there is no base that could forget.")
    base = base_of(run)
    before_model = load_model(base)
    if not recipe.owns_backbone:
        load_model(run)  # checks the hash
        changes = dict.fromkeys(before_model.targets, 0.0)
        values: dict[str, Any] = {"how": "the backbone is the base's own, by hash", "change": changes}
    else:
        before = _scores(before_model, base, data_root, split, device)
        other = load_model(base)
        load_backbone(run.backbone, other)  # under the base's heads and adapters, which loading normally refuses
        after = _scores(other, base, data_root, split, device)
        changes = {name: after[name] - before[name] for name in before}
        values = {"how": f"uSDR, mean over the {split} tracks", "before": before, "after": after, "change": changes}
    values = {"base": base.name, "split": split, **values, "mean": statistics.fmean(changes.values())}
    write_json(run.forgetting, values)
    return values


def _scores(model: BSRNN, base: RunFolder, data_root: str | None, split: str, device: str) -> dict[str, float]:
    recipe = base.load_recipe()
    found = scan_split(recipe, split, data_root or None)
    separator = Separator(model, device)
    values: dict[str, list[float]] = {name: [] for name in model.targets}
    usable = found.usable()
    tracks = [t for t in usable if set(t.stems) & set(values)]
    if not tracks:
        available = sorted({stem for t in usable for stem in t.stems})
        raise DataError(
            f"no {split} track has a stem of the base's heads {', '.join(values)}; stems there: {', '.join(available)}."
        )
    for track in progress(tracks, len(tracks), "forgetting"):
        mixture, stems, _ = load_track(track, model.targets)
        audible = [name for name in stems if stems[name].any()]
        for name, estimate in separator.separate(mixture, track.sample_rate_hz, audible).items():
            values[name].append(usdr(stems[name], estimate))
    return {name: statistics.fmean(scores) for name, scores in values.items() if scores}
