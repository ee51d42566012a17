"""Line charts as inline SVG, coloured by the page's style sheet so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mvdiff.report.blocks import Block

WIDTH, HEIGHT = 480, 288
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 12, 44
NUM_COLOURS = 6
MAX_MARKED_POINTS = 40


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Name in the legend.
        x: Positions along the x axis, in the order of the line.
        y: Values; NaN or infinity breaks the line.
        low: Lower ends of the interval around each value, or None.
        high: Upper ends, or None.
        dashed: Draw a dashed line, for a reference that was not trained (ground truth, the base).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False

    def __post_init__(self) -> None:
        for spelled in ("y", "low", "high"):
            values = getattr(self, spelled)
            if values is not None and len(values) != len(self.x):
                raise ValueError(
                    f"Series({self.name!r}).{spelled} must have {len(self.x)} values, as x has; got {len(values)}."
                )
        if (self.low is None) != (self.high is None):
            raise ValueError(f"Series({self.name!r}).low and high must both be set; got only one of them.")


@dataclass(frozen=True)
class Chart(Block):
    """Lines over one pair of axes.

    Attributes:
        title: Heading.
        x_label: Name and unit of the x axis, such as "optimizer steps".
        y_label: Name and unit of the y axis, such as "overlap PSNR (dB)".
        series: The lines, in the order of the legend.
        note: Text below the chart, such as the measurement protocol.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series] = field(default_factory=list)
    note: str = ""
    template: ClassVar[str] = "chart.html"

    @property
    def plot(self) -> Plot:
        """The chart in SVG coordinates.

        Raises:
            ValueError: No point of the chart is finite.
        """
        xs = [x for series in self.series for x in _finite(series.x)]
        ys = [y for series in self.series for part in (series.y, series.low, series.high) for y in _finite(part)]
        if not xs or not ys:
            raise ValueError(f"Chart({self.title!r}).series must have a finite point; got none. Omit the chart.")
        x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
        first, last = (min(xs), max(xs)) if max(xs) > min(xs) else (x_ticks[0], x_ticks[-1])
        x_ticks = [tick for tick in x_ticks if first <= tick <= last]
        x_scale = Scale(first, last, LEFT, WIDTH - RIGHT)
        y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
        return Plot(
            list(zip(map(x_scale.place, x_ticks), tick_labels(x_ticks), strict=True)),
            list(zip(map(y_scale.place, y_ticks), tick_labels(y_ticks), strict=True)),
            [_line(number, series, self, x_scale, y_scale) for number, series in enumerate(self.series)],
        )


@dataclass(frozen=True)
class Charts(Block):
    """Charts side by side, as many per row as fit into the window."""

    charts: Sequence[Chart]
    template: ClassVar[str] = "charts.html"


@dataclass(frozen=True)
class Line:
    """A series in SVG coordinates; points are written as `x,y x,y`.

    Attributes:
        name: Name in the legend.
        colour: Index of the colour in the style sheet.
        dashed: Draw a dashed line.
        bands: Outlines of the intervals.
        parts: Points of the line, split at its breaks.
        marks: (x, y, text) of each marked point.
    """

    name: str
    colour: int
    dashed: bool
    bands: list[str]
    parts: list[str]
    marks: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Plot:
    """A chart in SVG coordinates: (position, label) of each tick, and the lines."""

    x_ticks: list[tuple[str, str]]
    y_ticks: list[tuple[str, str]]
    lines: list[Line]
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = WIDTH - RIGHT
    top: ClassVar[int] = TOP
    bottom: ClassVar[int] = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Scale:
    """Linear map of one axis from data values [start, stop] to SVG coordinates [first, last]."""

    start: float
    stop: float
    first: float
    last: float

    def place(self, value: float) -> str:
        """Return the SVG coordinate of a data value as text."""
        return f"{self.first + (value - self.start) / (self.stop - self.start) * (self.last - self.first):.1f}"


def nice_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return round values (steps of 1, 2, 2.5 or 5 times a power of ten) that enclose [low, high] (own derivation).

    >>> nice_ticks(16.1, 20.8)
    [16.0, 17.0, 18.0, 19.0, 20.0, 21.0]
    """
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / target
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Format ticks with as many decimals as their step needs, and commas between thousands.

    >>> tick_labels([0.0, 2.5, 5.0]), tick_labels([0.0, 1000.0])
    (['0.0', '2.5', '5.0'], ['0', '1,000'])
    """
    digits = next((n for n in range(10) if all(abs(round(tick, n) - tick) < 1e-10 for tick in ticks)), 10)
    return [f"{tick:,.{digits}f}" for tick in ticks]


def _finite(values: Sequence[float] | None) -> list[float]:
    return [] if values is None else [float(value) for value in values if math.isfinite(value)]


def _runs(series: Series) -> list[list[int]]:
    """Return the indices of the finite points, split at breaks of the line."""
    runs: list[list[int]] = [[]]
    for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(number: int, series: Series, chart: Chart, x_scale: Scale, y_scale: Scale) -> Line:
    def points(indices: Iterable[int], values: Sequence[float]) -> str:
        return " ".join(f"{x_scale.place(series.x[i])},{y_scale.place(values[i])}" for i in indices)

    line = Line(series.name, number % NUM_COLOURS, series.dashed, [], [], [])
    for run in _runs(series):
        line.parts.append(points(run, series.y))
        if series.low is not None and series.high is not None:
            banded = [i for i in run if math.isfinite(series.low[i]) and math.isfinite(series.high[i])]
            line.bands.append(f"{points(banded, series.low)} {points(reversed(banded), series.high)}")
        if len(series.x) <= MAX_MARKED_POINTS and not series.dashed:
            for i in run:
                interval = f" [{series.low[i]:.4g}, {series.high[i]:.4g}]" if series.low is not None else ""
                text = f"{series.name}: {series.y[i]:.4g}{interval} at {series.x[i]:,.6g} ({chart.x_label})"
                line.marks.append((x_scale.place(series.x[i]), y_scale.place(series.y[i]), text))
    return line
