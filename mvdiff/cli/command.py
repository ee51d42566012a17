"""A command as data: what it says of itself, the settings that are its options, and the function that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from mvdiff.files.sizes import plural

UNFINISHED = 3
"""Exit status if the work could not be done, or not all of it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, such as `mvdiff generate panorama`."""

    name: str
    """words after `mvdiff`"""
    summary: str
    """line in lists of commands"""
    description: str
    """text of its help: what it does, and what it writes where"""
    example: str
    """line that runs as it is, once its files are there"""
    settings: tuple[type, ...] | None
    """dataclasses, free of torch, each a group of options (see `mvdiff.cli.options`); None: `run` reads the words"""
    run: Callable[..., int]
    """called with one object of each of the settings; returns the exit status"""
    takes_words: bool = False
    """`run` also gets the words that follow the command, as `words`: what was typed is not always what differs"""


def done(summary: str, *following: str) -> None:
    """Print a command's last line: what it wrote where, and what to type next.

    >>> done("out: 3 panoramas written", "mvdiff report out", "mvdiff video out")
    out: 3 panoramas written. Next: mvdiff report out, or mvdiff video out
    """
    print(f"{summary}. Next: {', or '.join(following)}")


def typed(*words: object) -> str:
    """Return words as a line of a shell.

    >>> typed("mvdiff", "video", "my room")
    "mvdiff video 'my room'"
    """
    return shlex.join(map(str, words))


def tally(written: int, skipped: int, noun: str) -> str:
    """Say how much was written and how much was there before; leave out what is zero.

    >>> tally(1, 0, "panorama"), tally(0, 2, "panorama")
    ('1 panorama written', '2 complete panoramas skipped')
    """
    parts = [f"{plural(written, noun)} written"] if written or not skipped else []
    parts += [f"{plural(skipped, f'complete {noun}')} skipped"] if skipped else []
    return ", ".join(parts)
