"""Loss terms by hand and against independent loops; their sum, weights and properties."""

import itertools
import math

import pytest
import torch

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.losses import JOINT_LOSSES, LOSSES, NEGATIVE_LOSSES, MultiTargetLoss, add_signals, subsets
from refined_bsrnn.metrics import si_sdr
from refined_bsrnn.recipe import LossSpec
from refined_bsrnn.stft import STFT, Signal

ESTIMATE = Signal(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[[1 + 1j], [0 - 2j]]]]))
STEM = Signal(torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[[0 + 1j], [0 + 1j]]]]))


def noise(seed, length=1000, level=1.0):
    """A signal (2, 2, length) and its spectrogram."""
    waveform = level * torch.randn(2, 2, length, generator=torch.Generator().manual_seed(seed))
    return Signal(waveform, STFT(64, 16)(waveform))


SILENCE = Signal(*(torch.zeros_like(x) for x in noise(0)))


def leaves(signal):
    """The same signal, with gradients."""
    return Signal(*(x.clone().requires_grad_() for x in signal))


# --- terms of one target


def test_terms_by_hand():
    assert LOSSES["wave_l1"](ESTIMATE, STEM) == pytest.approx((1 + 2) / 2)
    assert LOSSES["wave_mse"](ESTIMATE, STEM) == pytest.approx((1 + 4) / 2)
    # real parts differ by 1 and 0, imaginary ones by 0 and 3: means 0.5 and 1.5
    assert LOSSES["spec_l1"](ESTIMATE, STEM) == pytest.approx(0.5 + 1.5)


def test_l1snr_by_hand():
    wave = (2 + 1e-3) / (1.5 + 1e-3)
    real = (0 + 1e-3) / (0.5 + 1e-3)
    imag = (1 + 1e-3) / (1.5 + 1e-3)
    expected = -20 * sum(math.log10(ratio) for ratio in (wave, real, imag))
    assert LOSSES["l1snr"](ESTIMATE, STEM) == pytest.approx(expected, rel=1e-5)


def test_l1snr_and_si_sdr_are_means_over_items():
    estimate, stem = noise(1), noise(2)
    for name in ("l1snr", "si_sdr"):
        items = [LOSSES[name](*(Signal(*(x[i : i + 1] for x in s)) for s in (estimate, stem))) for i in range(2)]
        assert LOSSES[name](estimate, stem) == pytest.approx(sum(items).item() / 2, rel=1e-5)


def test_si_sdr_is_the_metric_with_its_sign_turned():
    stem = noise(1)
    estimate = Signal(0.3 * stem.waveform + 0.1 * noise(2).waveform, stem.spectrogram)
    expected = -sum(si_sdr(stem.waveform[i], estimate.waveform[i]) for i in range(2)) / 2
    assert LOSSES["si_sdr"](estimate, stem) == pytest.approx(expected, abs=1e-3)


