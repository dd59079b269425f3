"""Tracks of a Hugging Face data set: a name on the hub, or local parquet files, with one column of audio per stem.

Rows are decoded once into lossless files (`decode`), and the processes share this work. Streaming reads row after row
without downloading the whole set first; decoded rows are kept.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.distributed import split_dataset_by_node

from ...audio import read_audio
from ...console import say, track
from ...errors import DataError, RecipeError, UserError, nearest
from ...plain import shown
from ...system import CACHE_VARIABLE, cache_folder, expand_home, read_json, write_json
from ..decode import READER, Item, content_key, decode, decode_one, keep, share, writing
from .listing import SPLIT_FOLDERS, File, Finding, Layout, Listed, Listing, why_holds

TRACK_COLUMNS = ("track", "track_name", "name", "title", "id")  # the first there is names the tracks
ROWS_AT_ONCE = 100
WAIT_SECONDS = 0.5  # between looks at what another process has done
LOOKS_BEFORE_NOTE = 40  # so many vain looks before a note to the user


def huggingface(
    splits: Sequence[str],
    root: str,
    config: str | None = None,
    revision: str | None = None,
    stems: Mapping[str, str] | None = None,
    track: str | None = None,
    streaming: bool = False,
    limit: int = 0,
) -> Listing:
    """A data set of the hub (``root: user/songs``), a parquet file, a folder of them, or a folder of `save_to_disk`.

    One row is one track. ``stems`` maps names to columns (default: every audio column by its own name); ``track`` is
    the column with the names of the tracks. ``streaming`` downloads only the rows that are read; ``limit`` uses only
    the first rows (0: all).
    """
    if limit < 0:
        raise RecipeError(f"huggingface source: limit is {limit}; expected a number of rows, or 0 for all.")
    listing = Listing()
    named = _split_names(root, config, revision)
    for split in splits:
        found = next((name for name in named if name.lower() in SPLIT_FOLDERS[split]), None)
        if found is None:
            continue
        rows = _Rows(root, config, revision, found, stems, track, streaming, limit)
        for name, result in rows.streamed() if streaming else rows.decoded():
            if isinstance(result, UserError):
                listing.findings.append(Finding("unreadable", f"{split}/{name}", str(result)))
                continue
            kept = sorted(path for path in result.iterdir() if path.suffix in (".flac", ".wav"))
            listing.tracks.append(Listed(name, split, result, {path.stem: (File(path),) for path in kept}))
    if not any(name.lower() in words for name in named for words in SPLIT_FOLDERS.values()):
        raise DataError(f"the data set {root} has the splits {', '.join(named)}; expected train, validation or test.")
    return listing


def _split_names(root: str, config: str | None, revision: str | None) -> list[str]:
    path = expand_home(root)
    if path.is_file():
        return ["train"]
    if (path / SAVED_SPLITS).is_file():
        names = _saved_facts(path / SAVED_SPLITS).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path / SAVED_SPLITS} has splits {shown(names)}; expected a list of names.")
        return names
    if (path / SAVED_STATE).is_file():
        return [str(_saved_facts(path / SAVED_STATE).get("_split") or "train").partition("[")[0]]
    try:
        return datasets.get_dataset_split_names(_place(root), config, revision=revision)
    except Exception as problem:  # of the hub, of the network, of pyarrow
        raise DataError(_unreadable(root, problem)) from None


SAVED_SPLITS, SAVED_STATE = "dataset_dict.json", "state.json"  # what `save_to_disk` writes, of several splits or one


def _saved_facts(path: Path) -> Mapping[str, Any]:
    facts = read_json(path, DataError)
    if not isinstance(facts, dict):
        raise DataError(f"{path} holds {shown(facts)}; expected the mapping that `save_to_disk` writes.")
    return facts


def _load(root: str, config: str | None, revision: str | None, split: str, streaming: bool) -> Any:
    """The rows of one split, as the `datasets` package gives them."""
    path = expand_home(root)
    if (path / SAVED_SPLITS).is_file() or (path / SAVED_STATE).is_file():
        saved = datasets.load_from_disk(str(path))
        rows = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return rows.to_iterable_dataset() if streaming else rows
    if path.is_file():
        return datasets.load_dataset("parquet", data_files=str(path), split=split, streaming=streaming)
    return datasets.load_dataset(_place(root), config, split=split, revision=revision, streaming=streaming)


def _place(root: str) -> str:
    path = expand_home(root)
    return str(path.resolve()) if path.exists() else root


def _unreadable(root: str, problem: Exception) -> str:
    reason = " ".join(str(problem).split())[:300]
    return (
        f"the data set {root!r} cannot be read: {reason}. Expected a name on the Hugging Face hub (user/songs), a "
        "parquet file, or a folder of parquet files."
    )


class _Rows:
    """The rows of one split, each with a name and the bytes of its stems."""

    def __init__(
        self,
        root: str,
        config: str | None,
        revision: str | None,
        split: str,
        stems: Mapping[str, str] | None,
        track: str | None,
        streaming: bool,
        limit: int,
    ):
        self.root, self.split, self.limit = root, split, limit
        path = expand_home(root)
        try:
            rows = _load(root, config, revision, split, streaming)
        except Exception as problem:
            raise DataError(_unreadable(root, problem)) from None
        self.columns = self._audio_columns(rows.features, stems)
        self.name_column = track or next((c for c in TRACK_COLUMNS if c in rows.features), None)
        if self.name_column is not None and self.name_column not in rows.features:
            raise DataError(f"the data set {root} has no column {track!r}.{nearest(str(track), rows.features)}")
        wanted = [*self.columns.values(), *([self.name_column] if self.name_column else [])]
        self.rows = rows.select_columns(list(dict.fromkeys(wanted)))
        for column in set(self.columns.values()):  # bytes, not decoded by the datasets package
            self.rows = self.rows.cast_column(column, datasets.Audio(decode=False))
        kept = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".arrow")) if path.is_dir() else []
        files = kept or ([path] if path.is_file() else [])
        place = f"{content_key(files)} {writing(files)}" if files else root
        self.key = json.dumps([place, config, revision, split, self.columns, self.name_column])

    def _audio_columns(self, features: Any, stems: Mapping[str, str] | None) -> dict[str, str]:
        """stem → column."""
        found = [name for name, kind in (features or {}).items() if _is_audio(kind)]
        columns = dict(stems) if stems else {name: name for name in found}
        for stem, column in columns.items():
            if column not in found:
                raise DataError(
                    f"the data set {self.root} has no audio column {column!r} for the stem {stem!r}."
                    f"{nearest(column, found)} Audio columns: {', '.join(found) or 'none'}."
                )
        if not columns:
            raise DataError(f"the data set {self.root} has no audio column; its columns: {', '.join(features or [])}.")
        return columns

    def _name(self, named: Any, i: int) -> str:
        return f"{self.split}-{i:05d}" if named is None else str(named)

    def _item(self, name: str, key: str, row: Any) -> Item:
        """The stems of a row; ``row`` is a function that gives it."""

        def make(folder: Path) -> None:
            values = row()
            for stem, column in self.columns.items():
                value = values[column]
                if value is not None and (value.get("bytes") or value.get("path")):
                    keep(folder, stem, *_decoded(value, folder, f"column {column!r} of {name} in {self.root}"))

        return Item(f"{Path(self.root).stem}-{name}", f"{READER} {key}", make)

    def decoded(self) -> Iterator[tuple[str, Path | UserError]]:
        """(name, folder or what is wrong with it) of every row."""
        n_rows = min(self.limit or len(self.rows), len(self.rows))
        try:
            column = self.rows[self.name_column][:n_rows] if self.name_column else [None] * n_rows
        except KeyError:  # state.json says which columns are given
            raise DataError(f"the data set {self.root} does not give its column {self.name_column!r}.") from None
        names = [self._name(name, i) for i, name in enumerate(column)]
        written = self._named_files(n_rows)
        items = [
            self._item(name, f"{self.key} {i}{written.get(i, '')}", lambda i=i: self.rows[i])
            for i, name in enumerate(names)
        ]
        yield from zip(names, decode(items, f"decoding {self.root}"), strict=True)

    def _named_files(self, n_rows: int) -> dict[int, str]:
        """Number of a row → a hash that changes when a file that the row names, instead of holding it, is written.

        The bytes of other rows are not read.
        """
        found: dict[int, str] = {}
        columns = sorted(set(self.columns.values()))
        start = 0
        for table in self.rows.select_columns(columns).with_format("arrow").iter(ROWS_AT_ONCE):
            for i in range(min(table.num_rows, n_rows - start)):
                cells = [table.column(column)[i] for column in columns]
                paths = [cell["path"].as_py() for cell in cells if cell.is_valid and not cell["bytes"].is_valid]
                if text := _written([path for path in paths if path]):
                    found[start + i] = text
            start += table.num_rows
            if start >= n_rows:
                break
        return found

    def streamed(self) -> Iterator[tuple[str, Path | UserError]]:
        """The same, from a stream; each process takes its share and waits for the others'."""
        rank, n_processes = share()
        digest = hashlib.sha256(f"{READER} {self.key} {self.limit}".encode()).hexdigest()[:16]
        folder = cache_folder() / "decoded"
        indexes = [folder / f"stream-{digest}-{i}-of-{n_processes}.json" for i in range(n_processes)]
        if not _whole(indexes[rank]):
            results = list(self._streamed_share(rank, n_processes))
            if any(isinstance(result, UserError) for _, _, result, _ in results):  # nothing to remember: to be mended
                yield from ((name, result) for _, name, result, _ in results)
                return
            write_json(indexes[rank], [[i, name, str(result), files] for i, name, result, files in results])
        looks = 0
        while missing := [i for i, index in enumerate(indexes) if not _whole(index)]:
            looks += 1
            if looks == LOOKS_BEFORE_NOTE:
                ranks = ", ".join(map(str, missing))
                say(
                    f"waiting for the rows that process {ranks} of {n_processes} decodes into {folder}; machines that "
                    f"train together must share that folder ({CACHE_VARIABLE})."
                )
            time.sleep(WAIT_SECONDS)
        rows = sorted((row for index in indexes for row in read_json(index)), key=lambda row: row[:2])
        yield from ((name, Path(result)) for _, name, result, _ in rows)

    def _streamed_share(
        self, rank: int, n_processes: int
    ) -> Iterator[tuple[int, str, Path | UserError, dict[str, str]]]:
        """(place, name, folder or error, {file that the row names: hash of its writing}) of every row of a share."""
        rows = self.rows.take(self.limit) if self.limit else self.rows
        if n_processes > 1:
            rows = split_dataset_by_node(rows, rank, n_processes)
        for i, row in enumerate(track(rows, self.limit, f"streaming {self.root}")):
            place = i * n_processes + rank
            name = self._name(row[self.name_column] if self.name_column else None, place)
            cells = [row[column] for column in set(self.columns.values())]
            named = [cell["path"] for cell in cells if cell and cell.get("path") and not cell.get("bytes")]
            files = {path: written for path in named if (written := _written([path]))}
            digest = hashlib.sha256(repr([*sorted(row.items(), key=str), *sorted(files.items())]).encode()).hexdigest()
            yield place, name, decode_one(self._item(name, digest, lambda row=row: row)), files


