"""What is wrong with the data, said before training: every file of every track is read to its end, once.

    scan (names, headers) ──> facts per track (levels, spectrum, prints; cached) ──> findings, hours, duplicates

A `Finding` is one sentence of one kind (`KINDS`); some stop training. Training reads what was not read yet before its
first step (`read_all`; off by `data.check`) and says the same sentences.
"""

import base64
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from rich.table import Table
from scipy import fft
from threadpoolctl import threadpool_limits

from ...audio import AudioReader, fold_channels, open_audio
from ...console import say
from ...console import track as progress
from ...errors import DataError, UserError, alike, nearest
from ...recipe import DataSpec, Recipe
from ...system import cache_folder, read_json, write_json
from ..decode import writing
from ..layouts.listing import SPLITS, Finding, first
from ..names import MIXTURE, MUSDB_STEMS
from ..scan import Scan, kind_of, refuse, scan
from ..splits import Split, split_tracks
from ..tracks import StemFile, Track, read_stem
from ..training_parts import make_parts
from ..workers import keep_memory

# What is found, in the order in which it is told. Training stops where a `Finding` says so.
KINDS = {
    "unreadable": "cannot be read",
    "empty": "empty files",
    "truncated": "cut off",
    "nan": "NaN or infinite samples",
    "empty_track": "track folders without audio",
    "two_files": "two files for one stem",
    "metadata": "metadata that cannot be read",
    "missing_file": "files that are named and not there",
    "length": "stems of different length",
    "rate": "stems of different rate",
    "target": "targets without a stem",
    "spelling": "names that may be misspelt",
    "validation": "tracks to train and validate on",
    "duplicate": "the same audio twice",
    "mixture": "mixture is not the sum of the stems",
    "silent": "silent from beginning to end",
    "clipped": "clipped",
    "one_channel": "one channel is silent",
    "mono": "mono in two channels",
    "channels": "stems of different channels",
    "resampled": "another rate than the recipe's",
    "low_pass": "cut off above a frequency",
}
FACTS_VERSION = 2  # of what is measured: another one makes kept facts stale
BLOCK_HOPS = 512  # of the fingerprint: about 48 s are read at a time
CLIP = 0.9999  # of full scale
CLIP_RUN = 3  # so many equal samples there are clipping
CLIPS_PER_MINUTE = 6.0  # fewer are not worth a word
SILENCE = 1e-5  # peak; -100 dB
SILENT_DB = -200.0
MONO = 1e-4  # largest difference of two channels, beside the peak
SUM_DB = -30.0  # what remains of a mixture without its stems
# A single stem is in its mixture otherwise than as it is where a gain and a delay take so much more away. Of 448 stems
# in mixtures of the practice corpus, all as they are, they take away 0.13 dB more at most.
IN_IT_DB = 0.25
LAG_SECONDS, LAG_EXCERPT_SECONDS = 1.0, 20.0


@dataclass(frozen=True)
class StemFacts:
    """What the samples of a stem tell."""

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
    """What reading a track to its end tells."""

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


# --- reading a track --------------------------------------------------------------------------------------------------


def track_facts(track: Track) -> TrackFacts:
    """Read all files of a track block by block, at constant memory."""
    names = [*(name for name in track.files if name == MIXTURE), *track.apart]
    gathered: dict[str, _Stem] = {}
    summed = _Stem(track, 0)  # for a track without a mixture
    sums = {group: np.zeros(3) for group in _groups(track)}  # mixture², mixture · Σ stems, (Σ stems)²
    problems: list[tuple[str, str]] = []
    with ExitStack() as stack:
        streams: dict[str, Iterator[np.ndarray]] = {}
        for name in names:
            try:
                streams[name], n_channels = _blocks(track, name, BLOCK_HOPS * _hop(track.sample_rate_hz), stack)
                gathered[name] = _Stem(track, n_channels)
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
    read = {name: stem.facts() for name, stem in gathered.items() if stem.n_samples}
    # Whether two tracks are the same is heard in the mixture, or in the sum where there is none.
    facts = TrackFacts(track.name, track.split, read, problems, gathered.get(MIXTURE, summed).prints())
    mixture_power = max((values[0] for values in sums.values()), default=0.0)
    return facts if problems or not mixture_power else _with_sum(track, facts, sums)


