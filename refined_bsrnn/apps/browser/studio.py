"""The users' songs on the disk, for as long as they are needed; independent of pages. See `app`."""

import math
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import AudioError, RecipeError, UserError
from ...separation.chunks import out_of_memory
from ...separation.separator import Separator
from ...separation.source import open_source
from ...system import reason_of
from ...temporary import owned_folder
from ..songs.ensemble import Ensemble, HeadRef
from ..songs.inputs import InputSong
from ..songs.options import SeparationOptions
from ..songs.outputs import outputs
from ..songs.stems import Result, separate_song

MAX_SONGS = 32  # on disk, and again as many waiting, over all users
MAX_HEADS = 32  # added by users: they stay in memory
MAX_HEAD_MB = 256
BROKEN_OFF_SECONDS = 60.0  # an upload of which nothing has come for so long will not go on
GONE = "this song is not here any more. Drop it again."
NO_SONG = "there is no song yet. Drop one first."


class _Dropped(Exception):
    """The song is not wanted any more."""


@dataclass
class Upload:
    """The state of one upload; ``folder``: the folder of its stems, with a name that cannot be guessed."""

    folder: Path
    track: str
    dropped: bool = False
    working: bool = True
    result: Result | None = None
    zipping: threading.Lock = field(default_factory=threading.Lock)  # one archive, however many ask for it

    @property
    def key(self) -> str:
        return self.folder.name


@dataclass
class Visit:
    """The songs of an open page."""

    seen: float = field(default_factory=time.monotonic)
    file: Path | None = None
    song: Upload | None = None


