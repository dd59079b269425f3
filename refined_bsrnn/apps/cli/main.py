"""The command line: parse, call one function, say where the result went.

Exit codes: 0 done, 1 the work failed (said why), 2 the command line or recipe is wrong, 130 interrupted. Messages for
people go to standard error, results for programs to standard output with ``--json``.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import RecipeError, UserError

if TYPE_CHECKING:
    from ...report.study import StudyRun
    from ...training.study import Planned

# The modules that need torch are imported by the command that uses them: `--help` and `bands` answer at once.


def train(args: argparse.Namespace) -> int:
    """Train a recipe, or continue a run."""

    from ...recipe import load_recipe
    from ...runs.exchange.hub import find_model
    from ...runs.folder import find_run
    from ...training.train import train
    from ...training.transfer import from_recipe, resume, transfer

    if args.recipe and "=" in args.recipe and not Path(args.recipe).exists():  # the first override stands in its place
        args.overrides, args.recipe = [args.recipe, *args.overrides], None
    if args.resume:
        if args.recipe or args.from_run:
            raise RecipeError(
                "--resume goes on with the run's own recipe: give no recipe or override file, only key=value."
            )
        return _trained(*resume(find_run(args.resume), overrides=args.overrides))
    if args.from_run:
        root = parse_root(args.overrides)
        return _trained(*transfer(from_recipe(find_model(args.from_run, root), args.recipe, args.overrides)))
    if not args.recipe:
        raise RecipeError("expected a recipe (e.g. recipes/mtl_generic.yaml), --resume RUN or --from RUN.")
    recipe = load_recipe(args.recipe, args.overrides)
    return _trained(*(transfer(recipe) if recipe.base else train(recipe)))


def transfer(args: argparse.Namespace) -> int:
    """Learn heads for new targets on the backbone of a base."""

    from ...runs.exchange.hub import find_model
    from ...training.transfer import check_name_is_free, transfer, transfer_recipe

    _check_transfer_words(args)
    base = find_model(args.base, parse_root(args.overrides))
    how = {key: getattr(args, key) for key in ("method", "blocks", "rank", "init_from")}
    how["heads"] = "own" if args.continue_own else None
    part = {"use_tracks": args.tracks, "use_minutes": args.minutes, "use_fraction": args.data_fraction}
    overrides = [f"data.{key}={value}" for key, value in part.items() if value is not None]
    overrides += _renamed(args)
    overrides += ["cache.enabled=true"] if args.cache else []
    overrides += [f"cache.max_gb={args.cache_max_gb}"] if args.cache_max_gb else []
    recipe = transfer_recipe(
        base,
        args.names or args.target,
        args.recipe,
        [*overrides, *args.overrides],
        **{key: value for key, value in how.items() if value is not None},
    )
    if not args.overwrite and not args.continue_own:
        for name in recipe.targets:
            check_name_is_free(base, name)
    return _trained(*transfer(recipe))


def parse_root(overrides: Sequence[str]) -> str:
    """Where runs given by name are: ``run.root``, if it is overridden."""
    from ...recipe import parse_overrides

    return str((parse_overrides(overrides).get("run") or {}).get("root") or "runs")


def _check_transfer_words(args: argparse.Namespace) -> None:
    """A word that would do nothing is a mistake."""
    if not args.target and not args.continue_own:
        raise RecipeError("expected --target NAME, the new sources, or --continue for all heads of the base.")
    if args.continue_own and args.names:
        raise RecipeError("--continue trains heads on under their own names; give no --as.")
    for word, needs, there in (
        ("rank", "--method lora", args.method == "lora"),
        ("blocks", "--method partial", args.method == "partial"),
        ("cache_max_gb", "--cache", args.cache),
    ):
        if getattr(args, word) is not None and not there:
            raise RecipeError(f"--{word.replace('_', '-')} does something with {needs} only.")
    if args.tracks is not None and args.tracks < 1:
        raise RecipeError(f"--tracks is {args.tracks}; expected 1 or more.")
    if args.minutes is not None and not args.minutes > 0:
        raise RecipeError(f"--minutes is {args.minutes:g}; expected more than 0.")


def _renamed(args: argparse.Namespace) -> list[str]:
    """``--as``: a head may be called otherwise than the stem it learns."""
    if args.names and len(args.names) != len(args.target):
        raise RecipeError(f"--as gives {len(args.names)} names for {len(args.target)} targets; expected one for each.")
    pairs = zip(args.names, args.target, strict=False)
    return [f"data.define={{{name}: [{stem}]}}" for name, stem in pairs if name != stem]


def _defined(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``--define``: what a head of another name than its stems is scored on."""
    found = {}
    for text in texts:
        name, equals, stems = text.partition("=")
        found[name] = tuple(stem for stem in stems.split("+") if stem)
        if not (name and equals and found[name]):
            raise RecipeError(f"--define {text!r}: expected NAME=STEM or NAME=STEM+STEM.")
    return found


