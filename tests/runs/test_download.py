"""One file from a server: resumed, verified, and what is said where it cannot be had."""

import hashlib
import os
import threading
import time

import numpy as np
import pytest

from refined_bsrnn.errors import UserError
from refined_bsrnn.runs.exchange import download as module
from refined_bsrnn.runs.exchange.download import RemoteFile, download
from tests.helpers.file_server import Served, file_server

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LISTED = {"size": len(CONTENT), "checksum": ("sha256", SHA256)}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "SECONDS", 1.0)


@pytest.fixture
def server():
    with file_server() as served:
        yield served


def wanted(server, tmp_path, name="model.ckpt", **facts):
    return RemoteFile(f"{server.url}/{name}", tmp_path / "there" / name, **facts)


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "there").iterdir())


def test_a_file_arrives_whole_and_nothing_is_left_beside_it(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT)
    received = download(wanted(server, tmp_path, **LISTED))
    assert received.path.read_bytes() == CONTENT
    assert (received.bytes, received.sha256, received.verified) == (len(CONTENT), SHA256, ("size", "sha256"))
    assert left(tmp_path) == ["model.ckpt"]
    download(wanted(server, tmp_path, **LISTED))
    assert len(server.requests) == 1  # it is here


def test_md5_is_verified_and_what_is_not_listed_is_not_said_to_be(server, tmp_path):
    server.files |= {f"/{name}": Served(CONTENT) for name in ("a", "b")}
    md5 = ("md5", hashlib.md5(CONTENT).hexdigest())
    assert download(wanted(server, tmp_path, "a", checksum=md5)).verified == ("md5",)
    plain = download(wanted(server, tmp_path, "b"))
    assert (plain.verified, plain.sha256) == ((), SHA256)


def test_what_is_broken_off_is_continued_where_it_ended(server, tmp_path, capfd):
    server.files["/model.ckpt"] = Served(CONTENT, cuts=[100_000, 50_000])
    assert download(wanted(server, tmp_path, **LISTED)).path.read_bytes() == CONTENT
    assert server.ranges("/model.ckpt") == [None, "bytes=100000-", "bytes=150000-"]
    assert "broken off after 0.1 MB" in capfd.readouterr().err


def test_the_next_call_continues_what_an_earlier_one_left(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT, cuts=[120_000])
    file = wanted(server, tmp_path, **LISTED)

    def interrupted(seconds):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(file)
    assert left(tmp_path) == ["model.ckpt.part", "model.ckpt.part.json"]
    assert download(file).path.read_bytes() == CONTENT
    assert server.ranges("/model.ckpt")[-1] == "bytes=120000-"


def test_another_version_on_the_server_is_not_appended_to_the_first(server, tmp_path, monkeypatch):
    other = CONTENT[::-1]
    served = server.files["/model.ckpt"] = Served(CONTENT, cuts=[100_000])

    def changed(seconds):
        served.content, served.mark = other, '"second"'

    monkeypatch.setattr(module.time, "sleep", changed)
    assert download(wanted(server, tmp_path)).path.read_bytes() == other


@pytest.mark.parametrize("mark", [None, 'W/"weak"'])
def test_without_a_mark_and_a_checksum_a_part_is_not_trusted(server, tmp_path, mark):
    server.files["/model.ckpt"] = Served(CONTENT, mark=mark, cuts=[100_000])
    assert download(wanted(server, tmp_path)).path.read_bytes() == CONTENT
    assert server.ranges("/model.ckpt") == [None, None]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT, ranges=False, cuts=[100_000])
    assert download(wanted(server, tmp_path, **LISTED)).path.read_bytes() == CONTENT


def test_a_size_that_the_server_does_not_say_is_that_of_the_list(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT, sized=False)
    assert download(wanted(server, tmp_path, **LISTED)).bytes == len(CONTENT)
    server.files["/cut.ckpt"] = Served(CONTENT, sized=False, cuts=[1000])
    with pytest.raises(UserError, match="has 1000 bytes; 300000 is listed"):
        download(wanted(server, tmp_path, "cut.ckpt", **LISTED))


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server, tmp_path):
    server.files["/slow"] = Served(
        CONTENT, pause=0.001
    )  # 1 s in all, as long as the limit of silence, and never silent
    assert download(wanted(server, tmp_path, "slow", **LISTED)).bytes == len(CONTENT)
    server.files["/silent"] = Served(CONTENT, pause=30.0)
    monotonic = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SECONDS", 0.2)
        with pytest.raises(UserError, match="cannot be fetched"):
            download(wanted(server, tmp_path, "silent", **LISTED))
    assert time.monotonic() - monotonic < 10


