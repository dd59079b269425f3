"""The commands that separate songs: ``separate``, ``app``."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from ...errors import RecipeError, UserError
from ...separation.options import InferenceOptions
from ...system import interrupted_by_signals
from ..songs.options import SeparationOptions
from ..texts import Place, Runs
from .command_line import given, print_json
from .models import add_learnt, chosen_models


def separate(
    input: Sequence[str],
    *,
    model: Runs = (),
    offline: bool = False,
    ensemble: Runs = (),
    options: SeparationOptions,
    how: InferenceOptions,
    live: bool = False,
    quiet: bool = False,
    device: str = "auto",
    threads: int | None = None,
    root: Place = "runs",
    json: bool = False,
) -> int:
    """Separate songs with chosen heads.

    Stems have the input's rate, length, channels and, where that is lossless, its format.

    Args:
        input (INPUT): files, folders, patterns, - for standard input
        model (RUN): names or folders of runs, public models (models list), best, hf:owner/name (default: the package's
            model)
        ensemble (RUN): more runs: each head is averaged over all
        quiet: print only failures

    How:
        live: causal networks only: separate live, in blocks of 0.1 s
    """
    from ...console import say, work_bar
    from ...runs.energy import energy_recorded, energy_wanted
    from ...runs.tracking import environment
    from ...separation.live import Live, LiveEstimates
    from ..songs.ensemble import load_ensemble
    from ..songs.inputs import find_songs
    from ..songs.stems import Result, separate_all, summary

    options.check()
    if live and (how.shifts != 1 or options.wiener):
        raise RecipeError("--live works on what has come in so far: leave out --shifts and --wiener, which look ahead.")
    if live and how.precision != "float32":
        raise RecipeError(f"--live computes in float32: leave out --precision {how.precision}.")
    songs, runs_among = _without_runs(input, root, bool(ensemble))
    _use_threads(threads)
    tell = (lambda text: None) if quiet else say
    runs = chosen_models([*model, *runs_among, *ensemble], options.needed, root, tell)
    _check_songs(songs, runs, root)
    where = {"device": device, "root": root, "local_files_only": offline}
    estimated, notes = load_ensemble(runs, options.needed, bool(ensemble), **where, **asdict(how))
    for separator, heads in estimated.passes if live else ():
        Live(separator, heads)  # refuses what cannot be live
    left_out: list[str] = []
    found = find_songs(songs, options.out, left_out.append)
    for note in [*notes, *left_out]:
        tell(note)
    estimates = LiveEstimates() if live else None
    results: list[Result] = []
    record = energy_recorded(options.out / "provenance.json", "separate", energy_wanted(), about=environment)
    try:
        with interrupted_by_signals(), record:
            for result in separate_all(found, estimated, options, _no_bar if quiet else work_bar, estimates):
                results.append(result)
                for line in result.lines():
                    (say if result.problem else tell)(line)
        if estimates:
            tell(estimates.line())
        if len(results) > 1:
            tell(summary(results))
    finally:
        if json:  # every song and what has become of it, also where the work was interrupted
            rows = [result.values() for result in results]
            for i, song in enumerate(found[len(results) :]):
                rows.append({**Result(song).values(), "status": "not tried" if i else "interrupted"})
            print_json({"songs": rows, "left_out": left_out, "interrupted": len(results) < len(found)})
    return int(any(result.problem for result in results))


@contextmanager
def _no_bar(text: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
    yield lambda share: None


def plain_words(words: Sequence[str]) -> list[str]:
    """Handle ``--wiener`` without a number (the next word is then a song) and ``--`` (no options after it)."""
    end = words.index("--") if "--" in words else len(words)
    result: list[str] = []
    for word, then in zip(words[:end], [*words[1:end], ""], strict=False):
        alone = word == "--wiener" and not then.lstrip("-").isdecimal()
        result.append("--wiener=1" if alone else word)
    return result + [f"./{word}" if word.startswith("-") and word != "-" else word for word in words[end + 1 :]]


def _without_runs(texts: Sequence[str], root: str, averaged: bool) -> tuple[list[str], list[str]]:
    """(songs, runs): supports the older form ``--model A B``, in which a run among the songs counts as a run."""
    songs, runs = list(texts), []
    for text in texts:
        folders = [Path(text), Path(root) / text]
        if os.path.isfile(text) or not any(os.path.isfile(folder / "recipe.yaml") for folder in folders):  # noqa: PTH113
            continue
        if averaged:
            raise RecipeError(f"{text} is a run, not a song. Several runs: --model A,B or --ensemble A,B.")
        songs.remove(text)
        runs.append(text)
    if not songs:
        raise RecipeError("there is no song; expected files, folders, patterns, or - for standard input.")
    return songs, runs


def _check_songs(songs: Sequence[str], runs: Sequence[str], root: str) -> None:
    """`RecipeError` for a head among the songs, as in ``--head A B``."""
    from ...runs.exchange.hub import find_model

    missing = [text for text in songs if text != "-" and not os.path.lexists(text)]
    heads: set[str] = set()
    for run in runs if missing else ():
        with suppress(UserError):  # what is not here yet is not fetched for this
            heads |= set(find_model(run, root, local_files_only=True).head_names())
    for text in missing:
        if text in heads:
            raise RecipeError(f"{text} is a head, and there is no song of that name. Several heads: --head NAME,{text}")


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        if threads < 1:
            raise RecipeError(f"--threads is {threads}; expected 1 or more.")
        torch.set_num_threads(threads)


def app(
    *,
    model: Place | None = None,
    offline: bool = False,
    host: str | None = None,
    port: int | None = None,
    max_mb: float | None = None,
    keep_minutes: float | None = None,
    public_url: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    root: Place = "runs",
) -> None:
    """Separate songs in a browser: drop a song, mix and download its stems. Nothing uploaded is kept.

    Args:
        model (RUN): a run, a public model, best (default: the package's own model)
        host (HOST): 0.0.0.0 lets others in (default: this machine alone)
        port (PORT): 0: any that is free (default: 7860)
        max_mb (MB): largest song (default: 500)
        keep_minutes (M): delete songs that nobody uses for that long (default: 60)
        public_url (URL): its address behind a proxy, e.g. https://stems.example.org/songs
    """
    from ...console import say
    from ...runs.exchange.hub import find_model
    from ...separation.separator import Separator
    from ..browser.app import App, serve
    from ..browser.studio import Studio

    _use_threads(threads)
    name = chosen_models([model] if model else [], None, root, say)[0]
    run = find_model(name, root, local_files_only=offline)
    separator = Separator.from_pretrained(run.path, device=device)
    for line in add_learnt(separator, run, root):
        say(line)
    keep_seconds = None if keep_minutes is None else keep_minutes * 60
    studio = Studio(separator, Path(name).name, **given(max_mb=max_mb, keep_seconds=keep_seconds))
    with interrupted_by_signals():
        serve(App(studio, **given(host=host, port=port), public_url=public_url))
