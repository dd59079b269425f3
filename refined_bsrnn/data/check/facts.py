"""The facts of a track: every file is read to its end, once; facts are stored until a file changes."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import fft
from threadpoolctl import threadpool_limits

from ...audio import AudioReader, fold_channels, open_audio
from ...console import say
from ...console import track as progress
from ...errors import DataError, UserError
from ...system import big_blocks_kept, cache_folder, read_json, write_json
from ..decode import writing
from ..names import MIXTURE
from ..parts import possible_sums
from ..scan import kind_of
from ..tracks import StemFile, Track, read_stem
from .edge import peak_spectrum, sharp_edge
from .fingerprints import SILENCE, fingerprint_words, hop_length

FACTS_VERSION = 3  # of what is measured: another one makes kept facts stale
BLOCK_HOPS = 512  # of the fingerprint: about 48 s are read at a time
CLIP = 0.9999  # of full scale
CLIP_RUN = 3  # so many equal samples there are clipping
SILENT_DB = -200.0
MONO = 1e-4  # largest difference of two channels, beside the peak
SUM_DB = -30.0  # what remains of a mixture without its stems
LAG_SECONDS, LAG_EXCERPT_SECONDS = 1.0, 20.0


@dataclass(frozen=True)
class StemFacts:
    """Facts from the samples of a stem."""

    seconds: float
    n_channels: int  # of the widest of its files
    peak: float
    rms_db: float
    clips: int  # runs of equal samples at full scale
    mono: bool  # two channels, the same in both
    dead_channel: bool  # one channel silent, another not
    highest_hz: float | None  # the sharp edge above which there is nothing; None: no such edge
    prints: str  # base64 of the fingerprint, 16 bits per hop

    @property
    def silent(self) -> bool:
        return self.peak < SILENCE


@dataclass(frozen=True)
class TrackFacts:
    """Facts from reading a track to its end."""

    track: str
    split: str
    stems: Mapping[str, StemFacts]
    problems: Sequence[tuple[str, str]]  # (kind, sentence) of what could not be read
    prints: str = ""  # of the mixture, or of the sum where there is none
    sum_of: Sequence[str] = ()  # the stems that come closest to the mixture
    residual_db: float | None = None  # mixture without them, beside the mixture; None: no mixture, or no stems
    gain: float = 1.0  # of the stems in the mixture, where they are in it scaled; found in an excerpt of its middle
    delay_samples: int = 0  # of the stems in the mixture
    fitted_db: float | None = None  # what remains of the excerpt with that gain and delay
    unfitted_db: float | None = None  # and without
    damage: Sequence[str] = ()  # sentences on files of which a part is silence or missing


# --- reading a track --------------------------------------------------------------------------------------------------


def track_facts(track: Track) -> TrackFacts:
    """Read all files of a track block by block, in constant memory."""
    names = [*(name for name in track.files if name == MIXTURE), *track.apart]
    gathered: dict[str, _Stem] = {}
    summed = _Stem(track, 0)  # for a track without a mixture
    groups = possible_sums(track) if MIXTURE in track.files else []
    sums = {group: np.zeros(3) for group in groups}  # mixture², mixture · Σ stems, (Σ stems)²
    problems: list[tuple[str, str]] = []
    readers: list[AudioReader] = []
    with ExitStack() as stack:
        streams: dict[str, Iterator[np.ndarray]] = {}
        for name in names:
            try:
                opened = [stack.enter_context(open_audio(path)) for path in track.paths(name)]
                readers += opened
                streams[name] = _blocks(track, name, opened, BLOCK_HOPS * hop_length(track.sample_rate_hz))
                gathered[name] = _Stem(track, max(reader.n_channels for reader in opened))
            except UserError as error:
                problems.append((kind_of(error), str(error)))
        while streams and (blocks := _next_blocks(streams, problems)):
            for name, block in blocks.items():
                gathered[name].add(block)
            if MIXTURE not in gathered:
                summed.listen(_sum(blocks, list(blocks)))
            elif not problems:
                for group, values in sums.items():
                    mixture, total = blocks[MIXTURE], _sum(blocks, group)
                    values += [np.vdot(mixture, mixture), np.vdot(mixture, total), np.vdot(total, total)]
        damage = _damage(readers)
    read = {name: stem.facts() for name, stem in gathered.items() if stem.n_samples}
    # Two tracks are compared by their mixtures, or by the sums of their stems.
    prints = gathered.get(MIXTURE, summed).prints()
    facts = TrackFacts(track.name, track.split, read, problems, prints, damage=damage)
    mixture_power = max((values[0] for values in sums.values()), default=0.0)
    return facts if problems or not mixture_power else _with_sum(track, facts, sums)


def _sum(blocks: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    total = blocks[names[0]].copy()
    for name in names[1:]:
        total += blocks[name]
    return total


def _next_blocks(streams: dict[str, Iterator[np.ndarray]], problems: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """The next block of every stream; those that end or fail are taken out."""
    blocks = {}
    for name in list(streams):
        try:
            block = next(streams[name], None)
        except UserError as error:
            problems.append((kind_of(error), str(error)))
            block = None
        if block is None:
            del streams[name]
        else:
            blocks[name] = block
    return blocks


def _damage(readers: Sequence[AudioReader]) -> list[str]:
    """What is damaged in files that have been read; only after its last sample a file shows whether it was cut off."""
    for reader in readers:
        with suppress(UserError):  # a problem where it was read
            reader.read(1)
    return [text for reader in readers for text in reader.damage()]


def _blocks(track: Track, stem: str, readers: Sequence[AudioReader], n_samples: int) -> Iterator[np.ndarray]:
    """(channels, samples) of a stem in blocks from its beginning to the track's end."""
    files = track.files[stem]
    for reader, file in zip(readers, files, strict=True):
        reader.skip(file.start)
    for start in range(0, track.n_samples, n_samples):
        size = min(n_samples, track.n_samples - start)
        parts = [_piece(r, f, track.n_channels, start, size) for r, f in zip(readers, files, strict=True)]
        yield parts[0] if len(parts) == 1 else np.sum(parts, axis=0)


