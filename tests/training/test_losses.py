"""Loss terms by hand and against independent loops; their sum, weights and properties."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refined_bsrnn.errors import RecipeError
from refined_bsrnn.metrics import si_sdr
from refined_bsrnn.network.signals import STFT, Signal
from refined_bsrnn.recipe import LossSpec
from refined_bsrnn.training.losses import JOINT_LOSSES, LOSSES, NEGATIVE_LOSSES, MultiTargetLoss, add_signals, subsets

ESTIMATE = Signal(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[[1 + 1j], [0 - 2j]]]]))
STEM = Signal(torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[[0 + 1j], [0 + 1j]]]]))


def noise(seed, length=1000, level=1.0):
    """A signal (2, 2, length) and its spectrogram."""
    waveform = level * torch.randn(2, 2, length, generator=torch.Generator().manual_seed(seed))
    return Signal(waveform, STFT(64, 16)(waveform))


SILENCE = Signal(*(torch.zeros_like(x) for x in noise(0)))


def part(signal, i):
    """One example of a signal."""
    return Signal(*(x[i : i + 1] for x in signal))


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


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_term_looks_at_each_example_by_itself(name):
    estimate, stem = noise(1), noise(2)
    each = [LOSSES[name](part(estimate, i), part(stem, i)).item() for i in range(2)]
    assert LOSSES[name](estimate, stem).tolist() == pytest.approx(each, rel=1e-5)


def test_si_sdr_is_the_metric_with_its_sign_turned():
    stem = noise(1)
    estimate = Signal(0.3 * stem.waveform + 0.1 * noise(2).waveform, stem.spectrogram)
    expected = [-si_sdr(stem.waveform[i], estimate.waveform[i]) for i in range(2)]
    assert LOSSES["si_sdr"](estimate, stem).tolist() == pytest.approx(expected, abs=1e-3)


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
    assert LOSSES["mrstft"](estimate, stem).mean() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("length", [50, 1000])
def test_every_term_is_best_for_equal_signals_and_has_a_gradient(name, length):
    estimate, stem = leaves(noise(1, length)), noise(2, length)
    LOSSES[name](estimate, stem).mean().backward()
    gradients = [x.grad for x in estimate if x.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    best = LOSSES[name](stem, stem)
    assert (best < 0).all() if name in NEGATIVE_LOSSES else (best == 0).all()
    assert all((best < LOSSES[name](noise(seed, length), stem)).all() for seed in range(3, 6))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize(
    ("estimate", "stem"),
    [(SILENCE, noise(1)), (noise(1), SILENCE), (SILENCE, SILENCE)],
    ids=["estimate", "stem", "both"],
)
def test_silence_gives_finite_terms_and_gradients(name, estimate, stem):
    estimate = leaves(estimate)
    value = LOSSES[name](estimate, stem)
    value.mean().backward()
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(x.grad).all() for x in estimate if x.grad is not None)


# --- terms of all targets at once


def joint(name, estimates, stems, mixture, available=None):
    """A joint term, the mean over the examples; all stems are there unless it is said."""
    available = torch.ones(len(mixture.waveform), len(stems)) if available is None else available
    return JOINT_LOSSES[name](estimates, stems, mixture, available).mean()


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


def loop_magnitudes(estimates, stems, chosen, item):
    total = 0.0
    for names in chosen:
        ours = sum(estimates[name].spectrogram[item].abs() for name in names)
        theirs = sum(stems[name].spectrogram[item].abs() for name in names)
        total += ((ours - theirs) ** 2).mean().item()
    return total / len(chosen)


def loop_weighted_sdr(estimates, stems, mixture, chosen, item):
    """Every combination and channel by itself."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    scores = []
    for names, channel in itertools.product(chosen, range(2)):
        x = mixture.waveform[item, channel, 200:800].double()
        y_hat = sum(estimates[name].waveform[item, channel, 200:800].double() for name in names)
        y = sum(stems[name].waveform[item, channel, 200:800].double() for name in names)
        alpha = float(y @ y / (y @ y + (x - y) @ (x - y)))
        scores.append(-alpha * cosine(y_hat, y) - (1 - alpha) * cosine(x - y_hat, x - y))
    return 1 + sum(scores) / len(scores)


