"""The heads of a run: list, add to another run, rename, remove, verify.

A head is one file next to a backbone (see `folder`). These functions work on the files of a run and do not change the
backbone or other heads by a single bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, RecipeError, UserError, check_has
from ..network.model import BSRNN
from ..network.signals import as_pairs
from ..recipe import check_target_name
from ..schema import ComponentFacts
from .folder import (
    COPY_AGAIN,
    RunFolder,
    backbone_file,
    find_run,
    head_history,
    header_facts,
    load_backbone,
    load_head,
    load_model,
    read_metadata,
    read_shapes,
    read_tensors,
    without_adapter,
    write_tensors,
)


@dataclass(frozen=True)
class HeadFacts:
    """The facts in a head's file."""

    name: str
    kind: str
    parameters: int
    adapter_parameters: int
    backbone_sha256: str
    bands: str
    trained: Mapping[str, Any]  # run, method, steps, audio hours, validation uSDR, data
    score: Mapping[str, Any]  # split, uSDR, cSDR, number of tracks; empty before `evaluate`


def head_facts(path: Path, name: str | None = None) -> HeadFacts:
    """The facts in a head's file; only its header is read. `CheckpointError` for a file that is damaged or no head."""
    metadata = read_metadata(path, "head")
    own, of_adapter = (sum(map(torch.numel, part.values())) for part in without_adapter(read_shapes(path)))
    if metadata.get("kind") != "head":
        raise CheckpointError(f"{path} is a {metadata.get('kind', 'file of another format')}; expected a head.")
    for key in ("target", "backbone_sha256"):
        if key not in metadata:
            raise CheckpointError(f"{path} does not say its {key}; expected a head. {COPY_AGAIN}")
    return HeadFacts(
        name=name or metadata["target"],
        kind=header_facts(path, metadata, "head", ComponentFacts)["kind"],
        parameters=own,
        adapter_parameters=of_adapter,
        backbone_sha256=metadata["backbone_sha256"],
        bands=header_facts(path, metadata, "bands", ComponentFacts)["kind"],
        **head_history(path, metadata),
    )


def list_heads(run: RunFolder) -> list[HeadFacts]:
    """The heads in a run's folder, by name."""
    return [head_facts(run.head(name), name) for name in run.head_names()]


def head_source(source: str, root: str = "runs") -> list[tuple[str, Path]]:
    """Names and files of the heads for ``source``: a head's file, ``RUN:HEAD``, or all heads of a run."""
    if source.endswith(".safetensors"):
        path = Path(source)
        if not path.is_file():
            raise CheckpointError(f"{path} is not there; expected a head's file, RUN:HEAD or RUN.")
        return [(head_facts(path).name, path)]
    name, colon, head = source.rpartition(":")
    run = find_run(name if colon else source, root)
    names = run.head_names()
    if colon:
        check_has(str(run.path), "head", head, run.head_names())
    return [(head, run.head(head))] if colon else [(each, run.head(each)) for each in names]


def add_head(run: RunFolder, path: Path, name: str, overwrite: bool = False) -> None:
    """Copy the head in a file to the run's own heads, as ``name``; refused if it belongs to another backbone."""
    check_target_name(name)
    _check_free(run, name, overwrite)
    model = load_model(run, heads=[])
    if name in model.heads:  # a run whose targets are tied together loads them all
        model.remove_head(name)
    load_head(path, model, name)  # strict: what does not fit never gets into the folder
    note_in_head(run.head(name), path, target=name)


def rename_head(run: RunFolder, old: str, new: str) -> None:
    """Give a head another name."""
    check_has(str(run.path), "head", old, run.head_names())
    _check_untied(run, old)
    check_target_name(new)
    _check_free(run, new, overwrite=False)
    note_in_head(run.head(new), run.head(old), target=new)
    run.head(old).unlink()


def remove_head(run: RunFolder, name: str) -> None:
    """Delete a head's file, including its adapter."""
    check_has(str(run.path), "head", name, run.head_names())
    _check_untied(run, name)
    run.head(name).unlink()


def note_in_head(path: Path, source: Path | None = None, **facts: Any) -> None:
    """Write a head's file (from ``source``, else the same) with facts added to its metadata and its tensors kept."""
    tensors, metadata = read_tensors(source or path, "head")
    write_tensors(path, tensors, {**metadata, **facts})


def _check_free(run: RunFolder, name: str, overwrite: bool) -> None:
    if name in run.head_names() and not overwrite:
        raise RecipeError(f"{run.path} has a head {name!r} already. Choose another name with --as, or say --overwrite.")


def _check_untied(run: RunFolder, name: str) -> None:
    recipe = run.load_recipe()
    if recipe.tie and name in recipe.targets:
        raise UserError(
            f"{recipe.tie}: the targets {', '.join(recipe.targets)} of {run.path} are estimated together, {name!r} can "
            "be neither renamed nor removed."
        )


# --- verifying --------------------------------------------------------------------------------------------------------


def verify(run: RunFolder, names: Iterable[str] = ()) -> dict[str, str]:
    """{part: "ok" or the problem} for the backbone and every head (or the named ones).

    The checks: hashes, names and shapes are right, every number is finite, the head belongs to this backbone, and noise
    gives a finite estimate.
    """
    try:
        model = BSRNN(run.load_recipe(), targets=())
        digest = _verify_backbone(run, model)
    except UserError as error:
        return {"backbone": str(error)}
    found = {"backbone": "ok"}
    for name in names or run.head_names():
        try:
            check_has(str(run.path), "head", name, run.head_names())
            _verify_head(run, model, name, digest)
            found[name] = "ok"
        except UserError as error:
            found[name] = str(error)
    return found


def _verify_backbone(run: RunFolder, model: BSRNN) -> str:
    file = backbone_file(run)
    digest = load_backbone(file, model)
    _check_finite(model.backbone.state_dict(), file)
    return digest


def _verify_head(run: RunFolder, model: BSRNN, name: str, digest: str) -> None:
    path = run.head(name)
    tensors, _ = read_tensors(path, "head")
    _check_finite(tensors, path)
    load_head(path, model, name, digest)
    length = 4 * model.recipe.stft.n_fft
    noise = torch.randn(1, model.recipe.data.channels, length, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.eval().features(noise, adapter=model.adapters.of.get(name))
        estimate = model.head(name)(features, as_pairs(model.stft(noise)))
    if not torch.isfinite(estimate).all():
        raise CheckpointError(f"{path} gives NaN or infinite values for noise.")


def _check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} holds NaN or infinite numbers in {name}.")
