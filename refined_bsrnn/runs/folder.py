"""Run folder ↔ objects: strict, atomic, hashed, safetensors.

    runs/<name>/
      recipe.yaml                   resolved; it is enough to repeat the run
      provenance.json               the origin and the cost of the run
      metrics.jsonl                 one line per log event
      tracks.parquet                the track table of the data
      backbone.safetensors          encoder and blocks (not in a transfer: there the recipe's `base` names its run)
      heads/<target>.safetensors
      state/last.safetensors        everything that an exact resume needs, in one file

The metadata of every weight file contain its kind, band edges and STFT; a head also has the hash of its backbone. A
file that does not fit exactly is refused with both values. No pickle is read.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CheckpointError, RecipeError, check_has, first, nearest
from ..network.model import BSRNN
from ..plain import parse_json
from ..recipe import BackboneSpec, HeadSpec, InputSpec, Recipe, load_recipe
from ..schema import (
    AdapterFacts,
    HeadKind,
    HeadScore,
    Provenance,
    StateProgress,
    TrainingFacts,
    check_document,
    read_document,
)
from ..system import atomic_write, expand_home, is_part

FORMAT = "refined_bsrnn/1"
COPY_AGAIN = "Copy it again or restore a backup."
Tensors = dict[str, Tensor]


# --- one weight file --------------------------------------------------------------------------------------------------


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes: the same weights have the same hash in any file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\t{tensor.dtype}\t{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes atomically; metadata values other than text are written as JSON."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, CheckpointError) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors alone would shut all others out
        try:
            save_file(plain, temporary, {"format": FORMAT, **texts})
            temporary.chmod(mode)
        except SafetensorError as error:  # its own wording of an OSError
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error


@contextmanager
def _weights(path: Path, kind: str = "weight file") -> Iterator[Any]:
    """An open weight file; `CheckpointError` if there is none, or a damaged one."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; expected the {kind} of a run.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size} bytes) cannot be read as a {kind}: it is damaged or no safetensors file ({error}). "
            f"{COPY_AGAIN}"
        ) from None


def read_tensors(path: Path, kind: str) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a file of that kind; `CheckpointError` for any other or damaged file."""
    with _weights(path, kind) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if metadata.get("format") != FORMAT or metadata.get("kind") != kind:
        raise CheckpointError(
            f"{path} is {metadata.get('kind', 'something')!r} of format {metadata.get('format', 'unknown')!r}; "
            f"expected {kind!r} of format {FORMAT!r}."
        )
    return tensors, metadata


def read_shapes(path: Path) -> Tensors:
    """The tensors of a weight file without their numbers (on the meta device)."""
    with _weights(path) as file:
        return {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118


def read_metadata(path: Path, kind: str = "weight file") -> dict[str, str]:
    """The metadata of a weight file; its tensors are not read."""
    with _weights(path, kind) as file:
        return dict(file.metadata() or {})


def header_value(path: Path, metadata: Mapping[str, str], key: str, default: Any = None) -> Any:
    """The JSON value under a key of a weight file's metadata; `CheckpointError` for invalid JSON."""
    try:
        return parse_json(metadata[key]) if key in metadata else default
    except ValueError:
        raise CheckpointError(f"{path}: {key} is {metadata[key][:80]!r}, which is no JSON. {COPY_AGAIN}") from None


def header_facts(path: Path, metadata: Mapping[str, str], key: str, schema: Any, needed: bool = True) -> dict[str, Any]:
    """The JSON object under a key of a weight file's metadata, checked; {} if it is missing and not ``needed``."""
    value = header_value(path, metadata, key, {})
    if value == {} and not needed:
        return {}
    return check_document(schema, value, str(path), CheckpointError, COPY_AGAIN, key)


