"""Solos: tracks that are one stem alone. They are mixed into songs or to each other, or named as left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from refined_bsrnn.data.examples import RandomMixes
from refined_bsrnn.data.names import REST, belongs_to, is_catch_all, leaves_out, related
from refined_bsrnn.data.scan import scan, track_table
from refined_bsrnn.data.tracks import tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.errors import DataError, RecipeError
from refined_bsrnn.recipe import make_recipe
from tests.conftest import RATE, STEMS, micro_recipe
from tests.data.test_mixes import TONES_HZ, heard, write_tones

FOUR = {"vocals": ["vocals"], "drums": ["drums"], "bass": ["bass"], "other": ["piano"]}
SONG = {**FOUR, "mixture": ["vocals", "drums", "bass", "piano"]}
MIXTURE_ONLY = {"mixture": ["vocals", "drums", "piano"]}
VOCALS_AND_MIXTURE = {"vocals": ["vocals"], "mixture": ["vocals", "drums", "piano"]}


def solo(name, holds="guitar"):
    return {name: [holds]}


def write_tracks(root, tracks):
    for i, (name, files) in enumerate(tracks.items()):
        write_tones(root / "train" / name, files, seed=i)
    return tracks_of(track_table(root, ["train"]))


def made(root, tracks, targets, n_examples=400, augment=None, **data):
    """The examples of these tracks: {name: files}."""
    write_tracks(root, tracks)
    recipe = micro_recipe(root, targets=targets, augment=augment or {}, data={"root": str(root), **data})
    listed = scan(recipe.data, ["train"]).usable()
    return RandomMixes(make_parts(listed, targets, recipe.data), recipe, n_examples)


def read_tracks(mixes, n_examples=400):
    """How many of the examples read a file of each track."""
    counts = dict.fromkeys((track.name for track in mixes.parts.tracks), 0)
    for i in range(n_examples):
        for name in {path.parent.name for path, _, _ in mixes.reads(i)}:
            counts[name] += 1
    return counts


def several(number, name, files):
    return {f"{name}-{i}": files for i in range(number)}


SONGS = several(3, "song", SONG)
LAYOUTS = {
    "tabla": ({**SONGS, **several(3, "solo", solo("tabla"))}, ["tabla"], {}),
    "vocals and tabla": ({**SONGS, **several(3, "solo", solo("tabla"))}, ["vocals", "tabla"], {}),
    "mixtures alone": ({**several(3, "song", MIXTURE_ONLY), **several(3, "solo", solo("tabla"))}, ["tabla"], {}),
    "stems given": ({**SONGS, **several(3, "solo", solo("tabla"))}, ["tabla"], {"stems": list(STEMS)}),
    "stems given with it": (
        {**SONGS, **solos} if (solos := several(2, "s", solo("tabla"))) else {},
        ["tabla"],
        {"stems": [*STEMS, "tabla"]},
    ),
    "silent": ({**SONGS, **several(3, "solo", solo("tabla"))}, ["tabla"], {"missing_stem": "silent"}),
    "said": ({**SONGS, **several(3, "solo", solo("tabla"))}, ["tabla"], {"absent": ["tabla"]}),
    "vocals and the rest": (
        {**several(3, "song", VOCALS_AND_MIXTURE), **several(2, "solo", solo("tabla"))},
        ["vocals", "tabla"],
        {},
    ),
    **{
        f"{name} for {'+'.join(targets)}": ({**SONGS, **several(3, "solo", solo(name))}, targets, {})
        for name in ("other", "instrumental", "backing", "rest", "Karaoke")
        for targets in (["vocals"], ["drums"], list(STEMS), ["other"])
    },
    **{
        f"pools of vocals and {name}": (
            {**several(3, "voice", solo("vocals", "vocals")), **several(3, "solo", solo(name))},
            targets,
            {},
        )
        for name in ("other", "instrumental", "noise", "tabla")
        for targets in (["vocals"],)
    },
    "pools, both wanted": (
        {**several(3, "voice", solo("vocals", "vocals")), **several(3, "solo", solo("instrumental"))},
        ["vocals", "instrumental"],
        {},
    ),
    "a pool per stem": ({f"{name}-{i}": solo(name) for name in STEMS for i in range(2)}, list(STEMS), {}),
    "a pool per stem, six": (
        {f"{name}-{i}": solo(name) for name in (*STEMS, "guitar", "piano") for i in range(2)},
        list(STEMS),
        {},
    ),
    "two catch-alls": (
        {f"{name}-{i}": solo(name) for name in ("vocals", "drums", "other", "instrumental") for i in range(2)},
        ["vocals", "drums"],
        {},
    ),
    "noise": ({**SONGS, **several(3, "solo", solo("noise"))}, ["vocals"], {}),
    "noise, all four": ({**SONGS, **several(3, "solo", solo("noise"))}, list(STEMS), {}),
    "noise not added": ({**SONGS, **several(3, "solo", solo("noise"))}, ["vocals"], {"add_others": 0}),
    "noise, silent": ({**SONGS, **several(3, "solo", solo("noise"))}, ["vocals"], {"missing_stem": "silent"}),
    "noise skipped": ({**SONGS, **several(3, "solo", solo("noise"))}, ["vocals"], {"missing_stem": "skip"}),
    "snare": ({**SONGS, **several(2, "solo", solo("snare"))}, ["drums"], {}),
    "guitar beside four": ({**SONGS, **several(3, "solo", solo("guitar"))}, list(STEMS), {}),
    "nothing assumed": ({**SONGS, **several(3, "solo", solo("guitar"))}, ["vocals", "drums"], {"absent": []}),
    "stems of no target": ({**SONGS, **several(3, "solo", solo("noise"))}, ["vocals"], {"stems": list(STEMS)}),
    "defined": (
        {**SONGS, **several(2, "electric", solo("electric_guitar")), **several(2, "acoustic", solo("acoustic_guitar"))},
        ["guitar"],
        {"define": {"guitar": ["electric_guitar", "acoustic_guitar"]}},
    ),
    "songs without a stem": ({**SONGS, "instrumental": {"mixture": ["drums", "piano"]}}, ["vocals"], {}),
}


@pytest.mark.parametrize(("layout", "remix"), [(layout, i % 2) for i, layout in enumerate(LAYOUTS)])
def test_every_track_is_read_by_some_example_or_named_as_left_out(tmp_path, layout, remix):
    tracks, targets, data = LAYOUTS[layout]
    mixes = made(tmp_path, tracks, targets, augment={"remix": float(remix)}, **data)
    counts = read_tracks(mixes, 200)
    assert min(counts.values()) > 1
    messages = " ".join(mixes.parts.notes)
    assert [name for name in tracks if name not in counts and name not in messages] == []
    for target in targets:  # and every target is learned
        assert any(mixes[i]["stems"][targets.index(target)].any() for i in range(20))


@pytest.mark.parametrize("layout", ["tabla", "vocals and tabla", "mixtures alone", "stems given", "silent", "said"])
def test_a_solo_of_a_target_is_in_three_quarters_of_the_examples_of_songs_that_lack_it(tmp_path, layout):
    tracks, targets, data = LAYOUTS[layout]
    mixes = made(tmp_path, tracks, targets, augment={"preset": "none"}, **data)
    available = []
    for example in (mixes[i] for i in range(400)):
        mixture, stem = heard(example["mixture"]), heard(example["stems"][targets.index("tabla")])
        assert example["present"].all()
        assert torch.allclose(mixture["guitar"], stem["guitar"], atol=1e-5)  # the tabla's tone here
        assert all(stem[name].abs().max() < 1e-5 for name in TONES_HZ if name != "guitar")
        assert max(mixture[name].abs().max() for name in ("drums", "vocals")) > 0.01
        available.append(bool(stem["guitar"].abs().max() > 0.01))
    assert np.mean(available) == pytest.approx(0.75, abs=0.07)


def test_that_songs_hold_no_target_is_assumed_aloud_said_or_refused(tmp_path):
    tracks = write_tracks(tmp_path, {**SONGS, "solo": solo("tabla")})
    recipe = micro_recipe(tmp_path, targets=["tabla"])
    assert (
        "ONLY SOLOS HAVE 'tabla': THE 3 SONGS ARE TAKEN TO HOLD NONE"
        in make_parts(tracks, ["tabla"], recipe.data).notes[0]
    )
    sentences = make_parts(tracks, ["tabla"], replace(recipe.data, absent=("tabla",)))
    assert not any("TAKEN" in note for note in sentences.notes)
    assert "tabla: a recording is added to 75% of the examples of songs that hold none" in " ".join(sentences.notes)
    with pytest.raises(
        DataError, match=r"hold nothing else: .* data.absent=\[tabla\] says that tracks without it hold"
    ):
        make_parts(tracks, ["tabla"], replace(recipe.data, absent=()))
    idle = make_parts(tracks, ["vocals"], replace(recipe.data, absent=("sitar",)))
    assert "data.absent names sitar, which is no target of this run" in idle.notes[0]
    with pytest.raises(RecipeError, match="data.add_targets is 2.0; expected 1 or less"):
        make_recipe({"targets": ["a"], "data": {"add_targets": 2}})


def test_a_solo_that_may_be_a_part_of_a_target_is_left_out_with_the_way_to_use_it(tmp_path):
    tracks = write_tracks(tmp_path, {**SONGS, "one": solo("snare"), "two": solo("lead_vocals")})
    recipe = micro_recipe(tmp_path, targets=["drums", "vocals"])
    messages = " ".join(make_parts(tracks, recipe.targets, recipe.data).notes)
    assert "snare may be a part of drums, so it cannot stand beside it; data.define={drums: [drums, snare]}" in messages
    assert "data.define={vocals: [vocals, lead_vocals]} makes it one (two)" in messages


def test_songs_whose_stems_are_known_are_not_taken_for_songs_without_a_solos_source(tmp_path):
    """The drums hold the snare; a song with a guitar of another name may hold one."""
    tracks = write_tracks(tmp_path, {**SONGS, "solo": solo("snare")})
    with pytest.raises(DataError, match="hold nothing else"):
        make_parts(tracks, ["snare"], micro_recipe(tmp_path).data)


@pytest.mark.parametrize(("targets", "holder"), [(list(STEMS), "other"), (["vocals"], None)])
def test_a_guitar_is_a_part_of_other_where_that_is_a_target(tmp_path, targets, holder):
    mixes = made(tmp_path, {**SONGS, **several(3, "solo", solo("guitar"))}, targets, augment={"preset": "none"})
    added = alone = 0
    for example in (mixes[i] for i in range(300)):
        mixture = heard(example["mixture"])
        stems = {name: heard(stem) for name, stem in zip(targets, example["stems"], strict=True)}
        for name, stem in stems.items():
            expected = mixture["guitar"] if name == holder else torch.zeros(2, dtype=torch.cdouble)
            assert torch.allclose(stem["guitar"].abs(), expected.abs(), atol=1e-5)
        if mixture["guitar"].abs().max() > 0.01:
            added += 1
            alone += bool(mixture["piano"].abs().max() < 1e-5)  # which is the songs' other
    assert added / 300 == pytest.approx(0.5, abs=0.08)
    assert alone / added == pytest.approx(0.5, abs=0.12)


def test_noise_is_no_part_of_other(tmp_path):
    mixes = made(tmp_path, {**SONGS, **several(3, "solo", solo("noise"))}, list(STEMS), augment={"preset": "none"})
    noisy = [e for e in (mixes[i] for i in range(100)) if heard(e["mixture"])["guitar"].abs().max() > 0.01]
    assert 30 < len(noisy) < 70
    assert all(heard(stem)["guitar"].abs().max() < 1e-5 for example in noisy for stem in example["stems"])


def test_pools_are_mixed_to_each_other(tmp_path):
    tracks = {**several(3, "voice", solo("vocals", "vocals")), **several(3, "band", solo("instrumental", "piano"))}
    mixes = made(tmp_path, tracks, ["vocals", "instrumental"], augment={"preset": "none"})
    for example in (mixes[i] for i in range(20)):
        vocals, band = (heard(stem) for stem in example["stems"])
        assert vocals["vocals"].abs().max() > 0.01
        assert band["piano"].abs().max() > 0.01
        assert torch.allclose(example["mixture"], example["stems"].sum(0), atol=1e-6)


def test_what_an_instrumental_may_hold_is_not_known(tmp_path):
    tracks = {
        **several(2, "voice", solo("vocals", "vocals")),
        **several(2, "drums", solo("drums", "drums")),
        **several(2, "band", solo("instrumental", "piano")),
    }
    mixes = made(tmp_path, tracks, ["vocals", "drums"])
    present = {tuple(mixes[i]["present"].tolist()) for i in range(60)}
    assert present == {(1.0, 0.0), (1.0, 1.0)}  # the drums are masked beside an instrumental
    mixes = RandomMixes(
        make_parts(mixes.parts.tracks, ["vocals", "drums"], replace(mixes.planner.data, absent=("vocals", "drums"))),
        micro_recipe(tmp_path, targets=["vocals", "drums"]),
        60,
    )
    assert {tuple(mixes[i]["present"].tolist()) for i in range(60)} == {(1.0, 1.0)}


def test_without_remix_a_solo_stands_in_for_the_songs_stem_as_often_as_another_song(tmp_path):
    tracks = {**several(3, "song", SONG), **several(3, "solo", solo("vocals", "vocals"))}
    mixes = made(tmp_path, tracks, ["vocals", "drums"], augment={"preset": "none"})
    counts = read_tracks(mixes, 1000)
    assert sum(counts[f"solo-{i}"] for i in range(3)) / 1000 == pytest.approx(0.5, abs=0.05)


def test_a_song_counts_double(tmp_path):
    tracks = write_tracks(tmp_path, {**SONGS, **several(3, "solo", solo("vocals", "vocals"))})
    tracks = [replace(t, weight=2.0 if t.name.startswith("song") else 1.0) for t in tracks]
    recipe = micro_recipe(tmp_path, targets=["vocals"])
    mixes = RandomMixes(make_parts(tracks, ["vocals"], recipe.data), recipe, 2000)
    voices = [path.parent.name for i in range(2000) for path, _, _ in mixes.reads(i) if path.stem == "vocals"]
    assert np.mean([name.startswith("song") for name in voices]) == pytest.approx(2 / 3, abs=0.04)


def test_other_that_is_the_sum_of_finer_stems_is_drawn_as_these(tmp_path):
    """All six as targets: `other` holds the guitar and the piano of the songs, and those that are added."""
    song = {**SONG, "guitar": ["guitar"], "piano": ["piano"], "other": ["guitar", "piano"]}
    song["mixture"] = sorted(TONES_HZ)
    plain = {**FOUR, "mixture": SONG["mixture"], "piano": ["piano"]}  # its other is its piano
    tracks = {**several(2, "song", song), **several(2, "plain", plain), **several(2, "solo", solo("guitar"))}
    targets = [*STEMS, "guitar", "piano"]
    mixes = made(tmp_path, tracks, targets, augment={"preset": "none", "remix": 1.0})
    assert REST not in mixes.parts.names
    assert min(read_tracks(mixes, 300).values()) > 0
    for example in (mixes[i] for i in range(100)):
        *four, guitar, piano = example["stems"]
        assert example["present"].all()
        assert torch.allclose(four[3], guitar + piano, atol=1e-6)
        assert torch.allclose(example["mixture"], sum(four), atol=1e-6)


def test_solos_without_an_active_segment_are_named(tmp_path):
    for i, name in enumerate(("a", "b")):
        write_long(tmp_path / "train" / name, i, 24)
    write_tones(tmp_path / "train" / "short", solo("vocals", "vocals"), seed=5)
    recipe = micro_recipe(tmp_path, targets=["vocals"], data={"root": str(tmp_path), "excerpts": "active"})
    parts = make_parts(tracks_of(track_table(tmp_path, ["train"])), ["vocals"], recipe.data)
    assert [track.name for track in parts.tracks] == ["a", "b"]
    assert any("no part of them is active for 6 s (data.excerpts=active) (short)" in note for note in parts.notes)


def write_long(folder, seed, seconds):
    import soundfile

    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for name in ("vocals", "drums"):
        soundfile.write(folder / f"{name}.wav", 0.1 * random.standard_normal((seconds * RATE, 2)), RATE)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("lead_vocals", "vocals", True),
        ("snare", "drums", True),
        ("electric_guitar", "acoustic guitar", True),
        ("Bass 2", "bass", True),
        ("tabla", "drums", False),
        ("piano", "guitar", False),
        ("organ", "other", False),
        ("voice", "speech", True),
    ],
)
def test_names_of_one_family(one, other, expected):
    assert related(one, other) is related(other, one) is expected


def test_what_catch_alls_leave_out():
    assert [is_catch_all(name) for name in ("Other", "Backing Track", "no-vocals", "guitar", REST)] == [
        *(True, True, True, False, True)
    ]
    assert leaves_out("other", "drums")
    assert leaves_out("instrumental", "lead_vocals")
    assert not leaves_out("instrumental", "drums")
    assert not leaves_out("other", "instrumental")
    assert belongs_to("guitar", "instrumental")
    assert not belongs_to("choir", "instrumental")
    assert not belongs_to("noise", "other")


def test_a_name_that_says_no_is_a_catch_all():
    """As Demucs names its second file."""
    assert all(is_catch_all(name) for name in ("no_drums", "No Bass", "without vocals", "minus_guitar", "off vocal"))
    assert not is_catch_all("nocturne")
    assert leaves_out("no_drums", "snare")
    assert not leaves_out("no_drums", "vocals")
    assert belongs_to("vocals", "no_drums")
    assert not belongs_to("kick", "no_drums")


def test_music_without_drums_is_not_mixed_to_songs_as_if_it_held_no_voice(tmp_path):
    tracks = {**SONGS, **several(3, "solo", solo("no_drums"))}
    mixes = made(tmp_path / "a", tracks, ["vocals"])
    assert not [name for name in read_tracks(mixes, 100) if name.startswith("solo")]
    assert "solo-0" in " ".join(mixes.parts.notes)
    counts = read_tracks(made(tmp_path / "b", tracks, ["drums"]), 100)
    assert min(counts[f"solo-{i}"] for i in range(3)) > 4
