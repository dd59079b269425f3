"""The page that separates songs: what the server keeps, refuses and forgets, and what a browser does with it."""

import errno
import http.client
import io
import json
import math
import os
import socket
import threading
import time
import zipfile
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE
from test_page import chromium, wait
from test_stems import make_run, noise

from refined_bsrnn import app
from refined_bsrnn.app import Server, Studio, file_name, serve
from refined_bsrnn.audio import write_audio
from refined_bsrnn.checkpoint import read_tensors, write_tensors
from refined_bsrnn.cli import main
from refined_bsrnn.errors import RecipeError
from refined_bsrnn.separate import Separator


@contextmanager
def running(host="127.0.0.1", **options):
    """A server on a free port, and ask(method, path, body, **headers) → (status, bytes)."""
    make_run("mtl", ["vocals", "drums"])
    studio = Studio(Separator.from_pretrained("mtl"), "mtl", **options)
    with Server(studio, host, 0) as server, studio:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def ask(method, path, body=None, **headers):
            with closing(http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)) as connection:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return response.status, response.read()

        server.ask = ask
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with running() as server:
        yield server


def song_bytes(seconds=1.0, rate=11025, channels=1):
    file = io.BytesIO()
    soundfile.write(file, noise(channels, round(seconds * rate)).T.numpy(), rate, format="WAV", subtype="PCM_24")
    return file.getvalue()


def post(server, body, name="my song.wav", heads="vocals,drums", **more):
    status, content = server.ask("POST", "/songs?" + urlencode({"name": name, "heads": heads, **more}), body)
    return status, json.loads(content)


def finished(server, song):
    for _ in range(600):
        status, content = server.ask("GET", f"/songs/{song['id']}")
        assert status == 200, content
        facts = json.loads(content)
        if facts["state"] in ("done", "failed"):
            return facts
        time.sleep(0.02)
    pytest.fail("never finished")


def kept(server):
    return [path for path in server.studio.folder.rglob("*") if path.is_file()]


def until(condition):
    for _ in range(300):
        if condition():
            return True
        time.sleep(0.02)
    return False


def gone(server):
    return until(lambda: not list(server.studio.folder.iterdir()))


def test_stems_have_the_songs_rate_length_channels_and_are_those_of_the_separator(server, tmp_path):
    status, song = post(server, song_bytes(), residual=1)
    assert status == 201
    facts = finished(server, song)
    assert [stem["name"] for stem in facts["stems"]] == ["vocals", "drums", "residual"]
    got = {}
    for stem in facts["stems"]:
        status, content = server.ask("GET", f"/songs/{song['id']}/{stem['file']}")
        assert status == 200
        got[stem["name"]], rate = soundfile.read(io.BytesIO(content), always_2d=True)
        assert (rate, got[stem["name"]].shape) == (11025, (11025, 1))
        assert soundfile.info(io.BytesIO(content)).subtype == "PCM_24"
    (tmp_path / "here.wav").write_bytes(song_bytes())
    expected = Separator.from_pretrained("mtl").separate(tmp_path / "here.wav")
    gain = 10 ** (-facts["level_db"] / 20)
    np.testing.assert_allclose(got["vocals"].T, expected["vocals"].numpy() * gain, atol=1e-5)
    mixture, _ = soundfile.read(io.BytesIO(song_bytes()), always_2d=True)
    np.testing.assert_allclose(sum(got.values()), mixture * gain, atol=1e-5)
    status, content = server.ask("GET", f"/songs/{song['id']}/all.zip")
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        assert zipped.namelist() == [f"my song/{name}.wav" for name in got]
        assert zipped.testzip() is None


def test_the_upload_goes_when_it_is_separated_and_the_stems_when_they_are_dropped(server):
    _, song = post(server, song_bytes())
    finished(server, song)
    assert sorted(path.name for path in kept(server)) == ["drums.wav", "vocals.wav"]
    assert server.ask("DELETE", f"/songs/{song['id']}")[0] == 200
    assert gone(server)
    assert server.ask("GET", f"/songs/{song['id']}")[0] == 404
    _, song = post(server, song_bytes())
    assert server.ask("POST", f"/songs/{song['id']}/drop")[0] == 200
    assert gone(server)