def _piece(reader: AudioReader, file: StemFile, n_channels: int, start: int, size: int) -> np.ndarray:
    n_here = max(0, min(size, file.n_samples - start))
    audio = reader.read(n_here) if n_here else torch.zeros(1, 0)
    if audio.shape[1] < n_here:
        raise DataError(
            f"{reader.path} is cut off: it holds {file.start + start + audio.shape[1]} of the samples that its header "
            f"promises up to {file.start + file.n_samples}. Copy it again or restore a backup."
        )
    block: np.ndarray = fold_channels(audio, n_channels).numpy()
    return block if n_here == size else np.pad(block, ((0, 0), (0, size - n_here)))


class _Stem:
    """Gathers the facts of one stem from its blocks."""

    def __init__(self, track: Track, n_channels: int):
        self.rate, self.n_channels, self.n_samples = track.sample_rate_hz, n_channels, 0
        self.energy, self.clips, self.difference = 0.0, 0, 0.0
        self.peaks = np.zeros(track.n_channels)
        self.words: list[np.ndarray] = []
        self.spectrum: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        peaks = np.maximum(block.max(1), -block.min(1))
        peak = float(peaks.max())
        self.peaks = np.maximum(self.peaks, peaks)
        self.energy += float(np.vdot(block, block))
        if peak >= CLIP:
            self.clips += _clips(block)
        if self.n_channels == 2:
            # Where it is not mono a glance tells; where it seems so all is compared.
            glance = block[:, ::997]
            self.difference = max(self.difference, float(np.abs(glance[0] - glance[1]).max()))
            if self.difference <= MONO * self.peaks.max():
                self.difference = max(self.difference, float(np.abs(block[0] - block[1]).max()))
        mono = self.listen(block)
        if peak >= SILENCE:
            spectrum = peak_spectrum(mono)
            self.spectrum = spectrum if self.spectrum is None else np.maximum(self.spectrum, spectrum)

    def listen(self, block: np.ndarray) -> np.ndarray:
        """Take the block's fingerprint; returns it in mono."""
        mono = block[0] if len(block) == 1 or self.n_channels == 1 else _mean(block)
        self.n_samples += block.shape[1]
        self.words.append(fingerprint_words(mono, self.rate))
        return mono

    def prints(self) -> str:
        words = np.concatenate(self.words) if self.words else np.empty(0, np.uint16)
        return base64.b64encode(words.tobytes()).decode()

    def facts(self) -> StemFacts:
        mean_square = self.energy / (self.n_samples * len(self.peaks))
        peak = float(self.peaks.max())
        loud = peak >= SILENCE
        return StemFacts(
            seconds=self.n_samples / self.rate,
            n_channels=self.n_channels,
            peak=peak,
            rms_db=10 * math.log10(mean_square) if mean_square > 0 else SILENT_DB,
            clips=self.clips,
            mono=loud and self.n_channels == 2 and self.difference <= MONO * peak,
            dead_channel=loud and self.n_channels == 2 and float(self.peaks[:2].min()) < SILENCE,
            highest_hz=None if self.spectrum is None else sharp_edge(self.spectrum, self.rate),
            prints=self.prints(),
        )


def _mean(block: np.ndarray) -> np.ndarray:
    return np.full(len(block), 1 / len(block), np.float32) @ block


def _clips(block: np.ndarray) -> int:
    """Runs of equal samples at full scale."""
    full = np.abs(block) >= CLIP
    same = full[:, 1:] & (block[:, 1:] == block[:, :-1])
    run = same.copy()
    for _ in range(CLIP_RUN - 2):
        run = run[:, 1:] & same[:, : run.shape[1] - 1]
    return int((run[:, 1:] & ~run[:, :-1]).sum() + run[:, :1].sum())


