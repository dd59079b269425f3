"""Separation in a browser, with Gradio: a song is uploaded, waits in the queue and comes back as stems in a mixer.

    page ──song──> queue ──one at a time──> stems in a temporary folder ──> mixer, downloads ──> deleted

`studio.Studio` manages the files on the disk and their owners and is independent of pages; `Page` is the page in the
browser; `App` serves it. Uploads are in a temporary folder only. They are deleted when the page is closed, when the
page has sent no request for a while, and when the server ends.
"""

import html
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...audio import audio_info
from ...console import say
from ...errors import RecipeError, UserError
from ...system import environment_set, reason_of
from .studio import MAX_SONGS, Studio, Upload, clock

try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise RecipeError(
        f"the app needs the package {error.name}, which is not here: pip install 'refined-bsrnn[app]'."
    ) from None

PARTS = Path(__file__).parent / "page"
SEEN_SECONDS = 20.0  # how often an open page says that it is there
SHOWN_SECONDS = 30.0  # for how long a message stays
PROGRESS = gr.Progress()  # Gradio knows a parameter for progress by its default
# What a page asks for; Gradio has more, some of which keeps what is sent, or reads it with FFmpeg's program.
PAGES = ("/assets/", "/static/", "/theme.css", "/favicon.ico", "/manifest.json", "/config")
CALLS = "queue/ heartbeat/ upload run/predict component_server cancel reset file= startup-events app_id"
ROUTES = PAGES + tuple(f"/gradio_api/{call}" for call in CALLS.split())


# --- the page ---------------------------------------------------------------------------------------------------------


@contextmanager
def _errors_shown() -> Iterator[None]:
    """A sentence for the user as Gradio's message, whose text is HTML."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error)), duration=SHOWN_SECONDS, print_exception=False) from None


def make_mixer(archive: Callable[[str], dict[str, str]]) -> gr.HTML:
    """Stems that play from one clock, each through its own gain, with their waveforms; its parts are in `page`.

    Its value is None, or the result of `facts`. ``archive``: a song's key → ``{"path": ...}`` or ``{"problem": ...}``.
    """

    def archive_of(key: str) -> dict[str, str]:  # Gradio marks what a page may call: no bound method can be
        return archive(key)

    template, style, script = ((PARTS / f"mixer.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return gr.HTML(html_template=template, css_template=style, js_on_load=script, server_functions=[archive_of])


def facts(song: Upload) -> dict[str, Any]:
    """The mixer's facts about a separated song."""
    assert song.result is not None
    return {
        "key": song.key,
        "track": song.track,
        "seconds": song.result.seconds,
        "channels": audio_info(next(iter(song.result.paths.values()))).n_channels,
        "level_db": song.result.level_db,
        "stems": [{"name": name, "path": path.as_posix()} for name, path in song.result.paths.items()],
    }


