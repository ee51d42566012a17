import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.report import Chart, Charts, Series
from mvdiff.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, nice_ticks
from tests.report.drawing import drawn as draw


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def find(svg: str, css_class: str) -> list[ElementTree.Element]:
    elements = ElementTree.fromstring(svg).find("svg").iter()
    return [element for element in elements if css_class in (element.get("class") or "").split()]


def test_points_land_where_the_axes_say():
    """y runs from tick 0 (bottom edge) to tick 10 (top edge), so 5 is half-way; x 100 is a quarter of 0..400."""
    chart = Chart("t", "steps", "dB", [Series("a", [0, 100, 400], [0, 5, 10])])
    (line,) = find(draw(chart), "line")
    quarter = LEFT + (WIDTH - RIGHT - LEFT) / 4
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    assert points(line) == [
        (LEFT, bottom),
        (pytest.approx(quarter, abs=0.06), middle),
        (WIDTH - RIGHT, TOP),
    ]


def test_a_larger_value_is_drawn_higher():
    (line,) = find(draw(Chart("t", "x", "y", [Series("a", [0, 1], [1, 2])])), "line")
    (_, first), (_, second) = points(line)
    assert second < first


def test_the_band_encloses_the_line():
    chart = Chart("t", "x", "y", [Series("a", [0, 1, 2], [3, 4, 5], [2, 3, 4], [4, 5, 6])])
    (band,), (line,) = find(draw(chart), "band"), find(draw(chart), "line")
    outline, centre = points(band), points(line)
    assert len(outline) == 6
    for (x, y), lower, upper in zip(centre, outline[:3], outline[:2:-1], strict=True):
        assert lower[0] == upper[0] == x
        assert upper[1] < y < lower[1]


def test_a_value_that_is_not_finite_breaks_the_line():
    chart = Chart("t", "x", "y", [Series("a", [0, 1, 2, 3, 4], [1, 2, float("nan"), 3, float("inf")])])
    assert [len(points(line)) for line in find(draw(chart), "line")] == [2, 1]
    assert not re.search(r"\b(nan|inf)\b", draw(chart))


def test_ticks_and_labels_are_written():
    chart = Chart("t", "optimizer steps", "overlap PSNR (dB)", [Series("a", [0, 3000], [16.1, 20.8])])
    texts = [e.text for e in ElementTree.fromstring(draw(chart)).iter("text")]
    assert {"0", "1,000", "2,000", "3,000", "16", "21", "optimizer steps", "overlap PSNR (dB)"} <= set(texts)


def test_points_tell_their_numbers():
    chart = Chart("t", "steps", "dB", [Series("CAA", np.array([250]), np.array([20.8]), [20.5], [21.1])])
    assert "<title>CAA: 20.8 [20.5, 21.1] at 250 (steps)</title>" in draw(chart)


def test_a_legend_names_each_line_and_text_is_escaped():
    chart = Chart(
        "<t>", "x", "y", [Series("a<b", [0, 1], [1, 2]), Series("base", [0, 1], [1, 1], dashed=True)], "n & m"
    )
    figure = draw(chart)
    ElementTree.fromstring(figure)
    assert "a&lt;b</li>" in figure
    assert "base</li>" in figure
    assert "n &amp; m" in figure
    assert draw(Charts([chart, chart])).count("<svg") == 2
    assert "<t>" not in figure


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_even_and_enclose(low, extent):
    high = low + extent
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 8
    assert np.allclose(steps, steps[0], rtol=1e-3)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert ticks[0] <= low + slack
    assert high - slack <= ticks[-1]


def test_one_point_and_constant_lines_are_drawn():
    assert find(draw(Chart("t", "x", "y", [Series("a", [5], [3])])), "line")
    assert find(draw(Chart("t", "x", "y", [Series("a", [0, 1], [0, 0])])), "line")


def test_wrong_series_are_refused():
    with pytest.raises(ValueError, match=r"Series\('a'\).y must have 2 values, as x has; got 1"):
        Series("a", [0, 1], [1])
    with pytest.raises(ValueError, match="must both be set"):
        Series("a", [0], [1], low=[0])
    with pytest.raises(ValueError, match=r"Chart\('t'\).series must have a finite point"):
        draw(Chart("t", "x", "y", [Series("a", [0], [float("nan")])]))
