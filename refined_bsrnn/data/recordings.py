"""The user's recordings for augmentation: noise, and impulse responses of rooms."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..audio import read_audio, resample
from ..errors import DataError
from ..recipe import AugmentSpec
from ..system import expand_home
from .layouts.listing import is_audio
from .scan import open_files
from .tracks import Track

NOISE = "noise"  # the stem of a noise recording
IMPULSE = "impulse"  # and of an impulse response


@lru_cache
def recordings(folder: str, stem: str, key: str) -> tuple[Track, ...]:
    """Every audio file below a folder as a track with one stem, sorted by name.

    ``key`` is the recipe's key, for messages. Raises `DataError` if there is no file, or if one cannot be read.
    """
    root = expand_home(folder)
    files = sorted(path for path in root.rglob("*") if is_audio(path)) if root.is_dir() else []
    if not files:
        state = "holds no audio file" if root.is_dir() else "is no folder"
        raise DataError(f"{key} is {folder!r}, which {state}; expected a folder of recordings.")
    return tuple(open_files(files, root.resolve(), stem))


def noise_recordings(spec: AugmentSpec) -> Sequence[Track]:
    """The recordings of ``augment.noise``; none if it is off."""
    return recordings(spec.noise_folder, NOISE, "augment.noise_folder") if spec.noise and spec.noise_folder else ()


def impulse_recordings(spec: AugmentSpec) -> Sequence[Track]:
    """The impulse responses of ``augment.reverb``; none if it is off or simulates its rooms."""
    if not (spec.reverb and spec.reverb_folder):
        return ()
    return recordings(spec.reverb_folder, IMPULSE, "augment.reverb_folder")


@lru_cache(maxsize=256)
def impulse_response(path: Path, sample_rate_hz: int) -> np.ndarray:
    """(channels, samples) of unit energy that begins at its loudest sample: the direct sound is not delayed.

    Raises `DataError` if the file is silent.
    """
    audio, rate_hz = read_audio(path)
    samples = resample(audio, rate_hz, sample_rate_hz).numpy()
    loudest = np.abs(samples).max(0)
    if not loudest.any():
        raise DataError(f"{path} is silent; expected the impulse response of a room. Remove it.")
    samples = samples[:, int(loudest.argmax()) :].astype(np.float64)
    energy = np.square(samples).sum(-1).mean()
    response: np.ndarray = (samples / np.sqrt(energy)).astype(np.float32)
    return response


def notes_on_recordings(spec: AugmentSpec) -> list[str]:
    """A message about the user's recordings that augmentation uses."""
    notes = []
    if noises := noise_recordings(spec):
        minutes, (low, high) = sum(track.seconds for track in noises) / 60, spec.noise_db
        notes.append(
            f"augment.noise: {len(noises)} recordings ({minutes:.1f} min) of {spec.noise_folder}: one is added to "
            f"{spec.noise:.0%} of the examples, at {low:g} to {high:g} dB against the mixture, as no target."
        )
    if rooms := impulse_recordings(spec):
        notes.append(
            f"augment.reverb: {len(rooms)} impulse responses of {spec.reverb_folder}, for {spec.reverb:.0%} of the "
            "parts; augment.reverb_seconds and reverb_db do not count."
        )
    return notes
