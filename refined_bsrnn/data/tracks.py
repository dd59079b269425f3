"""Where songs come from: sources of tracks → one table of tracks and what their stems are read from.

    root/{train,valid,test}/<track>/{mixture,<stem>,...}.wav        MUSDB18-HQ's layout, with any stem names

`track_table` lists what is there (headers only) as a Hugging Face `datasets` table with a fingerprint; `read_stem`
reads any piece of a stem, at the track's own rate and channels. Nothing else knows how a stem lies on the disk. The
test split is listed and read by `evaluate` alone.
"""

import hashlib
import json
import math
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import datasets
import torch
from torch import Tensor

from ..audio import AudioInfo, audio_info, fold_channels, read_audio
from ..console import printable
from ..errors import DataError, RecipeError, UserError, fits, pick, queried
from ..recipe import DATA_ROOT_VARIABLE, DataSpec, SourceSpec, bind_options
from ..system import expand_home, is_unicode
from .decode import STEM_MP4, content_key, decode, decoded_file, of_file, writing
from .layouts.folders import (
    MIXTURE,
    REST,
    SPLITS,
    File,
    Finding,
    Listed,
    Listing,
    builtin,
    first,
    folder,
    manifest,
    medleydb,
    musdb,
    slakh,
)
from .layouts.hub import huggingface

MAX_TOLD = 8  # problems in one message
BUILTIN = "builtin"  # as data.root: the built-in stems, whatever the environment says

# The official validation tracks of MUSDB18 (the musdb package's configuration), held out of its train folder.
MUSDB_VALIDATION_TRACKS = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


@dataclass(frozen=True)
class StemFile:
    """A file, or a piece of one, that a stem is read from; it begins where the track begins."""

    name: str  # within the track's folder, or absolute
    n_samples: int  # of the file used; where the track is longer silence follows
    start: int = 0  # first sample of the file used


@dataclass(frozen=True)
class Track:
    """One song: where its files are and what their headers say. All of its files have one rate."""

    name: str
    split: str
    folder: str
    n_samples: int
    sample_rate_hz: int
    n_channels: int
    files: Mapping[str, tuple[StemFile, ...]]  # stem (or "mixture") → the files whose sum it is
    content: str  # hash of names, sizes and pieces of every file
    weight: float = 1.0  # how often it is drawn, beside a track of weight 1
    written: str = ""  # hash of sizes and times of writing of every file: for what is kept on this machine

    @property
    def stems(self) -> list[str]:
        return [name for name in self.files if name != MIXTURE]

    @property
    def apart(self) -> list[str]:
        """The finest stems that share no file with each other and hold all files: without sums of others.

        A sum that holds a file of its own, as the definition ``vocals: [vocals, choir]``, is there in place of its
        other parts.
        """
        kept: dict[str, set[StemFile]] = {}
        for stem in sorted(self.stems, key=lambda name: len(self.files[name])):
            files = set(self.files[stem])
            shared = [name for name, others in kept.items() if others & files]
            if not shared or (all(kept[name] < files for name in shared) and files - set().union(*kept.values())):
                kept = {name: others for name, others in kept.items() if name not in shared} | {stem: files}
        return [stem for stem in self.stems if stem in kept]

    @property
    def is_solo(self) -> bool:
        """Whether it is one stem without a mixture: there is nothing to separate."""
        return MIXTURE not in self.files and len(self.apart) == 1

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate_hz

    def path(self, stem: str) -> Path:
        """The stem's first file."""
        return self.paths(stem)[0]

    def paths(self, stem: str) -> list[Path]:
        return [Path(self.folder, file.name) for file in self.files[stem]]


