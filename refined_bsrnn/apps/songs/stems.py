"""Songs on disk → stems on disk: which files, which heads of which runs, under which names, in which format.

    inputs ──> jobs ──> one stream per job: backbones once each ──> heads, sums, residual ──> level ──> files

A job that fails leaves nothing behind and does not stop the others.
"""

import errno
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ... import __version__
from ...audio import INTEGER_BITS, SUBTYPES, AudioWriter, open_audio, quantise, read_tags
from ...console import printable
from ...errors import AudioError, RecipeError, UserError, nearest
from ...network.lora import Adapter
from ...network.model import BSRNN
from ...runs.folder import tensors_sha256
from ...separation.separator import (
    Batch,
    Progress,
    Separator,
    Source,
    aligned,
    as_samples,
    open_source,
    out_of_memory,
    overlap_add,
    read_blocks,
)
from ...separation.wiener import wiener
from ...system import uninterrupted, unwritable
from ...temporary import KEPT, clear_unowned, owned_folder, place_new, place_over
from .inputs import Job, find_jobs
from .options import SeparationOptions

__all__ = ["Ensemble", "Job", "Output", "Result", "Voice", "find_jobs", "load_voices", "separate_all"]
TAKEN = "is there already. Take another --out or --name, or --overwrite it, or --skip-existing."
HIDDEN = ".stems-"  # begins the names of the folders in which stems are made
WIENER_SECONDS = 6.0  # how long a piece the filter is fitted to
WIENER_WINDOW_SECONDS = 0.093


# --- which heads of which runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """One head of one run, or the mean of one head over several: places among the estimates of all passes."""

    model: str
    head: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Ensemble:
    """Separators that each run once, and the voices that are made of their estimates."""

    passes: list[tuple[Separator, list[str]]]
    voices: list[Voice]

    @property
    def groups(self) -> list[list[int]]:
        """Voices that make up one song: all of them, or, where runs have heads of one name, those of each run."""
        names = [voice.head for voice in self.voices]
        if len(set(names)) == len(names):
            return [list(range(len(names)))]
        models = list(dict.fromkeys(voice.model for voice in self.voices))
        return [[i for i, voice in enumerate(self.voices) if voice.model == model] for model in models]


def load_voices(
    runs: Sequence[str], heads: Sequence[str] | None, averaged: bool = False, **options: Any
) -> tuple[Ensemble, list[str]]:
    """The heads of those names (default: all) of all runs; a backbone that several runs share runs once.

    ``averaged``: a head that every run has becomes one voice, its mean. Also returns what to say about it. Raises
    `RecipeError` for a head that is in no run.
    """
    only = list(heads) if heads is not None and len(runs) == 1 else None
    separators = [Separator.from_pretrained(run, heads=only, **options) for run in runs]
    labels = _labels(runs)
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise RecipeError(f"the run {twice} is named twice; expected each run once.")
    there = list(dict.fromkeys(name for separator in separators for name in separator.heads))
    for name in heads or ():
        if name not in there:
            raise RecipeError(
                f"{', '.join(labels)} has no head {name!r}.{nearest(name, there)} Heads: {', '.join(there) or 'none'}."
            )
    chosen = list(dict.fromkeys(there if heads is None else heads))
    found = [
        (label, separator, name)
        for label, separator in zip(labels, separators, strict=True)
        for name in chosen
        if name in separator.heads
    ]
    passes, places, shared = _passes(found)
    if not averaged:
        voices = [Voice(label, name, (place,)) for (label, _, name), place in zip(found, places, strict=True)]
        return Ensemble(passes, voices), shared
    voices = []
    for name in chosen:
        mine = tuple(place for (_, _, other), place in zip(found, places, strict=True) if other == name)
        if len(mine) < len(runs):
            if heads is None:
                continue
            raise RecipeError(f"an ensemble needs a head {name!r} in each of {', '.join(labels)}.")
        voices.append(Voice("+".join(labels), name, mine))
    if not voices:
        raise RecipeError(f"there is no head that all of {', '.join(labels)} have; they have {', '.join(there)}.")
    return Ensemble(passes, voices), shared


