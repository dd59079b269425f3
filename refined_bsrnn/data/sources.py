"""The places of the songs: ``data.root`` or ``data.sources`` → the layout, place and options of every source.

To add a layout of data sets, write one file in `layouts` and one line in `LAYOUTS`.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, RecipeError, fits, pick, queried
from ..recipe import DATA_ROOT_VARIABLE, DataSpec, SourceSpec
from ..schema import bind_options
from ..system import expand_home
from .layouts.builtin import BUILTIN_STEMS
from .layouts.folder import FOLDER
from .layouts.hub import HUGGINGFACE
from .layouts.listing import SPLITS, Layout, Listing
from .layouts.manifest import MANIFEST
from .layouts.multitrack import MEDLEYDB, SLAKH
from .layouts.musdb import MUSDB

BUILTIN = "builtin"  # as data.root: the built-in stems, whatever the environment says

# In the order in which they are tried on a root whose kind is not given; a folder that none recognises is a `folder`.
LAYOUTS: dict[str, Layout] = {
    "folder": FOLDER,
    "musdb": MUSDB,
    "slakh": SLAKH,
    "medleydb": MEDLEYDB,
    "manifest": MANIFEST,
    "huggingface": HUGGINGFACE,
    "builtin": BUILTIN_STEMS,
}


@dataclass(frozen=True)
class Sources:
    """The sources of a recipe, each with its kind and place."""

    specs: tuple[SourceSpec, ...]
    notes: tuple[str, ...] = ()  # the guesses
    from_root: bool = True  # from data.root or the environment, not from data.sources

    @property
    def is_builtin(self) -> bool:
        return all(spec.kind == BUILTIN for spec in self.specs)

    @property
    def name(self) -> str:
        if self.is_builtin:
            return "built-in synthetic stems"
        return " + ".join(source_name(spec) for spec in self.specs)

    @property
    def where(self) -> str:
        """The folders, files or names."""
        return ", ".join(str(spec.options.get("root", BUILTIN)) for spec in self.specs)

    def resolved(self, spec: DataSpec) -> DataSpec:
        """The recipe's section that finds the same data again in any environment."""
        if self.from_root:
            return replace(spec, root=BUILTIN if self.is_builtin else self.where)
        return replace(spec, root=None, sources=self.specs)


def source_name(spec: SourceSpec) -> str:
    root = str(spec.options.get("root", spec.kind))
    return Path(root).name if Path(root).exists() else root


def find_sources(spec: DataSpec) -> Sources:
    """``data.sources``, ``data.root``, ``$MUSDB18HQ_ROOT``, or the built-in stems, made on first use.

    The kind ``auto`` (of a root) is guessed from the files. A root that does not exist is always a `DataError`; no
    other source replaces it.
    """
    if spec.sources:
        found = [_known(source, f"data.sources[{i}]") for i, source in enumerate(spec.sources)]
        return Sources(tuple(s for s, _ in found), tuple(note for _, note in found if note), from_root=False)
    for place, named in (("data.root", spec.root), (f"${DATA_ROOT_VARIABLE}", os.environ.get(DATA_ROOT_VARIABLE))):
        if named == BUILTIN:
            break
        if named:
            source, note = _known(SourceSpec(options={"root": named}), place)
            return Sources((source,), (note,))
    return Sources((SourceSpec(BUILTIN),))


def _known(source: SourceSpec, where: str) -> tuple[SourceSpec, str]:
    """The source with its kind and its absolute root, and a note if the kind was guessed."""
    layout = None if source.kind == "auto" else pick(f"{where}.kind", source.kind, LAYOUTS)
    if layout is BUILTIN_STEMS:
        return source, ""
    named = source.options.get("root")
    if not isinstance(named, str) or not named:
        raise RecipeError(f"{where} says no root; expected the folder or file that holds the songs.")
    path = expand_home(named)
    if not path.exists() and layout is not HUGGINGFACE:
        raise DataError(
            f"{where} is {named!r}, and there is no such folder. Expected a folder that holds train/<track>/<stem>.wav "
            f"(MUSDB18-HQ's layout) or is laid out as one of {', '.join(LAYOUTS)}."
        )
    note, kind = "", source.kind
    if source.kind == "auto":
        kind, why = guess(path)
        note = f"{named} is read as {kind}: {why}. Otherwise: data.sources=[{{kind: ..., root: ...}}]."
    root = str(path.resolve()) if path.exists() else named
    return replace(source, kind=kind, options={**source.options, "root": root}), note


def guess(root: Path) -> tuple[str, str]:
    """The kind of source in a folder or file, and the reason."""
    for kind, layout in LAYOUTS.items():
        if why := layout.recognise(root):
            return kind, why
    if root.is_file():
        raise DataError(f"{root} is a file; expected a folder of songs, a .csv or .jsonl manifest, or a .parquet file.")
    return "folder", "a folder per song, a file or folder per stem"


def list_source(source: SourceSpec, splits: Sequence[str], where: str = "data.sources") -> Listing:
    """The tracks of one source; for a source without splits, ``test_tracks`` (names or patterns) are the test split."""
    options = dict(source.options)
    patterns = options.pop("test_tracks", ())
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    function = pick(f"{where}.kind", source.kind, LAYOUTS).list_tracks
    options = bind_options(f"{where} ({source.kind})", function, options, ("splits",))
    try:
        listing = function(SPLITS if patterns else splits, **options)
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read: {problem.strerror}.") from None
    if patterns:
        names = [track.name for track in listing.tracks]
        check_patterns(f"{where}.test_tracks", patterns, names)
        tested = {name for name in names if fits(name, patterns)}
        moved = [replace(t, split="test") if t.name in tested else t for t in listing.tracks]
        listing.tracks = [t for t in moved if t.split in splits]
    return listing


def check_patterns(where: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """`DataError` for a name or pattern that matches no track: a misspelt one would change the choice of tracks."""
    idle = [pattern for pattern in patterns if not any(fits(name, [pattern]) for name in names)]
    if idle:
        named = " or ".join(queried(pattern, names) for pattern in idle)
        raise DataError(f"{where}: of {len(names)} tracks none is called {named}.")


def announce_builtin(say: Callable[[str], None]) -> None:
    """The banner of a run on built-in stems."""
    say("=" * 88)
    say("NO DATA SET GIVEN: using the BUILT-IN SYNTHETIC STEMS. Good for trying things out, not for results.")
    say(f"For real music: data.root=/path/to/musdb18hq, or set {DATA_ROOT_VARIABLE}.")
    say("=" * 88)
