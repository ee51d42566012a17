"""A broken link stops no command: every lister names it, or counts it, and goes on."""

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.equirectangular import EquirectangularPanoramas, list_images
from mvdiff.data.layouts import find_recordings
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.check import check_folder
from mvdiff.data.prepare.layout import find_skyboxes
from mvdiff.data.scannet import ScanNetScene
from mvdiff.eval.image_folder import open_folder
from mvdiff.samples import SampleRecord, scan_samples, write_sample
from tests.data.folders import face_path, write_equirectangular, write_matterport3d
from tests.data.scenes import write_scene


@pytest.fixture(params=["itself", "nothing", "forbidden"])
def broken(request):
    """Put a broken link in the place of a path; a name too long stands for a folder that must not be read."""

    def put(path):
        path.unlink(missing_ok=True)
        path.symlink_to({"itself": path.name, "nothing": "gone", "forbidden": "x" * 300}[request.param])
        return path

    return put


def test_split_and_check_of_panoramas(tmp_path, broken, capsys):
    root = write_equirectangular(tmp_path)
    link = broken(root / "place9.png")
    (root / "place9.json").write_text('{"prompt": "x"}')
    broken(root / "latest")
    assert main(["data", "split", str(root), "--overwrite"]) == 0
    assert f"left out, a broken link: {link}" in capsys.readouterr().out
    assert "place9" not in (root / "train.txt").read_text() + (root / "test.txt").read_text()
    assert [problem.path for problem in check_folder(root).problems] == [link]


def test_panoramas(tmp_path, broken):
    root = write_equirectangular(tmp_path)
    broken(root / "place1.png")
    broken(root / "place2.json")
    assert len(list_images(root)) == 7
    with pytest.raises(FileNotFoundError, match=r"place1\.png is a broken link"):
        EquirectangularPanoramas(root)
    skipped = EquirectangularPanoramas(root, on_broken="skip")
    assert (len(skipped), skipped.num_skipped) == (3, 2)


def test_skyboxes(tmp_path, broken):
    root = write_matterport3d(tmp_path, 3, 1)
    broken(root / face_path("scene0", "pano0", 2))
    broken(root / "scene1" / "latest")
    with pytest.raises(FileNotFoundError, match=r"pano0_skybox2_sami\.jpg is a broken link"):
        Matterport3DPanoramas(root)
    skipped = Matterport3DPanoramas(root, on_broken="skip")
    assert (len(skipped), skipped.num_skipped) == (2, 1)
    assert len(find_skyboxes(root).scenes) == 4


def test_recordings(tmp_path, broken):
    scene = write_scene(tmp_path / "scenes" / "a", 3)
    broken(tmp_path / "scenes" / "latest")
    assert find_recordings(tmp_path / "scenes") == [scene]
    link = broken(sorted((scene / "color").iterdir())[1])
    recording = ScanNetScene(scene, on_broken="skip")
    assert recording.problem(recording.frames[1]) == ("no color", f"{link} is a broken link")


def test_samples(tmp_path, broken):
    folder = write_sample(tmp_path / "0", SampleRecord("0", ["x"]), np.zeros((1, 4, 4, 3), np.uint8))
    broken(tmp_path / "latest")
    assert scan_samples(tmp_path) == ([folder], [])


def test_images_to_evaluate(tmp_path, broken):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    link = broken(tmp_path / "b.png")
    source = open_folder(tmp_path)
    assert [sample.sample_id for sample in source] == ["a"]
    assert [item["folder"] for item in source.tally.skipped.values()] == [str(link)]
