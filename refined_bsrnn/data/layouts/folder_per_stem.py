"""A folder per stem: ``root/vocals/*.wav``, ``root/drums/*.wav``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...audio import audio_info
from ...errors import UserError
from ..names import MIXTURE, is_known, related
from .listing import File, Listed, Listing, first, folders, is_audio, is_of_system


def is_folder_per_stem(places: Sequence[Path]) -> bool:
    """Whether the folders have names of stems and the files in them do not."""
    files = [(path.stem, place.name) for place in places for path in place.iterdir() if is_audio(path)]
    if any(is_known(name) and not related(name, stem) for name, stem in files):
        return False
    # `vocals_2` is a solo's own folder
    known = [place for place in places if is_known(place.name) and not place.name[-1].isdigit()]
    if known:
        return len(known) * 2 >= len(places) and bool(files or any(_audio_below(place) for place in known))
    names = Counter(name for name, _ in files)
    several = all(sum(stem == place.name for _, stem in files) > 1 for place in places)
    return bool(files) and several and max(names.values()) == 1 and not any(folders(place) for place in places)


def list_folder_per_stem(places: Sequence[tuple[str, Path]], mixture: str, root: str, listing: Listing) -> Listing:
    """``<stem>/<name>.wav``: files with the same name and length are stems of one track, all others are solos."""
    for (split, name), paths in sorted(_by_name(places, mixture, listing).items()):
        files = {stem: (File(path),) for stem, path in paths.items()}
        if len(files) > 1 and _same_length(list(paths.values())):
            listing.tracks.append(Listed(name, split, next(iter(paths.values())).parent.parent, files))
            continue
        for stem, path in paths.items():
            listing.tracks.append(Listed(f"{stem}/{name}", split, path.parent, {stem: files[stem]}))
    n_songs = sum(len(track.files) > 1 for track in listing.tracks)
    stems = list(dict.fromkeys(place.name for _, place in places))
    listing.notes.append(
        f"{root} is read as a folder per stem ({first(stems)}): {n_songs} tracks of files with one name and one "
        f"length, {len(listing.tracks) - n_songs} solos. Otherwise: layout: tracks in data.sources."
    )
    return listing


def _by_name(
    places: Sequence[tuple[str, Path]], mixture: str, listing: Listing
) -> dict[tuple[str, str], dict[str, Path]]:
    """(split, name of the files) → {stem: file}."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for split, place in places:
        stem = MIXTURE if place.name in (mixture, MIXTURE) else place.name
        for path in _audio_below(place):
            name = path.relative_to(place).with_suffix("").as_posix()
            if stem in found.setdefault((split, name), {}):
                listing.add_finding("two_files", f"{split}/{name}", f"{place} has two files for {name!r}.")
            found[split, name][stem] = path
    return found


def _audio_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if is_audio(p) and not any(is_of_system(q) for q in p.parents))


def _same_length(paths: Sequence[Path]) -> bool:
    try:
        return len({audio_info(path).n_samples for path in paths}) == 1
    except UserError:  # the scan names the file
        return False
