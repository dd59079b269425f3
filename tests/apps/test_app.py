"""The page that separates songs: what the studio keeps, refuses and forgets, and what a browser does with it."""

import asyncio
import errno
import http.client
import json
import math
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import torch

from tests.apps.test_stems import make_run, noise
from tests.conftest import RATE
from tests.report.test_page import chromium, wait

pytest.importorskip("gradio", reason="needs the extra [app]")

from starlette.requests import ClientDisconnect

from refined_bsrnn.apps.browser import app
from refined_bsrnn.apps.browser import studio as disk
from refined_bsrnn.apps.browser.app import App, Guard, Page, serve
from refined_bsrnn.apps.browser.studio import GONE, MAX_SONGS, Studio
from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.audio import write_audio
from refined_bsrnn.errors import AudioError, RecipeError, UserError
from refined_bsrnn.runs.folder import read_tensors, write_tensors
from refined_bsrnn.separation.separator import Separator


@pytest.fixture
def separator():
    make_run("mtl", ["vocals", "drums"])
    return Separator.from_pretrained("mtl")


@pytest.fixture
def studio(separator):
    with Studio(separator, "mtl") as studio:
        yield studio


def upload(studio, name="my song.wav", content=None, seed=0):
    """A file as Gradio puts it: in a folder of its content."""
    folder = studio.uploads / f"{seed}{len(content or b'')}"
    folder.mkdir(exist_ok=True)
    path = folder / name
    if content is None:
        soundfile.write(path, noise(1, 11025, seed).T.numpy(), 11025, subtype="PCM_24", format="WAV")
    else:
        path.write_bytes(content)
    return path


def separated(studio, session="me", path=None, heads=("vocals", "drums"), residual=False, progress=lambda share: None):
    path = path or upload(studio)
    studio.arrived(session, path)
    return studio.separate(session, path, list(heads), residual, progress)


def kept(studio):
    """What there is, but for the empty files that Gradio makes."""
    return sorted(path.name for path in studio.folder.rglob("*") if path.is_file() and path.stat().st_size)


def until(condition):
    for _ in range(300):
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_stems_have_the_songs_rate_length_channels_and_are_those_of_the_separator(studio, separator):
    path, shares = upload(studio), []
    assert studio.arrived("me", path) == "0:01, 11025 Hz, mono"
    song = separated(studio, path=path, residual=True, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    facts = app.facts(song)
    assert facts["track"] == "my song"
    assert [stem["name"] for stem in facts["stems"]] == ["vocals", "drums", "residual"]
    got = {}
    for stem in facts["stems"]:
        got[stem["name"]], rate = soundfile.read(stem["path"], always_2d=True)
        assert (rate, got[stem["name"]].shape) == (11025, (11025, 1))
        assert soundfile.info(stem["path"]).subtype == "PCM_24"
    expected, gain = separator.separate(path), 10 ** (-facts["level_db"] / 20)
    np.testing.assert_allclose(got["vocals"].T, expected["vocals"].numpy() * gain, atol=1e-5)
    mixture, _ = soundfile.read(path, always_2d=True)
    np.testing.assert_allclose(sum(got.values()), mixture * gain, atol=1e-5)
    with zipfile.ZipFile(studio.archive(song.key)) as zipped:
        assert zipped.namelist() == [f"my song/{name}.wav" for name in got]
        assert zipped.testzip() is None


def test_a_page_has_one_song_and_takes_all_of_it_along(studio):
    separated(studio)
    assert kept(studio) == ["my song - drums.wav", "my song - vocals.wav", "my song.wav"]
    separated(studio, path=upload(studio, "other.wav", seed=1), heads=["drums"])
    assert kept(studio) == ["other - drums.wav", "other.wav"], "what was there before went"
    studio.drop("me")
    assert kept(studio) == ["other.wav"]
    studio.leave("me")
    assert kept(studio) == []
    assert list(studio.uploads.iterdir()) == []


def test_the_same_file_of_two_users_goes_with_the_last(studio):
    path = upload(studio)
    for session in ("me", "you"):
        studio.arrived(session, path)
    studio.leave("me")
    assert separated(studio, "you", path) is not None
    studio.forget_upload("you")
    assert kept(studio) == ["my song - drums.wav", "my song - vocals.wav"]


def test_a_song_that_nobody_wants_any_more_ends_at_the_next_chunk(studio):
    shares = []

    def leave(share):
        shares.append(share)
        studio.leave("me")

    assert separated(studio, progress=leave) is None
    assert len(shares) == 1
    assert kept(studio) == []
    assert list(studio.songs.iterdir()) == []


def test_a_page_that_is_left_at_the_very_end_leaves_nothing(studio, monkeypatch):
    separate = disk.separate_song

    def then_leave(*arguments):
        result = separate(*arguments)
        studio.leave("me")
        return result

    monkeypatch.setattr(disk, "separate_song", then_leave)
    assert separated(studio) is None
    assert kept(studio) == []


def test_an_archive_is_whole_or_not_there(studio, monkeypatch):
    song = separated(studio)
    before, write = kept(studio), zipfile.ZipFile.write

    def full(zipped, path, name):
        write(zipped, path, name)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "write", full)
        with pytest.raises(AudioError, match="the archive cannot be written here: the disk is full"):
            studio.archive(song.key)
        assert kept(studio) == before
    with zipfile.ZipFile(studio.archive(song.key)) as zipped:
        assert zipped.testzip() is None
        assert len(zipped.namelist()) == 2
    for key in ("guess", "", "../songs"):
        with pytest.raises(AudioError, match="not here any more"):
            studio.archive(key)


