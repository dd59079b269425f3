"""Reads tensors from a file that torch.save wrote, without executing it.

Such a file is a zip with a pickle in it, and a pickle is a program. `torch.load` reads it with ``weights_only``, which
accepts tensors and plain values; every other name in the file becomes a class that does nothing, and only the tensors
of the state dict are kept. torch.load trusts the zip around the pickle, so the zip is checked here first. The file is
mapped to memory, and each tensor is copied when it is needed.
"""

import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...errors import CheckpointError


class _Inert:
    """Replaces a class or function that a pickle names: accepts any call and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict(_Inert):
    """Stands for a kind of dict, whose items may be set: torch.load sets those of the plain kinds alone."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return OrderedDict()


class _InertGetter(_Inert):
    """Stands for getattr, whose result may be called: torch.load calls the classes it was given alone."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return cls


DICTS = ("collections.defaultdict", "lightning_fabric.utilities.data.AttributeDict")


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; expected a checkpoint that torch.save wrote.") from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError, struct.error) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise CheckpointError(
            f"{path} ({size} bytes) is no checkpoint that torch.save wrote, or is cut off: {error}. Download it again."
        ) from None


def _check_zip(path: Path) -> dict[int, int]:
    """Where the parts with numbers start in the file: {first byte: bytes}.

    `CheckpointError` for a zip that torch.save does not write.
    """
    with _open_zip(path) as archive:
        parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
        if "data.pkl" not in parts or len(parts) < len(archive.infolist()):
            raise CheckpointError(f"{path} is a zip, but holds no data.pkl; expected what torch.save writes.")
        for part in parts.values():
            if part.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: {part.filename} is compressed; torch.save never does that.")
        if sum(part.file_size for part in parts.values()) > path.stat().st_size:
            raise CheckpointError(f"{path} holds parts that overlap; torch.save never does that.")
        if "byteorder" in parts and archive.read(parts["byteorder"]) != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported.")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        numbers = [part for name, part in parts.items() if name.startswith("data/")]
        with path.open("rb") as file:
            return {_first_byte(file, part): part.file_size for part in numbers}


def _first_byte(file: BinaryIO, part: zipfile.ZipInfo) -> int:
    """Where a part's content starts: behind its header, a name and a padding, whose lengths the header ends with."""
    file.seek(part.header_offset + 26)
    return part.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _load(path: Path) -> Any:
    """What `torch.load` makes of the file, its numbers left on the disk."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
        for name in names:
            module, _, qualname = name.rpartition(".")
            kind = _InertDict if name in DICTS else _InertGetter if name == "builtins.getattr" else _Inert
            stand_ins.append(type(qualname, (kind,), {"__module__": module, "__qualname__": qualname}))
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a broken or hostile pickle can raise anything
        why = " ".join(text for text in str(error).split("\n\n") if "weights_only" not in text)  # its advice is unsafe
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {' '.join(why.split())[:200]}") from None


# Under which a checkpoint keeps its state dict, where it is not the state dict itself.
STATE_NAMES = ("state_dict", "state", "model_state_dict")


def _find_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of the state dict in a checkpoint; `CheckpointError` if there is none."""
    for state in [*(content.get(name) for name in STATE_NAMES), content] if isinstance(content, dict) else []:
        tensors = {k: v for k, v in state.items() if isinstance(k, str)} if isinstance(state, dict) else {}
        if tensors and all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            return tensors
    raise CheckpointError(
        f"{path} holds no tensors under 'state_dict' and is no state dict; expected a checkpoint as torch.save writes "
        "it."
    )


class TorchFile:
    """The tensors of a checkpoint that torch.save wrote, read one by one; nothing in the file is executed.

    Raises `CheckpointError` for a file that is missing, damaged, no zip, or holds no state dict.
    """

    def __init__(self, path: Path):
        parts = _check_zip(path)
        self.path, self.views = path, _find_tensors(_load(path), path)
        self._mapped_at = self._find_mapping(parts)
        total = sum(tensor.numel() for tensor in self.views.values())
        if total > path.stat().st_size:  # of a byte or more each: tensors that share numbers, or repeat them
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes and claims to hold {total} numbers.")

    def _find_mapping(self, parts: Mapping[int, int]) -> int:
        """The address of the file's first byte; `CheckpointError` unless every storage is one whole part of the file.

        torch.load slices the mapped file by what the pickle says, and does not ask the zip whether a part is as long.
        """
        storages = [tensor.untyped_storage() for tensor in self.views.values() if not tensor.is_meta]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
        for first in parts if sizes else ():
            start = min(sizes) - first
            if all(parts.get(at - start) == size for at, size in sizes.items()):
                return start
        if sizes:
            raise CheckpointError(f"{self.path} holds a tensor that does not fit its part of the file.")
        return 0

    @property
    def names(self) -> list[str]:
        return list(self.views)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the file says."""
        return tuple(self.views[name].shape)

    def read(self, name: str) -> Tensor:
        """A tensor of its own, float32; `CheckpointError` for one without numbers or of another kind."""
        tensor = self.views[name]
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta
        if not plain or not tensor.is_floating_point() or not tensor.numel():
            raise CheckpointError(f"{self.path}: {name} is not described as a tensor of floating-point numbers.")
        storage = tensor.untyped_storage()
        # Read rather than copied from the mapping, whose pages would count as the process's memory.
        with self.path.open("rb") as file:
            file.seek(storage.data_ptr() - self._mapped_at)
            numbers = torch.frombuffer(bytearray(file.read(storage.nbytes())), dtype=tensor.dtype)
        view = numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return view.to(torch.float32, copy=tensor.numel() < len(numbers)).contiguous()
