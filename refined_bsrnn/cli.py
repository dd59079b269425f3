"""The command line: parse, call one function, say where the result went.

Exit codes: 0 done, 1 the work failed (said why), 2 the command line or recipe is wrong, 130 interrupted. Messages for
people go to standard error, results for programs to standard output with ``--json``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import RecipeError, UserError

# The modules that need torch are imported by the command that uses them: `--help` and `bands` answer at once.

OVERRIDES = {
    "metavar": "key=value",
    "nargs": "*",
    "help": "recipe overrides, e.g. data.root=/data/musdb18hq size=tiny train.steps=1000",
}


def train(args: argparse.Namespace) -> int:
    """Train a recipe, or continue a run."""

    from .recipe import load_recipe
    from .train import train
    from .transfer import resume, transfer

    if args.resume:
        if args.recipe or args.overrides:
            raise RecipeError("--resume takes everything from the run's own recipe; give no recipe or override.")
        from .checkpoint import find_run

        return _trained(*resume(find_run(args.resume)))
    if not args.recipe:
        raise RecipeError("expected a recipe (e.g. recipes/mtl_generic.yaml) or --resume RUN.")
    recipe = load_recipe(args.recipe, args.overrides)
    return _trained(*(transfer(recipe) if recipe.base else train(recipe)))


def transfer(args: argparse.Namespace) -> int:
    """Learn fresh heads on the frozen backbone of a base."""

    from .checkpoint import find_run
    from .recipe import parse_overrides
    from .transfer import transfer, transfer_recipe

    root = parse_overrides(args.overrides).get("run", {}).get("root", "runs")
    base = find_run(args.base, root)
    return _trained(*transfer(transfer_recipe(base, args.target, args.recipe, args.overrides)))


def _trained(run: Any, finished: bool) -> int:
    from .progress import is_main, say

    if not finished:
        return 130
    heads = ",".join(run.head_names()) if is_main() else ""
    say(f"Done: {run.path}. Next: refined-bsrnn evaluate {run.path}, or")
    say(f"  refined-bsrnn separate SONG --model {run.path} --head {heads} --out separated")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a run on whole tracks."""

    from .checkpoint import find_run
    from .evaluate import evaluate
    from .progress import console
    from .report import report

    run = find_run(args.run, args.root)
    results = evaluate(run, args.data, args.split, args.device, args.museval)
    if args.json:
        print(json.dumps(results["summary"]))
    console.print(report([run.path], None).rich_table())
    console.print(f"Written: {run.results}", markup=False, soft_wrap=True)
    return 0


def separate(args: argparse.Namespace) -> int:
    """Separate songs with chosen heads."""

    from .progress import console, share_bar
    from .separate import Separator, separate_file

    heads = None if args.head == "all" else [name.strip() for name in args.head.split(",")]
    separator = Separator.from_pretrained(args.model, args.device, heads=heads, root=args.root)
    written: dict[str, dict[str, str]] = {}
    for song in args.input:
        with share_bar(f"separating {song.name}") as progress:
            paths = separate_file(separator, song, heads, args.out, progress)
        written[str(song)] = {path.stem: str(path) for path in paths}
        for path in paths:
            console.print(f"Written: {path}", markup=False, soft_wrap=True)
    if args.json:
        print(json.dumps(written))
    return 0


def import_obsrnn(args: argparse.Namespace) -> int:
    """Make runs of published oBSRNN checkpoints."""

    from .obsrnn import import_obsrnn
    from .progress import say

    runs = import_obsrnn(args.checkpoint, args.out)
    for run in runs:
        say(f"Written: {run.path}, heads {', '.join(run.head_names())}. A new head on its backbone:")
        say(f"  refined-bsrnn transfer --base {run.path} --target NAME")
    if args.json:
        print(json.dumps({str(run.path): run.head_names() for run in runs}))
    return 0


def report(args: argparse.Namespace) -> int:
    """Compare evaluated runs."""

    from .checkpoint import find_run
    from .progress import console
    from .report import report

    groups = dict(_pair(group) for group in args.group)
    result = report([find_run(run, args.root).path for run in args.run], args.out, groups=groups)
    console.print(result.rich_table())
    print(result.markdown)
    if args.out:
        console.print(f"Written: {args.out}", markup=False, soft_wrap=True)
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"{text!r} is not NAME=PATTERN, e.g. real='eir_*'.")
    return name, value


