"""Small data and small recipes that many tests share."""

import gc
import io
import json
import os

# Before torch, wandb and datasets are imported.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that tests start: pytest-xdist uses every processor
os.environ.pop("MUSDB18HQ_ROOT", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of these processes would compile what it imports: seconds

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from refined_bsrnn.recipe import Recipe, make_recipe

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

RATE = 8000
STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # results are compared bit for bit, and the tests are small
    gc.freeze()  # what is imported stays: a collection that looks through it takes half a second


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout or reads a user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFINED_BSRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no test pulls the plug, and each would wait for the disk


def write_song(folder: Path, seed: int, stems: tuple[str, ...] = STEMS, seconds: float = 2.0, rate: int = RATE) -> Path:
    """A track folder of stereo 16-bit noise stems, each in a frequency range of its own, and their exact sum."""
    folder.mkdir(parents=True)
    for name, content in song_files(seed, stems, seconds, rate).items():
        (folder / f"{name}.wav").write_bytes(content)
    return folder


@cache
def song_files(seed: int, stems: tuple[str, ...], seconds: float, rate: int) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    tracks = {}
    for i, stem in enumerate(stems):
        noise = random.standard_normal((round(seconds * rate), 2))
        noise = noise.cumsum(0) if i % 2 else noise
        tracks[stem] = np.round(3000 * noise / np.abs(noise).max()).astype(np.int16)
    tracks["mixture"] = sum(tracks.values()).astype(np.int16)
    return {name: wav_bytes(samples, rate) for name, samples in tracks.items()}


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def write_songs(root: Path, train: int = 3, test: int = 1, **options: Any) -> Path:
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            write_song(root / split / f"song-{i}", seed=100 * len(split) + i, **options)
    return root


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A root with three training songs and one test song of 2 s at 8 kHz."""
    return write_songs(tmp_path / "songs")


def micro_values(root: Path | None, **values: Any) -> dict[str, Any]:
    """The values of a recipe that trains in a second."""
    return {
        "targets": ["vocals", "drums"],
        "stft": {"sample_rate_hz": RATE, "n_fft": 256, "hop": 64},
        "bands": {"kind": "custom", "edges_hz": [500, 2000]},
        "backbone": {"features": 4, "repeats": 1},
        "data": {"root": str(root) if root else None, "validation_tracks": ["song-0"]},
        "train": {
            "steps": 4,
            "batch_size": 2,
            "chunk_seconds": 0.25,
            "workers": 0,
            "log_every": 1,
            "validate_every": 2,
            "checkpoint_every": 2,
            **values.pop("train", {}),
        },
        "log": {"wandb": "off"},
        **values,
    }


def micro_recipe(root: Path | None, **values: Any) -> Recipe:
    return make_recipe(micro_values(root, **values))


def in_two_processes(*commands: list[str]) -> str:
    """What the two processes of one job say in carrying out commands of refined-bsrnn; each has one thread."""
    tests = Path(__file__).parent
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, str(tests / "helpers" / "each_command.py"), *map(json.dumps, commands)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