def _trained(run: Any, finished: bool) -> int:
    from ...console import is_main, say

    if not finished:
        return 130
    heads = ",".join(run.head_names()) if is_main() else ""
    say(f"Done: {run.path}. Next: refined-bsrnn evaluate {run.path}, or")
    say(f"  refined-bsrnn separate SONG --model {run.path} --head {heads} --out separated")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a run, or estimates in a folder, on whole tracks; an interrupted evaluation goes on where it was."""

    from ...console import is_main, say
    from ...evaluation.evaluate import evaluate, evaluate_estimates, results_path
    from ...report.write import report
    from ...runs.folder import find_run

    if (args.run is None) == (args.estimates is None):
        raise RecipeError("expected a run to evaluate, or --estimates DIR.")
    options = {
        "split": args.split,
        "with_museval": args.museval,
        "museval_json": args.museval_json,
        "tracks": tuple(args.tracks),
        "quick": args.quick,
        "mixture": args.mixture,
        "jobs": args.jobs,
        "excerpts": not args.no_excerpts,
        "define": _defined(args.define),
    }
    if args.quick and (args.museval or args.museval_json):
        raise RecipeError("--quick is uSDR alone; leave out --museval.")
    if args.run is None:
        folder, results = args.estimates, evaluate_estimates(args.estimates, args.data, **options)
    else:
        run = find_run(args.run, args.root)
        folder, results = run.path, evaluate(run, args.data, device=args.device, **options)
    if is_main():
        from ...console import console

        path = results_path(folder, bool(results["partial"]))
        if args.json:
            print(json.dumps(results["summary"]))
        console.print(report([path], None).rich_table())
        say(f"Written: {path}")
    return 0


def separate(args: argparse.Namespace) -> int:
    """Separate songs with chosen heads. Stems have the input's rate, length, channels and, where that is lossless, its
    format."""

    from ...console import say, work_bar
    from ...separation.live import LiveEstimates
    from ..songs.stems import Wanted, find_jobs, load_voices, separate_all, summary

    heads = None if args.head in (None, "all") else _names(args.head)
    sums = tuple(tuple(_names(text, "+")) for text in args.sum)
    wanted = Wanted(
        heads=None if heads is None else tuple(heads),
        only_sums=args.head is None and bool(sums),
        sums=sums,
        **{name: getattr(args, name) for name in WANTED},
    )
    wanted.check()
    if args.live and (args.shifts != 1 or args.wiener):
        raise RecipeError("--live works on what has come in so far: leave out --shifts and --wiener, which look ahead.")
    if args.live and args.precision != "float32":
        raise RecipeError(f"--live computes in float32: leave out --precision {args.precision}.")
    runs = [*(name for names in args.model for name in names), *args.ensemble]
    options = {"device": args.device, "root": args.root, "chunk_seconds": args.chunk_seconds, "overlap": args.overlap}
    options |= {"shifts": args.shifts, "batch": args.batch, "precision": args.precision}
    ensemble, notes = load_voices(runs, wanted.needed, bool(args.ensemble), **options)
    for note in notes:
        say(note)
    jobs = find_jobs(args.input, args.out)
    live = LiveEstimates() if args.live else None
    results = []
    with _terminated_as_interrupted():
        for result in separate_all(jobs, ensemble, wanted, work_bar, live):
            results.append(result)
            for line in result.lines():
                say(line)
    if live:
        say(live.line())
    if len(results) > 1:
        say(summary(results))
    if args.json:
        done = {str(r.job.path or "-"): {name: str(p) for name, p in r.paths.items()} for r in results if not r.problem}
        print(json.dumps(done))
    return int(any(result.problem for result in results))


def app(args: argparse.Namespace) -> int:
    """Separate songs in a browser: drop a song, mix and download its stems. Nothing uploaded is kept."""
    from ...separation.separator import Separator
    from ..browser.app import App, serve
    from ..browser.studio import Studio

    separator = Separator.from_pretrained(args.model, device=args.device, root=args.root)
    studio = Studio(separator, Path(args.model).name, args.max_mb, args.keep_minutes * 60)
    with _terminated_as_interrupted():
        serve(App(studio, args.host, args.port))
    return 0


@contextmanager
def _terminated_as_interrupted(first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, leave no half-written file either; ``first`` is called before that."""
    if threading.current_thread() is not threading.main_thread():  # only there can a signal be caught
        yield
        return

    def handle(number: int, frame: Any) -> None:
        first()
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        if before[number] != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])