def read_stem(track: Track, stem: str, start: int = 0, n_samples: int | None = None, contiguous: bool = True) -> Tensor:
    """Samples ``start`` to ``start + n_samples`` (default: to the end) of a stem that the track has.

    Float (channels, samples) at the track's own rate and channels: the sum of the stem's files, mono ones repeated,
    shorter ones followed by silence. Without ``contiguous`` it may be a view, see `AudioReader.read`.
    """
    n_samples = track.n_samples - start if n_samples is None else n_samples
    if start < 0 or n_samples < 1 or start + n_samples > track.n_samples:
        raise DataError(
            f"track {track.name} has {track.n_samples} samples; samples {start} to {start + n_samples} were asked for."
        )
    total: Tensor | None = None
    for file, path in zip(track.files[stem], track.paths(stem), strict=True):
        n_here = min(n_samples, file.n_samples - start)
        if n_here < 1:
            continue
        audio, _ = read_audio(path, file.start + start, n_here, contiguous=contiguous)
        audio = fold_channels(audio, track.n_channels)
        if n_here < n_samples:  # padding by nothing would copy it
            audio = torch.nn.functional.pad(audio, (0, n_samples - n_here))
        total = audio if total is None else total + audio
    return torch.zeros(track.n_channels, n_samples) if total is None else total


# --- where the data are -----------------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[..., Listing]] = {
    "folder": folder,
    "musdb": musdb,
    "slakh": slakh,
    "medleydb": medleydb,
    "manifest": manifest,
    "huggingface": huggingface,
    "builtin": builtin,
}


@dataclass(frozen=True)
class Sources:
    """The sources of a recipe: every kind and place known."""

    specs: tuple[SourceSpec, ...]
    notes: tuple[str, ...] = ()  # what was guessed
    from_root: bool = True  # said by data.root or the environment, not by data.sources

    @property
    def is_builtin(self) -> bool:
        return all(spec.kind == BUILTIN for spec in self.specs)

    @property
    def name(self) -> str:
        if self.is_builtin:
            return "built-in synthetic stems"
        return " + ".join(_source_name(spec) for spec in self.specs)

    @property
    def where(self) -> str:
        """The folders, files or names."""
        return ", ".join(str(spec.options.get("root", BUILTIN)) for spec in self.specs)

    def resolved(self, spec: DataSpec) -> DataSpec:
        """The recipe's section with which the same data are found again, whatever the environment says then."""
        if self.from_root:
            return replace(spec, root=BUILTIN if self.is_builtin else self.where)
        return replace(spec, root=None, sources=self.specs)


def _source_name(spec: SourceSpec) -> str:
    root = str(spec.options.get("root", spec.kind))
    return Path(root).name if Path(root).exists() else root


def find_sources(spec: DataSpec) -> Sources:
    """``data.sources``, ``data.root``, ``$MUSDB18HQ_ROOT``, or the built-in stems, made on first use.

    The kind ``auto`` (which a root has) is guessed from what lies there. A root that is named and is not there is a
    `DataError`, never a reason to fall back.
    """
    if spec.sources:
        found = [_known(source, f"data.sources[{i}]") for i, source in enumerate(spec.sources)]
        return Sources(tuple(s for s, _ in found), tuple(note for _, note in found if note), from_root=False)
    for place, named in (("data.root", spec.root), (f"${DATA_ROOT_VARIABLE}", os.environ.get(DATA_ROOT_VARIABLE))):
        if named == BUILTIN:
            break
        if named:
            source, note = _known(SourceSpec(options={"root": named}), place)
            return Sources((source,), (note,))
    return Sources((SourceSpec(BUILTIN),))


def _known(source: SourceSpec, where: str) -> tuple[SourceSpec, str]:
    """The source with its kind and its absolute root, and what was guessed."""
    function = None if source.kind == "auto" else pick(f"{where}.kind", source.kind, SOURCES)
    if function is builtin:
        return source, ""
    named = source.options.get("root")
    if not isinstance(named, str) or not named:
        raise RecipeError(f"{where} says no root; expected the folder or file that holds the songs.")
    path = expand_home(named)
    if not path.exists() and function is not huggingface:
        raise DataError(
            f"{where} is {named!r}, and there is no such folder. Expected a folder that holds train/<track>/<stem>.wav "
            f"(MUSDB18-HQ's layout) or is laid out as one of {', '.join(SOURCES)}."
        )
    note, kind = "", source.kind
    if source.kind == "auto":
        kind, why = guess(path)
        note = f"{named} is read as {kind}: {why}. Otherwise: data.sources=[{{kind: ..., root: ...}}]."
    root = str(path.resolve()) if path.exists() else named
    return replace(source, kind=kind, options={**source.options, "root": root}), note


