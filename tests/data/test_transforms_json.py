"""The transforms.json layout: its conventions by worked numbers, and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.data.layouts import open_recording
from mvdiff.data.transforms_json import TransformsRecording
from mvdiff.geometry import rotation_from_yaw_pitch
from mvdiff.geometry.depth import project_points
from tests.data.other_layouts import write_small_transforms
from tests.data.scenes import pose_of


def changed(folder, frame=None, **changes):
    """Change keys of the file, or of one frame; None deletes one."""
    content = json.loads((folder / "transforms.json").read_text())
    target = content if frame is None else content["frames"][frame]
    target.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del target[key]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def path(tmp_path):
    return write_small_transforms(tmp_path / "room")


def test_a_recording_as_it_is(path):
    scene = open_recording(path)
    assert type(scene) is TransformsRecording
    assert (scene.name, scene.frames, scene.valid_frames) == ("room", [0, 1, 2], [0, 1, 2])
    assert scene.depth_size == (3, 4)
    assert scene.file("color", 1).name == "1.png"  # the ending is left out in the file
    assert scene.depths(2, 3, 4)[0, 0].item() == pytest.approx(1.502)
    assert ((scene.image(1, 6, 8)[0] + 1) * 127.5).round().unique().tolist() == [40]
    for frame in range(3):
        R, t = scene.pose(frame)
        np.testing.assert_allclose(R, pose_of(10 * frame)[:3, :3], atol=1e-15)
        np.testing.assert_allclose(t, pose_of(10 * frame)[:3, 3], atol=1e-15)


def test_golden_axes_are_opengls(path):
    # A camera at (5, 0, 0) that looks along +x, its y up along the world's -y (the world is OpenCV's here): OpenGL's z
    # points backward, -x; x (right) is y cross z = (0, -1, 0) x (-1, 0, 0) = (0, 0, -1).
    matrix = [[0, 0, -1, 5], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]
    scene = TransformsRecording(changed(path, 1, transform_matrix=matrix))
    R, t = scene.pose(1)
    assert R.tolist() == [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # right = -z, down = y, forward = x
    assert t.tolist() == [5, 0, 0]
    K = scene.intrinsics(3, 4, 1)
    point = torch.tensor([8.0, 0.3, -0.6], dtype=torch.float64)  # 3 m ahead, 0.3 m below, 0.6 m to the right
    xy, z, _ = project_points(point, K, R, t, 3, 4)
    assert z.item() == 3
    # half size: f = (5, 4.5); cx = 4.5 from the corner of 8 pixels is 2.25 of 4, pixel 1.75; cy 1.75, 1.25
    assert xy.tolist() == pytest.approx([1.75 + 5 * 0.6 / 3, 1.25 + 4.5 * 0.3 / 3])


@settings(max_examples=25, deadline=None)
@given(st.floats(-180, 180), st.floats(-80, 80), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_axes_of_any_pose(tmp_path_factory, yaw, pitch, t):
    R = rotation_from_yaw_pitch(torch.tensor(yaw).double(), torch.tensor(pitch).double()).numpy()
    right, down, forward = R.T
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, -down, -forward, t], axis=1)
    folder = write_small_transforms(tmp_path_factory.mktemp("any"), frames=1)
    scene = TransformsRecording(changed(folder, 0, transform_matrix=matrix.tolist()))
    np.testing.assert_allclose(scene.pose(0)[0], R, atol=1e-12)
    np.testing.assert_allclose(scene.pose(0)[1], t, atol=1e-12)


def test_golden_principal_points_count_from_the_corner(path):
    # cx = w / 2 is the middle: pixel 3.5 of 8, at half size 1.5 of 4.
    scene = TransformsRecording(changed(path, cx=None, cy=3.0, fl_y=None))
    assert scene.intrinsics(6, 8, 0).tolist() == [[10, 0, 3.5], [0, 10, 2.5], [0, 0, 1]]
    assert scene.intrinsics(3, 4, 0).tolist() == [[5, 0, 1.5], [0, 5, 1], [0, 0, 1]]


def test_a_frames_own_camera_wins(path):
    scene = TransformsRecording(changed(path, 1, fl_x=20.0, w=16, h=12, cx=8.0, cy=6.0))
    assert scene.intrinsics(6, 8, 0)[0].tolist() == [10, 0, 4]
    assert scene.intrinsics(6, 8, 1)[0].tolist() == [10, 0, 3.5]  # 20 at 16 pixels, 10 at 8


def test_a_size_that_is_not_given_is_the_images(path):
    assert TransformsRecording(changed(path, w=None, h=None)).intrinsics(6, 8).tolist()[0] == [10, 0, 4]


@pytest.mark.parametrize(
    ("changes", "init_args", "metres"),
    [
        ({}, {}, 1.5),
        ({"depth_unit_scale_factor": 0.0002}, {}, 0.3),
        ({"integer_depth_scale": 0.0001}, {}, 0.15),
        ({"depth_unit_scale_factor": 0.0002}, {"depth_unit_scale_factor": 0.01}, 15),
    ],
)
def test_golden_depth_units(path, changes, init_args, metres):
    scene = TransformsRecording(changed(path, **changes), **init_args)
    assert scene.depths(0, 3, 4)[1, 2].item() == pytest.approx(metres)


def test_golden_a_scale_that_was_applied_is_taken_off(path):
    # poses of 0.1 m at scale 4 are 0.4 in the file; depths stay in metres
    scene = TransformsRecording(changed(path, applied_scale=4.0))
    np.testing.assert_allclose(scene.pose(1)[1], pose_of(10)[:3, 3] / 4)
    assert scene.depths(0, 3, 4)[0, 0].item() == pytest.approx(1.5)


def test_frames_that_lack_something_are_counted(path):
    changed(path, 0, depth_file_path=None)
    (path / "1.png").unlink()
    changed(path, 2, transform_matrix=[[float("nan")] * 4] * 4)
    scene = TransformsRecording(path)
    assert scene.valid_frames == []
    assert scene.unusable == {"no depth": 1, "no color": 1, "pose is not finite": 1}


def test_instant_ngps_name_of_depth(path):
    for frame in range(3):
        changed(path, frame, depth_file_path=None, depth_path=f"{frame}_depth.png")
    assert TransformsRecording(path).valid_frames == [0, 1, 2]


@pytest.mark.parametrize(
    ("frame", "changes", "text"),
    [
        (None, {"k1": 0.05}, "k1 = 0.05"),
        (None, {"p2": -1e-4}, "p2 = -0.0001"),
        (2, {"k3": 1.0}, "k3 = 1.0"),
        (None, {"camera_model": "OPENCV_FISHEYE"}, "camera_model 'OPENCV_FISHEYE'"),
        (None, {"is_fisheye": True}, "pinhole"),
        (None, {"depth_unit_scale_factor": 0}, "depth_unit_scale_factor must be positive; got 0"),
        (None, {"applied_scale": 0}, "positive applied_scale; got 0"),
        (None, {"applied_scale": -2.0}, "positive applied_scale; got -2"),
        (None, {"depth_unit_scale_factor": "mm"}, "depth_unit_scale_factor; got 'mm'"),
        (None, {"frames": []}, r"list of frames; got \[\]"),
        (1, {"file_path": 7}, "file_path at frame 1; got .*7"),
    ],
)
def test_files_that_are_refused(path, frame, changes, text):
    with pytest.raises(ValueError, match=rf"transforms\.json.*{text}|{text}"):
        TransformsRecording(changed(path, frame, **changes))


@pytest.mark.parametrize(
    ("frame", "changes", "text"),
    [
        (None, {"fl_x": None}, "fl_x; got None"),
        (None, {"cx": "middle"}, "cx; got 'middle'"),
        (None, {"cx": 40.0}, "pixels of the depth images, 4x3"),
        (None, {"fl_y": -1.0}, "positive focal lengths"),
        (None, {"w": 0}, "positive w and h; got 0 and 6"),
        (0, {"transform_matrix": [[1, 0], [0, 1]]}, r"transform_matrix at frame 0; got \[\[1, 0\]"),
        (0, {"transform_matrix": None}, "transform_matrix at frame 0; got None"),
        (0, {"transform_matrix": (2 * np.eye(4)).tolist()}, "rotation and a translation"),
        (
            0,
            {"transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 6, 7, 1]]},
            "rotation and a translation",
        ),
    ],
)
def test_cameras_that_are_refused(path, frame, changes, text):
    scene = TransformsRecording(changed(path, frame, **changes))
    with pytest.raises(ValueError, match=rf"transforms\.json.*{text}"):
        scene.intrinsics(3, 4, 0), scene.pose(0)


def test_a_file_that_is_no_json(path):
    (path / "transforms.json").write_text("{")
    with pytest.raises(ValueError, match=r"transforms\.json must be JSON "):
        TransformsRecording(path)


def test_a_matrix_of_three_rows_is_a_pose(path):
    rows = json.loads((path / "transforms.json").read_text())["frames"][1]["transform_matrix"][:3]
    np.testing.assert_allclose(TransformsRecording(changed(path, 1, transform_matrix=rows)).load_pose(1), pose_of(10))


def test_distortion_of_null_is_none(path):
    content = json.loads((path / "transforms.json").read_text()) | {"k1": None}
    (path / "transforms.json").write_text(json.dumps(content))
    assert TransformsRecording(path).valid_frames == [0, 1, 2]


def test_images_are_found_beside_the_original_of_a_link(path, tmp_path):
    (path / "more").mkdir()
    (path / "1.png").rename(path / "more" / "1.png")
    changed(path, 1, file_path="./more/1")
    linked = tmp_path / "deep" / "er" / "linked"
    linked.mkdir(parents=True)
    (linked / "transforms.json").symlink_to(path / "transforms.json")
    assert TransformsRecording(linked).valid_frames == [0, 1, 2]