def bands(args: argparse.Namespace) -> int:
    """Print and draw band schemes."""

    from .bands import band_ranges, ranges_hz
    from .figures import plot_bands
    from .recipe import parse_overrides

    options = parse_overrides([text for text in args.scheme if "=" in text])
    names = [text for text in args.scheme if "=" not in text] or ["v7", "tet24"]
    grid = {"sample_rate_hz": args.sample_rate, "n_fft": args.n_fft}
    ranges = {name: band_ranges(name, **grid, **options) for name in names}
    if args.json:
        print(json.dumps({name: {"n_bands": len(r), "ranges": r} for name, r in ranges.items()}))
    else:
        for name, r in ranges.items():
            print(f"{name}: {len(r)} bands; first bins {' '.join(str(start) for start, _ in r)} | {r[-1][1]}")
    if args.png:
        hz = {name: ranges_hz(r, **grid) for name, r in ranges.items()}
        print(f"Written: {plot_bands(hz, args.png)}", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""

    top = argparse.ArgumentParser(
        prog="refined-bsrnn",
        description="Music source separation with Band-Split RNN: multi-task training, transfer to new sources.",
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _training_commands(commands)
    _using_commands(commands)
    return top


def _training_commands(commands: Any) -> None:
    """What makes a run."""
    p = commands.add_parser("train", help="train one backbone on the recipe's targets")
    p.add_argument("recipe", nargs="?", help="a YAML file or the name of a shipped recipe")
    p.add_argument("overrides", **OVERRIDES)
    p.add_argument("--resume", metavar="RUN", help="continue an interrupted run exactly")
    p.set_defaults(function=train)

    p = commands.add_parser("transfer", help="freeze a base's backbone and learn fresh heads")
    p.add_argument("--base", required=True, metavar="RUN", help="a run's name, a run's folder or an exported folder")
    p.add_argument("--target", required=True, nargs="+", metavar="NAME", help="the new sources")
    p.add_argument("--recipe", default="transfer", help="training settings (default: recipes/transfer.yaml)")
    p.add_argument("overrides", **OVERRIDES)
    p.set_defaults(function=transfer)

    p = commands.add_parser("import-obsrnn", help="make runs of published oBSRNN checkpoints")
    p.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="e.g. vocals.ckpt or separator.ckpt")
    p.add_argument("--out", required=True, type=Path, metavar="RUN", help="a new folder; of several: RUN-<target>")
    p.add_argument("--json", action="store_true", help="results for programs on standard output")
    p.set_defaults(function=import_obsrnn)


def _using_commands(commands: Any) -> None:
    """What uses a run, or needs none."""
    p = commands.add_parser("evaluate", help="score a run's heads on whole tracks")
    p.add_argument("run", help="a run's name or folder")
    p.add_argument("--data", metavar="ROOT", help="another data root than the run's")
    p.add_argument("--split", default="test", choices=["train", "valid", "test"])
    p.add_argument("--museval", action="store_true", help="also SDR, ISR, SIR, SAR by museval (slow)")
    _common(p)
    p.set_defaults(function=evaluate)

    p = commands.add_parser("separate", help="separate songs with chosen heads")
    p.add_argument("input", nargs="+", type=Path, metavar="SONG")
    p.add_argument("--model", required=True, metavar="RUN", help="a run's name or folder")
    p.add_argument("--head", default="all", metavar="NAME,...", help="heads to run (default: all)")
    p.add_argument("--out", type=Path, default=Path("separated"), metavar="DIR")
    _common(p)
    p.set_defaults(function=separate)

    p = commands.add_parser("report", help="compare runs: a table and training curves")
    p.add_argument("run", nargs="+", help="names or folders of evaluated runs")
    p.add_argument("--out", type=Path, metavar="DIR", help="write report.md, report.csv and curves.png there")
    p.add_argument(
        "--group", action="append", default=[], metavar="NAME=PATTERN", help="also score the tracks that match"
    )
    p.add_argument("--root", default="runs", help="where runs given by name are (default: runs)")
    p.set_defaults(function=report)

    p = commands.add_parser("bands", help="print and draw band schemes")
    p.add_argument("scheme", nargs="*", help="schemes and their options, e.g. v7 tet24, or tet divisions=12")
    p.add_argument("--png", type=Path, metavar="FILE", help="draw them")
    p.add_argument("--sample-rate", type=int, default=44100)
    p.add_argument("--n-fft", type=int, default=2048)
    p.add_argument("--json", action="store_true")
    p.set_defaults(function=bands)


def _common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    p.add_argument("--root", default="runs", help="where runs given by name are (default: runs)")
    p.add_argument("--json", action="store_true", help="results for programs on standard output")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also behind options and right behind ``--target NAME``."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any("=" not in text or text.startswith("-") for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(args, "overrides"):
        args.overrides += rest
    if hasattr(args, "target"):
        args.overrides += [text for text in args.target if "=" in text]
        args.target = [text for text in args.target if "=" not in text]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parse(arguments)
    try:
        return args.function(args)
    except UserError as error:
        print(f"refined-bsrnn: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("refined-bsrnn: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
