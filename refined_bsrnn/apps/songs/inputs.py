"""The songs for a command's inputs: files, folders, patterns; and the files in a folder that are no songs.

    inputs ──> files and folders ──> songs, each with the name of its track

An input that cannot be found or read becomes a song that fails in its turn. Left-out files are counted and listed.
"""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...audio import AUDIO_SUFFIXES, VIDEO_SUFFIXES, open_audio
from ...errors import AudioError
from ...system import address, expand_home, reason_of

# Files that end so are songs, and where one cannot be read this is said; any other file is a song if it can be read.
SONG_SUFFIXES = frozenset(AUDIO_SUFFIXES + VIDEO_SUFFIXES) | {
    *(".wave", ".bwf", ".aifc", ".snd", ".voc", ".mpa", ".m4b", ".m4r", ".f4a", ".3gp", ".3g2", ".spx", ".weba"),
    *(".dts", ".eac3", ".ec3", ".thd", ".mlp", ".amr", ".tak", ".mpc", ".dsf", ".dff", ".ra", ".rm", ".asf", ".ogv"),
    *(".m2ts", ".mts", ".m2t", ".vob", ".mpeg", ".f4v", ".divx"),
}
OWN_STEM = "made by refined-bsrnn"
# How the files that `separate` writes name the program: in wav, in flac and Ogg, in mp3 (two ways).
MARK = re.compile(rb"(ISFT.{4}|SOFTWARE=|TSSE.{6}\x03|SOFTWARE\0)refined-bsrnn ", re.DOTALL | re.IGNORECASE)
MARK_WITHIN = 1 << 16  # bytes from the beginning


@dataclass(frozen=True)
class InputSong:
    """One input and the name of its track; no path: standard input. ``problem``: why it cannot be separated."""

    path: Path | None
    track: str
    problem: str = ""

    @property
    def comes_once(self) -> bool:
        """Whether it is standard input or a pipe with a name (``<(command)`` of a shell, /dev/stdin)."""
        return self.path is None or self.path.is_fifo()

    @property
    def label(self) -> str:
        return str(self.path) if self.path else "standard input"


def find_songs(
    inputs: Sequence[str | Path], out: Path, tell: Callable[[str], None] = lambda sentence: None
) -> list[InputSong]:
    """Files, the songs in folders, the matches of patterns, and ``-`` for standard input, each once.

    The name of a track is that of its file, in a folder with the path from there. If several would have the same name,
    they keep their suffixes, or, if that is not enough, get the folder's name before it. Stems that `separate` made and
    files in the folder ``out`` are no songs when they come from folders and patterns. ``tell`` gets a message for each
    input of which something is left out.
    """
    by_place: dict[str | None, InputSong] = {}  # by where a file really is, however it was named
    for text in map(str, inputs):
        if text == "-":
            by_place.setdefault(None, InputSong(None, "stdin"))
            continue
        left_out: Counter[str] = Counter()
        songs = list(_songs_of(text, out, left_out))
        if left_out:
            hint = " Stems are separated where they are named one by one." if left_out[OWN_STEM] else ""
            tell(f"Left out of {text}: {', '.join(f'{n} {kind}' for kind, n in sorted(left_out.items()))}.{hint}")
        for song in songs or [InputSong(Path(text), f"{text}/", f"{text} holds no audio files.")]:  # no file's name
            by_place.setdefault(_where(song.path or Path()), song)
    found = [song for song in by_place.values() if not song.problem]
    apart = dict(zip(found, _with_unique_names(found), strict=True))
    return [apart.get(song, song) for song in by_place.values()]


def _where(path: Path) -> str:
    """Where a path really leads."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return str(path)


def _songs_of(text: str, out: Path, left_out: Counter[str]) -> Iterator[InputSong]:
    """The songs of one input."""
    found = expand(text)
    for path in found:
        problem = look_up(path)
        if not problem and path.is_dir():
            for song, why in _songs_in(path, _where(out), left_out):
                yield InputSong(song, safe_track(song.relative_to(path).with_suffix("").as_posix()), why)
        elif path != expand_home(text) and not problem and (kind := left_out_as(path)):
            left_out[kind] += 1
        else:
            yield InputSong(path, safe_track(path.stem), problem or address(text))


def look_up(path: Path) -> str:
    """A message why a path cannot be read; empty if it can, or if nothing is there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
        return ""
    except OSError as error:
        return f"{path} cannot be read: {reason_of(error)}."
    return ""


