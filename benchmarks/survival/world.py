"""A small world that every question shares: songs, recipes, runs; and processes that are ended from outside.

Processes are forked from one that has imported everything: a round costs a second, not the start of Python. The parent
never computes with torch and starts no threads, so that a fork is like a fresh start.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 8000
STEMS = ("vocals", "drums", "bass", "other", "guitar")
UNEXPECTED = 70  # exit code of a child in which something else than an exit code came out
TIMES = ("second", "date", "started", "took", "energy", "git_commit", "resumed", "command", "packages", "platform")


def set_environment() -> None:
    """For the whole process, before torch is imported: one thread, no network, no account."""
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    os.environ.update(quiet | {"OMP_NUM_THREADS": "1"})
    os.environ.pop("MUSDB18HQ_ROOT", None)


def warm() -> None:
    """Import all that the commands import, so that forks need not."""
    import accelerate.tracking  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import torch._dynamo  # PyTorch's optimisers import it
    import torch.distributed.nn.functional

    import refined_bsrnn.apps.songs.stems
    import refined_bsrnn.evaluation.evaluate
    import refined_bsrnn.report.write
    import refined_bsrnn.runs.exchange.importing
    import refined_bsrnn.separation.live
    import refined_bsrnn.training.transfer  # noqa: F401

    torch.set_num_threads(1)


def put(data: bytes, path: Path) -> Path:
    """The file, written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- songs, recipes, runs ---------------------------------------------------------------------------------------------


def write_songs(root: Path, train: int = 3, test: int = 2, seconds: float = 2.0) -> Path:
    """Songs with a mixture and five stems of noise at 8 kHz, 16 bits."""
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            write_song(root / split / f"song-{i}", seed=100 * len(split) + i, seconds=seconds)
    return root


def write_song(folder: Path, seed: int = 0, seconds: float = 2.0, stems: Sequence[str] = STEMS) -> Path:
    """One song: stereo noise, low for every other stem, and the exact sum."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    total = np.zeros((round(seconds * RATE_HZ), 2), np.int16)
    for i, stem in enumerate(stems):
        noise = random.standard_normal(total.shape)
        noise = noise.cumsum(0) if i % 2 else noise
        samples = np.round(3000 * noise / np.abs(noise).max()).astype(np.int16)
        soundfile.write(folder / f"{stem}.wav", samples, RATE_HZ)
        total += samples
    soundfile.write(folder / "mixture.wav", total, RATE_HZ)
    return folder


def recipe_values(**train: Any) -> dict[str, Any]:
    """A recipe whose steps take milliseconds, on the songs in ``songs/``."""
    return {
        "targets": ["vocals", "drums"],
        "stft": {"sample_rate_hz": RATE_HZ, "n_fft": 256, "hop": 64},
        "bands": {"kind": "custom", "edges_hz": [500, 2000]},
        "backbone": {"features": 4, "repeats": 1},
        "data": {"root": "songs", "validation_tracks": ["song-0"]},
        "train": {
            **{"steps": 12, "batch_size": 2, "chunk_seconds": 0.25, "workers": 0, "ema": 0.9},
            **{"log_every": 1, "validate_every": 4, "checkpoint_every": 1, **train},
        },
        "log": {"wandb": "off"},
    }


def write_recipe(path: Path, values: Mapping[str, Any]) -> Path:
    """The recipe as YAML, which JSON is a part of."""
    path.write_text(json.dumps(values))
    return path


def make_run(path: Path, targets: Sequence[str] = ("vocals", "drums"), seed: int = 0, **sections: Any) -> Path:
    """A run with random weights; calls torch, so only in a child."""
    import torch

    from refined_bsrnn.network.model import BSRNN
    from refined_bsrnn.recipe import dump_recipe, make_recipe
    from refined_bsrnn.runs.folder import RunFolder, save_weights
    from refined_bsrnn.system import write_json, write_text

    torch.manual_seed(seed)
    recipe = make_recipe({**recipe_values(), "targets": list(targets), **sections})
    run = RunFolder(path)
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, BSRNN.from_recipe(recipe))
    facts = {"steps_done": 0, "seconds": 0.0, "device": "cpu", "seed": 0, "data": {"fingerprint": ""}}
    write_json(run.provenance, {**facts, "parameters": {"trained": 0, "frozen": 0}})
    return path


# --- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: by that signal), after how many seconds, what it said."""

    code: int
    seconds: float
    said: str
    peak_mb: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


