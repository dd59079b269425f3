"""Plain values out of YAML and JSON that anybody may have written, read within bounds. What they mean: `schema`."""

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import yaml

try:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # libyaml's, several times as fast
except ImportError:
    CParser = None  # type: ignore[assignment,misc]

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MOST_DIGITS = 250  # letters of a number, which then fits a float, even a hexadecimal one


def parse_json(text: str, **options: Any) -> Any:
    """The value of a JSON text; also `ValueError` for a value that is nested deeper than Python can read, and for a
    whole number that is no float.

    A lone surrogate, which no file can contain, becomes a question mark.
    """
    try:
        value = json.loads(text, parse_int=_whole_number, **options)
        return _whole_letters(value) if SURROGATE.search(text) else value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits; expected up to {MOST_DIGITS}")
    return int(text)


def _whole_letters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_whole_letters(key): _whole_letters(item) for key, item in value.items()}
    return [_whole_letters(item) for item in value] if isinstance(value, list) else value


# --- YAML -------------------------------------------------------------------------------------------------------------

MOST_LETTERS = 500_000  # of a YAML file; recipes have some thousand
MOST_NODES = 50_000  # with every alias written out: a few lines of aliases become gigabytes
MOST_DEPTH = 50
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class BoundedLoader(yaml.SafeLoader):
    """YAML's safe loader within the bounds above, refused while it reads: PyYAML takes seconds for large values."""

    depth = n_nodes = 0

    def fetch_flow_collection_start(self, token: Any) -> None:
        super().fetch_flow_collection_start(token)
        if self.flow_level > MOST_DEPTH:  # PyYAML reads up to 1,000 brackets ahead
            raise yaml.YAMLError(f"it is nested deeper than {MOST_DEPTH} levels")

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.n_nodes += 1
        if self.depth > MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MOST_DEPTH} levels")
        if self.n_nodes > MOST_NODES:
            raise yaml.YAMLError(f"it holds more than {MOST_NODES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and len(node.value) > MOST_DIGITS:
            raise yaml.YAMLError(f"a number has {len(node.value)} letters; expected up to {MOST_DIGITS}")
        return node


class Loader(BoundedLoader):
    """For this project's own files: also refuses a key that a mapping has twice; PyYAML would drop the first one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise yaml.YAMLError(
                    f"the key {key.value[:80]!r} stands in line {lines[key.tag, key.value]} and again in line {line}; "
                    "expected each key once. Join the two or remove one."
                )
            lines[key.tag, key.value] = line
        return node


def parse_yaml(text: str, kind: type[BoundedLoader] = Loader) -> Any:
    """The plain values of a YAML text; `yaml.YAMLError` for anything else.

    That is raised for a mapping that has a key twice, too, and for values that are larger or deeper than any recipe.
    """
    if len(text) > MOST_LETTERS:
        raise yaml.YAMLError(f"it has {len(text)} letters; expected up to {MOST_LETTERS}")
    if CParser is not None:
        with suppress(yaml.YAMLError):  # said below, in PyYAML's words
            return _parse(text, kind, CParser)
    return _parse(text, kind)


def _parse(text: str, kind: type[BoundedLoader], parser: Callable[[str], Any] | None = None) -> Any:
    """The values by a loader of the kind, which reads the events of another parser if one is given."""
    try:
        loader = kind(text)
        if parser is not None:
            events = parser(text)
            for name in ("get_event", "check_event", "peek_event"):
                setattr(loader, name, getattr(events, name))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    # PyYAML's own, for a date or a number that is none.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


def _check_size(root: yaml.Node) -> None:
    """`yaml.YAMLError` for more or deeper nodes than allowed, aliases written out, and for one that holds itself."""
    sizes: dict[int, int] = {}  # of a node and all in it; 0: it is being counted

    def size(node: yaml.Node, depth: int) -> int:
        if depth > 2 * MOST_DEPTH:  # by aliases
            raise yaml.YAMLError(f"it is nested deeper than {MOST_DEPTH} levels")
        if sizes.get(id(node)) == 0:
            raise yaml.YAMLError("a value holds itself (&, *)")
        if id(node) not in sizes:
            sizes[id(node)] = 0
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        if sizes[id(node)] > MOST_NODES:
            raise yaml.YAMLError(f"it holds more than {MOST_NODES} values, those that are repeated (&, *) included")
        return sizes[id(node)]

    size(root, 0)


def shown(value: Any) -> str:
    """A value for a message, cut short: it may be nested without end, or be too long to print."""
    if isinstance(value, int) and abs(value) > 10**18:
        return "a number of many digits"
    if isinstance(value, tuple | list) and all(type(item) is int and abs(item) < 10**18 for item in value):
        return f"{list(value[:8])}{', ...' if len(value) > 8 else ''}"
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