def test_others_need_not_wait_for_an_archive_and_a_song_that_is_dropped_meanwhile_is_gone(studio, monkeypatch):
    song = separated(studio)
    page, begun, go_on, answers = Page(studio), threading.Event(), threading.Event(), []
    write = zipfile.ZipFile.write

    def slow(*arguments):
        begun.set()
        assert go_on.wait(10)
        write(*arguments)

    monkeypatch.setattr(zipfile.ZipFile, "write", slow)
    asking = threading.Thread(target=lambda: answers.append(page.archive(song.key)))
    asking.start()
    try:
        assert begun.wait(10)
        assert separated(studio, "you", upload(studio, seed=1)) is not None
        studio.drop("me")
    finally:
        go_on.set()
        asking.join()
    assert answers == [{"problem": GONE}]
    assert not song.folder.exists()


def test_what_nobody_is_heard_of_is_forgotten(separator):
    with Studio(separator, "mtl", keep_seconds=0.5) as studio:
        separated(studio)
        upload(studio, "not asked for.wav", seed=2)
        assert until(lambda: not kept(studio))
        assert studio.visits == {}


def test_an_upload_that_was_broken_off_goes_within_a_minute(studio):
    old, new = studio.uploads / "tmpa", studio.uploads / "tmpb"
    for path in (old, new):
        path.write_bytes(b"RIFF")
    upload(studio)
    studio.sweep()
    studio.unchanged = {path: (*state, since - 61) for path, (*state, since) in studio.unchanged.items()}
    with new.open("ab") as file:
        file.write(b"more")
    studio.sweep()
    assert kept(studio) == ["my song.wav", "tmpb"]


def test_what_is_heard_of_is_kept_and_what_is_separated_ends_when_it_is_not(studio):
    separated(studio, "you", upload(studio, seed=1))
    shares = []

    def long_after(share):
        shares.append(share)
        for session in ("me", "you"):
            studio.visits[session].seen -= studio.keep_seconds + 1
        studio.visit("you")
        studio.sweep()

    assert separated(studio, "me", progress=long_after) is None
    assert len(shares) == 1
    assert kept(studio) == ["my song - drums.wav", "my song - vocals.wav", "my song.wav"]
    assert list(studio.visits) == ["you"]


