"""Studies: bases × targets × methods × amounts of data × seeds, planned from one recipe and carried out.

    scripts/compare.py recipes/compare_transfer.yaml --jobs 2

A study's recipe contains the common settings of all runs, the bases to train and the transfers from them. Every planned
run is an ordinary run with a descriptive name and a recipe that repeats it. Finished runs are not repeated, interrupted
runs are continued, and a run with the same name but another recipe is refused.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import prod
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..console import say
from ..data.sources import find_sources
from ..errors import RecipeError, UserError
from ..evaluation.evaluate import evaluate
from ..evaluation.forgetting import forgetting
from ..plain import shown
from ..recipe import (
    Recipe,
    Study,
    Transfers,
    find_recipe,
    make_recipe,
    merge,
    parse_overrides,
    read_recipe_values,
    recipe_values,
)
from ..runs.folder import RunFolder, read_metadata, read_provenance
from ..schema import differences, read_yaml, section
from ..system import processors, read_json
from .train import train
from .transfer import METHODS, derive_recipe, resume, transfer

SETTINGS = "transfer"  # the recipe whose training settings a transfer takes where the study says nothing


@dataclass(frozen=True)
class Planned:
    """One run of a study, and its name in tables."""

    name: str
    recipe: Recipe
    label: str  # the same for all seeds
    base: str | None  # the name of the planned run it is transferred from
    split: str  # what it is evaluated on

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.recipe.run.root) / self.name)

    @property
    def base_folder(self) -> RunFolder | None:
        return RunFolder(Path(self.recipe.run.root) / self.base) if self.base else None


MOST_RUNS = 1000  # each takes milliseconds to plan; a few lists of a thousand names would take days

# --- planning ---------------------------------------------------------------------------------------------------------


def load_study(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> tuple[Study, Path]:
    """A study and the file of its recipe; overrides such as ``seeds=[0]`` or ``common.data.root=/music``."""
    file = find_recipe(path)
    values = read_yaml(file)
    study = section(Study, merge(values, parse_overrides(overrides)), "")
    for i, block in enumerate(study.transfers):
        for name in block.bases:
            if name not in study.bases:
                raise RecipeError(
                    f"transfers[{i}].bases names {name!r}, which is no base. Bases: {', '.join(study.bases)}."
                )
        for method in block.methods:
            if method not in METHODS:
                raise RecipeError(f"transfers[{i}].methods names {method!r}; expected some of {', '.join(METHODS)}.")
    if not study.seeds:
        raise RecipeError("seeds is empty; expected at least one, three for a spread.")
    if len(set(study.seeds)) < len(study.seeds):
        raise RecipeError("seeds names a seed twice; expected each once.")
    if (n := _n_runs(study)) > MOST_RUNS:
        raise RecipeError(f"the study plans {n} runs; expected up to {MOST_RUNS}. Split it into several studies.")
    return study, file


def _n_runs(study: Study) -> int:
    per_block = [prod(map(len, (b.bases, b.targets, b.methods, b.tracks))) for b in study.transfers]
    return len(study.seeds) * (len(study.bases) + sum(per_block))


def plan(study: Study, file: Path) -> list[Planned]:
    """Every run of a study, bases before the transfers from them; all recipes are checked."""
    planned = [_base(study, file, name, seed) for seed in study.seeds for name in study.bases]
    bases = {run.name: run for run in planned}
    for block in study.transfers:
        for seed in study.seeds:
            for name in block.bases:
                base = bases[next(n for n in bases if n in (_named(name, seed), _named(name, seed) + BUILTIN_MARK))]
                planned += [_transfer(study, block, base, *what, seed) for what in _combinations(block)]
    names = [run.name for run in planned]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"the study plans {', '.join(twice)} more than once; expected every combination once.")
    return planned


def _named(label: str, seed: int) -> str:
    return f"{label}.s{seed}"


def _combinations(block: Transfers) -> Iterator[tuple[str, str, int]]:
    for target in block.targets:
        for method in block.methods:
            for tracks in block.tracks:
                yield target, method, tracks


BUILTIN_MARK = "-builtin"  # behind the name of every run on the built-in stems


def _of_study(study: Study, name: str, seed: int) -> dict[str, Any]:
    folder = {"root": str(Path(study.root) / study.study), "name": name}
    return {"train": {"seed": seed}, "run": folder, "log": {"group": study.study}}


def _base(study: Study, file: Path, label: str, seed: int) -> Planned:
    own = study.bases[label] or {}
    if not isinstance(own, Mapping):
        raise RecipeError(f"bases.{label} is {shown(own)}; expected recipe values.")
    values = merge(_resolved(study.common, file), _resolved(own, file))
    name = _named(label, seed)
    if find_sources(make_recipe(values).data).is_builtin:
        name += BUILTIN_MARK
    return Planned(name, make_recipe(merge(values, _of_study(study, name, seed))), label, None, study.split)


def _resolved(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Recipe values with ``extends`` and ``size`` written out, as in a recipe file beside the study's."""
    return read_recipe_values(file, values)


