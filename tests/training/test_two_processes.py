"""One job of two processes does what one process does: training, transfer, evaluation. Starting it is what costs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refined_bsrnn.evaluation.evaluate import evaluate
from refined_bsrnn.recipe import dump_recipe, load_recipe, make_recipe
from refined_bsrnn.runs.folder import RunFolder, read_provenance
from refined_bsrnn.system import cache_folder
from refined_bsrnn.training.train import train
from tests.conftest import STEMS, in_two_processes, micro_values, write_songs

from .test_feature_cache import CACHED, QUICK, log, transfer_to
from .test_train import interrupt_at, losses, metrics, named


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    songs = write_songs(tmp_path / "songs", test=3, stems=(*STEMS, "guitar"))
    lacking = tmp_path / "lacking"
    shutil.copytree(songs, lacking)
    (lacking / "train" / "song-1" / "drums.wav").unlink()
    cases = {
        "plain": (songs, 2, {}),
        "weighted": (lacking, 1, {"weighting": "uncertainty", "wave_l1": 1.0, "combined_weighted_sdr": 0.1}),
        "truncated": (lacking, 2, {"truncate_quantile": 0.5, "wave_l1": 1.0}),
    }
    alone = {}
    for name, (root, accumulate, loss) in cases.items():
        train_values = {"steps": 10, "batch_size": 4, "accumulate": accumulate, "validate_every": 5}
        recipe = make_recipe(micro_values(root, train=train_values, loss=loss))
        (tmp_path / f"{name}.yaml").write_text(dump_recipe(recipe))
        alone[name], _ = train(named(recipe, f"{name}-alone"))
    half, _ = train(named(load_recipe(tmp_path / "plain.yaml"), "plain-half"), watch=interrupt_at(6))
    base = alone["plain"]
    heads = {"two": transfer_to(base, "one", *CACHED), "two-bent": transfer_to(base, "bent", method="lora")}
    scores = evaluate(base)
    for folder in (base.path / "evaluation", cache_folder() / "features"):
        shutil.rmtree(folder)
    base.results.unlink()
    transfers = ["transfer", "--base", str(base.path), "--target", "guitar", "bass", *QUICK]
    messages = in_two_processes(
        *(["train", f"{name}.yaml", f"run.name={name}-two"] for name in cases),
        ["train", "--resume", str(half.path)],
        [*transfers, "run.name=two", *CACHED],
        [*transfers, "run.name=two-bent", "--method", "lora"],
        ["evaluate", str(base.path), "--device", "cpu"],
    )
    check_trainings(alone, messages)
    check_the_resumed_one(half, alone["plain"], messages)
    check_transfers(heads)
    check_scores(base, scores, messages)


def check_trainings(alone, messages):
    """The same global batch, 10 steps; only the main process writes, and both end. Some songs may lack the drums."""
    assert messages.count("parameters train") == len(alone) + 1 + 2  # with the resumed one and the transfers
    for name, one in alone.items():
        two = RunFolder(Path("runs") / f"{name}-two")
        assert losses(two) == pytest.approx(losses(one), abs=1e-5)
        logged = [[x.get("drums/wave_l1", 0.0) for x in metrics(r) if "loss" in x] for r in (one, two)]
        assert logged[1] == pytest.approx(logged[0], abs=1e-5)
        validations = [[x["validation/usdr"] for x in metrics(r) if "validation/usdr" in x] for r in (one, two)]
        assert validations[1] == pytest.approx(validations[0], abs=1e-3)
        assert [x["step"] for x in metrics(two)] == [x["step"] for x in metrics(one)]
        assert read_provenance(two)["processes"] == 2


def check_the_resumed_one(half, plain, messages):
    assert "From step 7 on: processes is 2, it was 1." in messages
    assert losses(half) == pytest.approx(losses(plain), abs=1e-5)
    provenance = read_provenance(half)
    assert (provenance["processes"], provenance["history"][-1]["changed"]) == (2, {"processes": [1, 2]})


def check_transfers(heads):
    """The blocks of the cache are shared out; the losses are those of one process. An adapter is not cached."""
    for name, one in heads.items():
        two = replace(one, path=one.path.parent / name)
        assert read_provenance(two)["processes"] == 2
        np.testing.assert_allclose(log(two), log(one), rtol=1e-4)


def check_scores(base, scores, messages):
    """The processes share the tracks; one writes."""
    assert messages.count(f"Written: {base.results}") == 1, messages
    assert "one of 2 processes 2/2" in messages, "the first has two of the three tracks"
    assert_close(json.loads(base.results.read_text()), scores)


def assert_close(found, expected):
    """Equal but for the last digits of numbers: where weights lie in memory decides which instructions are used."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-3, rel=1e-4)
    else:
        assert found == expected