@pytest.mark.parametrize("facts", [{"checksum": LISTED["checksum"]}, {"checksum": ("md5", "0" * 32)}])
def test_a_wrong_checksum_leaves_nothing_and_says_both(server, tmp_path, facts):
    server.files["/model.ckpt"] = Served(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=f"has the .*; {facts['checksum'][1]} is listed.*What arrived was deleted"):
        download(wanted(server, tmp_path, **facts))
    assert left(tmp_path) == []


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT)
    with pytest.raises(UserError, match="has 300000 bytes; 299999 are listed"):
        download(wanted(server, tmp_path, size=299_999))
    assert left(tmp_path) == []


def test_a_file_put_there_by_hand_is_verified_and_never_deleted(server, tmp_path):
    file = wanted(server, tmp_path, **LISTED)
    file.path.parent.mkdir()
    file.path.write_bytes(CONTENT[1:] + b"x")
    with pytest.raises(UserError, match=f"Remove {file.path} and get it again"):
        download(file)
    assert left(tmp_path) == ["model.ckpt"]
    file.path.write_bytes(CONTENT)
    assert download(file).verified == ("size", "sha256")
    assert not server.requests


@pytest.mark.parametrize(("statuses", "n_requests"), [([404], 1), ([403], 1), ([503] * 3, 3), ([429, 500, 503], 3)])
def test_what_a_server_refuses_is_said_with_what_to_do(server, tmp_path, statuses, n_requests):
    server.files["/model.ckpt"] = Served(CONTENT, statuses=list(statuses))
    with pytest.raises(UserError, match=f"model.ckpt cannot be fetched: the server answers {statuses[-1]} .*By hand."):
        download(wanted(server, tmp_path, advice="By hand."))
    assert len(server.requests) == n_requests


def test_a_passing_refusal_is_tried_again(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT, statuses=[503, 503])
    assert download(wanted(server, tmp_path, **LISTED)).bytes == len(CONTENT)


def test_an_unreachable_server_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/x cannot be fetched: .*\. By hand."):
        download(RemoteFile("http://127.0.0.1:9/x", tmp_path / "x", advice="By hand."))


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT)
    file = wanted(server, tmp_path, **LISTED)
    file.path.parent.mkdir()
    (tmp_path / "there" / "model.ckpt.part").write_bytes(CONTENT)
    assert download(file).bytes == len(CONTENT)


def test_a_part_longer_than_the_file_is_begun_again(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT)
    file = wanted(server, tmp_path, **LISTED)
    file.path.parent.mkdir()
    (tmp_path / "there" / "model.ckpt.part").write_bytes(CONTENT + b"more")
    assert download(file).path.read_bytes() == CONTENT


def test_too_little_room_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    server.files["/model.ckpt"] = Served(CONTENT)
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage._replace(free=500_000))
    with pytest.raises(UserError, match="needs 1 MB in .*where 0 MB are free.*REFINED_BSRNN_CACHE"):
        download(wanted(server, tmp_path, **LISTED), room=300_000)
    assert left(tmp_path) == []
    assert download(wanted(server, tmp_path, **LISTED), room=100_000).bytes == len(CONTENT)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")  # noqa: PTH110
def test_a_disk_that_fills_up_meanwhile_is_one_sentence(server, tmp_path):
    server.files["/model.ckpt"] = Served(CONTENT)
    file = wanted(server, tmp_path, **LISTED)
    file.path.parent.mkdir()
    (tmp_path / "there" / "model.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="model.ckpt cannot be written: the disk is full.*the next call continues it"):
        download(file)


def test_a_redirect_is_followed_also_when_continuing(server, tmp_path):
    server.files["/model.ckpt"] = Served(b"", location=f"{server.url}/elsewhere")
    server.files["/elsewhere"] = Served(CONTENT, cuts=[100_000])
    assert download(wanted(server, tmp_path, **LISTED)).path.read_bytes() == CONTENT
    assert server.ranges("/elsewhere") == [None, "bytes=100000-"]


def test_a_file_of_the_hub_comes_from_the_mirror_that_is_set_with_the_users_token(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    server.files |= {f"/{name}": Served(CONTENT) for name in ("owner/net/resolve/main/model.ckpt", "x")}
    for address in ("https://huggingface.co/owner/net/resolve/main/model.ckpt", f"{server.url}/x"):
        assert download(RemoteFile(address, tmp_path / "there" / address[-4:], **LISTED)).sha256 == SHA256
    assert server.tokens == ["Bearer hf_mine", None]


def test_two_threads_do_not_disturb_each_other(server, tmp_path):
    server.files |= {f"/{name}": Served(CONTENT, pause=0.0002) for name in ("a", "b")}
    threads = [threading.Thread(target=download, args=[wanted(server, tmp_path, name, **LISTED)]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(tmp_path) == ["a", "b"]
