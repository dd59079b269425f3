"""The command line: parse, call one function, say where the result went.

Exit codes: 0 done, 1 the work failed (said why), 2 the command line or recipe is wrong, 130 interrupted. Messages for
people go to standard error, results for programs to standard output with ``--json``.
"""

import argparse
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import RecipeError, UserError
from ...system import bound_spinning, expand_home
from .learn import learn, learn_arguments
from .models import add_learnt, chosen_models, models, models_arguments, offline_argument

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
    base = find_model(args.base, parse_root(args.overrides), local_files_only=args.offline)
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
    from ...runs.energy import energy_recorded, energy_wanted
    from ...runs.tracking import environment
    from ...separation.live import Live, LiveEstimates
    from ..songs.stems import Wanted, find_jobs, load_voices, separate_all

    heads = None if args.head in (None, ["all"]) else args.head
    wanted = Wanted(
        heads=None if heads is None else tuple(heads),
        only_sums=args.head is None and bool(args.sum),
        sums=tuple(tuple(_names(text, "+")) for text in args.sum),
        **{name: getattr(args, name) for name in WANTED},
    )
    wanted.check()
    if args.live and (args.shifts != 1 or args.wiener):
        raise RecipeError("--live works on what has come in so far: leave out --shifts and --wiener, which look ahead.")
    if args.live and args.precision != "float32":
        raise RecipeError(f"--live computes in float32: leave out --precision {args.precision}.")
    _sort_out(args)
    _use_threads(args)
    options = {"device": args.device, "root": args.root, "chunk_seconds": args.chunk_seconds, "overlap": args.overlap}
    options |= {"shifts": args.shifts, "batch": args.batch, "precision": args.precision}
    options["local_files_only"] = args.offline
    tell = _nothing_said if args.quiet else say
    runs = chosen_models([*args.model, *args.ensemble], wanted.needed, args.root, tell)
    _check_songs(args, runs)
    ensemble, notes = load_voices(runs, wanted.needed, bool(args.ensemble), **options)
    if args.live:
        for separator, names in ensemble.passes:
            Live(separator, names)  # refuses what cannot be live
    left_out: list[str] = []
    jobs = find_jobs(args.input, args.out, left_out.append)
    for note in [*notes, *left_out] if not args.quiet else ():
        say(note)
    live = LiveEstimates() if args.live else None
    bar = _no_bar if args.quiet else work_bar
    results: list[Any] = []
    try:
        place = args.out / "provenance.json"
        with _terminated_as_interrupted(), energy_recorded(place, "separate", energy_wanted(), about=environment):
            for result in separate_all(jobs, ensemble, wanted, bar, live):
                results.append(result)
                for line in result.lines() if result.problem or not args.quiet else ():
                    say(line)
        _say_end(args, results, live)
    finally:
        if args.json:
            print(json.dumps(_separated(jobs, results, left_out)))
    return int(any(result.problem for result in results))


def _say_end(args: argparse.Namespace, results: Sequence[Any], live: Any) -> None:
    from ...console import say
    from ..songs.stems import summary

    if live and not args.quiet:
        say(live.line())
    if len(results) > 1 and not args.quiet:
        say(summary(results))


def _separated(jobs: Sequence[Any], results: Sequence[Any], left_out: Sequence[str]) -> dict[str, Any]:
    """What ``--json`` prints: every song and what has become of it, also where the work was interrupted."""
    from ..songs.stems import Result

    rows = [result.values() for result in results]
    for i, job in enumerate(jobs[len(results) :]):
        rows.append({**Result(job).values(), "status": "not tried" if i else "interrupted"})
    return {"songs": rows, "left_out": list(left_out), "interrupted": len(results) < len(jobs)}


def _nothing_said(text: str) -> None:
    pass


