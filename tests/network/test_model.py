"""The network: sizes, shapes, independence, masks; properties over all registered components."""

import random

import pytest
import torch

from refined_bsrnn.bands import SCHEMES, band_ranges, band_split
from refined_bsrnn.errors import AudioError, CheckpointError, RecipeError, UserError
from refined_bsrnn.network.blocks import BLOCKS, CELLS, NORMS, TAC_ACTIVATIONS, CumulativeNorm, GlobalNorm, rotate
from refined_bsrnn.network.consistency import TOGETHER
from refined_bsrnn.network.heads import HEADS, MergeBands
from refined_bsrnn.network.model import BSRNN, count_parameters
from refined_bsrnn.network.receptive_field import latency_samples
from refined_bsrnn.network.signals import NORMALISERS, as_pairs
from refined_bsrnn.recipe import HeadSpec, dump_recipe, load_recipe, make_recipe, recipe_folder
from refined_bsrnn.runs.folder import RunFolder, load_model, save_weights
from refined_bsrnn.system import write_text
from refined_bsrnn.training.losses import JOINT_LOSSES, LOSSES, NEGATIVE_LOSSES
from refined_bsrnn.training.objective import Objective

MICRO = {
    "targets": ["vocals", "drums"],
    "stft": {"sample_rate_hz": 8000, "n_fft": 256, "hop": 64},
    "bands": {"kind": "custom", "edges_hz": [500, 2000]},
    "backbone": {"features": 4, "repeats": 1},
}
RECIPES = sorted(p for p in recipe_folder().glob("*.yaml") if not p.stem.startswith("compare"))  # those are studies
COMPONENTS = [
    pytest.param(
        {"backbone": {**MICRO["backbone"], "kind": block, "norm": norm}, "head": {"kind": head}},
        id=f"{block}-{norm}-{head}",
    )
    for block in BLOCKS
    for norm in NORMS
    for head in HEADS
]
RNN = "band_sequence_rnn"
VARIANTS = {
    "gru-time": {"kind": RNN, "time": "gru"},
    "conv": {"kind": RNN, "time": "conv", "band": "conv"},
    "bscnn": {"kind": RNN, "time": "dilated", "band": "dilated", "hidden_factor": 1},
    "one-dilation": {"kind": RNN, "time": "dilated", "dilations": 1},
    "gru-band-groups": {"kind": RNN, "band": "gru", "groups": 2},
    "attention": {"kind": RNN, "attention_heads": 2, "attention_dim": 3},
    "tac": {"kind": RNN, "stereo": "tac"},
    "tac-tanh": {"kind": RNN, "stereo": "tac", "tac_activation": "tanh"},
    "obsrnn": {"kind": RNN, "stereo": "tac", "attention_heads": 2},
    "causal": {"kind": RNN, "causal": True, "norm": "cumulative"},
    "causal-dilated": {"kind": RNN, "causal": True, "norm": "cumulative", "time": "dilated", "dilations": 4},
    "causal-conv-ln": {"kind": RNN, "causal": True, "norm": "ln", "time": "conv", "stereo": "tac"},
    "causal-gru": {"kind": RNN, "causal": True, "norm": "cumulative", "time": "gru", "groups": 2},
    "causal-rope": {"kind": "rope_transformer", "causal": True, "norm": "cumulative", "heads": 2, "head_dim": 4},
    "rope-tac": {"kind": "rope_transformer", "heads": 2, "head_dim": 4, "stereo": "tac"},
}
COMPONENTS += [
    pytest.param({"backbone": {**MICRO["backbone"], **backbone}}, id=name) for name, backbone in VARIANTS.items()
]
CAUSAL = [backbone for backbone in VARIANTS.values() if backbone.get("causal")]


