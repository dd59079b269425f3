"""The commands that score: ``evaluate``, ``report``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...errors import RecipeError
from ..texts import Place, Split, Texts, names
from .command_line import given, print_json

DEFINE = "--define {!r}: expected NAME=STEM or NAME=STEM+STEM."


def evaluate(
    run: str | None = None,
    *,
    estimates: Path | None = None,
    data: Place | None = None,
    split: Split | None = None,
    tracks: Sequence[str] = (),
    quick: bool = False,
    mixture: Literal["auto", "file", "sum"] | None = None,
    museval: bool = False,
    museval_json: Path | None = None,
    jobs: int | None = None,
    define: Texts = (),
    excerpts: bool = True,
    out: Path | None = None,
    device: str | None = None,
    root: Place | None = None,
    offline: bool = False,
    json: bool = False,
) -> None:
    """Score a run's heads, or estimates in a folder, on whole tracks. An interrupted evaluation is continued.

    Args:
        run (RUN): a run's name or folder, or a model's name (see models list)
        estimates (DIR): score DIR/<track>/<target>.wav instead of a run
        data (ROOT): another data root than the run's
        split: the songs to score (default: test)
        tracks (PATTERN): only tracks named so, e.g. 'eir_*'
        quick: uSDR alone on at most 8 tracks, for development
        mixture: mixture.wav or the sum of stems (default: auto)
        museval: also SDR, ISR, SIR, SAR by museval (slow)
        museval_json (DIR): --museval, and museval's own files in DIR
        jobs (N): processes for museval (default: 1)
        define (NAME=STEM+STEM): score NAME on these stems
        excerpts: store no audio for the report
        out (DIR): where results.json goes (default: into the run; for a model by name: runs/MODEL)
    """
    from ...console import console, is_main, say
    from ...evaluation import evaluate as evaluation
    from ...report.write import report
    from ...runs.exchange.hub import find_model
    from ...runs.exchange.library import results_folder

    if (run is None) == (estimates is None):
        raise RecipeError("expected a run to evaluate, or --estimates DIR.")
    if quick and (museval or museval_json):
        raise RecipeError("--quick is uSDR alone; leave out --museval.")
    options = given(split=split, mixture=mixture, jobs=jobs) | {
        "tracks": tuple(tracks),
        "quick": quick,
        "with_museval": museval,
        "museval_json": museval_json,
        "excerpts": excerpts,
        "define": {name: tuple(names(stems, "+")) for name, stems in pairs(define, DEFINE)},
    }
    if run is None:
        assert estimates is not None
        if out:
            raise RecipeError("--out is for runs; results of --estimates DIR are written there.")
        folder, results = estimates, evaluation.evaluate_estimates(estimates, data, **options)
    else:
        found = find_model(run, **given(root=root), local_files_only=offline)
        out = out or results_folder(found, **given(root=root))
        folder = out or found.path
        results = evaluation.evaluate(found, data, out=out, **given(device=device), **options)
    if is_main():
        path = evaluation.results_path(folder, bool(results["partial"]))
        if json:
            print_json(results["summary"])
        console.print(report([path], None).rich_table())
        say(f"Written: {path}")


def report(
    run: Sequence[str],
    *,
    out: Path | None = None,
    group: Texts = (),
    published: bool = False,
    audio: bool = True,
    wandb: bool = False,
    root: Place | None = None,
) -> None:
    """Compare evaluated runs: tables, figures, and a page to listen to.

    Args:
        run (RUN): names or folders of evaluated runs
        out (DIR): write index.html, tables and figures there
        group (NAME=PATTERN): also score matching tracks
        published: also show published numbers, marked and never ranked
        audio: a page without players
        wandb: send tables and figures to wandb too
    """
    from ...console import console, say
    from ...recipe import RunSpec
    from ...report.write import report
    from ...runs.folder import find_run

    def folder(name: str) -> Path:
        for path in (Path(name), Path(root or RunSpec.root) / name):
            if path.suffix == ".json" or (path / "results.json").is_file():
                return path
        return find_run(name, **given(root=root)).path

    if wandb and not out:
        raise RecipeError("--wandb sends what is written; say where: --out DIR.")
    groups = dict(pairs(group, "{!r} is not NAME=PATTERN, e.g. real='eir_*'."))
    result = report([folder(name) for name in run], out, groups, published, audio)
    console.print(result.rich_table())
    print(result.markdown)
    if out:
        say(f"Written: {out / 'index.html'}")
        if wandb:
            from ...report.to_wandb import send

            say(f"wandb: {send(result, out)}")


def pairs(texts: Sequence[str], complaint: str) -> list[tuple[str, str]]:
    """(NAME, VALUE) of each NAME=VALUE; `RecipeError` with the complaint for anything else."""
    found = [text.partition("=") for text in texts]
    for text, (name, equals, value) in zip(texts, found, strict=True):
        if not (name and equals and value.strip("+")):
            raise RecipeError(complaint.format(text))
    return [(name, value) for name, _, value in found]
