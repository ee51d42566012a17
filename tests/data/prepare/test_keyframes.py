"""Key frames by overlap: on views of a wall whose overlap is known, on the toy world and on a real recording."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.frame_files import read_key_frames, read_valid_frames
from mvdiff.data.prepare.keyframes import (
    SceneKeyFrames,
    find_key_frames,
    key_frames_of,
    two_way_overlap,
    view_overlap,
)
from mvdiff.data.prepare.keyframes import _usable_views as usable_views
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.toyworld.write import write_walk
from mvdiff.geometry import overlap_matrix

HEIGHT, WIDTH, DEPTH = 48, 64, 2000  # millimetres; f = 32 pixels, so a wall 2 m away is 4 m wide


def write_wall(scene, positions, depths=None):
    """Write frames that look at a wall from places side by side, metres apart: a metre is a quarter of the width."""
    for sub in ("color", "depth", "pose", "prompt", "intrinsic"):
        (scene / sub).mkdir(parents=True)
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", [[32, 0, 31.5], [0, 32, 23.5], [0, 0, 1]])
    for number, x in enumerate(positions):
        Image.new("RGB", (WIDTH, HEIGHT)).save(scene / "color" / f"{number}.jpg")
        depth = np.full((HEIGHT, WIDTH), DEPTH) if depths is None else depths(number)
        Image.fromarray(depth.astype(np.uint16)).save(scene / "depth" / f"{number}.png")
        pose = np.eye(4)
        pose[0, 3] = x
        np.savetxt(scene / "pose" / f"{number}.txt", pose)
        (scene / "prompt" / f"{number}.txt").write_text("a wall\n")
    return scene


def views(scene):
    found = SceneKeyFrames(scene)
    return list(usable_views(ScanNetScene(scene), range(len(list((scene / "color").iterdir()))), 0.1, found))


def test_overlap_of_a_wall_is_what_the_shift_leaves(tmp_path):
    wall = views(write_wall(tmp_path / "wall", [0, 0.25, 1, 3, 5]))
    for view, share in zip(wall, (1, 15 / 16, 3 / 4, 1 / 4, 0), strict=True):
        assert view_overlap(wall[0], view) == view_overlap(view, wall[0]) == pytest.approx(share)


def test_what_has_no_depth_does_not_count(tmp_path):
    # The left half of each picture has no depth: what is told is about the right half alone. A shift of 1 m (a quarter
    # of the width): of the first's right half all lands inside the second, half of it where there is no depth.
    def right_half(number):
        depth = np.full((HEIGHT, WIDTH), DEPTH)
        depth[:, : WIDTH // 2] = 0
        return depth

    first, second = views(write_wall(tmp_path / "wall", [0, 1], right_half))
    assert view_overlap(first, second) == 1
    assert view_overlap(second, first) == pytest.approx(1 / 2)  # half of it lies to the right of the first picture
    assert two_way_overlap(first, second) == two_way_overlap(second, first) == pytest.approx(1 / 2)


def test_what_is_behind_something_is_not_shown(tmp_path):
    def box_in_second(number):
        depth = np.full((HEIGHT, WIDTH), DEPTH)
        if number == 1:
            depth[:, : WIDTH // 4] = 500
        return depth

    first, second = views(write_wall(tmp_path / "wall", [0, 0], box_in_second))
    assert view_overlap(first, second) == pytest.approx(3 / 4)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The walk of one room, 90 frames of 48x36."""
    root = tmp_path_factory.mktemp("walks")
    return root / write_walk(root, seed=1, index=0, size=48, num_frames=90)


def test_matches_overlap_matrix_where_all_depths_are_known(walk):
    scene = ScanNetScene(walk)
    some = [view for view in views(scene.path) if view.number in (0, 2, 4, 30)]
    K, R, t, depths = (torch.stack([getattr(view, name) for view in some]) for name in ("K", "R", "t", "depths"))
    overlap = overlap_matrix(K, R, t, depths, stride=1)
    assert 0.01 < overlap.min() < 0.1
    for i, view in enumerate(some):
        for j, other in enumerate(some):
            assert view_overlap(view, other) == pytest.approx(overlap[i, j].item())


@pytest.mark.parametrize("target", [0.5, 0.65])
def test_toy_walks(walk, target):
    scene = ScanNetScene(walk)
    found = find_key_frames(scene, target)
    seen = views(scene.path)
    assert found.valid_frames == list(range(90))
    after_last = two_way_overlap(seen[found.key_frames[-1]], seen[89])
    assert found.key_frames[0] == 0
    assert found.key_frames[-1] == 89 or after_last > (1 + target) / 2
    assert found.overlaps == [
        two_way_overlap(seen[a], seen[b]) for a, b in zip(found.key_frames, found.key_frames[1:], strict=False)
    ]
    assert min(found.overlaps) >= target
    assert sum(found.overlaps) / len(found.overlaps) < target + 0.09
    for key, after in zip(found.key_frames[:-2], found.key_frames[1:-1], strict=True):  # greedy: one more is too far
        assert two_way_overlap(seen[key], seen[after + 1]) < target
        assert all(two_way_overlap(seen[key], seen[i]) >= target for i in range(key + 1, after + 1))