def _labels(runs: Sequence[str]) -> list[str]:
    """The last part of each path or id; with those before it, as many as needed, where that is not enough."""
    paths = [Path(run).resolve() if Path(run).exists() else Path(run) for run in runs]

    def label(path: Path, n: int = 1) -> str:
        same = [other for other in paths if other != path and other.parts[-n:] == path.parts[-n:]]
        return label(path, n + 1) if same else "-".join(path.parts[-n:])

    return [label(path) for path in paths]


def _passes(
    found: Sequence[tuple[str, Separator, str]],
) -> tuple[list[tuple[Separator, list[str]]], list[int], list[str]]:
    """(passes, the place of each head found among all passes' estimates, a line per backbone that is shared)."""
    hosts: dict[str, tuple[Separator, list[str], str]] = {}
    mine: list[tuple[str, int]] = []
    shared: dict[str, None] = {}
    for label, separator, name in found:
        model = separator.model
        tied = model.recipe.together != "none" or any(model.head(head).bridge for head in model.heads)
        digest = f"{tensors_sha256(model.backbone.state_dict())} {model.recipe.input} {label if tied else ''}"
        host, names, first = hosts.setdefault(digest, (separator, [], label))
        key = name
        if host is not separator:
            key = f"{label}/{name}"
            if key not in host.model.heads:
                _lend(model, name, host.model, key, label)
            shared[f"{label} shares the backbone of {first}: it runs once."] = None
        names.append(key)
        mine.append((digest, len(names) - 1))
    offsets, total = {}, 0
    for digest, (_, names, _) in hosts.items():
        offsets[digest] = total
        total += len(names)
    passes = [(separator, names) for separator, names, _ in hosts.values()]
    return passes, [offsets[digest] + i for digest, i in mine], list(shared)


def _lend(model: BSRNN, name: str, host: BSRNN, key: str, label: str) -> None:
    """Attach a head, and the adapter it reads its features through, to another model on the same backbone."""
    host.heads[key] = model.heads[name]
    adapter = model.adapters.of.get(name)
    if adapter is not None:
        host.adapters.attach(f"{label}/{adapter}", cast(Adapter, model.adapters[adapter]), [key])


# --- what is written of them ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """One file: the mixture's share in it, the voices' shares, and whether it takes up what rounding leaves."""

    model: str
    name: str
    mixture: float
    shares: Mapping[int, float]
    residual: bool = False


def outputs(ensemble: Ensemble, wanted: SeparationOptions) -> list[Output]:
    """Every file of a song: heads, sums, accompaniments, residuals (the mixture without all heads in any of these).

    Raises `RecipeError` for a sum of heads that no group has.
    """
    voices, groups = ensemble.voices, ensemble.groups
    written = () if wanted.only_sums else wanted.heads
    chosen = [i for i, voice in enumerate(voices) if written is None or voice.head in written]
    result = [Output(voices[i].model, voices[i].head, 0.0, {i: 1.0}) for i in chosen]
    for names in wanted.sum:
        places = [{voices[i].head: i for i in group if voices[i].head in names} for group in groups]
        places = [found for found in places if set(found) == set(names)]
        if not places:
            raise RecipeError(f"--sum {'+'.join(names)}: no run has all of these heads.")
        for found in map(list, (p.values() for p in places)):
            result.append(Output(_model(voices, found), "+".join(names), 0.0, dict.fromkeys(found, 1.0)))
    used = {i for part in result for i in part.shares}
    for i in chosen if wanted.accompaniment else ():
        alone = sum(voices[j].model == voices[i].model for j in chosen) == 1
        name = "accompaniment" if alone else f"{voices[i].head}-accompaniment"
        result.append(Output(voices[i].model, name, 1.0, {i: -1.0}))
    for group in groups if wanted.residual else ():
        mine = [i for i in group if i in used]
        if mine:
            result.append(Output(_model(voices, mine), "residual", 1.0, dict.fromkeys(mine, -1.0), residual=True))
    return result


