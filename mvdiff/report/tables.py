"""Tables of scores: a unit in every heading, intervals as `20.8 [20.5, 21.1]`, the best value of a column in bold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from mvdiff.report.markup import Html, tag

if TYPE_CHECKING:
    from mvdiff.eval.metric import Column as MetricColumn


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    >>> Interval(20.8, 20.5, 21.1).text(digits=1)
    '20.8 [20.5, 21.1]'
    """

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Write the value and its interval with `digits` decimals."""
        return f"{self.value:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


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
    def of_metric(cls, column: "MetricColumn", **changes: Any) -> Self:
        """Return the column of a metric's number.

        Args:
            column: How the metric describes it.
            **changes: Attributes that differ.
        """
        better = {True: "higher", False: "lower", None: None}[column.higher_is_better]
        return replace(cls(column.title, column.unit, better, column.digits), **changes)


@dataclass(frozen=True)
class Table:
    """Rows of scores, one method a row.

    Attributes:
        title: Heading.
        columns: The heading of each column; a plain string stands for a column without a best value.
        rows: Cells: text, numbers, `Interval`s, (value, low, high), or None for what was not measured. The first cell
            names the row.
        note: A line below the table: what was counted, which networks.
        references: First cells of the rows that do not compete for the best value (ground truth, controls).
    """

    title: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[object]]
    note: str = ""
    references: Sequence[str] = ()

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


def _cell(value: object) -> object:
    return Interval(*value) if isinstance(value, tuple | list) and len(value) == 3 else value


def _number(cell: object) -> float | None:
    """The number by which a cell competes, or None."""
    value = cell.value if isinstance(cell, Interval) else cell
    if isinstance(value, bool | str) or value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def cell_text(cell: object, digits: int) -> str:
    """Write a cell; integers keep no decimals, what is missing or not finite is an en dash.

    >>> cell_text(12345, 2), cell_text(0.5, 2), cell_text(None, 2)
    ('12,345', '0.50', '–')
    """
    if isinstance(cell, str):
        return cell
    if _number(cell) is None:
        return "–" if not isinstance(cell, bool) else ("yes" if cell else "no")
    if isinstance(cell, Interval):
        return cell.text(digits)
    return f"{cell:,d}" if isinstance(cell, int) else f"{float(cell):,.{digits}f}"


def best_text(table: Table, index: int) -> str | None:
    """Return the best value of a column as it is shown (equal as shown is equally best), or None if none competes."""
    column = table.columns[index]
    if isinstance(column, str) or column.better is None:
        return None
    numbers = [_number(_cell(row[index])) for row in table.rows if row[0] not in table.references]
    numbers = [number for number in numbers if number is not None]
    if len(numbers) < 2:
        return None
    return f"{max(numbers) if column.better == 'higher' else min(numbers):,.{column.digits}f}"


def _heading(column: str | Column) -> Html:
    if isinstance(column, str):
        return tag("th", column, scope="col")
    arrow = {"higher": "\N{NO-BREAK SPACE}↑", "lower": "\N{NO-BREAK SPACE}↓", None: None}[column.better]
    sign = tag("span", arrow, class_="better", title=f"{column.better} is better") if arrow else None
    unit = [" ", tag("span", f"({column.unit})", sign, class_="unit")] if column.unit else sign
    return tag("th", column.name, unit, scope="col")


def _row(table: Table, row: Sequence[object], best: Sequence[str | None]) -> Html:
    is_reference = row[0] in table.references
    cells = [tag("th", row[0], scope="row")]
    for index, column in list(enumerate(table.columns))[1:]:
        cell, digits = _cell(row[index]), 2 if isinstance(column, str) else column.digits
        text, number = cell_text(cell, digits), _number(cell)
        wins = not is_reference and number is not None and f"{number:,.{digits}f}" == best[index]
        if isinstance(cell, Interval) and number is not None:
            value, interval = text.split(" ", 1)
            text = [tag("b", value) if wins else value, " ", tag("span", interval, class_="interval")]
        elif wins:
            text = tag("b", text)
        cells.append(tag("td", text, class_="text" if isinstance(cell, str) else None))
    return tag("tr", cells, class_="reference" if is_reference else None)


def table_figure(table: Table) -> Html:
    """Draw a table with its heading and its note."""
    best = [best_text(table, index) for index in range(len(table.columns))]
    head = tag("thead", tag("tr", [_heading(column) for column in table.columns]))
    body = tag("tbody", [_row(table, row, best) for row in table.rows])
    notes = [table.note] if table.note else []
    if any(isinstance(column, Column) and column.better for column in table.columns):
        besides = ", rows in italics aside" if table.references else ""
        notes.append(f"↑ higher is better, ↓ lower is better; bold: the best of a column{besides}.")
    return tag(
        "figure",
        tag("figcaption", table.title),
        tag("div", tag("table", head, body), class_="scroll", tabindex=0),
        [tag("p", note, class_="note") for note in notes],
        class_="table card",
    )
