"""Models by name: those that come with the package, and public ones that are downloaded once and stored as runs.

<cache>/models/NAME/                an ordinary run <cache>/models/downloads/NAME/      downloads in progress; also the
place for files downloaded by hand

catalogue ──download, verify──> checkpoint ──import──> run; the checkpoint is deleted
"""

import fnmatch
import os
import re
import shutil
import zipfile
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.constants import HF_HUB_CACHE

from ...console import say
from ...errors import CheckpointError, RecipeError, UserError
from ...system import cache_folder, unwritable, write_text
from ...temporary import alone
from ..folder import RunFolder
from ..heads import HeadFacts, list_heads
from .catalogue import BEST, NAME, Entry, file_name, read_catalogue
from .download import Received, RemoteFile, check_room, download, is_offline
from .importing import import_network

PACKAGED = Path(__file__).parents[2] / "models"  # runs in the form that `heads export` writes
ROOT = "runs"  # where runs that are made from a pulled model go


def library_folder() -> Path:
    """Where pulled models are kept."""
    return cache_folder() / "models"


# --- what is on this machine ------------------------------------------------------------------------------------------


def packaged_models() -> list[RunFolder]:
    """The models that come with the package, by name."""
    return [RunFolder(path.parent) for path in sorted(PACKAGED.glob("*/recipe.yaml"))]


def default_model() -> RunFolder:
    """The model that is used if none is named; `RecipeError` if the package has none."""
    models = packaged_models()
    if not models:
        raise RecipeError(
            f"this installation has no model of its own ({PACKAGED} holds none). Name a run or a public model with "
            "--model; `refined-bsrnn models list` shows those there are."
        )
    return models[0]


def pulled(name: str) -> RunFolder | None:
    """The pulled or packaged model of that name, where it is on this machine."""
    for folder in (library_folder(), PACKAGED):
        if re.fullmatch(NAME, name) and os.path.isfile(folder / name / "recipe.yaml"):  # noqa: PTH113 (any length)
            return RunFolder(folder / name)
    return None


def is_model(name: str) -> bool:
    """Whether a model has this name: in the package, downloaded, or in a catalogue."""
    return name == BEST or pulled(name) is not None or name in read_catalogue().entries


def results_folder(run: RunFolder, root: str = ROOT) -> Path | None:
    """The folder for an evaluation's results: None for the run's own folder; a shared model is not changed."""
    places = (PACKAGED, library_folder(), Path(HF_HUB_CACHE))
    shared = any(run.path.resolve().is_relative_to(place.resolve()) for place in places)
    return Path(root) / run.name if shared else None


def introduction(run: RunFolder, heads: Collection[str] | None = None) -> str:
    """A message about a packaged model: its heads, training and quality, and the best public model."""
    facts = list_heads(run)
    chosen = [head for head in facts if heads is None or head.name in heads] or facts
    text = f"Model {run.name}, which comes with the package (heads {', '.join(head.name for head in facts)})"
    text += f"; {_training(facts)}; {_expectation(chosen)}."
    try:
        best = read_catalogue().best_for(heads or [head.name for head in facts])
    except RecipeError:
        return f"{text} No single public model in the catalogue has these heads: refined-bsrnn models list."
    score = f", published with {best.score}" if best.score else ""
    return f"{text} The best public model for this: {best.name} ({best.size}{score}): --model {BEST}."


def _training(heads: Collection[HeadFacts]) -> str:
    trained = next((head.trained for head in heads if head.trained), None)
    if trained is None:
        return "its training is not known"
    data = trained["data"]
    return f"trained on {data['name']} ({data['n_tracks']} songs) for {trained['audio_hours']:.1f} h of audio"


def _expectation(heads: Collection[HeadFacts]) -> str:
    scored = [head for head in heads if head.score.get("usdr") is not None]
    if not scored:
        return "not scored yet, so expect little"
    numbers = ", ".join(f"{head.name} {head.score['usdr']:.1f}" for head in scored)
    score = scored[0].score
    return f"expect about {numbers} dB uSDR (its {score['split']} songs, {score['n_tracks']} of them)"


def named(name: str, heads: Collection[str] | None = None, offline: bool = False) -> RunFolder | None:
    """The model of that name: in the library, in the package, or downloaded now; None if no catalogue has it.

    ``best`` is the catalogue's best for ``heads``.
    """
    if found := pulled(name):
        return found
    catalogue = read_catalogue()
    if name == BEST:
        return pull(catalogue.best_for(heads), offline)
    return pull(catalogue.entries[name], offline) if name in catalogue.entries else None


# --- pulling ----------------------------------------------------------------------------------------------------------


def pull(entry: Entry, offline: bool = False) -> RunFolder:
    """Download, verify and convert a public model, unless it is here; waits for another process that does so.

    Raises `UserError` if the network, the disk or the files do not permit it; the received part is kept for the next
    call, and no incomplete run is visible.
    """
    run = RunFolder(library_folder() / entry.name)
    if run.recipe.is_file():
        return run
    with _alone(entry.name):
        if not run.recipe.is_file():  # another process may have made it meanwhile
            _make(entry, run, offline)
    return run


