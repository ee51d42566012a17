import base64
import json
import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from mvdiff.report import (
    Gallery,
    MeshEntry,
    MeshViewer,
    Page,
    PanoramaEntry,
    PanoramaViewer,
    Section,
    render_page,
)
from mvdiff.report.viewers import packed_mesh
from tests.report.drawing import drawn

WIDE = np.full((8, 16, 3), 90, np.uint8)


def payload(viewer) -> str:
    """Return the data that a page has for a viewer."""
    return re.search(r'<script type="application/json">(.*)</script>', drawn(viewer))[1]


def square(**changes):
    """Two triangles, 2 m wide and 1 m high, before z = -3."""
    vertices = np.array([[-1.0, 0.0, -3.0], [1.0, 0.0, -3.0], [1.0, 1.0, -3.0], [-1.0, 1.0, -3.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    return SimpleNamespace(**{"vertices": vertices, "faces": faces, "colours": colours, **changes})


def test_what_is_packed_can_be_unpacked():
    mesh = square(vertices=square().vertices * [1, 1.2, 1] - [0.1, 0.2, 0.123456])
    packed = packed_mesh("m", mesh)
    content = zlib.decompress(base64.b64decode(packed["data"]))
    places = np.frombuffer(content, "<u2", 12).reshape(4, 3) / 65535
    low, high = np.array(packed["low"]), np.array(packed["high"])
    np.testing.assert_allclose(low + places * (high - low), mesh.vertices, atol=2 / 65535)
    faces = np.cumsum(np.frombuffer(content, "<i4", 6, offset=24)).reshape(2, 3)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_array_equal(np.frombuffer(content, np.uint8, offset=48).reshape(4, 3), mesh.colours)
    assert (packed["vertices"], packed["faces"]) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"faces": np.zeros((0, 3), int)}, r"m must have vertices \[N, 3\].*got \[\[4, 3\], \[0, 3\], \[4, 3\]\]"),
        ({"colours": np.zeros((4, 4), np.uint8)}, r"m must have vertices"),
        ({"colours": np.zeros((3, 3), np.uint8)}, r"m must have one uint8 colour per vertex"),
        ({"colours": np.zeros((4, 3))}, r"m must have one uint8 colour per vertex.*got float64"),
        ({"faces": np.array([[0.0, 1, 2]])}, r"integer faces"),
        ({"faces": np.array([[0, 1, 4]])}, r"m must have finite vertices and face indices below"),
        ({"vertices": np.full((4, 3), np.nan)}, r"m must have finite vertices"),
    ],
)
def test_a_mesh_of_a_wrong_form(changes, text):
    with pytest.raises(ValueError, match=text):
        packed_mesh("m", square(**changes))


def test_an_entry_without_meshes():
    with pytest.raises(ValueError, match=r"MeshEntry\('Room'\).meshes must have at least one mesh; got none"):
        MeshEntry("Room", {})


def test_the_payload_of_meshes_cannot_end_its_script():
    text = payload(MeshViewer([MeshEntry("</script><b>", {"a<b": square()})]))
    assert "<" not in text
    (entry,) = json.loads(text)
    assert entry["title"] == "</script><b>"
    assert entry["methods"][0]["name"] == "a<b"


def test_the_payload_of_panoramas_reads_back():
    text = payload(PanoramaViewer([PanoramaEntry("R", ["a < b"], {"CAA": WIDE, "truth": WIDE})]))
    assert "<" not in text
    (entry,) = json.loads(text)
    assert entry["captions"] == ["a < b"]
    assert [method["name"] for method in entry["methods"]] == ["CAA", "truth"]
    assert all(method["image"].startswith("data:image/png;base64,") for method in entry["methods"])


def test_a_panorama_of_a_wrong_form():
    with pytest.raises(ValueError, match=r"PanoramaEntry\('x'\).methods must have at least one panorama"):
        PanoramaEntry("x", [], {})
    with pytest.raises(ValueError, match=r"PanoramaEntry\('x'\).methods\['CAA'\] must be a uint8 image"):
        drawn(PanoramaViewer([PanoramaEntry("x", [], {"CAA": WIDE / 255})]))
    with pytest.raises(ValueError, match=r"methods\['CAA'\] must be twice as wide as high; got 8 x 8"):
        drawn(PanoramaViewer([PanoramaEntry("x", [], {"CAA": WIDE[:, :8]})]))


def test_a_page_runs_the_scripts_of_its_viewers_alone():
    mesh = MeshViewer([MeshEntry("Room", {"CAA": square()})])
    frames = Gallery({"generated": [WIDE], "ground truth": [WIDE]}, "Frames")
    page = render_page(Page("T", sections=[Section("meshes", "Mesh", [mesh, frames]), Section("end", "End", ["Text"])]))
    assert page.count('id="mesh-viewer"') == 1
    assert page.index('id="mesh-viewer"') < page.index("ground truth") < page.index(">End</h2>")
    assert "window.mvdiffMesh = viewer" in page
    assert "window.mvdiffViewer = viewer" not in page
    assert page.count("function mvdiffStage") == 1
    assert "http" not in page.split("<style>")[0].replace("http-equiv", "")
    assert "mvdiffMesh" not in render_page(Page("T", ["S"]))


def test_a_page_holds_each_viewer_once():
    viewer = PanoramaViewer([PanoramaEntry("R", [], {"CAA": WIDE})])
    with pytest.raises(ValueError, match=r"Page\('T'\).*got PanoramaViewer, PanoramaViewer"):
        Page("T", sections=[Section("a", "A", [viewer]), Section("b", "B", [viewer])])
