"""`Separator`: a trained network applied to audio of any length, rate and channel count.

Long signals are cut into overlapping chunks whose estimates are cross-faded; the weights sum to one at every sample.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .audio import read_audio, resample, write_audio
from .checkpoint import find_run, load_model
from .errors import AudioError, RecipeError
from .model import BSRNN

Progress = Callable[[float], None]  # called with the share that is done, up to 1.0


def chunk_bounds(length: int, chunk: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Chunks (start, stop) that cover ``length`` samples, each but the first beginning ``overlap`` before the last end.

    Only the last one is moved back further, so that all have full length (where the signal has).
    """
    start = 0
    while start + chunk < length:
        yield start, start + chunk
        start += chunk - overlap
    yield max(0, length - chunk), length


def fade_weights(length: int, overlap: int) -> Tensor:
    """(length,) weights that rise over the first ``overlap`` samples and fall over the last; never zero."""
    ramp = torch.arange(1, length + 1).float()
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=overlap + 1) / (overlap + 1)


class Separator:
    """Heads on one backbone, ready to separate. Attributes: ``heads`` (names), ``model`` (eval mode), ``device``."""

    def __init__(self, model: BSRNN, device: str = "cpu", *, chunk_seconds: float = 6.0, overlap: float = 0.25):
        if not chunk_seconds > 0 or not 0 <= overlap < 1:
            raise RecipeError(f"chunk_seconds {chunk_seconds}, overlap {overlap}; expected more than 0, and 0 up to 1.")
        self.device = check_device(device)
        self.model = model.to(self.device).eval()
        self.chunk = max(1, round(chunk_seconds * model.sample_rate_hz))
        self.overlap = min(round(overlap * self.chunk), self.chunk - 1)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        device: str = "cpu",
        *,
        heads: Iterable[str] | None = None,
        root: str = "runs",
        **options: float,
    ) -> "Separator":
        """A separator from a run's name or folder or an exported folder.

        ``heads`` loads only those, unless the run's targets are tied together: then all are needed for each.
        """
        run = find_run(path_or_id, root)
        return cls(load_model(run, None if heads is None else list(heads)), device, **options)

    @property
    def heads(self) -> list[str]:
        return self.model.targets

    def separate(
        self,
        audio: str | os.PathLike[str] | Tensor | np.ndarray,
        sample_rate_hz: int | None = None,
        heads: Iterable[str] | None = None,
        progress: Progress = lambda share: None,
    ) -> dict[str, Tensor]:
        """{head: (channels, samples)}, float32 on the CPU, at the input's rate, channel count and exact length.

        ``audio`` is a file, or (channels, samples) or (samples,) at ``sample_rate_hz`` (default: the network's rate).
        Raises `AudioError` for audio that cannot be used and `UserError` for an unknown head.
        """
        wanted = self.model.check_targets(heads)
        if isinstance(audio, str | os.PathLike):
            waveform, rate_hz = read_audio(audio)
        else:
            waveform, rate_hz = check_waveform(audio), sample_rate_hz or self.model.sample_rate_hz
        inner = resample(waveform, rate_hz, self.model.sample_rate_hz)
        estimates = self._separate_chunks(inner, wanted, progress)
        length = waveform.shape[-1]
        back = {name: resample(x, self.model.sample_rate_hz, rate_hz)[:, :length] for name, x in estimates.items()}
        return {name: torch.nn.functional.pad(x, (0, length - x.shape[-1])) for name, x in back.items()}

    @torch.inference_mode()
    def _separate_chunks(self, waveform: Tensor, heads: list[str], progress: Progress) -> dict[str, Tensor]:
        """(C, L) at the network's rate → {head: (C, L)}."""
        length = waveform.shape[-1]
        level = self.model.track_level(waveform[None].to(self.device))  # of the whole track: chunks fit together
        options = {} if level is None else {"level": level}
        sums = {name: torch.zeros_like(waveform) for name in heads}
        weight = torch.zeros(length)
        for start, stop in chunk_bounds(length, self.chunk, self.overlap):
            chunk = waveform[None, :, start:stop].to(self.device)  # (1, C, chunk)
            fade = fade_weights(stop - start, self.overlap)
            for name, estimate in self.model(chunk, heads, **options).items():
                sums[name][:, start:stop] += estimate[0].float().cpu() * fade
            weight[start:stop] += fade
            progress(stop / length)
        return {name: total / weight for name, total in sums.items()}


def check_device(device: str) -> torch.device:
    """The torch device of that name (``auto``: the first of cuda, mps, cpu); `RecipeError` where it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def check_waveform(audio: Tensor | np.ndarray) -> Tensor:
    """(channels, samples) float32 from a tensor or array; `AudioError` for empty, misshapen or non-finite audio."""
    waveform = torch.as_tensor(audio, dtype=torch.float32).detach().cpu()
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    if waveform.ndim != 2 or 0 in waveform.shape:
        raise AudioError(f"audio has the shape {tuple(waveform.shape)}; expected (channels, samples), neither empty.")
    if not torch.isfinite(waveform).all():
        raise AudioError("the audio holds NaN or infinite samples; expected finite numbers.")
    return waveform


def separate_file(
    separator: Separator, song: Path, heads: Iterable[str] | None, out: Path, progress: Progress = lambda share: None
) -> list[Path]:
    """Write ``out/<song>/<head>.wav`` (32-bit float) for every head asked for; returns the paths."""
    waveform, rate_hz = read_audio(song)
    estimates = separator.separate(waveform, rate_hz, heads, progress)
    return [write_audio(out / song.stem / f"{name}.wav", x, rate_hz) for name, x in estimates.items()]
