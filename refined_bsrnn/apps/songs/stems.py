"""Songs on disk → stems on disk: the files, heads, runs, names and formats.

    inputs ──> songs ──> one stream each: each backbone once ──> heads, sums, residual ──> level ──> files

A song that fails leaves no files and does not stop the others.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ...audio import open_audio, read_tags
from ...console import printable
from ...errors import AudioError, RecipeError, UserError
from ...separation.chunks import out_of_memory
from ...separation.separator import Progress, Separator
from ...separation.source import Source, as_samples, open_source, read_blocks
from ...system import reason_of
from ...temporary import clear_unowned, owned_folder
from .ensemble import Ensemble
from .files import HIDDEN, TAKEN, StemFiles, file_id, no_empty_folders
from .inputs import InputSong
from .options import SeparationOptions
from .outputs import Output, estimate, outputs, subtype_for

# --- one song ---------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """The result of one song."""

    song: InputSong
    paths: dict[str, Path] = field(default_factory=dict)  # by head, or model/head where several have one of that name
    placed: list[Path] = field(default_factory=list)  # those of them that were written now
    sample_rate_hz: int = 0
    n_channels: int = 0
    n_samples: int = 0
    took_seconds: float = 0.0
    level_db: float = 0.0  # by which all stems were lowered
    cut_db: float = 0.0  # how far beyond full scale they reached, where they were cut there
    problem: str = ""
    remarks: list[str] = field(default_factory=list)  # on the input: what of it was chosen, assumed, damaged
    skipped: bool = False  # its stems were there

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.n_samples / self.sample_rate_hz if self.sample_rate_hz else 0.0

    def lines(self) -> list[str]:
        """What to tell a person; a name with line breaks in it stays on one line."""
        return [printable(line, "") for line in self._lines()]

    def _lines(self) -> list[str]:
        if self.problem:
            named = self.problem == self.song.problem or self.problem.startswith(self.song.label)
            return [f"Failed: {self.problem}" if named else f"Failed: {self.song.label}: {self.problem}"]
        if self.skipped:
            return [f"Skipped: {self.song.label}: its stems are there already."]
        words = {True: "Written", False: "There already"}
        lines = [f"{words[path in self.placed]}: {path}" for path in self.paths.values()] + self.remarks
        if self.level_db:
            lines.append(f"All stems of {self.song.label} are {self.level_db:.2f} dB lower, so that none clips.")
        if self.cut_db:
            lines.append(
                f"Stems of {self.song.label} reached {self.cut_db:.2f} dB above full scale and were cut there."
            )
        return lines

    def values(self) -> dict[str, Any]:
        """What to tell a program; only a song that was written has a rate and a length."""
        status = "failed" if self.problem else "skipped" if self.skipped else "written"
        done = status == "written" and self.n_samples > 0
        facts = ("sample_rate_hz", "n_channels", "n_samples", "took_seconds", "level_db")
        return {
            "input": str(self.song.path or "-"),
            "track": self.song.track,
            "status": status,
            "problem": self.problem or None,
            "stems": {name: str(path) for name, path in self.paths.items()},
            **{name: getattr(self, name) if done else None for name in facts},
        }


def summary(results: Sequence[Result]) -> str:
    """One paragraph about many songs, with the failures."""
    done = [result for result in results if not result.problem and not result.skipped]
    seconds, took = sum(r.seconds for r in done), sum(r.took_seconds for r in done)
    text = f"Separated {len(done)} of {len(results)}: {seconds / 60:.1f} min of audio in {took / 60:.1f} min"
    text += f" ({seconds / took:.1f} × real time)." if took else "."
    if skipped := sum(r.skipped for r in results):
        text += f" Skipped, since their stems were there: {skipped}."
    return "\n".join([text, *(line for r in results if r.problem for line in r.lines())])


def separate_song(
    song: InputSong,
    ensemble: Ensemble,
    wanted: SeparationOptions,
    parts: Sequence[Output],
    progress: Progress = lambda share: None,
    of: Callable[..., Iterator[Tensor]] = Separator.estimates,
    source: Source | None = None,
    inputs: Collection[tuple[int, int] | None] = (),
) -> Result:
    """Separate one song into files; raises `UserError`, and then no file of it is left.

    ``inputs``: other songs, by `file_id`, which are not overwritten either.
    """
    started = time.perf_counter()
    suffix, subtype = subtype_for(song.path, wanted)
    paths = [_path(part, song.track, wanted, suffix) for part in parts]
    names = [part.name for part in parts]
    named = {
        part.name if names.count(part.name) == 1 else f"{part.model}/{part.name}": path
        for part, path in zip(parts, paths, strict=True)
    }
    for folder in {path.parent for path in paths}:
        clear_unowned(folder, HIDDEN)
    if wanted.skip_existing and all(path.is_file() for path in paths):
        return Result(song, named, skipped=True)
    if not wanted.skip_existing:
        _check_places(paths, song, wanted, inputs)
    if source is None:
        assert song.path is not None
        source = _open(song.path, wanted)
    result = Result(song, named, sample_rate_hz=source.sample_rate_hz, n_channels=source.n_channels)
    stems = StemFiles(paths, parts, source, subtype, read_tags(song.path) if song.path else {}, wanted)
    with no_empty_folders(paths, wanted.out), stems:
        stems.open()
        n = 0
        for block in _read(estimate(ensemble, source, wanted, of)):
            stems.write([_mix(part, block) for part in parts])
            n += block.shape[-1]
            progress(min(0.999, n / source.n_samples) if source.n_samples else 0.0)
        result.level_db, result.cut_db = stems.finish(), stems.cut_db
    progress(1.0)
    result.placed, result.skipped = stems.placed, not stems.placed
    result.n_samples, result.took_seconds = n, time.perf_counter() - started
    result.remarks = list(source.remarks)
    return result


def _read(blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Blocks of a song; what the system says of reading it is not said of the files that are written."""
    try:
        yield from blocks
    except OSError as error:
        raise AudioError(f"it cannot be read: {reason_of(error)}.") from error


