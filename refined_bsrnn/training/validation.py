"""Validation: uSDR on whole songs, block by block; the songs are divided among the processes by length."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..data.tracks import Track, read_stem
from ..data.whole import pieces
from ..evaluation.scores import TrackScores
from ..network.model import BSRNN
from ..recipe import Recipe
from ..separation.separator import Separator
from ..separation.source import Source
from .failures import Interrupted
from .feature_cache import GB, FeatureCache, Remembered

BLOCK_SECONDS = 10  # that are read at a time
Show = Callable[[float], None]  # is given the share that is done


@dataclass(frozen=True)
class ValidationExcerpt:
    """The part of a track that is validated."""

    track: Track
    start: int
    length: int

    def read(self, stem: str, start: int, length: int) -> Tensor:
        """(channels, samples) of a stem, from a place within the excerpt on."""
        return read_stem(self.track, stem, self.start + start, length)

    def mixture(self, start: int, length: int) -> Tensor:
        """(channels, samples): ``mixture.wav`` if there is one, else the sum of all stems."""
        return torch.stack([self.read(name, start, length) for name in self.track.whole]).sum(0)


class Validation:
    """The validation of one training: the songs, the network and the processes."""

    def __init__(
        self,
        recipe: Recipe,
        model: BSRNN,
        tracks: Sequence[Track],
        accelerator: Accelerator,
        cache: FeatureCache | None = None,
    ):
        self.recipe, self.model, self.accelerator, self.cache = recipe, model, accelerator, cache
        chosen = some_of(tracks, recipe.targets, recipe.train.validate_songs)
        self.excerpts = [middle_of(track, recipe.train.validate_seconds) for track in chosen]

    def scores(self, stopped: Callable[[], bool], show: Show) -> dict[str, float]:
        """{"validation/<target>/usdr": mean over tracks, ..., "validation/usdr": mean over targets}.

        Raises `Interrupted` in all processes if ``stopped`` becomes true in one.
        """
        own = shared_out(self.excerpts, self.accelerator.num_processes)[self.accelerator.process_index]
        separator = Separator(self.model, str(self.accelerator.device))
        rows: list[tuple[str, float]] = []
        done, total = 0.0, sum(seconds_of(e) for e in own)
        with self._remembered_features():
            for excerpt in own:
                if stopped():
                    break
                before, share = done / total, seconds_of(excerpt) / total

                def progress(part: float, before: float = before, share: float = share) -> None:
                    show(before + part * share)

                try:
                    rows += self._score(separator, excerpt, stopped, progress)
                except Interrupted:
                    break
                done += seconds_of(excerpt)
        if any(gather_object([stopped()])):
            raise Interrupted
        return means(gather_object(rows), self.recipe.targets)

    def _score(
        self, separator: Separator, excerpt: ValidationExcerpt, stopped: Callable[[], bool], progress: Show
    ) -> list[tuple[str, float]]:
        """(target, uSDR) of the targets that are not silent in the excerpt: a silent stem has no defined uSDR."""
        targets = [target for target in self.recipe.targets if target in excerpt.track.files]
        scores = TrackScores(excerpt.track.sample_rate_hz, {t: (t,) for t in targets}, ("estimate",), quick=True)
        place = 0
        estimates = separator.stream_source(source_of(excerpt, stopped), targets, progress)
        for estimate in pieces(estimates, BLOCK_SECONDS * excerpt.track.sample_rate_hz):
            length = estimate[targets[0]].shape[-1]
            scores.add({t: excerpt.read(t, place, length) for t in targets}, {"estimate": estimate})
            place += length
        found = scores.finish()
        return [(t, row["estimate"]["usdr"]) for t, row in found.items() if not row["reference_silent"]]

    @contextmanager
    def _remembered_features(self) -> Iterator[None]:
        """Within the block, features of a frozen backbone are looked up if the training has a cache."""
        if self.cache is not None:
            left_gb = (self.recipe.cache.max_gb - self.cache.n_bytes / GB) / self.accelerator.num_processes
            self.model.remembered = Remembered(self.cache.path / "validation", left_gb)
        try:
            yield
        finally:
            self.model.remembered = None
            self.model.train()

    def about_seconds(self) -> float:
        """The approximate time of one validation, from the time of one chunk of the first song."""
        if not self.excerpts:
            return 0.0
        separator = Separator(self.model, str(self.accelerator.device))
        targets = [target for target in self.recipe.targets if target in self.excerpts[0].track.files]
        started = time.monotonic()
        with self._remembered_features():
            next(separator.stream_source(source_of(self.excerpts[0]), targets))
        seconds = time.monotonic() - started
        step = (separator.chunk - separator.overlap) / self.recipe.stft.sample_rate_hz
        n_chunks = sum(math.ceil(seconds_of(excerpt) / step) for excerpt in self.excerpts)
        return seconds * n_chunks / self.accelerator.num_processes

    def audio(self, seconds: float) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]], int]:
        """Audio for the log: the middle of the first song.

        Mixture, reference and estimate by name, the same sorted by target, and the sample rate in Hz.
        """
        excerpt = middle_of(self.excerpts[0].track, seconds)
        targets = [target for target in self.recipe.targets if target in excerpt.track.files]
        mixture = excerpt.mixture(0, excerpt.length)
        separator = Separator(self.model, str(self.accelerator.device))
        estimates = separator.separate(mixture, excerpt.track.sample_rate_hz, targets)
        self.model.train()
        audio, panels = {"mixture": mixture.numpy()}, {}
        for name in targets:
            reference = excerpt.read(name, 0, excerpt.length).numpy()
            pair = {f"{name} reference": reference, f"{name} estimate": estimates[name].numpy()}
            audio |= pair
            panels[name] = {"mixture": audio["mixture"], **pair}
        return audio, panels, excerpt.track.sample_rate_hz


# --- which songs, where in them, by whom ------------------------------------------------------------------------------


def some_of(tracks: Sequence[Track], targets: Sequence[str], n_songs: int) -> list[Track]:
    """That many of the tracks (0: all), spread over the list; at least one song per target, even if that makes more."""
    if not 0 < n_songs < len(tracks):
        return list(tracks)
    chosen = [tracks[i * len(tracks) // n_songs] for i in range(n_songs)]
    for target in targets:
        if not any(target in track.files for track in chosen):
            chosen += [track for track in tracks if target in track.files][:1]
    return chosen


def middle_of(track: Track, seconds: float) -> ValidationExcerpt:
    """That many seconds (0: all) from the middle of a track."""
    length = round(seconds * track.sample_rate_hz)
    if not 0 < length < track.n_samples:
        return ValidationExcerpt(track, 0, track.n_samples)
    return ValidationExcerpt(track, max(0, track.n_samples // 2 - length // 2), length)


def seconds_of(excerpt: ValidationExcerpt) -> float:
    return excerpt.length / excerpt.track.sample_rate_hz


def shared_out(excerpts: Sequence[ValidationExcerpt], n_processes: int) -> list[list[ValidationExcerpt]]:
    """A list for each process with about the same total duration: each song, longest first, goes to the shortest
    list.
    """
    shares: list[list[ValidationExcerpt]] = [[] for _ in range(n_processes)]
    loads = [0.0] * n_processes
    for excerpt in sorted(excerpts, key=seconds_of, reverse=True) if n_processes > 1 else excerpts:
        least = loads.index(min(loads))
        shares[least].append(excerpt)
        loads[least] += seconds_of(excerpt)
    return shares


def source_of(excerpt: ValidationExcerpt, stopped: Callable[[], bool] = lambda: False) -> Source:
    """The mixture of an excerpt, read when needed; raises `Interrupted` once ``stopped`` is true."""
    track, n_block = excerpt.track, BLOCK_SECONDS * excerpt.track.sample_rate_hz

    def mixture() -> Iterator[Tensor]:
        for start in range(0, excerpt.length, n_block):
            block = excerpt.mixture(start, min(n_block, excerpt.length - start))
            for second in block.split(track.sample_rate_hz, 1):  # the separator keeps some dozens of blocks
                if stopped():
                    raise Interrupted
                yield second.clone()

    return Source(track.sample_rate_hz, track.n_channels, excerpt.length, mixture)


def means(rows: Sequence[tuple[str, float]], targets: Sequence[str]) -> dict[str, float]:
    """The scores that are logged, from (target, uSDR) of every track."""
    by_target = {name: [value for n, value in rows if n == name] for name in targets}
    mean = {name: sum(values) / len(values) for name, values in by_target.items() if values}
    scores = {f"validation/{name}/usdr": value for name, value in mean.items()}
    return {**scores, "validation/usdr": sum(mean.values()) / len(mean)} if mean else {}
