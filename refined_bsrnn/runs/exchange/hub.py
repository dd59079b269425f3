"""A model as one folder to share: written, put on the Hugging Face hub, found there again.

    folder/
      README.md                   model card: what it separates, how well, how to use it
      recipe.yaml                 the network
      backbone.safetensors, heads/<target>.safetensors
      provenance.json, results.json

It is a run's folder that needs no other: everything that takes a run takes it, as a base for transfers too.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from torch import Tensor

from ...errors import CheckpointError, RecipeError, UserError, first_line, nearest
from ...network.model import BSRNN
from ...recipe import Recipe, RunSpec, dump_recipe
from ...system import read_json, write_bytes, write_json, write_text
from ...temporary import owned_folder
from ..folder import (
    RunFolder,
    backbone_file,
    find_run,
    load_model,
    read_tensors,
    save_backbone,
    save_head,
    tensors_sha256,
    without_adapter,
    write_tensors,
)
from ..heads import HeadFacts, list_heads
from .catalogue import read_catalogue
from .library import named

HUB = "hf:"  # before the name of a hub model
HUB_ID = r"[\w.-]+/[\w.-]+"
FILES = ["README.md", "recipe.yaml", "provenance.json", "results.json", "*.safetensors"]


def find_model(
    path_or_id: str | os.PathLike[str],
    root: str = "runs",
    revision: str | None = None,
    heads: Collection[str] | None = None,
    **options: Any,
) -> RunFolder:
    """A run by its folder or its name under ``root``, a model of the catalogue by its name, or one of the hub.

    The hub's models are called ``hf:owner/name``. A model of the catalogue (see `library`) is downloaded if it is not
    on this machine, unless ``local_files_only``; ``best`` is the catalogue's best one for ``heads``. ``owner/name``
    alone is looked for on this machine first, and on the hub only if nothing here is called ``owner``, so that a
    mistyped path never loads a stranger's model. A hub model is downloaded once and stored in the hub's own cache.
    ``options``: those of `huggingface_hub.snapshot_download`.
    """
    text = str(path_or_id)
    name = text.removeprefix(HUB)
    here = ""
    if not text.startswith(HUB):
        try:
            return find_run(path_or_id, root)
        except RecipeError as error:
            if model := named(text, heads, offline=bool(options.get("local_files_only"))):
                return model
            here = f"{error} "
            if not re.fullmatch(HUB_ID, name):
                raise _also_models(error, name) from None
            if _is_here(name, root):
                raise RecipeError(f"{here}A model of the Hugging Face hub is called {HUB}{name}.") from None
    elif not re.fullmatch(HUB_ID, name):
        raise RecipeError(f"{text!r} is no hub model; expected {HUB}owner/name.")
    given = {key: value for key, value in options.items() if value is not None and (value or key == "token")}
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=FILES, **given)
    except Exception as error:  # whichever network client the hub's library uses has errors of its own
        why = first_line(error)
        if given.get("local_files_only") or constants.HF_HUB_OFFLINE:
            why = "it is not on this machine, and the network may not be used (--offline, local_files_only, or "
            why += "HF_HUB_OFFLINE). Without these it is downloaded once."
        found = f"On the Hugging Face hub it cannot be had either: {why}" if here else f"{text} cannot be had: {why}"
        raise RecipeError(f"{here}{found}") from None
    if not (Path(folder) / "recipe.yaml").is_file():
        raise RecipeError(f"the hub model {name} holds no recipe.yaml; expected a model that `export` wrote.")
    return RunFolder(Path(folder))


def _also_models(error: RecipeError, name: str) -> RecipeError:
    """A hint for a name that is neither a run nor a model."""
    models = read_catalogue().entries
    return RecipeError(
        f"{error} Nor is it a public model.{nearest(name, models)} `refined-bsrnn models list` shows them."
    )


def _is_here(name: str, root: str) -> bool:
    """Whether the first part of a path is there, or is where runs are."""
    first = name.split("/")[0]
    return first in (".", "..", Path(root).name) or any(os.path.lexists(Path(place) / first) for place in (".", root))


def export(run: RunFolder, out: Path, heads: Sequence[str] = (), half: bool = False) -> RunFolder:
    """Write the run's backbone and its heads (or the named ones) to the new folder ``out``, with a model card.

    The folder is written under a temporary name and renamed when it is complete. ``half``: weights in 16 bits, half the
    size, which are read as float32 again. The rounded backbone has another hash, so only the heads of this folder fit
    it. Raises `RecipeError` if ``out`` exists or a head does not, `CheckpointError` for weights too large for 16 bits.
    """
    names = list(heads) or run.head_names()
    if not names:
        raise RecipeError(f"{run.path} has no head to export.")
    with _new_folder(out) as whole:
        load_model(run, names)  # strict: what does not fit together is not handed on
        _write(run, whole, names, half)
    return RunFolder(out)


@contextmanager
def _new_folder(out: Path) -> Iterator[RunFolder]:
    """A run's folder under a temporary name, renamed to ``out`` when it is complete; `RecipeError` if that exists."""
    if out.exists():
        raise RecipeError(f"{out} exists already and is not overwritten; choose another folder or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with owned_folder(out.parent, f".export-{out.name}-") as temporary:
        yield RunFolder(temporary / out.name)
        (temporary / out.name).replace(out)


def _write(run: RunFolder, whole: RunFolder, names: Sequence[str], half: bool) -> None:
    recipe = run.load_recipe()
    missing = [name for name in run.head_names() if name not in names]
    if recipe.tie and missing:
        raise RecipeError(f"{recipe.tie}: the head {missing[0]!r} cannot be left out.")
    write_text(whole.recipe, dump_recipe(_alone(recipe, tuple(names), run.name)))
    tensors, metadata = read_tensors(backbone_file(run), "backbone")
    if half:
        tensors = _halved(tensors, backbone_file(run))
        # As `load_backbone` finds it: of the float32 numbers that the stored ones become.
        metadata["sha256"] = tensors_sha256({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
    write_tensors(whole.backbone, tensors, metadata)
    for name in names:
        if half:
            _write_half_head(run.head(name), whole.head(name), metadata["sha256"])
        else:
            write_bytes(whole.head(name), run.head(name).read_bytes())
    provenance = read_json(run.provenance) if run.provenance.exists() else {}
    write_json(whole.provenance, _without_paths(provenance))
    results = read_json(run.results) if run.results.exists() else None
    if results is not None:
        shutil.copyfile(run.results, whole.results)
    write_text(whole.path / "README.md", model_card(whole.path.name, list_heads(whole), provenance, results))


def _halved(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in 16 bits; `CheckpointError` for a number that is too large for them."""
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in half.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {name} has numbers beyond 65504, which 16 bits cannot hold; leave --half out."
            )
    return half


def _write_half_head(source: Path, path: Path, backbone_sha256: str) -> None:
    """A head in 16 bits, as one of that backbone; its hashes are those of what the file holds."""
    tensors, metadata = read_tensors(source, "head")
    half = _halved(tensors, source)
    own, adapter = without_adapter(half)
    metadata |= {"sha256": tensors_sha256(own), "backbone_sha256": backbone_sha256}
    if adapter:
        metadata["adapter"] = json.dumps({**json.loads(metadata["adapter"]), "sha256": tensors_sha256(adapter)})
    write_tensors(path, half, metadata)


def save_model(model: BSRNN, out: Path) -> RunFolder:
    """Write a network in memory, with all of its heads, to the new folder ``out``, with a model card.

    As `export`, for heads that were attached or trained by the user's own code.
    """
    if not model.heads:
        raise RecipeError("the network has no head to save.")
    with _new_folder(out) as whole:
        write_text(whole.recipe, dump_recipe(_alone(model.recipe, tuple(model.targets), out.name)))
        save_backbone(whole.backbone, model)
        for name in model.heads:
            save_head(whole.head(name), model, name)
        write_text(whole.path / "README.md", model_card(out.name, list_heads(whole), {}, None))
    return RunFolder(out)


def _alone(recipe: Recipe, targets: tuple[str, ...], name: str) -> Recipe:
    """The recipe of a network that needs no other run and contains no path of this machine."""
    weights = {key: value for key, value in recipe.loss.target_weights.items() if key in targets}
    return replace(
        recipe,
        targets=recipe.targets if recipe.tie else targets,
        base=None,
        data=replace(recipe.data, root=None, sources=(), stem_weights=None),
        loss=replace(recipe.loss, target_weights=weights),
        run=RunSpec(name=name),
    )


def _without_paths(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance without this machine's paths, which must not be shared."""
    data = {key: value for key, value in provenance.get("data", {}).items() if key != "root"}
    return {**{k: v for k, v in provenance.items() if k not in ("command", "wandb_id")}, "data": data}


def model_card(
    name: str, heads: Sequence[HeadFacts], provenance: Mapping[str, Any], results: Mapping[str, Any] | None
) -> str:
    """The README of an exported folder, every number from the files beside it."""
    tags = "tags: [music-source-separation, band-split-rnn]"
    header = f"library_name: refined-bsrnn\npipeline_tag: audio-to-audio\n{tags}"
    rows = [_card_row(head) for head in heads]
    columns = ["head", "parameters", "trained for", "on", "uSDR / cSDR, dB", "tracks"]
    table = [columns, ["---"] * len(columns), *rows]
    lines = [
        f"---\n{header}\n---",
        f"# {name}",
        f"Music source separation by refined_bsrnn: one Band-Split RNN backbone (`{heads[0].backbone_sha256[:12]}`, "
        f"bands `{heads[0].bands}`) and {len(heads)} head{'s' if len(heads) > 1 else ''}.",
        "\n".join("| " + " | ".join(row) + " |" for row in table),
        "uSDR: mean over tracks; cSDR: median over 1 s frames, then over tracks. `–`: not evaluated.",
        f"`{name}` stands for this folder, or for its `hf:owner/{name}` on the Hugging Face hub:",
        f"```sh\nrefined-bsrnn separate song.wav --model {name} --head {heads[0].name}\n"
        f"refined-bsrnn transfer --base {name} --target NAME    # a head for your own instrument\n```",
        f'```python\nfrom refined_bsrnn import Separator\n\nseparator = Separator.from_pretrained("{name}")\n'
        f'stems = separator.separate("song.wav", heads=["{heads[0].name}"])    # {{head: (channels, samples)}}\n```',
        _card_facts(provenance, results),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _card_row(head: HeadFacts) -> list[str]:
    trained, score = head.trained, head.score
    size = f"{head.parameters:,}" + (f" + adapter {head.adapter_parameters:,}" if head.adapter_parameters else "")
    if "usdr" in score:
        both = " / ".join("–" if score.get(key) is None else f"{score[key]:.2f}" for key in ("usdr", "csdr"))
    else:
        both = "–"
    steps = f"{trained['steps']:,} steps, {trained['audio_hours']:.1f} h of audio" if trained else "–"
    data = trained.get("data", {})
    songs = f"{data['name']} ({data['n_tracks']} tracks)" if data else "–"
    tracks = f"{score['n_tracks']} of {score['split']}" if score else "–"
    return [head.name, size, steps, songs, both, tracks]


def _card_facts(provenance: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    facts = {
        "device": provenance.get("device"),
        "seed": provenance.get("seed"),
        "code": provenance.get("git_commit"),
        "test data": (results or {}).get("data", {}).get("name"),
    }
    return "\n".join(f"- {key}: {json.dumps(value)}" for key, value in facts.items() if value is not None)


def push_to_hub(folder: Path, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload an exported folder to the Hugging Face hub as ``repo_id``; returns its address.

    Raises `UserError` with the hub's own message if it refuses.
    """
    if not re.fullmatch(HUB_ID, repo_id):
        raise RecipeError(f"{repo_id!r} is no hub model; expected owner/name.")
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=FILES)
    except Exception as error:  # whichever network client the hub's library uses has errors of its own
        raise UserError(f"the hub did not take {repo_id}: {first_line(error)}") from None
    return str(commit.commit_url if hasattr(commit, "commit_url") else commit)
