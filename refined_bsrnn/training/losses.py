"""Loss terms by name, and their sum over targets.

A term in `LOSSES` compares one target's estimate with its stem, both as `Signal`, and gives one number per example. A
joint term in `JOINT_LOSSES` reads all targets and the mixture at once. To add a term, write one function and one line
in its dict; the name is the key in the recipe's ``loss:`` and in the log.

A stem may be missing: ``present`` (B, targets) is the weight of an example for a target, from 0 (the stem is missing)
to 1. A target's loss is the mean over the examples that have it. Missing stems are multiplied by zero and stay in the
graph, so that every head has a gradient in every process.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RecipeError, pick
from ..network.signals import Signal
from ..recipe import LossSpec

Signals = Mapping[str, Signal]  # by target

# --- terms of one target: (B, ...) → (B,) -----------------------------------------------------------------------------


def _mean(values: Tensor) -> Tensor:
    """The mean of each example over all other axes: (B, ...) → (B,)."""
    return values.flatten(1).mean(1)


def wave_l1(estimate: Signal, stem: Signal) -> Tensor:
    """Mean absolute error of the waveforms (BSRNN, section III-D, third term)."""
    return _mean((estimate.waveform - stem.waveform).abs())


def wave_mse(estimate: Signal, stem: Signal) -> Tensor:
    """Mean squared error of the waveforms (oBSRNN's ``loss_type: MSE``).

    Its optimum is the mean of the possible signals of the target. The optimum of L1 is their median, which is silence
    for a source that is mostly absent or hard to separate.
    """
    return _mean((estimate.waveform - stem.waveform).square())


def spec_l1(estimate: Signal, stem: Signal) -> Tensor:
    """Mean absolute errors of the real and of the imaginary parts, added (BSRNN, section III-D, first two terms)."""
    difference = torch.view_as_real(estimate.spectrogram - stem.spectrogram)  # (B, C, F, T, 2)
    return _mean(difference.abs()) * 2


MRSTFT_WINDOWS, MRSTFT_HOP, MRSTFT_SHORTEST = (4096, 2048, 1024, 512, 256), 147, 2048


def mrstft(estimate: Signal, stem: Signal) -> Tensor:
    """Multi-resolution STFT: mean modulus of the complex difference, summed over five window lengths (BS-RoFormer).

    Windows of 4096 to 256 samples with a hop of 147, as published; windows under 2048 samples are zero-padded to that
    length, as in its code. The STFT is linear, so it is computed once, of the difference: half the transforms.
    """
    n_examples = len(stem.waveform)
    difference = (estimate.waveform - stem.waveform).flatten(0, 1).float()  # (B·C, L)
    total = difference.new_zeros(n_examples)
    with torch.autocast(difference.device.type, enabled=False):
        for window in MRSTFT_WINDOWS:
            n_fft = max(window, MRSTFT_SHORTEST)
            padded = F.pad(difference, (0, max(0, n_fft // 2 + 1 - difference.shape[-1])))  # what reflecting needs
            hann = torch.hann_window(window, device=difference.device)
            spectrogram = torch.stft(padded, n_fft, MRSTFT_HOP, window, hann, return_complex=True)  # (B·C, F, T)
            total = total + _mean(spectrogram.abs().unflatten(0, (n_examples, -1)))
    return total


L1SNR_EPS = 1e-3


def l1snr(estimate: Signal, stem: Signal) -> Tensor:
    """Negative L1 signal-to-noise ratio in dB of waveform, real and imaginary part, added (Bandit, section III-D).

    −20·log10((mean|y| + 1e-3) / (mean|ŷ − y| + 1e-3)) per example; the published constant keeps silent stems finite.
    Can be negative.
    """
    pairs = (
        (estimate.waveform, stem.waveform),
        (estimate.spectrogram.real, stem.spectrogram.real),
        (estimate.spectrogram.imag, stem.spectrogram.imag),
    )
    ratios_db = []
    for ours, theirs in pairs:
        signal, error = _mean(theirs.abs()), _mean((ours - theirs).abs())
        ratios_db.append(20 * torch.log10((signal + L1SNR_EPS) / (error + L1SNR_EPS)))
    return -torch.stack(ratios_db).sum(0)


SI_SDR_EPS = 1e-8  # of mean power: −80 dB below a signal of RMS 1


def si_sdr(estimate: Signal, stem: Signal) -> Tensor:
    """Negative SI-SDR in dB of each example over its channels and samples (Le Roux et al. 2019).

    A small power is added to numerator and denominator: the best estimate of a silent stem is silence, a silent
    estimate has 0 dB, and both have finite gradients. Can be negative.
    """
    ours, theirs = estimate.waveform.flatten(1), stem.waveform.flatten(1)  # (B, C·L)
    scale = (ours * theirs).mean(1, keepdim=True) / (theirs.square().mean(1, keepdim=True) + SI_SDR_EPS)  # (B, 1)
    signal, error = (scale * theirs).square().mean(1), (scale * theirs - ours).square().mean(1)  # (B,)
    return -10 * torch.log10((signal + SI_SDR_EPS) / (error + SI_SDR_EPS))


LOSSES: dict[str, Callable[[Signal, Signal], Tensor]] = {
    "wave_l1": wave_l1,
    "spec_l1": spec_l1,
    "wave_mse": wave_mse,
    "mrstft": mrstft,
    "l1snr": l1snr,
    "si_sdr": si_sdr,
}
NEGATIVE_LOSSES = {"l1snr", "si_sdr"}  # the others are zero at best

# --- terms of all targets at once: … → (B,) ---------------------------------------------------------------------------
# ``there`` (B, targets) is 1 where an example has a target and 0 where not: a term is the mean over what it has.


def magnitude_mse(estimates: Signals, stems: Signals, mixture: Signal, present_items: Tensor) -> Tensor:
    """Mean squared error of the magnitude spectrograms, mean over targets (X-UMX's multi-domain loss, L_freq)."""
    errors = (
        _magnitude_errors(estimates, stems, present_items).square().flatten(2).mean(2)
    )  # (targets, B, C, F, T) → (.., B)
    return errors.sum(0) / present_items.sum(1).clamp_min(1)


def weighted_sdr(estimates: Signals, stems: Signals, mixture: Signal, present_items: Tensor) -> Tensor:
    """1 + the weighted SDR loss, mean over targets (X-UMX's multi-domain loss, L_time); from 0 (best) to 2."""
    return _weighted_sdr(estimates, stems, mixture, present_items, [(name,) for name in stems])


def combined_magnitude_mse(estimates: Signals, stems: Signals, mixture: Signal, present_items: Tensor) -> Tensor:
    """As `magnitude_mse`, mean over all combinations of targets, whose magnitudes are added (X-UMX, L_freq).

    An example with J of the targets has their 2^J − 1 combinations, except the combination of all targets, which is the
    mixture. The mean is a quadratic form in the errors d_j: two different targets occur together in 2^(J−2)
    combinations, a single target occurs in 2^(J−2) more.
    """
    errors = _magnitude_errors(estimates, stems, present_items)  # (targets, B, C, F, T), zero where a target is missing
    n_present = present_items.sum(1)  # (B,)
    all_present = (n_present == len(errors)).float() * (len(errors) > 1)
    alone = 2.0 ** (n_present - 2)
    squares = alone * _mean(errors.square().sum(0)) + (alone - all_present) * _mean(errors.sum(0).square())
    return squares / (2.0**n_present - 1 - all_present).clamp_min(1)


def combined_weighted_sdr(estimates: Signals, stems: Signals, mixture: Signal, present_items: Tensor) -> Tensor:
    """As `weighted_sdr`, mean over all combinations of targets, whose waveforms are added (X-UMX, L_time).

    The time doubles with every further target, so it is meant for up to about eight targets.
    """
    return _weighted_sdr(estimates, stems, mixture, present_items, subsets(list(stems)))


# Terms that read waveforms alone: without any other, references need no spectrogram.
WAVEFORM_LOSSES = {"wave_l1", "wave_mse", "mrstft", "si_sdr", "weighted_sdr", "combined_weighted_sdr"}

JOINT_LOSSES: dict[str, Callable[[Signals, Signals, Signal, Tensor], Tensor]] = {
    "magnitude_mse": magnitude_mse,
    "weighted_sdr": weighted_sdr,
    "combined_magnitude_mse": combined_magnitude_mse,
    "combined_weighted_sdr": combined_weighted_sdr,
}


def subsets(targets: Sequence[str]) -> list[tuple[str, ...]]:
    """The 2^J − 2 proper, non-empty combinations of J targets, smallest first; for one target, that target."""
    sizes = range(1, max(2, len(targets)))
    return [chosen for size in sizes for chosen in combinations(targets, size)]


def _magnitude_errors(estimates: Signals, stems: Signals, present_items: Tensor) -> Tensor:
    """|Ŷ_j| − |Y_j|, (targets, B, C, F, T); zero where an example lacks the target."""
    errors = torch.stack([estimates[name].spectrogram.abs() - stems[name].spectrogram.abs() for name in stems])
    return errors * present_items.T[..., None, None, None]


WSDR_EPS, WSDR_CROP = 1e-10, 200


def _weighted_sdr(
    estimates: Signals, stems: Signals, mixture: Signal, present_items: Tensor, chosen: Sequence[tuple[str, ...]]
) -> Tensor:
    """1 − mean over an example's combinations and channels of α·cos(ŷ, y) + (1 − α)·cos(n̂, n), with n = x − y.

    α = ‖y‖² / (‖y‖² + ‖n‖²). As published, the first and last 200 samples are ignored (if there are more than 400),
    because the ends of an iSTFT are its worst part, and 1e-10 is added to every squared norm and denominator.
    """
    crop = slice(WSDR_CROP, -WSDR_CROP) if mixture.waveform.shape[-1] > 2 * WSDR_CROP else slice(None)
    x = mixture.waveform[..., crop]  # (B, C, L')
    ours = {name: estimates[name].waveform[..., crop] for name in stems}
    theirs = {name: stems[name].waveform[..., crop] for name in stems}
    has = dict(zip(stems, present_items.T, strict=True))
    scores, complete = [], []
    for names in chosen:
        y_hat = torch.stack([ours[name] for name in names]).sum(0)
        y = torch.stack([theirs[name] for name in names]).sum(0)
        signal, noise = y.square().sum(-1), (x - y).square().sum(-1)  # (B, C)
        alpha = signal / (signal + noise + WSDR_EPS)
        complete.append(torch.stack([has[name] for name in names]).amin(0))  # (B,)
        scores.append(_mean(alpha * _cosine(y_hat, y) + (1 - alpha) * _cosine(x - y_hat, x - y)) * complete[-1])
    return 1 - torch.stack(scores).sum(0) / torch.stack(complete).sum(0).clamp_min(1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of the angle between two signals (B, C, L), (B, C); 0 where one is silent."""
    norms = [(x.square().sum(-1) + WSDR_EPS).sqrt() for x in (a, b)]
    return (a * b).sum(-1) / (norms[0] * norms[1] + WSDR_EPS)


# --- their sum --------------------------------------------------------------------------------------------------------


class MultiTargetLoss(nn.Module):
    """The weighted terms of every target, summed over the targets (or averaged: ``reduction: mean``).

    With ``weighting: uncertainty`` a target's sum L counts as ½·exp(−s)·L + ½·s with a learned log-variance s that
    begins at 0 (Kendall et al. 2018, equation 10): targets with a large error are weighted down. Joint terms are
    means over targets already and are added with their own weight alone. ``truncate_quantile`` leaves the examples with
    the largest sum of a target's terms out of that target's loss (not out of the joint terms).
    """

    def __init__(self, spec: LossSpec, targets: Sequence[str]):
        super().__init__()
        known = {**LOSSES, **JOINT_LOSSES}
        for name in spec.terms:
            pick("loss", name, known)
        self.terms = {name: (LOSSES[name], weight) for name, weight in spec.terms.items() if name in LOSSES}
        self.joint = {name: (JOINT_LOSSES[name], weight) for name, weight in spec.terms.items() if name in JOINT_LOSSES}
        self.reads_spectrograms = not {*self.terms, *self.joint} <= WAVEFORM_LOSSES
        scale = 1.0 if spec.reduction == "sum" else 1.0 / len(targets)
        self.weights = {target: scale * spec.target_weights.get(target, 1.0) for target in targets}
        self.truncate_quantile = spec.truncate_quantile
        self.log_variances: nn.Parameter | None = None  # (targets,)
        if spec.weighting == "uncertainty":
            _check_uncertainty([name for name, (_, weight) in self.terms.items() if weight])
            self.log_variances = nn.Parameter(torch.zeros(len(targets)))

    def totals(self, present: Tensor) -> Tensor:
        """The divisors of the weighted sums over examples: (B, targets) → (targets + 1,), the last for joint terms.

        If an optimiser step has several batches (processes, accumulated parts), each of them needs the mean of all
        totals. Then the mean of their losses is the loss of all examples together, however they are distributed.
        """
        return _weights(present).sum(0)

    def forward(
        self,
        estimates: Signals,
        stems: Signals,
        mixture: Signal | None = None,
        present: Tensor | None = None,
        totals: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and every term separately, unweighted, as ``<target>/<term>`` or ``all/<joint term>``.

        ``mixture`` is for the joint terms (default: the sum of the stems). ``present`` (B, targets) gives the stems
        that examples have (default: all). ``totals`` is the result of `totals` over all batches of the step (default:
        of this batch). Learned log-variances are among the parts, as ``<target>/log_variance``.
        """
        first = next(iter(estimates.values())).waveform
        present = first.new_ones(len(first), len(self.weights)) if present is None else present.to(first)
        totals = self.totals(present) if totals is None else totals
        # (B, targets + 1): a target that no example has counts for nothing, and 0 / 0 is no number
        shares = _weights(present) / totals.masked_fill(totals == 0, 1.0)
        parts: dict[str, Tensor] = {}
        total = first.new_zeros(())
        for i, (target, target_weight) in enumerate(self.weights.items()):
            values = first.new_zeros(len(first))  # (B,)
            for name, (term, weight) in self.terms.items():
                each = term(estimates[target], stems[target])  # (B,)
                parts[f"{target}/{name}"] = (shares[:, i] * each).sum()
                values = values + weight * each
            value = (shares[:, i] * self._kept(values.detach(), present[:, i]) * values).sum()
            if self.log_variances is not None:
                parts[f"{target}/log_variance"] = s = self.log_variances[i]
                value = 0.5 * (torch.exp(-s) * value + s * (totals[i] > 0))
            total = total + target_weight * value
        if self.joint:
            whole, present_items = mixture or add_signals(stems), (present > 0).to(present)
            for name, (joint_term, weight) in self.joint.items():
                parts[f"all/{name}"] = part = (shares[:, -1] * joint_term(estimates, stems, whole, present_items)).sum()
                total = total + weight * part
        return total, {name: part.detach() for name, part in parts.items()}

    def _kept(self, values: Tensor, present: Tensor) -> Tensor:
        """(B,) factors: 0 for the worst ``truncate_quantile`` of the examples that have the target, over all processes.

        The factor of the others is the weight of all examples over the weight of the kept ones, so that they count for
        all.
        """
        if not self.truncate_quantile:
            return torch.ones_like(values)
        ranked = _of_all_processes(torch.where(present > 0, values, torch.inf))
        weights = _of_all_processes(present)
        n_present = int((weights > 0).sum())
        n_dropped = min(round(self.truncate_quantile * n_present), n_present - 1)
        if n_dropped < 1:
            return torch.ones_like(values)
        limit = ranked.sort().values[n_present - n_dropped - 1]
        return (values <= limit) * (weights.sum() / weights[ranked <= limit].sum())


def _weights(present: Tensor) -> Tensor:
    """How much an example counts for each target, and last for the joint terms: (B, targets) → (B, targets + 1).

    For these it is the least of the targets that it has: they see all of them at once.
    """
    present = present.float()
    least = torch.where(present > 0, present, torch.inf).amin(1)
    return torch.cat([present, torch.where(least.isinf(), 0.0, least)[:, None]], dim=1)


def _of_all_processes(values: Tensor) -> Tensor:
    """(B,) of every process, one behind the other."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, values.contiguous())
    return torch.cat(gathered)


def add_signals(signals: Signals) -> Signal:
    """The sum of all, waveforms and spectrograms."""
    waveforms, spectrograms = zip(*signals.values(), strict=True)
    return Signal(torch.stack(waveforms).sum(0), torch.stack(spectrograms).sum(0))


def _check_uncertainty(terms: Sequence[str]) -> None:
    negative = sorted(NEGATIVE_LOSSES & set(terms))
    if negative:
        raise RecipeError(
            f"loss.weighting is uncertainty with loss.{negative[0]}, which can be negative: its learned weight would "
            "grow without end. Leave that term out, or set loss.weighting=fixed."
        )
    if not terms:
        raise RecipeError(
            "loss.weighting is uncertainty, and no term belongs to one target: there is nothing to weigh. "
            f"Add one of {', '.join(sorted(LOSSES.keys() - NEGATIVE_LOSSES))}, or set loss.weighting=fixed."
        )