@pytest.mark.parametrize("n_targets", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("missing", [(), ("a",), ("b", "c")])
def test_joint_terms_against_loops(n_targets, missing):
    """In the first example stems may be missing; then the combinations of those that are there count."""
    estimates, stems, mixture = joint_case(n_targets)
    available = torch.tensor([[float(name not in missing) for name in stems], [1.0] * n_targets])
    for item, names in enumerate([[name for name in stems if name not in missing], list(stems)]):
        if not names:
            continue
        single = [(name,) for name in names]
        sizes = range(1, min(len(names), n_targets - 1) + 1)  # all targets together are the mixture
        powerset = [c for size in sizes for c in itertools.combinations(names, size)] or single
        for prefix, chosen in (("", single), ("combined_", powerset)):
            values = JOINT_LOSSES[f"{prefix}magnitude_mse"](estimates, stems, mixture, available)
            assert values[item] == pytest.approx(loop_magnitudes(estimates, stems, chosen, item), rel=1e-4)
            values = JOINT_LOSSES[f"{prefix}weighted_sdr"](estimates, stems, mixture, available)
            assert values[item] == pytest.approx(loop_weighted_sdr(estimates, stems, mixture, chosen, item), abs=1e-5)


def test_magnitudes_by_hand():
    """|Ŷ| is √2 and 2, |Y| is 1 and 1; a second target is right."""
    estimates, stems = {"a": ESTIMATE, "b": STEM}, {"a": STEM, "b": STEM}
    expected = ((math.sqrt(2) - 1) ** 2 + 1) / 2
    assert joint("magnitude_mse", estimates, stems, STEM) == pytest.approx(expected / 2)
    assert joint("combined_magnitude_mse", estimates, stems, STEM) == pytest.approx(expected / 2)


@pytest.mark.parametrize("name", sorted(JOINT_LOSSES))
@pytest.mark.parametrize("length", [50, 1000])
def test_every_joint_term_is_zero_for_equal_signals_and_has_a_gradient(name, length):
    stems = {"a": noise(1, length), "b": noise(2, length), "c": noise(3, length)}
    mixture = add_signals(stems)
    estimates = {target: leaves(noise(10 + i, length)) for i, target in enumerate(stems)}
    value = joint(name, estimates, stems, mixture)
    value.backward()
    assert value > 0.1
    for estimate in estimates.values():
        gradients = [x.grad for x in estimate if x.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    assert joint(name, stems, stems, mixture) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(JOINT_LOSSES))
@pytest.mark.parametrize("silent", [("ours",), ("theirs",), ("ours", "theirs"), ("ours", "theirs", "mixture")])
def test_silence_gives_finite_joint_terms_and_gradients(name, silent):
    stems = {"a": SILENCE if "theirs" in silent else noise(1), "b": SILENCE if "mixture" in silent else noise(2)}
    estimates = {"a": leaves(SILENCE if "ours" in silent else noise(3)), "b": leaves(SILENCE)}
    value = joint(name, estimates, stems, add_signals(stems))
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


# --- missing stems

SPECS = {
    "plain": LossSpec(),
    "weights": LossSpec(reduction="mean", target_weights={"a": 3.0, "c": 0.0}, terms={"spec_l1": 0.5, "si_sdr": 1.0}),
    "uncertainty": LossSpec(weighting="uncertainty", target_weights={"b": 0.5}, terms={"wave_l1": 1.0}),
    "joint": LossSpec(terms={"wave_l1": 1.0, **dict.fromkeys(JOINT_LOSSES, 0.3)}),
    "both": LossSpec(weighting="uncertainty", terms={"wave_l1": 1.0, "combined_weighted_sdr": 1.0}),
}
NAMES = ("a", "b", "c")
PRESENT = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 1.0])] * len(NAMES)), min_size=4, max_size=4).map(
    torch.tensor
)


def batch(n_examples=4, length=300):
    """Estimates with gradients and stems of three targets, and a mixture."""

    def signal(seed):
        waveform = torch.randn(n_examples, 2, length, generator=torch.Generator().manual_seed(seed))
        return Signal(waveform, STFT(64, 16)(waveform))

    estimates = {name: leaves(signal(i)) for i, name in enumerate(NAMES)}
    stems = {name: signal(10 + i) for i, name in enumerate(NAMES)}
    return estimates, stems, add_signals({**stems, "rest": signal(20)})


def only(signals, chosen):
    """The chosen examples, cut from the graph."""
    return {name: Signal(*(x[chosen].detach() for x in signal)) for name, signal in signals.items()}


def started(name):
    loss = MultiTargetLoss(SPECS[name], NAMES)
    if loss.log_variances is not None:
        with torch.no_grad():
            loss.log_variances.copy_(torch.tensor([0.5, -1.0, 0.2]))
    return loss


@pytest.mark.parametrize("name", sorted(SPECS))
def test_everything_present_is_as_if_nothing_were_said(name):
    estimates, stems, mixture = batch()
    loss = started(name)
    messages = loss(estimates, stems, mixture, torch.ones(4, 3, dtype=torch.bool))
    assert messages == loss(estimates, stems, mixture)


def test_a_target_is_the_mean_over_the_examples_that_have_it():
    estimates, stems, mixture = batch()
    present = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    total, parts = MultiTargetLoss(SPECS["plain"], NAMES)(estimates, stems, mixture, present)
    for name, chosen in (("a", [0, 1, 3]), ("b", [1])):
        ours, theirs = only(estimates, chosen)[name], only(stems, chosen)[name]
        assert parts[f"{name}/wave_l1"] == pytest.approx(
            (ours.waveform - theirs.waveform).abs().mean().item(), rel=1e-5
        )
    assert parts["c/wave_l1"] == parts["c/spec_l1"] == 0
    assert total.item() == pytest.approx(sum(parts.values()).item(), rel=1e-6)


