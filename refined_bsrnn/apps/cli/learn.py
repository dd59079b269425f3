"""``refined-bsrnn learn TARGET FOLDER...``: from a person's own songs to a head, in one command."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import RecipeError
from ...system import expand_home
from .command_line import given
from .training import run_root


def learn(
    target: str,
    folders: Sequence[str],
    *,
    base: str | None = None,
    as_: str | None = None,
    device: str | None = None,
    offline: bool = False,
) -> int:
    """Train a head for a new instrument on folders of songs that have it as a stem.

    Args:
        target (TARGET): the instrument, as its stem is called, e.g. guitar (guitar.wav)
        folders (FOLDER): folders of songs with that stem, and recipe overrides, e.g. train.steps=8000 data.define={...}
        base (RUN): a run or a public model (default: the package's own model)
        as_ (NAME): the name of the head (default: the stem's)
        device: for the score: auto, cpu, cuda, mps (default: auto)
    """
    from ...console import say
    from ...data.check.checker import check
    from ...data.sources import find_sources
    from ...evaluation.evaluate import evaluate
    from ...recipe import check_target_name
    from ...runs.exchange.hub import find_model
    from ...runs.exchange.library import default_model, introduction
    from ...training.learn import learning_recipe, plan, score_words, write_excerpts
    from ...training.train import new_run
    from ...training.transfer import transfer

    folders, overrides = _words(target, folders)
    name = check_target_name(as_ or target)
    if base:
        run = find_model(base, **run_root(overrides), local_files_only=offline)
    else:
        run = default_model()
        say(introduction(run))
    lesson = plan(check_target_name(target), folders)
    recipe = learning_recipe(run, lesson, name, overrides)
    new_run(recipe, find_sources(recipe.data))  # a name that is taken is said before hours of work
    for line in lesson.sentences():
        say(line)
    say("Checking every file of them.")
    found = check(recipe)
    for line in found.sentences():
        say(line)
    if found.stops:
        say("This has to be mended before the head can be learnt. `refined-bsrnn check-data FOLDER` shows all of it.")
        return 1
    run, finished = transfer(recipe)
    if not finished:
        say(f"Interrupted. To go on: refined-bsrnn train --resume {run.path}")
        return 130
    if lesson.held_out:
        say(score_words(name, evaluate(run, **given(device=device))))
    else:
        say("No song was kept aside, so there is no score: two songs or more give one.")
    track, (before, after) = write_excerpts(run, lesson, name, **given(device=device))
    learnt_from = "" if track in lesson.held_out else ", a song that it has learnt from"
    say(f"Listen ({track.name}{learnt_from}):\n  before: {before}\n  after:  {after}")
    model = f" --model {base}" if base else ""
    say(f"Done: {run.path}. Use it: refined-bsrnn separate SONG --model {run.path} --head {name}")
    say(f"In a browser, beside the base's own heads: refined-bsrnn app{model}")
    return 0


def _words(target: str, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders, and what is ``key=value`` and no folder."""
    overrides = [word for word in texts if "=" in word and not os.path.lexists(expand_home(word))]
    folders = [str(expand_home(word)) for word in texts if word not in overrides]
    if not folders:
        raise RecipeError(f"expected folders of songs that have a stem {target}.")
    for folder in folders:
        if not Path(folder).exists():
            raise RecipeError(f"there is no folder {folder!r}; expected one of songs that have a stem {target}.")
    return folders, overrides
