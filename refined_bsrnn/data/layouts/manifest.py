"""A table of files: ``.csv``, ``.tsv`` or ``.jsonl``."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ...errors import DataError, first, queried
from ...plain import parse_json, shown
from ...system import can_be_path, expand_home
from ..names import MIXTURE
from .listing import SPLIT_OF, SPLITS, File, Layout, Listed, Listing

COLUMNS = ("track", "split", "stem", "path", "start", "end", "weight")
Tracks = dict[tuple[str, str], dict[str, list[File]]]  # (split, name) → {stem: files}


def manifest(splits: Sequence[str], root: str) -> Listing:
    """A ``.csv`` or ``.jsonl``, one line per file: ``track, split, stem, path`` and maybe ``start, end`` in seconds.

    Paths are relative to the manifest. Several lines of one stem are summed. Without ``split`` a track is for training.
    ``weight`` says how often a track is drawn. A line of JSON may also hold a whole track: ``{"track": ..., "split":
    ..., "stems": {"drums": "a.wav", ...}}``, where a stem is a path, a list of them, or ``{"path", "start", "end"}``.
    """
    path = Path(root)
    tracks: Tracks = {}
    weights: dict[tuple[str, str], float] = {}
    unread: Counter[str] = Counter()
    is_wide = False
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    for place, row in rows(path, read_text(path)):
        unread.update(str(column) for column in row if column not in (*COLUMNS, "stems"))
        key = _track_key(row, place)
        if isinstance(row.get("stem"), list | dict):
            raise DataError(f"{place}: stem is {shown(row['stem'])}; expected a name.")
        stems = row["stems"] if "stems" in row else {row.get("stem"): row}
        if not isinstance(stems, Mapping):
            raise DataError(f"{place}: stems is {stems!r}; expected stem: path.")
        is_wide |= "stems" in row and path.suffix.lower() != ".jsonl"
        if is_wide and key in tracks:
            raise DataError(f"{place}: the track {row['track']!r} is there twice; a column `track` gives each a name.")
        _add_files(tracks.setdefault(key, {}), stems, row, path.parent, place)
        weight = _weight(row, place)
        if weights.setdefault(key, weight) != weight:
            raise DataError(f"{place}: the weight of {row['track']} is {weight:g}, and {weights[key]:g} before.")
    listing = Listing([_listed(key, path, files, weights[key]) for key, files in sorted(tracks.items())])
    listing.tracks = [track for track in listing.tracks if track.split in splits]
    if unread:
        named = first([queried(column, COLUMNS) for column in unread])
        listing.notes.append(f"{path}: columns or keys that are not read: {named}.")
    if is_wide:
        stem_names = sorted({stem for files in tracks.values() for stem in files})
        listing.notes.append(f"{path} is read as a line per track and a column per stem ({first(stem_names)}).")
    return listing


def _listed(key: tuple[str, str], path: Path, files: Mapping[str, Sequence[File]], weight: float) -> Listed:
    has_sum = any(len(summed) > 1 for summed in files.values())
    return Listed(key[1], key[0], path.parent, {stem: tuple(f) for stem, f in files.items()}, has_sum, weight)


def _track_key(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    """The split and the name of a row's track."""
    split = str(row.get("split") or "train")
    split = SPLIT_OF.get(split.lower(), split)
    if split not in SPLITS:
        raise DataError(f"{place}: split is {split!r}; expected one of {', '.join(SPLITS)}.")
    if not row.get("track"):
        raise DataError(f"{place}: it names no track; expected {', '.join(COLUMNS)}.")
    return split, str(row["track"])


def _weight(row: Mapping[str, Any], place: str) -> float:
    text = row.get("weight")
    try:
        weight = 1.0 if text in (None, "") else float(str(text))
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise DataError(f"{place}: the weight is {text!r}; expected a number above 0.")
    return weight


