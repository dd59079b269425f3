"""A server of files on this machine that behaves well, or as badly as it is told to."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What is at one path. Of the first answers, those in ``cuts`` end after so many bytes."""

    content: bytes
    mark: str | None = '"first"'
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the first answers, instead of the content
    ranges: bool = True
    pause: float = 0.0  # seconds before every thousandth of the content
    gate: threading.Event | None = None  # the content comes once it is set, or after a minute
    sized: bool = True
    location: str | None = None  # where the content is instead


@dataclass
class FileServer:
    url: str
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    tokens: list[str | None] = field(default_factory=list)

    def ranges(self, path: str) -> list[str | None]:
        return [asked for at, asked in self.requests if at == path]


@contextmanager
def file_server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            state.tokens.append(self.headers.get("Authorization"))
            served = state.files.get(self.path)
            if served is None or served.statuses:
                return self.refuse(404 if served is None else served.statuses.pop(0))
            if served.location:
                return self.refuse(302, served.location)
            start, size = 0, len(served.content)
            unchanged = self.headers.get("If-Range") in (None, served.mark)
            if asked and served.ranges and unchanged:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= size:
                    return self.refuse(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            if served.sized:
                self.send_header("Content-Length", str(size - start))
            else:
                self.close_connection = True
                self.send_header("Connection", "close")
            if served.mark:
                self.send_header("ETag", served.mark)
            self.end_headers()
            if served.gate:
                served.gate.wait(60)
            self.send(served, served.content[start:])

        def send(self, served, body):
            cut = served.cuts.pop(0) if served.cuts else None
            body, step = body[:cut], max(1, len(served.content) // 1000) if served.pause else len(served.content)
            for at in range(0, len(body), step):
                if served.pause:
                    time.sleep(served.pause)
                self.wfile.write(body[at : at + step])
            self.close_connection = self.close_connection or cut is not None

        def refuse(self, status, location=None):
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

    faults: list[BaseException | None] = []

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that goes before it has read everything is none of the server's faults."""
            fault = sys.exc_info()[1]
            if not isinstance(fault, ConnectionError):
                faults.append(fault)

    server = Server(("127.0.0.1", 0), Handler)
    state = FileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not faults, faults
