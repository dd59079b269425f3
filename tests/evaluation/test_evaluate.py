"""Evaluation: what is scored, what is left out and counted."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.data import whole
from refined_bsrnn.data.scan import track_table
from refined_bsrnn.data.tracks import fingerprint, tracks_of
from refined_bsrnn.errors import CheckpointError, DataError, UserError
from refined_bsrnn.evaluation.evaluate import evaluate, evaluate_estimates
from refined_bsrnn.evaluation.oracle import CONTEXT, masked
from refined_bsrnn.metrics import csdr, si_sdr, usdr
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.plain import finite
from refined_bsrnn.recipe import dump_recipe
from refined_bsrnn.runs.folder import RunFolder, save_weights
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.system import write_json, write_text
from tests.conftest import RATE, micro_recipe, write_song, write_songs

module = sys.modules["refined_bsrnn.evaluation.evaluate"]
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
    results = evaluate(run, excerpts=False)
    folder = songs / "test" / "song-0"
    mixture, stem = read(folder / "mixture.wav"), read(folder / "drums.wav")
    estimate = Separator.from_pretrained(run.path).separate(torch.from_numpy(mixture))["drums"]
    row = results["tracks"][0]["targets"]["drums"]
    for source, signal in (("estimate", estimate), ("mixture", mixture)):
        assert row[source]["usdr"] == pytest.approx(usdr(stem, signal), abs=1e-4)
        assert row[source]["csdr"] == pytest.approx(csdr(stem, signal, RATE), abs=1e-4)
        assert row[source]["si_sdr"] == pytest.approx(si_sdr(stem, signal), abs=1e-4)
    silence = row["silence"]
    assert silence["usdr"] == pytest.approx(0, abs=1e-4)
    assert (silence["csdr"], silence["si_sdr"]) == (None, None)
    assert (silence["n_frames"], silence["n_frames_excluded"]) == (2, 2)
    for mask, under in masked(torch.from_numpy(mixture), torch.from_numpy(stem)).items():
        assert row[mask]["usdr"] == pytest.approx(usdr(stem, under), abs=1e-4)
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
    results = evaluate(run, excerpts=False)
    scores = [row["targets"]["drums"]["estimate"]["usdr"] for row in results["tracks"]]
    summary = results["summary"]["drums"]
    assert len(scores) == summary["n_tracks"] == results["n_tracks"] == 3
    assert summary["estimate"]["usdr"]["mean"] == pytest.approx(np.mean(scores))
    assert summary["estimate"]["usdr"]["median"] == pytest.approx(np.median(scores))


def test_a_stem_that_is_silent_throughout_is_counted_and_left_out(run, songs):
    folder = write_song(songs / "test" / "no-drums", seed=9)
    soundfile.write(folder / "drums.wav", np.zeros((2 * RATE, 2)), RATE)
    results = evaluate(run, excerpts=False)
    summary = results["summary"]["drums"]
    assert (summary["n_tracks"], summary["n_silent"]) == (1, 1)
    row = next(row for row in results["tracks"] if row["track"] == "no-drums")["targets"]["drums"]
    assert row["reference_silent"]
    assert row["estimate"]["csdr"] is None
    assert summary["estimate"]["usdr"]["mean"] == results["tracks"][1]["targets"]["drums"]["estimate"]["usdr"]


def test_a_track_without_the_stem_is_scored_for_the_others(run, songs):
    (write_song(songs / "test" / "no-drums", seed=9) / "drums.wav").unlink()
    results = evaluate(run, excerpts=False)
    assert results["summary"]["drums"]["n_tracks"] == 1
    assert results["summary"]["vocals"]["n_tracks"] == 2


def test_another_data_root_and_split(run, tmp_path):
    other = write_songs(tmp_path / "other", train=3)
    results = evaluate(run, str(other), "train")
    # song-0 is one of the recipe's validation tracks
    assert (results["data"]["name"], results["split"], results["n_tracks"]) == ("other", "train", 2)


def test_valid_and_train_are_the_runs_own_split(run, songs, capsys):
    """song-0 is kept for validation by the recipe; no folder `valid/` says so."""
    assert [t["track"] for t in evaluate(run, split="valid", excerpts=False)["tracks"]] == ["song-0"]
    assert "valid: the 1 of 3 tracks that the run keeps for validation." in capsys.readouterr().err
    assert [t["track"] for t in evaluate(run, split="train", excerpts=False)["tracks"]] == ["song-1", "song-2"]


@pytest.mark.slow
def test_museval_agrees(run):
    row = evaluate(run, with_museval=True)["tracks"][0]["targets"]
    for target in ("drums", "vocals"):
        assert row[target]["estimate"]["museval"].keys() == {"SDR", "ISR", "SIR", "SAR"}
        assert row[target]["estimate"]["museval"]["SDR"] == pytest.approx(row[target]["estimate"]["csdr"], abs=1e-3)


def test_no_track_has_the_target(run, tmp_path):
    other = write_songs(tmp_path / "other", stems=("piano", "flute"))
    with pytest.raises(
        DataError, match=r"none of 1 tracks in .*other \(test\) has a stem for drums, vocals; stems there: flute"
    ):
        evaluate(run, str(other))
    with pytest.raises(DataError, match="there is no such folder"):
        evaluate(run, str(tmp_path / "nowhere"))


def test_a_head_of_another_name_than_its_stem(run, songs):
    """Scored as under its own name; stems that are summed, too; and not taken for what was scored before."""
    expected = evaluate(run)
    for folder in (songs / "test").iterdir():
        (folder / "drums.wav").rename(folder / "kit.wav")
    found = evaluate(run, define={"drums": ("kit",)})
    assert found["data"]["define"] == {"drums": ["kit"]}
    with pytest.raises(DataError, match="--define drums: no track has a stem 'kid'. Did you mean 'kit'"):
        evaluate(run, define={"drums": ("bass", "kid")})
    for one, other in zip(found["tracks"], expected["tracks"], strict=True):
        assert one["targets"]["drums"]["estimate"]["usdr"] == other["targets"]["drums"]["estimate"]["usdr"]
    summed = evaluate(run, define={"drums": ("kit", "bass")})["tracks"][0]["targets"]["drums"]["estimate"]
    mixture, kit, bass = (read(songs / "test" / "song-0" / f"{name}.wav") for name in ("mixture", "kit", "bass"))
    estimate = Separator.from_pretrained(run.path).separate(torch.from_numpy(mixture))["drums"]
    assert summed["usdr"] == pytest.approx(usdr(kit + bass, estimate), abs=1e-4)


@pytest.mark.parametrize("text", ["drums", "=kit", "drums=", "drums=+"])
def test_a_definition_that_says_nothing(run, text, capsys):
    assert main(["evaluate", str(run.path), "--define", text]) == 2
    assert f"--define {text!r}: expected NAME=STEM or NAME=STEM+STEM." in " ".join(capsys.readouterr().err.split())


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
    assert finite({"a": [math.nan, 1.0, -math.inf], "b": "x"}) == {"a": [None, 1.0, None], "b": "x"}


# --- going on, sharing, parts of it -----------------------------------------------------------------------------------


@pytest.fixture
def separated(monkeypatch):
    """The lengths of the mixtures that were separated, in order."""
    seen = []
    real = Separator.stream_source

    def counted(self, source, heads):
        seen.append(source.n_samples)
        return real(self, source, heads)

    monkeypatch.setattr(Separator, "stream_source", counted)
    return seen


def test_an_interrupted_evaluation_goes_on(run, songs, separated, monkeypatch):
    for i, seconds in ((1, 3.0), (2, 1.5)):
        write_song(songs / "test" / f"song-{i}", seed=50 + i, seconds=seconds)
    real = module.score_track

    def breaks(job, track, keep=None):
        if track.name == "song-2":
            raise KeyboardInterrupt
        return real(job, track, keep)

    with monkeypatch.context() as patch:
        patch.setattr(module, "score_track", breaks)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, excerpts=False)
    assert separated == [3 * RATE, 2 * RATE], "the longest first"
    assert not run.results.exists()
    results = evaluate(run, excerpts=False)
    assert separated == [3 * RATE, 2 * RATE, 1.5 * RATE], "only what was missing"
    assert [row["track"] for row in results["tracks"]] == ["song-0", "song-1", "song-2"]
    assert json.dumps(results) == json.dumps(evaluate(run, excerpts=False))
    assert len(separated) == 3


@pytest.mark.parametrize("change", ["weights", "chunks", "stem", "sample", "mixture", "broken", "excerpt"])
def test_what_has_changed_is_scored_again(run, songs, separated, change):
    write_song(songs / "test" / "song-1", seed=51)
    before = evaluate(run, excerpts=change == "excerpt")
    if change == "weights":
        torch.manual_seed(1)
        save_weights(run, BSRNN.from_recipe(micro_recipe(songs)))
    elif change == "chunks":
        write_text(run.recipe, dump_recipe(micro_recipe(songs, separation={"chunk_seconds": 0.5})))
    elif change == "stem":
        soundfile.write(songs / "test" / "song-0" / "drums.wav", np.full((2 * RATE, 2), 0.1), RATE)
    elif change == "sample":  # one, in a file of the same size
        samples, rate = soundfile.read(songs / "test" / "song-0" / "drums.wav")
        samples[len(samples) // 3] = 0.99
        soundfile.write(songs / "test" / "song-0" / "drums.wav", samples, rate)
    elif change == "broken":
        (run.path / "evaluation" / "test" / "song-0.json").write_text("{")
    elif change == "excerpt":
        (run.path / "evaluation" / "test" / "song-0.drums.mixture.ogg").unlink()
    del separated[:]
    after = evaluate(run, mixture="sum" if change == "mixture" else "auto", excerpts=change == "excerpt")
    assert len(separated) == (2 if change in ("weights", "chunks", "mixture") else 1)
    assert (before["summary"] == after["summary"]) == (change in ("broken", "mixture", "excerpt"))


def test_no_more_than_a_piece_of_a_song_is_in_memory(run, songs, monkeypatch):
    write_song(songs / "test" / "long", seed=51, seconds=35.0)
    real, pieces = whole.read_part, []

    def counted(track, part, targets, start=0, n_samples=None):
        pieces.append(track.n_samples if n_samples is None else n_samples)
        return real(track, part, targets, start, n_samples)

    monkeypatch.setattr(whole, "read_part", counted)
    assert evaluate(run, excerpts=True)["tracks"][0]["targets"]["drums"]["estimate"]["n_frames"] == 35
    assert max(pieces) <= 10 * RATE + 3 * CONTEXT


def test_scores_that_another_machine_kept_to_itself(run, monkeypatch):
    monkeypatch.setattr(module, "write_json", lambda path, values: None)
    with pytest.raises(
        DataError, match=r"the scores of 1 tracks \(song-0, ...\) are not in .*evaluation; processes on"
    ):
        evaluate(run)


def test_only_some_tracks(run, songs):
    write_song(songs / "test" / "live", seed=51)
    results = evaluate(run, tracks=("li*",))
    assert [row["track"] for row in results["tracks"]] == ["live"]
    assert results["partial"] == {"tracks": ["li*"], "quick": False, "of": 2}
    with pytest.raises(DataError, match="no track is named nothing; there are 2, e.g. live, song-0"):
        evaluate(run, tracks=("nothing",))


def test_quick_is_usdr_on_eight_tracks_and_says_so(run, songs):
    for i in range(1, 11):
        write_song(songs / "test" / f"song-{i:02}", seed=50 + i, seconds=0.2)
    results = evaluate(run, quick=True)
    assert results["partial"] == {"tracks": None, "quick": True, "of": 11}
    assert results["n_tracks"] == 8
    assert results["tracks"][0]["targets"]["drums"]["estimate"].keys() == {"usdr"}
    assert results["summary"]["drums"]["estimate"].keys() == {"usdr"}
    assert json.loads(run.results.read_text()) == results
    assert not list(run.path.glob("evaluation/**/*.ogg"))


def test_a_part_never_replaces_the_whole(run):
    whole = evaluate(run)
    part = evaluate(run, quick=True)
    assert json.loads(run.results.read_text()) == whole
    assert json.loads((run.path / "results-part.json").read_text()) == part


def test_the_mixture_is_the_file_or_the_sum_and_said(run, songs):
    folder = songs / "test" / "song-0"
    louder = 1.005 * read(folder / "mixture.wav").T  # 46 dB below: still the sum of its stems to the ear
    soundfile.write(folder / "mixture.wav", louder, RATE, subtype="FLOAT")
    total = sum(read(folder / f"{stem}.wav") for stem in ("vocals", "drums", "bass", "other"))
    for kind, mixture in (("file", louder.T), ("sum", total)):
        results = evaluate(run, mixture=kind)
        assert results["data"]["mixture"] == kind
        expected = usdr(read(folder / "drums.wav"), mixture)
        assert results["tracks"][0]["targets"]["drums"]["mixture"]["usdr"] == pytest.approx(expected, abs=1e-5)
    soundfile.write(folder / "mixture.wav", 3 * louder, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"of track song-0 \(.*\) do not sum to its mixture; use --mixture file"):
        evaluate(run, mixture="sum")
    (folder / "mixture.wav").unlink()
    assert evaluate(run)["data"]["mixture"] == "sum"
    with pytest.raises(DataError, match="song-0 has no mixture file; --mixture sum"):
        evaluate(run, mixture="file")


def test_tracks_without_a_target_are_named(run, songs):
    (write_song(songs / "test" / "no-drums", seed=9) / "drums.wav").unlink()
    assert evaluate(run)["tracks_without"] == {"drums": ["no-drums"], "vocals": []}


def test_a_track_without_any_reference_is_said_and_counted(run, songs, capfd):
    folder = write_song(songs / "test" / "bare", seed=9)
    for stem in ("vocals", "drums", "bass", "other"):
        (folder / f"{stem}.wav").unlink()
    results = evaluate(run)
    assert results["tracks_without"] == {"drums": ["bare"], "vocals": ["bare"]}
    assert results["n_tracks"] == 1
    expected = "1 of 2 tracks have no stem for drums or vocals and are left out, e.g. bare."
    assert expected in " ".join(capfd.readouterr().err.split())
    with pytest.raises(
        DataError, match=r"none of 1 tracks in .* \(test\) has a stem for drums, vocals; stems there: none"
    ):
        evaluate(run, tracks=("bare",))


def test_a_network_that_gives_nan(run, monkeypatch):
    nan = torch.full((2, 2 * RATE), math.nan)
    monkeypatch.setattr(Separator, "stream_source", lambda self, source, heads: [dict.fromkeys(heads, nan)])
    with pytest.raises(DataError, match="the estimate of drums for track song-0 holds NaN or infinite samples"):
        evaluate(run)
    short = torch.zeros(2, 2 * RATE - 1)
    monkeypatch.setattr(Separator, "stream_source", lambda self, source, heads: [dict.fromkeys(heads, short)])
    with pytest.raises(DataError, match="the estimates of track song-0 have 15999 samples, the references 16000"):
        evaluate(run)


def test_leakage_needs_no_other_head(run, songs):
    """Of every stem of the track, also of those the run has no head for; a guitar in `other` is no part beside it."""
    row = evaluate(run)["tracks"][0]["targets"]["drums"]
    assert row["mixture"]["leakage_db"] == pytest.approx({"vocals": 0, "bass": 0, "other": 0}, abs=1e-3)
    folder = write_song(songs / "test" / "a", seed=3, stems=("drums", "vocals", "other"))
    shutil.copy(folder / "vocals.wav", folder / "guitar.wav")
    row = evaluate(run)["tracks"][0]["targets"]["drums"]
    assert list(row["estimate"]["leakage_db"]) == ["everything but drums"]


def test_excerpts_are_where_the_reference_is_loudest(run, songs):
    folder = write_song(songs / "test" / "a", seed=3, seconds=14.0)
    drums = 0.02 * np.random.default_rng(0).standard_normal((14 * RATE, 2))
    drums[3 * RATE :] *= 10
    soundfile.write(folder / "drums.wav", drums, RATE)
    row = evaluate(run)["tracks"][0]["targets"]["drums"]["excerpt"]
    assert (row["start_seconds"], row["seconds"]) == (pytest.approx(3.5, abs=0.51), 10.0)
    audio, rate = soundfile.read(run.path / "evaluation" / "test" / row["files"]["reference"]["file"])
    assert (rate, audio.shape) == (8000, (80000, 2))
    reference = soundfile.read(folder / "drums.wav", start=round(row["start_seconds"] * RATE), frames=80000)[0]
    assert np.corrcoef(audio.ravel(), reference.ravel())[0, 1] > 0.9
    rms = 10 * np.log10(np.mean(reference**2))
    assert row["files"]["reference"]["rms_dbfs"] == pytest.approx(rms, abs=1e-3)
    assert not list(evaluate(run, excerpts=False)["tracks"][0]["targets"]["drums"].keys() & {"excerpt"})


# --- museval ----------------------------------------------------------------------------------------------------------


def scores_of(results, name):
    return {t: results["summary"][t]["estimate"][f"museval_{name}"]["median"] for t in ("drums", "vocals")}


@pytest.mark.slow
def test_museval_reads_its_files(run, songs, tmp_path):
    """Its own classes aggregate to what the results say; frames in processes of their own are the same."""
    from museval import EvalStore, MethodStore

    write_song(songs / "test" / "song-1", seed=51, seconds=2.3)
    results = evaluate(run, museval_json=tmp_path / "ours", jobs=2)
    store, methods = EvalStore(), MethodStore()
    store.add_eval_dir(tmp_path / "ours")
    methods.add_eval_dir(tmp_path / "ours")
    theirs = store.agg_frames_tracks_scores()
    assert set(methods.df["track"]) == {"song-0", "song-1"}
    for name in ("SDR", "SIR", "SAR", "ISR"):
        for target, median in scores_of(results, name.lower()).items():
            assert theirs[target, name] == pytest.approx(median, abs=1e-4)
    for target in ("drums", "vocals"):
        assert theirs[target, "SDR"] == pytest.approx(
            results["summary"][target]["estimate"]["csdr_museval"]["median"], abs=1e-4
        )
    shutil.rmtree(tmp_path / "ours")
    again = evaluate(run, museval_json=tmp_path / "ours")
    assert again == results
    assert len(list((tmp_path / "ours" / "test").iterdir())) == 2, "written from what was stored"


@pytest.mark.slow
def test_one_target_is_scored_beside_the_accompaniment(run, songs, tmp_path):
    estimates = tmp_path / "theirs"
    drums = read(songs / "test" / "song-0" / "drums.wav")
    (estimates / "song-0").mkdir(parents=True)
    soundfile.write(estimates / "song-0" / "drums.wav", 0.9 * drums.T, RATE, subtype="FLOAT")
    evaluate_estimates(estimates, str(songs), museval_json=tmp_path / "json")
    written = json.loads((tmp_path / "json" / "test" / "song-0.json").read_text())
    assert [target["name"] for target in written["targets"]] == ["drums", "accompaniment"]
    assert written["targets"][0]["frames"][0]["metrics"]["SDR"] == pytest.approx(20, abs=1e-3)


# --- estimates of others ----------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(songs, tmp_path):
    """Estimates of drums that another program wrote: the true stem at 0.9."""
    path = tmp_path / "theirs" / "song-0" / "drums.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, 0.9 * read(songs / "test" / "song-0" / "drums.wav").T, RATE, subtype="FLOAT")
    return path


def test_estimates_in_a_folder(theirs, songs):
    results = evaluate_estimates(theirs.parent.parent, str(songs))
    row = results["tracks"][0]["targets"]["drums"]["estimate"]
    assert row["usdr"] == pytest.approx(20, abs=1e-3)
    assert (results["run"], results["kind"], results["targets"]) == ("theirs", "estimates", ["drums"])
    soundfile.write(theirs, 0.8 * read(theirs).T, RATE, subtype="FLOAT")
    row = evaluate_estimates(theirs.parent.parent, str(songs))["tracks"][0]["targets"]["drums"]["estimate"]
    assert row["usdr"] < 15, "another file is scored again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p, x: soundfile.write(p, x[:-1], RATE),
            "drums.wav has 15999 samples, its reference 16000; write",
        ),
        (lambda p, x: soundfile.write(p, x, 2 * RATE), "drums.wav has 16000 Hz, its reference 8000"),
        (lambda p, x: soundfile.write(p, np.tile(x, 2), RATE), "drums.wav has 4 channels, its reference 2; 2 or 1 fit"),
        (lambda p, x: soundfile.write(p, math.nan * x, RATE, subtype="FLOAT"), "drums.wav holds NaN or infinite"),
        (lambda p, x: p.rename(p.with_name("piano.wav")), "none of 1 tracks in .* has a stem for piano"),
        (lambda p, x: p.unlink(), r"has no estimate of any of 1 tracks, e.g. song-0/vocals.wav\..* --data ROOT"),
    ],
)
def test_estimates_that_do_not_fit(theirs, songs, change, message):
    change(theirs, read(theirs).T)
    with pytest.raises(UserError, match=message):
        evaluate_estimates(theirs.parent.parent, str(songs))


def test_a_track_without_an_estimate(theirs, songs, tmp_path):
    write_song(songs / "test" / "song-1", seed=51)
    with pytest.raises(DataError, match="has no estimate of drums for track song-1; every track needs one"):
        evaluate_estimates(theirs.parent.parent, str(songs))
    assert evaluate_estimates(theirs.parent.parent, str(songs), tracks=("song-0",))["n_tracks"] == 1
    with pytest.raises(DataError, match="there is no folder"):
        evaluate_estimates(tmp_path / "nowhere", str(songs))
