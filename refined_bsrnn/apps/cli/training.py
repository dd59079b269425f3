"""The commands that train: ``train``, ``transfer``, ``compare``."""

import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RecipeError
from ...system import interrupted_by_signals
from ..texts import Place, Texts, Words
from .command_line import given

if TYPE_CHECKING:
    from ...report.study import StudyRun
    from ...training.study import Planned


def train(
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: Place | None = None,
    from_: Place | None = None,
) -> int:
    """Train one backbone on the recipe's targets, or continue a run.

    Args:
        recipe (recipe): a YAML file or the name of a shipped recipe
        resume (RUN): continue a run exactly; key=value for more steps, moved songs, ...
        from_ (RUN): a new run from the weights of another
    """
    from ...recipe import load_recipe
    from ...runs.exchange.hub import find_model
    from ...runs.folder import find_run
    from ...training import train as training
    from ...training import transfer as transfers

    if recipe and "=" in recipe and not Path(recipe).exists():  # the first override stands in its place
        overrides, recipe = [recipe, *overrides], None
    if resume:
        if recipe or from_:
            raise RecipeError(
                "--resume goes on with the run's own recipe: give no recipe or override file, only key=value."
            )
        return _say_trained(*transfers.resume(find_run(resume), overrides=overrides))
    if from_:
        base = find_model(from_, **run_root(overrides))
        return _say_trained(*transfers.transfer(transfers.from_recipe(base, recipe, overrides)))
    if not recipe:
        raise RecipeError("expected a recipe (e.g. recipes/mtl_generic.yaml), --resume RUN or --from RUN.")
    values = load_recipe(recipe, overrides)
    return _say_trained(*(transfers.transfer(values) if values.base else training.train(values)))


def transfer(
    overrides: Sequence[str] = (),
    *,
    base: Place,
    offline: bool = False,
    target: Words = (),
    recipe: str | None = None,
    method: str | None = None,
    blocks: int | None = None,
    rank: int | None = None,
    continue_: bool = False,
    init_from: str | None = None,
    tracks: int | None = None,
    minutes: float | None = None,
    data_fraction: float | None = None,
    cache: bool = False,
    cache_max_gb: float | None = None,
    as_: Words = (),
    overwrite: bool = False,
) -> int:
    """Train heads for new targets on the backbone of a base.

    Args:
        base (RUN): a run's name or folder, or a public model's name
        target (NAME): the new sources
        recipe (RECIPE): training settings (default: recipes/transfer.yaml)
        method (WORD): frozen (default), partial, lora, full, scratch, random
        blocks (R): partial: how many of the last blocks are trained
        rank (N): lora: rank of the updates
        continue_: train the base's own heads on (all, or those of --target), each from its own weights
        init_from (HEAD): start the new heads from this head of the base
        tracks (N): train on that many songs that have a target
        minutes (M): train on that many minutes of such songs
        data_fraction (SHARE): train on this share of such songs
        cache: compute the features once (cache.pool mixtures), then train fast
        cache_max_gb (GB): disk space that the cache may take
        as_ (NAME): the name of the new heads
        overwrite: allow a head name that the base has too
    """
    from ...runs.exchange.hub import find_model
    from ...training import transfer as transfers

    if not target and not continue_:
        raise RecipeError("expected --target NAME, the new sources, or --continue for all heads of the base.")
    if continue_ and as_:
        raise RecipeError("--continue trains heads on under their own names; give no --as.")
    for option, value, needed, is_given in (
        ("--rank", rank, "--method lora", method == "lora"),
        ("--blocks", blocks, "--method partial", method == "partial"),
        ("--cache-max-gb", cache_max_gb, "--cache", cache),
    ):
        if value is not None and not is_given:
            raise RecipeError(f"{option} requires {needed}.")
    if tracks is not None and tracks < 1:
        raise RecipeError(f"--tracks is {tracks}; expected 1 or more.")
    if minutes is not None and not minutes > 0:
        raise RecipeError(f"--minutes is {minutes:g}; expected more than 0.")
    if as_ and len(as_) != len(target):
        raise RecipeError(f"--as gives {len(as_)} names for {len(target)} targets; expected one for each.")
    run = find_model(base, **run_root(overrides), local_files_only=offline)
    part = given(use_tracks=tracks, use_minutes=minutes, use_fraction=data_fraction)
    above = [f"data.{key}={value}" for key, value in part.items()]
    above += [f"data.define={{{name}: [{stem}]}}" for name, stem in zip(as_, target, strict=False) if name != stem]
    above += ["cache.enabled=true"] * cache + ([f"cache.max_gb={cache_max_gb}"] if cache_max_gb else [])
    how = given(method=method, blocks=blocks, rank=rank, init_from=init_from, heads="own" if continue_ else None)
    settings = given(settings=recipe)
    values = transfers.transfer_recipe(run, as_ or target, **settings, overrides=[*above, *overrides], **how)
    for name in values.targets if not overwrite and not continue_ else ():
        transfers.check_name_is_free(run, name)
    return _say_trained(*transfers.transfer(values))