def head_history(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The origin of a head (``trained``) and its quality (``score``), from its file; each may be {}."""
    schemas = {"trained": TrainingFacts, "score": HeadScore}
    return {key: header_facts(path, metadata, key, schema, needed=False) for key, schema in schemas.items()}


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor into the module; a missing, extra or misshapen one is a `CheckpointError`."""
    check_tensors(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors), strict=True)


def check_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """`CheckpointError` unless the tensors have the expected names and shapes."""
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the network" for name in found if name not in expected]
    problems += [
        f"{name} has shape {found[name]}, the network {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    refuse_misfits(problems, where)


def refuse_misfits(problems: Sequence[str], where: str) -> None:
    """A `CheckpointError` with the first three problems, if there are any."""
    if problems:
        raise CheckpointError(f"{where} does not fit the network: {first(problems, 3, '; ')}.")


# --- what a file must agree on ----------------------------------------------------------------------------------------


def describe_backbone(model: BSRNN) -> dict[str, Any]:
    """The settings that weights depend on: STFT, bands and the shape of the backbone."""
    recipe = model.recipe
    return {
        "stft": asdict(recipe.stft),
        "bands": {"kind": recipe.bands.kind, **recipe.bands.options},
        "ranges": [list(r) for r in model.ranges],
        "backbone": asdict(recipe.backbone),
        "input": asdict(recipe.input),
        **({"band_weights": {"sha256": weights_sha256(model.bands.weights)}} if model.bands.weights else {}),
    }


def weights_sha256(weights: Sequence[Sequence[float]]) -> str:
    """Hash of the weights of overlapping bands to six decimals: the last digits depend on the machine."""
    return hashlib.sha256(json.dumps([[f"{weight:.6f}" for weight in band] for band in weights]).encode()).hexdigest()


DEFAULTS: dict[str, Any] = {"backbone": BackboneSpec(), "input": InputSpec()}


def _check_same(metadata: Mapping[str, str], model: BSRNN, where: Path) -> None:
    for key, ours in describe_backbone(model).items():
        theirs = header_value(where, metadata, key)
        if key in DEFAULTS and isinstance(theirs, dict | None):
            theirs = {**asdict(DEFAULTS[key]), **(theirs or {})}  # what is younger than the file has its default
        if key != "bands" and theirs != json.loads(json.dumps(ours)):  # the edges count, not the scheme's name
            raise CheckpointError(f"{where} was made for {key} {theirs}; this network has {ours}.")


def _check_channels(tensors: Mapping[str, Tensor], model: BSRNN, where: Path) -> None:
    """A joint-stereo backbone is made for a number of channels, which is that of the data it was trained on."""
    weight = tensors.get("encoder.linears.0.weight")  # (N, 2 · channels · bins)
    start, stop = model.ranges[0]
    theirs = model.channels_per_item if weight is None else weight.shape[-1] // (2 * (stop - start))
    if model.recipe.backbone.stereo == "joint" and theirs != model.channels_per_item:
        raise CheckpointError(
            f"{where} takes {theirs} channels together (backbone.stereo=joint); data.channels is "
            f"{model.channels_per_item} here. Leave data.channels at {theirs}, or use a base with stereo=apart or tac, "
            "which take any number."
        )


# --- backbone and heads -----------------------------------------------------------------------------------------------


def save_backbone(path: Path, model: BSRNN) -> str:
    """Write the backbone; returns its hash."""
    tensors = model.backbone.state_dict()
    digest = tensors_sha256(tensors)
    write_tensors(path, tensors, about_backbone(model, digest))
    return digest


def about_backbone(model: BSRNN, sha256: str) -> dict[str, Any]:
    """The metadata of a backbone's file."""
    return {"kind": "backbone", "sha256": sha256, **describe_backbone(model)}


def about_head(model: BSRNN, target: str, sha256: str, backbone_sha256: str) -> dict[str, Any]:
    """The metadata of a head's file, without its adapter and its origin."""
    return {
        "kind": "head",
        "target": target,
        "head": asdict(model.head(target).spec),
        "sha256": sha256,
        "backbone_sha256": backbone_sha256,
        **describe_backbone(model),
    }


def load_backbone(path: Path, model: BSRNN) -> str:
    """Load the model's backbone strictly; returns its hash, checked against the one in the file."""
    tensors, metadata = read_tensors(path, "backbone")
    _check_same(metadata, model, path)
    _check_channels(tensors, model, path)
    load_strict(model.backbone, tensors, str(path))
    digest = tensors_sha256(model.backbone.state_dict())
    if digest != metadata.get("sha256"):
        raise CheckpointError(f"{path} holds weights with hash {digest}, but was written as {metadata.get('sha256')}.")
    return digest


ADAPTER = "adapter/"  # before the names of an adapter's tensors in a head's file


def save_head(path: Path, model: BSRNN, target: str, **facts: Any) -> None:
    """Write one head and its adapter; known facts about it are kept, ``facts`` are added.

    The keys contain no target name, so that the head can be attached under any name.
    """
    tensors = dict(model.heads[target].state_dict())
    backbone_sha256 = tensors_sha256(model.backbone.state_dict())
    about = about_head(model, target, tensors_sha256(tensors), backbone_sha256)
    metadata: dict[str, Any] = {**about, **model.head(target).facts, **facts}
    if target in model.adapters.of:
        adapter = model.adapters[model.adapters.of[target]]
        own = adapter.state_dict()
        tensors |= {ADAPTER + name: tensor for name, tensor in own.items()}
        metadata["adapter"] = {"rank": adapter.rank, "alpha": adapter.alpha, "sha256": tensors_sha256(own)}
    write_tensors(path, tensors, metadata)


def load_head(path: Path, model: BSRNN, target: str, backbone_sha256: str | None = None) -> None:
    """Attach the head in a file as ``target``, with its adapter; refused if it belongs to another backbone.

    Raises `CheckpointError` for any problem with the file; the model then stays unchanged. ``backbone_sha256`` avoids
    hashing the model's backbone again when several heads are loaded.
    """
    tensors, metadata = read_tensors(path, "head")
    check_backbone(path, metadata, model, backbone_sha256)
    found = header_facts(path, metadata, "head", HeadKind)
    spec = HeadSpec(found["kind"], found["options"])
    own, of_adapter = without_adapter(tensors)
    _check_hash(path, own, metadata.get("sha256"))
    adapter = None
    if "adapter" in metadata:
        adapter = header_facts(path, metadata, "adapter", AdapterFacts)
        _check_hash(path, of_adapter, adapter["sha256"])
    facts = {key: value for key, value in head_history(path, metadata).items() if value}
    _check_shapes(path, model, target, spec, own)
    head = model.add_head(target, spec)
    try:
        load_strict(head, own, str(path))
        if adapter:
            _attach_adapter(path, model, target, adapter, of_adapter)
    except CheckpointError:
        model.remove_head(target, although_tied=True)  # nothing is left at random
        raise
    head.facts = facts


def _check_shapes(path: Path, model: BSRNN, target: str, spec: HeadSpec, tensors: Tensors) -> None:
    """`CheckpointError` unless such a head has these tensors: before it takes the memory that the file asks for."""
    try:
        with torch.device("meta"):
            head = model.add_head(target, spec)
    except (RecipeError, RuntimeError, TypeError) as error:  # the last two: more than can be counted
        why = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} holds a head that cannot be made here: {why}") from None
    model.remove_head(target, although_tied=True)
    check_tensors(head.state_dict(), tensors, str(path))


