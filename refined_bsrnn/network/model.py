"""The network, top to bottom.

    mixture ──> STFT ──> encoder ──> R blocks ──> features ──┬──> head "vocals" ──> mask × STFT ──> iSTFT ──> vocals
    (B,C,L)    (B,C,F,T)  (B,C,K,T,N)             (B,C,K,T,N) ├──> head "drums"
                                                              └──> ...

`BSRNN.features` is the seam: everything before it is the backbone, shared by all targets and frozen in a transfer;
everything after it is heads. The channels are items that share all weights, as in the authors' code, and independent
unless ``backbone.stereo`` connects them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..bands import band_split
from ..errors import CheckpointError, RecipeError, UserError, nearest, pick
from ..recipe import HeadSpec, Recipe
from ..schema import bind_options
from .backbone import Backbone
from .heads import HEADS, Head, estimate
from .lora import Adapter, Adapters
from .signals import NORMALISERS, OF_WHOLE_TRACKS, STFT, Level, Signal, as_complex, as_pairs
from .ties import Ties

MOST_BAND_LAYERS = 4096  # bands × (encoder and heads): each is modules of its own, whose number costs time and memory


class BSRNN(nn.Module):
    """A backbone and one head per target.

    Attributes: ``bands`` (the `BandSplit`), ``ranges`` (its K bin ranges), ``stft``, ``backbone``, ``heads`` (a
    ModuleDict by target), ``adapters``, ``ties`` (the dependencies between targets), ``channels_per_item`` (the number
    of channels in one item; 1: each channel is an item, for any number of channels).
    """

    def __init__(self, recipe: Recipe, targets: Sequence[str]):
        super().__init__()
        if recipe.backbone.causal and recipe.input.normalise != "none":
            raise RecipeError(
                f"input.normalise={recipe.input.normalise} measures the whole excerpt, which backbone.causal forbids; "
                "expected none."
            )
        self.recipe, self.sample_rate_hz = recipe, recipe.stft.sample_rate_hz
        self.stft = STFT(recipe.stft.n_fft, recipe.stft.hop)
        self.bands = band_split(
            recipe.bands.kind,
            sample_rate_hz=recipe.stft.sample_rate_hz,
            n_fft=recipe.stft.n_fft,
            **recipe.bands.options,
        )
        self.ranges = list(self.bands.ranges)
        if (n_layers := len(self.ranges) * (1 + len(targets))) > MOST_BAND_LAYERS:
            raise RecipeError(
                f"{len(self.ranges)} bands in the encoder and in {len(targets)} heads are {n_layers} sets of layers; "
                f"expected up to {MOST_BAND_LAYERS}. Choose fewer bands or targets."
            )
        self.normaliser = pick("input.normalise", recipe.input.normalise, {"none": None, **NORMALISERS})
        self.channels_per_item: int = recipe.data.channels if recipe.backbone.stereo == "joint" else 1
        self.backbone = Backbone(self.bands, recipe.backbone, self.channels_per_item)
        self.ties = Ties(recipe)
        self.heads = nn.ModuleDict()
        self.adapters = Adapters()
        # Looks features up instead of computing them, see `feature_cache`; only for what a frozen backbone makes.
        self.remembered: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None
        for target in targets:
            if target != self.ties.remainder_target:
                self.add_head(target, recipe.head)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "BSRNN":
        """A new network with one head per target of the recipe. Raises `RecipeError` if it cannot be built."""
        return cls(recipe, recipe.targets)

    # mixture → features → heads → masks → estimates

    def forward(
        self, mixture: Tensor, targets: Iterable[str] | None = None, level: Level | None = None
    ) -> dict[str, Tensor]:
        """Waveform (B, C, L) → {target: waveform (B, C, L)}, for the requested targets (default: all).

        If ``mixture`` is part of a longer track, ``level`` is the level of the whole track (default: measured on
        ``mixture``).
        """
        return {target: signal.waveform for target, signal in self.signals(mixture, targets, level).items()}

    def signals(
        self,
        mixture: Tensor,
        targets: Iterable[str] | None = None,
        level: Level | None = None,
        features: Tensor | None = None,
    ) -> dict[str, Signal]:
        """As `forward`, but with the masked spectrogram of each estimate next to its waveform, for the losses.

        If the recipe ties its targets together or bridges their heads, all heads run, whichever targets are requested.
        If the ``features`` of this mixture, (B, C, K, T, N), are given, the backbone does not run.
        """
        wanted = self.check_targets(targets)
        spectrogram = as_pairs(self.stft(mixture))  # (B, C, T, F, 2)
        seen = spectrogram if self.normaliser is None else self.normalised(mixture, level)
        made_with = {target: self.adapters.of.get(target) for target in self.ties.heads_for(wanted, self.heads)}
        known: dict[str | None, Tensor] = {} if features is None else {None: features}
        known |= {name: self.features_of(seen, name) for name in dict.fromkeys(made_with.values()) if name not in known}
        estimates = self.estimate({target: known[name] for target, name in made_with.items()}, spectrogram, wanted)
        spectra = {target: as_complex(pairs) for target, pairs in estimates.items()}
        return {target: Signal(self.stft.inverse(x, mixture.shape[-1]), x) for target, x in spectra.items()}

    def features(self, mixture: Tensor, level: Level | None = None, adapter: str | None = None) -> Tensor:
        """Waveform (B, C, L) → the universal features (B, C, K, T, N); ``level`` as in `forward`."""
        return self.features_of(self.normalised(mixture, level), adapter)

    def estimate(self, features: Mapping[str, Tensor], mixture: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """{target: pairs (B, C, T, F, 2)} of the requested targets, from the features (B, C, K, T, N) of each head.

        ``features`` contains all heads that must run for these targets, ``mixture`` is pairs (B, C, T, F, 2).
        """
        heads = {target: self.head(target) for target in self.ties.in_order(features)}
        return self.ties.apply(estimate(heads, features, mixture), mixture, wanted)

    def normalised(self, mixture: Tensor, level: Level | None) -> Tensor:
        """The pairs (B, C, T, F, 2) that the backbone reads."""
        level = level or self.level(mixture)
        return as_pairs(self.stft(mixture if level is None else level.apply(mixture)))

    def features_of(self, spectrogram: Tensor, adapter: str | None = None) -> Tensor:
        """Normalised pairs (B, C, T, F, 2) → features (B, C, K, T, N), with the adapter of that name."""
        if adapter is not None:  # the graph reaches the adapter through the backbone, frozen or not
            return cast(Adapter, self.adapters[adapter]).run(self.backbone, spectrogram)
        if self.remembered is not None:
            return self.remembered(spectrogram, self.backbone)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.backbone.frozen):
            return self.backbone(spectrogram)

    def level(self, mixture: Tensor, of_whole_track: bool = False) -> Level | None:
        """The level by which (B, C, L) is normalised for the backbone, or None (see `Level`).

        With ``of_whole_track`` the mixture is a whole track, and its level is used for each of its parts; the result is
        None if each part has its own level.
        """
        apart = of_whole_track and self.recipe.input.normalise not in OF_WHOLE_TRACKS
        return None if self.normaliser is None or apart else self.normaliser(mixture)

    # heads

    @property
    def targets(self) -> list[str]:
        """All targets that can be separated: every head, and the target that is the rest of the mixture."""
        return self.ties.with_remainder(list(self.heads))

    def head(self, target: str) -> Head:
        """The head of that target."""
        return cast(Head, self.heads[target])

    def check_targets(self, targets: Iterable[str] | None) -> list[str]:
        """The requested targets in the given order, or all; `UserError` if one of them cannot be separated."""
        known = self.targets
        wanted = known if targets is None else list(targets)
        for target in wanted:
            if target not in known:
                raise UserError(f"there is no head {target!r}.{nearest(target, known)} Heads here: {', '.join(known)}.")
        return wanted

    def add_head(self, target: str, spec: HeadSpec) -> Head:
        """Attach an untrained head; `CheckpointError` if there is already a head of that name."""
        if target in self.heads:
            raise CheckpointError(f"there is a head {target!r} already; heads: {', '.join(self.heads)}.")
        self.ties.check_added(target, spec)
        kind = pick("head.kind", spec.kind, HEADS)
        options: dict[str, Any] = bind_options(
            f"head.kind={spec.kind}", kind, spec.options, skip=("ranges", "backbone", "channels_per_item")
        )
        head = kind(self.bands, self.recipe.backbone, self.channels_per_item, **options)
        head.spec = spec
        self.heads[target] = head
        return head

    def remove_head(self, target: str, although_tied: bool = False) -> None:
        """Remove a head, and its adapter if no other head uses it; no other estimate changes.

        Raises `UserError` for a head that is not attached, and for one that others need unless ``although_tied``.
        """
        self.check_targets([target] if target not in self.heads else [])
        if not although_tied:
            self.ties.check_removed(target)
        del self.heads[target]
        self.adapters.release(target)

    def add_adapter(self, name: str, targets: Sequence[str], rank: int, alpha: float) -> Adapter:
        """Attach an untrained adapter; from now on these heads read features computed with it."""
        device = next(self.backbone.parameters()).device
        return self.adapters.attach(name, Adapter(self.backbone, rank, alpha).to(device), targets)


def count_parameters(module: nn.Module, of: Callable[[nn.Parameter], Any] = lambda p: True) -> int:
    """Number of parameters, or of those for which ``of`` holds."""
    return sum(p.numel() for p in module.parameters() if of(p))
