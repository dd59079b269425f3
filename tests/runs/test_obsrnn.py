"""Published oBSRNN checkpoints: sizes, names, refusals, parity; untrusted files are never run."""

import builtins
import copy
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.bands import band_ranges
from refined_bsrnn.errors import CheckpointError, RecipeError
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.runs.exchange.importing import import_networks as import_obsrnn
from refined_bsrnn.runs.exchange.importing import read_network
from refined_bsrnn.runs.exchange.obsrnn import infer_recipe, normalise
from refined_bsrnn.runs.exchange.torchfile import TorchFile
from refined_bsrnn.separation.separator import Separator

N, N_FFT = 4, 2048
# Folders of checkpoints with stored estimates of the published code; none of these tests is made where there are none.
PARITY = sorted(Path(os.environ.get("REFINED_BSRNN_PARITY", os.devnull)).glob("*/info.json"))


def load_obsrnn(path):
    """The network of a published checkpoint with its weights."""
    return read_network(TorchFile(path)).load()


def read_state_dict(path):
    """All tensors of a checkpoint."""
    file = TorchFile(path)
    return {name: file.read(name) for name in file.names}


# --- a checkpoint as magronp/bsrnn writes it --------------------------------------------------------------------------


def recurrent(n, cell="lstm"):
    """The shapes of one ResNet of theirs: an LSTM, a GRU or a convolution along time or bands."""
    shapes = {"norm.weight": [n], "norm.bias": [n], "proj.weight": [n, 4 * n], "proj.bias": [n]}
    if cell == "conv":
        return {**shapes, "main_layer.0.weight": [4 * n, n, 3], "main_layer.0.bias": [4 * n]}
    rows = 2 * n * (4 if cell == "lstm" else 3)
    for end in ("", "_reverse"):
        shapes |= {f"main_layer.weight_ih_l0{end}": [rows, n], f"main_layer.weight_hh_l0{end}": [rows, 2 * n]}
        shapes |= {f"main_layer.bias_ih_l0{end}": [rows], f"main_layer.bias_hh_l0{end}": [rows]}
    return shapes


def projection(n, width, n_bands):
    """The shapes of 1×1 convolution, PReLU and norm over the frame."""
    norm = {"2.gamma": [1, width, 1, n_bands], "2.beta": [1, width, 1, n_bands]}
    return {"0.weight": [width, n, 1, 1], "0.bias": [width], "1.weight": [1], **norm}


