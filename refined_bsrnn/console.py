"""What a person sees while work goes on: messages and progress bars, on standard error."""

import os
import re
import sys
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

T = TypeVar("T")


class _Stderr:
    """Standard error as it is at the time; what it does not take (a terminal that was closed) is dropped."""

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # rich looks for it to write past its own stand-in
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


console = Console(file=typing.cast(IO[str], _Stderr()), highlight=False)

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LINE_EVERY_SECONDS = 15.0  # between lines where the output is no terminal


def is_main() -> bool:
    """Whether this process is the one that talks (of those that `accelerate launch` started)."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A message for people, once over all processes."""
    if is_main():
        console.print(printable(text), markup=False, soft_wrap=True)


def printable(text: str, kept: str = "\n") -> str:
    """With names of files that are no Unicode written out, so that any output takes it; so are control characters.

    A name could else change what the terminal shows: with escape sequences, or by turning the direction of writing.
    """
    plain = UNSAFE.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)
    return plain.encode(errors="backslashreplace").decode()


class Bar:
    """A training's progress: step, loss per target, uSDR, speed and time left. Lines where there is no terminal."""

    def __init__(self, name: str, total: int, done: int, audio_seconds: float, shown: bool = True):
        self.name, self.total, self.done, self.first = name, total, done, done
        self.audio_seconds, self.shown = audio_seconds, shown
        self.started = self.last_line = time.monotonic()
        self.values: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not (shown and console.is_terminal),
        )

    def __enter__(self) -> "Bar":
        self.task = self.progress.add_task(self.name, total=self.total, completed=self.done, text="")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.shown and not console.is_terminal:
            self._line()

    def update(self, step: int, **values: float) -> None:
        """``values``: ``<target>/<term>`` losses, summed per target for display, and ``usdr``."""
        self.done = step
        self.values.update(values)
        self.progress.update(self.task, completed=step, text=self.text())
        if self.shown and not console.is_terminal and time.monotonic() - self.last_line > LINE_EVERY_SECONDS:
            self._line()

    def validating(self, share: float) -> None:
        """Which share of a validation is done; shown until the next step."""
        self.progress.update(self.task, text=f"validating {share:.0%}")
        if self.shown and not console.is_terminal and time.monotonic() - self.last_line > LINE_EVERY_SECONDS:
            self.last_line = time.monotonic()
            say(f"{self.name} {self.done}/{self.total} validating {share:.0%}")

    def _line(self) -> None:
        self.last_line = time.monotonic()
        left = (self.last_line - self.started) / max(1, self.done - self.first) * (self.total - self.done)
        say(f"{self.name} {self.done}/{self.total} {self.text()}, {left:.0f} s left")

    def text(self) -> str:
        """``bass 0.31 drums 0.40 | uSDR 1.2 dB | 24 s audio/s``."""
        losses: dict[str, float] = {}
        for key, value in self.values.items():
            if "/" in key and not key.endswith("/log_variance"):  # a learned weight is no loss
                losses[key.split("/")[0]] = losses.get(key.split("/")[0], 0.0) + value
        words = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        usdr = f" | uSDR {self.values['usdr']:.2f} dB" if "usdr" in self.values else ""
        speed = (self.done - self.first) * self.audio_seconds / max(1e-9, time.monotonic() - self.started)
        return f"{words}{usdr} | {speed:.1f} s audio/s"


def _console_progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeRemainingColumn(True),
    )
    return Progress(*columns, console=console, transient=True, disable=not (is_main() and console.is_terminal))


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Show the progress of a loop; without a terminal, a line every so often."""
    last_line = time.monotonic()
    with _console_progress() as progress:
        for i, item in enumerate(progress.track(items, total=total, description=text), 1):
            yield item
            if not console.is_terminal and (time.monotonic() - last_line > LINE_EVERY_SECONDS or i == total):
                last_line = time.monotonic()
                say(f"{text} {i}/{total}")


@contextmanager
def share_bar(text: str) -> Iterator[Callable[[float], None]]:
    """A bar that is set to the share that is done, 0 to 1."""
    with _console_progress() as progress:
        task = progress.add_task(text, total=1.0)
        yield lambda share: progress.update(task, completed=share)


@contextmanager
def work_bar(text: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    """As `share_bar`, for so many seconds of audio: with the speed; lines every so often without a terminal."""
    text = printable(text)
    started = last_line = time.monotonic()

    def speed(share: float) -> str:
        return f"{share * (seconds or 0) / max(1e-9, time.monotonic() - started):.1f} × real time" if seconds else ""

    def update(share: float) -> None:
        nonlocal last_line
        progress.update(task, completed=share, speed=speed(share))
        now = time.monotonic()
        if not console.is_terminal and now - last_line > LINE_EVERY_SECONDS and 0 < share < 1:
            last_line = now
            say(f"{text} {share:.0%}, {speed(share)}, {(now - started) * (1 - share) / share:.0f} s left")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
    )
    shown = is_main() and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(text, total=1.0, speed="")
        yield update


@contextmanager
def bytes_bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that is set to the number of bytes that are done, of ``total``; lines every so often without a terminal."""
    text, last_line = printable(text), time.monotonic()
    of_all = f" of {total / 1e6:,.0f}" if total else ""

    def update(done: int) -> None:
        nonlocal last_line
        progress.update(task, completed=done)
        if not console.is_terminal and time.monotonic() - last_line > LINE_EVERY_SECONDS:
            last_line = time.monotonic()
            say(f"{text}: {done / 1e6:,.0f}{of_all} MB")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not (is_main() and console.is_terminal)
    ) as progress:
        task = progress.add_task(text, total=total)
        yield update
