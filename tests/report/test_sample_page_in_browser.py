"""The page of a sample with views up and down, in a real browser: both poles can be looked at."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.samples import SampleRecord, write_sample
from tests.report.folders import POLES

pytestmark = pytest.mark.browser

RING_COLOUR, UP, DOWN = (90, 90, 90), (220, 60, 40), (40, 80, 220)


@pytest.fixture
def viewer(browser, tmp_path):
    """Plain views: grey around, red above, blue below; what is read back is the middle pixel of the viewer."""
    colours = [RING_COLOUR] * 4 + [UP, DOWN]
    views = np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])
    write_sample(tmp_path / "out" / "a", SampleRecord("a", ["a room"] * 6, POLES.to_dict(), seed=0), views)
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report.html")]) == 0
    browser.open(tmp_path / "report.html")
    browser.run("mvdiffViewer.canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
    return browser


def middle(viewer) -> tuple[int, ...]:
    address = viewer.run("return mvdiffViewer.canvas.toDataURL('image/png')")
    image = np.array(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))
    return tuple(image[image.shape[0] // 2, image.shape[1] // 2].tolist())


def drag(viewer, dy: int) -> float:
    x, y, width, height = viewer.run(
        "const b = mvdiffViewer.canvas.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    viewer.drag((round(x + width / 2), round(y + height / 2)), (0, dy))
    return viewer.run("return mvdiffViewer.state.pitch")


def test_dragging_reaches_both_poles_and_no_further(viewer):
    assert middle(viewer) == RING_COLOUR
    pitches = [drag(viewer, 250) for _ in range(6)]
    assert pitches == sorted(pitches)
    assert pitches[-2:] == [90, 90]
    assert middle(viewer) == UP
    pitches = [drag(viewer, -250) for _ in range(11)]
    assert pitches[-2:] == [-90, -90]
    assert middle(viewer) == DOWN
    assert "pitch -90°" in viewer.run("return document.querySelector('.readout').textContent")


def test_the_pole_turns_under_the_viewer(viewer):
    viewer.run("mvdiffViewer.lookAt(0, 90)")
    x, y, width, height = viewer.run(
        "const b = mvdiffViewer.canvas.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    viewer.drag((round(x + width / 2), round(y + height / 2)), (-100, 0))
    assert viewer.run("return mvdiffViewer.state.pitch") == 90
    assert viewer.run("return mvdiffViewer.state.yaw") > 5
    assert middle(viewer) == UP


def test_strips_name_the_poles_and_nothing_is_loaded(viewer):
    labels = viewer.run("return [...document.querySelectorAll('.view-label')].map((label) => label.textContent)")
    assert labels == ["0°", "90°", "180°", "270°", "up", "down"]
    assert [entry for entry in viewer.console() if entry["level"] == "SEVERE"] == []
    loaded = viewer.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
