"""Tables of scores: a unit in every heading, intervals as `20.8 [20.5, 21.1]`, the best value of a column in bold."""

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
        unit: Unit of its numbers, shown in brackets after the name.
        better: "higher" or "lower" marks the best value in bold and puts an arrow in the heading; None does not.
        digits: Decimals shown.
    """

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    digits: int = 2

    @classmethod
    def of_metric(cls, column: MetricColumn, **changes: Any) -> Self:
        """Return the column of a metric's number, as the metric describes it but for `changes`."""
        better = {True: "higher", False: "lower", None: None}[column.higher_is_better]
        return replace(cls(column.title, column.unit, better, column.digits), **changes)


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown; `interval` is empty where there is none."""

    value: str
    interval: str = ""
    is_best: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Table(Block):
    """Rows of scores, one method a row.

    Attributes:
        title: Heading.
        columns: The heading of each column; a plain string stands for a column without a best value.
        rows: Cells: text, numbers, (value, low, high), or None for what was not measured. The first cell names the row.
        note: A line below the table: what was counted, which networks.
        references: First cells of the rows that do not compete for the best value (ground truth, controls).
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
                    f"Table({self.title!r}).rows must have {len(self.columns)} cells each, one for each column; "
                    f"got {len(row)} in {list(row)!r}."
                )
        unknown = set(self.references) - {row[0] for row in self.rows}
        if unknown:
            raise ValueError(
                f"Table({self.title!r}).references must name first cells of rows; got {sorted(map(str, unknown))}."
            )

    @property
    def headings(self) -> list[Column]:
        """Columns, plain strings included."""
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    @property
    def lines(self) -> Iterator[tuple[object, bool, list[Cell]]]:
        """Name, whether it is a reference, and the other cells of each row."""
        best = [best_text(self, index) for index in range(len(self.columns))]
        for name, *values in self.rows:
            is_reference = name in self.references
            cells = []
            for value, column, best_value in zip(values, self.headings[1:], best[1:], strict=True):
                text, _, interval = cell_text(value, column.digits).partition(" [")
                number = _number(value)
                wins = number is not None and not is_reference and f"{number:,.{column.digits}f}" == best_value
                if isinstance(value, str):
                    cells.append(Cell(value, is_text=True))
                else:
                    cells.append(Cell(text, interval and f"[{interval}", wins))
            yield name, is_reference, cells


def _number(cell: object) -> float | None:
    """Return the number by which a cell competes for the best value, or None."""
    value = cell[0] if isinstance(cell, tuple | list) else cell
    if isinstance(value, bool | str) or value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def cell_text(cell: object, digits: int) -> str:
    """Write a cell; integers keep no decimals, what is missing or not finite is an en dash.

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
    """Return the best value of a column as it is shown (equal as shown is equally best), or None if none competes."""
    column = table.headings[index]
    numbers = [_number(row[index]) for row in table.rows if row[0] not in table.references]
    numbers = [number for number in numbers if number is not None]
    if column.better is None or len(numbers) < 2:
        return None
    return f"{max(numbers) if column.better == 'higher' else min(numbers):,.{column.digits}f}"
