"""MUSDB18 and other sets of ``.stem.mp4`` or ``.stem.m4a`` files, each of which holds a mixture and four stems."""

from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError, UserError
from ..decode import STEM_SUFFIXES, decode, decoded_file, musdb_stems, without_stem_suffix
from ..names import MIXTURE, MUSDB_STEMS
from .listing import SPLIT_OF, File, Layout, Listed, Listing, folders, note_system_files, visible, why_holds


def musdb(splits: Sequence[str], root: str) -> Listing:
    """``root/{train,test}/<track>.stem.mp4`` (MUSDB18, not HQ) or ``root/<track>.stem.mp4``; `musdb` decodes it once.

    Without folders for the splits every track is for training.
    """
    listing, path = Listing(), Path(root)
    songs = _songs(path, listing)
    if not songs:
        raise DataError(
            f"no {' or '.join(STEM_SUFFIXES)} files in {path}, {path}/train or {path}/test; MUSDB18-HQ (wav) is a "
            "folder source."
        )
    wanted = [(split, file) for split in splits for s, file in songs if s == split]
    results = decode([musdb_stems(file) for _, file in wanted], "decoding stem files")
    for (split, file), result in zip(wanted, results, strict=True):
        name = without_stem_suffix(file.name)
        if isinstance(result, UserError):
            listing.add_finding("unreadable", f"{split}/{name}", str(result))
            continue
        files = {stem: (File(decoded_file(result, stem)),) for stem in (MIXTURE, *MUSDB_STEMS)}
        listing.tracks.append(Listed(name, split, result, files))
    return listing


def _songs(root: Path, listing: Listing) -> list[tuple[str, Path]]:
    """(split, file) of every stem file. Notes the files that are none."""
    splits = [(SPLIT_OF[place.name.lower()], place) for place in folders(root) if place.name.lower() in SPLIT_OF]
    splits = splits or [("train", root)]
    note_system_files([place for _, place in splits], listing)
    inside = [(split, file) for split, place in splits for file in visible(place)]
    others = [f"{file.parent.name}/{file.name}" for _, file in inside if not _is_stem_file(file)]
    listing.note(others, f"files or folders in {root} are no {' or '.join(STEM_SUFFIXES)}")
    return [(split, file) for split, file in inside if _is_stem_file(file)]


def _is_stem_file(path: Path) -> bool:
    return path.name.lower().endswith(STEM_SUFFIXES)


MUSDB = Layout(
    musdb, lambda root: why_holds(root, *(f"{place}*{end}" for end in STEM_SUFFIXES for place in ("", "*/")))
)
