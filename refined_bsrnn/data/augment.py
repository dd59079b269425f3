"""Augmentations of the parts of a training mixture, by name: `AUGMENTATIONS`.

An augmentation is a key of the recipe's ``augment:`` (its probability, or ``gain_db``, a range), with further keys for
its range, and one entry of the dict. One random draw may be shared by all parts of the mixture, by all parts from one
place of one song, or by none. The parts are changed first and then summed, so mixture and stems always agree.

Every augmentation has its own random stream, a function of seed, index and its name: switching one off does not change
the others. The result is the same bit for bit on any number of threads. numpy and scipy use one thread, and
torchaudio's recursive filters process a channel in order; torch would divide a sum or a power among several threads.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import fft
from torch import Tensor
from torchaudio.functional import bass_biquad, equalizer_biquad, treble_biquad

from ..audio import CODECS, fold_channels, resample, stretch, through_codec
from ..recipe import AugmentSpec
from .recordings import IMPULSE, impulse_recordings, impulse_response

Random = np.random.Generator


class Streams:
    """The random numbers of one example, a stream per name."""

    def __init__(self, seed: int, index: int):
        self.entropy = (seed, index)
        self.opened: dict[str, Random] = {}

    def __getitem__(self, name: str) -> Random:
        if name not in self.opened:
            self.opened[name] = np.random.default_rng((*self.entropy, zlib.crc32(name.encode())))
        return self.opened[name]


# --- what is drawn: None where nothing is done this time --------------------------------------------------------------


def _sometimes(probability: float, random: Random) -> bool | None:
    return True if random.random() < probability else None


def _range(probability: float, low_high: tuple[float, float], random: Random) -> float | None:
    """Uniform in the range, with that probability."""
    return float(random.uniform(*low_high)) if random.random() < probability else None


def _percent(probability: float, low_high: tuple[float, float], random: Random) -> int | None:
    """A speed in whole percent of the original one."""
    value = _range(probability, low_high, random)
    return None if value is None else round(100 + value)


def _pitch(spec: AugmentSpec, random: Random) -> int | None:
    """A pitch in whole percent of the original one (17 cents apart), so that a small filter can resample it."""
    semitones = _range(spec.pitch, spec.pitch_semitones, random)
    return None if semitones is None else round(100 * 2 ** (semitones / 12))


def _gain(spec: AugmentSpec, random: Random) -> float | None:
    """An amplitude: uniform in dB, or uniform between the amplitudes at the ends of the range."""
    low_db, high_db = spec.gain_db
    if low_db == high_db == 0:
        return None
    if spec.gain_uniform == "db":
        return 10.0 ** (random.uniform(low_db, high_db) / 20.0)
    return float(random.uniform(10.0 ** (low_db / 20.0), 10.0 ** (high_db / 20.0)))


def _cutoff(spec: AugmentSpec, random: Random) -> float | None:
    """A frequency in Hz, uniform over the octaves of the range."""
    low, high = (math.log(hz) for hz in spec.low_pass_hz)
    exponent = _range(spec.low_pass, (low, high), random)
    return None if exponent is None else math.exp(exponent)


def _noise(spec: AugmentSpec, random: Random) -> tuple[float, float, float] | None:
    """The level in dB relative to the mixture; the recording and its place, both as numbers from 0 to below 1."""
    level_db = _range(spec.noise, spec.noise_db, random)
    return None if level_db is None else (level_db, random.random(), random.random())


def _codec(spec: AugmentSpec, random: Random) -> tuple[str, float] | None:
    level = _range(spec.codec, spec.codec_level, random)
    return None if level is None else (str(random.choice(CODECS)), level)


# --- what is done: (C, L) → (C, about L) ------------------------------------------------------------------------------


def _at_pitch(audio: Tensor, percent: int, sample_rate_hz: int) -> Tensor:
    """Slower at the same pitch, then played faster: only the pitch changes."""
    return resample(stretch(audio, sample_rate_hz, 100 / percent), percent, 100)


LOW_PASS_WIDTH = 0.1  # of the cut-off frequency: a raised cosine from all to nothing
LOW_PASS_PADDING_SECONDS = 0.1  # of silence, so that the end does not ring on into the beginning


def low_pass(audio: Tensor, cutoff_hz: float, sample_rate_hz: int) -> Tensor:
    """Remove everything above the cut-off, keep everything below 0.9 of it, without delay; (C, L) → (C, L)."""
    length = audio.shape[-1]
    padded = fft.next_fast_len(length + round(LOW_PASS_PADDING_SECONDS * sample_rate_hz), real=True)
    frequencies = fft.rfftfreq(padded, 1 / sample_rate_hz)
    place = ((cutoff_hz - frequencies) / (LOW_PASS_WIDTH * cutoff_hz)).clip(0, 1)  # 0 above, 1 below
    gains = (0.5 - 0.5 * np.cos(np.pi * place)).astype(np.float32)
    return torch.from_numpy(fft.irfft(fft.rfft(audio.numpy(), padded) * gains, padded)[..., :length].copy())


# As on a mixing desk: a low shelf, a bell somewhere between, a high shelf.
LOW_SHELF_HZ, BELL_HZ, HIGH_SHELF_HZ = 200.0, (300.0, 4000.0), 5000.0
HIGHEST_OF_RATE = 0.45  # no filter lies above this share of the sample rate
HEADROOM = 2.0**-16  # more than three filters of 24 dB can need


def _equaliser(spec: AugmentSpec, random: Random) -> tuple[float, float, float, float] | None:
    """Gains in dB of the low shelf, the bell and the high shelf, and the bell's place in Hz, uniform over octaves."""
    low_db = _range(spec.eq, spec.eq_db, random)
    if low_db is None:
        return None
    bell_db, high_db = random.uniform(*spec.eq_db, size=2)
    return low_db, float(bell_db), float(high_db), math.exp(random.uniform(*np.log(BELL_HZ)))


