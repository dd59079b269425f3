"""Tensors out of a file that torch.save wrote, without running it.

Such a file is a zip with a pickle in it, and a pickle is a program. It is never run here: of everything it names only
the parts that describe a tensor have a meaning, all else becomes an inert placeholder, and only the tensors of the
state dict are read, each when it is wanted.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ...errors import CheckpointError


class _Frozen(type):
    """Classes that a pickle cannot change."""

    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle tries to change a class")


class _Inert(metaclass=_Frozen):
    """Stands for whatever a pickle names and we do not read: takes any treatment, does and keeps nothing."""

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __new__(cls, *arguments: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> "_Inert":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Mapping(dict, metaclass=_Frozen):
    """Stands for OrderedDict; the attributes that a state dict carries beside its items are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(NamedTuple):
    """A run of numbers in the zip."""

    dtype: torch.dtype
    key: str
    n_items: int


class _View(metaclass=_Frozen):
    """Stands for a tensor: which part of which storage; read when it is wanted."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any):
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def __setstate__(self, state: Any) -> None:
        pass


class _Parameter(metaclass=_Frozen):
    """Stands for a parameter, which is its tensor."""

    def __new__(cls, data: Any, *rest: Any) -> Any:
        return data

    def __setstate__(self, state: Any) -> None:
        pass


DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}
# All that has a meaning here. None of these classes is the real one.
READABLE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor_v2"): _View,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Resolves no name to anything but the stand-ins of this module."""

    def find_class(self, module: str, name: str) -> Any:
        return READABLE.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, n_items = pid
        if kind != "storage" or not isinstance(key, str) or not isinstance(n_items, int):
            raise pickle.UnpicklingError(f"unknown storage {pid!r:.80}")
        return _Storage(dtype, key, n_items) if isinstance(dtype, torch.dtype) else _Inert()