def run_root(overrides: Sequence[str]) -> dict[str, str]:
    """Where runs given by name are, if ``run.root`` is overridden."""
    from ...recipe import parse_overrides

    return {key: str(value) for key, value in (parse_overrides(overrides).get("run") or {}).items() if key == "root"}


def _say_trained(run: Any, finished: bool) -> int:
    from ...console import is_main, say

    if not finished:
        return 130
    heads = ",".join(run.head_names()) if is_main() else ""
    say(f"Done: {run.path}. Next: refined-bsrnn evaluate {run.path}, or")
    say(f"  refined-bsrnn separate SONG --model {run.path} --head {heads} --out separated")
    return 0


def compare(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    only: Texts = (),
    here: bool = False,
    dry_run: bool = False,
    report_only: bool = False,
    out: Path | None = None,
) -> int:
    """Train and evaluate everything a study plans, then write its table and figures: bases × targets × methods × seeds.

    Args:
        recipe: a study's YAML file or the name of a shipped one, e.g. compare_transfer
        jobs (N): runs at a time (default: one per GPU or processor)
        only (PATTERN): only runs whose name matches
        here: one after the other in this process, no report
        dry_run: list the planned runs and their progress
        report_only: table and figures of the finished runs, no training
        out (DIR): where they go (default: STUDY/report)
    """
    from ...console import say
    from ...report.study import report_study
    from ...training.study import Processes, carry_out, load_study, plan, run_study, state_of

    study, file = load_study(recipe, overrides)
    runs = plan(study, file)
    chosen = [run for run in runs if not only or any(fnmatch(run.name, pattern) for pattern in only)]
    if not chosen:
        raise RecipeError(f"--only {' '.join(only)} matches none of {', '.join(run.name for run in runs)}.")
    if dry_run or here:
        for run in chosen:
            if dry_run:
                print(f"{run.name}\t{state_of(run)}")
            else:
                carry_out(study, run)
        return 0
    folder, processes = Path(study.root) / study.study, Processes()

    def work(run: "Planned", environment: Mapping[str, str]) -> None:
        again = ["compare", str(file), "--here", "--only", run.name, *overrides]
        processes.run(again, folder / "logs" / f"{run.name}.txt", environment)

    with interrupted_by_signals(processes.stop):
        failed = [] if report_only else run_study(study, chosen, work, **given(jobs=jobs))
    rows = report_study(study, study_runs(runs), out or folder / "report")
    say(f"{len(rows)} rows. Written: {out or folder / 'report'}")
    for line in failed:
        print(f"refined-bsrnn: {line}", file=sys.stderr)
    return 1 if failed else 0


def study_runs(runs: Sequence["Planned"]) -> list["StudyRun"]:
    """The planned runs that are evaluated, as the report of a study takes them."""
    from ...network.info import describe, training_macs
    from ...report.study import StudyRun
    from ...training.study import state_of

    done = [run for run in runs if state_of(run) == "evaluated"]
    recipes = {run.label: run.recipe for run in done}  # of one seed: the others cost the same
    macs = {label: training_macs(recipe, describe(recipe)) for label, recipe in recipes.items()}
    return [StudyRun(run.name, run.label, run.base, run.recipe, run.folder.path, macs[run.label]) for run in done]
