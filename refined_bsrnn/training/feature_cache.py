"""The features of a frozen backbone, computed once and stored on disk, so that heads are trained without the backbone.

    <cache>/features/<key>/
      about.json           the values from which the key was made
      features.f16         (pool, C, K, T, N)
      mixture.f32, stems.f32, present.f32
      done                 one byte per block of examples: 1 if the block is on the disk

The examples are a pool of training mixtures: the first examples that training would draw. They are used again and
again, in another order each time. The key is a hash of everything that the numbers depend on. Blocks that are not
marked as done are computed (again), so an incomplete cache is completed and a damaged block is not used.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import __version__
from ..console import say, track
from ..data.examples import RandomMixes
from ..data.tracks import Track
from ..data.training_data import TrainingData
from ..errors import RecipeError, UserError
from ..recipe import Recipe, recipe_values
from ..runs.folder import tensors_sha256
from ..separation.separator import Separator
from ..system import atomic_write, cache_folder, read_json, reason_of, write_json
from ..temporary import alone
from .loader import fitting_workers
from .objective import Objective

FORMAT = 1
BLOCK = 16  # examples that are marked as done together
GB = 1e9
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Array:
    """One file: the ``shape`` of an example and the type in which it is stored."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def example_arrays(recipe: Recipe, feature_shape: tuple[int, ...]) -> dict[str, Array]:
    """The files of a cache; ``feature_shape`` is (C, K, T, N)."""
    n_targets, channels = len(recipe.targets), recipe.data.channels
    length = round(recipe.train.chunk_seconds * recipe.stft.sample_rate_hz)
    return {
        "features": Array(feature_shape, "float16"),
        "mixture": Array((channels, length), "float32"),
        "stems": Array((n_targets, channels, length), "float32"),
        "present": Array((n_targets,), "float32"),
    }


def cache_key(
    recipe: Recipe, backbone_sha256: str, data: Mapping[str, Any], pool: int, precision: str
) -> dict[str, Any]:
    """All values that the cached numbers depend on, as plain values."""
    values, weights = recipe_values(recipe), recipe.data.stem_weights
    sections = {name: values[name] for name in ("targets", "stft", "bands", "backbone", "input", "augment")}
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone_sha256": backbone_sha256,
        "data": {key: data[key] for key in ("fingerprint", "written", "parts")},
        "recipe": {**sections, "data": {key: value for key, value in values["data"].items() if key != "root"}},
        "stem_weights": hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None,
        "seed": recipe.train.seed,
        "chunk_seconds": recipe.train.chunk_seconds,
        "pool": pool,
        "precision": precision,
    }


