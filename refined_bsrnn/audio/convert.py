"""Conversions of audio in memory: rate, number of channels, speed, and lossy codecs."""

import io
import math
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import AudioError

MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Resampler:
    """A stream at another rate: blocks of (channels, samples) in, blocks out; together they equal one conversion of the
    whole.

    The filter has soxr's very high quality: flat to 0.1 dB up to 0.9 of the lower Nyquist frequency; frequencies above
    the latter are more than 80 dB down. Its delay is compensated: n samples become ceil(n · to / from), in place.
    Raises `AudioError` for rates below 1.
    """

    def __init__(self, from_hz: int, to_hz: int, n_channels: int):
        if from_hz < 1 or to_hz < 1:
            raise AudioError(
                f"audio at {from_hz} Hz cannot be resampled to {to_hz} Hz; expected rates of at least 1 Hz."
            )
        self.from_hz, self.to_hz, self.n_channels = from_hz, to_hz, n_channels
        self.n_in = self.n_out = 0
        same = from_hz == to_hz
        self._stream = None if same else soxr.ResampleStream(from_hz, to_hz, n_channels, "float32", "VHQ")

    def push(self, block: Tensor) -> Tensor:
        """(channels, n) → the finished part of the result, (channels, m)."""
        return self._run(block, last=False)

    def finish(self) -> Tensor:
        """The rest of the result, (channels, m)."""
        rest = self._run(torch.empty(self.n_channels, 0), last=True)
        missing = -(-self.n_in * self.to_hz // self.from_hz) - self.n_out
        self.n_out += missing
        return functional.pad(rest, (0, missing))  # soxr rounds; a negative number cuts

    def _run(self, block: Tensor, last: bool) -> Tensor:
        if self._stream is None:
            return block
        self.n_in += block.shape[1]
        if self.n_in == 0:
            return block
        samples = np.ascontiguousarray(block.numpy().T)  # (n, channels)
        result = self._stream.resample_chunk(samples, last=last)
        self.n_out += len(result)
        return torch.from_numpy(np.ascontiguousarray(result.T))


def resample(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """(..., samples) at another rate, ceil(samples · to / from) long: see `Resampler`."""
    if from_hz == to_hz >= 1:
        return audio
    flat = audio.detach().cpu().float().reshape(-1, audio.shape[-1])
    resampler = Resampler(from_hz, to_hz, flat.shape[0])
    whole = torch.cat([resampler.push(flat), resampler.finish()], dim=1)
    return whole.reshape(*audio.shape[:-1], -1).to(audio)


# FFmpeg's names of channel layouts, by their number of channels: what it takes as one sound.
LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1", 8: "octagonal", 16: "hexadecagonal", 24: "22.2"}
ATEMPO = (0.5, 2.0)  # what one pass can do


def stretch(audio: Tensor, sample_rate_hz: int, rate: float) -> Tensor:
    """(n, L) played ``rate`` times as fast at the same pitch, (n, round(L / rate)): FFmpeg's atempo, a WSOLA.

    Up to 24 channels are stretched together, so that they stay in sync; more are processed in groups.
    """
    if not ATEMPO[0] <= rate <= ATEMPO[1]:
        raise AudioError(f"audio cannot be played {rate} times as fast; expected {ATEMPO[0]} to {ATEMPO[1]}.")
    length = round(audio.shape[-1] / rate)
    stretched = [_atempo(group, sample_rate_hz, rate)[:, :length] for group in audio.split(max(LAYOUTS))]
    return torch.cat([functional.pad(group, (0, length - group.shape[-1])) for group in stretched])


def _atempo(audio: Tensor, sample_rate_hz: int, rate: float) -> Tensor:
    n_channels = min(n for n in LAYOUTS if n >= len(audio))
    layout = LAYOUTS[n_channels]
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=sample_rate_hz, format="flt", layout=layout, time_base=Fraction(1, sample_rate_hz)
    )
    tempo, sink = graph.add("atempo", str(rate)), graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    silence = torch.zeros(n_channels - len(audio), audio.shape[-1])
    packed = torch.cat([audio.float(), silence]).T.reshape(1, -1)  # one frame behind the other
    frame = av.AudioFrame.from_ndarray(packed.numpy(), format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
    source.push(frame)
    source.push(None)
    blocks = []
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while isinstance(done := sink.pull(), av.AudioFrame):
            blocks.append(done.to_ndarray().reshape(-1, n_channels))
    return torch.from_numpy(np.concatenate(blocks).T[: len(audio)].copy())


CODECS = ("mp3", "ogg")


def through_codec(audio: Tensor, sample_rate_hz: int, codec: str, level: float) -> Tensor:
    """(C, L) encoded and decoded again in memory, at the same place and level.

    ``codec`` is mp3 or ogg (Vorbis; also for rates that mp3 does not support), ``level`` is libsndfile's, from 0 (best)
    to below 1: at 44.1 kHz in stereo 0.5 is about 130 kbit/s, 0.9 about 80.
    """
    peak = float(audio.abs().max())
    if peak == 0:
        return audio
    codec = codec if sample_rate_hz in MP3_RATES_HZ else "ogg"
    memory = io.BytesIO()
    soundfile.write(memory, (audio / (2 * peak)).numpy().T, sample_rate_hz, format=codec, compression_level=level)
    memory.seek(0)
    samples, _ = soundfile.read(memory, dtype="float32", always_2d=True)
    decoded = torch.from_numpy(samples.T.copy())[:, : audio.shape[-1]] * (2 * peak)
    return functional.pad(decoded, (0, audio.shape[-1] - decoded.shape[-1]))


def match_channels(audio: Tensor, n_channels: int) -> Tensor:
    """(C, L) with the wanted number of channels: mono is repeated, others are averaged to mono; else `AudioError`."""
    if audio.shape[0] == n_channels:
        return audio
    if n_channels == 1:
        return audio.mean(0, keepdim=True)
    if audio.shape[0] == 1:
        return audio.expand(n_channels, -1)
    raise AudioError(f"audio with {audio.shape[0]} channels cannot become {n_channels}; expected {n_channels} or 1.")


_H = math.sqrt(0.5)  # 3 dB down
# What the left channel takes of those of 3.0, quad, 5.0, 5.1, 6.1 and 7.1, in the order of wav; the right one takes the
# same of its own side (ITU-R BS.775: the middle and the surround channels 3 dB down, nothing of the LFE).
LEFT_OF: dict[int, tuple[float, ...]] = {
    3: (1, 0, _H),
    4: (1, 0, _H, 0),
    5: (1, 0, _H, _H, 0),
    6: (1, 0, _H, 0, _H, 0),
    7: (1, 0, _H, 0, 0.5, _H, 0),
    8: (1, 0, _H, 0, _H, 0, _H, 0),
}
MIDDLE = {3: (2,), 5: (2,), 6: (2, 3), 7: (2, 3, 4), 8: (2, 3)}  # channels of no side


def fold_channels(audio: Tensor, n_channels: int) -> Tensor:
    """(C, L) with the wanted number of channels, from any number: for data, whose files may differ.

    As `match_channels`, but surround sound is also mixed down to stereo (with more than eight channels, every second
    one to each side), and stereo for a surround track becomes its front channels. The conversion is linear: a sum of
    stems stays a sum.
    """
    n_given = audio.shape[0]
    if n_given == n_channels or 1 in (n_given, n_channels):
        return match_channels(audio, n_channels)
    if n_given == 2:
        return functional.pad(audio, (0, 0, 0, n_channels - 2))
    if n_channels > 2:
        return fold_channels(fold_channels(audio, 2), n_channels)
    sides = _to_stereo(n_given).tolist()
    return torch.stack([sum((w * c for w, c in zip(side, audio, strict=True) if w), torch.zeros(())) for side in sides])


def _to_stereo(n_channels: int) -> Tensor:
    """(2, C): the matrix that mixes so many channels down."""
    left = LEFT_OF.get(n_channels)
    if left is None:
        side = torch.arange(n_channels) % 2
        weights = torch.stack([side == 0, side == 1]).float()
        return weights / weights.sum(1, keepdim=True)
    middle = MIDDLE.get(n_channels, ())
    sides = [i for i in range(n_channels) if i not in middle]  # left and right by turns
    right = list(left)
    for i, j in zip(sides[::2], sides[1::2], strict=True):
        right[i], right[j] = left[j], left[i]
    return torch.tensor([left, right])


class Uniform:
    """Pieces of audio with any rates and channels as one stream with one rate and number of channels."""

    def __init__(self, sample_rate_hz: int, n_channels: int):
        self.sample_rate_hz, self.n_channels = sample_rate_hz, n_channels
        self.resampler: Resampler | None = None

    def push(self, samples: np.ndarray, sample_rate_hz: int) -> list[np.ndarray]:
        """The result for (channels, n) samples, after the rest of earlier samples at another rate."""
        known = self.resampler.from_hz if self.resampler else self.sample_rate_hz
        ready = self.finish() if known != sample_rate_hz else []
        if len(samples) != self.n_channels:
            samples = fold_channels(torch.from_numpy(np.ascontiguousarray(samples)), self.n_channels).numpy()
        if sample_rate_hz == self.sample_rate_hz:
            return [*ready, samples]
        self.resampler = self.resampler or Resampler(sample_rate_hz, self.sample_rate_hz, self.n_channels)
        return [*ready, self.resampler.push(torch.from_numpy(np.ascontiguousarray(samples))).numpy()]

    def finish(self) -> list[np.ndarray]:
        """The rest of the samples at another rate."""
        last = [self.resampler.finish().numpy()] if self.resampler else []
        self.resampler = None
        return last
