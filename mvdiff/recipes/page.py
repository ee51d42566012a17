"""Parts of a recipe's page: tables, charts, samples side by side; and the same tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from mvdiff.eval.text_table import terminal_width, text_table
from mvdiff.recipes.fit_command import Run
from mvdiff.recipes.scoring import Number
from mvdiff.report import Chart, Series, Table
from mvdiff.report.tables import cell_text
from mvdiff.samples import Sample, find_samples, read_sample


def table_of(
    title: str,
    numbers: Sequence[Number],
    rows: Mapping[str, Mapping[str, Any]],
    note: str,
    references: Sequence[str] = (),
    first: str = "method",
) -> Table:
    """Return a table of numbers with one row per method."""
    cells = [[name, *(number.cell(values[number.name]) for number in numbers)] for name, values in rows.items()]
    return Table(title, [first, *(number.column for number in numbers)], cells, note, references)


def chart_of(
    title: str,
    metric: str,
    label: str,
    runs: Sequence[Run],
    note: str,
    at_0: Mapping[str, float] | None = None,
    base: float | None = None,
) -> Chart:
    """Draw a metric of the runs that have it.

    Args:
        title: Heading.
        metric: Name of the curve.
        label: Name and unit of the metric.
        runs: Trainings.
        note: Text about the measurement.
        at_0: Values before the first step, by run.
        base: Value of the base, drawn as a line of its own.
    """
    series = []
    for run in (run for run in runs if metric in run.curves):
        steps, values = run.curves[metric]
        start = [at_0[run.name]] if at_0 and run.name in at_0 else []
        series.append(Series(run.name, [0] * len(start) + steps, start + values))
    if base is not None:
        last = max(max(line.x) for line in series)
        series.append(Series("base without CAA", [0, last], [base] * 2, dashed=True))
    return Chart(title, "optimizer steps", label, series, note)


def opened(folders: Mapping[str, Path], count: int) -> list[dict[str, Sample]]:
    """Open the first `count` samples of several methods; each entry maps a method to its sample."""
    found = {method: find_samples(folder)[:count] for method, folder in folders.items()}
    return [
        {method: read_sample(path) for method, path in zip(found, paths, strict=True)}
        for paths in zip(*found.values(), strict=True)
    ]


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print tables, then lines of text, to the terminal."""
    width = terminal_width()
    for table in tables:
        headings = [f"{heading.name} ({heading.unit})" if heading.unit else heading.name for heading in table.headings]
        rows = [
            [cell_text(value, column.digits) for value, column in zip(row, table.headings, strict=True)]
            for row in table.rows
        ]
        print(f"{table.title}\n\n{text_table(headings, rows, width)}\n\n{fill(table.note, width)}\n")
    for line in lines:
        print(line)
