"""Where songs lie: the layouts that data sets have, each a function from its options to a listing of tracks.

A source is one function and one line in `tracks.SOURCES`. It is given the splits to list and its options, and looks at
names and small text files; what only a package can open is decoded once (`decode`). `tracks` reads the headers of
what is listed.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from ...audio import AUDIO_SUFFIXES, audio_info
from ...errors import DataError, RecipeError, UserError, nearest, queried
from ...system import expand_home
from ..decode import STEM_MP4, decode, decoded_file, musdb_stems
from ..names import REST as REST
from ..names import is_known, related
from ..synth import builtin_root

SPLITS = ("train", "valid", "test")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
MIXTURE = "mixture"


@dataclass(frozen=True)
class Finding:
    """Something about the data that a person should know, in one sentence."""

    kind: str  # a key of `checker.KINDS`
    where: str  # split/track
    text: str
    stops: bool = True  # whether training cannot go on with it


@dataclass(frozen=True)
class File:
    """A file, or a piece of one, as its source lists it."""

    path: Path
    start_seconds: float = 0.0
    end_seconds: float | None = None


@dataclass(frozen=True)
class Listed:
    """A track as its source lists it: names and files, not opened yet."""

    name: str
    split: str
    folder: Path
    files: Mapping[str, tuple[File, ...]]  # stem (or "mixture") → the files whose sum it is
    padded: bool = False  # whether shorter files are usual in this source and followed by silence


@dataclass
class Listing:
    """What a source holds, what is wrong with it, and what a person should be told of how it was read."""

    tracks: list[Listed] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def wrong(self, kind: str, where: str, text: str, stops: bool = True) -> None:
        self.findings.append(Finding(kind, where, text, stops))


# --- folders ----------------------------------------------------------------------------------------------------------


def folder(splits: Sequence[str], root: str, mixture: str = MIXTURE, layout: str = "auto") -> Listing:
    """``root/{train,valid,test}/<track>/<stem>.wav`` or ``root/<track>/<stem>.wav``; a stem may be a folder of files.

    The files of a stem's folder are summed (MoisesDB). ``mixture`` is the name that mixtures have there. Without
    folders for the splits every track is for training. ``layout: stems`` is a folder per stem, ``tracks`` one per
    track; ``auto`` goes by the names.
    """
    listing, passed, replaced, renamed = Listing(), Counter[str](), list[str](), False
    tracks = _track_folders(_existing(root), splits, listing)
    if layout not in ("auto", "tracks", "stems"):
        raise RecipeError(f"folder source: layout is {layout!r}; expected auto, tracks or stems.")
    if layout == "stems" or (layout == "auto" and _is_folder_per_stem([path for _, path in tracks])):
        return _folder_per_stem(tracks, mixture, root, listing)
    for place in sorted({track.parent for _, track in tracks}):
        passed.update(f"{path.name} (beside the tracks)" for path in place.iterdir() if _is_audio(path))
    for split, track in tracks:
        files, problems = _stems_in(track, passed)
        for problem in problems:
            listing.wrong("two_files", f"{split}/{track.name}", problem)
        if not files:
            text = f"the track folder {track} holds no audio file; expected <stem>.wav. Remove it or fill it."
            in_split = track.parent != _existing(root)  # beside songs without splits there may be other things
            listing.wrong("empty_track", f"{split}/{track.name}", text, stops=in_split)
            continue
        if mixture != MIXTURE and mixture in files:
            renamed = True
            replaced += [track.name] if MIXTURE in files else []
            files[MIXTURE] = files.pop(mixture)
        folders = any(file.path.parent != track for found in files.values() for file in found)
        listing.tracks.append(Listed(track.name, split, track, files, padded=folders))
    if listing.tracks and mixture != MIXTURE and not renamed:
        names = {name for track in listing.tracks for name in track.files}
        raise DataError(f"folder source: no track in {root} has a file {mixture!r} (mixture).{nearest(mixture, names)}")
    if replaced:
        text = f"{len(replaced)} tracks have a {MIXTURE} beside {mixture}: it is not read ({first(replaced)})."
        listing.notes.append(text)
    if passed:
        told = first([f"{suffix} {count}" for suffix, count in sorted(passed.items())])
        listing.notes.append(f"{sum(passed.values())} files or folders in {root} are not read: {told}.")
    return listing


def _audio_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if _is_audio(p))


def _is_folder_per_stem(folders: Sequence[Path]) -> bool:
    """Whether folders are called as stems are, and the files in them are not."""
    files = [(path.stem, folder.name) for folder in folders for path in folder.iterdir() if _is_audio(path)]
    if any(is_known(name) and not related(name, folder) for name, folder in files):
        return False
    # `vocals_2` is a solo's own folder
    known = [folder for folder in folders if is_known(folder.name) and not folder.name[-1].isdigit()]
    if known:
        return len(known) * 2 >= len(folders) and bool(files or any(_audio_below(folder) for folder in known))
    names = Counter(name for name, _ in files)
    several = all(sum(folder.name == name for _, name in files) > 1 for folder in folders)
    return bool(files) and several and max(names.values()) == 1 and not any(_folders(folder) for folder in folders)


def _folder_per_stem(folders: Sequence[tuple[str, Path]], mixture: str, root: str, listing: Listing) -> Listing:
    """``<stem>/<name>.wav``: files of one name and one length are stems of one track, all others are solos."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for split, folder in folders:
        stem = MIXTURE if folder.name in (mixture, MIXTURE) else folder.name
        for path in _audio_below(folder):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found.setdefault((split, name), {}):
                listing.wrong("two_files", f"{split}/{name}", f"{folder} has two files for {name!r}.")
            found[split, name][stem] = path
    songs = 0
    for (split, name), paths in sorted(found.items()):
        files = {stem: (File(path),) for stem, path in paths.items()}
        if len(files) > 1 and _same_length(list(paths.values())):
            songs += 1
            listing.tracks.append(Listed(name, split, next(iter(paths.values())).parent.parent, files))
            continue
        for stem, path in paths.items():
            listing.tracks.append(Listed(f"{stem}/{name}", split, path.parent, {stem: files[stem]}))
    stems = list(dict.fromkeys(folder.name for _, folder in folders))
    listing.notes.append(
        f"{root} is read as a folder per stem ({first(stems)}): {songs} tracks of files with one name and one length, "
        f"{len(listing.tracks) - songs} solos. Otherwise: layout: tracks in data.sources."
    )
    return listing


