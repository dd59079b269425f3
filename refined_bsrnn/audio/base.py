"""The base of all readers of audio files: blocks of float32 (channels, samples), and remarks on the file."""

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError

MAX_CHANNELS = 256  # more than any format for listening has: a damaged header
# Vorbis and Opus order channels as Vorbis' specification (4.3.9) says, wav, flac and FFmpeg by their masks; libsndfile
# leaves it at that. Where the former have the latter's channels:
VORBIS_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 4, 5, 3), 7: (0, 2, 1, 5, 6, 4, 3)}
VORBIS_ORDER[8] = (0, 2, 1, 6, 7, 4, 5, 3)
TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license")  # carried over
SHOWN_GAPS = 5
LEAST_SHARE = 0.1  # of a file that must be there
MEND = "Copy it again or restore a backup."

SNIFFED_SAMPLES = 1 << 16
# DTS as 16 and 14 bits, and IEC 61937 (what a digital output carries), in both orders of bytes
PACKED = re.compile(
    rb"\xfe\x7f\x01\x80|\x7f\xfe\x80\x01|\xff\x1f\x00\xe8|\x1f\xff\xe8\x00|\x72\xf8\x1f\x4e|\xf8\x72\x4e\x1f"
)


def is_packed(data: bytes) -> bool:
    """Whether samples of 16 bits are no samples, but a coded stream in their place."""
    found = [(match[0], match.start()) for match in PACKED.finditer(data)]
    places = [place for mark, place in found if mark == found[0][0]][:9]
    return len(places) > 4 and len(set(np.diff(places))) == 1  # music may hold them by chance, not so regularly


def packed_error(path: Path) -> AudioError:
    """The error for a file for which `is_packed` is true and which FFmpeg does not decode."""
    return AudioError(
        f"{path} is no music as it stands: DTS or another coded sound is packed into its samples, and FFmpeg "
        "does not decode it. Convert it to wav or flac with a program that does."
    )


@dataclass(frozen=True)
class AudioInfo:
    """Length, rate and channels of a file."""

    n_samples: int  # per channel
    sample_rate_hz: int
    n_channels: int

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz


