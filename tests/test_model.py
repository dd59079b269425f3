"""The network: sizes, shapes, independence, masks; properties over all registered components."""

import pytest
import torch

from refined_bsrnn.bands import SCHEMES, band_ranges, band_split
from refined_bsrnn.blocks import BLOCKS, NORMS, GlobalNorm
from refined_bsrnn.errors import CheckpointError, RecipeError, UserError
from refined_bsrnn.heads import HEADS, MergeBands
from refined_bsrnn.model import BSRNN, count_parameters
from refined_bsrnn.recipe import HeadSpec, load_recipe, make_recipe

MICRO = {
    "targets": ["vocals", "drums"],
    "stft": {"sample_rate_hz": 8000, "n_fft": 256, "hop": 64},
    "bands": {"kind": "custom", "edges_hz": [500, 2000]},
    "backbone": {"features": 4, "repeats": 1},
}
COMPONENTS = [
    pytest.param(
        {"backbone": {**MICRO["backbone"], "kind": block, "norm": norm}, "head": {"kind": head}},
        id=f"{block}-{norm}-{head}",
    )
    for block in BLOCKS
    for norm in NORMS
    for head in HEADS
]


def micro(**values):
    torch.manual_seed(0)
    return BSRNN.from_recipe(make_recipe({**MICRO, **values}))


# scheme, N, R, hidden layers of the head, number of targets → parameters (spec, reference sizes)
@pytest.mark.parametrize(
    ("kind", "features", "repeats", "hidden_layers", "n_targets", "parameters"),
    [
        ("v7", 128, 12, 1, 1, 25_648_264),
        ("v7", 128, 12, 2, 1, 36_417_160),
        ("v7", 128, 12, 1, 4, 40_113_556),
        ("v7", 128, 12, 2, 4, 83_189_140),
        ("tet24", 128, 12, 1, 1, 25_316_104),
        ("tet24", 128, 12, 2, 1, 34_771_720),
        ("tet24", 128, 12, 1, 4, 38_786_836),
        ("tet24", 128, 12, 2, 4, 76_609_300),
        ("joint", 128, 12, 1, 1, 26_711_176),
        ("joint", 128, 12, 2, 4, 104_244_628),
        ("v7", 64, 8, 1, 1, 5_322_824),
        ("v7", 64, 8, 2, 1, 8_020_296),
        ("v7", 64, 8, 2, 4, 21_336_276),
        ("tet24", 64, 8, 1, 4, 10_210_708),
        ("tet24", 32, 6, 1, 1, 1_406_536),
        ("tet24", 32, 6, 2, 4, 5_834_068),
    ],
)
def test_parameter_counts(kind, features, repeats, hidden_layers, n_targets, parameters):
    recipe = make_recipe(
        {
            "targets": list("abcd"[:n_targets]),
            "bands": {"kind": kind},
            "backbone": {"features": features, "repeats": repeats},
            "head": {"hidden_layers": hidden_layers},
        }
    )
    with torch.device("meta"):
        assert count_parameters(BSRNN.from_recipe(recipe)) == parameters


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


def test_head_and_encoder_sizes_by_formula():
    model = BSRNN.from_recipe(
        make_recipe({"targets": ["a"], "backbone": {"features": 64, "repeats": 8}, "bands": {"kind": "v7"}})
    )
    assert count_parameters(model.heads["a"]) == 1_741_188
    assert count_parameters(model.backbone) == 3_581_636


@pytest.mark.parametrize("values", COMPONENTS)
class TestEveryComponent:
    def test_any_length_and_channel_count_comes_back_exactly(self, values):
        model = micro(**values).eval()
        for length in (1, 63, 64, 129, 1000, 1025):
            for channels in (1, 2, 5):
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

    def test_items_and_channels_are_independent(self, values):
        model = micro(**values).eval()
        mixture = torch.randn(3, 2, 1000)
        alone = model(mixture[1:2, 1:2])["drums"]
        assert torch.allclose(model(mixture)["drums"][1:2, 1:2], alone, atol=1e-6)

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
    model.heads["drums"].forward = None  # calling it would fail
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


def test_any_chunk_length_goes_into_the_same_weights():
    model = micro().eval()
    for n_frames in (3, 37, 101):
        assert model(torch.randn(1, 1, 64 * (n_frames - 1)))["vocals"].shape[-1] == 64 * (n_frames - 1)
        assert all(n_frames not in p.shape for name, p in model.named_parameters() if n_frames > 3)


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
        assert torch.allclose(encoder(spectrogram)[0, 0, k], expected, atol=1e-5)


# --- overlapping bands ------------------------------------------------------------------------------------------------

BAND_OPTIONS = {"tet": {"divisions": 4}, "even": {"n_bands": 33}, "custom": {"edges_bins": [20, 300]}}
OVERLAPPING = ("musical", "mel", "tbark", "erb", "mel_band_roformer")


def masks_of_one(split):
    return [torch.ones(1, 2, 3, stop - start, dtype=torch.complex64) for start, stop in split]


@pytest.mark.parametrize("kind", SCHEMES)
def test_masks_of_one_give_the_mixture_back(kind):
    split = band_split(kind, **BAND_OPTIONS.get(kind, {}))
    spectrogram = torch.randn(1, 2, 1025, 3, dtype=torch.complex64)
    estimate = MergeBands(split)(masks_of_one(split)) * spectrogram
    if split.overlapping:
        assert torch.allclose(estimate, spectrogram, rtol=1e-6, atol=0)
    else:
        assert torch.equal(estimate, spectrogram)


def test_overlapping_masks_are_weighted_and_summed():
    split = band_split("mel", n_bands=32)
    masks = [(k + 1j) * mask for k, mask in enumerate(masks_of_one(split))]
    merged = MergeBands(split)(masks)[0, 0, :, 0]
    k, (start, stop) = 1, split[1]  # from bin 8 on shared with band 2, until then with band 0
    upper = split.weights[2][: stop - split[2][0]]
    expected = [*split.weights[k][: 8 - start], *(k + weight for weight in upper)]
    assert torch.allclose(merged[start:stop], torch.tensor(expected) + 1j)


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
    model = micro().freeze_backbone().train()
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
        ({"backbone": {"norm": "bn"}}, "norm='bn' is unknown.* Known: gn1, ln"),
        ({"head": {"kind": "mlp"}}, "head.kind='mlp' is unknown"),
        ({"head": {"hidden_layers": 3}}, "head.hidden_layers is 3; expected 1"),
        ({"bands": {"kind": "v8"}}, "bands.kind='v8' is unknown"),
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
