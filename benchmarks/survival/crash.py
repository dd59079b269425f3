"""kill -9 at random moments: the old or the new file is there, whole, and the same command goes on to the same end.

A subject is something that takes a while. It runs once undisturbed; then, as often as asked for, it is killed at a
random moment, looked at, and carried on by the words that a user would type. In the end every file is what the
undisturbed run left: weights, losses and scores bit for bit, and no file more.
"""

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refined_bsrnn.console import say
from refined_bsrnn.system import is_part

from .world import (
    RATE_HZ,
    commands,
    content_of,
    copied,
    differences,
    forked,
    make_run,
    place,
    recipe_values,
    snapshot,
    write_recipe,
    write_song,
    write_songs,
)

Work = Callable[[], int | None]


@dataclass(frozen=True)
class Subject:
    """Something that is killed; functions are called in or with a round's own folder, a copy of what is prepared."""

    prepare: Callable[[Path], None]
    work: Work
    again: Callable[[Path], Work]  # what a user does after the crash
    check: Callable[[Path], list[str]] = lambda folder: []  # right after the crash: what is wrong with what is there
    skip: Sequence[str] = ("cache/",)  # parts of paths that are not compared
    running: Callable[[Path], Any] = lambda folder: nullcontext({})  # beside it; gives environment variables


# --- whole files ------------------------------------------------------------------------------------------------------


def whole_weights(folder: Path) -> list[str]:
    """Which weight files, results and settings in a folder cannot be read."""
    wrong = []
    for pattern in ("**/*.safetensors", "**/*.json"):
        for path in folder.glob(pattern):
            if any(is_part(part) for part in path.parts):  # gone as soon as the next process writes there
                continue
            try:
                content_of(path)
            except Exception as error:
                wrong.append(f"{path.relative_to(folder)} is broken: {type(error).__name__}")
    return wrong


# --- subjects ---------------------------------------------------------------------------------------------------------


def _training(workers: int) -> Subject:
    def prepare(folder: Path) -> None:
        write_songs(folder / "songs", test=1)
        write_recipe(folder / "recipe.yaml", {**recipe_values(workers=workers), "run": {"name": "run"}})

    def again(folder: Path) -> Work:
        there = (folder / "runs/run/state/last.safetensors").is_file()
        return commands("train --resume run" if there else "train recipe.yaml")

    return Subject(prepare, commands("train recipe.yaml"), again, whole_weights)


def _prepare_base(folder: Path) -> None:
    write_songs(folder / "songs")

    def make() -> None:
        make_run(folder / "runs" / "base")

    forked(make, folder)


def _transfer(more: str) -> Subject:
    words = "transfer --base base --target guitar run.name=run train.steps=8 train.validate_every=4 train.log_every=1 "
    words += "train.warmup_steps=0 train.workers=0 train.checkpoint_every=1 train.batch_size=2 " + more

    def again(folder: Path) -> Work:
        there = (folder / "runs/run/state/last.safetensors").is_file()
        return commands("train --resume run" if there else words)

    return Subject(_prepare_base, commands(words), again, whole_weights, skip=("seconds.json",))


def _save(folder: Path) -> int:
    """Saves a state, a head and a JSON file over and over, each time with another number in all of it."""
    import torch

    from refined_bsrnn.runs.folder import save_state
    from refined_bsrnn.system import write_json

    for number in range(120):
        values = {"weights": torch.full((40_000,), float(number)), "moments": torch.full((40_000,), float(number))}
        save_state(folder / "last.safetensors", {"all": values}, {"step": number})
        write_json(folder / "provenance.json", [number] * 2000)
    return 0


def _one_number(folder: Path) -> list[str]:
    """A saved file holds one number alone, and is not there or whole."""
    from safetensors.numpy import load_file

    wrong = []
    if (folder / "last.safetensors").exists():
        numbers = {float(x) for array in load_file(folder / "last.safetensors").values() for x in array}
        wrong += [f"last.safetensors holds {len(numbers)} versions"] if len(numbers) > 1 else []
    if (folder / "provenance.json").exists():
        wrong += ["provenance.json is mixed"] if len(set(content_of(folder / "provenance.json"))) > 1 else []
    return wrong


