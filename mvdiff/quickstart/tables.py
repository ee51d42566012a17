"""Scores as cells of the report's tables, and the same tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvdiff.eval.bootstrap import Interval
from mvdiff.eval.metrics import metric_columns
from mvdiff.quickstart.comparison import SHARPNESS
from mvdiff.report import Column, Table
from mvdiff.report.tables import cell_text

SCALES = {SHARPNESS: 1000}
"""By what a number is multiplied to be shown."""


def metric_column(metric: str, **changes: Any) -> Column:
    """Return the column of a packaged metric's number, but for the attributes given here."""
    if metric in SCALES:
        changes = {"name": "sharpness", "unit": f"{SCALES[metric]} x gradient energy", "digits": 2} | changes
    return Column.of_metric(metric_columns()[metric], **changes)


def cell(metric: str, value: float | Interval) -> object:
    """Return a number, or (estimate, low, high) of one with an interval, as `mvdiff.report.Table` takes it."""
    scale = SCALES.get(metric, 1)
    if isinstance(value, Interval):
        return (scale * value.estimate, scale * value.low, scale * value.high)
    return scale * value


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print tables and what they say to the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    if not console.is_terminal:
        console.width = 160
    for table in tables:
        shown = RichTable(title=table.title, caption=table.note)
        for column, heading in zip(table.columns, table.headings, strict=True):
            text = f"{heading.name}\n({heading.unit})" if heading.unit else heading.name
            shown.add_column(text, justify="left" if isinstance(column, str) else "right")
        for row in table.rows:
            shown.add_row(*(cell_text(value, column.digits) for value, column in zip(row, table.headings, strict=True)))
        console.print(shown)
    for line in lines:
        console.print(line)
