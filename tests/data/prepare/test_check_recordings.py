"""Every file of scenes in one pass: what is broken, missing, of another size, or listed and not there."""

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.prepare.check import check_folder, check_folders
from mvdiff.data.prepare.split import split_folder
from mvdiff.data.recording_datamodule import RecordingDataModule
from tests.data.folders import truncate, write_equirectangular, write_matterport3d
from tests.data.scenes import write_depth, write_scannet, write_scene


def found(report):
    return {(problem.kind, str(problem.path.relative_to(report.root))) for problem in report.problems}


def test_whole_scenes_have_no_problems(tmp_path):
    root = write_scannet(tmp_path / "scannet", num_train=2, num_test=1, num_frames=4)
    report = check_folder(tmp_path)
    assert (report.layout, report.root, report.problems) == ("scannet", root, [])
    assert report.panoramas == {"test": 1, "train": 2}
    assert report.sizes == {(40, 30): 18, (32, 24): 18}
    assert (report.captions, dict(report.notes)) == (18, {})
    assert check_folder(root / "train" / "scene0").panoramas == {"train": 1}


def test_a_limit_reads_key_frames_of_the_first_scenes(tmp_path):
    root = write_scannet(tmp_path / "scannet", num_train=2, num_test=1, num_frames=12)
    scene = root / "train" / "scene0"
    (scene / "key_frame_0.6.txt").write_text("0\n8\n99\n")
    truncate(scene / "color" / "8.png")
    truncate(scene / "color" / "3.png")
    truncate(root / "train" / "scene1" / "color" / "0.png")
    (report,) = check_folders(tmp_path, limit=2)
    assert report.panoramas == {"test": 1, "train": 2}
    assert found(report) == {
        ("broken colour", "train/scene0/color/8.png"),
        ("listed frame does not exist", "train/scene0/key_frame_0.6.txt"),
        ("listed frame is not usable", "train/scene0/key_frame_0.6.txt"),
        ("listed frame is not usable", "train/scene0/valid_frames.npy"),
    }
    assert report.sizes == {(40, 30): 3, (32, 24): 4}


