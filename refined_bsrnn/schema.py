"""One layer for everything that is read: recipes, options of components, and the documents in run folders and weight
files.

A schema is a type. A dataclass describes a section of a recipe: other keys are refused, and values of other types are
converted if nothing is lost. A `TypedDict` describes a document that a program wrote: unknown keys are kept, values
stay unchanged. `typed` checks a value against a type; if it does not fit, the message names the place, the value and
the expected type. This module imports no torch.
"""

import dataclasses
import inspect
import math
import operator
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Union

import yaml

from .errors import RecipeError, UserError, nearest
from .plain import parse_yaml
from .system import expand_home, read_json

Schema = TypeVar("Schema")
WORDS = {
    float: "a number",
    Real: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    type(None): "null",
}
QUOTES = "'\""
SHORT = reprlib.Repr()  # YAML's aliases can make a value whose whole text has no end
SHORT.maxstring = SHORT.maxother = 120
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = 12


# --- fields of recipes ------------------------------------------------------------------------------------------------


def bounded(default: Any, **bounds: float) -> Any:
    """A dataclass field with bounds: ``above``, ``at_least``, ``at_most``, ``below``.

    They hold for a number, for each value of a mapping, and for both ends of a range, of which the lower stands first.
    """
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"bounds": bounds})
    return field(default=default, metadata={"bounds": bounds})


def share(default: float) -> Any:
    """A number from 0 to 1: a probability, or a part of a whole."""
    return bounded(default, at_least=0, at_most=1)


def path_field(default: Any = dataclasses.MISSING) -> Any:
    """A field that names a file or folder; a leading ``~`` becomes the user's home folder."""
    return field(default=default, metadata={"path": True})


def rest(default: Mapping[str, Any] = types.MappingProxyType({}), **bounds: float) -> Any:
    """A field that collects the keys of its section that no other field claims (a component's own options)."""
    return field(default_factory=lambda: dict(default), metadata={"rest": True, "bounds": bounds})


# --- checking ---------------------------------------------------------------------------------------------------------


