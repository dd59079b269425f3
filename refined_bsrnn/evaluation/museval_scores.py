"""Scores by museval on whole tracks, in separate processes, and museval's own files.

museval scores the targets of a track together, which takes minutes and gigabytes: one process per track, a few at a
time. A single target is scored together with the accompaniment (mixture − target), as museval itself does with one
estimate, because interference needs a second source.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..data.tracks import Track
from ..data.whole import read_known, read_mixture
from ..errors import UserError
from ..metrics import museval_scores
from ..plain import finite
from ..system import environment_set, write_text

METRICS = ("SDR", "ISR", "SIR", "SAR")
ACCOMPANIMENT = "accompaniment"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Frames = dict[str, dict[str, list[float | None]]]  # target → metric → one value per second, None where undefined


def score_files(track: Track, targets: Sequence[str], mixture_is: str, estimates: Path) -> Frames:
    """museval's frames of the estimates in ``estimates/<target>.npy``, (channels, samples); silent targets stay out."""
    references = {target: read_known(track, target).numpy() for target in targets}
    guesses = {target: np.load(estimates / f"{target}.npy", mmap_mode="r") for target in targets}
    if len(targets) == 1:
        mixture = read_mixture(track, mixture_is).numpy()
        references[ACCOMPANIMENT] = mixture - references[targets[0]]
        guesses[ACCOMPANIMENT] = mixture - guesses[targets[0]]
    audible = [t for t in references if references[t].sum(0).any() and guesses[t].sum(0).any()]
    if not audible:
        return {}
    scores = museval_scores({t: references[t] for t in audible}, {t: guesses[t] for t in audible}, track.sample_rate_hz)
    return {target: {name: finite(frames[name].tolist()) for name in METRICS} for target, frames in scores.items()}


class MusevalPool:
    """At most ``jobs`` tracks at a time, in separate processes; ``jobs=1`` stays in this process.

    ``done(result)`` is called in the main process with the arguments of `submit` and the frames.
    """

    def __init__(self, jobs: int, done: Callable[[Any, Frames], None]):
        self.jobs, self.done = jobs, done
        self.pending: dict[Future, Any] = {}
        self.pool = ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else None

    def submit(self, item: Any, *arguments: Any) -> None:
        """Score one track (the arguments of `score_files`); waits while twice as many as there are jobs are waiting."""
        if self.pool is None:
            self.done(item, score_files(*arguments))
            return
        with environment_set(**ONE_THREAD):  # of each process: the cores are free for the tracks
            self.pending[self.pool.submit(score_files, *arguments)] = item
        while len(self.pending) > 2 * self.jobs:
            self._collect()

    def finish(self) -> Iterator[int]:
        """Wait for the rest; yields how many are left after each."""
        while self.pending:
            self._collect()
            yield len(self.pending)
        self.close()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def _collect(self) -> None:
        for future in wait(self.pending, return_when=FIRST_COMPLETED).done:
            self.done(self.pending.pop(future), future.result())


def write_museval_json(path: Path, frames: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Path:
    """Write one track as museval writes it: five decimals, NaN if undefined.

    Its `EvalStore` and `MethodStore` read ``<folder>/test/<track>.json``.
    """
    targets = [
        {
            "name": target,
            "frames": [
                {"time": float(i), "duration": 1.0, "metrics": {name: _five(metrics[name][i]) for name in METRICS}}
                for i in range(len(metrics["SDR"]))
            ],
        }
        for target, metrics in frames.items()
    ]
    if not targets:
        raise UserError(f"{path} would be empty: museval defined no score on this track.")
    write_text(path, json.dumps({"targets": targets, "museval_version": version("museval")}, indent=2) + "\n")
    return path


def _five(value: float | None) -> float:
    return float("nan") if value is None else round(value, 5)