class Studio:
    """The songs of all users and their places on the disk; a context manager.

    ``label``: the name of the model; ``max_mb``: the largest upload; ``keep_seconds``: the time after which the songs
    of a page without requests are deleted. Raises `RecipeError` if one of them is not above 0, or not finite.
    """

    def __init__(self, separator: Separator, label: str, max_mb: float = 500.0, keep_seconds: float = 3600.0):
        if not 0 < max_mb < math.inf or not 0 < keep_seconds < math.inf:
            raise RecipeError(f"max_mb {max_mb:g}, keep_seconds {keep_seconds:g}; expected more than 0, finite.")
        self.separator, self.label, self.max_mb, self.keep_seconds = separator, label, max_mb, keep_seconds
        self.visits: dict[str, Visit] = {}
        # file → its size, its time, and since when (of the clock that does not jump) they are the same
        self.unchanged: dict[Path, tuple[int, int, float]] = {}
        self.n_added = 0
        self.lock = threading.RLock()
        self.network = threading.Lock()  # heads are not added while the network runs
        self.closing = threading.Event()

    def __enter__(self) -> "Studio":
        self.temporary = owned_folder(Path(tempfile.gettempdir()), "refined-bsrnn-app-")
        self.folder = self.temporary.__enter__().resolve()
        self.uploads, self.songs = self.folder / "uploads", self.folder / "songs"
        self.uploads.mkdir()
        self.songs.mkdir()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.set()
        for session in list(self.visits):
            self.leave(session)
        self.watcher.join()
        with self.network:  # what is being separated ends at its next chunk
            self.temporary.__exit__(None, None, None)

    # --- what pages ask for ------------------------------------------------------------------------------------------

    def visit(self, session: str) -> Visit:
        """The songs of the page with that session, which is open now."""
        with self.lock:
            visit = self.visits.setdefault(session, Visit())
            visit.seen = time.monotonic()
            return visit

    def arrived(self, session: str, path: Path | None) -> str:
        """Check an upload and describe it; raises `AudioError` for a file that cannot be separated, which is not
        kept.
        """
        if path is None:
            raise AudioError(NO_SONG)
        visit = self.visit(session)
        if visit.file != path:
            self._forget_upload(visit)
        visit.file = path
        try:
            if not path.is_file():
                raise AudioError(GONE)
            if not path.stat().st_size:
                raise AudioError(f"{path.name} is empty.")
            source = open_source(path, 0)
        except UserError as error:
            self._forget_upload(visit)
            raise AudioError(plain(error, path.parent)) from None
        channels = {1: "mono", 2: "stereo"}.get(source.n_channels, f"{source.n_channels} channels")
        length = [] if source.n_samples is None else [clock(source.n_samples / source.sample_rate_hz)]
        return ", ".join([*length, f"{source.sample_rate_hz} Hz", channels])

    def separate(
        self, session: str, path: Path | None, heads: list[str], residual: bool, progress: Callable[[float], None]
    ) -> Upload | None:
        """The stems of an upload; None if it is not wanted any more.

        Raises `UserError` for a song that cannot be separated.
        """
        if path is None:
            raise AudioError(NO_SONG)
        if not heads:
            raise RecipeError("no heads are chosen; expected at least one.")
        self.separator.model.check_targets(heads)
        if residual and "residual" in heads:
            raise RecipeError("there is a head called residual: choose it or what the heads leave, not both.")
        song = self._begin(session, path)

        def on(share: float) -> None:
            progress(share)
            if song.dropped:
                raise _Dropped

        refs = [HeadRef(self.label, name, (i,)) for i, name in enumerate(heads)]
        ensemble = Ensemble([(self.separator, heads)], refs)
        wanted = SeparationOptions(tuple(heads), residual=residual, out=song.folder, name="{track} - {head}")
        try:
            with self.network:
                song.result = separate_song(
                    InputSong(path, song.track), ensemble, wanted, outputs(ensemble, wanted), on
                )
            return None if song.dropped else song
        except _Dropped:
            return None
        except (UserError, OSError) as error:
            raise AudioError(plain(error, path.parent, song.folder)) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            raise AudioError("the memory is used up. Close other programs, or use another --device.") from None
        finally:
            song.working = False
            if song.result is None:
                self._drop(song)
            self._delete(song)

    def _begin(self, session: str, path: Path) -> Upload:
        """The place of a new song, which replaces what the page had."""
        if not path.is_file():
            raise AudioError(GONE)
        self.drop(session)
        with self.lock:
            if sum(visit.song is not None for visit in self.visits.values()) >= MAX_SONGS:
                raise RecipeError(f"{MAX_SONGS} songs are here already. Try again later.")
            folder = self.songs / secrets.token_urlsafe(16)
            folder.mkdir()
            song = self.visit(session).song = Upload(folder, path.stem.strip(". ") or "song")
        return song

    def archive(self, key: str) -> Path:
        """The stems of the song of that key as one zip, made when it is first asked for."""
        song = next((v.song for v in list(self.visits.values()) if v.song and v.song.key == key), None)
        if song is None or song.result is None:
            raise AudioError(GONE)
        track = song.track
        archive = song.folder / f"{track}.zip"
        part = archive.with_suffix(".part")
        with song.zipping:
            try:
                if not archive.exists():  # it has its name only when it is whole
                    with zipfile.ZipFile(part, "w") as zipped:  # stored: audio is hardly smaller when compressed
                        for name, path in song.result.paths.items():
                            zipped.write(path, f"{track}/{name}{path.suffix}")
                    part.replace(archive)
                return archive
            except FileNotFoundError:  # dropped meanwhile
                raise AudioError(GONE) from None
            except OSError as error:
                raise AudioError(f"the archive cannot be written here: {reason_of(error)}.") from None
            finally:
                part.unlink(missing_ok=True)
                self._delete(song)  # again, where it was dropped: the folder may have got a file since

    def drop(self, session: str) -> None:
        """Forget the page's song and delete its files; a separation in progress ends at the next chunk."""
        song = self.visits.get(session, Visit()).song
        if song is not None:
            self._drop(song)

    def _drop(self, song: Upload) -> None:
        with self.lock:
            for visit in self.visits.values():
                if visit.song is song:
                    visit.song = None
        song.dropped = True
        self._delete(song)

    def leave(self, session: str) -> None:
        """Forget everything that a page has here."""
        self.drop(session)
        with self.lock:
            visit = self.visits.pop(session, Visit())
        self._forget_upload(visit)

    def forget_upload(self, session: str) -> None:
        """Delete the upload of a page, but not the stems made from it."""
        self._forget_upload(self.visit(session))

    def refuse(self, path: Path) -> None:
        """Delete an upload that is not to be separated, unless another page has the same file."""
        with self.lock:
            if all(visit.file != path for visit in self.visits.values()):
                self._unlink_upload(path)

    def add_head(self, path: Path | None) -> str:
        """Attach the head in a file, for all users until the server ends; the file is not kept."""
        if path is None:
            raise RecipeError("there is no file; expected one of a head.")
        try:
            if path.stat().st_size > MAX_HEAD_MB * 1e6:
                raise RecipeError(f"{path.name} has more than {MAX_HEAD_MB} MB: that is no head.")
            with self.network:
                if self.n_added >= MAX_HEADS:
                    raise RecipeError(f"{MAX_HEADS} heads were added already; expected no more.")
                head = self.separator.load_head(path)
                self.n_added += 1
            return head
        except FileNotFoundError:  # another user has added the same file meanwhile
            raise RecipeError(f"{path.name} is not here any more. Add it again, if the head is not there.") from None
        except UserError as error:
            raise RecipeError(plain(error, path.parent)) from None
        finally:
            self._unlink_upload(path)

    # --- what lies on the disk ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self.closing.wait(min(5.0, self.keep_seconds)):
            self.sweep()

    def sweep(self) -> None:
        """Delete the songs of pages that send no requests any more, and interrupted uploads."""
        long_ago = time.monotonic() - self.keep_seconds
        for session, visit in list(self.visits.items()):
            if visit.seen < long_ago:
                self.leave(session)
        ours = {visit.file for visit in list(self.visits.values())}
        now, unchanged = time.monotonic(), dict[Path, tuple[int, int, float]]()
        for path in [path for path in self.uploads.rglob("*") if path.is_file()]:
            arriving = path.parent == self.uploads  # whole ones are in a folder of their own
            limit = min(self.keep_seconds, BROKEN_OFF_SECONDS) if arriving else self.keep_seconds
            with suppress(FileNotFoundError):
                status = path.stat()
                size, changed, since = self.unchanged.get(path, (-1, 0, now))
                if (size, changed) != (status.st_size, status.st_mtime_ns):
                    since = now
                unchanged[path] = (status.st_size, status.st_mtime_ns, since)
                if path not in ours and now - since > limit:
                    self._unlink_upload(path)
        self.unchanged = unchanged

    def _forget_upload(self, visit: Visit) -> None:
        """If two users dropped the same file, it is one file here: it is deleted with the last of them."""
        with self.lock:
            path, visit.file = visit.file, None
            if path is not None and all(other.file != path for other in self.visits.values()):
                self._unlink_upload(path)

    def _unlink_upload(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent != self.uploads:
            with suppress(OSError):  # another file is there
                path.parent.rmdir()

    def _delete(self, song: Upload) -> None:
        if song.dropped and not song.working:
            shutil.rmtree(song.folder, ignore_errors=True)


def plain(error: BaseException, *folders: Path) -> str:
    """A message without temporary folders, which the user does not know."""
    text = reason_of(error) if isinstance(error, OSError) else str(error)
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def clock(seconds: float) -> str:
    """Minutes and seconds, such as ``3:07``."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