def _same_length(paths: Sequence[Path]) -> bool:
    try:
        return len({audio_info(path).n_samples for path in paths}) == 1
    except UserError:  # the scan names the file
        return False


def _existing(root: str, kind: str = "folder") -> Path:
    path = expand_home(root)
    if not path.exists():
        raise DataError(
            f"{kind} source: root is {str(root)!r}, and there is no such folder. "
            "Expected a folder that holds train/<track>/<stem>.wav (MUSDB18-HQ's layout), or another of data.sources."
        )
    return path.resolve()


def _visible(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if not p.name.startswith("."))


def _folders(path: Path) -> list[Path]:
    return [p for p in _visible(path) if p.is_dir()]


def _track_folders(root: Path, splits: Sequence[str], listing: Listing) -> list[tuple[str, Path]]:
    """(split, track folder) of a root with or without a folder per split; what lies beside those is noted."""
    if not root.is_dir():
        raise DataError(f"{root} is a file; expected a folder of tracks.")
    inside = _folders(root)
    names = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    by_split = [(names[p.name.lower()], p) for p in inside if p.name.lower() in names]
    if by_split:
        others = [p.name for p in inside if p.name.lower() not in names]
        if others:
            listing.notes.append(f"{len(others)} folders in {root} are no split and are not read: {first(others)}.")
        return [(split, track) for split, p in by_split if split in splits for track in _folders(p)]
    if "train" in splits and any(_has_audio(p) for p in inside):
        return [("train", p) for p in inside]
    return []


def _has_audio(track: Path) -> bool:
    return any(_is_audio(p) for p in track.iterdir()) or any(_is_audio(p) for f in _folders(track) for p in f.iterdir())


