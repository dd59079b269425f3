"""Separation in a browser: one page, served from this machine, that needs nothing but the standard library.

    page ──song──> queue ──one at a time──> stems in a temporary folder ──> players, downloads ──> deleted

What is uploaded lies in a temporary folder only: a song and its stems go when the page is left, when nobody has asked
for them for a while, and all of it when the server ends.
"""

import json
import math
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .errors import AudioError, RecipeError, UserError
from .separate import Separator, open_source
from .stems import Ensemble, Job, Result, Voice, Wanted, outputs, separate_song

FOLDER = Path(__file__).parent / "app_page"
PAGES = {
    "/": ("app.html", "text/html; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
}
TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".zip": "application/zip"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self'; img-src data:"
MAX_SONGS = 32  # on disk at a time, over all users
MAX_HEADS = 32  # added by users: they stay in memory
MAX_HEAD_MB = 256
NAME_BYTES = 180  # of an upload's name: file systems take 255
PIECE = 1 << 20  # bytes
LINGER_SECONDS = 5.0  # for how long what is still sent after an early answer is read and forgotten
GONE = "this song is not here any more. Drop it again."


class Refused(UserError):
    """A request that cannot be fulfilled, with its HTTP status."""

    def __init__(self, status: HTTPStatus, text: str):
        super().__init__(text)
        self.status = status


class _Dropped(Exception):
    """Nobody wants the song any more."""


@dataclass
class Song:
    """One upload and what becomes of it."""

    folder: Path
    path: Path
    heads: list[str]
    residual: bool
    seconds: float | None  # of audio, where the file says
    n_channels: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "waiting"  # then working; then done or failed
    share: float = 0.0
    started: float = 0.0
    asked: float = field(default_factory=time.monotonic)  # when the page was last heard of
    problem: str = ""
    result: Result | None = None
    dropped: bool = False
    zipping: threading.Lock = field(default_factory=threading.Lock)  # one archive, however many ask for it

    def facts(self, ahead: int) -> dict[str, Any]:
        """What the page shows."""
        facts = {"id": self.id, "track": self.path.stem, "state": self.state, "share": self.share, "ahead": ahead}
        if self.state == "working" and self.share > 0:
            facts["seconds_left"] = (time.monotonic() - self.started) * (1 - self.share) / self.share
        if self.problem:
            facts["problem"] = self.problem
        if self.result:
            facts |= {"seconds": self.result.seconds, "channels": self.n_channels, "level_db": self.result.level_db}
            facts["stems"] = [{"name": name, "file": path.name} for name, path in self.result.paths.items()]
        return facts


class Studio:
    """The songs of all users, separated one at a time in the order they came; a context manager.

    ``label``: what the model is called; ``max_mb``: how large an upload may be; ``keep_seconds``: how long a
    song nobody asks for is kept, be it separated or not. Raises `RecipeError` where one of them is not above 0 or not
    finite.
    """

    def __init__(self, separator: Separator, label: str, max_mb: float = 500.0, keep_seconds: float = 3600.0):
        if not 0 < max_mb < math.inf or not 0 < keep_seconds < math.inf:
            raise RecipeError(f"max_mb {max_mb:g}, keep_seconds {keep_seconds:g}; expected more than 0, finite.")
        self.separator, self.label, self.max_mb, self.keep_seconds = separator, label, max_mb, keep_seconds
        self.songs: dict[str, Song] = {}
        self.added: list[str] = []
        self.arriving: Counter[str] = Counter()  # uploads that are not complete
        self.lock = threading.Condition()
        self.network = threading.Lock()  # heads are not added while the network runs
        self.closing = False

    def __enter__(self) -> "Studio":
        self.temporary = tempfile.TemporaryDirectory(prefix="refined-bsrnn-app-", ignore_cleanup_errors=True)
        self.folder = Path(self.temporary.name)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._work, self._watch)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.closing = True
            for song in self.songs.values():
                song.dropped = True
            self.lock.notify_all()
        for thread in self.threads:
            thread.join()
        self.temporary.cleanup()

    def facts(self) -> dict[str, Any]:
        """What the page must know before anything is dropped on it."""
        limits = {"max_mb": self.max_mb, "keep_seconds": self.keep_seconds}
        return {"model": self.label, "heads": self.separator.heads, "added": self.added, **limits}

    @contextmanager
    def _room(self, kind: str, here: Sized, limit: int, problem: str) -> Iterator[None]:
        """Keep a place for an upload beside what is here and on its way; `Refused` where none is left."""
        with self.lock:
            if len(here) + self.arriving[kind] >= limit:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, problem)
            self.arriving[kind] += 1
        try:
            yield
        finally:
            with self.lock:
                self.arriving[kind] -= 1

    def receive(self, name: str, heads: list[str], residual: bool, save: Callable[[Path], None]) -> Song:
        """Keep what ``save`` writes and queue it; raises `UserError` for what cannot be separated: nothing is kept."""
        if not heads:
            raise RecipeError("no heads are chosen; expected at least one.")
        heads = list(dict.fromkeys(heads))  # a head named twice is one file
        self.separator.model.check_targets(heads)
        if residual and "residual" in heads:
            raise RecipeError("there is a head called residual: choose it or what the heads leave, not both.")
        with self._room("songs", self.songs, MAX_SONGS, f"{MAX_SONGS} songs are here already. Try again later."):
            song = self._received(name, heads, residual, save)
            with self.lock:
                self.songs[song.id] = song
                self.lock.notify_all()
        return song

    def _received(self, name: str, heads: list[str], residual: bool, save: Callable[[Path], None]) -> Song:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            path = folder / file_name(name)
            save(path)
            source = open_source(path, 0)
            seconds = None if source.n_samples is None else source.n_samples / source.sample_rate_hz
            return Song(folder, path, heads, residual, seconds, source.n_channels)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, UserError):
                raise type(error)(*_arguments(error, folder)) from None
            raise

    def song(self, key: str) -> tuple[Song, int]:
        """A song and how many come before it; it is kept for a while from now on."""
        with self.lock:
            song = self.songs.get(key)
            if song is None or song.dropped:
                raise Refused(HTTPStatus.NOT_FOUND, GONE)
            song.asked = time.monotonic()
            earlier = list(self.songs.values())
            ahead = [s for s in earlier[: earlier.index(song)] if s.state in ("waiting", "working")]
            return song, len(ahead)

    def drop(self, key: str) -> None:
        """Forget a song and delete what there is of it, at the next chunk where it is worked on."""
        with self.lock:
            song = self.songs.get(key)
            if song is not None:
                song.dropped = True
                self._delete(song)
            self.lock.notify_all()

    def file(self, key: str, name: str) -> Path:
        """A stem, or all of them as ``all.zip``."""
        song, _ = self.song(key)
        paths = {path.name: path for path in song.result.paths.values()} if song.result else {}
        if name == "all.zip" and paths:
            with song.zipping:
                return self._archive(song, song.folder / name)
        if name not in paths:
            raise Refused(
                HTTPStatus.NOT_FOUND, f"there is no file {name!r}; expected {', '.join(paths) or 'none yet'}."
            )
        return paths[name]

    def _archive(self, song: Song, archive: Path) -> Path:
        """The archive of a song's stems, made unless it is there; it has its name only when it is whole."""
        if archive.exists():
            return archive
        assert song.result is not None
        part = archive.with_suffix(".part")
        try:
            with zipfile.ZipFile(part, "w") as zipped:  # stored: audio is hardly smaller when compressed
                for path in song.result.paths.values():
                    zipped.write(path, f"{song.path.stem}/{path.name}")
            return part.replace(archive)
        except FileNotFoundError:  # dropped meanwhile
            raise Refused(HTTPStatus.NOT_FOUND, GONE) from None
        finally:
            part.unlink(missing_ok=True)
            with self.lock:
                self._delete(song)  # again, where it was dropped: the folder may have got a file since

    def add_head(self, name: str, save: Callable[[Path], None]) -> str:
        """Attach the head in a file, for all users until the server ends; the file is not kept."""
        full = f"{MAX_HEADS} heads were added already; expected no more."
        with (
            self._room("heads", self.added, MAX_HEADS, full),
            tempfile.TemporaryDirectory(dir=self.folder) as text,
        ):
            path = Path(text) / file_name(name)
            save(path)
            try:
                with self.network:
                    head = self.separator.load_head(path)
            except UserError as error:
                raise type(error)(*_arguments(error, Path(text))) from None
            self.added.append(head)
        return head

    # --- the worker -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self.lock:
                if self.closing:
                    return
                song = next((s for s in self.songs.values() if s.state == "waiting"), None)
                if song is None:
                    self.lock.wait()
                    continue
                song.state, song.started = "working", time.monotonic()
            with self.network:
                self._separate(song)

    def _separate(self, song: Song) -> None:
        def progress(share: float) -> None:
            song.share = share
            if song.dropped:
                raise _Dropped

        voices = [Voice(self.label, name, (i,)) for i, name in enumerate(song.heads)]
        ensemble = Ensemble([(self.separator, song.heads)], voices)
        wanted = Wanted(tuple(song.heads), residual=song.residual, out=song.folder / "stems", name="{head}")
        job, parts, state = Job(song.path, song.path.stem), outputs(ensemble, wanted), "failed"
        try:
            song.result = separate_song(job, ensemble, wanted, parts, progress)
            state = "done"
        except _Dropped:
            pass
        except (UserError, OSError, MemoryError) as error:
            song.problem = _without(str(error) or "the memory is used up", song.folder)
        except Exception as error:  # one song's trouble must not end the queue
            song.problem = f"an error in the program: {type(error).__name__}: {error}"
        with self.lock:
            song.path.unlink(missing_ok=True)  # the upload has served its purpose
            song.state = state
            self._delete(song)

    def _watch(self) -> None:
        """Delete what nobody asked for in a while, whatever the worker does; what it works on, at the next chunk."""
        with self.lock:
            while not self.closing:
                for song in list(self.songs.values()):
                    song.dropped |= time.monotonic() - song.asked > self.keep_seconds
                    self._delete(song)
                self.lock.wait(min(5.0, self.keep_seconds))

    def _delete(self, song: Song) -> None:
        if song.dropped and song.state != "working":
            self.songs.pop(song.id, None)
            shutil.rmtree(song.folder, ignore_errors=True)


