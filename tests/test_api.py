"""The names that other programs rely on."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import refined_bsrnn
from refined_bsrnn.audio import audio_info, write_audio
from refined_bsrnn.bands import SCHEMES, band_ranges
from refined_bsrnn.metrics import csdr, si_sdr, usdr
from refined_bsrnn.runs.exchange import export
from refined_bsrnn.training.train import train
from tests.apps.test_stems import make_run, noise
from tests.audio.test_audio import encode, tone
from tests.conftest import RATE, micro_recipe

ROOT = Path(__file__).parent.parent


def test_names_at_the_top():
    assert set(refined_bsrnn.__all__) == {"BSRNN", "Separator", "__version__", "load_recipe"}
    with pytest.raises(AttributeError, match="no attribute 'Seperator'"):
        _ = refined_bsrnn.Seperator


def test_the_documented_calls(songs):
    from refined_bsrnn import BSRNN, Separator, load_recipe

    recipe = load_recipe("recipes/mtl_generic.yaml", ["bands.kind=v7", "targets=[drums]", "size=micro"])
    assert BSRNN.from_recipe(recipe).targets == ["drums"]
    assert band_ranges("tet24", sample_rate_hz=44100, n_fft=2048)[-1] == (801, 1025)
    assert "tet24" in SCHEMES
    run, _ = train(micro_recipe(songs))
    separator = Separator.from_pretrained(run.path, device="cpu")
    assert separator.heads == ["drums", "vocals"]
    assert not separator.model.training
    mixture = torch.randn(2, 2, 3000)
    assert separator.model(mixture, targets=None)["drums"].shape == mixture.shape
    stems = separator.separate(np.zeros((2, 1000), dtype=np.float32), sample_rate_hz=16000, heads=["vocals"])
    assert {name: tuple(x.shape) for name, x in stems.items()} == {"vocals": (2, 1000)}
    blocks = list(separator.stream(np.zeros((1, 1000)), start_seconds=0.01, duration_seconds=0.05))
    assert sum(block["drums"].shape[1] for block in blocks) == 400
    assert separator.features(mixture).shape[0] == 2
    assert separator.features(mixture).ndim == 4  # (B, K, T, N)
    stem = mixture[0].numpy()
    assert all(isinstance(x, float) for x in (usdr(stem, stem), csdr(stem, stem, 1000), si_sdr(stem, stem)))


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_snippet_of_the_document_runs(code, monkeypatch):
    from refined_bsrnn import Separator

    calls, signature = [], inspect.signature(export.export_core)
    # Writing ONNX takes long: test_export.py does it; here the arguments must fit.
    monkeypatch.setattr(export, "export_core", lambda *x, **y: calls.append(signature.bind(*x, **y).arguments))
    # Nothing comes from the hub here: owner/name is the run below.
    monkeypatch.setattr("refined_bsrnn.runs.exchange.hub.snapshot_download", lambda name, **options: "runs/mtl")
    causal = {"features": 4, "repeats": 1, "causal": True, "norm": "cumulative"}
    make_run("mtl", ["bass", "vocals"], backbone=causal)
    write_audio("song.mp3", noise(2, 3000), RATE)
    write_audio("long.flac", noise(1, 61 * RATE), RATE)
    encode("film.mkv", tone(3000), "flac", video=True)
    encode("long.m4a", tone(3000), "aac")
    given = {"separator": Separator.from_pretrained("mtl"), "waveform": noise(2, 3000)}
    values = {**given, "microphone": noise(2, 3000).split(700, dim=1)}
    exec(code.replace('"cuda"', '"cpu"'), values)
    if "separate(" in code:
        assert {name: x.shape for name, x in values["stems"].items()} == {"bass": (2, 3000)}
        assert values["features"].ndim == 4
    if "push(" in code:
        assert values["rest"].shape[:2] == (1, 2)
    if "write_audio" in code:
        assert audio_info("copy.flac").n_samples == 3000
    if "export_core" in code:
        assert [(str(call["path"]), call["targets"]) for call in calls] == [("mtl.onnx", ["vocals"])]


def test_the_document_has_these_snippets():
    assert len(SNIPPETS) == 4


def test_what_needs_no_torch_does_not_load_it():
    modules = ["refined_bsrnn", "refined_bsrnn.bands", "refined_bsrnn.apps.cli.main"]
    modules += ["refined_bsrnn.report.write", "refined_bsrnn.report.figures"]
    code = (
        f"import importlib, sys; print([m for m in {modules} if importlib.import_module(m) and 'torch' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"  # else the first of these loads it