def test_toy_world_comes_with_its_lists(walk):
    found = find_key_frames(ScanNetScene(walk))
    assert read_key_frames(walk / "key_frame_0.6.txt") == found.key_frames
    assert read_valid_frames(walk / "valid_frames.npy") == found.valid_frames


def test_frames_that_are_not_usable(tmp_path):
    def depths(number):
        depth = np.full((HEIGHT, WIDTH), DEPTH)
        depth[: {3: HEIGHT - 1, 4: HEIGHT - 4}.get(number, 0)] = 0
        return depth

    scene = write_wall(tmp_path / "wall", [0.1 * i for i in range(12)], depths)
    (scene / "pose" / "1.txt").write_text("-inf " * 16)
    (scene / "depth" / "5.png").write_bytes(b"broken")
    (scene / "depth" / "6.png").unlink()
    found = find_key_frames(ScanNetScene(scene))
    assert found.valid_frames == [0, 2, 7, 8, 9, 10, 11]
    assert found.unusable == {
        "pose is not finite": 1,
        "depth on less than 20% of pixels": 2,
        "broken depth": 1,
        "no depth": 1,
    }
    assert find_key_frames(ScanNetScene(scene), min_depth=0.05).valid_frames == [0, 2, 4, 7, 8, 9, 10, 11]
    # 0.1 m is 2.5 %: 65 % is left after 1.4 m, so that the last frame is the second key frame
    assert found.key_frames == [0, 11]
    assert find_key_frames(ScanNetScene(scene), overlap=0.75).key_frames == [0, 10]  # 25 % is 1 m


@pytest.mark.parametrize(
    ("positions", "key_frames"),
    [
        ([0, 1.4, 1.44], [0, 1]),  # 0.99 of frame 1 is in frame 2: nothing new
        ([0, 1.4, 2.08], [0, 1]),  # 0.83
        ([0, 1.4, 2.12], [0, 1, 2]),  # 0.82: more than half as much new as in a step
        ([0, 0.04, 0.04], [0]),
    ],
)
def test_the_last_frame_is_a_key_frame_only_if_it_shows_something_new(tmp_path, positions, key_frames):
    assert find_key_frames(ScanNetScene(write_wall(tmp_path / "wall", positions))).key_frames == key_frames


def test_a_jump_is_a_pair_that_is_reported(tmp_path):
    scene = write_wall(tmp_path / "wall", [0, 0.5, 1, 9, 9.5, 10])
    found = find_key_frames(ScanNetScene(scene))
    assert (found.key_frames, found.num_apart, found.problem) == ([0, 2, 3, 5], 1, "")
    assert found.overlaps == [0.75, 0, 0.75]
    assert "1 pairs below 0.3" in str(found)


