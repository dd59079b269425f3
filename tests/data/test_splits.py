"""What is held out: the run's own split, and validation of targets that only solos have."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.data.scan import scan
from refined_bsrnn.data.splits import MUSDB_VALIDATION_TRACKS, scan_split, split_tracks
from refined_bsrnn.data.tracks import read_stem
from refined_bsrnn.data.training_data import training_data
from refined_bsrnn.errors import DataError
from refined_bsrnn.evaluation.evaluate import evaluate
from refined_bsrnn.training.train import train
from tests.conftest import RATE, micro_recipe, write_song, write_songs


def names(found):
    return {track.name for track in found.usable()}


def own_split(recipe):
    data = training_data(recipe)
    return {track.name for track in data.parts.tracks}, {track.name for track in data.validation}


def assert_is_own_split(recipe):
    train, validation = own_split(recipe)
    assert (names(scan_split(recipe, "train")), names(scan_split(recipe, "valid"))) == (train, validation)
    assert train and validation and not train & validation  # noqa: PT018


def test_own_split_of_named_tracks(songs):
    recipe = micro_recipe(songs)  # data.validation_tracks=[song-0]
    assert names(scan_split(recipe, "valid")) == {"song-0"}
    assert_is_own_split(recipe)
    assert scan_split(recipe, "valid").notes[-1] == "valid: the 1 of 3 tracks that the run keeps for validation."
    assert names(scan_split(recipe, "test")) == {"song-0"}


def test_own_split_of_musdb18hq_is_the_official_one(tmp_path):
    for i, name in enumerate([*MUSDB_VALIDATION_TRACKS[:2], "Another - Song"]):
        write_song(tmp_path / "train" / name, i)
    recipe = micro_recipe(tmp_path, data={"root": str(tmp_path)})
    assert names(scan_split(recipe, "valid")) == {*MUSDB_VALIDATION_TRACKS[:2]}
    assert_is_own_split(recipe)


def test_own_split_of_a_flat_folder_and_of_a_manifest(tmp_path):
    lines = ["track,stem,path"]
    for i in range(7):
        write_song(tmp_path / "flat" / f"song-{i}", i)
        lines += [f"song-{i},{stem},flat/song-{i}/{stem}.wav" for stem in ("vocals", "drums", "mixture")]
    (tmp_path / "songs.csv").write_text("\n".join(lines) + "\n")
    held_out = []
    for root in ("flat", "songs.csv"):
        recipe = micro_recipe(tmp_path, data={"root": str(tmp_path / root)})
        assert_is_own_split(recipe)
        held_out.append(names(scan_split(recipe, "valid")))
    assert held_out[0] == held_out[1]
    used = micro_recipe(tmp_path, data={"root": str(tmp_path / "flat"), "use_tracks": 2})
    assert len(names(scan_split(used, "train"))) == 2
    assert_is_own_split(used)


def test_a_split_of_other_data_than_the_recipes(songs, tmp_path):
    other = write_songs(tmp_path / "other", train=2)
    write_song(other / "valid" / "heard", 5)
    recipe = micro_recipe(songs, data={"root": str(songs), "validation_tracks": ["song-2", "no such song"]})
    assert names(scan_split(recipe, "valid", str(other))) == {"heard"}
    assert names(scan_split(recipe, "train", str(other))) == {"song-0", "song-1"}
    for split in ("train", "test"):
        for path in sorted((other / split).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (other / split).rmdir()
    found = scan_split(recipe, "valid", str(other))
    assert (names(found), found.notes[-1]) == ({"heard"}, "valid: 1 tracks; there is no split to train on.")


def test_nothing_is_kept_for_validation(songs):
    recipe = micro_recipe(songs, data={"root": str(songs), "validation_share": 0.0})
    with pytest.raises(DataError, match="the recipe keeps none of 3 tracks for validation; data.validation_tracks or"):
        scan_split(recipe, "valid")


# --- targets that only solos have


@pytest.fixture
def with_solos(tmp_path):
    """Four songs of 2 s, song-0 of which is validated on, and four tabla solos of 1 s."""
    root = write_songs(tmp_path / "songs", train=4, test=0)
    for i in range(4):
        folder = root / "train" / f"tabla-{i}"
        folder.mkdir()
        samples = np.random.default_rng(i).integers(-3000, 3000, (RATE, 2)).astype(np.int16)
        soundfile.write(folder / "tabla.wav", samples, RATE)
    return root


def test_held_out_solos_are_mixed_with_validation_songs(with_solos):
    recipe = micro_recipe(with_solos, targets=["vocals", "tabla"])
    tracks = scan(recipe.data, ("train", "valid")).usable()
    divided = split_tracks(tracks, recipe.targets, replace(recipe.data, validation_tracks=("song-0", "tabla-2")))
    [mix] = divided.solos.mixtures
    song, solo = (next(t for t in tracks if t.name == name) for name in ("song-0", "tabla-2"))
    assert (mix.name, mix.n_samples, mix.stems) == ("song-0 + tabla-2", RATE, ["tabla"])
    assert torch.equal(read_stem(mix, "tabla"), read_stem(solo, "tabla"))
    middle = read_stem(song, "mixture", RATE // 2, RATE)
    assert torch.allclose(read_stem(mix, "mixture"), middle + read_stem(solo, "tabla"), atol=1e-7)
    assert divided.held_out == [*divided.validation, mix]
    assert {t.name for t in divided.train} == {"song-1", "song-2", "song-3", "tabla-0", "tabla-1", "tabla-3"}


def test_solos_are_held_out_by_their_names_and_never_trained_on(with_solos):
    recipe = micro_recipe(with_solos, targets=["tabla"], data={"root": str(with_solos), "validation_share": 0.25})
    data = training_data(recipe)
    [mix] = [track for track in data.validation if "tabla" in track.files]
    song, solo = mix.name.split(" + ")
    trained = {track.name for track in data.parts.tracks}
    assert solo not in trained
    assert song not in trained
    assert len([name for name in trained if name.startswith("tabla")]) == 3
    assert any("tabla: no song has it; 1 of its solos are held out and mixed with" in line for line in data.opening)
    again = training_data(recipe)
    assert [t.name for t in again.validation] == [t.name for t in data.validation]
    assert mix.name in names(scan_split(recipe, "valid"))


def test_a_run_validates_a_target_that_only_solos_have(with_solos):
    data = {"root": str(with_solos), "validation_share": 0.25}
    run, _ = train(micro_recipe(with_solos, targets=["tabla"], data=data))
    scores = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    values = [line["validation/tabla/usdr"] for line in scores if "validation/tabla/usdr" in line]
    assert values
    assert np.isfinite(values).all()
    [row] = [row for row in evaluate(run, split="valid")["tracks"] if "tabla" in row["targets"]]
    assert " + tabla-" in row["track"]


def pools(root, rate=RATE, **n_tracks):
    for name, n in n_tracks.items():
        for i in range(n):
            folder = root / "train" / f"{name}-{i}"
            folder.mkdir(parents=True)
            seed = sum(map(ord, name)) + i
            samples = np.random.default_rng(seed).integers(-3000, 3000, (RATE + 100 * i, 2)).astype(np.int16)
            soundfile.write(folder / f"{name}.wav", samples, rate)
    return root


@pytest.mark.parametrize(
    ("given", "targets", "expected"),
    [
        ({"vocals": 4, "other": 2}, ["vocals"], [{"vocals", "other"}]),
        ({"vocals": 4, "guitar": 2, "other": 2}, ["vocals", "guitar"], [{"vocals", "guitar", "other"}]),
        ({"vocals": 3, "drums": 3, "instrumental": 3}, ["vocals"], [{"vocals", "instrumental"}]),
        ({"drums": 2, "bass": 2, "vocals": 2, "instrumental": 2}, ["drums"], [{"drums", "bass"}]),
        ({"vocals": 3, "drums": 3, "bass": 3}, ["vocals", "drums"], [{"vocals", "drums", "bass"}]),
    ],
)
def test_pools_of_solos_are_validated_as_mixtures(tmp_path, given, targets, expected):
    """Which sources can stand beside each other: nothing that an instrumental may hold is mixed with it."""
    recipe = micro_recipe(pools(tmp_path, **given), targets=targets, data={"root": str(tmp_path)})
    divided = split_tracks(scan(recipe.data, ("train", "valid")).usable(), targets, recipe.data)
    mixed = [set(mix.stems) for mix in divided.held_out if set(mix.stems) & set(targets)]
    assert [group for i, group in enumerate(mixed) if group not in mixed[:i]] == expected
    trained = {track.name for track in divided.train}
    for mix in divided.held_out:
        assert not trained & set(mix.name.split(" + "))
        whole = sum(read_stem(mix, stem) for stem in mix.stems)
        assert torch.allclose(read_stem(mix, "mixture"), whole, atol=1e-6)
        assert all(read_stem(mix, stem).abs().max() > 0.05 for stem in mix.stems)
    assert "solos alone" in divided.solos.notes[0]


def test_pools_that_give_no_validation(tmp_path):
    recipe = micro_recipe(None, targets=["vocals"], data={"root": str(pools(tmp_path / "one", vocals=3))})
    divided = split_tracks(scan(recipe.data, ("train", "valid")).usable(), ["vocals"], recipe.data)
    assert divided.solos.notes == [
        "no solos are held out that could be mixed with each other: validation means little."
    ]
    root = pools(tmp_path / "two", vocals=2, drums=2, instrumental=1)
    recipe = micro_recipe(root, targets=["vocals", "drums"], data={"root": str(root)})
    divided = split_tracks(scan(recipe.data, ("train", "valid")).usable(), ["vocals", "drums"], recipe.data)
    assert {frozenset(mix.stems) for mix in divided.held_out} == {frozenset({"vocals", "drums"})}
    other_rate = [replace(t, sample_rate_hz=44100) if "drums" in t.files else t for t in divided.train]
    assert "validation means little" in split_tracks(other_rate, ["vocals"], recipe.data).solos.notes[0]


def test_a_run_of_pools_is_validated(tmp_path):
    root = pools(tmp_path / "pools", vocals=3, drums=3)
    run, _ = train(micro_recipe(root, targets=["vocals", "drums"], data={"root": str(root)}))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    values = [line["validation/usdr"] for line in lines if "validation/usdr" in line]
    assert values
    assert max(values) < 60  # of a stem alone it would be without bound, or that of silence


def test_why_a_solos_target_is_not_validated(with_solos):
    recipe = micro_recipe(with_solos, targets=["vocals", "tabla"])
    tracks = scan(recipe.data, ("train", "valid")).usable()

    def notes(tracks, **values):
        return split_tracks(tracks, recipe.targets, replace(recipe.data, validation_tracks=(), **values)).solos.notes

    one = [track for track in tracks if not track.name.startswith("tabla") or track.name == "tabla-1"]
    assert "none of its 1 solos is held out" in notes(one)[0]
    assert notes(tracks, absent=()) == []  # songs may hold a tabla
    other_rate = [replace(t, sample_rate_hz=44100) if t.is_solo else t for t in tracks]
    assert "its solos are at 44100 Hz and no validation song is" in notes(other_rate, validation_share=0.3)[0]
    assert "none of its 4 solos is held out" in notes(tracks, validation_share=0.0)[0]
    assert split_tracks(tracks, recipe.targets, replace(recipe.data, validation_share=0.0)).solos.mixtures == []