@contextmanager
def _no_bar(text: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    yield lambda share: None


def _sort_out(args: argparse.Namespace) -> None:
    """``--model A B``, as it was written once: what stands among the songs and is a run, is meant as one."""
    for text in list(args.input):
        folders = [Path(text), Path(args.root) / text]
        if os.path.isfile(text) or not any(os.path.isfile(folder / "recipe.yaml") for folder in folders):  # noqa: PTH113
            continue
        if args.ensemble:
            raise RecipeError(f"{text} is a run, not a song. Several runs: --model A,B or --ensemble A,B.")
        args.input.remove(text)
        args.model.append(text)
    if not args.input:
        raise RecipeError("there is no song; expected files, folders, patterns, or - for standard input.")


def _check_songs(args: argparse.Namespace, runs: Sequence[str]) -> None:
    """`RecipeError` for a head among the songs, as in ``--head A B``."""
    from ...runs.exchange.hub import find_model

    missing = [text for text in args.input if text != "-" and not os.path.lexists(text)]
    heads: set[str] = set()
    for run in runs if missing else ():
        with suppress(UserError):  # what is not here yet is not fetched for this
            heads |= set(find_model(run, args.root, local_files_only=True).head_names())
    for text in missing:
        if text in heads:
            raise RecipeError(f"{text} is a head, and there is no song of that name. Several heads: --head NAME,{text}")


def _use_threads(args: argparse.Namespace) -> None:
    import torch

    if args.threads is not None:
        if args.threads < 1:
            raise RecipeError(f"--threads is {args.threads}; expected 1 or more.")
        torch.set_num_threads(args.threads)


def app(args: argparse.Namespace) -> int:
    """Separate songs in a browser: drop a song, mix and download its stems. Nothing uploaded is kept."""
    from ...console import say
    from ...runs.exchange.hub import find_model
    from ...separation.separator import Separator
    from ..browser.app import App, serve
    from ..browser.studio import Studio

    _use_threads(args)
    model = chosen_models([args.model] if args.model else [], None, args.root, say)[0]
    run = find_model(model, args.root, local_files_only=args.offline)
    separator = Separator.from_pretrained(run.path, device=args.device)
    for line in add_learnt(separator, run, args.root):
        say(line)
    studio = Studio(separator, Path(model).name, args.max_mb, args.keep_minutes * 60)
    with _terminated_as_interrupted():
        serve(App(studio, args.host, args.port, args.public_url))
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
    *("out", "name", "format", "bits", "clip", "overwrite", "skip_existing", "quality", "stream", "strict"),
)


def _names(text: str, separator: str = ",") -> list[str]:
    return [name.strip() for name in text.split(separator) if name.strip()]


def import_networks(args: argparse.Namespace) -> int:
    """Make runs of published checkpoints: oBSRNN, BS-RoFormer, Mel-Band RoFormer."""

    from ...console import say
    from ...runs.exchange.importing import import_networks

    runs = import_networks(args.checkpoint, args.out, args.config)
    for run in runs:
        say(f"Written: {run.path}, heads {', '.join(run.head_names())}. A new head on its backbone:")
        say(f"  refined-bsrnn transfer --base {run.path} --target NAME")
        recipe = run.load_recipe()
        if recipe.together == "subtract_last":
            left, rest = ", ".join(run.head_names()), recipe.targets[-1]
            say(f"  {rest} is what {left} leave of the mixture; to score it on other stems: --define {rest}=STEM+STEM")
    if args.json:
        print(json.dumps({str(run.path): run.head_names() for run in runs}))
    return 0


