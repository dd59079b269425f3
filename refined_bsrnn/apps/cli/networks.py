"""The commands about networks: ``import``, ``export-onnx``, ``info``, ``bands``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import RecipeError
from ..texts import Place
from .command_line import given, print_json


def import_networks(checkpoint: Sequence[Path], *, config: Path | None = None, out: Path, json: bool = False) -> None:
    """Make runs of published checkpoints: oBSRNN, BS-RoFormer, Mel-Band RoFormer.

    Args:
        checkpoint (CHECKPOINT): e.g. separator.ckpt, model.ckpt
        config (YAML): the configuration that a RoFormer is published with
        out (RUN): a new folder; of several: RUN-<file's name>
    """
    from ...console import say
    from ...runs.exchange.importing import import_networks

    runs = import_networks(checkpoint, out, config)
    for run in runs:
        heads = ", ".join(run.head_names())
        say(f"Written: {run.path}, heads {heads}. A new head on its backbone:")
        say(f"  refined-bsrnn transfer --base {run.path} --target NAME")
        recipe = run.load_recipe()
        if recipe.together == "subtract_last":
            rest = recipe.targets[-1]
            say(f"  {rest} is what {heads} leave of the mixture; to score it on other stems: --define {rest}=STEM+STEM")
    if json:
        print_json({str(run.path): run.head_names() for run in runs})


def export_onnx(
    run: str,
    *,
    out: Path,
    head: Sequence[str] | None = None,
    overwrite: bool = False,
    root: Place | None = None,
    offline: bool = False,
) -> None:
    """Write the network between STFT and iSTFT as ONNX (.onnx) or torch.export (.pt2) for other runtimes.

    Args:
        run (RUN): a run's name or folder, or a model's name (see models list)
        out (FILE): ends in .onnx or .pt2
        head (NAME): heads to export (default: all)
        overwrite: replace an existing file
    """
    from ...console import say
    from ...runs.exchange.export import export_core
    from ...runs.exchange.hub import find_model
    from ...runs.folder import load_model

    model = load_model(find_model(run, **given(root=root), local_files_only=offline))
    say(f"Written: {export_core(model, out, None if head == ['all'] else head, overwrite, say)}")


def info(
    network: str,
    overrides: Sequence[str] = (),
    *,
    root: Place | None = None,
    offline: bool = False,
    json: bool = False,
) -> None:
    """Show what a network is made of: shapes, parameters, multiply-accumulates.

    Args:
        network (RECIPE|RUN): a recipe, a run or a model; of one name: the run before the recipe before the model
    """
    from ...console import console
    from ...network.info import describe, describe_network
    from ...recipe import RunSpec, find_recipe, load_recipe
    from ...report.network_table import network_table
    from ...runs.exchange.hub import find_model
    from ...runs.exchange.library import is_model
    from ...runs.folder import find_run, load_model

    places = (Path(network), Path(root or RunSpec.root) / network)
    run = find_run(network, **given(root=root)) if any((path / "recipe.yaml").is_file() for path in places) else None
    recipe = run.recipe if run else None
    if recipe is None:
        try:
            recipe = find_recipe(network)
        except RecipeError:
            if not is_model(network):
                raise
            run = find_model(network, **given(root=root), local_files_only=offline)
            recipe = run.recipe
    if run and run.head_names() and not overrides:  # with the heads that it has by now
        found = describe_network(load_model(run))
    else:
        found = describe(load_recipe(recipe, overrides))
    if json:
        print_json(found.values())
    else:
        console.print(network_table(found.values()))


def bands(
    scheme: Sequence[str] = (),
    *,
    table: bool = False,
    match: int | None = None,
    png: Path | None = None,
    sample_rate: int | None = None,
    n_fft: int | None = None,
    json: bool = False,
) -> None:
    """Print, draw and compare band schemes.

    Args:
        scheme (SCHEME): each with its options behind it, e.g. v7 tet divisions=12 erb n_bands=32
        table: compare them in a Markdown table (default: all schemes)
        match (K): a table of the schemes that can have exactly K bands
        png (FILE): draw them
        sample_rate (HZ): of the audio (default: 44100)
        n_fft (N): of the STFT (default: 2048)
    """
    from ...bands import band_split, ranges_hz
    from ...recipe import StftSpec
    from ...report.band_table import band_table, matched_table, scheme_label
    from ...report.figures import bands_figure, save

    schemes = _schemes(scheme)
    if match is not None or table:
        rate = given(sample_rate_hz=sample_rate)
        print((band_table(schemes, **rate) if match is None else matched_table(match, schemes, **rate)).markdown)
        return
    schemes = schemes or [("v7", {}), ("tet24", {})]
    kinds = [kind for kind, _ in schemes]
    stft = StftSpec(**given(sample_rate_hz=sample_rate, n_fft=n_fft))
    grid = {"sample_rate_hz": stft.sample_rate_hz, "n_fft": stft.n_fft}
    splits = {
        kind if kinds.count(kind) == 1 else scheme_label(kind, options): band_split(kind, **grid, **options)
        for kind, options in schemes
    }
    if json:
        facts = ("overlapping", "ranges")
        print_json({k: {"n_bands": len(v), **{fact: getattr(v, fact) for fact in facts}} for k, v in splits.items()})
    for name, split in splits.items() if not json else ():
        if split.overlapping:
            bins = f"overlapping bins {' '.join(f'{start}-{stop}' for start, stop in split)}"
        else:
            bins = f"first bins {' '.join(str(start) for start, _ in split)} | {split.n_bins}"
        print(f"{name}: {len(split)} bands; {bins}")
    if png:
        hz = {name: ranges_hz(split, **grid) for name, split in splits.items()}
        widths = {name: [stop - start for start, stop in split] for name, split in splits.items()}
        print(f"Written: {save(bands_figure(hz, widths), png)}", file=sys.stderr)


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