def _with_sum(track: Track, facts: TrackFacts, sums: Mapping[tuple[str, ...], np.ndarray]) -> TrackFacts:
    """The facts with how far stems sum to the mixture; where none do, with the gain and delay that fit all best."""
    remains = {group: _db((m - 2 * both + s) / m) for group, (m, both, s) in sums.items()}
    group = min(remains, key=lambda g: remains[g])
    facts = replace(facts, sum_of=group, residual_db=remains[group])
    if remains[group] <= SUM_DB:
        return facts
    fits = {group: _fit(track, group) for group in sums}
    group = min(fits, key=lambda g: fits[g]["fitted_db"])
    return replace(facts, sum_of=group, **fits[group])


def _fit(track: Track, stems: Sequence[str]) -> dict[str, Any]:
    """The gain and the delay with which Σ stems takes most away from an excerpt; silent ones take nothing."""
    size = min(track.n_samples, round(LAG_EXCERPT_SECONDS * track.sample_rate_hz))
    lag = min(round(LAG_SECONDS * track.sample_rate_hz), size // 2)
    start = (track.n_samples - size) // 2
    mixture = read_stem(track, MIXTURE, start, size).double().sum(0).numpy()
    total = sum(read_stem(track, stem, start, size) for stem in stems)
    summed = torch.as_tensor(total).double().sum(0).numpy()
    n_fft = fft.next_fast_len(size + lag)
    across = fft.irfft(fft.rfft(mixture, n_fft) * np.conj(fft.rfft(summed, n_fft)), n_fft)
    lags = np.concatenate([across[: lag + 1], across[-lag:]])  # 0 … lag, −lag … −1
    place = int(np.abs(lags).argmax())
    delay = place if place <= lag else place - len(lags)
    m, s = (mixture[delay:], summed[: size - delay]) if delay >= 0 else (mixture[:delay], summed[-delay:])
    if not (m @ m and s @ s):
        return {"gain": 1.0, "delay_samples": 0, "fitted_db": 0.0, "unfitted_db": 0.0}
    gain = float(m @ s / (s @ s))
    as_they_are = float(((mixture - summed) ** 2).sum() / (mixture @ mixture))
    fitted = float(((m - gain * s) ** 2).sum() / (m @ m))
    return {"gain": gain, "delay_samples": delay, "fitted_db": _db(fitted), "unfitted_db": _db(as_they_are)}


def _db(ratio: float) -> float:
    return 10 * math.log10(max(ratio, 1e-12))


# --- facts of many tracks, kept ---------------------------------------------------------------------------------------


def facts_file(track: Track) -> Path:
    """Where a track's facts are kept: another file, size or time of writing makes it another place."""
    read = [name for name in sorted(track.files) if name == MIXTURE or name in track.apart]
    files = {name: [asdict(file) for file in track.files[name]] for name in read}
    written = writing(path for name in read for path in track.paths(name))
    place = [FACTS_VERSION, track.folder, track.name, track.split, track.n_samples, files, written]
    return cache_folder() / "checks" / f"{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:24]}.json"


def known_facts(track: Track) -> TrackFacts | None:
    """The facts of a track from an earlier check of the same files, if there was one."""
    file = facts_file(track)
    if not file.is_file():
        return None
    try:
        values = read_json(file)
        stems = {name: StemFacts(**stem) for name, stem in values.pop("stems").items()}
        problems = [(kind, text) for kind, text in values["problems"]]
        return TrackFacts(**{**values, "stems": stems, "problems": problems, "sum_of": tuple(values["sum_of"])})
    except (UserError, TypeError, KeyError, AttributeError):  # damaged: measured again
        return None


def measure_and_keep(track: Track, unkept: list[str]) -> TrackFacts:
    """The facts, kept for the next time; where that fails ``unkept`` gets the reason."""
    facts = track_facts(track)
    try:
        write_json(facts_file(track), asdict(facts))
    except UserError as problem:
        unkept.append(str(problem))
    return facts


def all_facts(tracks: Sequence[Track], jobs: int | None = None) -> list[TrackFacts]:
    """The facts of every track, measured in several threads where they are not known, with a progress bar."""
    facts = {i: known for i, track in enumerate(tracks) if (known := known_facts(track)) is not None}
    left = [i for i in range(len(tracks)) if i not in facts]
    n_threads = max(1, min(jobs or os.cpu_count() or 1, len(left)))  # numpy and soundfile share
    # The linear algebra library's own threads would stand in the way of these.
    with big_blocks_kept(), threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        unkept: list[str] = []
        results = pool.map(partial(measure_and_keep, unkept=unkept), [tracks[i] for i in left])
        facts.update(zip(left, progress(results, len(left), "checking tracks"), strict=True))
    if unkept:
        say(f"What was found is not kept, the next check reads all files again: {unkept[0]}")
    return [facts[i] for i in range(len(tracks))]