def test_all_goes_when_the_server_ends_even_what_is_being_separated(separator):
    begun, go_on, results = threading.Event(), threading.Event(), []

    def progress(share):
        begun.set()
        go_on.wait(10)

    with Studio(separator, "mtl") as studio:
        working = threading.Thread(target=lambda: results.append(separated(studio, progress=progress)))
        working.start()
        assert begun.wait(10)
        threading.Timer(0.2, go_on.set).start()
    working.join()
    assert results == [None]
    assert not studio.folder.exists()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty.wav", b"", "empty.wav is empty."),
        ("letter.wav", b"no audio at all" * 99, "letter.wav"),
        ("letter.txt", b"dear all", "letter.txt"),
    ],
)
def test_what_is_no_audio_is_refused_in_a_sentence_and_not_kept(studio, name, content, problem):
    with pytest.raises(AudioError, match=problem) as caught:
        studio.arrived("me", upload(studio, name, content))
    assert str(studio.folder) not in str(caught.value)
    assert kept(studio) == []
    with pytest.raises(AudioError, match="not here any more"):
        studio.arrived("me", studio.uploads / "nowhere" / "song.wav")


def test_what_cannot_be_separated_is_said_in_a_sentence(studio):
    path = upload(studio)
    with pytest.raises(AudioError, match="there is no song yet. Drop one first."):
        studio.separate("me", None, ["vocals"], False, print)
    for heads, problem in (([], "no heads are chosen; expected at least one."), (["vocals", "kazoo"], "kazoo")):
        with pytest.raises(UserError, match=problem):
            studio.separate("me", path, heads, False, print)
    path.unlink()
    with pytest.raises(AudioError, match="not here any more"):
        studio.separate("me", path, ["vocals"], False, print)
    assert list(studio.songs.iterdir()) == []


def test_a_damaged_song_fails_alone(studio):
    path = upload(studio)
    soundfile.write(path, np.full(8000, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="my song.wav") as caught:
        studio.separate("me", path, ["vocals"], False, lambda share: None)
    assert str(studio.folder) not in str(caught.value)
    assert list(studio.songs.iterdir()) == []
    assert separated(studio) is not None


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (MemoryError(), "memory is used up"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is used up"),
        (OSError(28, "No space"), "the disk is full"),
    ],
)
def test_what_the_machine_lacks_is_said(studio, monkeypatch, error, messages):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(disk, "separate_song", fail)
    with pytest.raises(AudioError, match=messages):
        separated(studio)
    assert studio.visits["me"].song is None
    assert list(studio.songs.iterdir()) == []