PIECE = 1 << 20  # bytes read at a time


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within the block a damaged zip is a `CheckpointError`."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; expected a checkpoint that torch.save wrote.") from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise CheckpointError(
            f"{path} ({size} bytes) is no checkpoint that torch.save wrote, or is cut off: {error}. Download it again."
        ) from None


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with _readable(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _part(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo:
    """One part of the zip; refused where it is missing or packed: what torch.save writes lies there as it is."""
    try:
        part = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"{path} holds no {name}; expected a checkpoint that torch.save wrote.") from None
    if part.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{path}: {name} is compressed; torch.save never does that.")
    return part


def _check_claims(program: bytes) -> None:
    """Refuse a pickle that makes its reader reserve more memory than the file's own size accounts for.

    Walking over it reads every argument, so that none is longer than the file. What is left are the numbers under which
    things are remembered: a reader keeps a table up to the largest, and six bytes can ask for 4 GB.
    """
    for operation, argument, position in pickletools.genops(program):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
            raise pickle.UnpicklingError(f"memory slot {argument} is claimed by byte {position}")


def _unpickle(program: bytes, path: Path) -> Any:
    try:
        _check_claims(program)
        return _Unpickler(io.BytesIO(program)).load()
    except Exception as error:  # a broken or hostile pickle can raise anything
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {str(error)[:200]}.") from None


def _check_total(views: Mapping[str, _View], path: Path) -> None:
    """Refuse tensors that share their numbers so often that together they would be much larger than the file."""
    shapes = [view.shape for view in views.values() if isinstance(view.shape, tuple)]
    total = sum(math.prod(shape) for shape in shapes if all(isinstance(n, int) and n > 0 for n in shape))
    if total > path.stat().st_size:  # of a byte or more each
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes and claims to hold {total} numbers.")


# Under which a checkpoint keeps its state dict, where it is not the state dict itself.
STATE_NAMES = ("state_dict", "state", "model_state_dict")


def _find_views(content: Any, path: Path) -> dict[str, _View]:
    """The tensors of the state dict in a checkpoint; `CheckpointError` where there is none."""
    for state in [*(content.get(name) for name in STATE_NAMES), content] if isinstance(content, dict) else []:
        views = {k: v for k, v in state.items() if isinstance(k, str)} if isinstance(state, dict) else {}
        if views and all(isinstance(view, _View) for view in views.values()):
            _check_total(views, path)
            return views
    raise CheckpointError(
        f"{path} holds no tensors under 'state_dict' and is no state dict; expected a checkpoint as torch.save writes "
        "it."
    )


class TorchFile:
    """The tensors of an open checkpoint, read one by one; see `open_checkpoint`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self.archive = path, archive
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip, but holds no data.pkl; expected what torch.save writes.")
        self.root = pickles[0].partition("/")[0]
        if f"{self.root}/byteorder" in archive.namelist() and self._bytes(f"{self.root}/byteorder") != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported.")
        self.views = _find_views(_unpickle(bytes(self._bytes(pickles[0])), path), path)
        self._last: tuple[str, Tensor] = ("", torch.empty(0))  # tensors that share a storage often stand together

    @property
    def names(self) -> list[str]:
        return list(self.views)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the file says; `CheckpointError` where it is none."""
        shape = self.views[name].shape
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise CheckpointError(f"{self.path}: {name} is not described as a tensor of floating-point numbers.")
        return shape

    def read(self, name: str) -> Tensor:
        """A tensor of its own, float32; `CheckpointError` where its numbers do not lie within their storage."""
        view, shape = self.views[name], self.shape(name)
        storage, offset, stride = view.storage, view.offset, view.stride
        steps = [offset, *stride] if isinstance(stride, tuple) else [None]
        whole = all(isinstance(n, int) and n >= 0 for n in steps) and len(shape) == len(stride)
        if not isinstance(storage, _Storage) or not whole:
            raise CheckpointError(f"{self.path}: {name} is not described as a tensor of floating-point numbers.")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        part = _part(self.archive, f"{self.root}/data/{storage.key}", self.path)
        size = storage.n_items * storage.dtype.itemsize
        # A step of zero would repeat a number as often as the file says.
        if part.file_size != size or 0 in shape or last >= storage.n_items or math.prod(shape) > storage.n_items:
            raise CheckpointError(
                f"{self.path}: {name} of shape {shape} does not fit its {part.file_size} bytes of {size}."
            )
        tensor = self._numbers(storage).as_strided(shape, stride, offset)
        if math.prod(shape) < storage.n_items:
            return tensor.to(torch.float32, copy=True).contiguous()
        self._last = ("", torch.empty(0))  # it has the numbers for itself
        return tensor.contiguous().float()

    def _numbers(self, storage: _Storage) -> Tensor:
        if self._last[0] != storage.key:
            self._last = ("", torch.empty(0))  # not both at once
            data = self._bytes(f"{self.root}/data/{storage.key}")
            self._last = (storage.key, torch.frombuffer(data, dtype=storage.dtype))
        return self._last[1]

    def _bytes(self, name: str) -> bytearray:
        """The content of a part; `CheckpointError` where its checksum differs or it is cut off."""
        part = _part(self.archive, name, self.path)
        if part.file_size > self.path.stat().st_size:
            raise CheckpointError(f"{self.path}: {name} claims {part.file_size} bytes. Download it again.")
        data, done = bytearray(part.file_size), 0
        with _readable(self.path), self.archive.open(part) as file:
            while piece := file.read(PIECE):
                data[done : done + len(piece)] = piece
                done += len(piece)
        return data


@contextmanager
def open_checkpoint(path: Path) -> Iterator[TorchFile]:
    """A checkpoint that torch.save wrote; nothing in the file is executed.

    Raises `CheckpointError` for a file that is missing, damaged, no zip, or holds no state dict.
    """
    with _open_zip(path) as archive:
        yield TorchFile(path, archive)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint that torch.save wrote; raises `CheckpointError` as `open_checkpoint` does."""
    with open_checkpoint(path) as file:
        return {name: file.read(name) for name in file.names}
