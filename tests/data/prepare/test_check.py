import json

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.prepare.check import check_folder, check_folders
from tests.data.folders import face_path, truncate, write_equirectangular, write_matterport3d


def found(report):
    return {(problem.kind, str(problem.path.relative_to(report.root))) for problem in report.problems}


def test_whole_folder_has_no_problems(tmp_path):
    report = check_folder(write_matterport3d(tmp_path / "mp3d_skybox").parent)
    assert report.problems == []
    assert report.layout == "matterport3d"
    assert report.panoramas == {"train.npy": 5, "test.npy": 2}
    assert report.sizes == {(16, 16): 42}
    assert report.captions == 56


def test_everything_wrong_is_named_in_one_pass(tmp_path):
    root = write_matterport3d(tmp_path)
    truncate(root / face_path("scene0", "pano0", 1))
    (root / face_path("scene0", "pano0", 2)).unlink()
    (root / "scene1/blip3/pano1_45.txt").unlink()
    (root / "scene1/blip3/pano1_90.txt").write_text("\n")
    (root / "scene1/blip3/pano1_135.txt").write_bytes(b"\xff")
    (root / "scene1/blip3/pano1_up.txt").write_text("")
    Image.new("RGB", (16, 12)).save(root / face_path("scene2", "pano2", 0))
    Image.new("RGB", (24, 24)).save(root / face_path("scene2", "pano2", 5))
    (root / face_path("scene3", "pano3", 3)).write_text("not an image")
    rows = np.load(root / "train.npy").astype("U99")
    rows[4] = [face_path("gone", "pano", face) for face in range(6)]
    rows[3] = rows[3][[1, 0, 2, 3, 4, 5]]
    np.save(root / "train.npy", rows)
    test_rows = np.load(root / "test.npy").astype("U99")
    np.save(root / "test.npy", np.concatenate([test_rows, rows[2:3]]))

    report = check_folder(root, num_threads=3)
    assert found(report) == {
        ("broken face", face_path("scene0", "pano0", 1)),
        ("missing face", face_path("scene0", "pano0", 2)),
        ("missing caption", "scene1/blip3/pano1_45.txt"),
        ("empty caption", "scene1/blip3/pano1_90.txt"),
        ("broken caption", "scene1/blip3/pano1_135.txt"),
        ("empty caption", "scene1/blip3/pano1_up.txt"),
        ("wrong size", face_path("scene2", "pano2", 0)),
        ("wrong size", face_path("scene2", "pano2", 5)),
        ("broken face", face_path("scene3", "pano3", 3)),
        ("wrong face order", face_path("scene3", "pano3", 1)),
        ("wrong face order", face_path("scene3", "pano3", 0)),
        ("listed twice", face_path("scene2", "pano2", 0)),
        *(("listed path does not exist", face_path("gone", "pano", face)) for face in range(6)),
        *(("missing caption", f"gone/blip3/pano_{degree}.txt") for degree in range(0, 360, 45)),
    }
    assert len(report.problems) == sum(report.counts.values()) == 26
    texts = "\n".join(map(str, report.problems))
    assert "truncated" in texts
    assert "train.npy row 0" in texts
    assert "16x12; faces are square" in texts
    assert "24x24; others are 16x16" in texts


def test_problems_do_not_depend_on_threads(tmp_path):
    root = write_matterport3d(tmp_path)
    for number in range(4):
        truncate(root / face_path(f"scene{number}", f"pano{number}", number))
    assert check_folder(root, num_threads=1).problems == check_folder(root, num_threads=5).problems


def test_missing_and_broken_lists(tmp_path):
    root = write_matterport3d(tmp_path)
    (root / "test.npy").unlink()
    (root / "train.npy").write_bytes(b"nothing")
    assert found(check_folder(root)) == {("missing list", "test.npy"), ("broken list", "train.npy")}


