"""Tracks → training batches and whole validation or test tracks.

`make_parts` decides what a training mixture is summed from; `RandomMixes` draws one training example per index, a pure
function of the seed and the index: the same whatever the number of workers or processes, and a resumed run goes on
where it was. Where tracks come from and how their files are read: `sources`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .audio import match_channels, resample
from .errors import DataError
from .recipe import AugmentSpec, DataSpec, Recipe
from .sources import MIXTURE, Track, read_stem
from .suggest import nearest

REST = "rest-of-mixture"  # mixture − targets; no file can have this name's role
MUSDB_STEMS = ("vocals", "drums", "bass", "other")


# --- parts: what a mixture is made of ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The parts whose sum is a mixture, the tracks usable for them, and what was left out (to be told)."""

    names: tuple[str, ...]
    tracks: list[Track]
    notes: list[str]
    sums: Mapping[str, tuple[str, ...]]  # target → the parts whose sum it is: itself, or those of its definition


def make_parts(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> Parts:
    """Which parts to draw and sum, for these targets.

    ``data.stems`` when given; else vocals, drums, bass, other, or all stems there are, whichever hold every target and
    are heard to sum to the mixture; else the targets and the rest of the mixture. A track that lacks a part is left
    out, taken as silent or refused, as ``data.missing_stem`` says. Raises `DataError` where no track has a target.
    """
    names = tuple(spec.stems) or _default_parts(tracks, targets, spec)
    available = {stem for t in tracks for stem in t.stems}
    for name in [*targets, *(n for n in names if n != REST)]:
        if name not in available:
            raise DataError(
                f"no track has a stem {name!r}.{nearest(name, available)} "
                f"Stems found in {len(tracks)} tracks: {', '.join(sorted(available)) or 'none'}."
            )
    sums = {target: (target,) if target in names else spec.stems_of(target) for target in targets}
    for target, summed in sums.items():
        if not set(summed) <= set(names):
            raise DataError(f"the target {target!r} is not among data.stems {list(names)}, which make the mixture.")
    usable, notes = _usable(tracks, names, spec.missing_stem)
    return Parts(names, usable, notes, sums)


def _default_parts(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> tuple[str, ...]:
    """Names are not trusted: a guitar may lie beside `other` or be a part of it, only listening tells.

    A defined target is drawn as the stems it sums, where all tracks have them; `DataError` where targets share a stem
    and cannot be drawn so.
    """
    drawn = {stem for target in targets for stem in spec.stems_of(target)}
    everywhere = [stem for stem in tracks[0].stems if all(stem in t.stems for t in tracks)] if tracks else []
    for names in (MUSDB_STEMS, tuple(stem for stem in everywhere if stem not in spec.define or stem in drawn)):
        if drawn <= set(names) <= set(everywhere) and sum_to_mixture(tracks, names):
            return names
    shared = [stem for stem in sorted(drawn) if sum(stem in spec.stems_of(target) for target in targets) > 1]
    if shared:
        raise DataError(
            f"more than one of the targets {', '.join(targets)} holds the stem {shared[0]!r}, and no stems in "
            "every track are heard to sum to its mixture. Train these targets apart, or say with data.stems=[...] "
            "which stems make the mixture."
        )
    return (*targets, REST)


def sum_to_mixture(tracks: Sequence[Track], names: Sequence[str]) -> bool:
    """Whether mixture − Σ stems lies 30 dB or more below the mixture, in the middle of a few tracks."""
    for track in [t for t in tracks if MIXTURE in t.files][:: max(1, len(tracks) // 4)]:
        n_samples = min(track.n_samples, 4 * track.sample_rate_hz)
        start = (track.n_samples - n_samples) // 2
        mixture = read_part(track, MIXTURE, (), start, n_samples)
        rest = read_part(track, REST, names, start, n_samples)
        if (rest**2).sum() > 1e-3 * (mixture**2).sum():
            return False
    return True


def _usable(tracks: Sequence[Track], names: Sequence[str], missing: str) -> tuple[list[Track], list[str]]:
    lacking: dict[str, list[str]] = {}
    for track in tracks:
        needed = [MIXTURE if name == REST else name for name in names]
        gaps = [name for name in needed if name not in track.files]
        if MIXTURE in gaps and REST in names:  # what is not in a stem can only be heard in the mixture
            lacking[track.name] = [MIXTURE]
        elif gaps:
            lacking[track.name] = gaps
    told = "; ".join(f"{track}: {', '.join(gaps)}" for track, gaps in list(lacking.items())[:6])
    told += f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
    if missing == "error" and lacking:
        raise DataError(
            f"{len(lacking)} of {len(tracks)} tracks lack a stem ({told}). "
            "data.missing_stem=skip leaves them out, =silent takes the missing stem as silence."
        )
    left_out = {t for t, gaps in lacking.items() if missing == "skip" or MIXTURE in gaps}
    notes = []
    if left_out:
        notes.append(
            f"{len(left_out)} of {len(tracks)} tracks lack a stem and are left out ({told}). "
            "data.missing_stem=silent takes the missing stem as silence instead."
        )
    elif lacking:
        notes.append(f"{len(lacking)} of {len(tracks)} tracks lack a stem, which is taken as silence ({told}).")
    usable = [t for t in tracks if t.name not in left_out]
    if not usable:
        raise DataError(f"none of {len(tracks)} tracks has all of {', '.join(names)} ({told}).")
    return usable, notes


def read_part(track: Track, part: str, targets: Sequence[str], start: int = 0, n_samples: int | None = None) -> Tensor:
    """Float (channels, samples) of one part at the track's own rate; a stem that is not there is silent."""
    if part == REST:
        rest = read_part(track, MIXTURE, targets, start, n_samples)
        for target in targets:
            if target in track.files:
                rest = rest - read_part(track, target, targets, start, n_samples)
        return rest
    if part not in track.files:
        return torch.zeros(track.n_channels, track.n_samples - start if n_samples is None else n_samples)
    return read_stem(track, part, start, n_samples)


# --- training examples ------------------------------------------------------------------------------------------------

RESAMPLE_MARGIN_SECONDS = (
    0.05  # read beside an excerpt and cut away again, so that its ends are not resampled from zeros
)


class RandomMixes(Dataset):
    """Training examples ``{"mixture": (C, L), "stems": (targets, C, L), "present": (targets,)}`` by index.

    Each part comes from a random place of a random song (``augment.remix``: the share of mixtures made so; the others
    take all parts from one place of one song), with a random gain, the channels swapped at random; the mixture is their
    sum, so mixture and stems always agree.
    """

    def __init__(self, parts: Parts, recipe: Recipe, n_examples: int):
        self.parts, self.targets, self.n_examples = parts, recipe.targets, n_examples
        self.augment: AugmentSpec = recipe.augment
        self.seed, self.channels = recipe.train.seed, recipe.data.channels
        self.sample_rate_hz = recipe.stft.sample_rate_hz
        self.length = round(recipe.train.chunk_seconds * self.sample_rate_hz)
        weights = np.array([track.weight for track in parts.tracks])
        self.odds = None if len(set(weights)) == 1 else weights / weights.sum()

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((self.seed, index))
        remixed = random.random() < self.augment.remix
        song = self._draw(random)
        drawn = {}
        for name in self.parts.names:
            track, start = self._draw(random) if remixed else song
            drawn[name] = self._augmented(self._excerpt(track, name, start), random)
        mixture = torch.stack(list(drawn.values())).sum(0)
        stems = torch.stack([self._target(drawn, target) for target in self.targets])
        return {"mixture": mixture, "stems": stems, "present": torch.ones(len(self.targets))}

    def _target(self, drawn: Mapping[str, Tensor], target: str) -> Tensor:
        return torch.stack([drawn[name] for name in self.parts.sums[target]]).sum(0)

    def _draw(self, random: np.random.Generator) -> tuple[Track, int]:
        """A song, each as likely as its weight says, and the first sample of an excerpt, in samples of its file."""
        n_tracks = len(self.parts.tracks)
        place = random.integers(n_tracks) if self.odds is None else random.choice(n_tracks, p=self.odds)
        track = self.parts.tracks[place]
        room = track.n_samples - self._file_length(track)
        return track, int(random.integers(room + 1)) if room > 0 else 0

    def _file_length(self, track: Track) -> int:
        return -(-self.length * track.sample_rate_hz // self.sample_rate_hz)

    def _excerpt(self, track: Track, part: str, start: int) -> Tensor:
        """(C, L) at the recipe's rate and channels; a song shorter than L is followed by silence."""
        from_hz, to_hz = track.sample_rate_hz, self.sample_rate_hz
        margin = round(RESAMPLE_MARGIN_SECONDS * from_hz) if from_hz != to_hz else 0
        before = min(margin, start)
        n_samples = min(before + self._file_length(track) + margin, track.n_samples - start + before)
        audio = read_part(track, part, self.targets, start - before, n_samples)
        audio = resample(match_channels(audio, self.channels), from_hz, to_hz)
        audio = audio[:, round(before * to_hz / from_hz) :][:, : self.length]
        return torch.nn.functional.pad(audio, (0, self.length - audio.shape[-1]))

    def _augmented(self, audio: Tensor, random: np.random.Generator) -> Tensor:
        gain_db = random.uniform(*self.augment.gain_db)
        swap, drop = random.random() < self.augment.channel_swap, random.random() < self.augment.drop
        audio = audio.flip(0) if swap else audio
        return audio * (0.0 if drop else 10.0 ** (gain_db / 20.0))


# --- whole tracks, for validation and test ----------------------------------------------------------------------------


def load_track(track: Track, targets: Sequence[str]) -> tuple[Tensor, dict[str, Tensor], str]:
    """The mixture (C, L), the stems of those targets that the track has, and where the mixture came from.

    At the track's own rate and channels. The mixture is ``mixture.wav`` ("file") where it exists, else the sum of all
    stems ("sum").
    """
    stems = {target: read_part(track, target, targets) for target in targets if target in track.files}
    if MIXTURE in track.files:
        return read_part(track, MIXTURE, targets), stems, "file"
    return torch.stack([read_part(track, stem, targets) for stem in track.stems]).sum(0), stems, "sum"
