"""Model and loss in one module: the computation of one training step."""

from torch import Tensor, nn

from ..network.model import BSRNN
from ..network.signals import Signal
from ..recipe import Recipe
from .losses import MultiTargetLoss


class Objective(nn.Module):
    """Model and loss in one module, so that DDP and autocast wrap the whole step."""

    def __init__(self, model: BSRNN, recipe: Recipe):
        super().__init__()
        self.model, self.targets = model, recipe.targets
        self.loss = MultiTargetLoss(recipe.loss, recipe.targets)

    def forward(
        self,
        mixture: Tensor,
        stems: Tensor,
        present: Tensor | None = None,
        totals: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mixture (B, C, L) and stems (B, targets, C, L) → loss and its parts.

        ``present`` (B, targets) is 0 for missing stems; ``totals`` (targets + 1,) is as in `MultiTargetLoss`;
        ``features`` is the result of `features`, if it is known. If the recipe normalises the input, mixture and stems
        get the same gain here, measured on the excerpt.
        """
        level = self.model.level(mixture)
        if level is not None:
            mixture, stems = mixture * level.gain, stems * level.gain[:, None]  # the gain is (B, 1, 1)
        known = None if features is None else features.float()
        estimates = self.model.signals(mixture, self.targets, features=known)
        references = self._signals(stems)  # of (B, C, L)
        whole = self._signals(mixture[:, None])[0] if self.loss.joint else None
        return self.loss(estimates, dict(zip(self.targets, references, strict=True)), whole, present, totals)

    def features(self, mixture: Tensor) -> Tensor:
        """The input of the heads for a mixture (B, C, L) in training: (B, C, K, T, N)."""
        level = self.model.level(mixture)
        return self.model.features(mixture if level is None else mixture * level.gain)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimiser trains: the model's under their own names, the loss's with the prefix
        ``loss.``.
        """
        named = {**dict(self.model.named_parameters()), **dict(self.loss.named_parameters(prefix="loss"))}
        return {name: p for name, p in named.items() if p.requires_grad}

    def _signals(self, waveforms: Tensor) -> list[Signal]:
        """Waveforms (B, J, C, L) → J signals, without spectrograms if no term of the loss reads them."""
        if not self.loss.reads_spectrograms:
            return [Signal(waveform, waveform.new_empty(0)) for waveform in waveforms.unbind(1)]
        spectrograms = self.model.stft(waveforms.flatten(1, 2)).unflatten(1, waveforms.shape[1:3])  # (B, J, C, F, T)
        return [Signal(*pair) for pair in zip(waveforms.unbind(1), spectrograms.unbind(1), strict=True)]
