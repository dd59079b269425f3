"""Active segments of a stem: source activity detection as in the BSRNN paper (section IV-B), and its cached table.

A track is cut into segments of 6 s, half overlapping, and each segment into 10 chunks. A segment is active if more than
half of its chunks are louder than the track's threshold: the 15 % quantile of all its chunks, but at least 1e-3. The
paper does not define the energy of a chunk; ``rms`` (1e-3 is −60 dBFS) and ``power`` (−30 dBFS) treat bleed
differently, so the recipe and the table contain the choice.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock
from torch import Tensor

from ..console import track as show_progress
from ..errors import DataError
from ..system import atomic_write, cache_folder, reason_of

SEGMENT_SECONDS, N_CHUNKS, HOP_CHUNKS = 6.0, 10, 5  # chunks of 0.6 s; a segment begins every 3 s
QUANTILE, FLOOR, SILENT = 0.15, 1e-3, 1e-5  # of all chunks; the least threshold; what a silent chunk counts as
BLOCK_CHUNKS = 100  # read at a time: a minute
FORMAT = 1  # of the cached table

ENERGIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"rms": np.sqrt, "power": lambda power: power}
Read = Callable[[int, int], Tensor]  # (start, n_samples) → (channels, samples)


@dataclass(frozen=True)
class ActivityPart:
    """A part of a track in the table, identified by its content, not by its place."""

    content: str  # identifies the audio
    track: str
    name: str
    n_samples: int
    sample_rate_hz: int
    read: Read


def chunk_energies(read: Read, n_samples: int, sample_rate_hz: int, energy: str) -> np.ndarray:
    """Energy of each whole chunk of 0.6 s, the mean over channels and samples; silence is 1e-5. Read by the minute."""
    length = round(SEGMENT_SECONDS / N_CHUNKS * sample_rate_hz)
    powers = []
    for start in range(0, n_samples - length + 1, BLOCK_CHUNKS * length):
        n_chunks = min(BLOCK_CHUNKS, (n_samples - start) // length)
        audio = read(start, n_chunks * length).double().numpy()  # (C, chunks · length)
        powers.append(np.square(audio).reshape(len(audio), n_chunks, length).mean((0, 2)))
    energies = ENERGIES[energy](np.concatenate(powers)) if powers else np.zeros(0)
    return np.where(energies == 0, SILENT, energies)


def active_starts(energies: np.ndarray, chunk_length: int) -> np.ndarray:
    """First samples of the active segments, from the energies of a track's chunks. A rest under 6 s is no segment."""
    if len(energies) < N_CHUNKS:
        return np.zeros(0, dtype=np.int64)
    loud = energies > max(float(np.quantile(energies, QUANTILE)), FLOOR)
    segments = np.lib.stride_tricks.sliding_window_view(loud, N_CHUNKS)[::HOP_CHUNKS]  # (segments, 10)
    return np.flatnonzero(segments.sum(1) > N_CHUNKS / 2) * HOP_CHUNKS * chunk_length


def active_segments(parts: Sequence[ActivityPart], energy: str, folder: Path | None = None) -> list[np.ndarray]:
    """The first samples of the active segments of every part, from the cached table, which is made on first use.

    The table is in ``folder`` (default: the user's cache), under a name derived from the content of the parts. One
    process makes it while the others wait.
    """
    folder = folder or cache_folder() / "activity"
    lines = sorted({f"{part.content}\t{part.sample_rate_hz}\t{part.n_samples}" for part in parts})
    digest = hashlib.sha256("\n".join([f"{FORMAT} {energy}", *lines]).encode()).hexdigest()
    path = folder / f"{energy}-{digest[:24]}.parquet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            found = _kept(path)
            if found is None:
                rows = list(_build(parts, energy))
                _write(path, rows)
                found = {row["content"]: row["starts"] for row in rows}
    except OSError as problem:
        raise DataError(
            f"{folder} cannot be written ({reason_of(problem)}); set REFINED_BSRNN_CACHE to a folder that can."
        ) from problem
    return [np.asarray(found[part.content], dtype=np.int64) for part in parts]


def _kept(path: Path) -> dict[str, list[int]] | None:
    """content → starts, from the table; None if the table is missing or damaged."""
    if not path.is_file():
        return None
    try:
        rows = datasets.Dataset.from_parquet(str(path), keep_in_memory=True)
        return dict(zip(rows["content"][:], rows["starts"][:], strict=True))
    except (ValueError, KeyError, OSError, DatasetGenerationError):  # pyarrow's ArrowInvalid is a ValueError
        return None


def _build(parts: Sequence[ActivityPart], energy: str) -> Iterable[Mapping[str, Any]]:
    distinct = list({part.content: part for part in parts}.values())
    for part in show_progress(distinct, len(distinct), "looking for active segments"):
        energies = chunk_energies(part.read, part.n_samples, part.sample_rate_hz, energy)
        starts = active_starts(energies, round(SEGMENT_SECONDS / N_CHUNKS * part.sample_rate_hz))
        yield {
            "content": part.content,
            "track": part.track,
            "part": part.name,
            "energy": energy,
            "sample_rate_hz": part.sample_rate_hz,
            "n_samples": part.n_samples,
            "segment_seconds": SEGMENT_SECONDS,
            "starts": starts.tolist(),
        }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = datasets.Dataset.from_list([dict(row) for row in rows])
    datasets.disable_progress_bars()  # it is written in no time
    with atomic_write(path, DataError) as temporary:
        table.to_parquet(temporary)
