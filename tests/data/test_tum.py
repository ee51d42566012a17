"""The TUM RGB-D layout: its conventions by worked numbers, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.data.layouts import open_recording
from mvdiff.data.tum import TumRecording, nearest, pose_matrix
from mvdiff.geometry import rotation_from_yaw_pitch
from mvdiff.geometry.depth import project_points
from tests.data.other_layouts import quaternion_of, write_small_tum


@pytest.fixture
def path(tmp_path):
    return write_small_tum(tmp_path / "desk")


def test_a_recording_as_it_is(path):
    scene = open_recording(path)
    assert type(scene) is TumRecording
    assert (scene.name, scene.frames, scene.valid_frames) == ("desk", [0, 1, 2], [0, 1, 2])
    assert scene.intrinsics(3, 4).tolist() == [[4, 0, 1.5], [0, 4, 1], [0, 0, 1]]
    assert [scene.pose(frame)[1].tolist() for frame in range(3)] == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_golden_depths_are_5000_a_metre(path):
    assert TumRecording(path).depths(2, 3, 4)[0, 0].item() == pytest.approx(5002 / 5000)
    assert TumRecording(path, depth_units_per_metre=1000).depths(2, 3, 4)[0, 0].item() == pytest.approx(5.002)


def test_golden_quaternions_have_their_scalar_last(path):
    # 90 degrees to the right about y (down): (0, sin 45, 0, cos 45). What is ahead lies at positive x in the world.
    (path / "groundtruth.txt").write_text("1.0 5 0 0 0 0.70710678 0 0.70710678\n")
    scene = TumRecording(path)
    R, t = scene.pose(0)
    np.testing.assert_allclose(R, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-8)
    point = torch.tensor([8.0, 0.3, -0.6], dtype=torch.float64)  # 3 m ahead, 0.3 m below, 0.6 m to the right
    xy, z, _ = project_points(point, scene.intrinsics(3, 4), R, t, 3, 4)
    assert z.item() == pytest.approx(3)
    assert xy.tolist() == pytest.approx([1.5 + 4 * 0.6 / 3, 1 + 4 * 0.3 / 3])


@given(st.floats(-180, 180), st.floats(-89, 89), st.floats(0.995, 1.005), st.sampled_from([-1, 1]))
def test_quaternions_of_any_rotation(yaw, pitch, length, sign):
    R = rotation_from_yaw_pitch(torch.tensor(yaw).double(), torch.tensor(pitch).double()).numpy()
    pose = pose_matrix([1.0, -2.0, 3.0, *(sign * length * quaternion_of(R))])
    np.testing.assert_allclose(pose[:3, :3], R, atol=1e-12)
    assert pose[:, 3].tolist() == [1, -2, 3, 1]


def test_golden_the_nearest_in_time_within_a_fiftieth(tmp_path):
    # frame 1.10: depth at 1.09 (10 ms) before 1.115 (15 ms), no pose within 20 ms; frame 1.20: no depth, pose at 1.185
    folder = write_small_tum(
        tmp_path / "room", (1.0, 1.1, 1.2, 1.3), (1.019, 1.115, 1.09, 1.221, 1.3), (1.0, 1.121, 1.185, 1.29)
    )
    scene = TumRecording(folder)
    assert [scene.file("depth", frame).name for frame in (0, 1, 3)] == ["depth0.png", "depth2.png", "depth4.png"]
    with pytest.raises(FileNotFoundError, match=r"depth\.txt must have a line within 0\.02 s of 1\.200000"):
        scene.file("depth", 2)
    assert scene.pose(2)[1].tolist() == [2, 0, 0]
    with pytest.raises(FileNotFoundError, match=r"groundtruth\.txt must have a line within .* of 1\.100000 \(frame 1"):
        scene.pose(1)
    assert (scene.valid_frames, scene.unusable) == ([0, 3], {"no pose": 1, "no depth": 1})
    assert TumRecording(folder, max_seconds=0.03).valid_frames == [0, 1, 2, 3]


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=12), st.lists(st.integers(0, 200), max_size=8), st.integers(0, 9)
)
def test_nearest_against_a_loop(times, wanted, most):
    found = nearest(np.array(times, float), np.array(wanted, float), most)
    for time, position in zip(wanted, found, strict=True):
        distance = min(abs(other - time) for other in times)
        assert (position is None) == (distance > most)
        assert position is None or abs(times[position] - time) == distance


def test_ros_intrinsics_are_taken_for_640x480_and_said(tmp_path, caplog):
    folder = write_small_tum(tmp_path / "room", size=(480, 640))
    (folder / "camera.txt").unlink()
    with caplog.at_level(logging.WARNING):
        K = TumRecording(folder).intrinsics(480, 640)
    assert K.tolist() == [[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]]
    assert "camera.txt does not exist; using ROS's default" in caplog.text
    own = TumRecording(folder, intrinsics=[517.3, 516.5, 318.6, 255.3]).intrinsics(480, 640)
    assert own.diagonal().tolist() == [517.3, 516.5, 1]


def test_other_sizes_need_a_camera(path):
    (path / "camera.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"camera\.txt must hold .* 4x3; it does not exist"):
        TumRecording(path).intrinsics(3, 4)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("rgb.txt", "# nothing\n", "got none"),
        ("rgb.txt", "1.0\n", "one without a file"),
        ("rgb.txt", "one rgb0.png\n", "must hold numbers"),
        ("rgb.txt", "2.0 rgb0.png\n1.0 rgb1.png\n", "strictly increasing"),
        ("groundtruth.txt", "1.0 0 0 0 1\n", "got '1.0 0 0 0 1'"),
    ],
)
def test_lists_that_are_refused(path, name, content, text):
    (path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}.*{text}"):
        TumRecording(path)


def test_poses_that_are_none(path):
    (path / "groundtruth.txt").write_text("1.0 0 0 0 nan 0 0 1\n1.1 0 0 0 0 0 0 0\n1.2 0 0 0 0 0 0 1\n")
    scene = TumRecording(path)
    assert (scene.valid_frames, scene.unusable) == ([2], {"pose is not finite": 1, "no pose": 1})
    (path / "camera.txt").write_text("4 4 1.5")
    with pytest.raises(ValueError, match=r"camera\.txt must hold fx, fy, cx and cy; got \[4\.0, 4\.0, 1\.5\]"):
        TumRecording(path).intrinsics(3, 4)


def test_lists_that_are_missing(path):
    (path / "depth.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"depth\.txt must be part of a scene \(TUM RGB-D layout\)"):
        open_recording(path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth_units_per_metre", 0),
        ("depth_units_per_metre", -5000.0),
        ("max_seconds", -0.1),
        ("intrinsics", [525.0, 525.0, 319.5]),
    ],
)
def test_settings_that_are_refused(path, setting, value):
    with pytest.raises(ValueError, match=rf"^{setting} must") as error:
        TumRecording(path, **{setting: value})
    assert str(value) in str(error.value)


def test_comments_in_latin_1(path):
    for name in ("rgb.txt", "depth.txt", "groundtruth.txt", "camera.txt"):
        (path / name).write_bytes(b"# fichier: caf\xe9\n" + (path / name).read_bytes())
    assert TumRecording(path).valid_frames == [0, 1, 2]
