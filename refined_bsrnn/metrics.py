"""Scores of an estimate, in dB. Signals are (channels, samples); sums run over channels; all arithmetic is float64.

- **uSDR** ("global", "new SDR", MDX): plain signal-to-noise ratio of the whole track; the mean over tracks is reported.
- **cSDR** (BSSEval v4, museval): the SDR of every 1 s frame; the median over frames, then the median over tracks.
  museval's image SDR is the framewise signal-to-noise ratio, since its distortion filters cancel in the sum of all
  error terms, so `csdr_frames` equals it without the filters, at a thousandth of the time.
- **SI-SDR**: signal-to-noise ratio after the best scaling of the reference; never to be mixed with uSDR.

A frame in which the reference or the estimate is silent has no defined cSDR: NaN, as in museval, which decides by the
sum over channels; so a frame of exact anti-phase is silent too. museval gives NaN to *all* sources that are
scored together when one is silent; here each target decides for itself, so that a score does not depend on which other
targets a model has.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UserError

EPS = 1e-7  # as in the published uSDR implementations


def _pair(reference: npt.ArrayLike, estimate: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (channels, samples); `UserError` where they cannot be compared."""
    s, e = _float64(reference), _float64(estimate)
    if s.ndim != 2 or s.shape != e.shape or 0 in s.shape:
        raise UserError(
            f"reference {s.shape} and estimate {e.shape} differ; expected one (channels, samples) for both."
        )
    for name, signal in (("reference", s), ("estimate", e)):
        if not np.isfinite(signal).all():
            raise UserError(f"the {name} holds NaN or infinite samples; it cannot be scored.")
    return s, e


def _float64(signal: npt.ArrayLike) -> np.ndarray:
    if detach := getattr(signal, "detach", None):  # a tensor of any device and type, in a graph or not
        signal = detach().cpu().double().numpy()
    return np.asarray(signal, dtype=np.float64)


def _check_rate(sample_rate_hz: int) -> int:
    if not sample_rate_hz >= 1 or sample_rate_hz != int(sample_rate_hz):  # NaN compares false
        raise UserError(f"the sample rate is {sample_rate_hz}; expected a positive whole number of Hz.")
    return int(sample_rate_hz)


def usdr(reference: npt.ArrayLike, estimate: npt.ArrayLike) -> float:
    """10 log10((Σ s² + 1e-7) / (Σ (s − e)² + 1e-7)) over the whole track.

    Raises `UserError` for other shapes, empty signals and NaN.
    """
    s, e = _pair(reference, estimate)
    return float(10.0 * np.log10(((s**2).sum() + EPS) / (((s - e) ** 2).sum() + EPS)))


def csdr_frames(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate_hz: int) -> np.ndarray:
    """museval's SDR of every whole second, NaN where it is undefined; the rest behind the last whole second is dropped.

    A signal shorter than one second is one frame, as in museval. A perfect frame is infinite (museval says so of a
    target alone; beside others its filters leave some hundred dB of rounding). Raises `UserError` for other shapes,
    NaN samples and a rate that is no positive whole number.
    """
    s, e = _pair(reference, estimate)
    length = min(_check_rate(sample_rate_hz), s.shape[1])
    n_frames = s.shape[1] // length
    s, e = (x[:, : n_frames * length].reshape(len(x), n_frames, length) for x in (s, e))
    signal, noise = (np.einsum("cfl,cfl->f", x, x) for x in (s, s - e))  # no squares of minutes in memory
    with np.errstate(divide="ignore", invalid="ignore"):
        frames = 10.0 * np.log10(signal / noise)
    for x in (s, e):
        frames[~x.sum(0).any(axis=1)] = np.nan  # the sum over channels is zero at every sample
    return frames


def csdr(reference: npt.ArrayLike, estimate: npt.ArrayLike, sample_rate_hz: int) -> float:
    """The median of `csdr_frames` over the defined frames (numpy's: the mean of the middle two); NaN without any."""
    frames = csdr_frames(reference, estimate, sample_rate_hz)
    frames = frames[~np.isnan(frames)]
    return float(np.median(frames)) if frames.size else math.nan


def si_sdr(reference: npt.ArrayLike, estimate: npt.ArrayLike, zero_mean: bool = False) -> float:
    """10 log10(‖αs‖² / ‖αs − e‖²) with α = ⟨e, s⟩ / ‖s‖² (Le Roux et al. 2019), over all samples and channels.

    No eps: NaN for a silent reference, inf for a perfect estimate up to scale, −inf for a silent estimate or one
    orthogonal to the reference. ``zero_mean`` removes each channel's mean first. Raises `UserError` as `usdr`.
    """
    s, e = _pair(reference, estimate)
    rounding = 0.0
    if zero_mean:
        rounding = 1e-28 * (s**2).sum()  # what is left of a constant when its mean is taken off
        s, e = s - s.mean(1, keepdims=True), e - e.mean(1, keepdims=True)
    energy = (s**2).sum()
    if energy <= rounding:
        return math.nan
    scaled = (e * s).sum() / energy * s
    signal, noise = (scaled**2).sum(), ((scaled - e) ** 2).sum()
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(signal / noise)) if signal > 0 else -math.inf


def museval_scores(
    references: Mapping[str, npt.ArrayLike], estimates: Mapping[str, npt.ArrayLike], sample_rate_hz: int
) -> dict[str, dict[str, np.ndarray]]:
    """{target: {"SDR", "ISR", "SIR", "SAR": per-frame dB}} by museval: BSSEval v4 images, 1 s frames, global filters.

    All targets are scored together, as museval does. Slow: minutes per song. Raises `UserError` where museval cannot be
    imported (it needs FFmpeg), for targets that differ in name or shape, and a target that is silent over the whole
    track, in the sum over channels, which museval does not define.
    """
    rate = _check_rate(sample_rate_hz)
    names = list(references)
    if not names or set(names) != set(estimates):
        raise UserError(f"references {names} and estimates {list(estimates)} differ; expected the same targets.")
    pairs = [_pair(references[name], estimates[name]) for name in names]
    shapes = {pair[0].shape for pair in pairs}
    if len(shapes) > 1:
        raise UserError(f"the targets have the shapes {sorted(shapes)}; expected one for all, (channels, samples).")
    silent = [name for name, pair in zip(names, pairs, strict=True) if not all(np.any(x.sum(0)) for x in pair)]
    if silent:
        raise UserError(f"museval does not define scores for a silent signal: {', '.join(silent)}. Leave it out.")
    bss_eval = _import_bss_eval()
    stacked = (np.stack([pair[i].T for pair in pairs]) for i in (0, 1))  # (targets, samples, channels)
    sdr, isr, sir, sar, _ = bss_eval(
        *stacked,
        window=rate,
        hop=rate,
        compute_permutation=False,
        filters_len=512,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return {name: {"SDR": sdr[i], "ISR": isr[i], "SIR": sir[i], "SAR": sar[i]} for i, name in enumerate(names)}


def _import_bss_eval() -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies' deprecations are not ours to mend
            from museval.metrics import bss_eval
    except ImportError as error:
        raise UserError(f"museval cannot be imported ({error}); install it: pip install museval") from None
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"museval cannot be imported ({error}). It needs the FFmpeg programs: apt-get install ffmpeg (Debian, "
            "Ubuntu), brew install ffmpeg (macOS)."
        ) from None
    return bss_eval
