"""Songs to stems: which files come out, at which level, in which format; what happens to files that are no songs."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.apps.songs.inputs import find_songs
from refined_bsrnn.apps.texts import seconds as read_seconds
from refined_bsrnn.audio import read_audio, read_tags, write_audio
from refined_bsrnn.errors import AudioError, RecipeError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.system import write_text
from refined_bsrnn.temporary import clear_unowned, owned_folder
from tests.audio.test_claims import two_streams
from tests.conftest import RATE, micro_recipe

PACKAGE = Path(__file__).parents[2] / "refined_bsrnn"


def make_run(name, targets, seed=0, backbone_of=None, **values):
    """A run with random weights under runs/; with the backbone of another where that is given."""
    torch.manual_seed(seed)
    recipe = micro_recipe(None, targets=targets, **values)
    model = BSRNN.from_recipe(recipe)
    if backbone_of:
        model.backbone.load_state_dict(Separator.from_pretrained(backbone_of).model.backbone.state_dict())
    run = RunFolder(Path("runs") / name)
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, model)
    return run


@pytest.fixture
def mtl():
    return make_run("mtl", ["vocals", "drums", "bass"])


def noise(channels, length, seed=0):
    return 0.1 * torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def song(tmp_path):
    return write_audio(tmp_path / "song.wav", noise(2, 2 * RATE), RATE)


def separate(*arguments, code=0):
    assert main(["separate", *map(str, arguments)]) == code


def stem(name, track="song", model="mtl", suffix="wav"):
    return read_audio(Path("separated") / model / track / f"{name}.{suffix}")[0]


def leftovers():
    return [p for p in Path().rglob("*") if p.name.startswith(".") or ".part" in p.name]


def test_every_kind_of_output(mtl, song):
    separate(song, "--model", "mtl", "--head", "vocals,drums", "--residual", "--accompaniment", "--sum", "drums+bass")
    written = sorted(p.stem for p in Path("separated/mtl/song").iterdir())
    assert written == ["drums", "drums+bass", "drums-accompaniment", "residual", "vocals", "vocals-accompaniment"]
    estimates = Separator.from_pretrained("mtl").separate(song)
    mixture = read_audio(song)[0]
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(stem("vocals"), estimates["vocals"], **close)
    torch.testing.assert_close(stem("drums+bass"), estimates["drums"] + estimates["bass"], **close)
    torch.testing.assert_close(stem("drums-accompaniment"), mixture - estimates["drums"], **close)
    assert (stem("vocals") + stem("drums+bass") + stem("residual") - mixture).abs().max() < 1e-6
    separate(song, "--model", "mtl", "--sum", "vocals+drums", "--residual", "--out", "sums")
    assert sorted(p.stem for p in Path("sums/mtl/song").iterdir()) == ["residual", "vocals+drums"]
    separate(song, "--model", "mtl", "--head", "bass", "--accompaniment", "--out", "one")
    assert sorted(p.stem for p in Path("one/mtl/song").iterdir()) == ["accompaniment", "bass"]
    assert not leftovers()


@pytest.mark.parametrize(
    ("arguments", "disjoint"),
    [
        (["--head", "bass", "--sum", "drums+vocals"], ["bass", "drums+vocals"]),
        (["--head", "bass", "--sum", "bass+vocals"], ["bass+vocals"]),
        (["--sum", "bass+vocals"], ["bass+vocals"]),
        (["--head", "all", "--sum", "bass+vocals"], ["bass", "drums", "vocals"]),
    ],
)
@pytest.mark.parametrize("bits", ["16", "32f"])
def test_the_residual_is_what_no_stem_holds(mtl, arguments, disjoint, bits):
    mixture = read_audio(write_audio("song.wav", noise(2, RATE), RATE, "PCM_16"))[0]
    separate("song.wav", "--model", "mtl", *arguments, "--residual", "--bits", bits)
    total = sum(stem(name) for name in (*disjoint, "residual"))
    assert (total - mixture).abs().max() < 1e-6


def test_a_run_without_the_heads_of_a_sum_has_no_residual(mtl, song):
    make_run("again", ["drums", "vocals"], seed=1, backbone_of="mtl")
    separate(song, "--model", "mtl", "--model", "again", "--sum", "drums+bass", "--residual")
    assert sorted(p.stem for p in Path("separated").rglob("*.wav")) == ["drums+bass", "residual"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(1, 6),
    length=st.integers(1, 12000),
    rate=st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000, 192000]),
    subtype=st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]),
    chunk=st.sampled_from([0.05, 0.3, 6.0]),
    overlap=st.sampled_from([0.0, 0.25, 0.75]),
    loud=st.booleans(),
)
def test_the_output_contract_of_files(mtl, channels, length, rate, subtype, chunk, overlap, loud):
    """Rate, length, channels, depth; estimates and residual add up to the input, in integers too."""
    shutil.rmtree("separated", ignore_errors=True)
    mixture = (9 if loud else 1) * noise(channels, length, length)
    write_audio("in.wav", mixture.clamp(-1, 1) * 0.999, rate, subtype)
    mixture = read_audio("in.wav")[0]
    separate("in.wav", "--model", "mtl", "--residual", "--chunk-seconds", chunk, "--overlap", overlap, "--json")
    stems = {p.stem: p for p in Path("separated/mtl/in").iterdir()}
    assert sorted(stems) == ["bass", "drums", "residual", "vocals"]
    for path in stems.values():
        info = soundfile.info(path)
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (rate, length, channels, subtype)
    total = sum(read_audio(path)[0] for path in stems.values())
    loudest = max(float(read_audio(path)[0].abs().max()) for path in stems.values())
    if loudest < 0.999:  # not rescaled
        assert (total - mixture).abs().max() < 1e-5


def test_integers_that_would_clip_are_lowered_together(mtl, tmp_path, capsys):
    model = Separator.from_pretrained("mtl").model
    mixture = noise(1, RATE)
    estimates = Separator(model).separate(mixture)
    loud = max(float(x.abs().max()) for x in estimates.values())
    gain = 3.0 / loud  # the loudest estimate will be 3
    mixture = mixture * gain
    song = write_audio(tmp_path / "song.wav", mixture, RATE)
    separate(song, "--model", "mtl", "--bits", 16, "--residual")
    peaks = {name: float(stem(name).abs().max()) for name in ("vocals", "drums", "bass", "residual")}
    lowered = float(capsys.readouterr().err.split("song.wav are ")[1].split(" dB lower")[0])
    factor = 10 ** (-lowered / 20)
    assert max(peaks.values()) == pytest.approx(1.0, abs=1e-4)
    total = sum(stem(name) for name in peaks)
    assert (total - mixture * factor).abs().max() < 2e-3 * gain  # the dB are told to two digits
    exact = Separator(model).separate(mixture)
    for name, x in exact.items():
        ratio = float((stem(name) * x).sum() / (x * x).sum())
        assert ratio == pytest.approx(factor, rel=2e-3), name
    separate(song, "--model", "mtl", "--bits", 16, "--clip", "clamp", "--out", "clamped")
    clamped = read_audio("clamped/mtl/song/vocals.wav")[0]
    torch.testing.assert_close(clamped, exact["vocals"].clamp(-1, 1), atol=2**-14, rtol=0)
    over = 20 * math.log10(max(float(x.abs().max()) for x in exact.values()))
    assert f"Stems of {song} reached {over:.2f} dB above full scale and were cut there" in capsys.readouterr().err
    separate(song, "--model", "mtl", "--bits", 16, "--clip", "none", "--out", "none", code=1)
    assert "dB above full scale; --clip rescale or clamp, or write --bits 32f" in capsys.readouterr().err
    assert not Path("none/mtl/song/vocals.wav").exists()
    separate(song, "--model", "mtl", "--out", "float")
    assert float(read_audio("float/mtl/song/vocals.wav")[0].abs().max()) > 1
    separate(song, "--model", "mtl", "--out", "float2", "--clip", "rescale")
    assert max(float(read_audio(p)[0].abs().max()) for p in Path("float2/mtl/song").iterdir()) == pytest.approx(1.0)
    assert not leftovers()


@pytest.mark.parametrize(
    ("suffix", "subtype", "arguments", "wanted"),
    [
        ("wav", "PCM_16", [], ("WAV", "PCM_16")),
        ("wav", "PCM_24", [], ("WAV", "PCM_24")),
        ("wav", "FLOAT", [], ("WAV", "FLOAT")),
        ("flac", "PCM_16", [], ("FLAC", "PCM_16")),
        ("aiff", "PCM_24", [], ("WAV", "PCM_24")),
        ("mp3", None, [], ("WAV", "FLOAT")),
        ("ogg", None, ["--format", "flac"], ("FLAC", "PCM_24")),
        ("wav", "FLOAT", ["--format", "flac", "--bits", "16"], ("FLAC", "PCM_16")),
        ("flac", "PCM_24", ["--format", "mp3"], ("MP3", "MPEG_LAYER_III")),
        ("flac", "PCM_24", ["--format", "ogg"], ("OGG", "VORBIS")),
        ("flac", "PCM_24", ["--format", "wav"], ("WAV", "PCM_24")),
        ("flac", "PCM_16", ["--bits", "24"], ("FLAC", "PCM_24")),
        ("flac", "PCM_16", ["--bits", "32f"], ("WAV", "FLOAT")),
    ],
)
def test_the_format_is_the_inputs_where_that_is_lossless(mtl, suffix, subtype, arguments, wanted):
    soundfile.write(f"a.{suffix}", noise(2, 5000).numpy().T, 44100, subtype=subtype)
    separate(f"a.{suffix}", "--model", "mtl", "--head", "bass", *arguments)
    (path,) = Path("separated/mtl/a").iterdir()
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.frames) == (*wanted, 5000)


def test_tags_go_along(mtl):
    with soundfile.SoundFile("a.flac", "w", RATE, 1) as file:
        file.title, file.artist, file.date = "Lied", "Wer", "1999"
        file.write(np.zeros(1000))
    separate("a.flac", "--model", "mtl")
    assert read_tags("separated/mtl/a/bass.flac") == {"title": "Lied", "artist": "Wer", "date": "1999"}


# --- several runs


def test_runs_on_one_backbone_share_a_pass(mtl, song, monkeypatch, capsys):
    make_run("mtl-to-guitar", ["guitar"], seed=1, backbone_of="mtl")
    make_run("other", ["piano"], seed=2)
    passes = []
    forward = BSRNN.features_of
    monkeypatch.setattr(BSRNN, "features_of", lambda model, *x: passes.append(id(model)) or forward(model, *x))
    separate(song, "--model", "mtl,mtl-to-guitar", "--model", "other", "--head", "bass,guitar,piano", "--residual")
    assert len(passes) == len(set(passes)) == 2
    assert "mtl-to-guitar shares the backbone of mtl: it runs once" in capsys.readouterr().err
    total = 0
    for run, name in (("mtl", "bass"), ("mtl-to-guitar", "guitar"), ("other", "piano")):
        alone = Separator.from_pretrained(run).separate(song)[name]
        torch.testing.assert_close(stem(name, model=run), alone, atol=1e-6, rtol=0)
        total = total + alone
    residual = stem("residual", model="mtl+mtl-to-guitar+other")
    torch.testing.assert_close(total + residual, read_audio(song)[0], atol=1e-5, rtol=0)


def test_heads_of_one_name_stay_apart(mtl, song, capsys):
    make_run("again", ["drums", "vocals"], seed=1, backbone_of="mtl")
    separate(song, "--model", "mtl,again", "--head", "drums", "--residual", "--json")
    written = json.loads(capsys.readouterr().out)["songs"][0]["stems"]
    assert sorted(written) == ["again/drums", "again/residual", "mtl/drums", "mtl/residual"]
    for run in ("mtl", "again"):
        alone = Separator.from_pretrained(run).separate(song)["drums"]
        torch.testing.assert_close(stem("drums", model=run), alone, atol=1e-6, rtol=0)
        torch.testing.assert_close(stem("residual", model=run), read_audio(song)[0] - alone, atol=1e-6, rtol=0)


def test_tied_heads_of_two_runs_on_one_backbone_are_not_mixed_up(song, capsys):
    for seed, name in enumerate(("one", "two")):
        make_run(name, ["vocals", "drums"], seed, backbone_of=name == "two" and "one", together="consistent")
    separate(song, "--model", "one,two")
    assert "runs once" not in capsys.readouterr().err
    for run in ("one", "two"):
        for head, alone in Separator.from_pretrained(run).separate(song).items():
            torch.testing.assert_close(stem(head, model=run), alone, atol=1e-6, rtol=0)


def test_a_head_on_the_backbone_of_another_run_brings_its_low_rank_updates(mtl, song):
    model = Separator.from_pretrained("mtl").model
    for up in model.add_adapter("lora", ["drums"], rank=2, alpha=4.0).up.values():
        torch.nn.init.normal_(up)
    run = RunFolder(Path("runs/bent"))
    write_text(run.recipe, dump_recipe(model.recipe))
    save_weights(run, model)
    separate(song, "--model", "mtl,bent", "--head", "drums")
    for name in ("mtl", "bent"):
        alone = Separator.from_pretrained(name).separate(song)["drums"]
        torch.testing.assert_close(stem("drums", model=name), alone, atol=1e-6, rtol=0)
    assert (stem("drums") - stem("drums", model="bent")).abs().max() > 1e-3


def test_an_ensemble_is_the_mean(mtl, song, capsys):
    make_run("second", ["drums", "vocals"], seed=5, stft={"sample_rate_hz": 2 * RATE, "n_fft": 256, "hop": 64})
    separate(song, "--model", "mtl", "--ensemble", "second")
    both = [Separator.from_pretrained(run).separate(song) for run in ("mtl", "second")]
    assert sorted(p.stem for p in Path("separated/mtl+second/song").iterdir()) == ["drums", "vocals"]
    for name in ("drums", "vocals"):
        mean = (both[0][name] + both[1][name]) / 2
        torch.testing.assert_close(stem(name, model="mtl+second"), mean, atol=1e-6, rtol=0)
    separate(song, "--model", "mtl", "--ensemble", "second", "--head", "bass", code=2)
    assert "an ensemble needs a head 'bass' in each of mtl, second" in capsys.readouterr().err


def test_wiener(mtl, song):
    from refined_bsrnn.separation.wiener import wiener

    separate(song, "--model", "mtl", "--wiener", "2", "--residual")
    estimates = Separator.from_pretrained("mtl").separate(song)
    mixture = read_audio(song)[0]
    wanted = wiener(mixture, torch.stack(list(estimates.values())), 1024, 2)  # 0.093 s at 8 kHz, as a power of two
    for name, x in zip(estimates, wanted, strict=True):
        torch.testing.assert_close(stem(name), x, atol=1e-5, rtol=0)
    total = sum(stem(name) for name in (*estimates, "residual"))
    torch.testing.assert_close(total, mixture, atol=1e-5, rtol=0)


# --- names and inputs


def test_folders_globs_and_names(mtl, tmp_path):
    for name in ("in/a.wav", "in/deep/b.flac", "in/deep/b.wav", "in/.hidden.wav", "more/c1.wav", "more/c2.wav"):
        write_audio(tmp_path / name, noise(1, 500), RATE)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    separate("in", "more/c*.wav", "in/a.wav", "--model", "mtl", "--head", "bass", "--out", "in/stems")
    written = sorted(str(p.relative_to("in/stems/mtl")) for p in Path("in/stems").rglob("*.*") if p.is_file())
    expected = ["a/bass.wav", "c1/bass.wav", "c2/bass.wav", "deep/b.flac/bass.flac", "deep/b.wav/bass.wav"]
    assert written == expected
    separate("in", "--model", "mtl", "--head", "bass", "--out", "in/stems", "--name", "{track}-{head}-{model}")
    assert Path("in/stems/deep/b.wav-bass-mtl.wav").is_file()
    assert not list(Path("in/stems").glob("stems*"))  # the first stems are not taken for songs


def test_files_that_are_there_stay(mtl, song, capsys):
    separate(song, "--model", "mtl", "--head", "bass,drums")
    before = stem("bass")
    Path("separated/mtl/song/bass.wav").write_bytes(b"mine")
    Path("separated/mtl/song/drums.wav").unlink()
    separate(song, "--model", "mtl", "--head", "bass,drums", code=1)
    assert "bass.wav is there already. Take another --out or --name, or --overwrite it" in capsys.readouterr().err
    assert Path("separated/mtl/song/bass.wav").read_bytes() == b"mine"
    assert not Path("separated/mtl/song/drums.wav").exists()
    separate(song, "--model", "mtl", "--head", "bass,drums", "--overwrite")
    assert torch.equal(stem("bass"), before)


def test_a_song_is_never_written_over(mtl, song, capsys):
    before = song.read_bytes()
    separate(song, "--model", "mtl", "--head", "bass", "--out", song.parent, "--name", "{track}", "--overwrite", code=1)
    assert "song.wav is the song itself, which is not overwritten" in capsys.readouterr().err
    assert song.read_bytes() == before


def test_no_other_song_is_written_over(mtl, song, tmp_path, capsys):
    vocals = write_audio(tmp_path / "vocals.wav", noise(1, 500), RATE)
    before = vocals.read_bytes()
    options = ["--head", "vocals", "--out", tmp_path, "--name", "{head}", "--overwrite"]
    separate(song, vocals, "--model", "mtl", *options, code=1)
    assert f"{vocals} is one of the songs to separate, which is not overwritten" in capsys.readouterr().err
    assert vocals.read_bytes() == before
    separate(song, "--model", "mtl", *options)
    assert vocals.read_bytes() != before


@pytest.mark.skipif(os.name != "posix", reason="names of files are Unicode here")
def test_names_that_are_no_unicode_do_not_stop_the_others(mtl, song, capsys):
    Path("in").mkdir()
    for name in (b"caf\xe9.wav", b"zz.wav"):
        shutil.copy(song, Path("in", os.fsdecode(name)))
    separate("in", "--model", "mtl", "--head", "bass", "--json")
    assert [song["status"] for song in json.loads(capsys.readouterr().out)["songs"]] == ["written", "written"]
    assert torch.equal(stem("bass", os.fsdecode(b"caf\xe9")), stem("bass", "zz"))


def test_two_inputs_for_one_name(mtl, tmp_path, capsys):
    for name in ("x/a.wav", "y/a.wav", "y/a.flac", "u/d/a.wav", "v/d/a.wav", "v/d/b.wav"):
        write_audio(tmp_path / name, noise(1, 500), RATE)
    options = ["--model", "mtl", "--head", "bass"]
    separate("x", "y/../y/a.wav", *options)
    assert sorted(map(str, Path("separated/mtl").glob("*/a/bass.wav"))) == [
        "separated/mtl/x/a/bass.wav",
        "separated/mtl/y/a/bass.wav",
    ]
    jobs = find_songs(["x/a.wav", "y/a.wav", "y/a.flac", "u", "v", "x/../x/a.wav"], Path("separated"))
    assert [job.track for job in jobs] == ["x/a", "y/a.wav", "y/a.flac", "u/d/a", "v/d/a", "d/b"]
    assert [job.track for job in find_songs(["u/d/a.wav", "v/d/a.wav"], Path("separated"))] == ["u/d/a", "v/d/a"]
    separate("x/a.wav", "y/a.wav", *options, "--out", "flat", "--name", "{head}", code=1)
    assert "y/a.wav would be written over the stems of x/a.wav" in capsys.readouterr().err


def test_a_file_is_separated_once_whatever_it_is_called(song, tmp_path):
    Path("in").mkdir()
    shutil.copy(song, "in/a.wav")
    Path("in/loop").symlink_to(tmp_path / "in")
    jobs = find_songs(["in", str(tmp_path / "in/a.wav"), "in/**/*.wav", "in/*.wav"], Path("separated"))
    assert [(str(job.path), job.track) for job in jobs] == [("in/a.wav", "a")]


def test_a_folder_without_songs_does_not_stop_the_others(mtl, song, capsys):
    Path("empty").mkdir()
    separate("empty", song, "--model", "mtl", "--head", "bass", code=1)
    err = capsys.readouterr().err
    assert err.count("Failed: empty holds no audio files.") == 2  # when it happens and in the summary
    assert stem("bass").shape == (2, 2 * RATE)
    for pattern, message in (("empt*", "empt* holds no audio files."), ("nothing*", "there is no file nothing*.")):
        separate(pattern, "--model", "mtl", code=1)
        assert message in capsys.readouterr().err


def test_a_part(mtl, song):
    separate(song, "--model", "mtl", "--start", "0.5", "--duration", "0.25", "--residual")
    total = sum(read_audio(p)[0] for p in Path("separated/mtl/song").iterdir())
    part = read_audio(song, RATE // 2, RATE // 4)[0]
    torch.testing.assert_close(total, part, atol=1e-6, rtol=0)


def test_standard_input(mtl, song, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
    separate("-", "--model", "mtl", "--head", "bass", "--json")
    (row,) = json.loads(capsys.readouterr().out)["songs"]
    assert (row["input"], row["stems"]["bass"]) == ("-", "separated/mtl/stdin/bass.wav")
    wanted = Separator.from_pretrained("mtl").separate(song)["bass"]
    torch.testing.assert_close(stem("bass", "stdin"), wanted, atol=1e-6, rtol=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("live", [False, True])
def test_a_pipe_with_a_name(song, live):
    """As ``<(command)`` of a shell gives it, or /dev/stdin."""
    backbone = {"features": 4, "repeats": 1, "causal": True, "norm": "cumulative"}
    make_run("mtl", ["vocals"], backbone=backbone)
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(song.read_bytes()))
    writer.start()
    separate("pipe", "--model", "mtl", *["--live"] * live)
    writer.join()
    torch.testing.assert_close(stem("vocals", "pipe"), Separator.from_pretrained("mtl").separate(song)["vocals"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "standard input is empty (0 bytes)"), (b"text" * 99, "standard input (396 bytes) cannot be read as audio")],
)
def test_standard_input_that_is_no_audio(mtl, monkeypatch, capsys, content, message):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    separate("-", "--model", "mtl", code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"Failed: {message}")
    assert not Path("separated").exists()


@pytest.mark.parametrize("options", [[], ["--live"]])
def test_standard_input_that_is_closed(monkeypatch, capsys, options):
    make_run("mtl", ["vocals"], backbone={"features": 4, "repeats": 1, "causal": True, "norm": "cumulative"})
    monkeypatch.setattr("sys.stdin", None)  # as Python starts with `<&-`
    separate("-", "--model", "mtl", *options, code=1)
    assert "Failed: standard input is closed; expected audio from it" in capsys.readouterr().err


def test_standard_input_that_does_not_fit_on_the_disk(mtl, song, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
    monkeypatch.setattr("shutil.copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    separate("-", "--model", "mtl", code=1)
    assert "standard input cannot be kept in /tmp: the disk is full" in capsys.readouterr().err.replace(
        tempfile.gettempdir(), "/tmp"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "vocal"], "has no head 'vocal'. Did you mean 'vocals'"),
        (["--format", "aac"], "format 'aac' is unknown; expected one of wav, flac, mp3, ogg"),
        (["--format", "flac", "--bits", "32f"], "flac with bits '32f' is not possible; expected 24, 16"),
        (["--format", "mp3", "--bits", "16"], "expected none: its coding is lossy"),
        (["--clip", "hard"], "clip 'hard' is unknown"),
        (["--name", "{song}"], "the name '{song}' cannot be used; expected a pattern of {model}, {track} and {head}"),
        (["--name", "{track}"], "gives several stems the name separated/song"),
        (["--sum", "vocals+gutiar"], "has no head 'gutiar'"),
        (["--precision", "int8"], "precision 'int8' is unknown"),
        (["--overlap", "1"], "overlap 1.0; expected"),
        (["--chunk-seconds", "0.0001"], "chunk_seconds 0.0001; expected at least 0.01"),
        (["--shifts", "0"], "shifts 0"),
        (["--start", "-1"], "start -1 s; expected 0 or more"),
        (["--start", "nan"], "start nan s; expected 0 or more"),
        (["--start", "inf"], "start inf s"),
        (["--duration", "inf"], "duration inf s"),
        (["--wiener", "-1"], "wiener -1; expected a number of iterations"),
        (["--head", ","], "no heads are chosen"),
        (["--sum", "vocals+vocals"], "the sum 'vocals+vocals' cannot be made; expected two heads or more, each once"),
        (["--sum", "vocals"], "the sum 'vocals' cannot be made"),
        (["--sum", "+"], "the sum '' cannot be made"),
        (["--name", "{track}/"], "the name '{track}/' cannot be used"),
        (["--name", "{head.__class__}"], "the name '{head.__class__}' cannot be used"),
        (["--ensemble", "mtl"], "the run mtl is named twice"),
        (["--live", "--shifts", "3"], "leave out --shifts and --wiener, which look ahead"),
        (["--live", "--wiener"], "leave out --shifts and --wiener, which look ahead"),
        (["--live", "--precision", "bf16"], "computes in float32: leave out --precision bf16"),
        (
            ["--head", "bass", "drums"],
            "drums is a head, and there is no song of that name. Several heads: --head NAME,d",
        ),
        (["--overwrite", "--skip-existing"], "exclude each other; leave out one"),
        (["--quality", "5"], "it requires --format mp3 or ogg"),
        (["--format", "mp3", "--quality", "11"], "quality 11; expected 0 (smallest files) to 10 (best)"),
        (["--threads", "0"], "--threads is 0; expected 1 or more"),
        (["--sum", "bass+drums", "--sum", "bass+drums"], "two stems would be called 'bass+drums'"),
    ],
)
def test_command_lines_that_cannot_be_done(mtl, song, arguments, message, capsys):
    separate(song, "--model", "mtl", *arguments, code=2)
    assert message in capsys.readouterr().err
    assert not Path("separated").exists() or not list(Path("separated").rglob("*.*"))


def test_a_head_called_residual(song, capsys):
    make_run("mtl", ["residual", "bass"])
    separate(song, "--model", "mtl", "--residual", code=2)
    assert "two stems would be called 'residual': a head is called so" in capsys.readouterr().err
    separate(song, "--model", "mtl", "--residual", "--head", "bass")
    separate(song, "--model", "mtl", "--out", "without")


@pytest.mark.skipif(os.name != "posix", reason="names may be longer here")
@pytest.mark.parametrize("name", ["{head}-" + 250 * "x", 300 * "x" + "/{head}"])
def test_a_name_that_is_too_long(mtl, song, name, capsys):
    separate(song, "--model", "mtl", "--name", name, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "wav cannot be written: its name is too long. Choose a shorter one." in line
    assert not Path("separated").exists()


# --- hostile files


def wav_bytes(**options):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(2, 4000).numpy().T, RATE, format="WAV", subtype=options.get("subtype", "PCM_16"))
    return bytearray(buffer.getvalue())


def patched(at, value):
    data = wav_bytes()
    data[at : at + len(value)] = value
    return bytes(data)


def with_values(*values):
    audio = noise(2, 4000).numpy()
    audio[0, : len(values)] = values
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.T, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


HOSTILE = {
    "empty.wav": (b"", "is empty (0 bytes)"),
    "header.wav": (bytes(wav_bytes()[:44]), "holds no samples (44 bytes)"),
    "half-header.wav": (bytes(wav_bytes()[:20]), ""),
    "text.wav": (b"Dear diary, this is no music.\n" * 200, "cannot be read as audio"),
    "script.mp3": (b"#!/bin/sh\necho hello\n" * 50, "cannot be read as audio"),
    "zeros.flac": (bytes(5000), ""),
    "random.ogg": (np.random.default_rng(0).bytes(20000), ""),
    "random.m4a": (np.random.default_rng(1).bytes(20000), ""),
    "nan.wav": (with_values(0.1, np.nan), "NaN or infinite samples, the first at 0.000 s"),
    "inf.wav": (with_values(np.inf), "NaN or infinite"),
    "loud.wav": (with_values(1e30), "the audio reaches 1e+30, too much to calculate with"),
    "no-channels.wav": (patched(22, b"\0\0"), ""),
    "many-channels.wav": (patched(22, b"\xff\xff"), ""),
    "no-rate.wav": (patched(24, bytes(4)), ""),
    "huge-rate.wav": (patched(24, b"\xff\xff\xff\x7f"), ""),
    "slow-rate.wav": (patched(24, b"\x05\0\0\0"), "is at 5 Hz; expected 1000 to 1000000 Hz"),
    "picture.wav": (b"\x89PNG\r\n\x1a\n" + bytes(500), ""),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "cannot be read as audio"),
}
HARMLESS = {
    "wrong-extension.mp3": bytes(wav_bytes()),
    "dc.wav": with_values(*[0.5] * 4000),
    "one-sample.wav": None,
    "silence.wav": None,
    "huge-length.wav": patched(4, b"\xf0\xff\xff\x6f"),
    "truncated.wav": bytes(wav_bytes()[:3000]),
    "huge-data-length.wav": patched(40, b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_a_sentence(mtl, name, capsys):
    content, message = HOSTILE[name]
    Path(name).write_bytes(content)
    separate(name, "--model", "mtl", code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith((f"Failed: {name} ", f"Failed: {name}: "))
    assert message in line
    assert not Path("separated").exists() or not [p for p in Path("separated").rglob("*") if not p.is_dir()]
    assert not leftovers()


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_files_are_separated(mtl, name):
    if HARMLESS[name] is None:
        write_audio(name, torch.zeros(2, 1 if name.startswith("one") else 4000), RATE)
    else:
        Path(name).write_bytes(HARMLESS[name])
    separate(name, "--model", "mtl", "--residual")
    stems = [read_audio(p)[0] for p in Path("separated/mtl", Path(name).stem).iterdir()]
    assert len(stems) == 4
    torch.testing.assert_close(sum(stems), read_audio(name)[0], atol=1e-5, rtol=0)


def test_what_was_found_odd_of_a_song_is_said(mtl, song, capsys):
    Path("cut.wav").write_bytes(song.read_bytes()[:3000])
    separate("cut.wav", "--model", "mtl")
    assert "cut.wav is cut off: its header promises" in capsys.readouterr().err
    separate("cut.wav", "--model", "mtl", "--strict", "--out", "strict", code=1)
    assert "Failed: cut.wav is cut off" in capsys.readouterr().err
    assert not leftovers()


def test_one_of_several_audio_streams_is_separated(mtl, capsys):
    two_streams(Path("film.mkv"))
    for arguments, level in (([], 2000), (["--stream", "0"], 1000), (["--stream", "1"], 2000)):
        separate("film.mkv", "--model", "mtl", "--residual", "--overwrite", *arguments)
        total = sum(read_audio(path)[0] for path in Path("separated/mtl/film").iterdir())
        assert float(total.max()) == pytest.approx(level / 2**15, abs=1e-5)
        assert ("1 is read. --stream N takes another" in capsys.readouterr().err) == (not arguments)
    separate("film.mkv", "--model", "mtl", "--overwrite", "--stream", "2", code=1)
    assert "has no audio stream 2" in capsys.readouterr().err


def test_broken_files_do_not_stop_the_others(mtl, song, capsys):
    Path("in").mkdir()
    for name, (content, _) in HOSTILE.items():
        Path("in", name).write_bytes(content)
    shutil.copy(song, "in/zz-good.wav")
    separate("in", "--model", "mtl", "--json", code=1)
    captured = capsys.readouterr()
    songs = len([name for name in HOSTILE if not name.endswith("m3u8")]) + 1
    assert f"Separated 1 of {songs}: 0.0 min of audio in" in captured.err
    assert captured.err.count("Failed: in/empty.wav") == 2  # when it happens and in the summary
    rows = json.loads(captured.out)["songs"]
    assert [row["input"] for row in rows if row["status"] == "written"] == ["in/zz-good.wav"]
    assert {row["input"]: row["problem"] for row in rows}["in/empty.wav"].startswith("in/empty.wav is empty (0 bytes)")
    assert Path("separated/mtl/zz-good/bass.wav").is_file()
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [[], ["--bits", "16"]])
def test_ctrl_c_leaves_nothing(mtl, song, monkeypatch, capsys, arguments):
    calls = []

    def interrupted(model, *x):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(model, *x)

    forward = BSRNN.features_of
    monkeypatch.setattr(BSRNN, "features_of", interrupted)
    separate(song, "--model", "mtl", "--chunk-seconds", "0.2", *arguments, code=130)
    assert "interrupted" in capsys.readouterr().err
    assert not list(Path("separated").rglob("*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_sigterm_and_a_closed_terminal_leave_nothing(mtl, song, monkeypatch, name):
    number = getattr(signal, name, signal.SIGTERM)

    def terminated(model, *x):
        os.kill(os.getpid(), number)
        return forward(model, *x)

    forward, before = BSRNN.features_of, signal.getsignal(number)
    monkeypatch.setattr(BSRNN, "features_of", terminated)
    separate(song, "--model", "mtl", code=130)
    assert not Path("separated").exists()
    assert signal.getsignal(number) is before
    if name == "SIGHUP":
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        separate(song, "--model", "mtl")
        signal.signal(number, before)


@pytest.mark.parametrize("arguments", [[], ["--bits", "16"]])
def test_a_full_disk_gets_a_sentence(mtl, song, monkeypatch, capsys, arguments):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("soundfile.SoundFile.write", full)
    separate(song, "--model", "mtl", *arguments, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        "Failed: " + f"{song}: separated/mtl/song/bass.wav cannot be written: the disk is full. Free"
    )
    assert not list(Path("separated").rglob("*"))


# --- all stems or none


@pytest.fixture
def replaced(mtl, song, monkeypatch):
    """Stems of which two are there; and a function to be called whenever one comes into its place."""
    for name in ("bass", "vocals"):
        path = Path(f"separated/mtl/song/{name}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    replace = Path.replace

    def when(call):
        def replace_and_call(path, target):
            if ".stems-" in str(path) and ".stems-" not in str(target):
                call(Path(target).name)
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", replace_and_call)

    return when


def there():
    return {p.name: p.stat().st_size for p in Path("separated/mtl/song").iterdir()}


def test_a_stem_that_cannot_come_into_its_place_takes_the_others_back(replaced, song, capsys):
    calls = []

    def fail(name):
        calls.append(name)
        if calls == ["bass.wav", "drums.wav", "vocals.wav"]:
            raise OSError(5, "Input/output error")

    replaced(fail)
    separate(song, "--model", "mtl", "--overwrite", code=1)
    assert "separated/mtl/song/vocals.wav cannot be written: Input/output error" in capsys.readouterr().err
    assert there() == {"bass.wav": 4, "vocals.wav": 4}


def test_a_folder_in_the_place_of_a_stem(mtl, song, capsys):
    Path("separated/mtl/song/drums.wav").mkdir(parents=True)
    Path("separated/mtl/song/drums.wav/mine").touch()
    separate(song, "--model", "mtl", "--overwrite", code=1)
    assert "song/drums.wav is a folder, which is not overwritten" in capsys.readouterr().err
    assert [str(p.relative_to("separated/mtl/song")) for p in Path("separated").rglob("*.*")] == ["drums.wav"]
    assert Path("separated/mtl/song/drums.wav/mine").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_wait_until_all_stems_are_in_their_places(replaced, song, name):
    number = getattr(signal, name)
    replaced(lambda _: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    separate(song, "--model", "mtl", "--overwrite", code=130)
    sizes = there()
    assert sorted(sizes) == ["bass.wav", "drums.wav", "vocals.wav"]
    assert min(sizes.values()) > 4
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_stop_the_cleaning(mtl, song, monkeypatch):
    def impatient(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return rmtree(*args, **kwargs)

    def interrupted(*_):
        raise KeyboardInterrupt

    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", impatient)
    monkeypatch.setattr(BSRNN, "features_of", interrupted)
    separate(song, "--model", "mtl", "--bits", "16", code=130)
    assert not Path("separated").exists()


# --- nothing is replaced, whenever it came; what a killed process left goes


def during(monkeypatch, call):
    """``call`` when the network runs for the first time."""
    calls = []

    def features(model, *x):
        calls.append(1)
        if len(calls) == 1:
            call()
        return forward(model, *x)

    forward = BSRNN.features_of
    monkeypatch.setattr(BSRNN, "features_of", features)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_is_not_replaced(mtl, song, monkeypatch, capsys, links):
    place = Path("separated/mtl/song/drums.wav")
    during(monkeypatch, lambda: place.write_text("theirs"))
    if not links:  # as on FAT and some shares
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    separate(song, "--model", "mtl", code=1)
    captured = capsys.readouterr().err
    assert f"{place} is there already. Take another --out" in captured
    assert "Written" not in captured
    assert there() == {"drums.wav": 6}
    separate(song, "--model", "mtl", "--overwrite")
    assert min(there().values()) > 6
    assert not leftovers()


def test_of_two_calls_at_once_one_writes(mtl, song, monkeypatch, capsys):
    """The second begins and ends while the first is at work."""
    inner = []
    during(monkeypatch, lambda: inner.append(main(["separate", str(song), "--model", "mtl", "--head", "vocals,bass"])))
    separate(song, "--model", "mtl", "--head", "bass,vocals", "--bits", "16", code=1)
    assert inner == [0]
    assert {soundfile.info(p).subtype for p in Path("separated/mtl/song").iterdir()} == {"FLOAT"}
    assert capsys.readouterr().err.count("Written") == 2


def test_hidden_copies_of_a_killed_call_go_with_the_next(mtl, song):
    command = "import os, signal; from refined_bsrnn.apps.cli.main import main;"
    command += "from refined_bsrnn.network.model import BSRNN;"
    command += "BSRNN.features_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
    command += f"main(['separate', {str(song)!r}, '--model', 'mtl', '--bits', '16'])"
    done = subprocess.run([sys.executable, "-c", command], env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})
    assert done.returncode == -signal.SIGKILL
    (hidden,) = Path("separated/mtl/song").iterdir()
    assert hidden.name.startswith(".stems-")
    separate(song, "--model", "mtl")
    assert sorted(there()) == ["bass.wav", "drums.wav", "vocals.wav"]


def test_hidden_copies_of_a_call_at_work_stay(mtl, song, monkeypatch):
    place = Path("separated/mtl/song")
    during(
        monkeypatch, lambda: separate(song, "--model", "mtl", "--head", "bass", "--name", "{model}/{track}/x-{head}")
    )
    separate(song, "--model", "mtl", "--head", "drums")
    assert sorted(p.name for p in place.iterdir()) == ["drums.wav", "x-bass.wav"]


def test_what_was_kept_of_a_file_comes_back(tmp_path):
    """Where a call was killed between taking the old file away and putting the new one there."""
    folder = tmp_path / ".stems-x"
    folder.mkdir()
    for name in (".owner", "bass.wav.kept", "drums.wav.kept", "new.wav"):
        (folder / name).write_text(name)
    (tmp_path / "drums.wav").write_text("new")
    assert clear_unowned(tmp_path, ".stems-") == [folder]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"bass.wav": "bass.wav.kept", "drums.wav": "new"}


def test_folders_that_are_not_known_to_be_forgotten_stay(tmp_path):
    for name in ("a.stems", ".stems-full", ".stems-empty"):
        (tmp_path / name).mkdir()
    (tmp_path / ".stems-full" / "x").touch()
    (tmp_path / ".stems-link").symlink_to(tmp_path / "a.stems")
    with owned_folder(tmp_path, ".stems-") as own:
        assert clear_unowned(tmp_path, ".stems-") == []
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".stems-full", ".stems-link", "a.stems", own.name])
    assert not own.exists()


# --- the same call again, results for programs


def test_the_same_call_again(mtl, song, monkeypatch, capsys):
    write_audio("b.wav", noise(1, 1000), RATE)
    separate(song, "--model", "mtl")
    before = there()
    capsys.readouterr()
    separate(song, "b.wav", "--model", "mtl", "--skip-existing", "--json")
    captured = capsys.readouterr()
    assert f"Skipped: {song}: its stems are there already." in captured.err
    assert "Skipped, since their stems were there: 1." in captured.err
    rows = json.loads(captured.out)["songs"]
    assert [row["status"] for row in rows] == ["skipped", "written"]
    assert [row["sample_rate_hz"] for row in rows] == [None, RATE]
    assert (rows[1]["n_samples"], rows[1]["n_channels"], rows[1]["problem"]) == (1000, 1, None)
    assert rows[0]["stems"]["bass"] == "separated/mtl/song/bass.wav"
    assert there() == before
    monkeypatch.setattr(BSRNN, "features_of", None)
    separate(song, "b.wav", "--model", "mtl", "--skip-existing")  # nothing is computed


def test_stems_that_are_missing_are_added(mtl, song, capsys):
    separate(song, "--model", "mtl")
    bass = stem("bass")
    Path("separated/mtl/song/bass.wav").unlink()
    Path("separated/mtl/song/drums.wav").write_text("mine")
    separate(song, "--model", "mtl", "--skip-existing")
    assert torch.equal(stem("bass"), bass)
    assert Path("separated/mtl/song/drums.wav").read_text() == "mine"
    shown = capsys.readouterr().err.splitlines()[-3:]
    assert sorted(shown) == [
        "There already: separated/mtl/song/drums.wav",
        "There already: separated/mtl/song/vocals.wav",
        "Written: separated/mtl/song/bass.wav",
    ]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_call_says_what_it_has_done(mtl, song, monkeypatch, capsys, name):
    for other in ("b.wav", "c.wav", "d.wav"):
        write_audio(other, noise(1, 1000), RATE)
    Path("b.wav").write_bytes(b"broken")
    calls = []

    def features(model, *x):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), getattr(signal, name))
        return forward(model, *x)

    forward = BSRNN.features_of
    monkeypatch.setattr(BSRNN, "features_of", features)
    separate(song, "b.wav", "c.wav", "d.wav", "--model", "mtl", "--json", code=130)
    messages = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in messages["songs"]] == ["written", "failed", "interrupted", "not tried"]
    assert "cannot be read as audio" in messages["songs"][1]["problem"]
    assert messages["interrupted"] is True
    assert len({tuple(row) for row in messages["songs"]}) == 1, "all have the same keys"
    assert messages["songs"][3]["stems"] == {}
    assert not Path("separated/mtl/c").exists()


def test_quiet(mtl, song, capsys):
    Path("in").mkdir()
    Path("in/notes.txt").touch()
    shutil.copy(song, "in/a.wav")
    separate("in", "nowhere.wav", "--model", "mtl", "--quiet", code=1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Failed: nowhere.wav: there is no file nowhere.wav.\n")


def test_the_stems_of_an_earlier_call_are_no_songs(mtl, song, capsys):
    Path("alb").mkdir()
    shutil.copy(song, "alb/a.wav")
    separate("alb", "--model", "mtl", "--out", "alb/stems", "--residual", "--format", "flac")
    separate("alb", "--model", "mtl", "--out", "elsewhere", "--json")
    captured = capsys.readouterr()
    assert "Left out of alb: 4 made by refined-bsrnn." in captured.err
    messages = json.loads(captured.out)
    assert [row["input"] for row in messages["songs"]] == ["alb/a.wav"]
    assert messages["left_out"][0].startswith("Left out of alb: 4 made by refined-bsrnn.")
    separate("alb/stems/mtl/a/bass.flac", "--model", "mtl", "--out", "again")
    assert read_tags("alb/stems/mtl/a/bass.flac") == {}


# --- one song never ends the others


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nmore"),
            "it cannot be separated (RuntimeError: CUDNN_STATUS_NOT_SUPPORTED). Try --device",
        ),
        (RuntimeError("CUDA out of memory. Tried"), "the memory is too small for a chunk"),
        (MemoryError(), "the memory is used up. Make --chunk-seconds smaller"),
        (OSError(5, "Input/output error", "x.wav"), "it cannot be read: Input/output error."),
        (ValueError("shapes"), "it cannot be separated (ValueError: shapes)"),
        (NotImplementedError(), "it cannot be separated (NotImplementedError: )"),
        (AudioError("odd"), "odd"),
        (RecipeError("odd"), "odd"),
    ],
)
def test_whatever_fails_in_a_song_does_not_end_the_others(mtl, song, monkeypatch, capsys, error, message):
    write_audio("b.wav", noise(1, 1000), RATE)
    during(monkeypatch, lambda: (_ for _ in ()).throw(error))
    separate(song, "b.wav", "--model", "mtl", code=1)
    assert f"Failed: {song}: {message}" in capsys.readouterr().err
    assert not Path("separated/mtl/song").exists()
    assert Path("separated/mtl/b/bass.wav").is_file()


def test_a_precision_that_the_device_has_not_is_refused_before_any_work(mtl, song, monkeypatch, capsys):
    def unable(model, *x):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor\nmore")
        return forward(model, *x)

    forward = BSRNN.features_of
    monkeypatch.setattr(BSRNN, "features_of", unable)
    separate(song, song, "--model", "mtl", "--precision", "fp16", code=2)
    assert capsys.readouterr().err == (
        "refined-bsrnn: precision fp16 cannot be used on the device cpu (could not create a primitive descriptor). "
        "Expected one of float32, bf16, or another device.\n"
    )
    assert not Path("separated").exists()


def test_inputs_that_cannot_be_looked_at_do_not_end_the_others(mtl, song, capsys):
    long = "x" * 300
    separate(f"{long}.wav", song, f"{long}/*.wav", "https://example.org/a.wav", "--model", "mtl", code=1)
    err = capsys.readouterr().err
    assert f"Failed: {long}.wav cannot be read: File name too long." in err
    assert "Failed: https://example.org/a.wav is an address; expected a file." in err
    assert "Separated 1 of 4" in err
    separate(song, "--model", long, code=2)
    assert f"there is no run '{long}'" in capsys.readouterr().err


# --- names


def test_out_is_a_folder(mtl, song, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    separate(song, "--model", "mtl", "--out=~/x")
    assert (tmp_path / "home/x/mtl/song/bass.wav").is_file()
    assert not Path("~").exists()
    separate(song, "--model", "~/../runs/mtl", "--out=~no-such-user/x")
    assert Path("~no-such-user/x/mtl/song/bass.wav").is_file()
    separate(song, "--model", "mtl", "--out", "-", code=2)
    assert "--out is '-'; expected a folder" in capsys.readouterr().err
    assert not Path("-").exists()


def test_a_song_called_dots(mtl, song):
    shutil.copy(song, "...wav")
    separate("...wav", "--model", "mtl", "--head", "bass")
    assert Path("separated/mtl/__/bass.wav").is_file()


def test_names_are_shown_escaped(mtl, song, capsys):
    name = "a\x1b[31mb\x07\u202ec\nd"
    shutil.copy(song, f"{name}.wav")
    Path(f"{name}2.wav").write_bytes(b"broken")
    separate(f"{name}.wav", f"{name}2.wav", f"{name}3.wav", "--model", "mtl", "--head", "bass", code=1)
    err = capsys.readouterr().err
    assert not set("\x1b\x07\u202e") & set(err)
    shown = r"a\x1b[31mb\x07\u202ec\nd"
    assert f"Written: separated/mtl/{shown}/bass.wav\n" in err
    assert f"Failed: {shown}2.wav (6 bytes) cannot be read" in err
    assert f"Failed: {shown}3.wav: there is no file {shown}3.wav." in err
    assert Path("separated/mtl", name, "bass.wav").is_file()


# --- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "mtl", "SONG", "other.wav"],
        ["--wiener", "SONG", "--model", "mtl", "other.wav"],
        ["--model", "mtl", "SONG", "--out", "separated", "other.wav"],
        ["SONG", "--residual", "other.wav", "--model=mtl"],
        ["--head", "bass", "SONG", "--head", "drums", "other.wav", "--model", "mtl"],
        ["--model", "mtl", "--skip-existing", "--", "SONG", "other.wav"],
        ["--model", "mtl", "SONG", "--wiener", "--", "other.wav"],
        ["--model", "mtl", "--wiener", "2", "SONG", "--start", "0:00", "other.wav"],
        ["--json", "SONG", "--batch", "1", "other.wav", "--model", "mtl", "--threads", "1"],
        ["--sum", "bass+drums,drums+vocals", "SONG", "other.wav", "--model", "mtl"],
    ],
)
def test_options_may_stand_anywhere(mtl, song, arguments):
    write_audio("other.wav", noise(1, 1000), RATE)
    separate(*[song if text == "SONG" else text for text in arguments])
    assert sorted(p.name for p in Path("separated/mtl").iterdir()) == ["other", "song"]


def test_songs_behind_two_dashes_are_no_options(mtl, song, monkeypatch):
    for name in ("-dash.wav", "--model.wav"):
        shutil.copy(song, name)
    separate("--model", "mtl", "--head", "bass", "--", "-dash.wav", "--model.wav")
    assert sorted(p.name for p in Path("separated/mtl").iterdir()) == ["--model", "-dash"]


@pytest.mark.parametrize("arguments", [["--head", "bass,drums"], ["--head", "bass", "--head", "drums"]])
def test_lists(mtl, song, arguments):
    make_run("a", ["drums"], seed=1)
    separate(song, "--model", "mtl,a", *arguments)
    assert sorted(str(p.relative_to("separated")) for p in Path("separated").rglob("*.wav")) == [
        "a/song/drums.wav",
        "mtl/song/bass.wav",
        "mtl/song/drums.wav",
    ]
    separate(song, "--model", "mtl", "a", "--out", "old", *arguments)  # as it was written before
    assert len(list(Path("old").rglob("*.wav"))) == 3


def test_a_folder_with_a_comma_is_one_run(song):
    make_run("a,b", ["drums"])
    separate(song, "--model", "runs/a,b")
    assert Path("separated/a,b/song/drums.wav").is_file()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1:30", 90), ("0:01", 1), ("1:02:03.5", 3723.5), ("0.5", 0.5), ("00:00:01", 1), ("75:00", 4500)],
)
def test_times(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["1:75", "1:2:3:4", "a", "1:-2", ":", "1.5:00", ""])
def test_what_is_no_time(text):
    with pytest.raises(ArgumentTypeError, match="is no time; expected seconds, m:ss or h:mm:ss"):
        read_seconds(text)


def test_quality(mtl, song):
    write_audio("long.wav", noise(2, 5 * 44100), 44100)
    sizes = {}
    for suffix in ("mp3", "ogg"):
        for quality in ("0", "5", "10"):
            out = f"{suffix}{quality}"
            separate(
                "long.wav", "--model", "mtl", "--head", "bass", "--format", suffix, "--quality", quality, "--out", out
            )
            path = Path(out, "mtl/long", f"bass.{suffix}")
            sizes[suffix, quality] = path.stat().st_size * 8 / 5000  # kbit/s
            assert soundfile.info(path).frames == 5 * 44100
    for suffix in ("mp3", "ogg"):
        assert sizes[suffix, "0"] < sizes[suffix, "5"] < sizes[suffix, "10"] / 1.5, sizes
