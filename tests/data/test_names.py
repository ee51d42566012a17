"""Names in data sets: hidden files, endings, Unicode, links, and paths that lists may have."""

import unicodedata
import zipfile

import numpy as np
import pytest

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.equirectangular import EquirectangularPanoramas, list_images
from mvdiff.data.layouts import find_recordings, open_recording, split_scenes
from mvdiff.data.matterport3d import Matterport3DPanoramas, read_split
from mvdiff.data.prepare.caption import caption_folder
from mvdiff.data.prepare.check import check_folder
from mvdiff.data.prepare.layout import find_skyboxes
from mvdiff.data.prepare.split import split_folder
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.transforms_json import TransformsRecording
from mvdiff.data.tum import TumRecording
from tests.data.folders import write_equirectangular, write_matterport3d, write_skybox
from tests.data.other_layouts import write_transforms, write_tum
from tests.data.scenes import write_scannet, write_scene

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)


def companions(root):
    """Put a companion of macOS beside every file."""
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")


def write_small_scannet(root):
    return write_scannet(root, 1, 1, num_frames=3)


def in_upper_case(root, *endings):
    for ending in endings:
        for path in root.rglob(f"*{ending}"):
            path.rename(path.with_suffix(ending.upper()))


def test_companions_are_in_no_data_set(tmp_path):
    for write in (write_equirectangular, write_matterport3d, write_small_scannet):
        root = write(tmp_path / write.__name__)
        report = check_folder(root)
        companions(root)
        (root / "__MACOSX").mkdir()
        again = check_folder(root)
        assert (again.problems, again.sizes, again.panoramas) == (report.problems, report.sizes, report.panoramas)


def test_companions_are_not_unpacked_or_split(tmp_path):
    write_skybox(tmp_path / "raw", "house", "pano", size=4)
    faces = sorted((tmp_path / "raw/house/matterport_skybox_images").iterdir())
    for number in range(2):
        archive = tmp_path / f"scans/house{number}/matterport_skybox_images.ZIP"
        archive.parent.mkdir(parents=True)
        with zipfile.ZipFile(archive, "w") as content:
            for face in faces:
                content.write(face, f"house{number}/matterport_skybox_images/{face.name}")
                content.writestr(f"house{number}/matterport_skybox_images/._{face.name}", b"\0\5\26\7")
                content.writestr(f"__MACOSX/house{number}/matterport_skybox_images/{face.name}", b"\0\5\26\7")
    report = split_folder(tmp_path / "scans")
    assert (report.train, report.test, len(report.unpacked)) == (1, 1, 2)
    unpacked = tmp_path / "scans/house0/matterport_skybox_images"
    assert [path.read_bytes() for path in sorted(unpacked.iterdir())] == [face.read_bytes() for face in faces]
    for number in range(2):  # now as `unzip` leaves them
        (tmp_path / f"scans/house{number}/house{number}").mkdir()
        (tmp_path / f"scans/house{number}/matterport_skybox_images").rename(
            tmp_path / f"scans/house{number}/house{number}/matterport_skybox_images"
        )
    again = split_folder(tmp_path / "scans", overwrite=True)
    assert (again.train, again.test, again.unpacked, again.copies) == (1, 1, [], [])
    next((tmp_path / "scans/house0/house0/matterport_skybox_images").iterdir()).write_bytes(b"")  # cut short
    assert len(split_folder(tmp_path / "scans", overwrite=True).unpacked) == 1


def test_endings_in_upper_case_are_the_same(tmp_path):
    for write, endings in (
        (write_equirectangular, (".png", ".json")),
        (write_matterport3d, (".jpg", ".txt", ".npy")),
        (write_small_scannet, (".png", ".txt", ".npy")),
    ):
        root = write(tmp_path / write.__name__)
        report = check_folder(root)
        in_upper_case(root, *endings)
        again = check_folder(root)
        assert again.sizes == report.sizes
        assert (again.captions, again.counts) == (report.captions, report.counts)
        assert report.captions


