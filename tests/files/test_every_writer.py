"""Every writer of the package: whichever write or move fails, the old files are kept, and so are all others."""

import numpy as np
import pytest

from mvdiff.data.prepare.caption import caption_folder
from mvdiff.data.prepare.keyframes import KEY_FRAMES, VALID_FRAMES, SceneKeyFrames, write_lists
from mvdiff.data.prepare.split import split_folder
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.eval.results_file import write_results
from mvdiff.mesh.surface import Mesh, write_mesh
from mvdiff.report import Page, write_page
from mvdiff.report.panorama_files import write_panorama_pictures
from mvdiff.report.video import write_video
from mvdiff.samples import read_sample, save_panorama, write_json
from mvdiff.settings import PanoramaPictures
from tests.data.folders import write_matterport3d
from tests.faults import every_fault, full_disk
from tests.report.folders import write_panorama


def json_file(folder, version):
    write_json(folder / "a.json", [version])


def results(folder, version):
    write_results({"version": version}, folder / "results.json")


def panorama(folder, version):
    save_panorama(folder / "a.jpg", np.full((8, 16, 3), 100 * version, np.uint8))


def page(folder, version):
    write_page(folder / "report.html", Page(f"page {version}"))


def video(folder, version):
    write_video(folder / "a.mp4", [np.full((16, 16, 3), 100 * version, np.uint8)] * 2)


def mesh(folder, version):
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, version, 0]])
    write_mesh(folder / "a.ply", Mesh(vertices, np.array([[0, 1, 2]]), np.zeros((3, 3), np.uint8)))


def split(folder, version):
    if version == 1:
        write_matterport3d(folder)
    split_folder(folder, seed=version, test_fraction=0.2 * version, overwrite=True)


def key_frames(folder, version):
    write_lists(folder, SceneKeyFrames(folder, valid_frames=[1, version], key_frames=[version]))


def toyworld(folder, version):
    write_toyworld(folder, rooms=2, size=16, num_frames=0, seed=10 * version)


def features(folder, version):
    ToyFeatureNet({"walls": ["blue", "red"]}, width=8, num_features=version).save_pretrained(folder)


WRITERS = (json_file, results, panorama, page, video, mesh, split, key_frames, toyworld, features)
USERS = {
    "a.json.tmp": "mine",
    ".a.mp4.tmp": "mine",
    ".report.html.tmp": "mine",
    "results.json.tmp": "mine",
    "LICENSE": "mine",
    "../folder.tmp/thesis.tex": "mine",
}


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_whichever_write_fails_the_old_files_are_kept(tmp_path, monkeypatch, writer):
    folder = tmp_path / "folder"
    for name, text in USERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = content(tmp_path)
    step = 30 if writer is toyworld else 1  # it renders at every try
    for _ in every_fault(monkeypatch, lambda: writer(folder, 1), step=step):
        new = set(content(tmp_path)) - set(before)
        assert not new or writer is split  # whose panoramas are made first
    old = content(tmp_path)
    faults = 0
    for _ in every_fault(monkeypatch, lambda: writer(folder, 2), step=step):
        assert content(tmp_path) == old
        faults += 1
    assert faults >= 1
    new = content(tmp_path)
    assert new != old
    assert new.keys() == old.keys()
    assert {name: new[name] for name in before} == before


def test_lists_of_frames_are_replaced_together(tmp_path, monkeypatch):
    key_frames(tmp_path, 1)
    for _ in every_fault(monkeypatch, lambda: key_frames(tmp_path, 2)):
        assert np.load(tmp_path / VALID_FRAMES).tolist() == [1, 1]
        assert (tmp_path / KEY_FRAMES).read_text() == "1\n"


@pytest.mark.parametrize("name", ["mp3d_skybox/17DRP5sb8fy/pano.jpg", "scannet/test/scene0707_00/a", "mp3d_skybox/a/b"])
def test_a_toy_world_replaces_no_other_data(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"mine")
    np.save(tmp_path / name.split("/")[0] / "train.npy", np.array([["mine"]]))
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"DIR must be new or hold a toy world; .* is not part of one"):
        toyworld(tmp_path, 1)
    assert content(tmp_path) == before
    (tmp_path / "lists" / "mp3d_skybox").mkdir(parents=True)
    np.save(tmp_path / "lists" / "mp3d_skybox" / "test.npy", np.array([["mine"]]))
    with pytest.raises(FileExistsError, match=r"mp3d_skybox/test\.npy is not part"):
        toyworld(tmp_path / "lists", 1)


def test_of_several_files_each_is_old_or_new(tmp_path, monkeypatch):
    sample = read_sample(write_panorama(tmp_path, "a"))

    def pictures():
        return write_panorama_pictures(sample, PanoramaPictures(format="jpg", crop=True, cube_faces=True))

    root = write_matterport3d(tmp_path / "data")

    def captions():
        return caption_folder(root, lambda images: ["new"] * len(images), view_size=8, overwrite=True)

    for write in (pictures, captions):
        write()
        new = content(tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".txt") and "_skybox" not in path.name]
        for path in files:
            path.write_text("old")
        old = content(tmp_path)
        with monkeypatch.context() as patch:
            full_disk(patch, call=5)
            with pytest.raises(OSError, match="No space left on device"):
                write()
        now = content(tmp_path)
        assert now.keys() == new.keys()
        assert all(data in (old[name], new[name]) for name, data in now.items())
        assert sum(now[name] != old[name] for name in now) == 4