def equalise(audio: Tensor, setting: tuple[float, float, float, float], sample_rate_hz: int) -> Tensor:
    """Three biquads of Bristow-Johnson's cookbook in series, computed by torchaudio; (C, L) → (C, L)."""
    low_db, bell_db, high_db, bell_hz = setting
    low_hz, bell_hz, high_hz = (
        min(hz, HIGHEST_OF_RATE * sample_rate_hz) for hz in (LOW_SHELF_HZ, bell_hz, HIGH_SHELF_HZ)
    )
    # torchaudio's filters clip at 1: far below it they do not, and a power of two changes no digit
    scale = HEADROOM * 2.0 ** -math.frexp(float(audio.abs().max()))[1]
    sound = audio.double() * scale  # single precision is too coarse for a low filter's feedback
    sound = bass_biquad(sound, sample_rate_hz, low_db, low_hz)
    sound = equalizer_biquad(sound, sample_rate_hz, bell_hz, bell_db)
    return (treble_biquad(sound, sample_rate_hz, high_db, high_hz) / scale).float()


DIFFUSE_FROM_SECONDS = 0.01  # where the first reflections of a small room are


Room = tuple[float, float, int] | Path  # a modelled room, or the file of a recorded impulse response


def _room(spec: AugmentSpec, random: Random) -> Room | None:
    """Reverberation time in seconds, level in dB, and the seed of the reflections; or one of the user's recordings."""
    if rooms := impulse_recordings(spec):
        which = _range(spec.reverb, (0.0, 1.0), random)
        return None if which is None else rooms[min(int(which * len(rooms)), len(rooms) - 1)].path(IMPULSE)
    seconds = _range(spec.reverb, spec.reverb_seconds, random)
    return None if seconds is None else (seconds, random.uniform(*spec.reverb_db), int(random.integers(2**31)))