def guess(root: Path) -> tuple[str, str]:
    """The kind of source that lies in a folder or file, and what tells."""
    if root.is_file():
        suffix = root.suffix.lower()
        if suffix in (".csv", ".tsv", ".jsonl"):
            return "manifest", f"a {suffix} file"
        if suffix == ".parquet":
            return "huggingface", "a parquet file"
        raise DataError(f"{root} is a file; expected a folder of songs, a .csv or .jsonl manifest, or a .parquet file.")
    for pattern, kind in (
        (f"*/*{STEM_MP4}", "musdb"),
        ("*/metadata.yaml", "slakh"),
        ("*/*/metadata.yaml", "slakh"),
        ("*/*_METADATA.yaml", "medleydb"),
        ("Audio/*/*_STEMS", "medleydb"),
        ("*.parquet", "huggingface"),
        ("*/*.parquet", "huggingface"),
    ):
        found = next(iter(sorted(root.glob(pattern))), None)
        if found:
            return kind, f"it holds {found.relative_to(root)}"
    return "folder", "a folder per song, a file or folder per stem"


def list_source(source: SourceSpec, splits: Sequence[str], where: str = "data.sources") -> Listing:
    """The tracks of one source; ``test_tracks`` (names or globs) moves those of a source without splits to the test."""
    options = dict(source.options)
    patterns = options.pop("test_tracks", ())
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    function = pick(f"{where}.kind", source.kind, SOURCES)
    options = bind_options(f"{where} ({source.kind})", function, options, ("splits",))
    try:
        listing = function(SPLITS if patterns else splits, **options)
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read: {problem.strerror}.") from None
    if patterns:
        names = [track.name for track in listing.tracks]
        _check_patterns(f"{where}.test_tracks", patterns, names)
        tested = {name for name in names if fits(name, patterns)}
        moved = [replace(t, split="test") if t.name in tested else t for t in listing.tracks]
        listing.tracks = [t for t in moved if t.split in splits]
    return listing


