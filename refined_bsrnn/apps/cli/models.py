"""Public models by name: list, show, download, remove, path; and the model of a command that names none."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RecipeError, UserError
from .command_line import print_json

if TYPE_CHECKING:
    from ...runs.folder import RunFolder
    from ...separation.separator import Separator


def list_models(*, json: bool = False) -> None:
    """All models: heads, size, licence, published score, whether they are here."""
    from rich.table import Table

    from ...console import console
    from ...runs.exchange.catalogue import read_catalogue
    from ...runs.exchange.library import packaged_models, pulled

    entries = read_catalogue().entries.values()
    if json:
        print_json([_values(entry) for entry in entries])
        return
    table = Table("name", "heads", "size", "here", "licence of the weights", "published score")
    table.columns[0].no_wrap = True
    for run in packaged_models():
        table.add_row(run.name, ", ".join(run.head_names()), "in the package", "yes", "as the package", "")
    for entry in entries:
        here = "yes" if pulled(entry.name) else "no"
        table.add_row(entry.name, ", ".join(entry.targets), entry.size, here, entry.licence, entry.score)
    console.print(table)


def _values(entry: Any) -> dict[str, Any]:
    """An entry for programs, with the folder of its run, null where it is not here."""
    from ...runs.exchange.library import pulled

    run = pulled(entry.name)
    return {**asdict(entry), "listed_in": str(entry.listed_in), "path": str(run.path) if run else None}


def show(name: str, *, json: bool = False) -> None:
    """Show all facts about a model."""
    from ...runs.exchange.catalogue import read_catalogue
    from ...runs.exchange.library import introduction, packaged_models

    own = {run.name: run for run in packaged_models()}
    if name in own and not json:
        print(introduction(own[name]))
        return
    entry = read_catalogue().find(name)
    values = _values(entry)
    if json:
        print_json(values)
        return
    for key, value in values.items():
        if key == "published" and value:
            value = entry.score
        if key in ("sha256", "md5") and value is None:
            continue
        print(f"{key}: {_words(value)}")
    if not values["sha256"] and not values["md5"]:
        print("checksum: none listed; a pull cannot verify the file and notes what it received")


def _words(value: Any) -> str:
    if value in (None, {}):
        return "not known"
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def pull(models: Sequence[str], *, offline: bool = False) -> None:
    """Download, verify and convert models."""
    from ...console import say
    from ...runs.exchange.catalogue import BEST, read_catalogue
    from ...runs.exchange.library import pull, pulled

    catalogue = read_catalogue()
    entries = [catalogue.best_for() if name == BEST else catalogue.find(name) for name in models]
    for entry in dict.fromkeys(entry.name for entry in entries):  # a name that is unknown stops all of them
        if run := pulled(entry):
            say(f"{entry} is here already: {run.path}.")
            continue
        pull(catalogue.find(entry), offline)


def remove(name: str) -> None:
    """Delete a downloaded model."""
    from ...console import say
    from ...runs.exchange.library import remove

    say(f"Removed: {remove(name)}. Heads that were trained on it need it; `models pull {name}` puts it back.")


def path(name: str) -> None:
    """The folder of a downloaded model."""
    from ...runs.exchange.catalogue import read_catalogue
    from ...runs.exchange.library import pulled

    run = pulled(name)
    if run is None:
        entry = read_catalogue().find(name)
        raise RecipeError(f"{entry.name} is not on this machine. Fetch it: refined-bsrnn models pull {entry.name}")
    print(run.path)


COMMANDS = {"list": list_models, "show": show, "pull": pull, "remove": remove, "path": path}


# --- the model of a command -------------------------------------------------------------------------------------------


def chosen_models(
    names: Sequence[str], heads: Collection[str] | None, root: str, say: Callable[[str], None]
) -> list[str]:
    """The models of a command: the named ones, ``best`` by its name, or the package's own.

    The package's own model comes with the runs in ``root`` that have a requested head trained on it.
    """
    from ...runs.exchange.catalogue import BEST, read_catalogue
    from ...runs.exchange.library import default_model, introduction

    if names:
        is_run = (Path(BEST) / "recipe.yaml").is_file() or (Path(root) / BEST / "recipe.yaml").is_file()
        return [read_catalogue().best_for(heads).name if name == BEST and not is_run else name for name in names]
    run = default_model()
    say(introduction(run, [head for head in heads or () if head in run.head_names()] or None))
    missing = [head for head in heads or () if head not in run.head_names()]
    learnt = [other for other, found in learnt_on(run, root) if set(missing) & set(found)]
    return [str(run.path), *(str(other.path) for other in learnt)]


def learnt_on(run: "RunFolder", root: str) -> "list[tuple[RunFolder, list[str]]]":
    """The runs in ``root`` with heads that were trained on a run's frozen backbone, and those heads."""
    from ...runs.folder import RunFolder, backbone_file, read_metadata

    digest, found = read_metadata(backbone_file(run)).get("sha256"), []
    for recipe in sorted(Path(root).glob("*/recipe.yaml")):
        other = RunFolder(recipe.parent)
        try:
            own = [n for n in other.head_names() if read_metadata(other.head(n)).get("backbone_sha256") == digest]
        except UserError:  # a run that is damaged is no reason not to show the others
            continue
        if (
            own and not other.backbone.is_file() and not other.path.samefile(run.path)
        ):  # a transfer: another run's heads have a backbone beside them
            found.append((other, own))
    return found


def add_learnt(separator: "Separator", run: "RunFolder", root: str) -> list[str]:
    """Attach the heads that were trained on a run to a separator of it; returns a message about each."""
    lines = []
    for other, names in learnt_on(run, root):
        for name in names:
            if name in separator.heads:
                lines.append(f"{other.path} has a head {name} too, which is not shown: --model {other.path} shows it.")
                continue
            try:
                separator.load_head(other.head(name), name)
                lines.append(f"With the head {name}, learnt in {other.path}.")
            except UserError as error:
                lines.append(f"The head {name} of {other.path} is not shown: {error}")
    return lines
