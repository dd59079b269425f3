"""The catalogue of public networks: their names, heads, places of publication and licences.

`catalogue.yaml` comes with the package. A file of the user's (`user_file`) extends it; an entry there replaces the
package's entry of the same name. Nothing here uses the network.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import unquote, urlsplit

from ...errors import RecipeError, check_has, nearest
from ...recipe import check_target_name
from ...schema import read_yaml, typed
from ...system import expand_home

VARIABLE = "REFINED_BSRNN_MODELS"
PACKAGED = Path(__file__).with_name("catalogue.yaml")
KINDS = ("obsrnn", "bs_roformer", "mel_band_roformer")
USUAL = ("vocals", "drums", "bass", "other")  # what is meant where no heads are asked for
DIGITS = {"sha256": 64, "md5": 32}
BEST = "best"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


@dataclass(frozen=True)
class Entry:
    """One public network. ``config``: the address of its MSST configuration, or the configuration itself.

    ``member``: the checkpoint's name in the zip at ``url``; ``bytes``, ``sha256`` and ``md5`` are those of the file at
    ``url``, None if none is listed; ``published``: the score that its authors state, with test set and metric.
    """

    name: str
    kind: str
    targets: tuple[str, ...]
    url: str
    licence: str
    listed_in: Path
    config: str | Mapping[str, Any] | None = None
    member: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    trained_on: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Algorithm and hexadecimal digest, where one is listed."""
        for algorithm in DIGITS:
            if digest := getattr(self, algorithm):
                return algorithm, digest.lower()
        return None

    @property
    def score(self) -> str:
        """``vocals 10.98 dB (SDR, Multisong)``; empty if no score is published."""
        numbers = [f"{key} {value:.2f}" for key, value in self.published.items() if key not in ("set", "metric")]
        if not numbers:
            return ""
        return f"{', '.join(numbers)} dB ({self.published['metric']}, {self.published['set']})"

    @property
    def size(self) -> str:
        return "size not listed" if self.bytes is None else f"{self.bytes / 1e6:,.0f} MB"


@dataclass(frozen=True)
class Catalogue:
    """Entries by name; ``best``: names, in the order of preference."""

    entries: Mapping[str, Entry]
    best: Sequence[str] = ()

    def find(self, name: str) -> Entry:
        """The entry of that name; `RecipeError` with a list of all names if there is none."""
        check_has("the catalogue", "model", name, self.entries)
        return self.entries[name]

    def best_for(self, heads: Collection[str] | None = None) -> Entry:
        """The preferred entry that has all of these heads (default: vocals, drums, bass, other).

        Raises `RecipeError` if no single entry has them all, with the best one for each of them.
        """
        wanted = list(dict.fromkeys(heads or USUAL))
        order = [*self.best, *(name for name in self.entries if name not in self.best)]
        for name in order:
            if set(wanted) <= set(self.entries[name].targets):
                return self.entries[name]
        each = {h: next((name for name in order if h in self.entries[name].targets), None) for h in wanted}
        found = ", ".join(f"{head}: {name or 'none'}" for head, name in each.items())
        raise RecipeError(
            f"the catalogue has no single model with the heads {', '.join(wanted)}. The best for {found}."
        )