def _check_patterns(where: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """`DataError` for names or patterns that fit none: a misspelt one would change which tracks are used, unsaid."""
    idle = [pattern for pattern in patterns if not any(fits(name, [pattern]) for name in names)]
    if idle:
        told = " or ".join(queried(pattern, names) for pattern in idle)
        raise DataError(f"{where}: of {len(names)} tracks none is called {told}.")


# --- from listings to tracks ------------------------------------------------------------------------------------------

PADDED_SECONDS = 0.1  # files of lossy formats may differ by so much; folders of files without a word
READ_IN_PLACE = (".wav", ".flac", ".aiff", ".aif", ".w64", ".rf64", ".caf", ".au")
READ_FROM_THE_START = (".ogg", ".opus", ".mp3")  # entered only by decoding from the beginning; others are decoded once


@dataclass(frozen=True)
class Scan:
    """The tracks of a recipe's sources, what is wrong with their names and headers, and what is to be told."""

    sources: Sources
    tracks: list[Track]
    findings: list[Finding]
    notes: list[str]

    def usable(self) -> list[Track]:
        """The tracks, where nothing is wrong that stops training; else a `DataError` that names all of it."""
        refuse(self.findings)
        return self.tracks


def refuse(findings: Iterable[Finding]) -> None:
    """`DataError` with the sentences of the findings with which training cannot go on."""
    stopping = [finding.text for finding in findings if finding.stops]
    if len(stopping) == 1:
        raise DataError(stopping[0])
    if stopping:
        shown = "\n  ".join(stopping[:MAX_TOLD])
        more = f"\n  and {len(stopping) - MAX_TOLD} more" if len(stopping) > MAX_TOLD else ""
        raise DataError(
            f"{len(stopping)} problems with the data:\n  {shown}{more}\nrefined-bsrnn check-data lists all."
        )


def scan(spec: DataSpec, splits: Sequence[str]) -> Scan:
    """List the sources and read the headers of all files; what is wrong becomes findings, nothing is hidden."""
    sources = find_sources(spec)
    found = Scan(sources, [], [], list(sources.notes))
    listed: list[tuple[Listed, SourceSpec]] = []
    nothing: list[str] = []
    for i, source in enumerate(sources.specs):
        listing = list_source(source, splits, "data.root" if sources.from_root else f"data.sources[{i}]")
        if not listing.tracks and not listing.findings:
            nothing.append(_nothing_found(source, splits))
        found.findings.extend(listing.findings)
        found.notes.extend(listing.notes)
        listed += [(track, source) for track in listing.tracks]
    if len(nothing) == len(sources.specs):
        raise DataError(" ".join(nothing))
    found.notes.extend(nothing)
    listed = _with_mixtures(listed, spec, found.notes)
    lossless = _decoded_files([track for track, _ in listed], spec.decode, found)
    names: set[tuple[str, str]] = set()
    for track, source in listed:
        made = _opened(track, lossless, found.findings)
        if made is None:
            continue
        name = _free_name(made, _source_name(source), names)
        names.add((made.split, name))
        found.tracks.append(with_definitions(replace(made, name=name, weight=source.weight), spec))
    found.tracks.sort(key=lambda t: (splits.index(t.split), t.name))
    found.notes.extend(_not_used([track for track, _ in listed], spec))
    return found


def _free_name(track: Track, source: str, taken: Collection[tuple[str, str]]) -> str:
    """A name that no other track of the split has: its own, with the source's before it, or a number behind that."""
    tried = [track.name, f"{source}: {track.name}"]
    number = 2
    while (track.split, tried[-1]) in taken:
        tried.append(f"{source}: {track.name} ({number})")
        number += 1
    return next(name for name in tried if (track.split, name) not in taken)


def _not_used(tracks: Sequence[Listed], spec: DataSpec) -> list[str]:
    """What definitions leave out: a file that is called as a sum it is no part of."""
    notes = []
    for name in spec.define:
        stems = spec.stems_of(name)
        having = [t.name for t in tracks if name in t.files and name not in stems and set(stems) & set(t.files)]
        if having:
            notes.append(
                f"{len(having)} tracks have a file for {name!r} beside {', '.join(stems)}, whose sum data.define says "
                f"that it is: that file is not used ({first(having)}). Name it in the definition if it is a part."
            )
    return notes


MIXTURE_NAMES = ("mix", "mixdown", "full_mix", "fullmix", "master")  # of a mixture that is not called one


def _with_mixtures(
    listed: Sequence[tuple[Listed, SourceSpec]], spec: DataSpec, notes: list[str]
) -> list[tuple[Listed, SourceSpec]]:
    """What is named like a mixture is one in tracks without any: as a stem it would hold all others again."""
    stems = {*spec.stems, *spec.define, *(stem for name in spec.define for stem in spec.stems_of(name))}
    taken: Counter[str] = Counter()
    result = []
    for track, source in listed:
        likely = [n for n in track.files if n.lower() in (MIXTURE, *MIXTURE_NAMES) and n not in stems]
        if MIXTURE not in track.files and likely:
            taken[likely[0]] += 1
            files = {MIXTURE if name == likely[0] else name: files for name, files in track.files.items()}
            track = replace(track, files=files)
        result.append((track, source))
    for name, count in sorted(taken.items()):
        notes.append(f"{count} tracks have no {MIXTURE}; their {name} is taken for it.")
    return result


def _nothing_found(source: SourceSpec, splits: Sequence[str]) -> str:
    root = Path(str(source.options.get("root", "")))
    inside = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else []
    layout = f"Expected {root.name}/{splits[0]}/<track>/<stem>.wav; " if source.kind == "folder" else ""
    hint = " A source's test_tracks: [...] names tracks to test on." if "train" not in splits else ""
    return (
        f"no tracks in {root} ({source.kind}) for {' or '.join(splits)}. {layout}found "
        f"{', '.join(inside) if inside else 'an empty folder'}.{hint}"
    )


def _decoded_files(tracks: Sequence[Listed], all_lossy: bool, found: Scan) -> dict[Path, Path | UserError]:
    """original → lossless copy in the cache, of the files that cannot be entered at any place."""
    paths = {file.path for track in tracks for files in track.files.values() for file in files}
    slow = sorted(p for p in paths if p.suffix.lower() in READ_FROM_THE_START)
    if slow and not all_lossy:
        found.notes.append(
            f"{len(slow)} of {len(paths)} files are mp3, ogg or opus, of which every excerpt is decoded from the "
            "beginning of the song: slow. data.decode=true decodes them once into the cache."
        )
    known = (*READ_IN_PLACE, *(() if all_lossy else READ_FROM_THE_START))
    wanted = sorted(p for p in paths if p.suffix.lower() not in known and p.is_file())
    results = decode([of_file(p) for p in wanted], "decoding what cannot be entered at any place") if wanted else []
    return {
        path: result if isinstance(result, UserError) else decoded_file(result, "audio")
        for path, result in zip(wanted, results, strict=True)
    }


def _opened(track: Listed, lossless: Mapping[Path, Path | UserError], findings: list[Finding]) -> Track | None:
    """The track with what its headers say; None and findings where they cannot be read or disagree."""
    where, before = f"{track.split}/{track.name}", len(findings)
    track = replace(track, files={stem: files for stem, files in track.files.items() if files})
    if not track.files:
        if not any(finding.where == where for finding in findings):
            text = f"the track {where} in {track.folder} has no audio and is left out."
            findings.append(Finding("empty_track", where, text, stops=False))
        return None
    if odd := [text for text in (track.name, *track.files) if not is_unicode(text)]:
        shown = odd[0].encode(errors="surrogateescape").decode(errors="replace")
        text = f"{track.folder.parent}: the name {shown!r} is no Unicode. Rename it."
        findings.append(Finding("unreadable", printable(where), printable(text)))
        return None
    if REST in track.files:
        text = f"{where}: a stem cannot be called {REST!r}, which means what other stems leave. Rename it."
        findings.append(Finding("unreadable", where, text))
        return None
    infos: dict[File, AudioInfo] = {}
    for file in (f for files in track.files.values() for f in files):
        try:
            copy = lossless.get(file.path, file.path)
            if isinstance(copy, UserError):
                raise copy
            info = audio_info(copy)
            infos[file] = replace(info, n_samples=_piece(file, info)[1])
        except UserError as error:
            findings.append(Finding(kind_of(error), where, str(error)))
    if len(findings) > before:
        return None
    lengths = {stem: max(infos[f].n_samples for f in files) for stem, files in track.files.items()}
    rates = {stem: [infos[f].sample_rate_hz for f in files] for stem, files in track.files.items()}
    one_rate = {stem: values[0] if len(set(values)) == 1 else values for stem, values in rates.items()}
    lossy = any(file.path.suffix.lower() not in READ_IN_PLACE for file in infos)  # coders add some samples
    uneven = max(lengths.values()) - min(lengths.values())
    padded = track.padded or (lossy and uneven <= PADDED_SECONDS * max(info.sample_rate_hz for info in infos.values()))
    ends = [max(infos[f].seconds for f in files) for files in track.files.values()]
    rescaled = (
        len(set(map(str, one_rate.values()))) > 1 and max(ends) - min(ends) < PADDED_SECONDS
    )  # only the rate is wrong
    for kind, unit, values, rule in (
        ("length", "samples", {} if padded or rescaled else lengths, "Every stem must be as long as its mixture."),
        ("rate", "Hz", one_rate, "Convert them to one rate."),
    ):
        if len(set(map(str, values.values()))) > 1 or any(isinstance(v, list) for v in values.values()):
            told = ", ".join(f"{stem} {value}" for stem, value in values.items())
            findings.append(Finding(kind, where, f"the files of track {track.folder} differ in {unit}: {told}. {rule}"))
    if len(findings) > before:
        return None
    made = _track(track, infos, lengths, lossless)
    if uneven > (PADDED_SECONDS * made.sample_rate_hz if track.padded else 0):
        told = ", ".join(f"{stem} {value}" for stem, value in lengths.items())
        text = f"the files of track {track.folder} differ in samples: {told}. Silence follows the shorter ones"
        cut = ", and the longer ones are cut where the mixture ends." if MIXTURE in lengths else "."
        findings.append(Finding("length", where, text + cut, stops=False))
    return made


def _piece(file: File, info: AudioInfo) -> tuple[int, int]:
    """(first sample, number of samples) of the piece of a file that is used."""
    start = round(file.start_seconds * info.sample_rate_hz)
    stop = info.n_samples if file.end_seconds is None else round(file.end_seconds * info.sample_rate_hz)
    if not 0 <= start < stop <= info.n_samples:
        raise DataError(
            f"{file.path} lasts {info.seconds:.3f} s; {file.start_seconds:g} to "
            f"{'its end' if file.end_seconds is None else f'{file.end_seconds:g}'} s of it were asked for."
        )
    return start, stop - start


def _track(
    track: Listed,
    infos: Mapping[File, AudioInfo],
    lengths: Mapping[str, int],
    lossless: Mapping[Path, Path | UserError],
) -> Track:
    n_samples = lengths.get(MIXTURE, max(lengths.values()))
    files: dict[str, tuple[StemFile, ...]] = {}
    for stem, listed in track.files.items():
        pieces = []
        for file in listed:
            path = Path(str(lossless.get(file.path, file.path)))
            name = str(path.relative_to(track.folder) if path.is_relative_to(track.folder) else path)
            start = round(file.start_seconds * infos[file].sample_rate_hz)
            pieces.append(StemFile(name, min(infos[file].n_samples, n_samples), start))
        files[stem] = tuple(pieces)
    listed_files = [f for fs in track.files.values() for f in fs]
    cut = "".join(f" {f.start_seconds}-{f.end_seconds}" for f in listed_files if f.start_seconds or f.end_seconds)
    paths = [f.path for f in listed_files]
    return Track(
        track.name,
        track.split,
        str(track.folder),
        n_samples,
        next(iter(infos.values())).sample_rate_hz,
        max(info.n_channels for info in infos.values()),
        files,
        content_key(paths) + cut,
        written=writing(paths) + cut,
    )


def kind_of(error: UserError) -> str:
    """The kind of finding that an error of reading is."""
    text = str(error)
    words = (("is cut off", "truncated"), ("is empty", "empty"), ("holds no samples", "empty"), ("holds NaN", "nan"))
    return next((kind for word, kind in words if word in text), "unreadable")


def track_table(root: str | Path, splits: Sequence[str]) -> datasets.Dataset:
    """One row per track of a root, sorted by split and name, as a `datasets` table of `Track` fields.

    Raises `DataError` where nothing is found, where a file cannot be read, and where the files of one track differ in
    length or rate.
    """
    return table_of(scan(DataSpec(root=str(root)), splits).usable())


def table_of(tracks: Iterable[Track]) -> datasets.Dataset:
    """Tracks as the rows of a `datasets` table."""
    rows = [asdict(track) for track in tracks]
    for row in rows:  # a column of mappings would give every row the union of all keys
        row["files"] = json.dumps(row["files"])
    return datasets.Dataset.from_list(rows)


def tracks_of(table: datasets.Dataset) -> list[Track]:
    """The rows of a track table as `Track` objects."""

    def files(text: str) -> dict[str, tuple[StemFile, ...]]:
        return {stem: tuple(StemFile(**file) for file in listed) for stem, listed in json.loads(text).items()}

    return [Track(**{**row, "files": files(row["files"])}) for row in table]


def with_definitions(track: Track, spec: DataSpec) -> Track:
    """The track with the stems that the recipe defines: each the sum of those of its stems that the track has.

    A definition of which the track has nothing leaves it as it is: its own file of that name counts.
    """
    defined = {
        name: tuple(file for stem in spec.stems_of(name) for file in track.files.get(stem, ())) for name in spec.define
    }
    return replace(track, files={**track.files, **{name: files for name, files in defined.items() if files}})


def fingerprint(tracks: Sequence[Track]) -> str:
    """A hash of which tracks these are and of their content; where they lie does not count."""
    lines = sorted(f"{t.split}\t{t.name}\t{t.n_samples}\t{t.sample_rate_hz}\t{t.content}" for t in tracks)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def last_written(tracks: Sequence[Track]) -> str:
    """A hash of when the files of these tracks were written: for what this machine keeps of them."""
    return hashlib.sha256("\n".join(sorted(track.written for track in tracks)).encode()).hexdigest()


def split_validation(tracks: Sequence[Track], spec: DataSpec) -> tuple[list[Track], list[Track]]:
    """Training and validation tracks: by the recipe's names, MUSDB18's official ones, `valid/`, or a hash of names.

    Solos are validated on where they are named, and where there is nothing else.
    """
    if not any(t.split == "train" for t in tracks):
        raise DataError("there is no track to train on: none is in a folder train/, or of that split in a table.")
    if spec.validation_tracks:
        _check_patterns("data.validation_tracks", spec.validation_tracks, [t.name for t in tracks])
        validation = [t for t in tracks if fits(t.name, spec.validation_tracks)]
    elif any(t.split == "valid" for t in tracks):
        validation = [t for t in tracks if t.split == "valid"]
        validation = [t for t in validation if not t.is_solo] or validation
    else:
        songs = [t for t in tracks if not t.is_solo] or tracks
        chosen = {t.name for t in songs if t.name in MUSDB_VALIDATION_TRACKS} or _share(songs, spec.validation_share)
        validation = [t for t in tracks if t.name in chosen]
    kept = {(t.split, t.name) for t in validation}
    train = [t for t in tracks if t.split == "train" and (t.split, t.name) not in kept]
    if not train:
        raise DataError(f"all {len(tracks)} tracks are kept for validation; none is left to train on.")
    return train, validation


def _share(tracks: Sequence[Track], share: float) -> set[str]:
    """The share of the track names with the lowest hash: adding a song moves no other song."""
    by_hash = sorted((t.name for t in tracks), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(by_hash[: round(share * len(tracks))])


def use_part(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec, seed: int) -> list[Track]:
    """The training tracks a recipe asks for: all, or some of those that have a target, in an order set by the seed.

    Of ``use_tracks``, ``use_minutes`` and ``use_fraction`` the one that leaves least decides; at least one track stays.
    Of several targets each has a song before any has a second one. Where no track has a target, all are given back:
    what is made of them says what there is.
    """
    having = [t for t in tracks if set(targets) & set(t.stems)]
    beside = [] if any(not t.is_solo for t in having) else [t for t in tracks if t not in having]  # solos need songs
    if not having or not (spec.use_tracks or spec.use_minutes or spec.use_fraction < 1):
        return list(tracks)
    order = sorted(having, key=lambda t: hashlib.sha256(f"{seed}\t{t.name}".encode()).hexdigest())
    order = _each_target_first(order, targets)
    count = math.ceil(spec.use_fraction * len(order))
    if spec.use_tracks:
        count = min(count, spec.use_tracks)
    if spec.use_minutes:
        minutes = list(accumulate(t.seconds / 60 for t in order))
        count = min(count, bisect_left(minutes, spec.use_minutes) + 1)
    return sorted([*order[:count], *beside], key=lambda t: t.name)


def _each_target_first(order: Sequence[Track], targets: Sequence[str]) -> list[Track]:
    """The same tracks; in front those that are the first with a target."""
    first: dict[str, Track] = {}
    for target in targets:
        if not any(target in track.stems for track in first.values()):
            first |= {track.name: track for track in [t for t in order if target in t.stems][:1]}
    return [*first.values(), *(track for track in order if track.name not in first)]


def tell_builtin(say: Callable[[str], None]) -> None:
    """The banner of a run on built-in stems."""
    say("=" * 88)
    say("NO DATA SET GIVEN: using the BUILT-IN SYNTHETIC STEMS. Good for trying things out, not for results.")
    say(f"For real music: data.root=/path/to/musdb18hq, or set {DATA_ROOT_VARIABLE}.")
    say("=" * 88)
