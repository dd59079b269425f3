"""The files of one song, written together: in the end all of them exist, or none."""

import errno
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import __version__
from ...audio import AudioWriter, open_audio
from ...errors import AudioError
from ...separation.source import Source, read_blocks
from ...system import uninterrupted, unwritable
from ...temporary import KEPT, owned_folder, place_new, place_over
from .options import SeparationOptions
from .outputs import Output, rounded

TAKEN = "is there already. Take another --out or --name, or --overwrite it, or --skip-existing."
HIDDEN = ".stems-"  # begins the names of the folders in which stems are made


@contextmanager
def no_empty_folders(paths: Sequence[Path], out: Path) -> Iterator[None]:
    """After a failure no empty folders are left in ``out``, and no empty ``out`` if it did not exist."""
    new = not out.exists()
    try:
        yield
    except BaseException:
        folders = {
            folder for path in paths for folder in path.parents if out in folder.parents or (new and folder == out)
        }
        with uninterrupted():
            for folder in sorted(folders, key=lambda p: -len(p.parts)):
                with suppress(OSError):  # not empty, or never made
                    folder.rmdir()
        raise


def file_id(path: Path) -> tuple[int, int] | None:
    """An identifier of a file under all its names; None if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return status.st_dev, status.st_ino


class StemFiles:
    """The files of one song, written together: in the end all of them exist, at one level, or none."""

    def __init__(
        self,
        paths: Sequence[Path],
        parts: Sequence[Output],
        source: Source,
        subtype: str,
        tags: Mapping[str, str],
        wanted: SeparationOptions,
    ):
        self.parts, self.source, self.subtype, self.wanted = parts, source, subtype, wanted
        self.paths, self.tags = paths, {**tags, "software": f"refined-bsrnn {__version__}"}
        floats = subtype == "FLOAT"
        self.clip = ("none" if floats else "rescale") if wanted.clip == "auto" else wanted.clip
        self.peak = 0.0
        # Before the end nobody knows the peak: what may have to be lowered is kept as float until then.
        self.kept = self.clip == "rescale"
        self.made: list[Path] = []
        self.placed: list[Path] = []  # of which files have come into their places
        self.floats: list[Path] = []
        self.stack = ExitStack()

    def __enter__(self) -> "StemFiles":
        return self

    def open(self) -> None:
        """Begin all files, each in a hidden folder beside its place."""
        folders: dict[Path, Path] = {}
        for path in self.paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.parent not in folders:
                    folders[path.parent] = self.stack.enter_context(owned_folder(path.parent, HIDDEN))
            except OSError as error:
                raise unwritable(path, error, AudioError) from error
        self.made = [folders[path.parent] / path.name for path in self.paths]
        self.floats = [path.parent / "float" / f"{i}.wav" for i, path in enumerate(self.made)]
        self.stack.push(self._publish)
        self.completing = self.stack.enter_context(ExitStack())
        self.finals = [self.completing.enter_context(self._writer(path, self.subtype)) for path in self.made]
        self.writers = self.finals
        if self.kept:
            self.keeping = self.stack.enter_context(ExitStack())
            self.writers = [self.keeping.enter_context(self._writer(path, "FLOAT")) for path in self.floats]

    def _writer(self, path: Path, subtype: str) -> AudioWriter:
        source = self.source
        options = (subtype, source.n_samples, self.tags, self.wanted.compression if subtype == self.subtype else None)
        return AudioWriter(path, source.sample_rate_hz, source.n_channels, *options)

    def write(self, block: Sequence[Tensor]) -> None:
        """The next (C, n) of every file."""
        self.peak = max(self.peak, *(float(x.abs().amax()) for x in block if x.numel()), 0.0)
        if not self.kept:
            if self.clip == "none" and self.subtype != "FLOAT" and self.peak > 1:
                raise AudioError(f"{self._too_loud()}; --clip rescale or clamp, or write --bits 32f.")
            block = [x.clamp(-1, 1) for x in block] if self.clip == "clamp" else block
            block = rounded(block, self.parts, self.subtype)
        for writer, x in zip(self.writers, block, strict=True):
            writer.write(x)

    def _too_loud(self) -> str:
        return f"the estimates reach {20 * math.log10(self.peak):.2f} dB above full scale"

    @property
    def cut_db(self) -> float:
        """How far clamped samples were above full scale, in dB."""
        return 20 * math.log10(self.peak) if self.clip == "clamp" and self.peak > 1 else 0.0

    def finish(self) -> float:
        """Write the stored samples, lowered if necessary, and complete all files; returns the reduction in dB."""
        gain = 1.0
        if self.kept:
            self.keeping.close()
            gain = min(1.0, 1.0 / self.peak) if self.peak else 1.0
            for block in zip(*(read_blocks(open_audio(path)) for path in self.floats), strict=True):
                scaled = [x * gain for x in block]
                for writer, x in zip(self.finals, rounded(scaled, self.parts, self.subtype), strict=True):
                    writer.write(x)
        self.completing.close()
        return -20 * math.log10(gain) if gain < 1 else 0.0

    def _publish(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Move all files to their places; if one cannot be moved, those before it are moved back.

        A file that has appeared there in the meantime is never replaced without --overwrite.
        """
        if kind is not None:
            return
        undo: list[tuple[Path | None, Path, tuple[int, int] | None]] = []
        for made, path in sorted(zip(self.made, self.paths, strict=True), key=lambda pair: pair[1]):  # for all the same
            kept = made.with_name(f"{made.name}{KEPT}")
            try:
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if self.wanted.skip_existing and path.is_file():
                    continue
                if self.wanted.overwrite:
                    place_over(made, path, kept)
                else:
                    place_new(made, path)
                undo.append((kept if kept.exists() else None, path, file_id(path)))
                self.placed.append(path)
            except OSError as error:
                if kept.exists():  # it may be that it stands nowhere else
                    undo.append((kept, path, None))
                for old, place, ours in reversed(undo):
                    with suppress(OSError):
                        if old is not None:
                            old.replace(place)
                        elif file_id(place) == ours:
                            place.unlink()
                if isinstance(error, FileExistsError):
                    raise AudioError(f"{path} {TAKEN}") from error
                raise unwritable(path, error, AudioError) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        with uninterrupted():
            self.stack.__exit__(kind, error, trace)
        if isinstance(error, AudioError) and (text := self._with_places(str(error))) != str(error):
            raise AudioError(text) from error

    def _with_places(self, text: str) -> str:
        """What is said of the hidden files, about the files that they become."""
        for hidden in (self.made, self.floats):
            for made, path in zip(hidden, self.paths, strict=False):  # there are none where they could not be begun
                text = text.replace(str(made), str(path))
        return text
