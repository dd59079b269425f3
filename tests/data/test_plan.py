"""Plans of examples, and the user's own recordings in them."""

import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.audio import read_audio
from refined_bsrnn.data.augment import reverb
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.recordings import impulse_response
from refined_bsrnn.data.render import render
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_data import training_data
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.errors import DataError, RecipeError
from refined_bsrnn.recipe import make_recipe
from tests.conftest import RATE, micro_recipe

LENGTH = RATE // 4


def mixes_of(root, n_examples=20, **values):
    recipe = micro_recipe(root, **values)
    return RandomMixes(
        make_parts(tracks_of(track_table(root, ["train"])), recipe.targets, recipe.data), recipe, n_examples
    )


def test_a_plan_reads_no_audio_and_says_what_is_rendered(songs):
    mixes = mixes_of(songs, augment={"preset": "none"})
    stored = {name: read_audio(songs / "train" / name / "mixture.wav")[0] for name in ("song-0", "song-1", "song-2")}
    example = mixes[4]
    shutil.rmtree(songs / "train")
    plan = mixes.plan(4)
    [excerpt] = plan.excerpts
    track = excerpt.song.track
    assert torch.allclose(example["mixture"], stored[track.name][:, excerpt.start : excerpt.start + LENGTH], atol=1e-6)
    seconds = f"{excerpt.start / RATE:.1f}"
    assert str(plan) == (f"{track.name} at {seconds} s (vocals, drums, bass, other); vocals = vocals; drums = drums")


def test_a_plan_is_a_function_of_seed_and_number(songs):
    def plans(seed):
        return [str(mixes_of(songs, train={"seed": seed}).plan(i)) for i in range(5)]

    assert plans(0) == plans(0)
    assert plans(0) != plans(1)
    assert len(set(plans(0))) > 1


def test_an_example_is_its_rendered_plan(songs):
    mixes = mixes_of(songs, augment={"preset": "paper", "silent_target": 0.5})
    assert any("(silent)" in str(mixes.plan(i)) for i in range(20))
    for i in range(5):
        rendered = render(mixes.plan(i), mixes.planner.format)
        assert all(torch.equal(rendered[name], value) for name, value in mixes[i].items())


# --- own noise


@pytest.fixture
def noise_folder(tmp_path):
    """Two recordings, one of them below a folder, mono and at another rate."""
    random = np.random.default_rng(9)
    folder = tmp_path / "noise"
    (folder / "street").mkdir(parents=True)
    soundfile.write(folder / "hum.wav", 0.3 * random.standard_normal((3 * RATE, 2)).clip(-3, 3) / 3, RATE)
    soundfile.write(folder / "street" / "cars.flac", random.uniform(-0.1, 0.1, 2 * RATE), 2 * RATE)
    (folder / "notes.txt").write_text("x")
    return folder


def test_own_noise_is_added_to_the_mixture_at_its_level_and_to_no_target(songs, noise_folder):
    augment = {"noise": str(noise_folder), "noise_db": [-20, -5]}
    plain, noisy = mixes_of(songs), mixes_of(songs, augment=augment)
    levels, names = [], set()
    for i in range(20):
        without, with_noise, plan = plain[i], noisy[i], noisy.plan(i)
        assert torch.equal(without["stems"], with_noise["stems"])
        added = (with_noise["mixture"] - without["mixture"]).double()
        if plan.noise is None:
            assert not added.any()
            continue
        level_db = 20 * np.log10(float(added.square().mean() / without["mixture"].double().square().mean()) ** 0.5)
        assert level_db == pytest.approx(plan.noise_db, abs=0.01)
        assert f"noise {plan.noise} at {plan.noise_db:.1f} dB" in str(plan)
        levels.append(level_db)
        names.add(plan.noise.song.track.name)
    assert 5 <= len(levels) <= 15  # half of them
    assert min(levels) >= -20
    assert max(levels) <= -5
    assert names == {"hum.wav", "street/cars.flac"}