def additions(n, n_bands):
    """The shapes of attention (2 heads, 16) and TAC."""
    shapes = {}
    for head in range(2):
        for kind, width in (("Q", 16), ("K", 16), ("V", n // 2)):
            root = f"attn_block.attn_conv_{kind}_{head}."
            shapes |= {root + k: v for k, v in projection(n, width, n_bands).items()}
    shapes |= {f"attn_block.attn_concat_proj.{k}": v for k, v in projection(n, n, n_bands).items()}
    for name, out, into in (("transform", 3 * n, n), ("average", 3 * n, 3 * n), ("concat", n, 6 * n)):
        root = f"tac_module.{name}"
        shapes |= {f"{root}.0.weight": [out, into], f"{root}.0.bias": [out], f"{root}.1.weight": [1]}
    return shapes


def layout(bands, n=N, repeats=1, maskers=1, attention=False, tac=False, cells=("lstm", "lstm"), naive=False, heads=1):
    """{key: shape} of a published network (spec §8.1), written down apart from the importer's own table."""
    channels = 2 if naive else 1
    widths = [stop - start for start, stop in band_ranges(bands, n_fft=N_FFT, rounding="floor")]
    shapes = {"stft.transf.window": [N_FFT], "istft.transf.window": [N_FFT]}
    for i, g in enumerate(widths):
        width = 2 * g * channels
        shapes |= {f"BN.{i}.0.weight": [width], f"BN.{i}.0.bias": [width]}
        shapes |= {f"BN.{i}.1.weight": [n, width, 1], f"BN.{i}.1.bias": [n]}
    more = {k: v for k, v in additions(n, len(widths)).items() if (tac if k.startswith("tac") else attention)}
    for r in range(repeats):
        for net, cell in zip(("time_net", "band_net"), cells, strict=True):
            shapes |= {f"separator.{r}.{net}.{k}": v for k, v in recurrent(n // heads, cell).items()}
        shapes |= {f"separator.{r}.{k}": v for k, v in more.items()}
    for s in range(maskers):
        for i, g in enumerate(widths):
            root = f"maskers.{s}.mask.{i}"
            shapes |= {f"{root}.0.weight": [n], f"{root}.0.bias": [n]}
            for j, out, into in ((1, 4 * n, n), (3, 4 * n, 4 * n), (5, 4 * g * channels, 4 * n)):
                shapes |= {f"{root}.{j}.weight": [out, into, 1], f"{root}.{j}.bias": [out]}
    return shapes


def tensors_of(shapes, seed=0):
    random = torch.Generator().manual_seed(seed)
    tensors = OrderedDict((k, 0.3 * torch.randn(shape, generator=random)) for k, shape in shapes.items())
    for name in tensors:  # one parameter with three names
        if "tac_module" in name and name.endswith(".1.weight"):
            tensors[name] = tensors[name.split("tac_module")[0] + "tac_module.transform.1.weight"]
    return tensors


# A class of a package that need not be installed.
Hyper = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})


def write_checkpoint(path, tensors, monkeypatch, **extra):
    """As Lightning writes it: OmegaConf objects beside the tensors, the optimiser's moments behind them."""
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = Hyper
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", module)
        hyper = Hyper()
        hyper.lr = 1e-3
        state = {"state": {i: {"exp_avg": torch.zeros_like(t)} for i, t in enumerate(tensors.values())}}
        content = {"epoch": 3, "state_dict": tensors, "optimizer_states": [state]}
        torch.save({**content, "hyper_parameters": {"args": hyper}, **extra}, path)
    return path


@pytest.fixture
def plain(tmp_path, monkeypatch):
    return write_checkpoint(tmp_path / "bass.ckpt", tensors_of(layout("bass")), monkeypatch)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PARITY, ids=lambda p: p.parent.name)
def test_the_published_network_and_ours_give_the_same_samples(path):
    info, vectors = json.loads(path.read_text()), np.load(path.parent / "vectors.npz")
    model = load_obsrnn(path.parent / info["checkpoint"])
    assert count_parameters(model) == info["n_params"]
    with torch.no_grad():
        estimates = model(torch.from_numpy(vectors["mixture"])[None])
    for target, expected in zip(info["targets"], vectors["estimates"], strict=True):
        assert np.abs(estimates[target][0].numpy() - expected).max() < 1e-5


def wave(shape, seed):
    """Numbers between -1 and 1 that follow from a formula, the same everywhere."""
    n = int(np.prod(shape))
    return torch.from_numpy(np.sin(np.arange(1, n + 1) * (1.7 + seed % 13) + seed)).float().reshape(shape)


def test_the_arithmetic_stays_that_of_the_published_code(tmp_path, monkeypatch):
    """Samples stored when the network had been found equal to the published one to 5e-8 (see PARITY)."""
    stored = json.loads((Path(__file__).parents[1] / "vectors" / "obsrnn.json").read_text())
    tensors = {
        key: 0.3 * wave(shape, i) for i, (key, shape) in enumerate(layout("bass", attention=True, tac=True).items())
    }
    for key in [k for k in tensors if "tac_module" in k and k.endswith(".1.weight")]:
        tensors[key] = torch.tensor([0.2])
    model = load_obsrnn(write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch))
    with torch.no_grad():
        estimate = model(0.1 * wave((1, 2, 6000), 3))["bass"]
    assert np.abs(estimate[0, :, ::500].numpy() - np.array(stored)).max() < 1e-6


