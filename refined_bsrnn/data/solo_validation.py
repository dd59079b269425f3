"""Validation of targets that only solos have: held-out solos are mixed with held-out songs, or with each other.

A mixture here is a track whose ``mixture`` is the sum of the files of a song and a solo, or of several solos; no file
is written. It is as long as the shortest of them and uses the middle of a song. The names determine the combinations.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import first
from ..recipe import DataSpec
from .names import MIXTURE, is_catch_all, leaves_out
from .tracks import StemFile, Track, by_hash


@dataclass(frozen=True)
class SoloValidation:
    """The solos that are held out for validation, and their mixtures."""

    held_out: list[Track] = field(default_factory=list)
    mixtures: list[Track] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def solo_validation(
    tracks: Sequence[Track], validation: Sequence[Track], targets: Sequence[str], spec: DataSpec
) -> SoloValidation:
    """Solos of each target that no song has, mixed with the validation songs.

    The solos are the first of these: those among the validation tracks, those of the split ``valid``, a share of the
    training ones (``data.validation_share``, at least one of two). Songs must be known not to contain the target
    (``data.absent``).
    """
    if all(track.is_solo for track in tracks):
        return _pools_validation(tracks, validation, targets, spec)
    found = SoloValidation()
    songs = [track for track in validation if not track.is_solo]
    for target in targets_of_solos(tracks, targets, spec):
        solos = _held_out(tracks, validation, target, spec)
        mixtures = [mix for i, solo in enumerate(solos) if (mix := _mixture(songs, i, solo, target))]
        if not mixtures:
            found.notes.append(f"{target}: {_why_none(tracks, songs, solos, target)}, so it is not validated.")
            continue
        found.held_out.extend(solo for solo in solos if solo not in validation)
        found.mixtures.extend(mixtures)
        found.notes.append(
            f"{target}: no song has it; {len(mixtures)} of its solos are held out and mixed with validation songs "
            f"({first([mix.name for mix in mixtures], 3)})."
        )
    return found


def targets_of_solos(tracks: Sequence[Track], targets: Sequence[str], spec: DataSpec) -> list[str]:
    """The targets that some solo and no song has, if songs are assumed not to contain them."""
    in_songs = {stem for track in tracks if not track.is_solo for stem in track.stems}
    in_solos = {stem for track in tracks if track.is_solo for stem in track.stems}
    return [
        target
        for target in targets
        if target in in_solos - in_songs
        and not is_catch_all(target)
        and (spec.absent is None or target in spec.absent or spec.missing_stem == "silent")
    ]


def _pools_validation(
    tracks: Sequence[Track], validation: Sequence[Track], targets: Sequence[str], spec: DataSpec
) -> SoloValidation:
    """Without any song: held-out solos whose sources may be combined are mixed."""
    names = sorted({stem for track in tracks for stem in track.stems})
    solos = {name: _held_out(tracks, validation, name, spec) for name in names}
    found = SoloValidation(held_out=[solo for name in names for solo in solos[name]])
    for together in _together([name for name in names if solos[name]]):
        for i in range(max(len(solos[name]) for name in together)):
            chosen = {name: solos[name][i % len(solos[name])] for name in together}
            rates = [solo.sample_rate_hz for solo in chosen.values()]
            chosen = {name: solo for name, solo in chosen.items() if solo.sample_rate_hz == max(rates, key=rates.count)}
            if len(chosen) > 1 and set(targets) & set(chosen):
                found.mixtures.append(_sum_of(chosen))
    if not found.mixtures:
        return SoloValidation(
            notes=["no solos are held out that could be mixed with each other: validation means little."]
        )
    found.notes.append(
        f"there are solos alone: {len(found.held_out)} of them are held out and mixed with each other for validation "
        f"({first([mix.name for mix in found.mixtures], 3)})."
    )
    if missing := [target for target in targets if not any(target in mix.files for mix in found.mixtures)]:
        found.notes.append(f"{', '.join(missing)}: none of these mixtures holds it, so it is not validated.")
    return found


def _together(names: Sequence[str]) -> list[list[str]]:
    """The sources that make a mixture: each catch-all with the named ones that it does not contain, and the rest."""
    named = [name for name in names if not is_catch_all(name)]
    groups = [[*(n for n in named if leaves_out(name, n)), name] for name in names if is_catch_all(name)]
    left = [name for name in named if not any(name in group for group in groups)]
    return [group for group in [*groups, left] if len(group) > 1]


def _sum_of(solos: Mapping[str, Track]) -> Track:
    """The solos, by their names, as the stems of one track."""
    tracks = list(solos.values())
    n_samples = min(track.n_samples for track in tracks)
    stems = {name: _pieces(solo, name, 0, n_samples) for name, solo in solos.items()}
    return _joined(tracks, n_samples, [file for files in stems.values() for file in files], stems)


def _joined(
    tracks: Sequence[Track],
    n_samples: int,
    mixture: Sequence[StemFile],
    stems: Mapping[str, Sequence[StemFile]],
    *facts: object,
) -> Track:
    """Files of several tracks as one track; ``facts`` that are not in their content go into its hashes."""
    return Track(
        name=" + ".join(track.name for track in tracks),
        split="valid",
        folder=tracks[0].folder,
        n_samples=n_samples,
        sample_rate_hz=tracks[0].sample_rate_hz,
        n_channels=max(track.n_channels for track in tracks),
        files={MIXTURE: tuple(mixture), **{stem: tuple(files) for stem, files in stems.items()}},
        content=_hash(*(track.content for track in tracks), *facts),
        written=_hash(*(track.written for track in tracks), *facts),
    )


def _held_out(tracks: Sequence[Track], validation: Sequence[Track], target: str, spec: DataSpec) -> list[Track]:
    """The solos of a target that are held out from training, ordered by the hashes of their names."""
    solos = by_hash(track for track in tracks if track.is_solo and target in track.files)
    chosen = [track for track in solos if track in validation] or [track for track in solos if track.split == "valid"]
    if chosen or spec.validation_tracks or spec.validation_share == 0 or len(solos) < 2:
        return chosen
    return solos[: max(1, round(spec.validation_share * len(solos)))]


def _why_none(tracks: Sequence[Track], songs: Sequence[Track], solos: Sequence[Track], target: str) -> str:
    if not solos:
        n_solos = sum(track.is_solo and target in track.files for track in tracks)
        return f"no song has it and none of its {n_solos} solos is held out (data.validation_tracks names one)"
    if not songs:
        return "no song has it and no validation song is there to mix its solos with"
    return f"its solos are at {solos[0].sample_rate_hz} Hz and no validation song is"


def _mixture(songs: Sequence[Track], i: int, solo: Track, target: str) -> Track | None:
    """The middle of the i-th song (modulo their number) of the solo's rate, with the solo added; None without one."""
    songs = [song for song in songs if song.sample_rate_hz == solo.sample_rate_hz]  # the files of a track have one rate
    if not songs:
        return None
    song = songs[i % len(songs)]
    n_samples = min(song.n_samples, solo.n_samples)
    start = (song.n_samples - n_samples) // 2
    song_files = [file for stem in song.whole for file in _pieces(song, stem, start, n_samples)]
    solo_files = _pieces(solo, target, 0, n_samples)
    return _joined([song, solo], n_samples, [*song_files, *solo_files], {target: solo_files}, start)


def _pieces(track: Track, stem: str, start: int, n_samples: int) -> list[StemFile]:
    """A part of a stem's files, by their absolute paths; a file that ends before it gives nothing."""
    return [
        replace(file, name=str(path), n_samples=min(n_samples, file.n_samples - start), start=file.start + start)
        for file, path in zip(track.files[stem], track.paths(stem), strict=True)
        if file.n_samples > start
    ]


def _hash(*facts: object) -> str:
    return hashlib.sha256("\t".join(map(str, facts)).encode()).hexdigest()
