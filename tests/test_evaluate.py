"""Evaluation: what is scored, what is left out and counted."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, micro_recipe, write_song, write_songs

from refined_bsrnn.checkpoint import RunFolder, save_weights
from refined_bsrnn.errors import CheckpointError, DataError
from refined_bsrnn.evaluate import evaluate, finite, nan_mean, nan_median
from refined_bsrnn.files import write_json, write_text
from refined_bsrnn.metrics import csdr, si_sdr, usdr
from refined_bsrnn.model import BSRNN
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.separate import Separator
from refined_bsrnn.sources import fingerprint, track_table, tracks_of

PROVENANCE = {
    "parameters": {"trained": 1, "frozen": 0},
    "steps_done": 4,
    "seconds": 1.0,
    "device": "cpu",
    "seed": 0,
    "data": {"fingerprint": "f"},
}


@pytest.fixture
def run(songs):
    """A run that was never trained: evaluation does not mind."""
    torch.manual_seed(0)
    recipe = micro_recipe(songs)
    run = RunFolder(songs.parent / "runs" / "mtl")
    write_text(run.recipe, dump_recipe(recipe))
    write_json(run.provenance, PROVENANCE)
    save_weights(run, BSRNN.from_recipe(recipe))
    return run


def read(path):
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T


def test_every_score_is_that_of_the_metrics_module(run, songs):
    results = evaluate(run)
    folder = songs / "test" / "song-0"
    mixture, stem = read(folder / "mixture.wav"), read(folder / "drums.wav")
    estimate = Separator.from_pretrained(run.path).separate(torch.from_numpy(mixture))["drums"]
    row = results["tracks"][0]["targets"]["drums"]
    for source, signal in (("estimate", estimate), ("mixture", mixture)):
        assert row[source]["usdr"] == pytest.approx(usdr(stem, signal), abs=1e-4)
        assert row[source]["csdr"] == pytest.approx(csdr(stem, signal, RATE), abs=1e-4)
        assert row[source]["si_sdr"] == pytest.approx(si_sdr(stem, signal), abs=1e-4)
    assert row["silence"] == {
        "usdr": pytest.approx(0, abs=1e-4),
        "csdr": None,
        "si_sdr": None,
        "n_frames": 2,
        "n_frames_excluded": 2,
    }
    assert results["data"] == {
        "name": "songs",
        "builtin": False,
        "mixture": "file",
        "fingerprint": fingerprint(tracks_of(track_table(songs, ("test",)))),
    }


def test_results_are_written(run):
    results = evaluate(run)
    assert json.loads(run.results.read_text()) == results


def test_summary_is_mean_and_median_over_tracks(run, songs):
    for i in (1, 2):
        write_song(songs / "test" / f"song-{i}", seed=50 + i)
    results = evaluate(run)
    scores = [row["targets"]["drums"]["estimate"]["usdr"] for row in results["tracks"]]
    summary = results["summary"]["drums"]
    assert len(scores) == summary["n_tracks"] == results["n_tracks"] == 3
    assert summary["estimate"]["usdr"]["mean"] == pytest.approx(np.mean(scores))
    assert summary["estimate"]["usdr"]["median"] == pytest.approx(np.median(scores))


def test_a_stem_that_is_silent_throughout_is_counted_and_left_out(run, songs):
    folder = write_song(songs / "test" / "no-drums", seed=9)
    soundfile.write(folder / "drums.wav", np.zeros((2 * RATE, 2)), RATE)
    results = evaluate(run)
    summary = results["summary"]["drums"]
    assert (summary["n_tracks"], summary["n_silent"]) == (1, 1)
    row = next(row for row in results["tracks"] if row["track"] == "no-drums")["targets"]["drums"]
    assert row["reference_silent"]
    assert row["estimate"]["csdr"] is None
    assert summary["estimate"]["usdr"]["mean"] == results["tracks"][1]["targets"]["drums"]["estimate"]["usdr"]


def test_a_track_without_the_stem_is_scored_for_the_others(run, songs):
    (write_song(songs / "test" / "no-drums", seed=9) / "drums.wav").unlink()
    results = evaluate(run)
    assert results["summary"]["drums"]["n_tracks"] == 1
    assert results["summary"]["vocals"]["n_tracks"] == 2


def test_another_data_root_and_split(run, tmp_path):
    other = write_songs(tmp_path / "other", train=2)
    results = evaluate(run, str(other), "train")
    assert (results["data"]["name"], results["split"], results["n_tracks"]) == ("other", "train", 2)


@pytest.mark.slow
def test_museval_agrees(run):
    row = evaluate(run, with_museval=True)["tracks"][0]["targets"]
    for target in ("drums", "vocals"):
        assert row[target]["estimate"]["museval"].keys() == {"SDR", "ISR", "SIR", "SAR"}
        assert row[target]["estimate"]["museval"]["SDR"] == pytest.approx(row[target]["estimate"]["csdr"], abs=1e-3)


def test_no_track_has_the_target(run, tmp_path):
    other = write_songs(tmp_path / "other", stems=("piano", "flute"))
    with pytest.raises(
        DataError, match=r"none of 1 tracks in .*other/test has a stem for drums, vocals; stems there: flute"
    ):
        evaluate(run, str(other))
    with pytest.raises(DataError, match="there is no such folder"):
        evaluate(run, str(tmp_path / "nowhere"))


def test_old_results_survive_a_failure(run, tmp_path):
    evaluate(run)
    before = run.results.read_bytes()
    with pytest.raises(DataError):
        evaluate(run, str(tmp_path / "nowhere"))
    assert run.results.read_bytes() == before


def test_run_without_provenance(run):
    run.provenance.unlink()
    with pytest.raises(CheckpointError, match="provenance.json is not readable JSON"):
        evaluate(run)


def test_undefined_values():
    assert nan_median([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(nan_median([math.nan]))
    assert nan_mean([1.0, math.nan, 3.0]) == 2.0
    assert finite({"a": [math.nan, 1.0, -math.inf], "b": "x"}) == {"a": [None, 1.0, None], "b": "x"}