PLAIN = {"backbone": MICRO["backbone"]}
COMPONENTS += [
    pytest.param({**PLAIN, "head": {"kind": head, "bridge": True, "hidden_layers": 2}}, id=f"bridge-{head}")
    for head in HEADS
]
COMPONENTS += [pytest.param({**PLAIN, "head": {"gate_layer": True}}, id="gate-layer")]
COMPONENTS += [pytest.param({**PLAIN, "together": "consistent"}, id="consistent")]


def test_everything_registered_is_among_the_components():
    """Blocks, norms and heads come from their dicts; the rest is in `VARIANTS` by name."""
    assert {*CELLS, "dilated"} <= {v.get(axis) for v in VARIANTS.values() for axis in ("time", "band")} | {"lstm"}
    assert set(TAC_ACTIVATIONS) <= {v.get("tac_activation", "prelu") for v in VARIANTS.values()}
    assert set(TOGETHER) == {"consistent", "subtract_last"}  # the second has one head less: test_consistency.py


def micro(**values):
    torch.manual_seed(0)
    return BSRNN.from_recipe(make_recipe({**MICRO, **values}))


# (scheme, N, R) → parameters with 1 target and 1 or 2 hidden layers in the head, with 4 targets and 1 or 2
REFERENCE_SIZES = {
    ("v7", 128, 12): (25_648_264, 36_417_160, 40_113_556, 83_189_140),
    ("tet24", 128, 12): (25_316_104, 34_771_720, 38_786_836, 76_609_300),
    ("joint", 128, 12): (26_711_176, 41_682_568, 44_359_060, 104_244_628),
    ("v7", 64, 8): (5_322_824, 8_020_296, 10_546_388, 21_336_276),
    ("tet24", 64, 8): (5_238_664, 7_607_176, 10_210_708, 19_684_756),
    ("tet24", 32, 6): (1_406_536, 2_000_968, 3_456_340, 5_834_068),
}


def network(kind, features, repeats, n_targets=1, **values):
    """A network without numbers; values of the backbone and the head by name."""
    backbone = {key: values.pop(key) for key in ("hidden_factor", "stereo") if key in values}
    recipe = {
        "targets": list("abcd"[:n_targets]),
        "bands": {"kind": kind},
        "backbone": {"features": features, "repeats": repeats, **backbone},
        "head": values.pop("head", {}),
    }
    with torch.device("meta"):
        return BSRNN.from_recipe(make_recipe(recipe))


@pytest.mark.parametrize(("sizes", "parameters"), REFERENCE_SIZES.items(), ids=str)
def test_parameter_counts(sizes, parameters):
    models = [network(*sizes, head={"hidden_layers": layers}) for layers in (1, 2)]
    backbones, heads = [count_parameters(m.backbone) for m in models], [count_parameters(m.heads) for m in models]
    assert parameters == tuple(backbones[i] + n_targets * heads[i] for n_targets in (1, 4) for i in (0, 1))


def with_norms_of_one_length(model, n_frames):
    """The parameters a network has where the norms of encoder and heads have a gain and a bias for every frame.

    Both public implementations have these, which is why they take excerpts of one length only.
    """
    norms = [*model.backbone.encoder.norms, *(band[0] for head in model.heads.values() for band in head.bands)]
    return count_parameters(model) + (n_frames - 1) * sum(count_parameters(norm) for norm in norms)


@pytest.mark.parametrize(
    ("kind", "features", "repeats", "factor", "n_targets", "parameters"),
    [
        ("v7", 128, 24, 4, 1, 20_621_280),
        ("tet24_seed", 128, 24, 4, 1, 20_355_936),
        ("v7", 128, 24, 4, 4, 37_794_540),
        ("tet24_seed", 128, 24, 4, 4, 36_734_316),
        ("v7", 32, 6, 8, 1, 2_280_448),
        ("tet24_seed", 32, 6, 8, 1, 2_238_304),
        ("v7", 32, 6, 8, 4, 7_165_516),
        ("tet24_seed", 32, 6, 8, 4, 6_997_228),
    ],
)
def test_sizes_of_the_code_this_began_with(kind, features, repeats, factor, n_targets, parameters):
    """LSTMs of N, one hidden layer, mono, excerpts of 1 s (sahandevs/BandSplit-RNN)."""
    model = network(kind, features, repeats, n_targets, hidden_factor=1, head={"hidden_factor": factor})
    assert with_norms_of_one_length(model, 87) == parameters