def test_noise_is_what_the_file_holds_at_its_place(songs, noise_folder):
    (noise_folder / "street" / "cars.flac").unlink()
    noisy, plain = mixes_of(songs, augment={"noise": str(noise_folder)}), mixes_of(songs)
    i = next(i for i in range(20) if noisy.plan(i).noise)
    start = noisy.plan(i).noise.start
    stored = read_audio(noise_folder / "hum.wav")[0][:, start : start + LENGTH]
    added = noisy[i]["mixture"] - plain[i]["mixture"]
    gain = float((added * stored).sum() / stored.square().sum())
    assert torch.allclose(added, gain * stored, atol=1e-5)


def test_training_says_and_records_its_noise(songs, noise_folder):
    plain = training_data(micro_recipe(songs))
    data = training_data(micro_recipe(songs, augment={"noise": str(noise_folder)}))
    assert any(
        "augment.noise: 2 recordings (0.1 min)" in line and "50% of the examples, at -30 to -10 dB" in line
        for line in data.opening
    )
    assert data.describe()["fingerprint"] != plain.describe()["fingerprint"]


def test_noise_that_is_not_there(songs, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("nowhere", "is no folder"), ("empty", "holds no audio file")):
        with pytest.raises(DataError, match=rf"augment.noise_folder is '.*{folder}', which {message}"):
            mixes_of(songs, augment={"noise": str(tmp_path / folder)})
    (tmp_path / "empty" / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"bad.wav"):
        mixes_of(songs, augment={"noise": str(tmp_path / "empty")})


def test_folders_and_numbers_of_noise_and_reverb_in_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = make_recipe({"targets": ["drums"], "augment": {"noise": "~/noise"}}, ["augment.reverb=/rooms"])
    assert (recipe.augment.noise, recipe.augment.noise_folder) == (0.5, str(tmp_path / "noise"))
    assert (recipe.augment.reverb, recipe.augment.reverb_folder) == (0.5, "/rooms")
    recipe = make_recipe({"targets": ["drums"]}, ["augment.noise=/noise", "augment.noise=2e-1", "augment.reverb=0.3"])
    assert (recipe.augment.noise, recipe.augment.noise_folder, recipe.augment.reverb) == (0.2, "/noise", 0.3)
    assert make_recipe({"targets": ["drums"]}, ["augment.noise=/noise", "augment.noise=off"]).augment.noise == 0
    with pytest.raises(RecipeError, match="augment.noise is 0.5 without recordings; expected a folder of them"):
        make_recipe({"targets": ["drums"], "augment": {"noise": 0.5}})


# --- own impulse responses


def test_an_own_impulse_response_starts_at_its_loudest_sample_and_keeps_the_level(tmp_path):
    response = np.zeros(400)
    response[50], response[150] = 0.5, 0.25
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32))
    expected = sound.clone()
    expected[:, 100:] += 0.5 * sound[:, :-100]
    expected /= 1.25**0.5
    assert torch.allclose(reverb(sound, tmp_path / "room.wav", RATE), expected, atol=1e-5)
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match="silent.wav is silent; expected the impulse response of a room"):
        impulse_response(tmp_path / "silent.wav", RATE)


def test_examples_with_own_impulse_responses(songs, tmp_path):
    folder = tmp_path / "rooms"
    folder.mkdir()
    for i in range(2):
        response = np.random.default_rng(i).standard_normal((800, 2)) * np.exp(-np.arange(800) / 100)[:, None] / 10
        soundfile.write(folder / f"room-{i}.wav", response, RATE)
    augment = {"preset": "none", "reverb": str(folder)}
    mixes = mixes_of(songs, augment=augment, targets=["vocals", "drums", "bass", "other"])
    rooms = {
        settings["reverb"].name
        for i in range(20)
        for excerpt in mixes.plan(i).excerpts
        for settings in excerpt.parts.values()
        if "reverb" in settings
    }
    assert rooms == {"room-0.wav", "room-1.wav"}
    example = mixes[0]
    assert torch.allclose(example["mixture"], example["stems"].sum(0), atol=1e-5)
    recipe = micro_recipe(songs, augment=augment)
    opening = training_data(recipe).opening
    assert any(re.search(r"2 impulse responses of .*rooms, for 50% of the parts", line) for line in opening)
    impulse_response.cache_clear()
    soundfile.write(folder / "room-1.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match="room-1.wav is silent"):
        training_data(recipe)
