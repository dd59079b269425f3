"""The weights of stems' labels: ``data.stem_weights``, a table of track, stem and weight."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import DataError, first, nearest
from .layouts.manifest import read_text
from .names import REST
from .parts import TrackParts
from .tracks import Track

Weights = dict[tuple[str, str], float]  # (track, stem) → weight


def read_stem_weights(path: Path) -> Weights:
    """The weights from a CSV with the columns track, stem and weight (0 to 1; without that column: 0).

    Raises `DataError` for a file that does not exist, lacks a column, or has another weight.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        columns, rows = [str(column) for column in reader.fieldnames or ()], list(reader)
    except OSError as problem:
        raise DataError(f"data.stem_weights is {path}, which cannot be read: {problem.strerror}.") from None
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num} is no row of a table: {problem}.") from None
    misspelt = "weight" not in columns and nearest("weight", columns)
    if rows and (misspelt or not {"track", "stem"} <= set(columns)):
        raise DataError(f"{path} has the columns {', '.join(columns)}; expected track, stem and weight.")
    weights = {}
    for line, row in enumerate(rows, 2):
        if row["track"] is None or row["stem"] is None:
            raise DataError(f"{path}, line {line} ends before its track and stem are named.")
        try:
            weight = float(row.get("weight") or 0.0)
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 1:
            raise DataError(f"{path}, line {line}: the weight is {row['weight']!r}; expected a number from 0 to 1.")
        weights[row["track"], row["stem"]] = weight
    return weights


def with_label_weights(song: TrackParts, weights: Mapping[tuple[str, str], float]) -> TrackParts:
    """The song without the parts of weight 0: they are in no mixture, except as part of the rest of one."""
    own = {part: weights.get((song.track.name, part), 1.0) for part in (*song.parts, *song.target_parts)}
    bad = {part for part, weight in own.items() if weight == 0}
    bad_targets = bad | {t for t, parts in song.target_parts.items() if bad & set(parts)}
    if REST in song.parts:  # a bad stem stays in the mixture, from which it cannot be separated: only its label goes
        kept = song.parts if not bad & set(song.parts) else tuple(p for p in song.parts if p not in bad)
        subtracted = tuple(part for part in kept if part != REST)
    else:
        kept, subtracted = tuple(part for part in song.parts if part not in bad), song.subtracted
    sums = {target: parts for target, parts in song.target_parts.items() if target not in bad_targets}
    weighted = {part: weight for part, weight in own.items() if weight != 1}
    return replace(song, parts=kept, target_parts=sums, subtracted=subtracted, label_weights=weighted)


def label_weight_notes(tracks: Sequence[Track], weights: Weights, path: str | None) -> list[str]:
    """The number of stems that the table leaves out. Raises `DataError` if it names no stem of a training track."""
    if not weights:
        return []
    own = {key: w for key, w in weights.items() if any(t.name == key[0] and key[1] in t.files for t in tracks)}
    if not own:
        raise DataError(
            f"none of the {len(weights)} stems in {path} is one of the training tracks'; its first is "
            f"{' / '.join(next(iter(weights)))}."
        )
    dropped = sum(weight == 0 for weight in own.values())
    others = [" / ".join(key) for key in weights if key not in own]
    return [
        f"{path}: {dropped} training stems are left out and {len(own) - dropped} count less; "
        f"{len(others)} of its lines name no stem of a training track{f' ({first(others)})' if others else ''}."
    ]
