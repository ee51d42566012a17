"""Command-line options from settings dataclasses: a field is an option, the string under it is its help."""

import argparse
import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any


def field_help(settings: type) -> dict[str, str]:
    """Return the help of each field of a dataclass, its parents' included.

    Example:
        >>> from mvdiff.settings import Sampling
        >>> field_help(Sampling)["eta"]
        'noise of DDIM, from 0 (deterministic) to 1'
    """
    texts = {}
    for cls in reversed(settings.__mro__[:-1]):
        [definition] = ast.parse(inspect.getsource(cls)).body
        for field, text in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[field.target.id] = ast.literal_eval(text.value)
    return texts


def add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add an option for each field of a settings dataclass of plain values."""
    texts = field_help(settings)
    for field in fields(settings):
        kind = Path if isinstance(field.default, Path) else type(field.default)
        text = texts[field.name].replace("%", "%%") + " (default: %(default)s)"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=text)


def settings_of(args: argparse.Namespace, settings: type) -> Any:
    """Build the settings from parsed options.

    Raises:
        ValueError: Options that cannot work.
    """
    return settings(**{field.name: getattr(args, field.name) for field in fields(settings)})
