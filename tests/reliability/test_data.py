"""What happens to songs and numbers in the middle of a training: named, skipped or stopped as the recipe says."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.errors import AudioError, UserError
from refined_bsrnn.runs.folder import RunFolder, load_state
from refined_bsrnn.training import loader
from refined_bsrnn.training.failures import TrainingStopped
from refined_bsrnn.training.learner import Learner
from refined_bsrnn.training.loader import MOST_SKIPPED, Patient
from refined_bsrnn.training.train import train
from refined_bsrnn.training.transfer import resume
from tests.conftest import RATE, micro_recipe

RUN = RunFolder(Path("runs/mtl-custom"))


@pytest.fixture
def recipe(songs, monkeypatch):
    monkeypatch.setattr(loader, "RETRY_SECONDS", (0.01, 0.02))
    return micro_recipe(songs, train={"steps": 12, "validate_every": 100, "checkpoint_every": 100})


def when(step, work):
    return lambda trainer: work() if trainer.progress.step == step else None


def removed(songs):
    (songs / "train" / "song-1" / "drums.wav").unlink()


def cut_off(songs):
    path = songs / "train" / "song-1" / "drums.wav"
    path.write_bytes(path.read_bytes()[:2000])


def shorter(songs):
    soundfile.write(songs / "train" / "song-1" / "drums.wav", np.zeros((100, 2)), RATE)


def no_numbers(songs):
    soundfile.write(songs / "train" / "song-1" / "drums.wav", np.full((2 * RATE, 2), np.nan), RATE, subtype="FLOAT")


HARMS = [removed, cut_off, shorter, no_numbers]


@pytest.mark.parametrize("harm", HARMS)
def test_a_stem_that_changes_in_the_middle_stops_the_training_and_is_named(songs, recipe, harm):
    with pytest.raises(UserError, match=r"song-1/drums\.wav\W.*--resume runs/mtl-custom"):
        train(recipe, when(2, lambda: harm(songs)))
    assert load_state(RUN.state)[1]["step"] >= 2


@pytest.mark.parametrize("harm", HARMS)
def test_or_is_skipped_if_the_recipe_says_so(songs, recipe, harm, capsys):
    recipe = replace(recipe, data=replace(recipe.data, unreadable="skip"))
    assert train(recipe, when(2, lambda: harm(songs)))[1]
    said = capsys.readouterr().err
    assert "song-1/drums.wav" in said.replace("\n", "")
    assert said.count("left out (data.unreadable=skip)") == 1


def test_a_training_that_was_stopped_goes_on_by_skipping(songs, recipe):
    drums = songs / "train" / "song-1" / "drums.wav"
    whole = drums.read_bytes()
    with pytest.raises(UserError):
        train(recipe, when(2, lambda: removed(songs)))
    drums.write_bytes(whole)  # to be found again, and to vanish again
    run, finished = resume(RUN, when(6, lambda: removed(songs)), ["data.unreadable=skip"])
    assert finished
    assert run.load_recipe().data.unreadable == "skip"


def test_nothing_that_can_be_read_is_a_sentence():
    class Nothing:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            raise AudioError(f"song-{index}.wav is cut off.")

    with pytest.raises(AudioError, match=f"{MOST_SKIPPED} examples one after the other cannot be read"):
        Patient(Nothing(), skips=True)[0]


def test_the_gradient_that_is_no_number_is_named_with_its_head_and_its_songs(songs, recipe, monkeypatch):
    update, calls = Learner.update, []

    def poisoned(self):
        update(self)
        calls.append(1)
        if len(calls) == 2:
            weight = next(p for name, p in self.trained.items() if "heads.drums" in name)
            weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))

    monkeypatch.setattr(Learner, "update", poisoned)
    with pytest.raises(
        TrainingStopped, match=r"the gradient of head drums became NaN .* at step 3; .*songs.*: song-[12]"
    ):
        train(recipe)
    assert load_state(RUN.state)[1]["step"] == 2


def test_two_separations_into_one_folder_both_complete(tmp_path):
    import threading

    from refined_bsrnn.apps.cli.main import main
    from refined_bsrnn.audio import write_audio
    from tests.apps.test_stems import make_run, noise  # the network of some other tests

    make_run("mtl", ["vocals", "drums"])
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", noise(2, 8000), 8000)
    codes = {}

    def work(name):
        codes[name] = main(["separate", f"{name}.wav", "--model", "mtl", "--out", "out"])

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {"a": 0, "b": 0}
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.wav")) == [
        *("mtl/a/drums.wav", "mtl/a/vocals.wav", "mtl/b/drums.wav", "mtl/b/vocals.wav")
    ]
    shutil.rmtree("out")
