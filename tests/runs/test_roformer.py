"""Published RoFormers: equal to a network written apart, runs like any other, refusals, untrusted files, memory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from refined_bsrnn.apps.cli.main import main
from refined_bsrnn.bands import band_split
from refined_bsrnn.errors import CheckpointError, RecipeError
from refined_bsrnn.network.core import MaskCore
from refined_bsrnn.network.info import describe
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.recipe import load_recipe
from refined_bsrnn.runs.exchange.importing import read_network
from refined_bsrnn.runs.exchange.torchfile import TorchFile
from refined_bsrnn.runs.folder import load_model
from refined_bsrnn.separation.separator import Separator
from tests.conftest import write_songs
from tests.helpers.roformers import config_of, published, tensors_of, usual_speeds, write


def load(checkpoint, config):
    return read_network(TorchFile(checkpoint), config).load()


def noise(channels=2, length=1600, seed=0):
    return 0.1 * torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


# --- parity -----------------------------------------------------------------------------------------------------------

CASES = {
    "bs": ({}, {}),
    "bs-target": ({"target": "drums", "mask_estimator_depth": 1}, {}),
    "bs-three-deep": ({"stems": ("a", "b", "c"), "mask_estimator_depth": 4, "mlp_expansion_factor": 1}, {}),
    "bs-layers": ({"time_transformer_depth": 2, "freq_transformer_depth": 3, "depth": 1}, {"feed_forward": 2}),
    "bs-mono": ({"stereo": False, "zero_dc": False, "stft_hop_length": 50}, {}),
    "bs-bias": ({"use_shared_bias": True}, {"bias": True}),
    "bs-speeds": ({}, {"own_speeds": True}),
    "bs-normalised": ({"stft_normalized": True, "attn_dropout": 0.1, "stft_hop_length": 32}, {}),
    "mel": ({"mel": True, "time_transformer_depth": 2}, {}),
    "mel-target": ({"mel": True, "target": "vocals", "mask_estimator_depth": 3}, {"own_speeds": True}),
    "mel-mono": ({"mel": True, "stereo": False, "mask_estimator_depth": 1}, {"feed_forward": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_those_of_the_published_network(tmp_path, name):
    values, options = CASES[name]
    config = config_of(**values)
    tensors = tensors_of(config["model"], **options)
    checkpoint, yaml_file = write(tmp_path, config, tensors)
    model, mixture = load(checkpoint, yaml_file), noise(2 if config["model"]["stereo"] else 1)
    with torch.no_grad():
        estimates = model(mixture[None])
    normalised = published(tensors, config, mixture)
    for target, expected in zip(model.heads, normalised, strict=True):
        assert (estimates[target][0] - expected).abs().max() < 1e-6 * max(1, 10 * expected.abs().max())
    shared = [key for key in tensors if key.startswith("shared") or key.endswith("freqs")]
    assert count_parameters(model) == sum(t.numel() for key, t in tensors.items() if key not in shared)


def test_however_quiet_the_mixture_is_and_in_silence(tmp_path):
    """Their norm knows no level; an epsilon beside the power would be heard below -90 dB."""
    config = config_of()
    tensors = tensors_of(config["model"])
    model = load(*write(tmp_path, config, tensors))
    for gain in (1e-5, 1e-8):
        mixture = gain * noise()
        with torch.no_grad():
            estimates = torch.stack([x[0] for x in model(mixture[None]).values()])
        assert (estimates - published(tensors, config, mixture)).abs().max() < 1e-5 * gain
    mixture = noise()
    mixture[:, 500:1100] = 0  # whole frames
    with torch.no_grad():
        estimates = torch.stack([x[0] for x in model(mixture[None]).values()])
        assert (estimates - published(tensors, config, mixture)).abs().max() < 1e-6
        assert model(torch.zeros(1, 2, 1600))["drums"].abs().max() == 0


@pytest.mark.parametrize("own_speeds", [False, True])
def test_half_precision(tmp_path, own_speeds):
    config = config_of()
    tensors = tensors_of(config["model"], own_speeds=own_speeds)
    model, mixture = load(*write(tmp_path, config, tensors, half=True)), noise()
    with torch.no_grad():
        estimates = torch.stack([x[0] for x in model(mixture[None]).values()])
    rounded = {
        name: t if name.endswith("freqs") and not own_speeds else t.half().float() for name, t in tensors.items()
    }
    assert (estimates - published(rounded, config, mixture)).abs().max() < 1e-6
    assert (estimates - published(tensors, config, mixture)).abs().max() < 2e-3
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    # the usual speeds, rounded, are taken as the usual ones
    assert bool(model.recipe.backbone.options.get("time_speeds")) == own_speeds


def test_a_checkpoint_without_rotary_speeds_has_the_usual_ones(tmp_path):
    config = config_of()
    tensors = tensors_of(config["model"])
    with_them = load(*write(tmp_path / "a", config, tensors))
    without = load(*write(tmp_path / "b", config, {k: t for k, t in tensors.items() if not k.endswith("freqs")}))
    with torch.no_grad():
        assert torch.equal(with_them(noise()[None])["drums"], without(noise()[None])["drums"])
    assert torch.allclose(torch.tensor([1.0, 0.01]), usual_speeds(4))


@pytest.mark.parametrize("wrapped", ["state_dict", "state", "model_state_dict"])
def test_state_dicts_may_stand_under_a_name(tmp_path, wrapped):
    config = config_of()
    tensors = tensors_of(config["model"])
    model = load(*write(tmp_path, config, tensors, wrapped))
    assert torch.equal(model.backbone.norm.weight, tensors["final_norm.gamma"])


def test_the_mel_bands_are_those_of_librosa():
    """The ends of some of the 60 bands at 44.1 kHz as librosa.filters.mel gives them."""
    split = band_split("mel_band_roformer", n_bands=60)
    assert [split[i] for i in (0, 1, 30, 58, 59)] == LIBROSA_60
    split = band_split("mel_band_roformer", sample_rate_hz=8000, n_fft=256, n_bands=8)
    assert split.ranges == ((0, 17), (9, 26), (17, 34), (26, 44), (34, 58), (44, 75), (58, 98), (75, 129))


LIBROSA_60 = [(0, 7), (4, 10), (126, 145), (836, 958), (895, 1025)]

# Bytes of public checkpoints; a file is little more than its numbers.
PUBLIC = {
    "bs_roformer": ((), 527_385_512),
    "viperx": (
        ("targets=[vocals]", "backbone.features=512", "backbone.repeats=12", "head.hidden_factor=4"),
        639_331_213,
    ),
    "anvuew": (
        ("targets=[vocals]", "backbone.features=256", "backbone.repeats=12", "head.hidden_factor=4"),
        204_485_563,
    ),
    "mel_roformer": ((), 913_106_900),
    "karaoke": (("targets=[lead_vocals, back_vocals]",), 1_719_139_254),
    "chencfd": (("targets=[guitar]", "backbone.features=192", "backbone.repeats=8"), 276_726_667),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_recipes_have_the_sizes_of_public_checkpoints(name):
    overrides, n_bytes = PUBLIC[name]
    recipe = load_recipe("mel_roformer" if name in ("mel_roformer", "karaoke", "chencfd") else "bs_roformer", overrides)
    with torch.device("meta"):
        assert 1 < n_bytes / (4 * count_parameters(BSRNN.from_recipe(recipe))) < 1.002


# --- a run like any other ---------------------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path):
    """runs/base: a Mel-Band RoFormer of one target; its checkpoint and its configuration."""
    config = config_of(target="vocals", stems=("vocals", "other"), mel=True)
    checkpoint, yaml_file = write(tmp_path / "published", config, tensors_of(config["model"]))
    assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/base"]) == 0
    return checkpoint, yaml_file


def test_the_run_of_an_import(imported, capsys):
    model = load_model(load_run("base"))
    with torch.no_grad():
        assert torch.equal(model(noise()[None])["vocals"], load(*imported)(noise()[None])["vocals"])
        estimates = model(noise()[None])
    assert list(model.heads) == ["vocals"]
    assert list(estimates) == ["vocals", "other"]
    torch.testing.assert_close(sum(estimates.values())[0], noise(), atol=1e-6, rtol=0)  # other is what is left
    provenance = json.loads(Path("runs/base/provenance.json").read_text())["imported_from"]
    assert provenance["layout"] == "Mel-Band RoFormer (MSST)"
    assert [provenance["bytes"], provenance["config"]["file"]] == [imported[0].stat().st_size, "config.yaml"]
    separator = Separator.from_pretrained("base")
    assert (separator.chunk, separator.overlap) == (16000, 12000)  # 2 s, of which each sample lies in four
    assert Separator.from_pretrained("base", overlap=0.0).overlap == 0
    assert main(["heads", "verify", "base", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out).values()) == {"ok"}


def load_run(name):
    from refined_bsrnn.runs.folder import find_run

    return find_run(name)


QUICK = ["train.steps=2", "train.batch_size=2", "train.workers=0", "train.chunk_seconds=0.25", "train.warmup_steps=0"]
QUICK += ["train.validate_every=2", "log.wandb=off", "data.check=false"]
METHODS = {
    "frozen": [],
    "cache": ["--cache", "cache.pool=4"],
    "partial": ["--method", "partial", "--blocks", "1"],
    "lora": ["--method", "lora", "--rank", "2"],
    "full": ["--method", "full"],
    "init": ["--init-from", "vocals"],
}


@pytest.mark.parametrize("how", METHODS)
def test_transfers_from_an_import(tmp_path, imported, how):
    songs = write_songs(tmp_path / "songs", train=2, test=1)
    data = [f"data.root={songs}", "data.validation_tracks=[song-0]"]
    assert main(["transfer", "--base", "base", "--target", "bass", *METHODS[how], *QUICK, *data, "run.name=new"]) == 0
    model, base = load_model(load_run("new")), load_model(load_run("base"))
    assert list(model.heads) == ["bass"]
    assert model.recipe.separation == base.recipe.separation
    same = [torch.equal(a, b) for a, b in zip(model.backbone.parameters(), base.backbone.parameters(), strict=True)]
    assert all(same) == (how not in ("partial", "full"))
    assert torch.isfinite(model(noise()[None])["bass"]).all()


def test_every_command_takes_an_import(tmp_path, imported, capsys):
    songs = write_songs(tmp_path / "songs", train=1, test=1)
    song = songs / "test" / "song-0" / "mixture.wav"
    assert main(["separate", str(song), "--model", "base", "--out", "out", "--residual", "--head", "vocals"]) == 0
    written = {path.stem for path in Path("out").rglob("*.wav")}
    assert len(written) == 2
    assert main(["evaluate", "base", "--data", str(songs), "--no-excerpts"]) == 0
    results = json.loads(Path("runs/base/results.json").read_text())
    assert set(results["summary"]) >= {"vocals"}
    assert main(["heads", "export", "base", "--out", "shared"]) == 0
    assert Separator.from_pretrained("shared").heads == ["vocals", "other"]
    assert main(["report", "base", "--out", "report", "--no-audio"]) == 0
    capsys.readouterr()
    assert main(["info", "base", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    (head,) = (part for part in parts if part["name"] == "head vocals")
    assert head["megabytes"] == pytest.approx(4e-6 * count_parameters(load_model(load_run("base")).heads["vocals"]))
    assert main(["info", "base"]) == 0
    assert "MB" in capsys.readouterr().err


def test_an_import_in_a_browser(imported):
    from refined_bsrnn.apps.browser.studio import Studio

    studio = Studio(Separator.from_pretrained("base"), "base", 10.0, 60.0)
    assert studio.separator.heads == ["vocals", "other"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # what torch.export.load does
def test_an_import_as_a_program(tmp_path):
    """What ONNX is made of, see `test_export`; of few operations, each of which takes its time to be traced."""
    config = config_of(depth=1, target="vocals", freqs_per_bands=(60, 69))
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/small"]) == 0
    assert main(["export-onnx", "small", "--out", "core.pt2", "--head", "vocals"]) == 0
    planes = torch.randn(1, 2, 2, 129, 9)
    with torch.no_grad():
        (found,) = torch.export.load("core.pt2").module()(planes)
        (expected,) = MaskCore(load_model(load_run("small")), ["vocals"])(planes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_guitar_recipe_attaches_a_small_head(tmp_path, imported):
    songs = write_songs(tmp_path / "songs", train=2, test=1, stems=("vocals", "guitar", "other"))
    data = [f"data.root={songs}", "data.validation_tracks=[song-0]", "run.name=new", *QUICK]
    assert main(["transfer", "--base", "base", "--target", "guitar", "--recipe", "roformer_guitar", *data]) == 0
    model, base = load_model(load_run("new")), load_model(load_run("base"))
    layers = model.heads["guitar"].bands[0]
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, torch.nn.Linear)] == [
        (3, 6),
        (8 * 17, 3),
    ]
    assert count_parameters(model.heads["guitar"]) < count_parameters(base.heads["vocals"]) / 4
    assert main(["heads", "add", "base", "runs/new:guitar"]) == 0  # on the same backbone
    assert Separator.from_pretrained("base").heads == ["guitar", "vocals", "other"]


def test_the_cache_of_large_features_says_its_size_before_it_starts(tmp_path, imported, capsys):
    """60 bands × 384 features: 3 s at hop 441 are 301 frames of 16 bits."""
    from refined_bsrnn.training.feature_cache import FeatureCache, example_arrays

    recipe = load_recipe("mel_roformer", ["train.chunk_seconds=3.0"])
    arrays = example_arrays(recipe, (1, 60, 301, 384))
    assert arrays["features"].n_bytes == 60 * 301 * 384 * 2
    with pytest.raises(
        RecipeError, match=r"2000 mixtures of 16.0 MB, 31.97 GB in .*allows 20. Allow more, or cache.pool=1251"
    ):
        FeatureCache({}, arrays, 2000, tmp_path).check_room(20.0)


def test_several_checkpoints_with_one_configuration(tmp_path):
    config = config_of()
    paths = []
    for seed in (1, 2):
        checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"], seed=seed))
        paths.append(str(checkpoint.rename(tmp_path / f"epoch-{seed}.ckpt")))
    assert main(["import", *paths, "--config", str(yaml_file), "--out", "runs/ro"]) == 0
    assert [load_run(f"ro-epoch-{seed}").name for seed in (1, 2)] == ["ro-epoch-1", "ro-epoch-2"]
    assert load_run("ro-epoch-1").load_recipe().run.name == "ro-epoch-1"


def test_a_configuration_may_say_no_more_than_the_tensors_cannot(tmp_path):
    config = config_of()
    whole = load(*write(tmp_path / "whole", config_of(), tensors_of(config["model"])))
    model = {key: config["model"][key] for key in ("dim", "stereo", "stft_n_fft", "stft_hop_length", "stft_win_length")}
    short = {"audio": {"sample_rate": 8000}, "model": model, "training": {"instruments": ["vocals", "drums"]}}
    network = load(*write(tmp_path / "short", short, tensors_of(config["model"])))
    assert network.recipe.backbone == whole.recipe.backbone
    assert network.recipe.head == whole.recipe.head
    assert network.recipe.separation.chunk_seconds == 6.0  # ours, where none is published


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["separation.overlap=1"], "separation.overlap is 1.0; expected less than 1"),
        (["backbone.time_layers=0"], "time_layers or band_layers is 0; expected 1 or more"),
        (["backbone.band_speeds=[1, 2]"], "gives 2 speeds; expected 32, half of head_dim"),
        (["head.hidden_layers=9"], "head.hidden_layers is 9; expected 0 to 8"),
        (["head.hidden_factor=0.001"], "hidden_factor is 0.001 with 384 features; expected more than 0"),
    ],
)
def test_recipes_of_roformers_are_checked(overrides, message):
    with pytest.raises(RecipeError, match=message):
        describe(load_recipe("bs_roformer", overrides))


def test_the_recipe_says_how_a_signal_is_cut(tmp_path):
    recipe = load_recipe("micro", ["separation={chunk_seconds: 0.5, overlap: 0.1}"])
    separator = Separator(BSRNN.from_recipe(recipe))
    assert (separator.chunk, separator.overlap) == (22050, 2205)
    assert Separator(BSRNN.from_recipe(recipe), chunk_seconds=1.0).chunk == 44100


# --- what is refused --------------------------------------------------------------------------------------------------


def changed(tensors, **changes):
    """Without a tensor (None) or with another."""
    both = {**tensors, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in both.items() if value is not None}


ATTENTION = "layers__1__0__layers__0__0__"
REFUSED_TENSORS = [
    ({"band_split__to_features__3__1__bias": None}, "band_split.to_features.3.1.bias is missing"),
    ({f"{ATTENTION}to_gates__bias": None}, "layers.1.0.layers.0.0.to_gates.bias is missing"),
    ({f"{ATTENTION}rotary_embed__freqs": None}, "rotary_embed.freqs is missing"),
    ({f"{ATTENTION}rotary_embed__freqs": torch.ones(2)}, "rotary_embed.freqs differs from"),
    ({"layers__0__0__layers__0__0__to_gates__weight": None}, "to_gates.weight is missing"),
    (
        {"mask_estimators__1__to_freqs__2__0__2__weight": torch.ones(3, 24)},
        r"has shape \(3, 24\), the network \(24, 24\)",
    ),
    ({f"{ATTENTION}to_out__0__weight": torch.ones(6, 7)}, r"to_out.0.weight has shape \(6, 7\), the network \(6, 8\)"),
    ({"final_norm__gamma": None}, "final_norm.gamma is missing"),
    ({"extra": torch.ones(2)}, "extra is not part of the network"),
    ({"shared_qkv_bias": torch.ones(24)}, "shared_qkv_bias is not part of the network"),
    ({"layers__1__1__norm__gamma": torch.ones(6)}, "layers.1.1.norm.gamma is not part of the network"),
    ({"layers__0__0__layers__0__0__temperature": torch.ones(2, 1, 1)}, "with linear attention, which is not supported"),
    ({"layers__0__0__layers__0__0__pope_embed__bias": torch.ones(2)}, "with PoPE positions, which"),
    ({"layers__0__0__layers__0__0__static_beta": torch.ones(4)}, "with hyper-connections, which"),
    ({f"{ATTENTION}to_value_residual_mix__bias": torch.ones(2)}, "with value residuals, which"),
    ({"mask_estimators__0__segm__conv__weight": torch.ones(2)}, "with HyperACE"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_TENSORS)
def test_tensors_that_do_not_fit_are_named(tmp_path, changes, message):
    config = config_of()
    paths = write(tmp_path, config, changed(tensors_of(config["model"]), **changes))
    with pytest.raises(CheckpointError, match=message):
        load(*paths)


REFUSED_VALUES = [
    ({"linear_transformer_depth": 1}, "asks for linear attention"),
    ({"use_pope": True}, "asks for PoPE positions"),
    ({"num_residual_streams": 4}, "asks for hyper-connections"),
    ({"add_value_residual": True}, "asks for value residuals"),
    ({"skip_connection": True}, "asks for skip connections"),
    ({"stft_win_length": 128}, "a window of 128 samples with n_fft 256 is not supported"),
    ({"hyperace": {"a": 1}}, "model.hyperace is unknown here"),
    ({"num_bands": 7}, "model.num_bands is unknown here"),
    ({"dim": 8}, "says model.dim: 8, and .* has 6: they do not belong together"),
    ({"depth": 10**9}, "says model.depth: 1000000000, and"),
    ({"heads": 4, "dim_head": 2}, "says model.heads: 4, and"),
    ({"mask_estimator_depth": 3}, "says model.mask_estimator_depth: 3, and .* has 2"),
    ({"mlp_expansion_factor": 2}, "says model.mlp_expansion_factor: 2, and .* has 4"),
    ({"num_stems": 4}, "says model.num_stems: 4, and"),
    ({"use_shared_bias": True}, "says model.use_shared_bias: True, and .* has no such biases"),
    ({"stereo": False}, "are not the 7 bands of 129 bins, real and imaginary, of 1 channels"),
    ({"stereo": "yes"}, "model.stereo is 'yes'; expected true or false"),
    ({"stft_n_fft": 10**10, "stft_win_length": 10**10}, "stft_win_length is 10000000000; expected a whole number"),
    ({"stft_n_fft": 10**9, "stft_win_length": 10**9}, "are not the 7 bands of 500000001 bins"),
    ({"stft_hop_length": 0}, "stft_hop_length is 0; expected a whole number from 1"),
    ({"stft_hop_length": 200}, "stft.hop is 200 with n_fft 256"),
    ({"freqs_per_bands": [1, 2, 3, 6, 20, 39, 58]}, r"says model.freqs_per_bands: \[1, 2, 3, 6, 20, 39, 58\], and"),
    ({"freqs_per_bands": [1, 2, 3, 6, 20, 97]}, "says model.freqs_per_bands"),
    ({"freqs_per_bands": [[1], 2]}, "model.freqs_per_bands is a list; expected bins"),
    ({"dim": None}, "has no model.dim: it is no configuration of a RoFormer"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED_VALUES)
def test_a_configuration_that_does_not_fit_is_named(tmp_path, values, message):
    config = config_of()
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    yaml_file.write_text(yaml.dump({**config, "model": {**config["model"], **values}}))
    with pytest.raises(RecipeError, match=message):
        load(checkpoint, yaml_file)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"instruments": ["vocals", "drums", "bass"]}, "has 2 masks, and .* names 3: vocals, drums, bass"),
        ({"instruments": ["vocals", "drums"], "target_instrument": "drums"}, "has 2 masks, and .* names 1: drums"),
        ({"instruments": ["vocals"], "target_instrument": "drums"}, "target_instrument is 'drums'; expected one of"),
        ({"instruments": "vocals"}, "training.instruments is 'vocals'; expected a list of names"),
        ({"instruments": ["../vocals", "drums"]}, "cannot name a target"),
        ([1], r"training is \[1\]; expected keys and values"),
    ],
)
def test_targets_that_do_not_fit_are_named(tmp_path, training, message):
    config = config_of()
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    yaml_file.write_text(yaml.dump({**config, "training": training}))
    with pytest.raises(RecipeError, match=message):
        load(checkpoint, yaml_file)


def test_swapped_files_and_anothers_configuration(tmp_path, capsys):
    bs, mel = config_of(), config_of(mel=True)
    of_bs = write(tmp_path / "bs", bs, tensors_of(bs["model"]))
    of_mel = write(tmp_path / "mel", mel, tensors_of(mel["model"]))
    for checkpoint, yaml_file, message in (
        (of_bs[0], of_mel[1], "model.num_bands is unknown here"),
        (of_mel[0], of_bs[1], "model.freqs_per_bands is unknown here"),
        (of_bs[1], of_bs[0], "is no checkpoint that torch.save wrote"),
        (of_bs[0], of_bs[0], "a configuration has some 5 000|is no YAML"),
        (of_bs[0], tmp_path / "gone.yaml", "cannot be read: No such file"),
    ):
        assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/x"]) in (1, 2)
        assert re.search(message, capsys.readouterr().err)
    assert main(["import", str(of_bs[0]), "--out", "runs/x"]) == 2
    assert "is a RoFormer, whose targets and STFT stand in a file of their own" in capsys.readouterr().err
    assert not Path("runs/x").exists()


def test_damaged_files_leave_nothing_behind(tmp_path, capsys):
    config = config_of()
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    whole = checkpoint.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # within the numbers of a tensor: noticed when it is read
    for content in (whole[: len(whole) // 2], bytes(flipped)):
        checkpoint.write_bytes(content)
        assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/x"]) == 1
        assert "Download it again" in capsys.readouterr().err
        assert not list(Path("runs").glob("*")) if Path("runs").exists() else True
    for path in (checkpoint, yaml_file):
        shutil.copy(path, tmp_path / "copy")
    checkpoint.write_bytes(whole)
    assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/x"]) == 0
    assert main(["import", str(checkpoint), "--config", str(yaml_file), "--out", "runs/x"]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch written']",
        "model: !!python/object/new:os.system ['touch written']",
        "model: {dim: !!python/name:os.system}",
        "model: !!python/module:os",
        "model: {dim: !!python/tuple {a: b}}",
        "model: &a {dim: 6}\nb: {<<: [*a, *a]}",
        "[" * 20_000,
        "model: {dim: 6",
        "model: {dim: " + "9" * 5000 + "}",
        "model: {dim: 0x" + "f" * 50_000 + ", freqs_per_bands: [1], depth: 2}",
        "- 1",
        "",
        "a: &a [1]\nb: &b [*a, *a]\nc: &c [*b, *b]\nmodel: *c",
        "x" * 300_000,
    ],
)
def test_a_hostile_configuration_is_refused(tmp_path, text):
    config = config_of()
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    yaml_file.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load(checkpoint, yaml_file)
    assert len(str(refused.value)) < 1000
    assert not Path("written").exists()


def test_values_without_end_do_not_become_text(tmp_path):
    """Ten lines of aliases hold 10^10 items, and printing them would never end."""
    config = config_of()
    checkpoint, yaml_file = write(tmp_path, config, tensors_of(config["model"]))
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11))]
    for key in ("freqs_per_bands", "dim", "stereo", "use_pope", "unknown"):
        rest = {**config, "model": {name: value for name, value in config["model"].items() if name != key}}
        text = yaml.dump(rest).replace("model:\n", f"model:\n  {key}: *a10\n", 1)
        yaml_file.write_text("\n".join([*lines, text]))
        with pytest.raises(RecipeError):
            load(checkpoint, yaml_file)


def test_a_small_file_cannot_ask_for_a_network_without_end(tmp_path):
    config = config_of()
    tensors = tensors_of(config["model"])
    many = {f"layers.{i}.1.layers.0.x": torch.ones(1) for i in range(300)}
    many |= {f"layers.0.{axis}.layers.{i}.x": torch.ones(1) for i in range(300) for axis in (0, 1)}
    with pytest.raises(CheckpointError, match="names 180014 layers and masks, and has .* tensors"):
        load(*write(tmp_path, config, {**tensors, **many}))
    huge = {**tensors, "band_split.to_features.0.1.weight": torch.empty(10**12, 0)}
    with pytest.raises(CheckpointError, match="to_features.0.1.weight is missing or has another shape"):
        load(*write(tmp_path, config, huge))


def test_a_hostile_checkpoint_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "written",)

    config = config_of()
    tensors = tensors_of(config["model"])
    checkpoint, yaml_file = write(tmp_path, config, tensors)
    for content in (Attack(), {**tensors, "final_norm.gamma": Attack()}, {"state_dict": Attack()}):
        torch.save(content, checkpoint)
        with pytest.raises(CheckpointError, match="no tensors under 'state_dict'"):
            load(checkpoint, yaml_file)
    torch.save({**tensors, "final_norm.gamma": torch.ones(6, dtype=torch.long)}, checkpoint)
    with pytest.raises(
        CheckpointError, match="final_norm.gamma is not described as a tensor of floating-point numbers"
    ):
        load(checkpoint, yaml_file)
    assert not (tmp_path / "written").exists()


# --- memory -----------------------------------------------------------------------------------------------------------

# The process's own peak: ru_maxrss also counts that of the process that started it.
PEAK = """
import re, sys
from pathlib import Path
from refined_bsrnn.runs.exchange.importing import import_networks
from refined_bsrnn.runs.exchange.published_network import without_numbers
from refined_bsrnn.recipe import load_recipe
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
without_numbers(load_recipe("micro"))  # PyTorch loads what it needs for that
before = peak()
for folder in map(Path, sys.argv[1:]):
    import_networks([folder / "model.ckpt"], folder / "run", folder / "config.yaml")
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone says it")
def test_an_import_takes_little_memory(tmp_path):
    """At most 1.3 times the file was wanted; tensor by tensor it is a small part of it, of half or full precision."""
    config = config_of(dim=256, depth=12, heads=8, dim_head=64, mlp_expansion_factor=4, stems=tuple("abcdef"))
    config["model"]["mask_estimator_depth"] = 3
    tensors, folders = tensors_of(config["model"]), (tmp_path / "half", tmp_path / "full")
    sizes = [write(folder, config, tensors, half=folder.name == "half")[0].stat().st_size for folder in folders]
    assert sizes[0] > 95e6
    assert sizes[1] > 190e6
    words = [sys.executable, "-c", PEAK, *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for peak_kib, size in zip(done.stdout.split(), sizes, strict=True):
        assert 1024 * int(peak_kib) < 0.2 * size
    for folder in folders:
        shutil.rmtree(folder)


def test_a_large_head_is_what_it_is_in_info():
    info = describe(load_recipe("mel_roformer"))
    (head,) = (part for part in info.parts if part.name == "head vocals")
    assert head.megabytes == pytest.approx(805.86, abs=0.01)
