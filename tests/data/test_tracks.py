"""Songs on disk as tracks."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.audio import read_audio
from refined_bsrnn.data.decode import content_key
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.sources import find_sources, guess
from refined_bsrnn.data.splits import MUSDB_VALIDATION_TRACKS, split_validation
from refined_bsrnn.data.tracks import StemFile, Track, fingerprint, last_written, read_stem, table_of, tracks_of
from refined_bsrnn.errors import DataError
from refined_bsrnn.recipe import DataSpec
from tests.conftest import RATE, STEMS, write_song


def tracks_in(root, splits=("train",)):
    return tracks_of(track_table(root, splits))


# --- where the data are


def test_root_is_the_recipes_then_the_environments_then_built_in(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert find_sources(DataSpec()).is_builtin
    monkeypatch.setenv("MUSDB18HQ_ROOT", str(tmp_path / "a"))
    assert find_sources(DataSpec()).where == str(tmp_path / "a")
    assert find_sources(DataSpec(root=str(tmp_path / "b"))).where == str(tmp_path / "b")
    assert find_sources(DataSpec(root="builtin")).is_builtin


@pytest.mark.parametrize("source", ["data.root", "$MUSDB18HQ_ROOT"])
def test_a_root_that_is_not_there_is_no_reason_to_fall_back(source, tmp_path, monkeypatch):
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setenv("MUSDB18HQ_ROOT", nowhere)
    with pytest.raises(DataError, match=f"{source.replace('$', '.')} is .*nowhere.* there is no such folder"):
        find_sources(DataSpec(root=nowhere if source == "data.root" else None))


# --- the track table


def test_table_lists_headers_in_order(songs):
    table = track_table(songs, ("train", "test"))
    assert table["name"][:] == ["song-0", "song-1", "song-2", "song-0"]
    assert table["split"][:] == ["train"] * 3 + ["test"]
    track = tracks_of(table)[0]
    assert (track.n_samples, track.sample_rate_hz, track.n_channels, track.seconds) == (2 * RATE, RATE, 2, 2.0)
    assert sorted(track.stems) == sorted(STEMS)


def test_fingerprint_follows_content_not_place(songs, tmp_path):
    before = fingerprint(tracks_in(songs))
    shutil.copytree(songs, tmp_path / "elsewhere")
    assert fingerprint(tracks_in(tmp_path / "elsewhere")) == before
    path = tmp_path / "elsewhere" / "train" / "song-1" / "bass.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    samples[len(samples) // 2] += 1
    soundfile.write(path, samples, rate)
    assert fingerprint(tracks_in(tmp_path / "elsewhere")) != before


def test_the_test_split_is_not_listed_for_training(songs):
    assert {t.split for t in tracks_in(songs, ("train", "valid"))} == {"train"}


def test_empty_root_and_wrong_layout(tmp_path):
    with pytest.raises(DataError, match="no tracks in .* found an empty folder"):
        track_table(tmp_path, ("train",))
    (tmp_path / "songs").mkdir()
    assert guess(tmp_path) == ("folder", "a folder per song, a file or folder per stem")
    with pytest.raises(DataError, match="Expected .*/train/<track>/<stem>.wav; found songs"):
        track_table(tmp_path, ("train",))


def test_empty_track_folder(songs):
    (songs / "train" / "song-9").mkdir()
    with pytest.raises(DataError, match="song-9 holds no audio file"):
        track_table(songs, ("train",))


@pytest.mark.parametrize(("seconds", "rate", "unit"), [(1.5, RATE, "samples"), (2.0, 2 * RATE, "")])
def test_stems_of_another_length_or_rate_are_refused(songs, seconds, rate, unit):
    soundfile.write(songs / "train" / "song-1" / "bass.wav", np.zeros((round(seconds * rate), 2)), rate)
    with pytest.raises(DataError, match=rf"song-1 differ in {unit}.*bass \d+"):
        track_table(songs, ("train",))


def test_stems_of_the_same_length_at_another_rate_are_refused(songs):
    soundfile.write(songs / "train" / "song-1" / "bass.wav", np.zeros((2 * RATE, 2)), 2 * RATE)
    with pytest.raises(DataError, match="differ in Hz: bass 16000"):
        track_table(songs, ("train",))


def test_where_only_the_rate_is_wrong_only_the_rate_is_told(songs):
    soundfile.write(songs / "train" / "song-1" / "bass.wav", np.zeros((4 * RATE, 2)), 2 * RATE)  # as long as the others
    with pytest.raises(DataError, match=r"^the files of track .*song-1 differ in Hz") as error:
        track_table(songs, ("train",))
    assert "samples" not in str(error.value)


def test_unreadable_file_is_named(songs):
    (songs / "train" / "song-1" / "bass.wav").write_bytes(b"no audio at all")
    with pytest.raises(DataError, match="bass.wav .* cannot be read as audio"):
        track_table(songs, ("train",))


def test_two_files_of_one_stem(songs):
    soundfile.write(songs / "train" / "song-1" / "bass.flac", np.zeros((2 * RATE, 2)), RATE)
    with pytest.raises(DataError, match="two files for 'bass': bass.flac and bass.wav"):
        track_table(songs, ("train",))


# --- validation


def test_official_validation_tracks_are_those_of_the_musdb_package():
    import importlib.util
    from pathlib import Path

    import yaml

    # found, not imported: importing musdb needs FFmpeg
    folder = Path(importlib.util.find_spec("musdb").origin).parent
    listed = yaml.safe_load((folder / "configs" / "mus.yaml").read_text())["validation_tracks"]
    assert sorted(MUSDB_VALIDATION_TRACKS) == sorted(listed)


def test_official_validation_tracks_are_held_out(songs):
    write_song(songs / "train" / MUSDB_VALIDATION_TRACKS[0], seed=5)
    train, valid = split_validation(tracks_in(songs), DataSpec())
    assert [t.name for t in valid] == [MUSDB_VALIDATION_TRACKS[0]]
    assert len(train) == 3


def test_validation_by_name_by_folder_and_by_share(songs):
    tracks = tracks_in(songs)
    train, valid = split_validation(tracks, DataSpec(validation_tracks=("*-1",)))
    assert ([t.name for t in train], [t.name for t in valid]) == (["song-0", "song-2"], ["song-1"])
    _, valid = split_validation(tracks, DataSpec(validation_share=0.34))
    assert len(valid) == 1
    write_song(songs / "valid" / "held-out", seed=6)
    train, valid = split_validation(tracks_in(songs, ("train", "valid")), DataSpec())
    assert ([t.name for t in valid], len(train)) == (["held-out"], 3)


def test_share_does_not_move_when_a_song_is_added(songs):
    before = {t.name for t in split_validation(tracks_in(songs), DataSpec(validation_share=0.34))[1]}
    write_song(songs / "train" / "song-new", seed=7)
    after = {t.name for t in split_validation(tracks_in(songs), DataSpec(validation_share=0.25))[1]}
    assert after in (before, {"song-new"})


def test_validation_errors(songs):
    with pytest.raises(DataError, match=r"validation_tracks: of 3 tracks none is called 'none-\*'"):
        split_validation(tracks_in(songs), DataSpec(validation_tracks=("none-*",)))
    with pytest.raises(DataError, match="none is left to train on"):
        split_validation(tracks_in(songs), DataSpec(validation_tracks=("*",)))


def test_a_name_in_two_splits_is_two_tracks(songs):
    write_song(songs / "valid" / "song-0", seed=9)
    train, validation = split_validation(tracks_in(songs, ("train", "valid")), DataSpec())
    assert [t.name for t in train] == ["song-0", "song-1", "song-2"]
    assert [(t.split, t.name) for t in validation] == [("valid", "song-0")]
    with pytest.raises(DataError, match="there is no track to train on"):
        split_validation(validation, DataSpec())


def test_each_validation_track_that_is_named_is_there(songs):
    (songs / "train" / "song-1").rename(songs / "train" / "[x] {y}")
    tracks = tracks_in(songs)
    assert [t.name for t in split_validation(tracks, DataSpec(validation_tracks=("[x] {y}",)))[1]] == ["[x] {y}"]
    with pytest.raises(DataError, match=r"none is called 'sing-2' \(song-2\?\)"):
        split_validation(tracks, DataSpec(validation_tracks=("song-2", "sing-2")))


def test_any_new_writing_of_a_file_is_known(songs, tmp_path):
    """What is kept on this machine is told apart by it; the fingerprint, which follows the data, is of pieces."""
    before = tracks_in(songs)
    samples, rate = soundfile.read(songs / "train" / "song-0" / "bass.wav", dtype="int16")
    samples[len(samples) // 3] += 1
    soundfile.write(songs / "train" / "song-0" / "bass.wav", samples, rate)
    after = tracks_in(songs)
    assert [a.written == b.written for a, b in zip(after, before, strict=True)] == [False, True, True]
    assert last_written(after) != last_written(before)
    songs.rename(tmp_path / "elsewhere")
    assert tracks_in(tmp_path / "elsewhere")[0].written == after[0].written


def test_pieces_of_a_fingerprint_are_from_all_over_a_file(songs):
    path = songs / "train" / "song-0" / "bass.wav"
    keys = {content_key([path])}
    size = path.stat().st_size
    for place in (100, size // 4, size // 2, 3 * size // 4, size - 1):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        keys.add(content_key([path]))
    assert len(keys) == 6


def test_table_survives_json(songs):
    assert json.loads(track_table(songs, ("train",))["files"][0])["bass"][0]["name"] == "bass.wav"


# --- reading


def made_track(folder, n_samples, n_channels, **files):
    return Track("a", "train", str(folder), n_samples, RATE, n_channels, files, "")


def test_a_stem_is_the_sum_of_its_files_from_where_each_begins(tmp_path):
    """Files of other lengths and channels, one of them a piece; every part read as the whole would be."""
    random = np.random.default_rng(0)
    long, mono = random.uniform(-0.4, 0.4, (2, 100)), random.uniform(-0.4, 0.4, (1, 60))
    soundfile.write(tmp_path / "long.wav", long.T, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", mono.T, RATE, subtype="FLOAT")
    files = (StemFile("long.wav", 100), StemFile(str(tmp_path / "mono.wav"), 40, start=20))
    track = made_track(tmp_path, 100, 2, drums=files)
    expected = long.copy()
    expected[:, :40] += mono[:, 20:]
    assert np.allclose(read_stem(track, "drums"), expected, atol=1e-7)
    for start, n_samples in ((0, 100), (10, 20), (30, 30), (50, 50), (99, 1)):
        piece = read_stem(track, "drums", start, n_samples)
        assert np.allclose(piece, expected[:, start : start + n_samples], atol=1e-7)
    tail = made_track(tmp_path, 100, 2, drums=files[1:])
    assert not read_stem(tail, "drums", 40, 60).any()
    assert tracks_of(table_of([track])) == [track]


def test_stems_apart_hold_every_file_once():
    def apart(**files):
        return made_track(
            "", 1, 1, **{stem: tuple(StemFile(f, 1) for f in names) for stem, names in files.items()}
        ).apart

    assert apart(drums=["d"], guitars=["a", "e"], acoustic=["a"], electric=["e"]) == ["drums", "acoustic", "electric"]
    assert apart(vocals=["v", "c"], choir=["c"], drums=["d"]) == ["vocals", "drums"]  # vocals: [vocals, choir]
    assert apart(kit=["k", "s"], drums=["k", "s"]) == ["kit"]  # one is the other by another name
    assert apart(all=["v", "c", "d"], vocals=["v", "c"], choir=["c"]) == ["all"]


def test_reading_beyond_a_track(songs):
    track = tracks_in(songs)[0]
    assert torch.equal(read_stem(track, "bass"), read_audio(track.path("bass"))[0])
    for start, n_samples in ((-1, 5), (0, 0), (2 * RATE - 1, 2)):
        with pytest.raises(DataError, match=rf"song-0 has 16000 samples; samples {start} to"):
            read_stem(track, "bass", start, n_samples)
