"""Line charts as inline SVG, coloured by the page's style sheet so that they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mvdiff.report.markup import Html, tag

WIDTH, HEIGHT = 480, 288
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 12, 44
NUM_COLOURS = 6
MAX_MARKED_POINTS = 40


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Name in the legend.
        x: Positions along the x axis, in the order in which they are joined.
        y: Values; NaN or infinity breaks the line.
        low: Lower ends of the interval around each value, or None.
        high: Upper ends, or None.
        dashed: Draw dashed: for a reference that was not trained (ground truth, the base).
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
            raise ValueError(f"Series({self.name!r}).low and high must be given together; got only one of them.")


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        title: Heading.
        x_label: Name and unit of the x axis, such as "optimizer steps".
        y_label: Name and unit of the y axis, such as "overlap PSNR (dB)".
        series: The lines, in the order of the legend.
        note: A line below the chart: how it was measured.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """A linear map of one axis: `start` and `stop` of the data land on `first` and `last` of the drawing."""

    start: float
    stop: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Map a data value to a drawing coordinate."""
        return self.first + (value - self.start) / (self.stop - self.start) * (self.last - self.first)


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
    """Write ticks with as many digits as their step needs, and commas between thousands.

    >>> tick_labels([0.0, 2.5, 5.0]), tick_labels([0.0, 1000.0])
    (['0.0', '2.5', '5.0'], ['0', '1,000'])
    """
    digits = next((n for n in range(10) if all(abs(round(tick, n) - tick) < 1e-10 for tick in ticks)), 10)
    return [f"{tick:,.{digits}f}" for tick in ticks]


def _finite(values: Sequence[float] | None) -> list[float]:
    return [] if values is None else [float(value) for value in values if math.isfinite(value)]


def chart_scales(chart: Chart) -> tuple[Scale, Scale, list[float], list[float]]:
    """Return the x scale, the y scale, the x ticks and the y ticks of a chart.

    Raises:
        ValueError: If no point of the chart is finite.
    """
    xs = [x for series in chart.series for x in _finite(series.x)]
    ys = [y for series in chart.series for part in (series.y, series.low, series.high) for y in _finite(part)]
    if not xs or not ys:
        raise ValueError(f"Chart({chart.title!r}).series must hold a finite point; got none. Leave the chart out.")
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    x_first, x_last = (min(xs), max(xs)) if max(xs) > min(xs) else (x_ticks[0], x_ticks[-1])
    x_scale = Scale(x_first, x_last, LEFT, WIDTH - RIGHT)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    return x_scale, y_scale, [tick for tick in x_ticks if x_first <= tick <= x_last], y_ticks


def _pairs(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _runs(series: Series) -> list[list[int]]:
    """Indices of the finite points, split where the line breaks."""
    runs: list[list[int]] = [[]]
    for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _draw_series(number: int, series: Series, chart: Chart, x_scale: Scale, y_scale: Scale) -> Html:
    parts = []
    for run in _runs(series):
        if series.low is not None and series.high is not None:
            banded = [i for i in run if math.isfinite(series.low[i]) and math.isfinite(series.high[i])]
            edge = [(x_scale(series.x[i]), y_scale(series.low[i])) for i in banded]
            edge += [(x_scale(series.x[i]), y_scale(series.high[i])) for i in reversed(banded)]
            parts.append(tag("polygon", class_="band", points=_pairs(edge)))
        points = [(x_scale(series.x[i]), y_scale(series.y[i])) for i in run]
        parts.append(tag("polyline", class_="line dashed" if series.dashed else "line", points=_pairs(points)))
        if len(series.x) <= MAX_MARKED_POINTS and not series.dashed:
            for i, (x, y) in zip(run, points, strict=True):
                interval = f" [{series.low[i]:.4g}, {series.high[i]:.4g}]" if series.low is not None else ""
                hint = f"{series.name}: {series.y[i]:.4g}{interval} at {series.x[i]:,.6g} ({chart.x_label})"
                parts.append(tag("circle", tag("title", hint), cx=f"{x:.1f}", cy=f"{y:.1f}", r=3))
    return tag("g", parts, class_=f"series colour-{number % NUM_COLOURS}")


def svg_chart(chart: Chart) -> Html:
    """Draw a chart as one `<svg>` element.

    Raises:
        ValueError: If no point of the chart is finite.
    """
    x_scale, y_scale, x_ticks, y_ticks = chart_scales(chart)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    axes = []
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = f"{y_scale(tick):.1f}"
        axes.append(tag("line", class_="grid", x1=LEFT, x2=right, y1=y, y2=y))
        axes.append(tag("text", label, x=LEFT - 8, y=y, dy="0.32em", text_anchor="end"))
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        x = f"{x_scale(tick):.1f}"
        axes.append(tag("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
        axes.append(tag("text", label, x=x, y=bottom + 17, text_anchor="middle"))
    axes.append(tag("line", class_="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom))
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    axes.append(tag("text", chart.x_label, class_="label", x=middle_x, y=HEIGHT - 6, text_anchor="middle"))
    turned = f"translate(14 {middle_y}) rotate(-90)"
    axes.append(tag("text", chart.y_label, class_="label", transform=turned, text_anchor="middle"))
    lines = [_draw_series(number, series, chart, x_scale, y_scale) for number, series in enumerate(chart.series)]
    spoken = f"{chart.title}: {chart.y_label} over {chart.x_label}"
    return tag("svg", axes, lines, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=spoken)


def chart_figure(chart: Chart) -> Html:
    """Draw a chart with its heading, its legend (when there is more than one line) and its note."""
    legend = None
    if len(chart.series) > 1:
        swatches = [
            tag("li", tag("i", class_="dashed" if series.dashed else None), series.name,
                class_=f"colour-{number % NUM_COLOURS}")
            for number, series in enumerate(chart.series)
        ]  # fmt: skip
        legend = tag("ul", swatches, class_="legend")
    note = tag("p", chart.note, class_="note") if chart.note else None
    return tag("figure", tag("figcaption", chart.title), legend, svg_chart(chart), note, class_="chart card")