def test_skybox_faces_are_read_in_either_case_and_form(tmp_path):
    root = write_matterport3d(tmp_path, 2, 1)
    before = Matterport3DPanoramas(root)
    faces, captions = before.faces(1), before.captions(1)
    scene = root / "scene1"
    for path in [path for path in scene.rglob("*") if path.is_file()]:
        path.rename(path.with_name(path.name.replace("pano1", NFD)).with_suffix(path.suffix.upper()))
    scene.rename(root / f"{NFD}1")
    rows = np.load(root / "train.npy").tolist()
    rows[1] = [face.replace("scene1", f"{NFC}1").replace("pano1", NFC) for face in rows[1]]
    np.save(root / "train.npy", np.array(rows))
    after = Matterport3DPanoramas(root)
    assert after.faces(1).equal(faces)
    assert after.captions(1) == captions
    assert after.sample_id(1) == f"{NFC}1_{NFC}"
    assert not check_folder(root).problems
    assert find_skyboxes(root).scenes[f"{NFC}1"] == [
        tuple(p.relative_to(root).as_posix() for p in sorted((root / f"{NFD}1/matterport_skybox_images").iterdir()))
    ]


def panoramas(root, *lines):
    (root / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return EquirectangularPanoramas(root)


def test_lists_of_panoramas(tmp_path):
    root = write_equirectangular(tmp_path)
    (root / "place1.png").rename(root / f"{NFD}.PNG")
    (root / "place1.json").rename(root / f"{NFC}.JSON")
    (root / "place2.png").rename(root / "a.jpg.png")
    (root / "place2.json").rename(root / "a.jpg.json")
    read = panoramas(root, "./place0.png", "place3.PNG", f"{NFC}.png", "a.jpg", "place4")
    ids = [read.sample_id(index) for index in range(len(read))]
    assert ids == ["place0", "place3", NFC, "a.jpg", "place4"]
    assert read.captions(2) == {0: "the place1"}
    for lines, reason in (
        (("place0", "place0.png"), r"hold each name once; got 'place0' twice, in lines 1 and 2"),
        ((NFC, "place0", NFD), rf"hold each name once; got '{NFC}' twice, in lines 1 and 3"),
        (("place0", r".\place3.png"), r"train\.txt:2 must separate folders by /"),
        ((f"{root}/place0.png",), r"train\.txt:1 must be a path below the folder"),
        (("../x",), r"train\.txt:1 must be a path below the folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            panoramas(root, *lines)
    with pytest.raises(FileNotFoundError, match=r"gone\.png has no image file"):
        panoramas(root, "gone.png")


def test_test_scenes_are_named_in_any_form(tmp_path):
    root = write_equirectangular(tmp_path)
    (root / "place1.png").rename(root / f"{NFD}.png")
    report = split_folder(root, test_names=[NFC, "place0.png"], overwrite=True)
    assert report.test == 2
    assert (root / "test.txt").read_text().split() == sorted([NFC, "place0"])


def test_two_images_that_look_the_same_are_refused(tmp_path):
    root = write_equirectangular(tmp_path)
    (root / "place0.png").rename(root / f"{NFC}.png")
    (root / "place1.png").rename(root / f"{NFD}.png")
    with pytest.raises(ValueError, match=r"must have a unique name; .* Unicode form"):
        list_images(root)


def test_a_folder_of_other_pictures_says_what_it_holds(tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.HDR").touch()
    root = write_equirectangular(tmp_path / "pano")
    (root / "b.exr").touch()
    for folder, name in ((alone, "a.HDR"), (root, "b.exr")):
        assert ("unread image", name) in [(p.kind, p.path.name) for p in check_folder(folder).problems]


@pytest.mark.parametrize(
    "wrong", ["../x/faces/p_skybox0_sami.jpg", "/x/faces/p_skybox0_sami.jpg", "p_skybox0_sami.jpg", "", r"a\b"]
)
def test_rows_stay_below_the_root(tmp_path, wrong):
    root = write_matterport3d(tmp_path / "data", 2, 1)
    rows = np.load(root / "train.npy").astype("U200")
    rows[1, 0] = wrong
    np.save(root / "train.npy", rows)
    before = sorted(tmp_path.rglob("*"))
    for read in (
        lambda: read_split(root / "train.npy"),
        lambda: caption_folder(root, None),
        lambda: Matterport3DPanoramas(root),
    ):
        with pytest.raises(ValueError, match=r"train\.npy row 1, column 0 must "):
            read()
    assert sorted(tmp_path.rglob("*")) == before
    assert "broken list" in check_folder(root).counts


def test_a_panorama_is_listed_once(tmp_path):
    root = write_matterport3d(tmp_path, 2, 1)
    inner = root / "scene0" / "scene0"
    write_skybox(inner.parent, "scene0", "pano0")
    assert sum(map(len, find_skyboxes(root).scenes.values())) == 3
    report = split_folder(root, overwrite=True)
    assert (report.train + report.test, report.copies) == (3, [str(inner / "matterport_skybox_images/pano0")])
    (root / "scene0/matterport_skybox_images/pano0_skybox3_sami.jpg").unlink()
    found = find_skyboxes(root)
    assert (found.scenes["scene0"][0][0].startswith("scene0/scene0/"), found.incomplete) == (True, [])
    rows = np.load(root / "train.npy")
    np.save(root / "train.npy", np.concatenate([rows, np.char.replace(rows[:1], "scene", "more/scene")]))
    with pytest.raises(ValueError, match=r"must list each panorama once; got scene\d/pano\d twice, in rows 0 and \d"):
        Matterport3DPanoramas(root)
    assert check_folder(root).counts["listed twice"] == 1


def test_skyboxes_behind_links_without_a_loop(tmp_path):
    root = tmp_path / "root"
    write_skybox(root, "near", "a", size=4)
    write_skybox(tmp_path / "disk", "far", "b", size=4)
    (root / "far").symlink_to(tmp_path / "disk" / "far")
    (root / "near" / "up").symlink_to(root)
    assert {scene: len(rows) for scene, rows in find_skyboxes(root).scenes.items()} == {"far": 1, "near": 1}


def test_scenes_are_called_as_in_the_data_set(tmp_path):
    scans = [write_scene(tmp_path / "disk" / f"scan{number}" / "export", 4) for number in range(3)]
    train = tmp_path / "data" / "train"
    train.mkdir(parents=True)
    for name, scan in zip((f"{NFD}0", "b"), scans, strict=False):
        (train / name).symlink_to(scan)
    (train / "up").symlink_to(tmp_path / "data")
    (train / "c").mkdir()
    scans[2].rename(train / "c" / "c")  # unpacked into a folder of its own name
    (train / "._b").mkdir()
    data = RecordingDataModule(tmp_path / "data", 24, 32, num_views=2, num_val=0, min_frames=1)
    assert [scene.name for scene in data.scenes("train")] == ["b", "c", f"{NFC}0"]
    assert len(find_recordings(tmp_path / "data")) == 3
    assert open_recording(train / "b").name == "b"
    assert check_folder(tmp_path / "data").panoramas == {"train": 3}
    assert find_recordings(tmp_path / "disk") == [tmp_path / "disk" / f"scan{number}" / "export" for number in range(2)]


def test_lists_of_scenes(tmp_path):
    write_scene(tmp_path / "a" / "phone", 2)
    write_scene(tmp_path / NFD, 2)
    (tmp_path / "train.txt").write_text(f"./a/phone/\n{NFC}\n", encoding="utf-8")
    assert split_scenes(tmp_path, "train") == [tmp_path / "a" / "phone", tmp_path / NFD]
    data = RecordingDataModule(tmp_path, 24, 32, num_views=2, num_val=0, min_frames=1)
    assert [scene.name for scene in data.scenes("train")] == ["a/phone", NFC]
    (tmp_path / "train.txt").write_text("../elsewhere\n")
    with pytest.raises(ValueError, match=r"train\.txt:1 must be a path below"):
        split_scenes(tmp_path, "train")


def test_frames_of_lists_may_lie_anywhere(tmp_path):
    scene = write_scene(tmp_path / "scene", 3)
    transforms = write_transforms(scene, tmp_path / "transforms") / "transforms.json"
    (transforms.parent / "depth").rename(tmp_path / "depth")
    (transforms.parent / "images").rename(tmp_path / "images")
    text = transforms.read_text()
    transforms.write_text(text.replace("depth/", "../depth/").replace('"./images/', f'"{tmp_path}/images/'))
    recording = TransformsRecording(transforms.parent)
    assert len(recording.valid_frames) == 3
    assert recording.file("depth", 1).samefile(tmp_path / "depth" / "frame_00002.png")
    transforms.write_text(text.replace("depth/", r"depth\\"))
    with pytest.raises(ValueError, match=r"depth_file_path of frame 0 in .*json must separate folders by /"):
        TransformsRecording(transforms.parent)
    tum = write_tum(scene, tmp_path / "tum")
    lines = (tum / "rgb.txt").read_text()
    (tum / "rgb.txt").write_text(lines.replace("rgb/", f"{tmp_path}/colours/"))
    (tum / "depth.txt").write_text((tum / "depth.txt").read_text().replace("depth/", "../depths/"))
    (tum / "rgb").rename(tmp_path / "colours")
    (tum / "depth").rename(tmp_path / "depths")
    in_upper_case(tmp_path / "colours", ".png")
    assert len(TumRecording(tum).valid_frames) == 3


def test_home_in_data_modules(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_equirectangular(tmp_path / "pano", 2, 1)
    write_matterport3d(tmp_path / "faces", 2, 1)
    write_small_scannet(tmp_path / "scans")
    assert len(EquirectangularDataModule("~/pano", num_val=0).train_dataset()) == 2
    assert len(Matterport3DDataModule("~/faces", num_val=0).train_dataset()) == 2
    assert len(RecordingDataModule("~/scans", num_val=0, min_frames=1).scenes("train")) == 1
    (tmp_path / "reader.yaml").write_text("class_path: mvdiff.data.equirectangular.EquirectangularPanoramas\n")
    assert main(["data", "check", "~/pano", "--data", "~/reader.yaml"]) == 0
    assert str(tmp_path / "pano") in capsys.readouterr().out


def test_ids_of_a_data_set_are_known_before_anything_is_read(tmp_path, capsys):
    for data in (
        EquirectangularDataModule(write_equirectangular(tmp_path / "pano", 2, 1), num_val=0),
        RecordingDataModule(write_small_scannet(tmp_path / "scans"), 24, 32, num_views=2, num_val=0, min_frames=1),
    ):
        dataset = data.eval_dataset("test")
        assert dataset.sample_ids() == [dataset[index]["sample_id"] for index in range(len(dataset))]
    root = tmp_path / "pano"
    for suffix in (".png", ".json"):
        (root / f"place0{suffix}").rename(root / f"{'客厅' * 20}{suffix}")
    (root / "train.txt").write_text(f"place1\n{'客厅' * 20}\n", encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        "data:\n  class_path: mvdiff.data.datamodule.EquirectangularDataModule\n"
        f"  init_args:\n    root: {root}\n    num_val: 0\n"
    )
    words = ("generate", "dataset", "--model", tmp_path / "none", "--config", config, "--split", "train")
    assert main([*map(str, words), "--out", str(tmp_path / "out")]) != 0
    assert "id must be at most 255 bytes" in capsys.readouterr().err


def test_scenes_whose_names_look_the_same_are_refused(tmp_path):
    for name in (NFC, NFD):
        write_scene(tmp_path / "train" / name, 2)
    with pytest.raises(ValueError, match=rf"must hold scenes of different names; got '{NFC}' twice"):
        RecordingDataModule(tmp_path, 24, 32, num_views=2, num_val=0, min_frames=1).scenes("train")