def _add_files(
    found: dict[str, list[File]], stems: Mapping[Any, Any], row: Mapping[str, Any], folder: Path, place: str
) -> None:
    """Add the files of a row's stems to those of its track."""
    for stem, files in stems.items():
        added = [_manifest_file(folder, f, row, place) for f in (files if isinstance(files, list) else [files])]
        if not stem:
            raise DataError(f"{place}: it names no stem; expected {', '.join(COLUMNS)}.")
        listed = found.setdefault(str(stem), [])
        listed.extend(added)
        if twice := [file.path.name for file, count in Counter(listed).items() if count > 1]:
            raise DataError(f"{place}: {stem} of {row['track']} is made of {twice[0]} twice; expected each once.")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = list(reader)
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num} is no row of a table: {problem}.") from None
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{path} has the column {twice[0]!r} twice; expected each once.")
    wide = {c: _stem_of_column(c) for c in columns if _stem_of_column(c)}
    if wide and not {"stem", "path"} <= set(columns):
        yield from _wide_rows(path, rows, wide)
        return
    missing = {"track", "stem", "path"} - set(columns)
    if missing:
        raise DataError(
            f"{path} has the columns {', '.join(columns or ['none'])}; expected "
            f"{', '.join(COLUMNS)}; {', '.join(sorted(missing))} is missing."
        )
    yield from ((f"{path}, line {i}", row) for i, row in enumerate(rows, 2))


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for i, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = parse_json(line, object_pairs_hook=_each_key_once)
            except ValueError as problem:
                raise DataError(f"{path}, line {i} is not JSON: {problem}.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {i} is {row!r}; expected an object with {', '.join(COLUMNS)}.")
            yield f"{path}, line {i}", row


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return values


def _stem_of_column(column: str) -> str:
    """``vocals_path`` → ``vocals``, ``mix_path`` → ``mixture``: the stem of a column in a wide table."""
    match = re.fullmatch(r"(.+)_(path|file|wav|audio)", column.lower())
    return ("mixture" if match[1] in ("mix", MIXTURE) else match[1]) if match else ""


def _wide_rows(path: Path, reader: Any, wide: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A line per track and a column per stem, as in Spleeter: ``mix_path,vocals_path,...,duration``."""
    rows = [(row, {s: {"path": row[column]} for column, s in wide.items() if row.get(column)}) for row in reader]
    folders = Counter(folder for _, files in rows if (folder := _one_folder(files)))
    for i, (row, files) in enumerate(rows, 2):
        name, folder = row.get("track") or row.get("name"), _one_folder(files)
        if not name and files:
            name = folder if folders[folder] == 1 else PureWindowsPath(next(iter(files.values()))["path"]).stem
        rest = {key: value for key, value in row.items() if key not in wide and key not in ("track", "name")}
        yield f"{path}, line {i}", {"track": name, "stems": files, **rest}


def _one_folder(files: Mapping[str, Mapping[str, str]]) -> str:
    """The name of the folder that holds all of these files; empty if they are in several folders."""
    parents = {PureWindowsPath(file["path"]).parent for file in files.values()}
    return parents.pop().name if len(parents) == 1 else ""


def read_text(path: Path) -> str:
    """A table's text; `DataError` if it is not UTF-8, as some spreadsheets save it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}). Save it as UTF-8.") from None


def _manifest_file(folder: Path, value: Any, row: Mapping[str, Any], place: str) -> File:
    """A path, or a mapping with ``path``, ``start`` and ``end``; the line's own start and end if the mapping has
    none.
    """
    values = value if isinstance(value, Mapping) else {"path": value}
    if not isinstance(values.get("path"), str) or not values["path"] or not can_be_path(str(folder / values["path"])):
        raise DataError(f"{place}: path is {shown(values.get('path'))}; expected a file.")
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
    """The file that a table names, relative to the table; Windows' separators are converted to the system's own."""
    path = folder / expand_home(text)
    return folder / PureWindowsPath(text).as_posix() if "\\" in text and not path.exists() else path


MANIFEST = Layout(
    manifest,
    lambda root: (
        f"a {root.suffix} file" if root.is_file() and root.suffix.lower() in (".csv", ".tsv", ".jsonl") else ""
    ),
)
