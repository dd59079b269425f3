"""Heads bridged to each other: against a computation apart from them, on disk, in training; what is refused."""

import pytest
import torch
from conftest import micro_recipe, write_songs

from refined_bsrnn.checkpoint import RunFolder, load_head, load_model, save_weights
from refined_bsrnn.errors import CheckpointError, RecipeError, UserError
from refined_bsrnn.files import write_text
from refined_bsrnn.heads import HEADS
from refined_bsrnn.hub import export
from refined_bsrnn.model import BSRNN, count_parameters
from refined_bsrnn.recipe import HeadSpec, dump_recipe
from refined_bsrnn.train import train
from refined_bsrnn.transfer import transfer, transfer_recipe

TARGETS = ("vocals", "drums", "bass")


def model(kind="mlp_mask", bridge=True, targets=TARGETS, hidden_layers=1, **values):
    torch.manual_seed(0)
    head = {"kind": kind, "hidden_layers": hidden_layers, "bridge": bridge}
    return BSRNN.from_recipe(micro_recipe(None, targets=list(targets), head=head, **values)).eval()


def saved(net, tmp_path, name="run"):
    run = RunFolder(tmp_path / "runs" / name)
    write_text(run.recipe, dump_recipe(net.recipe))
    save_weights(run, net)
    return run


def masks_by_hand(net, features):
    """{target: mask (B, C, F, T)} of bridged mlp_mask heads, written apart: means of tanh(Wx + b) over the targets."""
    heads = {target: net.heads[target].bands for target in net.heads}
    masks = {target: [] for target in heads}
    for k in range(len(net.ranges)):
        states = {}
        for target, bands in heads.items():
            norm, first = bands[k][0], bands[k][1]
            states[target] = torch.tanh(norm(features[:, :, k]) @ first.weight.T + first.bias)
        mean = sum(states.values()) / len(states)
        for i in range(3, len(bands[k]) - 1, 2):  # further hidden layers, each of the mean so far
            mean = sum(torch.tanh(mean @ b[k][i].weight.T + b[k][i].bias) for b in heads.values()) / len(heads)
        for target, bands in heads.items():
            value, gate = (mean @ bands[k][-1].weight.T + bands[k][-1].bias).chunk(2, dim=-1)
            real, imag = (value * torch.sigmoid(gate)).chunk(2, dim=-1)
            masks[target].append(real + 1j * imag)
    return {target: torch.cat(parts, dim=-1).transpose(2, 3) for target, parts in masks.items()}


@pytest.mark.parametrize("hidden_layers", [1, 2])
@torch.no_grad()
def test_bridged_heads_go_on_from_the_mean_of_their_hidden_layers(hidden_layers):
    net, mixture = model(hidden_layers=hidden_layers), torch.randn(2, 2, 1000)
    masks, spectrogram = masks_by_hand(net, net.features(mixture)), net.stft(mixture)
    for target, signal in net.signals(mixture).items():
        torch.testing.assert_close(signal.spectrogram, masks[target] * spectrogram, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_bridging_changes_the_estimates_and_has_no_parameters(kind):
    apart, together = model(kind, bridge=False), model(kind)
    assert count_parameters(apart) == count_parameters(together)
    together.load_state_dict(apart.state_dict())
    mixture = torch.randn(1, 2, 1000)
    assert not torch.allclose(apart(mixture)["drums"], together(mixture)["drums"], atol=1e-3)
    # heads that are the same have themselves as their mean
    for net in (apart, together):
        for target in TARGETS[1:]:
            net.heads[target].load_state_dict(net.heads[TARGETS[0]].state_dict())
    torch.testing.assert_close(together(mixture)["drums"], apart(mixture)["drums"])


@pytest.mark.parametrize("kind", HEADS)
def test_one_target_asked_for_runs_all_and_is_the_same(kind):
    net, mixture = model(kind), torch.randn(1, 2, 1000)
    assert torch.equal(net(mixture, ["drums"])["drums"], net(mixture)["drums"])
    net(mixture, ["drums"])["drums"].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in net.heads["bass"].named_parameters() if name.endswith(".1.weight"))


