"""Blocks of a page: data that a template renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class Block:
    """Part of a page, whose template reads its attributes as `block`.

    Attributes:
        template: File in `templates/` that renders the block.
        scripts: Script files in `templates/`. A page may have only one block of a class with scripts.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Note(Block):
    """A line of small grey text."""

    text: str
    template: ClassVar[str] = "note.html"


@dataclass(frozen=True)
class Facts(Block):
    """List of names and values, such as the settings behind a page."""

    facts: Mapping[str, object]
    template: ClassVar[str] = "facts.html"


@dataclass(frozen=True)
class Details(Block):
    """Collapsible list with a title."""

    title: str
    items: Sequence[str]
    is_open: bool = False
    template: ClassVar[str] = "details.html"