class AudioReader:
    """An open audio file that is read from its beginning to its end, block by block.

    Attributes: ``path``; ``sample_rate_hz``; ``n_channels``; ``n_samples`` (None if only decoding gives it);
    ``about_samples`` (None, or a guess for progress bars); ``format`` (``WAV``, ``FLAC``, ... or FFmpeg's name);
    ``lossless_bits`` (16, 24, 32 for float, None for lossy coding). Close it, or use it in a ``with``.

    Parts that cannot be decoded are silence, so that all other parts stay in place: ``gaps`` are their (start, stop) in
    samples, as far as the file has been read. With ``strict`` damage is an `AudioError`, and so is an early end.
    """

    path: Path
    sample_rate_hz: int
    n_channels: int
    n_samples: int | None
    about_samples: int | None
    format: str
    lossless_bits: int | None
    position = 0

    def __init__(self, path: Path, strict: bool = False):
        self.path, self.strict = path, strict
        self.notes: list[str] = []  # sentences on what was chosen or assumed
        self.gaps: list[tuple[int, int]] = []
        self.cut = ""  # why it ends too early

    def read(self, n_samples: int, contiguous: bool = True) -> Tensor:
        """The next (channels, n_samples) as float32; fewer only at the end, then (channels, 0).

        Without ``contiguous`` they may be a view of samples that alternate between channels, as in the file. Raises
        `AudioError` for NaN or infinite samples, for a file of which less than `LEAST_SHARE` can be decoded, and, with
        ``strict``, for any damage.
        """
        samples = self._read(n_samples)
        if self.lossless_bits in (16, 24):
            suspicious = False  # integers cannot be anything else
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(samples.sum())  # one pass over all; only then look at each
        if suspicious and (bad := ~np.isfinite(samples).all(0)).any():
            seconds = (self.position + int(bad.argmax())) / self.sample_rate_hz
            raise AudioError(
                f"{self.path} holds NaN or infinite samples, the first at {seconds:.3f} s; export it again."
            )
        self.position += samples.shape[1]
        return torch.from_numpy(np.ascontiguousarray(samples) if contiguous else samples)

    def blocks(self, n_samples: int) -> Iterator[Tensor]:
        """The rest, in blocks of (channels, n_samples), the last one shorter."""
        while (block := self.read(n_samples)).shape[1]:
            yield block

    def skip(self, n_samples: int) -> int:
        """Skip ``n_samples``; returns the place reached, which differs only after the end."""
        target = self.position + n_samples
        while self.position < target:
            skipped = self._read(min(1 << 18, target - self.position)).shape[1]
            self.position += skipped
            if not skipped:
                break
        return self.position

    def _read(self, n_samples: int) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what there is to say

    def remarks(self) -> list[str]:
        """Messages about choices, assumptions and damage so far."""
        return self.notes + self.damage()

    def damage(self) -> list[str]:
        """A message for each kind of damage found so far."""
        advice = MEND if not self.strict else "Without --strict what is lost becomes silence."
        found = []
        if self.gaps:
            spans = [
                f"{start / self.sample_rate_hz:.2f} to {stop / self.sample_rate_hz:.2f} s" for start, stop in self.gaps
            ]
            more = f" and {len(spans) - SHOWN_GAPS} more places" if len(spans) > SHOWN_GAPS else ""
            found.append(
                f"{self.path} is damaged: nothing can be decoded at {', '.join(spans[:SHOWN_GAPS])}{more}; silence is "
                f"there instead. {advice}"
            )
        if self.cut:
            found.append(f"{self.path} is cut off: {self.cut}; what is there is used. {advice}")
        return found

    def _lose(self, start: int, n_samples: int) -> None:
        """Note that samples are lost; with ``strict`` refuse the file."""
        if self.gaps and self.gaps[-1][1] == start:
            self.gaps[-1] = (self.gaps[-1][0], start + n_samples)
        else:
            self.gaps.append((start, start + n_samples))
        self._refuse_if_strict()

    def end_early(self, why: str) -> None:
        """Note that the file is truncated; with ``strict`` refuse it."""
        self.cut = why
        self._refuse_if_strict()

    def promise(self, promised: int, found: int) -> str:
        """Note that a header announces more audio than the file contains."""
        promised_seconds, seconds = promised / self.sample_rate_hz, found / self.sample_rate_hz
        return f"its header promises {promised_seconds:.2f} s, and it has {seconds:.2f} s"

    def _check_share(self, n_samples: int) -> None:
        """Refuse a file of whose ``n_samples`` too few can be decoded."""
        lost = sum(stop - start for start, stop in self.gaps)
        if lost > n_samples * (1 - LEAST_SHARE):
            left, whole = ((n / self.sample_rate_hz) for n in (n_samples - lost, n_samples))
            raise AudioError(f"{self.path} is damaged: only {left:.2f} of its {whole:.2f} s can be decoded. {MEND}")

    def _refuse_if_strict(self) -> None:
        if self.strict:
            raise AudioError(self.damage()[0])


class Window(io.RawIOBase):
    """The bytes ``start`` to ``stop`` of a file, as a file."""

    def __init__(self, path: Path, start: int, stop: int):
        self.file, self.start, self.stop, self.place = path.open("rb"), start, stop, 0

    def mapped(self) -> tuple[mmap, int, int]:
        """The whole file in memory, and the first and the last of its bytes that are seen here."""
        return mmap(self.file.fileno(), 0, access=ACCESS_READ), self.start, self.stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = max(
            0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.stop - self.start}[whence]
        )
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, n_bytes: int = -1) -> bytes:
        left = max(0, self.stop - self.start - self.place)
        self.file.seek(self.start + self.place)
        data = self.file.read(left if n_bytes < 0 else min(n_bytes, left))
        self.place += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


def sound_path(path: Path) -> Path | bytes:
    """A path in the form that soundfile accepts: names that are not Unicode, which Linux allows, must be bytes."""
    return path if os.name == "nt" else os.fsencode(path)


def reason(error: Exception) -> str:
    """libsndfile's own message, without the path and the 'Error'."""
    text = getattr(error, "error_string", "") or "format not recognised."
    text = text.removeprefix("Error :").strip()
    return text[:1].lower() + text[1:]
