"""The page in the browser under attack: hostile uploads and requests, two hundred connections at once."""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import time
from contextlib import ExitStack, closing, suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from urllib.parse import quote

from refined_bsrnn.console import say

from . import mutate
from .world import Child, make_run, place

ROUTES = ["/", "/config", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/queue/data?session_hash=x"]
ROUTES += ["/gradio_api/run/predict", "/gradio_api/component_server", "/gradio_api/cancel", "/gradio_api/reset"]
ROUTES += ["/gradio_api/file=", "/gradio_api/heartbeat/x", "/gradio_api/startup-events", "/assets/x", "/theme.css"]
ROUTES += ["/docs", "/openapi.json", "/gradio_api/info", "/gradio_api/proxy=http://127.0.0.1:1/", "/../../etc/passwd"]
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"]
HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "[",
    "",
    "localhost@evil.example",
    "127.0.0.1:99999",
    "\xff",
    "a" * 9000,
]
SECRET = "the content of a file that nobody may see"


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and content of an answer; 0 where the server gave none."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        try:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(1 << 20)
        except (http.client.HTTPException, ConnectionError, ValueError, UnicodeError):
            return 0, b""


def upload(port: int, name: str, content: bytes) -> tuple[int, bytes]:
    """Send a file as the page does."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode(errors="replace") + b'"'
    body = head + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    return ask(port, "POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")


def _serve(folder: Path, there: Any) -> None:
    from refined_bsrnn import Separator
    from refined_bsrnn.apps.browser.app import App
    from refined_bsrnn.apps.browser.studio import Studio

    studio = Studio(Separator.from_pretrained(make_run(folder / "run"), device="cpu"), "run", max_mb=0.5)
    with App(studio, port=0) as app:
        there.send((app.port, str(studio.folder)))
        time.sleep(100_000)


def _hostile_requests(port: int, count: int, chance: random.Random, secret: Path) -> list[str]:
    """Random methods, routes, bodies and headers."""
    wrong = []
    for number in range(count):
        path = chance.choice(ROUTES)
        path += quote(str(secret)) if path.endswith("=") else ""
        path = path if chance.random() < 0.5 else path + quote(chance.choice(mutate.TEXTS), errors="replace")[:2000]
        body = mutate.as_json(mutate.grown(chance)) if chance.random() < 0.6 else mutate.bent(b'{"data": []}', chance)
        headers = {"Content_Type": chance.choice(["application/json", "multipart/form-data; boundary=x", "x"])}
        status, content = ask(port, chance.choice(METHODS), path, body, **headers)
        if SECRET.encode() in content or b"root:x:0" in content or b"Traceback" in content:
            wrong.append(f"request {number}, {path[:100]}: {status} {content[:100]!r}")
    return wrong


def _hostile_uploads(port: int, count: int, chance: random.Random, folder: str) -> list[str]:
    """Random names, types and sizes."""
    wrong = []
    for number in range(count):
        name = chance.choice(mutate.TEXTS).replace('"', "'") + chance.choice(["", ".wav", ".exe", ".safetensors", "/"])
        content = os.urandom(chance.choice([0, 1, 1000, 400_000, 600_000]))
        status, said = upload(port, name, content)
        if status == 200:
            with suppress(ValueError):
                for path in json.loads(said):
                    if not os.path.realpath(path).startswith(folder):
                        wrong.append(f"upload {number} {name!r} went to {path}")
        if len(content) > 500_000 and status == 200:
            wrong.append(f"upload {number} of {len(content)} bytes was taken")
    return wrong


def _connections(port: int, count: int) -> list[str]:
    """So many that say nothing, and so many that ask: pages are still answered."""
    with ExitStack() as stack:
        for _ in range(count):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            idle.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n")
        began = time.monotonic()
        statuses = [ask(port, "GET", "/")[0] for _ in range(20)]
        took = time.monotonic() - began
    return [f"answers {set(statuses)} in {took:.1f} s"] if set(statuses) != {200} or took > 60 else []


def app_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `app`."""
    p.add_argument("--count", type=int, default=1000, help="requests, and a tenth as many uploads (default: 1000)")
    p.add_argument("--connections", type=int, default=200, help="at once (default: 200)")
    p.add_argument("--seed", type=int, default=0)


def app(args: argparse.Namespace) -> dict[str, Any]:
    """Requests, uploads and connections; then the server still answers, and nothing is left elsewhere."""
    chance, (here, there) = random.Random(args.seed), Pipe()
    with place() as folder:
        secret = folder / "secret.wav"
        secret.write_text(SECRET)
        server = Child(lambda: _serve(folder, there), folder, {"TMPDIR": str(folder)})
        port, inside = here.recv()
        found: dict[str, Any] = {}
        try:
            for name, tried in (
                ("connections", lambda: _connections(port, args.connections)),
                ("requests", lambda: _hostile_requests(port, args.count, chance, secret)),
                ("uploads", lambda: _hostile_uploads(port, args.count // 10, chance, inside)),
            ):
                began = time.monotonic()
                found[name] = {"failures": tried(), "seconds": round(time.monotonic() - began, 1)}
                say(f"{name}: {found[name]}")
            statuses = [ask(port, "GET", "/", Host=host)[0] for host in HOSTS]
            origins = [
                ask(port, "POST", "/gradio_api/queue/join", b"{}", Origin=f"http://{host[:99]}")[0]
                for host in HOSTS[:2]
            ]
            wrong = [f"{host[:40]!r} is answered {s}" for host, s in zip(HOSTS, [*statuses], strict=True) if s == 200]
            wrong += [f"another site is answered {s}" for s in origins if s == 200]
            wrong += [] if ask(port, "GET", "/")[0] == 200 else ["the server does not answer any more"]
            found["other hosts and sites"] = {"failures": wrong}
        finally:
            server.signal(signal.SIGKILL)
            said = server.wait().said
        traces = ["a traceback of the server"] if "Traceback" in said else []
        found["what the server said"] = {"failures": traces, "lines": len(said.splitlines())}
        if traces:
            say(said[-1500:])
    return {"seed": args.seed, "count": args.count, "connections": args.connections, "questions": found}
