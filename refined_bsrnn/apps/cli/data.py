"""The command that checks songs: ``check-data``."""

from collections.abc import Sequence
from pathlib import Path

from ...errors import RecipeError, UserError
from .command_line import given, print_json

SUSPECTS_SHOWN = 20


def check_data(
    data: str,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    model: str | None = None,
    out: Path = Path("check"),
    windows: int | None = None,
    suspect_weight: float | None = None,
    deviations: float | None = None,
    json: bool = False,
) -> int:
    """Read all data of a recipe or a folder and say what is wrong with them, before training.

    Args:
        data (RECIPE|ROOT): a recipe, or a folder or file of songs
        jobs (N): processes (default: one per processor)
        model (RUN): also find stems whose content differs from their name
        out (DIR): --model: list and page
        windows (N): --model: of 3 s, per stem (default: 6)
        suspect_weight (W): --model: 0 (default) to 1, for the list
        deviations (D): --model: suspicious above (default: 2)
    """
    from ...console import console, say
    from ...data.check.checker import check, unchecked
    from ...recipe import DataSpec, find_recipe, load_recipe

    if not data.strip():
        raise RecipeError("what to check is ''; expected a recipe, a folder of songs, or builtin.")
    place = Path(data)
    is_root = place.is_dir() or (place.is_file() and place.suffix not in (".yaml", ".yml")) or place.name == "builtin"
    if is_root and overrides:
        raise RecipeError("overrides are for a recipe; with a folder expected none.")
    try:
        recipe = None if is_root else find_recipe(data)
    except RecipeError as error:
        raise RecipeError(f"there is no folder or file {data!r}, and {error}") from None
    spec = DataSpec(root=data) if recipe is None else load_recipe(recipe, overrides)
    try:
        found = check(spec, jobs)
    except UserError as error:
        if json:
            print_json(unchecked(data, error))
        raise
    values, lines = found.values(), []
    if model and not found.stops:
        from ...evaluation.label_noise import find_suspects

        options = given(windows=windows, threshold=deviations, weight=suspect_weight)
        suspects = find_suspects(model, found.scan.tracks, out, **options)
        values["suspects"] = [{**vars(suspect), "reason": suspect.reason} for suspect in suspects]
        lines = [f"suspicious: {suspect.track} / {suspect.stem}: {suspect.reason}" for suspect in suspects]
        written = f"{out}/suspects.csv (for data.stem_weights=) and {out}/suspects.html (to listen to)"
        lines[SUSPECTS_SHOWN:] = [f"{len(suspects)} suspicious stems; written: {written}."]
    elif model:
        lines = ["The stems were not scored with --model: what stops training has to be mended first."]
    if json:
        print_json(values)
    for line in [*found.scan.notes, *found.sentences()]:
        say(line)
    for table in found.tables():
        console.print(table)
    for line in lines:
        say(line)
    say("Training stops at this." if found.stops else "Training can start.")
    return 1 if found.stops else 0