def _transfer(
    study: Study, block: Transfers, base: Planned, target: str, method: str, tracks: int, seed: int
) -> Planned:
    label = f"{base.label}-to-{target}" + ("" if method == "frozen" else f"-{method}")
    label += f"-{tracks}tracks" if tracks else ""
    name = _named(label, seed) + (BUILTIN_MARK if base.name.endswith(BUILTIN_MARK) else "")
    above = merge(read_recipe_values(find_recipe(SETTINGS)), block.settings)
    above = merge(above, merge(_of_study(study, name, seed), {"data": {"use_tracks": tracks}}))
    recipe = derive_recipe(base.recipe, base.name, [target], above, {"method": method})
    return Planned(name, recipe, label, base.name, study.split)


# --- running ----------------------------------------------------------------------------------------------------------


def state_of(run: Planned) -> str:
    """``new``, ``cut off``, ``trained`` or ``evaluated``; `RecipeError` if the folder holds a run of another recipe."""
    folder = run.folder
    if not folder.recipe.exists():
        return "new"
    for key, (old, new) in differences(recipe_values(folder.load_recipe()), recipe_values(run.recipe), PLACES).items():
        raise RecipeError(
            f"{folder.path} was made with {key}={old!r}, the study now says {new!r}. "
            "Give the study another name, or remove that run."
        )
    _check_base_is_the_same(run)
    if _is_evaluated(run):
        return "evaluated"
    return "trained" if _is_finished(folder) else "cut off"


def _is_finished(folder: RunFolder) -> bool:
    return folder.provenance.exists() and bool(read_provenance(folder).get("finished", False))


def _is_evaluated(run: Planned) -> bool:
    """Whether all tracks of the study's split are scored."""
    if not run.folder.results.exists():
        return False
    results = read_json(run.folder.results)
    if not isinstance(results, dict):
        raise UserError(f"{run.folder.results} is no evaluation. Remove it; the run is evaluated again.")
    return results.get("split") == run.split and not results.get("partial")


def _check_base_is_the_same(run: Planned) -> None:
    """`RecipeError` if the base has been trained again since the transfer from it."""
    base, stored = run.base_folder, run.folder.load_recipe().base
    if base is None or stored is None or stored.sha256 is None or not base.backbone.is_file():
        return
    now = read_metadata(base.backbone).get("sha256")
    if now != stored.sha256:
        raise RecipeError(
            f"{run.folder.path} was transferred from the backbone {stored.sha256}; {base.path} has {now} now. "
            "Remove the transfer, or give the study another name."
        )


# Keys that say where things are and what is shown, not what is computed.
PLACES = ("run", "data.root", "data.sources", "base.run", "base.sha256", "log", "train.workers")


def run_study(
    study: Study, runs: Sequence[Planned], work: Callable[[Planned, Mapping[str, str]], None], jobs: int = 0
) -> list[str]:
    """Carry out the unfinished runs, ``jobs`` at a time (0: see `default_jobs`); returns the failed runs, with reasons.

    ``work`` carries out one run; it gets the environment variables with the run's GPU and its number of processors. If
    a base fails, the runs on it are not started.
    """
    waiting = {run.name: run for run in runs if state_of(run) != "evaluated" or _owes_forgetting(study, run)}
    gpus = torch.cuda.device_count()
    jobs = jobs or default_jobs(len(waiting))
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    say(f"{study.study}: {len(runs)} runs, {len(runs) - len(waiting)} of them done already; {jobs} at a time.")
    failed: dict[str, str] = {}

    def in_slot(run: Planned) -> None:
        slot = slots.get()
        try:
            work(run, slot_environment(slot, jobs, gpus))
        finally:
            slots.put(slot)

    running: dict[Future[None], Planned] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for run in _ready(waiting, running, failed)[: jobs - len(running)]:
                running[pool.submit(in_slot, waiting.pop(run.name))] = run
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
            for future in done:
                run, problem = running.pop(future), future.exception()
                if problem is not None:
                    failed[run.name] = str(problem)
                left = len(waiting) + len(running)
                say(f"{run.name}: {f'failed: {problem}' if problem else 'done'}; {left} to go.")
    return [f"{name}: {reason}" for name, reason in failed.items()]


