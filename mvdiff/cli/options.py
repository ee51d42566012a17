"""Options from settings dataclasses: a field is an option, the string under it is its help.

jsonargparse reads types, defaults and help from the class. Beyond that, a type says how an option is typed:
`list[T]` is repeated, `tuple[T, ...]` takes several values, and `bool` is a switch. A field with `kw_only=False` is
positional; one that may also be left out has the metadata `{"positional": True}`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from mvdiff.cli.command import Command
from mvdiff.cli.mistakes import missing_value, readable, unknown_option
from mvdiff.cli.renamed import RENAMED_OPTIONS
from mvdiff.files.paths import expanded_values

_PLACEHOLDERS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class HelpFormatter(DefaultHelpFormatter):
    """Show how an option is typed and its default, where it has one, instead of Python types."""

    def _format_action_invocation(self, action):
        """Leave out `--name+`, by which jsonargparse appends to lists."""
        if action.option_strings and action.nargs == 1:
            return f"{action.option_strings[0]} {action.metavar}"
        return re.sub(r", --\S+\+( \S+)?", "", super()._format_action_invocation(action))

    def _get_help_string(self, action):
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        says_nothing = isinstance(action.default, bool) or action.default in (None, [], (), "", SUPPRESS)
        return text if says_nothing else f"{text} (default: %(default)s)"

    def _split_lines(self, text, width):
        """Break lines at spaces only, so that names such as mvdiff://toy-caa stay whole."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text, width, indent):
        """Keep an example on one line, so that it can be copied."""
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)


class CommandParser(ArgumentParser):
    """The parser of one command; a wrong option is one line on stderr and exit status 2."""

    def __init__(self, command: Command) -> None:
        """Add the options of the command's settings."""
        self.hints: dict[str, Any] = {}
        self.optional: set[str] = set()
        self.words: list[str] = []
        super().__init__(
            prog=f"mvdiff {command.name}",
            description=command.description,
            epilog=f"example:\n  {command.example}",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.command = command
        for settings in command.settings:
            self.hints |= get_type_hints(settings)
            self.optional |= {one.name for one in fields(settings) if one.metadata.get("positional")}
            title = " ".join(inspect.getdoc(settings).partition("\n\n")[0].split()).removesuffix(".")
            self.add_class_arguments(settings, as_positional=True, help=title)
        needed = [" ".join([*action.option_strings[:1], _typed(action)]) for action in self._actions if action.required]
        words = [f"[{action.metavar}]" for action in self._actions if action.nargs == "?" and not action.option_strings]
        self.usage = " ".join([self.prog, *needed, *words, "[--options]"])

    def add_argument(self, *names, **how):
        """Add an argument; one of a settings class is typed as its hint says."""
        hint = getattr(self, "parser", self).hints.get(names[0].removeprefix("--"))
        if hint is not None:
            is_word = names[0].removeprefix("--") in getattr(self, "parser", self).optional
            names = (names[0].removeprefix("--"),) if is_word else names[:1]
            how = typed_as(hint, names[0], how) | ({"nargs": "?"} if is_word else {})
        return super().add_argument(*names, **how)

    def settings(self, words: Sequence[str]) -> list[Any]:
        """Parse the words that follow the command into its settings; wrong options exit with status 2.

        Raises:
            ValueError: A value that its settings refuse.
        """
        self.words = list(words)
        values = self.parse_args(self.words)
        try:
            return [settings(**self._chosen(settings, values)) for settings in self.command.settings]
        except ArgumentTypeError as error:
            self.error(str(error))

    def _chosen(self, settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of one settings class; `~` at the start of one is the home folder."""
        chosen = {field.name: values[field.name] for field in fields(settings)}
        several = (name for name, value in chosen.items() if isinstance(value, list) and _is(self.hints[name], tuple))
        return expanded_values(chosen | {name: tuple(chosen[name]) for name in several})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with status 2 after one line that says what is wrong and, of a mistyped option, what was meant."""
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        old = RENAMED_OPTIONS.get(self.command.name, {})
        message = re.sub(r'^Parser key "(\w+)"', r"--\1", message)
        text = unknown_option(message, options, old) or missing_value(message, self.words) or readable(message)
        if text.startswith("the following arguments are required: "):
            names = text.partition(": ")[2].split(", ")
            text = (
                f"{', '.join(f'--{name}' if f'--{name}' in options else name.upper() for name in names)} must be given"
            )
        self.exit(2, f"{self.prog}: error: {text.rstrip('.')}. Run {self.prog} --help.\n")


def typed_as(hint: Any, name: str, how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `add_argument` for an option of a type."""
    hint = _without_none(hint)
    kept = {key: how[key] for key in ("default", "help", "required") if key in how}
    kind = get_args(hint)[0] if get_origin(hint) in (list, tuple, Union, types.UnionType) else hint
    if not name.startswith("--"):
        kept["metavar"] = name.upper()
    elif isinstance(kind, type) and kind in _PLACEHOLDERS:
        kept["metavar"] = _PLACEHOLDERS[kind]
    elif get_origin(kind) is Literal and get_origin(hint) in (Union, types.UnionType):
        kept["metavar"] = f"{{{','.join(get_args(kind))},...}}"
    if hint is bool and how.get("default") is False:
        return kept | {"action": "store_true"}
    if _is(hint, list):
        return kept | {"type": kind, "action": "extend", "nargs": 1}
    if _is(hint, tuple):
        return kept | {"type": get_args(hint)[0], "nargs": "+"}
    return kept | {"type": number if hint is float else hint}


def _typed(action: Any) -> str:
    """Return how the values of a needed option stand in the usage line."""
    return f"{action.metavar} [{action.metavar} ...]" if action.nargs == "+" else action.metavar


def number(text: str | float) -> float:
    """Read a number; unlike jsonargparse's float also inf and nan."""
    return float(text)


def _is(hint: Any, kind: type) -> bool:
    return get_origin(_without_none(hint)) is kind


def _without_none(hint: Any) -> Any:
    """Return a type without the None that only says that an option may be left out."""
    if get_origin(hint) not in (types.UnionType, Union):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else hint
