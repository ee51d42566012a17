"""Blocks of a page: data that a template draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class Block:
    """Part of a page. Its template reads its attributes as `block`.

    Attributes:
        template: File in `templates/` that draws it.
        scripts: Files in `templates/` that the page runs for it. A page holds one block of a class that has some.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Note(Block):
    """A small grey line of text."""

    text: str
    template: ClassVar[str] = "note.html"


@dataclass(frozen=True)
class Facts(Block):
    """Names and values, such as how a page was made."""

    facts: Mapping[str, object]
    template: ClassVar[str] = "facts.html"


@dataclass(frozen=True)
class Details(Block):
    """A list that folds away under its title."""

    title: str
    items: Sequence[str]
    is_open: bool = False
    template: ClassVar[str] = "details.html"
