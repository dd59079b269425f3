"""Slakh2100 and MedleyDB: a metadata file per track names the instrument of every stem."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import RecipeError, first, queried
from ...plain import BoundedLoader, parse_yaml
from ...system import can_be_path, reason_of
from ..names import MIXTURE, slug
from .listing import (
    File,
    Layout,
    Listed,
    Listing,
    folders,
    is_audio,
    note_system_files,
    track_folders,
    visible,
    why_holds,
)


class Instruments:
    """The names of a collection's stems: those of its metadata, or those of an option (name: instruments)."""

    def __init__(self, option: str, mapping: Mapping[str, Any] | None):
        self.option = option
        self.given = {stem_name(i): name for name, listed in (mapping or {}).items() for i in names_of(listed)}
        self.met: set[str] = set()
        self.unnamed: list[str] = []  # audio files that are in no metadata

    def name(self, instrument: str) -> str:
        name = stem_name(instrument)
        self.met.add(name)
        return self.given.get(name, name)

    def note_unread(self, listing: Listing, root: str) -> None:
        """Note the files that are not read, and the instruments of the option that no stem has."""
        listing.note(self.unnamed, f"audio files of {root} are in no metadata and not read")
        idle = [queried(key, self.met) for key in self.given if key not in self.met]
        if idle and self.met:
            known = first(sorted(self.met), 12)
            listing.notes.append(f"{self.option}: no stem is called {first(idle)}; there are {known}.")


def stem_name(instrument: str) -> str:
    """``Strings (continued)`` → ``strings``, ``electric bass`` → ``electric_bass``: a name that a target can have."""
    return slug(re.sub(r"\(.*?\)", "", instrument))


def names_of(value: Any) -> Sequence[str]:
    return tuple(value) if isinstance(value, list | tuple) else (str(value),)


def listed_track(
    name: str, split: str, folder: Path, files: Mapping[str, Sequence[File]], mixes: Sequence[Path]
) -> Listed:
    """A track of a rendered or recorded collection, whose files may end before the song does."""
    mixture = {MIXTURE: (File(mixes[0]),)} if mixes else {}
    return Listed(name, split, folder, {**{stem: tuple(found) for stem, found in files.items()}, **mixture}, True)


def _are_mappings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(facts, dict) for facts in value.values())