def typed(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type ``hint``; a `RecipeError` that shows ``path``, the value and what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return section(typing.cast(type, hint), value, path)
    if typing.is_typeddict(hint):
        return _document(hint, value, path)
    if origin in (Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        if value is False:  # as YAML reads off and no
            value = next((word for word in ("off", "no") if word in args), value)
        if value not in args or isinstance(value, bool) != isinstance(args[0], bool):
            near = nearest(value, map(str, args)) if isinstance(value, str) else ""
            raise _mismatch(path, value, f"one of {', '.join(map(str, args))}{near and '.' + near.rstrip('.')}")
        return args[args.index(value)]  # 1 for 1.0
    if origin in (tuple, list, Sequence):
        return _sequence(value, args if origin is tuple else (*args, ...), path)
    if origin is not None and issubclass(origin, Mapping):
        return {str(k): typed(args[1], v, f"{path}.{k}") for k, v in _mapping(value, path).items()}
    return _scalar(hint, value, path)


def section(spec: type[Schema], values: Any, where: str) -> Schema:
    """A dataclass from a mapping; `RecipeError` for an unknown or missing key, a wrong type, a value out of bounds."""
    hints = typing.get_type_hints(spec)
    fields = {f.name: f for f in dataclasses.fields(spec)}  # type: ignore[arg-type]
    collecting = next((name for name, f in fields.items() if f.metadata.get("rest")), None)
    arguments: dict[str, Any] = {}
    for key, value in _mapping(values, where or "the recipe").items():
        path = f"{where}.{key}" if where else str(key)
        if key in fields and key != collecting:
            arguments[key] = typed(hints[key], value, path)
            if "path" in fields[key].metadata and arguments[key]:
                arguments[key] = str(expand_home(arguments[key]))
            if "bounds" in fields[key].metadata:
                _check_bounds(arguments[key], fields[key].metadata["bounds"], path)
        elif collecting is None:
            raise RecipeError(
                f"unknown recipe key {path!r}.{nearest(str(key), fields)} Known here: {', '.join(fields)}."
            )
        else:
            item_type = typing.get_args(hints[collecting])[1]
            item = typed(item_type, value, path)
            _check_bounds(item, fields[collecting].metadata["bounds"], path)
            arguments.setdefault(collecting, {})[str(key)] = item
    for name, f in fields.items():
        if name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"the recipe lacks the required key {f'{where}.{name}' if where else name!r}.")
    return spec(**arguments)


def plain(value: Any) -> Any:
    """A section, or a value in one, as plain values for YAML and JSON: the inverse of `section`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            item = plain(getattr(value, f.name))
            values.update(item if f.metadata.get("rest") else {f.name: item})
        return values
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def differences(old: Any, new: Any, skip: Collection[str] = (), path: str = "") -> dict[str, tuple[Any, Any]]:
    """{key: (old, new)} of the values that differ between two recipes' plain values, without the sections to skip."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {**old, **new}:
            where = f"{path}.{key}" if path else key
            if where not in skip:
                found |= differences(old.get(key), new.get(key), skip, where)
        return found
    return {} if old == new else {path: (old, new)}


def _mismatch(path: str, value: Any, expected: str) -> RecipeError:
    return RecipeError(f"{path or 'it'} is {SHORT.repr(value)}; expected {expected}.")


def _mapping(value: Any, path: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _mismatch(path, value, "a mapping of keys to values")
    return value


def _document(schema: Any, value: Any, path: str) -> dict[str, Any]:
    """The mapping itself once its keys fit; a key that may be null and is not there is null."""
    document = dict(_mapping(value, path))
    for name, hint in typing.get_type_hints(schema).items():
        where = f"{path}.{name}" if path else name
        if name not in document and type(None) not in typing.get_args(hint):
            raise RecipeError(f"{where} is missing.")
        item = document.setdefault(name, None)
        found = typed(hint, item, where)
        if typing.is_typeddict(hint):
            document[name] = found
    return document


def _one_of(hints: Sequence[Any], value: Any, path: str) -> Any:
    """Null, a text or a value of another type: of each there is at most one."""
    if value is None and type(None) in hints:
        return None
    inner = [hint for hint in hints if hint is not type(None)]
    if len(inner) > 1:
        inner = [hint for hint in inner if (hint is str) == isinstance(value, str)]
    return typed(inner[0], value, path)


def _sequence(value: Any, args: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        example = "" if value is None else SHORT.repr(value).strip(QUOTES)
        raise _mismatch(path, value, f"a list, e.g. [{example}]")
    if Ellipsis not in args and len(value) != len(args):
        raise _mismatch(path, list(value), f"{len(args)} values")
    return tuple(typed(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))


def _scalar(hint: type, value: Any, path: str) -> Any:
    if hint is float and not isinstance(value, bool):
        try:  # PyYAML reads 3e-4 as a string
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint is int and not isinstance(value, bool):
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif hint not in (int, float) and isinstance(value, hint):
        return value
    raise _mismatch(path, value, WORDS.get(hint, hint.__name__))


BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "above": (operator.gt, "more than {}"),
    "at_least": (operator.ge, "{} or more"),
    "at_most": (operator.le, "{} or less"),
    "below": (operator.lt, "less than {}"),
}


def _check_bounds(value: Any, bounds: Mapping[str, float], path: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_bounds(item, bounds, f"{path}.{key}")
    elif isinstance(value, tuple):
        for item in value:
            _check_bounds(item, bounds, path)
        if value != tuple(sorted(value)):
            raise RecipeError(f"{path} is {list(value)}; expected the lower value first.")
    elif value is not None:
        for name, bound in bounds.items():
            holds, words = BOUNDS[name]
            if not holds(value, bound):
                raise RecipeError(f"{path} is {value}; expected {words.format(bound)}.")


def bind_options(
    where: str, component: Callable[..., Any], options: Mapping[str, Any], skip: Collection[str] = ()
) -> dict[str, Any]:
    """Check recipe options against a component's own signature and return them, converted to the annotated types.

    ``where`` is e.g. ``bands.kind=tet``; ``skip`` names the parameters that the caller fills in. Raises `RecipeError`
    for an unknown option, one of another type, or a missing one.
    """
    known = {name: p for name, p in inspect.signature(component).parameters.items() if name not in skip}
    for name in options:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise RecipeError(f"{where} has no option {name!r}.{nearest(name, known)} Options: {takes}.")
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise RecipeError(f"{where} needs the option {missing[0]!r}.")
    hints = typing.get_type_hints(component.__init__ if inspect.isclass(component) else component)
    component_section = re.sub(r"\.kind=.*", "", where)
    return {name: typed(hints.get(name, Any), value, f"{component_section}.{name}") for name, value in options.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; `RecipeError` for anything else."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())[:500]}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}; expected a mapping of recipe keys.")
    return values


# --- documents --------------------------------------------------------------------------------------------------------


class ComponentFacts(TypedDict):
    """A weight file's facts about its bands (``kind``) and its head (``kind`` and ``options``)."""

    kind: str


class HeadKind(ComponentFacts):
    """The kind of head that a weight file is for, as in a recipe."""

    options: Mapping[str, Any]


class AdapterFacts(TypedDict):
    """The low-rank updates with which a head's features are computed."""

    rank: int
    alpha: Real
    sha256: str


class TrainedOn(TypedDict):
    """The data set a head was trained on."""

    name: str
    n_tracks: int


class TrainingFacts(TypedDict):
    """The origin of a head."""

    run: str
    steps: int
    audio_hours: Real
    data: TrainedOn


class HeadScore(TypedDict):
    """The score of a head, in dB."""

    split: str
    n_tracks: int
    usdr: Real | None
    csdr: Real | None


class StateProgress(TypedDict):
    """The progress of a run in its state file; the other keys belong to the trainer."""

    step: int


class ParameterCounts(TypedDict):
    """How many parameters a run trained."""

    trained: int


class Fingerprint(TypedDict):
    """The hash of the tracks a run was trained on."""

    fingerprint: str | None


class Provenance(TypedDict):
    """provenance.json: the origin of a run and its cost. Null: unknown (an imported network)."""

    data: Fingerprint
    parameters: ParameterCounts
    seed: int | None
    device: str | None
    seconds: Real | None
    steps_done: int | None


class TrackRow(TypedDict):
    """One track of results.json: its scores by target, {source: {metric: value}}."""

    track: str
    targets: Mapping[str, Mapping[str, Any]]


RESULTS_FORMAT = 2


class ScoredOn(TypedDict):
    """The tracks that a run was scored on."""

    name: str | None
    fingerprint: str | None
    mixture: str | None
    builtin: bool | None


class PartOfTracks(TypedDict):
    """The scored tracks, if they are not all."""

    quick: bool | None
    of: int | None


class Results(TypedDict):
    """results.json: the input of a report."""

    run: str
    kind: str
    base: str | None
    split: str
    data: ScoredOn
    partial: PartOfTracks | None
    tracks_without: Mapping[str, Sequence[str]] | None
    n_tracks: int
    targets: Sequence[str]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    protocol: Mapping[str, str]
    more_protocol: Mapping[str, str] | None
    tracks: Sequence[TrackRow]
    summary: Mapping[str, Mapping[str, Any]]


class ModelFacts(TypedDict):
    """Facts about a network in a study's report."""

    trainable_parameters: int


class TargetSummary(TypedDict):
    """A target's scores over all tracks."""

    n_tracks: int


class StudyResults(TypedDict):
    """Values of results.json that only the report of a study needs."""

    data: Fingerprint
    model: ModelFacts
    summary: Mapping[str, TargetSummary]


class StudyTraining(TypedDict):
    """Values of provenance.json that the report of a study needs."""

    seconds: Real
    validation_seconds: Real | None
    steps_done: int
    device: str


def check_document(
    schema: Any,
    value: Any,
    where: str,
    error: Callable[[str], UserError] = UserError,
    remedy: str = "",
    key: str = "",
) -> dict[str, Any]:
    """The document, checked against a `TypedDict`; an ``error`` that begins with ``where`` and ends with the remedy.

    ``key`` names the place of the document in its file.
    """
    try:
        return _document(schema, value, key)
    except RecipeError as problem:
        raise error(f"{where}: {problem} {remedy}".rstrip()) from None


def read_document(
    schema: Any, path: Path, error: Callable[[str], UserError] = UserError, remedy: str = ""
) -> dict[str, Any]:
    """The JSON document in a file, checked."""
    return check_document(schema, read_json(path, error), str(path), error, remedy)
