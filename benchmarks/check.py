"""The time that the checker takes for a whole data set: songs made of pieces of others, in MUSDB18-HQ's layout.

python -m benchmarks check --data corpus --songs 150 --seconds 240
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from refined_bsrnn.console import track as progress
from refined_bsrnn.data.names import MIXTURE, MUSDB_STEMS
from refined_bsrnn.data.scan import scan
from refined_bsrnn.data.tracks import Track, read_stem
from refined_bsrnn.errors import DataError, UserError
from refined_bsrnn.recipe import DataSpec
from refined_bsrnn.system import CACHE_VARIABLE

from .measure import Kind, machine, run_measured

PIECE_SECONDS = (5.0, 20.0)
GAINS = (0.15, 0.25)  # four stems at full scale do not clip


def check_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `measure_check`."""
    p.add_argument("--data", metavar="ROOT", help="songs to take pieces of (default: the built-in ones)")
    p.add_argument("--songs", type=int, default=150, help="(default: 150)")
    p.add_argument("--seconds", type=int, default=240, help="of each (default: 240)")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of check-data (default: one per processor)")
    p.add_argument("--seed", type=int, default=0)


def measure_check(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ``refined-bsrnn check-data`` from start to end, and of processor time; nothing is known before."""
    tracks = scan(DataSpec(root=args.data), ("train",)).usable()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        n_bytes = sum(progress(_songs(tracks, folder / "data" / "train", args), args.songs, "making songs"))
        words = ["check-data", str(folder / "data"), "--jobs", str(args.jobs)]
        status, seconds, used = run_measured(
            [sys.executable, "-m", "refined_bsrnn.apps.cli.main", *words], {CACHE_VARIABLE: str(folder / "cache")}
        )
    if status:
        raise UserError(f"check-data ended with {status}; what it said stands above.")
    return {
        "kind": "check",
        **machine(torch.device("cpu")),
        "processors": os.cpu_count(),
        "jobs": args.jobs,
        "seed": args.seed,
        "songs": args.songs,
        "song_seconds": args.seconds,
        "gigabytes": round(n_bytes / 1e9, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


def _songs(tracks: Sequence[Track], folder: Path, args: argparse.Namespace) -> Iterator[int]:
    """Write song by song and yield its bytes: mixture and four stems, 16-bit wav, every stem pieces of such stems."""
    rate_hz = tracks[0].sample_rate_hz
    having = {s: [t for t in tracks if s in t.files and t.sample_rate_hz == rate_hz] for s in MUSDB_STEMS}
    if not all(having.values()):
        lacking = next(stem for stem, some in having.items() if not some)
        raise DataError(f"no training track has {lacking!r}; expected all of {', '.join(MUSDB_STEMS)}.")
    random = np.random.default_rng(args.seed)
    for number in range(args.songs):
        song = folder / f"song-{number:03}"
        song.mkdir(parents=True)
        stems = {stem: _stem(having[stem], stem, args.seconds * rate_hz, random) for stem in MUSDB_STEMS}
        for name, samples in {**stems, MIXTURE: np.sum(list(stems.values()), axis=0)}.items():
            soundfile.write(song / f"{name}.wav", samples.T, rate_hz, subtype="PCM_16")
        yield sum(file.stat().st_size for file in song.iterdir())


def _stem(tracks: Sequence[Track], stem: str, n_samples: int, random: np.random.Generator) -> np.ndarray:
    """(2, n_samples) of random pieces of that stem, one after the other."""
    result = np.zeros((2, n_samples), np.float32)
    done = 0
    while done < n_samples:
        track = tracks[int(random.integers(len(tracks)))]
        wanted = round(random.uniform(*PIECE_SECONDS) * track.sample_rate_hz)
        length = min(wanted, track.n_samples, n_samples - done)
        start = int(random.integers(track.n_samples - length + 1))
        gain = np.float32(random.uniform(*GAINS))
        result[:, done : done + length] = gain * read_stem(track, stem, start, length)[:2].numpy()
        done += length
    return result


def check_markdown(values: Mapping[str, Any]) -> str:
    """The sentence of docs/data.md."""
    return (
        f"{values['songs']} songs of {values['song_seconds'] // 60} minutes with mixture and four 16-bit wav stems "
        f"({values['gigabytes']:g} GB) were checked in {values['seconds']:.0f} s, {values['cpu_seconds']:.0f} s of it "
        f"processor time, by {values['jobs']} threads on {values['processors']} processors.\n"
    )


CHECK = Kind("how long check-data takes for a whole data set", check_arguments, measure_check, check_markdown)