@pytest.mark.parametrize(
    ("kind", "repeats", "parameters"),
    [("v7", 12, 32_414_628), ("bass", 12, 33_371_812), ("drums", 12, 35_954_340), ("drums", 10, 32_528_548)],
)
def test_sizes_of_the_joint_stereo_code(kind, repeats, parameters):
    """Both channels in one item, a linear layer before the gate, excerpts of 3.04 s (crlandsc, amanteur)."""
    model = network(kind, 128, repeats, stereo="joint", head={"gate_layer": True})
    assert with_norms_of_one_length(model, 263) == parameters


def test_the_first_experiment_by_formula():
    """Recipe refined_tiny: N 32, R 6, LSTMs of H = 2 N, one hidden layer of M = 256 (spec, formulas of section 2.7)."""
    n, h, m = 32, 64, 256
    model = BSRNN.from_recipe(load_recipe("refined_tiny"))
    widths = [stop - start for start, stop in model.ranges]
    encoder = sum(4 * g + 2 * g * n + n for g in widths)
    pair = 2 * (2 * n + 2 * (4 * h * n + 4 * h * h + 8 * h) + 2 * h * n + n)
    head = sum(2 * n + n * m + m + 4 * g * m + 4 * g for g in widths)
    assert len(widths) == 38
    assert count_parameters(model) == encoder + 6 * pair + 4 * head


@pytest.mark.parametrize(
    ("recipe", "parameters"), [("paper_bsrnn", 25_648_264), ("obsrnn", 40_777_192), ("obsrnn_simo", 108_727_540)]
)
def test_recipes_of_published_networks_have_their_sizes(recipe, parameters):
    with torch.device("meta"):
        assert count_parameters(BSRNN.from_recipe(load_recipe(recipe))) == parameters


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_builds(path):
    with torch.device("meta"):
        assert BSRNN.from_recipe(load_recipe(path)).targets


def test_head_and_encoder_sizes_by_formula():
    model = BSRNN.from_recipe(
        make_recipe({"targets": ["a"], "backbone": {"features": 64, "repeats": 8}, "bands": {"kind": "v7"}})
    )
    assert count_parameters(model.heads["a"]) == 1_741_188
    assert count_parameters(model.backbone) == 3_581_636


def one_step_under_bf16(model):
    """Every parameter has a finite gradient and moves, in float32."""
    objective = Objective(model, model.recipe).train()
    trained = objective.trained()
    optimizer = torch.optim.Adam(trained.values(), lr=1e-3)
    stems = 0.1 * torch.randn(2, len(model.recipe.targets), model.recipe.data.channels, 1000)
    before = {name: p.detach().clone() for name, p in trained.items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = objective(stems.sum(1), stems)
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(value) for value in (loss, *parts.values()))
    loss.backward()
    optimizer.step()
    for name, p in trained.items():
        assert p.dtype == p.grad.dtype == torch.float32, name
        assert torch.isfinite(p.grad).all(), name
        assert torch.isfinite(p).all(), name
        assert not torch.equal(p, before[name]), name


LOSS_RECIPES = {
    "uncertainty": {"weighting": "uncertainty"},
    "truncated": {"truncate_quantile": 0.5},
    **{name: {name: 1.0, "wave_l1": 0.1} for name in (*LOSSES, *JOINT_LOSSES)},
}


@pytest.mark.parametrize("name", LOSS_RECIPES)
def test_every_loss_trains_under_bf16(name):
    one_step_under_bf16(micro(loss=LOSS_RECIPES[name]))


