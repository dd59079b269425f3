"""Tensors out of a file that torch.save wrote, without running it.

Such a file is a zip with a pickle in it, and a pickle is a program. It is never run here: of everything it names only
the parts that describe a tensor have a meaning, all else becomes an inert placeholder, and only the tensors under
``state_dict`` are read.
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


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; expected a Lightning checkpoint.") from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise CheckpointError(
            f"{path} ({size} bytes) is no checkpoint that torch.save wrote, or is cut off: {error}. Download it again."
        ) from None


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """One part of the zip; refused where it is missing or packed: what torch.save writes lies there as it is."""
    try:
        part = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"{path} holds no {name}; expected a checkpoint that torch.save wrote.") from None
    if part.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{path}: {name} is compressed; torch.save never does that.")
    return archive.read(part)


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


def _tensor(view: _View, archive: zipfile.ZipFile, root: str, path: Path, name: str) -> Tensor:
    """The numbers of a view, float32; `CheckpointError` where they do not lie within their storage."""
    storage, offset, shape, stride = view.storage, view.offset, view.shape, view.stride
    numbers = [offset, *shape, *stride] if isinstance(shape, tuple) and isinstance(stride, tuple) else [None]
    whole = all(isinstance(n, int) and n >= 0 for n in numbers) and len(shape) == len(stride)
    if not isinstance(storage, _Storage) or not whole:
        raise CheckpointError(f"{path}: {name} is not described as a tensor of floating-point numbers.")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    data = _read(archive, f"{root}/data/{storage.key}", path)
    size = storage.n_items * storage.dtype.itemsize
    # A step of zero would repeat a number as often as the file says.
    if len(data) != size or 0 in shape or last >= storage.n_items or math.prod(shape) > storage.n_items:
        raise CheckpointError(f"{path}: {name} of shape {shape} does not fit its {len(data)} bytes of {size}.")
    flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
    return flat.as_strided(shape, stride, offset).to(torch.float32, copy=True).contiguous()


def _check_total(views: Mapping[str, _View], path: Path) -> None:
    """Refuse tensors that share their numbers so often that together they would be much larger than the file."""
    shapes = [view.shape for view in views.values() if isinstance(view.shape, tuple)]
    total = sum(math.prod(shape) for shape in shapes if all(isinstance(n, int) and n > 0 for n in shape))
    if total > path.stat().st_size:  # of a byte or more each
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes and claims to hold {total} numbers.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors under ``state_dict`` of a checkpoint that torch.save wrote; nothing in the file is executed.

    Raises `CheckpointError` for a file that is missing, damaged, no zip, or holds no state dict.
    """
    with _open_zip(path) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip, but holds no data.pkl; expected what torch.save writes.")
        root = pickles[0].partition("/")[0]
        if f"{root}/byteorder" in archive.namelist() and _read(archive, f"{root}/byteorder", path) != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported.")
        content = _unpickle(_read(archive, pickles[0], path), path)
        state = content.get("state_dict") if isinstance(content, dict) else None
        views = {k: v for k, v in state.items() if isinstance(k, str)} if isinstance(state, dict) else {}
        if not views or not all(isinstance(view, _View) for view in views.values()):
            raise CheckpointError(f"{path} holds no tensors under 'state_dict'; expected a Lightning checkpoint.")
        _check_total(views, path)
        return {name: _tensor(view, archive, root, path, name) for name, view in views.items()}
