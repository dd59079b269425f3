"""A published checkpoint in this package's terms: the recipe of its network, and the origin of each tensor.

The readers of a layout (`obsrnn`, `roformer`) make a `PublishedNetwork`; the conversion to a network in memory or a run
folder is the same for all. A run is written tensor by tensor, so a large checkpoint is never in memory as a whole.
"""

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...network.model import BSRNN, count_parameters
from ...recipe import Recipe, dump_recipe, make_recipe, recipe_values
from ...system import atomic_write, write_json, write_text
from ..folder import FORMAT, RunFolder, about_backbone, about_head, load_strict, refuse_misfits, tensors_sha256
from ..tracking import environment
from .download import digests


class Translated(Mapping[str, Tensor]):
    """Tensors under our names, each read from the checkpoint when it is asked for.

    ``names``: ours → theirs; ``read``: their name → the tensor as ours is.
    """

    def __init__(self, names: Mapping[str, str], read: Callable[[str], Tensor]):
        self.names, self.read = names, read

    def __getitem__(self, name: str) -> Tensor:
        return self.read(self.names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class PublishedNetwork:
    """``model`` has shapes and no numbers; ``files``: the files it was read from, by their role."""

    layout: str
    files: Mapping[str, Path]
    model: BSRNN
    backbone: Translated
    heads: Mapping[str, Translated]

    def load(self) -> BSRNN:
        """The network with its weights, on the CPU, in eval mode."""
        model, where = BSRNN.from_recipe(self.model.recipe), str(self.files["checkpoint"])
        load_strict(model.backbone, dict(self.backbone), where)
        for target, tensors in self.heads.items():
            load_strict(model.heads[target], dict(tensors), f"{where} ({target})")
        return model.eval()

    def write(
        self, run: RunFolder, name: str | None = None, root: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write the run folder; ``name`` and ``root`` are what it is called where it will be in the end.

        ``facts`` are added to its provenance.
        """
        model = self.model
        place = {"root": root or str(run.path.parent), "name": name or run.name}
        write_text(run.recipe, dump_recipe(make_recipe({**recipe_values(model.recipe), "run": place})))
        digest = tensors_sha256(self.backbone)
        _write(run.backbone, model.backbone, self.backbone, about_backbone(model, digest))
        for target, tensors in self.heads.items():
            about = about_head(model, target, tensors_sha256(tensors), digest)
            _write(run.head(target), model.heads[target], tensors, about)
        write_json(run.provenance, {**self._provenance(place["name"]), **(facts or {})})

    def _provenance(self, name: str) -> dict[str, Any]:
        """Where the weights came from, with the fields every run has; what is not known of the training is null."""
        others = {kind: _about_file(path) for kind, path in self.files.items() if kind != "checkpoint"}
        return {
            "format": 1,
            "run": name,
            **environment(),
            "imported_from": {"layout": self.layout, **_about_file(self.files["checkpoint"]), **others},
            "seed": None,
            "data": {"name": "not known", "root": None, "builtin": False, "fingerprint": None},
            "device": None,
            "parameters": {"trained": count_parameters(self.model), "frozen": 0},
            "seconds": None,
            "steps_done": None,
        }


class Shapes:
    """Sizes in the names and shapes of a checkpoint's tensors; ``layout``: the code that writes such tensors."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, layout: str):
        self.tensors, self.path, self.layout = tensors, path, layout

    def size(self, name: str, axis: int = 0) -> int:
        """The size of a tensor along an axis; `CheckpointError` if it is missing, empty or has fewer axes."""
        shape = self.tensors[name].shape if name in self.tensors else ()
        if len(shape) <= axis or 0 in shape:
            raise CheckpointError(
                f"{self.path}: {name} is missing or has another shape, so its layout is not that of {self.layout}. It "
                f"holds {', '.join(list(self.tensors)[:3])}, ..."
            )
        return shape[axis]

    def count(self, pattern: str) -> int:
        """How many different numbers stand where the pattern has its group."""
        return len({match[1] for name in self.tensors if (match := re.match(pattern, name))})


def without_numbers(recipe: Recipe) -> BSRNN:
    """The network of a recipe on the meta device: shapes and no numbers. `CheckpointError` if it is too large."""
    try:
        with torch.device("meta"):
            return BSRNN.from_recipe(recipe).eval()
    except (RuntimeError, OverflowError) as error:
        why = str(error).partition("\n")[0]
        raise CheckpointError(f"a checkpoint of such sizes cannot be made into a network: {why}") from None


def check_names(expected: Iterable[str], found: Iterable[str], path: Path) -> None:
    """Raise `CheckpointError` for a missing name or one without a counterpart in the network."""
    expected, found = set(expected), set(found)
    problems = [f"{name} is missing" for name in sorted(expected - found)]
    problems += [f"{name} is not part of the network" for name in sorted(found - expected)]
    refuse_misfits(problems, str(path))


def _about_file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, **digests(path, {"sha256"})}


def _write(path: Path, module: nn.Module, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """`checkpoint.write_tensors` for tensors that are never all in memory: the same safetensors file, float32.

    The library writes what lies in memory as a whole.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **texts}}
    end = 0
    for name, own in module.state_dict().items():
        start, end = end, end + 4 * own.numel()
        header[name] = {"dtype": "F32", "shape": list(own.shape), "data_offsets": [start, end]}
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    with atomic_write(path, CheckpointError) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(packed)) + packed)
        for name, own in module.state_dict().items():
            tensor = tensors[name]
            if tensor.shape != own.shape or tensor.dtype != torch.float32:
                raise CheckpointError(f"{name} became {tensor.dtype} of {tuple(tensor.shape)}, not {tuple(own.shape)}.")
            file.write(tensor.contiguous().numpy().data)