def export_onnx(args: argparse.Namespace) -> int:
    """Write the network between STFT and iSTFT for other runtimes."""

    from ...console import say
    from ...runs.exchange.export import export_core
    from ...runs.folder import find_run, load_model

    model = load_model(find_run(args.run, args.root))
    heads = None if args.head in (None, ["all"]) else args.head
    say(f"Written: {export_core(model, args.out, heads, args.overwrite, say)}")
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
    if not (name and equals):
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
    from ...network.info import describe, training_macs
    from ...report.study import StudyRun
    from ...training.study import state_of

    done = [run for run in runs if state_of(run) == "evaluated"]
    recipes = {run.label: run.recipe for run in done}  # of one seed: the others cost the same
    macs = {label: training_macs(recipe, describe(recipe)) for label, recipe in recipes.items()}
    return [StudyRun(run.name, run.label, run.base, run.recipe, run.folder.path, macs[run.label]) for run in done]


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

    folder = export(find_model(args.run, args.root), args.out, args.heads, args.half)
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
    from ...report.figures import bands_figure, save

    schemes = _schemes(args.scheme)
    if args.match is not None:
        print(matched_table(args.match, schemes, args.sample_rate).markdown)
        return 0
    if args.table:
        print(band_table(schemes, args.sample_rate).markdown)
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
        print(f"Written: {save(bands_figure(hz, widths), args.png)}", file=sys.stderr)
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
    from ...network.info import describe, describe_network
    from ...recipe import find_recipe, load_recipe
    from ...report.network_table import network_table
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
        console.print(network_table(found.values()))
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
        ("learn", learn, "teach a model a new instrument from folders of your songs", learn_arguments),
        ("evaluate", evaluate, "score a run's heads on whole tracks", _evaluate_arguments),
        ("separate", separate, "separate songs with chosen heads", _separate_arguments),
        ("app", app, "separate songs in a browser: one page, served by this machine", _app_arguments),
        ("compare", compare, "run a whole study: bases × targets × methods × seeds", _compare_arguments),
        ("models", models, "public models by name: list, show, pull, remove, path", models_arguments),
        ("heads", heads, "the heads of a run: list, add, remove, rename, export, verify", _heads_arguments),
        ("report", report, "compare runs: tables, figures and a page to listen to", _report_arguments),
        ("import", import_networks, "make runs of published checkpoints: oBSRNN, RoFormers", _import_arguments),
        ("import-obsrnn", import_networks, "the older name of import", _import_arguments),
        ("export-onnx", export_onnx, "write a run's network as ONNX (.onnx) or torch.export (.pt2)", _export_arguments),
        ("info", info, "what a network is made of: shapes, parameters, multiply-accumulates", _info_arguments),
        ("bands", bands, "print, draw and compare band schemes", _bands_arguments),
    ):
        p = commands.add_parser(name, help=help_text, description=function.__doc__)
        p.set_defaults(function=function, command=name)
        add_arguments(p)
    return top


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", nargs="?", help="a YAML file or the name of a shipped recipe")
    p.add_argument(
        "--resume",
        type=_place,
        metavar="RUN",
        help="continue a run exactly; key=value for more steps, moved songs, ...",
    )
    p.add_argument("--from", dest="from_run", type=_place, metavar="RUN", help="a new run from the weights of another")
    _overrides(p)


def _check_data_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("data", metavar="RECIPE|ROOT", help="a recipe, or a folder or file of songs")
    p.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per processor)")
    p.add_argument("--model", metavar="RUN", help="also find stems that hold something else than their name says")
    p.add_argument(
        "--out", type=expand_home, default=Path("check"), metavar="DIR", help="--model: list and page (check)"
    )
    p.add_argument("--windows", type=int, default=6, metavar="N", help="--model: of 3 s, per stem (default: 6)")
    p.add_argument(
        "--suspect-weight", type=float, default=0.0, metavar="W", help="--model: 0 (default) to 1, for the list"
    )
    p.add_argument("--deviations", type=float, default=2.0, metavar="D", help="--model: suspicious above (default: 2)")
    _json(p)
    _overrides(p)


