import re

import pytest

from mvdiff.report import Column, Table
from mvdiff.report.tables import best_text, cell_text
from tests.report.drawing import drawn

PSNR = Column("Overlap PSNR", "dB", "higher", digits=1)
FID = Column("Toy FID", better="lower", digits=1)


def table(**changes) -> Table:
    rows = [["CAA", (20.8, 20.5, 21.1), 34.2], ["no CAA", [16.1, 15.8, 16.4], 33.9], ["truth", 32.7, 0.0]]
    return Table(**{"title": "Scores", "columns": ["Method", PSNR, FID], "rows": rows, **changes})


def bold(html: str) -> list[str]:
    return re.findall(r"<b>(.*?)</b>", html)


def test_intervals_are_written_beside_the_value():
    text = re.sub(r"<[^>]+>", "", drawn(table()))
    assert "20.8 [20.5, 21.1]" in text
    assert "16.1 [15.8, 16.4]" in text
    assert cell_text((20.8, 20.5, 21.1), 1) == "20.8 [20.5, 21.1]"


def test_headings_carry_unit_and_direction():
    text = re.sub(r"<[^>]+>", "", drawn(table())).replace("\N{NO-BREAK SPACE}", " ")
    assert "Overlap PSNR (dB) ↑" in text
    assert "Toy FID ↓" in text


def test_the_best_of_a_column_is_bold_and_references_do_not_compete():
    assert bold(drawn(table())) == ["32.7", "0.0"]
    assert bold(drawn(table(references=["truth"]))) == ["20.8", "33.9"]
    rows = [["a", 2.0, 1.0], ["b", 1.0, 3.0], ["truth", 2.0, 1.0]]
    assert bold(drawn(table(rows=rows, references=["truth"]))) == ["2.0", "1.0"]


def test_what_looks_equal_is_equally_best():
    rows = [["a", 1.04, 0.0], ["b", 0.96, 0.0], ["c", 0.5, 1.0]]
    assert bold(drawn(table(rows=rows))) == ["1.0", "0.0", "1.0", "0.0"]


def test_missing_and_lonely_values_do_not_win():
    lonely = table(rows=[["a", 1.0, None], ["b", None, float("nan")]])
    assert best_text(lonely, 1) is None
    assert "<b>" not in drawn(lonely)
    assert drawn(lonely).count("–") == 3


@pytest.mark.parametrize(
    ("cell", "text"), [(True, "yes"), (12345, "12,345"), (0.126, "0.13"), ("x", "x"), (float("inf"), "–")]
)
def test_cells(cell, text):
    assert cell_text(cell, 2) == text


def test_text_is_escaped():
    figure = drawn(Table("<T>", ["<C>"], [["<R>"]], "<N>"))
    assert not re.search("<[TCRN]>", figure)


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"must have 3 cells each.*; got 1 in \['a'\]"):
        table(rows=[["a"]])
    with pytest.raises(ValueError, match=r"references must be names of rows; got \['x'\]"):
        table(references=["x"])
