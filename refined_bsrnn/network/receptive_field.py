"""The receptive field: the part of a signal that an estimate depends on."""

import math

from .blocks import EVERYTHING, ITSELF, reach_of
from .model import BSRNN


def reach_samples(model: BSRNN) -> tuple[int | None, int | None]:
    """The numbers of earlier and later samples that a sample of an estimate depends on; None: all.

    A frame covers n_fft / 2 - 1 samples on either side (a Hann window begins with a zero). The frames that contribute
    to a sample are at most as far away, and the network adds its reach in frames. All heads are counted.
    """
    backbone = model.backbone
    shared = EVERYTHING if model.normaliser else reach_of(backbone.encoder.norms[0], *backbone.blocks, backbone.norm)
    own = [model.head(target).reach for target in model.heads] or [ITSELF]
    frames = (shared[side] + max(reach[side] for reach in own) for side in (0, 1))
    before, behind = (None if math.isinf(n) else model.stft.n_fft - 2 + round(n) * model.stft.hop for n in frames)
    return before, behind


def latency_samples(model: BSRNN) -> int | None:
    """The number of later samples of the mixture that an estimate depends on; None: the whole signal."""
    return reach_samples(model)[1]
