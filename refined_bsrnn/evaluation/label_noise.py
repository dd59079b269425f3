"""Finds stems whose content differs from their name, with a trained model: `check-data --model RUN`.

The network separates each stem alone, in windows. Most of a clean stem goes to the head of its name. If much of it goes
to another head, it contains that source, or is it. Networks leak, and each target leaks differently; so the score is
the distance of a stem from the others of its name, in robust deviations of the log-odds of its share. The suspicious
stems are written to a CSV that `data.stem_weights` reads, and to a page with players.
"""

import base64
import csv
import html
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..audio import fold_channels, resample
from ..console import say
from ..console import track as show_progress
from ..data.tracks import Track, read_stem
from ..errors import DataError, first
from ..separation.separator import Separator
from ..system import write_text

WINDOW_SECONDS = 3.0
AUDIBLE_DB, AUDIBLE = 40.0, 1e-3  # below the stem's loudest window; RMS: quieter windows say nothing
FEWEST = 4  # stems of a name, below which there is nothing to compare with
LEAST_SPREAD = 0.25  # of the log-odds: a few stems that happen to agree are no reason to suspect the next one
TRUSTED = 1e-3  # shares nearer to 0 or 1 than this count as equal
WORST_WINDOWS = 3
SUSPICIOUS = 2.0  # deviations: where precision is 0.9 on labels made wrong on purpose, docs/augmentation.md
CLEAN = 0.9  # of a stem to the head of its name: that is not suspicious, however the others do
WINDOWS = 6  # per stem, evenly spread


@dataclass(frozen=True)
class StemShares:
    """The network's result for one stem: per audible window, the share of each head."""

    track: Track
    stem: str
    starts_seconds: tuple[float, ...]
    shares: np.ndarray  # (windows, heads), each row sums to one

    def log_odds(self, head: int) -> float:
        """Of the mean share of a head over the windows."""
        share = float(np.clip(self.shares[:, head].mean(), TRUSTED, 1 - TRUSTED))
        return math.log(share / (1 - share))


@dataclass(frozen=True)
class Suspect:
    """A stem and its distance from the others of its name."""

    track: str
    stem: str
    deviations: float  # below the median of its name; the higher, the more suspicious
    share: float  # of its energy that goes to the head of its name
    usual_share: float
    sounds_like: str  # the head that gets more than it usually does from such stems
    seconds: tuple[float, ...]  # where the worst windows begin

    def is_suspicious(self, threshold: float = SUSPICIOUS) -> bool:
        """Whether the stem is far enough from the others, and not clean by itself."""
        return self.deviations > threshold and self.share < CLEAN

    @property
    def reason(self) -> str:
        places = ", ".join(f"{second:.0f} s" for second in self.seconds)
        return (
            f"{self.share:.0%} of it goes to {self.stem} (usually {self.usual_share:.0%}), more than usual to "
            f"{self.sounds_like}; listen at {places}"
        )


# --- listening --------------------------------------------------------------------------------------------------------


def measure_stem(separator: Separator, track: Track, stem: str, windows: int) -> StemShares | None:
    """The shares of a stem's audible windows, at most that many, evenly spread; None for a silent stem."""
    rate_hz, n_channels = separator.model.sample_rate_hz, separator.model.recipe.data.channels
    length = round(WINDOW_SECONDS * track.sample_rate_hz)
    places = range(0, max(1, track.n_samples - length + 1), length)
    spread = np.linspace(0, len(places) - 1, min(windows, len(places))).round().astype(int)
    chosen = [places[int(i)] for i in np.unique(spread)]
    excerpts = [read_stem(track, stem, start, min(length, track.n_samples - start)) for start in chosen]
    levels = np.array([float(excerpt.square().mean().sqrt()) for excerpt in excerpts])
    audible = levels > max(AUDIBLE, levels.max() * 10 ** (-AUDIBLE_DB / 20))
    if not audible.any():
        return None
    kept = [i for i in range(len(chosen)) if audible[i]]
    audio = torch.stack([resample(fold_channels(excerpts[i], n_channels), track.sample_rate_hz, rate_hz) for i in kept])
    starts = tuple(chosen[i] / track.sample_rate_hz for i in kept)
    return StemShares(track, stem, starts, shares(separator, audio))


@torch.inference_mode()
def shares(separator: Separator, audio: Tensor) -> np.ndarray:
    """For each window (B, C, L), the share of every head in the energy of all estimates, (B, heads)."""
    estimates = separator.model(audio.to(separator.device))
    energies = torch.stack([estimates[head].square().mean((1, 2)) for head in separator.heads], dim=1)  # (B, heads)
    return (energies / energies.sum(1, keepdim=True).clamp_min(1e-20)).cpu().double().numpy()


def measure_stems(separator: Separator, tracks: Sequence[Track], windows: int = WINDOWS) -> list[StemShares]:
    """Measures every stem that has a head. Raises `DataError` if there is none, or if the model has a single head."""
    heads = separator.heads
    if len(heads) < 2:
        raise DataError(f"the model has the head {', '.join(heads)} alone; to tell stems apart it needs two or more.")
    listed = [(track, stem) for track in tracks for stem in track.stems if stem in heads]
    if not listed:
        raise DataError(f"none of {len(tracks)} tracks has a stem that the model has a head for ({', '.join(heads)}).")
    measured = [
        measure_stem(separator, track, stem, windows) for track, stem in show_progress(listed, len(listed), "listening")
    ]
    return [found for found in measured if found is not None]


