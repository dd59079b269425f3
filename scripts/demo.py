#!/usr/bin/env python3
"""The main job on built-in synthetic stems, in three to four minutes on two CPU cores.

Train one generic model on four targets, transfer it and the model in the package to a new source (guitar), train the v7
single-target baseline for as many steps, evaluate all four, separate a song. Each step is a command as one types it.
Two processes share the commands: two trainings with half of the cores each take less time than one after the other.
"""

import os
import shlex
import time
from pathlib import Path

from refined_bsrnn.apps.cli.sequence import meanwhile, run
from refined_bsrnn.console import say
from refined_bsrnn.data.synth import builtin_root
from refined_bsrnn.system import processors


def free_folder(wanted: Path) -> Path:
    """The folder itself, or with the first free number appended: nothing is overwritten."""
    names = [wanted, *(wanted.with_name(f"{wanted.name}-{i}") for i in range(2, 1000))]
    return next(path for path in names if not path.exists())


def demo() -> None:
    started = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors() // 2)))  # read when torch is loaded
    say("Making the built-in synthetic stems (once)...")
    songs = builtin_root()
    root = free_folder(Path("runs/demo"))
    here = f"run.root={root}"
    names = ("mtl", "mtl-to-guitar", "guitar-v7", "micro-to-guitar")
    runs = base, own, baseline, shipped = [str(root / f"{name}-builtin") for name in names]
    guitar = ("--target", "guitar", "--recipe", "recipes/demo_transfer.yaml", here)
    second = [
        ("train", "recipes/demo.yaml", "targets=[guitar]", "bands.kind=v7", here),
        ("transfer", "--base", "micro", *guitar, "data.root=builtin", "cache.enabled=true", "cache.pool=360"),
        *(("evaluate", model) for model in (baseline, shipped)),
    ]
    say(f"\nA second process runs these commands meanwhile; it prints into {root}/second.log, shown at its end:")
    say("\n".join(f"$ refined-bsrnn {shlex.join(command)}" for command in second))
    with meanwhile(second, root / "second.log"):
        run("train", "recipes/demo.yaml", here)
        run("transfer", "--base", base, *guitar)
        run("evaluate", base)
        run("evaluate", own)
    song = min((songs / "test").iterdir()) / "mixture.wav"
    run("separate", str(song), "--model", shipped, "--head", "guitar", "--out", str(root / "separated"))
    run("report", *runs, "--out", str(root / "report"))

    say(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes.")
    say("The stems are synthetic: the numbers show that it works, not how good it is.")
    say(f"  look and listen   {root}/report/index.html   (a web page; open it in a browser)")
    say(f"  table             {root}/report/report.md")
    say(f"  separated guitar  {root}/separated/{Path(shipped).name}/mixture/guitar.wav   (the song: {song})")
    say("\nWith your own music, in folders <data>/train/<song>/{mixture,vocals,drums,bass,other,guitar}.wav:")
    say("  refined-bsrnn train recipes/micro.yaml data.root=<data>       (on a GPU: recipes/mtl_generic.yaml)")
    say("  refined-bsrnn transfer --base mtl --target guitar")
    say("  refined-bsrnn separate song.mp3 --model mtl-to-guitar")


if __name__ == "__main__":
    demo()