def test_an_archive_is_whole_or_not_there(server, monkeypatch):
    _, song = post(server, song_bytes())
    finished(server, song)
    before, place = kept(server), f"/songs/{song['id']}/all.zip"
    write = zipfile.ZipFile.write

    def full(zipped, path, name):
        write(zipped, path, name)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "write", full)
        status, content = server.ask("GET", place)
        assert (status, b"No space left" in content) == (507, True)
        assert kept(server) == before
    status, content = server.ask("GET", place)
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        assert zipped.testzip() is None
        assert len(zipped.namelist()) == 2


def test_others_need_not_wait_for_an_archive_and_a_song_that_is_dropped_meanwhile_is_gone(server, monkeypatch):
    _, song = post(server, song_bytes())
    finished(server, song)
    begun, go_on, answers = threading.Event(), threading.Event(), []
    write = zipfile.ZipFile.write

    def slow(*arguments):
        begun.set()
        assert go_on.wait(10)
        write(*arguments)

    monkeypatch.setattr(zipfile.ZipFile, "write", slow)
    place = f"/songs/{song['id']}"
    asking = threading.Thread(target=lambda: answers.append(server.ask("GET", f"{place}/all.zip")))
    asking.start()
    try:
        assert begun.wait(10)
        assert server.studio.lock.acquire(timeout=0.5), "the lock of all users"
        server.studio.lock.release()
        assert server.ask("DELETE", place)[0] == 200
    finally:
        go_on.set()
        asking.join()
    assert (answers[0][0], b"not here any more" in answers[0][1]) == (404, True)
    assert gone(server)


def test_what_nobody_asks_for_is_forgotten():
    with running(keep_seconds=0.5) as server:
        assert json.loads(server.ask("GET", "/state")[1])["keep_seconds"] == 0.5  # for the page to ask in time
        _, song = post(server, song_bytes())
        finished(server, song)
        assert gone(server)


def test_what_nobody_asks_for_is_forgotten_while_another_song_is_separated():
    with running(keep_seconds=0.5) as server:
        _, done = post(server, song_bytes())
        finished(server, done)
        with server.studio.network:  # the worker has the next one in hand
            working, waiting = (server.studio.songs[post(server, song_bytes())[1]["id"]] for _ in range(2))
            assert until(lambda: list(server.studio.songs) == [working.id])
            assert not [path for path in kept(server) if path.parent.name == "stems"]
            assert until(lambda: working.dropped)
        assert gone(server)
        assert working.result is None, "it is not separated to the end"
        assert waiting.state == "waiting", "it is not begun"


def test_a_song_that_is_asked_for_waits_as_long_as_it_takes():
    with running(keep_seconds=0.5) as server, server.studio.network:
        songs = [post(server, song_bytes())[1] for _ in range(2)]
        for _ in range(40):
            assert [server.ask("GET", f"/songs/{song['id']}")[0] for song in songs] == [200, 200]
            time.sleep(0.02)


def test_nothing_is_left_when_the_server_ends():
    with running() as server:
        assert post(server, song_bytes(20.0))[0] == 201
        folder = server.studio.folder
        assert folder.exists()
    assert not folder.exists()


def test_songs_wait_for_each_other_and_one_that_is_dropped_makes_way(server):
    with server.studio.network:  # the first one cannot begin
        songs = [post(server, song_bytes(), name=f"{i}.wav")[1] for i in range(3)]
        ahead = [json.loads(server.ask("GET", f"/songs/{s['id']}")[1])["ahead"] for s in songs]
        assert ahead == [0, 1, 2]
        server.ask("DELETE", f"/songs/{songs[1]['id']}")
        assert json.loads(server.ask("GET", f"/songs/{songs[2]['id']}")[1])["ahead"] == 1
    assert finished(server, songs[2])["state"] == "done"


def test_a_head_that_is_named_twice_is_one_stem(server):
    facts = finished(server, post(server, song_bytes(), heads="drums,vocals,drums", residual=1)[1])
    assert [stem["name"] for stem in facts["stems"]] == ["drums", "vocals", "residual"]


def test_a_damaged_song_fails_alone(server):
    file = io.BytesIO()
    soundfile.write(file, np.full(8000, np.nan, np.float32), RATE, format="WAV", subtype="FLOAT")
    status, song = post(server, file.getvalue(), name="nan.wav")
    facts = finished(server, song) if status == 201 else song
    assert "nan.wav" in facts["problem"]
    assert str(server.studio.folder) not in facts["problem"]
    assert finished(server, post(server, song_bytes())[1])["state"] == "done"