def test_an_error_in_the_program_leaves_nothing_behind(studio, monkeypatch):
    monkeypatch.setattr(disk, "separate_song", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        separated(studio)
    assert list(studio.songs.iterdir()) == []


@pytest.mark.parametrize("broken", [False, True])
def test_who_cancels_and_begins_again_keeps_the_second_song(studio, broken):
    """The first ends at its next chunk, or fails, when the second is there."""

    def again(share):
        studio.drop("me")
        studio.network.release()  # as if the second had been faster
        seconds.append(separated(studio, path=upload(studio, "second.wav", seed=1)))
        studio.network.acquire()
        if broken:
            raise AudioError("broken")

    seconds = []
    with pytest.raises(AudioError, match="broken") if broken else nullcontext():
        assert separated(studio, progress=again) is None
    assert studio.visits["me"].song is seconds[0]
    assert "second - vocals.wav" in kept(studio)
    assert "my song - vocals.wav" not in kept(studio)


@pytest.mark.parametrize("name", ["..wav", "...wav", ".wav"])
def test_a_name_of_dots_leads_nowhere(studio, name):
    with zipfile.ZipFile(studio.archive(separated(studio, path=upload(studio, name)).key)) as zipped:
        assert all(".." not in name and not name.startswith("/") for name in zipped.namelist())


def test_there_is_room_for_so_many_songs(studio, monkeypatch):
    monkeypatch.setattr(disk, "MAX_SONGS", 1)
    separated(studio)
    with pytest.raises(RecipeError, match="1 songs are here already. Try again later."):
        separated(studio, "you")
    assert separated(studio) is not None, "who has a place keeps it"


def test_a_head_is_added_where_it_belongs_and_its_file_is_not_kept(studio, separator, monkeypatch):
    own = make_run("more", ["bass"], seed=3, backbone_of="mtl").head("bass")
    strange = make_run("strange", ["piano"], seed=9).head("piano")
    tensors, metadata = read_tensors(own, "head")
    write_tensors(Path("bad.safetensors"), tensors, {**metadata, "target": "tuba", "head": "[]"})
    here = studio.uploads / "h.safetensors"

    def add(file):
        shutil.copy(file, here)
        try:
            return studio.add_head(here)
        finally:
            assert not here.exists()

    for nothing in (None, studio.uploads / "x" / "gone.safetensors"):
        with pytest.raises(RecipeError, match="there is no file|gone.safetensors is not here any more"):
            studio.add_head(nothing)
    Path("nonsense").write_bytes(b"nonsense")
    assert add(own) == "bass"
    assert separator.heads == ["drums", "vocals", "bass"]
    assert app.facts(separated(studio, heads=["bass"]))["stems"][0]["name"] == "bass"
    for file, problem in (
        (own, "bass"),
        (strange, "backbone"),
        ("nonsense", "cannot be read as a head"),
        ("bad.safetensors", r"h.safetensors: head is \[\]; expected a mapping"),
    ):
        with pytest.raises(RecipeError, match=problem) as caught:
            add(file)
        assert str(studio.folder) not in str(caught.value)
    monkeypatch.setattr(disk, "MAX_HEADS", 1)
    with pytest.raises(RecipeError, match="1 heads were added already"):
        add(strange)
    monkeypatch.setattr(disk, "MAX_HEAD_MB", 1e-6)
    with pytest.raises(RecipeError, match="that is no head"):
        add(own)


# --- the server -------------------------------------------------------------------------------------------------------


def ask(app, method, path, body=None, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", app.port, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def multipart(content, name="song.wav"):
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def test_over_http(separator, tmp_path, monkeypatch):
    """Gradio's server as it is set up here: sizes, what it serves and what not, players that seek."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which leads nowhere, and not to this machine
    studio = Studio(separator, "mtl", max_mb=0.02)
    with App(studio, port=0) as app:
        song = separated(studio)
        stem = app_file(song)
        status, whole = ask(app, "GET", stem)
        assert (status, whole) == (200, Path(song.result.paths["vocals"]).read_bytes())
        assert ask(app, "GET", stem, Range="bytes=100-199") == (206, whole[100:200])
        secret = tmp_path / "secret.wav"
        secret.write_bytes(b"secret")
        neighbour = studio.folder / "beside.wav"
        neighbour.write_bytes(b"secret")
        for path in (secret, neighbour, studio.songs / ".." / "beside.wav", Path(app_module_file())):
            assert ask(app, "GET", f"/gradio_api/file={path}")[0] in (403, 404)
        body, headers = multipart(bytes(30_000))  # little enough to have been sent when the answer comes
        neighbour.unlink()
        status, messages = ask(app, "POST", "/gradio_api/upload", body, **headers)
        assert (status, b"maximum allowed size" in messages) == (413, True)
        assert kept(studio) == ["my song - drums.wav", "my song - vocals.wav", "my song.wav"]
        for page in ("docs", "openapi.json", "monitoring", "gradio_api/info", "gradio_api/deep_link"):
            assert ask(app, "GET", f"/{page}") == (404, b"There is no such page.")
        recording, headers = multipart(b"a song", name="a.webm")
        assert ask(app, "POST", "/gradio_api/process_recording", recording, **headers)[0] == 404  # would be kept
        words = {"Content-Type": "multipart/form-data; boundary=x"}
        body = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nno file\r\n--x--\r\n'
        assert ask(app, "POST", "/gradio_api/upload", body, **words) == (500, b"The request cannot be answered.")
        with pytest.raises(RecipeError, match="another app is open in this process"):
            App(Studio(separator, "second"), port=0).__enter__()
        assert app.blocks._queue.max_size == MAX_SONGS
        assert ask(app, "GET", "/", Origin=f"http://127.0.0.1:{app.port}")[0] == 200
        assert ask(app, "GET", "/", Origin="http://evil.example")[0] == 403
        assert ask(app, "GET", "/", Host="evil.example")[0] == 403
    assert not studio.folder.exists()
    with pytest.raises(OSError, match="refused"):
        ask(app, "GET", "/")


def app_file(song):
    return f"/gradio_api/file={quote(song.result.paths['vocals'].as_posix())}"


def app_module_file():
    return app.__file__


@pytest.mark.parametrize(
    ("host", "request_host", "origin", "known"),
    [
        ("127.0.0.1", "127.0.0.1:7860", "", True),
        ("127.0.0.1", "localhost:1", "http://localhost:1", True),
        ("127.0.0.1", "[::1]:7860", "", True),
        ("127.0.0.1", "localhost:1", "http://localhost:2", False),
        ("127.0.0.1", "evil.example", "", False),
        ("127.0.0.1", "evil.example", "http://evil.example", False),
        ("127.0.0.1", "[", "", False),
        ("127.0.0.1", "localhost", "http://[", False),
        ("127.0.0.1", "", "", False),
        ("0.0.0.0", "my-machine.lan:7860", "http://my-machine.lan:7860", True),
        ("0.0.0.0", "my-machine.lan:7860", "http://evil.example", False),
    ],
)
def test_other_sites_are_refused(host, request_host, origin, known):
    assert Guard(None, host).knows(request_host, origin) is known


@pytest.mark.parametrize(
    ("host", "public", "request_host", "origin", "known"),
    [
        ("127.0.0.1", "https://stems.example.org", "stems.example.org", "https://stems.example.org", True),
        ("127.0.0.1", "https://stems.example.org/a", "Stems.Example.ORG:443", "https://stems.example.org", True),
        ("127.0.0.1", "https://stems.example.org:8443", "stems.example.org", "https://stems.example.org:8443", True),
        ("127.0.0.1", "https://stems.example.org", "127.0.0.1:7860", "https://stems.example.org", True),
        ("127.0.0.1", "https://stems.example.org", "localhost:7860", "http://localhost:7860", True),
        ("127.0.0.1", "https://stems.example.org", "evil.example", "https://stems.example.org", False),
        ("127.0.0.1", "https://stems.example.org", "stems.example.org", "https://evil.example", False),
        ("127.0.0.1", "https://stems.example.org", "stems.example.org", "null", False),
        ("127.0.0.1", "https://stems.example.org:8443", "127.0.0.1:1", "https://stems.example.org:9443", False),
        ("127.0.0.1", "", "stems.example.org", "https://stems.example.org", False),
        ("0.0.0.0", "", "stems.example.org:443", "https://stems.example.org", True),
        ("0.0.0.0", "", "stems.example.org:80", "https://stems.example.org", True),
        ("0.0.0.0", "", "Stems.example.org", "https://stems.example.org:443", True),
        ("0.0.0.0", "", "stems.example.org:443", "https://stems.example.org:8443", False),
        ("0.0.0.0", "https://stems.example.org:8443", "stems.example.org:443", "https://stems.example.org:8443", True),
        ("0.0.0.0", "", "stems.example.org:x", "https://stems.example.org", False),
    ],
)
def test_a_proxy_may_pass_the_name_on_in_several_ways(host, public, request_host, origin, known):
    assert Guard(None, host, public).knows(request_host, origin) is known


@pytest.mark.parametrize(
    "url", ["stems.example.org", "ftp://x", "https://", "https://[", "https://a:b", "https://a?x=1"]
)
def test_a_public_url_is_an_address(url, capsys):
    make_run("mtl", ["vocals"])
    assert main(["app", "--model", "mtl", "--device", "cpu", "--public-url", url]) == 2
    assert f"--public-url {url!r} is no address" in capsys.readouterr().err


def test_pages_behind_a_proxy_ask_the_public_address(separator):
    with App(Studio(separator, "mtl"), port=0, public_url="https://Stems.example.org:8443/songs/") as served:
        headers = {"Host": "stems.example.org", "Origin": "https://stems.example.org:8443"}
        status, config = ask(served, "GET", "/config", **headers)
        assert (status, json.loads(config)["root"]) == (200, "https://Stems.example.org:8443/songs")
        for path in ("/", "/songs/", "/songs/config", "/songs/theme.css"):
            assert ask(served, "GET", path, **headers)[0] == 200
        assert ask(served, "GET", "/songs/docs", **headers)[0] == 404
        body, kind = multipart(b"a song")
        assert ask(served, "POST", "/gradio_api/upload", body, **headers, **kind)[0] == 200
        assert (
            ask(served, "POST", "/gradio_api/upload", body, **{**headers, "Origin": "https://evil.org"}, **kind)[0]
            == 403
        )


def test_of_two_songs_dropped_at_once_one_is_taken_and_it_is_said(studio):
    page, request = Page(studio), SimpleNamespace(session_hash="me")
    first, second, third = (upload(studio, f"{i}<b>.wav", seed=i) for i in range(3))
    shown, about = page.arrived([str(first), str(second), str(third)], request)
    assert shown == [str(first)]
    assert about.startswith("0:01, 11025 Hz, mono<p")
    assert "One song at a time: drop 1&lt;b&gt;.wav, 2&lt;b&gt;.wav again when this one is done." in about
    assert kept(studio) == ["0<b>.wav"]
    broken = upload(studio, "x.wav", b"broken", seed=9)
    studio.arrived("you", third := upload(studio, "third.wav", seed=2))
    shown, about = page.arrived([str(broken), str(third)], request)
    assert shown is None
    assert "x.wav" in about
    assert "drop third.wav again" in about
    assert kept(studio) == ["third.wav"], "which another page has"


def test_the_port_must_be_free_and_the_host_this_machine(capsys):
    make_run("mtl", ["vocals"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--model", "mtl", "--device", "cpu", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen on port {port} of 127.0.0.1" in error
    assert "Give another --port" in error
    assert main(["app", "--model", "mtl", "--device", "cpu", "--host", "198.51.100.7"]) == 2
    assert main(["app", "--model", "mtl", "--device", "cpu", "--port", "99999999"]) == 2
    assert main(["app", "--model", "mtl", "--device", "cpu", "--max-mb", "0"]) == 2
    with pytest.raises(RecipeError, match="--host is empty"):
        app.free_port("", 0)
    assert main(["app", "--model", "nobody", "--device", "cpu"]) == 2
    for wrong in (0, -1, math.inf, math.nan):
        for option in ("max_mb", "keep_seconds"):
            with pytest.raises(RecipeError, match="expected more than 0, finite"):
                Studio(None, "mtl", **{option: wrong})


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    make_run("mtl", ["vocals"])
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "refined_bsrnn.apps.browser.app")
    assert main(["app", "--model", "mtl", "--device", "cpu"]) == 2
    assert (
        "the app needs the package gradio, which is not here: pip install 'refined-bsrnn[app]'"
        in capsys.readouterr().err
    )


def test_the_command_keeps_for_minutes(monkeypatch):
    make_run("mtl", ["vocals"])
    served = []
    monkeypatch.setattr(app, "serve", served.append)
    assert (
        main(["app", "--model", "mtl", "--device", "cpu", "--port", "0", "--keep-minutes", "2", "--max-mb", "7"]) == 0
    )
    assert (served[0].studio.keep_seconds, served[0].studio.max_mb) == (120, 7)


class Fails:
    """What a server does with a request."""

    def __init__(self, error):
        self.error = error

    async def __call__(self, scope, receive, send):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            507,
            b"The file cannot be kept here: the disk is full.",
        ),
        (KeyError(999), 500, b"The request cannot be answered."),
        (ClientDisconnect(), None, None),
    ],
)
def test_errors_of_a_request_are_sentences(error, status, text):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(Fails(error), "127.0.0.1")(scope, None, send))
    assert [message.get("status") or message.get("body") for message in sent] == ([status, text] if status else [])


def test_it_says_where_it_is_and_who_reaches_it(separator, monkeypatch):
    messages = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, *timeout: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(App, "__enter__", lambda self: self)
    monkeypatch.setattr(App, "__exit__", lambda self, *error: None)
    monkeypatch.setattr(app, "say", messages.append)
    for host in ("127.0.0.1", "0.0.0.0", "::1"):
        serve(App(Studio(separator, "mtl"), host, 0))
    assert [text.split()[0] for text in messages] == ["Open", "Open", "Others", "Open"]
    assert "http://[::1]:" in messages[-1]


def test_what_a_page_is_told(studio, separator):
    """Messages are HTML to Gradio: what a user calls a file must not become a part of the page."""
    page, request = Page(studio), SimpleNamespace(session_hash="me")
    path = upload(studio, "<b>letter.wav", b"dear all" * 50)
    with pytest.raises(app.gr.Error) as caught:
        page.separate(str(path), ["vocals"], False, request, lambda *values, **more: None)
    assert "&lt;b&gt;letter.wav" in caught.value.message
    assert page.arrived(str(path), request)[0] is None
    path = upload(studio, "<b>letter.wav", b"dear all" * 50)
    assert "&lt;b&gt;letter.wav" in page.arrived(str(path), request)[1]
    assert "there is no song yet" in page.arrived(None, request)[1]
    studio.visits["me"].seen = 0
    page.seen(request)
    assert studio.visits["me"].seen > 0
    separator.load_head(make_run("more", ["bass"], seed=3, backbone_of="mtl").head("bass"))
    assert page.show_heads().choices == [(name, name) for name in ("drums", "vocals", "bass")]
    assert page.archive("guess") == {"problem": GONE}


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Gradio's about pandas, in the server's thread, where they would be errors
def test_in_chromium_from_a_song_to_a_playing_stem(separator, tmp_path, capfd):
    sync = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if chromium() is None:
        pytest.skip("needs Chromium (chromium or google-chrome on the PATH, or $CHROMIUM)")
    song = write_audio(tmp_path / "A song.wav", noise(2, 3 * 44100) * torch.linspace(0, 2, 3 * 44100), 44100)
    own_head = make_run("more", ["bass"], seed=3, backbone_of="mtl").head("bass")
    studio, elsewhere, complaints = Studio(separator, "mtl", max_mb=2), [], []
    with App(studio, port=0) as app, sync.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        # Gradio asks how far an upload is when a small one is there already: that is not found.
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda r: complaints.append(r.url) if r.status >= 400 and "progress" not in r.url else None)
        page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(app.url) else None)
        page.goto(app.url)
        drop(page, {"name": "letter.wav", "mimeType": "audio/wav", "buffer": b"dear all" * 50})
        page.get_by_text("letter.wav (400 bytes) cannot be read as audio").wait_for()
        assert until(lambda: kept(studio) == [])
        drop(page, {"name": "long.wav", "mimeType": "audio/wav", "buffer": bytes(2_100_000)})
        page.get_by_text("exceed the maximum allowed size").wait_for()
        page.get_by_role("button", name="Separate").click()
        page.get_by_text("there is no song yet. Drop one first.").wait_for()
        page.get_by_role("button", name="Cancel").wait_for(state="hidden")
        drop(page, song)
        page.get_by_text("0:03, 44100 Hz, stereo").wait_for()
        page.get_by_label("and what they leave of the song").check()
        separate = page.get_by_role("button", name="Separate")
        separate.click()
        page.locator(".play:not([disabled])").wait_for()
        assert page.locator(".mixer h2").inner_text() == "A song"
        assert page.locator(".stem h3").all_inner_texts() == ["drums", "vocals", "residual"]
        play_and_mix(page)
        downloads(page)
        players_of_a_long_song(page)
        assert not complaints
        with studio.network:  # it cannot begin
            separate.click()
            page.get_by_text("Separating").wait_for()
            assert separate.is_disabled(), "what is worked on cannot be begun again"
            other = browser.new_page()
            other.goto(app.url)
            drop(other, song)
            other.get_by_text("0:03, 44100 Hz, stereo").wait_for()
            other.get_by_role("button", name="Separate").click()
            other.get_by_text("queue: 1/1").wait_for()  # one song at a time
            picture(page, "working.png", color_scheme="dark")
            page.get_by_role("button", name="Cancel").click()
            page.get_by_role("button", name="Cancel").wait_for(state="hidden")
            upload_head(page, own_head)
            page.get_by_text("Adding bass.safetensors. A song that is being separated comes first.").wait_for()
        page.get_by_label("bass").wait_for()
        other.locator(".play:not([disabled])").wait_for()
        separate.click()
        page.locator(".play:not([disabled])").wait_for()
        assert page.locator(".stem h3").all_inner_texts() == ["drums", "vocals", "bass", "residual"]
        page.get_by_role("button", name="Delete from the server").click()
        page.locator(".mixer").wait_for(state="hidden")
        assert kept(studio) == ["A song - drums.wav", "A song - vocals.wav", "A song.wav"], "the other page's"
        other.goto("about:blank")
        assert until(lambda: kept(studio) == []), "a page that is left takes its song along"
        assert not complaints
        browser.close()
    assert "Traceback" not in capfd.readouterr().err
    assert all(url.startswith(("about:", "data:", "blob:")) for url in elsewhere), elsewhere


def drop(page, file):
    page.get_by_label("Click to upload or drop files").wait_for()
    page.locator("input[type=file]").first.set_input_files(file)


def upload_head(page, file):
    page.locator("input[type=file][accept*=safetensors]").set_input_files(file)


def picture(page, name, **media):
    """A screenshot for people, where they ask for it: ``SCREENSHOT=folder pytest ...``."""
    if os.environ.get("SCREENSHOT"):
        page.emulate_media(**media)
        page.screenshot(path=Path(os.environ["SCREENSHOT"]) / name, full_page=True)


def play_and_mix(page):
    wait(page, "Math.abs(mixer.duration - 3) < 0.001")
    page.get_by_role("button", name="Play", exact=True).click()
    wait(page, "mixer.position() > 0.3")
    levels = "JSON.stringify(mixer.stems.map(s => s.gain && Math.round(100 * s.gain.gain.value) / 100))"
    assert page.evaluate(levels) == "[1,1,1]"
    page.get_by_role("button", name="Mute vocals").click()
    wait(page, f"{levels} === '[1,0,1]'")
    page.keyboard.press("Shift+3")
    wait(page, f"{levels} === '[0,0,1]'")
    page.get_by_label("Volume of residual").fill("0.5")
    wait(page, f"{levels} === '[0,0,0.5]'")
    picture(page, "mixer.png")
    wait(page, "mixer.started === null && mixer.position() >= 2.99")  # the end
    page.locator(".view").first.click()
    assert 1 < page.evaluate("mixer.position()") < 2


def players_of_a_long_song(page):
    """What does not fit the browser's memory has one player each, and no mixer."""
    page.evaluate(
        "{ const { constructor, facts } = mixer; mixer.close(); new constructor({ ...facts, seconds: 1e5 }); }"
    )
    assert page.locator(".transport, .keys, .view").locator("visible=true").count() == 0
    assert page.locator(".stem audio").count() == 3
    page.evaluate("document.querySelector('.stem audio').play()")
    wait(page, "Math.abs(document.querySelector('.stem audio').duration - 3) < 0.001")


def downloads(page):
    with page.expect_download() as download:
        page.get_by_role("link", name="Download vocals").click()
    assert download.value.suggested_filename == "A song - vocals.wav"
    assert soundfile.info(Path(download.value.path())).frames == 3 * 44100
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all (zip)").click()
    assert download.value.suggested_filename == "A song.zip"
    with zipfile.ZipFile(Path(download.value.path())) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == [f"A song/{name}.wav" for name in ("drums", "vocals", "residual")]
