#!/usr/bin/env python3
"""How well wrong labels are found: some are made wrong on purpose, ranked with a trained model, and counted.

scripts/label_noise_study.py --model runs/mtl --data /data/musdb18hq --share 0.2

With --write DIR the corrupted set is written (as links) with DIR/suspects.csv, for training: see docs/augmentation.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from refined_bsrnn.system import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before torch is loaded

from refined_bsrnn.data.check.facts import all_facts
from refined_bsrnn.data.scan import scan
from refined_bsrnn.data.tracks import Track
from refined_bsrnn.errors import DataError
from refined_bsrnn.evaluation.label_noise import (
    SUSPICIOUS,
    WINDOWS,
    Suspect,
    measure_stems,
    rank,
    write_suspects,
)
from refined_bsrnn.recipe import DataSpec
from refined_bsrnn.separation.separator import Separator


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


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, metavar="RUN")
    p.add_argument("--data", required=True, metavar="ROOT")
    p.add_argument("--split", default="train", choices=["train", "valid", "test"])
    p.add_argument("--share", type=float, default=0.2, help="of the stems that are made wrong (default: 0.2)")
    p.add_argument("--windows", type=int, default=WINDOWS, help="of 3 s, per stem (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--keep", nargs="+", default=[], metavar="PATTERN", help="tracks that stay right, for validation")
    p.add_argument("--write", type=Path, metavar="DIR", help="write the spoilt tracks and the suspects there")
    args = p.parse_args()
    separator = Separator.from_pretrained(args.model)
    tracks = scan(DataSpec(root=args.data), (args.split,)).usable()
    kept = [track for track in tracks if any(fnmatchcase(track.name, pattern) for pattern in args.keep)]
    names = {track.name for track in kept}
    tracks = [track for track in tracks if track.name not in names]
    silent = {(f.track, name) for f in all_facts(tracks) for name, stem in f.stems.items() if stem.silent}
    tracks, wrong = corrupted(tracks, separator.heads, args.share, args.seed, silent)
    measured = measure_stems(separator, tracks, args.windows)
    ranked = rank(measured, separator.heads)
    if args.write:
        link_tracks([*tracks, *kept], args.write)
        write_suspects(args.write / "suspects.csv", ranked)
    wrong &= {(one.track.name, one.stem) for one in measured}  # what is too quiet to score cannot be found
    print(json.dumps({**vars(args), **precision_and_recall(ranked, wrong)}, indent=1, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