@pytest.mark.parametrize("together", ["consistent", "subtract_last"])
def test_bridged_heads_can_be_tied_too(together):
    net, mixture = model(together=together), 0.1 * torch.randn(1, 2, 1000)
    assert (sum(net(mixture).values()) - mixture).abs().max() < 1e-6
    assert torch.equal(net(mixture, ["vocals"])["vocals"], net(mixture)["vocals"])


def test_a_head_of_its_own_beside_them_is_not_bridged():
    net, mixture = model(), torch.randn(1, 1, 1000)
    before = net(mixture)
    net.add_head("guitar", HeadSpec())
    after = net(mixture)
    assert all(torch.equal(before[target], after[target]) for target in TARGETS)
    net.heads["vocals"].bands = None  # running it would fail
    assert torch.equal(net(mixture, ["guitar"])["guitar"], after["guitar"])


@torch.no_grad()
def test_a_bridged_run_comes_back_from_disk(tmp_path):
    net = model()
    run, mixture = saved(net, tmp_path), torch.randn(1, 2, 1000)
    for heads in (None, ["bass"]):
        loaded = load_model(run, heads)
        assert sorted(loaded.heads) == sorted(TARGETS)
        assert torch.equal(loaded(mixture, ["bass"])["bass"], net(mixture)["bass"])  # whatever order they come in
    run.head("vocals").unlink()
    with pytest.raises(UserError, match="go on from the mean .* there is no head 'vocals'. Heads here: bass, drums"):
        load_model(run)(mixture, ["bass"])


def test_a_bridged_head_goes_nowhere_else(tmp_path):
    net = model()
    run, other = saved(net, tmp_path), model(bridge=False, targets=["guitar"])
    other.backbone.load_state_dict(net.backbone.state_dict())
    with pytest.raises(CheckpointError, match=r"'bass' is bridged to others .* bridged here: none. It works in"):
        load_head(run.head("bass"), other, "bass")
    with pytest.raises(CheckpointError, match=r"'bass2' is bridged .* bridged here: vocals, drums, bass"):
        load_head(run.head("bass"), net, "bass2")


def test_training_and_transfer(tmp_path):
    root = write_songs(tmp_path / "songs", stems=(*TARGETS, "guitar", "piano"))
    head = {"bridge": True}
    run, finished = train(micro_recipe(root, targets=list(TARGETS), head=head, run={"name": "bridged"}))
    assert finished
    quick = ["train.steps=2", "train.validate_every=2"]
    alone = transfer_recipe(run, ["guitar"], "transfer", quick)  # apart from those of the base
    assert load_model(transfer(alone)[0]).targets == ["guitar"]
    with pytest.raises(RecipeError, match="head.bridge is true with the head guitar alone"):
        transfer(transfer_recipe(run, ["guitar"], "transfer", [*quick, "head.bridge=true", "run.name=x"]))
    with pytest.raises(RecipeError, match="head.bridge is true: the head 'bass' cannot be left out"):
        export(run, tmp_path / "shared", ["drums"])
    several = transfer_recipe(run, ["guitar", "piano"], "transfer", [*quick, "head.bridge=true"])
    transferred = load_model(transfer(several)[0])
    assert all(transferred.head(target).bridge for target in ("guitar", "piano"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"targets": ["a"]}, RecipeError, "head.bridge is true with the head a alone.* two or more heads"),
        ({"targets": ["a", "b"], "together": "subtract_last"}, RecipeError, "bridge is true with the head a alone"),
        ({"bridge": "yes"}, RecipeError, "head.bridge is 'yes'; expected true or false"),
        ({"bridge": False, "hidden_layers": True}, RecipeError, "head.hidden_layers is True; expected one of 1, 2"),
    ],
)
def test_what_cannot_be_bridged_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        model(**values)


def test_a_kind_without_hidden_layers_cannot_be_bridged(monkeypatch):
    class Plain(torch.nn.Module):
        def __init__(self, ranges, backbone, n_joint=1, *, scale=1.0):
            super().__init__()

    monkeypatch.setitem(HEADS, "plain", Plain)
    with pytest.raises(RecipeError, match=r"head.kind=plain has no option 'bridge'. Options: scale"):
        BSRNN.from_recipe(micro_recipe(None, targets=["a", "b"], head={"kind": "plain", "bridge": True}))