@pytest.mark.parametrize("values", COMPONENTS)
class TestEveryComponent:
    def test_any_length_and_channel_count_comes_back_exactly(self, values):
        model = micro(**values).eval()
        for length, channels in ((1, 1), (1, 2), (63, 5), (64, 2), (129, 1), (1000, 5), (1025, 2)):
            estimates = model(torch.randn(2, channels, length))
            assert list(estimates) == ["vocals", "drums"]
            assert all(x.shape == (2, channels, length) for x in estimates.values())

    def test_every_parameter_gets_a_finite_gradient(self, values):
        model = micro(**values)
        sum((x**2).sum() for x in model(torch.randn(2, 2, 1000)).values()).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.abs().sum() > 0, name

    def test_items_are_independent_and_channels_meet_in_tac_only(self, values):
        model = micro(**values).eval()
        mixture = torch.randn(3, 2, 1000)
        together = model(mixture)["drums"][1:2]
        assert torch.allclose(together, model(mixture[1:2])["drums"], atol=1e-5)
        same = torch.allclose(together[:, 1:], model(mixture[1:2, 1:2])["drums"], atol=1e-5)
        assert same == (values["backbone"].get("stereo") != "tac")

    def test_any_chunk_length_goes_into_the_same_weights(self, values):
        model = micro(**values).eval()
        shapes = {name: p.shape for name, p in model.named_parameters()}
        for n_frames in (3, 37, 101):
            assert model(torch.randn(1, 1, 64 * (n_frames - 1)))["vocals"].shape[-1] == 64 * (n_frames - 1)
        assert {name: p.shape for name, p in model.named_parameters()} == shapes

    def test_what_is_saved_is_what_is_loaded(self, values, tmp_path):
        model, run = micro(**values).eval(), RunFolder(tmp_path / "run")
        write_text(run.recipe, dump_recipe(model.recipe))
        save_weights(run, model)
        mixture = torch.randn(1, 2, 1000)
        assert torch.equal(load_model(run)(mixture)["drums"], model(mixture)["drums"])

    def test_one_training_step_under_bf16(self, values):
        one_step_under_bf16(micro(**values))

    def test_silence_in_silence_out(self, values):
        assert not micro(**values).eval()(torch.zeros(1, 2, 1000))["vocals"].any()

    def test_bf16_gives_float32_estimates(self, values):
        with torch.autocast("cpu", torch.bfloat16):
            estimate = micro(**values)(torch.randn(1, 1, 1000))["vocals"]
        assert estimate.dtype == torch.float32
        assert torch.isfinite(estimate).all()


def test_features_are_the_seam():
    model = micro()
    frames = 1000 // 64 + 1
    assert model.features(torch.randn(2, 3, 1000)).shape == (2, 3, 3, frames, 4)  # (B, C, K, T, N)


def test_only_the_heads_asked_for_run():
    model = micro()
    model.heads["drums"].bands = None  # running it would fail
    assert list(model(torch.randn(1, 1, 500), ["vocals"])) == ["vocals"]


def test_a_mask_of_one_gives_the_mixture_back():
    model = micro(targets=["all"])
    for band in model.heads["all"].bands:
        last = band[-1]
        n_bins = last.out_features // 4
        torch.nn.init.zeros_(last.weight)
        # rows are (value | gate) × (real | imaginary) × bin: real value 1, imaginary 0, gates open
        last.bias.data = torch.cat([torch.ones(n_bins), torch.zeros(n_bins), torch.full((2 * n_bins,), 50.0)])
    mixture = torch.randn(2, 2, 3000)
    assert (model(mixture)["all"] - mixture).abs().max() < 1e-5


