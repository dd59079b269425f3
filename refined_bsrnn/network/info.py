"""The parts of a network and their cost, from a recipe or a run, without training or running it.

PyTorch's own counter counts the multiply-accumulates while the network runs on the meta device, which has shapes and no
numbers. Element-wise work (norms, gates, tanh) and the FFT are not counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from ..recipe import Recipe
from .heads import Head
from .model import BSRNN, count_parameters
from .receptive_field import latency_samples, reach_samples

COUNTED_SECONDS = 1.0


@dataclass(frozen=True)
class Part:
    """One part of the network."""

    name: str
    output: str  # its shape, by axes and by numbers
    parameters: int
    macs_per_second: int  # multiply-accumulates per second of audio, all channels
    parts: tuple["Part", ...] = ()  # what a block is made of: along time, along bands, ...

    @property
    def megabytes(self) -> float:
        """Of its weights in a file."""
        return 4 * self.parameters / 1e6


@dataclass(frozen=True)
class Info:
    """The parts of a network in order, and facts about the whole network."""

    parts: tuple[Part, ...]
    n_bands: int
    channels: int
    receptive_field: str
    latency: str
    samples_before: int | None  # that a sample of an estimate depends on; None: all
    samples_behind: int | None

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def macs_per_second(self) -> int:
        return sum(part.macs_per_second for part in self.parts)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        parts = [{**asdict(part), "megabytes": part.megabytes} for part in self.parts]
        return {**asdict(self), "parts": parts, "parameters": self.parameters, "macs_per_second": self.macs_per_second}


def describe(recipe: Recipe) -> Info:
    """The parts of the network of a recipe. Raises `RecipeError` if it cannot be built."""
    with torch.device("meta"):
        model = BSRNN.from_recipe(recipe)
        if recipe.base is not None and recipe.base.method == "lora":
            model.add_adapter("lora", model.targets, recipe.base.rank, recipe.base.alpha)
    return describe_network(model)


def describe_network(model: BSRNN) -> Info:
    """The parts of a network with its heads; its weights are moved to the meta device."""
    recipe, model = model.recipe, model.to("meta").eval()
    with torch.device("meta"), torch.no_grad():
        frames = round(COUNTED_SECONDS * recipe.stft.sample_rate_hz / recipe.stft.hop)
        n_bins = recipe.stft.n_fft // 2 + 1
        spectrogram = torch.zeros(1, recipe.data.channels, frames, n_bins, 2)  # pairs (B, C, T, F, 2)
        parts = []
        x = spectrogram
        for name, module in _backbone_parts(model):
            part, x = _measured(name, "B, C, K, T, N", module, x)
            parts.append(part)
        parts += _adapters(model, sum(part.macs_per_second for part in parts))
        of_form: dict[Any, Part] = {}  # heads of one form differ in their weights alone
        for name, head in model.heads.items():  # all read the same features
            form = cast(Head, head).form
            if form not in of_form:
                of_form[form] = _measured("", "B, C, T, F, 2", head, x, spectrogram)[0]
            parts.append(replace(of_form[form], name=f"head {name}"))
    before, behind = reach_samples(model)
    return Info(
        parts=tuple(parts),
        n_bands=len(model.ranges),
        channels=recipe.data.channels,
        receptive_field=_receptive_field(model),
        latency=_latency(model),
        samples_before=before,
        samples_behind=behind,
    )


def _adapters(model: BSRNN, backbone_macs: int) -> list[Part]:
    """Each adapter, for whose heads the backbone runs once more; not where it runs for them alone."""
    passes = {model.adapters.of.get(target) for target in model.heads}
    macs = [backbone_macs * (i > 0 or None in passes) for i in range(len(model.adapters))]
    named = zip(model.adapters.items(), macs, strict=True)
    return [Part(f"adapter {name}", "", count_parameters(adapter), extra) for (name, adapter), extra in named]


def _receptive_field(model: BSRNN) -> str:
    before, behind = reach_samples(model)
    if before is None and behind is None:
        return "the whole signal it is given"
    past = "all that came before" if before is None else f"{_samples(before, model)} before"
    future = "all that follows" if behind is None else f"{_samples(behind, model)} behind"
    return f"{past}, {future}"


def _latency(model: BSRNN) -> str:
    samples = latency_samples(model)
    return "the whole signal it is given: not for live use" if samples is None else _samples(samples, model)


def _samples(n: int, model: BSRNN) -> str:
    return f"{n:,} samples ({1000 * n / model.sample_rate_hz:.1f} ms)"


def _backbone_parts(model: BSRNN) -> list[tuple[str, nn.Module]]:
    blocks = [(f"block {i}", block) for i, block in enumerate(model.backbone.blocks, 1)]
    norm = [("final norm", model.backbone.norm)] if model.recipe.backbone.final_norm else []
    return [("encoder (band split)", model.backbone.encoder), *blocks, *norm]


def _measured(name: str, axes: str, module: nn.Module, *inputs: Tensor) -> tuple[Part, Tensor]:
    """A part by what it does with ``inputs``, and its output."""
    recurrent: list[int] = []
    inner: list[Part] = []
    with _counted_rnns(module, recurrent), FlopCounterMode(display=False) as counter:

        def macs() -> int:
            return round((counter.get_total_flops() / 2 + sum(recurrent)) / COUNTED_SECONDS)

        hooks = _watch(module, macs, inner) if name.startswith("block") else []
        y = module(*inputs)
        for hook in hooks:
            hook.remove()
    output = f"({axes}) = {_sizes(y)}"
    return Part(name, output, count_parameters(module), macs(), tuple(inner)), y


def _watch(block: nn.Module, macs: Callable[[], int], found: list[Part]) -> list[RemovableHandle]:
    """Have ``found`` filled with the modules a block is made of, as they run; ``macs`` is the count so far."""
    before: list[int] = []

    def begin(*_: Any) -> None:
        before.append(macs())

    def end(name: str, module: nn.Module, y: Tensor) -> None:
        found.append(Part(name, _sizes(y), count_parameters(module), macs() - before[-1]))

    hooks = []
    for name, child in block.named_children():
        if count_parameters(child):
            hooks.append(child.register_forward_pre_hook(begin))
            hooks.append(child.register_forward_hook(lambda module, _, y, name=name: end(name, module, y)))
    return hooks


def _sizes(x: Tensor) -> str:
    return " × ".join(map(str, x.shape))


@contextmanager
def _counted_rnns(module: nn.Module, tally: list[int]) -> Iterator[None]:
    """Within the block the recurrent layers are counted by their shapes instead of run."""
    rnns = [m for m in module.modules() if isinstance(m, nn.RNNBase)]
    for rnn in rnns:
        rnn.forward = _rnn_stand_in(rnn, tally)
    try:
        yield
    finally:
        for rnn in rnns:
            del rnn.forward  # the class's own again


def _rnn_stand_in(rnn: nn.RNNBase, tally: list[int]) -> Callable[[Tensor], tuple[Tensor, None]]:
    """Counts an RNN from its shapes: running it step by step, even without numbers, would take half a minute.

    Every weight matrix is applied once at every position.
    """

    def forward(x: Tensor) -> tuple[Tensor, None]:
        positions = x.numel() // x.shape[-1]
        tally.append(positions * sum(w.numel() for name, w in rnn.named_parameters() if name.startswith("weight")))
        directions = 2 if rnn.bidirectional else 1
        return x.new_empty(*x.shape[:-1], directions * rnn.hidden_size), None

    return forward


def training_macs(recipe: Recipe, info: Info) -> tuple[int, int]:
    """Multiply-accumulates of a training: before its first step, and of each step.

    For a trained part, the gradient of the inputs and the gradient of the weights cost one forward pass each. A frozen
    part costs only the forward pass, once per example of the pool if its features are cached. The base of a transfer,
    losses and validation are not included.
    """
    heads = sum(part.macs_per_second for part in info.parts if part.name.startswith("head "))
    backbone = [part.macs_per_second for part in info.parts if not part.name.startswith(("head ", "adapter "))]
    base, train = recipe.base, recipe.train
    n_trained = len(backbone)
    if base is not None:
        n_trained = {"frozen": 0, "random": 0, "partial": base.blocks}.get(base.method, n_trained)
    trained = backbone[len(backbone) - min(n_trained, len(backbone)) :]
    step_seconds = train.batch_size * train.chunk_seconds
    if recipe.cache.enabled:
        pool = min(recipe.cache.pool, train.steps * train.batch_size)
        return round(pool * train.chunk_seconds * sum(backbone)), round(step_seconds * 3 * heads)
    return 0, round(step_seconds * (sum(backbone) + 2 * sum(trained) + 3 * heads))
