import logging

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.geometry.cameras import RingRig
from tests.data.folders import face_path, truncate, write_matterport3d, write_skybox


@pytest.fixture
def root(tmp_path):
    return write_matterport3d(tmp_path / "mp3d_skybox")


def test_reads_the_layout(root):
    source = Matterport3DPanoramas(root)
    assert len(source) == 5
    assert source.sample_id(3) == "scene3_pano3"
    assert source.faces(0).shape == (6, 3, 16, 16)
    assert source.captions(1) == {degree: f"pano1 towards {degree}" for degree in range(0, 360, 45)}
    assert len(Matterport3DPanoramas(root, "test")) == 2
    assert Matterport3DPanoramas(root, "test").sample_id(0) == "scene5_pano5"


def test_root_may_be_the_parent(root):
    assert Matterport3DPanoramas(root.parent).root == root


def test_pole_captions_are_read_where_they_are(root):
    np.save(root / "poles.npy", np.array([write_skybox(root, "scene0", "extra", poles=("up", "down"))]))
    captions = Matterport3DPanoramas(root, "poles").captions(0)
    assert captions["up"] == "extra towards up"
    assert captions["down"] == "extra towards down"


def test_faces_of_any_one_size(root):
    write_skybox(root, "scene1", "pano1", size=40)
    assert Matterport3DPanoramas(root).faces(1).shape == (6, 3, 40, 40)
    views = PanoramaDataset(Matterport3DPanoramas(root), RingRig(height=8, width=8))[1]["images"]
    assert views.shape == (8, 3, 8, 8)


def break_missing_face(root):
    path = root / face_path("scene2", "pano2", 4)
    path.unlink()
    return path, "does not exist"


def break_empty_face(root):
    path = root / face_path("scene2", "pano2", 0)
    path.write_bytes(b"")
    return path, "is empty"


def break_missing_caption(root):
    path = root / "scene2/blip3/pano2_315.txt"
    path.unlink()
    return path, "does not exist"


def break_empty_caption(root):
    path = root / "scene2/blip3/pano2_0.txt"
    path.write_text("")
    return path, "is empty"


def break_listed_path(root):
    rows = np.load(root / "train.npy").astype("U99")
    rows[2] = [face_path("nowhere", "pano", face) for face in range(6)]
    np.save(root / "train.npy", rows)
    return root / rows[2, 0], "does not exist"


@pytest.mark.parametrize(
    "damage", [break_missing_face, break_empty_face, break_missing_caption, break_empty_caption, break_listed_path]
)
def test_incomplete_panorama_is_an_error_or_a_counted_skip(root, damage, caplog):
    path, what = damage(root)
    with pytest.raises(FileNotFoundError) as caught:
        Matterport3DPanoramas(root)
    for part in (f"{path} {what}", "1 of 5 panoramas", "row 2", "mvdiff data check", 'on_broken to "skip"'):
        assert part in str(caught.value)
    with caplog.at_level(logging.WARNING):
        source = Matterport3DPanoramas(root, on_broken="skip")
    assert source.num_skipped == 1
    assert f"{path} {what}. They are skipped." in caplog.text
    assert [source.sample_id(index) for index in range(len(source))] == [f"scene{i}_pano{i}" for i in (0, 1, 3, 4)]


def test_nothing_left_is_an_error(root):
    for face in (root / "scene5", root / "scene6"):
        (face / f"blip3/pano{face.name[-1]}_0.txt").unlink()
    with pytest.raises(ValueError, match=r"test\.npy must list at least one complete panorama; got none of 2"):
        Matterport3DPanoramas(root, "test", on_broken="skip")


def test_truncated_face_is_named_when_read(root):
    path = root / face_path("scene2", "pano2", 3)
    truncate(path)
    dataset = PanoramaDataset(Matterport3DPanoramas(root), RingRig(height=4, width=4))
    assert dataset[1]["images"].isfinite().all()
    with pytest.raises(ValueError, match="must be a whole image file") as caught:
        dataset[2]
    assert str(path) in str(caught.value)
    assert "mvdiff data check" in str(caught.value)


@pytest.mark.parametrize("size", [(16, 12), (32, 32)])
def test_wrong_size_is_named_when_read(root, size):
    path = root / face_path("scene1", "pano1", 2)
    Image.new("RGB", size).save(path)
    with pytest.raises(ValueError, match=f"must be 16x16, .*got {size[0]}x{size[1]}") as caught:
        Matterport3DPanoramas(root).faces(1)
    assert str(path) in str(caught.value)


def test_blank_or_unreadable_caption_is_named_when_read(root):
    path = root / "scene1/blip3/pano1_90.txt"
    path.write_text(" \nsecond line")
    with pytest.raises(ValueError, match=r"pano1_90\.txt must have the prompt in its first line"):
        Matterport3DPanoramas(root).captions(1)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"pano1_90\.txt must be text in UTF-8"):
        Matterport3DPanoramas(root).captions(1)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((0, 6), dtype="U9"), "must list at least one panorama; got none"),
        (np.array([["a"] * 5]), r"must hold strings of shape \[N, 6\]; got <U1 of shape \(1, 5\)"),
        (np.zeros((2, 6)), "must hold strings"),
        (np.array([["a"] * 6], dtype=object), "must hold numbers or strings; it has the type object"),
        (None, "does not exist"),
    ],
)
def test_bad_list_is_named(root, rows, text):
    path = root / "train.npy"
    path.unlink() if rows is None else np.save(path, rows, allow_pickle=True)
    with pytest.raises((ValueError, FileNotFoundError), match=text) as caught:
        Matterport3DPanoramas(root)
    assert str(path) in str(caught.value)
    assert "mvdiff data split" in str(caught.value)


def test_unknown_policy(root):
    with pytest.raises(ValueError, match="on_broken must be"):
        Matterport3DPanoramas(root, on_broken="ignore")


def test_real_panoramas(test_data):
    """Four views of 90 degrees tile the ring: from the last column of one to the first of the next, its neighbour on
    the right, the picture changes as little as between two columns of one view; no more in the wrong order."""
    source = Matterport3DPanoramas(test_data / "data/mp3d_skybox", "test")
    assert len(source) == 15
    dataset = PanoramaDataset(source, RingRig(num_views=4, height=128, width=128), [20])
    assert dataset[0]["prompts"][0] == "a photo of the aircraft workshop"
    images = torch.stack([dataset[index]["images"] for index in range(5)])
    last, first = images[..., -1], images[..., 0]
    inside = (last - images[..., -2]).abs().mean()
    assert (last - first.roll(-1, 1)).abs().mean() < 1.2 * inside
    assert (last - first.roll(1, 1)).abs().mean() > 3 * inside
