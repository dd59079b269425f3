"""Data sets as they are published, each as a small one in exactly its format."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
import yaml

from refined_bsrnn.audio import read_audio
from refined_bsrnn.data.layouts import hub as hub_data
from refined_bsrnn.data.scan import scan, track_table
from refined_bsrnn.data.sources import LAYOUTS, find_sources, guess
from refined_bsrnn.data.splits import split_validation
from refined_bsrnn.data.tracks import read_stem
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.errors import DataError, RecipeError
from refined_bsrnn.recipe import DataSpec, SourceSpec
from tests.audio.test_audio import encode, tone
from tests.conftest import RATE, STEMS, write_song, write_songs

SECONDS = 1.0


def source(kind, **options):
    weight = options.pop("weight", 1.0)
    return DataSpec(sources=(SourceSpec(kind, weight, {k: v if k != "root" else str(v) for k, v in options.items()}),))


def noise(seed, n_channels=2, seconds=SECONDS):
    samples = np.random.default_rng(seed).uniform(-0.2, 0.2, (round(seconds * RATE), n_channels))
    return np.round(samples * 32768) / 32768


def write(path, samples, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, **options)
    return path


def heard(track, stem):
    return read_stem(track, stem).numpy().T


def stems_of(found):
    return {(t.split, t.name): sorted(t.stems) for t in found.tracks}


# --- folders


def test_folder_without_splits_is_for_training_and_test_tracks_are_named(tmp_path):
    for name in "abc":
        write_song(tmp_path / name, seed=ord(name))
    found = scan(DataSpec(root=str(tmp_path)), ("train", "valid"))
    assert [t.name for t in found.usable()] == ["a", "b", "c"]
    assert "is read as folder" in found.notes[0]
    with pytest.raises(DataError, match=r"no tracks in .* for test.*test_tracks: \[...\] names tracks to test on"):
        scan(DataSpec(root=str(tmp_path)), ("test",))
    spec = source("folder", root=tmp_path, test_tracks=["[bc]"])
    assert [t.name for t in scan(spec, ("train",)).tracks] == ["a"]
    assert [t.name for t in scan(spec, ("test",)).tracks] == ["b", "c"]


def test_validation_folder_by_another_name(tmp_path):
    for split in ("train", "validation", "test"):
        write_song(tmp_path / split / f"{split}-song", seed=3)
    assert [(t.split, t.name) for t in scan(DataSpec(root=str(tmp_path)), ("train", "valid")).tracks] == [
        ("train", "train-song"),
        ("valid", "validation-song"),
    ]


def test_m4a_is_decoded_once(tmp_path):
    samples = (0.5 * np.sin(np.arange(44100) / 30)[:, None].repeat(2, 1)).astype(np.float32)
    (tmp_path / "songs" / "a").mkdir(parents=True)
    with av.open(str(tmp_path / "songs" / "a" / "drums.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="stereo")
        for start in range(0, len(samples), 1024):
            part = np.ascontiguousarray(samples[start : start + 1024].T)
            frame = av.AudioFrame.from_ndarray(part, "fltp", "stereo")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    [track] = scan(DataSpec(root=str(tmp_path / "songs")), ("train",)).usable()
    kept = track.path("drums")
    assert (kept.suffix, track.stems) == (".flac", ["drums"])
    assert np.abs(read_stem(track, "drums", 20000, 4096).numpy()).max() == pytest.approx(0.5, abs=0.02)
    written = kept.stat().st_mtime_ns
    assert scan(DataSpec(root=str(tmp_path / "songs")), ("train",)).usable() == [track]
    assert kept.stat().st_mtime_ns == written
    (tmp_path / "songs" / "a" / "drums.m4a").write_bytes(b"no m4a")
    with pytest.raises(DataError, match=r"drums.m4a \(6 bytes\) cannot be read as audio"):
        scan(DataSpec(root=str(tmp_path / "songs")), ("train",)).usable()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_format_is_read(tmp_path, suffix):
    rate, samples = 44100, 0.5 * np.sin(np.arange(44100) / 30)[:, None].repeat(2, 1)
    for stem in ("drums", "mixture"):
        (tmp_path / "a").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "a" / f"{stem}.{suffix}", samples, rate)
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    [track] = found.usable()
    assert track.n_samples == pytest.approx(len(samples), abs=2500)
    middle = read_stem(track, "drums", 20000, 4096).numpy()
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.02)
    assert any("decoded from the beginning" in note for note in found.notes) == (suffix in ("ogg", "mp3"))
    [track] = scan(DataSpec(root=str(tmp_path), decode=True), ("train",)).usable()
    assert track.path("drums").suffix == (".flac" if suffix in ("ogg", "mp3") else f".{suffix}")
    assert np.abs(read_stem(track, "drums", 20000, 4096).numpy() - middle).max() < 2e-4


def test_coders_may_add_some_samples(tmp_path):
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "mixture.mp3", noise(1), RATE)
    write(tmp_path / "a" / "drums.wav", noise(1)[:-300])
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    [track] = found.usable()
    assert [(f.kind, f.stops) for f in found.findings] == [("length", False)]
    assert read_stem(track, "drums").shape == (2, track.n_samples)
    assert not read_stem(track, "drums")[:, len(noise(1)) - 300 :].any()
    write(tmp_path / "a" / "drums.wav", noise(1)[:-3000])
    with pytest.raises(DataError, match="differ in samples: drums 5000, mixture"):
        scan(DataSpec(root=str(tmp_path)), ("train",)).usable()


def test_files_of_a_stems_folder_are_summed_as_in_moisesdb(tmp_path):
    """moisesdb/<uuid>/<stem>/<uuid>.wav beside data.json; no mixture, files of other lengths."""
    song = tmp_path / "0a1b"
    kick, snare = noise(1), noise(2, seconds=0.5)
    write(song / "drums" / "9f.wav", kick)
    write(song / "drums" / "7c.wav", snare)
    write(song / "guitar" / "1d.wav", noise(3))
    (song / "data.json").write_text(json.dumps({"song": "x", "stems": []}))
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    [track] = found.usable()
    expected = kick.copy()
    expected[: len(snare)] += snare
    assert np.allclose(heard(track, "drums"), expected, atol=1e-6)
    assert found.notes[1] == f"1 files or folders in {tmp_path} are not read: .json 1."
    assert not found.findings
    write(song / "bass" / "3e.wav", noise(4, seconds=0.5))
    [finding] = scan(DataSpec(root=str(tmp_path)), ("train",)).findings
    assert "bass 4000, drums 8000, guitar 8000. Silence follows the shorter ones." in finding.text
    assert (finding.kind, finding.stops) == ("length", False)
    shutil.rmtree(song / "bass")
    mixture, stems, source_is = load_track(track, ["drums"])
    assert source_is == "sum"
    assert np.allclose(mixture.numpy().T, expected + noise(3), atol=1e-6)
    assert list(stems) == ["drums"]


def test_folders_of_songs_among_the_songs_are_read(tmp_path):
    """They were one track, whose "stems" were its songs: training took the targets to be silent in it."""
    for song in ("plain", "album/one", "album/two", "single/stems"):
        for name in ("vocals", "drums"):
            write(tmp_path / "train" / song / f"{name}.wav", noise(len(song)))
    write(tmp_path / "train" / "pair" / "a" / "mixture.wav", noise(1))
    write(tmp_path / "train" / "pair" / "a" / "Tabla.wav", noise(2))
    write(tmp_path / "train" / "pair" / "b" / "mixture.wav", noise(3))
    for stem, files in {
        "vocals": ("lead", "backing"),
        "drums": ("kick", "snare"),
        "keys 1": ("piano", "organ"),
    }.items():
        for file in files:
            write(tmp_path / "train" / "stem folders" / stem / f"{file}.wav", noise(len(file)))
    found = scan(source("folder", root=tmp_path), ("train",))
    assert stems_of(found) == {
        ("train", "plain"): ["drums", "vocals"],
        ("train", "album - one"): ["drums", "vocals"],
        ("train", "album - two"): ["drums", "vocals"],
        ("train", "single"): ["drums", "vocals"],
        ("train", "pair - a"): ["Tabla"],
        ("train", "pair - b"): [],
        ("train", "stem folders"): ["drums", "keys 1", "vocals"],
    }
    assert "3 folders hold folders of songs, which are read: train/album (2), train/pair (2), train/single (1)." in (
        found.notes
    )


def test_what_is_not_read_is_counted_and_named(tmp_path):
    write_song(tmp_path / "train" / "a", seed=1)
    write(tmp_path / "train" / "loose.wav", noise(1))
    write(tmp_path / "train" / "a" / "guitar" / "take.wav", noise(1))
    write(tmp_path / "train" / "a" / "guitar" / "old" / "take.wav", noise(1))
    (tmp_path / "train" / "a" / "cover.jpg").write_bytes(b"")
    (tmp_path / "omitted").mkdir()
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert found.notes[1:] == [
        f"1 folders in {tmp_path} are no split and are not read: omitted.",
        f"3 files or folders in {tmp_path} are not read: .jpg 1, guitar/old/ 1, loose.wav (beside the tracks) 1.",
    ]
    assert sorted(found.usable()[0].stems) == sorted([*STEMS, "guitar"])
    assert "guitar 8000" in found.findings[0].text


def test_a_folder_that_is_no_track_is_named_and_stops_nothing_where_there_are_no_splits(tmp_path):
    write_song(tmp_path / "a", seed=1)
    (tmp_path / "artwork").mkdir()
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert [t.name for t in found.usable()] == ["a"]
    assert [(f.kind, f.stops) for f in found.findings] == [("empty_track", False)]


def test_a_mixture_may_have_another_name(songs):
    for path in songs.rglob("mixture.wav"):
        path.rename(path.with_name("mix.wav"))
    assert all("mixture" in t.files for t in scan(source("folder", root=songs, mixture="mix"), ("train",)).usable())


def test_what_is_named_like_a_mixture_is_no_stem_that_holds_all_others_again(songs):
    for track in (songs / "train").iterdir():
        (track / "mixture.wav").rename(track / "Mix.wav")
    found = scan(DataSpec(root=str(songs)), ("train",))
    assert found.notes[-1] == "3 tracks have no mixture; their Mix is taken for it."
    for track in found.usable():
        assert sorted(track.stems) == sorted(STEMS)
    [song, *_] = make_parts(found.tracks, ["vocals"], DataSpec()).songs
    assert sorted(song.parts) == sorted(STEMS)
    spec = DataSpec(root=str(songs), define={"all": ("Mix",)})  # who names it as a stem means one
    assert "Mix" in scan(spec, ("train",)).usable()[0].stems


def test_all_that_is_wrong_is_said_at_once(songs):
    (songs / "train" / "song-1" / "bass.wav").write_bytes(b"")
    soundfile.write(songs / "train" / "song-2" / "drums.wav", np.zeros((100, 2)), RATE)
    (songs / "train" / "song-3").mkdir()
    found = scan(DataSpec(root=str(songs)), ("train",))
    assert [f.kind for f in found.findings] == ["empty_track", "empty", "length"]
    assert [t.name for t in found.tracks] == ["song-0"]
    with pytest.raises(
        DataError, match=r"(?s)^3 problems with the data:.*song-3 holds no.*bass.wav is empty.*drums 100"
    ):
        found.usable()


# --- MUSDB18


@pytest.fixture
def musdb_root(tmp_path):
    stempeg = pytest.importorskip("stempeg")
    for split in ("train", "test"):
        (tmp_path / "musdb18" / split).mkdir(parents=True)
        shutil.copy(stempeg.example_stem_path(), tmp_path / "musdb18" / split / f"A - {split}.stem.mp4")
    return tmp_path / "musdb18"


def test_musdb_is_decoded_once_to_what_the_musdb_package_gives(musdb_root, monkeypatch):
    import musdb

    found = scan(DataSpec(root=str(musdb_root)), ("train", "valid"))
    [track] = found.usable()
    assert "is read as musdb: it holds test/A - test.stem.mp4" in found.notes[0]
    assert (track.name, track.split, track.n_channels) == ("A - train", "train", 2)
    assert sorted(track.stems) == sorted(STEMS)
    expected = musdb.DB(str(musdb_root), subsets="train")[0]
    assert np.abs(heard(track, "mixture") - expected.audio).max() < 1e-7
    for stem in STEMS:
        assert np.abs(heard(track, stem) - expected.targets[stem].audio).max() < 1e-7
    monkeypatch.setattr(musdb, "MultiTrack", None)  # a second time there is nothing to decode
    assert scan(DataSpec(root=str(musdb_root)), ("train",)).usable() == [track]


def test_damaged_musdb_files_are_named(musdb_root):
    path = musdb_root / "train" / "A - train.stem.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (musdb_root / "train" / "B.stem.mp4").write_bytes(b"no mp4")
    with pytest.raises(
        DataError, match=r"(?s)2 problems.*A - train.stem.mp4 is cut off.*B.stem.mp4 \(6 bytes\) is no re"
    ):
        scan(DataSpec(root=str(musdb_root)), ("train",)).usable()
    path.write_bytes(whole)
    (musdb_root / "train" / "B.stem.mp4").unlink()
    assert len(scan(DataSpec(root=str(musdb_root)), ("train",)).usable()) == 1
    with pytest.raises(
        DataError, match="no .stem.mp4 or .stem.m4a files in .*train or .*test; MUSDB18-HQ .wav. is a folder source"
    ):
        scan(source("musdb", root=musdb_root.parent), ("train",))


def test_an_mp4_without_stems_is_named(musdb_root):
    """One stream of sound is the mixture; musdb gives nothing for the others."""
    encode(musdb_root / "train" / "B.stem.mp4", noise(1).astype(np.float32), "aac")
    with pytest.raises(DataError, match=r"B.stem.mp4 has no stream for the stem drums: expected the five of MUSDB18"):
        scan(DataSpec(root=str(musdb_root)), ("train",)).usable()


def test_stem_files_in_one_folder_and_under_another_suffix(musdb_root, tmp_path):
    root = tmp_path / "flat"
    root.mkdir()
    shutil.copy(musdb_root / "train" / "A - train.stem.mp4", root / "One.stem.mp4")
    shutil.copy(musdb_root / "train" / "A - train.stem.mp4", root / "Two.stem.m4a")
    (root / "notes.txt").write_text("x")
    found = scan(DataSpec(root=str(root)), ("train", "valid"))
    assert "is read as musdb: it holds One.stem.mp4" in found.notes[0]
    assert stems_of(found) == {("train", name): sorted(STEMS) for name in ("One", "Two")}
    assert torch.equal(read_stem(found.tracks[0], "bass"), read_stem(found.tracks[1], "bass"))
    assert "1 files or folders in" in found.notes[1]
    with pytest.raises(DataError, match="no tracks in"):
        scan(DataSpec(root=str(root)), ("test",))


# --- Slakh2100


def slakh_track(folder, stems, rendered=()):
    metadata = {"UUID": "u", "audio_dir": "stems", "normalized": True, "stems": {}}
    total = 0
    for i, (name, is_drum) in enumerate(stems):
        key = f"S{i:02d}"
        metadata["stems"][key] = {
            "audio_rendered": key not in rendered,
            "inst_class": name,
            "is_drum": is_drum,
            "midi_program_name": "x",
            "program_num": 1,
        }
        if key not in rendered:
            total = total + noise(10 + i, 1)
            write(folder / "stems" / f"{key}.flac", noise(10 + i, 1), subtype="PCM_24")
    write(folder / "mix.flac", total, subtype="PCM_24")
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def test_slakh_stems_are_named_by_their_instrument_classes(tmp_path):
    classes = [
        ("Guitar", False),
        ("Guitar", False),
        ("Drums", True),
        ("Synth Lead", False),
        ("Strings (continued)", False),
    ]
    slakh_track(tmp_path / "train" / "Track00001", classes, rendered=("S04",))
    slakh_track(tmp_path / "validation" / "Track01501", classes[:3])
    found = scan(DataSpec(root=str(tmp_path)), ("train", "valid"))
    assert "is read as slakh: it holds train/Track00001/metadata.yaml" in found.notes[0]
    assert found.notes[1] == f"1 stems of {tmp_path} were never rendered, as their metadata.yaml say."
    assert stems_of(found) == {
        ("train", "Track00001"): ["drums", "guitar", "synth_lead"],
        ("valid", "Track01501"): ["drums", "guitar"],
    }
    assert np.allclose(heard(found.usable()[0], "guitar"), noise(10, 1) + noise(11, 1), atol=1e-6)
    spec = source("slakh", root=tmp_path, classes={"keys": ["Synth Lead"], "axe": "Guitar"})
    assert stems_of(scan(spec, ("train",))) == {("train", "Track00001"): ["axe", "drums", "keys"]}


def test_slakh_says_what_is_missing(tmp_path):
    slakh_track(tmp_path / "train" / "Track00001", [("Bass", False)])
    slakh_track(tmp_path / "train" / "Track00002", [("Bass", False), ("Piano", False)])
    (tmp_path / "train" / "Track00001" / "metadata.yaml").write_text("- a list")
    (tmp_path / "train" / "Track00002" / "stems" / "S01.flac").unlink()
    with pytest.raises(
        DataError, match=r"(?s)metadata.yaml cannot be read: it holds no.*the stem S01, which has no file"
    ):
        scan(DataSpec(root=str(tmp_path)), ("train",)).usable()


# --- MedleyDB


def medley_track(folder, stems, bleed="no", metadata_folder=None):
    name = folder.name
    listed = {}
    for i, instrument in enumerate(stems, 1):
        raw = {f"R0{j}": {"filename": f"{name}_RAW_0{i}_0{j}.wav", "instrument": instrument} for j in (1, 2)}
        listed[f"S0{i}"] = {"filename": f"{name}_STEM_0{i}.wav", "instrument": instrument, "component": "", "raw": raw}
        write(folder / f"{name}_STEMS" / f"{name}_STEM_0{i}.wav", noise(20 + i))
        for j in (1, 2):
            write(folder / f"{name}_RAW" / f"{name}_RAW_0{i}_0{j}.wav", noise(30 + 2 * i + j, 1))
    write(folder / f"{name}_MIX.wav", sum(noise(20 + i) for i in range(1, len(stems) + 1)))
    metadata = {
        "has_bleed": bleed,
        "mix_filename": f"{name}_MIX.wav",
        "raw_dir": f"{name}_RAW",
        "stem_dir": f"{name}_STEMS",
        "stems": listed,
    }
    place = metadata_folder or folder
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}_METADATA.yaml").write_text(yaml.safe_dump(metadata))


def test_medleydb_stems_are_named_by_their_instruments(tmp_path):
    medley_track(tmp_path / "Audio" / "A_One", ["electric bass", "male singer", "male singer"], "yes")
    medley_track(tmp_path / "Audio" / "B_Two", ["drum set"], metadata_folder=tmp_path / "Metadata")
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert "is read as medleydb" in found.notes[0]
    assert found.notes[1] == f"1 tracks of {tmp_path} have bleed and are kept (bleed: skip leaves them out): A_One."
    assert stems_of(found) == {("train", "A_One"): ["electric_bass", "male_singer"], ("train", "B_Two"): ["drum_set"]}
    one = found.usable()[0]
    assert np.allclose(heard(one, "male_singer"), noise(22) + noise(23), atol=1e-6)
    assert np.allclose(heard(one, "mixture"), noise(21) + noise(22) + noise(23), atol=1e-4)
    spec = source("medleydb", root=tmp_path, instruments={"drums": ["drum set"]}, bleed="skip", raw=True)
    [track] = scan(spec, ("train",)).usable()
    assert (track.name, track.stems) == ("B_Two", ["drums"])
    assert np.allclose(heard(track, "drums")[:, :1], noise(33, 1) + noise(34, 1), atol=1e-6)


def test_medleydb_says_what_is_missing(tmp_path):
    medley_track(tmp_path / "A_One", ["flute"])
    (tmp_path / "A_One" / "A_One_STEMS" / "A_One_STEM_01.wav").unlink()
    with pytest.raises(DataError, match="its metadata name A_One_STEM_01.wav, which is not there"):
        scan(DataSpec(root=str(tmp_path)), ("train",)).usable()
    (tmp_path / "A_One" / "A_One_METADATA.yaml").unlink()
    with pytest.raises(DataError, match="A_One_METADATA.yaml cannot be read: No such file"):
        scan(source("medleydb", root=tmp_path), ("train",)).usable()
    with pytest.raises(RecipeError, match="bleed is 'drop'; expected keep or skip"):
        scan(source("medleydb", root=tmp_path, bleed="drop"), ("train",))


# --- manifests


def test_manifests_name_any_files_and_pieces_of_them(tmp_path):
    whole = noise(1, seconds=2.0)
    write(tmp_path / "audio" / "long.wav", whole)
    write(tmp_path / "audio" / "drums.wav", noise(2))
    (tmp_path / "songs.csv").write_text(
        "track,split,stem,path,start,end\n"
        "a,train,vocals,audio/long.wav,0.5,1.5\n"
        "a,train,drums,audio/drums.wav,,\n"
        f"b,validation,vocals,{tmp_path / 'audio' / 'drums.wav'},,\n"
    )
    stems = {"vocals": {"path": "audio/long.wav", "start": 0.5, "end": 1.5}, "drums": ["audio/drums.wav"]}
    lines = [
        {"track": "a", "stems": stems},
        {"track": "b", "split": "valid", "stem": "vocals", "path": "audio/drums.wav"},
    ]
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    for name in ("songs.csv", "songs.jsonl"):
        found = scan(DataSpec(root=str(tmp_path / name)), ("train", "valid"))
        assert "is read as manifest" in found.notes[0]
        assert stems_of(found) == {("train", "a"): ["drums", "vocals"], ("valid", "b"): ["vocals"]}
        track = found.usable()[0]
        assert np.allclose(heard(track, "vocals"), whole[RATE // 2 : RATE // 2 + RATE], atol=1e-6)
        assert np.allclose(read_stem(track, "vocals", 100, 50).numpy().T, whole[RATE // 2 + 100 :][:50], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "song,path\n", "has the columns song, path; expected .*; stem, track is missing"),
        (
            "a.csv",
            "track,stem,path,split\na,b,c.wav,training-set\n",
            "line 2: split is 'training-set'; expected one of",
        ),
        ("a.csv", "track,stem,path,start\na,b,c.wav,early\n", "line 2: start is 'early'; expected seconds"),
        ("a.csv", "track,stem,path,start,end\na,b,c.wav,3,2\n", "line 2: start is 3.0 and end 2.0"),
        ("a.csv", "track,stem,path\n,b,c.wav\n", "line 2: it names no track"),
        ("a.csv", "track,stem,path\na,,c.wav\n", "line 2: it names no stem"),
        ("a.csv", "track,stem,path\na,b,\n", "line 2: path is ''; expected a file"),
        ("a.csv", "track,stem,path\na,b,c.wav\n", "there is no file .*c.wav"),
        ("a.csv", "track,stem,path,start\na,b,c.wav,nan\n", "line 2: start is 'nan'; expected seconds"),
        ("a.csv", "track,stem,path,end\na,b,c.wav,inf\n", "line 2: end is 'inf'; expected seconds"),
        ("a.csv", "track,stem,path\na,b,c.wav\na,b,c.wav\n", "line 3: b of a is made of c.wav twice"),
        (
            "a.jsonl",
            '{"track": "a", "stems": {"b": {"path": "c.wav", "begin": 1}}}',
            "'begin' is unknown beside a path",
        ),
        ("a.jsonl", "{oops", "line 1 is not JSON"),
        ("a.jsonl", "3", "line 1 is 3; expected an object"),
        ("a.jsonl", '{"track": "a", "stems": "x"}', "line 1: stems is 'x'; expected stem: path"),
    ],
)
def test_wrong_manifests(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        scan(DataSpec(root=str(tmp_path / name)), ("train", "valid", "test")).usable()


def test_manifests_as_spreadsheets_save_them(tmp_path):
    write(tmp_path / "c.wav", noise(1))
    text = "track,stem,path,artist,strat\nCafé,drums,c.wav,x,0.5\n"
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8-sig"))
    found = scan(DataSpec(root=str(tmp_path / "a.csv")), ("train",))
    assert [t.name for t in found.usable()] == ["Café"]
    messages = f"{tmp_path / 'a.csv'}: columns or keys that are not read: 'artist', 'strat' (start?)."
    assert messages in found.notes
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"track": "a", "stems": {"drums": "c.wav"}}')
    assert len(scan(DataSpec(root=str(tmp_path / "a.jsonl")), ("train",)).usable()) == 1
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "a.csv").write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="a.csv is not UTF-8 .* Save it as UTF-8"):
            scan(DataSpec(root=str(tmp_path / "a.csv")), ("train",))


def test_a_piece_beyond_its_file(tmp_path):
    write(tmp_path / "c.wav", noise(1))
    (tmp_path / "a.csv").write_text("track,stem,path,start,end\na,b,c.wav,0.5,1.5\n")
    with pytest.raises(DataError, match=r"c.wav lasts 1.000 s; 0.5 to 1.5 s of it were asked for"):
        scan(DataSpec(root=str(tmp_path / "a.csv")), ("train",)).usable()


# --- Hugging Face


def write_parquet(path, columns):
    """As the datasets package writes audio: bytes and a path, marked in the schema."""
    kinds = {name: datasets.Value("string") if name in ("name", "title") else datasets.Audio() for name in columns}
    path.parent.mkdir(exist_ok=True)
    table = pyarrow.Table.from_pydict(columns, schema=datasets.Features(kinds).arrow_schema)
    pyarrow.parquet.write_table(table, path)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A folder of parquet files with audio columns: flac bytes, one row without drums."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    root = tmp_path / "songs"
    for split, count in (("train", 3), ("test", 1)):
        rows = {"name": [], "vocals": [], "drums": []}
        for i in range(count):
            encoded = write(tmp_path / "one.flac", noise(50 + i)).read_bytes()
            rows["name"].append(f"{split}-{i}")
            rows["vocals"].append({"bytes": encoded, "path": "v.flac"})
            rows["drums"].append({"bytes": encoded, "path": None} if i != 1 else None)
        write_parquet(root / f"{split}-00000-of-00001.parquet", rows)
    return root


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_data_set_is_decoded_once(parquet, streaming, monkeypatch):
    spec = source("huggingface", root=parquet, streaming=streaming)
    found = scan(spec, ("train", "valid"))
    assert stems_of(found) == {
        ("train", "train-0"): ["drums", "vocals"],
        ("train", "train-1"): ["vocals"],
        ("train", "train-2"): ["drums", "vocals"],
    }
    for i, track in enumerate(found.usable()):
        assert np.allclose(heard(track, "vocals"), noise(50 + i), atol=1e-6)
    assert [t.name for t in scan(spec, ("test",)).usable()] == ["test-0"]
    monkeypatch.setattr("refined_bsrnn.data.layouts.hub.keep", None)  # a second time there is nothing to decode
    assert [t.name for t in scan(spec, ("train",)).usable()] == ["train-0", "train-1", "train-2"]
    limited = source("huggingface", root=parquet, streaming=streaming, limit=2, stems={"singing": "vocals"})
    monkeypatch.undo()
    assert stems_of(scan(limited, ("train",))) == {("train", "train-0"): ["singing"], ("train", "train-1"): ["singing"]}


def test_wrong_columns_of_a_data_set(parquet):
    with pytest.raises(DataError, match="no audio column 'vocal' for the stem 'singing'. Did you mean 'vocals'"):
        scan(source("huggingface", root=parquet, stems={"singing": "vocal"}), ("train",))
    with pytest.raises(DataError, match="has no column 'names'. Did you mean 'name'"):
        scan(source("huggingface", root=parquet, track="names"), ("train",))
    with pytest.raises(DataError, match="'nobody/nothing' cannot be read: .* Expected a name on the Hugging Face hub"):
        scan(source("huggingface", root="nobody/nothing"), ("train",))


def test_a_damaged_row_is_named(parquet, tmp_path):
    path = tmp_path / "bad.parquet"
    write_parquet(path, {"vocals": [{"bytes": b"no audio", "path": "v.wav"}]})
    with pytest.raises(
        DataError, match=r"column 'vocals' of train-00000 in .*bad.parquet is no readable audio: it \(8"
    ):
        scan(DataSpec(root=str(path)), ("train",)).usable()


WORKER = """
import sys, datasets
datasets.config.HF_DATASETS_CACHE = sys.argv[2]
from refined_bsrnn.recipe import DataSpec, SourceSpec
from refined_bsrnn.data.scan import scan
spec = DataSpec(sources=(SourceSpec("huggingface", 1.0, {"root": sys.argv[1], "streaming": True}),))
print([t.name for t in scan(spec, ("train",)).usable()])
"""


@pytest.mark.slow
def test_a_stream_is_shared_out_over_processes(parquet, tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(parquet), str(tmp_path / f"hf-{rank}")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [w.communicate(timeout=60)[0].strip() for w in workers] == ["['train-0', 'train-1', 'train-2']"] * 2
    parts = [json.loads(p.read_text()) for p in sorted((tmp_path / "cache" / "decoded").glob("stream-*.json"))]
    assert [len(part) for part in parts] == [2, 1]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_a_name_or_audio(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    file = write(tmp_path / "x.wav", noise(1))
    sound, nothing = {"bytes": file.read_bytes(), "path": "x.wav"}, {"bytes": None, "path": None}
    path = tmp_path / "rows.parquet"
    write_parquet(path, {"vocals": [sound, sound, nothing], "title": ["a", None, "b"]})
    found = scan(source("huggingface", root=path, streaming=streaming), ("train",))
    assert [t.name for t in found.usable()] == ["a", "train-00001"]
    assert [f.text.split(" in ")[0] for f in found.findings] == ["the track train/b"]
    with pytest.raises(RecipeError, match="limit is -1; expected a number of rows"):
        scan(source("huggingface", root=path, limit=-1), ("train",))


def test_a_stream_waits_for_what_is_made_anew_and_says_so(parquet, tmp_path, monkeypatch, capsys):
    """The list of another process is there, but not all that it lists; it comes while this one waits."""
    process = threading.local()
    monkeypatch.setattr(hub_data, "share", lambda: (getattr(process, "rank", 0), 2))
    spec = source("huggingface", root=parquet, streaming=True)

    def as_process(rank):
        process.rank = rank
        return len(scan(spec, ("train",)).usable())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(as_process, (0, 1))) == [3, 3]
    (other,) = (tmp_path / "cache" / "decoded").glob("stream-*1-of-2.json")
    gone = Path(json.loads(other.read_text())[0][2])
    gone.rename(tmp_path / "gone")
    monkeypatch.setattr(hub_data, "LOOKS_BEFORE_NOTE", 2)
    turns = []

    def sleep(seconds):
        turns.append(seconds)
        if len(turns) == 3:
            (tmp_path / "gone").rename(gone)

    monkeypatch.setattr(hub_data.time, "sleep", sleep)
    assert len(scan(spec, ("train",)).usable()) == 3
    assert capsys.readouterr().err.count("waiting for the rows that process 1 of 2 decodes into") == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_that_names_a_file_is_decoded_again_when_the_file_is_rewritten(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    file, kept = write(tmp_path / "x.wav", noise(1)), write(tmp_path / "y.wav", noise(3))
    path = tmp_path / "rows.parquet"
    rows = [{"bytes": None, "path": str(file)}, {"bytes": kept.read_bytes(), "path": str(kept)}]
    write_parquet(path, {"vocals": rows, "title": ["a", "b"]})
    spec = source("huggingface", root=path, streaming=streaming)
    first = scan(spec, ("train",)).usable()
    assert np.allclose(heard(first[0], "vocals"), noise(1), atol=1e-6)
    write(file, noise(2))
    again = scan(spec, ("train",)).usable()
    assert np.allclose(heard(again[0], "vocals"), noise(2), atol=1e-6)
    assert again[1] == first[1]
    assert scan(spec, ("train",)).usable() == again


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_save_to_disk(parquet, tmp_path, monkeypatch, streaming):
    rows = datasets.load_dataset(str(parquet))
    rows.save_to_disk(tmp_path / "both")
    rows["test"].save_to_disk(tmp_path / "one")
    spec = source("huggingface", root=tmp_path / "both", streaming=streaming)
    names = {("train", "train-0"): ["drums", "vocals"], ("train", "train-1"): ["vocals"]}
    assert stems_of(scan(spec, ("train",))) == {**names, ("train", "train-2"): ["drums", "vocals"]}
    found = scan(DataSpec(root=str(tmp_path / "one")), ("test",))
    assert "is read as huggingface: it holds state.json" in found.notes[0]
    assert np.allclose(heard(found.usable()[0], "vocals"), noise(50), atol=1e-6)


# --- files as people have them


def test_what_operating_systems_leave_is_left_out_and_named(tmp_path):
    root = write_songs(tmp_path / "songs", train=2)
    write(root / "train" / "@eaDir" / "vocals.wav", noise(1))
    write(root / "__MACOSX" / "train" / "._vocals.wav", noise(1))
    (root / "train" / ".DS_Store").write_bytes(b"x")
    write(root / "train" / "song-0" / "@eaDir" / "vocals.mp3", noise(1))
    found = scan(DataSpec(root=str(root)), ("train",))
    assert [t.name for t in found.usable()] == ["song-0", "song-1"]
    assert sorted(found.tracks[0].stems) == sorted(STEMS)
    notes = " ".join(found.notes)
    assert "3 files or folders that an operating system made are left out: songs/__MACOSX, train/.DS_Store, t" in notes
    assert "1 files or folders in" in notes
    assert "@eaDir 1" in notes


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".webm", "libopus"), (".mp2", "mp2")])
def test_stems_in_video_files_and_mp2(tmp_path, suffix, codec):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    encode(folder / f"vocals{suffix}", tone(48000, rate=48000, hz=200), codec, rate=48000)
    [track] = scan(DataSpec(root=str(tmp_path)), ("train",)).usable()
    assert (track.stems, track.sample_rate_hz) == (["vocals"], 48000)
    sound = read_stem(track, "vocals")[0, 12000:36000]
    assert int(torch.fft.rfft(sound).abs().argmax()) == 100  # 200 Hz, in bins of 2 Hz


def test_a_stem_file_in_a_track_folder_is_not_taken_for_one_stem(tmp_path):
    root = write_songs(tmp_path / "songs", train=1)
    (root / "train" / "song-0" / "song.stem.m4a").write_bytes(b"x")
    found = scan(DataSpec(root=str(root)), ("train",))
    assert sorted(found.usable()[0].stems) == sorted(STEMS)
    assert any(".m4a 1" in note for note in found.notes)


def test_stems_that_differ_by_a_few_samples_are_fitted_to_the_mixture_where_the_recipe_says_so(tmp_path):
    folder = tmp_path / "train" / "a"
    for name, n_samples in (("mixture", 8000), ("vocals", 7990), ("drums", 8011)):
        write(folder / f"{name}.wav", np.full((n_samples, 2), 0.25))
    with pytest.raises(
        DataError, match=r"differ in samples: .*vocals 7990.*; data.fit_seconds=0.003 pads or cuts them"
    ):
        scan(DataSpec(root=str(tmp_path)), ("train",)).usable()
    with pytest.raises(DataError, match="differ in samples"):
        scan(DataSpec(root=str(tmp_path), fit_seconds=0.002), ("train",)).usable()
    found = scan(DataSpec(root=str(tmp_path), fit_seconds=0.003), ("train",))
    [track] = found.usable()
    assert track.n_samples == 8000
    vocals, drums = heard(track, "vocals"), heard(track, "drums")
    assert len(vocals) == len(drums) == 8000
    assert (vocals[:7990] == 0.25).all()
    assert not vocals[7990:].any()
    [finding] = found.findings
    assert "Silence follows the shorter ones, and the longer ones are cut where the mixture ends." in finding.text


def test_a_weight_per_track(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav", noise(1))
    (tmp_path / "m.csv").write_text("track,stem,path,weight\nA,drums,a.wav,0.5\nB,drums,b.wav,\nC 1,drums,c.wav,2\n")
    spec = replace(source("manifest", root=tmp_path / "m.csv", weight=3.0), validation_share=0.0)
    tracks = scan(spec, ("train",)).usable()
    assert {t.name: t.weight for t in tracks} == {"A": 1.5, "B": 3.0, "C 1": 6.0}
    train, _ = split_validation(tracks, replace(spec, track_weights={"*": 2.0, "C*": 0.25}))
    assert {t.name: t.weight for t in train} == {"A": 3.0, "B": 6.0, "C 1": 1.5}
    with pytest.raises(DataError, match="data.track_weights: of 3 tracks none is called 'D'"):
        split_validation(tracks, replace(spec, track_weights={"D": 2.0}))
    (tmp_path / "m.csv").write_text("track,stem,path,weight\nA,drums,a.wav,0\n")
    with pytest.raises(DataError, match="line 2: the weight is '0'; expected a number above 0"):
        scan(spec, ("train",))
    (tmp_path / "m.csv").write_text("track,stem,path,weight\nA,drums,a.wav,1\nA,bass,b.wav,2\n")
    with pytest.raises(DataError, match="line 3: the weight of A is 2, and 1 before"):
        scan(spec, ("train",))


def test_a_key_or_column_that_a_table_has_twice(tmp_path):
    write(tmp_path / "a.wav", noise(1))
    (tmp_path / "m.jsonl").write_text('{"track": "A", "stems": {"drums": "a.wav", "drums": "b.wav"}}\n')
    with pytest.raises(DataError, match="line 1 is not JSON: it has the key 'drums' twice"):
        scan(DataSpec(root=str(tmp_path / "m.jsonl")), ("train",))
    (tmp_path / "m.csv").write_text("track,stem,path,path\nA,drums,a.wav,b.wav\n")
    with pytest.raises(DataError, match="has the column 'path' twice"):
        scan(DataSpec(root=str(tmp_path / "m.csv")), ("train",))


# --- what was asked for and is not there, what is there and was not asked for


def test_options_that_match_nothing_are_told(tmp_path):
    root = write_songs(tmp_path / "songs")
    with pytest.raises(
        DataError, match=r"data.sources\[0\].test_tracks: of 4 tracks none is called 'sing-1' \(song-1\?\)"
    ):
        scan(source("folder", root=root, test_tracks=["song-2", "sing-1"]), ("train",))
    with pytest.raises(DataError, match=r"no track in .* has a file 'mxture' \(mixture\). Did you mean 'mixture'"):
        scan(source("folder", root=root, mixture="mxture"), ("train",))
    write(root / "train" / "song-1" / "mix.wav", noise(1, seconds=2.0))
    found = scan(source("folder", root=root, mixture="mix"), ("train",))
    assert "1 tracks have a mixture beside mix: it is not read (song-1)." in found.notes
    slakh_track(tmp_path / "slakh" / "train" / "Track00001", [("Piano", False)])
    found = scan(source("slakh", root=tmp_path / "slakh", classes={"keys": ["Pianoo"]}), ("train",))
    assert "classes: no stem is called 'pianoo' (piano?); there are piano." in found.notes


def test_files_that_no_metadata_name_are_counted(tmp_path):
    slakh_track(tmp_path / "slakh" / "train" / "Track00001", [("Piano", False)])
    write(tmp_path / "slakh" / "train" / "Track00001" / "stems" / "S07.flac", noise(2))
    found = scan(source("slakh", root=tmp_path / "slakh"), ("train",))
    messages = f"1 audio files of {tmp_path / 'slakh'} are in no metadata and not read: Track00001/S07.flac."
    assert messages in found.notes
    medley_track(tmp_path / "medley" / "A_Song", ["piano"])
    write(tmp_path / "medley" / "A_Song" / "A_Song_STEMS" / "A_Song_STEM_99.wav", noise(2))
    found = scan(source("medleydb", root=tmp_path / "medley"), ("train",))
    assert any("not read: A_Song_STEMS/A_Song_STEM_99.wav." in note for note in found.notes)


@pytest.mark.parametrize("stems", [["S00"], {"S00": None}])
def test_metadata_of_another_shape_are_named(tmp_path, stems):
    folder = tmp_path / "slakh" / "train" / "Track00001"
    slakh_track(folder, [("Piano", False)])
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"stems": stems}))
    found = scan(source("slakh", root=tmp_path / "slakh"), ("train",))
    assert [f.kind for f in found.findings] == ["metadata"]
    assert "no mapping with a mapping for each of its stems" in found.findings[0].text


def test_a_track_without_audio_is_named_once(tmp_path):
    slakh_track(tmp_path / "slakh" / "train" / "Track00001", [("Piano", False)])
    folder = tmp_path / "slakh" / "train" / "Track00002"
    slakh_track(folder, [("Piano", False)])
    shutil.rmtree(folder / "stems")
    for mix in folder.glob("mix.*"):
        mix.unlink()
    found = scan(source("slakh", root=tmp_path / "slakh"), ("train",))
    assert [f.kind for f in found.findings] == ["missing_file"]
    (tmp_path / "rows.jsonl").write_text('{"track": "A", "stems": {"drums": []}}\n{"track": "B", "stems": {}}\n')
    found = scan(source("manifest", root=tmp_path / "rows.jsonl"), ("train",))
    assert [f.where for f in found.findings] == ["train/A", "train/B"]
    assert not found.tracks
    write(tmp_path / "a.wav", noise(1))
    (tmp_path / "rows.jsonl").write_text('{"track": "A", "stems": {"drums": [], "bass": "a.wav"}}')
    assert [t.stems for t in scan(source("manifest", root=tmp_path / "rows.jsonl"), ("train",)).usable()] == [["bass"]]


def test_a_link_to_nothing_cannot_be_read(songs):
    path = songs / "train" / "song-1" / "vocals.wav"
    path.unlink()
    path.symlink_to(songs / "annex" / "vocals.wav")
    with pytest.raises(DataError, match="there is no file .*song-1/vocals.wav"):
        scan(DataSpec(root=str(songs)), ("train",)).usable()


def test_names_that_mean_something_else_or_are_no_unicode(songs):
    (songs / "train" / "song-1" / "bass.wav").rename(songs / "train" / "song-1" / "rest-of-mixture.wav")
    with pytest.raises(DataError, match="a stem cannot be called 'rest-of-mixture'"):
        scan(DataSpec(root=str(songs)), ("train",)).usable()
    (songs / "train" / "song-1").rename(songs / "train" / os.fsdecode(b"Caf\xe9"))
    with pytest.raises(DataError, match="the name 'Caf.' is no Unicode. Rename it"):
        scan(DataSpec(root=str(songs)), ("train",)).usable()


def test_a_folder_that_cannot_be_read_is_named(songs, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="songs cannot be read: Permission denied"):
        scan(source("folder", root=songs), ("train",))


def test_a_file_that_a_definition_leaves_out_is_told(songs):
    write(songs / "train" / "song-1" / "guitar.wav", noise(1, seconds=2.0))
    write(songs / "train" / "song-1" / "acoustic.wav", noise(2, seconds=2.0))
    found = scan(DataSpec(root=str(songs), define={"guitar": ("acoustic", "electric")}), ("train",))
    messages = "1 tracks have a file for 'guitar' beside acoustic, electric, whose sum data.define says that it is"
    assert any(note.startswith(messages) for note in found.notes)


def test_musdb_folders_in_any_case_and_what_else_lies_there(musdb_root, monkeypatch):
    (musdb_root / "train").rename(musdb_root / "Train")
    write(musdb_root / "Train" / "loose.wav", noise(1))
    found = scan(DataSpec(root=str(musdb_root)), ("train",))
    assert len(found.usable()) == 1
    assert f"1 files or folders in {musdb_root} are no .stem.mp4 or .stem.m4a: Train/loose.wav." in found.notes


# --- all of them


def test_every_source_says_what_it_is_and_refuses_unknown_options(tmp_path):
    for kind, layout in LAYOUTS.items():
        assert layout.list_tracks.__doc__
        options = {} if kind == "builtin" else {"root": tmp_path}
        with pytest.raises(RecipeError, match=rf"data.sources\[0\] \({kind}\) has no option 'colour'"):
            scan(source(kind, colour=1, **options), ("train",))


def test_wrong_sources(tmp_path):
    with pytest.raises(RecipeError, match="'folders' is unknown. Did you mean 'folder'"):
        find_sources(source("folders", root=tmp_path))
    with pytest.raises(RecipeError, match=r"data.sources\[0\] says no root"):
        find_sources(source("folder"))
    with pytest.raises(DataError, match=r"data.sources\[0\] is '/nowhere', and there is no such folder"):
        find_sources(source("auto", root="/nowhere"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="a.txt is a file; expected a folder of songs"):
        guess(tmp_path / "a.txt")


def test_sources_are_merged_with_weights_and_equal_names_told_apart(tmp_path):
    one, two = write_songs(tmp_path / "one", train=2), write_songs(tmp_path / "two", train=1, test=0)
    spec = DataSpec(
        sources=(SourceSpec("auto", 1.0, {"root": str(one)}), SourceSpec("folder", 3.0, {"root": str(two)})),
        define={"accompaniment": ("drums", "bass", "other")},
    )
    found = scan(spec, ("train", "valid"))
    assert [(t.name, t.weight) for t in found.usable()] == [("song-0", 1.0), ("song-1", 1.0), ("two: song-0", 3.0)]
    assert (found.sources.name, found.sources.where) == ("one + two", f"{one}, {two}")
    songs = make_parts(found.tracks, ["accompaniment"], spec).songs
    assert [song.target_parts for song in songs] == [{"accompaniment": ("drums", "bass", "other")}] * 3
    again = find_sources(found.sources.resolved(spec))
    assert again.specs == found.sources.specs
    assert not again.notes
    tested = scan(spec, ("test",))
    assert [t.name for t in tested.tracks] == ["song-0"]
    for name in ("a", "b"):
        shutil.copytree(two, tmp_path / name / "two")
    sources = [{"root": str(root)} for root in (two, tmp_path / "a" / "two", tmp_path / "b" / "two")]
    alike = scan(DataSpec(sources=tuple(SourceSpec("folder", 1.0, options) for options in sources)), ("train",))
    assert [t.name for t in alike.tracks] == ["song-0", "two: song-0", "two: song-0 (2)"]
    assert any("no tracks in" in note and "two" in note for note in tested.notes)


def test_a_whole_read_equals_the_files(songs):
    from refined_bsrnn.data.tracks import tracks_of

    track = tracks_of(track_table(songs, ("train",)))[1]
    assert torch.equal(read_stem(track, "bass"), read_audio(songs / "train" / "song-1" / "bass.wav")[0])


# --- a folder per stem, and tables of other programs


@pytest.mark.parametrize("split", ["", "train"])
def test_a_folder_per_stem_holds_solos(tmp_path, split):
    for stem, names in {"vocals": ["a", "vocals_2"], "drums": ["01", "02", "03"], "tabla": ["x"]}.items():
        for i, name in enumerate(names):
            write(tmp_path / split / stem / f"{name}.wav", noise(i))
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert stems_of(found) == {
        ("train", f"{stem}/{name}"): [stem]
        for stem, name in [
            *(("drums", "01"), ("drums", "02"), ("drums", "03"), ("tabla", "x")),
            *(("vocals", "a"), ("vocals", "vocals_2")),
        ]
    }
    assert any("read as a folder per stem (drums, tabla, vocals): 0 tracks" in note for note in found.notes)
    read = next(t for t in found.usable() if t.name == "drums/02")
    assert np.allclose(heard(read, "drums"), noise(1), atol=1e-6)


def test_a_folder_per_stem_holds_tracks_where_names_and_lengths_agree(tmp_path):
    for i, stem in enumerate(["mixture", "vocals", "other"]):
        write(tmp_path / stem / "Rain.wav", noise(i))
        write(tmp_path / stem / "01.wav", noise(i, seconds=1 + i / 10))
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert stems_of(found) == {
        ("train", "Rain"): ["other", "vocals"],
        ("train", "mixture/01"): [],
        ("train", "other/01"): ["other"],
        ("train", "vocals/01"): ["vocals"],
    }


def test_folders_of_unknown_names_are_stems_where_no_file_is_named_as_another(tmp_path):
    for name in ("raga", "teental", "jhaptal"):
        write(tmp_path / "tabla" / f"{name}.wav", noise(1))
        write(tmp_path / "sitar" / f"{name}2.wav", noise(2))
    assert len(scan(DataSpec(root=str(tmp_path)), ("train",)).usable()) == 6
    spec = source("folder", root=tmp_path, layout="tracks")
    assert stems_of(scan(spec, ("train",)))["train", "tabla"] == ["jhaptal", "raga", "teental"]


@pytest.mark.parametrize(
    "names", [("drums_z", "drums"), ("drums_", "drums"), ("Bass Song", "sitar"), ("vocals", "drums")]
)
def test_a_folder_per_track_stays_one(tmp_path, names):
    folder, stem = names
    for i in range(3):
        for name in (stem, "tabla"):
            write(tmp_path / f"{folder}{i or ''}" / f"{name}.wav", noise(i))
    found = scan(DataSpec(root=str(tmp_path)), ("train",))
    assert sorted({*stems_of(found)["train", folder]}) == sorted({stem, "tabla"})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("flat", [False, True])
def test_the_table_of_spleeter(tmp_path, separator, flat):
    header = ["mix_path", "vocals_path", "accompaniment_path", "duration"]
    lines = [header]
    for i, song in enumerate(["Rain", "Sun"]):
        paths = [f"{song}_{name}.wav" if flat else f"{song}\\{name}.wav" for name in ("mix", "vocals", "rest")]
        for k, path in enumerate(paths):
            write(tmp_path / path.replace("\\", "/"), noise(10 * i + k))
        lines.append([*paths, "1.0"])
    (tmp_path / "songs.csv").write_text("\n".join(separator.join(line) for line in lines) + "\n")
    found = scan(DataSpec(root=str(tmp_path / "songs.csv")), ("train",))
    names = ["Rain_mix", "Sun_mix"] if flat else ["Rain", "Sun"]
    assert stems_of(found) == {("train", name): ["accompaniment", "vocals"] for name in names}
    assert all("mixture" in track.files for track in found.tracks)
    assert np.allclose(heard(found.usable()[1], "vocals"), noise(11), atol=1e-6)
    assert any("is read as a line per track and a column per stem" in note for note in found.notes)
    assert any("not read: 'duration'" in note for note in found.notes)


def test_tables_with_other_separators(tmp_path):
    write(tmp_path / "a b" / "drums.wav", noise(1))
    (tmp_path / "songs.tsv").write_text("track\tstem\tpath\nRain, 1\tdrums\ta b\\drums.wav\n")
    assert stems_of(scan(DataSpec(root=str(tmp_path / "songs.tsv")), ("train",))) == {("train", "Rain, 1"): ["drums"]}