def test_global_norm_is_group_norm_with_one_group():
    x = torch.randn(3, 7, 5)  # (M, S, N)
    norm, reference = GlobalNorm(5), torch.nn.GroupNorm(1, 5, eps=1e-7)
    norm.weight.data = reference.weight.data = torch.randn(5)
    norm.bias.data = reference.bias.data = torch.randn(5)
    assert torch.allclose(norm(x), reference(x.transpose(1, 2)).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("head", ["mlp_mask", "residual"])
@pytest.mark.parametrize("backbone", CAUSAL, ids=str)
def test_a_causal_network_looks_no_further_ahead_than_its_latency(backbone, head):
    model = micro(backbone={**MICRO["backbone"], "repeats": 2, **backbone}, head={"kind": head}).eval()
    mixture, change = torch.randn(1, 2, 2000), 1200
    changed = mixture.clone()
    changed[..., change:] = 100 * torch.randn(2, 800)
    before, after = model(mixture)["drums"], model(changed)["drums"]
    assert latency_samples(model) == 254
    first = change - latency_samples(model)
    assert torch.equal(before[..., :first], after[..., :first])
    assert (before != after)[..., first + 64 :].float().mean() > 0.99  # from there on, to within a hop, all is changed


def test_a_network_that_is_not_causal_sees_everything():
    model = micro().eval()
    mixture = torch.randn(1, 1, 2000)
    changed = torch.cat([mixture[..., :-1], mixture[..., -1:] + 1], dim=-1)
    assert latency_samples(model) is None
    assert not torch.equal(model(mixture)["drums"][..., :100], model(changed)["drums"][..., :100])


def test_cumulative_norm_ends_where_the_global_one_is():
    x = 3 * torch.randn(2, 9, 5) + 1  # (M, S, N)
    assert torch.allclose(CumulativeNorm(5)(x)[:, -1], GlobalNorm(5)(x)[:, -1], atol=1e-4)
    assert torch.allclose(CumulativeNorm(5)(x)[:, :4], CumulativeNorm(5)(x[:, :4]), atol=1e-6)


def test_rotary_attention_depends_on_distances_only():
    query, key = torch.randn(1, 4).expand(9, 4), torch.randn(1, 4).expand(9, 4)  # (S, D), the same everywhere
    scores = rotate(query) @ rotate(key).T  # (S, S)
    for distance in (-3, 0, 2):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert not torch.allclose(scores[0, 0], scores[0, 3])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("channels", [1, 2])
def test_joint_stereo_takes_the_channels_together(head, channels):
    values = {"backbone": {**MICRO["backbone"], "stereo": "joint"}, "head": {"kind": head}}
    model = micro(**values, data={"channels": channels}).eval()
    mixture = torch.randn(2, channels, 1000)
    assert model(mixture)["drums"].shape == mixture.shape
    assert model.features(mixture).shape[:2] == (2, 1)
    assert torch.allclose(model(mixture)["drums"][1:], model(mixture[1:])["drums"], atol=1e-5)
    assert model.backbone.encoder.linears[0].in_features == 2 * channels * 16
    model.train()(mixture)["drums"].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.heads["drums"].parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_joint_stereo_refuses_another_number_of_channels(channels):
    model = micro(backbone={**MICRO["backbone"], "stereo": "joint"})
    with pytest.raises(AudioError, match=f"takes 2 channels together .*; the audio has {channels}"):
        model(torch.randn(1, channels, 500))


def test_the_spectrum_head_follows_the_level_of_the_mixture():
    model = micro(head={"kind": "spectrum"}).eval()
    mixture = torch.randn(1, 1, 1000)
    assert torch.allclose(model(4 * mixture)["drums"], 4 * model(mixture)["drums"], atol=1e-3)


def test_encoder_is_a_loop_over_bands():
    model = micro()
    spectrogram = torch.randn(1, 1, 129, 9, dtype=torch.complex64)
    encoder, ranges = (
        model.backbone.encoder,
        band_ranges("custom", sample_rate_hz=8000, n_fft=256, edges_hz=[500, 2000]),
    )
    assert model.ranges == ranges
    for k, (start, stop) in enumerate(ranges):
        band = spectrogram[0, 0, start:stop].T  # (T, G)
        x = torch.cat([band.real, band.imag], dim=1)
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-7).sqrt()
        expected = x @ encoder.linears[k].weight.T + encoder.linears[k].bias
        assert torch.allclose(encoder(as_pairs(spectrogram))[0, 0, k], expected, atol=1e-5)


