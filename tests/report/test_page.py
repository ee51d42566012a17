import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mvdiff.report import Chart, Column, Html, PanoramaEntry, Series, Strip, Table, render_report, write_report
from mvdiff.report.galleries import panorama_payload, strip_figures

GREY = np.full((8, 8, 3), 90, np.uint8)
WIDE = np.full((8, 16, 3), 90, np.uint8)


class Outline(HTMLParser):
    """Checks that elements close in order, and collects addresses and ids."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]
        self.addresses += [value for key, value in attrs if key in {"src", "href", "srcset", "action", "poster"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(
        "Quickstart <1>",
        ["Rises from 16.1 dB to 20.8 dB.", Html("<p>See <code>results.json</code>.</p>")],
        [Table("Scores", ["Method", Column("PSNR", "dB", "higher", 1)], [["CAA", (20.8, 20.5, 21.1)]])],
        [Chart("Curve", "steps", "PSNR (dB)", [Series("CAA", [0, 100], [16.1, 20.8])])],
        [Strip("CAA", ["a & b"], [GREY, GREY], ["0°", "45°"], "Room 1")],
        [PanoramaEntry("Room 1", ["</script><b>"], {"CAA": (WIDE, np.ones((8, 16), bool)), "no CAA": WIDE})],
        {"Command": "mvdiff quickstart", "Seed": 0},
    )


def test_the_page_is_well_formed_and_its_links_exist(page):
    outline = Outline(page)
    targets = [address[1:] for address in outline.addresses if address.startswith("#")]
    assert len(outline.ids) == len(set(outline.ids))
    assert targets == ["scores", "panoramas", "curves", "views", "provenance"]
    assert set(targets) <= set(outline.ids)


def test_the_page_loads_nothing(page):
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|import\(", page)
    assert all(re.match(r"data:|#", address) for address in Outline(page).addresses)
    assert "default-src 'none'" in page


def test_the_numbers_are_there(page):
    text = re.sub(r"<[^>]+>", "", page)
    for expected in ("20.8 [20.5, 21.1]", "(dB)", "Rises from 16.1 dB to 20.8 dB.", "mvdiff quickstart", "45°"):
        assert expected in text


def test_text_is_escaped_and_markup_passes(page):
    assert "<title>Quickstart &lt;1&gt;</title>" in page
    assert "a &amp; b" in page
    assert "<p>See <code>results.json</code>.</p>" in page
    assert page.count("</script>") == 3  # the panoramas, the stage and the viewer


def test_sections_without_content_are_left_out():
    page = render_report("Only words", "One paragraph.")
    assert "<section" not in page
    assert "<script" not in page
    assert "<nav" not in page
    assert "<p>One paragraph.</p>" in page


def test_the_payload_reads_back():
    payload = panorama_payload([PanoramaEntry("R", ["a < b"], {"CAA": WIDE, "truth": WIDE})])
    assert "<" not in payload
    (entry,) = json.loads(payload)
    assert entry["captions"] == ["a < b"]
    assert [method["name"] for method in entry["methods"]] == ["CAA", "truth"]
    assert all(method["image"].startswith("data:image/png;base64,") for method in entry["methods"])


def test_strips_of_one_group_share_a_frame_and_its_labels():
    labels = ["0°", "45°"]
    strips = [Strip(name, ["p0", "p1"], [GREY, GREY], labels, group) for group in "AB" for name in ("x", "y")]
    figures = strip_figures(strips)
    assert len(figures) == 2
    for figure in figures:
        assert figure.count("<img") == 4
        assert figure.count("view-label") == 2
        assert figure.count("<li>") == 2  # the prompts once, not once a method
        assert 'alt="y, 45°"' in figure


def test_small_views_keep_hard_pixels():
    assert "pixelated" in strip_figures([Strip("x", [], [GREY])])[0]
    assert "pixelated" not in strip_figures([Strip("x", [], [np.zeros((256, 256, 3), np.uint8)])])[0]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"Strip\('x'\).images must hold an image"):
        Strip("x", [], [])
    with pytest.raises(ValueError, match=r"Strip\('x'\).view_labels must have one label for each of 2 images; got 1"):
        Strip("x", [], [GREY, GREY], ["0°"])
    with pytest.raises(ValueError, match=r"PanoramaEntry\('x'\).methods must hold a panorama"):
        PanoramaEntry("x", [], {})
    with pytest.raises(ValueError, match=r"PanoramaEntry\('x'\).methods\['CAA'\] must be a uint8 image"):
        panorama_payload([PanoramaEntry("x", [], {"CAA": WIDE / 255})])
    with pytest.raises(ValueError, match=r"methods\['CAA'\] must be twice as wide as high"):
        panorama_payload([PanoramaEntry("x", [], {"CAA": GREY})])


def test_the_file_is_written_whole_and_replaced(tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write_report(path, "First", "a") == path
    write_report(path, "Second", "b")
    assert "Second" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