# What `stems.Wanted` takes as it is typed.
WANTED = (
    *("residual", "accompaniment", "wiener", "start_seconds", "duration_seconds"),
    *("out", "name", "format", "bits", "clip", "overwrite"),
)


def _names(text: str, separator: str = ",") -> list[str]:
    return [name.strip() for name in text.split(separator) if name.strip()]


def import_obsrnn(args: argparse.Namespace) -> int:
    """Make runs of published oBSRNN checkpoints."""

    from ...console import say
    from ...runs.exchange.obsrnn import import_obsrnn

    runs = import_obsrnn(args.checkpoint, args.out)
    for run in runs:
        say(f"Written: {run.path}, heads {', '.join(run.head_names())}. A new head on its backbone:")
        say(f"  refined-bsrnn transfer --base {run.path} --target NAME")
    if args.json:
        print(json.dumps({str(run.path): run.head_names() for run in runs}))
    return 0


def export_onnx(args: argparse.Namespace) -> int:
    """Write the network between STFT and iSTFT for other runtimes."""

    from ...console import say
    from ...runs.exchange.export import export_core
    from ...runs.folder import find_run, load_model

    model = load_model(find_run(args.run, args.root))
    heads = None if args.head == "all" else [name.strip() for name in args.head.split(",")]
    say(f"Written: {export_core(model, args.out, heads)}")
    return 0


def report(args: argparse.Namespace) -> int:
    """Compare evaluated runs: tables, figures, and a page to listen to."""

    from ...console import console
    from ...report.write import report
    from ...runs.folder import find_run

    def folder(run: str) -> Path:
        given = Path(run)
        if given.suffix == ".json" or (given / "results.json").is_file():
            return given
        return find_run(run, args.root).path

    if args.wandb and not args.out:
        raise RecipeError("--wandb sends what is written; say where: --out DIR.")
    groups = dict(_pair(group) for group in args.group)
    result = report([folder(run) for run in args.run], args.out, groups, args.published, not args.no_audio)
    console.print(result.rich_table())
    print(result.markdown)
    if args.out:
        console.print(f"Written: {args.out / 'index.html'}", markup=False, soft_wrap=True)
    if args.wandb:
        from ...report.to_wandb import send

        console.print(f"wandb: {send(result, args.out)}", markup=False, soft_wrap=True)
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"{text!r} is not NAME=PATTERN, e.g. real='eir_*'.")
    return name, value


def compare(args: argparse.Namespace) -> int:
    """Train and evaluate everything a study plans, then write its table and figures."""

    from ...console import console
    from ...report.study import report_study
    from ...training.study import Processes, carry_out, load_study, plan, run_study, state_of

    study, file = load_study(args.recipe, args.overrides)
    runs = plan(study, file)
    chosen = [run for run in runs if not args.only or any(fnmatch(run.name, pattern) for pattern in args.only)]
    if not chosen:
        raise RecipeError(f"--only {' '.join(args.only)} matches none of {', '.join(run.name for run in runs)}.")
    if args.dry_run:
        for run in chosen:
            print(f"{run.name}\t{state_of(run)}")
        return 0
    if args.here:
        for run in chosen:
            carry_out(study, run)
        return 0
    folder, processes = Path(study.root) / study.study, Processes()

    def work(run: "Planned", environment: Mapping[str, str]) -> None:
        again = ["compare", str(file), "--here", "--only", run.name, *args.overrides]
        processes.run(again, folder / "logs" / f"{run.name}.txt", environment)

    with _terminated_as_interrupted(processes.stop):
        failed = [] if args.report_only else run_study(study, chosen, work, args.jobs)
    out = args.out or folder / "report"
    rows = report_study(study, study_runs(runs), out)
    console.print(f"{len(rows)} rows. Written: {out}", markup=False, soft_wrap=True)
    for line in failed:
        print(f"refined-bsrnn: {line}", file=sys.stderr)
    return 1 if failed else 0


def study_runs(runs: Sequence["Planned"]) -> list["StudyRun"]:
    """The planned runs that are evaluated, as the report of a study takes them."""
    from ...report.study import StudyRun
    from ...training.study import state_of

    done = [run for run in runs if state_of(run) == "evaluated"]
    return [StudyRun(run.name, run.label, run.base, run.recipe, run.folder.path) for run in done]


