"""`Separator`: a trained network applied to audio of any length, rate and channel count, as a stream.

    file ──> blocks ──> network's rate ──> overlapping chunks ──> heads ──> cross-fade ──> input's rate ──> blocks

Long signals are cut into chunks whose estimates are cross-faded; the weights add up to one at every sample. Only a few
chunks are in memory at a time.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import tee
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..console import say
from ..errors import AudioError, RecipeError, UserError
from ..network.model import BSRNN
from ..network.signals import OF_WHOLE_TRACKS, Level
from ..recipe import HeadSpec, check_target_name
from ..runs.exchange.hub import find_model, push_to_hub, save_model
from ..runs.exchange.library import default_model, introduction
from ..runs.folder import load_head, load_model, save_head
from ..runs.heads import head_facts
from .chunks import BatchSize, aligned, delayed, out_of_memory, overlap_add, resample_blocks
from .device import check_device, first_sentence
from .options import PRECISIONS, InferenceOptions
from .source import MOST_SAMPLES, PAIRS, Audio, Source, as_float32, check_waveform, open_source

Block = dict[str, Tensor]  # {head: (channels, n)}
Progress = Callable[[float], None]  # called with the share that is done, up to 1.0

LOUDEST = 1e12  # full scale is 1; of a million times as much sums of squares leave float32: wrong numbers, then NaN
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Separator:
    """Heads on one backbone, ready to separate; may be used from several threads at once.

    Attributes: ``heads`` (names), ``model`` (eval mode), ``device``. ``options`` are the fields of `InferenceOptions`:
    ``chunk_seconds`` and ``overlap`` (by default those of the recipe's ``separation``), ``shifts``, ``batch``,
    ``precision``.
    """

    def __init__(self, model: BSRNN, device: str = "cpu", **options: Any):
        how, spec = InferenceOptions.of(options), model.recipe.separation
        chunk_seconds = spec.chunk_seconds if how.chunk_seconds is None else how.chunk_seconds
        overlap = spec.overlap if how.overlap is None else how.overlap
        self.device = check_device(device)
        self.model = model.to(self.device).eval()
        self.chunk = max(1, round(min(chunk_seconds * model.sample_rate_hz, MOST_SAMPLES)))
        self.overlap = min(round(overlap * self.chunk), self.chunk - 1)
        self.shifts, self.batch, self.precision = how.shifts, how.batch, HALF.get(how.precision)
        if self.precision is not None:
            self._try(how.precision)

    def _try(self, precision: str) -> None:
        """`RecipeError` if this network cannot be computed like that on this device."""
        level = None
        if self.model.recipe.input.normalise in OF_WHOLE_TRACKS:
            level = self.model.level(torch.ones(1, 1, 1, device=self.device), of_whole_track=True)
        try:
            self._run(
                torch.zeros(1, max(1, self.model.channels_per_item), self.model.stft.n_fft), self.heads[:1], level
            )
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            others = ", ".join(name for name in PRECISIONS if name != precision)
            raise RecipeError(
                f"precision {precision} cannot be used on the device {self.device} ({first_sentence(error)}). "
                f"Expected one of {others}, or another device."
            ) from None

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        *,
        heads: Iterable[str] | None = None,
        root: str = "runs",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **options: Any,
    ) -> "Separator":
        """A separator from a run's name or folder, an exported folder, a public model's name or ``hf:owner/name``.

        Without a name the model that comes with the package is used, and a message describes its quality. A public
        model (`refined-bsrnn models list`) is downloaded if it is not on this machine, unless ``local_files_only`` is
        set; ``best`` is the best one for ``heads``.

        ``revision``: a branch, tag or commit of the hub model; ``token``, ``cache_dir``, ``local_files_only`` and
        ``force_download`` as in `huggingface_hub`. ``options`` are those of `Separator`; an unknown or unusable option
        is an error before anything is loaded.

        With ``heads`` only these are loaded, unless the run's targets are tied together, because then each needs all
        heads.
        """
        InferenceOptions.of(options)
        if device != "auto":
            check_device(device)
        if heads is not None:
            heads = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
        if path_or_id is None:
            run = default_model()
            say(introduction(run, heads))
            return cls(load_model(run, heads), device, **options)
        hub = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
        run = find_model(path_or_id, root, revision, heads, local_files_only=local_files_only, **hub)
        return cls(load_model(run, heads), device, **options)

    @property
    def heads(self) -> list[str]:
        return self.model.targets

    def add_head(self, name: str, spec: HeadSpec | None = None) -> nn.Module:
        """Attach an untrained head, by default of the recipe's kind, to be trained by your own code."""
        return self.model.add_head(check_target_name(name), spec or self.model.recipe.head).to(self.device).eval()

    def load_head(self, path: str | os.PathLike[str], as_name: str | None = None) -> str:
        """Attach the head in a file, under the name in it or ``as_name``; returns the name.

        Raises `CheckpointError` if the head belongs to another backbone or if there is already a head of that name.
        """
        name = check_target_name(as_name or head_facts(Path(path)).name)
        load_head(Path(path), self.model, name)
        self.model.to(self.device).eval()
        return name

    def save_head(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write a head to a file, which `load_head` attaches to any copy of the same backbone."""
        self.model.check_targets([name])
        save_head(Path(path), self.model, name)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the current backbone and heads to a new folder, with a model card; `from_pretrained` reads it."""
        return save_model(self.model, Path(folder)).path

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the current backbone and heads to the Hugging Face hub as ``owner/name``; returns the address."""
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / repo_id.rpartition("/")[2])
            return push_to_hub(saved, repo_id, private=private, token=token)

    def remove_head(self, name: str) -> None:
        """Remove a head; the estimates of all others do not change."""
        self.model.remove_head(name)

    def separate(
        self,
        audio: Audio,
        sample_rate_hz: int | None = None,
        heads: Iterable[str] | None = None,
        progress: Progress = lambda share: None,
    ) -> Block:
        """{head: (channels, samples)}, float32 on the CPU, at the input's rate, channel count and exact length.

        ``audio`` is a file or its path, or (channels, samples) or (samples,) at ``sample_rate_hz`` (default: the
        network's rate).
        Raises `AudioError` for audio that cannot be used and `UserError` for an unknown head.
        """
        blocks = list(self.stream(audio, sample_rate_hz, heads, progress=progress))
        return {name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]} if blocks else {}

    def stream(
        self,
        audio: Audio,
        sample_rate_hz: int | None = None,
        heads: Iterable[str] | None = None,
        *,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        progress: Progress = lambda share: None,
    ) -> Iterator[Block]:
        """As `separate`, block by block in constant memory: successive {head: (channels, n)}.

        A file is read when needed. Parts that cannot be decoded are silence, with a warning at the end. Raises
        `AudioError` and `UserError` as `separate` does.
        """
        wanted = self.model.check_targets([heads] if isinstance(heads, str) else heads)
        if not wanted:
            raise UserError(f"no heads are chosen; expected some of {', '.join(self.heads) or 'none: there are none'}.")
        source = open_source(audio, self._rate_hz(sample_rate_hz), start_seconds, duration_seconds)
        if sample_rate_hz is not None and source.sample_rate_hz != sample_rate_hz:  # of an array they are the same
            raise AudioError(
                f"the file is at {source.sample_rate_hz} Hz, not at {sample_rate_hz} Hz. Leave out sample_rate_hz: a "
                "file says its rate itself, and estimates have that rate."
            )
        return self.stream_source(source, wanted, progress)

    def _rate_hz(self, given: float | None) -> int:
        """The rate that is said, or the network's; `AudioError` for what is no rate."""
        if given is None:
            return self.model.sample_rate_hz
        if not isinstance(given, int | float | np.number) or not float(given).is_integer() or given < 1:
            raise AudioError(f"the audio is at {given!r} Hz; expected a whole number, at least 1.")
        return int(given)

    def stream_source(
        self, source: Source, heads: list[str], progress: Progress = lambda share: None
    ) -> Iterator[Block]:
        """`stream` for a result of `open_source`."""
        return self._named(self.estimates(source, source.blocks(), heads), heads, source, progress)

    @staticmethod
    def _named(stream: Iterator[Tensor], heads: list[str], source: Source, progress: Progress) -> Iterator[Block]:
        done = 0
        for block in stream:
            done += block.shape[-1]
            yield dict(zip(heads, block, strict=True))
            if source.n_samples:
                progress(min(done / source.n_samples, 0.999))
        for text in source.remarks:
            warnings.warn(text, stacklevel=2)
        progress(1.0)

    def estimates(self, source: Source, blocks: Iterable[Tensor], heads: list[str]) -> Iterator[Tensor]:
        """Blocks (heads, channels, n) for the blocks of a source, at its rate and with its length."""
        level = self._track_level(source)

        def run(inner: Iterable[Tensor]) -> Iterator[Tensor]:
            grids = [self._on_grid(stream, i, heads, level) for i, stream in enumerate(tee(inner, self.shifts))]
            for same in aligned(grids):
                yield torch.stack(same).mean(0) if self.shifts > 1 else same[0]

        return self.at_network_rate(source, blocks, run)

    def at_network_rate(
        self, source: Source, blocks: Iterable[Tensor], run: Callable[[Iterable[Tensor]], Iterator[Tensor]]
    ) -> Iterator[Tensor]:
        """Blocks (C, n) at a source's rate, processed by ``run`` at the network's; (heads, C, n) with the same
        lengths.
        """
        inner_hz, n_read, n_given = self.model.sample_rate_hz, 0, 0

        def counted() -> Iterator[Tensor]:
            nonlocal n_read
            for block in blocks:
                n_read += block.shape[1]
                if block.numel() and (peak := float(block.abs().max())) > LOUDEST:
                    raise AudioError(
                        f"the audio reaches {peak:g}, too much to calculate with; expected full scale at ±1, and no "
                        f"sample above {LOUDEST:g}. Lower its level."
                    )
                yield block

        last: Tensor | None = None
        inner = run(resample_blocks(counted(), source.sample_rate_hz, inner_hz))
        for block in resample_blocks(inner, inner_hz, source.sample_rate_hz):
            last = block[..., : n_read - n_given]  # rounding up twice may have made one more
            n_given += last.shape[-1]
            if last.shape[-1]:
                yield last
        if last is not None and n_given < n_read:
            yield last.new_zeros(*last.shape[:-1], n_read - n_given)

    def _on_grid(self, blocks: Iterator[Tensor], shift: int, heads: list[str], level: Level | None) -> Iterator[Tensor]:
        """Blocks (C, n) → (heads, C, n), with the chunks' borders moved by that share of a chunk's step."""
        zeros = round(shift * (self.chunk - self.overlap) / self.shifts)
        batch = BatchSize(self.batch, self.device.type != "cpu")  # on a CPU a batch is no faster

        def run(chunks: Tensor) -> Tensor:
            return self._run(chunks, heads, level)

        skip = zeros
        for block in overlap_add(delayed(blocks, zeros), self.chunk, self.overlap, run, batch):
            kept = block[..., skip:]
            skip = max(0, skip - block.shape[-1])
            if kept.shape[-1]:
                yield kept

    def _run(self, chunks: Tensor, heads: list[str], level: Level | None) -> Tensor:
        """(B, C, n) → (B, heads, C, n)."""
        options = {} if level is None else {"level": level}
        precision = self.precision
        autocast = torch.autocast(self.device.type, precision) if precision else nullcontext()
        with torch.no_grad(), autocast:
            estimates = self.model(self.to_items(chunks), heads, **options)
            return self.from_items(torch.stack([estimates[name] for name in heads], dim=1), chunks.shape[1])

    def to_items(self, chunks: Tensor) -> Tensor:
        """(B, C, n) → (B·P, M, n) on the device: the channels as the network takes them."""
        return chunks[:, self._channel_items(chunks.shape[1])].flatten(0, 1).to(self.device)

    def from_items(self, estimates: Tensor, n_channels: int) -> Tensor:
        """(B·P, heads, M, n) → (B, heads, C, n) on the CPU; a channel that was in twice is the mean."""
        items = self._channel_items(n_channels)  # (P, M)
        apart = (
            estimates.float().cpu().unflatten(0, (-1, len(items))).transpose(1, 2).flatten(2, 3)
        )  # (B, heads, P·M, n)
        total = apart.new_zeros(*apart.shape[:2], n_channels, apart.shape[-1])  # (B, heads, C, n)
        total.index_add_(2, items.flatten(), apart)
        return total / torch.bincount(items.flatten())[:, None]

    def _channel_items(self, n_channels: int) -> Tensor:
        """(P, M): which channels go through the network together, in P items of M.

        Channels that share weights and know nothing of each other go as they are. Networks that look at two channels
        (stereo: tac, joint) were trained on stereo: surround goes in pairs, a channel without a partner with itself.
        """
        channels_per_item, stereo = self.model.channels_per_item, self.model.recipe.backbone.stereo
        alone = torch.arange(n_channels)[None]
        if channels_per_item > 2:
            return alone if n_channels > 1 else alone.expand(1, channels_per_item)  # the network says what it expects
        if stereo == "apart" or channels_per_item == n_channels or (stereo == "tac" and n_channels == 1):
            return alone
        if channels_per_item == 1 and stereo == "joint":
            return alone
        pairs = PAIRS.get(n_channels, [(i, i) for i in range(n_channels)])
        return torch.tensor(pairs)

    def _track_level(self, source: Source) -> Level | None:
        """The level of a whole track, for each of its chunks; read once for that where the recipe asks for it."""
        if self.model.recipe.input.normalise not in OF_WHOLE_TRACKS:
            return None
        highest = torch.zeros(1, 1, 1)
        for block in resample_blocks(source.blocks(), source.sample_rate_hz, self.model.sample_rate_hz):
            if block.shape[1]:
                highest = torch.maximum(highest, block.abs().amax())
        return self.model.level(
            highest.to(self.device), of_whole_track=True
        )  # a track's peak is that of its blocks' peaks

    def features(
        self,
        waveform: Tensor | np.ndarray,
        sample_rate_hz: int | None = None,
        channels: Literal["mean", "apart"] = "mean",
    ) -> Tensor:
        """The universal features (B, K, T, N) of (B, C, L), (C, L) or (L,), on the separator's device.

        B is 1 if the waveform has no such axis. The backbone reads each channel separately (or with its neighbours, as
        the recipe says). ``channels="mean"`` gives the mean of the channels' features; ``apart`` gives all of them, (B,
        C, K, T, N), as the heads read them. Everything is computed in one piece, so memory grows with the length.
        """
        if channels not in ("mean", "apart"):
            raise RecipeError(f"channels {channels!r}; expected 'mean' or 'apart'.")
        audio = as_float32(waveform)
        audio = audio if audio.ndim == 3 else check_waveform(audio)[None]
        if audio.ndim != 3 or 0 in audio.shape or not torch.isfinite(audio).all():
            raise AudioError(f"audio of the shape {tuple(audio.shape)}; expected finite (items, channels, samples).")
        inner = torch.cat(list(resample_blocks([audio], self._rate_hz(sample_rate_hz), self.model.sample_rate_hz)), -1)
        with torch.no_grad():  # not inference mode: others may train on them
            features = self.model.features(inner.to(self.device))
            return features.mean(1) if channels == "mean" else features
