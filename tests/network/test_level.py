"""Normalising the mixture: the level by hand, exact scaling, silence, whole tracks."""

import pytest
import torch

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.network.signals import NORMALISERS, OF_WHOLE_TRACKS
from refined_bsrnn.separation.separator import Separator
from refined_bsrnn.training.objective import Objective
from tests.conftest import micro_recipe

NAMES = sorted(NORMALISERS)


def model(name, **values):
    torch.manual_seed(0)
    return BSRNN.from_recipe(micro_recipe(None, input={"normalise": name}, **values)).eval()


def open_every_gate(net):
    """Every mask becomes one."""
    for head in net.heads.values():
        for band in head.bands:
            n_bins = band[-1].out_features // 4
            torch.nn.init.zeros_(band[-1].weight)
            values = [torch.ones(n_bins), torch.zeros(n_bins), torch.full((2 * n_bins,), 50.0)]
            band[-1].bias.data = torch.cat(values)
    return net


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_levels_by_hand():
    mixture = torch.tensor([[[1.0, -5.0], [2.0, 2.0]], [[0.5, 0.5], [0.5, -0.5]]])
    peak, standard = (NORMALISERS[name](mixture) for name in ("peak", "standardise"))
    assert peak.gain.flatten().tolist() == pytest.approx([0.02, 0.2])
    assert peak.offset.flatten().tolist() == [0.0, 0.0]
    assert standard.offset.flatten().tolist() == pytest.approx([0.0, 0.25])
    assert standard.gain.flatten().tolist() == pytest.approx([1 / 8.5**0.5, 1 / 0.1875**0.5])


@pytest.mark.parametrize("name", NAMES)
def test_what_the_network_hears_does_not_depend_on_the_level(name):
    mixture = noise(3, 2, 800)
    audible = NORMALISERS[name](mixture).apply(mixture)
    louder = mixture * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    torch.testing.assert_close(NORMALISERS[name](louder).apply(louder), audible)
    if name == "peak":
        assert audible.abs().amax((1, 2)).tolist() == pytest.approx([0.1] * 3)
    else:
        assert audible.mean((1, 2)).abs().max() < 1e-6
        assert audible.std((1, 2), unbiased=False).tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.5])
def test_silence_and_a_constant_are_finite(name, value):
    constant = torch.full((1, 2, 800), value)
    assert torch.isfinite(NORMALISERS[name](constant).apply(constant)).all()
    assert all(torch.isfinite(x).all() for x in model(name)(constant).values())


@pytest.mark.parametrize("name", NAMES)
def test_estimates_scale_exactly_with_the_mixture(name):
    net, mixture = model(name), noise(2, 2, 1500)
    for gain in (2.0**-6, 8.0):  # powers of two: not a bit is lost
        for target, estimate in net(mixture).items():
            assert torch.equal(net(gain * mixture)[target], gain * estimate), target


@pytest.mark.parametrize("name", NAMES)
def test_normalising_is_undone_exactly_where_the_mask_is_one(name):
    mixture = noise(2, 2, 1500) * 3 + 1  # with an offset: it comes back too
    for estimate in open_every_gate(model(name))(mixture).values():
        assert (estimate - mixture).abs().max() < 1e-5


def test_normalising_adds_no_parameter_and_none_is_the_network_as_it_was():
    plain, mixture = model("none"), noise(1, 1, 900)
    assert plain.level(mixture) is None
    for name in NAMES:
        net = model(name)
        assert net.state_dict().keys() == plain.state_dict().keys()
        level = NORMALISERS[name](mixture)
        torch.testing.assert_close(net.features(mixture), plain.features(level.apply(mixture)))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_mixture_and_stems_at_the_same_gain(name):
    objective = Objective(model(name), micro_recipe(None, input={"normalise": name})).eval()
    stems = noise(2, 2, 1, 1000)
    loss, _ = objective(stems.sum(1), stems)
    gains = torch.tensor([0.25, 16.0])
    louder, _ = objective(stems.sum(1) * gains[:, None, None], stems * gains[:, None, None, None])
    assert louder.item() == pytest.approx(loss.item(), rel=1e-5)
    gain = NORMALISERS[name](stems.sum(1)).gain
    plain = Objective(objective.model, micro_recipe(None))
    by_hand = plain(stems.sum(1) * gain, stems * gain[:, None])[0]
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_of_a_track_share_its_level_where_the_name_says_so(name, monkeypatch):
    net = model(name)
    seen, normalised = [], net.normalised
    monkeypatch.setattr(net, "normalised", lambda x, level=None: (seen.append(level), normalised(x, level))[1])
    track = noise(1, 24000) * torch.linspace(0.01, 1, 24000)
    estimates = Separator(net, chunk_seconds=1.0).separate(track)
    assert len(seen) > 2
    assert all((level is not None) == (name in OF_WHOLE_TRACKS) for level in seen)
    if name in OF_WHOLE_TRACKS:
        assert all(level == seen[0] for level in seen)
        assert seen[0].gain.item() == pytest.approx(0.1 / track.abs().max().item())
    quieter = Separator(net, chunk_seconds=1.0).separate(track / 4)
    assert all(torch.equal(quieter[target] * 4, estimates[target]) for target in estimates)


def test_unknown_name():
    with pytest.raises(RecipeError, match="input.normalise='standardize' is unknown. Did you mean 'standardise'.*none"):
        model("standardize")