def _check_places(
    paths: Sequence[Path], song: InputSong, wanted: SeparationOptions, inputs: Collection[tuple[int, int] | None]
) -> None:
    """`AudioError` for a place where something is that is not to be replaced."""
    for path in paths:
        present = file_id(path)
        if present is None:
            continue
        if not wanted.overwrite:
            raise AudioError(f"{path} {TAKEN}")
        for what, it_is in (
            ("a folder", path.is_dir()),
            ("the song itself", song.path is not None and present == file_id(song.path)),
            ("one of the songs to separate", present in inputs),
        ):
            if it_is:
                raise AudioError(f"{path} is {what}, which is not overwritten. Take another --out or --name.")


def _path(part: Output, track: str, wanted: SeparationOptions, suffix: str) -> Path:
    name = wanted.name.format(model=part.model, track=track, head=part.name)
    return wanted.out / f"{name}.{suffix}"


def _mix(part: Output, block: Tensor) -> Tensor:
    """(C, n) of (1 + heads, C, n)."""
    result = block[0] * part.mixture
    for i, share in part.shares.items():
        result = result + block[1 + i] * share
    return result


# --- all of them ------------------------------------------------------------------------------------------------------


@contextmanager
def _on_disk(song: InputSong) -> Iterator[tuple[InputSong, Path]]:
    """The song, and its file; what comes once is kept in one: most formats cannot be read without going back."""
    if song.path is not None and not song.comes_once:
        yield song, song.path
        return
    with owned_folder(Path(tempfile.gettempdir()), "refined-bsrnn-input-") as folder:
        path = folder / "input"
        try:
            stream = _stream(song)
            with path.open("wb") as file, nullcontext() if song.path is None else stream:  # standard input stays open
                shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            raise AudioError(
                f"{song.label} cannot be kept in {folder.parent}: {reason_of(error)}. Free some space there, or "
                "set TMPDIR to another folder."
            ) from None
        try:
            yield InputSong(path, song.track), path
        except UserError as error:  # of the file users know nothing
            raise type(error)(str(error).replace(str(path), song.label)) from None


def _stream(song: InputSong) -> BinaryIO:
    """The bytes of a song that comes once."""
    if song.path is not None:
        return song.path.open("rb")
    if sys.stdin is None:
        raise AudioError("standard input is closed; expected audio from it, as `... | refined-bsrnn separate -` gives.")
    return sys.stdin.buffer


