"""Code that Slakh2100 and MedleyDB share: a metadata file per track names the instrument of every stem."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import queried
from ..names import MIXTURE
from .listing import File, Listed, Listing, first


class Instruments:
    """The names of a collection's stems: those of its metadata, or those of an option (name: instruments)."""

    def __init__(self, option: str, mapping: Mapping[str, Any] | None):
        self.option = option
        self.given = {slug(i): name for name, listed in (mapping or {}).items() for i in names_of(listed)}
        self.met: set[str] = set()
        self.unnamed: list[str] = []  # audio files that are in no metadata

    def name(self, instrument: str) -> str:
        self.met.add(slug(instrument))
        return self.given.get(slug(instrument), slug(instrument))

    def note_unread(self, listing: Listing, root: str) -> None:
        """Note the files that are not read, and the instruments of the option that no stem has."""
        if self.unnamed:
            text = f"{len(self.unnamed)} audio files of {root} are in no metadata and not read: {first(self.unnamed)}."
            listing.notes.append(text)
        idle = [queried(key, self.met) for key in self.given if key not in self.met]
        if idle and self.met:
            known = first(sorted(self.met), 12)
            listing.notes.append(f"{self.option}: no stem is called {first(idle)}; there are {known}.")


def slug(name: str) -> str:
    """``Strings (continued)`` → ``strings``, ``electric bass`` → ``electric_bass``: a name that a target can have."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)", "", name.lower())).strip("_")


def names_of(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else tuple(value)


def listed_track(
    name: str, split: str, folder: Path, files: Mapping[str, Sequence[File]], mixes: Sequence[Path]
) -> Listed:
    """A track of a rendered or recorded collection, whose files may end before the song does."""
    mixture = {MIXTURE: (File(mixes[0]),)} if mixes else {}
    return Listed(name, split, folder, {**{stem: tuple(found) for stem, found in files.items()}, **mixture}, True)


def read_metadata(path: Path, where: str, listing: Listing) -> dict[str, Any] | None:
    """The mapping in a YAML file; None and a finding if there is no such file or no mapping in it."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        stems = values.get("stems") or {} if isinstance(values, dict) else None
        if isinstance(stems, dict) and all(isinstance(facts, dict) for facts in stems.values()):
            return dict(values)
        problem = "it holds no mapping with a mapping for each of its stems"
    except OSError as error:
        problem = error.strerror or str(error)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
    listing.add_finding("metadata", where, f"{path} cannot be read: {problem}.")
    return None


def stem_facts(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """key → the metadata of a stem."""
    stems: Mapping[Any, Mapping[str, Any]] = metadata.get("stems") or {}
    return {str(key): facts for key, facts in stems.items()}
