"""Targets that sum to the mixture: by hand, in the network, on disk, in training; what is refused."""

import json

import pytest
import torch
from conftest import RATE, STEMS, micro_recipe, write_songs

from refined_bsrnn.checkpoint import RunFolder, load_model, save_weights
from refined_bsrnn.errors import CheckpointError, RecipeError, UserError
from refined_bsrnn.evaluate import evaluate
from refined_bsrnn.files import write_text
from refined_bsrnn.model import BSRNN, count_parameters
from refined_bsrnn.recipe import HeadSpec, dump_recipe, make_recipe
from refined_bsrnn.separate import Separator
from refined_bsrnn.together import TOGETHER
from refined_bsrnn.train import train
from refined_bsrnn.transfer import transfer, transfer_recipe

KINDS = sorted(TOGETHER)


def model(together, targets=STEMS, **values):
    torch.manual_seed(0)
    return BSRNN.from_recipe(micro_recipe(None, targets=list(targets), together=together, **values)).eval()


def spectrum(seed):
    return torch.randn(2, 2, 9, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_consistent_by_hand():
    """Mixture 6, estimates 1 and 3: 2 are missing, 1 for each."""
    one, three, six = (torch.full((1, 1, 1, 1), value + 0j) for value in (1, 3, 6 + 4j))
    got = TOGETHER["consistent"]({"a": one, "b": three}, six, ["a", "b"])
    assert (got["a"].item(), got["b"].item()) == (2 + 2j, 4 + 2j)


def test_consistent_is_the_published_correction_of_the_masks():
    mixture, masks = spectrum(0), {name: spectrum(i) for i, name in enumerate("abcd", start=1)}
    total = sum(masks.values())
    expected = {
        name: torch.complex(mask.real - (total.real - 1) / 4, mask.imag - total.imag / 4) * mixture
        for name, mask in masks.items()
    }
    got = TOGETHER["consistent"]({name: mask * mixture for name, mask in masks.items()}, mixture, list(masks))
    for name in masks:
        torch.testing.assert_close(got[name], expected[name])


def test_subtract_last_by_hand():
    a, b, mixture = spectrum(1), spectrum(2), spectrum(0)
    got = TOGETHER["subtract_last"]({"b": b, "a": a}, mixture, ["a", "b", "c"])
    assert torch.equal(got["a"], a)
    torch.testing.assert_close(got["c"], mixture - a - b)


@pytest.mark.parametrize("together", KINDS)
@pytest.mark.parametrize("targets", [STEMS[:2], STEMS[:3], STEMS])
def test_estimates_sum_to_the_mixture(together, targets):
    mixture = 0.1 * torch.randn(2, 2, 3001)
    estimates = model(together, targets)(mixture)
    assert list(estimates) == list(targets)
    assert (sum(estimates.values()) - mixture).abs().max() < 1e-6
    assert (sum(model("none", targets)(mixture).values()) - mixture).abs().max() > 1e-3


@pytest.mark.parametrize("together", KINDS)
def test_a_target_asked_for_alone_is_the_same(together):
    net, mixture = model(together), torch.randn(1, 2, 1000)
    everything = net(mixture)
    for target in STEMS:
        assert torch.equal(net(mixture, [target])[target], everything[target])
    assert list(net(mixture, ["other", "drums"])) == ["other", "drums"]


def test_only_the_last_needs_the_others_when_it_is_what_they_leave():
    net, mixture = model("subtract_last"), torch.randn(1, 2, 1000)
    net.heads["vocals"].bands = None  # running it would fail
    assert list(net(mixture, ["drums"])) == ["drums"]
    with pytest.raises(TypeError):
        net(mixture, ["other"])


@pytest.mark.parametrize("together", KINDS)
def test_estimates_sum_to_the_mixture_behind_a_normalised_input(together):
    mixture = 0.1 * torch.randn(1, 2, 3001)
    estimates = model(together, input={"normalise": "standardise"})(mixture)
    assert (sum(estimates.values()) - mixture).abs().max() < 1e-6


def test_parameters():
    head = count_parameters(model("none").heads["other"])
    assert count_parameters(model("consistent")) == count_parameters(model("none"))
    assert count_parameters(model("subtract_last")) == count_parameters(model("none")) - head
    assert list(model("subtract_last").heads) == ["vocals", "drums", "bass"]
    assert model("subtract_last").targets == list(STEMS)


def test_a_head_of_its_own_beside_them_is_not_tied():
    net, mixture = model("consistent", STEMS[:2]), torch.randn(1, 1, 1000)
    net.add_head("guitar", HeadSpec())
    estimates = net(mixture)
    assert (estimates["vocals"] + estimates["drums"] - mixture).abs().max() < 1e-5
    net.heads["vocals"].bands = None  # running it would fail
    assert torch.equal(net(mixture, ["guitar"])["guitar"], estimates["guitar"])


@pytest.mark.parametrize("together", KINDS)
def test_every_parameter_gets_a_gradient(together):
    net = model(together)
    sum((x**2).sum() for x in net(torch.randn(1, 2, 1000)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


# --- on disk


@pytest.mark.parametrize("together", KINDS)
def test_a_run_comes_back_from_disk(together, tmp_path):
    net = model(together)
    run = RunFolder(tmp_path / "runs" / "tied")
    write_text(run.recipe, dump_recipe(net.recipe))
    save_weights(run, net)
    assert len(run.head_names()) == len(net.heads)
    mixture = torch.randn(2, RATE)
    expected = net(mixture[None])
    for heads in (None, ["other"], ["vocals", "other"]):
        loaded = load_model(run, heads)
        assert sorted(loaded.targets) == sorted(STEMS)
        for target in heads or STEMS:
            torch.testing.assert_close(loaded(mixture[None], [target])[target], expected[target])
    estimates = Separator.from_pretrained(run.path).separate(mixture)
    assert sorted(estimates) == sorted(STEMS)
    assert (sum(estimates.values()) - mixture).abs().max() < 1e-5
    if together == "subtract_last":
        run.head("vocals").unlink()
        assert load_model(run).targets == ["bass", "drums"]  # what the others leave is not known without vocals
    with pytest.raises(RecipeError, match=r"has no head 'othr'. Did you mean 'other'\? Heads: .*other"):
        load_model(run, ["othr"])


def test_a_head_that_is_gone_is_named(tmp_path):
    net = model("consistent")
    run = RunFolder(tmp_path / "runs" / "tied")
    write_text(run.recipe, dump_recipe(net.recipe))
    save_weights(run, net)
    run.head("bass").unlink()
    loaded = load_model(run)
    assert loaded.targets == ["drums", "other", "vocals"]
    with pytest.raises(UserError, match="together is consistent: .* there is no head 'bass'. Heads here: drums, oth"):
        loaded(torch.randn(1, 1, 500), ["drums"])


# --- in a run


@pytest.mark.parametrize("together", KINDS)
def test_training_evaluation_and_transfer(together, tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*STEMS, "guitar"))
    recipe = micro_recipe(root, together=together, run={"name": "tied"}, input={"normalise": "peak"})
    run, finished = train(recipe)
    assert finished
    assert run.head_names() == (["vocals"] if together == "subtract_last" else ["drums", "vocals"])
    results = evaluate(run)
    assert sorted(results["targets"]) == sorted(results["summary"]) == ["drums", "vocals"]
    values = transfer_recipe(run, ["guitar"], "transfer", ["train.steps=2", "train.validate_every=2"])
    assert values.together == "none"
    assert values.input.normalise == "peak"
    transferred, _ = transfer(values)
    assert load_model(transferred).targets == ["guitar"]
    assert json.loads(transferred.provenance.read_text())["parameters"]["frozen"] > 0
    with pytest.raises(RecipeError, match="input.normalise='none' differs from the base"):
        transfer_recipe(run, ["guitar"], overrides=["input.normalise=none"])
    with pytest.raises(RecipeError, match="in a transfer: fresh heads do not know the other targets"):
        transfer_recipe(run, ["guitar", "bass"], overrides=[f"together={together}"])


# --- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ["a"], "together": "consistent"}, "together is consistent with the target a alone.*two or more"),
        ({"targets": ["a", "b"], "together": "sum"}, "together is 'sum'; expected one of none, consistent, subtract_l"),
        ({"targets": ["a", "b"], "together": "consistent", "base": {"run": "x"}}, "in a transfer: fresh heads"),
    ],
)
def test_recipes(values, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(values)


def test_the_target_without_a_head_gets_none():
    with pytest.raises(CheckpointError, match="'other' has no head: it is what the others leave"):
        model("subtract_last").add_head("other", HeadSpec())
