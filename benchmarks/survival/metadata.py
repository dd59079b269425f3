"""The files that describe a collection of songs: valid ones beside real (tiny) audio, and how they are read."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import mutate
from .world import put, write_song


def csv_lines(value: Any) -> bytes:
    """A table of the mappings in a list; a key is a column."""
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(map(str, keys)), *(",".join(mutate.text_of(row.get(key, "")) for key in keys) for row in rows)]
    return "\n".join(lines).encode(errors="replace")


CSV_TRICKS = [
    b"track,stem,path\n" + b"x" * 200_000, b'track,stem,path\n"', b"x" * 200_000, b"", b"\n\n", b"\xef\xbb\xbf", b",,",
    b"track;stem;path\na;b;c;d;e", b"\0,\0\n\0", b'a"b,"c\nd', b"track,stem,weight\na,b,c,d", b"track,stem\r\ra,b",
    b"track,stem,weight\na,b,nan\nc,d,1e400", b"track,stem,weight\na", b"vocals_path,vocals_file\na,b", b"a\xff,b",
]  # fmt: skip


def scanned(root: Path, kind: str = "auto", **options: Any) -> Any:
    """As training begins to read a source of songs."""
    from refined_bsrnn.data.scan import scan
    from refined_bsrnn.recipe import DataSpec, SourceSpec

    return scan(DataSpec(sources=(SourceSpec(kind, 1.0, {"root": str(root), **options}),)), ("train",)).usable()


# --- Slakh2100, MedleyDB ----------------------------------------------------------------------------------------------


def begin_slakh(folder: Path) -> None:
    """A track with two rendered stems."""
    track = folder / "slakh" / "train" / "Track00001"
    if not track.exists():
        write_song(track / "stems", stems=("S00", "S01"), seconds=0.2)
        (track / "stems" / "mixture.wav").rename(track / "mix.wav")


def slakhs(folder: Path) -> list[Any]:
    """Metadata as they come with Slakh2100."""
    facts = {"inst_class": "Piano", "is_drum": False, "audio_rendered": True, "midi_saved": True, "program_num": 0}
    stems = {"S00": facts, "S01": {**facts, "inst_class": "Drums", "is_drum": True}}
    lost = {**stems, "S02": {**facts, "audio_rendered": False, "plugin_name": "None"}}
    values = {"UUID": "1a2b", "audio_dir": "stems", "lmd_midi_dir": "x", "normalized": True, "overall_gain": 0.1}
    return [{**values, "stems": stems}, {**values, "target_peak": -1.0, "stems": lost}]


def read_slakh(data: bytes, folder: Path) -> Any:
    """The track's metadata, read with the songs around them."""
    put(data, folder / "slakh" / "train" / "Track00001" / "metadata.yaml")
    return scanned(folder / "slakh", "slakh", classes={"keys": ["Piano"]})


def begin_medley(folder: Path) -> None:
    """A track with two stems, one of them with a raw recording."""
    track = folder / "medley" / "A_B"
    if not track.exists():
        write_song(track / "A_B_STEMS", stems=("A_B_STEM_01", "A_B_STEM_02"), seconds=0.2)
        (track / "A_B_STEMS" / "mixture.wav").rename(track / "A_B_MIX.wav")
        (track / "A_B_RAW").mkdir()
        shutil.copy(track / "A_B_STEMS" / "A_B_STEM_01.wav", track / "A_B_RAW" / "A_B_RAW_01_01.wav")


def medleys(folder: Path) -> list[Any]:
    """Metadata as they come with MedleyDB."""
    raw = {"R01": {"filename": "A_B_RAW_01_01.wav", "instrument": "drum set"}}
    stems = {
        "S01": {"component": "", "filename": "A_B_STEM_01.wav", "instrument": "drum set", "raw": raw},
        "S02": {"component": "melody", "filename": "A_B_STEM_02.wav", "instrument": ["male singer", "vocalists"]},
    }
    values = {"artist": "A", "title": "B", "has_bleed": "no", "instrumental": "no", "mix_filename": "A_B_MIX.wav"}
    return [{**values, "stem_dir": "A_B_STEMS", "raw_dir": "A_B_RAW", "stems": stems}, {**values, "stems": stems}]


