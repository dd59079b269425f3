"""The network, top to bottom.

    mixture ──> STFT ──> encoder ──> R blocks ──> features ──┬──> head "vocals" ──> mask × STFT ──> iSTFT ──> vocals
    (B,C,L)    (B,C,F,T)  (B,C,K,T,N)             (B,C,K,T,N) ├──> head "drums"
                                                              └──> ...

`BSRNN.features` is the seam: what lies before it is the backbone, shared by all targets and frozen in a transfer; what
lies behind it is heads. The channels are items that share all weights, as in the authors' code, and independent unless
``backbone.stereo`` lets them meet.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bands import BinRange, band_split
from ..errors import AudioError, CheckpointError, RecipeError, UserError, nearest, pick
from ..recipe import BackboneSpec, HeadSpec, Recipe, bind_options
from .blocks import BLOCKS, CAUSAL_NORMS, EVERYTHING, ITSELF, Norm, fold, make_norm, reach_of
from .consistency import TOGETHER
from .heads import HEADS, Head, estimate
from .lora import Adapter
from .signals import NORMALISERS, OF_WHOLE_TRACKS, STFT, Level, Signal, as_complex, as_pairs


class Encoder(nn.Module):
    """The band split: per band, norm and linear layer from the real and imaginary parts to N features.

    Bands may overlap; each takes its bins as they are. ``n_joint`` channels are taken together, one behind the other;
    1: each by itself.
    """

    def __init__(self, ranges: Sequence[BinRange], features: int, norm: str, n_joint: int = 1):
        super().__init__()
        self.ranges, self.n_joint = list(ranges), n_joint
        widths = [2 * n_joint * (stop - start) for start, stop in ranges]
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths)
        self.linears = nn.ModuleList(nn.Linear(width, features) for width in widths)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Complex (B, C, F, T) → (B, C, K, T, N), where C is 1 behind channels taken together."""
        return self.pairs(as_pairs(spectrogram))

    def pairs(self, spectrogram: Tensor) -> Tensor:
        """As `forward`, from real and imaginary parts (B, C, T, F, 2)."""
        bins = spectrogram.unflatten(1, (-1, self.n_joint)).permute(0, 1, 3, 5, 2, 4)  # (B, C, T, 2, joint, F)
        bands = []
        for (start, stop), module, linear in zip(self.ranges, self.norms, self.linears, strict=True):
            norm, weight, bias = cast(Norm, module), cast(Tensor, linear.weight), cast(Tensor, linear.bias)
            standard = norm.standardise(bins[..., start:stop].flatten(3))  # (B, C, T, 2·joint·G)
            bands.append(F.linear(standard, *fold(norm.weight, norm.bias, weight, bias)))  # (B, C, T, N)
        return torch.stack(bands, dim=2)


