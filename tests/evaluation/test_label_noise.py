"""Wrong labels, found with a network that tells tones apart by their pitch."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.data.label_weights import read_stem_weights
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import read_stem, tracks_of
from refined_bsrnn.data.training_parts import make_parts
from refined_bsrnn.errors import DataError
from refined_bsrnn.evaluation.label_noise import (
    Suspect,
    measure_stem,
    measure_stems,
    rank,
    unmeasured,
    write_page,
    write_suspects,
)
from refined_bsrnn.evaluation.wrong_labels import corrupted, link_tracks, precision_and_recall
from refined_bsrnn.recipe import DataSpec
from tests.conftest import RATE

TONES_HZ = {"vocals": 400, "drums": 800, "bass": 1200}
HEADS = list(TONES_HZ)
SECONDS = 12


class ByPitch:
    """Each head passes the bins around its tone, and a twentieth of all else: it leaks, as networks do."""

    sample_rate_hz, recipe = RATE, SimpleNamespace(data=SimpleNamespace(channels=1))

    def __call__(self, audio):
        spectrum = torch.fft.rfft(audio)
        hz = torch.fft.rfftfreq(audio.shape[-1], 1 / RATE)
        gains = {name: torch.where((hz - tone).abs() < 150, 1.0, 0.05) for name, tone in TONES_HZ.items()}
        return {name: torch.fft.irfft(spectrum * gain, audio.shape[-1]) for name, gain in gains.items()}


@pytest.fixture
def separator():
    return SimpleNamespace(model=ByPitch(), heads=HEADS, device="cpu")


def tone(hz, random):
    t = np.arange(SECONDS * RATE) / RATE
    noise = 0.005 * random.standard_normal((len(t), 2))
    return 0.3 * np.sin(2 * np.pi * hz * t + random.uniform(0, 6))[:, None] + noise


@pytest.fixture
def tracks(tmp_path):
    for i in range(6):
        random = np.random.default_rng(i)
        folder = tmp_path / "songs" / "train" / f"song-{i}"
        folder.mkdir(parents=True)
        stems = {name: tone(hz, random) for name, hz in TONES_HZ.items()}
        for name, samples in {**stems, "mixture": sum(stems.values())}.items():
            soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    return tracks_of(track_table(tmp_path / "songs", ["train"]))


def spoil(track, stem, like, start=0, stop=SECONDS, level=1.0):
    """Put another stem's tone into a stem, between two seconds."""
    samples, _ = soundfile.read(track.path(stem))
    other, _ = soundfile.read(track.path(like))
    window = slice(start * RATE, stop * RATE)
    samples[window] += level * other[window]
    soundfile.write(track.path(stem), samples, RATE, subtype="FLOAT")


def test_shares_of_a_clean_stem(separator, tracks):
    audible = measure_stem(separator, tracks[0], "drums", windows=3)
    assert audible.starts_seconds == (0.0, 6.0, 9.0)
    assert np.allclose(audible.shares.sum(1), 1)
    assert (audible.shares[:, 1] > 0.95).all()


def test_bleed_is_found_with_its_reason_and_its_place(separator, tracks):
    spoil(tracks[2], "drums", "bass", start=6, stop=9, level=0.7)
    first, *others = rank(measure_stems(separator, tracks), HEADS)
    assert (first.track, first.stem, first.sounds_like) == ("song-2", "drums", "bass")
    assert first.deviations > 2 > max(other.deviations for other in others)
    assert 6.0 in first.seconds
    assert first.reason.startswith("91% of it goes to drums (usually 100%)")
    assert "more than usual to bass; listen at" in first.reason


def test_swapped_names_are_found_both(separator, tracks):
    a, b = tracks[1].path("vocals"), tracks[1].path("bass")
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    found = {(s.track, s.stem): s.sounds_like for s in rank(measure_stems(separator, tracks), HEADS)[:2]}
    assert found == {("song-1", "vocals"): "bass", ("song-1", "bass"): "vocals"}