def _make(entry: Entry, run: RunFolder, offline: bool) -> None:
    folder = library_folder() / "downloads" / entry.name
    place, advice = folder / file_name(entry.url), _advice(entry, entry.url, folder)
    wanted = RemoteFile(entry.url, place, entry.bytes, entry.checksum, advice)
    if not wanted.path.is_file():
        _check_allowed(entry, offline)
        say(
            f"{entry.name}: heads {', '.join(entry.targets)}; {entry.size} from {wanted.url}\n"
            f"Licence of the weights: {entry.licence}."
        )
    received = [download(wanted, room=entry.bytes or 0)]  # the run takes as much again
    config = None
    if isinstance(entry.config, str):
        other = RemoteFile(entry.config, folder / file_name(entry.config), advice=_advice(entry, entry.config, folder))
        if not other.path.is_file():
            _check_allowed(entry, offline)
        received.append(download(other))
        config = other.path
    elif entry.config is not None:
        config = folder / "config.yaml"
        write_text(config, yaml.safe_dump(dict(entry.config)))
    _say_verified(received[0])
    checkpoint = _member(wanted.path, entry.member) if entry.member else wanted.path
    facts = {"catalogue": _facts(entry, received)}
    say(f"Converting {checkpoint.name} to a run.")
    shutil.rmtree(folder / "run", ignore_errors=True)  # what a call left that was killed here
    made = import_network(checkpoint, folder / "run" / entry.name, config, ROOT, **facts)
    try:
        made.path.replace(run.path)
    except OSError as problem:
        raise unwritable(run.path, problem, CheckpointError) from None
    shutil.rmtree(folder, ignore_errors=True)
    heads = run.head_names()
    say(f"{entry.name} is ready in {run.path}: heads {', '.join(heads)}.")
    if not set(heads) <= set(entry.targets):
        say(f"The catalogue calls its heads {', '.join(entry.targets)}; the names in the checkpoint's files count.")


def _advice(entry: Entry, url: str, folder: Path) -> str:
    return (
        f"Without this, fetch {url} by hand, put it at {folder / file_name(url)} and run "
        f"`refined-bsrnn models pull {entry.name}` again."
    )


def _check_allowed(entry: Entry, offline: bool) -> None:
    if offline or is_offline():
        why = "--offline" if offline else "HF_HUB_OFFLINE is set"
        raise RecipeError(
            f"the model {entry.name} is not on this machine, and nothing is fetched ({why}). Where there is a network, "
            f"run: refined-bsrnn models pull {entry.name}"
        )


def _say_verified(received: Received) -> None:
    if any(fact in received.verified for fact in ("sha256", "md5")):
        say(f"{received.path.name}: {' and '.join(received.verified)} are as listed.")
        return
    listed = "Its size is as listed. " if received.verified else ""
    say(
        f"No checksum is listed for {received.path.name}, so it cannot be verified. {listed}Received, and noted in the "
        f"run's provenance.json: {received.bytes} bytes, sha256 {received.sha256}."
    )


def _facts(entry: Entry, received: Collection[Received]) -> dict[str, Any]:
    """What the run's provenance keeps of where it came from."""
    kept = ("name", "url", "licence", "trained_on", "published")
    files = [{**asdict(each), "path": each.path.name, "verified": list(each.verified)} for each in received]
    return {**{key: value for key, value in asdict(entry).items() if key in kept and value}, "files": files}


def _member(path: Path, name: str) -> Path:
    """The checkpoint in a zip, unpacked beside it."""
    out = path.with_name(Path(name).name)
    try:
        with zipfile.ZipFile(path) as archive:
            found = [part for part in archive.infolist() if fnmatch.fnmatchcase(part.filename, name)]
            if len(found) != 1:
                names = ", ".join(archive.namelist()[:6]) or "nothing"
                raise CheckpointError(f"{path} should hold one file {name}; it holds {names}.")
            check_room(path.parent, 2 * found[0].file_size, out.name)  # and the run
            with archive.open(found[0]) as packed, out.open("wb") as file:
                shutil.copyfileobj(packed, file, 2**20)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{path} is no zip, or is damaged: {error}. Remove it and pull again.") from None
    except OSError as problem:
        raise unwritable(out, problem, CheckpointError) from None
    return out


def _alone(name: str) -> AbstractContextManager[None]:
    """Within the block no other process downloads or removes that model; waits for one that does."""
    folder = library_folder()
    text = f"Another process is at work on {name}; waiting for it."
    return alone(folder / f".{name}.lock", text, partial(unwritable, folder))


def remove(name: str) -> Path:
    """Delete a downloaded model and the rest of its downloads; `RecipeError` if there is nothing of that name."""
    run, downloads = library_folder() / name, library_folder() / "downloads" / name
    if not re.fullmatch(NAME, name) or not (run.is_dir() or downloads.is_dir()):
        raise RecipeError(f"there is no pulled model {name!r} in {library_folder()}.")
    with _alone(name):
        try:
            if run.is_dir():
                downloads.mkdir(parents=True, exist_ok=True)
                run.replace(downloads / "removed")  # at once: nobody loads half of it
            if downloads.is_dir():
                shutil.rmtree(downloads)
        except OSError as problem:
            raise UserError(f"{run} cannot be removed: {problem.strerror}.") from None
    return run