def _groups(track: Track) -> list[tuple[str, ...]]:
    """What a mixture may be the sum of: the four stems of MUSDB18, all, all but `other`, which may hold finer ones."""
    if MIXTURE not in track.files:
        return []
    stems = tuple(track.apart)
    four = tuple(n for n in stems if n in MUSDB_STEMS) if set(MUSDB_STEMS) <= set(stems) else ()
    return [group for group in dict.fromkeys([four, stems, tuple(n for n in stems if n != "other")]) if group]


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


def _blocks(track: Track, stem: str, n_samples: int, stack: ExitStack) -> tuple[Iterator[np.ndarray], int]:
    """(channels, samples) of a stem in blocks from its beginning to the track's end; channels of its widest file."""
    files = track.files[stem]
    readers = [stack.enter_context(open_audio(Path(track.folder, file.name))) for file in files]

    def blocks() -> Iterator[np.ndarray]:
        for reader, file in zip(readers, files, strict=True):
            reader.skip(file.start)
        for start in range(0, track.n_samples, n_samples):
            size = min(n_samples, track.n_samples - start)
            parts = [_piece(r, f, track.n_channels, start, size) for r, f in zip(readers, files, strict=True)]
            yield parts[0] if len(parts) == 1 else np.sum(parts, axis=0)

    return blocks(), max(reader.n_channels for reader in readers)


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
            spectrum = _spectrum(mono)
            self.spectrum = spectrum if self.spectrum is None else np.maximum(self.spectrum, spectrum)

    def listen(self, block: np.ndarray) -> np.ndarray:
        """Take the block's fingerprint; returns it in mono."""
        mono = block[0] if len(block) == 1 or self.n_channels == 1 else _mean(block)
        self.n_samples += block.shape[1]
        self.words.append(_fingerprint(mono, self.rate))
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


# --- the highest frequency --------------------------------------------------------------------------------------------

SPECTRUM_FRAME = 4096
SPECTRUM_FRAMES = 24  # of a block: enough to hear what sounds at its top
EDGE_DB = 24.0  # a fall of so much within EDGE_HZ is no instrument's
EDGE_HZ = 400.0
EDGE_FLOOR_DB = -75.0  # beside the strongest bin: an edge below that is of noise
EDGE_FROM_HZ = 3000.0


