import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.scene import walk_poses
from mvdiff.geometry.cameras import RingRig


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_toyworld(tmp_path_factory.mktemp("world"), rooms=3, seed=5, size=32, test_rooms=1, num_frames=4)


def test_both_layouts_are_whole(world):
    assert np.load(world / "mp3d_skybox" / "train.npy").shape == (2, 6)
    [row] = np.load(world / "mp3d_skybox" / "test.npy")
    assert all((world / "mp3d_skybox" / path).is_file() for path in row)
    scene = world / "mp3d_skybox" / "toy00002"
    names = {p.stem.removeprefix("toy00002_") for p in (scene / "blip3").iterdir()}
    assert names == {*map(str, range(0, 360, 45)), "up", "down"}
    assert set(json.loads((scene / "truth" / "toy00002.json").read_text())["views"]) == {*map(str, range(0, 360, 45))}
    walk = world / "scannet" / "test" / "toy00002"
    for sub in ("color", "depth", "pose", "prompt"):
        assert len(list((walk / sub).iterdir())) == 4
    assert np.load(walk / "valid_frames.npy").tolist() == [0, 1, 2, 3]
    assert (walk / "key_frame_0.6.txt").read_text() == "0\n1\n2\n3\n"  # a quarter of the way round apart
    depth = np.asarray(Image.open(walk / "depth" / "0.png"))
    assert depth.dtype in (np.uint16, np.int32)
    assert depth.shape == (24, 32)
    assert 300 < depth.min() < depth.max() < 12000
    assert Image.open(walk / "color" / "0.jpg").size == (32, 24)
    pose = np.loadtxt(walk / "pose" / "3.txt")
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    K = np.loadtxt(walk / "intrinsic" / "intrinsic_depth.txt")
    assert K[0, 2] == 15.5
    assert K[1, 2] == 11.5


def test_a_room_does_not_depend_on_the_other_settings(world, tmp_path):
    other = write_toyworld(tmp_path, rooms=2, seed=5, size=32, test_rooms=1, num_frames=0, num_workers=2)
    for path in sorted((other / "mp3d_skybox" / "toy00001").rglob("*.*")):
        assert path.read_bytes() == (world / path.relative_to(other)).read_bytes()
    assert not (other / "scannet").exists()


def test_views_read_back_show_what_was_traced(world):
    """Cutting the stored faces at a yaw gives the picture traced directly at that yaw."""
    from mvdiff.data.toyworld.scene import make_scene
    from mvdiff.data.toyworld.write import render_view

    source = Matterport3DPanoramas(world / "mp3d_skybox", "test")
    K, R = RingRig(num_views=5, fov_deg=90, height=16, width=16).cameras(yaw_offset_deg=20.0)
    views = source.views(0, K, R, 16, 16)
    scene = make_scene(5, 2)
    for i in range(5):
        direct = render_view(scene, K[i], R[i], scene.eye, 16, 16, supersampling=4).colour
        difference = (views[i].permute(1, 2, 0).numpy() + 1) / 2 - direct
        assert np.abs(difference).mean() < 0.05  # JPEG and resampling; another yaw or a flip gives 0.1 and more
    flipped = (views[0].flip(-1).permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(flipped - render_view(scene, K[0], R[0], scene.eye, 16, 16).colour).mean() > 0.07
    assert torch.isfinite(views).all()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rooms": 1}, "rooms must be at least 2; got 1"),
        ({"rooms": 4, "test_rooms": 4}, "test_rooms must be between 1 and rooms - 1 = 3; got 4"),
        ({"rooms": 4, "size": 30}, "size must be a multiple of 4 and at least 16 pixels; got 30"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, text):
    with pytest.raises(ValueError, match=text):
        write_toyworld(tmp_path, **settings)


def test_an_arc_is_the_beginning_of_the_round_with_closer_frames():
    quarter, whole = walk_poses(5, 2, num_frames=4, arc_deg=90.0), walk_poses(5, 2, num_frames=16)
    for (R, t), (R_whole, t_whole) in zip(quarter, whole, strict=False):
        np.testing.assert_allclose(R, R_whole, atol=1e-12)
        np.testing.assert_allclose(t, t_whole, atol=1e-12)


@pytest.mark.parametrize("arc_deg", [0.0, 361.0, float("nan")])
def test_an_arc_out_of_range_is_an_error(tmp_path, arc_deg):
    with pytest.raises(ValueError, match=r"arc_deg must lie in \(0, 360\]; got"):
        write_toyworld(tmp_path, rooms=2, size=16, num_frames=1, arc_deg=arc_deg)