def file_name(text: str) -> str:
    """What an upload is called here: the last part of its name, without what a file system or a shell could mistake.

    Letters of all scripts with their marks, digits and some signs are kept, as NFC, in at most `NAME_BYTES` of UTF-8.
    """
    whole = unicodedata.normalize("NFC", Path(text.replace("\\", "/")).name)
    kept = "".join(c if c in "_ .()&+'-" or unicodedata.category(c)[0] in "LMN" else "_" for c in whole)
    name = Path(kept.strip(". "))
    suffix = _cut(name.suffix, 12)
    return (_cut(name.stem, NAME_BYTES - len(suffix.encode())) or "song") + suffix


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")  # no half characters


def _without(text: str, folder: Path) -> str:
    """A message without the temporary folder, of which the user knows nothing."""
    return text.replace(f"{folder}/", "")


def _arguments(error: UserError, folder: Path) -> tuple[Any, ...]:
    text = _without(str(error), folder)
    return (error.status, text) if isinstance(error, Refused) else (text,)


# --- the server -------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """A studio on a port; ``url``: where."""

    daemon_threads = True
    request_queue_size = 128  # who comes while so many wait to be let in is cut off

    def __init__(self, studio: Studio, host: str = "127.0.0.1", port: int = 7860):
        self.studio, self.host = studio, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise RecipeError(
                f"cannot listen on port {port} of {host}: {str(error.args[-1]).rstrip('.')}. "
                "Give another --port (0: any that is free) or --host."
            ) from None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def knows(self, host: str) -> bool:
        """Whether a request's Host is this server: no other site's name leads to what only this machine sees."""
        name = urlsplit(f"//{host}").hostname or ""
        return not is_local(self.host) or name == self.host or is_local(name)


