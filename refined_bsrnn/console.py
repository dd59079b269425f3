"""Messages and progress bars for the user, on standard error."""

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
    ProgressColumn,
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
TEXT = TextColumn("{task.fields[text]}", markup=False)


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


class ProgressBar:
    """The one kind of progress bar: a bar on a terminal, elsewhere a line from time to time."""

    def __init__(
        self,
        text: str,
        total: float | None,
        *columns: ProgressColumn,
        done: int = 0,
        transient: bool = True,
        shown: bool | None = None,
    ):
        shown = is_main() if shown is None else shown
        self.text, self.lines, self.last_line = printable(text), shown and not console.is_terminal, time.monotonic()
        all_columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), *columns)
        hidden = not (shown and console.is_terminal)
        self.progress = Progress(*all_columns, console=console, transient=transient, disable=hidden)
        self.task = self.progress.add_task(self.text, total=total, completed=done, text="")

    def __enter__(self) -> Any:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, done: float, line: Callable[[], str], text: str = "", always: bool = False) -> None:
        """``text`` stands behind the bar; ``line()`` is a line without a terminal, if one is due or ``always``."""
        self.progress.update(self.task, completed=done, text=text)
        if self.lines and (always or time.monotonic() - self.last_line > LINE_EVERY_SECONDS):
            self.last_line = time.monotonic()
            say(f"{self.text} {line()}")


class Bar(ProgressBar):
    """A training's progress: step, loss per target, uSDR, speed and time left."""

    def __init__(self, name: str, total: int, done: int, audio_seconds: float, shown: bool = True):
        columns = (MofNCompleteColumn(), TimeRemainingColumn(compact=True, elapsed_when_finished=True), TEXT)
        super().__init__(name, total, *columns, done=done, transient=False, shown=shown)
        self.total, self.done, self.first, self.audio_seconds = total, done, done, audio_seconds
        self.started = time.monotonic()
        self.values: dict[str, float] = {}

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.show(self.done, self._line, self.summary(), always=True)

    def update(self, step: int, **values: float) -> None:
        """``values``: ``<target>/<term>`` losses, summed per target for display, and ``usdr``."""
        self.done = step
        self.values.update(values)
        self.show(step, self._line, self.summary())

    def validating(self, share: float) -> None:
        """Which share of a validation is done; shown until the next step."""
        text = f"validating {share:.0%}"
        self.show(self.done, lambda: f"{self.done}/{self.total} {text}", text)

    def _line(self) -> str:
        left = (time.monotonic() - self.started) / max(1, self.done - self.first) * (self.total - self.done)
        return f"{self.done}/{self.total} {self.summary()}, {left:.0f} s left"

    def summary(self) -> str:
        """``bass 0.31 drums 0.40 | uSDR 1.2 dB | 24 s audio/s``."""
        losses: dict[str, float] = {}
        for key, value in self.values.items():
            if "/" in key and not key.endswith("/log_variance"):  # a learned weight is no loss
                losses[key.split("/")[0]] = losses.get(key.split("/")[0], 0.0) + value
        words = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        usdr = f" | uSDR {self.values['usdr']:.2f} dB" if "usdr" in self.values else ""
        speed = (self.done - self.first) * self.audio_seconds / max(1e-9, time.monotonic() - self.started)
        return f"{words}{usdr} | {speed:.1f} s audio/s"


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Show the progress of a loop."""
    with ProgressBar(text, total, TaskProgressColumn(), TimeRemainingColumn(compact=True)) as bar:
        for i, item in enumerate(items, 1):
            yield item
            bar.show(i, lambda: f"{i}/{total}", always=i == total)  # noqa: B023 (called at once)


@contextmanager
def work_bar(text: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    """A bar that is set to the share that is done, 0 to 1, of so many seconds of audio; it shows the speed."""
    started = time.monotonic()

    def update(share: float) -> None:
        took = time.monotonic() - started
        speed = f"{share * seconds / max(1e-9, took):.1f} × real time" if seconds else ""
        bar.show(share, lambda: f"{share:.0%}, {speed}, {took * (1 - share) / max(1e-9, share):.0f} s left", speed)

    with ProgressBar(text, 1.0, TaskProgressColumn(), TEXT, TimeRemainingColumn(compact=True)) as bar:
        yield update


@contextmanager
def bytes_bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that is set to the number of bytes that are done, of ``total``."""
    of_all = f" of {total / 1e6:,.0f}" if total else ""
    with ProgressBar(text, total, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)) as bar:
        yield lambda done: bar.show(done, lambda: f"{done / 1e6:,.0f}{of_all} MB")