def _saving() -> Subject:
    def work() -> None:
        _save(Path())

    return Subject(lambda folder: None, work, lambda folder: work, _one_number)


def _evaluation() -> Subject:
    line = "evaluate base --device cpu"
    return Subject(_prepare_base, commands(line), lambda folder: commands(line), whole_weights)


def _heads_export() -> Subject:
    line = "heads export base --out out/exported"

    def check(folder: Path) -> list[str]:
        whole = folder / "out" / "exported"
        if whole.exists() and not (whole / "README.md").is_file():
            return ["exported/ is there, but not whole"]
        return whole_weights(folder)

    def again(folder: Path) -> Work:
        return (lambda: 0) if (folder / "out" / "exported").exists() else commands(line)

    return Subject(_prepare_base, commands(line), again, check)


def _export(suffix: str) -> Subject:
    line = f"export-onnx base --out core{suffix}"

    def check(folder: Path) -> list[str]:
        path = folder / f"core{suffix}"
        return [] if not path.exists() or path.stat().st_size > 1000 else [f"{path.name} is cut off"]

    def again(folder: Path) -> Work:
        return (lambda: 0) if (folder / f"core{suffix}").exists() else commands(line)

    # The file names its own temporary name and time: it is not compared, but that it is there is.
    return Subject(_prepare_base, commands(line), again, check, skip=("cache/", f"core{suffix}"))


def _import() -> Subject:
    def prepare(folder: Path) -> None:
        def make() -> None:
            from tests.helpers.roformers import config_of, tensors_of, write

            write(folder / "published", config_of(), tensors_of(config_of()["model"]))

        forked(make, folder)

    line = "import published/model.ckpt --config published/config.yaml --out out/imported"

    def again(folder: Path) -> Work:
        return (lambda: 0) if (folder / "out/imported").exists() else commands(line)

    return Subject(prepare, commands(line), again, whole_weights)


MODEL = "small-roformer"


@contextmanager
def _serving(folder: Path) -> Iterator[Mapping[str, str]]:
    """A server of the published files, in a process of its own, and a catalogue that names it."""
    import yaml

    published = folder / "published"
    there, here = multiprocessing.Pipe()

    def serve() -> None:
        from tests.helpers.file_server import Served, file_server

        with file_server() as server:
            for path in published.iterdir():
                server.files[f"/{path.name}"] = Served(path.read_bytes(), pause=0.0002)
            there.send(server.url)
            time.sleep(1000)

    from .world import Child

    child = Child(serve, folder)
    try:
        url = here.recv()
        size = (published / "model.ckpt").stat().st_size
        entry: dict[str, Any] = {"kind": "bs_roformer", "targets": ["vocals", "drums"], "url": f"{url}/model.ckpt"}
        entry |= {"config": f"{url}/config.yaml", "bytes": size, "licence": "MIT"}
        (folder / "models.yaml").write_text(yaml.safe_dump({"models": {MODEL: entry}}))
        yield {"REFINED_BSRNN_MODELS": str(folder / "models.yaml"), "HF_HUB_OFFLINE": ""}
    finally:
        child.signal(9)
        child.wait()


def _download() -> Subject:
    line = commands(f"models pull {MODEL}")

    def check(folder: Path) -> list[str]:
        run = folder / "cache" / "models" / MODEL
        return whole_weights(folder) + (
            ["the model is there, but not whole"] if run.exists() and not (run / "recipe.yaml").is_file() else []
        )

    # The address of the server, which is another one every time, stands in provenance.json.
    return Subject(
        _import().prepare, line, lambda folder: line, check, ("models.yaml", "provenance.json"), running=_serving
    )


