"""What mixtures are made of when tracks have different stems: no source twice, no missing one taken for silence."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.names import REST
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.errors import DataError
from refined_bsrnn.recipe import DataSpec
from refined_bsrnn.training.losses import JOINT_LOSSES
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import transfer, transfer_recipe
from tests.conftest import RATE, STEMS, micro_recipe, write_songs

# Every source is a tone of its own, so that what an excerpt holds can be read off its spectrum.
TONES_HZ = {"vocals": 400, "drums": 800, "bass": 1200, "guitar": 1600, "piano": 2000}
LENGTH = RATE // 4


def write_tones(folder, files, seed):
    """A track folder; ``files`` name → the sources that the file holds. Each source sounds alike in all files."""
    random = np.random.default_rng(seed)
    t = np.arange(RATE // 2) / RATE
    sources = {
        name: random.uniform(0.05, 0.15, 2) * np.sin(2 * np.pi * hz * t + random.uniform(0, 6, 1))[:, None]
        for name, hz in TONES_HZ.items()
    }
    folder.mkdir(parents=True)
    for name, held in files.items():
        samples = sum((sources[source] for source in held), np.zeros((len(t), 2)))
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")


def heard(audio):
    """(C, L) → the complex amplitude of every source: {name: (C,)}."""
    spectrum = torch.fft.rfft(audio.double()) * 2 / audio.shape[-1]
    return {name: spectrum[:, hz * audio.shape[-1] // RATE] for name, hz in TONES_HZ.items()}


@st.composite
def track_files(draw):
    """The files of a track as people have it: stems of some of what is in the mixture."""
    available = draw(st.sets(st.sampled_from(sorted(TONES_HZ)), min_size=2)) | {"guitar"}
    named = draw(st.sets(st.sampled_from(sorted(available)), min_size=1))
    files = {name: [name] for name in named}
    others = sorted(available - named)
    kind = draw(st.sampled_from(["stems", "mixture", "both", "inside", "single"]))
    if kind == "single":
        return dict([next(iter(files.items()))])
    if kind in ("stems", "both") and others:
        files["other"] = others
    if kind == "inside" and others:  # a named stem lies in `other` too, and the mixture holds it once
        files["other"] = [*others, sorted(named)[0]]
    if kind != "stems":
        files["mixture"] = sorted(available)
    return files


@given(st.lists(track_files(), min_size=3, max_size=7), st.sampled_from([0.0, 1.0, 1.0]), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_present_is_all_that_the_mixture_holds_of_it(tmp_path_factory, collection, remix, augmented):
    root = tmp_path_factory.mktemp("collection")
    for i, files in enumerate(collection):
        write_tones(root / "train" / f"song-{i}", files, seed=i)
    targets = ["guitar", "drums"]
    augment = {"remix": remix, "gain_db": [-6, 6], "channel_swap": 0.5, "polarity": 0.5}
    augment |= {"drop": 0.2, "silent_target": 0.2} if augmented else {}
    recipe = micro_recipe(root, targets=targets, augment=augment, data={"root": str(root), "absent": []})
    try:
        parts = make_parts(tracks_of(track_table(root, ["train"])), targets, recipe.data)
    except DataError:  # a target that nobody has, or has by itself alone
        assume(False)
    assert all(song.target_parts or song.is_other_solo for song in parts.songs)
    mixes = RandomMixes(parts, recipe, 12)
    for example in (mixes[i] for i in range(12)):
        whole = heard(example["mixture"])
        assert example["present"].any()
        for target, stem, present in zip(targets, example["stems"], example["present"], strict=True):
            own = heard(stem)
            assert all(own[name].abs().max() < 1e-5 for name in TONES_HZ if name != target)
            if present:
                assert torch.allclose(whole[target], own[target], atol=1e-5)
            else:
                assert not stem.any()


def test_kinds_of_tracks_and_their_parts(tmp_path):
    kinds = {
        "four": {**{name: [name] for name in ("vocals", "drums", "bass")}, "other": ["guitar", "piano"]},
        "five": {**{name: [name] for name in ("vocals", "drums", "bass", "guitar")}, "other": ["piano"]},
        "target": {"guitar": ["guitar"], "mixture": ["guitar", "drums", "vocals"]},
        "inside": {**{name: [name] for name in ("vocals", "drums", "bass", "guitar")}, "other": ["guitar", "piano"]},
        "solo": {"guitar": ["guitar"]},
        "nothing": {"vocals": ["vocals"], "mixture": ["vocals", "guitar"]},
    }
    for i, (name, files) in enumerate(kinds.items()):
        whole = {"mixture": sorted(TONES_HZ)} if name in ("four", "five", "inside") else {}
        write_tones(tmp_path / "train" / name, {**files, **whole}, seed=i)
    parts = make_parts(tracks_of(track_table(tmp_path, ["train"])), ["guitar", "drums"], DataSpec())
    by_name = {song.track.name: song for song in parts.songs}
    assert by_name.keys() == kinds.keys() - {"nothing"}
    assert by_name["four"].parts == STEMS
    assert by_name["four"].target_parts == {"drums": ("drums",)}  # its guitar is in the mixture all the same
    assert set(by_name["five"].parts) == {*STEMS, "guitar"}
    assert by_name["target"].parts == ("guitar", REST)
    assert by_name["inside"].parts == ("guitar", "drums", REST)
    assert by_name["solo"].parts == ("guitar",)
    messages = " ".join(parts.notes)
    assert "1 of 6 tracks lack a stem and are left out (nothing: guitar, drums)" in messages
    assert (
        "3 of 6 tracks lack a stem, and count for those that they have (four: guitar; solo: drums; target: dr"
        in messages
    )
    # who gives what to whom
    mixes = RandomMixes(parts, micro_recipe(tmp_path, targets=["guitar", "drums"]), 1)
    names = [song.track.name for song in parts.songs]

    def givers(part, lead):
        return {names[i] for i in mixes.pools.part(part, by_name[lead]).songs}

    assert givers("guitar", "target") == givers("guitar", "five") == {"five", "inside", "solo", "target"}
    assert givers(REST, "target") == {"inside", "target"}
    assert givers(REST, "inside") == {"inside"}
    assert givers("other", "five") == {"five"}  # that of `four` holds a guitar
    assert givers("other", "four") == {"four", "five"}
    assert givers("vocals", "four") == {"four", "five"}


def test_single_stems_are_mixed_to_each_other_even_without_remix(tmp_path):
    for i, name in enumerate(["drums", "vocals"]):
        write_tones(tmp_path / "train" / name, {name: [name]}, seed=i)
    recipe = micro_recipe(tmp_path, targets=["drums", "vocals"], augment={"preset": "none"})
    parts = make_parts(tracks_of(track_table(tmp_path, ["train"])), recipe.targets, recipe.data)
    example = RandomMixes(parts, recipe, 1)[0]
    assert example["present"].tolist() == [1, 1]
    assert {name for name, value in heard(example["mixture"]).items() if value.abs().max() > 0.01} == {
        "drums",
        "vocals",
    }


def test_mixtures_without_the_target_teach_silence_where_the_recipe_says_so(tmp_path):
    write_tones(tmp_path / "train" / "a", {"guitar": ["guitar"], "mixture": ["guitar", "vocals"]}, seed=0)
    write_tones(tmp_path / "train" / "b", {"mixture": ["drums", "bass"]}, seed=1)
    values = {"data": {"root": str(tmp_path), "missing_stem": "silent"}, "augment": {"remix": 0.5}}
    recipe = micro_recipe(tmp_path, targets=["guitar"], **values)
    parts = make_parts(tracks_of(track_table(tmp_path, ["train"])), recipe.targets, recipe.data)
    mixes = RandomMixes(parts, recipe, 200)
    examples = [mixes[i] for i in range(200)]
    assert all(example["present"].all() for example in examples)
    silent = [example for example in examples if not example["stems"].any()]
    assert 10 < len(silent) < 40  # of half of the examples a quarter: to the others the guitar of `a` is added
    assert all(example["mixture"].any() for example in silent)
    for example in examples:
        assert torch.allclose(heard(example["mixture"])["guitar"], heard(example["stems"][0])["guitar"], atol=1e-5)


def test_a_target_with_nothing_beside_it(tmp_path):
    write_tones(tmp_path / "train" / "a", {"guitar": ["guitar"]}, seed=0)
    write_tones(tmp_path / "train" / "b", {"vocals": ["vocals"], "mixture": ["vocals", "guitar"]}, seed=1)
    tracks = tracks_of(track_table(tmp_path, ["train"]))
    with pytest.raises(DataError, match="tracks that have 'guitar' hold nothing else: .* Give them a mixture or other"):
        make_parts(tracks, ["guitar", "vocals"], DataSpec(absent=()))
    with pytest.raises(DataError, match=r"data.absent=\[guitar\] says that tracks without it hold none"):
        make_parts(tracks, ["guitar"], DataSpec(absent=()))


# --- stems that count less


def stem_weights(tmp_path, text):
    path = tmp_path / "suspects.csv"
    path.write_text(text)
    return DataSpec(stem_weights=str(path))


def test_a_stem_of_weight_zero_is_neither_heard_nor_counted(songs, tmp_path):
    spec = stem_weights(
        tmp_path, "track,stem,weight,reason\nsong-1,drums,0,bleed\nsong-2,drums,0.5,\nsong-9,drums,0,\n"
    )
    tracks = tracks_of(track_table(songs, ["train"]))
    parts = make_parts(tracks, ["drums", "vocals"], spec)
    assert parts.songs[1].parts == ("vocals", "bass", "other")
    assert "1 training stems are left out and 1 count less; 1 of its lines name no stem of" in parts.notes[0]
    assert "(song-9 / drums)" in parts.notes[0]
    recipe = micro_recipe(songs, targets=["drums", "vocals"], augment={"preset": "none"})
    mixes = RandomMixes(parts, recipe, 30)
    seen = {tuple(mixes[i]["present"].tolist()) for i in range(30)}
    assert seen == {(1.0, 1.0), (0.5, 1.0), (0.0, 1.0)}
    remixed = RandomMixes(parts, micro_recipe(songs, targets=["drums", "vocals"]), 1)
    assert {int(i) for i in remixed.pools.part("drums", parts.songs[0]).songs} == {0, 2}


def test_in_a_remix_a_stem_counts_as_much_as_in_the_song_that_it_comes_from(songs, tmp_path):
    spec = stem_weights(tmp_path, "track,stem,weight\nsong-2,drums,0.5\n")
    parts = make_parts(tracks_of(track_table(songs, ["train"])), ["drums", "vocals"], spec)
    mixes = RandomMixes(parts, micro_recipe(songs, targets=["drums", "vocals"]), 30)
    seen = set()
    for plan in map(mixes.plan, range(30)):
        (name,) = (excerpt.song.track.name for excerpt in plan.excerpts if "drums" in excerpt.parts)
        seen.add((name, plan.label_weights["drums"], plan.label_weights["vocals"]))
    assert seen == {("song-0", 1.0, 1.0), ("song-1", 1.0, 1.0), ("song-2", 0.5, 1.0)}


def test_beside_the_rest_of_a_mixture_a_bad_stem_goes_into_the_rest(songs, tmp_path):
    spec = stem_weights(tmp_path, "track,stem\nsong-1,drums\n")
    spec = DataSpec(stem_weights=spec.stem_weights, stems=("drums", "vocals", REST))
    song = make_parts(tracks_of(track_table(songs, ["train"])), ["drums", "vocals"], spec).songs[1]
    assert (song.parts, song.subtracted, dict(song.target_parts)) == (
        ("vocals", REST),
        ("vocals",),
        {"vocals": ("vocals",)},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("track,stem,weight\nsong-1,drums,2\n", "line 2: the weight is '2'; expected a number from 0 to 1"),
        ("track,stem,weight\nsong-1,drums,much\n", "the weight is 'much'"),
        ("name,stem\nsong-1,drums\n", "has the columns name, stem; expected track, stem and weight"),
        (
            "track,stem,wieght\nsong-1,drums,0.5\n",
            "has the columns track, stem, wieght; expected track, stem and weight",
        ),
        ("track,stem\nsong-9,drums\n", "none of the 1 stems in .*suspects.csv .* its first is song-9 / drums"),
    ],
)
def test_what_is_wrong_with_a_file_of_weights(songs, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        make_parts(tracks_of(track_table(songs, ["train"])), ["drums"], stem_weights(tmp_path, text))


def test_a_file_of_weights_that_is_not_there(songs):
    with pytest.raises(DataError, match="stem_weights is nowhere.csv, which cannot be read: No such file"):
        make_parts(tracks_of(track_table(songs, ["train"])), ["drums"], DataSpec(stem_weights="nowhere.csv"))


# --- training on what there is


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def losses(run):
    return [line for line in lines(run) if "loss" in line]


def without(root: Path, *missing: tuple[str, str]) -> Path:
    for track, stem in missing:
        (root / "train" / track / f"{stem}.wav").unlink()
    return root


@pytest.mark.parametrize(
    "loss",
    [{}, {"weighting": "uncertainty", "wave_l1": 1.0}, {"wave_l1": 1.0, **dict.fromkeys(JOINT_LOSSES, 0.1)}],
)
def test_a_target_nobody_has_in_a_step_is_not_logged_and_not_trained(tmp_path, loss):
    root = without(write_songs(tmp_path / "songs", train=6), *((f"song-{i}", "drums") for i in range(1, 5)))
    run, _ = train(micro_recipe(root, loss=loss, augment={"remix": 0.0}, train={"steps": 12, "batch_size": 1}))
    logged = losses(run)
    has_drums = [any(key.startswith("drums/") for key in line) for line in logged]
    assert any(has_drums)
    assert not all(has_drums)
    assert all(np.isfinite(list(line.values())).all() for line in logged)
    assert not any(line.get("drums/wave_l1") == 0 for line in logged)


def test_transfer_from_target_and_mixture_alone_and_from_a_mix_of_both(tmp_path):
    root = write_songs(tmp_path / "songs", train=4, stems=(*STEMS, "guitar"))
    base, _ = train(micro_recipe(root))
    for track in (root / "train").iterdir():
        if track.name != "song-3":
            for stem in STEMS:
                (track / f"{stem}.wav").unlink()
    recipe = transfer_recipe(base, ["guitar"], "transfer", ["train.steps=3", "train.validate_every=3"])
    run, finished = transfer(recipe)
    assert finished
    assert len(losses(run)) >= 1
    facts = json.loads(run.provenance.read_text())["data"]
    assert facts["train_tracks"] == ["song-1", "song-2", "song-3"]
    assert set(facts["parts"]) == {"guitar", REST, *STEMS}


def test_validation_uses_the_targets_that_a_track_has(tmp_path):
    root = without(write_songs(tmp_path / "songs"), ("song-0", "drums"))
    run, _ = train(micro_recipe(root))
    scores = next(line for line in lines(run) if "validation/usdr" in line)
    assert "validation/vocals/usdr" in scores
    assert "validation/drums/usdr" not in scores
    track = tracks_of(track_table(root, ["train"]))[0]
    assert list(load_track(track, ["vocals", "drums"])[1]) == ["vocals"]
