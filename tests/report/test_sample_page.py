import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import evaluate
from mvdiff.geometry.cameras import Rig
from mvdiff.mesh import Mesh, write_mesh
from mvdiff.report import write_page
from mvdiff.report.sample_page import gather
from mvdiff.report.sources import open_sources
from mvdiff.samples import camera_record
from tests.eval.worlds import write_upstream
from tests.report.folders import POLES, RING, write_panorama, write_recording

TRIANGLE = Mesh(np.eye(3), np.array([[0, 1, 2]]), np.array([[200, 10, 10]] * 3, np.uint8))


def content(*paths: Path, names=None, **settings):
    return gather(open_sources(paths, names), **settings)


def text(tmp_path: Path, shown) -> str:
    page = write_page(tmp_path / "report.html", shown.page("Title")).read_text(encoding="utf-8")
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))


def test_methods_stand_side_by_side_on_the_same_samples(tmp_path):
    for name, ids in (("ours", "abc"), ("theirs", "bcd")):
        for sample_id in ids:
            write_panorama(tmp_path / name, sample_id, seed=3)
    shown = content(tmp_path / "ours", tmp_path / "theirs")
    rows = [(gallery.title, list(gallery.rows)) for gallery in shown.galleries]
    assert rows == [("b", ["ours", "theirs"]), ("c", ["ours", "theirs"])]
    assert [list(entry.methods) for entry in shown.panoramas] == [["ours", "theirs"]] * 2
    page = text(tmp_path, shown)
    assert "Samples shown: 2 of 2." in page
    assert "2 samples are omitted because not every method has them." in page
    assert "Every sample has the same prompts and the same seed in all methods." in page
    assert "seed 3" in page


def test_other_seeds_and_prompts_are_said(tmp_path):
    for sample_id, seed, prompt in (("a", 0, "a room"), ("b", 5, "a hall")):
        write_panorama(tmp_path / "ours", sample_id)
        write_panorama(tmp_path / "theirs", sample_id, seed=seed, prompt=prompt)
    notes = content(tmp_path / "ours", tmp_path / "theirs").notes
    assert notes == ["The prompts differ in 1 of these samples: b.", "The seeds differ in 1 of these samples: b."]


def test_real_images_have_no_seed_to_compare(tmp_path):
    write_panorama(tmp_path / "ours", "a", seed=0)
    write_panorama(tmp_path / "real", "a", seed=None)
    assert content(tmp_path / "ours", tmp_path / "real").notes == []


def test_limits_are_said(tmp_path):
    for sample_id in "abcd":
        write_recording(tmp_path / "walks", sample_id, num_frames=7)
    shown = content(tmp_path / "walks", max_samples=3, max_views=4)
    assert (shown.num_shown, shown.num_samples) == (3, 4)
    assert {len(images) for gallery in shown.galleries for images in gallery.rows.values()} == {4}
    page = text(tmp_path, shown)
    assert "Samples shown: 3 of 4." in page
    assert "Long recordings are shown by 4 evenly spaced frames." in page
    assert "depth, as given" in page


def test_methods_with_other_views_have_a_gallery_of_their_own(tmp_path):
    write_panorama(tmp_path / "ring", "a", rig=RING)
    write_panorama(tmp_path / "poles", "a", rig=POLES)
    shown = content(tmp_path / "ring", tmp_path / "poles")
    assert [(gallery.title, list(gallery.rows), len(gallery.labels)) for gallery in shown.galleries] == [
        ("a", ["ring"], RING.num_views),
        ("a", ["poles"], POLES.num_views),
    ]


def test_a_broken_image_is_counted_and_named_and_the_next_sample_takes_its_place(tmp_path):
    for sample_id in "abc":
        write_panorama(tmp_path / "out", sample_id)
    (tmp_path / "out" / "a" / "2.png").write_bytes(b"no image")
    shown = content(tmp_path / "out", max_samples=2)
    assert [entry.title for entry in shown.panoramas] == ["b", "c"]
    page = text(tmp_path, shown)
    assert "Could not be read: 1" in page
    assert re.search(r"image .*a/2\.png cannot be read", page)