class FeatureCache:
    """A pool of examples on disk. Raises `UserError` if it does not fit, before anything is written."""

    def __init__(self, key: Mapping[str, Any], arrays: Mapping[str, Array], pool: int, folder: Path | None = None):
        text = json.dumps(key, sort_keys=True)
        self.key, self.arrays, self.pool = dict(key), dict(arrays), pool
        self.path = (folder or cache_folder() / "features") / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.n_blocks = -(-pool // BLOCK)
        self._maps: dict[str, np.memmap] = {}

    @property
    def n_bytes(self) -> int:
        """The size of the whole cache on the disk."""
        return self.pool * sum(array.n_bytes for array in self.arrays.values())

    def others_bytes(self) -> int:
        """The size of the caches of other trainings in the same place."""
        files = (path for path in self.path.parent.rglob("*") if self.path not in path.parents and path.is_file())
        return sum(path.stat().st_size for path in files)

    def check_room(self, max_gb: float) -> str:
        """The size of the cache as text; `RecipeError` if it is above ``max_gb``, `UserError` if the disk is full."""
        each = self.n_bytes / self.pool
        left = self.missing_blocks()
        needed = len(left) * BLOCK * each
        says = f"{self.pool} mixtures of {each / 1e6:.1f} MB, {self.n_bytes / GB:.2f} GB in {self.path}"
        if self.n_bytes > max_gb * GB:
            raise RecipeError(
                f"the feature cache would take {says}; --cache-max-gb (cache.max_gb) allows {max_gb:g}. "
                f"Allow more, or cache.pool={int(max_gb * GB / each)}."
            )
        parent = next(p for p in (self.path, *self.path.parents) if p.exists())
        free = shutil.disk_usage(parent).free
        if needed > 0.98 * free:
            raise UserError(f"the feature cache would take {says}; the disk has {free / GB:.2f} GB left.")
        return says

    def describe(self) -> dict[str, Any]:
        """For provenance.json."""
        return {"pool": self.pool, "bytes": self.n_bytes, "seconds_to_fill": round(self.seconds_to_fill, 1)}

    @property
    def seconds_to_fill(self) -> float:
        """The time that all processes have worked on the cache, earlier ones included."""
        path = self.path / "seconds.json"
        return float(read_json(path)) if path.is_file() else 0.0

    def add_seconds(self, seconds: float) -> None:
        write_json(self.path / "seconds.json", round(self.seconds_to_fill + seconds, 3))

    # writing

    def alone(self) -> AbstractContextManager[None]:
        """Within the block no other training fills this cache; waits for a training that is filling it."""
        text = f"Another training is filling {self.path}; waiting for it."
        return alone(self.path.with_name(f"{self.path.name}.lock"), text, self._unwritable)

    def prepare(self) -> None:
        """Make the files, or use existing files that are complete and belong to this key."""
        if self._matches() and self._sizes_right():
            return
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
            for name, array in self.arrays.items():
                with self._file(name).open("wb") as file:
                    file.truncate(self.pool * array.n_bytes)
            (self.path / "done").write_bytes(bytes(self.n_blocks))
        except OSError as error:
            raise self._unwritable(error) from None
        write_json(self.path / "about.json", self.key)  # last: what was cut off in between is made anew

    def checked(self) -> "FeatureCache":
        """The cache itself, which must be complete: missing blocks would be read as silence."""
        if self.missing_blocks():
            raise UserError(f"the feature cache {self.path} has changed while it was filled. Start the training again.")
        return self

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"the feature cache {self.path} cannot be written: {reason_of(error)}.")

    def _matches(self) -> bool:
        try:
            return bool(read_json(self.path / "about.json") == json.loads(json.dumps(self.key)))
        except UserError:
            return False

    def _sizes_right(self) -> bool:
        expected = {self._file(name): self.pool * array.n_bytes for name, array in self.arrays.items()}
        expected[self.path / "done"] = self.n_blocks
        return all(path.is_file() and path.stat().st_size == size for path, size in expected.items())

    def missing_blocks(self) -> list[int]:
        """Blocks that are not on the disk yet."""
        done = self.path / "done"
        marks = done.read_bytes() if done.is_file() else b""
        return [i for i in range(self.n_blocks) if i >= len(marks) or marks[i] != 1]

    def block(self, number: int) -> range:
        """The examples of a block."""
        return range(number * BLOCK, min(self.pool, (number + 1) * BLOCK))

    def write_block(self, number: int, batch: Mapping[str, Tensor]) -> None:
        """Write a block's examples to the disk, then mark it as done."""
        try:
            for name, array in self.arrays.items():
                values = _narrow(batch[name], array.dtype)
                if name == "features" and not np.isfinite(values).all():
                    raise UserError("a feature is too large for 16 bits; train without --cache.")
                self.write_bytes(self._file(name), number * BLOCK * array.n_bytes, values.tobytes())
            self.write_bytes(self.path / "done", number, b"\x01")
        except OSError as error:
            raise self._unwritable(error) from None

    @staticmethod
    def write_bytes(path: Path, offset: int, data: bytes) -> None:
        """Write to a file at an offset; the bytes are on the disk when this returns."""
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    # reading

    def read(self, index: int) -> Batch:
        """One example in float32, except the features, which stay in 16 bits."""
        return {name: torch.from_numpy(np.array(self._map(name)[index])) for name in self.arrays}

    def _map(self, name: str) -> np.memmap:
        if name not in self._maps:
            array = self.arrays[name]
            self._maps[name] = np.memmap(self._file(name), array.dtype, "r", shape=(self.pool, *array.shape))
        return self._maps[name]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.{'f16' if self.arrays[name].dtype == 'float16' else 'f32'}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # every worker maps the files for itself


def fill(
    cache: FeatureCache,
    examples: Dataset,
    features: Callable[[Tensor], Tensor],
    blocks: Sequence[int],
    device: torch.device,
    workers: int = 0,
) -> None:
    """Compute and write these blocks; ``features`` maps mixtures (B, C, L) to (B, C, K, T, N)."""
    indices = [list(cache.block(number)) for number in blocks]
    loader = DataLoader(examples, batch_sampler=indices, num_workers=workers, generator=torch.Generator())
    at_once = 1 if device.type == "cpu" else BLOCK  # larger batches only leave a processor's caches
    for number, batch in zip(blocks, track(loader, len(blocks), "computing features"), strict=True):
        parts = [features(mixtures.to(device)) for mixtures in batch["mixture"].split(at_once)]
        cache.write_block(number, {**batch, "features": torch.cat(parts)})