VARIANTS = {
    "gru": {"cells": ("gru", "gru")},
    "conv-band": {"cells": ("lstm", "conv")},
    "naive-stereo": {"naive": True},
    "heads": {"heads": 2},
    "naive-conv-heads-attention": {"naive": True, "cells": ("conv", "gru"), "heads": 2, "attention": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_give_the_samples_of_the_published_code(tmp_path, monkeypatch, name):
    """Samples that the published code (f2ecc62) gave with these weights; ours differed from them by at most 1e-7."""
    stored = json.loads((Path(__file__).parents[1] / "vectors" / "obsrnn_variants.json").read_text())[name]
    tensors = {key: 0.3 * wave(shape, i) for i, (key, shape) in enumerate(layout("bass", **VARIANTS[name]).items())}
    model = load_obsrnn(write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch))
    assert count_parameters(model) == sum(t.numel() for key, t in tensors.items() if "stft" not in key)
    with torch.no_grad():
        estimate = model(0.1 * wave((1, 2, 6000), 3))["bass"]
    assert np.abs(estimate[0, :, ::500].numpy() - np.array(stored)).max() < 1e-6


def test_a_network_of_three_masks_gives_the_fourth_target_as_the_rest(tmp_path, monkeypatch):
    tensors = tensors_of(layout("joint", maskers=3))
    model = load_obsrnn(write_checkpoint(tmp_path / "separator.ckpt", tensors, monkeypatch))
    assert list(model.heads) == ["vocals", "bass", "drums"]
    assert model.targets == ["vocals", "bass", "drums", "other"]
    mixture = 0.1 * torch.randn(1, 2, 6000)
    with torch.no_grad():
        estimates = model(mixture)
    torch.testing.assert_close(sum(estimates.values()), mixture, atol=1e-6, rtol=0)


LARGE = {"n": 128, "repeats": 12}
OPT = {**LARGE, "attention": True, "tac": True}
NOTAC = {**LARGE, "attention": True}
SMALL = {"n": 64, "repeats": 8}
COUNTS = [  # spec §2.7
    (SMALL, {"vocals": 8_020_296, "bass": 7_111_432, "drums": 9_177_032, "other": 8_020_296}),
    (LARGE, {"vocals": 36_417_160, "bass": 32_797_192, "drums": 41_024_392, "other": 36_417_160}),
    (NOTAC, {"vocals": 37_227_484, "bass": 33_523_036, "drums": 41_942_236, "other": 37_227_484}),
    (OPT, {"vocals": 40_777_192, "bass": 37_072_744, "drums": 45_491_944, "other": 40_777_192}),
    ({**SMALL, "maskers": 3}, {"separator": 20_861_520}),
    ({**OPT, "maskers": 4}, {"separator": 108_727_540}),
]
SCHEME = {"vocals": "v7", "other": "v7", "bass": "bass", "drums": "drums", "separator": "joint"}


@pytest.mark.parametrize(
    ("values", "name", "parameters"),
    [(values, name, parameters) for values, counts in COUNTS for name, parameters in counts.items()],
)
def test_the_sizes_of_all_published_networks_follow_from_their_tensors(values, name, parameters):
    path = Path(f"{name}.ckpt")
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in layout(SCHEME[name], **values).items()}
        slopes = [
            key for key in tensors if "tac_module" in key and key.endswith(("average.1.weight", "concat.1.weight"))
        ]
        ours = {key: t for key, t in tensors.items() if key not in slopes}
        recipe = infer_recipe(ours, path)
        assert count_parameters(BSRNN.from_recipe(recipe)) == parameters
    assert sum(t.numel() for key, t in ours.items() if "stft" not in key) == parameters
    assert recipe.bands.kind == SCHEME[name]
    assert len(recipe.targets) == (4 if name == "separator" else 1)
    assert recipe.together == ("subtract_last" if values.get("maskers") == 3 else "none")


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("tac", [False, True])
def test_every_variant_of_the_layout_loads(tmp_path, monkeypatch, attention, tac):
    tensors = tensors_of(layout("bass", repeats=2, attention=attention, tac=tac))
    model = load_obsrnn(write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch))
    backbone = model.backbone.state_dict()
    assert torch.equal(backbone["encoder.linears.3.weight"], tensors["BN.3.1.weight"][..., 0])
    assert torch.equal(backbone["blocks.1.band.rnn.bias_hh_l0"], tensors["separator.1.band_net.main_layer.bias_hh_l0"])
    assert torch.equal(model.heads["bass"].bands[7][5].weight, tensors["maskers.0.mask.7.5.weight"][..., 0])
    if attention:
        gamma = tensors["separator.0.attn_block.attn_conv_V_1.2.gamma"][0, :, 0].T
        assert torch.equal(backbone["blocks.0.attention.heads.1.value.norm.weight"], gamma)
    if tac:
        slope = tensors["separator.1.tac_module.concat.1.weight"]
        assert torch.equal(backbone["blocks.1.tac.activation.weight"], slope)
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(1, 2, 5000))["bass"]).all()


def test_tac_without_slopes_has_tanh():
    shapes = {k: v for k, v in layout("bass", tac=True).items() if not ("tac_module" in k and ".1." in k)}
    recipe = infer_recipe(tensors_of(shapes), Path("bass.ckpt"))
    assert recipe.backbone.options["tac_activation"] == "tanh"
    shapes = {k: v for k, v in shapes.items() if "stft" not in k}
    assert count_parameters(BSRNN.from_recipe(recipe)) == sum(int(np.prod(s)) for s in shapes.values())