def heads(args: argparse.Namespace) -> int:
    """The heads of a run: list, add, remove, rename, export, verify; and what training on did to the base's."""
    return HEAD_ACTIONS[args.action](args)


def _heads_list(args: argparse.Namespace) -> int:
    from rich.table import Table

    from ...console import console
    from ...runs.exchange.hub import find_model
    from ...runs.heads import list_heads

    run = find_model(args.run, args.root)
    facts = list_heads(run)
    if args.json:
        print(json.dumps([asdict(head) for head in facts]))
        return 0
    table = Table(title=str(run.path), title_justify="left")
    for column in ("head", "kind", "parameters", "backbone", "trained in", "steps", "data", "uSDR, dB"):
        table.add_column(column, justify="right" if column in ("parameters", "steps", "uSDR, dB") else "left")
    for head in facts:
        trained = head.trained
        adapter = f" + {head.adapter_parameters:,}" if head.adapter_parameters else ""
        score = head.score.get("usdr")
        table.add_row(
            head.name,
            head.kind,
            f"{head.parameters:,}{adapter}",
            head.backbone_sha256[:12],
            trained.get("run", "–"),
            f"{trained['steps']:,}" if trained else "–",
            f"{trained['data']['name']}, {trained['data']['n_tracks']} tracks" if trained else "–",
            "–" if score is None else f"{score:.2f} ({head.score['split']})",
        )
    console.print(table)
    return 0


def _heads_add(args: argparse.Namespace) -> int:
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import add_head, head_source

    run = find_run(args.run, args.root)
    sources = head_source(args.source, args.root)
    if args.name and len(sources) > 1:
        raise RecipeError(f"--as names one head; {args.source} holds {len(sources)}. Give {args.source}:HEAD.")
    for name, path in sources:
        add_head(run, path, args.name or name, args.overwrite)
        say(f"{run.path} has the head {args.name or name} now.")
    return 0


def _heads_remove(args: argparse.Namespace) -> int:
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import remove_head

    run = find_run(args.run, args.root)
    remove_head(run, args.head)
    say(f"Removed the head {args.head}. Heads of {run.path}: {', '.join(run.head_names()) or 'none'}.")
    return 0


def _heads_rename(args: argparse.Namespace) -> int:
    from ...console import say
    from ...runs.folder import find_run
    from ...runs.heads import rename_head

    run = find_run(args.run, args.root)
    rename_head(run, args.head, args.new)
    say(f"Renamed. Heads of {run.path}: {', '.join(run.head_names())}.")
    return 0


def _heads_export(args: argparse.Namespace) -> int:
    from ...console import console
    from ...runs.exchange.hub import export, find_model, push_to_hub

    folder = export(find_model(args.run, args.root), args.out, args.heads)
    console.print(f"Written: {folder.path}, heads {', '.join(folder.head_names())}.", markup=False, soft_wrap=True)
    if args.push:
        console.print(f"Pushed: {push_to_hub(folder.path, args.push, private=not args.public)}", markup=False)
    return 0


def _heads_verify(args: argparse.Namespace) -> int:
    from ...console import console
    from ...runs.exchange.hub import find_model
    from ...runs.heads import verify

    found = verify(find_model(args.run, args.root), args.heads)
    if args.json:
        print(json.dumps(found))
    else:
        for part, what in found.items():
            console.print(f"{part}: {what}", markup=False, soft_wrap=True)
    return 0 if set(found.values()) == {"ok"} else 1


def _heads_forgetting(args: argparse.Namespace) -> int:
    from ...console import console
    from ...evaluation.forgetting import forgetting
    from ...runs.folder import find_run

    found = forgetting(find_run(args.run, args.root), args.data, args.split, args.device)
    if args.json:
        print(json.dumps(found))
    for name, change in found["change"].items():
        console.print(f"{name}: {change:+.2f} dB uSDR on the {args.split} split ({found['how']})", markup=False)
    return 0


HEAD_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _heads_list,
    "add": _heads_add,
    "remove": _heads_remove,
    "rename": _heads_rename,
    "export": _heads_export,
    "verify": _heads_verify,
    "forgetting": _heads_forgetting,
}


