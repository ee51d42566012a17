"""The reader of the ScanNet layout: numbers of its files against plain loops, and what is wrong with files."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.frame_files import numbers_in
from mvdiff.data.layouts import data_set_root, open_recording, scene_folders
from mvdiff.data.scannet import ScanNetScene
from mvdiff.geometry.depth import project_points
from tests.data.scenes import DEPTH_SIZE, K_DEPTH, pose_of, write_depth, write_frame, write_scannet, write_scene


@pytest.fixture
def path(tmp_path):
    return write_scene(tmp_path / "room", num_frames=6, first=7, key_every=2)


def test_a_scene_as_it_is(path):
    scene = ScanNetScene(path)
    assert (scene.name, scene.valid_frames, scene.key_frames) == ("room", [7, 8, 9, 10, 11, 12], [7, 9, 11])
    assert scene.depth_size == DEPTH_SIZE
    assert (scene.prompt(8), dict(scene.unusable)) == ("frame 8", {})
    R, t = scene.pose(9)
    torch.testing.assert_close(R, torch.from_numpy(pose_of(9)[:3, :3]), rtol=0, atol=0)
    torch.testing.assert_close(t, torch.from_numpy(pose_of(9)[:3, 3]), rtol=0, atol=0)


def test_poses_are_world_from_camera(path):
    # Golden, signed: frame 9 turns right by 9 degrees, so what is straight ahead lies at positive x in the world.
    (path / "pose" / "9.txt").write_text("0 0 1 5\n0 1 0 0\n-1 0 0 0\n0 0 0 1\n")  # yaw 90 from (5, 0, 0)
    R, t = ScanNetScene(path).pose(9)
    K = ScanNetScene(path).intrinsics(24, 32)
    xy, z, visible = project_points(torch.tensor([8.0, 0, 0], dtype=torch.float64), K, R, t, 24, 32)
    assert (xy.tolist(), z.item(), visible.item()) == ([15.5, 11.5], 3.0, True)


def test_intrinsics_scale_by_pixel_centres(path):
    # Golden: 32 -> 16 wide, 24 -> 48 high; the middle stays the middle: (15.5 + 0.5)/2 - 0.5, (11.5 + 0.5)*2 - 0.5.
    K = ScanNetScene(path).intrinsics(48, 16)
    assert K.tolist() == [[15, 0, 7.5], [0, 62, 23.5], [0, 0, 1]]


def test_matches_nearest_pixel_centre_loop(path):
    rng = np.random.default_rng(0)
    millimetres = rng.integers(1, 65535, DEPTH_SIZE)
    write_depth(path, 8, millimetres)
    for height, width in ((24, 32), (10, 12), (48, 64), (9, 40), (12, 16)):
        depths = ScanNetScene(path).depths(8, height, width)
        for row in range(height):
            for column in range(width):
                y, x = (row + 0.5) * 24 / height - 0.5, (column + 0.5) * 32 / width - 0.5
                nearest = millimetres[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]  # a tie goes right and down
                assert depths[row, column].item() == pytest.approx(nearest / 1000)


def test_colour_is_a_mean_over_the_area_it_covers(path):
    # The file is x in green and y in blue: a linear picture keeps its value at every pixel's centre away from borders.
    image = (ScanNetScene(path).image(9, 15, 10) + 1) * 127.5
    assert image.shape == (3, 15, 10)
    torch.testing.assert_close(image[0], torch.full((15, 10), 9.0))
    torch.testing.assert_close(image[1, 7, 1:-1], (torch.arange(1, 9) + 0.5) * 4 - 0.5)
    torch.testing.assert_close(image[2, 1:-1, 5], (torch.arange(1, 14) + 0.5) * 2 - 0.5)
    board = (np.indices((30, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)  # what a single point would see is 0 or 255
    Image.fromarray(board).save(path / "color" / "10.png")
    assert ScanNetScene(path).image(10, 6, 8)[:, 1:-1, 1:-1].abs().max() < 0.05
    whole = (ScanNetScene(path).image(9, 30, 40) + 1) * 127.5
    torch.testing.assert_close(whole[1, 3], torch.arange(40.0))


def test_frames_that_lack_something_are_counted(path):
    (path / "valid_frames.npy").unlink()
    (path / "depth" / "8.png").unlink()
    (path / "pose" / "9.txt").write_text("-inf " * 16)
    (path / "pose" / "10.txt").write_text("nan " * 16)
    (path / "pose" / "11.txt").unlink()
    (path / "color" / "12.png").write_bytes(b"")
    scene = ScanNetScene(path)
    assert scene.valid_frames == [7]
    assert scene.unusable == {"no depth": 1, "pose is not finite": 2, "no pose": 1, "no color": 1}
    with pytest.raises(ValueError, match=r"9\.txt must be finite"):
        scene.pose(9)


def test_lists_that_name_frames_that_are_not_there(path):
    (path / "color" / "9.png").unlink()
    (path / "pose" / "11.txt").write_text("inf " * 16)
    for read in (lambda scene: scene.key_frames, lambda scene: scene.valid_frames):
        with pytest.raises(FileNotFoundError, match=r"must list complete frames; got 9, but .*9\.jpg does not"):
            read(ScanNetScene(path))
    scene = ScanNetScene(path, on_broken="skip")
    assert (scene.key_frames, scene.unusable) == ([7], {"no color": 1, "pose is not finite": 1})
    assert scene.valid_frames == [7, 8, 10, 12]


def test_depth_that_is_0_everywhere_is_no_depth(path):
    write_depth(path, 9, np.zeros((24, 32)))
    with pytest.raises(FileNotFoundError, match=r"list complete frames; got 9, but .*9\.png is 0 everywhere"):
        _ = ScanNetScene(path).valid_frames
    scene = ScanNetScene(path, on_broken="skip")
    assert (scene.key_frames, scene.valid_frames) == ([7, 11], [7, 8, 10, 11, 12])
    assert scene.unusable == {"no depth": 1}
    (path / "valid_frames.npy").unlink()
    scene = ScanNetScene(path)
    assert (scene.valid_frames, scene.unusable) == ([7, 8, 10, 11, 12], {"no depth": 1})


@pytest.mark.parametrize("level", range(1, 10))
def test_every_png_of_0_alone_is_small_enough_to_be_looked_into(path, level):
    empty = Image.fromarray(np.zeros((480, 640), np.uint16))
    for frame in range(7, 13):
        empty.save(path / "depth" / f"{frame}.png", compress_level=level)
    assert ScanNetScene(path, on_broken="skip").valid_frames == []


def test_one_depth_of_another_size_is_not_taken_for_the_scenes(path):
    write_depth(path, 7, np.ones((48, 64)))
    assert ScanNetScene(path).depth_size == (24, 32)
    ScanNetScene(path).intrinsics(24, 32)
    with pytest.raises(ValueError, match=r"7\.png must be 32x24, .*; got 64x48"):
        ScanNetScene(path).depths(7, 4, 6)


@pytest.mark.parametrize(
    "frames", [[7, np.inf], [7.5, 8], [True] * 6, [np.nan], [-1, 7], ["7", "8"]], ids=lambda frames: str(frames[0])
)
def test_lists_of_what_is_no_frame_number(path, frames):
    np.save(path / "valid_frames.npy", np.array(frames))
    with pytest.raises(ValueError, match=r"must be a numpy array of frame numbers; got \S+ values such"):
        _ = ScanNetScene(path).valid_frames
    for kind in (np.float16, np.float64, np.uint8):
        np.save(path / "valid_frames.npy", np.array([[8, 7]], kind))
        assert ScanNetScene(path).valid_frames == [7, 8]


def test_an_archive_is_no_list(path):
    with (path / "valid_frames.npy").open("wb") as file:
        np.savez(file, frames=np.arange(3))
    with pytest.raises(ValueError, match=r"numpy array .*`mvdiff data keyframes .* --overwrite`"):
        _ = ScanNetScene(path).valid_frames


def test_a_list_that_is_no_text(path):
    (path / "key_frame_0.6.txt").write_bytes(b"7\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"key_frame_0\.6\.txt must be text in UTF-8; byte 2 is not"):
        _ = ScanNetScene(path).key_frames


def test_jpeg_and_png_colour(path):
    Image.new("RGB", (40, 30), (250, 0, 0)).save(path / "color" / "20.jpg")
    assert ScanNetScene(path).file("color", 20).name == "20.jpg"
    assert ScanNetScene(path).image(20, 4, 6)[0].min() > 0.9
    assert numbers_in(path / "color") == [7, 8, 9, 10, 11, 12, 20]


def test_captions_that_are_missing(path):
    for frame in (7, 8, 10):
        (path / "prompt" / f"{frame}.txt").unlink()
    (path / "prompt" / "11.txt").write_text("\n")
    assert ScanNetScene(path).without_caption(range(7, 13)) == [7, 8, 10]
    with pytest.raises(FileNotFoundError, match=r"8\.txt must hold a caption"):
        ScanNetScene(path).prompt(8)
    with pytest.raises(ValueError, match=r"11\.txt must have the prompt in its first line"):
        ScanNetScene(path).prompt(11)
    nearest = ScanNetScene(path, missing_caption="nearest")
    assert [nearest.prompt(frame) for frame in range(7, 13)] == [f"frame {n}" for n in (9, 9, 9, 9, 12, 12)]
    empty = ScanNetScene(path, missing_caption="empty")
    assert [empty.prompt(frame) for frame in (8, 9, 11)] == ["", "frame 9", ""]
    for caption in (path / "prompt").iterdir():
        caption.unlink()
    with pytest.raises(FileNotFoundError, match="must hold at least one caption"):
        nearest.prompt(8)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("key_frame_0.6.txt", "7\nx\n", r"key_frame_0\.6\.txt:2 must be a frame number; got 'x'"),
        ("key_frame_0.6.txt", "\n", r"at least one frame; got none. Run `mvdiff data keyframes .* --overwrite`"),
        ("pose/7.txt", "1 2 3", r"7\.txt must hold 16 numbers; got 3"),
        ("pose/7.txt", "one " * 16, "must hold numbers; got could not convert"),
        ("pose/7.txt", "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "must be a rotation and a translation"),
        ("pose/7.txt", "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "must be a rotation and a translation"),
        ("intrinsic/intrinsic_depth.txt", "1 2", "must hold 9 or 16 numbers; got 2"),
        ("intrinsic/intrinsic_depth.txt", "0 0 15 0 9 11 0 0 1", "must be intrinsics with positive focal lengths"),
        ("intrinsic/intrinsic_depth.txt", "60 0 31 0 60 23 0 0 1", r"of the depth images, 32x24; got .* \(31, 23\)"),
    ],
)
def test_broken_text_files(path, name, content, text):
    (path / name).write_text(content)
    scene = ScanNetScene(path)
    reads = {"key": lambda: scene.key_frames, "pos": lambda: scene.pose(7), "int": lambda: scene.intrinsics(4, 6)}
    with pytest.raises(ValueError, match=text):
        reads[name[:3]]()


def test_broken_arrays_and_images(path):
    (path / "valid_frames.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"valid_frames\.npy must be a numpy array"):
        _ = ScanNetScene(path).valid_frames
    (path / "depth" / "8.png").write_bytes((path / "depth" / "8.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"8\.png must be a whole image file"):
        ScanNetScene(path).depths(8, 4, 6)
    Image.new("RGB", (32, 24)).save(path / "depth" / "9.png")
    with pytest.raises(ValueError, match=r"9\.png must be a 16-bit PNG with one channel"):
        ScanNetScene(path).depths(9, 4, 6)
    write_depth(path, 10, np.ones((48, 64)))
    with pytest.raises(ValueError, match=r"10\.png must be 32x24, .*; got 64x48"):
        ScanNetScene(path).depths(10, 4, 6)


def test_what_is_no_scene(path, tmp_path):
    (tmp_path / "other" / "color").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"other/depth must be part of a scene .*; it does not exist"):
        ScanNetScene(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"must be one scene; it holds several. Name one of .*other"):
        ScanNetScene(tmp_path)
    (path / "intrinsic" / "intrinsic_depth.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"intrinsic_depth\.txt does not exist"):
        ScanNetScene(path).intrinsics(4, 6)
    (path / "key_frame_0.6.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Run `mvdiff data keyframes .*room`"):
        _ = ScanNetScene(path).key_frames
    with pytest.raises(ValueError, match='on_broken must be "error" or "skip"; got '):
        ScanNetScene(path, on_broken="ignore")
    with pytest.raises(ValueError, match='missing_caption must be "error", "nearest" or "empty"; got '):
        ScanNetScene(path, missing_caption="none")


def test_folders(tmp_path):
    root = write_scannet(tmp_path / "scannet", num_frames=1, key_every=None)
    assert data_set_root(tmp_path) == data_set_root(root) == root
    assert [path.name for path in scene_folders(root / "test")] == ["scene3", "scene4"]
    with pytest.raises(ValueError, match="must hold at least one scene"):
        scene_folders(root)
    with pytest.raises(FileNotFoundError, match="val must be a folder of scenes"):
        scene_folders(root / "val")


def test_intrinsics_of_three_rows(tmp_path):
    scene = write_scene(tmp_path / "room", num_frames=1)
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", K_DEPTH[:3, :3])
    assert ScanNetScene(scene).intrinsics(*DEPTH_SIZE).tolist() == K_DEPTH[:3, :3].tolist()


def test_a_new_frame_needs_no_list(tmp_path):
    scene = write_scene(tmp_path / "room", num_frames=2, key_every=None)
    write_frame(scene, 10)
    assert ScanNetScene(scene).valid_frames == [0, 1, 10]


def test_the_kitchen(test_data):
    scene = ScanNetScene(test_data / "data" / "scannet" / "test" / "scene7000_01")
    assert scene.valid_frames == list(range(300, 450))
    assert scene.depth_size == (480, 640)
    assert scene.intrinsics(192, 256)[0].tolist() == pytest.approx([210.8, 0, 320.5 * 0.4 - 0.5])
    depths = scene.depths(300, 192, 256)
    assert 0.6 < (depths > 0).float().mean() < 0.8  # 22-35 % of the recording's depth is missing
    assert 0.3 < depths[depths > 0].min() < depths.max() < 8
    with pytest.raises(FileNotFoundError, match="mvdiff data keyframes"):
        _ = scene.key_frames


def test_sizes_as_the_2023_release_makes_them(tmp_path):
    """Its K has no half pixels, and its depth pixel i is the one at floor(2 i) of the file."""
    scene = write_scene(tmp_path / "scene", num_frames=1)
    values = np.random.default_rng(0).integers(500, 4000, DEPTH_SIZE)
    write_depth(scene, 0, values)
    exact, released = open_recording(scene), open_recording(scene, resizing="released")
    torch.testing.assert_close(released.depths(0, 12, 16), torch.from_numpy(values[::2, ::2] / 1000).float())
    torch.testing.assert_close(exact.depths(0, 12, 16), torch.from_numpy(values[1::2, 1::2] / 1000).float())
    assert released.intrinsics(12, 16).tolist() == [[15, 0, 7.75], [0, 15.5, 5.75], [0, 0, 1]]
    assert exact.intrinsics(12, 16).tolist() == [[15, 0, 7.5], [0, 15.5, 5.5], [0, 0, 1]]