def test_older_files_call_the_masks_otherwise(tmp_path, monkeypatch, plain):
    tensors = {k.replace("maskers.0.mask.", "mask."): t for k, t in tensors_of(layout("bass")).items()}
    (tmp_path / "old").mkdir()
    old = load_obsrnn(write_checkpoint(tmp_path / "old" / "bass.ckpt", tensors, monkeypatch))
    for name, tensor in load_obsrnn(plain).state_dict().items():
        assert torch.equal(tensor, old.state_dict()[name])
    with pytest.raises(CheckpointError, match="both mask. and maskers.0.mask. names"):
        normalise({**tensors, "maskers.0.mask.0.0.weight": torch.ones(4), "mask.0.0.weight": torch.ones(4)}, plain)


# --- a run like any other ---------------------------------------------------------------------------------------------


def test_from_the_command_line_to_estimates_and_a_new_head(tmp_path, monkeypatch, capsys):
    tensors = tensors_of(layout("joint", maskers=4, attention=True, tac=True))
    path = write_checkpoint(tmp_path / "separator.ckpt", tensors, monkeypatch)
    assert main(["import-obsrnn", str(path), "--out", "runs/obsrnn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs/obsrnn": ["bass", "drums", "other", "vocals"]}
    mixture = 0.1 * torch.randn(1, 2, 6000)
    with torch.no_grad():
        expected = load_obsrnn(path)(mixture)["drums"]
        assert torch.equal(Separator.from_pretrained("obsrnn").model(mixture)["drums"], expected)
    provenance = json.loads(Path("runs/obsrnn/provenance.json").read_text())
    assert provenance["imported_from"]["bytes"] == path.stat().st_size
    quick = [
        "train.steps=1",
        "train.batch_size=1",
        "train.workers=0",
        "train.chunk_seconds=0.2",
        "train.warmup_steps=0",
    ]
    for split in ("train", "test"):
        folder = tmp_path / "songs" / split / f"song-{split}"
        folder.mkdir(parents=True)
        for seed, stem in enumerate(("guitar", "vocals", "drums")):
            noise = 0.1 * np.random.default_rng(seed).standard_normal((44100, 2))
            soundfile.write(folder / f"{stem}.wav", noise, 44100)
    data = [f"data.root={tmp_path / 'songs'}", "data.validation_share=0", "log.wandb=offline"]
    assert main(["transfer", "--base", "obsrnn", "--target", "guitar", *quick, *data]) == 0
    assert Separator.from_pretrained("obsrnn-to-guitar").heads == ["guitar"]
    assert main(["evaluate", "obsrnn", "--data", str(tmp_path / "songs")]) == 0


def test_several_checkpoints_are_several_runs(tmp_path, monkeypatch, plain):
    drums = write_checkpoint(tmp_path / "drums.ckpt", tensors_of(layout("drums"), seed=1), monkeypatch)
    runs = import_obsrnn([plain, drums], tmp_path / "runs" / "small")
    assert [(run.name, run.head_names()) for run in runs] == [("small-bass", ["bass"]), ("small-drums", ["drums"])]
    with pytest.raises(RecipeError, match="exists already and is not overwritten"):
        import_obsrnn([plain, drums], tmp_path / "runs" / "small")
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="file exists already and is not overwritten"):
        import_obsrnn([plain], tmp_path / "file")
    with pytest.raises(RecipeError, match="import them one by one"):
        import_obsrnn([plain, plain], tmp_path / "runs" / "twice")


# --- what is refused --------------------------------------------------------------------------------------------------


