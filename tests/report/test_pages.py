import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from mvdiff.report import (
    Chart,
    Column,
    Details,
    Facts,
    Gallery,
    Note,
    Page,
    PanoramaEntry,
    Section,
    Series,
    Table,
    render_page,
    report_sections,
    write_page,
)
from tests.report.drawing import drawn

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
    sections = report_sections(
        tables=[Table("Scores", ["Method", Column("PSNR", "dB", "higher", 1)], [["CAA", (20.8, 20.5, 21.1)]])],
        charts=[Chart("Curve", "steps", "PSNR (dB)", [Series("CAA", [0, 100], [16.1, 20.8])])],
        galleries=[Gallery({"CAA": [GREY, GREY]}, "Room 1", ["0°", "45°"], ["a & b"])],
        panoramas=[PanoramaEntry("Room 1", ["</script><b>"], {"CAA": (WIDE, np.ones((8, 16), bool)), "no CAA": WIDE})],
        facts={"Command": "mvdiff quickstart", "Seed": 0},
    )
    summary = ["Rises from 16.1 dB to 20.8 dB.", Markup("<p>See <code>results.json</code>.</p>")]
    return render_page(Page("Quickstart <1>", summary, sections))


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
    page = render_page(Page("Only words", ["One paragraph."], [Section("a", "A", []), *report_sections()]))
    assert "<section" not in page
    assert "<script" not in page
    assert "<nav" not in page
    assert "<p>One paragraph.</p>" in page


def test_a_page_for_a_frame_has_blocks_alone():
    page = render_page(Page("T", ["S"], [Section("a", "A", ["Text"]), Section("b", "B", ["More"])], is_frame=True))
    assert '<body class="part">' in page
    assert not re.search("<h1|<h2|<nav|<section|<p>S</p>", page)
    assert page.index("<p>Text</p>") < page.index("<p>More</p>")


def test_text_of_small_blocks_is_escaped():
    assert drawn("1 < 2") == "<p>1 &lt; 2</p>"
    assert drawn(Markup("<b>1</b>")) == "<b>1</b>"
    assert drawn(Note('"<script>" & x')) == '<p class="note">&#34;&lt;script&gt;&#34; &amp; x</p>'
    assert "<div><dt>&lt;a&gt;</dt><dd>1 &amp; 2</dd></div>" in drawn(Facts({"<a>": "1 & 2"}))
    folded = drawn(Details("<t>", ["<i>", "j"]))
    assert "<summary>&lt;t&gt;</summary>" in folded
    assert "<li>&lt;i&gt;</li>" in folded
    assert "<details>" in folded
    assert "<details open>" in drawn(Details("t", [], is_open=True))
    gallery = drawn(Gallery({'"><b>': [GREY]}, "<t>", ["<l>"], ["<c>"]))
    assert 'alt="&#34;&gt;&lt;b&gt;, &lt;l&gt;"' in gallery
    assert not re.search("<[tlcb]>", gallery)


def test_rows_of_a_gallery_share_a_frame_and_its_labels():
    gallery = drawn(Gallery({"x": [GREY, GREY], "y": [GREY, GREY]}, "A", ["0°", "45°"], ["p0", "p1"]))
    assert gallery.count("<figure") == 1
    assert gallery.count("<img") == 4
    assert gallery.count("view-label") == 2
    assert gallery.count("<li>") == 2  # the prompts once, not once a method
    assert 'alt="y, 45°"' in gallery
    assert "view 1" in drawn(Gallery({"x": [GREY, GREY]}))


def test_captions_that_are_the_same_stand_once():
    text = drawn(Gallery({"x": [GREY, GREY]}, captions=["A room", "A room"]))
    assert text.count("A room") == 1
    text = drawn(Gallery({"x": [GREY]}, captions=["A room", "a room"]))
    assert text.index("A room") < text.index("a room")


def test_small_views_keep_hard_pixels():
    assert "pixelated" in drawn(Gallery({"x": [GREY]}))
    assert "pixelated" not in drawn(Gallery({"x": [np.zeros((256, 256, 3), np.uint8)]}))


def test_wrong_galleries_are_refused():
    with pytest.raises(ValueError, match=r"Gallery\('t'\).rows must have at least one row"):
        Gallery({}, "t")
    with pytest.raises(ValueError, match=r"Gallery\('t'\).rows\['x'\] must have .* image.* got 0"):
        Gallery({"x": []}, "t")
    with pytest.raises(ValueError, match=r"Gallery\('t'\).rows\['x'\] must have .* got 2"):
        Gallery({"x": [GREY, GREY]}, "t", ["0°"])
    with pytest.raises(ValueError, match=r"Gallery\('t'\).rows\['y'\] must have .* got 1"):
        Gallery({"x": [GREY, GREY], "y": [GREY]}, "t")
    with pytest.raises(ValueError, match=r"Gallery\('t'\).rows\['x'\]\[1\] must be a uint8 image .* got float64"):
        drawn(Gallery({"x": [GREY, GREY / 255]}, "t"))


def test_the_file_is_written_whole_and_replaced(tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write_page(path, Page("First", ["a"])) == path
    write_page(path, Page("Second", ["b"]))
    assert "Second" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