@pytest.mark.parametrize(
    ("body", "options", "status", "problem"),
    [
        (b"", {}, 400, "the file is empty."),
        (b"no audio at all" * 99, {"name": "letter.wav"}, 400, "letter.wav"),
        (b"x", {"heads": ""}, 400, "no heads are chosen; expected at least one."),
        (b"x", {"heads": "vocals,kazoo"}, 400, "kazoo"),
        (b"x" * 300_000, {}, 413, "the file has 0.3 MB; expected at most 0.2 MB."),
    ],
)
def test_what_is_refused_is_said_in_a_sentence_and_not_kept(body, options, status, problem):
    with running(max_mb=0.2) as server:
        got, facts = post(server, body, **options)
        assert got == status
        assert problem in facts["problem"]
        assert str(server.studio.folder) not in facts["problem"]
        assert gone(server)


def test_there_is_room_for_so_many_songs(server, monkeypatch):
    monkeypatch.setattr(app, "MAX_SONGS", 1)
    post(server, song_bytes())
    assert post(server, song_bytes()) == (503, {"problem": "1 songs are here already. Try again later."})


def test_songs_and_heads_on_their_way_take_places(server, monkeypatch):
    """Or all who begin to upload at once would be let in."""
    monkeypatch.setattr(app, "MAX_SONGS", 2)
    monkeypatch.setattr(app, "MAX_HEADS", 1)
    arriving = server.studio.arriving
    for kind, query, full in (("songs", "name=a.wav&heads=vocals", "2 songs"), ("heads", "name=h", "1 heads")):
        path = f"{kind}?{query}"
        with closing(socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=30)) as slow:
            slow.sendall(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode())
            assert until(lambda kind=kind: arriving[kind])
            if kind == "songs":
                assert post(server, song_bytes())[0] == 201  # the second place
            status, content = server.ask("POST", f"/{path}", b"x")
            assert (status, json.loads(content)["problem"][: len(full)]) == (503, full)
        assert until(lambda kind=kind: not arriving[kind])
        if kind == "songs":
            assert post(server, song_bytes())[0] == 201  # who broke off has left it
    assert server.ask("POST", "/heads?name=h.safetensors", b"x")[0] == 400


def test_many_may_come_at_once():
    make_run("mtl", ["vocals"])
    with Server(Studio(Separator.from_pretrained("mtl"), "mtl"), port=0) as server:  # it lets nobody in yet
        for _ in range(40):
            socket.create_connection(server.server_address, timeout=0.5).close()


def test_paths_lead_nowhere_but_to_the_stems(server):
    _, song = post(server, song_bytes(), name="../../etc/passwd.wav")
    assert finished(server, song)["track"] == "passwd"
    for name in ("..%2F..%2Fpasswd", "passwd.wav", "%2Fetc%2Fpasswd"):
        assert server.ask("GET", f"/songs/{song['id']}/{name}")[0] == 404
    for path in ("/nowhere", "/../app.py", "/songs/guess", "/songs/guess/vocals.wav"):
        assert server.ask("GET", path)[0] == 404
    assert server.ask("POST", "/nowhere", b"x")[0] == 404
    assert server.ask("DELETE", "/state")[0] == 404
    assert server.ask("POST", "/songs?heads=vocals", iter([b"x"]))[0] == 411  # chunked: no length


@pytest.mark.parametrize(
    ("path", "headers", "status", "problem"),
    [
        ("http://[", {}, 400, "cannot be read"),
        ("/state", {"Host": "["}, 400, "cannot be read"),
        ("/state", {"Origin": "http://["}, 400, "cannot be read"),
        ("/songs?heads=vocals", {"Content-Length": "9" * 5000}, 413, "expected at most 500 MB"),
    ],
)
def test_requests_that_make_no_sense_get_a_sentence(server, path, headers, status, problem):
    headers = {"Host": "localhost", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    with closing(socket.create_connection(server.server_address, timeout=30)) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, problem in json.loads(response.read())["problem"]) == (status, True)


def test_an_early_answer_reaches_who_is_still_sending(server):
    server.studio.max_mb = 1
    size = 16_000_000  # more than the buffers of both sides hold
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)) as connection:
        connection.request("POST", "/songs?heads=vocals", bytes(size))
        response = connection.getresponse()
        assert response.status == 413
        assert "16.0 MB; expected at most 1 MB" in json.loads(response.read())["problem"]


