"""``refined-bsrnn learn TARGET FOLDER...``: from a person's own songs to a head, in one command."""

import argparse
import os
from pathlib import Path

from ...errors import RecipeError
from ...system import expand_home
from .models import offline_argument


def learn(args: argparse.Namespace) -> int:
    """Teach a model a new instrument from folders of songs that have it as a stem."""
    from ...console import say
    from ...data.check.checker import check
    from ...data.sources import find_sources
    from ...evaluation.evaluate import evaluate
    from ...recipe import check_target_name, parse_overrides
    from ...runs.exchange.hub import find_model
    from ...runs.exchange.library import default_model, introduction
    from ...training.learn import learning_recipe, plan, score_words, write_excerpts
    from ...training.train import new_run
    from ...training.transfer import transfer

    folders, overrides = _words(args)
    name = check_target_name(args.name or args.target)
    root = parse_overrides(overrides).get("run", {}).get("root", "runs")
    if args.base:
        base = find_model(args.base, root, local_files_only=args.offline)
    else:
        base = default_model()
        say(introduction(base))
    lesson = plan(check_target_name(args.target), folders)
    recipe = learning_recipe(base, lesson, name, overrides)
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
        say(score_words(name, evaluate(run, device=args.device)))
    else:
        say("No song was kept aside, so there is no score: two songs or more give one.")
    track, (before, after) = write_excerpts(run, lesson, name, args.device)
    learnt_from = "" if track in lesson.held_out else ", a song that it has learnt from"
    say(f"Listen ({track.name}{learnt_from}):\n  before: {before}\n  after:  {after}")
    model = f" --model {args.base}" if args.base else ""
    say(f"Done: {run.path}. Use it: refined-bsrnn separate SONG --model {run.path} --head {name}")
    say(f"In a browser, beside the base's own heads: refined-bsrnn app{model}")
    return 0


def _words(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Folders, and what is ``key=value`` and no folder."""
    overrides = [word for word in args.folders if "=" in word and not os.path.lexists(expand_home(word))]
    folders = [str(expand_home(word)) for word in args.folders if word not in overrides]
    if not folders:
        raise RecipeError(f"expected folders of songs that have a stem {args.target}.")
    for folder in folders:
        if not Path(folder).exists():
            raise RecipeError(f"there is no folder {folder!r}; expected one of songs that have a stem {args.target}.")
    return folders, overrides


def learn_arguments(p: argparse.ArgumentParser) -> None:
    """What stands behind ``learn``."""
    p.add_argument("target", metavar="TARGET", help="the instrument, as its stem is called, e.g. guitar (guitar.wav)")
    text = "folders of songs with that stem, and recipe overrides, e.g. train.steps=8000 data.define={...}"
    p.add_argument("folders", nargs="+", metavar="FOLDER", help=text)
    p.add_argument("--base", metavar="RUN", help="a run or a public model (default: the package's own model)")
    p.add_argument("--as", dest="name", metavar="NAME", help="what the head is called (default: as the stem)")
    p.add_argument("--device", default="auto", help="for the score: auto, cpu, cuda, mps (default: auto)")
    offline_argument(p)