def test_silent_windows_and_stems_say_nothing(separator, tracks):
    samples, _ = soundfile.read(tracks[0].path("drums"))
    samples[3 * RATE :] = 0
    soundfile.write(tracks[0].path("drums"), samples, RATE, subtype="FLOAT")
    assert measure_stem(separator, tracks[0], "drums", 12).starts_seconds == (0.0,)
    soundfile.write(tracks[0].path("bass"), 0 * samples, RATE, subtype="FLOAT")
    assert measure_stem(separator, tracks[0], "bass", 12) is None
    assert len(measure_stems(separator, tracks)) == 17


def test_too_few_stems_to_compare_with_need_a_clear_case(separator, tracks):
    spoil(tracks[1], "bass", "vocals", level=30.0)
    by_name = {(s.track, s.stem): s.deviations for s in rank(measure_stems(separator, tracks[:2]), HEADS)}
    assert by_name.pop(("song-1", "bass")) > 2
    assert max(by_name.values()) < 0


def test_a_stem_that_goes_to_its_own_head_is_clean_however_the_others_do():
    assert Suspect("a", "drums", 9.0, 0.89, 0.99, "bass", ()).is_suspicious()
    assert not Suspect("a", "drums", 9.0, 0.92, 0.99, "bass", ()).is_suspicious()
    assert not Suspect("a", "drums", 1.9, 0.2, 0.5, "bass", ()).is_suspicious()


def test_what_cannot_be_scored(separator, tracks):
    with pytest.raises(DataError, match="the model has the head drums alone; to tell stems apart it needs two"):
        measure_stems(SimpleNamespace(heads=["drums"]), tracks)
    with pytest.raises(DataError, match=r"none of 6 tracks has a stem that the model has a head for \(harp, flute\)"):
        measure_stems(SimpleNamespace(heads=["harp", "flute"]), tracks)


def test_the_csv_is_what_training_leaves_out_and_the_page_needs_nothing_else(separator, tracks, tmp_path):
    spoil(tracks[2], "drums", "bass", level=0.9)
    suspects = rank(measure_stems(separator, tracks), HEADS)
    assert write_suspects(tmp_path / "less.csv", suspects, weight=0.25) == 1
    assert set(read_stem_weights(tmp_path / "less.csv").values()) == {0.25}
    assert write_suspects(tmp_path / "suspects.csv", suspects) == 1
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert [(row["track"], row["stem"], row["weight"]) for row in rows] == [("song-2", "drums", "0")]
    parts = make_parts(tracks, ["drums"], DataSpec(stem_weights=str(tmp_path / "suspects.csv")))
    assert "song-2" not in [t.name for t in parts.tracks]
    page = write_page(tmp_path / "suspects.html", suspects, tracks, shown=2).read_text()
    assert page.count("<section>") == 2
    assert page.count("data:audio/ogg;base64,T2dnUw") == 6
    assert "http" not in page


# --- labels that are wrong on purpose


def test_a_fifth_of_the_labels_is_wrong_and_the_rest_untouched(tracks):
    changed, wrong = corrupted(tracks, HEADS, 0.2, seed=3)
    assert len(wrong) in (4, 5)  # of 18; a swap makes two
    for before, after in zip(tracks, changed, strict=True):
        for stem in HEADS:
            differs = before.files[stem] != after.files[stem]
            assert differs == ((before.name, stem) in wrong)
    assert corrupted(tracks, HEADS, 0.2, seed=3) == (changed, wrong)
    assert corrupted(tracks, HEADS, 0.2, seed=4)[1] != wrong