def user_file() -> Path:
    """The user's own catalogue, which need not exist."""
    if named := os.environ.get(VARIABLE):
        return expand_home(named)
    return expand_home(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "refined_bsrnn" / "models.yaml"


def read_catalogue() -> Catalogue:
    """The package's catalogue, extended by the user's; `RecipeError` for a file that cannot be used."""
    catalogue = _read(PACKAGED)
    own = user_file()
    if not own.is_file():
        if os.environ.get(VARIABLE):
            raise RecipeError(f"{VARIABLE} names {own}, which is not there; expected a YAML file of models.")
        return catalogue
    added = _read(own, catalogue.entries)
    return Catalogue({**catalogue.entries, **added.entries}, [*added.best, *catalogue.best])


def _read(path: Path, known: Mapping[str, Entry] | None = None) -> Catalogue:
    values = read_yaml(path)
    if unknown := [str(key) for key in values if key not in ("models", "best")]:
        raise RecipeError(f"{path} says {unknown[0]!r}; expected models and best alone.")
    models, best = values.get("models") or {}, values.get("best") or []
    if not isinstance(models, dict) or not isinstance(best, list):
        raise RecipeError(f"{path}: expected models as a mapping of names, and best as a list of names.")
    entries = {str(name): _entry(path, str(name), values) for name, values in models.items()}
    all_names = {**(known or {}), **entries}
    for name in best:
        if not isinstance(name, str) or name not in all_names:
            raise RecipeError(f"{path}: best names {name!r}, which is no model.{nearest(str(name), all_names)}")
    return Catalogue(entries, best)


def _entry(path: Path, name: str, values: Any) -> Entry:
    where = f"{path}: {name}"
    if not re.fullmatch(NAME, name) or name == BEST:
        raise RecipeError(f"{path}: {name[:120]!r} cannot name a model; expected letters, digits, '.', '_' and '-'.")
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is {type(values).__name__}; expected a mapping.")
    known = {key: hint for key, hint in get_type_hints(Entry).items() if key not in ("name", "listed_in")}
    if unknown := [str(key) for key in values if key not in known]:
        raise RecipeError(f"{where} says {unknown[0]!r}.{nearest(unknown[0], known)} Known: {', '.join(known)}.")
    if missing := [key for key in ("kind", "targets", "url", "licence") if not values.get(key)]:
        raise RecipeError(f"{where} does not say its {missing[0]}.")
    given = {key: value for key, value in values.items() if value is not None}
    for key, n_digits in DIGITS.items():
        digest = given.get(key)
        if digest is not None and not (isinstance(digest, str) and re.fullmatch(rf"[0-9a-fA-F]{{{n_digits}}}", digest)):
            raise RecipeError(f"{where}: {key} is {digest!r}; expected {n_digits} hexadecimal digits, in quotes.")
    given = {key: typed(known[key], value, f"{where}: {key}") for key, value in given.items()}
    _check_values(where, given)
    for target in given["targets"]:
        check_target_name(target)
    return Entry(**given, name=name, listed_in=path)


def _check_values(where: str, values: Mapping[str, Any]) -> None:
    """`RecipeError` for a value of an entry that cannot be used."""
    if values["kind"] not in KINDS:
        raise RecipeError(f"{where}: kind {values['kind']!r} is unknown. Known: {', '.join(KINDS)}.")
    config = values.get("config")
    for key, value in (("url", values["url"]), ("config", config if isinstance(config, str) else values["url"])):
        if not re.match("https?://", value) or not file_name(value):
            raise RecipeError(f"{where}: {key} is {value!r}; expected the http(s) address of a file.")
    if isinstance(config, str) and file_name(config) == file_name(values["url"]):
        raise RecipeError(
            f"{where}: url and config both end in {file_name(config)}; expected two different file names."
        )
    if values["kind"] != "obsrnn" and config is None:
        raise RecipeError(f"{where} has no config; a RoFormer needs the configuration that it is published with.")
    if values["kind"] == "obsrnn" and config is not None:
        raise RecipeError(f"{where} has a config; an oBSRNN checkpoint has none.")
    if values.get("bytes", 1) < 1:
        raise RecipeError(f"{where}: bytes is {values['bytes']}; expected a whole number above 0.")
    _check_published(where, values.get("published", {}))


def _check_published(where: str, published: Mapping[str, Any]) -> None:
    numbers = [value for key, value in published.items() if key not in ("set", "metric")]
    complete = numbers and {"set", "metric"} <= set(published)
    if published and not (complete and all(isinstance(number, int | float) for number in numbers)):
        raise RecipeError(f"{where}: published is {published!r}; expected set, metric and a number for each target.")


def file_name(url: str) -> str:
    """The name that the file at an address has on this machine; empty if the address names none."""
    try:
        path = urlsplit(url).path
    except ValueError:  # a bracket that is not closed
        return ""
    name = unquote(path).replace("\\", "/").rpartition("/")[2]
    return "" if name in (".", "..") or "\0" in name else name
