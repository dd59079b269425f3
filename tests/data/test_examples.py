"""From tracks to training examples."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.audio import resample
from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.names import REST
from refined_bsrnn.data.parts import read_part
from refined_bsrnn.data.plan import Format
from refined_bsrnn.data.render import read_piece
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import tracks_of, with_definitions
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.errors import DataError
from refined_bsrnn.recipe import DataSpec
from tests.conftest import RATE, STEMS, micro_recipe, write_song, write_songs


def tracks_in(root, splits=("train",)):
    return tracks_of(track_table(root, splits))


# --- parts


def test_parts_of_the_four_and_of_a_fifth(songs, tmp_path):
    assert make_parts(tracks_in(songs), ["drums"], DataSpec()).names == ("vocals", "drums", "bass", "other")
    root = write_songs(tmp_path / "more", stems=(*STEMS, "guitar"))
    spec = DataSpec(stems=("guitar", "drums"))
    assert make_parts(tracks_in(root), ["guitar"], spec).names == ("guitar", "drums")


def test_whether_a_fifth_stem_is_a_part_of_other_is_heard_not_guessed(songs, tmp_path):
    neighbour = write_songs(tmp_path / "beside", stems=(*STEMS, "guitar"))  # the mixture is the sum of all five
    assert make_parts(tracks_in(neighbour), ["drums"], DataSpec()).names == (
        "bass",
        "drums",
        "guitar",
        "other",
        "vocals",
    )
    for folder in (songs / "train").iterdir():  # the mixture is the sum of the four; the guitar is all of `other`
        shutil.copy(folder / "other.wav", folder / "guitar.wav")
    assert make_parts(tracks_in(songs), ["drums"], DataSpec()).names == ("vocals", "drums", "bass", "other")
    parts = make_parts(tracks_in(songs), ["guitar"], DataSpec())
    assert parts.names == ("bass", "drums", "guitar", "vocals")
    assert "3 tracks: other is the sum of their guitar and is drawn as these" in parts.notes[0]
    for folder in (songs / "train").iterdir():  # something else is in `other`, too
        samples, rate = soundfile.read(folder / "other.wav", dtype="int16")
        soundfile.write(folder / "guitar.wav", samples // 2, rate)
    assert make_parts(tracks_in(songs), ["guitar"], DataSpec()).names == ("guitar", REST)


def test_a_stem_that_no_track_has(songs):
    with pytest.raises(DataError, match="no track has a stem 'vocal'. Did you mean 'vocals'.*bass, drums"):
        make_parts(tracks_in(songs), ["vocal"], DataSpec())
    with pytest.raises(DataError, match="'drums' is not among data.stems"):
        make_parts(tracks_in(songs), ["drums"], DataSpec(stems=("vocals", "bass")))


def test_missing_stem_is_skipped_silent_or_refused_and_always_told(songs):
    write_song(songs / "train" / "with-guitar", seed=8, stems=(*STEMS, "guitar"))
    tracks = tracks_in(songs)
    for spec in (DataSpec(), DataSpec(missing_stem="skip")):
        parts = make_parts(tracks, ["guitar"], spec)
        assert [t.name for t in parts.tracks] == ["with-guitar"]
        assert "3 of 4 tracks lack a stem and are left out (song-0: guitar" in parts.notes[0]
    parts = make_parts(tracks, ["guitar", "drums"], DataSpec())
    assert len(parts.tracks) == 4
    assert "3 of 4 tracks lack a stem, and count for those that they have (song-0: guitar" in parts.notes[0]
    assert [t.name for t in make_parts(tracks, ["guitar", "drums"], spec).tracks] == ["with-guitar"]
    parts = make_parts(tracks, ["guitar"], DataSpec(missing_stem="silent"))
    assert len(parts.tracks) == 4
    assert "taken as silence" in parts.notes[0]
    assert not read_part(tracks[0], "guitar", ["guitar"]).any()
    with pytest.raises(
        DataError, match="3 of 4 tracks lack a stem .*missing_stem=mask trains on what they have, =skip"
    ):
        make_parts(tracks, ["guitar"], DataSpec(missing_stem="error"))


def test_a_defined_target_is_drawn_as_the_stems_it_sums(songs):
    spec = DataSpec(define={"accompaniment": ("drums", "bass", "other"), "singing": "vocals"})
    tracks = [with_definitions(t, spec) for t in tracks_in(songs)]
    parts = make_parts(tracks, ["singing", "accompaniment", "drums"], spec)
    assert parts.names == STEMS
    assert parts.songs[0].target_parts == {"singing": ("vocals",), "accompaniment": STEMS[1:], "drums": ("drums",)}
    values = {"define": {**spec.define, "accompaniment": list(STEMS[1:])}, "root": str(songs)}
    recipe = micro_recipe(None, targets=["singing", "accompaniment", "drums"], data=values)
    example = RandomMixes(parts, recipe, 3)[2]
    assert torch.allclose(example["stems"][:2].sum(0), example["mixture"], atol=1e-6)
    assert not torch.allclose(example["stems"][1], example["stems"][2])
    _, stems, _ = load_track(tracks[0], ["accompaniment"])
    assert torch.allclose(stems["accompaniment"], sum(read_part(tracks[0], s, []) for s in STEMS[1:]), atol=1e-6)


def test_a_definition_is_the_sum_of_what_a_track_has_of_it(songs):
    write_song(songs / "train" / "electric", seed=8, stems=(*STEMS, "electric_guitar"))
    write_song(songs / "train" / "both", seed=9, stems=(*STEMS, "electric_guitar", "acoustic_guitar"))
    spec = DataSpec(define={"guitar": ("acoustic_guitar", "electric_guitar")})
    tracks = [with_definitions(t, spec) for t in tracks_in(songs)]
    both, electric = make_parts(tracks, ["guitar"], spec).songs  # the others have none
    assert both.target_parts == {"guitar": ("acoustic_guitar", "electric_guitar")}
    assert electric.target_parts == {"guitar": ("electric_guitar",)}
    assert set(electric.parts) == {*STEMS, "electric_guitar"}
    for track in tracks:  # with another mixture the stems do not sum to it
        shutil.copy(track.path("drums"), track.path("mixture"))
    both, electric = make_parts(tracks, ["guitar"], spec).songs
    assert both.parts == electric.parts == ("guitar", REST)
    both, electric = make_parts(tracks, ["guitar", "electric_guitar"], spec).songs  # one holds the other
    assert both.parts == ("acoustic_guitar", "electric_guitar", REST)
    assert both.target_parts["guitar"] == ("acoustic_guitar", "electric_guitar")


def test_a_definition_that_takes_up_a_stem_of_its_own_name(songs):
    write_song(songs / "train" / "five", seed=8, stems=(*STEMS, "guitar"))
    spec = DataSpec(define={"other": ("other", "guitar")})
    tracks = [with_definitions(t, spec) for t in tracks_in(songs)]
    song = make_parts([t for t in tracks if t.name == "five"], ["other"], spec).songs[0]
    assert sorted(song.parts) == sorted(STEMS)
    whole = sum(song.read(part) for part in song.parts)
    assert torch.allclose(whole, read_part(song.track, "mixture", ()), atol=1e-6)


def test_tracks_are_drawn_by_their_weights(songs):
    tracks = [replace(t, weight=8.0 if t.name == "song-2" else 1.0) for t in tracks_in(songs)]
    parts = make_parts(tracks, ["drums"], DataSpec())
    drawn = RandomMixes(parts, micro_recipe(songs), 1)
    random = np.random.default_rng(0)
    share = np.mean([parts.tracks[drawn.pools.leads.draw(random)].name == "song-2" for _ in range(2000)])
    assert share == pytest.approx(0.8, abs=0.04)


def test_no_mixture_to_take_the_rest_from(songs):
    for track in tracks_in(songs):
        track.path("mixture").unlink()
    with pytest.raises(
        DataError, match="the tracks that have 'drums' hold nothing else: there is nothing to separate it from. Give"
    ):
        make_parts(tracks_in(songs), ["drums"], DataSpec(stems=("drums", REST)))


def test_rest_is_the_mixture_without_the_targets(songs):
    track = tracks_in(songs)[0]
    rest = read_part(track, REST, ["drums"], 100, 500)
    others = sum(read_part(track, name, [], 100, 500) for name in ("vocals", "bass", "other"))
    assert torch.allclose(rest, others, atol=1e-6)


# --- training examples


def mixes(root, n_examples=20, **values):
    recipe = micro_recipe(root, **values)
    return RandomMixes(make_parts(tracks_in(root), recipe.targets, recipe.data), recipe, n_examples)


def test_example_is_a_sum_of_gained_excerpts(songs):
    """Recomputed by hand from the files: every stem is a gained, maybe swapped piece of one song."""
    whole = {t.name: {s: read_part(t, s, []) for s in STEMS} for t in tracks_in(songs)}
    example = mixes(songs, augment={"gain_db": [-6, 6]})[3]
    assert example["mixture"].shape == (2, 2000)
    for stem, name in zip(example["stems"], ("vocals", "drums"), strict=True):
        assert any(is_gained_piece(stem, song[name], limit_db=6) for song in whole.values())


def is_gained_piece(piece, whole, limit_db):
    begin = piece[:, :200]  # enough to find the place
    for candidate in (whole, whole.flip(0)):
        windows = candidate[:, : candidate.shape[1] - piece.shape[1] + 200].unfold(1, 200, 1)  # (C, places, 200)
        gains = (windows * begin[:, None]).sum((0, 2)) / (windows**2).sum((0, 2))
        place = int(((windows * gains[None, :, None] - begin[:, None]) ** 2).sum((0, 2)).argmin())
        error = candidate[:, place : place + piece.shape[1]] * gains[place] - piece
        if (error**2).sum() < 1e-6 * (piece**2).sum():
            return abs(20 * np.log10(abs(float(gains[place])))) <= limit_db + 1e-3
    return False


def test_mixture_is_the_sum_of_all_parts(songs):
    example = mixes(songs, targets=list(STEMS))[0]
    assert torch.allclose(example["mixture"], example["stems"].sum(0), atol=1e-6)


def test_without_remix_a_mixture_is_a_piece_of_a_song(songs):
    example = mixes(songs, augment={"remix": 0, "gain_db": [0, 0], "channel_swap": 0})[1]
    assert any(is_gained_piece(example["mixture"], load_track(t, [])[0], 1e-3) for t in tracks_in(songs))


def test_an_example_depends_on_seed_and_index_alone(songs):
    one, other = mixes(songs), mixes(songs)
    assert all(torch.equal(one[7][key], other[7][key]) for key in one[7])
    assert not torch.equal(one[7]["mixture"], one[8]["mixture"])
    assert not torch.equal(one[7]["mixture"], mixes(songs, train={"seed": 1})[7]["mixture"])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(songs, workers):
    loader = torch.utils.data.DataLoader(mixes(songs, 6), batch_size=2, num_workers=workers)
    got = torch.cat([batch["mixture"] for batch in loader])
    assert torch.equal(got, torch.stack([mixes(songs)[i]["mixture"] for i in range(6)]))


def test_drop_silences_a_stem_and_short_songs_are_followed_by_silence(songs):
    assert not mixes(songs, augment={"drop": 1.0})[0]["mixture"].any()
    long = mixes(songs, train={"chunk_seconds": 3.0})[0]["mixture"]
    assert long.shape == (2, 3 * RATE)
    assert long[:, : 2 * RATE].any()
    assert not long[:, 2 * RATE :].any()


def test_mono_is_the_mean_of_the_channels(songs):
    options = {"augment": {"gain_db": [0, 0], "channel_swap": 0}}
    mono = mixes(songs, data={"root": str(songs), "channels": 1}, **options)[2]["mixture"]
    stereo = mixes(songs, **options)[2]["mixture"]
    assert torch.allclose(mono, stereo.mean(0, keepdim=True), atol=1e-6)


def test_other_rates_are_resampled_in_place(tmp_path):
    root = tmp_path / "tone"
    t = np.arange(3 * 16000) / 16000
    folder = root / "train" / "a"
    folder.mkdir(parents=True)
    for name in (*STEMS, "mixture"):
        soundfile.write(
            folder / f"{name}.wav", np.stack([0.5 * np.sin(2 * np.pi * 440 * t)] * 2, 1), 16000, subtype="FLOAT"
        )
    example = mixes(root, augment={"gain_db": [0, 0]})[0]["stems"][0][0].double().numpy()
    n = np.arange(len(example)) / RATE
    basis = np.stack([np.sin(2 * np.pi * 440 * n), np.cos(2 * np.pi * 440 * n)], 1)
    weights, residual, *_ = np.linalg.lstsq(basis, example, rcond=None)
    assert len(example) == 2000
    assert np.hypot(*weights) == pytest.approx(0.5, abs=1e-3)
    assert residual[0] / len(example) < 1e-6  # a clean tone up to both ends


@pytest.mark.parametrize("start", [0, 100, 4000])
def test_a_piece_at_another_rate_is_that_piece_of_the_resampled_song(tmp_path, start):
    write_song(tmp_path / "train" / "a", seed=0, rate=4 * RATE)
    song = make_parts(tracks_in(tmp_path), ["drums"], DataSpec()).songs[0]
    whole = resample(song.read("drums", 0, song.track.n_samples), 4 * RATE, RATE)
    piece = read_piece(song, "drums", start, 500, Format(500, RATE, 2))
    assert (piece - whole[:, start // 4 :][:, :500]).abs().max() < 1e-3 * whole.abs().max()


# --- whole tracks


def test_whole_track_and_where_its_mixture_came_from(songs):
    track = tracks_in(songs, ("test",))[0]
    mixture, stems, source = load_track(track, ["drums", "flute"])
    assert (source, list(stems), mixture.shape) == ("file", ["drums"], (2, 2 * RATE))
    track.path("mixture").unlink()
    total, _, source = load_track(tracks_in(songs, ("test",))[0], ["drums"])
    assert source == "sum"
    assert torch.allclose(total, mixture, atol=1e-6)
