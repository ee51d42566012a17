import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.recorded_frames import SceneFrames, resized
from mvdiff.data.toyworld.write import write_walk
from mvdiff.mesh import Frame, SelectedFrames
from mvdiff.mesh.frames import SampleFrames, open_frames
from mvdiff.samples import SampleRecord, camera_record, write_sample
from tests.mesh.worlds import EYE, camera, plane_frame


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Six frames of a toy room, 48 x 64, in the ScanNet layout."""
    root = tmp_path_factory.mktemp("scannet")
    return root / write_walk(root, 0, 3, 64, 6)


def write_frames(folder, frames, **record):
    K, R, t = (torch.stack([getattr(one, name) for one in frames]) for name in "KRt")
    cameras = camera_record(K, R, t, *frames[0].depth.shape)
    images, depths = (torch.stack([getattr(one, name) for one in frames]) for name in ("image", "depth"))
    record = SampleRecord("s", [""] * len(frames), cameras=cameras)
    return write_sample(folder, record, images, depths=depths)


def test_a_scene_is_read_as_it_is(scene):
    frames = open_frames(scene)
    assert isinstance(frames, SceneFrames)
    assert len(frames) == 6
    one = frames[4]
    np.testing.assert_array_equal(one.image.numpy(), np.array(Image.open(scene / "color" / "4.jpg")))
    np.testing.assert_allclose(one.depth.numpy(), np.array(Image.open(scene / "depth" / "4.png")) / 1000, rtol=1e-6)
    pose = np.loadtxt(scene / "pose" / "4.txt")
    np.testing.assert_array_equal(one.R.numpy(), pose[:3, :3])
    np.testing.assert_array_equal(one.t.numpy(), pose[:3, 3])
    np.testing.assert_array_equal(one.K.numpy(), np.loadtxt(scene / "intrinsic" / "intrinsic_depth.txt")[:3, :3])
    np.testing.assert_array_equal(frames.poses()[0][4], one.R)
    assert "frame 4" in one.name


def test_a_sample_is_read_as_it_is(tmp_path):
    written = [plane_frame((0, 0, 1), 2.0 + i, yaw=5.0 * i, t=(0.1 * i, 0, 0)) for i in range(3)]
    frames = open_frames(write_frames(tmp_path / "s", written))
    assert isinstance(frames, SampleFrames)
    assert len(frames) == 3
    for one, other in zip(SelectedFrames(frames), written, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.depth, other.depth, atol=0.0005)
        for name in "KRt":
            torch.testing.assert_close(getattr(one, name).double(), getattr(other, name))
    torch.testing.assert_close(frames.poses()[1].double(), torch.stack([one.t for one in written]))


def test_every_nth_and_resized(scene):
    frames = SelectedFrames(open_frames(scene), every=4, size=(24, 32))
    assert [one.name[-1] for one in frames] == ["0", "4"]
    assert len(frames) == 2
    assert frames[1].image.shape == (24, 32, 3)
    assert frames[1].depth.shape == (24, 32)
    torch.testing.assert_close(frames.poses()[0][1], frames[1].R)
    with pytest.raises(IndexError):
        frames[2]


def test_resized_cameras_see_the_same():
    # an analytic wall at half the size is the analytic wall of the camera with half the focal length
    K, R, t = camera()
    large, small = plane_frame((0, 0, 1), 2.0), plane_frame((0, 0, 1), 2.0, height=15, width=20)
    found = resized(large, 15, 20)
    torch.testing.assert_close(found.K, small.K)
    torch.testing.assert_close(found.depth, small.depth)
    image = torch.arange(16).reshape(1, 4, 4, 1).expand(1, 4, 4, 3)[0].to(torch.uint8)
    half = resized(Frame(image, torch.zeros(4, 4), K, R, t), 2, 2)
    assert half.image[..., 0].tolist() == [[4, 5], [10, 11]]  # antialiased: near the means 2.5, 4.5, ... pulled inwards


@pytest.mark.parametrize("settings", [{"every": 0}, {"size": (0, 8)}])
def test_settings_out_of_range(scene, settings):
    with pytest.raises(ValueError, match=r"(every|size) must be .*at least 1"):
        SelectedFrames(open_frames(scene), **settings)


def test_neither_scene_nor_sample(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"SOURCE must be a sample folder .* or a scene"):
        open_frames(tmp_path)


def test_a_sample_without_depth(tmp_path):
    cameras = {"height": 4, "width": 6, "views": [{"K": EYE.tolist(), "R": EYE.tolist()}]}
    record = SampleRecord("s", [""], cameras=cameras)
    with pytest.raises(ValueError, match=r"must have depth/<i>.png and a camera centre"):
        open_frames(write_sample(tmp_path / "s", record, np.zeros((1, 4, 6, 3), np.uint8)))


def test_a_view_of_another_size_is_named(tmp_path):
    folder = write_frames(tmp_path / "s", [plane_frame((0, 0, 1), 2.0)])
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    with pytest.raises(ValueError, match=r"size of its camera, 40x30; got 8x8 and 40x30, in .*0.png"):
        open_frames(folder)[0]


def test_a_scene_without_usable_frames(scene, tmp_path):
    for sub in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / sub).mkdir()
    for sub, name in (("color", "0.jpg"), ("depth", "0.png")):
        (tmp_path / sub / name).write_bytes((scene / sub / name).read_bytes())
    np.savetxt(tmp_path / "pose" / "0.txt", np.full((4, 4), np.inf))
    with pytest.raises(ValueError, match=r"must have usable frames; got none \(1 x pose is not finite\)"):
        open_frames(tmp_path)
