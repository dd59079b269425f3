"""Learning one instrument from the user's own songs: the choice of songs, the settings, the score.

    refined-bsrnn learn guitar FOLDER...

    folders ──> plan: train | validate | test ──> transfer ──> score and excerpt of a test song

This module calls `transfer` and `evaluate`; it decides only the split and the settings for few songs.
"""

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..audio import write_audio
from ..data.check.checker import hours
from ..data.layouts.listing import SPLITS
from ..data.scan import scan
from ..data.sources import Sources, find_sources, list_source
from ..data.tracks import Track, by_hash
from ..data.whole import mixture_kind, read_mixture, second_energies
from ..errors import DataError, RecipeError, first, nearest
from ..evaluation.excerpts import loudest
from ..recipe import DataSpec, Recipe, SourceSpec, find_recipe, merge, parse_overrides, read_recipe_values
from ..runs.folder import RunFolder, load_model
from ..separation.separator import Separator
from .transfer import derive_recipe

SETTINGS = "learn"
HELD_OUT = 0.15  # share of the songs kept aside to score the head, and again to validate it
EXCERPT_SECONDS = 20
SMALL_HEAD = {"hidden_layers": 1, "hidden_factor": 0.5}  # a published RoFormer's own is most of its network


@dataclass(frozen=True)
class Lesson:
    """The songs for a head, by their use; ``sources`` finds the same songs again, with the same split."""

    target: str  # the stem's name on the disk
    sources: tuple[SourceSpec, ...]
    train: list[Track]
    validation: list[Track]
    held_out: list[Track]
    solos: list[Track]
    others: list[Track]  # songs without the stem

    def sentences(self) -> list[str]:
        """A summary of the use of the songs, for the user."""
        songs = [*self.train, *self.validation, *self.held_out]
        lines = [f"{_songs(songs)} with {self.target} ({60 * hours(songs):.0f} minutes)"]
        lines[0] += f", {len(self.solos)} recordings of {self.target} alone" if self.solos else ""
        lines[0] += f", {_songs(self.others)} without." if self.others else "."
        lines.append(
            f"{len(self.train)} train the head, {len(self.validation)} decide when to stop, {len(self.held_out)} are "
            f"kept aside to score it ({first([t.name for t in self.held_out]) if self.held_out else 'too few songs'})."
        )
        if not self.validation:
            lines.append("Without a song to validate on, all steps are trained and the last weights are kept.")
        return lines


def _songs(tracks: Sequence[Track]) -> str:
    return f"{len(tracks)} song{'' if len(tracks) == 1 else 's'}"


def plan(target: str, folders: Sequence[str]) -> Lesson:
    """Decide which songs in the folders train, validate and test a head for the stem ``target``.

    Folders ``valid/`` and ``test/`` are used as they are; otherwise a share of the songs, chosen by a hash of their
    names, is held out. Raises `DataError` if no song or solo has the stem.
    """
    spec = DataSpec(sources=tuple(SourceSpec(options={"root": folder}) for folder in folders))
    sources = find_sources(spec)
    tracks = scan(spec, SPLITS).usable()
    having = [t for t in tracks if target in t.files]
    if not having:
        stems = sorted({stem for track in tracks for stem in track.stems})
        raise DataError(
            f"no song in {', '.join(folders)} has a stem {target!r}.{nearest(target, stems)} "
            f"Stems: {', '.join(stems) or 'none'}. Expected FOLDER/<song>/{target}.wav beside mixture.wav or the other "
            "stems."
        )
    songs = [t for t in having if not t.is_solo]
    held_out = [t for t in songs if t.split == "test"]
    validation = [t for t in songs if t.split == "valid"]
    train = [t for t in songs if t.split == "train"]
    names = [Counter({track.name for track in list_source(s, SPLITS).tracks}) for s in sources.specs]
    once = [name for name, count in sum(names, Counter()).items() if count == 1]  # only these can be named
    free = by_hash(t for t in train if t.name in once)
    n_kept = max(1, round(HELD_OUT * len(train)))
    for kept in (held_out, validation):
        if not kept and len(train) > 1:
            share = free[:n_kept]
            kept += share
            free, train = free[len(share) :], [t for t in train if t not in share]
    return Lesson(
        target=target,
        sources=_split(sources, names, [t.name for t in held_out if t.split == "train"]),
        train=train,
        validation=validation,
        held_out=held_out,
        solos=[t for t in having if t.is_solo],
        others=[t for t in tracks if t not in having and not t.is_solo],
    )