def _transfer_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--base", type=_place, required=True, metavar="RUN", help="a run's name or folder, or a public model's name"
    )
    offline_argument(p)
    p.add_argument("--target", nargs="+", action="extend", default=[], metavar="NAME", help="the new sources")
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
    p.add_argument(
        "--estimates", type=expand_home, metavar="DIR", help="score DIR/<track>/<target>.wav instead of a run"
    )
    p.add_argument("--data", type=_place, metavar="ROOT", help="another data root than the run's")
    p.add_argument("--split", default="test", choices=["train", "valid", "test"])
    _list(p, "--tracks", "PATTERN", "only tracks named so, e.g. 'eir_*'")
    p.add_argument("--quick", action="store_true", help="uSDR alone on at most 8 tracks, for development")
    p.add_argument("--mixture", default="auto", choices=["auto", "file", "sum"], help="mixture.wav or the sum of stems")
    p.add_argument("--museval", action="store_true", help="also SDR, ISR, SIR, SAR by museval (slow)")
    p.add_argument("--museval-json", type=expand_home, metavar="DIR", help="--museval, and museval's own files in DIR")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes for museval (default: 1)")
    p.add_argument("--define", action="append", default=[], metavar="NAME=STEM+STEM", help="score NAME on these stems")
    p.add_argument("--no-excerpts", action="store_true", help="keep no audio for the report to play")
    _device(p)
    _root(p)
    _json(p)


def _separate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("input", nargs="+", metavar="INPUT", help="files, folders, patterns, - for standard input")
    text = "names or folders of runs, public models (models list), best, hf:owner/name (default: the package's model)"
    _list(p, "--model", "RUN", text, _runs)
    offline_argument(p)
    _list(p, "--ensemble", "RUN", "more runs: each head is averaged over all", _runs)
    what = p.add_argument_group("what is written")
    _list(what, "--head", "NAME", "heads to write (default: all, or only the sums asked for)", default=None)
    what.add_argument("--residual", action="store_true", help="also what these heads leave of the input")
    what.add_argument("--accompaniment", action="store_true", help="also the input without each of these heads")
    _list(what, "--sum", "NAME+NAME", "also the sum of these heads", lambda text: text.split(","))
    what.add_argument("--start", dest="start_seconds", type=_seconds, default=0.0, metavar="TIME", help=TIME)
    what.add_argument("--duration", dest="duration_seconds", type=_seconds, metavar="TIME", help="likewise")
    what.add_argument(
        "--stream", type=int, metavar="N", help="audio stream of a video, from 0 (default: the one marked as default)"
    )
    what.add_argument("--strict", action="store_true", help="refuse damaged files (default: silence for what is lost)")
    files = p.add_argument_group("files")
    files.add_argument("--out", type=expand_home, default=Path("separated"), metavar="DIR")
    files.add_argument("--name", default="{model}/{track}/{head}", metavar="PATTERN", help="(default: %(default)s)")
    files.add_argument("--overwrite", action="store_true", help="replace files that are there")
    files.add_argument("--skip-existing", action="store_true", help="leave songs alone whose stems are all there")
    files.add_argument("--format", help="wav, flac, mp3 or ogg (default: flac for flac, else wav)")
    files.add_argument("--bits", help="16, 24 or 32f (default: the input's where it is lossless, else the most)")
    files.add_argument(
        "--quality", type=float, metavar="Q", help="of mp3 and ogg, 0 to 10, the best (default: about 5)"
    )
    files.add_argument(
        "--clip", default="auto", help="rescale all stems together, clamp, none; auto: rescale integers (default)"
    )
    how = p.add_argument_group("how")
    how.add_argument("--chunk-seconds", type=float, help="what the network sees at once (default: the recipe's)")
    how.add_argument("--overlap", type=float, help="share of a chunk that is cross-faded (default: the recipe's)")
    how.add_argument("--shifts", type=int, default=1, help="average over so many places of the borders (default: 1)")
    how.add_argument("--wiener", type=int, nargs="?", const=1, default=0, metavar="ITERATIONS", help="filter the heads")
    how.add_argument("--batch", type=_batch, default="auto", help="chunks at once (default: auto, found by trying)")
    how.add_argument("--precision", default="float32", help="float32, bf16, fp16 (default: float32)")
    how.add_argument("--live", action="store_true", help="causal networks only: in blocks of 0.1 s, as it comes in")
    p.add_argument("--quiet", action="store_true", help="say only what failed")
    _device(p)
    _threads(p)
    _root(p)
    _json(p)