def bands(args: argparse.Namespace) -> int:
    """Print, draw and compare band schemes."""

    from ...bands import band_split, ranges_hz
    from ...report.band_table import band_table, matched_table, scheme_label
    from ...report.figures import plot_bands

    schemes = _schemes(args.scheme)
    if args.match is not None:
        print(matched_table(args.match, schemes, args.sample_rate))
        return 0
    if args.table:
        print(band_table(schemes, args.sample_rate))
        return 0
    schemes = schemes or [("v7", {}), ("tet24", {})]
    kinds = [kind for kind, _ in schemes]
    grid = {"sample_rate_hz": args.sample_rate, "n_fft": args.n_fft}
    splits = {
        kind if kinds.count(kind) == 1 else scheme_label(kind, options): band_split(kind, **grid, **options)
        for kind, options in schemes
    }
    if args.json:
        facts = {
            name: {"n_bands": len(split), "overlapping": split.overlapping, "ranges": split.ranges}
            for name, split in splits.items()
        }
        print(json.dumps(facts))
    else:
        for name, split in splits.items():
            print(f"{name}: {len(split)} bands; {_bins(split)}")
    if args.png:
        hz = {name: ranges_hz(split, **grid) for name, split in splits.items()}
        widths = {name: [stop - start for start, stop in split] for name, split in splits.items()}
        print(f"Written: {plot_bands(hz, args.png, widths)}", file=sys.stderr)
    return 0


