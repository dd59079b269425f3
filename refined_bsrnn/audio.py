"""The only module that knows an audio backend: read (any part of a file), write, resample.

Audio is float32, (channels, samples), full scale at ±1. soundfile reads wav, flac, ogg, mp3, aiff and more without any
system package; torchaudio resamples.
"""

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample as torchaudio_resample

from .errors import AudioError
from .files import atomic_write

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".rf64", ".caf", ".au")
SEEKS_EXACTLY = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU")
WRITES = {".wav": "FLOAT", ".flac": "PCM_24"}


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    n_samples: int  # per channel
    sample_rate_hz: int
    n_channels: int

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz


def audio_info(path: str | PathLike[str]) -> AudioInfo:
    """Length, rate and channels from the header. Raises `AudioError` for what is no audio file, or an empty one."""
    with _open(Path(path)) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_audio(path: str | PathLike[str], start: int = 0, n_samples: int | None = None) -> tuple[Tensor, int]:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) as float32 (channels, samples), and the rate.

    Only that part is read, where the format can be entered anywhere; Ogg and MP3 are decoded from the beginning, since
    they do not land where they are told to. Raises `AudioError` for a missing, foreign, empty or truncated file, a
    part beyond the end, and NaN or infinite samples.
    """
    path = Path(path)
    with _open(path) as file:
        wanted = file.frames - start if n_samples is None else n_samples
        if start < 0 or wanted < 1 or start + wanted > file.frames:
            raise AudioError(f"{path} has {file.frames} samples; samples {start} to {start + wanted} were asked for.")
        skipped = 0 if file.format in SEEKS_EXACTLY else start
        try:
            if skipped < start:
                file.seek(start)
            samples = file.read(skipped + wanted, dtype="float32", always_2d=True)[skipped:]
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path} is damaged: {_reason(error)} Copy it again or restore a backup.") from None
        rate_hz = file.samplerate
    if len(samples) < wanted:
        raise AudioError(
            f"{path} is cut off: it holds {skipped + len(samples)} of the samples that its header "
            f"promises up to {start + wanted}. Copy it again or restore a backup."
        )
    bad = ~np.isfinite(samples).all(1)
    if bad.any():
        seconds = (start + int(bad.argmax())) / rate_hz
        raise AudioError(f"{path} holds NaN or infinite samples, the first at {seconds:.3f} s; export it again.")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate_hz


def _open(path: Path) -> soundfile.SoundFile:
    """An open file that has at least one sample, or an `AudioError` that says what is there instead."""
    if path.is_dir():
        raise AudioError(f"{path} is a folder; expected an audio file.")
    if not path.is_file():
        raise AudioError(f"there is no file {path}.")
    size = path.stat().st_size
    if size == 0:
        raise AudioError(f"{path} is empty (0 bytes). Copy it again or restore a backup.")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: it takes an unknown suffix for raw samples
        raise AudioError(
            f"{path} ({size} bytes) cannot be read as audio: {_reason(error)} Readable are wav, flac, ogg, mp3 and "
            f"aiff; other formats can be converted: ffmpeg -i {path.name} {path.stem}.wav"
        ) from None
    if file.frames < 1 or file.channels < 1 or file.samplerate < 1:
        file.close()
        raise AudioError(f"{path} holds no samples ({size} bytes). Copy it again or restore a backup.")
    _check_size(path, size, file)
    return file


def _check_size(path: Path, size: int, file: soundfile.SoundFile) -> None:
    """A wav that was cut off: libsndfile quietly takes what is left, the header still says what was there."""
    if file.format != "WAV":
        return
    with path.open("rb") as raw:
        head = raw.read(8)
    promised = int.from_bytes(head[4:8], "little") + 8
    # Streaming writers leave 0 or all ones where they could not know the length.
    if head[:4] == b"RIFF" and 8 < promised < 0xFFFFFFF0 and size < promised - 1:
        file.close()
        raise AudioError(
            f"{path} is cut off: its header promises {promised} bytes, and it has {size}. "
            "Copy it again or restore a backup."
        )


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path and the 'Error'."""
    text = getattr(error, "error_string", "") or "format not recognised."
    text = text.removeprefix("Error :").strip()
    return text[:1].lower() + text[1:]


def write_audio(
    path: str | PathLike[str], audio: Tensor | np.ndarray, sample_rate_hz: int, subtype: str | None = None
) -> Path:
    """Write (channels, samples) as ``.wav`` (32-bit float) or ``.flac`` (24 bit), or another soundfile ``subtype``.

    Atomic: a crash or a full disk leaves the old file. Raises `AudioError` for other suffixes, for a disk that cannot
    be written, and where integers would clip (float files keep what lies above full scale).
    """
    path, samples = Path(path), np.asarray(audio, dtype=np.float32)
    if path.suffix.lower() not in WRITES:
        raise AudioError(f"{path} cannot be written; expected the suffix {' or '.join(WRITES)}.")
    subtype = subtype or WRITES[path.suffix.lower()]
    peak = float(np.abs(samples).max(initial=0.0))
    if subtype not in ("FLOAT", "DOUBLE") and peak > 1.0:
        raise AudioError(
            f"{path} would clip: the peak is {20 * math.log10(peak):.2f} dB above full scale. "
            "Write a float .wav or lower the level."
        )
    with atomic_write(path, AudioError) as temporary:
        try:
            soundfile.write(temporary, samples.T, sample_rate_hz, subtype=subtype)
        except soundfile.LibsndfileError as error:
            raise OSError(None, _reason(error)) from error
    return path


def resample(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., samples) at another rate, ceil(samples · to / from) long; a windowed sinc of 64 zero crossings.

    Flat to 0.1 dB up to 0.9 of the lower Nyquist frequency; aliases lie more than 80 dB down.
    """
    if from_hz == to_hz:
        return audio
    return torchaudio_resample(
        audio, from_hz, to_hz, lowpass_filter_width=64, rolloff=0.94, resampling_method="sinc_interp_kaiser", beta=14.77
    )


def match_channels(audio: Tensor, n_channels: int) -> Tensor:
    """(C, L) with the wanted number of channels: mono is repeated, anything is averaged to mono; else `AudioError`."""
    if audio.shape[0] == n_channels:
        return audio
    if n_channels == 1:
        return audio.mean(0, keepdim=True)
    if audio.shape[0] == 1:
        return audio.expand(n_channels, -1)
    raise AudioError(f"audio with {audio.shape[0]} channels cannot become {n_channels}; expected {n_channels} or 1.")
