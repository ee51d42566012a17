"""Tables of scores, with units in the headings, intervals as `20.8 [20.5, 21.1]`, and best values in bold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from mvdiff.eval.metric import Column as MetricColumn
from mvdiff.report.blocks import Block


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: Heading.
        unit: Unit of the numbers, shown in parentheses after the name.
        better: Direction of better values, "higher" or "lower"; shows an arrow in the heading and the best value in
            bold. None: neither.
        digits: Number of decimals.
    """

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    digits: int = 2

    @classmethod
    def of_metric(cls, column: MetricColumn, **changes: Any) -> Self:
        """Return the column of a metric's number, with `changes` to its fields."""
        better = {True: "higher", False: "lower", None: None}[column.higher_is_better]
        return replace(cls(column.title, column.unit, better, column.digits), **changes)


class NumberText(str):
    """A number as text, for a column whose rows have their own decimals; aligned as numbers are."""

    __slots__ = ()


@dataclass(frozen=True)
class Cell:
    """A formatted cell; `interval` is empty if there is none."""

    value: str
    interval: str = ""
    is_best: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Table(Block):
    """Table of scores, one row per method.

    Attributes:
        title: Heading.
        columns: Columns; a string is a column without a best value.
        rows: Rows of cells: text, a number, (value, low, high), or None if not measured. The first cell is the name of
            the row.
        note: Text below the table, such as sample counts and networks.
        references: Names of the rows that do not compete for the best value (ground truth, controls).
    """

    title: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[object]]
    note: str = ""
    references: Sequence[str] = ()
    template: ClassVar[str] = "table.html"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table({self.title!r}).rows must have {len(self.columns)} cells each, one per column; "
                    f"got {len(row)} in {list(row)!r}."
                )
        unknown = set(self.references) - {row[0] for row in self.rows}
        if unknown:
            raise ValueError(
                f"Table({self.title!r}).references must be names of rows; got {sorted(map(str, unknown))}."
            )

    @property
    def headings(self) -> list[Column]:
        """Columns, with strings converted to `Column`."""
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    @property
    def lines(self) -> Iterator[tuple[object, bool, list[Cell]]]:
        """(name, is_reference, other cells) of each row."""
        best = [best_text(self, index) for index in range(len(self.columns))]
        for name, *values in self.rows:
            is_reference = name in self.references
            cells = []
            for value, column, best_value in zip(values, self.headings[1:], best[1:], strict=True):
                text, _, interval = cell_text(value, column.digits).partition(" [")
                number = _number(value)
                wins = number is not None and not is_reference and f"{number:,.{column.digits}f}" == best_value
                if isinstance(value, str):
                    cells.append(Cell(value, is_text=not isinstance(value, NumberText)))
                else:
                    cells.append(Cell(text, interval and f"[{interval}", wins))
            yield name, is_reference, cells


def _number(cell: object) -> float | None:
    """Return a cell's finite number, which is compared for the best value, or None."""
    value = cell[0] if isinstance(cell, tuple | list) else cell
    if isinstance(value, bool | str) or value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def cell_text(cell: object, digits: int) -> str:
    """Format a cell; integers have no decimals, missing and non-finite values are an en dash.

    >>> cell_text(12345, 2), cell_text(0.5, 2), cell_text(None, 2), cell_text((20.8, 20.5, 21.1), 1)
    ('12,345', '0.50', '–', '20.8 [20.5, 21.1]')
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if _number(cell) is None:
        return "–"
    if isinstance(cell, tuple | list):
        value, low, high = (f"{number:,.{digits}f}" for number in cell)
        return f"{value} [{low}, {high}]"
    return f"{cell:,d}" if isinstance(cell, int) else f"{float(cell):,.{digits}f}"


def best_text(table: Table, index: int) -> str | None:
    """Return the formatted best value of a column, or None if fewer than two rows compete; ties share the same text."""
    column = table.headings[index]
    numbers = [_number(row[index]) for row in table.rows if row[0] not in table.references]
    numbers = [number for number in numbers if number is not None]
    if column.better is None or len(numbers) < 2:
        return None
    return f"{max(numbers) if column.better == 'higher' else min(numbers):,.{column.digits}f}"
