"""Heads that run as one stack against each head by itself, written out band by band; the pieces that make it fast."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from refined_bsrnn.network.blocks import NORMS, fold, make_norm
from refined_bsrnn.network.heads import HEADS, multiply, tanh
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.network.signals import STFT, as_complex, as_pairs, overlap_add
from refined_bsrnn.recipe import make_recipe

TARGETS = ["drums", "bass", "other"]


def network(head, **values):
    torch.manual_seed(0)
    recipe = {
        "targets": TARGETS,
        "stft": {"sample_rate_hz": 8000, "n_fft": 128, "hop": 32},
        "bands": {"kind": "custom", "edges_hz": [500, 2000]},
        "backbone": {"features": 4, "repeats": 1, **values.pop("backbone", {})},
        "head": head,
        **values,
    }
    model = BSRNN.from_recipe(make_recipe(recipe))
    for parameter in model.parameters():  # no gain is 1 and no bias 0
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def assert_equal(ours, theirs, what):
    """Up to 1e-5 of the largest value: sums are taken in another order."""
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-6, what


def masks_one_by_one(model, bands_of, features):
    """{target: complex (B, C, F, T)} that the MLPs of one set give, as the paper draws them: a loop over bands."""
    sets, masks = {target: bands_of(model.heads[target]) for target in TARGETS}, {target: [] for target in TARGETS}
    for k in range(len(model.ranges)):
        states = dict.fromkeys(TARGETS, features[:, :, k])  # (B, C, T, N)
        for layers in zip(*(sets[target][k] for target in TARGETS), strict=True):
            states = {target: layer(states[target]) for target, layer in zip(TARGETS, layers, strict=True)}
            if isinstance(layers[0], torch.nn.Tanh) and model.heads["drums"].bridge:
                states = dict.fromkeys(TARGETS, sum(states.values()) / len(TARGETS))
        for target, state in states.items():
            real, imag = F.glu(state).unflatten(-1, (2, model.channels_per_item, -1)).unbind(-3)  # (B, C, T, joint, G)
            masks[target].append(torch.complex(real, imag))
    return {target: torch.cat(parts, dim=-1).permute(0, 1, 3, 4, 2).flatten(1, 2) for target, parts in masks.items()}


def estimates_one_by_one(model, mixture):
    """{target: complex (B, C, F, T)} by the definitions of the three kinds of heads."""
    spectrogram, features = model.stft(mixture), model.features(mixture)
    kind = model.recipe.head.kind
    if kind == "residual":
        masks = masks_one_by_one(model, lambda head: head.mask["bands"], features)
        residuals = masks_one_by_one(model, lambda head: head.residual["bands"], features)
        rms = spectrogram.abs().square().mean(2, keepdim=True).sqrt()
        return {target: masks[target] * spectrogram + residuals[target] * rms for target in TARGETS}
    spectra = masks_one_by_one(model, lambda head: head.bands, features)
    if kind in ("mlp_mask", "roformer_mask"):
        kept = spectrogram.clone()
        if kind == "roformer_mask" and model.heads["drums"].zero_dc:
            kept[:, :, 0] = 0  # DC
        return {target: mask * kept for target, mask in spectra.items()}
    mean = spectrogram.mean((2, 3), keepdim=True)
    deviation = (spectrogram - mean).abs().square().mean((2, 3), keepdim=True).sqrt()
    return {target: x * deviation + mean for target, x in spectra.items()}


FORMS = [
    *({"kind": kind} for kind in HEADS),
    {"hidden_layers": 2, "hidden_factor": 3},
    {"kind": "roformer_mask", "hidden_layers": 0},
    {"kind": "roformer_mask", "hidden_layers": 3, "zero_dc": False},
    {"gate_layer": True},
    {"hidden_layers": 2, "bridge": True},
    {"kind": "residual", "bridge": True, "gate_layer": True},
]


@pytest.mark.parametrize("head", FORMS, ids=str)
@pytest.mark.parametrize("stereo", ["apart", "joint"])
def test_stacked_heads_give_what_each_gives_by_itself(head, stereo):
    model = network(head, backbone={"stereo": stereo})
    mixture = torch.randn(2, 2, 400)
    expected = estimates_one_by_one(model, mixture)
    got = {target: signal.spectrogram for target, signal in model.signals(mixture).items()}
    gradients = []
    for estimates in (expected, got):
        loss = sum((i + 1) * x.abs().square().mean() for i, x in enumerate(estimates.values()))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for target in TARGETS:
        assert_equal(got[target], expected[target], target)
    for (name, _), ours, theirs in zip(model.named_parameters(), *reversed(gradients), strict=True):
        assert_equal(ours, theirs, name)


@pytest.mark.parametrize("norm", NORMS)
def test_stacked_heads_with_every_norm(norm):
    model, mixture = network({}, backbone={"norm": norm}), torch.randn(1, 1, 300)
    expected = estimates_one_by_one(model, mixture)
    for target, signal in model.signals(mixture).items():
        torch.testing.assert_close(signal.spectrogram, expected[target], rtol=1e-5, atol=1e-5)


def test_heads_of_several_forms_and_some_of_them():
    """Heads that cannot be stacked stand in the order asked for; what one gives does not depend on the others."""
    model, mixture = network({}), torch.randn(1, 1, 300)
    model.add_head("guitar", make_recipe({"targets": ["guitar"], "head": {"hidden_layers": 2}}).head)
    everything = model(mixture)
    assert list(everything) == [*TARGETS, "guitar"]
    for wanted in itertools.permutations(everything, 2):
        some = model(mixture, wanted)
        assert list(some) == list(wanted)
        for target in wanted:
            torch.testing.assert_close(some[target], everything[target], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_layer_takes_over_gain_and_bias(norm):
    norm, linear, x = make_norm(norm, 5), torch.nn.Linear(5, 3), torch.randn(2, 7, 5)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    weight, bias = fold([norm], linear.weight[None], linear.bias[None])
    got = F.linear(norm.standardise(x), weight[0], bias[0])
    torch.testing.assert_close(got, linear(norm(x)), rtol=1e-5, atol=1e-5)


def test_tanh_and_its_gradient():
    x = torch.linspace(-20, 20, 2001, requires_grad=True)
    (ours,), (theirs,) = (torch.autograd.grad(f(x).sum(), x) for f in (tanh, torch.tanh))
    assert (tanh(x) - torch.tanh(x)).abs().max() < 2e-7
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_products_of_pairs():
    a, b = torch.randn(2, 3, 4, 2), torch.randn(3, 4, 2)
    expected = torch.view_as_complex(a) * torch.view_as_complex(b)
    torch.testing.assert_close(torch.view_as_complex(multiply(a, b)), expected)


# --- STFT -------------------------------------------------------------------------------------------------------------


def test_pairs_are_the_spectrogram_itself():
    spectrogram = STFT(64, 16)(torch.randn(1, 2, 100))
    assert as_pairs(spectrogram).data_ptr() == spectrogram.data_ptr()
    assert torch.equal(as_complex(as_pairs(spectrogram)), spectrogram)


def test_overlap_add_by_hand():
    frames = torch.tensor([[[1.0, 1, 1, 1], [10, 10, 10, 10], [100, 100, 100, 100]]])
    assert overlap_add(frames, 3).tolist() == [[1, 1, 1, 11, 10, 10, 110, 100, 100, 100]]


@pytest.mark.parametrize(("n_fft", "hop", "length"), [(64, 16, 500), (64, 32, 501), (128, 50, 300), (64, 16, 1)])
def test_inverse_and_its_gradient_are_those_of_istft(n_fft, hop, length):
    stft = STFT(n_fft, hop)
    spectrogram = (stft(torch.randn(2, 1, length)) * torch.randn(n_fft // 2 + 1, 1)).detach()
    leaves = [spectrogram.clone().requires_grad_() for _ in range(2)]
    padded = length + stft.padding(length)
    expected = torch.istft(leaves[0].flatten(0, 1), n_fft, hop, window=stft.window, length=padded)[:, :length]
    got = stft.inverse(leaves[1], length)
    torch.testing.assert_close(got, expected[:, None], rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(got)
    for signal in (expected[:, None], got):
        (signal * upstream).sum().backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=1e-5, atol=1e-6)