def read_medley(data: bytes, folder: Path) -> Any:
    """The track's metadata, read with the songs around them: for its stems or for its raw recordings."""
    put(data, folder / "medley" / "A_B" / "A_B_METADATA.yaml")
    options: Mapping[str, Any] = {"raw": True} if len(data) % 2 else {"instruments": {"drums": ["drum set"]}}
    return scanned(folder / "medley", "medleydb", bleed="skip" if len(data) % 3 else "keep", **options)


# --- tables -----------------------------------------------------------------------------------------------------------


def wide_tables(folder: Path) -> list[Any]:
    """A line per track and a column per stem."""
    song = write_song(folder / "song-0", stems=("vocals", "drums"), seconds=0.2)
    row = {"mix_path": str(song / "mixture.wav"), "vocals_path": str(song / "vocals.wav"), "duration": 0.2}
    other = {"track": "b", "split": "train", "weight": 2, "drums_file": str(song / "drums.wav")}
    return [[row], [{"track": "a", **row}, other]]


def read_wide(data: bytes, folder: Path) -> Any:
    """The table by its own name, so that its kind is guessed."""
    return scanned(put(data, folder / "songs.csv"))


def label_weights(folder: Path) -> list[Any]:
    """``data.stem_weights``."""
    rows = [{"track": "song-0", "stem": stem, "weight": weight} for stem, weight in (("vocals", 0), ("drums", 0.5))]
    return [rows, [{"track": "song-0", "stem": "vocals"}]]


def read_label_weights(data: bytes, folder: Path) -> Any:
    """The weights, and how they fit the songs."""
    from refined_bsrnn.data.label_weights import label_weight_notes, read_stem_weights
    from refined_bsrnn.data.tracks import Track

    weights = read_stem_weights(put(data, folder / "weights.csv"))
    return label_weight_notes([Track("song-0", "train", "", 10, 8000, 2, {"vocals": ()}, "")], weights, "weights.csv")


# --- data sets of the `datasets` package ------------------------------------------------------------------------------


def begin_saved(folder: Path) -> None:
    """What `save_to_disk` writes, of one split and of two; nothing is asked of the network."""
    import datasets

    os.environ["HF_DATASETS_CACHE"] = str(folder / "hf")
    datasets.config.HF_DATASETS_CACHE = folder / "hf"
    datasets.disable_progress_bars()
    if not (folder / "saved").exists():
        song = write_song(folder / "hub-song", stems=("vocals",), seconds=0.2)
        values = {"vocals": [{"bytes": (song / "vocals.wav").read_bytes(), "path": "v.wav"}], "title": ["a"]}
        rows = datasets.Dataset.from_dict(values)
        rows.save_to_disk(str(folder / "saved"))
        datasets.DatasetDict({"train": rows}).save_to_disk(str(folder / "splits"))


NOTES = ("saved/state.json", "saved/dataset_info.json", "splits/dataset_dict.json", "splits/train/state.json")


def saved_notes(folder: Path) -> Sequence[Any]:
    """[which file, its values]: every JSON file beside the rows."""
    begin_saved(folder)
    return [[i, json.loads((folder / name).read_text())] for i, name in enumerate(NOTES)]


def noted(write: Callable[[Any], bytes]) -> Callable[[Any, Any], bytes]:
    """Inputs whose first byte says which of the `NOTES` the rest is."""
    make = mutate.structured(write)
    return lambda seed, chance: bytes([seed[0]]) + make(seed[1], chance)


def read_saved(data: bytes, folder: Path) -> Any:
    """The data set with one of its files replaced."""
    path = folder / NOTES[data[0]]
    valid = path.read_bytes()
    try:
        path.write_bytes(data[1:])
        return scanned(path.parents[path.parent.name == "train"], "huggingface")
    finally:
        path.write_bytes(valid)


def parquets(folder: Path) -> list[bytes]:
    """A file of rows with a column of audio."""
    begin_saved(folder)
    import datasets

    rows = datasets.load_from_disk(str(folder / "saved"))
    rows.to_parquet(str(folder / "seed.parquet"))
    return [(folder / "seed.parquet").read_bytes()]


def read_parquet(data: bytes, folder: Path) -> Any:
    """The rows, decoded."""
    try:
        return scanned(put(data, folder / "songs.parquet"))
    finally:
        for place in (folder / "hf", folder / "cache"):
            shutil.rmtree(place, ignore_errors=True)
