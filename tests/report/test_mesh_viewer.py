"""The 3D viewer in a real browser, against the project's own geometry."""

import base64
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry import intrinsics_from_fov, project_points, rotation_from_yaw_pitch
from mvdiff.report import MeshEntry, Page, report_sections, write_page
from tests.browser import Browser, find_chromium

pytestmark = pytest.mark.browser

LEFT, UP, HOME, SHIFT = "\ue012", "\ue013", "\ue011", "\ue008"
BACKGROUND = np.array([31, 36, 43])  # 0.12, 0.14, 0.17
CORNERS = np.array([[x, y, z] for x in (-2.0, 2.0) for y in (-1.0, 1.0) for z in (-1.5, 1.5)])
COLOURS = np.array([[250 * i, 250 * j, 250 * k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], np.uint8)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]  # outwards


def box(colours=COLOURS, inwards=False):
    faces = np.array([face for a, b, c, d in QUADS for face in ((a, b, c), (a, c, d))])
    return SimpleNamespace(vertices=CORNERS, faces=faces[:, ::-1] if inwards else faces, colours=colours)


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A box with a colour at each corner, as two methods made it, and a room: the box from within."""
    meshes = [
        MeshEntry("Box", {"CAA": box(), "no CAA": box(250 - COLOURS)}),
        MeshEntry("Room", {"CAA": box(inwards=True)}),
    ]
    page = Page("Viewer", sections=report_sections(meshes=meshes))
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page)


@pytest.fixture
def viewer(browser, page):
    """The page, freshly loaded."""
    browser.open(page)
    browser.run_async("mvdiffMesh.ready.then(done)")
    return browser


def state(viewer):
    return viewer.run("return mvdiffMesh.state")


def pixels(viewer):
    address = viewer.run("return mvdiffMesh.canvas.toDataURL('image/png')")
    return np.array(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def drawn(image):
    return np.abs(image.astype(int) - BACKGROUND).max(axis=2) > 3


def centre(viewer):
    viewer.run("mvdiffMesh.canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = viewer.run("const b = mvdiffMesh.canvas.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]")
    return round(box[0] + box[2] / 2), round(box[1] + box[3] / 2)


def test_it_draws_and_a_drag_changes_it(viewer):
    before = pixels(viewer)
    assert 0.05 < drawn(before).mean() < 0.95
    assert len(np.unique(before[drawn(before)], axis=0)) > 1000
    start = state(viewer)
    viewer.drag(centre(viewer), (150, -60))
    after = state(viewer)
    assert after["yaw"] < start["yaw"] - 5  # the mesh follows to the right: the camera goes left around it
    assert after["pitch"] < start["pitch"] - 5
    assert after["distance"] == start["distance"]
    changed = np.abs(pixels(viewer).astype(int) - before).max(axis=2) > 10
    assert changed.mean() > 0.05


@pytest.mark.parametrize(("yaw", "pitch", "distance"), [(0, 0, 8), (35, 20, 9), (-130, -25, 9), (10, 55, 9)])
@pytest.mark.parametrize("size", [(400, 260), (240, 380)])
def test_matches_the_projection_of_our_geometry(viewer, yaw, pitch, distance, size):
    """Corners that face the camera have their colour where a camera of ours would see them."""
    width, height = size
    viewer.run(f"Object.assign(mvdiffMesh.canvas.style, {{width: '{width}px', height: '{height}px'}})")
    viewer.run(f"mvdiffMesh.lookFrom({yaw}, {pitch}, {distance})")
    image = pixels(viewer).astype(int)
    assert image.shape == (height, width, 3)
    # glTF's axes are OpenCV's after half a turn about x. The camera stands back from the origin along its -z: at yaw
    # to the right of the mesh, so it looks to the left by as much; raised by pitch, it looks down by as much.
    R = rotation_from_yaw_pitch(-float(yaw), -float(pitch)).double()
    t = -distance * R[:, 2]
    tangent = np.tan(np.deg2rad(22.5)) * max(width / height, 1)  # 45 degrees on the shorter side
    K = intrinsics_from_fov(float(np.rad2deg(2 * np.arctan(tangent))), height, width)
    world = torch.from_numpy(CORNERS * [1, -1, -1])
    xy, _, visible = project_points(world, K, R, t, height, width)
    assert bool(visible.all())
    middle, num_shown = xy.mean(dim=0), 0
    for corner in range(8):
        outwards = torch.diag(world[corner])  # normals of the three sides that meet in this corner, some length
        facing = ((outwards * (t - world[corner])).sum(dim=1) > 0.5).tolist()
        inward = (middle - xy[corner]) / (middle - xy[corner]).norm()
        if any(facing):
            column, row = (xy[corner] + 3 * inward).round().int().tolist()
            np.testing.assert_allclose(image[row, column], COLOURS[corner], atol=50)
            num_shown += 1
        if any(facing) and not all(facing):  # on the outline
            column, row = (xy[corner] - 3 * inward).round().int().tolist()
            assert (image[row, column] == BACKGROUND).all()
    assert num_shown >= 4


def test_surfaces_show_from_the_side_that_they_face(viewer):
    viewer.run("mvdiffMesh.lookFrom(0, 0, 9)")
    front = pixels(viewer)
    viewer.run_async("mvdiffMesh.select(1).then(done)")
    viewer.run("mvdiffMesh.lookFrom(0, 0, 9)")
    room = pixels(viewer)
    row, column = front.shape[0] // 2, front.shape[1] // 2
    # blue is 250 on the wall nearest to the viewer (z = 1.5) and 0 on the one opposite, which a room shows instead
    assert front[row, column, 2] > 240
    assert room[row, column, 2] < 10
    assert state(viewer)["scene"] == 1


def test_the_wheel_zooms_within_limits_and_home_resets(viewer):
    start = state(viewer)
    viewer.wheel(centre(viewer), -300)
    assert 0.6 < state(viewer)["distance"] / start["distance"] < 0.9
    viewer.wheel(centre(viewer), 50000)
    radius = np.linalg.norm(CORNERS[0])
    assert state(viewer)["distance"] == pytest.approx(8 * radius)
    viewer.keys(HOME)
    viewer.run("mvdiffMesh.canvas.focus()")
    viewer.keys(HOME)
    assert state(viewer) == start


def test_keys_turn_and_two_fingers_zoom(viewer):
    start = state(viewer)
    viewer.run("mvdiffMesh.canvas.focus()")
    viewer.keys(LEFT, UP, "+")
    turned = state(viewer)
    assert (turned["yaw"] - start["yaw"], turned["pitch"] - start["pitch"]) == (5, -5)
    assert turned["distance"] == pytest.approx(start["distance"] / 1.1)
    viewer.pinch(centre(viewer), before=100, after=200)
    assert state(viewer)["distance"] == pytest.approx(turned["distance"] / 2, rel=0.06)


def test_switching_the_method_keeps_the_view(viewer):
    viewer.run("mvdiffMesh.lookFrom(70, 10, 9)")
    before, place = pixels(viewer).astype(int), state(viewer)
    viewer.run("document.querySelectorAll('#mesh-viewer .methods button')[1].click()")
    viewer.run_async("mvdiffMesh.ready.then(done)")
    assert state(viewer) == {**place, "method": "no CAA"}
    after = pixels(viewer).astype(int)
    shown = drawn(before) & drawn(after)
    assert shown.mean() > 0.05
    assert (np.abs(before + after - 250).max(axis=2)[shown] <= 3).mean() > 0.97  # all but its outline
    viewer.run("document.querySelectorAll('#mesh-viewer .scenes button')[1].click()")
    viewer.run_async("mvdiffMesh.ready.then(done)")
    assert (state(viewer)["scene"], state(viewer)["method"]) == (1, "CAA")


def test_the_page_logs_no_error_and_asks_for_nothing(viewer):
    assert [entry for entry in viewer.console() if entry["level"] == "SEVERE"] == []
    loaded = viewer.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


@pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver")
def test_a_phone_shows_it_without_scrolling_sideways(tmp_path):
    sections = report_sections(meshes=[MeshEntry("Box", {"CAA": box()})])
    page = write_page(tmp_path / "report.html", Page("Report", sections=sections))
    with Browser(tmp_path / "profile", 390, 844, phone=True) as phone:
        phone.open(page)
        phone.run_async("mvdiffMesh.ready.then(done)")
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        assert 0.05 < drawn(pixels(phone)).mean() < 0.95
