#!/bin/sh
# Use an installed refined_bsrnn outside its repository: help, bands, a training of two steps on noise, a separation.
#   sh scripts/check_installed.sh VENV/bin
set -eu

bin=$(cd "$1" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
export REFINED_BSRNN_CACHE="$folder/cache" WANDB_MODE=offline HF_HUB_OFFLINE=1

"$bin/python" - <<'PYTHON'
"""Three songs of noise, 3 s each, and where the package comes from."""

from pathlib import Path

import numpy as np
import soundfile

import refined_bsrnn

assert "site-packages" in refined_bsrnn.__file__, f"{refined_bsrnn.__file__} is not an installed package"
random = np.random.default_rng(0)
for split, name in (("train", "a"), ("train", "b"), ("test", "c")):
    folder = Path("songs") / split / name
    folder.mkdir(parents=True)
    stems = {stem: 0.1 * random.standard_normal((3 * 44100, 2)) for stem in ("vocals", "drums", "bass", "other")}
    for stem, samples in {**stems, "mixture": sum(stems.values())}.items():
        soundfile.write(folder / f"{stem}.wav", samples, 44100, subtype="FLOAT")
PYTHON

run() { echo "+ refined-bsrnn $*"; "$bin/refined-bsrnn" "$@"; }

run --help >/dev/null
run bands tet24 >/dev/null
run train micro data.root=songs train.steps=2 train.batch_size=2 train.workers=0 log.wandb=off run.name=tiny
run separate songs/test/c/mixture.wav --model tiny --head drums --out separated
find separated -name '*drums*.wav' | grep -q . || { echo "separate wrote no drums" >&2; exit 1; }
echo "The installed package works."