def _attach_adapter(path: Path, model: BSRNN, target: str, facts: Mapping[str, Any], tensors: Tensors) -> None:
    name = facts["sha256"]
    rank, alpha = facts["rank"], facts["alpha"]
    if rank < 1 or not 0 < alpha < math.inf:
        raise CheckpointError(f"{path} has an adapter of rank {rank} and alpha {alpha}; expected 1 or more, above 0.")
    if all(
        rank not in tensor.shape for tensor in tensors.values()
    ):  # before it takes the memory that the file asks for
        raise CheckpointError(f"{path} says that its adapter has rank {rank}, which its tensors have not.")
    if name in model.adapters:  # heads that were trained together share it
        model.adapters.of[target] = name
    else:
        load_strict(model.add_adapter(name, [target], rank, alpha), tensors, f"{path} (adapter)")


def _check_hash(path: Path, tensors: Tensors, written: str | None) -> None:
    """Files that are older than the hash have none."""
    if written is not None and tensors_sha256(tensors) != written:
        raise CheckpointError(f"{path} holds other weights than it was written with. {COPY_AGAIN}")


def without_adapter(tensors: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """The tensors of a head's file as those of the head and those of its adapter, each under its own names."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(ADAPTER)}
    adapter = {name.removeprefix(ADAPTER): t for name, t in tensors.items() if name.startswith(ADAPTER)}
    return own, adapter


def check_backbone(path: Path, metadata: Mapping[str, str], model: BSRNN, backbone_sha256: str | None = None) -> None:
    """`CheckpointError` with both hashes if a head's metadata name another backbone than the model's."""
    ours = backbone_sha256 or tensors_sha256(model.backbone.state_dict())
    theirs = metadata.get("backbone_sha256")
    if theirs != ours:
        raise CheckpointError(
            f"{path} is a head of the backbone {theirs}; this one is {ours}. A head works on its own backbone only."
        )
    _check_same(metadata, model, path)


# --- run folders ------------------------------------------------------------------------------------------------------


# What a training writes before it has learnt anything.
LEFT_BEHIND = {
    *("recipe.yaml", "provenance.json", "metrics.jsonl", "tracks.parquet", "backbone.safetensors"),
    *("heads", "state", "wandb", "tensorboard"),
}


class _Inside:
    """A path inside a run's folder."""

    def __init__(self, *names: str):
        self.names = names

    def __get__(self, run: "RunFolder", owner: type | None = None) -> Path:
        return run.path.joinpath(*self.names)


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder."""

    path: Path

    recipe = _Inside("recipe.yaml")
    provenance = _Inside("provenance.json")
    metrics = _Inside("metrics.jsonl")
    tracks = _Inside("tracks.parquet")
    backbone = _Inside("backbone.safetensors")
    heads = _Inside("heads")
    state = _Inside("state", "last.safetensors")
    results = _Inside("results.json")
    forgetting = _Inside("forgetting.json")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def head(self, target: str) -> Path:
        return self.heads / f"{target}.safetensors"

    def head_names(self) -> list[str]:
        return sorted(p.stem for p in self.heads.glob("*.safetensors") if not p.name.startswith("."))

    def load_recipe(self) -> Recipe:
        return load_recipe(self.recipe)

    def is_free(self) -> bool:
        """Whether a new training may use this name: nothing is there, or only a run that ended before its first
        state.
        """
        if not self.path.exists():
            return True
        left = {p.name for p in self.path.iterdir() if not is_part(p.name)} - LEFT_BEHIND
        return not left and not self.state.exists() and not self.head_names()


def find_run(name_or_path: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> RunFolder:
    """A run by its folder, or by its name under ``root``; ``drums`` also finds ``drums-builtin`` if only that exists.

    Raises `RecipeError` with a list of the existing runs.
    """
    named, folder = expand_home(name_or_path), expand_home(root)
    candidates = [named, folder / named, folder / f"{named}-builtin"]
    for path in candidates:
        if os.path.isfile(path / "recipe.yaml"):  # noqa: PTH113 (no error for a name that is too long)
            return RunFolder(path)
    runs = sorted(p.parent.name for p in folder.glob("*/recipe.yaml"))
    raise RecipeError(
        f"there is no run {str(name_or_path)!r}.{nearest(named.name, runs)} "
        f"Runs in {root}/: {', '.join(runs) or 'none yet'}."
    )


def base_of(run: RunFolder, recipe: Recipe | None = None) -> RunFolder:
    """The base of a transfer, by its recipe or the given one; `CheckpointError` if it does not exist any more."""
    recipe = recipe or run.load_recipe()
    assert recipe.base is not None
    relative = run.path.resolve() / recipe.base.run  # written relative to the run's folder
    if not (relative / "recipe.yaml").is_file():
        raise CheckpointError(
            f"{run.path} was transferred from {recipe.base.run}, and there is no run at {relative}. "
            f"Put the base back, or correct base.run in {run.recipe}."
        )
    return RunFolder(relative)


def backbone_file(run: RunFolder) -> Path:
    """The file of a run's backbone: its own, or that of its base."""
    return run.backbone if run.load_recipe().owns_backbone else backbone_file(base_of(run))


def load_model(run: RunFolder, heads: Sequence[str] | None = None) -> BSRNN:
    """The network of a run with its heads (or the named ones), on the CPU, in eval mode.

    If the recipe ties its targets together or bridges their heads, all heads are loaded.
    """
    recipe, file = run.load_recipe(), backbone_file(run)
    _check_size(run, recipe, file)
    model = BSRNN(recipe, targets=())
    digest = load_backbone(file, model)
    if recipe.base is not None and not recipe.owns_backbone and recipe.base.sha256 not in (None, digest):
        raise CheckpointError(
            f"the backbone of {recipe.base.run} is {digest}; {run.path} was transferred from {recipe.base.sha256}. "
            "The base has been trained again since."
        )
    files = run.head_names()
    available = [*files, *([model.ties.remainder_target] if model.ties.remainder_target else [])]
    for name in heads or ():
        check_has(str(run.path), "head", name, available)
    for name in files if heads is None or model.ties else heads:
        load_head(run.head(name), model, name, digest)
    return model.eval()


def _check_size(run: RunFolder, recipe: Recipe, file: Path) -> None:
    """`CheckpointError` unless the backbone of the recipe is that of the file: before it takes its memory."""
    metadata: dict[str, str] = {}
    with suppress(CheckpointError):
        metadata = read_metadata(file)
    if (metadata.get("format"), metadata.get("kind")) != (FORMAT, "backbone"):
        read_tensors(file, "backbone")  # says what it is
    try:
        with torch.device("meta"):
            model = BSRNN(recipe, targets=())
    except (RuntimeError, TypeError, OverflowError) as error:  # more than can be counted
        why = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{run.recipe} describes a network that cannot be made here: {why}") from None
    shapes = read_shapes(file)
    _check_same(metadata, model, file)
    _check_channels(shapes, model, file)
    check_tensors(model.backbone.state_dict(), shapes, str(file))


def save_weights(run: RunFolder, model: BSRNN, **facts: Any) -> None:
    """Write the weights of a run: the backbone (unless it is a base's) and a file per head, with ``facts``."""
    if model.recipe.owns_backbone:
        save_backbone(run.backbone, model)
    for target in model.heads:
        save_head(run.head(target), model, target, **facts)


def read_provenance(run: RunFolder) -> dict[str, Any]:
    """provenance.json, checked. Unknown values (of an imported network, or before the end of a run) are None."""
    return read_document(Provenance, run.provenance, CheckpointError)


# --- exact resume -----------------------------------------------------------------------------------------------------


def save_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], progress: Mapping[str, Any]) -> None:
    """Groups of tensors (model, optimizer, ...) and plain values in one file, so that they always belong together."""
    tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    write_tensors(path, tensors, {"kind": "state", "progress": dict(progress)})


def load_state(path: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """What `save_state` wrote; `CheckpointError` for anything else."""
    tensors, metadata = read_tensors(path, "state")
    progress = header_facts(path, metadata, "progress", StateProgress)
    groups: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups, progress
