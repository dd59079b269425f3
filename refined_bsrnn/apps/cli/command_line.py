"""A command is a typed function; its command line follows from the signature and the docstring.

Positional parameters are words, keyword-only parameters are options: ``*, out: Path = Path("x")`` is ``--out``. A bool
is a switch, ``--no-NAME`` if it is on by default. A `Sequence` takes several values: as words, or as an option with
commas or repeated. `Annotated` adds the function that parses the text. A dataclass as a parameter is replaced by its
fields. The docstring explains each parameter in a line ``name (METAVAR): help`` under ``Args:``; any other heading
makes a group.
"""

import argparse
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ... import __version__
from ...errors import nearest
from ...system import expand_home
from ..texts import WORDS, Words, names, number_or_text, seconds, whole

Command = Callable[..., int | None]  # returns the exit code, None for 0
Commands = Mapping[str, Any]  # name: a command, or (text, more commands)

# The help of options that many commands share.
SHARED = {
    "device": ("", "", "auto, cpu, cuda, mps (default: auto)"),
    "json": ("", "", "results for programs on standard output"),
    "offline": ("", "", "fetch nothing; say what to run instead"),
    "overrides": ("", "key=value", "recipe overrides, e.g. data.root=/data/musdb18hq size=tiny train.steps=1000"),
    "root": ("", "", "where runs given by name are (default: runs)"),
    "run": ("", "RUN", "a run's name or folder"),
    "threads": ("", "N", "of the CPU (default: as PyTorch chooses)"),
}


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; the called function has the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def print_json(values: Any) -> None:
    """A result for programs, on standard output."""
    print(json.dumps(values))


# --- a parser from a function -----------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser of one command, which calls ``function`` with what it finds."""

    function: Command
    commands: dict[str, "Parser"]

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """The arguments of the function, by name. Options and words may stand in any order."""
        if empty := [word for word in words if not word or re.fullmatch(r"--[\w-]+=", word)]:
            self.error(f"argument {empty[0].rstrip('=') or repr('')} is empty, as from an unset variable of the shell")
        found, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            close = nearest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{close and '.' + close}")
        values = vars(found)
        for name, hint, *_ in parameters(self.function):
            if hint == Words:
                values["overrides"] += [word for word in values[name] if "=" in word]
                values[name] = [one for word in values[name] if "=" not in word for one in names(word)]
        for name, hint in get_type_hints(self.function).items():
            if is_dataclass(hint):
                values[name] = hint(**{field.name: values.pop(field.name) for field in fields(hint)})  # type: ignore[operator]
        return values


def parameters(function: Command) -> Iterator[tuple[str, Any, Any, bool]]:
    """(name, type, default, whether it is an option) of what a command takes."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            inner = get_type_hints(hints[name], include_extras=True)
            yield from ((field.name, inner[field.name], field.default, True) for field in fields(hints[name]))
        else:
            yield name, hints[name], parameter.default, parameter.kind is inspect.Parameter.KEYWORD_ONLY


def described(function: Command) -> tuple[str, dict[str, tuple[str, str, str]]]:
    """(what a command does, {parameter: (heading, metavar, help)}), from the docstring and its dataclasses' ones."""
    docs = [inspect.getdoc(function) or ""]
    docs += [inspect.getdoc(hint) or "" for hint in get_type_hints(function).values() if is_dataclass(hint)]
    found = dict(SHARED)
    for heading, lines in re.findall(r"^(\S.*):\n((?: {4}.*(?:\n|$))+)", "\n\n".join(docs), re.MULTILINE):
        for name, metavar, text in re.findall(r"^ {4}(\w+)(?: \((.+?)\))?: (.*(?:\n {8}.*)*)", lines, re.MULTILINE):
            found[name] = ("" if heading == "Args" else heading, metavar, " ".join(text.split()))
    return re.split(r"\n\n\S.*:\n {4}", docs[0])[0], found


def add(parser: Any, name: str, hint: Any, default: Any, is_option: bool, metavar: str, text: str) -> None:
    """Add one parameter to a parser or to a group of it."""
    if get_origin(hint) in (Union, types.UnionType):  # X | None, or int | str
        kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
        hint = kinds[0] if len(kinds) == 1 else Annotated[str, number_or_text]
    kind, reader = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    several, required = get_origin(kind) is Sequence, default is inspect.Parameter.empty
    one = get_args(kind)[0] if several else kind
    options: dict[str, Any] = {"help": text, "default": None if required else default, "metavar": metavar or None}
    if not (required or default is None or default == () or isinstance(default, bool) or "(default" in text):
        options["help"] = f"{text} (default: {default})"
    if kind is bool:
        del options["metavar"]
        options["action"] = "store_false" if default else "store_true"
        name, destination = f"no-{name}" if default else name, name
        parser.add_argument(f"--{name.strip('_').replace('_', '-')}", dest=destination, **options)
        return
    if get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    else:
        options["type"] = expand_home if one is Path else one
    if several and default is not None:
        options["default"] = [] if required else list(default)
    if not is_option:
        parser.add_argument(name, nargs=("+" if required else "*") if several else None if required else "?", **options)
        return
    if reader is WORDS:
        options |= {"action": "extend", "nargs": "+"}
    elif several:  # with commas between them, or the option again
        comma = "" if reader is whole else ",..."
        options |= {"action": "extend", "type": reader or names, "metavar": f"{metavar}{comma}"}
    elif reader:
        options["type"] = reader
    flag = name.removesuffix("_seconds") if reader is seconds else name
    parser.add_argument(f"--{flag.strip('_').replace('_', '-')}", dest=name, required=required, **options)


def fill(parser: Parser, commands: Commands | Command) -> Parser:
    """Give a parser its commands, or the parameters of its function."""
    parser.commands = {}
    if callable(commands):
        parser.function = commands
        parser.description, texts = described(commands)
        groups: dict[str, Any] = {"": parser}
        for name, hint, default, is_option in parameters(commands):
            heading, metavar, text = texts.get(name, ("", "", ""))
            if heading not in groups:
                groups[heading] = parser.add_argument_group(heading.lower())
            add(groups[heading], name, hint, default, is_option, metavar, text.replace("%", "%%"))
        return parser
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in commands.items():
        text, command = command if isinstance(command, tuple) else (described(command)[0], command)
        short = text.replace("\n", " ").partition(". ")[0].rstrip(".")
        parser.commands[name] = fill(below.add_parser(name, help=short, description=text), command)
    return parser


def parse(commands: Commands, words: Sequence[str], description: str) -> tuple[Command, dict[str, Any]]:
    """The function that a command line calls and its arguments; `SystemExit` for what is none."""
    parser = fill(Parser(prog="refined-bsrnn", description=description), commands)
    parser.add_argument("--version", action="version", version=__version__)
    rest = list(words)
    while parser.commands:
        if not rest or rest[0] not in parser.commands:
            if rest and not rest[0].startswith("-"):
                known = ", ".join(parser.commands)
                parser.error(f"there is no command {rest[0]!r}.{nearest(rest[0], parser.commands)} Commands: {known}.")
            parser.parse_args(rest)  # --help, --version, or an error
            sys.exit(2)
        parser = parser.commands[rest.pop(0)]
    return parser.function, parser.values(rest)