def test_players_seek_in_stems(server):
    song = post(server, song_bytes(), heads="vocals")[1]
    place = f"/songs/{song['id']}/{finished(server, song)['stems'][0]['file']}"
    _, whole = server.ask("GET", place)
    for text, expected in (
        ("bytes=0-99", whole[:100]),
        ("bytes=100-", whole[100:]),
        ("bytes=-10", whole[-10:]),
        (f"bytes=5-{len(whole) + 5}", whole[5:]),
        (f"bytes=5-{'9' * 5000}", whole[5:]),
    ):
        assert server.ask("GET", place, Range=text) == (206, expected)
    for text in ("bytes=-", "bytes=9-5", "bytes=0-1,3-4", "seconds=0-1", f"bytes=-{len(whole) + 1}"):
        assert server.ask("GET", place, Range=text) == (200, whole)
    for first in (str(len(whole)), "9" * 5000):
        status, content = server.ask("GET", place, Range=f"bytes={first}-")
        assert (status, b"ends at byte" in content) == (416, True)


def test_other_sites_are_refused(server):
    host = f"127.0.0.1:{server.server_address[1]}"
    assert server.ask("GET", "/state", Origin=f"http://{host}")[0] == 200
    assert server.ask("GET", "/state", Host="localhost:1")[0] == 200
    status, content = server.ask("POST", "/songs", b"x", Origin="http://evil.example")
    assert (status, b"evil.example are refused" in content) == (403, True)
    assert server.ask("GET", "/state", Host="evil.example")[0] == 403


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a song.mp3", "a song.mp3"),
        ("..\\..\\x.wav", "x.wav"),
        ("/etc/passwd", "passwd"),
        ("", "song"),
        ("..", "song"),
        (".wav", "wav"),
        ("Ärger<b>\n.flac", "Ärger_b__.flac"),
        ("x" * 300 + ".wav", "x" * 176 + ".wav"),
        ("Cafe\u0301 नमस्ते 5.wav", "Café नमस्ते 5.wav"),
        ("\U00020000" * 70 + ".wav", "\U00020000" * 44 + ".wav"),
        ("ä" * 200 + "." + "ä" * 200, "ä" * 84 + "." + "ä" * 5),
    ],
)
def test_file_names(name, expected):
    assert file_name(name) == expected


def test_a_head_is_added_where_it_belongs(server):
    own = make_run("more", ["bass"], seed=3, backbone_of="mtl").head("bass").read_bytes()
    strange = make_run("strange", ["piano"], seed=9).head("piano").read_bytes()
    status, content = server.ask("POST", "/heads?name=bass.safetensors", own)
    assert status == 200
    assert json.loads(content)["head"] == "bass"
    assert json.loads(server.ask("GET", "/state")[1])["heads"] == ["drums", "vocals", "bass"]
    assert finished(server, post(server, song_bytes(), heads="bass")[1])["stems"][0]["name"] == "bass"
    tensors, metadata = read_tensors(Path("runs/more/heads/bass.safetensors"), "head")
    write_tensors(Path("bad.safetensors"), tensors, {**metadata, "target": "tuba", "head": "[]"})
    bad = Path("bad.safetensors").read_bytes()
    for body, problem in (
        (own, "bass"),
        (strange, "backbone"),
        (b"nonsense", "cannot be read as a head"),
        (bad, "h.safetensors says head='[]'; expected a JSON object"),
    ):
        status, content = server.ask("POST", "/heads?name=h.safetensors", body)
        assert status == 400
        assert problem in json.loads(content)["problem"]
        assert str(server.studio.folder) not in json.loads(content)["problem"]


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
    assert main(["app", "--model", "nobody", "--device", "cpu"]) == 2
    for wrong in (0, -1, math.inf, math.nan):
        for option in ("max_mb", "keep_seconds"):
            with pytest.raises(RecipeError, match="expected more than 0, finite"):
                Studio(None, "mtl", **{option: wrong})