class Backbone(nn.Module):
    """Encoder, blocks and, where the recipe says so, one norm behind them: what all targets share."""

    def __init__(self, ranges: Sequence[BinRange], spec: BackboneSpec, n_joint: int = 1):
        super().__init__()
        if spec.causal and spec.norm not in CAUSAL_NORMS:
            raise RecipeError(
                f"backbone.norm={spec.norm} has statistics over the whole excerpt, which backbone.causal forbids; "
                f"expected one of {', '.join(CAUSAL_NORMS)}."
            )
        block = pick("backbone.kind", spec.kind, BLOCKS)
        options = bind_options(f"backbone.kind={spec.kind}", block, spec.options, skip=("spec", "n_bands"))
        self.encoder = Encoder(ranges, spec.features, spec.norm, n_joint)
        self.blocks = nn.Sequential(*(block(spec, len(ranges), **options) for _ in range(spec.repeats)))
        self.norm = make_norm(spec.norm, spec.features) if spec.final_norm else nn.Identity()

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Complex (B, C, F, T) → features (B, C, K, T, N)."""
        return self.pairs(as_pairs(spectrogram))

    def pairs(self, spectrogram: Tensor) -> Tensor:
        """As `forward`, from real and imaginary parts (B, C, T, F, 2)."""
        return self.norm(self.blocks(self.encoder.pairs(spectrogram)))


class BSRNN(nn.Module):
    """A backbone and one head per target.

    Attributes: ``bands`` (the `BandSplit`), ``ranges`` (its K bin ranges), ``stft``, ``backbone``, ``heads`` (a
    ModuleDict by target), ``targets`` (one more than the heads where the recipe says ``together: subtract_last``).
    """

    def __init__(self, recipe: Recipe, targets: Sequence[str]):
        super().__init__()
        self.recipe = recipe
        self.sample_rate_hz = recipe.stft.sample_rate_hz
        self.bands = band_split(
            recipe.bands.kind,
            sample_rate_hz=recipe.stft.sample_rate_hz,
            n_fft=recipe.stft.n_fft,
            **recipe.bands.options,
        )
        self.ranges = list(self.bands.ranges)
        self.stft = STFT(recipe.stft.n_fft, recipe.stft.hop)
        if recipe.backbone.causal and recipe.input.normalise != "none":
            raise RecipeError(
                f"input.normalise={recipe.input.normalise} measures the whole excerpt, which backbone.causal forbids; "
                "expected none."
            )
        self.normaliser = pick("input.normalise", recipe.input.normalise, {"none": None, **NORMALISERS})
        # How many channels the network takes as one item; 1: any number, each by itself.
        self.n_joint: int = recipe.data.channels if recipe.backbone.stereo == "joint" else 1
        self.backbone = Backbone(self.bands, recipe.backbone, self.n_joint)
        self._bridge = self._bridged_targets()
        self.heads = nn.ModuleDict()
        self.head_specs: dict[str, HeadSpec] = {}
        self.head_facts: dict[str, dict[str, Any]] = {}  # what a loaded head's file says it was trained on
        self.adapters = nn.ModuleDict()
        self.adapter_of: dict[str, str] = {}  # head → the adapter its features are made with; most heads have none
        self.backbone_is_frozen = False
        # Looks features up instead of computing them, see `feature_cache`; only for what a frozen backbone makes.
        self.remembered: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None
        for target in targets:
            if target != self.headless:
                self.add_head(target, recipe.head)

    def _bridged_targets(self) -> tuple[str, ...]:
        """Those whose heads the recipe bridges to each other; `RecipeError` where that is only one."""
        if not self.recipe.head.options.get("bridge"):
            return ()
        targets = tuple(target for target in self.recipe.targets if target != self.headless)
        if len(targets) < 2:
            raise RecipeError(
                f"head.bridge is true with the head {targets[0]} alone: it averages the hidden layers of several. "
                "Expected two or more heads, or head.bridge=false."
            )
        return targets

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "BSRNN":
        """A fresh network with one head per target of the recipe. Raises `RecipeError` for what cannot be built."""
        return cls(recipe, recipe.targets)

    @property
    def targets(self) -> list[str]:
        """What can be separated: every head, and the target that is what they leave of the mixture."""
        rest = self.headless
        complete = set(self.recipe.targets) - {rest} <= set(self.heads)
        return [*self.heads, rest] if rest and complete else list(self.heads)

    @property
    def heads_need_each_other(self) -> bool:
        """Whether the estimate of one target may need the heads of all targets of the recipe."""
        return self.recipe.together != "none" or bool(self._bridge)

    @property
    def headless(self) -> str | None:
        """The target that is the mixture minus all others, where the recipe says so."""
        return self.recipe.targets[-1] if self.recipe.together == "subtract_last" else None

    def add_head(self, target: str, spec: HeadSpec) -> nn.Module:
        """Attach a fresh head; `CheckpointError` where one of that name is already attached."""
        if target in self.heads:
            raise CheckpointError(f"there is a head {target!r} already; heads: {', '.join(self.heads)}.")
        if target == self.headless:
            raise CheckpointError(f"{target!r} has no head: it is what the others leave (together: subtract_last).")
        if spec.options.get("bridge") and target not in self._bridge:
            raise CheckpointError(
                f"the head {target!r} is bridged to others (head.bridge), whose hidden layers it needs; bridged here: "
                f"{', '.join(self._bridge) or 'none'}. It works in the network it was trained in, under its own name."
            )
        kind = pick("head.kind", spec.kind, HEADS)
        options = bind_options(f"head.kind={spec.kind}", kind, spec.options, skip=("ranges", "backbone", "n_joint"))
        self.heads[target] = kind(self.bands, self.recipe.backbone, self.n_joint, **options)
        self.head_specs[target] = spec
        return self.heads[target]

    def add_adapter(self, name: str, targets: Sequence[str], rank: int, alpha: float) -> Adapter:
        """Attach an untrained adapter; from here on these heads read features made with it."""
        adapter = Adapter(self.backbone, rank, alpha).to(next(self.backbone.parameters()).device)
        self.adapters[name] = adapter
        self.adapter_of |= dict.fromkeys(targets, name)
        return adapter

    def remove_head(self, target: str) -> None:
        """Take a head off, and its adapter where no other head uses it; all other estimates stay what they were."""
        self.check_targets([target])
        if self.recipe.together != "none" and target in self.recipe.targets:
            raise UserError(
                f"together is {self.recipe.together}: the targets {', '.join(self.recipe.targets)} are estimated "
                f"together, {target!r} cannot be taken away from them."
            )
        if target in self._bridge:
            raise UserError(
                f"head.bridge is true: {target!r} cannot be taken away from {', '.join(self._bridge)}, whose heads go "
                "on from the mean of their hidden layers."
            )
        self.drop_head(target)

    def drop_head(self, target: str) -> None:
        """As `remove_head`, whatever the recipe ties together."""
        del self.heads[target], self.head_specs[target]
        self.head_facts.pop(target, None)
        adapter = self.adapter_of.pop(target, None)
        if adapter is not None and adapter not in self.adapter_of.values():
            del self.adapters[adapter]

    @property
    def reach_samples(self) -> tuple[int | None, int | None]:
        """How many samples before and behind itself a sample of an estimate depends on; None: all.

        A frame reaches n_fft / 2 - 1 samples to either side (a Hann window begins with a zero), the frames that make a
        sample lie as far from it, and between them the network sees so many hops. All heads are counted.
        """
        parts = [self.backbone.encoder.norms[0], *self.backbone.blocks, self.backbone.norm]
        before, behind = EVERYTHING if self.normaliser else reach_of(*parts)
        own = [self.head(target).reach for target in self.heads] or [ITSELF]
        frames = before + max(r[0] for r in own), behind + max(r[1] for r in own)
        return self._in_samples(frames[0]), self._in_samples(frames[1])

    def _in_samples(self, n_frames: float) -> int | None:
        return None if math.isinf(n_frames) else self.stft.n_fft - 2 + round(n_frames) * self.stft.hop

    @property
    def latency_samples(self) -> int | None:
        """How far behind a sample of the mixture may lie that its estimate depends on; None: the whole signal."""
        return self.reach_samples[1]

    def freeze_backbone(self, except_blocks: int = 0) -> "BSRNN":
        """From here on the backbone stays bit-identical, but for its last ``except_blocks`` blocks.

        What is frozen gets no gradient and no graph; all of it frozen, it is always in eval mode.
        """
        self.backbone.requires_grad_(False)
        for block in list(self.backbone.blocks)[len(self.backbone.blocks) - except_blocks :]:
            block.requires_grad_(True)
        self.backbone_is_frozen = not except_blocks
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self

    def train(self, mode: bool = True) -> "BSRNN":
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self

    def features(self, mixture: Tensor, level: Level | None = None, adapter: str | None = None) -> Tensor:
        """Waveform (B, C, L) → the universal features (B, C, K, T, N); ``level`` as in `forward`."""
        return self._features(self._normalised(mixture, level), adapter)

    def _normalised(self, mixture: Tensor, level: Level | None) -> Tensor:
        """The spectrogram (B, C, F, T) that the backbone sees."""
        level = level or self.level(mixture)
        return self._spectrogram(mixture if level is None else level.apply(mixture))

    def level(self, mixture: Tensor) -> Level | None:
        """What (B, C, L) is normalised by for the backbone, or None: see `signals`."""
        return None if self.normaliser is None else self.normaliser(mixture)

    def track_level(self, mixture: Tensor) -> Level | None:
        """The level of a whole track (B, C, L), to be used for each of its parts; None where each has its own."""
        return self.level(mixture) if self.recipe.input.normalise in OF_WHOLE_TRACKS else None

    def _spectrogram(self, mixture: Tensor) -> Tensor:
        if self.n_joint > 1 and mixture.shape[1] != self.n_joint:
            raise AudioError(
                f"this network takes {self.n_joint} channels together (backbone.stereo=joint); the audio has "
                f"{mixture.shape[1]}. Bring it to {self.n_joint} channels, or use a network with stereo=apart or tac."
            )
        return self.stft(mixture)

    def _features(self, spectrogram: Tensor, adapter: str | None = None) -> Tensor:
        if adapter is not None:  # the graph reaches the adapter through the backbone, frozen or not
            module = self.adapters[adapter]
            assert isinstance(module, Adapter)
            return module.run(self.backbone, spectrogram)
        if self.remembered is not None:
            return self.remembered(spectrogram, self.backbone)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.backbone_is_frozen):
            return self.backbone(spectrogram)

    def forward(
        self, mixture: Tensor, targets: Iterable[str] | None = None, level: Level | None = None
    ) -> dict[str, Tensor]:
        """Waveform (B, C, L) → {target: waveform (B, C, L)}, only the heads asked for (default: all).

        ``level`` is that of the whole track where ``mixture`` is a part of one (default: measured on ``mixture``).
        """
        return {target: signal.waveform for target, signal in self.signals(mixture, targets, level).items()}

    def signals(
        self,
        mixture: Tensor,
        targets: Iterable[str] | None = None,
        level: Level | None = None,
        features: Tensor | None = None,
    ) -> dict[str, Signal]:
        """As `forward`, with each estimate's masked spectrogram beside its waveform: what the losses compare.

        Where the recipe ties its targets together or bridges their heads, all of them run, whichever are asked for.
        ``features`` of this mixture, (B, C, K, T, N), where they are known already: then the backbone does not run.
        """
        wanted = self.check_targets(targets)
        spectrogram = self._spectrogram(mixture)
        seen = spectrogram if self.normaliser is None else self._normalised(mixture, level)
        known: dict[str | None, Tensor] = {} if features is None else {None: features}
        run = self.heads_for(wanted)
        passes = dict.fromkeys(self.adapter_of.get(target) for target in run)
        known |= {adapter: self._features(seen, adapter) for adapter in passes if adapter not in known}
        by_head = {target: known[self.adapter_of.get(target)] for target in run}
        masked = self.estimate(by_head, as_pairs(spectrogram), wanted)
        length = mixture.shape[-1]
        spectra = {target: as_complex(pairs) for target, pairs in masked.items()}
        return {target: Signal(self.stft.inverse(x, length), x) for target, x in spectra.items()}

    def heads_for(self, wanted: Sequence[str]) -> list[str]:
        """The heads that must run for the targets asked for; `UserError` where one is missing."""
        run = [target for target in dict.fromkeys([*wanted, *self._tied_to(wanted)]) if target != self.headless]
        return list(dict.fromkeys([*run, *self._bridged_to(run)]))

    def estimate(self, features: Mapping[str, Tensor], mixture: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """{target: pairs (B, C, T, F, 2)} of the targets asked for, from what their heads see.

        ``features`` (B, C, K, T, N) of each of `heads_for` them, ``mixture`` pairs (B, C, T, F, 2).
        """
        # Always in the same order: a mean of floating-point numbers depends on it.
        order = [*(target for target in self._bridge if target in features), *features]
        masked = estimate({target: self.head(target) for target in order}, features, mixture)
        tied = self._tied_to(wanted)
        if tied:
            masked |= TOGETHER[self.recipe.together](masked, mixture, tied)
        return {target: masked[target] for target in wanted}

    def head(self, target: str) -> Head:
        """The head of that target."""
        return cast(Head, self.heads[target])

    def check_targets(self, targets: Iterable[str] | None) -> list[str]:
        """The heads asked for, in that order, or all; `UserError` for one that is not there."""
        wanted, there = self.targets if targets is None else list(targets), self.targets
        for target in wanted:
            if target not in there:
                raise UserError(f"there is no head {target!r}.{nearest(target, there)} Heads here: {', '.join(there)}.")
        return wanted

    def _tied_to(self, wanted: Sequence[str]) -> Sequence[str]:
        """The targets that must be estimated together for those asked for; `UserError` where a head is missing."""
        together = self.recipe.together
        if together == "none" or not set(wanted) & set(self.recipe.targets):
            return ()
        if self.headless and self.headless not in wanted:  # the others are what their heads say
            return ()
        missing = [name for name in self.recipe.targets if name not in self.targets]
        if missing:
            raise UserError(
                f"together is {together}: the targets {', '.join(self.recipe.targets)} are estimated together, and "
                f"there is no head {missing[0]!r}. Heads here: {', '.join(self.heads) or 'none'}."
            )
        return self.recipe.targets

    def _bridged_to(self, run: Sequence[str]) -> Sequence[str]:
        """The heads whose hidden layers are averaged, where one of them runs; `UserError` where one is missing."""
        if not any(self.head(target).bridge for target in run):
            return ()
        missing = [target for target in self._bridge if target not in self.heads]
        if missing:
            raise UserError(
                f"head.bridge is true: the heads {', '.join(self._bridge)} go on from the mean of their hidden layers, "
                f"and there is no head {missing[0]!r}. Heads here: {', '.join(self.heads)}."
            )
        return self._bridge


def count_parameters(module: nn.Module, of: Callable[[nn.Parameter], Any] = lambda p: True) -> int:
    """Number of parameters, or of those for which ``of`` holds."""
    return sum(p.numel() for p in module.parameters() if of(p))
