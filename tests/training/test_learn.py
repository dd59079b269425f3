"""From a person's own songs to a head: which train, validate and are kept aside, and the command from end to end."""

from pathlib import Path

import pytest
import soundfile
import torch

from refined_bsrnn import Separator
from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.errors import DataError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import dump_recipe, load_recipe
from refined_bsrnn.runs.exchange import library
from refined_bsrnn.runs.exchange.hub import export
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.system import write_text
from refined_bsrnn.training.learn import learning_recipe, plan, score_words, write_excerpts
from tests.conftest import micro_recipe, write_song

STEMS = ("vocals", "drums", "oud")
QUICK = ["train.steps=4", "train.batch_size=2", "train.validate_every=2", "train.warmup_steps=0", "train.workers=0"]
QUICK += ["cache.pool=4", "train.checkpoint_every=2"]


def write_songs(root, n, stems=STEMS, seconds=2.0, first=0):
    for i in range(first, first + n):
        write_song(root / f"song {i}", seed=i, stems=stems, seconds=seconds)
    return root


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A small model as the package's own."""
    recipe, run = micro_recipe(None), RunFolder(Path("runs") / "mtl")
    torch.manual_seed(0)
    write_text(run.recipe, dump_recipe(recipe))
    save_weights(run, BSRNN.from_recipe(recipe))
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "package")
    return export(run, tmp_path / "package" / "small", half=True)


def names(tracks):
    return {track.name for track in tracks}


@pytest.mark.parametrize(
    ("n", "split"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (6, 2, 2)), (20, (14, 3, 3))]
)
def test_songs_are_kept_aside_by_their_number(tmp_path, n, split):
    lesson = plan("oud", [str(write_songs(tmp_path / "songs", n, seconds=0.1))])
    assert (len(lesson.train), len(lesson.validation), len(lesson.held_out)) == split
    together = [*lesson.train, *lesson.validation, *lesson.held_out]
    assert names(together) == {f"song {i}" for i in range(n)}
    assert len(together) == n


def test_folders_of_splits_stay_what_they_are(tmp_path):
    for split, first in (("train", 0), ("valid", 10), ("test", 20)):
        write_songs(tmp_path / "songs" / split, 2, seconds=0.1, first=first)
    lesson = plan("oud", [str(tmp_path / "songs")])
    assert names(lesson.train) == {"song 0", "song 1"}
    assert names(lesson.validation) == {"song 10", "song 11"}
    assert names(lesson.held_out) == {"song 20", "song 21"}


def test_songs_without_the_stem_and_solos_are_told_apart_and_never_kept_aside(tmp_path):
    write_songs(tmp_path / "songs", 3, seconds=0.1)
    write_songs(tmp_path / "songs", 2, stems=("vocals", "drums"), seconds=0.1, first=10)
    for i in range(2):
        write_song(tmp_path / "solos" / f"solo {i}", seed=i, stems=("oud",), seconds=0.1)
        (tmp_path / "solos" / f"solo {i}" / "mixture.wav").unlink()
    lesson = plan("oud", [str(tmp_path / "songs"), str(tmp_path / "solos")])
    assert names(lesson.solos) == {"solo 0", "solo 1"}
    assert names(lesson.others) == {"song 10", "song 11"}
    assert len(lesson.held_out) == len(lesson.validation) == 1
    assert "3 songs with oud (0 minutes), 2 recordings of oud alone, 2 songs without." in lesson.sentences()


def test_a_song_of_a_name_that_two_folders_have_is_trained_on_alone(tmp_path, base):
    roots = [str(write_songs(tmp_path / name, 3, seconds=0.1, first=first)) for name, first in (("a", 0), ("b", 2))]
    lesson = plan("oud", roots)  # song 2 is in both
    kept = names([*lesson.held_out, *lesson.validation])
    assert kept <= {"song 0", "song 1", "song 3", "song 4"}
    assert len(kept) == 2
    assert learning_recipe(base, lesson, "oud").data.validation_tracks == (next(iter(lesson.validation)).name,)


def test_a_name_with_brackets_is_no_pattern(tmp_path, base):
    for i, name in enumerate(("a [live]", "a l", "a i")):
        write_song(tmp_path / "songs" / name, seed=i, stems=STEMS, seconds=0.1)
    lesson = plan("oud", [str(tmp_path / "songs")])
    again = plan("oud", [str(tmp_path / "songs")])
    assert lesson == again
    recipe = learning_recipe(base, lesson, "oud")
    from refined_bsrnn.data.scan import scan
    from refined_bsrnn.data.splits import split_validation

    tracks = scan(recipe.data, ("train", "valid", "test")).usable()
    assert names(t for t in tracks if t.split == "test") == names(lesson.held_out)
    train, validation = split_validation([t for t in tracks if t.split != "test"], recipe.data)
    assert (names(train), names(validation)) == (names(lesson.train), names(lesson.validation))