# --- overlapping bands ------------------------------------------------------------------------------------------------

BAND_OPTIONS = {"tet": {"divisions": 4}, "even": {"n_bands": 33}, "custom": {"edges_bins": [20, 300]}}
OVERLAPPING = ("musical", "mel", "tbark", "erb", "mel_band_roformer")


def masks_of_one(split):
    return [torch.ones(1, 2, 3, stop - start, dtype=torch.complex64) for start, stop in split]


def merged(split, masks):
    """Complex masks of all bands (B, C, T, G) → that of all bins (B, C, T, F)."""
    return torch.view_as_complex(MergeBands(split)([torch.view_as_real(mask) for mask in masks]))


@pytest.mark.parametrize("kind", SCHEMES)
def test_masks_of_one_give_the_mixture_back(kind):
    split = band_split(kind, **BAND_OPTIONS.get(kind, {}))
    spectrogram = torch.randn(1, 2, 1025, 3, dtype=torch.complex64)
    mask = merged(split, masks_of_one(split)).transpose(2, 3)  # (B, C, T, F) → (B, C, F, T)
    estimate = mask * spectrogram
    if split.overlapping:
        assert torch.allclose(estimate, spectrogram, rtol=1e-6, atol=0)
    else:
        assert torch.equal(estimate, spectrogram)


@pytest.mark.parametrize("kind", SCHEMES)
def test_every_band_scheme_in_the_network(kind, tmp_path):
    """One pass each at full rate: exact length, independent items, one step under bf16, save and load."""
    options = BAND_OPTIONS.get(kind, {})
    full = {"sample_rate_hz": 44100, "n_fft": 2048, "hop": 1024}
    model = micro(stft=full, bands={"kind": kind, **options}, targets=["vocals"], data={"channels": 1}).eval()
    mixture = torch.randn(2, 1, 3001)
    with torch.no_grad():
        estimate = model(mixture)["vocals"]
        assert estimate.shape == mixture.shape
        torch.testing.assert_close(model(mixture[1:])["vocals"], estimate[1:], atol=1e-5, rtol=1e-4)
        run = RunFolder(tmp_path / "run")
        write_text(run.recipe, dump_recipe(model.recipe))
        save_weights(run, model)
        assert torch.equal(load_model(run)(mixture)["vocals"], estimate)
    one_step_under_bf16(model)


def test_overlapping_masks_are_weighted_and_summed():
    split = band_split("mel", n_bands=32)
    masks = [(k + 1j) * mask for k, mask in enumerate(masks_of_one(split))]
    mask = merged(split, masks)[0, 0, 0]  # (F,)
    k, (start, stop) = 1, split[1]  # from bin 8 on shared with band 2, until then with band 0
    upper = split.weights[2][: stop - split[2][0]]
    expected = [*split.weights[k][: 8 - start], *(k + weight for weight in upper)]
    assert torch.allclose(mask[start:stop], torch.tensor(expected) + 1j)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", OVERLAPPING)
def test_overlapping_bands_in_the_network(kind, head):
    stft = {"sample_rate_hz": 8000, "n_fft": 512, "hop": 128}
    model = micro(stft=stft, bands={"kind": kind, "n_bands": 8}, head={"kind": head})
    assert len(model.ranges) == 8
    mixture = torch.randn(1, 2, 1501)
    estimate = model(mixture)["vocals"]
    assert estimate.shape == mixture.shape
    estimate.square().sum().backward()
    used = [p for name, p in model.named_parameters() if "drums" not in name]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used)
    assert all(p.grad.abs().sum() > 0 for p in model.backbone.encoder.linears.parameters())


