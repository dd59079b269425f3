"""Downloads one file: with progress, resumed after an interruption, verified before it gets its name.

The files have up to 2 GB, so a download must continue where an earlier call ended. Neither pooch nor huggingface_hub
does that: both delete the received part when a call fails. So httpx makes the requests and this module keeps the part;
the address and the token of the hub come from huggingface_hub.

The received part of FILE is FILE.part. FILE.part.json stores the server's version of the file; without a version, a
part is only continued if a checksum is listed. FILE itself is always complete.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers

from ...console import bytes_bar, say
from ...errors import UserError, first_line
from ...plain import parse_json
from ...system import unwritable, write_json

HUB = "https://huggingface.co/"
SECONDS = 30.0  # without a byte from the server: the connection is taken for broken
PAUSES = (1.0, 2.0, 4.0)  # seconds before each new attempt that follows one without any progress
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may pass
OFFLINE = "HF_HUB_OFFLINE"


class RemoteFile(NamedTuple):
    """A file to download. ``size`` and ``checksum`` (algorithm, digest) as listed, None if they are not listed.

    ``advice``: how the user gets the file if this program cannot.
    """

    url: str
    path: Path
    size: int | None = None
    checksum: tuple[str, str] | None = None
    advice: str = ""


@dataclass(frozen=True)
class Received:
    """A downloaded file: ``verified`` names the listed facts that it was checked against."""

    path: Path
    bytes: int
    sha256: str
    verified: tuple[str, ...]


class _Broken(Exception):
    """The connection ended early; the next attempt continues."""


def is_offline() -> bool:
    """Whether the environment forbids the network, with the same variables as for the hub's library."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def download(wanted: RemoteFile, room: int = 0) -> Received:
    """Download a file to its path, unless it exists, and verify it. ``room``: bytes that must be free besides its own
    size.

    Raises `UserError` if the network or the disk does not permit it, or if the file differs from the listed one; the
    received part stays for the next call.
    """
    path = wanted.path
    if path.is_file():
        return verify(path, wanted)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _fetch(wanted, room)
        _note(path).unlink(missing_ok=True)
        try:
            received = verify(part, wanted)
        except UserError:
            part.unlink()
            raise
        part.replace(path)
    except OSError as problem:
        raise UserError(f"{unwritable(path, problem)} What has arrived is kept; the next call continues it.") from None
    return replace(received, path=path)


def verify(path: Path, wanted: RemoteFile) -> Received:
    """Compare a file with the listed facts; `UserError` with both values if they differ."""
    size = path.stat().st_size
    if wanted.size is not None and size != wanted.size:
        raise UserError(_differs(path, wanted, f"{size} bytes", f"{wanted.size}"))
    algorithm, listed = wanted.checksum or ("sha256", None)
    found = digests(path, {"sha256", algorithm})
    if listed is not None and found[algorithm] != listed:
        raise UserError(_differs(path, wanted, f"the {algorithm} {found[algorithm]}", listed))
    verified = [*(["size"] if wanted.size is not None else []), *([algorithm] if listed is not None else [])]
    return Received(path, size, found["sha256"], tuple(verified))


def _differs(path: Path, wanted: RemoteFile, found: str, listed: str) -> str:
    by_hand = f" Remove {path} and get it again." if path == wanted.path else " What arrived was deleted."
    return (
        f"{wanted.url} has {found}; {listed} is listed. It is damaged, or another file than the one that was "
        f"listed.{by_hand}"
    )


def digests(path: Path, algorithms: set[str]) -> dict[str, str]:
    """Hexadecimal digests of a file, read once."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while piece := file.read(2**20):
            for each in hashes.values():
                each.update(piece)
    return {name: each.hexdigest() for name, each in hashes.items()}


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """`UserError` if the disk of a folder has less free space than that."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise UserError(
            f"{what} needs {n_bytes / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free. Free some space, "
            "or set REFINED_BSRNN_CACHE to a folder on another disk."
        )


