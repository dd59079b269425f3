"""Renders the plan of an example to audio: the mixture, the stems, and which stems count."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..audio import fold_channels, resample
from .augment import augmented, music_taken
from .parts import TrackParts
from .plan import ExamplePlan, Excerpt, Format

# Read before and behind an excerpt and cut away again, so that its ends are not resampled from zeros.
RESAMPLE_MARGIN_SECONDS = 0.05


def render(plan: ExamplePlan, form: Format) -> dict[str, Tensor]:
    """``{"mixture": (C, L), "stems": (targets, C, L), "present": (targets,)}`` of a plan."""
    shape = (form.channels, form.length)
    stems = torch.empty(len(plan.target_parts), *shape)
    rows = dict(zip(plan.target_parts, stems, strict=True))
    # A part that is a target is copied there at once: what it was read into is free for the next, and still cached.
    alone = {parts[0]: rows[target] for target, parts in plan.target_parts.items() if len(parts) == 1}
    sounds: dict[str, Tensor] = {}  # of the parts that are not silent
    for excerpt in plan.excerpts:
        for part, audio in render_excerpt(excerpt, form).items():
            sounds[part] = sum_into(alone[part], [audio]) if part in alone else audio
    for target, parts in plan.target_parts.items():
        audible = [sounds[part] for part in parts if part in sounds]
        if not (audible and audible[0] is rows[target]):
            sum_into(rows[target], audible)
    mixture = sum_into(torch.empty(shape), list(sounds.values()))
    if plan.noise is not None:
        [noise] = render_excerpt(plan.noise, form).values()
        add_noise(mixture, noise, plan.noise_db)
    present = torch.tensor([plan.label_weights[target] for target in plan.target_parts])
    return {"mixture": mixture, "stems": stems, "present": present}


def render_excerpt(excerpt: Excerpt, form: Format) -> dict[str, Tensor]:
    """(C, L) of each part of an excerpt that is not silent, augmented."""
    track = excerpt.song.track
    parts = {part: settings for part, settings in excerpt.parts.items() if part not in excerpt.silent}
    if not parts:
        return {}
    last = max(0, track.n_samples - form.file_length(track, excerpt.settings))
    length = math.ceil(form.length * music_taken(excerpt.settings)) if excerpt.settings else form.length
    pieces = []
    for part, settings in parts.items():
        shift = round(settings.get("time_shift", 0.0) * track.sample_rate_hz)
        pieces.append(read_piece(excerpt.song, part, min(last, max(0, excerpt.start + shift)), length, form))
    if excerpt.settings:  # all parts are played faster or higher as one sound: (parts · C, L)
        together = augmented(torch.cat(pieces), excerpt.settings, form.sample_rate_hz)
        pieces = list(fitted(together, form.length).split(form.channels))
    return {
        part: augmented(audio, settings, form.sample_rate_hz)
        for (part, settings), audio in zip(parts.items(), pieces, strict=True)
    }


def read_piece(song: TrackParts, part: str, start: int, length: int, form: Format) -> Tensor:
    """(C, length) at the example's rate and channels; a shorter song is extended by silence."""
    track = song.track
    from_hz, to_hz = track.sample_rate_hz, form.sample_rate_hz
    margin = round(RESAMPLE_MARGIN_SECONDS * from_hz) if from_hz != to_hz else 0
    before = min(margin, start)
    needed = before + -(-length * from_hz // to_hz) + margin
    audio = song.read(part, start - before, min(needed, track.n_samples - start + before))
    audio = resample(fold_channels(audio, form.channels), from_hz, to_hz)
    return fitted(audio[:, round(before * to_hz / from_hz) :], length)


def add_noise(mixture: Tensor, noise: Tensor, level_db: float) -> None:
    """Add noise to a mixture in place, at a level in dB relative to its root mean square; silence changes nothing."""
    target, own = mixture.numpy(), noise.numpy()
    ratio = np.sqrt(np.square(target, dtype=np.float64).mean() / max(np.square(own, dtype=np.float64).mean(), 1e-20))
    np.add(target, own * np.float32(ratio * 10 ** (level_db / 20)), out=target)


def sum_into(result: Tensor, sounds: Sequence[Tensor]) -> Tensor:
    """Overwrite ``result`` with the sum of the sounds; with silence if there are none."""
    total = result.numpy()  # numpy copies what alternates between channels eight times as fast as torch
    arrays = [sound.numpy() for sound in sounds]
    if len(arrays) < 2:
        np.copyto(total, arrays[0] if arrays else np.float32(0))
    else:
        np.add(arrays[0], arrays[1], out=total)
    for sound in arrays[2:]:
        np.add(total, sound, out=total)
    return result


def fitted(audio: Tensor, length: int) -> Tensor:
    """(C, L) cut or extended by silence to (C, length); not copied if it fits."""
    missing = length - audio.shape[-1]
    return torch.nn.functional.pad(audio, (0, missing)) if missing > 0 else audio[:, :length]