def _split(sources: Sources, names: Sequence[Counter[str]], held_out: Sequence[str]) -> tuple[SourceSpec, ...]:
    """The sources with the held-out songs as their test tracks."""
    result = []
    for source, own_names in zip(sources.specs, names, strict=True):
        own = [glob.escape(name) for name in held_out if name in own_names]
        options = {"root": str(source.options["root"]), **({"test_tracks": own} if own else {})}
        result.append(replace(source, options=options))
    return tuple(result)


def learning_recipe(base: RunFolder, lesson: Lesson, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that trains the head ``name`` on a base, with settings for few songs; ``overrides`` take
    precedence.
    """
    if name in base.head_names():
        raise RecipeError(f"{base.path} has a head {name!r} already. Call the new one otherwise: --as {name}2")
    recipe = base.load_recipe()
    own = [t for t in lesson.validation if t.split == "train"]
    data: dict[str, Any] = {
        "root": None,
        "sources": [{"kind": s.kind, **s.options} for s in lesson.sources],
        "validation_tracks": [glob.escape(track.name) for track in own],
        "stems": [],
        "stem_weights": None,
        **({"define": {name: [lesson.target]}} if name != lesson.target else {}),
        **({} if lesson.validation else {"validation_share": 0.0}),
    }
    head = SMALL_HEAD if recipe.head.kind == "roformer_mask" else {}
    above = merge(read_recipe_values(find_recipe(SETTINGS)), {"data": data, "head": head})
    return derive_recipe(recipe, str(base.path), [name], merge(above, parse_overrides(overrides)), {})


def score_words(name: str, results: dict[str, Any]) -> str:
    """A text that explains the scores on the held-out songs."""
    summary = results["summary"][name]
    found = summary["estimate"]["usdr"]["mean"]
    if found is None:
        return f"The songs that were kept aside have no sounding {name}, so there is no score."
    mixture = summary["mixture"]["usdr"]["mean"]
    n = summary["n_tracks"]
    verdict = "better than silence" if found > 0 else "no better than silence: it needs more songs, or another base"
    return (
        f"On {n} song{'' if n == 1 else 's'} that it has not learnt from: {found:.1f} dB uSDR, {verdict}. "
        f"(Silence has 0 dB, the song as it is {mixture:.1f} dB; more is better.)"
    )


def write_excerpts(run: RunFolder, lesson: Lesson, name: str, device: str = "auto") -> tuple[Track, list[Path]]:
    """Write 20 s of a song before and after separation by the head, as wav files in ``<run>/listen/``.

    The song is the first held-out one (or else a training song), at the seconds where the target is loudest.
    """
    track = [*lesson.held_out, *lesson.validation, *lesson.train][0]
    rate, n_excerpt = track.sample_rate_hz, EXCERPT_SECONDS * track.sample_rate_hz
    start = loudest(second_energies(track, lesson.target, n_excerpt), EXCERPT_SECONDS) * rate
    mixture = read_mixture(track, mixture_kind(track), start, min(n_excerpt, track.n_samples - start))
    estimate = Separator(load_model(run, [name]), device).separate(mixture, rate, [name])[name]
    plain = "".join(c if c.isalnum() or c in " -_" else "_" for c in track.name)
    folder = run.path / "listen"
    folder.mkdir(exist_ok=True)
    before = write_audio(folder / f"{plain}-before.wav", mixture, rate)
    return track, [before, write_audio(folder / f"{plain}-after-{name}.wav", estimate, rate)]
