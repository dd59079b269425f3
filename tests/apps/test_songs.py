"""Which songs inputs mean: what can be read in folders, patterns with brackets, and what is left out of them."""

import os
import shutil
import socket
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from refined_bsrnn.apps.songs.inputs import expand, find_songs, is_own_stem, safe_track
from refined_bsrnn.audio import AudioWriter, write_audio

RATE = 8000
OUT = Path("separated")


def noise(n=4000):
    return 0.1 * np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)


def song(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise().T, RATE, format="WAV", subtype="PCM_16")
    return Path(path)


def coded(path, codec, container):
    """Two channels of noise at 48 kHz, by FFmpeg."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=48000, layout="stereo", options={"strict": "-2"})
        layout = {"format": stream.format.name, "layout": "stereo"}
        samples = np.zeros(
            (2, 4096) if stream.format.is_planar else (1, 8192), (stream.format.name.startswith("s16") and "i2") or "f4"
        )
        frame = av.AudioFrame.from_ndarray(samples, **layout)
        frame.sample_rate = 48000
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (part := fifo.read(stream.frame_size or 1024)) is not None:
            part.pts = None
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return Path(path)


def found(*inputs, out=OUT):
    messages = []
    return [job.track for job in find_songs(inputs, out, messages.append)], messages


def test_everything_in_a_folder_that_can_be_read_is_a_song():
    for name in ("in/song.wav", "in/y.wave", "in/z.bwf", "in/no suffix", "in/mix.v2", "in/deep/er.wav"):
        song(name)
    coded("in/book.m4b", "aac", "mp4")
    coded("in/x.3gp", "aac", "3gp")
    coded("in/mp2.mp2", "mp2", "mp2")
    coded("in/x.m2ts", "mp2", "mpegts")
    coded("in/x.ac3x", "ac3", "ac3")
    soundfile.write("in/x.aifc", noise().T, RATE, format="AIFF")
    Path("in/notes.txt").write_text("hello")
    Path("in/cover.JPG").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    Path("in/random.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    Path("in/random").write_bytes(np.random.default_rng(1).bytes(100_000))
    Path("in/.hidden.wav").write_bytes(b"")
    Path("in/gone.wav").symlink_to("nowhere")
    songs, messages = found("in")
    names = ["book", "deep/er", "mix", "mp2", "no suffix", "song", "x.3gp", "x.ac3x", "x.aifc", "x.m2ts", "y", "z"]
    assert sorted(songs) == names
    assert messages == ["Left out of in: 1 .bin, 1 .jpg, 1 .txt, 1 broken link, 1 hidden, 1 without suffix."]


def test_a_broken_song_is_no_other_kind_of_file():
    for name in ("a.wav", "b.m4b", "c.dts", "d.M2TS"):
        Path("in").mkdir(exist_ok=True)
        Path("in", name).write_bytes(b"broken")
    assert found("in") == (["a", "b", "c", "d"], [])


def test_links_to_folders_are_followed_once(tmp_path):
    song("in/a.wav")
    song("elsewhere/deep/b.wav")
    Path("in/more").symlink_to(tmp_path / "elsewhere")
    Path("in/loop").symlink_to(tmp_path / "in")
    Path("elsewhere/up").symlink_to(tmp_path / "in")
    assert found("in") == (["a", "more/deep/b"], [])


def test_a_folder_that_may_not_be_read_fails_alone(monkeypatch):
    song("in/a.wav")
    song("in/closed/b.wav")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    jobs = find_songs(["in"], OUT)
    assert [(str(job.path), job.problem) for job in jobs] == [
        ("in/a.wav", ""),
        ("in/closed", "the folder in/closed cannot be read: Permission denied."),
    ]


def test_a_path_that_cannot_be_looked_at_fails_alone(monkeypatch):
    song("a.wav")
    stat = Path.stat

    def gone(path, **options):
        if path.name == "share.wav":
            raise OSError(116, "Stale file handle", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", gone)
    jobs = find_songs(["share.wav", "x" * 300 + ".wav", "a\0b.wav", "https://example.org/a.wav", "a.wav"], OUT)
    assert [job.problem for job in jobs] == [
        "share.wav cannot be read: Stale file handle.",
        f"{'x' * 300}.wav cannot be read: File name too long.",
        "",  # there is no such file, which is said when its turn comes
        "https://example.org/a.wav is an address; expected a file. Download it first and give the file.",
        "",
    ]
    assert jobs[-1].track == "a"


@pytest.mark.parametrize(
    ("pattern", "tracks"),
    [
        ("Alb [2020] [FLAC]/*.wav", ["1", "2"]),
        ("Alb [2020]*/*.wav", ["1", "2"]),
        ("* [[]2020] */1.wav", ["1"]),
        ("Alb ?2020? [FLAC]/[12].wav", ["1", "2"]),
        ("[Aa]lb*/1.wav", ["1"]),
        ("Alb*", ["1", "2", "cd/3"]),
        ("**/3.wav", ["3"]),
        ("Alb [2020] [FLAC]/**/*.wav", ["1", "2", "3"]),
        ("**", ["1", "2", "cd/3"]),
        ("nothing[1]*.wav", ["nothing[1]*"]),
    ],
)
def test_patterns(pattern, tracks, tmp_path):
    root = tmp_path / "albums"
    for name in ("1.wav", "2.wav", "cd/3.wav"):
        song(root / "Alb [2020] [FLAC]" / name)
    os.chdir(root)
    expected = [f"Alb [2020] [FLAC]/{name}" for name in tracks] if pattern == "**" else tracks
    assert found(pattern)[0] == expected
    assert found(str(root / pattern))[0] == expected or pattern == "**"


def test_what_a_pattern_matches_beside_songs_is_left_out():
    song("in/a.wav")
    Path("in/a.txt").write_text("hello")
    assert found("in/*") == (["a"], ["Left out of in/*: 1 .txt."])
    assert [job.problem for job in find_songs(["in/*.tx?"], OUT)] == ["in/*.tx? holds no audio files."]
    assert expand("in/a.txt") == [Path("in/a.txt")], "what is named is tried"


@pytest.mark.parametrize("name", ["s.wav", "s.flac", "s.ogg", "s.mp3"])
@pytest.mark.parametrize("length", [None, 4000])
def test_stems_are_known_by_the_program_in_them(name, length, tmp_path):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    tags = {"title": "A" * 300, "comment": "Made with SOFTWARE", "software": "refined-bsrnn 0.1.0"}
    with AudioWriter(path, RATE, 2, n_samples=length, tags=tags) as writer:
        writer.write(noise())
    write_audio(tmp_path / "in" / f"song.{path.suffix[1:]}", noise(), RATE)
    assert is_own_stem(path)
    assert found("in") == (
        ["song"],
        ["Left out of in: 1 made by refined-bsrnn. Stems are separated where they are named one by one."],
    )
    assert found("in/s*")[0] == ["song"]
    assert found(str(path)) == (["s"], []), "a stem that is named is wanted"
    moved = shutil.copy(path, tmp_path / "in" / f"renamed{path.suffix}")
    assert is_own_stem(Path(moved))


def test_a_song_about_the_program_is_a_song(tmp_path):
    path = tmp_path / "a.flac"
    with AudioWriter(path, RATE, 2, tags={"title": "refined-bsrnn 0.1.0", "comment": "refined-bsrnn 1"}) as writer:
        writer.write(noise())
    assert not is_own_stem(path)


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("..", "__"),
        (".", "_"),
        ("", "_"),
        ("a/../b", "a/__/b"),
        ("...", "___"),
        (" ", "_"),
        ("..a", "..a"),
        ("a.b", "a.b"),
    ],
)
def test_tracks_lead_nowhere_else(name, track):
    assert safe_track(name) == track


def test_a_song_called_dots_stays_inside():
    song("...wav")
    song("in/...wav")
    assert found("...wav")[0] == ["__"]
    song("in/...And Justice/...Baby.wav")
    assert found("in")[0] == ["...And Justice/...Baby", "__"]
    first, _, second = found("...wav", "in")[0]
    assert (Path(first).name, second) == ("__", "in/__")
    assert ".." not in first.split("/")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
def test_what_is_no_file_is_left_out():
    song("in/a.wav")
    os.mkfifo("in/pipe.wav")
    assert found("in") == (["a"], ["Left out of in: 1 special file."])


def test_the_home_folder_is_found_without_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    song(tmp_path / "home" / "a.wav")
    assert [job.path for job in find_songs(["~/a.wav", "~/*.wav", "~"], OUT)] == [tmp_path / "home" / "a.wav"]