def _app_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--model", type=_place, metavar="RUN", help="a run, a public model, best (default: the package's own model)"
    )
    offline_argument(p)
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in (default: this machine alone)")
    p.add_argument("--port", type=int, default=7860, help="0: any that is free (default: 7860)")
    p.add_argument("--max-mb", type=float, default=500.0, metavar="MB", help="how large a song may be (default: 500)")
    p.add_argument(
        "--keep-minutes", type=float, default=60.0, metavar="M", help="delete what nobody asks for (default: 60)"
    )
    p.add_argument("--public-url", metavar="URL", help="where a proxy shows it, e.g. https://stems.example.org/songs")
    _device(p)
    _threads(p)
    _root(p)


def _batch(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; expected one, or auto")
    return text if text == "auto" else int(text)


def _compare_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("recipe", help="a study's YAML file or the name of a shipped one, e.g. compare_transfer")
    p.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="runs at a time (default: one per GPU or processor)"
    )
    p.add_argument("--only", action="append", default=[], metavar="PATTERN", help="only runs whose name matches")
    p.add_argument("--here", action="store_true", help="one after the other in this process, no report")
    p.add_argument("--dry-run", action="store_true", help="list what is planned and how far it is")
    p.add_argument("--report-only", action="store_true", help="table and figures of what is done, no training")
    p.add_argument("--out", type=expand_home, metavar="DIR", help="where they go (default: STUDY/report)")
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
        a.set_defaults(function=heads, command="heads", action=name)
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
            _list(a, "--heads", "NAME", "these heads only")
        if name == "export":
            a.add_argument("--out", type=expand_home, required=True, metavar="DIR", help="a new folder")
            a.add_argument("--half", action="store_true", help="weights in 16 bits: half the size, slightly rounded")
            a.add_argument("--push", metavar="OWNER/NAME", help="also put it on the Hugging Face hub")
            a.add_argument("--public", action="store_true", help="there for everybody to see (default: private)")
        if name == "forgetting":
            a.add_argument("--data", type=_place, metavar="ROOT", help="another data root than the base's")
            a.add_argument("--split", default="test", choices=["train", "valid", "test"])
            _device(a)
        if name in ("list", "verify", "forgetting"):
            _json(a)


def _report_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", nargs="+", help="names or folders of evaluated runs")
    p.add_argument("--out", type=expand_home, metavar="DIR", help="write index.html, tables and figures there")
    p.add_argument("--group", action="append", default=[], metavar="NAME=PATTERN", help="also score matching tracks")
    p.add_argument("--published", action="store_true", help="also show published numbers, marked and never ranked")
    p.add_argument("--no-audio", action="store_true", help="a page without players")
    p.add_argument("--wandb", action="store_true", help="send tables and figures to wandb too")
    _root(p)


def _import_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", nargs="+", type=expand_home, metavar="CHECKPOINT", help="e.g. separator.ckpt, model.ckpt"
    )
    p.add_argument(
        "--config", type=expand_home, metavar="YAML", help="the configuration that a RoFormer is published with"
    )
    p.add_argument(
        "--out", required=True, type=expand_home, metavar="RUN", help="a new folder; of several: RUN-<file's name>"
    )
    _json(p)


def _export_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", help="a run's name or folder")
    p.add_argument("--out", required=True, type=expand_home, metavar="FILE", help="ends in .onnx or .pt2")
    _list(p, "--head", "NAME", "heads to export (default: all)", default=None)
    p.add_argument("--overwrite", action="store_true", help="replace a file that is there")
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
    p.add_argument("--png", type=expand_home, metavar="FILE", help="draw them")
    p.add_argument("--sample-rate", type=int, default=44100)
    p.add_argument("--n-fft", type=int, default=2048)
    _json(p)