CAMERAS = camera_record(torch.eye(3)[None], torch.eye(3)[None], torch.zeros(1, 3), 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompts": ["x"] * 3},
            r"prompts must be one text per view of rig \(8\); got 3, in .*two/0001/sample\.json",
        ),
        ({"prompts": "abc"}, r"prompts must be a list of texts, one per view; got 'abc', in .*two/0001/sample"),
        ({"rig": Rig([(0, 0, 90)]).to_dict()}, r"one text per view of rig \(1\); got 8, in .*two/0001/sample\.json"),
        ({"rig": [1]}, r"rig must be an object with views, height and width, or null; got \[1\], in .*two/0001/sample"),
        ({"cameras": {"K": 1}}, r"cameras must be an object with views, .* got \{'K': 1\}, in .*two/0001/sample\.json"),
        ({"cameras": CAMERAS}, r"prompts must be one text per view of cameras \(1\); got 8, in .*two/0001/sample"),
        ({"seed": "a"}, r"seed must be a whole number or null; got 'a', in .*two/0001/sample\.json"),
        ({"settings": None}, r"settings must be an object; got None, in .*two/0001/sample\.json"),
        ({"rig": None}, r"two/0001: sample '0001' must have a rig or cameras; got neither"),
    ],
)
def test_a_record_that_contradicts_itself_is_named_and_the_next_sample_takes_its_place(tmp_path, changes, message):
    for sample_id in ("0001", "0002"):
        write_panorama(tmp_path / "two", sample_id)
    path = tmp_path / "two" / "0001" / "sample.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    shown = content(tmp_path / "two", max_samples=1)
    assert [entry.title for entry in shown.panoramas] == ["0002"]
    assert [gallery.title for gallery in shown.galleries] == ["0002"]
    [problem] = shown.problems
    assert re.search(message, problem), problem
    page = text(tmp_path, shown)
    assert "Could not be read: 1" in page
    assert "two/0001" in page


def test_scores_and_truth_of_a_test_run(tmp_path):
    for name in ("generated", "reference"):
        write_panorama(tmp_path / "run" / name, "a")
    results = evaluate(tmp_path / "run" / "generated", tmp_path / "run" / "reference", ["sharpness"])
    write_results(results, tmp_path / "run" / "results.json")
    shown = content(tmp_path / "run")
    assert list(shown.galleries[0].rows) == ["run", "ground truth"]
    assert [row[0] for row in shown.tables[0].rows] == ["run", "ground truth"]


def test_upstream_folders_are_shown_with_their_truth(tmp_path):
    shown = content(write_upstream(tmp_path / "theirs", num=1))
    [(_, ours), (title, truth)] = shown.galleries[0].rows.items()
    assert title == "ground truth"
    assert not np.array_equal(ours, truth)
    assert not np.array_equal(*(value[0] for value in shown.panoramas[0].methods.values()))


def test_meshes_are_found_beside_samples_and_taken_when_given(tmp_path):
    for name in ("ours", "theirs"):
        folder = write_recording(tmp_path / name, "r")
        write_mesh(folder / "mesh.ply", TRIANGLE)
    (tmp_path / "ours" / "broken.glb").write_bytes(b"glTF?")
    given = write_mesh(tmp_path / "given.glb", TRIANGLE)
    shown = content(tmp_path / "ours", tmp_path / "theirs", meshes=[given])
    assert [(entry.title, list(entry.meshes)) for entry in shown.meshes] == [
        ("given", ["given.glb"]),
        ("r/mesh.ply", ["ours", "theirs"]),
    ]
    upright = shown.meshes[1].meshes["ours"]
    np.testing.assert_allclose(upright.vertices, TRIANGLE.vertices * [1, -1, -1], atol=1e-6)  # y down before
    assert re.search(r"mesh .*broken\.glb cannot be read", shown.problems[0])
    assert "Mesh in 3D" in text(tmp_path, shown)


def test_folders_that_cannot_be_shown(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"DIR must have samples, results or meshes; got none, in .*empty\."):
        content(tmp_path / "empty")
    (write_panorama(tmp_path / "broken", "a") / "0.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"got none \(1 that cannot be read: image .* cannot be read"):
        content(tmp_path / "broken")
    write_panorama(tmp_path / "panoramas", "a")
    write_recording(tmp_path / "frames", "a")
    write_panorama(tmp_path / "others", "b")
    with pytest.raises(ValueError, match=r"must be of one kind; got a panorama of panoramas, frames with poses of fr"):
        content(tmp_path / "panoramas", tmp_path / "frames")
    with pytest.raises(ValueError, match=r"DIRs to compare must have common sample ids; got none in common"):
        content(tmp_path / "panoramas", tmp_path / "others")
    with pytest.raises(ValueError, match=r"--max_samples must be at least 1; got 0\."):
        content(tmp_path / "panoramas", max_samples=0)
    with pytest.raises(FileNotFoundError, match=r"mesh must be a file; got .*none\.glb"):
        content(tmp_path / "panoramas", meshes=[tmp_path / "none.glb"])