# --- ranking ----------------------------------------------------------------------------------------------------------


def rank(measured: Sequence[StemShares], heads: Sequence[str]) -> list[Suspect]:
    """All stems, the most suspicious first."""
    suspects = []
    for i, head in enumerate(heads):
        alike = [one for one in measured if one.stem == head]
        if not alike:
            continue
        odds = np.array([one.log_odds(i) for one in alike])
        usual = float(np.median(odds)) if len(alike) >= FEWEST else 0.0  # too few: half of it is expected
        spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(odds - usual)))) if len(alike) >= FEWEST else 1.0
        usual_shares = np.median([one.shares.mean(0) for one in alike], axis=0)  # (heads,)
        for one, value in zip(alike, odds, strict=True):
            excess = one.shares.mean(0) - usual_shares
            excess[i] = -np.inf
            worst = np.argsort(one.shares[:, i], kind="stable")[:WORST_WINDOWS]
            suspects.append(
                Suspect(
                    one.track.name,
                    one.stem,
                    round(float(usual - value) / spread, 2),
                    round(float(one.shares[:, i].mean()), 3),
                    round(1 / (1 + math.exp(-usual)), 3),
                    heads[int(excess.argmax())],
                    tuple(sorted(one.starts_seconds[j] for j in worst)),
                )
            )
    return sorted(suspects, key=lambda s: (-s.deviations, s.track, s.stem))


# --- what is written --------------------------------------------------------------------------------------------------


def write_suspects(path: Path, suspects: Sequence[Suspect], threshold: float = SUSPICIOUS, weight: float = 0.0) -> int:
    """Write the suspicious stems as the CSV that ``data.stem_weights`` reads, each with that weight; returns their
    number.
    """
    chosen = [suspect for suspect in suspects if suspect.is_suspicious(threshold)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["track", "stem", "weight", "deviations", "reason"])
    for suspect in chosen:
        writer.writerow([suspect.track, suspect.stem, f"{weight:g}", suspect.deviations, suspect.reason])
    write_text(path, text.getvalue())
    return len(chosen)


def write_page(path: Path, suspects: Sequence[Suspect], tracks: Sequence[Track], shown: int = 20) -> Path:
    """Write a page with the most suspicious stems: their worst windows, in one self-contained file."""
    by_name = {track.name: track for track in tracks}
    rows = []
    for suspect in suspects[:shown]:
        players = "".join(
            f'<figure><audio controls preload="none" src="{_sound(by_name[suspect.track], suspect.stem, second)}">'
            f"</audio><figcaption>{suspect.stem} from {second:.0f} s</figcaption></figure>"
            for second in suspect.seconds
        )
        rows.append(
            f"<section><h2>{html.escape(suspect.track)} / {html.escape(suspect.stem)}</h2>"
            f"<p>{suspect.deviations:.1f} deviations: {html.escape(suspect.reason)}</p>{players}</section>"
        )
    style = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}figure{display:inline-block}"
    title = "Stems that may not be what they are called"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    write_text(path, f"{head}<h1>{title}</h1>{''.join(rows)}</html>\n")
    return path


def _sound(track: Track, stem: str, second: float) -> str:
    """A window as Ogg Vorbis in a data URL."""
    start = round(second * track.sample_rate_hz)
    n_samples = min(round(WINDOW_SECONDS * track.sample_rate_hz), track.n_samples - start)
    audio = read_stem(track, stem, start, n_samples)
    memory = io.BytesIO()
    soundfile.write(memory, audio.clamp(-1, 1).numpy().T, track.sample_rate_hz, format="ogg")
    return f"data:audio/ogg;base64,{base64.b64encode(memory.getvalue()).decode()}"


def unmeasured(tracks: Sequence[Track], heads: Sequence[str], measured: Sequence[StemShares]) -> str:
    """A message with the stems that were not scored, and why; empty if all were."""
    available = {(one.track.name, one.stem) for one in measured}
    left = [(track, stem) for track in tracks for stem in track.stems if (track.name, stem) not in available]
    without = Counter(stem for _, stem in left if stem not in heads)
    silent = [f"{track.split}/{track.name}/{stem}" for track, stem in left if stem in heads]
    parts = [f"{sum(without.values())} have no head ({first(sorted(without))})"] if without else []
    parts += [f"{len(silent)} are silent ({first(silent)})"] if silent else []
    return f"{len(left)} stems are not scored: {'; '.join(parts)}." if left else ""


def find_suspects(
    model: str,
    tracks: Sequence[Track],
    out: Path,
    windows: int = WINDOWS,
    threshold: float = SUSPICIOUS,
    weight: float = 0.0,
) -> list[Suspect]:
    """Score all stems with a run's model; writes suspects.csv and suspects.html, returns the suspicious ones."""
    separator = Separator.from_pretrained(model)
    measured = measure_stems(separator, tracks, windows)
    if parts := unmeasured(tracks, separator.heads, measured):
        say(parts)
    suspects = [one for one in rank(measured, separator.heads) if one.is_suspicious(threshold)]
    write_suspects(out / "suspects.csv", suspects, threshold, weight)
    write_page(out / "suspects.html", suspects, tracks)
    return suspects