def _model(voices: Sequence[Voice], chosen: Sequence[int]) -> str:
    return "+".join(dict.fromkeys(voices[i].model for i in chosen))


def estimate(
    ensemble: Ensemble,
    source: Source,
    wanted: SeparationOptions,
    of: Callable[..., Iterator[Tensor]] = Separator.estimates,
) -> Iterator[Tensor]:
    """Blocks (1 + voices, C, n) of a source: the mixture, then every voice. ``of``: how a separator estimates."""
    mixture, *copies = tee(source.blocks(), 1 + len(ensemble.passes))
    streams = [
        of(separator, source, blocks, heads) for (separator, heads), blocks in zip(ensemble.passes, copies, strict=True)
    ]

    def voiced() -> Iterator[Tensor]:
        for mixed, *parts in aligned([(block[None] for block in mixture), *streams]):
            estimates = torch.cat(parts)  # (heads of all passes, C, n)
            voices = [estimates[list(voice.places)].mean(0) for voice in ensemble.voices]
            yield torch.stack([mixed[0], *voices])

    return filtered(voiced(), ensemble, source, wanted.wiener) if wanted.wiener else voiced()


def filtered(blocks: Iterator[Tensor], ensemble: Ensemble, source: Source, iterations: int) -> Iterator[Tensor]:
    """The voices of each group through the Wiener filter, in pieces of some seconds that are cross-faded."""
    n_fft = 2 ** max(4, round(math.log2(WIENER_WINDOW_SECONDS * source.sample_rate_hz)))
    shape = (1 + len(ensemble.voices), source.n_channels)
    chunk = round(WIENER_SECONDS * source.sample_rate_hz)

    def run(pieces: Tensor) -> Tensor:
        result = pieces[0].unflatten(0, shape).clone()  # (1 + voices, C, n)
        for group in ensemble.groups:
            places = [1 + i for i in group]
            result[places] = wiener(result[0], result[places], n_fft, iterations)
        return result[None]

    return overlap_add((block.flatten(0, 1) for block in blocks), chunk, chunk // 4, run, Batch(1, grows=False))


def subtype_for(path: Path | None, wanted: SeparationOptions) -> tuple[str, str]:
    """(suffix, libsndfile's subtype) for the stems of an input: as asked for, else the input's where it is lossless."""
    bits, format_ = None, ""
    if path is not None:
        with open_audio(path, wanted.stream, wanted.strict) as reader:
            bits, format_ = reader.lossless_bits, reader.format.upper()
    fits = not wanted.bits or wanted.bits in SUBTYPES["flac"]  # which holds no floats
    suffix = wanted.format or ("flac" if format_ == "FLAC" and fits else "wav")
    known = SUBTYPES[suffix]
    own = "32f" if bits in (None, 32) else str(bits)
    return suffix, known[wanted.bits] if wanted.bits else known.get(own, next(iter(known.values())))


def rounded(block: Sequence[Tensor], parts: Sequence[Output], subtype: str) -> list[Tensor]:
    """What is written of exact outputs: integers rounded, and their rounding put into the residual.

    So that in the files, too, estimates and residual add up to the mixture.
    """
    if subtype not in INTEGER_BITS:
        return list(block)
    result = [quantise(x, subtype) for x in block]
    for k, part in enumerate(parts):
        if part.residual:
            inside = [j for j, p in enumerate(parts) if not p.mixture and set(p.shares) <= set(part.shares)]
            heads = [j for j in inside if len(parts[j].shares) == 1]
            for several in (heads, [j for j in inside if j not in heads], inside):
                if sum(len(parts[j].shares) for j in several) == len(part.shares):  # each head once
                    missing = sum((block[j] - result[j] for j in several), torch.zeros(()))
                    result[k] = quantise(block[k] + missing, subtype)
                    break
    return result


# --- one song ---------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What became of a job."""

    job: Job
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
            named = self.problem == self.job.problem or self.problem.startswith(self.job.label)
            return [f"Failed: {self.problem}" if named else f"Failed: {self.job.label}: {self.problem}"]
        if self.skipped:
            return [f"Skipped: {self.job.label}: its stems are there already."]
        words = {True: "Written", False: "There already"}
        lines = [f"{words[path in self.placed]}: {path}" for path in self.paths.values()] + self.remarks
        if self.level_db:
            lines.append(f"All stems of {self.job.label} are {self.level_db:.2f} dB lower, so that none clips.")
        if self.cut_db:
            lines.append(f"Stems of {self.job.label} reached {self.cut_db:.2f} dB above full scale and were cut there.")
        return lines

    def values(self) -> dict[str, Any]:
        """What to tell a program; only a song that was written has a rate and a length."""
        status = "failed" if self.problem else "skipped" if self.skipped else "written"
        done = status == "written" and self.n_samples > 0
        facts = ("sample_rate_hz", "n_channels", "n_samples", "took_seconds", "level_db")
        return {
            "input": str(self.job.path or "-"),
            "track": self.job.track,
            "status": status,
            "problem": self.problem or None,
            "stems": {name: str(path) for name, path in self.paths.items()},
            **{name: getattr(self, name) if done else None for name in facts},
        }


def summary(results: Sequence[Result]) -> str:
    """One paragraph about many songs, with what failed."""
    done = [result for result in results if not result.problem and not result.skipped]
    seconds, took = sum(r.seconds for r in done), sum(r.took_seconds for r in done)
    text = f"Separated {len(done)} of {len(results)}: {seconds / 60:.1f} min of audio in {took / 60:.1f} min"
    text += f" ({seconds / took:.1f} × real time)." if took else "."
    if skipped := sum(r.skipped for r in results):
        text += f" Skipped, since their stems were there: {skipped}."
    return "\n".join([text, *(line for r in results if r.problem for line in r.lines())])


def separate_song(
    job: Job,
    ensemble: Ensemble,
    wanted: SeparationOptions,
    parts: Sequence[Output],
    progress: Progress = lambda share: None,
    of: Callable[..., Iterator[Tensor]] = Separator.estimates,
    source: Source | None = None,
    inputs: Collection[tuple[int, int] | None] = (),
) -> Result:
    """Separate one song into files; raises `UserError`, and then nothing of it is left.

    ``inputs``: other songs, by `file_id`, which are not overwritten either.
    """
    started = time.perf_counter()
    suffix, subtype = subtype_for(job.path, wanted)
    paths = [_path(part, job.track, wanted, suffix) for part in parts]
    names = [part.name for part in parts]
    named = {
        part.name if names.count(part.name) == 1 else f"{part.model}/{part.name}": path
        for part, path in zip(parts, paths, strict=True)
    }
    for folder in {path.parent for path in paths}:
        clear_unowned(folder, HIDDEN)
    if wanted.skip_existing and all(path.is_file() for path in paths):
        return Result(job, named, skipped=True)
    if not wanted.skip_existing:
        _check_places(paths, job, wanted, inputs)
    if source is None:
        assert job.path is not None
        source = _open(job.path, wanted)
    result = Result(job, named, sample_rate_hz=source.sample_rate_hz, n_channels=source.n_channels)
    stems = _Stems(paths, parts, source, subtype, read_tags(job.path) if job.path else {}, wanted)
    with _no_empty_folders(paths, wanted.out), stems:
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
        raise AudioError(f"it cannot be read: {error.strerror or error}.") from error


def _check_places(
    paths: Sequence[Path], job: Job, wanted: SeparationOptions, inputs: Collection[tuple[int, int] | None]
) -> None:
    """`AudioError` for a place where something is that is not to be replaced."""
    for path in paths:
        there = file_id(path)
        if there is None:
            continue
        if not wanted.overwrite:
            raise AudioError(f"{path} {TAKEN}")
        for what, it_is in (
            ("a folder", path.is_dir()),
            ("the song itself", job.path is not None and there == file_id(job.path)),
            ("one of the songs to separate", there in inputs),
        ):
            if it_is:
                raise AudioError(f"{path} is {what}, which is not overwritten. Take another --out or --name.")


@contextmanager
def _no_empty_folders(paths: Sequence[Path], out: Path) -> Iterator[None]:
    """What fails leaves no empty folders in ``out``, and no empty ``out`` where there was none."""
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
    """What a file is known by under all its names; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return status.st_dev, status.st_ino


def _path(part: Output, track: str, wanted: SeparationOptions, suffix: str) -> Path:
    name = wanted.name.format(model=part.model, track=track, head=part.name)
    return wanted.out / f"{name}.{suffix}"


def _mix(part: Output, block: Tensor) -> Tensor:
    """(C, n) of (1 + voices, C, n)."""
    result = block[0] * part.mixture
    for i, share in part.shares.items():
        result = result + block[1 + i] * share
    return result


class _Stems:
    """The files of one song, written together: all of them are there in the end, at one level, or none."""

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

    def __enter__(self) -> "_Stems":
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
        """How far samples reached beyond full scale that were cut there."""
        return 20 * math.log10(self.peak) if self.clip == "clamp" and self.peak > 1 else 0.0

    def finish(self) -> float:
        """Write what was kept, lowered where it must be, and complete all files; returns by how many dB."""
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
        """Move all files to their places; where one cannot be, those before it are taken back.

        A file that has come to a place since is never replaced without --overwrite.
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
        if isinstance(error, AudioError) and (text := self._told(str(error))) != str(error):
            raise AudioError(text) from error

    def _told(self, text: str) -> str:
        """What is said of the hidden files, about the files that they become."""
        for hidden in (self.made, self.floats):
            for made, path in zip(hidden, self.paths, strict=False):  # there are none where they could not be begun
                text = text.replace(str(made), str(path))
        return text


# --- all of them ------------------------------------------------------------------------------------------------------


@contextmanager
def _on_disk(job: Job) -> Iterator[tuple[Job, Path]]:
    """The job, and its file; what comes once is kept in one: most formats cannot be read without going back."""
    if job.path is not None and not job.path.is_fifo():
        yield job, job.path
        return
    with owned_folder(Path(tempfile.gettempdir()), "refined-bsrnn-input-") as folder:
        path = folder / "input"
        try:
            with path.open("wb") as file, _stream(job) as stream:
                shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            raise AudioError(
                f"{job.label} cannot be kept in {folder.parent}: {error.strerror or error}. Free some space there, or "
                "set TMPDIR to another folder."
            ) from None
        try:
            yield Job(path, job.track), path
        except UserError as error:  # of the file users know nothing
            raise type(error)(str(error).replace(str(path), job.label)) from None


def _stream(job: Job) -> AbstractContextManager[BinaryIO]:
    """Standard input, or a pipe with a name (``<(command)`` of a shell, /dev/stdin)."""
    return nullcontext(_standard_input()) if job.path is None else job.path.open("rb")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise AudioError("standard input is closed; expected audio from it, as `... | refined-bsrnn separate -` gives.")
    return sys.stdin.buffer


def separate_all(
    jobs: Sequence[Job],
    ensemble: Ensemble,
    wanted: SeparationOptions,
    bar: Callable[[str, float | None], Any],
    of: Callable[..., Iterator[Tensor]] | None = None,
) -> Iterator[Result]:
    """One result per job, in order; one that failed says why. ``bar(text, seconds)`` is entered around each.

    ``of`` replaces how a separator estimates, and then standard input is taken as it comes.
    Raises `RecipeError` where outputs could not be told apart.
    """
    parts = outputs(ensemble, wanted)
    names = [(part.model, part.name) for part in parts]
    if same := next((name for model, name in names if names.count((model, name)) > 1), None):
        raise RecipeError(
            f"two stems would be called {same!r}: a head is called so, or a sum is there twice. Choose other heads, "
            "or leave out --residual, --accompaniment or --sum."
        )
    inputs = {file_id(job.path) for job in jobs if job.path}
    taken: dict[Path, str] = {}
    for i, job in enumerate(jobs, 1):
        paths = [_path(part, job.track, wanted, "") for part in parts]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice or not paths:
            raise RecipeError(f"--name {wanted.name!r} gives several stems the name {twice}; expected {{head}} in it.")
        clash = next((taken[path] for path in paths if path in taken), None)
        try:
            if clash:
                raise AudioError(f"{job.label} would be written over the stems of {clash}. Give it another --out.")
            if job.problem:
                raise AudioError(job.problem)
            result = _one(job, ensemble, wanted, parts, bar, f"[{i}/{len(jobs)}] {job.track}", of, inputs)
            taken |= dict.fromkeys(paths, job.label)
        except Exception as error:  # whatever it is, the other songs are separated
            result = Result(job, problem=reason(error))
        yield result


def reason(error: Exception) -> str:
    """Why a song failed, in a sentence."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
        return "the memory is used up. Make --chunk-seconds smaller, or use another --device."
    if isinstance(error, OSError):
        where = f"{error.filename} cannot be read or written: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    first = next(iter(str(error).strip().splitlines()), "")
    return f"it cannot be separated ({type(error).__name__}: {first}). Try --device cpu without --precision."


def _open(path: Path, wanted: SeparationOptions) -> Source:
    return open_source(path, 0, wanted.start_seconds, wanted.duration_seconds, wanted.stream, wanted.strict)


PIECES_PER_SECOND = 50  # that a stream is taken in: live blocks do not wait for more


def _as_it_comes(job: Job, wanted: SeparationOptions) -> Source:
    """A file, or standard input or a pipe that is read once and never waited for."""
    if job.path is not None and not job.path.is_fifo():
        return _open(job.path, wanted)
    reader = open_audio(
        _standard_input() if job.path is None else job.path.open("rb"), wanted.stream, strict=wanted.strict
    )
    part = as_samples(reader.sample_rate_hz, wanted.start_seconds, wanted.duration_seconds)
    remarks: list[str] = []

    def blocks() -> Iterator[Tensor]:
        yield from read_blocks(reader, *part, size=max(1, reader.sample_rate_hz // PIECES_PER_SECOND))
        remarks.extend(reader.remarks())

    only_once = blocks()
    return Source(reader.sample_rate_hz, reader.n_channels, None, lambda: only_once, remarks)


def _one(
    job: Job,
    ensemble: Ensemble,
    wanted: SeparationOptions,
    parts: Sequence[Output],
    bar: Any,
    text: str,
    of: Any,
    inputs: Collection[tuple[int, int] | None],
) -> Result:
    if job.path is not None and job.path.is_dir():
        raise AudioError(f"{job.path} holds no audio files.")
    if of is not None:
        source = _as_it_comes(job, wanted)
        with bar(text, source.n_samples and source.n_samples / source.sample_rate_hz) as progress:
            here = replace(job, path=None) if job.path and job.path.is_fifo() else job
            result = separate_song(here, ensemble, wanted, parts, progress, of, source, inputs)
            result.job = job
            return result
    with _on_disk(job) as (here, path):
        source = _open(path, wanted)
        with bar(text, source.n_samples and source.n_samples / source.sample_rate_hz) as progress:
            result = separate_song(here, ensemble, wanted, parts, progress, source=source, inputs=inputs)
            result.remarks = [text.replace(str(path), job.label) for text in result.remarks]
            result.job = job
            return result