class Page:
    """The page and the actions of its parts; ``blocks``: as Gradio serves it."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.reads = f"Whatever FFmpeg reads, up to {studio.max_mb:g} MB. Rate, channels and length stay as they are."
        heads = studio.separator.heads
        with gr.Blocks(title="Separate a song", analytics_enabled=False) as self.blocks:
            gr.Markdown(
                f"# Separate a song\nModel **{studio.label}**. The song is separated by the machine that shows this "
                "page, and deleted afterwards."
            )
            with gr.Row():
                with gr.Column():
                    self.song = gr.File(label="Song", height=160, file_count="multiple")
                    self.about = gr.HTML(self.reads)
                with gr.Column():
                    self.heads = gr.CheckboxGroup(heads, value=heads, label="Stems")
                    self.residual = gr.Checkbox(label="and what they leave of the song")
                    self.head = gr.UploadButton("Add a head", file_types=[".safetensors"], size="sm")
            with gr.Row():
                self.go = gr.Button("Separate", variant="primary")
                self.stop = gr.Button("Cancel", visible=False)
            self.work = gr.HTML("", min_height=120, visible=False)
            self.mixer = make_mixer(self.archive)
            self.delete = gr.Button("Delete from the server", visible=False, size="sm")
            self.timer = gr.Timer(min(SEEN_SECONDS, studio.keep_seconds / 3))
            self._connect()

    def _connect(self) -> None:
        now: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        queued: dict[str, Any] = {"queue": True, "api_visibility": "private"}
        self.blocks.load(self.show_heads, outputs=self.heads, **now)
        self.timer.tick(self.seen, **now)
        self.blocks.unload(self.leave)
        self.song.upload(self.arrived, self.song, [self.song, self.about], **now)
        for emptied in (self.song.clear, self.song.delete):
            emptied(self.cleared, outputs=self.about, **now)
        self.head.upload(
            self.add_head,
            [self.head, self.heads],
            self.heads,
            concurrency_id="heads",
            show_progress_on=self.heads,
            **queued,
        )
        state = [self.song, self.go, self.stop, self.work, self.delete]
        begun = self.go.click(self.begin, outputs=[*state, self.mixer], **now)
        working = begun.then(
            self.separate,
            [self.song, self.heads, self.residual],
            self.mixer,
            concurrency_id="songs",
            concurrency_limit=1,
            show_progress_on=self.work,
            **queued,
        )
        for ended in (working.success, working.failure):  # `then` alone does not come after an error
            ended(self.end, outputs=state, **now)
        self.stop.click(self.cancel, outputs=state, cancels=working, **now)
        self.delete.click(self.forget, outputs=[*state[1:], self.mixer, self.song, self.about], **now)

    # Each of these is called by Gradio: with the values of its inputs, the request, and what shows progress.

    def show_heads(self) -> Any:
        """The heads that are there now: others may have added some."""
        heads = self.studio.separator.heads
        return gr.CheckboxGroup(heads, value=heads)

    def seen(self, request: gr.Request) -> None:
        """The page is open."""
        self.studio.visit(_session(request))

    def leave(self, request: gr.Request) -> None:
        """The page is closed, or reloaded."""
        self.studio.leave(_session(request))

    def arrived(self, songs: str | list[str] | None, request: gr.Request) -> tuple[Any, str]:
        """An upload is complete; a file that cannot be separated is not kept, and neither is more than one song."""
        song, others = _first(songs)
        for other in others:
            self.studio.refuse(other)
        shown: Any = [str(song)] if others else gr.skip()
        try:
            about = self.studio.arrived(_session(request), song)
        except UserError as error:
            shown, about = None, f'<p role="alert"><b>{html.escape(str(error))}</b></p>'
        if others:
            names = html.escape(", ".join(path.name for path in others))
            about += f'<p role="alert"><b>One song at a time: drop {names} again when this one is done.</b></p>'
        return shown, about

    def cleared(self, request: gr.Request) -> str:
        """The upload is not wanted any more."""
        self.studio.forget_upload(_session(request))
        return self.reads

    def add_head(self, file: str | None, chosen: list[str], waiting: gr.Progress = PROGRESS) -> Any:
        """A head's file was uploaded."""
        path = Path(file) if file else None
        waiting(0, desc=f"Adding {path.name if path else ''}. A song that is being separated comes first.")
        with _errors_shown():
            head = self.studio.add_head(path)
        return gr.CheckboxGroup(self.studio.separator.heads, value=[*chosen, head])

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Delete the previous stems of the page; show the progress of the next song."""
        self.studio.drop(_session(request))
        return *self._shown(working=True), None

    def separate(
        self,
        songs: str | list[str] | None,
        heads: list[str],
        residual: bool,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Any:
        """Separate a song whose turn it is."""
        started = time.monotonic()

        def on(share: float) -> None:
            left = (time.monotonic() - started) * (1 - share) / share if share else None
            progress(share, desc="Separating" if left is None else f"Separating, {clock(left)} left")

        on(0.0)
        with _errors_shown():
            done = self.studio.separate(_session(request), _first(songs)[0], heads, residual, on)
        return gr.skip() if done is None else facts(done)

    def end(self, request: gr.Request) -> tuple[Any, ...]:
        """Separated, failed or dropped."""
        return self._shown(has_song=self.studio.visit(_session(request)).song is not None)

    def cancel(self, request: gr.Request) -> tuple[Any, ...]:
        """Cancel the song in progress and the waiting one."""
        self.studio.drop(_session(request))
        return self._shown()

    def forget(self, request: gr.Request) -> tuple[Any, ...]:
        """Delete everything that this page has on the server."""
        self.studio.leave(_session(request))
        return *self._shown()[1:], None, gr.File(None, interactive=True), self.reads

    def archive(self, key: str) -> dict[str, str]:
        """The path of all stems of a song as one file, or the problem."""
        try:
            return {"path": self.studio.archive(str(key)).as_posix()}
        except UserError as error:
            return {"problem": str(error)}

    @staticmethod
    def _shown(working: bool = False, has_song: bool = False) -> tuple[Any, ...]:
        """The song, the buttons and the place of the bar; what is worked on can be cancelled, not changed."""
        return (
            gr.File(interactive=not working),
            gr.Button(interactive=not working),
            gr.Button(visible=working),
            gr.HTML(visible=working),
            gr.Button(visible=has_song),
        )


def _first(songs: str | list[str] | None) -> tuple[Path | None, list[Path]]:
    """Of what was dropped, the song and the others."""
    paths = [Path(song) for song in ([songs] if isinstance(songs, str) else songs or [])]
    return (paths[0] if paths else None), paths[1:]


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


# --- the server -------------------------------------------------------------------------------------------------------


class Guard:
    """Answers only requests that a page needs, only from this server's own pages, and each error with a message."""

    def __init__(self, app: Any, host: str, public: str = ""):
        self.app, self.host, self.public = app, host, public

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answered = False

        async def watched(message: Any) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def refuse(status: int, text: str) -> None:
            if not answered:
                await send(
                    {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
                )
                await send({"type": "http.response.body", "body": text.encode()})

        prefix = urlsplit(self.public).path
        if prefix and scope["path"].startswith(f"{prefix}/"):  # the proxy has left the public path on
            scope = {**scope, "path": scope["path"][len(prefix) :], "raw_path": scope["raw_path"][len(prefix) :]}
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        if not self.knows(headers.get(b"host", ""), headers.get(b"origin", "")):
            await refuse(403, "Requests under this name, or from there, are refused.")
        elif scope["path"] != "/" and not scope["path"].startswith(ROUTES):
            await refuse(404, "There is no such page.")
        else:
            try:
                await self.app(scope, receive, watched)
            except ClientDisconnect:  # the page has gone
                pass
            except OSError as error:
                await refuse(507, f"The file cannot be kept here: {reason_of(error)}.")
            except Exception as error:
                say(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}")
                await refuse(500, "The request cannot be answered.")

    def knows(self, host: str, origin: str) -> bool:
        """Whether a request's Host is this server, and its Origin, where it has one, this server's page.

        A proxy may pass the public name on or not, with a port or not.
        """
        try:
            (_, name, port), public = site(f"//{host}"), site(self.public)
            known = not is_local(self.host) or is_local(name) or name in (self.host.lower(), public[1])
            asked = not origin or site(origin)[1:] == (name, port) or site(origin) == public
            return bool(name) and known and asked
        except ValueError:  # such as a bracket that is not closed
            return False


def site(address: str) -> tuple[str, str, int]:
    """(scheme, name, port) of an address: names in lower case, default ports as 0."""
    parts = urlsplit(address)
    port = parts.port or 0
    return parts.scheme, (parts.hostname or "").rstrip("."), 0 if port in (80, 443) else port


def check_public_url(url: str | None) -> str:
    """An address of pages without the last slash, or nothing; `RecipeError` for anything else."""
    try:
        parts = urlsplit(url or "")
        if not url or (parts.scheme in ("http", "https") and site(url)[1] and not parts.query and not parts.fragment):
            return (url or "").rstrip("/")
    except ValueError:
        pass
    raise RecipeError(f"--public-url {url!r} is no address; expected one such as https://stems.example.org/songs.")


def is_local(host: str) -> bool:
    """Whether only this machine can reach that host."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class App:
    """A studio's page on a port, for the duration of the context; ``url``: its address; ``public_url``: its address
    behind a proxy.

    Raises `RecipeError` if no port is free, or if another app is open in this process, because Gradio stores the
    uploads of all apps in one place.
    """

    only_one = threading.Lock()

    def __init__(self, studio: Studio, host: str = "127.0.0.1", port: int = 7860, public_url: str | None = None):
        self.public_url = check_public_url(public_url)
        self.studio, self.host, self.port = studio, host, free_port(host, port)

    def __enter__(self) -> "App":
        if not self.only_one.acquire(blocking=False):
            raise RecipeError("another app is open in this process; close it first, or start this one in its own.")
        with ExitStack() as stack:
            stack.callback(self.only_one.release)
            stack.enter_context(self.studio)
            stack.enter_context(environment_set(GRADIO_TEMP_DIR=str(self.studio.uploads)))
            self.blocks = Page(self.studio).blocks.queue(max_size=MAX_SONGS, status_update_rate=1)
            with environment_set(NO_PROXY="*", no_proxy="*"):  # Gradio asks its own server whether it is there
                self._launch()
            stack.callback(self.blocks.close, verbose=False)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def _launch(self) -> None:
        self.blocks.launch(
            server_name=self.url_host,
            server_port=self.port,
            root_path=self.public_url or None,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            max_file_size=int(self.studio.max_mb * 1e6),
            allowed_paths=[str(self.studio.songs)],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            app_kwargs={
                "middleware": [Middleware(Guard, host=self.host, public=self.public_url)],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )

    @property
    def url_host(self) -> str:
        """The host as addresses have it: IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{self.url_host}:{self.port}/"


def free_port(host: str, port: int) -> int:
    """That port, or for 0 any free port; `RecipeError` if the host is not this machine or the port is taken."""
    if not host:
        raise RecipeError("--host is empty; expected an address of this machine, such as 127.0.0.1.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just been left is free
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"cannot listen on port {port} of {host}: {str(error.args[-1]).rstrip('.')}. "
            "Give another --port (0: any that is free) or --host."
        ) from None


def serve(app: App) -> None:
    """Answer until interrupted (Ctrl-C)."""
    with suppress(KeyboardInterrupt), app:
        say(f"Open {app.public_url or app.url} in a browser. Ctrl-C ends it; nothing uploaded is kept.")
        if not is_local(app.host):
            say(f"Others reach it too: {app.host} is no address of this machine alone, and there is no password.")
        threading.Event().wait()