def _whole(index: Path) -> bool:
    """Whether a process's list of decoded rows exists with all its files, made from the current files."""
    rows = read_json(index) if index.is_file() else [[]]
    return all(
        len(row) == 4 and Path(row[2]).is_dir() and all(_written([path]) == written for path, written in row[3].items())
        for row in rows
    )


def _written(paths: Sequence[str]) -> str:
    """A hash that changes when one of these files changes; empty if none of them exists."""
    files = [Path(path) for path in paths if Path(path).is_file()]
    return writing(files) if files else ""


def _is_audio(feature: Any) -> bool:
    """Whether a column holds audio: marked as such, or with bytes and a path, as in parquet files without the marks."""
    return isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _decoded(value: Mapping[str, Any], folder: Path, where: str) -> tuple[Any, int]:
    if not value.get("bytes"):
        return read_audio(value["path"])
    encoded = folder / f"encoded{Path(value.get('path') or '').suffix or '.audio'}"
    encoded.write_bytes(value["bytes"])
    try:
        return read_audio(encoded)
    except UserError as problem:
        raise DataError(f"{where} is no readable audio: {str(problem).replace(str(encoded), 'it')}") from None
    finally:
        encoded.unlink()


def _recognise(root: Path) -> str:
    if root.is_file():
        return "a parquet file" if root.suffix.lower() == ".parquet" else ""
    return why_holds(root, SAVED_SPLITS, SAVED_STATE, "*.parquet", "*/*.parquet")


HUGGINGFACE = Layout(huggingface, _recognise)
