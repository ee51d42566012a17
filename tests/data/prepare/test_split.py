import zipfile

import numpy as np
import pytest

from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.split import split_folder
from tests.data.folders import face_path, write_equirectangular, write_matterport3d, write_skybox


@pytest.fixture
def raw(tmp_path):
    """20 scenes of 1 to 3 panoramas, no lists."""
    for number in range(20):
        for pano in range(number % 3 + 1):
            write_skybox(tmp_path, f"scene{number}", f"pano{number}x{pano}", size=4)
    return tmp_path


def scenes(root, split):
    source = Matterport3DPanoramas(root, split)
    return {source.sample_id(index).split("_")[0] for index in range(len(source))}


def test_split_by_scene(raw):
    report = split_folder(raw)
    assert report.train + report.test == 39
    assert 2 <= report.test <= 6
    assert not scenes(raw, "train") & scenes(raw, "test")
    assert len(scenes(raw, "train") | scenes(raw, "test")) == 20
    rows = np.load(raw / "train.npy")
    assert rows.shape == (report.train, 6)
    assert all(f"_skybox{face}_sami.jpg" in row[face] for row in rows for face in range(6))


def test_split_is_a_function_of_names_and_seed(raw):
    split_folder(raw)
    first = scenes(raw, "test")
    split_folder(raw, overwrite=True)
    assert scenes(raw, "test") == first
    assert any(split_folder(raw, seed=seed, overwrite=True) and scenes(raw, "test") != first for seed in (1, 2))
    split_folder(raw, test_fraction=0.5, overwrite=True)
    assert first < scenes(raw, "test"), "a larger share keeps what was chosen"


def test_given_scenes(raw):
    report = split_folder(raw, test_names=["scene3", "scene5"])
    assert scenes(raw, "test") == {"scene3", "scene5"}
    assert report.test == 4
    with pytest.raises(ValueError, match="got 'sceneX'"):
        split_folder(raw, test_names=["sceneX"], overwrite=True)
    with pytest.raises(ValueError, match="got 0 of 20"):
        split_folder(raw, test_names=[], overwrite=True)


def test_panorama_that_lacks_faces_is_left_out_and_named(raw):
    (raw / face_path("scene2", "pano2x1", 4)).unlink()
    report = split_folder(raw)
    assert report.train + report.test == 38
    assert report.left_out == [str(raw / "scene2/matterport_skybox_images/pano2x1")]


def test_raw_download_is_unpacked(raw, tmp_path):
    download = tmp_path / "v1"
    for number in range(3):
        archive = download / f"scans/house{number}/matterport_skybox_images.zip"
        archive.parent.mkdir(parents=True)
        source = raw / f"scene{number}/matterport_skybox_images"
        with zipfile.ZipFile(archive, "w") as content:
            for path in source.iterdir():
                content.write(path, f"house{number}/matterport_skybox_images/{path.name}")
    report = split_folder(download)
    assert len(report.unpacked) == 3
    assert report.train + report.test == 6
    assert np.load(download / "test.npy")[0, 0].startswith("scans/house")
    assert not list(download.rglob("*.partial"))
    assert split_folder(download, overwrite=True).unpacked == []
    broken = download / "scans/house3/matterport_skybox_images.zip"
    broken.parent.mkdir()
    broken.write_bytes(b"PK")
    with pytest.raises(ValueError, match="must be a whole zip file") as caught:
        split_folder(download, overwrite=True)
    assert str(broken) in str(caught.value)


def test_lists_are_not_overwritten_unasked(tmp_path):
    root = write_matterport3d(tmp_path)
    before = (root / "train.npy").read_bytes()
    with pytest.raises(FileExistsError, match=r"train\.npy already exists.*--overwrite"):
        split_folder(root)
    assert (root / "train.npy").read_bytes() == before


def test_equirectangular_folder(tmp_path):
    root = write_equirectangular(tmp_path)
    report = split_folder(root, test_fraction=0.3, overwrite=True)
    assert (report.train, report.test) == (5, 2)
    sources = [EquirectangularPanoramas(root, split) for split in ("train", "test")]
    assert len({source.sample_id(i) for source in sources for i in range(len(source))}) == 7


def test_errors(tmp_path):
    write_skybox(tmp_path, "only", "pano", size=4)
    with pytest.raises(ValueError, match="at least two scenes or images to split; got 1"):
        split_folder(tmp_path)
    with pytest.raises(ValueError, match="test_fraction must lie between 0 and 1; got 1"):
        split_folder(tmp_path, test_fraction=1)
