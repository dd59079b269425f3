"""Full disks, read-only and vanished folders, file sizes that are bounded: the old stays, one sentence, and on it goes.

A subject of `crash` runs with one of its folders on a small file system in memory, on which a random number of bytes is
free: it fits, or the command ends with 1 and one sentence. Then there is room again, and the same command goes on to
the same files as the run that nothing disturbed. Needs the right to mount: root, or `unshare -Urm` before the command.
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say
from refined_bsrnn.errors import UserError

from .crash import SUBJECTS, Subject
from .world import Child, Ended, commands, copied, differences, forked, place, snapshot

MOUNT_MB = 64
FILLER = "filler.bin"
# subject of `crash` → the folder that has no room
SMALL = {
    "training": "runs",
    "transfer": "runs",
    "cache filling": "cache",
    "evaluation": "runs",
    "export of heads": "out",
    "import": "out",
    "model download": "cache",
    "separation": "out",
}


def subject_of(name: str) -> tuple[Subject, str]:
    """The subject, with the folder that has no room."""
    return SUBJECTS[name](), SMALL[name]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own in memory at a folder, which keeps what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    held = folder.parent.with_name(f"held-{folder.name}")
    folder.rename(held)
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_MB}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"a file system cannot be mounted here: {done.stderr.strip()}. Run it under `unshare -Urm`.")
    try:
        shutil.copytree(held, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(held)


def used_bytes(folder: Path) -> int:
    """What is taken on the file system of a folder."""
    return shutil.disk_usage(folder).used


def fill(folder: Path, free: int) -> None:
    """Leave so many bytes free on the file system of a folder."""
    size = max(0, shutil.disk_usage(folder).free - free)
    with (folder / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size) if size else None


def read_only(folder: Path, is_read_only: bool) -> None:
    subprocess.run(["mount", "-o", f"remount,{'ro' if is_read_only else 'rw'}", str(folder)], check=True)


def one_sentence(ended: Ended) -> list[str]:
    """What is wrong with how a command failed: expected the code 1 and, at the end, one line that says why."""
    wrong = [f"exit code {ended.code}: {ended.said[-400:]}"] if ended.code != 1 else []
    wrong += [f"a traceback: {ended.said[-400:]}"] if ended.has_traceback else []
    lines = ended.said.strip().splitlines()
    told = [line for line in lines if line.startswith(("refined-bsrnn: ", "Failed: "))]
    return wrong + ([] if told else [f"no sentence: {ended.said[-300:]}"])


# --- one round of each kind -------------------------------------------------------------------------------------------


def full(
    subject: Subject, here: Path, small: str, chance: random.Random, most: int, expected: dict[str, Any]
) -> tuple[list[str], bool]:
    """So many bytes are free and no more; returns what is wrong, and whether it was too little."""
    with small_disk(here / small), subject.running(here) as environment:
        fill(here / small, chance.randrange(most))
        ended = forked(subject.work, here, environment=environment)
        wrong = one_sentence(ended) if ended.code else []
        wrong += subject.check(here)
        (here / small / FILLER).unlink()
        return wrong + _go_on(subject, here, environment, expected), ended.code != 0


def not_writable(subject: Subject, here: Path, small: str, expected: dict[str, Any]) -> list[str]:
    """The folder is read-only, then not any more."""
    with small_disk(here / small), subject.running(here) as environment:
        read_only(here / small, True)
        ended = forked(subject.work, here, environment=environment)
        read_only(here / small, False)
        return one_sentence(ended) + _go_on(subject, here, environment, expected)


def bounded(subject: Subject, here: Path, chance: random.Random, expected: dict[str, Any]) -> list[str]:
    """No file may be larger than so many bytes (as a quota of files' sizes)."""
    most = chance.choice([1 << 10, 1 << 14, 1 << 16])

    def work() -> int | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return subject.work()

    with subject.running(here) as environment:
        ended = forked(work, here, environment=environment)
        wrong = one_sentence(ended) if ended.code else []
        return wrong + _go_on(subject, here, environment, expected)


def _go_on(subject: Subject, here: Path, environment: Any, expected: dict[str, Any]) -> list[str]:
    last = forked(subject.again(here), here, environment=environment)
    wrong = [f"going on ended with {last.code}: {last.said[-400:]}"] if last.code else []
    wrong += ["a traceback in going on"] if last.has_traceback else []
    return wrong + differences(expected, snapshot(here, subject.skip))


def vanished(here: Path, chance: random.Random, took: float) -> list[str]:
    """A training's folder is deleted under it: one sentence and 1; the same command trains again."""
    child = Child(commands("train recipe.yaml"), here, None)
    time.sleep(chance.uniform(0.3, 1.0) * took)
    shutil.rmtree(here / "runs", ignore_errors=True)
    ended = child.wait()
    wrong = one_sentence(ended) if ended.code else []
    if ended.code == 0 and (here / "runs/run").exists() and not (here / "runs/run/recipe.yaml").is_file():
        wrong.append(f"it ended well, and its run has no recipe: {ended.said[-300:]}")
    shutil.rmtree(here / "runs", ignore_errors=True)
    last = forked(commands("train recipe.yaml"), here)
    return wrong + ([f"the same command ended with {last.code}"] if last.code else [])


# --- all of them ------------------------------------------------------------------------------------------------------


def carry_out(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """All kinds of one subject."""
    (subject, small), chance = subject_of(name), random.Random(f"{seed} {name}")
    began, failures, short = time.monotonic(), list[str](), 0
    with place() as folder:
        template, here = folder / "template", folder / "round"
        template.mkdir()
        subject.prepare(template)
        for part in ("runs", "cache", "out"):
            (template / part).mkdir(exist_ok=True)
        copied(template, here)
        with small_disk(here / small), subject.running(here) as environment:
            ended = forked(subject.work, here, environment=environment)
            if ended.code:
                raise RuntimeError(f"the undisturbed run ended with {ended.code}: {ended.said}")
            most, took, expected = used_bytes(here / small), ended.seconds, snapshot(here, subject.skip)
        for number in range(rounds):
            copied(template, here)
            wrong, too_little = full(subject, here, small, chance, 2 * most, expected)
            short += too_little
            failures += [f"full, round {number}: {text}" for text in wrong]
        for kind in ("read-only", "bounded", *(["vanished"] if name == "training" else [])):
            for number in range(max(1, rounds // 4)):
                copied(template, here)
                if kind == "read-only":
                    wrong = not_writable(subject, here, small, expected)
                elif kind == "bounded":
                    wrong = bounded(subject, here, chance, expected)
                else:
                    wrong = vanished(here, chance, took)
                failures += [f"{kind}, round {number}: {text}" for text in wrong]
    values = {"rounds": rounds, "too little room": short, "most_bytes": most, "failures": failures}
    return {**values, "read-only, bounded": max(1, rounds // 4), "seconds": round(time.monotonic() - began, 1)}


def disk_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `disk`."""
    p.add_argument("--rounds", type=int, default=12, help="with a full disk, of each subject (default: 12)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", action="append", default=[], choices=list(SMALL), help="these subjects only")


def disk(args: argparse.Namespace) -> dict[str, Any]:
    """Every subject on a full disk, a read-only one, and with bounded file sizes."""
    subjects = {}
    for name in args.only or SMALL:
        subjects[name] = carry_out(name, args.rounds, args.seed)
        say(f"{name}: {len(subjects[name]['failures'])} failures, {subjects[name]['seconds']} s")
        for text in subjects[name]["failures"][:8]:
            say(f"  {text}")
    return {"seed": args.seed, "subjects": subjects}