def separate_all(
    songs: Sequence[InputSong],
    ensemble: Ensemble,
    wanted: SeparationOptions,
    bar: Callable[[str, float | None], Any],
    of: Callable[..., Iterator[Tensor]] | None = None,
) -> Iterator[Result]:
    """One result per song, in order; a failed one has the reason. ``bar(text, seconds)`` is entered around each.

    ``of`` replaces the function that estimates; standard input is then read live. Raises `RecipeError` for outputs of
    the same name.
    """
    parts = outputs(ensemble, wanted)
    names = [(part.model, part.name) for part in parts]
    if same := next((name for model, name in names if names.count((model, name)) > 1), None):
        raise RecipeError(
            f"two stems would be called {same!r}: a head is called so, or a sum is there twice. Choose other heads, "
            "or leave out --residual, --accompaniment or --sum."
        )
    inputs = {file_id(song.path) for song in songs if song.path}
    taken: dict[Path, str] = {}
    for i, song in enumerate(songs, 1):
        paths = [_path(part, song.track, wanted, "") for part in parts]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice or not paths:
            raise RecipeError(f"--name {wanted.name!r} gives several stems the name {twice}; expected {{head}} in it.")
        clash = next((taken[path] for path in paths if path in taken), None)
        try:
            if clash:
                raise AudioError(f"{song.label} would be written over the stems of {clash}. Give it another --out.")
            if song.problem:
                raise AudioError(song.problem)
            result = _one(song, ensemble, wanted, parts, bar, f"[{i}/{len(songs)}] {song.track}", of, inputs)
            taken |= dict.fromkeys(paths, song.label)
        except Exception as error:  # whatever it is, the other songs are separated
            result = Result(song, problem=reason(error))
        yield result


def reason(error: Exception) -> str:
    """Why a song failed, in a sentence."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
        return "the memory is used up. Make --chunk-seconds smaller, or use another --device."
    if isinstance(error, OSError):
        where = f"{error.filename} cannot be read or written: " if error.filename else ""
        return f"{where}{reason_of(error)}."
    first = next(iter(str(error).strip().splitlines()), "")
    return f"it cannot be separated ({type(error).__name__}: {first}). Try --device cpu without --precision."


def _open(path: Path, wanted: SeparationOptions) -> Source:
    return open_source(path, 0, wanted.start_seconds, wanted.duration_seconds, wanted.stream, wanted.strict)


PIECES_PER_SECOND = 50  # that a stream is taken in: live blocks do not wait for more


def _as_it_comes(song: InputSong, wanted: SeparationOptions) -> Source:
    """A file, or standard input or a pipe that is read once and never waited for."""
    if song.path is not None and not song.comes_once:
        return _open(song.path, wanted)
    reader = open_audio(_stream(song), wanted.stream, strict=wanted.strict)
    part = as_samples(reader.sample_rate_hz, wanted.start_seconds, wanted.duration_seconds)
    remarks: list[str] = []

    def blocks() -> Iterator[Tensor]:
        yield from read_blocks(reader, *part, size=max(1, reader.sample_rate_hz // PIECES_PER_SECOND))
        remarks.extend(reader.remarks())

    only_once = blocks()
    return Source(reader.sample_rate_hz, reader.n_channels, None, lambda: only_once, remarks)


def _one(
    song: InputSong,
    ensemble: Ensemble,
    wanted: SeparationOptions,
    parts: Sequence[Output],
    bar: Any,
    text: str,
    of: Any,
    inputs: Collection[tuple[int, int] | None],
) -> Result:
    if song.path is not None and song.path.is_dir():
        raise AudioError(f"{song.path} holds no audio files.")
    with ExitStack() as stack:
        if of is None:
            here, path = stack.enter_context(_on_disk(song))
            source = _open(path, wanted)
        else:
            here = replace(song, path=None) if song.comes_once else song
            source = _as_it_comes(song, wanted)
        progress = stack.enter_context(bar(text, source.n_samples and source.n_samples / source.sample_rate_hz))
        result = separate_song(here, ensemble, wanted, parts, progress, of or Separator.estimates, source, inputs)
    if here.path:
        result.remarks = [text.replace(str(here.path), song.label) for text in result.remarks]
    result.song = song
    return result
