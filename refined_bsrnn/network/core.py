"""The network between STFT and iSTFT as a separate module, which is exported and used for live separation."""

import copy
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from .backbone import Backbone
from .lora import Adapter
from .model import BSRNN


class MaskCore(nn.Module):
    """Planes of the mixture (B, C, 2, F, T) → planes of the estimates, one tensor per target, in the order of
    ``targets``.

    The planes are the real and imaginary parts of the spectrogram. Ties between targets are included.
    """

    def __init__(self, model: BSRNN, targets: Sequence[str] | None = None):
        super().__init__()
        self.model = model
        self.targets = model.check_targets(targets)
        # Head → the adapter its features are made with; that of each is merged into a backbone of its own.
        self.passes = {
            target: model.adapters.of.get(target) for target in model.ties.heads_for(self.targets, model.heads)
        }
        self.adapted = nn.ModuleDict({name: _adapted(model, name) for name in set(self.passes.values()) if name})

    def forward(self, mixture: Tensor) -> tuple[Tensor, ...]:
        backbones = {name: self.adapted[name] if name else self.model.backbone for name in self.passes.values()}
        pairs = mixture.permute(0, 1, 4, 3, 2).contiguous()  # (B, C, T, F, 2)
        features = {name: backbone(pairs) for name, backbone in backbones.items()}
        seen = {target: features[name] for target, name in self.passes.items()}
        estimates = self.model.estimate(seen, pairs, self.targets)
        return tuple(x.permute(0, 1, 4, 3, 2) for x in estimates.values())  # (B, C, 2, F, T)


def _adapted(model: BSRNN, name: str) -> Backbone:
    backbone = copy.deepcopy(model.backbone)
    cast(Adapter, model.adapters[name]).merge_into(backbone)
    return backbone
