"""Applies a function of chunks to a stream: overlapping chunks, cross-faded with weights that add up to one."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import Resampler
from ..errors import UserError


def fade_weights(length: int, overlap: int) -> Tensor:
    """(length,) weights that rise over the first ``overlap`` samples and fall over the last; never zero."""
    ramp = torch.arange(1, length + 1).float()
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=overlap + 1) / (overlap + 1)


def cut_chunks(blocks: Iterable[Tensor], chunk: int, overlap: int) -> Iterator[tuple[int, Tensor]]:
    """(start, (channels, chunk)) that cover a stream; each but the first begins ``overlap`` before the previous end.

    Only the last one begins earlier, so that all have full length (if the signal is long enough).
    """
    start, step = 0, chunk - overlap
    previous: Tensor | None = None
    rest: Tensor | None = None
    for block in blocks:
        rest = block if rest is None else torch.cat([rest, block], dim=1)
        while rest.shape[1] > chunk:  # more follows: this is not the last one
            previous = rest[:, :chunk]
            yield start, previous
            start, rest = start + step, rest[:, step:]
    if rest is None or rest.shape[1] == 0:
        return
    if previous is None:
        yield 0, rest
    else:
        # From the beginning of the chunk before: (channels, step + what is left).
        yield start + rest.shape[1] - chunk, torch.cat([previous, rest[:, overlap:]], dim=1)[:, -chunk:]


class CrossFade:
    """Sums overlapping estimates and returns the finished part."""

    def __init__(self, overlap: int):
        self.overlap, self.begin = overlap, 0
        self.total: Tensor | None = None  # (..., n), from ``begin`` on
        self.weight = torch.empty(0)

    def add(self, start: int, estimate: Tensor) -> None:
        """(..., chunk) at ``start``."""
        fade = fade_weights(estimate.shape[-1], self.overlap)
        if self.total is None:
            self.total = estimate[..., :0]
        offset = start - self.begin
        more = offset + len(fade) - len(self.weight)
        self.total = functional.pad(self.total, (0, more))
        self.weight = functional.pad(self.weight, (0, more))
        self.total[..., offset : offset + len(fade)] += estimate * fade
        self.weight[offset : offset + len(fade)] += fade

    def take(self, stop: int | None = None) -> Tensor:
        """The part before ``stop`` (default: all), which no later chunk changes."""
        assert self.total is not None
        n = len(self.weight) if stop is None else stop - self.begin
        done = self.total[..., :n] / self.weight[:n]
        self.total, self.weight, self.begin = self.total[..., n:], self.weight[n:], self.begin + n
        return done


class BatchSize:
    """The number of chunks computed at once: the requested number, or the fastest one, found by trying; halved when
    memory runs out.
    """

    def __init__(self, size: int | str, grows: bool):
        self.size = 1 if size == "auto" else int(size)
        self.growing = size == "auto" and grows
        self.seconds_per_chunk = float("inf")

    def took(self, n_chunks: int, seconds: float) -> None:
        """Double the number while that makes a chunk cheaper by more than a tenth."""
        if not self.growing or n_chunks < self.size:
            return
        self.growing = seconds / n_chunks < 0.9 * self.seconds_per_chunk
        self.seconds_per_chunk = seconds / n_chunks
        self.size = self.size * 2 if self.growing else max(1, self.size // 2)

    def halve(self) -> None:
        self.growing, self.size = False, max(1, self.size // 2)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the memory of a device or the machine is used up."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def overlap_add(
    blocks: Iterable[Tensor], chunk: int, overlap: int, run: Callable[[Tensor], Tensor], batch: BatchSize
) -> Iterator[Tensor]:
    """A function of chunks, (B, C, n) → (B, ..., n), applied to a stream: (C, n) blocks in, (..., n) blocks out."""
    fade = CrossFade(overlap)
    waiting: deque[tuple[int, Tensor]] = deque()

    def work(n_kept: int) -> Iterator[Tensor]:
        while len(waiting) > n_kept:
            n = min(batch.size, len(waiting) - n_kept)
            items = [waiting[i] for i in range(n)]
            started = time.perf_counter()
            try:
                estimates = run(torch.stack([piece for _, piece in items]))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if n == 1:
                    raise UserError(
                        f"the memory is too small for a chunk of {chunk} samples. Make chunk_seconds smaller, or use "
                        "another device."
                    ) from None
                batch.halve()
                continue
            batch.took(n, time.perf_counter() - started)
            for (start, _), estimate in zip(items, estimates, strict=True):
                waiting.popleft()
                fade.add(start, estimate)
                yield fade.take(waiting[0][0] if waiting else None)

    for item in cut_chunks(blocks, chunk, overlap):
        waiting.append(item)
        if len(waiting) > batch.size:  # one more than a batch: it says how far the others' estimates are complete
            yield from work(n_kept=1)
    yield from work(n_kept=0)


def resample_blocks(blocks: Iterable[Tensor], from_hz: int, to_hz: int) -> Iterator[Tensor]:
    """(..., n) blocks at another rate."""
    resampler: Resampler | None = None
    shape = torch.Size()
    for block in blocks:
        shape = block.shape[:-1]
        resampler = resampler or Resampler(from_hz, to_hz, shape.numel())
        yield resampler.push(block.reshape(shape.numel(), -1)).reshape(*shape, -1)
    if resampler is not None:
        yield resampler.finish().reshape(*shape, -1)


def aligned(streams: Sequence[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    """Streams of (..., n) with the same total length, cut at the same places."""
    rests: list[Tensor | None] = [None] * len(streams)
    while True:
        for i, stream in enumerate(streams):
            rest = rests[i]
            while rest is None or rest.shape[-1] == 0:
                rest = next(stream, None)
                if rest is None:
                    return
            rests[i] = rest
        filled = [rest for rest in rests if rest is not None]
        n = min(rest.shape[-1] for rest in filled)
        yield [rest[..., :n] for rest in filled]
        rests = [rest[..., n:] for rest in filled]


def delayed(blocks: Iterator[Tensor], n_zeros: int) -> Iterator[Tensor]:
    """Blocks (C, n) with that many silent samples before the first."""
    for block in blocks:
        yield functional.pad(block, (n_zeros, 0)) if n_zeros else block
        n_zeros = 0