def reverb(audio: Tensor, room: Room, sample_rate_hz: int) -> Tensor:
    """The sound plus its diffuse reverberation, at a level in dB relative to the sound; (C, L) → (C, L).

    The reflections are noise, different in every channel, that decays by 60 dB in the reverberation time (Moorer,
    1979), convolved by scipy. With a recorded room the sound is convolved with the impulse response instead, which has
    unit energy and begins at its loudest sample.
    """
    from scipy.signal import fftconvolve  # a second to load, for those who reverberate

    if isinstance(room, Path):
        impulse = fold_channels(torch.from_numpy(impulse_response(room, sample_rate_hz)), len(audio)).numpy()
        return torch.from_numpy(fftconvolve(audio.numpy(), impulse, axes=-1)[..., : audio.shape[-1]].copy())
    seconds, level_db, seed = room
    n_samples = max(1, round(seconds * sample_rate_hz))
    time = np.arange(n_samples) / sample_rate_hz
    noise = np.random.default_rng(seed).standard_normal((len(audio), n_samples))
    impulse = noise * 10.0 ** (-3.0 * time / seconds) * (time >= DIFFUSE_FROM_SECONDS)
    energy = np.square(impulse).sum(-1, keepdims=True).clip(min=1e-12)
    impulse = (impulse / np.sqrt(energy) * 10.0 ** (level_db / 20.0)).astype(np.float32)
    diffuse = fftconvolve(audio.numpy(), impulse, axes=-1)[..., : audio.shape[-1]]
    return audio + torch.from_numpy(diffuse.copy())


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """``draw`` draws the settings for one use, or None; ``apply`` applies them to (C, L).

    Without ``apply`` the augmentation changes what is read or summed, which the plan contains. ``faster`` is the factor
    by which an excerpt uses more of the file.
    """

    shared_by: Literal["mixture", "song", "part"]
    draw: Callable[[AugmentSpec, Random], Any]
    apply: Callable[[Tensor, Any, int], Tensor] | None = None
    faster: Callable[[Any], float] | None = None


# In the order in which they are done.
AUGMENTATIONS: dict[str, Augmentation] = {
    "remix": Augmentation("mixture", lambda spec, random: _sometimes(spec.remix, random)),
    "silent_target": Augmentation("mixture", lambda spec, random: _range(spec.silent_target, (0.0, 1.0), random)),
    "drop": Augmentation("part", lambda spec, random: _sometimes(spec.drop, random)),
    "time_shift": Augmentation("part", lambda spec, random: _range(spec.time_shift, spec.time_shift_seconds, random)),
    "speed": Augmentation(
        "song",
        lambda spec, random: _percent(spec.speed, spec.speed_percent, random),
        lambda audio, percent, _: resample(audio, percent, 100),
        lambda percent: percent / 100,
    ),
    "tempo": Augmentation(
        "song",
        lambda spec, random: _percent(spec.tempo, spec.tempo_percent, random),
        lambda audio, percent, rate_hz: stretch(audio, rate_hz, percent / 100),
        lambda percent: percent / 100,
    ),
    "pitch": Augmentation("song", _pitch, _at_pitch),
    "polarity": Augmentation("part", lambda spec, random: _sometimes(spec.polarity, random), lambda x, *_: -x),
    "channel_swap": Augmentation(
        "part", lambda spec, random: _sometimes(spec.channel_swap, random), lambda x, *_: x.flip(0)
    ),
    "eq": Augmentation("part", _equaliser, equalise),
    "reverb": Augmentation("part", _room, reverb),
    "gain_db": Augmentation("part", _gain, lambda x, gain, _: x * gain),
    "noise": Augmentation("mixture", _noise),
    "low_pass": Augmentation("mixture", _cutoff, low_pass),
    "codec": Augmentation("mixture", _codec, lambda x, codec, rate_hz: through_codec(x, rate_hz, *codec)),
}


def is_on(spec: AugmentSpec, name: str) -> bool:
    """Whether the recipe uses it."""
    return spec.gain_db != (0.0, 0.0) if name == "gain_db" else getattr(spec, name) > 0


def augmented(audio: Tensor, drawn: dict[str, Any], sample_rate_hz: int) -> Tensor:
    """(C, L) after all drawn augmentations, in the order of `AUGMENTATIONS`; (C, about L)."""
    for name, augmentation in AUGMENTATIONS.items():
        setting = drawn.get(name)
        if setting is not None and augmentation.apply is not None:
            audio = augmentation.apply(audio, setting, sample_rate_hz)
    return audio


def music_taken(drawn: dict[str, Any]) -> float:
    """The seconds of the file that one second of the excerpt needs: 1.03 if it is played 3 % faster."""
    factor = 1.0
    for name, augmentation in AUGMENTATIONS.items():
        if augmentation.faster is not None and drawn.get(name) is not None:
            factor *= augmentation.faster(drawn[name])
    return factor
