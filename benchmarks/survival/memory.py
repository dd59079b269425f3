"""A thousand songs, a thousand steps, hundreds of uploads in one process: memory does not grow."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say

from .world import RATE_HZ, forked, make_run, place, recipe_values, write_songs

MOST_GROWTH = 0.05
WARM = 0.2  # share of the rounds after which it is measured first


def resident_mb() -> float:
    """Memory of this process that is in use, in MB; what the C library could give back is given back first."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def _song(folder: Path) -> Path:
    import numpy as np
    import soundfile

    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE_HZ, 2))
    soundfile.write(folder / "song.wav", noise, RATE_HZ)
    return folder / "song.wav"


def separations(folder: Path, rounds: int, look: Callable[[int], None]) -> None:
    """So many songs through one separator."""
    from refined_bsrnn import Separator

    separator, song = Separator.from_pretrained(make_run(folder / "run"), device="cpu"), _song(folder)
    for number in range(rounds):
        separator.separate(song)
        look(number)


def steps(folder: Path, rounds: int, look: Callable[[int], None]) -> None:
    """So many steps of training, the songs read by a worker."""
    from refined_bsrnn.recipe import make_recipe
    from refined_bsrnn.training.train import train

    write_songs(folder / "songs", test=1)
    values = recipe_values(steps=rounds, workers=1, validate_every=rounds // 4, checkpoint_every=rounds // 4)
    train(make_recipe(values), lambda trainer: look(trainer.progress.step - 1))


def uploads(folder: Path, rounds: int, look: Callable[[int], None]) -> None:
    """So many songs that come up, are separated and left, by as many pages."""
    import shutil

    from refined_bsrnn import Separator
    from refined_bsrnn.apps.browser.studio import Studio

    separator, song = Separator.from_pretrained(make_run(folder / "run"), device="cpu"), _song(folder)
    with Studio(separator, "run") as studio:
        for number in range(rounds):
            session, place = f"page {number}", studio.uploads / str(number)
            place.mkdir()
            shutil.copy(song, place / "song.wav")
            studio.arrived(session, place / "song.wav")
            studio.separate(session, place / "song.wav", ["drums"], True, lambda share: None)
            studio.leave(session)
            look(number)
        left = [path for path in studio.folder.rglob("*") if path.is_file() and path.name != ".owner"]
        assert not [*left, *studio.visits], f"left: {left[:3]}"


WORK: dict[str, tuple[Callable[[Path, int, Callable[[int], None]], None], int]] = {
    "songs separated": (separations, 1000),
    "steps of training": (steps, 1000),
    "uploads": (uploads, 500),
}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Memory after a fifth of the rounds, and after all; values for JSON."""
    with place() as folder:
        out, first = folder / "seen.json", max(1, round(WARM * rounds))

        def work() -> None:
            seen: dict[int, float] = {}

            def look(number: int) -> None:
                if number + 1 in (first, rounds):
                    seen[number + 1] = resident_mb()

            WORK[name][0](folder, rounds, look)
            out.write_text(json.dumps(seen))

        ended = forked(work, folder, timeout_seconds=1800)
        if ended.code:
            return {"rounds": rounds, "failures": [f"{name}: it ended with {ended.code}: {ended.said[-400:]}"]}
        before, after = json.loads(out.read_text()).values()
    growth = after / before - 1
    failures = [f"{name}: memory grew by {growth:.1%}"] if growth > MOST_GROWTH else []
    values = {"rounds": rounds, f"mb_after_{first}": round(before, 1), f"mb_after_{rounds}": round(after, 1)}
    return {**values, "growth": round(growth, 4), "failures": failures, "seconds": round(ended.seconds, 1)}


def memory_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `memory`."""
    p.add_argument("--share", type=float, default=1.0, help="of the rounds (default: 1)")


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Every kind of work."""
    found = {}
    for name, (_, rounds) in WORK.items():
        found[name] = measured(name, max(10, round(rounds * args.share)))
        say(f"{name}: {found[name]}")
    return {"most_growth": MOST_GROWTH, "work": found}