class Child:
    """A process of its own that does some work in a folder; ``output`` gets what it says."""

    def __init__(self, work: Callable[[], int | None], folder: Path, environment: Mapping[str, str] | None = None):
        self.output = Path(tempfile.mkstemp(prefix="said-", suffix=".txt")[1])
        self.started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _be_child(work, folder, self.output, environment or {})

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @staticmethod
    def end(process: int) -> None:
        """Kill a process that a child has started."""
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    def wait(self, timeout_seconds: float = 120.0) -> Ended:
        """Wait for its end; one that takes longer is killed, and has the code -9."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.005)
        seconds = time.monotonic() - self.started
        said = self.output.read_text(errors="replace")
        self.output.unlink()
        return Ended(os.waitstatus_to_exitcode(status), seconds, said, used.ru_maxrss / 1024)


def _be_child(work: Callable[[], int | None], folder: Path, output: Path, environment: Mapping[str, str]) -> None:
    code = UNEXPECTED
    try:
        out = os.open(output, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.chdir(folder)
        os.environ["REFINED_BSRNN_CACHE"] = str(folder / "cache")
        os.environ.update(environment)
        code = work() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else UNEXPECTED
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def forked(
    work: Callable[[], int | None],
    folder: Path,
    kill_after: float | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 120.0,
) -> Ended:
    """Do some work in a process of its own; ``kill_after`` so many seconds it gets SIGKILL, wherever it is."""
    child = Child(work, folder, environment)
    if kill_after is not None:
        time.sleep(kill_after)
        child.signal(signal.SIGKILL)
    return child.wait(timeout_seconds)


def commands(*lines: str) -> Callable[[], int]:
    """Work: commands of refined-bsrnn, one after the other; ends with the first code that is not 0."""

    def work() -> int:
        from refined_bsrnn.apps.cli.main import main

        for line in lines:
            if code := main(line.split()):
                return code
        return 0

    return work


# --- what there is afterwards -----------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
    """Every file's path in a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def content_of(path: Path) -> Any:
    """What must be the same whenever it was made: tensors, JSON without times, other files by their bytes."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in load_file(path).items()}
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".ogg":  # each has a number of its own
        return hashlib.sha256(soundfile.read(path)[0].tobytes()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(value: Any) -> Any:
    """A JSON value without what depends on the clock, the place and how often a command was called."""
    if isinstance(value, Mapping):
        return {k: timeless(v) for k, v in value.items() if k != "history" and not any(word in k for word in TIMES)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """In words, how two folders differ (as `snapshot` gives them)."""
    words = [f"{name} is missing" for name in expected if name not in found]
    words += [f"{name} is left over" for name in found if name not in expected]
    both = [name for name in expected if name in found and found[name] != expected[name]]
    return words + [f"{name} differs in {', '.join(_where(expected[name], found[name]))[:300]}" for name in both]


def _where(one: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return [text for key in keys for text in _where(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        places = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        return [text for i in places for text in _where(one[i], other[i], f"{path}[{i}]")]
    return [f"{path.lstrip('.')}: {str(one)[:60]} → {str(other)[:60]}"]


def snapshot(folder: Path, skip: Sequence[str] = ()) -> dict[str, Any]:
    """{file: its `content_of`} of all files but those whose path contains one of ``skip``."""
    return {name: content_of(folder / name) for name in files_in(folder) if not any(word in name for word in skip)}


@contextmanager
def place() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        yield Path(folder).resolve()


def copied(template: Path, folder: Path) -> Path:
    """A fresh copy of a prepared folder."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(template, folder, symlinks=True)
    return folder
