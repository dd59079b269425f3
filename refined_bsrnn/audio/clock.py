"""The amount of audio that is missing before a decoded frame."""

from collections import deque
from collections.abc import Iterator
from typing import Any

# A jump of time stamps without any error is a loss from here on, up to here: less is jitter, more another recording.
JUMP_SECONDS = (0.1, 600.0)
ROUNDING_SECONDS = 0.002  # of time stamps
# A wrong time stamp counts no longer than this: for one packet, or for a cluster of a Matroska file.
RETURN_SECONDS = 6.0
Decoded = tuple[Any, list[Any] | None, int]  # a packet, its frames (None: damaged), bytes that are lost before it


class Ahead:
    """An iterator whose next items can be looked at before they are taken."""

    def __init__(self, items: Iterator[Decoded]):
        self.items, self.seen = items, deque[Decoded]()

    def __iter__(self) -> Iterator[Decoded]:
        while True:
            yield from iter(lambda: self.seen.popleft() if self.seen else None, None)
            if (item := next(self.items, None)) is None:
                return
            yield item

    def look(self) -> Iterator[Decoded]:
        """What comes next, one after the other; all of it is still taken later."""
        yield from list(self.seen)
        for item in self.items:
            self.seen.append(item)
            yield item


class Clock:
    """The missing samples before a frame, from time stamps and from the packets that failed before it."""

    def __init__(self, scale: float, sample_rate_hz: int, bare: bool, jittery: bool):
        self.scale, self.rate, self.bare, self.jittery = scale, sample_rate_hz, bare, jittery
        self.rounding = ROUNDING_SECONDS * sample_rate_hz if scale != 1 else 0.5  # of time stamps, in samples
        self.expected: float | None = None  # place of the next frame, in samples
        self.failures, self.failed_samples, self.failed_bytes = 0, 0, 0  # since the last good frame
        self.frame, self.mean_bytes = 0, 0.0  # of good ones

    @property
    def owed(self) -> int:
        """The samples of failed packets. Without a container everything up to the next good frame is one packet, or
        none.
        """
        if not self.bare:
            return self.failed_samples
        return max(1, round(self.failed_bytes / self.mean_bytes)) * self.frame if self.failures and self.frame else 0

    def failed(self, n_bytes: int, packet: Any) -> None:
        self.failures += 1
        self.failed_bytes += n_bytes
        length = round(packet.duration * self.scale) or self.frame
        alike = abs(length - self.frame) <= self.rounding
        self.failed_samples += self.frame if alike else length
        if self.expected is None and packet.pts is not None:
            self.expected = max(0.0, packet.pts * self.scale)

    def missing_before(self, frame: Any, n_bytes: int, behind: Ahead) -> int:
        """Samples that are lost before a frame; ``behind`` it is looked where its time stamp alone tells of a loss."""
        length = round(frame.samples * self.rate / frame.sample_rate)
        place = None if self.bare or frame.pts is None else float(frame.pts * frame.time_base) * self.rate
        missing = self.owed
        if place is not None and self.expected is not None:
            missing = self._jumped(place - self.expected)
            if missing and not self.failures and self._returns(self.expected + length, behind):
                missing = 0
        self.expected = length + (place if place is not None else (self.expected or 0.0) + missing)
        self.failures = self.failed_samples = self.failed_bytes = 0
        self.frame = length
        self.mean_bytes = 0.9 * self.mean_bytes + 0.1 * n_bytes if self.mean_bytes else n_bytes
        return missing

    def _jumped(self, jump: float) -> int:
        """What a jump of time stamps says: they may be rounded, jitter, or belong to another recording."""
        lowest, highest = (seconds * self.rate for seconds in JUMP_SECONDS)
        if self.failures and (abs(jump - self.owed) <= self.rounding or not 0 <= jump < highest):
            return self.owed
        frames = round(jump / self.frame) * self.frame if self.frame else 0
        whole = frames > 0 and abs(frames - jump) <= self.rounding  # whole frames are missing
        if jump < self.frame / 2:
            return 0
        if (self.failures or jump > lowest or (whole and not self.jittery)) and jump < highest:
            return frames if whole else round(jump)
        return 0

    def _returns(self, expected: float, behind: Ahead) -> bool:
        """Whether time stamps go on as if there had been no jump, soon: then that one was wrong."""
        start = expected
        for _, frames, _ in behind.look():
            for frame in frames or []:
                if frame.pts is not None:
                    place = float(frame.pts * frame.time_base) * self.rate
                    if abs(place - expected) <= self.rounding:
                        return True
                expected += frame.samples * self.rate / frame.sample_rate
            if expected - start > RETURN_SECONDS * self.rate:
                return False
        return False
