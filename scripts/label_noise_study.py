#!/usr/bin/env python3
"""How well wrong labels are found: some are made wrong on purpose, ranked with a trained model, and counted.

scripts/label_noise_study.py --model runs/mtl --data /data/musdb18hq --share 0.2

With --write DIR the corrupted set is written (as links) with DIR/suspects.csv, for training: see docs/augmentation.md.
"""

import argparse
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from refined_bsrnn.system import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before torch is loaded

from refined_bsrnn.data.check.facts import all_facts
from refined_bsrnn.data.scan import scan
from refined_bsrnn.evaluation.label_noise import WINDOWS, measure_stems, rank, write_suspects
from refined_bsrnn.evaluation.wrong_labels import corrupted, link_tracks, precision_and_recall
from refined_bsrnn.recipe import DataSpec
from refined_bsrnn.separation.separator import Separator


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