def test_raw_folder_without_lists_is_looked_through(tmp_path):
    root = write_matterport3d(tmp_path)
    for name in ("train.npy", "test.npy"):
        (root / name).unlink()
    (root / face_path("scene1", "pano1", 1)).unlink()
    truncate(root / face_path("scene2", "pano2", 1))
    report = check_folder(root)
    assert report.panoramas == {"without a list": 6}
    assert found(report) == {
        ("missing list", "train.npy"),
        ("missing list", "test.npy"),
        ("missing face", "scene1/matterport_skybox_images/pano1"),
        ("broken face", face_path("scene2", "pano2", 1)),
    }


def test_equirectangular_folder(tmp_path):
    root = write_equirectangular(tmp_path)
    assert check_folder(root).problems == []
    truncate(root / "place0.png")
    Image.new("RGB", (30, 16)).save(root / "place1.png")
    (root / "place2.json").unlink()
    (root / "place3.json").write_text('{"prompt": ""}')
    (root / "place4.png").unlink()
    Image.new("RGB", (32, 16)).save(root / "new.png")
    (root / "test.txt").write_text("place5\nplace6\nplace2\n")
    report = check_folder(root)
    assert found(report) == {
        ("broken image", "place0.png"),
        ("wrong size", "place1.png"),
        ("missing caption", "place2.json"),
        ("empty caption", "place3.json"),
        ("listed path does not exist", "place4"),
        ("missing caption", "new.json"),
        ("listed twice", "place2"),
    }
    assert report.panoramas == {"train.txt": 5, "test.txt": 3, "without a list": 1}


def test_a_limit_reads_the_first_of_each_list(tmp_path):
    root = write_matterport3d(tmp_path / "skyboxes")
    rows = {name: np.load(root / f"{name}.npy") for name in ("train", "test")}
    truncate(root / rows["train"][1][0])
    (root / rows["test"][0][3]).unlink()
    (report,) = check_folders(root, limit=1)
    assert report.panoramas == {"train.npy": 5, "test.npy": 2}
    assert found(report) == {("missing face", rows["test"][0][3])}
    assert report.sizes == {(16, 16): 11}
    assert len(check_folders(root, limit=2)[0].problems) == 2
    root = write_equirectangular(tmp_path / "images")
    names = {name: (root / f"{name}.txt").read_text().split() for name in ("train", "test")}
    (root / f"{names['train'][1]}.json").unlink()
    (root / f"{names['test'][0]}.json").unlink()
    assert found(check_folders(root, limit=1)[0]) == {("missing caption", f"{names['test'][0]}.json")}
    with pytest.raises(ValueError, match="limit must be at least 1; got 0"):
        check_folders(root, limit=0)


def test_progress_counts_panoramas(tmp_path):
    seen = []
    check_folder(write_matterport3d(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 7) for number in range(1, 8)]


@pytest.mark.parametrize("num_threads", [0, -3])
def test_too_few_threads(tmp_path, capsys, num_threads):
    root = write_equirectangular(tmp_path)
    text = f"num_threads must be at least 1; got {num_threads}"
    for check in (check_folder, check_folders):
        with pytest.raises(ValueError, match=text):
            check(root, num_threads)
    assert main(["data", "check", str(root), "--num_workers", str(num_threads)]) == 1
    assert f"error: {text}" in capsys.readouterr().err


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(ValueError, match="which is none of these"):
        check_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["matterport3d", "equirectangular"])
def test_captions_that_training_cuts_are_counted_and_named(tmp_path, capsys, layout):
    long = "a red sofa beside a wooden table, " * 12
    if layout == "matterport3d":
        root = write_matterport3d(tmp_path / "mp3d_skybox")
        paths = [root / "scene1/blip3/pano1_90.txt", root / "scene2/blip3/pano2_up.txt"]
        for path in paths:
            path.write_text(long)
    else:
        root = write_equirectangular(tmp_path / "panoramas")
        paths = [root / "place1.json"]
        paths[0].write_text(json.dumps({"prompts": {"0": long, "90": f"{long} again", "180": "a wall"}}))
    report = check_folder(root)
    assert report.problems == []
    assert sorted(report.cut_captions) == sorted(paths)
    assert list(report.notes.values()) == [2]
    assert main(["data", "check", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "2 x caption of more than 77 tokens (the prefix not counted), cut in training" in printed
    assert all(f"note: {path}: longer than the text encoder's context" in printed for path in paths)