def change(tensors, **changes):
    """Without a tensor (None) or with another."""
    changed = {**tensors, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: t for key, t in changed.items() if t is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BN__3__1__bias": None}, "BN.3.1.bias is missing"),
        ({"separator__0__band_net__proj__bias": None}, "separator.0.band_net.proj.bias is missing"),
        ({"BN__0__2__weight": torch.ones(1)}, "BN.0.2.weight is not part of the network"),
        ({"ema__decay": torch.ones(1)}, "ema.decay is not part of the network"),
        ({"maskers__0__mask__2__5__bias": torch.ones(9)}, r"bands.2.5.bias has shape \(9,\), the network \(8,\)"),
        ({"BN__1__1__weight": torch.ones(4, 4, 2)}, "linears.1.weight has shape"),
        ({"BN__1__0__weight": torch.ones(6)}, "bands of .* bins; expected those of v7, bass, drums, joint"),
        ({"separator__0__time_net__main_layer__weight_hh_l0": torch.ones(24, 8)}, "weight_ih_l0 has shape"),
        ({"separator__0__time_net__main_layer__weight_hh_l0": None}, "main_layer is no layer of magronp/bsrnn"),
        ({"separator__0__time_net__norm__weight": None}, "layout is not that of magronp/bsrnn"),
        ({"separator__0__time_net__main_layer__weight_hh_l0_reverse": None}, "expected a bidirectional LSTM or GRU"),
        ({"separator__0__time_net__norm__weight": torch.ones(3)}, "on 3 of 4; expected the same along time and bands"),
        ({"separator__0__time_net__in_layer__0__weight": torch.ones(4)}, "is a BSCNN .* no weights of it are publish"),
        ({"separator__0__tac_module__transform__1__weight": torch.ones(1)}, "average.1.weight is missing"),
        ({"separator__0__tac_module__concat__1__weight": torch.ones(1)}, "differs from .*transform.1.weight"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, changes, message):
    path = write_checkpoint(tmp_path / "bass.ckpt", change(tensors_of(layout("bass")), **changes), monkeypatch)
    with pytest.raises(CheckpointError, match=message):
        load_obsrnn(path)


def test_slopes_that_differ_are_refused(tmp_path, monkeypatch):
    tensors = change(tensors_of(layout("bass", tac=True)), separator__0__tac_module__average__1__weight=torch.ones(1))
    with pytest.raises(CheckpointError, match="one slope for both"):
        load_obsrnn(write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch))


@pytest.mark.parametrize("name", ["separator", "guitar"])
def test_the_file_name_must_say_the_targets(tmp_path, plain, name):
    plain.rename(tmp_path / f"{name}.ckpt")
    with pytest.raises(CheckpointError, match="holds 1 masks; the targets follow from the file's name: vocals.ckpt"):
        load_obsrnn(tmp_path / f"{name}.ckpt")


def test_another_layout_is_refused(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "vocals.ckpt", {"model.bandsplit.fcs.0.weight": torch.ones(2)}, monkeypatch)
    with pytest.raises(CheckpointError, match="has 0 bands"):
        load_obsrnn(path)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": {"a": 3}}, [1], torch.ones(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "vocals.ckpt")
    with pytest.raises(CheckpointError, match="no tensors under 'state_dict'"):
        read_state_dict(tmp_path / "vocals.ckpt")