def _is_audio(path: Path) -> bool:
    """Whether a file is audio by its name; a link to nothing is one that cannot be read."""
    there = path.is_file() or (path.is_symlink() and not path.exists())
    return there and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _stems_in(track: Path, passed: Counter[str]) -> tuple[dict[str, tuple[File, ...]], list[str]]:
    """stem → its files, and what stands twice; counts by suffix what is no audio."""
    found: dict[str, list[Path]] = {}
    problems = []
    for path in sorted(track.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            inside = sorted(path.iterdir())
            passed.update(p.suffix or p.name for p in inside if p.is_file() and not _is_audio(p) and p.name[0] != ".")
            passed.update(f"{path.name}/{p.name}/" for p in _folders(path))
            stem, paths = path.name, [p for p in inside if _is_audio(p)]
        else:
            stem, paths = path.stem, [path] if _is_audio(path) else []
            passed.update([] if paths else [path.suffix or path.name])
        if paths and stem in found:
            problems.append(f"{track} has two files for {stem!r}: {found[stem][0].name} and {path.name}.")
        elif paths:
            found[stem] = paths
    return {stem: tuple(File(p) for p in paths) for stem, paths in found.items()}, problems


def builtin(splits: Sequence[str]) -> Listing:
    """The built-in synthetic stems, made on first use."""
    return folder(splits, str(builtin_root()))


# --- MUSDB18 ----------------------------------------------------------------------------------------------------------


def musdb(splits: Sequence[str], root: str) -> Listing:
    """MUSDB18 (not HQ): ``root/{train,test}/<track>.stem.mp4``, decoded once by the musdb package."""
    listing, path = Listing(), _existing(root, "musdb")
    names = {name: split for split, listed in SPLIT_FOLDERS.items() for name in listed}
    inside = [(names[p.name.lower()], file) for p in _folders(path) if p.name.lower() in names for file in _visible(p)]
    songs = [(split, file) for split, file in inside if file.name.endswith(STEM_MP4)]
    if not songs:
        raise DataError(f"no {STEM_MP4} files in {path}/train or {path}/test; MUSDB18-HQ (wav) is a folder source.")
    if others := [f"{file.parent.name}/{file.name}" for _, file in inside if not file.name.endswith(STEM_MP4)]:
        listing.notes.append(f"{len(others)} files or folders in {path} are no {STEM_MP4}: {first(others)}.")
    found = [(split, file) for split in splits for s, file in songs if s == split]
    results = decode([musdb_stems(file) for _, file in found], "decoding MUSDB18")
    for (split, file), result in zip(found, results, strict=True):
        name = file.name.removesuffix(STEM_MP4)
        if isinstance(result, UserError):
            listing.wrong("unreadable", f"{split}/{name}", str(result))
            continue
        files = {stem: (File(decoded_file(result, stem)),) for stem in (MIXTURE, "vocals", "drums", "bass", "other")}
        listing.tracks.append(Listed(name, split, result, files))
    return listing


# --- Slakh2100 --------------------------------------------------------------------------------------------------------


def slakh(splits: Sequence[str], root: str, classes: Mapping[str, Any] | None = None) -> Listing:
    """Slakh2100: ``root/{train,validation,test}/Track00001/`` with ``mix.flac``, ``stems/S00.flac``, ``metadata.yaml``.

    A stem's name is its instrument class (``Synth Lead`` → ``synth_lead``), or what ``classes`` maps to it:
    ``{keys: [Piano, Organ]}``. Stems that the metadata list as not rendered have no file; they are counted.
    """
    listing, unrendered, instruments = Listing(), 0, Instruments("classes", classes)
    for split, track in _track_folders(_existing(root, "slakh"), splits, listing):
        where = f"{split}/{track.name}"
        metadata = _yaml(track / "metadata.yaml", where, listing)
        if metadata is None:
            continue
        files: dict[str, list[File]] = {}
        folder = track / str(metadata.get("audio_dir", "stems"))
        there = [p for p in _visible(folder) if _is_audio(p)] if folder.is_dir() else []
        stems = _stem_facts(metadata)
        instruments.unnamed += [f"{track.name}/{p.name}" for p in there if p.stem not in stems]
        for key, stem in sorted(stems.items()):
            found = [p for p in there if p.stem == key]
            if not stem.get("audio_rendered", True) and not found:
                unrendered += 1
            elif not found:
                listing.wrong("missing_file", where, f"{track}: metadata.yaml names the stem {key}, which has no file.")
            else:
                name = instruments.name("Drums" if stem.get("is_drum") else str(stem.get("inst_class", key)))
                files.setdefault(name, []).append(File(found[0]))
        mixes = sorted(p for p in track.glob("mix.*") if _is_audio(p))
        listing.tracks.append(_listed(track.name, split, track, files, mixes))
    if unrendered:
        listing.notes.append(f"{unrendered} stems of {root} were never rendered, as their metadata.yaml say.")
    instruments.tell(listing, root)
    return listing


def _stem_facts(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """key → what the metadata say of a stem."""
    stems: Mapping[Any, Mapping[str, Any]] = metadata.get("stems") or {}
    return {str(key): facts for key, facts in stems.items()}


class Instruments:
    """What the stems of a collection are called: as its metadata say, or as an option maps that (name: instruments)."""

    def __init__(self, option: str, mapping: Mapping[str, Any] | None):
        self.option = option
        self.given = {slug(i): name for name, listed in (mapping or {}).items() for i in _names(listed)}
        self.met: set[str] = set()
        self.unnamed: list[str] = []  # audio files that are in no metadata

    def name(self, instrument: str) -> str:
        self.met.add(slug(instrument))
        return self.given.get(slug(instrument), slug(instrument))

    def tell(self, listing: Listing, root: str) -> None:
        """Note what was not read, and which instruments of the option no stem has."""
        if self.unnamed:
            told = f"{len(self.unnamed)} audio files of {root} are in no metadata and not read: {first(self.unnamed)}."
            listing.notes.append(told)
        idle = [queried(key, self.met) for key in self.given if key not in self.met]
        if idle and self.met:
            there = first(sorted(self.met), 12)
            listing.notes.append(f"{self.option}: no stem is called {first(idle)}; there are {there}.")


def slug(name: str) -> str:
    """``Strings (continued)`` → ``strings``, ``electric bass`` → ``electric_bass``: a name that a target can have."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)", "", name.lower())).strip("_")


def _names(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else tuple(value)


def _listed(name: str, split: str, folder: Path, files: Mapping[str, Sequence[File]], mixes: Sequence[Path]) -> Listed:
    """A track of a rendered or recorded collection, in which a file may end before the song does."""
    mixture = {MIXTURE: (File(mixes[0]),)} if mixes else {}
    return Listed(name, split, folder, {**{stem: tuple(found) for stem, found in files.items()}, **mixture}, True)


def _yaml(path: Path, where: str, listing: Listing) -> dict[str, Any] | None:
    """The mapping in a YAML file; None and a finding where it is not there or none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        stems = values.get("stems") or {} if isinstance(values, dict) else None
        if isinstance(stems, dict) and all(isinstance(facts, dict) for facts in stems.values()):
            return dict(values)
        problem = "it holds no mapping with a mapping for each of its stems"
    except OSError as error:
        problem = error.strerror or str(error)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
    listing.wrong("metadata", where, f"{path} cannot be read: {problem}.")
    return None


# --- MedleyDB ---------------------------------------------------------------------------------------------------------


def medleydb(
    splits: Sequence[str],
    root: str,
    instruments: Mapping[str, Any] | None = None,
    raw: bool = False,
    bleed: str = "keep",
) -> Listing:
    """MedleyDB: ``<track>/<track>_METADATA.yaml`` with ``<track>_STEMS/`` and ``<track>_RAW/``, in root or root/Audio.

    A stem's name is its instrument (``electric bass`` → ``electric_bass``), or what ``instruments`` maps to it.
    ``raw`` takes the raw recordings in place of the stems. ``bleed: skip`` leaves out tracks whose metadata say that
    instruments bleed into each other. The metadata may also lie in ``Metadata/``. All tracks are for training.
    """
    if bleed not in ("keep", "skip"):
        raise RecipeError(f"medleydb source: bleed is {bleed!r}; expected keep or skip.")
    listing, path, bleeding, others = Listing(), _existing(root, "medleydb"), [], []
    known = Instruments("instruments", instruments)
    audio = path / "Audio" if (path / "Audio").is_dir() else path
    for track in _folders(audio) if "train" in splits else []:
        if not ((track / f"{track.name}_STEMS").is_dir() or (track / f"{track.name}_RAW").is_dir()):
            others += [track.name] if track.name != "Metadata" else []
            continue
        where = f"train/{track.name}"
        metadata = _yaml(_medley_metadata(track, path), where, listing)
        if metadata is None:
            continue
        if str(metadata.get("has_bleed", "no")).lower() in ("yes", "true"):
            bleeding.append(track.name)
            if bleed == "skip":
                continue
        files = _medley_files(track, metadata, raw, known, where, listing)
        mixes = [p for p in [track / str(metadata.get("mix_filename", f"{track.name}_MIX.wav"))] if p.is_file()]
        listing.tracks.append(_listed(track.name, "train", track, files, mixes))
    known.tell(listing, root)
    if others:
        listing.notes.append(
            f"{len(others)} folders in {audio} have no _STEMS or _RAW and are not read: {first(others)}."
        )
    if bleeding:
        done = "are left out" if bleed == "skip" else "are kept (bleed: skip leaves them out)"
        listing.notes.append(f"{len(bleeding)} tracks of {root} have bleed and {done}: {first(bleeding)}.")
    return listing


def _medley_metadata(track: Path, root: Path) -> Path:
    name = f"{track.name}_METADATA.yaml"
    places = [track / name, root / "Metadata" / name, root.parent / "Metadata" / name]
    return next((p for p in places if p.is_file()), places[0])


def _medley_files(
    track: Path, metadata: Mapping[str, Any], raw: bool, known: Instruments, where: str, listing: Listing
) -> dict[str, list[File]]:
    files: dict[str, list[File]] = {}
    folder = track / str(metadata.get("raw_dir" if raw else "stem_dir", f"{track.name}_{'RAW' if raw else 'STEMS'}"))
    left = {p for p in _visible(folder) if _is_audio(p)} if folder.is_dir() else set()
    for _, stem in sorted(_stem_facts(metadata).items()):
        raws: Mapping[str, Any] = stem.get("raw") or {}
        sources = [source for _, source in sorted(raws.items())] if raw else [stem]
        for source in sources:
            path = folder / str(source.get("filename"))
            left.discard(path)
            instrument = source.get("instrument") or stem.get("instrument") or "unlabeled"
            if path.is_file():
                files.setdefault(known.name(str(_names(instrument)[0])), []).append(File(path))
            else:
                listing.wrong("missing_file", where, f"{track}: its metadata name {path.name}, which is not there.")
    known.unnamed += [f"{folder.name}/{path.name}" for path in sorted(left)]
    return files


def first(names: Sequence[str], n_shown: int = 6) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more


# --- manifests --------------------------------------------------------------------------------------------------------

MANIFEST_COLUMNS = ("track", "split", "stem", "path", "start", "end")


def manifest(splits: Sequence[str], root: str) -> Listing:
    """A ``.csv`` or ``.jsonl``, one line per file: ``track, split, stem, path`` and maybe ``start, end`` in seconds.

    Paths are relative to the manifest. Several lines of one stem are summed. Without ``split`` a track is for training.
    A line of JSON may also hold a whole track: ``{"track": ..., "split": ..., "stems": {"drums": "a.wav", ...}}``,
    where a stem is a path, a list of them, or ``{"path", "start", "end"}``.
    """
    path = _existing(root, "manifest")
    unread: Counter[str] = Counter()
    is_wide = False
    tracks: dict[tuple[str, str], dict[str, list[File]]] = {}
    for place, row in _rows(path):
        split = str(row.get("split") or "train")
        split = next((name for name, words in SPLIT_FOLDERS.items() if split.lower() in words), split)
        if split not in SPLITS:
            raise DataError(f"{place}: split is {split!r}; expected one of {', '.join(SPLITS)}.")
        if not row.get("track"):
            raise DataError(f"{place}: it names no track; expected {', '.join(MANIFEST_COLUMNS)}.")
        unread.update(str(column) for column in row if column not in (*MANIFEST_COLUMNS, "stems"))
        stems = row["stems"] if "stems" in row else {row.get("stem"): row}
        is_wide |= "stems" in row and path.suffix.lower() != ".jsonl"
        if not isinstance(stems, Mapping):
            raise DataError(f"{place}: stems is {stems!r}; expected stem: path.")
        if is_wide and (split, str(row["track"])) in tracks:
            raise DataError(f"{place}: the track {row['track']!r} is there twice; a column `track` gives each a name.")
        for stem, files in stems.items():
            added = [
                _manifest_file(path.parent, f, row, place) for f in (files if isinstance(files, list) else [files])
            ]
            if not stem:
                raise DataError(f"{place}: it names no stem; expected {', '.join(MANIFEST_COLUMNS)}.")
            listed = tracks.setdefault((split, str(row["track"])), {}).setdefault(str(stem), [])
            listed.extend(added)
            if twice := [file.path.name for file, count in Counter(listed).items() if count > 1]:
                raise DataError(f"{place}: {stem} of {row['track']} is made of {twice[0]} twice; expected each once.")
        if not stems:
            tracks.setdefault((split, str(row["track"])), {})
    found = [
        Listed(
            name, split, path.parent, {stem: tuple(f) for stem, f in files.items()}, any(map(_is_sum, files.values()))
        )
        for (split, name), files in sorted(tracks.items())
        if split in splits
    ]
    told = first([queried(column, MANIFEST_COLUMNS) for column in unread])
    notes = [f"{path}: columns or keys that are not read: {told}."] if unread else []
    if is_wide:
        stems_there = sorted({stem for files in tracks.values() for stem in files})
        notes.append(f"{path} is read as a line per track and a column per stem ({first(stems_there)}).")
    return Listing(found, notes=notes)


def _is_sum(files: Sequence[File]) -> bool:
    return len(files) > 1


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, row) of every line."""
    if path.suffix.lower() != ".jsonl":
        text = read_text(path)
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        wide = {c: _stem_of_column(c) for c in columns if _stem_of_column(c)}
        if wide and not {"stem", "path"} <= set(columns):
            yield from _wide_rows(path, reader, wide)
            return
        missing = {"track", "stem", "path"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{path} has the columns {', '.join(reader.fieldnames or ['none'])}; expected "
                f"{', '.join(MANIFEST_COLUMNS)}; {', '.join(sorted(missing))} is missing."
            )
        yield from ((f"{path}, line {i}", row) for i, row in enumerate(reader, 2))
        return
    for i, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise DataError(f"{path}, line {i} is not JSON: {problem}.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {i} is {row!r}; expected an object with {', '.join(MANIFEST_COLUMNS)}.")
            yield f"{path}, line {i}", row


def _stem_of_column(column: str) -> str:
    """``vocals_path`` → ``vocals``, ``mix_path`` → ``mixture``: the stem whose files a column of a wide table names."""
    match = re.fullmatch(r"(.+)_(path|file|wav|audio)", column.lower())
    return ("mixture" if match[1] in ("mix", MIXTURE) else match[1]) if match else ""


def _wide_rows(path: Path, reader: Any, wide: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A line per track and a column per stem, as Spleeter has it: ``mix_path,vocals_path,...,duration``."""
    rows = [(row, {s: {"path": row[column]} for column, s in wide.items() if row.get(column)}) for row in reader]
    folders = Counter(folder for _, files in rows if (folder := _one_folder(files)))
    for i, (row, files) in enumerate(rows, 2):
        name, folder = row.get("track") or row.get("name"), _one_folder(files)
        if not name and files:
            name = folder if folders[folder] == 1 else PureWindowsPath(next(iter(files.values()))["path"]).stem
        rest = {key: value for key, value in row.items() if key not in wide and key not in ("track", "name")}
        yield f"{path}, line {i}", {"track": name, "stems": files, **rest}


def _one_folder(files: Mapping[str, Mapping[str, str]]) -> str:
    """The name of the folder that holds all of these files; empty where they lie in several."""
    parents = {PureWindowsPath(file["path"]).parent for file in files.values()}
    return parents.pop().name if len(parents) == 1 else ""


def read_text(path: Path) -> str:
    """A table's text; `DataError` where it is not UTF-8, as some spreadsheets save it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}). Save it as UTF-8.") from None


def _manifest_file(folder: Path, value: Any, row: Mapping[str, Any], place: str) -> File:
    """A path, or a mapping with ``path``, ``start`` and ``end``; the line's own start and end where it has none."""
    values = value if isinstance(value, Mapping) else {"path": value}
    if not isinstance(values.get("path"), str) or not values["path"]:
        raise DataError(f"{place}: path is {values.get('path')!r}; expected a file.")
    if other := [key for key in values if values is not row and key not in ("path", "start", "end")]:
        raise DataError(f"{place}: {other[0]!r} is unknown beside a path; expected start and end.")
    times = []
    for key in ("start", "end"):
        text = values.get(key, row.get(key))
        try:
            times.append(None if text in (None, "") else float(text))
            if not math.isfinite(times[-1] or 0.0):
                raise ValueError
        except (TypeError, ValueError):
            raise DataError(f"{place}: {key} is {text!r}; expected seconds.") from None
    start, end = times[0] or 0.0, times[1]
    if start < 0 or (end is not None and end <= start):
        raise DataError(f"{place}: start is {start} and end {end}; expected 0 ≤ start < end in seconds.")
    return File(_path_in(folder, values["path"]), start, end)


def _path_in(folder: Path, text: str) -> Path:
    """The file that a table names, relative to the table; Windows' separators are taken for the system's own."""
    path = folder / expand_home(text)
    return folder / PureWindowsPath(text).as_posix() if "\\" in text and not path.exists() else path