def _narrow(values: Tensor, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is dealt with by the caller
        return values.detach().float().cpu().numpy().astype(dtype)


class CachedMixes(Dataset):
    """Training examples from a cache, by index: first the pool in its own order, then again in other orders."""

    def __init__(self, cache: FeatureCache, seed: int, n_examples: int):
        self.cache, self.seed, self.n_examples = cache, seed, n_examples
        self.order: tuple[int, np.ndarray] = (0, np.arange(cache.pool))

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> Batch:
        turn, place = divmod(index, self.cache.pool)
        if self.order[0] != turn:
            order = np.random.default_rng((self.seed, turn)).permutation(self.cache.pool) if turn else None
            self.order = (turn, np.arange(self.cache.pool) if order is None else order)
        return self.cache.read(int(self.order[1][place]))


class Remembered:
    """Features of validation chunks, stored under the content of their spectrogram, in 16 bits, up to ``max_gb``."""

    def __init__(self, folder: Path, max_gb: float):
        self.folder, self.room = folder, max_gb * GB
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("[!.]*.npy"):
            with suppress(OSError):
                self.room -= path.stat().st_size

    def __call__(self, spectrogram: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Pairs (B, C, T, F, 2) → features (B, C, K, T, N), each item looked up or computed."""
        paths = [self._path(item) for item in spectrogram]
        known = {path: self._load(path) for path in paths}
        missing = [i for i, path in enumerate(paths) if known[path] is None]
        if missing:
            for i, features in zip(missing, compute(spectrogram[missing]), strict=True):
                known[paths[i]] = self._store(paths[i], features)
        return torch.stack([known[path] for path in paths]).to(spectrogram.device).float()  # type: ignore[misc]

    def _path(self, item: Tensor) -> Path:
        content = item.contiguous().cpu().numpy()
        return self.folder / f"{hashlib.blake2b(content.data, digest_size=16).hexdigest()}.npy"

    @staticmethod
    def _load(path: Path) -> Tensor | None:
        """None for what is not there or damaged."""
        try:
            return torch.from_numpy(np.load(path))
        except (OSError, ValueError, EOFError):
            return None

    def _store(self, path: Path, features: Tensor) -> Tensor:
        values = _narrow(features, "float16")
        if not np.isfinite(values).all():
            return features.cpu()
        if values.nbytes <= self.room:
            self.room -= values.nbytes
            with suppress(UserError), atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, values)  # a full disk costs time, not the training
        return torch.from_numpy(values)


# --- the cache of a training ------------------------------------------------------------------------------------------


def filled_cache(recipe: Recipe, objective: Objective, data: TrainingData, accelerator: Accelerator) -> FeatureCache:
    """The complete feature cache of a transfer; the processes share the computation of missing blocks.

    If another training is filling the same cache, this function waits for it.
    """
    objective.to(accelerator.device).eval()
    pool = min(recipe.cache.pool, recipe.train.steps * recipe.train.batch_size)
    examples = RandomMixes(data.parts, recipe, pool)

    def features(mixture: Tensor) -> Tensor:
        with torch.no_grad(), accelerator.autocast():
            return objective.features(mixture)

    probe = torch.zeros(1, recipe.data.channels, examples.planner.format.length, device=accelerator.device)
    arrays = example_arrays(recipe, tuple(features(probe).shape[1:]))
    digest = tensors_sha256(objective.model.backbone.state_dict())
    key = cache_key(recipe, digest, data.describe(), pool, accelerator.mixed_precision)
    cache = FeatureCache(key, arrays, pool)
    with cache.alone() if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            says = cache.check_room(recipe.cache.max_gb)
            say(f"Feature cache: {says}{_other_caches(cache, recipe, objective, data)}.")
            cache.prepare()
            say(f"{len(cache.missing_blocks())} of {cache.n_blocks} blocks to compute.")
        accelerator.wait_for_everyone()
        missing = cache.missing_blocks()
        accelerator.wait_for_everyone()  # all have looked before one writes
        started = time.monotonic()
        own_share = missing[accelerator.process_index :: accelerator.num_processes]
        workers = fitting_workers(recipe.train.workers, BLOCK * cache.n_bytes // pool)
        fill(cache, examples, features, own_share, accelerator.device, workers)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            cache.add_seconds(time.monotonic() - started)
        accelerator.wait_for_everyone()
    return cache.checked()


def _other_caches(cache: FeatureCache, recipe: Recipe, objective: Objective, data: TrainingData) -> str:
    """A text with the size that validation adds to a cache, and the size of the caches of other trainings."""
    left = recipe.cache.max_gb * GB - cache.n_bytes
    adds = min(left, validation_bytes(cache, recipe, objective, data.validation))
    others = cache.others_bytes()
    others_text = f"; other caches in {cache.path.parent} take {others / GB:.2f} GB" if others else ""
    return f", up to {adds / GB:.2f} GB more of validation tracks{others_text}"


def validation_bytes(cache: FeatureCache, recipe: Recipe, objective: Objective, tracks: Sequence[Track]) -> float:
    """The approximate size on disk of the features of all chunks of whole validation tracks."""
    separator = Separator(objective.model, str(next(objective.parameters()).device))
    example = recipe.train.chunk_seconds * recipe.stft.sample_rate_hz * recipe.data.channels
    total = 0.0
    for song in tracks:
        length = song.seconds * recipe.stft.sample_rate_hz
        n_chunks = max(1, math.ceil((length - separator.overlap) / (separator.chunk - separator.overlap)))
        total += n_chunks * min(separator.chunk, length) * song.n_channels / example
    return total * cache.arrays["features"].n_bytes
