"""Turns published checkpoints of any supported layout into ordinary runs.

refined-bsrnn import CHECKPOINT... [--config YAML] --out RUN
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, RecipeError
from ...system import unwritable
from ...temporary import owned_folder
from ..folder import RunFolder
from .obsrnn import read_obsrnn
from .published_network import PublishedNetwork
from .roformer import is_roformer, read_roformer
from .roformer_config import RoformerConfig
from .torchfile import TorchFile


def read_network(file: TorchFile, config: Path | None = None) -> PublishedNetwork:
    """The network of an open checkpoint. ``config``: the YAML file that a RoFormer is published with.

    Raises `CheckpointError` and `RecipeError` for files that cannot be read as one.
    """
    if is_roformer(file.names):
        if config is None:
            raise RecipeError(
                f"{file.path} is a RoFormer, whose targets and STFT stand in a file of their own. Give the YAML file "
                "that was published with it: --config FILE."
            )
        return read_roformer(file, RoformerConfig(config))
    if config is not None:
        raise RecipeError(f"{file.path} is no RoFormer; --config {config} is for those. Leave it out.")
    return read_obsrnn(file)


def import_networks(paths: Sequence[Path], out: Path, config: Path | None = None) -> list[RunFolder]:
    """Write each checkpoint as a run: a single one to ``out``, several to ``out``-<the file's name>.

    Every checkpoint has its own backbone. All names and shapes are checked before the first run is written, each run
    appears when it is complete, and no non-empty folder is overwritten. Raises `CheckpointError` and `RecipeError`.
    """
    folders = [out if len(paths) == 1 else out.with_name(f"{out.name}-{path.stem}") for path in paths]
    for folder in folders:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise RecipeError(f"{folder} exists already and is not overwritten: choose another --out, or remove it.")
    if len(set(folders)) < len(folders):
        raise RecipeError(f"two of the checkpoints would both become {out}-<name>; import them one by one.")
    networks = [read_network(TorchFile(path), config) for path in paths]
    for network, folder in zip(networks, folders, strict=True):
        _write(network, folder)
    return [RunFolder(folder) for folder in folders]


def import_network(path: Path, out: Path, config: Path | None, root: str, **facts: Any) -> RunFolder:
    """Write one checkpoint as the run ``out``; ``root``: where runs that are made from it go.

    ``facts`` are added to its `provenance.json`. Raises `CheckpointError` and `RecipeError`; then there is no ``out``.
    """
    _write(read_network(TorchFile(path), config), out, root, facts)
    return RunFolder(out)


def _write(
    network: PublishedNetwork, folder: Path, root: str | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Written beside ``folder`` and renamed when it is whole: a damaged checkpoint leaves nothing behind."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(folder.parent, f".import-{folder.name}-") as temporary:
            whole = RunFolder(temporary / folder.name)
            network.write(whole, RunFolder(folder).name, root or str(folder.parent), facts or {})
            if folder.exists():
                folder.rmdir()  # empty: it was looked at before
            whole.path.replace(folder)
    except OSError as problem:
        raise unwritable(folder, problem, CheckpointError) from None
