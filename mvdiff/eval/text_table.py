"""Tables in plain text for the terminal; names wrap where it is narrow, numbers always stay whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

_GAP = 2
_NARROWEST = 16
"""Columns of text that names need beside the numbers; in a narrower terminal each number gets its own line."""


def terminal_width() -> int:
    """Return the width of the terminal in characters, 120 if the output is no terminal."""
    return shutil.get_terminal_size((120, 24)).columns


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out a table whose first column holds names and whose other columns hold numbers.

    Args:
        headings: One heading per column.
        rows: One text per column and row.
        width: Width in characters; a number longer than it is still whole.

    Example:
        >>> print(text_table(["metric", "value"], [["fid", "115.7"], ["a name too long for this", "0.25"]], 24))
        metric             value
        ----------------  ------
        fid                115.7
        a name too long     0.25
        for this
        >>> print(text_table(["metric", "value", "ratio"], [["fid", "115.7", "1.25"]], 10))
        fid
          value: 115.7
          ratio: 1.25
    """
    columns = list(zip(*rows, strict=True))
    words = [max((len(word) for word in heading.split()), default=0) for heading in headings[1:]]
    numbers = [max(word, 6, *map(len, cells)) for word, cells in zip(words, columns[1:], strict=True)]
    longest = max(map(len, [headings[0], *columns[0]]))
    names = min(longest, width - sum(numbers) - _GAP * len(numbers))
    if names < min(longest, _NARROWEST):
        return "\n".join(_stacked(headings, row) for row in rows)
    sizes = [names, *numbers]
    lines = [*_lines(headings, sizes), (" " * _GAP).join("-" * size for size in sizes)]
    return "\n".join([*lines, *(line for row in rows for line in _lines(row, sizes))])


def _lines(cells: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Return the lines of a row: names to the left, numbers and their headings to the right."""
    wrapped = [wrap(cell, size) or [""] for cell, size in zip(cells, sizes, strict=True)]
    lines = []
    for parts in zip_longest(*wrapped, fillvalue=""):
        numbers = [part.rjust(size) for part, size in zip(parts[1:], sizes[1:], strict=True)]
        lines.append((" " * _GAP).join([parts[0].ljust(sizes[0]), *numbers]).rstrip())
    return lines


def _stacked(headings: Sequence[str], row: Sequence[str]) -> str:
    cells = zip(headings[1:], row[1:], strict=True)
    return "\n".join([row[0], *(f"  {' '.join(heading.split())}: {cell}" for heading, cell in cells if cell)])
