"""Validation: block by block, of parts, shared out by length, with a sign of life."""

import pytest
import torch
from accelerate import Accelerator

from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import Track, tracks_of
from refined_bsrnn.data.whole import load_track
from refined_bsrnn.metrics import usdr
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.training import validation
from refined_bsrnn.training.failures import Interrupted
from refined_bsrnn.training.validation import Validation, ValidationExcerpt, middle_of, shared_out, some_of
from tests.conftest import STEMS, micro_recipe, write_song


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BSRNN.from_recipe(micro_recipe(None))


@pytest.fixture
def tracks(tmp_path):
    """27 s at 8 kHz, 13 s at 11.025 kHz without a mixture file, and one whose drums are silent."""
    root = tmp_path / "songs" / "train"
    write_song(root / "a", 1, seconds=27.0)
    (write_song(root / "b", 2, seconds=13.0, rate=11025) / "mixture.wav").unlink()
    write_song(root / "c", 3, ("vocals", "bass"), seconds=3.0)
    return tracks_of(track_table(root.parent, ("train",)))


def run(model, tracks, stopped=lambda: False, show=lambda share: None, **train):
    return Validation(micro_recipe(None, train=train), model, tracks, Accelerator(cpu=True)).scores(stopped, show)


def test_block_by_block_the_scores_are_those_of_whole_songs(model, tracks):
    separator, found = Separator(model), {"vocals": [], "drums": []}
    for track in tracks:
        mixture, stems, _ = load_track(track, ("vocals", "drums"))
        estimates = separator.separate(mixture, track.sample_rate_hz, list(stems))
        for name, stem in stems.items():
            found[name].append(usdr(stem, estimates[name]))
    assert [len(values) for values in found.values()] == [3, 2]
    scores = run(model, tracks)
    for name, values in found.items():
        assert scores[f"validation/{name}/usdr"] == pytest.approx(sum(values) / len(values), abs=1e-6)
    both = [scores[f"validation/{name}/usdr"] for name in found]
    assert scores["validation/usdr"] == pytest.approx(sum(both) / 2)


def test_a_network_that_was_validated_is_in_training_again(model, tracks):
    validated = Validation(micro_recipe(None), model.train(), tracks[2:], Accelerator(cpu=True))
    validated.scores(lambda: False, lambda share: None)
    assert model.training
    validated.audio(1.0)
    assert model.training


def test_no_more_than_a_block_is_read_at_a_time(model, tracks, monkeypatch):
    lengths, read = [], validation.read_stem

    def spy(track, stem, start, length):
        lengths.append(length / track.sample_rate_hz)
        return read(track, stem, start, length)

    monkeypatch.setattr(validation, "read_stem", spy)
    run(model, tracks)
    assert max(lengths) == validation.BLOCK_SECONDS
    assert sum(lengths) == pytest.approx(3 * 27 + (4 + 2) * 13 + 2 * 3)


def test_the_middle_of_some_songs(model, tracks):
    excerpt = middle_of(tracks[0], 5.0)
    assert (excerpt.start, excerpt.length) == (11 * 8000, 5 * 8000)
    assert middle_of(tracks[2], 5.0).length == tracks[2].n_samples
    assert [t.name for t in some_of(tracks, ("vocals",), 1)] == ["a"]
    assert [t.name for t in some_of(tracks[::-1], ("vocals", "drums"), 1)] == ["c", "b"]  # c has no drums
    assert some_of(tracks, ("vocals",), 0) == some_of(tracks, ("vocals",), 9) == tracks
    mixture = excerpt.mixture(0, excerpt.length)
    stem = excerpt.read("drums", 0, excerpt.length)
    expected = usdr(stem, Separator(model).separate(mixture, 8000, ["drums"])["drums"])
    scores = run(model, tracks, validate_seconds=5.0, validate_songs=1)
    assert scores["validation/drums/usdr"] == pytest.approx(expected, abs=1e-6)


def test_songs_are_shared_out_by_their_length():
    def song(name, seconds):
        return ValidationExcerpt(Track(name, "train", "", seconds, 1, 2, {}, ""), 0, seconds)

    songs = [song("a", 10), song("hour", 100), song("b", 20), song("c", 30), song("d", 40)]
    shares = shared_out(songs, 2)
    assert [[e.track.name for e in share] for share in shares] == [["hour"], ["d", "c", "b", "a"]]
    assert shared_out(songs, 1) == [songs]
    assert [len(share) for share in shared_out(songs[:1], 3)] == [1, 0, 0]


def test_its_progress_is_that_of_the_audio(model, tracks):
    shown = []
    run(model, tracks, show=shown.append)
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(1.0)
    assert any(abs(share - 27 / 43) < 1e-3 for share in shown)
    assert len(shown) > 8


def test_a_signal_is_heard_within_a_second_of_audio(model, tracks):
    asked = []

    def stopped():
        asked.append(1)
        return len(asked) > 4

    with pytest.raises(Interrupted):
        run(model, tracks, stopped)
    assert len(asked) < 9
    assert model.training


def test_its_time_is_told_from_one_chunk(model, tracks, monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(validation.time, "monotonic", lambda: next(clock))
    check = Validation(micro_recipe(None), model, tracks, Accelerator(cpu=True))
    assert check.about_seconds() == 2.0 * (6 + 3 + 1)  # chunks of 4.5 s but for the overlap
    assert Validation(micro_recipe(None), model, [], Accelerator(cpu=True)).about_seconds() == 0.0


def test_a_network_that_gives_nan_is_told(model, tracks):
    with torch.no_grad():
        next(model.heads["drums"].parameters()).fill_(float("nan"))
    with pytest.raises(Exception, match="NaN or infinite"):
        run(model, tracks)


def test_silent_stems_have_no_score(tmp_path, model):
    import soundfile

    folder = write_song(tmp_path / "songs" / "train" / "a", 1, STEMS, seconds=2.0)
    soundfile.write(folder / "drums.wav", 0.0 * soundfile.read(folder / "drums.wav")[0], 8000)
    [track] = tracks_of(track_table(tmp_path / "songs", ("train",)))
    assert set(run(model, [track])) == {"validation/vocals/usdr", "validation/usdr"}
    assert run(model, []) == {}
