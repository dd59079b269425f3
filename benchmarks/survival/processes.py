"""Processes that are lost, stopped or halted: a message within a minute, a saved state, the same end."""

import argparse
import os
import random
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say

from .world import (
    Child,
    commands,
    content_of,
    copied,
    differences,
    forked,
    place,
    recipe_values,
    snapshot,
    write_recipe,
    write_songs,
)

TRAIN, RESUME = "train recipe.yaml", "train --resume run"
SKIP = ("cache/", "provenance.json")


def _prepare(folder: Path, steps: int, **train: Any) -> None:
    write_songs(folder / "songs", test=1)
    values = recipe_values(steps=steps, **{"validate_every": steps, "checkpoint_every": 20, **train})
    write_recipe(folder / "recipe.yaml", {**values, "run": {"name": "run"}})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _two(folder: Path, line: str) -> list[Child]:
    """Two processes of one job, as a launcher starts them, but with nobody who watches over them."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    ranks: list[Mapping[str, str]] = [{"RANK": str(i), "LOCAL_RANK": str(i), **common} for i in range(2)]
    return [Child(commands(line), folder, rank) for rank in ranks]


def _until_state(folder: Path, seconds: float = 120.0) -> bool:
    """Wait until a training has saved its first state."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "runs/run/state/last.safetensors").is_file():
            return True
        time.sleep(0.05)
    return False


def lost(template: Path, here: Path, chance: random.Random, which: int) -> tuple[list[str], float]:
    """One of two processes is killed; what is wrong, and the seconds until the other has ended."""
    both = _two(copied(template, here), TRAIN)
    wrong = [] if _until_state(here) else ["no state after two minutes"]
    time.sleep(chance.uniform(0, 1))
    both[which].signal(signal.SIGKILL)
    began = time.monotonic()
    both[which].wait()
    other = both[1 - which].wait(90)
    took = time.monotonic() - began
    wrong += [f"the other took {took:.0f} s"] if took > 60 else []
    wrong += [f"the other ended with {other.code}: {other.said[-300:]}"] if other.code != 1 else []
    wrong += [f"a traceback: {other.said[-300:]}"] if other.has_traceback else []
    if which == 1 and "another process of this job has ended" not in other.said:  # only the first process speaks
        wrong.append(f"it does not say why: {other.said[-300:]}")
    if not (here / "runs/run/state/last.safetensors").is_file():
        wrong.append("the state is gone")
    else:
        content_of(here / "runs/run/state/last.safetensors")
    return wrong, took


def stopped(template: Path, here: Path, chance: random.Random, expected: Mapping[str, Any], took: float) -> list[str]:
    """SIGTERM at a random moment: it ends within half a minute, its state is saved, and it goes on to the same end."""
    child = Child(commands(TRAIN), copied(template, here))
    time.sleep(chance.uniform(0.1, 1) * took)
    began = time.monotonic()
    child.signal(signal.SIGTERM)
    ended = child.wait(60)
    wrong = [f"it took {time.monotonic() - began:.0f} s"] if time.monotonic() - began > 30 else []
    wrong += [f"it ended with {ended.code}: {ended.said[-300:]}"] if ended.code not in (0, 130, -signal.SIGTERM) else []
    there = (here / "runs/run/state/last.safetensors").is_file()
    last = forked(commands(RESUME if there else TRAIN), here)
    wrong += [f"going on ended with {last.code}: {last.said[-300:]}"] if last.code else []
    return wrong + differences(expected, snapshot(here, SKIP))


def halted(template: Path, folder: Path, seconds: float, expected: Mapping[str, Any]) -> list[str]:
    """SIGSTOP, and SIGCONT after some minutes: one training alone and one of two processes go on as if nothing was."""
    alone, pair = copied(template, folder / "alone"), copied(template, folder / "pair")
    single, two = Child(commands(TRAIN), alone), _two(pair, TRAIN)
    wrong = [] if _until_state(alone) and _until_state(pair) else ["no state after two minutes"]
    for child in (single, two[1]):
        child.signal(signal.SIGSTOP)
    time.sleep(seconds)
    for child in (single, two[1]):
        child.signal(signal.SIGCONT)
    for child in (single, *two):
        ended = child.wait(240)
        wrong += [f"it ended with {ended.code}: {ended.said[-300:]}"] if ended.code else []
    wrong += differences(expected, snapshot(alone, SKIP))
    return wrong


def processes_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `processes`."""
    p.add_argument("--rounds", type=int, default=10, help="of each (default: 10)")
    p.add_argument("--halted-seconds", type=float, default=300.0, help="between SIGSTOP and SIGCONT (default: 300)")
    p.add_argument("--seed", type=int, default=0)


def processes(args: argparse.Namespace) -> dict[str, Any]:
    """Lost, stopped and halted processes."""
    chance, found = random.Random(args.seed), dict[str, Any]()
    with place() as folder:
        endless, short = folder / "endless", folder / "short"
        endless.mkdir()
        short.mkdir()
        _prepare(endless, 1_000_000)
        _prepare(short, 60)
        failures, seconds = list[str](), list[float]()
        for number in range(args.rounds):
            wrong, took = lost(endless, folder / "round", chance, number % 2)
            seconds.append(round(took, 1))
            failures += [f"lost, round {number}: {text}" for text in wrong]
        found["one of two killed"] = {"rounds": args.rounds, "seconds_to_end": seconds, "failures": failures}
        say(f"one of two killed: {seconds} s, {failures[:3]}")
        whole = forked(commands(TRAIN), copied(short, folder / "round"))
        expected = snapshot(folder / "round", SKIP)
        failures = []
        for number in range(args.rounds):
            wrong = stopped(short, folder / "round", chance, expected, whole.seconds)
            failures += [f"stopped, round {number}: {text}" for text in wrong]
        found["SIGTERM"] = {"rounds": args.rounds, "failures": failures}
        say(f"SIGTERM: {failures[:3]}")
        longer = folder / "longer"
        longer.mkdir()
        _prepare(longer, 400)
        forked(commands(TRAIN), copied(longer, folder / "alone"))
        wrong = halted(longer, folder, args.halted_seconds, snapshot(folder / "alone", SKIP))
        found["SIGSTOP"] = {"halted_seconds": args.halted_seconds, "failures": wrong}
        say(f"SIGSTOP: {wrong[:3]}")
    return {"seed": args.seed, "processors": os.cpu_count(), "questions": found}