def test_how_bands_are_merged_is_not_saved():
    partition, overlapping = micro(), micro(bands={"kind": "mel", "n_bands": 3})
    assert not [key for key in overlapping.state_dict() if "merge" in key]
    assert set(partition.state_dict()) == set(overlapping.state_dict())


def test_frozen_backbone_has_no_gradient_and_stays_in_eval():
    model = micro()
    model.backbone.freeze()
    model.train()
    assert model.training
    assert not model.backbone.training
    model(torch.randn(1, 1, 500))["vocals"].sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.heads["vocals"].parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": {"kind": "band_sequence_rn"}}, "Did you mean 'band_sequence_rnn'"),
        ({"backbone": {"hiden_factor": 2}}, "no option 'hiden_factor'. Did you mean 'hidden_factor'"),
        ({"backbone": {"norm": "bn"}}, "norm='bn' is unknown.* Known: cumulative, gn1, length, ln, rms"),
        ({"head": {"kind": "mlp"}}, "head.kind='mlp' is unknown"),
        ({"head": {"hidden_layers": 3}}, "head.hidden_layers is 3; expected one of 1, 2"),
        ({"bands": {"kind": "v8"}}, "bands.kind='v8' is unknown"),
        ({"backbone": {"time": "rnn"}}, "'rnn' is unknown.* Known: conv, dilated, gru, lstm"),
        ({"backbone": {"features": 6, "groups": 4}}, "groups is 4; expected a divisor of features 6"),
        ({"backbone": {"time": "dilated", "dilations": 0}}, "dilations is 0; expected 1 or more"),
        ({"backbone": {"features": 6, "attention_heads": 4}}, "attention_heads is 4 .* divides features"),
        ({"backbone": {"stereo": "tac", "tac_activation": "relu"}}, "'relu' is unknown.* Known: prelu, tanh"),
        ({"backbone": {"stereo": "mono"}}, "expected one of apart, tac, joint"),
        ({"backbone": {"causal": True}}, "norm=gn1 has statistics over the whole excerpt.* ln, cumulative, rms"),
        ({"backbone": {"causal": True, "norm": "ln", "attention_heads": 2}}, "attention_heads looks at all frames"),
        ({"backbone": {"causal": True, "norm": "ln"}, "head": {"kind": "spectrum"}}, "scales by the whole excerpt"),
        ({"backbone": {"kind": "rope_transformer", "head_dim": 3}}, "even dimension"),
        ({"backbone": {"kind": "rope_transformer", "feed_forward_factor": 0}}, "feed_forward_factor is 0; expected 1"),
        ({"backbone": {"hidden_factor": 1.5}}, "backbone.hidden_factor is 1.5; expected a whole number"),
        ({"backbone": {"hidden_factor": 0}}, "hidden_factor 0; expected .* a factor of 1 or more"),
        ({"backbone": {"attention_heads": -2}}, "attention_heads is -2 .* expected 0 heads or more"),
        ({"backbone": {"time": 3}}, "backbone.time is 3; expected a text"),
        ({"head": {"hidden_factor": 0}}, "head.hidden_factor is 0 with 4 features; expected more than 0"),
        ({"head": {"gate_layer": 1}}, "head.gate_layer is 1; expected true or false"),
    ],
)
def test_what_cannot_be_built_is_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        micro(**values)


def test_unknown_and_double_heads():
    model = micro()
    with pytest.raises(UserError, match="no head 'drum'. Did you mean 'drums'"):
        model(torch.randn(1, 1, 500), ["drum"])
    with pytest.raises(CheckpointError, match="a head 'drums' already"):
        model.add_head("drums", HeadSpec())