def test_a_down_weighted_stem_counts_less():
    estimates, stems, mixture = batch()
    present = torch.tensor([[1.0], [0.5], [0.0], [0.0]]).expand(4, 3)
    _, parts = MultiTargetLoss(SPECS["plain"], NAMES)(estimates, stems, mixture, present)
    errors = (estimates["a"].waveform - stems["a"].waveform).abs().mean((1, 2))
    assert parts["a/wave_l1"] == pytest.approx(((errors[0] + 0.5 * errors[1]) / 1.5).item(), rel=1e-5)


@pytest.mark.parametrize("name", sorted(SPECS))
@given(present=PRESENT)
@settings(max_examples=25, deadline=None)
def test_what_is_missing_changes_nothing_and_has_no_gradient(name, present):
    estimates, stems, mixture = batch()
    loss = started(name)
    total, parts = loss(estimates, stems, mixture, present)
    total.backward()
    other = {
        target: Signal(*(torch.where((present[:, i] > 0).view(-1, *[1] * (x.ndim - 1)), x, 7 * x + 1) for x in signal))
        for i, (target, signal) in enumerate(stems.items())
    }
    again, parts_again = loss(estimates, other, mixture, present)
    assert torch.allclose(again, total)
    assert all(torch.allclose(parts[key], parts_again[key]) for key in parts)
    for i, target in enumerate(NAMES):
        for x in estimates[target]:
            assert x.grad is None or not x.grad[present[:, i] == 0].any()
    if loss.log_variances is not None:
        assert not loss.log_variances.grad[present.sum(0) == 0].any()


@pytest.mark.parametrize("name", sorted(SPECS))
@given(present=PRESENT)
@settings(max_examples=25, deadline=None)
def test_parts_of_a_batch_with_common_totals_give_the_loss_of_the_whole(name, present):
    """What two processes and accumulated parts do: whoever has which examples."""
    estimates, stems, mixture = batch()
    loss = started(name)
    whole, whole_parts = loss(estimates, stems, mixture, present)
    whole.backward()
    gradients = {target: estimates[target].waveform.grad.clone() for target in NAMES}
    variances = None if loss.log_variances is None else loss.log_variances.grad.clone()
    loss.zero_grad()
    halves = [[0, 1], [2, 3]]
    totals = torch.stack([loss.totals(present[half]) for half in halves]).mean(0)
    sums, parts_sum = 0.0, dict.fromkeys(whole_parts, 0.0)
    for half in halves:
        ours = {target: leaves(signal) for target, signal in only(estimates, half).items()}
        total, parts = loss(ours, only(stems, half), only({"x": mixture}, half)["x"], present[half], totals)
        (total / 2).backward()
        sums = sums + total.detach() / 2
        parts_sum = {key: parts_sum[key] + value / 2 for key, value in parts.items()}
        for target in NAMES:
            own = ours[target].waveform.grad
            assert torch.allclose(torch.zeros(1) if own is None else own, gradients[target][half], atol=1e-6)
    assert torch.allclose(sums, whole.detach(), atol=1e-5)
    assert all(torch.allclose(parts_sum[key], whole_parts[key], atol=1e-5) for key in whole_parts)
    assert variances is None or torch.allclose(loss.log_variances.grad, variances, atol=1e-6)


# --- noisy labels


def test_truncation_leaves_out_the_worst_of_each_target():
    """Errors 1, 2, 3 and 4 in one target, 4, 3, 2 and missing in the other; a quarter is dropped."""
    waveform = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None].repeat(1, 1, 8).requires_grad_()
    estimates = {"a": Signal(waveform, waveform), "b": Signal(waveform.flip(0), waveform)}
    silence = Signal(torch.zeros(4, 1, 8), torch.zeros(4, 1, 8))
    present = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]], dtype=torch.bool)
    spec = LossSpec(truncate_quantile=0.25, terms={"wave_l1": 1.0})
    total, parts = MultiTargetLoss(spec, ["a", "b"])(estimates, {"a": silence, "b": silence}, None, present)
    assert parts == pytest.approx({"a/wave_l1": 2.5, "b/wave_l1": 3.0})  # told as they are
    assert total.item() == pytest.approx((1 + 2 + 3) / 3 + (3 + 2) / 2)
    total.backward()
    #   the dropped one has no gradient from "a"; in "b" it is the first example, which lies last in `waveform`
    assert waveform.grad[3].sum().item() == pytest.approx(0.0)
    assert waveform.grad[0].sum().item() == pytest.approx(1 / 3)


def test_truncation_never_drops_the_last_example():
    one = {"a": Signal(ESTIMATE.waveform, ESTIMATE.spectrogram)}
    spec = LossSpec(truncate_quantile=0.9, terms={"wave_l1": 1.0})
    assert MultiTargetLoss(spec, ["a"])(one, {"a": STEM})[0] == 1.5
