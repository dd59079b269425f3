"""The only module that knows an audio backend: read (any part of a file), write, resample.

Audio is float32, (channels, samples), full scale at ±1. soundfile reads wav, flac, ogg, mp3, aiff and more without any
system package; torchaudio resamples.
"""

import errno
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample as torchaudio_resample

from .errors import AudioError
from .files import atomic_write

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".rf64", ".caf", ".au")
SEEKS_EXACTLY = ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64", "CAF", "AU")
SYSTEM_ERROR = 2  # libsndfile's SF_ERR_SYSTEM: the disk, not the audio
WRITES = {".wav": "FLOAT", ".flac": "PCM_24"}
MAX_RESAMPLE_KERNEL = 10_000_000  # entries of torchaudio's table; 44.1 <-> 48 kHz takes 24 thousand


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
    they do not land where they are told to. Raises `AudioError` for a missing, foreign, empty or truncated file, one
    that does not tell its length, a part beyond the end, and NaN or infinite samples. An Ogg that was cut off carries
    no length to compare with: what is left of it is read.
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
    try:
        _check_length(path, size, file)
    except AudioError:
        file.close()
        raise
    return file


def _check_length(path: Path, size: int, file: soundfile.SoundFile) -> None:
    """`AudioError` where libsndfile's length is wrong: a file that was cut off, or one that does not tell its length.

    libsndfile quietly takes what is left of a cut wav, aiff, w64 or au, and guesses the length of an untagged MP3 from
    its first frame: with a variable bit rate it would drop the rest of the song without a word.
    """
    with path.open("rb") as raw:
        head = raw.read(28)
        promised = _promised_bytes(head)
        untagged = file.format == "MP3" and not _has_length_tag(raw, head)
    if promised is not None and size < promised - 1:  # one: some writers leave out the last padding byte
        raise AudioError(
            f"{path} is cut off: its header promises {promised} bytes, and it has {size}. "
            "Copy it again or restore a backup."
        )
    if untagged or file.frames >= 2**62:  # the largest number there is stands for a streamed flac
        raise AudioError(
            f"{path} does not say how long it is. Convert it: ffmpeg -i {path.name} {path.stem}-converted.wav"
        )


def _promised_bytes(head: bytes) -> int | None:
    """The file size that the first 28 bytes announce; None where the format, or a writer that streamed, does not."""
    kind, size = head[:4], int.from_bytes(head[4:8], "little")
    if kind == b"RIFF":
        # Streaming writers cannot know the length: ffmpeg leaves all ones, sox 2 GiB less a page, others 0.
        unknown = size == 0 or size >= 0xFFFFFFE8 or 0x7FFFF000 <= size < 0x80000000
        return None if unknown else size + 8
    if kind == b"RF64" and head[12:16] == b"ds64":
        size = int.from_bytes(head[20:28], "little")
        return size + 8 if 0 < size < 2**62 else None
    if kind == b"riff":  # w64: a 16-byte id, then the size of all
        size = int.from_bytes(head[16:24], "little")
        return size if 0 < size < 2**62 else None
    size = int.from_bytes(head[4:8], "big")
    if kind == b"FORM":
        return size + 8 if 0 < size < 0xFFFFFFE8 else None
    if kind == b".snd":  # here it is the place of the samples; their size follows
        n_bytes = int.from_bytes(head[8:12], "big")
        return size + n_bytes if n_bytes < 0xFFFFFFE8 else None
    return None


def _has_length_tag(raw: BinaryIO, head: bytes) -> bool:
    """Whether the first frame of an MP3 is an encoder's Xing, Info or VBRI tag, which holds the number of frames."""
    start = 0
    while head[:3] == b"ID3" and len(head) >= 10:  # names and pictures, more than once in some files
        a, b, c, d = head[6:10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d)  # seven bits each
        raw.seek(start)
        head = raw.read(10)
    raw.seek(start)
    first_frame = raw.read(4096)  # a frame has at most 1441 bytes; some tag writers leave zeros before it
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path and the 'Error'."""
    text = getattr(error, "error_string", "") or "format not recognised."
    text = text.removeprefix("Error :").strip()
    return text[:1].lower() + text[1:]


def write_audio(
    path: str | PathLike[str], audio: Tensor | np.ndarray, sample_rate_hz: int, subtype: str | None = None
) -> Path:
    """Write (channels, samples) as ``.wav`` (32-bit float) or ``.flac`` (24 bit), or another soundfile ``subtype``.

    Atomic: a crash or a full disk leaves the old file. Raises `AudioError` for other suffixes, subtypes and shapes, NaN
    or infinite samples, a disk that cannot be written, and where integers would clip (float files keep what lies above
    full scale).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITES:
        raise AudioError(f"{path} cannot be written; expected the suffix {' or '.join(WRITES)}.")
    subtype = subtype or WRITES[suffix]
    if not soundfile.check_format(suffix[1:], subtype):
        known = ", ".join(soundfile.available_subtypes(suffix[1:]))
        raise AudioError(f"{path} cannot be written with subtype {subtype}; expected one of {known}.")
    samples = _writable(path, audio)
    peak = float(np.abs(samples).max())
    if subtype not in ("FLOAT", "DOUBLE") and peak > 1.0:
        raise AudioError(
            f"{path} would clip: the peak is {20 * math.log10(peak):.2f} dB above full scale. "
            "Write a float .wav or lower the level."
        )
    with atomic_write(path, AudioError) as temporary:
        try:
            soundfile.write(temporary, samples.T, int(sample_rate_hz), subtype=subtype)
        except soundfile.LibsndfileError as error:
            if error.code == SYSTEM_ERROR:
                raise OSError(errno.EIO, "the disk is full or does not answer") from error
            raise AudioError(f"{path} cannot be written: {_reason(error)}") from error
        except AssertionError as error:  # how soundfile says that fewer samples were written than it was given
            raise OSError(errno.ENOSPC, "fewer samples were written than there are") from error
    return path


def _writable(path: Path, audio: Tensor | np.ndarray) -> np.ndarray:
    """(channels, samples) float32 on the CPU; `AudioError` for another shape, nothing at all, NaN or infinity."""
    samples = torch.as_tensor(audio).detach().to("cpu", torch.float32).numpy()
    if samples.ndim != 2 or 0 in samples.shape:
        raise AudioError(
            f"{path} cannot be written: the audio has the shape {samples.shape}; expected (channels, samples), "
            "neither empty."
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} cannot be written: the audio holds NaN or infinite samples.")
    return samples


def resample(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., samples) at another rate, ceil(samples · to / from) long; a windowed sinc of 64 zero crossings.

    Flat to 0.1 dB up to 0.9 of the lower Nyquist frequency; what lies above it is more than 80 dB down. Raises
    `AudioError` for rates below 1, and for two so unrelated (44100 and 44101) that the filter's table, one row for
    every position between samples, would take gigabytes.
    """
    if from_hz < 1 or to_hz < 1:
        raise AudioError(f"audio at {from_hz} Hz cannot be resampled to {to_hz} Hz; expected rates of at least 1 Hz.")
    if from_hz == to_hz:
        return audio
    if from_hz * to_hz // math.gcd(from_hz, to_hz) ** 2 > MAX_RESAMPLE_KERNEL:
        raise AudioError(
            f"resampling from {from_hz} to {to_hz} Hz would take too much memory; convert the file first: "
            f"ffmpeg -i in.wav -ar {to_hz} out.wav"
        )
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