def _songs_in(folder: Path, out: str, left_out: Counter[str]) -> list[tuple[Path, str]]:
    """(song, "") of a folder and those in it, links followed, sorted; (folder, why) of one that cannot be read."""
    found: list[tuple[Path, str]] = []
    waiting, links, seen = [folder], list[Path](), set[str]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop()  # what is reached without a link has its name from there
        real = _where(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            found.append((here, f"the folder {here} cannot be read: {reason_of(error)}."))
            continue
        for entry in entries:
            path = Path(entry.path)
            if os.path.isdir(path) and not is_hidden(path):  # noqa: PTH112 (False if the system does not say)
                if _where(path) == out:
                    left_out["folder of --out"] += 1
                else:
                    (links if entry.is_symlink() else waiting).append(path)
            elif kind := left_out_as(path):
                left_out[kind] += 1
            else:
                found.append((path, ""))
    return sorted(found)


def is_hidden(path: Path) -> bool:
    """Whether a name hides a file; titles may begin with several dots."""
    return path.name.startswith(".") and not path.name.startswith("..")


def left_out_as(path: Path) -> str:
    """The kind under which a file in a folder is left out; empty for a song."""
    suffix = path.suffix.lower()
    if is_hidden(path):
        return "hidden"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "special file"
    except FileNotFoundError:
        return "broken link"
    except OSError:  # it fails with a sentence when its turn comes
        return ""
    if is_own_stem(path):
        return OWN_STEM
    if suffix in SONG_SUFFIXES or _can_be_read(path):
        return ""
    return suffix or "without suffix"


def _can_be_read(path: Path) -> bool:
    try:
        with open_audio(path) as reader:
            return reader.read(1 << 12).shape[1] > 0
    except (AudioError, OSError, RuntimeError, ValueError):  # it may be anything
        return False


def is_own_stem(path: Path) -> bool:
    """Whether `separate` wrote a file, by the program's name in its tags."""
    try:
        with path.open("rb") as file:
            return MARK.search(file.read(MARK_WITHIN)) is not None
    except OSError:
        return False


def expand(text: str) -> list[Path]:
    """The file or folder of that name, or its matches as a pattern (``*``, ``?``, ``[...]``, ``**``), sorted.

    A part of a path that exists literally is no pattern: ``Album [2020]/*.flac``. If nothing matches, the path itself.
    """
    path = expand_home(text)
    if os.path.lexists(path):
        return [path]
    found = [Path(path.anchor)]
    for part in path.parts[1 if path.anchor else 0 :]:
        found = [match for base in found for match in _matches(base, part)]
    return sorted(dict.fromkeys(found)) or [path]


def _matches(base: Path, part: str) -> Iterable[Path]:
    if os.path.lexists(base / part):
        return [base / part]
    if part == "**":
        below = glob.glob("**", root_dir=base, recursive=True)  # noqa: PTH207 (without hidden ones)
        return [base, *(base / found for found in below if found)]
    patterns = [part, part.replace("[", "[[]")]  # the second: as if brackets were letters
    return [base / found for pattern in patterns for found in glob.glob(pattern, root_dir=base)]  # noqa: PTH207


def safe_track(track: str) -> str:
    """A track's name without parts, such as ``..``, that lead out of the folder of its stems."""
    return "/".join(part if part.strip(". ") else "_" * len(part) or "_" for part in track.split("/"))


def _with_unique_names(songs: Sequence[InputSong]) -> list[InputSong]:
    """The songs with a name for each track, as far as suffixes and folders' names make a difference."""
    names = [song.track for song in songs]
    places = [Path(os.path.abspath(song.path)) if song.path else Path() for song in songs]  # noqa: PTH100 (without ..)
    folders = [[*place.parts[1 : -len(Path(song.track).parts)]] for song, place in zip(songs, places, strict=True)]
    while True:
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault(name, []).append(i)
        before = list(names)
        for same in (several for several in groups.values() if len(several) > 1):
            suffixes = {i: places[i].suffix for i in same}
            apart = len(set(suffixes.values())) == len(same)
            for i in same:
                names[i] = names[i] + suffixes[i] if apart else "/".join([*folders[i][-1:], names[i]])
                del folders[i][-1:]
        if names == before:
            return [replace(song, track=name) for song, name in zip(songs, names, strict=True)]