def test_everything_wrong_is_named_in_one_pass(tmp_path, capsys):
    scene = write_scene(tmp_path / "train" / "room", num_frames=20)
    truncate(scene / "color" / "0.png")
    (scene / "color" / "1.png").unlink()
    Image.new("RGB", (20, 15)).save(scene / "color" / "2.png")
    truncate(scene / "depth" / "3.png")
    (scene / "depth" / "4.png").unlink()
    write_depth(scene, 5, np.zeros((24, 32)))
    write_depth(scene, 6, np.ones((12, 16)))
    Image.new("L", (32, 24)).save(scene / "depth" / "7.png")
    (scene / "pose" / "8.txt").write_text("-inf " * 16)
    (scene / "pose" / "9.txt").unlink()
    (scene / "pose" / "10.txt").write_text("1 2")
    (scene / "prompt" / "12.txt").unlink()
    (scene / "prompt" / "13.txt").unlink()
    (scene / "prompt" / "14.txt").write_text("")
    (scene / "prompt" / "15.txt").write_bytes(b"\xff")
    (scene / "key_frame_0.6.txt").write_text("0\n8\n12\n16\n99\n")
    (scene / "intrinsic" / "intrinsic_depth.txt").write_text("60 0 40 0 60 30 0 0 1")
    other = write_scene(tmp_path / "test" / "other", num_frames=3, key_every=None)
    (other / "intrinsic" / "intrinsic_depth.txt").unlink()
    (tmp_path / "test" / "bare" / "color").mkdir(parents=True)

    report = check_folder(tmp_path, num_threads=2)
    lists = {"train/room/key_frame_0.6.txt", "train/room/valid_frames.npy"}
    assert found(report) == {
        ("broken colour", "train/room/color/0.png"),
        ("missing colour", "train/room/color/1.jpg"),
        ("wrong size", "train/room/color/2.png"),
        ("broken depth", "train/room/depth/3.png"),
        ("missing depth", "train/room/depth/4.png"),
        ("wrong size", "train/room/depth/6.png"),
        ("broken depth", "train/room/depth/7.png"),
        ("missing pose", "train/room/pose/9.txt"),
        ("broken pose", "train/room/pose/10.txt"),
        ("missing caption", "train/room/prompt/12.txt"),
        ("empty caption", "train/room/prompt/14.txt"),
        ("broken caption", "train/room/prompt/15.txt"),
        ("broken intrinsics", "train/room/intrinsic/intrinsic_depth.txt"),
        ("listed frame does not exist", "train/room/key_frame_0.6.txt"),
        *(("listed frame is not usable", name) for name in lists),
        ("missing intrinsics", "test/other/intrinsic/intrinsic_depth.txt"),
        ("missing list", "test/other/key_frame_0.6.txt"),
        ("missing folder", "test/bare/depth"),
        ("missing folder", "test/bare/pose"),
    }
    not_usable = [p.details for p in report.problems if p.kind == "listed frame is not usable"]
    assert "frame 8: pose is not finite" in not_usable
    assert "frame 5: no depth at all" in not_usable
    assert len(not_usable) == 2 + 9  # two key frames, nine of the list of valid ones
    assert report.notes == {
        "pose that is not finite": 1,
        "depth image without any depth": 1,
        "frame between key frames without caption": 1,
        "scene whose depths and poses could not be compared": 2,
    }
    assert main(["data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"listed frame does not exist: {scene / 'key_frame_0.6.txt'} (frame 99)" in out
    assert "scannet layout; scenes: 2 in test, 1 in train" in out
    assert "; 1 x pose that is not finite" in out
    assert "2 x missing folder" in out


def test_a_lost_track_is_no_problem(tmp_path):
    scene = write_scene(tmp_path / "room", num_frames=4, key_every=None)
    (scene / "key_frame_0.6.txt").write_text("0\n3\n")
    (scene / "pose" / "1.txt").write_text("nan " * 16)
    report = check_folder(scene)
    assert (report.problems, dict(report.notes)) == ([], {"pose that is not finite": 1})


def test_zero_padded_names_are_not_passed_over(tmp_path, capsys):
    scene = write_scene(tmp_path / "room", num_frames=12)
    for kind in ("color", "depth", "pose"):
        for path in list((scene / kind).iterdir()):
            path.rename(path.with_name(path.name.zfill(10)))
    assert main(["data", "check", str(scene)]) == 1
    out = capsys.readouterr().out
    rename = "are not read; rename them to <i>"
    for kind, suffix in (("color", ".png"), ("depth", ".png"), ("pose", ".txt")):
        details = f"12, such as 000000{suffix}, {rename}{suffix}, 000000{suffix} to 0{suffix}"
        assert f"zero-padded names: {scene / kind} ({details})\n" in out
    assert "no colour images" not in out
    assert "3 x zero-padded names" in out


def test_zero_padded_names_among_others(tmp_path):
    scene = write_scene(tmp_path / "room", num_frames=12)  # of these, 10 and 11 have no padding
    for number in range(10):
        (scene / "depth" / f"{number}.png").rename(scene / "depth" / f"{number:02d}.png")
    (scene / "depth" / "00.txt").write_text("notes")
    padded = [problem for problem in check_folder(scene).problems if problem.kind == "zero-padded names"]
    assert [(problem.path, problem.details) for problem in padded] == [
        (scene / "depth", "10, such as 00.png, are not read; rename them to <i>.png, 00.png to 0.png")
    ]


@pytest.mark.parametrize("name", [None, "frame-000000.color.jpg"])
def test_a_scene_without_colour_images(tmp_path, name):
    scene = write_scene(tmp_path / "room", num_frames=0, key_every=None)
    if name:
        Image.new("RGB", (40, 30)).save(scene / "color" / name)
    (scene / "key_frame_0.6.txt").write_text("0\n")
    problems = {str(problem) for problem in check_folder(scene).problems}
    names = "it must hold frames named <i>.jpg, <i>.jpeg, <i>.png, <i>.webp, <i>.bmp, <i>.tif, <i>.tiff"
    assert f"no colour images: {scene / 'color'} ({names})" in problems


def test_broken_lists(tmp_path):
    scene = write_scene(tmp_path / "room", num_frames=2)
    (scene / "key_frame_0.6.txt").write_text("one\n")
    (scene / "valid_frames.npy").write_bytes(b"")
    assert found(check_folder(scene)) == {("broken list", "key_frame_0.6.txt"), ("broken list", "valid_frames.npy")}


def test_each_layout_of_a_folder_is_checked(tmp_path, capsys):
    write_matterport3d(tmp_path / "mp3d_skybox")
    write_scannet(tmp_path / "scannet", num_train=1, num_test=1, num_frames=2)
    assert [report.layout for report in check_folders(tmp_path)] == ["matterport3d", "scannet"]
    assert main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("no problems") == 2
    (tmp_path / "scannet" / "test" / "scene1" / "pose" / "0.txt").unlink()
    assert main(["data", "check", str(tmp_path)]) == 1
    assert [report.layout for report in check_folders(write_equirectangular(tmp_path / "panos"))] == ["equirectangular"]


def test_scenes_in_train_and_test_are_not_split(tmp_path):
    write_scannet(tmp_path, num_train=1, num_test=1, num_frames=2)
    (tmp_path / "scannetv2_train.txt").write_text("scene0\n")
    with pytest.raises(ValueError, match=r"DIR must be .* side by side; got .* \(scannet layout\)"):
        split_folder(tmp_path)
    with pytest.raises(ValueError, match=r"DIR must be .*; got .*scene0, which is a single scene"):
        split_folder(tmp_path / "train" / "scene0")


def test_scenes_side_by_side_are_split_by_lists(tmp_path, capsys):
    for number in range(4):
        write_scene(tmp_path / f"room{number}", num_frames=8)
    assert main(["data", "split", str(tmp_path), "--test_fraction", "0.25"]) == 0
    assert "3 train and 1 test scenes" in capsys.readouterr().out
    module = RecordingDataModule(tmp_path, num_views=2, num_val=1)
    names = [[scene.name for scene in module.scenes(split)] for split in ("train", "test")]
    assert [len(some) for some in names] == [3, 1]
    assert sorted([*names[0], *names[1]]) == [f"room{number}" for number in range(4)]
    (tmp_path / "test.txt").write_text("room9\n")
    with pytest.raises(FileNotFoundError, match=r"test\.txt must name scenes; got room9"):
        RecordingDataModule(tmp_path).scenes("test")


def test_the_kitchen(test_data):
    report = check_folder(test_data / "data" / "scannet" / "test" / "scene7000_01")
    assert {kind for kind, _ in found(report)} == {"missing list"}
    assert report.sizes == {(640, 480): 300}
    assert report.captions == 150