def is_local(host: str) -> bool:
    """Whether only this machine reaches that host."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class Handler(BaseHTTPRequestHandler):
    """Requests → the studio; every error as one sentence in JSON."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def log_message(self, *values: Any) -> None:
        """Names of users' songs are nobody's business."""

    def _answer(self, work: Callable[[list[str], dict[str, list[str]]], None]) -> None:
        try:
            work(*self._understood())
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the page has gone
        except Refused as error:
            self._fail(error.status, str(error))
        except UserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            self._fail(HTTPStatus.INSUFFICIENT_STORAGE, f"the file cannot be kept here: {error.strerror or error}.")

    def _understood(self) -> tuple[list[str], dict[str, list[str]]]:
        """The parts of the path and the query; `Refused` for what is no address, and for other sites."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        try:
            url = urlsplit(self.path)
            known = self.server.knows(host) and (not origin or urlsplit(origin).netloc == host)
        except ValueError as error:  # such as a bracket that is not closed
            raise Refused(HTTPStatus.BAD_REQUEST, f"the address, Host or Origin cannot be read: {error}.") from None
        if not known:
            raise Refused(HTTPStatus.FORBIDDEN, f"requests for {host} from {origin} are refused.")
        return [unquote(part) for part in url.path.split("/") if part], parse_qs(url.query)

    def _fail(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # some of the request may not have been read
        with suppress(OSError):  # the page may have gone
            self._json({"problem": text}, status)
            self._linger()

    def _linger(self) -> None:
        """Say that the answer is complete, then read on until the other side has understood.

        Closed while something unread is on its way, a connection is reset, and with it the answer may be lost.
        """
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SECONDS)
        end = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < end and self.rfile.read1(PIECE):
            pass

    def _get(self, parts: list[str], query: dict[str, list[str]]) -> None:
        studio = self.server.studio
        page = PAGES.get("/" + "/".join(parts))
        if page:
            self._file(FOLDER / page[0], page[1])
        elif parts == ["state"]:
            self._json(studio.facts())
        elif parts[:1] == ["songs"] and len(parts) == 2:
            song, ahead = studio.song(parts[1])
            self._json(song.facts(ahead))
        elif parts[:1] == ["songs"] and len(parts) == 3:
            path = studio.file(parts[1], parts[2])
            self._file(path, TYPES.get(path.suffix, "application/octet-stream"))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page.")

    def _post(self, parts: list[str], query: dict[str, list[str]]) -> None:
        studio = self.server.studio
        name = query.get("name", [""])[0]
        if parts == ["songs"]:
            heads = [head for head in query.get("heads", [""])[0].split(",") if head]
            length = self._length(studio.max_mb)
            song = studio.receive(name, heads, "residual" in query, lambda path: self._save(path, length))
            self._json(studio.song(song.id)[0].facts(0), HTTPStatus.CREATED)
        elif parts == ["heads"]:
            length = self._length(MAX_HEAD_MB)
            self._json({"head": studio.add_head(name, lambda path: self._save(path, length)), **studio.facts()})
        elif parts[:1] == ["songs"] and parts[2:] == ["drop"]:  # a page that is left can only post
            studio.drop(parts[1])
            self.close_connection = True  # its body is not read
            self._json({})
            with suppress(OSError):
                self._linger()
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page.")

    def _delete(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[:1] != ["songs"] or len(parts) != 2:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page.")
        self.server.studio.drop(parts[1])
        self._json({})

    def _length(self, max_mb: float) -> int:
        """Bytes of the body; `Refused` for none, too many, or where the request does not say."""
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is.")
        size = float(text)  # int refuses thousands of digits
        if size == 0:
            raise AudioError("the file is empty.")
        if size > max_mb * 1e6:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file has {size / 1e6:.1f} MB; expected at most {max_mb:g} MB.",
            )
        return int(text)

    def _save(self, path: Path, length: int) -> None:
        with path.open("wb") as file:
            while length:
                piece = self.rfile.read(min(PIECE, length))
                if not piece:
                    raise ConnectionAbortedError("the upload has ended early")
                file.write(piece)
                length -= len(piece)

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(value).encode()
        self._head(status, "application/json", len(body))
        self.wfile.write(body)

    def _file(self, path: Path, content_type: str) -> None:
        """The file, or the piece that the request's Range names: players seek in what is too long to be decoded."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise Refused(HTTPStatus.NOT_FOUND, GONE) from None
        with file:
            size = path.stat().st_size
            start, stop = byte_range(self.headers.get("Range", ""), size) or (0, size)
            more = {"Accept-Ranges": "bytes"}
            status = HTTPStatus.OK
            if (start, stop) != (0, size):
                status, more["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{stop - 1}/{size}"
            self._head(status, content_type, stop - start, more)
            file.seek(start)
            while start < stop and (piece := file.read(min(PIECE, stop - start))):
                self.wfile.write(piece)
                start += len(piece)

    def _head(self, status: HTTPStatus, content_type: str, length: int, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def byte_range(text: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of a Range header such as ``bytes=10-19``, ``bytes=10-`` or ``bytes=-10`` (the last ten).

    None for anything else, which is to be answered with the whole (RFC 9110, 14.2); `Refused` where it begins behind
    the end.
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    # float: int refuses thousands of digits
    first, last = (float(digits) if digits else None for digits in found.groups()) if found else (None, None)
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        return None
    start = max(0, size - (last or 0)) if first is None else first
    if start >= size:
        raise Refused(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"the file ends at byte {size}, what is asked for is behind it."
        )
    return int(start), size if first is None or last is None else int(min(size, last + 1))


def serve(server: Server, say: Callable[[str], None]) -> None:
    """Answer until interrupted (Ctrl-C)."""
    with server.studio, suppress(KeyboardInterrupt):
        say(f"Open {server.url} in a browser. Ctrl-C ends it; nothing uploaded is kept.")
        if not is_local(server.host):
            say(f"Others reach it too: {server.host} is no address of this machine alone, and there is no password.")
        server.serve_forever()