def _spectrum(mono: np.ndarray) -> np.ndarray:
    """The largest power per bin over some frames of a block."""
    n_frames = len(mono) // SPECTRUM_FRAME
    if n_frames == 0:
        mono, n_frames = np.pad(mono, (0, SPECTRUM_FRAME - len(mono))), 1
    frames = mono[: n_frames * SPECTRUM_FRAME].reshape(n_frames, SPECTRUM_FRAME)[:: max(1, n_frames // SPECTRUM_FRAMES)]
    window = np.blackman(SPECTRUM_FRAME).astype(np.float32)  # its side lobes are far down
    return (np.abs(fft.rfft(frames * window)) ** 2).max(0)


def sharp_edge(spectrum: np.ndarray, sample_rate_hz: int) -> float | None:
    """The frequency above which a power spectrum has nothing, where it falls there as no instrument does; else None."""
    hz_per_bin = sample_rate_hz / 2 / (len(spectrum) - 1)
    width = max(2, round(EDGE_HZ / hz_per_bin))
    db = 10 * np.log10(spectrum + 1e-20)
    floor = db.max() + EDGE_FLOOR_DB
    above = np.maximum.accumulate(db[::-1])[::-1]  # the strongest at or above each bin
    last = len(db) - 2 * width  # an edge at the very top is every resampler's
    best: tuple[float, int] | None = None
    for i in range(round(EDGE_FROM_HZ / hz_per_bin), last, max(1, width // 8)):
        below = float(np.median(db[max(0, i - width) : i]))
        fall = below - float(above[i + width // 2])
        if below > floor and fall >= EDGE_DB and (best is None or fall > best[0]):
            best = (fall, i)
    return None if best is None else round(best[1] * hz_per_bin, -2)


# --- fingerprints -----------------------------------------------------------------------------------------------------

PRINT_RATE_HZ = 5512.5
PRINT_HOP_SECONDS, PRINT_FRAME_SECONDS = 0.0929, 0.3715
PRINT_BANDS = 17
PRINT_HZ = (200.0, 2000.0)
NO_PRINT = 0  # the word of a frame with too little in it
SAME_SHARE, SAME_WORDS = 0.2, 16  # of the shorter one's words at one place, and at least so many
MANY_WORDS, COMMON_WORD = 1_000_000, 128
SAME_STEM_SHARE = 0.6  # of a single stem: songs may share a loop


def _decimation(sample_rate_hz: int) -> int:
    return max(1, round(sample_rate_hz / PRINT_RATE_HZ))


def _hop(sample_rate_hz: int) -> int:
    """Samples per word of the fingerprint; blocks are whole numbers of them, so that words count time."""
    step = _decimation(sample_rate_hz)
    return step * max(1, round(PRINT_HOP_SECONDS * sample_rate_hz / step))


def _fingerprint(mono: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """uint16 words, one per hop: the signs of differences of band energies over bands and time.

    They survive coding, gain, another rate and a shift by less than a hop.
    """
    step, hop = _decimation(sample_rate_hz), _hop(sample_rate_hz)
    n_words = -(-len(mono) // hop)
    if np.abs(mono).max() < SILENCE:
        return np.full(n_words, NO_PRINT, np.uint16)
    low = mono[: len(mono) // step * step].reshape(-1, step) @ np.full(step, 1 / step, np.float32)
    rate, hop = sample_rate_hz / step, hop // step
    size = round(PRINT_FRAME_SECONDS * rate)
    low = np.pad(low, (0, n_words * hop + hop + size - len(low)))
    frames = np.lib.stride_tricks.sliding_window_view(low, size)[: (n_words + 1) * hop : hop]
    power = np.abs(fft.rfft(frames * np.hanning(size).astype(np.float32))) ** 2  # (words + 1, bins)
    edges = np.round(np.geomspace(*PRINT_HZ, PRINT_BANDS + 1) * size / rate).astype(int)
    bands = np.add.reduceat(power, edges[:-1], axis=1)[:, :PRINT_BANDS]
    bands[:, -1] = power[:, edges[-2] : edges[-1]].sum(1)
    bits = np.diff(np.diff(bands, axis=1), axis=0) > 0  # (words, 16)
    words = np.packbits(bits, axis=1).view(np.uint16)[:, 0].copy()
    words[bands[1:].sum(1) < 1e-6 * max(1e-9, float(bands.sum(1).max()))] = NO_PRINT
    return words


def _words(prints: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(prints), np.uint16)


def same_audio(prints: Sequence[np.ndarray], least: float = SAME_SHARE) -> list[tuple[int, int, float, float]]:
    """(i, j, share, seconds): pairs of the same audio, i before j, their share of equal words, and how much later the
    same place is in i than in j.
    """
    owners = np.repeat(np.arange(len(prints)), [len(words) for words in prints])
    places = np.concatenate([np.arange(len(words)) for words in prints] or [np.empty(0, int)])
    words = np.concatenate([*prints, np.empty(0, np.uint16)]).astype(np.int64)
    if len(words) > MANY_WORDS:  # two in a row tell apart what one does not
        words = np.where(words == NO_PRINT, NO_PRINT, words * 65536 + np.append(words[1:], 0))
    _, inverse, counts = np.unique(words, return_inverse=True, return_counts=True)
    kept = (words != NO_PRINT) & (counts[inverse] <= COMMON_WORD)  # what is everywhere tells nothing
    useful = np.maximum(1, np.bincount(owners[kept], minlength=len(prints)))
    order = np.argsort(words[kept], kind="stable")
    words, owners, places = words[kept][order], owners[kept][order], places[kept][order]
    codes = []
    for distance in range(1, COMMON_WORD):
        equal = np.flatnonzero((words[distance:] == words[:-distance]) & (owners[distance:] != owners[:-distance]))
        i, j = owners[equal], owners[equal + distance]
        codes.append((i * len(prints) + j) * 2**32 + places[equal] - places[equal + distance] + 2**31)
    pairs, votes = np.unique(np.concatenate([*codes, np.empty(0, int)]), return_counts=True)
    best: dict[tuple[int, int], tuple[float, float]] = {}
    for code, n_equal in zip(pairs[votes >= SAME_WORDS].tolist(), votes[votes >= SAME_WORDS].tolist(), strict=True):
        i, j = divmod(code // 2**32, len(prints))
        share = n_equal / int(min(useful[i], useful[j]))
        if share >= max(least, best.get((i, j), (0.0, 0.0))[0]):
            best[i, j] = (share, (code % 2**32 - 2**31) * PRINT_HOP_SECONDS)
    return [(i, j, share, seconds) for (i, j), (share, seconds) in sorted(best.items())]


# --- mixture and stems ------------------------------------------------------------------------------------------------


def _with_sum(track: Track, facts: TrackFacts, sums: Mapping[tuple[str, ...], np.ndarray]) -> TrackFacts:
    """The facts with how far stems sum to the mixture; where none do, with the gain and delay that fit all best."""
    remains = {group: _db((m - 2 * both + s) / m) for group, (m, both, s) in sums.items()}
    group = min(remains, key=lambda g: remains[g])
    facts = replace(facts, sum_of=group, residual_db=remains[group])
    if remains[group] <= SUM_DB:
        return facts
    fits = {group: _fit(track, group) for group in sums}
    group = min(fits, key=lambda g: fits[g].fitted_db)
    return replace(facts, sum_of=group, **fits[group]._asdict())


class Fit(NamedTuple):
    """How the stems are in the middle of a mixture; as `TrackFacts` keeps it."""

    gain: float
    delay_samples: int
    fitted_db: float
    unfitted_db: float


def _fit(track: Track, stems: Sequence[str]) -> Fit:
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
        return Fit(1.0, 0, 0.0, 0.0)
    gain = float(m @ s / (s @ s))
    as_they_are = float(((mixture - summed) ** 2).sum() / (mixture @ mixture))
    return Fit(gain, delay, _db(float(((m - gain * s) ** 2).sum() / (m @ m))), _db(as_they_are))


def _db(ratio: float) -> float:
    return 10 * math.log10(max(ratio, 1e-12))


# --- facts of many tracks, kept ---------------------------------------------------------------------------------------


def _facts_file(track: Track) -> Path:
    """Where a track's facts are kept: another file, size or time of writing makes it another place."""
    read = [name for name in sorted(track.files) if name == MIXTURE or name in track.apart]
    files = {name: [asdict(file) for file in track.files[name]] for name in read}
    written = writing(path for name in read for path in track.paths(name))
    place = [FACTS_VERSION, track.folder, track.name, track.split, track.n_samples, files, written]
    return cache_folder() / "checks" / f"{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:24]}.json"


def known_facts(track: Track) -> TrackFacts | None:
    """The facts of a track from an earlier check of the same files, if there was one."""
    file = _facts_file(track)
    if not file.is_file():
        return None
    try:
        values = read_json(file)
        stems = {name: StemFacts(**stem) for name, stem in values.pop("stems").items()}
        problems = [(kind, text) for kind, text in values["problems"]]
        return TrackFacts(**{**values, "stems": stems, "problems": problems, "sum_of": tuple(values["sum_of"])})
    except (UserError, TypeError, KeyError, AttributeError):  # damaged: measured again
        return None


def _measured(track: Track, unkept: list[str]) -> TrackFacts:
    """The facts, kept for the next time; where that fails ``unkept`` gets the reason."""
    facts = track_facts(track)
    try:
        write_json(_facts_file(track), asdict(facts))
    except UserError as problem:
        unkept.append(str(problem))
    return facts


def all_facts(tracks: Sequence[Track], jobs: int | None = None) -> list[TrackFacts]:
    """The facts of every track, measured in several threads where they are not known, with a progress bar."""
    facts = {i: known for i, track in enumerate(tracks) if (known := known_facts(track)) is not None}
    left = [i for i in range(len(tracks)) if i not in facts]
    if left:
        keep_memory()
    n_threads = max(1, min(jobs or os.cpu_count() or 1, len(left)))  # numpy and soundfile share
    # The linear algebra library's own threads would stand in the way of these.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        unkept: list[str] = []
        results = pool.map(partial(_measured, unkept=unkept), [tracks[i] for i in left])
        facts.update(zip(left, progress(results, len(left), "checking tracks"), strict=True))
    if unkept:
        say(f"What was found is not kept, the next check reads all files again: {unkept[0]}")
    return [facts[i] for i in range(len(tracks))]


def read_all(tracks: Sequence[Track]) -> None:
    """Read before a training what no check has read yet; of several processes one reads while the others wait.

    Raises `DataError` that names every file with which training would stop sooner or later.
    """
    facts: list[TrackFacts] | None = None
    if not all(_facts_file(track).is_file() for track in tracks):
        with suppress(OSError):  # where nothing can be written each process reads for itself
            cache_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(cache_folder() / "checks.lock"):
                facts = all_facts(tracks)
    refuse(finding for found in facts or all_facts(tracks) for finding in findings_of(found))


# --- findings ---------------------------------------------------------------------------------------------------------


def findings_of(facts: TrackFacts) -> list[Finding]:
    """What the samples of one track say, in sentences."""
    where = f"{facts.split}/{facts.track}"
    found = [Finding(kind, where, text) for kind, text in facts.problems]
    stems = facts.stems
    clipped = {n: s.clips for n, s in stems.items() if s.clips >= max(2, CLIPS_PER_MINUTE * s.seconds / 60)}
    edges = {n: s.highest_hz for n, s in stems.items() if s.highest_hz is not None}
    channels = {n: s.n_channels for n, s in stems.items()}
    counts = [f"{n} {count}" for n, count in channels.items()] if len(set(channels.values())) > 1 else []
    for kind, text, cases in (
        ("silent", "silent from beginning to end", [n for n, s in stems.items() if s.silent]),
        ("clipped", "clipped", [f"{n} in {count} places" for n, count in clipped.items()]),
        ("one_channel", "sounding in one channel only", [n for n, s in stems.items() if s.dead_channel]),
        ("mono", "mono, the same in two channels", [n for n, s in stems.items() if s.mono]),
        ("channels", "files of different channels", counts),
        ("low_pass", "cut off as by lossy coding", [f"{n} above {hz / 1000:.1f} kHz" for n, hz in edges.items()]),
    ):
        if cases:
            found.append(Finding(kind, where, f"{where}: {text}: {', '.join(cases)}.", stops=False))
    return [*found, *_sum_findings(facts, where)]


def _sum_findings(facts: TrackFacts, where: str) -> list[Finding]:
    if facts.residual_db is None or facts.residual_db <= SUM_DB:
        return []
    gain_db, remains = 20 * math.log10(max(abs(facts.gain), 1e-6)), facts.fitted_db or 0.0
    how = f"scaled by {gain_db:+.1f} dB" + (" and turned over" if facts.gain < 0 else "")
    if facts.delay_samples:
        later = "later" if facts.delay_samples > 0 else "earlier"
        how += f", {abs(facts.delay_samples)} samples {later}"
    stems = ", ".join(facts.sum_of)
    if len([name for name in facts.stems if name != MIXTURE]) == 1:
        # A mixture and one stem of it are all that a transfer needs: what remains is the rest. But the stem must be in
        # the mixture as it is, or the rest holds it too.
        if (facts.unfitted_db or 0.0) - remains < IN_IT_DB:
            return []
        text = f"{where}: {stems} is not in its mixture as it is: taking it away leaves more than {stems} {how} does."
    elif remains <= SUM_DB:
        text = f"{where}: its mixture is the sum of {stems}, {how}."
    else:
        text = (
            f"{where}: its mixture is not the sum of {stems}: {facts.residual_db:.1f} dB of it remain ("
            f"{remains:.1f} dB with the stems {how}). A stem may be missing, or the mixture mastered."
        )
    return [Finding("mixture", where, text, stops=False)]


def duplicates(facts: Sequence[TrackFacts], stems: bool = True) -> list[Finding]:
    """Tracks that are the same audio, in two splits or twice in one; and, unless told not to, single stems that are."""
    found = []
    same_tracks: set[tuple[int, int]] = set()
    names = sorted({name for f in facts for name in f.stems if name != MIXTURE})
    for name in ["", *(names if stems else ())]:
        prints = [f.prints if not name else f.stems[name].prints if name in f.stems else "" for f in facts]
        share = SAME_SHARE if not name else SAME_STEM_SHARE
        for i, j, equal, seconds in same_audio([_words(text) for text in prints], share):
            if (i, j) in same_tracks:
                continue
            same_tracks |= set() if name else {(i, j)}
            a, b = (f"{f.split}/{f.track}" for f in (facts[i], facts[j]))
            begins = (
                f", {abs(seconds):.1f} s {'earlier' if seconds > 0 else 'later'} in the second"
                if abs(seconds) > 0.2
                else ""
            )
            two = "in two splits" if facts[i].split != facts[j].split else "twice"
            what = f"the same {name}" if name else "the same audio"
            text = f"{a} and {b} hold {what} {two} ({equal:.0%} of their fingerprints{begins})."
            found.append(Finding("duplicate", b, text, stops=False))
    return found


# --- the whole check --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """All that was found about the data of a recipe or a root."""

    scan: Scan
    facts: list[TrackFacts]
    findings: list[Finding]
    targets: tuple[str, ...]  # of the recipe; empty: all stems are told

    @property
    def stops(self) -> bool:
        return any(finding.stops for finding in self.findings)

    def splits(self) -> dict[str, dict[str, Any]]:
        """{split: {"tracks", "hours", "targets": {target or stem: {"tracks", "hours"}}}}."""
        rows = {}
        for split in SPLITS:
            tracks = [t for t in self.scan.tracks if t.split == split]
            names = list(self.targets) or sorted({stem for track in self.scan.tracks for stem in track.stems})
            having = {name: [t for t in tracks if name in t.files] for name in names}
            targets = {name: {"tracks": len(some), "hours": hours(some)} for name, some in having.items()}
            rows[split] = {"tracks": len(tracks), "hours": hours(tracks), "targets": targets}
        return {split: row for split, row in rows.items() if row["tracks"]}

    def values(self) -> dict[str, Any]:
        """For programs."""
        tracks = [asdict(f) for f in self.facts]
        for track in tracks:
            del track["prints"]
            for stem in track["stems"].values():
                del stem["prints"]
        return {
            "ok": not self.stops,
            "data": self.scan.sources.name,
            "where": self.scan.sources.where,
            "splits": self.splits(),
            "notes": self.scan.notes,
            "findings": [asdict(finding) for finding in self.findings],
            "tracks": tracks,
        }

    def tables(self) -> list[Table]:
        """For people: what there is, and what was found, by kind."""
        there, splits = Table(title=self.scan.sources.name), self.splits()
        there.add_column("target" if self.targets else "stem")
        for split in splits:
            there.add_column(f"{split}: tracks", justify="right")
            there.add_column("hours", justify="right")
        rows: dict[str, list[Mapping[str, float]]] = {"all": list(splits.values())}
        for name in next(iter(splits.values()), {"targets": {}})["targets"]:
            rows[name] = [row["targets"][name] for row in splits.values()]
        for name, values in rows.items():
            there.add_row(
                name, *(f"{row[key]:{form}}" for row in values for key, form in (("tracks", "d"), ("hours", ".2f")))
            )
        found = Table("found", "number", "training", "where")
        for kind, words in KINDS.items():
            cases = [finding for finding in self.findings if finding.kind == kind]
            if cases:
                places = list(dict.fromkeys(finding.where for finding in cases))
                more = f" and {len(places) - 3} more" if len(places) > 3 else ""
                stops = "stops" if any(finding.stops for finding in cases) else "goes on"
                found.add_row(words, str(len(cases)), stops, ", ".join(places[:3]) + more)
        return [there, found] if self.findings else [there]

    def sentences(self, shown: int = 5) -> list[str]:
        """Every finding that stops training, and of each other kind the first few, the rest counted."""
        return sentences(self.findings, shown)


def hours(tracks: Iterable[Track]) -> float:
    return sum(track.seconds for track in tracks) / 3600


def sentences(findings: Iterable[Finding], shown: int) -> list[str]:
    """Every finding that stops training, and of each other kind the first few, the rest counted."""
    lines: list[str] = []
    findings = list(findings)
    for kind in dict.fromkeys([*KINDS, *(f.kind for f in findings)]):
        cases = [f for f in findings if f.kind == kind]
        told = [f for f in cases if f.stops] + [f for f in cases if not f.stops][:shown]
        lines += [f.text for f in told]
        if len(cases) > len(told):
            lines.append(f"... and {len(cases) - len(told)} more: {KINDS.get(kind, kind)}.")
    return lines


def check(data: Recipe | DataSpec, jobs: int | None = None) -> Check:
    """Read all of the data and say what is wrong with them; nothing is left out unsaid.

    With a recipe its targets, its rate and its validation tracks are checked too. Raises `DataError` where there are no
    tracks at all.
    """
    spec = data.data if isinstance(data, Recipe) else data
    found = scan(spec, SPLITS)
    facts = all_facts(found.tracks, jobs)
    findings = [*found.findings, *(finding for f in facts for finding in findings_of(f)), *duplicates(facts)]
    if isinstance(data, Recipe):
        findings += recipe_findings(data, found, {(f.split, f.track) for f in facts if f.problems})
    else:
        findings += [*name_findings(found.tracks, (), data), *mixed_rates(found.tracks)]
        to_train_on = [track for track in found.tracks if track.split == "train" and track.stems]
        if not (to_train_on or any(finding.stops for finding in found.findings)):  # what stops may be why
            text = "there is no track to train on: none with a stem is in a folder train/, or of that split in a table."
            findings.append(Finding("validation", "train", text))
    return Check(found, facts, in_order(findings, facts), data.targets if isinstance(data, Recipe) else ())


def in_order(findings: Iterable[Finding], facts: Sequence[TrackFacts]) -> list[Finding]:
    """By kind, as in `KINDS`; of what is cut off above a frequency the lowest first."""
    order = {kind: i for i, kind in enumerate(KINDS)}
    lowest = {f"{f.split}/{f.track}": min([s.highest_hz or math.inf for s in f.stems.values()] or [0.0]) for f in facts}

    def place(finding: Finding) -> tuple[float, float]:
        hz = lowest.get(finding.where, 0.0) if finding.kind == "low_pass" else 0.0
        return order.get(finding.kind, len(order)), hz

    return sorted(findings, key=place)


def unchecked(where: str, error: UserError) -> dict[str, Any]:
    """For programs: the data could not be checked at all, as `Check.values` would say it."""
    finding = Finding("unreadable", where, str(error))
    return {"ok": False, "where": where, "splits": {}, "notes": [], "findings": [asdict(finding)], "tracks": []}


def recipe_findings(recipe: Recipe, found: Scan, unreadable: Collection[tuple[str, str]] = ()) -> list[Finding]:
    """What is wrong with these data for this recipe: what training would say.

    ``unreadable`` are the (split, name) of tracks of which that is said already.
    """
    findings = [*rate_findings(recipe, found.tracks), *name_findings(found.tracks, recipe.targets, recipe.data)]
    try:
        divided = split_tracks([t for t in found.tracks if t.split != "test"], recipe.targets, recipe.data)
    except DataError as error:
        return [*findings, Finding("validation", "train", str(error))]
    findings += validation_findings(recipe, divided.held_out)
    train = [track for track in divided.train if (track.split, track.name) not in unreadable]
    if not train:  # what is wrong with them is said
        return findings
    try:
        notes = make_parts(train, recipe.targets, recipe.data).notes
    except UserError as error:
        return [*findings, Finding("target", "train", str(error))]
    found.notes.extend([*divided.solos.notes, *notes])
    return findings


def validation_findings(recipe: Recipe, validation: Sequence[Track]) -> list[Finding]:
    """Validation tracks that no target can be validated on; that there is nothing at all to validate on."""
    lacking = [f"{t.split}/{t.name}" for t in validation if not set(recipe.targets) & set(t.stems)]
    if validation and not lacking:
        return []
    text = "there is no validation track: the weights of the last step are kept, good or bad."
    if lacking:
        text = (
            f"{len(lacking)} of {len(validation)} validation tracks have no target and are left out: {first(lacking)}."
        )
    if lacking and len(lacking) == len(validation):
        text += " None is left: the weights of the last step are kept, good or bad."
    return [Finding("validation", "valid", text, stops=False)]


def name_findings(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[Finding]:
    """Stems whose names may be misspelt ones, and names in ``data.define`` that no track has.

    A name is suspected where it is close to a target's or a commoner one that its track lacks, and no track has both.
    """
    summed = {stem for name in spec.define for stem in spec.stems_of(name)}
    count = Counter(stem for track in tracks for stem in track.stems if stem in summed or stem not in spec.define)
    beside = {pair for track in tracks for pair in permutations(track.stems, 2)}
    wanted = {stem for target in targets for stem in spec.stems_of(target)}
    findings = []
    for name in spec.define:
        for stem in spec.stems_of(name):
            if stem not in count:
                text = f"data.define.{name} names the stem {stem!r}, which no track has.{nearest(stem, count)}"
                findings.append(Finding("spelling", "data.define", text, stops=False))
    for stem in sorted(count.keys() - wanted - summed):
        others = {w for w in {*wanted, *count} if w != stem and (w in wanted or (count[w], w) > (count[stem], stem))}
        meant = alike(stem, {w for w in others if (stem, w) not in beside})
        having = [f"{t.split}/{t.name}" for t in tracks if stem in t.files]
        if meant and count[meant]:
            text = (
                f"{len(having)} tracks have {stem!r} and no {meant!r}, which {count[meant]} others have: "
                f"{first(having)}. "
                f"If it is the same, rename it, or set data.define={{{meant}: [{meant}, {stem}]}}."
            )
            findings.append(Finding("spelling", having[0], text, stops=False))
    return findings


def rate_findings(recipe: Recipe, tracks: Sequence[Track]) -> list[Finding]:
    """Tracks at another rate than the network's, which are resampled."""
    findings = []
    for rate in sorted({t.sample_rate_hz for t in tracks} - {recipe.stft.sample_rate_hz}):
        names = [f"{t.split}/{t.name}" for t in tracks if t.sample_rate_hz == rate]
        lost = f" and have nothing above {rate / 2000:.1f} kHz" if rate < recipe.stft.sample_rate_hz else ""
        text = (
            f"{len(names)} tracks are at {rate} Hz, are resampled to the recipe's {recipe.stft.sample_rate_hz} Hz as "
            f"they are read{lost}: {first(names)}."
        )
        findings.append(Finding("resampled", names[0], text, stops=False))
    return findings


def mixed_rates(tracks: Sequence[Track]) -> list[Finding]:
    """Tracks at another rate than most, where no recipe says which is right."""
    rates = Counter(t.sample_rate_hz for t in tracks)
    usual = max(rates, key=lambda rate: (rates[rate], rate), default=0)
    findings = []
    for rate in sorted(rates.keys() - {usual}):
        names = [f"{t.split}/{t.name}" for t in tracks if t.sample_rate_hz == rate]
        text = f"{len(names)} tracks are at {rate} Hz, most at {usual} Hz: {first(names)}. Training resamples them."
        findings.append(Finding("resampled", names[0], text, stops=False))
    return findings


def opening(recipe: Recipe, found: Scan, train: Sequence[Track], divided: Split) -> list[str]:
    """The first lines of a training: what it trains on, and the known problems of that.

    Raises `DataError` if an earlier check of the same files found a problem that stops training.
    """
    validation = [*divided.validation, *divided.solos.held_out]
    used = [t for t in divided.held_out if set(recipe.targets) & set(t.stems)]
    shown = ", ".join(f"{name} {hours([t for t in train if name in t.files]):.2f} h" for name in recipe.targets)
    lines = [f"Data: {found.sources.name}: {len(train)} training tracks ({shown}), {len(used)} for validation."]
    lines += found.notes
    if solos := [t.name for t in found.tracks if t.split == "valid" and t.is_solo and t not in validation]:
        lines.append(
            f"{len(solos)} validation tracks are one stem alone, from which nothing can be separated, and are left out "
            f"({first(solos)}); data.validation_tracks names them all the same."
        )
    tracks = [*train, *validation]
    known = [f for t in tracks if (f := known_facts(t)) is not None]
    findings = [
        *found.findings,
        *rate_findings(recipe, tracks),
        *name_findings(found.tracks, recipe.targets, recipe.data),
    ]
    findings += [finding for f in known for finding in findings_of(f)]
    refuse(findings)
    findings += [*validation_findings(recipe, divided.held_out), *duplicates(known)]
    lines += sentences(in_order(findings, known), shown=2)
    unknown = len(tracks) - len(known)
    if unknown and not found.sources.is_builtin:
        lines.append(f"{unknown} tracks were never read to their ends; refined-bsrnn check-data does that.")
    return lines
