"""Code that all layouts share: the listing of a source, and walking through folders of tracks.

A layout is one file of this folder and one line in `sources.LAYOUTS`. It reads names and small text files; files that
need a special package are decoded once (`decode`). `scan` reads the headers of the listed files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...audio import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from ...errors import DataError, first
from ..decode import STEM_SUFFIXES

SPLITS = ("train", "valid", "test")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
# Folders that operating systems and file servers make beside a user's own, in lower case.
SYSTEM_FOLDERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information")
SYSTEM_FILES = (".ds_store", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Finding:
    """A message about the data for the user."""

    kind: str  # a key of `findings.KINDS`
    where: str  # split/track
    text: str
    stops: bool = True  # whether training cannot go on with it


@dataclass(frozen=True)
class File:
    """A file, or a part of one, as its source lists it."""

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
    padded: bool = False  # whether files of one track often differ in length in this source; silence follows them
    weight: float = 1.0  # how often it is drawn, beside a track of weight 1


@dataclass
class Listing:
    """The tracks of a source, its problems, and notes for the user on how it was read."""

    tracks: list[Listed] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_finding(self, kind: str, where: str, text: str, stops: bool = True) -> None:
        self.findings.append(Finding(kind, where, text, stops))

    def note(self, names: Sequence[str], text: str) -> None:
        """Note ``N {text}: the first few names``; nothing if there are none."""
        if names:
            self.notes.append(f"{len(names)} {text}: {first(names)}.")


@dataclass(frozen=True)
class Layout:
    """One kind of data set on the disk."""

    list_tracks: Callable[..., Listing]  # (splits, **options of the source) → its tracks
    recognise: Callable[[Path], str] = lambda root: ""  # root → why it has this layout; empty: it does not look like it


def why_holds(root: Path, *patterns: str) -> str:
    """``it holds train/a.stem.mp4`` for the first file that matches one of the patterns; empty if none does."""
    if not root.is_dir():
        return ""
    found = next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)
    return f"it holds {found.relative_to(root)}" if found else ""


def visible(path: Path) -> list[Path]:
    """The content of a folder, without hidden files and files of operating systems."""
    return sorted(p for p in path.iterdir() if not p.name.startswith(".") and not is_of_system(p))


def folders(path: Path) -> list[Path]:
    return [p for p in visible(path) if p.is_dir()]


def is_of_system(path: Path) -> bool:
    """Whether an operating system or a file server made a file or folder, not a person."""
    return path.name.lower() in (*SYSTEM_FOLDERS, *SYSTEM_FILES)


def note_system_files(places: Sequence[Path], listing: Listing) -> None:
    """Note the files of operating systems in these folders, which are left out."""
    found = [f"{place.name}/{path.name}" for place in places for path in sorted(place.iterdir()) if is_of_system(path)]
    listing.note(found, "files or folders that an operating system made are left out")


def track_folders(root: Path, splits: Sequence[str], listing: Listing) -> list[tuple[str, Path]]:
    """(split, track folder) of a root with or without a folder per split. Notes everything next to them."""
    if not root.is_dir():
        raise DataError(f"{root} is a file; expected a folder of tracks.")
    inside = folders(root)
    by_split = [(SPLIT_OF[p.name.lower()], p) for p in inside if p.name.lower() in SPLIT_OF]
    note_system_files([root, *(p for split, p in by_split if split in splits)], listing)
    if by_split:
        others = [p.name for p in inside if p.name.lower() not in SPLIT_OF]
        listing.note(others, f"folders in {root} are no split and are not read")
        return [(split, track) for split, p in by_split if split in splits for track in folders(p)]
    if "train" in splits and any(has_audio(p) for p in inside):
        return [("train", p) for p in inside]
    return []


def has_audio(track: Path) -> bool:
    """Whether a track folder, or a folder in it, holds an audio file."""
    return any(is_audio(p) for p in track.iterdir()) or any(is_audio(p) for f in folders(track) for p in f.iterdir())


def is_audio(path: Path) -> bool:
    """Whether a file is audio or video by its name; a link to nothing is one that cannot be read."""
    if path.name.startswith(".") or path.name.lower().endswith(STEM_SUFFIXES):  # five streams: a layout of its own
        return False
    is_file = path.is_file() or (path.is_symlink() and not path.exists())
    return is_file and path.suffix.lower() in (*AUDIO_SUFFIXES, *VIDEO_SUFFIXES)
