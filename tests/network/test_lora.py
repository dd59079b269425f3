"""Low-rank updates: nothing at first, merged equals applied, the backbone untouched, saved with the head."""

import json

import pytest
import torch

from refined_bsrnn.errors import CheckpointError, RecipeError
from refined_bsrnn.network.lora import adaptable
from refined_bsrnn.network.model import BSRNN
from refined_bsrnn.runs.folder import load_head, read_tensors, save_head, tensors_sha256, write_tensors
from tests.conftest import micro_recipe

NETWORKS = {
    "default": {},
    "stereo and attention": {"stereo": "tac", "attention_heads": 2},
    "conv and gru": {"time": "conv", "band": "gru"},
    "grouped": {"groups": 2},
    "rope": {"kind": "rope_transformer", "heads": 2, "head_dim": 4},
}


def network(**backbone):
    torch.manual_seed(0)
    recipe = micro_recipe(None, backbone={"features": 4, "repeats": 1, **backbone})
    return BSRNN.from_recipe(recipe).eval()


def stir(adapter):
    """An adapter as if it had been trained."""
    with torch.no_grad():
        for p in adapter.up.values():
            p.normal_(std=0.3)


@pytest.fixture
def mixture():
    return torch.randn(2, 2, 1500, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", NETWORKS.values(), ids=NETWORKS)
def test_untrained_it_changes_nothing_and_merged_equals_applied(backbone, mixture):
    model = network(**backbone)
    before = model(mixture)
    adapter = model.add_adapter("lora", ["drums"], rank=2, alpha=4.0)
    for name, estimate in model(mixture).items():
        torch.testing.assert_close(estimate, before[name])
    stir(adapter)
    applied = model(mixture)
    assert not torch.allclose(applied["drums"], before["drums"], atol=1e-3)
    assert torch.equal(applied["vocals"], before["vocals"])  # a head without it hears the backbone as it was

    weights = {name: p.clone() for name, p in model.backbone.named_parameters()}
    adapter.merge_into(model.backbone)
    changed = {name for name, p in model.backbone.named_parameters() if not torch.equal(p, weights[name])}
    assert changed == {name for name, _ in adaptable(model.backbone)}
    model.adapters.of.clear()
    torch.testing.assert_close(model(mixture, ["drums"])["drums"], applied["drums"])


def test_every_matrix_has_an_update_and_nothing_else():
    model = network(stereo="tac", attention_heads=1)
    names = {name for name, _ in adaptable(model.backbone)}
    matrices = {name for name, p in model.backbone.named_parameters() if p.ndim > 1 and "norm" not in name}
    assert names == matrices


def test_the_update_is_the_scaled_product_of_its_two_factors():
    model = network()
    adapter = model.add_adapter("lora", ["drums"], rank=2, alpha=6.0)
    stir(adapter)
    name, weight = next(iter(adaptable(model.backbone)))
    key = name.replace(".", "/")
    by_hand = weight + 3.0 * adapter.up[key] @ adapter.down[key]
    torch.testing.assert_close(adapter.weights(model.backbone)[name], by_hand)


def test_gradients_reach_the_adapter_through_a_frozen_backbone(mixture):
    model = network()
    model.backbone.freeze()
    adapter = model.add_adapter("lora", ["drums"], rank=2, alpha=4.0)
    stir(adapter)
    model(mixture, ["drums"])["drums"].square().mean().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    for name, p in adapter.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


def test_saved_in_the_heads_file_and_shared_by_heads_trained_together(tmp_path, mixture):
    model = network()
    adapter = model.add_adapter("lora", ["vocals", "drums"], rank=2, alpha=4.0)
    stir(adapter)
    for name in model.targets:
        save_head(tmp_path / f"{name}.safetensors", model, name)
    fresh = BSRNN(model.recipe, ())
    fresh.backbone.load_state_dict(model.backbone.state_dict())
    for name in model.targets:
        load_head(tmp_path / f"{name}.safetensors", fresh, name)
    assert len(fresh.adapters) == 1
    expected = model(mixture)
    for name, estimate in fresh.eval()(mixture).items():
        assert torch.equal(estimate, expected[name])
    fresh.remove_head("vocals")
    assert len(fresh.adapters) == 1
    fresh.remove_head("drums")
    assert not fresh.adapters
    assert not fresh.adapters.of


def test_an_adapter_in_a_file_is_loaded_strictly(tmp_path):
    model = network()
    model.add_adapter("lora", ["drums"], rank=2, alpha=4.0)
    path = tmp_path / "drums.safetensors"
    save_head(path, model, "drums")
    tensors, metadata = read_tensors(path, "head")
    tensors.pop(next(name for name in tensors if name.startswith("adapter/")))
    about = json.loads(metadata["adapter"])
    own = {name.removeprefix("adapter/"): t for name, t in tensors.items() if name.startswith("adapter/")}
    write_tensors(path, tensors, {**metadata, "adapter": {**about, "sha256": tensors_sha256(own)}})
    model.remove_head("drums")
    with pytest.raises(CheckpointError, match="is missing"):
        load_head(path, model, "drums")
    assert "drums" not in model.targets
    assert not model.adapters


def test_rank_is_checked():
    with pytest.raises(RecipeError, match=r"base\.rank is 0; expected 1 or more"):
        network().add_adapter("lora", ["drums"], rank=0, alpha=1.0)