def test_no_silence_is_added_and_too_large_a_share_is_refused(tracks):
    silent = {(track.name, "drums") for track in tracks}
    for seed in range(8):
        changed, wrong = corrupted(tracks, HEADS, 0.5, seed, silent)
        for before, after in zip(tracks, changed, strict=True):
            for stem in HEADS:
                added = set(after.files[stem]) - set(before.files[stem])
                assert bool(added) == ((before.name, stem) in wrong)
                if len(after.files[stem]) == 2:
                    assert not added & set(before.files["drums"])
    with pytest.raises(DataError, match=r"only \d+ of 18 stems can be made wrong, by twos in 6 tracks"):
        corrupted(tracks, HEADS, 1.0, seed=3)


def test_what_is_not_scored_is_counted_and_named(separator, tracks):
    audible = measure_stems(separator, tracks)
    assert unmeasured(tracks, HEADS, audible) == ""
    left = [one for one in audible if (one.track.name, one.stem) != ("song-1", "bass")]
    assert unmeasured(tracks, HEADS, left) == "1 stems are not scored: 1 are silent (train/song-1/bass)."
    assert unmeasured(tracks, ["drums"], []).startswith("18 stems are not scored: 12 have no head (")


def test_corrupted_tracks_can_be_written_as_links_and_read_like_any_others(tracks, tmp_path):
    changed, wrong = corrupted(tracks, HEADS, 0.2, seed=0)
    root = link_tracks(changed, tmp_path / "noisy")
    read = tracks_of(track_table(root, ["train"]))
    assert [track.name for track in read] == [track.name for track in tracks]
    for ours, clean, track in zip(read, tracks, changed, strict=True):
        for stem in HEADS:
            assert torch.equal(read_stem(ours, stem), read_stem(track, stem))
            assert torch.equal(read_stem(ours, stem), read_stem(clean, stem)) != ((track.name, stem) in wrong)
    with pytest.raises(DataError, match="noisy is there already"):
        link_tracks(changed, root)


def test_all_of_them_are_found_where_the_network_knows(separator, tracks):
    changed, wrong = corrupted(tracks, HEADS, 0.2, seed=0)
    found = precision_and_recall(rank(measure_stems(separator, changed), HEADS), wrong)
    assert found["recall"] == found["precision_at_wrong"] == found["average_precision"] == 1.0
    assert found["stems"] == 18


def test_precision_and_recall_by_hand():
    suspects = [Suspect(str(i), "x", 5.0 - i, 0, 0, "y", ()) for i in range(5)]  # 5, 4, 3, 2, 1
    found = precision_and_recall(suspects, {("0", "x"), ("3", "x")}, threshold=2.5)
    assert found == {
        "stems": 5,
        "wrong": 2,
        "precision_at_wrong": 0.5,
        "above_threshold": 3,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "average_precision": pytest.approx((1 + 2 / 4) / 2),
    }
    assert math.isnan(precision_and_recall(suspects, {("0", "x")}, threshold=9)["precision"])


def test_the_command_lists_suspects_and_says_where_they_are_written(separator, tracks, tmp_path, monkeypatch, capsys):
    from refined_bsrnn.apps.cli.main import main
    from refined_bsrnn.evaluation import label_noise

    spoil(tracks[2], "drums", "bass", level=0.9)
    asked = []
    made = SimpleNamespace(from_pretrained=lambda name: asked.append(name) or separator)
    monkeypatch.setattr(label_noise, "Separator", made)
    root = tmp_path / "songs"
    assert main(["check-data", str(root), "--model", "mtl", "--out", "found", "--json", "--jobs", "1"]) == 0
    messages = capsys.readouterr()
    assert asked == ["mtl"]
    assert "suspicious: song-2 / drums: " in messages.err
    assert (
        "1 suspicious stems; written: found/suspects.csv (for data.stem_weights=) and found/suspects.html"
        in messages.err
    )
    values = json.loads(messages.out)["suspects"]
    assert [(v["track"], v["stem"], v["sounds_like"]) for v in values] == [("song-2", "drums", "bass")]
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["suspects.csv", "suspects.html"]