def _ready(
    waiting: dict[str, Planned], running: Mapping[Future[None], Planned], failed: dict[str, str]
) -> list[Planned]:
    """Runs whose base is finished; runs whose base failed are removed and counted as failed."""
    busy = {*waiting, *(run.name for run in running.values())}
    for run in [run for run in waiting.values() if run.base in failed]:
        failed[run.name] = f"its base {run.base} failed"
        del waiting[run.name]
    return [run for run in waiting.values() if run.base not in busy]


def default_jobs(n_runs: int) -> int:
    """The number of the ``n_runs`` runs to carry out at a time: one per GPU or other accelerator, else one per
    processor.

    If the user has set OMP_NUM_THREADS, every run uses that many processors.
    """
    if torch.accelerator.is_available():
        return torch.accelerator.device_count()
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    each = int(threads) if threads.isdecimal() else 1
    return max(1, min(n_runs, processors() // max(1, each)))


def slot_environment(slot: int, jobs: int, gpus: int) -> dict[str, str]:
    """The environment variables of one of ``jobs`` processes at a time: its GPU and its share of the processors."""
    threads = max(1, processors() // jobs)
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    own = {"CUDA_VISIBLE_DEVICES": named.split(",")[slot % gpus].strip()} if gpus else {}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), **own}


class Processes:
    """Our commands, each in a separate process, that can be stopped together."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def run(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Run one command with the same code to its end; `UserError` with its last output if it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "refined_bsrnn.apps.cli.main", *arguments]
        whole = {**os.environ, "PYTHONPATH": path, **environment}
        if self.stopped:
            raise UserError("stopped before it began.")
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=whole)
            self.running.add(process)
            if self.stopped:  # while it was starting
                process.terminate()
            try:
                code = process.wait()
            finally:
                self.running.discard(process)
        if code:
            words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            raise UserError(f"{words[-1] if words else 'no word'} (exit code {code}, log {log})")

    def stop(self) -> None:
        """Ask every process to save its state and end, and start no other; Ctrl-C reaches them by itself."""
        self.stopped = True
        for process in tuple(self.running):
            process.terminate()


def carry_out(study: Study, run: Planned) -> None:
    """Train, evaluate and, if requested, measure forgetting: all steps that are left, in this process.

    Raises `UserError` if another process is working on the run, or if the training of the base is not finished.
    """
    if run.base_folder is not None and not _is_finished(run.base_folder):
        raise UserError(f"its base {run.base} is not trained to its end yet.")
    lock = FileLock(Path(run.recipe.run.root) / "locks" / f"{run.name}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=0):
            _carry_out(study, run)
    except Timeout:
        raise UserError("another process is carrying it out.") from None


def _carry_out(study: Study, run: Planned) -> None:
    state = state_of(run)
    if state == "cut off" and not run.folder.state.exists():
        shutil.rmtree(run.folder.path)  # it was stopped before its first state: nothing can be continued
        state = "new"
    finished = True
    if state == "new":
        _, finished = transfer(run.recipe) if run.recipe.base else train(run.recipe)
    elif state == "cut off":
        _, finished = resume(run.folder)
    if not finished:
        raise UserError("interrupted; the same command continues it.")
    if not _is_evaluated(run):
        evaluate(run.folder, split=study.split, excerpts=False)
    if _owes_forgetting(study, run):
        forgetting(run.folder, split=study.split)


def _owes_forgetting(study: Study, run: Planned) -> bool:
    base = run.recipe.base
    wanted = study.forgetting and base is not None and METHODS[base.method].keeps_weights
    return wanted and not run.folder.forgetting.exists()