def test_files_that_are_no_checkpoint_are_refused(tmp_path, plain, capsys):
    whole = plain.read_bytes()
    for text in (b"", b"no zip", whole[: len(whole) // 2], whole[:-1], pickle.dumps({"state_dict": {}})):
        plain.write_bytes(text)
        with pytest.raises(CheckpointError, match="Download it again"):
            read_state_dict(plain)
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="holds no data.pkl"):
        read_state_dict(plain)
    assert main(["import-obsrnn", str(tmp_path / "gone.ckpt"), "--out", "runs/x"]) == 1
    assert "is not there" in capsys.readouterr().err


def repack(path, changes, compression=zipfile.ZIP_STORED):
    """Other contents for some parts of a zip (None: left out)."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(parts)).partition("/")[0]
    parts |= {f"{root}/{name}": data for name, data in changes.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            if data is not None:
                archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("changes", "compression", "message"),
    [
        ({"data/5": None}, zipfile.ZIP_STORED, "cannot be read: .*data/5"),
        ({"data/5": b"1234"}, zipfile.ZIP_STORED, "does not fit its part"),
        ({"byteorder": b"big"}, zipfile.ZIP_STORED, "big-endian"),
        ({}, zipfile.ZIP_DEFLATED, "is compressed"),
        ({"data.pkl": b"\x80\x02}q\x00(X"}, zipfile.ZIP_STORED, "cannot be read"),
    ],
)
def test_a_zip_with_wrong_parts_is_refused(plain, changes, compression, message):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(repack(plain, changes, compression))


def test_a_zip_whose_parts_are_the_same_bytes_again_and_again_is_refused(plain):
    """A reader of all parts would read many times what the file holds."""
    with zipfile.ZipFile(plain, "a") as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        for i in range(1000):
            again = copy.copy(largest)
            again.filename = f"{largest.filename}{i}"
            archive.filelist.append(again)
        archive.writestr("bass/last", b"")  # a changed archive writes its list of parts again
    with pytest.raises(CheckpointError, match="parts that overlap"):
        read_state_dict(plain)


def test_a_flipped_bit_is_noticed(plain):
    data = bytearray(plain.read_bytes())
    with zipfile.ZipFile(plain) as archive:
        part = next(p for p in archive.infolist() if p.filename.endswith("/data/6"))
    data[part.header_offset + 30 + len(part.filename) + 70] ^= 1
    plain.write_bytes(data)
    with pytest.raises(CheckpointError, match="Download it again"):
        read_state_dict(plain)


# --- hostile files ----------------------------------------------------------------------------------------------------


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def alarm(tmp_path):
    """The file that an attack would write; it must not be there in the end."""
    file = tmp_path / "written"
    yield file
    assert not file.exists()


def attacks(file):
    code = f"open({str(file)!r}, 'w')"
    return [Call(os.system, f"touch {file}"), Call(builtins.eval, code), Call(exec, code), Call(Path.touch, file)]


@pytest.mark.parametrize("i", range(4))
def test_what_a_file_wants_to_call_is_never_called(tmp_path, monkeypatch, alarm, i):
    attack = attacks(alarm)[i]
    tensors = tensors_of(layout("bass"))
    path = write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch, callbacks=attack)
    refusal = "module posix is blocked" if i == 0 else None
    if refusal:
        with pytest.raises(CheckpointError, match=refusal):
            read_state_dict(path)
    else:
        assert torch.equal(read_state_dict(path)["BN.0.1.bias"], tensors["BN.0.1.bias"])  # inert, the rest is read
    for content in (attack, {"state_dict": attack}, {"state_dict": {"a": attack}}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=refusal or "no tensors under 'state_dict'"):
            read_state_dict(path)


def test_other_kinds_of_dicts_beside_the_tensors_are_passed_over(tmp_path, monkeypatch):
    tensors, counts = tensors_of(layout("bass")), defaultdict(list)
    counts["epochs"].append(3)
    path = write_checkpoint(tmp_path / "bass.ckpt", tensors, monkeypatch, loops=counts)
    assert torch.equal(read_state_dict(path)["BN.0.1.bias"], tensors["BN.0.1.bias"])


@pytest.mark.parametrize(
    "program",
    [
        b"ccollections\nOrderedDict\n(N}X\x01\x00\x00\x00aK\x01stb.",  # sets attributes of a class
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__init__K\x01sb.",
        b"cos\nsystem\n(X\x02\x00\x00\x00idtR.",
        b"(X\x02\x00\x00\x00idios\nsystem\n.",
        b"\x80\x04\x82\x01.",  # the extension registry
        b"X\x01\x00\x00\x00aQ.",  # a storage that is no storage
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"Nr\xff\xff\xff\x0f.",  # a memo of 4 GB
        b"Np999999999\n.",
        b"\x80\x05\x96\xff\xff\xff\xff\x03\x00\x00\x00.",  # a bytearray of 16 GB
    ],
)
def test_crafted_pickles_end_in_an_error(plain, program):
    with pytest.raises(CheckpointError):
        read_state_dict(repack(plain, {"data.pkl": program}))
    assert read_state_dict(write_again(plain))  # what came before has changed nothing


def test_what_a_pickle_claims_is_not_reserved(plain):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        read_state_dict(repack(plain, {"data.pkl": b"Nr\xff\xff\xff\x0f."}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB; a byte on macOS


def write_again(path):
    torch.save({"state_dict": OrderedDict(a=torch.ones(2))}, path)
    return path


@pytest.mark.parametrize(
    "geometry", [(0, (9,), (1,)), (-1, (2,), (1,)), (2, (3,), (1,)), (0, (2,), (-1,)), (0, 2, 1), (0, (10**11,), (0,))]
)
def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path, geometry):
    class Reaching:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.ones(4)._typed_storage(), *geometry, False, OrderedDict())

    torch.save({"state_dict": {"a": Reaching()}}, tmp_path / "vocals.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read|claims to hold"):
        read_state_dict(tmp_path / "vocals.ckpt")


def test_a_small_file_does_not_become_large_by_naming_its_numbers_again_and_again(tmp_path):
    numbers = torch.ones(1000)
    torch.save({"state_dict": {"a": numbers, "b": numbers}}, tmp_path / "vocals.ckpt")
    assert len(read_state_dict(tmp_path / "vocals.ckpt")) == 2  # one parameter with two names is common
    torch.save({"state_dict": {f"t{i}": numbers for i in range(200)}}, tmp_path / "vocals.ckpt")
    with pytest.raises(CheckpointError, match="bytes and claims to hold 200000 numbers"):
        read_state_dict(tmp_path / "vocals.ckpt")
