"""What a network is made of and what it costs, from its recipe alone: nothing is trained, loaded or run.

The multiply-accumulates are counted by PyTorch's own counter while the network runs on the meta device, which has
shapes and no numbers; element-wise work (norms, gates, tanh) and the FFT are not in them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .model import BSRNN, count_parameters
from .recipe import Recipe

COUNTED_SECONDS = 1.0


@dataclass(frozen=True)
class Part:
    """One part of the network."""

    name: str
    output: str  # its shape, by axes and by numbers
    parameters: int
    macs_per_second: int  # multiply-accumulates per second of audio, all channels


@dataclass(frozen=True)
class Info:
    """The parts of a network, first to last, and what holds for the whole."""

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
        return {**asdict(self), "parameters": self.parameters, "macs_per_second": self.macs_per_second}


def describe(recipe: Recipe) -> Info:
    """The parts of the network a recipe builds. Raises `RecipeError` where it cannot be built."""
    with torch.device("meta"), torch.no_grad():
        model = BSRNN.from_recipe(recipe).eval()
        frames = round(COUNTED_SECONDS * recipe.stft.sample_rate_hz / recipe.stft.hop)
        n_bins = recipe.stft.n_fft // 2 + 1
        spectrogram = torch.zeros(1, recipe.data.channels, n_bins, frames, dtype=torch.complex64)
        parts = []
        x = spectrogram
        for name, module in _backbone_parts(model):
            macs, x = _count(module, x)
            parts.append(_part(name, "B, C, K, T, N", module, macs, x))
        for name, head in model.heads.items():  # all read the same features
            macs, estimate = _count(head, x, spectrogram)
            parts.append(_part(f"head {name}", "B, C, F, T", head, macs, estimate))
    return Info(
        parts=tuple(parts),
        n_bands=len(model.ranges),
        channels=recipe.data.channels,
        receptive_field=_receptive_field(model),
        latency=_latency(model),
        samples_before=model.reach_samples[0],
        samples_behind=model.reach_samples[1],
    )


def _receptive_field(model: BSRNN) -> str:
    before, behind = model.reach_samples
    if before is None and behind is None:
        return "the whole signal it is given"
    past = "all that came before" if before is None else f"{_samples(before, model)} before"
    future = "all that follows" if behind is None else f"{_samples(behind, model)} behind"
    return f"{past}, {future}"


def _latency(model: BSRNN) -> str:
    samples = model.latency_samples
    return "the whole signal it is given: not for live use" if samples is None else _samples(samples, model)


def _samples(n: int, model: BSRNN) -> str:
    return f"{n:,} samples ({1000 * n / model.sample_rate_hz:.1f} ms)"


def _backbone_parts(model: BSRNN) -> list[tuple[str, nn.Module]]:
    blocks = [(f"block {i}", block) for i, block in enumerate(model.backbone.blocks, 1)]
    return [("encoder (band split)", model.backbone.encoder), *blocks]


def _part(name: str, axes: str, module: nn.Module, macs: int, output: Tensor) -> Part:
    return Part(name, f"({axes}) = {' × '.join(map(str, output.shape))}", count_parameters(module), macs)


def _count(module: nn.Module, *inputs: Tensor) -> tuple[int, Tensor]:
    """Multiply-accumulates per second, and the output."""
    recurrent: list[int] = []
    rnns = [m for m in module.modules() if isinstance(m, nn.RNNBase)]
    for rnn in rnns:
        rnn.forward = _rnn_stand_in(rnn, recurrent)
    with FlopCounterMode(display=False) as counter:
        y = module(*inputs)
    for rnn in rnns:
        del rnn.forward  # the class's own again
    return round((counter.get_total_flops() / 2 + sum(recurrent)) / COUNTED_SECONDS), y


def _rnn_stand_in(rnn: nn.RNNBase, tally: list[int]) -> Callable[[Tensor], tuple[Tensor, None]]:
    """Counts an RNN by its shapes: running it step by step, even without numbers, would take half a minute.

    Every weight matrix is applied once at every position.
    """

    def forward(x: Tensor) -> tuple[Tensor, None]:
        positions = x.numel() // x.shape[-1]
        tally.append(positions * sum(w.numel() for name, w in rnn.named_parameters() if name.startswith("weight")))
        directions = 2 if rnn.bidirectional else 1
        return x.new_empty(*x.shape[:-1], directions * rnn.hidden_size), None

    return forward


def info_table(info: Info) -> Table:
    """The parts as a table for a terminal; equal blocks in a row are one line."""
    table = Table(title=f"{info.parameters:,} parameters, {info.n_bands} bands", title_justify="left")
    for heading in ("part", "output for 1 s", "parameters", "share", f"MMAC per s of {info.channels}-channel audio"):
        table.add_column(heading, justify="left" if heading in ("part", "output for 1 s") else "right")
    for name, part, times in _grouped(info.parts):
        n = times * part.parameters
        macs = f"{times * part.macs_per_second / 1e6:,.1f}"
        table.add_row(name, part.output, f"{n:,}", f"{100 * n / max(1, info.parameters):.1f} %", macs)
    table.add_section()
    table.add_row("all", "", f"{info.parameters:,}", "100 %", f"{info.macs_per_second / 1e6:,.1f}")
    table.caption = f"receptive field: {info.receptive_field}\nlatency: {info.latency}"
    table.caption_justify = "left"
    return table


def _grouped(parts: tuple[Part, ...]) -> list[tuple[str, Part, int]]:
    """Runs of equal blocks as (name, one of them, how many)."""
    groups: list[tuple[str, Part, int]] = []
    for part in parts:
        last = groups[-1] if groups else None
        same = last and part.name.startswith("block") and last[1].name.startswith("block")
        if last and same and (last[1].parameters, last[1].macs_per_second) == (part.parameters, part.macs_per_second):
            first = last[1].name.removeprefix("block ")
            groups[-1] = (f"blocks {first} to {part.name.removeprefix('block ')}", last[1], last[2] + 1)
        else:
            groups.append((part.name, part, 1))
    return groups
