"""Loss terms by hand, and their sum."""

import pytest
import torch

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.losses import LOSSES, MultiTargetLoss
from refined_bsrnn.recipe import LossSpec
from refined_bsrnn.stft import Signal

ESTIMATE = Signal(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[[1 + 1j], [0 - 2j]]]]))
STEM = Signal(torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[[0 + 1j], [0 + 1j]]]]))


def test_terms_by_hand():
    assert LOSSES["wave_l1"](ESTIMATE, STEM) == pytest.approx((1 + 2) / 2)
    # real parts differ by 1 and 0, imaginary ones by 0 and 3: means 0.5 and 1.5
    assert LOSSES["spec_l1"](ESTIMATE, STEM) == pytest.approx(0.5 + 1.5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_term_is_zero_for_equal_signals_and_has_a_gradient(name):
    waveform = torch.randn(2, 2, 50, requires_grad=True)
    spectrogram = torch.randn(2, 2, 5, 3, dtype=torch.complex64, requires_grad=True)
    stem = Signal(torch.randn(2, 2, 50), torch.randn(2, 2, 5, 3, dtype=torch.complex64))
    LOSSES[name](Signal(waveform, spectrogram), stem).backward()
    gradients = [g for g in (waveform.grad, spectrogram.grad) if g is not None]
    assert gradients
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    assert LOSSES[name](stem, stem) == 0


def test_sum_mean_and_weights():
    both = {"a": ESTIMATE, "b": ESTIMATE}, {"a": STEM, "b": STEM}
    total, parts = MultiTargetLoss(LossSpec(), ["a", "b"])(*both)
    assert parts == {"a/wave_l1": 1.5, "a/spec_l1": 2.0, "b/wave_l1": 1.5, "b/spec_l1": 2.0}
    assert total == pytest.approx(7.0)
    assert MultiTargetLoss(LossSpec(reduction="mean"), ["a", "b"])(*both)[0] == pytest.approx(3.5)
    weighted = LossSpec(target_weights={"b": 0.5}, terms={"wave_l1": 2.0})
    assert MultiTargetLoss(weighted, ["a", "b"])(*both)[0] == pytest.approx(2 * 1.5 + 0.5 * 2 * 1.5)


def test_unknown_term():
    with pytest.raises(RecipeError, match=r"'wave_l2' is unknown. Did you mean 'wave_l1'"):
        MultiTargetLoss(LossSpec(terms={"wave_l2": 1.0}), ["a"])