def _schemes(texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Schemes with the options that stand behind each; options before the first one are for all."""
    from ...recipe import parse_overrides

    common: list[str] = []
    schemes: list[tuple[str, list[str]]] = []
    for text in texts:
        if "=" not in text:
            schemes.append((text, list(common)))
        else:
            (schemes[-1][1] if schemes else common).append(text)
    if common and not schemes:
        raise RecipeError(f"{common[0]!r} is an option of no scheme; write the scheme first, e.g. tet divisions=12.")
    return [(kind, parse_overrides(options)) for kind, options in schemes]


def _bins(split: Any) -> str:
    if split.overlapping:
        return f"overlapping bins {' '.join(f'{start}-{stop}' for start, stop in split)}"
    return f"first bins {' '.join(str(start) for start, _ in split)} | {split.n_bins}"


def info(args: argparse.Namespace) -> int:
    """Show what a network is made of."""
    from ...console import console
    from ...network.info import describe, describe_network, info_table
    from ...recipe import find_recipe, load_recipe
    from ...runs.folder import find_run, load_model

    is_run = (Path(args.network) / "recipe.yaml").is_file() or (
        Path(args.root) / args.network / "recipe.yaml"
    ).is_file()
    run = find_run(args.network, args.root) if is_run else None
    if run and run.head_names() and not args.overrides:  # with the heads that it has by now
        found = describe_network(load_model(run))
    else:
        found = describe(load_recipe(run.recipe if run else find_recipe(args.network), args.overrides))
    if args.json:
        print(json.dumps(found.values()))
    else:
        console.print(info_table(found))
    return 0


def check_data(args: argparse.Namespace) -> int:
    """Read all data of a recipe or a folder and say what is wrong with them."""
    from ...console import console
    from ...data.check.checker import check, unchecked
    from ...recipe import DataSpec, find_recipe, load_recipe

    if not args.data.strip():
        raise RecipeError("what to check is ''; expected a recipe, a folder of songs, or builtin.")
    there = Path(args.data)
    is_root = there.is_dir() or (there.is_file() and there.suffix not in (".yaml", ".yml")) or there.name == "builtin"
    if is_root and args.overrides:
        raise RecipeError("overrides are for a recipe; with a folder expected none.")
    try:
        recipe = None if is_root else find_recipe(args.data)
    except RecipeError as error:
        raise RecipeError(f"there is no folder or file {args.data!r}, and {error}") from None
    data = DataSpec(root=args.data) if recipe is None else load_recipe(recipe, args.overrides)
    try:
        found = check(data, args.jobs)
    except UserError as error:
        if args.json:
            print(json.dumps(unchecked(args.data, error)))
        raise
    values = found.values()
    if args.model and not found.stops:
        from ...evaluation.label_noise import find_suspects

        suspects = find_suspects(
            args.model, found.scan.tracks, args.out, args.windows, args.deviations, args.suspect_weight
        )
        values["suspects"] = [{**vars(suspect), "reason": suspect.reason} for suspect in suspects]
    if args.json:
        print(json.dumps(values))
    for line in [*found.scan.notes, *found.sentences()]:
        console.print(line, markup=False, soft_wrap=True)
    for table in found.tables():
        console.print(table)
    for suspect in values.get("suspects", ())[:SUSPECTS_SHOWN]:
        line = f"suspicious: {suspect['track']} / {suspect['stem']}: {suspect['reason']}"
        console.print(line, markup=False, soft_wrap=True)
    if "suspects" in values:
        told = f"{len(values['suspects'])} suspicious stems; written: {args.out}/suspects.csv (for data.stem_weights=)"
        console.print(f"{told} and {args.out}/suspects.html (to listen to).", markup=False, soft_wrap=True)
    if args.model and found.stops:
        console.print("The stems were not scored with --model: what stops training has to be mended first.")
    console.print("Training stops at this." if found.stops else "Training can start.")
    return 1 if found.stops else 0


SUSPECTS_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="refined-bsrnn",
        description="Music source separation with Band-Split RNN: multi-task training, transfer to new sources.",
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function, help_text, add_arguments in (
        ("train", train, "train one backbone on the recipe's targets", _train_arguments),
        ("check-data", check_data, "what is wrong with the songs, before training", _check_data_arguments),
        ("transfer", transfer, "learn heads for new targets on a base's backbone", _transfer_arguments),
        ("evaluate", evaluate, "score a run's heads on whole tracks", _evaluate_arguments),
        ("separate", separate, "separate songs with chosen heads", _separate_arguments),
        ("app", app, "separate songs in a browser: one page, served by this machine", _app_arguments),
        ("compare", compare, "run a whole study: bases × targets × methods × seeds", _compare_arguments),
        ("heads", heads, "the heads of a run: list, add, remove, rename, export, verify", _heads_arguments),
        ("report", report, "compare runs: tables, figures and a page to listen to", _report_arguments),
        ("import-obsrnn", import_obsrnn, "make runs of published oBSRNN checkpoints", _import_obsrnn_arguments),
        ("export-onnx", export_onnx, "write a run's network as ONNX (.onnx) or torch.export (.pt2)", _export_arguments),
        ("info", info, "what a network is made of: shapes, parameters, multiply-accumulates", _info_arguments),
        ("bands", bands, "print, draw and compare band schemes", _bands_arguments),
    ):
        p = commands.add_parser(name, help=help_text, description=function.__doc__)
        p.set_defaults(function=function)
        add_arguments(p)
    return top


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", nargs="?", help="a YAML file or the name of a shipped recipe")
    p.add_argument("--resume", metavar="RUN", help="continue a run exactly; key=value for more steps, moved songs, ...")
    p.add_argument("--from", dest="from_run", metavar="RUN", help="a new run from the weights of another")
    _overrides(p)


def _check_data_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("data", metavar="RECIPE|ROOT", help="a recipe, or a folder or file of songs")
    p.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per processor)")
    p.add_argument("--model", metavar="RUN", help="also find stems that hold something else than their name says")
    p.add_argument("--out", type=Path, default=Path("check"), metavar="DIR", help="--model: list and page (check)")
    p.add_argument("--windows", type=int, default=6, metavar="N", help="--model: of 3 s, per stem (default: 6)")
    p.add_argument(
        "--suspect-weight", type=float, default=0.0, metavar="W", help="--model: 0 (default) to 1, for the list"
    )
    p.add_argument("--deviations", type=float, default=2.0, metavar="D", help="--model: suspicious above (default: 2)")
    _json(p)
    _overrides(p)


def _transfer_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--base", required=True, metavar="RUN", help="a run's name, a run's folder or an exported folder")
    p.add_argument("--target", nargs="+", default=[], metavar="NAME", help="the new sources")
    p.add_argument("--recipe", default="transfer", help="training settings (default: recipes/transfer.yaml)")
    p.add_argument("--method", metavar="WORD", help="frozen (default), partial, lora, full, scratch, random")
    p.add_argument("--blocks", type=int, metavar="R", help="partial: how many of the last blocks are trained")
    p.add_argument("--rank", type=int, metavar="N", help="lora: rank of the updates")
    p.add_argument(
        "--continue",
        dest="continue_own",
        action="store_true",
        help="train the base's own heads on (all, or those of --target), each from its own weights",
    )
    p.add_argument("--init-from", metavar="HEAD", help="start the new heads from this head of the base")
    p.add_argument("--tracks", type=int, metavar="N", help="train on so many songs that have a target")
    p.add_argument("--minutes", type=float, metavar="M", help="train on so many minutes of such songs")
    p.add_argument("--data-fraction", type=float, metavar="SHARE", help="train on this share of such songs")
    p.add_argument(
        "--cache", action="store_true", help="compute the features once (cache.pool mixtures), then train fast"
    )
    p.add_argument("--cache-max-gb", type=float, metavar="GB", help="how much of the disk the cache may take")
    p.add_argument("--as", dest="names", nargs="+", default=[], metavar="NAME", help="what the new heads are called")
    p.add_argument("--overwrite", action="store_true", help="allow a head name that the base has too")
    _overrides(p)


def _evaluate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", nargs="?", help="a run's name or folder")
    p.add_argument("--estimates", type=Path, metavar="DIR", help="score DIR/<track>/<target>.wav instead of a run")
    p.add_argument("--data", metavar="ROOT", help="another data root than the run's")
    p.add_argument("--split", default="test", choices=["train", "valid", "test"])
    p.add_argument("--tracks", nargs="+", default=[], metavar="PATTERN", help="only tracks named so, e.g. 'eir_*'")
    p.add_argument("--quick", action="store_true", help="uSDR alone on at most 8 tracks, for development")
    p.add_argument("--mixture", default="auto", choices=["auto", "file", "sum"], help="mixture.wav or the sum of stems")
    p.add_argument("--museval", action="store_true", help="also SDR, ISR, SIR, SAR by museval (slow)")
    p.add_argument("--museval-json", type=Path, metavar="DIR", help="--museval, and museval's own files in DIR")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes for museval (default: 1)")
    p.add_argument("--define", action="append", default=[], metavar="NAME=STEM+STEM", help="score NAME on these stems")
    p.add_argument("--no-excerpts", action="store_true", help="keep no audio for the report to play")
    _device(p)
    _root(p)
    _json(p)


def _separate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("input", nargs="+", metavar="INPUT", help="files, folders, globs, - for standard input")
    p.add_argument("--model", required=True, nargs="+", action="append", metavar="RUN", help="names or folders of runs")
    p.add_argument("--ensemble", nargs="+", default=[], metavar="RUN", help="more runs: each head is averaged over all")
    what = p.add_argument_group("what is written")
    what.add_argument("--head", metavar="NAME,...", help="heads to write (default: all, or only the sums asked for)")
    what.add_argument("--residual", action="store_true", help="also what these heads leave of the input")
    what.add_argument("--accompaniment", action="store_true", help="also the input without each of these heads")
    what.add_argument("--sum", action="append", default=[], metavar="NAME+NAME", help="also the sum of these heads")
    what.add_argument("--start", dest="start_seconds", type=float, default=0.0, metavar="SECONDS")
    what.add_argument("--duration", dest="duration_seconds", type=float, metavar="SECONDS")
    files = p.add_argument_group("files")
    files.add_argument("--out", type=Path, default=Path("separated"), metavar="DIR")
    files.add_argument("--name", default="{model}/{track}/{head}", metavar="PATTERN", help="(default: %(default)s)")
    files.add_argument("--overwrite", action="store_true", help="replace files that are there")
    files.add_argument("--format", help="wav, flac, mp3 or ogg (default: flac for flac, else wav)")
    files.add_argument("--bits", help="16, 24 or 32f (default: the input's where it is lossless, else the most)")
    files.add_argument(
        "--clip", default="auto", help="rescale all stems together, clamp, none; auto: rescale integers (default)"
    )
    how = p.add_argument_group("how")
    how.add_argument("--chunk-seconds", type=float, default=6.0, help="what the network sees at once (default: 6)")
    how.add_argument("--overlap", type=float, default=0.25, help="share of a chunk that is cross-faded (default: 0.25)")
    how.add_argument("--shifts", type=int, default=1, help="average over so many places of the borders (default: 1)")
    how.add_argument("--wiener", type=int, nargs="?", const=1, default=0, metavar="ITERATIONS", help="filter the heads")
    how.add_argument("--batch", type=_batch, default="auto", help="chunks at once (default: auto, found by trying)")
    how.add_argument("--precision", default="float32", help="float32, bf16, fp16 (default: float32)")
    how.add_argument("--live", action="store_true", help="causal networks only: in blocks of 0.1 s, as it comes in")
    _device(p)
    _root(p)
    _json(p)


def _app_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", required=True, metavar="RUN", help="a run's name or folder")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in (default: this machine alone)")
    p.add_argument("--port", type=int, default=7860, help="0: any that is free (default: 7860)")
    p.add_argument("--max-mb", type=float, default=500.0, metavar="MB", help="how large a song may be (default: 500)")
    p.add_argument(
        "--keep-minutes", type=float, default=60.0, metavar="M", help="delete what nobody asks for (default: 60)"
    )
    _device(p)
    _root(p)


def _batch(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; expected one, or auto")
    return text if text == "auto" else int(text)


def _compare_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="a study's YAML file or the name of a shipped one, e.g. compare_transfer")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at a time (default: one per GPU)")
    p.add_argument("--only", action="append", default=[], metavar="PATTERN", help="only runs whose name matches")
    p.add_argument("--here", action="store_true", help="one after the other in this process, no report")
    p.add_argument("--dry-run", action="store_true", help="list what is planned and how far it is")
    p.add_argument("--report-only", action="store_true", help="table and figures of what is done, no training")
    p.add_argument("--out", type=Path, metavar="DIR", help="where they go (default: STUDY/report)")
    _overrides(p)


def _heads_arguments(p: argparse.ArgumentParser) -> None:
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")
    texts = {
        "list": "what there is, how it was trained, how well it does",
        "add": "put a head of the same backbone beside a run's own",
        "remove": "delete a head",
        "rename": "give a head another name",
        "export": "write backbone and heads into one folder to share",
        "verify": "check hashes, shapes and numbers",
        "forgetting": "what the base's own heads lost on this run's backbone",
    }
    for name, text in texts.items():
        a = actions.add_parser(name, help=text, description=text)
        a.add_argument("run", help="a run's name or folder")
        _root(a)
        if name == "add":
            a.add_argument("source", metavar="FILE|RUN:HEAD|RUN", help="where the head is")
            a.add_argument("--as", dest="name", metavar="NAME", help="what it is called here (default: as there)")
            a.add_argument("--overwrite", action="store_true", help="replace a head of that name")
        if name in ("remove", "rename"):
            a.add_argument("head")
        if name == "rename":
            a.add_argument("new")
        if name in ("export", "verify"):
            a.add_argument("--heads", nargs="+", default=[], metavar="NAME", help="these heads only")
        if name == "export":
            a.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
            a.add_argument("--push", metavar="OWNER/NAME", help="also put it on the Hugging Face hub")
            a.add_argument("--public", action="store_true", help="there for everybody to see (default: private)")
        if name == "forgetting":
            a.add_argument("--data", metavar="ROOT", help="another data root than the base's")
            a.add_argument("--split", default="test", choices=["train", "valid", "test"])
            _device(a)
        if name in ("list", "verify", "forgetting"):
            _json(a)


def _report_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", nargs="+", help="names or folders of evaluated runs")
    p.add_argument("--out", type=Path, metavar="DIR", help="write index.html, tables and figures there")
    p.add_argument("--group", action="append", default=[], metavar="NAME=PATTERN", help="also score matching tracks")
    p.add_argument("--published", action="store_true", help="also show published numbers, marked and never ranked")
    p.add_argument("--no-audio", action="store_true", help="a page without players")
    p.add_argument("--wandb", action="store_true", help="send tables and figures to wandb too")
    _root(p)


def _import_obsrnn_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="e.g. vocals.ckpt or separator.ckpt")
    p.add_argument("--out", required=True, type=Path, metavar="RUN", help="a new folder; of several: RUN-<target>")
    _json(p)


def _export_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", help="a run's name or folder")
    p.add_argument("--out", required=True, type=Path, metavar="FILE", help="ends in .onnx or .pt2")
    p.add_argument("--head", default="all", metavar="NAME,...", help="heads to export (default: all)")
    _root(p)


def _info_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("network", metavar="RECIPE|RUN", help="a recipe or a run")
    _overrides(p)
    _root(p)
    _json(p)


def _bands_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("scheme", nargs="*", help="each with its options behind it, e.g. v7 tet divisions=12 erb n_bands=32")
    p.add_argument("--table", action="store_true", help="compare them in a Markdown table (default: all schemes)")
    p.add_argument("--match", type=int, metavar="K", help="a table of the schemes that can have exactly K bands")
    p.add_argument("--png", type=Path, metavar="FILE", help="draw them")
    p.add_argument("--sample-rate", type=int, default=44100)
    p.add_argument("--n-fft", type=int, default=2048)
    _json(p)


def _overrides(p: argparse.ArgumentParser) -> None:
    text = "recipe overrides, e.g. data.root=/data/musdb18hq size=tiny train.steps=1000"
    p.add_argument("overrides", metavar="key=value", nargs="*", help=text)


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def _root(p: argparse.ArgumentParser) -> None:
    p.add_argument("--root", default="runs", help="where runs given by name are (default: runs)")


def _json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="results for programs on standard output")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also behind options and right behind ``--target NAME``."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any("=" not in text or text.startswith("-") for text in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(args, "overrides"):
        args.overrides += rest
    for many in ("target", "names"):
        if getattr(args, many, None):
            args.overrides += [text for text in getattr(args, many) if "=" in text]
            setattr(args, many, [text for text in getattr(args, many) if "=" not in text])
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parse(arguments)
    try:
        code = args.function(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the results has enough of them (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 1
    except UserError as error:
        print(f"refined-bsrnn: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("refined-bsrnn: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
