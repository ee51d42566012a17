"""The 360-degree viewer in a real browser, against the project's own geometry."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry import (
    equirectangular_directions,
    intrinsics_from_fov,
    perspective_from_equirectangular,
    rotation_from_yaw_pitch,
)
from mvdiff.report import (
    Chart,
    Column,
    Gallery,
    Page,
    PanoramaEntry,
    Series,
    Table,
    report_sections,
    write_page,
)
from tests.browser import Browser, find_chromium

pytestmark = pytest.mark.browser

HEIGHT = 128
RIGHT, LEFT, UP, DOWN = "\ue014", "\ue012", "\ue013", "\ue015"
HOME = "\ue011"


def smooth_panorama(height: int = HEIGHT) -> np.ndarray:
    """A panorama without an edge anywhere, different in every direction: red grows to the right of yaw 0."""
    x, y, z = equirectangular_directions(height, 2 * height).unbind(-1)
    colours = torch.stack([0.5 + 0.4 * x, 0.5 - 0.4 * y, 0.5 + 0.3 * z + 0.1 * torch.sin(9 * x)], -1)
    return (colours * 255).round().to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """Three rooms: the first as two methods made it, the second with uncovered poles, the third fine."""
    covered = np.zeros((HEIGHT, 2 * HEIGHT), bool)
    covered[HEIGHT // 4 : -HEIGHT // 4] = True
    rooms = [
        PanoramaEntry("Room 0", ["<i>one</i>"], {"CAA": smooth_panorama(), "no CAA": 255 - smooth_panorama()}),
        PanoramaEntry("Room 1", ["two"], {"CAA": (np.full((HEIGHT, 2 * HEIGHT, 3), 250, np.uint8), covered)}),
        PanoramaEntry("Room 2", ["three"], {"CAA": smooth_panorama(2 * HEIGHT)}),
    ]
    page = Page("Viewer", sections=report_sections(panoramas=rooms))
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page)


@pytest.fixture
def viewer(browser, page):
    """The page, freshly loaded."""
    browser.open(page)
    return browser


def seen(viewer, yaw: float, pitch: float, fov: float = 90.0) -> np.ndarray:
    """Look somewhere and read the pixels back."""
    address = viewer.run(
        f"mvdiffViewer.lookAt({yaw}, {pitch}, {fov}); return mvdiffViewer.canvas.toDataURL('image/png')"
    )
    return np.array(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def state(viewer) -> dict:
    return viewer.run("return mvdiffViewer.state")


def centre(viewer) -> tuple[int, int]:
    viewer.run("mvdiffViewer.canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = viewer.run("const b = mvdiffViewer.canvas.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]")
    return round(box[0] + box[2] / 2), round(box[1] + box[3] / 2)


def projected(panorama: np.ndarray, height: int, width: int, yaw: float, pitch: float, fov: float) -> np.ndarray:
    """What our geometry says that the viewer should show."""
    K, R = intrinsics_from_fov(float(fov), height, width), rotation_from_yaw_pitch(float(yaw), float(pitch))
    image = torch.from_numpy(panorama).permute(2, 0, 1).float()
    return perspective_from_equirectangular(image, K[None], R[None], height, width)[0].permute(1, 2, 0).numpy()


DIRECTIONS = [(0, 0, 90), (90, 0, 90), (180, 0, 100), (-135, 20, 60), (37, -50, 110), (10, 90, 90), (180, -60, 110)]


@pytest.mark.parametrize(("yaw", "pitch", "fov"), DIRECTIONS)
def test_matches_the_projection_of_our_geometry(viewer, yaw, pitch, fov):
    """Magnified, everywhere: so nothing is mirrored, shifted, or breaks at the wrap or at the poles."""
    image = seen(viewer, yaw, pitch, fov).astype(float)
    difference = np.abs(image - projected(smooth_panorama(), *image.shape[:2], yaw, pitch, fov))
    assert difference.mean() < 1.0
    assert difference.max() < 4.0


@pytest.mark.parametrize(("yaw", "pitch", "fov"), DIRECTIONS)
def test_matches_the_projection_where_pixels_are_coarse(viewer, yaw, pitch, fov):
    """Minified, where a mip level chosen by texture derivatives would leave a seam and blurred poles."""
    viewer.run("Object.assign(mvdiffViewer.canvas.style, {width: '120px', height: '60px'})")
    viewer.run_async("mvdiffViewer.select(2).then(done)")
    image = seen(viewer, yaw, pitch, fov).astype(float)
    assert image.shape == (60, 120, 3)
    difference = np.abs(image - projected(smooth_panorama(2 * HEIGHT), 60, 120, yaw, pitch, fov))
    assert difference.mean() < 1.0
    assert difference.max() < 6.0


def test_is_not_mirrored_nor_upside_down(viewer):
    image = seen(viewer, 0, 0).astype(int)
    height, width, _ = image.shape
    assert image[height // 2, -1, 0] - image[height // 2, 0, 0] > 100  # red grows with yaw, to the right
    assert image[0, width // 2, 1] - image[-1, width // 2, 1] > 60  # green grows upwards


def test_no_seam_behind(viewer):
    image = seen(viewer, 180, 0, 60).astype(int)
    assert np.abs(np.diff(image, axis=1)).max() <= 4


def test_dragging_pulls_the_scene(viewer):
    x, y = centre(viewer)
    viewer.drag((x, y), (-200, 0))
    assert 10 < state(viewer)["yaw"] < 60  # the scene went left, the view turned right
    assert state(viewer)["pitch"] == pytest.approx(0, abs=0.01)
    viewer.drag((x, y), (0, 100))
    assert 5 < state(viewer)["pitch"] < 40
    assert "yaw" in viewer.run("return document.querySelector('.readout').textContent")


def test_a_finger_turns_the_view(viewer):
    viewer.drag(centre(viewer), (100, 0), kind="touch")
    assert -40 < state(viewer)["yaw"] < -5


def test_two_fingers_zoom(viewer):
    viewer.pinch(centre(viewer), before=100, after=200)
    assert state(viewer)["fov"] == pytest.approx(45, abs=3)
    assert state(viewer)["yaw"] == pytest.approx(0, abs=3)


def test_keys_turn_zoom_and_reset(viewer):
    viewer.run("mvdiffViewer.canvas.focus()")
    viewer.keys(RIGHT, RIGHT, UP)
    turned = state(viewer)
    assert turned["yaw"] == pytest.approx(10)
    assert turned["pitch"] == pytest.approx(5)
    viewer.keys("+")
    assert state(viewer)["fov"] < 90
    viewer.keys(LEFT, DOWN, HOME)
    assert {key: state(viewer)[key] for key in ("yaw", "pitch", "fov")} == {"yaw": 0, "pitch": 0, "fov": 90}


def test_the_wheel_zooms_within_limits(viewer):
    at = centre(viewer)
    viewer.wheel(at, -300)
    assert 60 < state(viewer)["fov"] < 90
    viewer.wheel(at, -5000)
    assert state(viewer)["fov"] == 30
    viewer.wheel(at, 20000)
    assert state(viewer)["fov"] == 110


def test_yaw_wraps_and_pitch_stops(viewer):
    viewer.run("mvdiffViewer.lookAt(190, 120)")
    assert state(viewer)["yaw"] == -170
    assert state(viewer)["pitch"] == 90
    viewer.run("mvdiffViewer.lookAt(-180, 0)")
    assert state(viewer)["yaw"] == 180


def test_switching_the_method_keeps_the_direction(viewer):
    before = seen(viewer, 70, 10).astype(int)
    viewer.run("document.querySelectorAll('.methods button')[1].click()")
    viewer.run_async("mvdiffViewer.ready.then(done)")
    assert state(viewer) == {"yaw": 70, "pitch": 10, "fov": 90, "panorama": 0, "method": "no CAA"}
    np.testing.assert_allclose(seen(viewer, 70, 10), 255 - before, atol=2)
    assert viewer.run("return document.querySelector('.methods [aria-pressed=true]').textContent") == "no CAA"


def test_a_thumbnail_opens_its_room_and_uncovered_poles_are_grey(viewer):
    assert viewer.run("return document.querySelectorAll('.thumbnails button').length") == 3
    viewer.run("document.querySelectorAll('.thumbnails button')[1].click()")
    viewer.run_async("mvdiffViewer.ready.then(done)")
    assert state(viewer)["panorama"] == 1
    assert viewer.run("return document.querySelectorAll('.methods button').length") == 0
    assert (seen(viewer, 0, 90, 60) == 128).all()
    assert (seen(viewer, 120, 0, 40) == 250).all()


def test_captions_are_text(viewer):
    assert viewer.run("return document.querySelector('.captions').textContent") == "<i>one</i>"


def test_clicking_the_flat_panorama_looks_there(viewer):
    viewer.run("document.querySelector('.flat').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y, width, height = viewer.run(
        "const b = document.querySelector('.flat').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    viewer.drag((round(x + width * 3 / 4), round(y + height / 4)), (0, 0))
    assert state(viewer)["yaw"] == pytest.approx(90, abs=1)
    assert state(viewer)["pitch"] == pytest.approx(45, abs=1)


def test_the_page_logs_no_error_and_asks_for_nothing(viewer):
    assert [entry for entry in viewer.console() if entry["level"] == "SEVERE"] == []
    loaded = viewer.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


@pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver")
def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path):
    columns = ["Method", *(Column(name, "dB", "higher") for name in ("Overlap PSNR", "Pooled", "Round trip", "Truth"))]
    rows = [["CAA with foreign neighbours", *[(20.8, 20.5, 21.1)] * 4]]
    views = Gallery({"ground truth": [np.zeros((64, 64, 3), np.uint8)] * 8}, captions=["a red ball"] * 8)
    curve = Chart("Curve", "steps", "overlap PSNR (dB)", [Series("CAA", [0, 1000], [16, 20])])
    rooms = [PanoramaEntry(f"Room {i}", ["a caption"], {"CAA": smooth_panorama()}) for i in range(5)]
    sections = report_sections(tables=[Table("T", columns, rows)], charts=[curve], galleries=[views], panoramas=rooms)
    page = write_page(tmp_path / "report.html", Page("Report", sections=sections))
    with Browser(tmp_path / "profile", 390, 844, phone=True) as phone:
        phone.open(page)
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        width, height = phone.run("const c = mvdiffViewer.canvas; return [c.clientWidth, c.clientHeight]")
        assert 340 <= width <= 390
        assert height < 844 / 2  # leaves room for a finger that scrolls the page
