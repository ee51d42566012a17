"""Findings of `mvdiff doctor`: one line each, with a mark and, where something is to be done, a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from mvdiff.cli.mistakes import readable

Status = Literal["ok", "warning", "problem", "not checked"]
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red", "not checked": "dim"}
_LONGEST = 600
_MARK_WIDTH = 15


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        status: "problem" keeps the run from working; "warning" is worth a look; "not checked" could not be looked at.
        text: The finding, on one line.
        remedy: Action that solves it, or "".
    """

    status: Status
    text: str
    remedy: str = ""

    @classmethod
    def of_error(cls, error: Exception, where: str = "", status: Status = "problem", remedy: str = "") -> Finding:
        """Make a finding of an error; what its text says after the first sentence is the remedy unless one is given.

        Example:
            >>> Finding.of_error(ValueError("num_val must be below 8; got 9. Lower it."), "data")
            Finding(status='problem', text='data: num_val must be below 8; got 9', remedy='Lower it.')
        """
        text = " ".join(readable(str(error)).split()) or type(error).__name__
        if not isinstance(error, ValueError | OSError):  # its text alone may mean little, such as KeyError's
            text = f"{type(error).__name__}: {text}"
        text, advice = _first_sentence(text[:_LONGEST])
        return cls(status, f"{where}: {text}" if where else text, remedy or advice)


def _first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence without its stop, and the rest; sentences quoted in parentheses end nothing."""
    for stop in re.finditer(r"\.\s+(?=[A-Z])", text):
        sentence = text[: stop.start()]
        if sentence.count("(") <= sentence.count(")"):
            return sentence, text[stop.end() :]
    return text.removesuffix("."), ""


def run_checks(
    sections: Iterable[tuple[str, Callable[[], Iterable[Finding]]]], console: Console
) -> dict[str, list[Finding]]:
    """Run every check, print what it finds at once, and return the findings by section.

    A check that fails itself is a finding; the others still run. A problem that was named before is not named again.
    """
    found: dict[str, list[Finding]] = {}
    problems: set[str] = set()
    for title, check in sections:
        console.print(Text(title, style="bold"))
        found[title] = []
        for finding in _until_it_fails(check):
            if finding.text in problems:
                finding = Finding("not checked", f"{title.lower()}: it needs what is missing above")
            if finding.status == "problem":
                problems.add(finding.text)
            found[title].append(finding)
            _print(finding, console)
    return found


def _until_it_fails(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # of a user's class, which may raise any
        yield Finding.of_error(error)


def _print(finding: Finding, console: Console) -> None:
    mark = Text(f"  {finding.status:<{_MARK_WIDTH - 2}}", style=_STYLES[finding.status])
    console.print(mark.append(finding.text, style="default"), soft_wrap=True)
    if finding.remedy:
        console.print(Text(f"{'':<{_MARK_WIDTH}}-> {finding.remedy}", style="default"), soft_wrap=True)


def size(num_bytes: float) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size(512), size(3.5e6), size(1.46e11)
        ('512 B', '3.3 MiB', '136 GiB')
    """
    unit = next(i for i in range(5) if num_bytes < 1000 * 1024**i or i == 4)
    value = num_bytes / 1024**unit
    digits = 1 if unit and value < 100 else 0
    return f"{value:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