def _separation() -> Subject:
    def prepare(folder: Path) -> None:
        _prepare_base(folder)
        write_song(folder / "in" / "song", seconds=40)

    line = "separate in --model base --residual --out out --device cpu --batch 1"
    return Subject(prepare, commands(line), lambda folder: commands(f"{line} --skip-existing"))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "training": lambda: _training(0),
    "training with workers": lambda: _training(1),
    "saving": _saving,
    "cache filling": lambda: _transfer("cache.enabled=true cache.pool=16"),
    "transfer": lambda: _transfer(""),
    "evaluation": _evaluation,
    "export of heads": _heads_export,
    "export as a program": lambda: _export(".pt2"),
    "import": _import,
    "model download": _download,
    "separation": _separation,
}


# --- rounds -----------------------------------------------------------------------------------------------------------


MOST_TRIES = 50  # of a round: a process that has ended before its kill came is started anew


def carry_out(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Kill one subject so many times; what was found, as values for JSON."""
    subject, chance = SUBJECTS[name](), random.Random(f"{seed} {name}")
    began, failures, killed, ended_before = time.monotonic(), list[str](), 0, 0
    with place() as folder:
        template, here = folder / "template", folder / "round"
        template.mkdir()
        subject.prepare(template)
        took, expected = _undisturbed(subject, template, here)
        undisturbed = took
        for number in range(rounds):
            for _ in range(MOST_TRIES):
                moment = chance.uniform(0, took)
                copied(template, here)
                with subject.running(here) as environment:
                    ended = forked(subject.work, here, moment, environment)
                    if is_killed := ended.code == -9:
                        failures += [f"round {number}, killed after {moment:.3f} s: {text}"
                                     for text in _afterwards(subject, here, environment, expected)]  # fmt: skip
                        break
                ended_before, took = ended_before + 1, min(took, ended.seconds)  # the machine is faster now
            killed += is_killed
    failures += [f"{rounds - killed} rounds had no kill in time"] if killed < rounds else []
    values = {"rounds": rounds, "killed": killed, "ended before": ended_before, "failures": failures}
    return {**values, "undisturbed_seconds": round(undisturbed, 2), "seconds": round(time.monotonic() - began, 1)}


def _afterwards(subject: Subject, here: Path, environment: Mapping[str, str], expected: Mapping[str, Any]) -> list[str]:
    """After a kill: what is wrong with what is there, and with what the next command makes of it."""
    wrong = subject.check(here)
    last = forked(subject.again(here), here, environment=environment, timeout_seconds=600)
    wrong += [f"the command ended with {last.code}: {last.said[-300:]}"] if last.code else []
    wrong += ["a traceback"] if last.has_traceback else []
    return wrong + differences(expected, snapshot(here, subject.skip))


def _undisturbed(subject: Subject, template: Path, folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of a whole run, and what is there afterwards."""
    here = copied(template, folder)
    with subject.running(here) as environment:
        ended = forked(subject.work, here, environment=environment, timeout_seconds=600)
    if ended.code:
        raise RuntimeError(f"the undisturbed run ended with {ended.code}: {ended.said}")
    return ended.seconds, snapshot(here, subject.skip)


def crash_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of `crash`."""
    p.add_argument("--rounds", type=int, default=30, help="of each subject (default: 30)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", action="append", default=[], choices=list(SUBJECTS), help="these subjects only")


def crash(args: argparse.Namespace) -> dict[str, Any]:
    """Every subject, killed at random moments."""
    subjects = {}
    for name in args.only or SUBJECTS:
        subjects[name] = carry_out(name, args.rounds, args.seed)
        say(f"{name}: {args.rounds} rounds, {len(subjects[name]['failures'])} failures, {subjects[name]['seconds']} s")
        for text in subjects[name]["failures"][:5]:
            say(f"  {text}")
    return {"seed": args.seed, "processors": os.cpu_count(), "subjects": subjects}


__all__ = ["RATE_HZ", "SUBJECTS", "carry_out", "crash"]
