"""MedleyDB: recorded songs with stems and raw recordings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import RecipeError
from .collection import Instruments, listed_track, names_of, read_metadata, stem_facts
from .listing import (
    File,
    Layout,
    Listing,
    existing,
    first,
    folders,
    is_audio,
    note_system_files,
    visible,
    why_holds,
)


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
    listing, path, bleeding = Listing(), existing(root, "medleydb"), list[str]()
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
    if bleeding:
        done = "are left out" if bleed == "skip" else "are kept (bleed: skip leaves them out)"
        listing.notes.append(f"{len(bleeding)} tracks of {root} have bleed and {done}: {first(bleeding)}.")
    return listing


def _song_folders(root: Path, listing: Listing) -> list[Path]:
    """The folders with ``_STEMS`` or ``_RAW``. Notes the others."""
    audio = root / "Audio" if (root / "Audio").is_dir() else root
    note_system_files([audio], listing)
    songs = [t for t in folders(audio) if (t / f"{t.name}_STEMS").is_dir() or (t / f"{t.name}_RAW").is_dir()]
    others = [t.name for t in folders(audio) if t not in songs and t.name != "Metadata"]
    if others:
        listing.notes.append(
            f"{len(others)} folders in {audio} have no _STEMS or _RAW and are not read: {first(others)}."
        )
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
    for _, stem in sorted(stem_facts(metadata).items()):
        raws: Mapping[str, Any] = stem.get("raw") or {}
        sources = [source for _, source in sorted(raws.items())] if raw else [stem]
        for source in sources:
            path = folder / str(source.get("filename"))
            left.discard(path)
            instrument = source.get("instrument") or stem.get("instrument") or "unlabeled"
            if path.is_file():
                files.setdefault(known.name(str(names_of(instrument)[0])), []).append(File(path))
            else:
                text = f"{track}: its metadata name {path.name}, which is not there."
                listing.add_finding("missing_file", where, text)
    known.unnamed += [f"{folder.name}/{path.name}" for path in sorted(left)]
    return files


MEDLEYDB = Layout(medleydb, lambda root: why_holds(root, "*/*_METADATA.yaml", "Audio/*/*_STEMS"))