def _overrides(p: argparse.ArgumentParser) -> None:
    text = "recipe overrides, e.g. data.root=/data/musdb18hq size=tiny train.steps=1000"
    p.add_argument("overrides", metavar="key=value", nargs="*", help=text)


TIME = "seconds, m:ss or h:mm:ss"


def _seconds(text: str) -> float:
    """``90``, ``1:30``, ``1:02:03.5``."""
    try:
        *larger, seconds = text.split(":")
        if larger and (len(larger) > 2 or not 0 <= float(seconds) < 60):
            raise ValueError
        return float(seconds) + sum(60**power * int(part) for power, part in enumerate(reversed(larger), 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected {TIME}") from None


def _list(
    p: Any, flag: str, one: str, text: str, split: Callable[[str], list[str]] | None = None, **options: Any
) -> None:
    """An option of which there may be several: with commas between them, or the option again."""
    options = {"default": [], **options}
    p.add_argument(flag, type=split or _names, action="extend", metavar=f"{one},...", help=text, **options)


def _runs(text: str) -> list[str]:
    """A folder whose name has a comma in it is one run."""
    return [str(expand_home(name)) for name in ([text] if os.path.lexists(expand_home(text)) else _names(text))]


def _place(text: str) -> str:
    """The path of a folder or the name of a run."""
    return str(expand_home(text)) if text.startswith("~") else text


def _threads(p: argparse.ArgumentParser) -> None:
    p.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as PyTorch chooses)")


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def _root(p: argparse.ArgumentParser) -> None:
    p.add_argument("--root", type=_place, default="runs", help="where runs given by name are (default: runs)")


def _json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="results for programs on standard output")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, songs and overrides may stand in any order, overrides also right behind ``--target NAME``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    top = parser()
    command, rest = _command(top, words)
    args = command.parse_intermixed_args(_whole(rest)) if command else top.parse_args(words)
    for many in ("target", "names"):
        if isinstance(getattr(args, many, None), list) and getattr(args, many):
            args.overrides += [text for text in getattr(args, many) if "=" in text]
            setattr(args, many, [name for text in getattr(args, many) if "=" not in text for name in _names(text)])
    return args


def _command(p: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.ArgumentParser | None, list[str]]:
    """The parser of the command, or of the command's own command, and the words that are left for it."""
    commands = next((action for action in p._actions if isinstance(action, argparse._SubParsersAction)), None)
    if commands is None:
        return p, words
    if not words or words[0] not in commands.choices:
        return None, []
    return _command(commands.choices[words[0]], words[1:])


def _whole(words: Sequence[str]) -> list[str]:
    """``--wiener`` may stand alone: what is no number behind it is a song. What stands behind ``--`` is no option."""
    end = words.index("--") if "--" in words else len(words)
    result: list[str] = []
    for word, then in zip(words[:end], [*words[1:end], ""], strict=False):
        alone = word == "--wiener" and not then.lstrip("-").isdecimal()
        result.append("--wiener=1" if alone else word)
    return result + [f"./{word}" if word.startswith("-") and word != "-" else word for word in words[end + 1 :]]


def _complain(text: str) -> None:
    from ...console import printable

    print(f"refined-bsrnn: {printable(text)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    bound_spinning()
    for stream in (sys.stdout, sys.stderr):  # no letter that the terminal does not know ends the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    args = _parse(arguments)
    try:
        code = args.function(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the results has enough of them (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 1
    except UserError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:  # a disk, a share or a permission, not a mistake in here
        where = f"{error.filename} cannot be read or written: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}.")
        return 1
    except KeyboardInterrupt:
        print("refined-bsrnn: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