def test_it_listens_to_this_machine_alone_unless_told_otherwise(monkeypatch):
    make_run("mtl", ["vocals"])
    separator, said = Separator.from_pretrained("mtl"), []
    monkeypatch.setattr(Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    for host in ("127.0.0.1", "0.0.0.0"):
        with Server(Studio(separator, "mtl"), host, 0) as server:
            assert server.socket.getsockname()[0] == host
            serve(server, said.append)
            assert not server.studio.folder.exists()
    assert [text.split()[0] for text in said] == ["Open", "Open", "Others"]


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_chromium_from_a_song_to_a_playing_stem(server, tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if chromium() is None:
        pytest.skip("needs Chromium (chromium or google-chrome on the PATH, or $CHROMIUM)")
    song = write_audio(tmp_path / "A song.wav", noise(2, 3 * 44100) * torch.linspace(0, 2, 3 * 44100), 44100)
    own_head = make_run("more", ["bass"], seed=3, backbone_of="mtl").head("bass")
    elsewhere, complaints = [], []
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(server.url) else None)
        page.goto(server.url)
        page.get_by_label("vocals").wait_for()
        assert page.get_by_role("button", name="Separate").is_disabled()
        page.set_input_files("#file", song)
        page.locator("#residual").check()
        page.get_by_role("button", name="Separate").click()
        page.locator("#play:not([disabled])").wait_for()
        assert page.locator(".stem h3").all_inner_texts() == ["drums", "vocals", "residual"]
        wait(page, "Math.abs(app.mixer.duration - 3) < 0.001")
        page.get_by_role("button", name="Play", exact=True).click()
        wait(page, "app.mixer.position() > 0.3")
        levels = "JSON.stringify(app.mixer.stems.map(s => s.gain && Math.round(100 * s.gain.gain.value) / 100))"
        assert page.evaluate(levels) == "[1,1,1]"
        page.get_by_role("button", name="Mute vocals").click()
        wait(page, f"{levels} === '[1,0,1]'")
        page.keyboard.press("Shift+3")
        wait(page, f"{levels} === '[0,0,1]'")
        page.get_by_label("Volume of residual").fill("0.5")
        wait(page, f"{levels} === '[0,0,0.5]'")
        if os.environ.get("SCREENSHOT"):
            page.screenshot(path=os.environ["SCREENSHOT"], full_page=True)
        wait(page, "app.mixer.started === null && app.mixer.position() >= 2.99")  # the end
        page.locator(".view").first.click()
        assert 1 < page.evaluate("app.mixer.position()") < 2
        with page.expect_download() as download:
            page.get_by_role("link", name="Download vocals").click()
        assert download.value.suggested_filename == "A song - vocals.wav"
        assert soundfile.info(Path(download.value.path())).frames == 3 * 44100
        page.set_input_files("#file", {"name": "letter.wav", "mimeType": "audio/wav", "buffer": b"dear all" * 50})
        assert not complaints
        page.get_by_role("button", name="Separate").click()
        page.locator("#problem:not([hidden])").wait_for()
        assert "letter.wav" in page.locator("#problem").inner_text()
        assert gone(server), "the song before was deleted"
        page.set_input_files("#file", song)
        page.get_by_role("button", name="Separate").click()
        page.locator("#play:not([disabled])").wait_for()
        page.get_by_role("button", name="Delete from the server").click()
        assert gone(server), "deleted when asked to"
        with server.studio.network:  # it cannot begin
            page.get_by_role("button", name="Separate").click()
            wait(page, "document.getElementById('stage').textContent.startsWith('Separating 0 %')")
            if os.environ.get("SCREENSHOT"):
                page.emulate_media(color_scheme="dark")
                page.screenshot(path=os.environ["SCREENSHOT"] + ".dark.png", full_page=True)
            page.get_by_role("button", name="Cancel").click()
            page.get_by_text("Cancelled.").wait_for()
        assert gone(server), "what is cancelled is deleted"
        with server.studio.network:  # as while a song is separated
            page.set_input_files("#head-file", own_head)
            page.get_by_text("Adding bass.safetensors. A song that is being separated comes first.").wait_for()
        page.get_by_label("bass").wait_for()
        assert page.locator("#adding").inner_text() == ""
        page.get_by_role("button", name="Separate").click()
        page.locator("#play:not([disabled])").wait_for()
        page.goto("about:blank")
        assert gone(server), "a page that is left takes its song along"
        browser.close()
    assert all(url == "about:blank" or url.startswith("data:") for url in elsewhere), elsewhere