def test_a_stem_that_no_song_has_is_refused_with_those_there_are(tmp_path):
    write_songs(tmp_path / "songs", 1, seconds=0.1)
    with pytest.raises(
        DataError, match=r"no song in .* has a stem 'ood'. Did you mean 'oud'\? Stems: drums, oud, vocals"
    ):
        plan("ood", [str(tmp_path / "songs")])


def test_settings_for_few_songs_and_what_is_typed_above_them(tmp_path, base):
    lesson = plan("oud", [str(write_songs(tmp_path / "songs", 3, seconds=0.1))])
    recipe = learning_recipe(base, lesson, "lute", ["train.steps=7", "cache.pool=5"])
    assert (recipe.targets, recipe.train.steps, recipe.cache.pool) == (("lute",), 7, 5)
    assert recipe.cache.enabled
    assert recipe.train.patience == load_recipe("learn").train.patience > 0
    assert recipe.data.stems_of("lute") == ("oud",)
    assert recipe.base.method == "frozen"


@pytest.mark.parametrize(
    ("usdr", "words"), [(2.0, "2.0 dB uSDR, better than silence"), (-1.0, "no better than silence")]
)
def test_a_score_in_words(usdr, words):
    summary = {"n_tracks": 1, "estimate": {"usdr": {"mean": usdr}}, "mixture": {"usdr": {"mean": -5.0}}}
    assert words in score_words("oud", {"summary": {"oud": summary}})
    nothing = {"n_tracks": 0, "estimate": {"usdr": {"mean": None}}, "mixture": {"usdr": {"mean": None}}}
    assert "there is no score" in score_words("oud", {"summary": {"oud": nothing}})


def test_the_excerpt_is_the_loudest_20_seconds_before_and_after(tmp_path, base):
    song = write_song(tmp_path / "songs" / "long", seed=0, stems=("drums", "oud"), seconds=22.0)
    for name in ("drums", "mixture"):
        samples, rate = soundfile.read(song / f"{name}.wav")
        samples[:rate] = 0  # the loudest 20 s begin after a second of silence
        soundfile.write(song / f"{name}.wav", samples, rate)
    lesson = plan("drums", [str(tmp_path / "songs")])
    track, (before, after) = write_excerpts(base, lesson, "drums", "cpu")
    assert track.name == "long"
    audible, _ = soundfile.read(before)
    whole, _ = soundfile.read(song / "mixture.wav")
    start = next(i for i in (1, 2) if abs(audible - whole[i * rate : (i + 20) * rate]).max() < 1e-4)
    assert start >= 1
    expected = Separator.from_pretrained(base.path).separate(torch.tensor(audible.T).float(), rate, ["drums"])["drums"]
    assert torch.allclose(torch.tensor(soundfile.read(after)[0].T).float(), expected, atol=1e-6)


def test_the_command_learns_scores_and_writes_an_excerpt(tmp_path, base, capfd):
    root = write_songs(tmp_path / "songs", 3)
    (root / "song 0" / "mixture.wav").unlink()  # its stems are added up
    assert main(["learn", "oud", str(root), "--device", "cpu", *QUICK]) == 0
    messages = " ".join(capfd.readouterr().err.split())
    run = RunFolder(Path("runs/small-to-oud"))
    assert run.head_names() == ["oud"]
    assert "1 train the head, 1 decide when to stop, 1 are kept aside" in messages
    assert "On 1 song that it has not learnt from" in messages
    before, after = sorted((run.path / "listen").glob("*.wav"), key=lambda path: "after" in path.name)
    assert soundfile.info(before).frames == soundfile.info(after).frames == 2 * 8000
    assert run.results.is_file()
    assert main(["separate", str(before), "--head", "oud"]) == 0  # on the package's model, by its name alone
    assert main(["learn", "oud", str(root), *QUICK]) == 2
    assert "exists already" in capfd.readouterr().err
    assert main(["learn", "vocals", str(root), *QUICK]) == 2
    assert "has a head 'vocals' already. Call the new one otherwise: --as vocals2" in capfd.readouterr().err


def test_one_song_gives_a_head_and_no_score(tmp_path, base, capfd):
    root = write_songs(tmp_path / "songs", 1)
    assert main(["learn", "oud", str(root), "--as", "lute", "--device", "cpu", *QUICK]) == 0
    messages = capfd.readouterr().err
    assert "No song was kept aside, so there is no score" in messages
    assert "a song that it has learnt from" in messages
    assert RunFolder(Path("runs/small-to-lute")).head_names() == ["lute"]


def test_what_is_no_folder_is_refused(base, capfd):
    assert main(["learn", "oud", "nowhere"]) == 2
    assert "there is no folder 'nowhere'" in capfd.readouterr().err
    assert main(["learn", "oud", "train.steps=3"]) == 2
    assert "expected folders of songs" in capfd.readouterr().err
