"""How much of a signal an estimate depends on."""

import math

from .blocks import EVERYTHING, ITSELF, reach_of
from .model import BSRNN


def reach_samples(model: BSRNN) -> tuple[int | None, int | None]:
    """The number of samples before and behind itself that a sample of an estimate depends on; None: all.

    A frame reaches n_fft / 2 - 1 samples to either side (a Hann window begins with a zero), the frames that make a
    sample lie as far from it, and between them the network sees so many hops. All heads are counted.
    """
    backbone = model.backbone
    shared = EVERYTHING if model.normaliser else reach_of(backbone.encoder.norms[0], *backbone.blocks, backbone.norm)
    own = [model.head(target).reach for target in model.heads] or [ITSELF]
    frames = (shared[side] + max(reach[side] for reach in own) for side in (0, 1))
    before, behind = (None if math.isinf(n) else model.stft.n_fft - 2 + round(n) * model.stft.hop for n in frames)
    return before, behind


def latency_samples(model: BSRNN) -> int | None:
    """How far behind a sample of the mixture may lie that its estimate depends on; None: the whole signal."""
    return reach_samples(model)[1]