def test_multi_resolution_stft_frame_by_frame():
    """Each frame cut out, windowed and transformed by itself, of each signal on its own."""
    estimate, stem = noise(1, 5000), noise(2, 5000)

    def transform(x, window):
        n_fft = max(window, 2048)
        shape = torch.zeros(n_fft)
        shape[(n_fft - window) // 2 : (n_fft + window) // 2] = torch.hann_window(window)
        padded = torch.nn.functional.pad(x, (n_fft // 2, n_fft // 2), mode="reflect")
        starts = range(0, x.shape[-1] + 1, 147)
        return torch.stack([torch.fft.rfft(padded[..., i : i + n_fft] * shape) for i in starts])

    expected = sum(
        (transform(estimate.waveform, window) - transform(stem.waveform, window)).abs().mean()
        for window in (4096, 2048, 1024, 512, 256)
    )
    assert LOSSES["mrstft"](estimate, stem) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("length", [50, 1000])
def test_every_term_is_best_for_equal_signals_and_has_a_gradient(name, length):
    estimate, stem = leaves(noise(1, length)), noise(2, length)
    LOSSES[name](estimate, stem).backward()
    gradients = [x.grad for x in estimate if x.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    best = LOSSES[name](stem, stem)
    assert best < 0 if name in NEGATIVE_LOSSES else best == 0
    assert all(best < LOSSES[name](noise(seed, length), stem) for seed in range(3, 6))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize(
    ("estimate", "stem"),
    [(SILENCE, noise(1)), (noise(1), SILENCE), (SILENCE, SILENCE)],
    ids=["estimate", "stem", "both"],
)
def test_silence_gives_finite_terms_and_gradients(name, estimate, stem):
    estimate = leaves(estimate)
    value = LOSSES[name](estimate, stem)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(x.grad).all() for x in estimate if x.grad is not None)


# --- terms of all targets at once


def joint_case(n_targets):
    """Estimates, stems and the mixture of so many targets, with something else in the mixture too."""
    names = list("abcde"[:n_targets])
    estimates = {name: noise(i) for i, name in enumerate(names)}
    stems = {name: noise(10 + i, level=1.0 + i) for i, name in enumerate(names)}
    rest = noise(20, level=0.5)
    return estimates, stems, add_signals({**stems, "rest": rest})


@pytest.mark.parametrize(("n_targets", "n_subsets"), [(1, 1), (2, 2), (3, 6), (4, 14), (5, 30)])
def test_subsets(n_targets, n_subsets):
    found = subsets("abcde"[:n_targets])
    assert len(found) == len(set(found)) == n_subsets
    assert all(0 < len(names) < max(2, n_targets) for names in found)


def loop_magnitudes(estimates, stems, chosen):
    total = 0.0
    for names in chosen:
        ours = sum(estimates[name].spectrogram.abs() for name in names)
        theirs = sum(stems[name].spectrogram.abs() for name in names)
        total += ((ours - theirs) ** 2).mean().item()
    return total / len(chosen)


def loop_weighted_sdr(estimates, stems, mixture, chosen):
    """Every combination, item and channel by itself."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    scores = []
    for names, item, channel in itertools.product(chosen, range(2), range(2)):
        x = mixture.waveform[item, channel, 200:800].double()
        y_hat = sum(estimates[name].waveform[item, channel, 200:800].double() for name in names)
        y = sum(stems[name].waveform[item, channel, 200:800].double() for name in names)
        alpha = float(y @ y / (y @ y + (x - y) @ (x - y)))
        scores.append(-alpha * cosine(y_hat, y) - (1 - alpha) * cosine(x - y_hat, x - y))
    return 1 + sum(scores) / len(scores)


@pytest.mark.parametrize("n_targets", [1, 2, 3, 4, 5])
def test_joint_terms_against_loops(n_targets):
    estimates, stems, mixture = joint_case(n_targets)
    single = [(name,) for name in stems]
    powerset = [c for size in range(1, n_targets) for c in itertools.combinations(stems, size)] or single
    for prefix, chosen in (("", single), ("combined_", powerset)):
        value = JOINT_LOSSES[f"{prefix}magnitude_mse"](estimates, stems, mixture)
        assert value == pytest.approx(loop_magnitudes(estimates, stems, chosen), rel=1e-4)
        value = JOINT_LOSSES[f"{prefix}weighted_sdr"](estimates, stems, mixture)
        assert value == pytest.approx(loop_weighted_sdr(estimates, stems, mixture, chosen), abs=1e-5)


def test_magnitudes_by_hand():
    """|Ŷ| is √2 and 2, |Y| is 1 and 1; a second target is right."""
    estimates, stems = {"a": ESTIMATE, "b": STEM}, {"a": STEM, "b": STEM}
    expected = ((math.sqrt(2) - 1) ** 2 + 1) / 2
    assert JOINT_LOSSES["magnitude_mse"](estimates, stems, STEM) == pytest.approx(expected / 2)
    assert JOINT_LOSSES["combined_magnitude_mse"](estimates, stems, STEM) == pytest.approx(expected / 2)


@pytest.mark.parametrize("name", sorted(JOINT_LOSSES))
@pytest.mark.parametrize("length", [50, 1000])
def test_every_joint_term_is_zero_for_equal_signals_and_has_a_gradient(name, length):
    stems = {"a": noise(1, length), "b": noise(2, length), "c": noise(3, length)}
    mixture = add_signals(stems)
    estimates = {target: leaves(noise(10 + i, length)) for i, target in enumerate(stems)}
    value = JOINT_LOSSES[name](estimates, stems, mixture)
    value.backward()
    assert value > 0.1
    for estimate in estimates.values():
        gradients = [x.grad for x in estimate if x.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    assert JOINT_LOSSES[name](stems, stems, mixture) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(JOINT_LOSSES))
@pytest.mark.parametrize("silent", [("ours",), ("theirs",), ("ours", "theirs"), ("ours", "theirs", "mixture")])
def test_silence_gives_finite_joint_terms_and_gradients(name, silent):
    stems = {"a": SILENCE if "theirs" in silent else noise(1), "b": SILENCE if "mixture" in silent else noise(2)}
    estimates = {"a": leaves(SILENCE if "ours" in silent else noise(3)), "b": leaves(SILENCE)}
    value = JOINT_LOSSES[name](estimates, stems, add_signals(stems))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(x.grad).all() for s in estimates.values() for x in s if x.grad is not None)


# --- their sum


def test_sum_mean_and_weights():
    both = {"a": ESTIMATE, "b": ESTIMATE}, {"a": STEM, "b": STEM}
    total, parts = MultiTargetLoss(LossSpec(), ["a", "b"])(*both)
    assert parts == {"a/wave_l1": 1.5, "a/spec_l1": 2.0, "b/wave_l1": 1.5, "b/spec_l1": 2.0}
    assert total == pytest.approx(7.0)
    assert MultiTargetLoss(LossSpec(reduction="mean"), ["a", "b"])(*both)[0] == pytest.approx(3.5)
    weighted = LossSpec(target_weights={"b": 0.5}, terms={"wave_l1": 2.0})
    assert MultiTargetLoss(weighted, ["a", "b"])(*both)[0] == pytest.approx(2 * 1.5 + 0.5 * 2 * 1.5)


def test_joint_terms_are_added_once_with_their_own_weight():
    estimates, stems, mixture = joint_case(3)
    spec = LossSpec(reduction="mean", terms={"combined_magnitude_mse": 1.0, "combined_weighted_sdr": 10.0})
    total, parts = MultiTargetLoss(spec, list(stems))(estimates, stems, mixture)
    assert list(parts) == ["all/combined_magnitude_mse", "all/combined_weighted_sdr"]
    assert total == pytest.approx(
        (parts["all/combined_magnitude_mse"] + 10 * parts["all/combined_weighted_sdr"]).item(), rel=1e-6
    )


def test_the_mixture_is_the_sum_of_the_stems_where_none_is_given():
    estimates, stems, _ = joint_case(3)
    loss = MultiTargetLoss(LossSpec(terms={"weighted_sdr": 1.0}), list(stems))
    assert loss(estimates, stems)[0] == loss(estimates, stems, add_signals(stems))[0]


def test_a_term_of_weight_zero_is_told_and_does_not_count():
    both = {"a": ESTIMATE}, {"a": STEM}
    total, parts = MultiTargetLoss(LossSpec(terms={"wave_l1": 1.0, "spec_l1": 0.0}), ["a"])(*both)
    assert (total, parts["a/spec_l1"]) == (1.5, 2.0)


def test_uncertainty_weighting_by_hand():
    both = {"a": ESTIMATE, "b": ESTIMATE}, {"a": STEM, "b": STEM}
    spec = LossSpec(weighting="uncertainty", target_weights={"b": 3.0}, terms={"wave_l1": 1.0})
    loss = MultiTargetLoss(spec, ["a", "b"])
    assert [name for name, _ in loss.named_parameters()] == ["log_variances"]
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.5, -1.0]))
    total, parts = loss(*both)
    a, b = (0.5 * math.exp(-s) * 1.5 + 0.5 * s for s in (0.5, -1.0))
    assert total.item() == pytest.approx(a + 3 * b)
    assert parts == {"a/wave_l1": 1.5, "a/log_variance": 0.5, "b/wave_l1": 1.5, "b/log_variance": -1.0}
    total.backward()
    expected = [0.5 - 0.5 * math.exp(-0.5) * 1.5, 3 * (0.5 - 0.5 * math.exp(1.0) * 1.5)]
    assert loss.log_variances.grad.tolist() == pytest.approx(expected)


def test_uncertainty_settles_where_the_weight_is_the_inverse_of_the_error():
    loss = MultiTargetLoss(LossSpec(weighting="uncertainty", terms={"wave_l1": 1.0}), ["a"])
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        loss({"a": ESTIMATE}, {"a": STEM})[0].backward()
        optimizer.step()
    assert loss.log_variances.item() == pytest.approx(math.log(1.5), abs=1e-3)


def test_fixed_weights_have_no_parameters():
    assert not list(MultiTargetLoss(LossSpec(), ["a"]).parameters())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"wave_l1": 1.0, "si_sdr": 1.0}, "uncertainty with loss.si_sdr, which can be negative.* loss.weighting=fixed"),
        ({"weighted_sdr": 1.0}, "no term belongs to one target.* Add one of mrstft, spec_l1, wave_l1"),
        ({"wave_l1": 0.0}, "no term belongs to one target"),
    ],
)
def test_what_uncertainty_cannot_weigh(terms, message):
    with pytest.raises(RecipeError, match=message):
        MultiTargetLoss(LossSpec(weighting="uncertainty", terms=terms), ["a"])


def test_unknown_term():
    with pytest.raises(RecipeError, match=r"'wave_l2' is unknown. Did you mean 'wave_l1'"):
        MultiTargetLoss(LossSpec(terms={"wave_l2": 1.0}), ["a"])
