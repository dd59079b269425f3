"""wandb that cannot be reached, does not answer, dies in the middle, or has no room: the training loses nothing.

A server on this machine stands in for wandb's: it takes connections and never answers, or answers each request with an
error after ten seconds.
"""

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say

from .world import Child, commands, copied, forked, place, recipe_values, write_recipe, write_songs

STEPS = 30
SLOW_SECONDS = 10.0
SMALLEST_FREE = 8192  # bytes of a disk that is full: what is left is less than wandb writes at once
MORE_SECONDS = 160.0  # that a training with wandb may take longer: 120 of them when all is saved


def _server(pause: float) -> tuple[Child, str]:
    """A server in a process of its own that answers after ``pause`` seconds with an error."""
    there, here = Pipe()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self) -> None:
            time.sleep(pause)
            self.send_error(500)

        do_GET = do_POST = do_PUT = answer

    def serve() -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        there.send(f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()

    return Child(serve, Path.cwd()), here.recv()


def _prepare(folder: Path) -> None:
    write_songs(folder / "songs", test=1)
    values = recipe_values(steps=STEPS, validate_every=15, checkpoint_every=15)
    write_recipe(folder / "recipe.yaml", {**values, "run": {"name": "run"}, "log": {"audio_seconds": 0.5}})


def _losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "runs/run/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def _online(url: str) -> dict[str, str]:
    return {"WANDB_MODE": "online", "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}


def _helpers_of(process: int) -> list[int]:
    """The processes of wandb that a process has started."""
    done = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return [int(line[0]) for line in lines if len(line) > 1 and "wandb" in line[1]]


def _trained(here: Path, environment: Mapping[str, str], kills: random.Random | None = None) -> tuple[Any, list[str]]:
    """How the training ended; what is wrong if wandb's process was to be killed and was not."""
    child, wrong = Child(commands("train recipe.yaml"), here, environment), list[str]()
    if kills is not None:
        deadline, helpers = time.monotonic() + 60, list[int]()
        while time.monotonic() < deadline and not (helpers := _helpers_of(child.pid)):
            time.sleep(0.05)
        time.sleep(kills.uniform(0, 2))
        helpers = [process for process in helpers if process in _helpers_of(child.pid)]
        for process in helpers:
            Child.end(process)
        wrong += [] if helpers else ["wandb's process was not there to be killed"]
    return child.wait(MORE_SECONDS + 120), wrong


def loggers_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `loggers`."""
    p.add_argument("--rounds", type=int, default=3, help="in which wandb's process is killed (default: 3)")
    p.add_argument("--seed", type=int, default=0)


def loggers(args: argparse.Namespace) -> dict[str, Any]:
    """Every way in which wandb fails."""
    chance, found = random.Random(args.seed), dict[str, Any]()
    with place() as folder, ExitStack() as stack:
        template, here = folder / "template", folder / "round"
        template.mkdir()
        _prepare(template)
        plain = forked(commands("train recipe.yaml"), copied(template, here), environment={"WANDB_MODE": "disabled"})
        expected = _losses(here)
        servers = {"never answers": _server(10_000), "answers after ten seconds": _server(SLOW_SECONDS)}
        for child, _ in servers.values():
            stack.callback(child.wait)
            stack.callback(child.signal, signal.SIGKILL)
        ways: dict[str, dict[str, str]] = {"cannot be reached": _online("http://127.0.0.1:9")}
        ways |= {name: _online(url) for name, (_, url) in servers.items()}
        ways |= {f"killed, round {i}": {"WANDB_MODE": "offline"} for i in range(args.rounds)}
        ways |= {"no room": {"WANDB_MODE": "offline"}}
        for name, environment in ways.items():
            copied(template, here)
            wandb = here / "runs/run/wandb"
            if name == "no room":
                wandb.mkdir(parents=True)
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(wandb)], check=True)
            try:
                ended, wrong = _trained(here, environment, chance if "killed" in name else None)
                wrong += [f"it ended with {ended.code}: {ended.said[-400:]}"] if ended.code else []
                wrong += [f"a traceback: {ended.said[-400:]}"] if ended.has_traceback else []
                wrong += ["the losses differ"] if _losses(here) != expected else []
                wrong += [f"it took {ended.seconds:.0f} s"] if ended.seconds > plain.seconds + MORE_SECONDS else []
                if name == "no room" and (free := shutil.disk_usage(wandb).free) > SMALLEST_FREE:
                    wrong.append(f"wandb had room: {free} bytes are free")
            finally:
                if name == "no room":
                    subprocess.run(["umount", "-l", str(wandb)], check=True)
            said = [re.sub(r"'/[^']*'", "PATH", line) for line in ended.said.splitlines() if "wandb" in line][:3]
            found[name] = {"seconds": round(ended.seconds, 1), "said": said}
            found[name]["failures"] = [f"{name}: {text}" for text in wrong]
            say(f"{name}: {ended.seconds:.1f} s ({plain.seconds:.1f} s without wandb), {wrong[:2]}")
    return {"seed": args.seed, "seconds_without": round(plain.seconds, 1), "ways": found}