def _unreachable(wanted: RemoteFile, why: object) -> UserError:
    return UserError(f"{wanted.url} cannot be fetched: {first_line(why).rstrip('.')}. {wanted.advice}".rstrip())


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _fetch(wanted: RemoteFile, room: int) -> Path:
    """The file by http: continues the received part, as often as something arrives in between."""
    part, failures = wanted.path.with_name(f"{wanted.path.name}.part"), 0
    with (
        httpx.Client(timeout=SECONDS, follow_redirects=True) as client,
        bytes_bar(wanted.path.name, wanted.size) as progress,
    ):
        while True:
            before = _size(part)
            try:
                _receive(client, wanted, part, room, progress)
                return part
            except (httpx.HTTPError, httpx.InvalidURL, _Broken) as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures > len(PAUSES) or isinstance(error, httpx.InvalidURL | httpx.TooManyRedirects):
                    raise _unreachable(wanted, error) from None
                pause = PAUSES[max(0, failures - 1)]
                say(f"{wanted.path.name}: broken off after {_size(part) / 1e6:,.1f} MB; continuing in {pause:g} s.")
                time.sleep(pause)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _receive(client: httpx.Client, wanted: RemoteFile, part: Path, room: int, progress: Callable[[int], None]) -> None:
    """One request; its answer is appended to ``part``. Raises `_Broken` where it ended early."""
    start, note = _size(part), _read_note(_note(wanted.path))
    url, headers = wanted.url, {"Accept-Encoding": "identity"}  # the bytes of the file, not of a compressed form
    if url.startswith(HUB):  # a mirror may be set, and a token for what is not public
        url, headers = f"{constants.ENDPOINT.rstrip('/')}/{url.removeprefix(HUB)}", {**build_hf_headers(), **headers}
    mark = note.get("mark")
    if start and (mark or wanted.checksum):
        headers |= {"Range": f"bytes={start}-", **({"If-Range": mark} if mark else {})}
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416 and start == wanted.size:
            return
        start, total = _place(answer, start, wanted, part)
        if total is not None:
            check_room(part.parent, total - start + room, wanted.path.name)
        etag = answer.headers.get("etag", "")
        mark = etag if etag.startswith('"') else answer.headers.get("last-modified")  # W/"...": not the same bytes
        done = start
        with part.open("ab" if start else "wb") as file:  # emptied first: old bytes never stand under a new mark
            write_json(_note(wanted.path), {"mark": mark})
            for piece in answer.iter_raw():
                file.write(piece)
                done += len(piece)
                progress(done)
    if total is not None and done != total:
        raise _Broken(f"{done} of {total} bytes arrived")


def _place(answer: httpx.Response, start: int, wanted: RemoteFile, part: Path) -> tuple[int, int | None]:
    """Where the bytes of an answer begin, and the size of the whole file where the server says it."""
    state = answer.status_code
    if state == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another part of the file than the one asked for")
        total = None if found[2] == "*" else int(found[2])
    elif state == 200:
        length = answer.headers.get("content-length", "")
        start, total = 0, int(length) if length.isdecimal() else None
    elif state == 416:
        part.unlink(missing_ok=True)
        raise _Broken("the file on the server is shorter than what has arrived")
    elif state in AGAIN:
        raise _Broken(f"the server answers {state} {answer.reason_phrase}")
    else:
        raise _unreachable(wanted, f"the server answers {state} {answer.reason_phrase}")
    if None not in (total, wanted.size) and total != wanted.size:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{wanted.url} has {total} bytes; {wanted.size} are listed. It is another file than the one that was "
            f"listed. {wanted.advice}".rstrip()
        )
    return start, total


def _read_note(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        note = parse_json(path.read_text("utf-8"))
        if isinstance(note, dict) and isinstance(note.get("mark"), str):
            return note
    return {}