def read_metadata(path: Path, where: str, listing: Listing) -> dict[str, Any] | None:
    """The mapping in a YAML file, whose ``stems`` are key → facts; None and a finding if it holds no such mapping."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), BoundedLoader)
        stems: Any = values.get("stems") or {} if isinstance(values, dict) else None
        if _are_mappings(stems) and all(_are_mappings(facts.get("raw") or {}) for facts in stems.values()):
            return {**values, "stems": {str(key): facts for key, facts in stems.items()}}
        problem = "it holds no mapping with a mapping for each of its stems"
    except OSError as error:
        problem = reason_of(error)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
    listing.add_finding("metadata", where, f"{path} cannot be read: {problem}.")
    return None


# --- Slakh2100 --------------------------------------------------------------------------------------------------------


def slakh(splits: Sequence[str], root: str, classes: Mapping[str, Any] | None = None) -> Listing:
    """Slakh2100: ``root/{train,validation,test}/Track00001/`` with ``mix.flac``, ``stems/S00.flac``, ``metadata.yaml``.

    The name of a stem is its instrument class (``Synth Lead`` → ``synth_lead``), or the name that ``classes`` gives it:
    ``{keys: [Piano, Organ]}``. Stems that the metadata list as not rendered have no file; they are counted.
    """
    listing, instruments = Listing(), Instruments("classes", classes)
    n_unrendered = 0
    for split, track in track_folders(Path(root), splits, listing):
        where = f"{split}/{track.name}"
        metadata = read_metadata(track / "metadata.yaml", where, listing)
        if metadata is None:
            continue
        files: dict[str, list[File]] = {}
        folder = track / str(metadata.get("audio_dir", "stems"))
        by_name = {p.stem: p for p in reversed(visible(folder)) if is_audio(p)} if folder.is_dir() else {}
        stems = metadata["stems"]
        instruments.unnamed += [f"{track.name}/{p.name}" for p in sorted(by_name.values()) if p.stem not in stems]
        for key, stem in sorted(stems.items()):
            if key in by_name:
                name = instruments.name("Drums" if stem.get("is_drum") else str(stem.get("inst_class", key)))
                files.setdefault(name, []).append(File(by_name[key]))
            elif stem.get("audio_rendered", True):
                text = f"{track}: metadata.yaml names the stem {key}, which has no file."
                listing.add_finding("missing_file", where, text)
            else:
                n_unrendered += 1
        mixes = sorted(p for p in track.glob("mix.*") if is_audio(p))
        listing.tracks.append(listed_track(track.name, split, track, files, mixes))
    if n_unrendered:
        listing.notes.append(f"{n_unrendered} stems of {root} were never rendered, as their metadata.yaml say.")
    instruments.note_unread(listing, root)
    return listing


SLAKH = Layout(slakh, lambda root: why_holds(root, "*/metadata.yaml", "*/*/metadata.yaml"))


# --- MedleyDB ---------------------------------------------------------------------------------------------------------


def medleydb(
    splits: Sequence[str],
    root: str,
    instruments: Mapping[str, Any] | None = None,
    raw: bool = False,
    bleed: str = "keep",
) -> Listing:
    """MedleyDB: ``<track>/<track>_METADATA.yaml`` with ``<track>_STEMS/`` and ``<track>_RAW/``, in root or root/Audio.

    The name of a stem is its instrument (``electric bass`` → ``electric_bass``), or the name that ``instruments`` gives
    it. ``raw`` uses the raw recordings instead of the stems. ``bleed: skip`` leaves out tracks whose metadata report
    bleed between instruments. The metadata may also be in ``Metadata/``. All tracks are for training.
    """
    if bleed not in ("keep", "skip"):
        raise RecipeError(f"medleydb source: bleed is {bleed!r}; expected keep or skip.")
    listing, path, bleeding = Listing(), Path(root), list[str]()
    known = Instruments("instruments", instruments)
    for track in _song_folders(path, listing) if "train" in splits else []:
        where = f"train/{track.name}"
        metadata = read_metadata(_medley_metadata(track, path), where, listing)
        if metadata is None:
            continue
        if str(metadata.get("has_bleed", "no")).lower() in ("yes", "true"):
            bleeding.append(track.name)
            if bleed == "skip":
                continue
        files = _medley_files(track, metadata, raw, known, where, listing)
        mixes = [p for p in [track / str(metadata.get("mix_filename", f"{track.name}_MIX.wav"))] if p.is_file()]
        listing.tracks.append(listed_track(track.name, "train", track, files, mixes))
    known.note_unread(listing, root)
    done = "are left out" if bleed == "skip" else "are kept (bleed: skip leaves them out)"
    listing.note(bleeding, f"tracks of {root} have bleed and {done}")
    return listing


def _song_folders(root: Path, listing: Listing) -> list[Path]:
    """The folders with ``_STEMS`` or ``_RAW``. Notes the others."""
    audio = root / "Audio" if (root / "Audio").is_dir() else root
    note_system_files([audio], listing)
    songs = [t for t in folders(audio) if (t / f"{t.name}_STEMS").is_dir() or (t / f"{t.name}_RAW").is_dir()]
    others = [t.name for t in folders(audio) if t not in songs and t.name != "Metadata"]
    listing.note(others, f"folders in {audio} have no _STEMS or _RAW and are not read")
    return songs


def _medley_metadata(track: Path, root: Path) -> Path:
    name = f"{track.name}_METADATA.yaml"
    places = [track / name, root / "Metadata" / name, root.parent / "Metadata" / name]
    return next((p for p in places if p.is_file()), places[0])


def _medley_files(
    track: Path, metadata: Mapping[str, Any], raw: bool, known: Instruments, where: str, listing: Listing
) -> dict[str, list[File]]:
    files: dict[str, list[File]] = {}
    folder = track / str(metadata.get("raw_dir" if raw else "stem_dir", f"{track.name}_{'RAW' if raw else 'STEMS'}"))
    left = {p for p in visible(folder) if is_audio(p)} if folder.is_dir() else set()
    for _, stem in sorted(metadata["stems"].items()):
        raws: Mapping[str, Any] = stem.get("raw") or {}
        sources = [source for _, source in sorted(raws.items(), key=str)] if raw else [stem]
        for source in sources:
            path = folder / str(source.get("filename"))
            left.discard(path)
            instrument = source.get("instrument") or stem.get("instrument") or "unlabeled"
            if can_be_path(str(path)) and path.is_file():
                files.setdefault(known.name(str(names_of(instrument)[0])), []).append(File(path))
            else:
                text = f"{track}: its metadata name {path.name}, which is not there."
                listing.add_finding("missing_file", where, text)
    known.unnamed += [f"{folder.name}/{path.name}" for path in sorted(left)]
    return files


MEDLEYDB = Layout(medleydb, lambda root: why_holds(root, "*/*_METADATA.yaml", "Audio/*/*_STEMS"))