def test_the_layer_before_the_gate_by_hand():
    model = micro(head={"gate_layer": True}, targets=["a"])
    layers, x = model.heads["a"].bands[1], torch.randn(1, 1, 5, 4)  # of 48 bins; (B, C, T, N)
    hidden = torch.tanh(layers[0](x) @ layers[1].weight.T + layers[1].bias)
    half = hidden @ layers[3].weight.T + layers[3].bias
    assert half.shape[-1] == 2 * 48
    torch.testing.assert_close(layers(x), half @ layers[4].weight.T + layers[4].bias)
    assert len(layers) == 5


# --- combinations -----------------------------------------------------------------------------------------------------

CHOICES = {
    "bands": [{"kind": "v7"}, {"kind": "tet24_fixed", "max_bands": 5}, {"kind": "mel", "n_bands": 4}],
    "kind": [RNN, "rope_transformer"],
    "norm": list(NORMS),
    "stereo": ["apart", "tac", "joint"],
    "causal": [False, True],
    "time": [*CELLS, "dilated"],
    "groups": [1, 2],
    "attention_heads": [0, 2],
    "head": list(HEADS),
    "hidden_layers": [1, 2],
    "gate_layer": [False, True],
    "bridge": [False, True],
    "together": ["none", *TOGETHER],
    "normalise": ["none", *NORMALISERS],
    "loss": [*LOSSES, *JOINT_LOSSES],
    "weighting": ["fixed", "uncertainty"],
    "channels": [1, 2],
}


def combination(c):
    own = ("time", "groups", "attention_heads") if c["kind"] == RNN else ()
    backbone = {key: c[key] for key in ("kind", "norm", "stereo", "causal", *own)}
    extra = {} if c["kind"] == RNN else {"heads": 2, "head_dim": 2}
    return {
        "targets": ["vocals", "drums", "bass"],
        "stft": {"sample_rate_hz": 8000, "n_fft": 512, "hop": 128},
        "bands": c["bands"],
        "backbone": {"features": 4, "repeats": 1, **backbone, **extra},
        "head": {"kind": c["head"], **{key: c[key] for key in ("hidden_layers", "gate_layer", "bridge")}},
        "together": c["together"],
        "input": {"normalise": c["normalise"]},
        "loss": {c["loss"]: 1.0, "weighting": c["weighting"]},
        "data": {"channels": c["channels"]},
    }


def must_be_refused(c):
    """What the reason says, for choices that exclude each other; empty where they do not."""
    whole = [
        c["norm"] == "gn1",
        c["kind"] == RNN and c["attention_heads"] > 0,
        c["head"] == "spectrum",
        c["normalise"] != "none",
    ]
    if c["causal"] and any(whole):
        return "backbone.causal forbids"
    if c["weighting"] == "uncertainty" and c["loss"] in {*NEGATIVE_LOSSES, *JOINT_LOSSES}:
        return "loss.weighting"
    return ""


def objective_of(c):
    model = micro(**combination(c))
    return Objective(model, model.recipe)


@pytest.mark.parametrize("seed", range(24))
def test_combinations_work_or_are_refused_with_a_reason(seed):
    """Drawn at random: those that exclude each other are refused, all others train and keep items apart."""
    draw = random.Random(seed)
    chosen = {key: draw.choice(values) for key, values in CHOICES.items()}
    refused = must_be_refused(chosen)
    if refused:
        with pytest.raises(RecipeError, match=refused):
            objective_of(chosen)
        return
    objective = objective_of(chosen)
    model = objective.model
    stems = 0.1 * torch.randn(2, 3, chosen["channels"], 1000)
    loss, _ = objective(stems.sum(1), stems)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.trained().values())
    with torch.no_grad():
        mixture = stems.sum(1)
        estimates = model.eval()(mixture)
        for target, alone in model(mixture[1:]).items():
            assert estimates[target].shape == mixture.shape
            torch.testing.assert_close(alone, estimates[target][1:], atol=1e-4, rtol=1e-3)
