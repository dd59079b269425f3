"""A folder per track (MUSDB18-HQ, MoisesDB: ``root/{train,valid,test}/<track>/<stem>.wav``), or a folder per stem
(``root/vocals/*.wav``, ``root/drums/*.wav``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...audio import audio_info
from ...errors import DataError, RecipeError, UserError, first, nearest
from ..names import MIXTURE, families, is_known, related, slug
from .listing import (
    File,
    Layout,
    Listed,
    Listing,
    folders,
    is_audio,
    is_of_system,
    track_folders,
    visible,
)


def folder(splits: Sequence[str], root: str, mixture: str = MIXTURE, layout: str = "auto") -> Listing:
    """``root/{train,valid,test}/<track>/<stem>.wav`` or ``root/<track>/<stem>.wav``; a stem may be a folder of files.

    The files of a stem's folder are summed (MoisesDB). ``mixture`` is the name of the mixtures. Without folders for the
    splits every track is for training. ``layout: stems`` means one folder per stem, ``tracks`` one per track; ``auto``
    decides by the names.
    """
    listing = Listing()
    place = Path(root)
    tracks = track_folders(place, splits, listing)
    if layout not in ("auto", "tracks", "stems"):
        raise RecipeError(f"folder source: layout is {layout!r}; expected auto, tracks or stems.")
    if layout == "stems" or (layout == "auto" and is_folder_per_stem([path for _, path in tracks])):
        return list_folder_per_stem(tracks, mixture, root, listing)
    unread = Counter(
        f"{path.name} (beside the tracks)"
        for parent in sorted({track.parent for _, track in tracks})
        for path in parent.iterdir()
        if is_audio(path)
    )
    albums: list[str] = []
    for split, track in tracks:
        songs = _songs_in(track)
        for song in songs or [track]:
            name = f"{track.name} - {song.name}" if len(songs) > 1 else track.name
            _add_track(split, song, name, place, unread, listing)
        albums += [f"{split}/{track.name} ({len(songs)})"] if songs else []
    listing.note(albums, "folders hold folders of songs, which are read")
    if mixture != MIXTURE:
        listing.tracks = _with_mixture_named(mixture, root, listing)
    if unread:
        named = first([f"{suffix} {count}" for suffix, count in sorted(unread.items())])
        listing.notes.append(f"{sum(unread.values())} files or folders in {root} are not read: {named}.")
    return listing


def _songs_in(track: Path) -> list[Path]:
    """The folders of songs in a candidate for a track's folder; none if they are folders of stems.

    A song has a mixture, or stems of two kinds; the folder of a stem is called by its kind.
    """
    if any(is_audio(path) for path in track.iterdir()):
        return []
    found = []
    for path in folders(track):
        names = [p.stem for p in visible(path) if is_audio(p)]
        kinds = [frozenset(families(name)) or name for name in names if is_known(name)]
        if not is_known(path.name) and (len(set(kinds)) > 1 or slug(MIXTURE) in map(slug, names)):
            found.append(path)
    return found


def _add_track(split: str, track: Path, name: str, root: Path, unread: Counter[str], listing: Listing) -> None:
    """List one track folder, or the problem with it."""
    where = f"{split}/{name}"
    files, problems = _stems_in(track, unread)
    for problem in problems:
        listing.add_finding("two_files", where, problem)
    if not files:
        text = f"the track folder {track} holds no audio file; expected <stem>.wav. Remove it or fill it."
        # beside songs without splits there may be other things
        listing.add_finding("empty_track", where, text, stops=track.parent != root)
        return
    has_folders = any(file.path.parent != track for found in files.values() for file in found)
    listing.tracks.append(Listed(name, split, track, files, padded=has_folders))


def _stems_in(track: Path, unread: Counter[str]) -> tuple[dict[str, tuple[File, ...]], list[str]]:
    """stem → its files, and a message for each stem that has two; counts by suffix the files that are no audio."""
    found: dict[str, list[Path]] = {}
    problems = []
    for path in sorted(track.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_of_system(path):
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            unread.update(p.suffix or p.name for p in inside if p.is_file() and not is_audio(p))
            unread.update(f"{path.name}/{p.name}/" for p in folders(path))
            stem, paths = path.name, [p for p in inside if is_audio(p)]
        else:
            stem, paths = path.stem, [path] if is_audio(path) else []
            unread.update([] if paths else [path.suffix or path.name])
        if paths and stem in found:
            problems.append(f"{track} has two files for {stem!r}: {found[stem][0].name} and {path.name}.")
        elif paths:
            found[stem] = paths
    return {stem: tuple(File(p) for p in paths) for stem, paths in found.items()}, problems


def _with_mixture_named(mixture: str, root: str, listing: Listing) -> list[Listed]:
    """The tracks with the stem ``mixture`` as their mixture; `DataError` if no track has it."""
    named = [track for track in listing.tracks if mixture in track.files]
    if listing.tracks and not named:
        names = {name for track in listing.tracks for name in track.files}
        raise DataError(f"folder source: no track in {root} has a file {mixture!r} (mixture).{nearest(mixture, names)}")
    replaced = [track.name for track in named if MIXTURE in track.files]
    if replaced:
        text = f"{len(replaced)} tracks have a {MIXTURE} beside {mixture}: it is not read ({first(replaced)})."
        listing.notes.append(text)

    def renamed(files: Mapping[str, tuple[File, ...]]) -> dict[str, tuple[File, ...]]:
        return {stem: f for stem, f in files.items() if stem != mixture} | {MIXTURE: files[mixture]}

    return [replace(t, files=renamed(t.files)) if mixture in t.files else t for t in listing.tracks]


# --- a folder per stem ------------------------------------------------------------------------------------------------


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


FOLDER = Layout(folder)
