"""The plain network as the paper draws it: the package's network gives the same estimates with the same weights."""

import pytest
import torch

from benchmarks.reference import Reference
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.recipe import load_recipe

TARGETS = ("vocals", "drums", "bass", "other")


def pair(*overrides):
    """A network whose weights are all drawn anew (norms too), and the reference of each of its targets."""
    recipe = load_recipe("mtl_generic", ["backbone.features=8", "backbone.repeats=2", "stft.n_fft=1024", *overrides])
    torch.manual_seed(0)
    model = BSRNN.from_recipe(recipe)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sizes = (model.ranges, recipe.backbone.features, recipe.backbone.repeats, recipe.stft.n_fft, recipe.stft.hop)
    return model, {t: Reference(*sizes).load(model.state_dict(), t) for t in TARGETS}


@pytest.mark.parametrize("overrides", [["stft.hop=256"], ["stft.hop=256", "bands.kind=v7"]])
def test_the_network_gives_what_the_reference_gives(overrides):
    model, references = pair(*overrides)
    mixture = torch.randn(2, 2, 4096)
    with torch.inference_mode():
        estimates = model.eval()(mixture)
        for target, reference in references.items():
            plain = reference(mixture.flatten(0, 1)).unflatten(0, (2, 2))
            torch.testing.assert_close(estimates[target], plain, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(estimates["vocals"], estimates["drums"], atol=1e-2)


def test_gradients_are_those_of_the_reference():
    model, references = pair("stft.hop=256")
    mixture = torch.randn(1, 1, 4096)
    model.train()(mixture, ["drums"])["drums"].square().sum().backward()
    reference = references["drums"]
    reference(mixture[0]).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    expected = dict(reference.named_parameters())
    assert len(found) == len(expected)
    names = {
        "backbone.encoder.norms.0.weight": "norms.0.weight",
        "backbone.blocks.1.time.rnn.weight_hh_l0": "time.1.rnn.weight_hh_l0",
        "heads.drums.bands.3.3.bias": "masks.3.3.bias",
    }
    for name, plain in names.items():
        gradient = expected[plain].grad
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


def test_a_head_that_is_not_there_is_refused():
    model, references = pair()
    with pytest.raises(KeyError):
        references["drums"].load(model.state_dict(), "guitar")