def test_command_reports_scenes_without_overlap(tmp_path, capsys):
    good = write_wall(tmp_path / "train" / "good", [0, 1, 2])
    apart = write_wall(tmp_path / "train" / "apart", [0, 10, 20])
    blind = write_wall(tmp_path / "test" / "blind", [0, 1], lambda number: DEPTH * np.eye(HEIGHT, WIDTH))
    assert main(["data", "keyframes", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{good}: 3 frames, 3 valid, 3 key, overlap 0.75 (0.75 to 0.75); depth agreement 1.00 in 2 pairs\n" in out
    assert f"{apart}: no two of its 3 key frames overlap by 0.3: poses" in out
    assert "(read as 1000 a metre, scannet layout)" in out
    assert f"{blind}: no frame is usable: {{'depth on less than 20% of pixels': 2}}" in out
    assert "3 scenes, 2 failed; overlap of 4 pairs: 0.375" in out
    assert (good / "valid_frames.npy").is_file()
    assert not (apart / "key_frame_0.6.txt").exists()
    (good / "intrinsic" / "intrinsic_depth.txt").write_text("64 0 63 0 64 47 0 0 1")
    assert main(["data", "keyframes", str(good), "--overwrite"]) == 1
    assert "must be in pixels of the depth images, 64x48" in capsys.readouterr().out


def test_lists_that_are_there_are_kept(tmp_path):
    scene = write_wall(tmp_path / "wall", [0, 0.5, 1])
    (scene / "key_frame_0.6.txt").write_text("1\n")
    np.save(scene / "valid_frames.npy", [1])
    [kept] = key_frames_of(scene)
    assert (kept.kept, (scene / "key_frame_0.6.txt").read_text()) == (True, "1\n")
    [anew] = key_frames_of(scene, overwrite=True, num_workers=2)
    assert (anew.kept, (scene / "key_frame_0.6.txt").read_text()) == (False, "0\n2\n")
    assert not list(scene.glob("*.partial"))


def test_a_key_frame_list_is_kept_where_only_the_valid_frames_are_missing(tmp_path, capsys):
    scene = write_wall(tmp_path / "wall", [0, 0.5, 1, 1.5])
    (scene / "pose" / "2.txt").write_text("-inf " * 16)
    (scene / "key_frame_0.6.txt").write_text("1\n3\n")
    assert main(["data", "keyframes", str(scene)]) == 0
    assert (scene / "key_frame_0.6.txt").read_text() == "1\n3\n"
    assert read_valid_frames(scene / "valid_frames.npy") == [0, 1, 3]
    reasons = "1 x pose is not finite; depth agreement 1.00 in 2 pairs; kept the existing key_frame_0.6.txt"
    line = f"{scene}: 4 frames, 3 valid, 2 key, {reasons}\n"
    assert line in capsys.readouterr().out
    assert not list(scene.glob("*.partial"))


def test_valid_frames_are_kept_where_only_the_key_frames_are_missing(tmp_path, capsys):
    scene = write_wall(tmp_path / "wall", [0, 0.5, 1, 1.5, 2])
    np.save(scene / "valid_frames.npy", [1, 2, 4, 9])  # 0 and 3 are usable, but not listed; 9 is not there
    before = (scene / "valid_frames.npy").read_bytes()
    assert main(["data", "keyframes", str(scene)]) == 0
    assert (scene / "valid_frames.npy").read_bytes() == before
    assert read_key_frames(scene / "key_frame_0.6.txt") == [1, 2, 4]  # 1 to 4 is 0.625
    out = capsys.readouterr().out
    assert ", 1 x no color; depth agreement 1.00 in 2 pairs; kept the existing valid_frames.npy\n" in out
    assert main(["data", "keyframes", str(scene), "--overwrite"]) == 0
    assert read_valid_frames(scene / "valid_frames.npy") == [0, 1, 2, 3, 4]


def test_a_kept_list_that_is_broken_is_named_and_kept(tmp_path, capsys):
    scene = write_wall(tmp_path / "wall", [0, 0.5, 1])
    (scene / "key_frame_0.6.txt").write_text("one\n")
    assert main(["data", "keyframes", str(scene)]) == 1
    assert f"{scene / 'key_frame_0.6.txt'}:1 must be a frame number; got 'one'" in capsys.readouterr().out
    assert (scene / "key_frame_0.6.txt").read_text() == "one\n"
    assert not (scene / "valid_frames.npy").exists()


@pytest.mark.parametrize("where", ["in the scene", "in the copy"])
def test_a_link_in_the_way_is_a_problem_of_its_scene_alone(tmp_path, capsys, where):
    for name in ("a", "b"):
        write_wall(tmp_path / "data" / "train" / name, [0, 0.5, 1])
    out = tmp_path / "data" if where == "in the scene" else tmp_path / "out"
    link = out / "train" / "a" / "valid_frames.npy"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "nowhere.npy")
    np.save(tmp_path / "data" / "train" / "b" / "valid_frames.npy", [0, 1])
    if where == "in the copy":
        np.save(tmp_path / "data" / "train" / "a" / "valid_frames.npy", [0, 1])
    more = [] if where == "in the scene" else ["--out", str(out)]
    assert main(["data", "keyframes", str(tmp_path / "data"), *more]) == 1
    assert f"{link} is a link to {tmp_path / 'nowhere.npy'}" in capsys.readouterr().out
    assert (out / "train" / "b" / "key_frame_0.6.txt").is_file()
    assert not (tmp_path / "nowhere.npy").exists()


def test_out_leaves_the_original_alone(tmp_path):
    scene = write_wall(tmp_path / "data" / "train" / "wall", [0, 1])
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    key_frames_of(tmp_path / "data", out=tmp_path / "out")
    copy = tmp_path / "out" / "train" / "wall"
    assert read_key_frames(copy / "key_frame_0.6.txt") == [0, 1]
    assert os.path.samefile(copy / "color", scene / "color")
    assert not os.path.samefile(copy / "prompt", scene / "prompt")
    after = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "data").rglob("*"))}
    assert after == {path: when for path, when in before.items() if path in after}
    assert len(after) == len(before) - 1
    assert ScanNetScene(copy).prompt(0) == "a wall"
    assert key_frames_of(scene, out=tmp_path / "single")[0].path == tmp_path / "single"


@pytest.mark.parametrize("settings", [{"overlap": 0}, {"overlap": 1.0}, {"min_depth": 1}])
def test_settings_out_of_range(tmp_path, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must lie between 0 and 1"):
        key_frames_of(write_wall(tmp_path / "wall", [0]), **settings)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        key_frames_of(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="which has none"):
        key_frames_of(tmp_path / "empty")


def test_the_kitchen(test_data, tmp_path):
    # 5 pairs, mean 0.69 (0.66 to 0.81); a third of the depth is missing (notes/real-data.md).
    [found] = key_frames_of(test_data / "data" / "scannet" / "test" / "scene7000_01", out=tmp_path)
    assert len(found.valid_frames) == 150
    assert min(found.overlaps) >= 0.65
    assert 0.65 < sum(found.overlaps) / len(found.overlaps) < 0.72
    assert read_key_frames(tmp_path / "key_frame_0.6.txt") == found.key_frames
    assert not (test_data / "data" / "scannet" / "test" / "scene7000_01" / "key_frame_0.6.txt").exists()
