"""Labels that are made wrong on purpose, to measure how well wrong ones are found (scripts/label_noise_study.py)."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.tracks import Track
from ..errors import DataError
from .label_noise import SUSPICIOUS, Suspect


def corrupted(
    tracks: Sequence[Track],
    stems: Sequence[str],
    share: float,
    seed: int,
    silent: Collection[tuple[str, str]] = (),
) -> tuple[list[Track], set]:
    """Tracks with that many wrong stems, and the list of these: {(track, stem)}.

    Alternately, two stems of a track swap their names, or another stem is added to a stem. No audio is written: a stem
    is a sum of files, and here it is the sum of others. Adding a ``silent`` stem would change nothing, so that is not
    done. Raises `DataError` if there are too few stems.
    """
    random = np.random.default_rng(seed)
    wrong: set[tuple[str, str]] = set()
    able = {t.name: [s for s in stems if s in t.files and (t.name, s) not in silent] for t in tracks}
    wanted = round(share * sum(stem in track.files for track in tracks for stem in stems))
    changed = {track.name: dict(track.files) for track in tracks}
    swap = True
    while len(wrong) < wanted:
        if all(sum((name, stem) not in wrong for stem in some) < 2 for name, some in able.items()):
            raise DataError(
                f"only {len(wrong)} of {wanted} stems can be made wrong, by twos in {len(tracks)} tracks; expected a "
                "smaller share."
            )
        track = tracks[int(random.integers(len(tracks)))]
        available = [stem for stem in stems if stem in track.files and (track.name, stem) not in wrong]
        if len(available) < 2:
            continue
        one, other = (str(name) for name in random.choice(available, 2, replace=False))
        if not (set(able[track.name]) & {one, other} if swap else other in able[track.name]):
            continue  # silence added, or two silences exchanged, makes nothing wrong
        files = changed[track.name]
        if swap:
            files[one], files[other] = track.files[other], track.files[one]
            wrong |= {(track.name, one), (track.name, other)}
        else:
            files[one] = (*track.files[one], *track.files[other])
            wrong.add((track.name, one))
        swap = not swap
    return [replace(track, files=changed[track.name]) for track in tracks], wrong


def link_tracks(tracks: Sequence[Track], folder: Path) -> Path:
    """Links to the tracks' own files as a separate training set: corrupted labels without new audio.

    ``folder/<split>/<track>/<stem>.wav``, or a folder of that name if a stem is the sum of several files. Raises
    `DataError` if the folder exists already, and for tracks that are parts of longer files.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; choose another folder, or remove it.")
    for track in tracks:
        for stem, files in track.files.items():
            if any(file.start for file in files):
                raise DataError(f"track {track.name} is a piece of longer files, which cannot be linked to.")
            place = folder / track.split / track.name
            names = [stem] if len(files) == 1 else [f"{stem}/{i}" for i in range(len(files))]
            for name, path in zip(names, track.paths(stem), strict=True):
                link = place / f"{name}{path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
    return folder


def precision_and_recall(
    suspects: Sequence[Suspect], wrong: set[tuple[str, str]], threshold: float = SUSPICIOUS
) -> Mapping[str, float]:
    """Precision and recall of the ranking: among as many as are wrong, above the threshold, and over all cuts
    (average precision).
    """
    hits = np.array([(suspect.track, suspect.stem) in wrong for suspect in suspects])
    total = len(wrong)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    flagged = np.array([suspect.is_suspicious(threshold) for suspect in suspects])
    above, found = int(flagged.sum()), int(hits[flagged].sum())
    return {
        "stems": len(hits),
        "wrong": total,
        "precision_at_wrong": float(hits[:total].mean()) if total else math.nan,
        "above_threshold": above,
        "precision": found / above if above else math.nan,
        "recall": found / total if total else math.nan,
        "average_precision": float(precision[hits].sum() / total) if total else math.nan,
    }
