"""`--out` before the work: only plain files and folders are written to, and no input is."""

import os
import re

import pytest

from mvdiff.cli.main import main
from mvdiff.cli.out_files import check_folder, check_out
from tests.report.folders import write_panorama

PANORAMA = ["generate", "panorama", "--model", "mvdiff://toy-caa", "--prompt", "a room"]
DEPTH = ["generate", "depth", "--model", "mvdiff://toy-depth"]
FILES = {
    "evaluate": (["evaluate", "--generated", "out", "--out"], ""),
    "report": (["report", "out", "--out"], ".html"),
    "video": (["video", "out", "--out"], ".mp4"),
    "mesh": (["mesh", "out", "--out"], ".glb"),
    "convert to-upstream": (["convert", "to-upstream", "model", "--overwrite", "--out"], ""),
}
FOLDERS = {
    "generate panorama": [*PANORAMA, "--out"],
    "generate dataset": ["generate", "dataset", "--model", "m", "--config", "pano.yaml", "--out"],
    "generate dataset --reference": [*["generate", "dataset", "--model", "m", "--config", "pano.yaml"], "--reference"],
    "video": ["video", "many", "--out"],
    "export": ["export", "last.ckpt", "--out"],
    "convert upstream": ["convert", "upstream", "pano.ckpt", "--task", "panorama", "--out"],
    "convert upstream --save_base": [*["convert", "upstream", "p.ckpt", "--task", "panorama"], "--save_base"],
    "data toyworld": ["data", "toyworld"],
    "data import-sens": ["data", "import-sens", "scene.sens"],
    "data keyframes": ["data", "keyframes", "out", "--out"],
    "quickstart": ["quickstart", "--out"],
    "benchmark table1": ["benchmark", "table1", "--out"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with samples, and with a link, a dangling link and a pipe as targets."""
    monkeypatch.chdir(tmp_path)
    write_panorama(tmp_path / "out", "a")
    write_panorama(tmp_path / "many", "a")
    write_panorama(tmp_path / "many", "b")
    (tmp_path / "real").write_text("mine")
    for suffix in ("", ".html", ".mp4", ".glb"):
        (tmp_path / f"link{suffix}").symlink_to("real")
        (tmp_path / f"dangling{suffix}").symlink_to("nothing")
        os.mkfifo(tmp_path / f"pipe{suffix}")
    return tmp_path


def snapshot(folder):
    return {path: os.lstat(path)[:6] for path in folder.rglob("*")}


def refused(capsys, words, text):
    assert main(words) not in (0, None), words
    error = capsys.readouterr().err
    assert re.search(text, error), error
    assert error.count("\n") == 1


@pytest.mark.parametrize("target", ["link", "dangling", "pipe"])
@pytest.mark.parametrize("command", FILES)
def test_files_that_are_none_are_refused(here, capsys, command, target):
    before = snapshot(here)
    words, suffix = FILES[command]
    refused(capsys, [*words, target + suffix], r"is a link to (real|nothing)|must be a plain file; it is a .*pipe")
    assert snapshot(here) == before


@pytest.mark.parametrize("target", ["link", "dangling", "pipe", "real"])
@pytest.mark.parametrize("command", FOLDERS)
def test_folders_that_are_none_are_refused(here, capsys, command, target):
    before = snapshot(here)
    words = [*FOLDERS[command], target]
    words += ["--out", "new"] if words[-2] in ("--reference", "--save_base") else []
    refused(capsys, words, r"is a link to nothing|Not a directory|must be a folder|must end in \.mp4")
    assert snapshot(here) == before


def test_devices_are_refused(tmp_path):
    with pytest.raises(OSError, match="--out: /dev/null must be a plain file; it is a device"):
        check_out(type(tmp_path)("/dev/null"))
    with pytest.raises(OSError, match=r"--out must lie in a folder .*; got /dev/null \(Not a directory"):
        check_folder(type(tmp_path)("/dev/null"))


def test_a_link_to_a_folder_is_that_folder(here, capsys):
    (here / "big_disk").mkdir()
    (here / "pages").symlink_to("big_disk")
    assert main(["report", "out", "--out", "pages/new/page.html"]) == 0
    assert (here / "big_disk" / "new" / "page.html").is_file()


APART = {
    "generated and real frames": [*DEPTH, "--scene", "scene", "--prompt", "x", "--out", "new", "--reference", "./new"],
    "samples in a model": ["generate", "panorama", "--model", "out", "--prompt", "x", "--out", "out/../out"],
    "samples in a base": [*PANORAMA, "--base", "out", "--out", "out"],
    "real views in a model": [
        *["generate", "dataset", "--model", "out", "--config", "pano.yaml", "--out", "new", "--reference", "out"]
    ],
    "a picture inside its sample": [
        *["generate", "outpaint", "--model", "mvdiff://toy-outpaint", "--image", "out/0000/0.png", "--prompt", "x"],
        *["--overwrite", "--out", "out"],
    ],
    "scores over a rig": ["evaluate", "--generated", "out", "--rig", "rig.json", "--out", "./rig.json"],
    "scores over a config": ["evaluate", "--generated", "out", "--config", "r.yaml", "--out", "r.yaml"],
    "features in samples": ["evaluate", "--generated", "out", "--cache", "out/features"],
    "features over scores": ["evaluate", "--generated", "out", "--cache", "new", "--out", "new"],
    "differences over scores": ["compare", "r.json", "rig.json", "--out", "./rig.json"],
    "a page of differences over scores": ["compare", "rig.html", "rig.json", "--html", "rig.html"],
    "a page of differences over them": ["compare", "r.json", "rig.json", "--html", "new.html", "--out", "new.html"],
    "a page over its rig": ["report", "out", "--rig", "rig.html", "--out", "rig.html"],
    "a video over its rig": ["video", "out", "--rig", "rig.mp4", "--out", "rig.mp4"],
    "a model over its checkpoint": ["export", "last.ckpt", "--out", "last.ckpt", "--overwrite"],
    "a base over its checkpoint": [*["convert", "upstream", "last.ckpt", "--task", "panorama"], "--out", "last.ckpt"],
    "a checkpoint over its weights": [
        *["convert", "to-upstream", "out", "--out", "out/a/0.png", "--overwrite"],
    ],
    "key frames inside the scenes": ["data", "keyframes", "out", "--out", "out/new"],
    "tables in their data": ["benchmark", "table1", "--data", "out", "--out", "out"],
    "tables in imported samples": ["benchmark", "table1", "--imported", "text2light=out", "--out", "out"],
    "a quickstart around its model": ["quickstart", "depth", "--out", "out", "--init_adapter", "out/a"],
}


@pytest.mark.parametrize("what", APART)
def test_no_input_is_overwritten(here, capsys, what):
    for name in ("rig.json", "rig.html", "rig.mp4", "r.yaml", "last.ckpt"):
        (here / name).write_text("{}")
    write_panorama(here / "out", "0000")
    (here / "scene").mkdir()
    before = snapshot(here)
    refused(capsys, APART[what], r"must not (be the same file|contain each other)|must lie outside|Not a directory")
    assert snapshot(here) == before


def test_a_scene_is_not_taken_for_its_sample(tmp_path, capsys):
    from mvdiff.data.toyworld.write import write_walk

    scene = tmp_path / "scenes" / write_walk(tmp_path / "scenes", 3, 0, 16, 6)
    before = snapshot(tmp_path)
    for option in (["--out", str(scene)], ["--out", str(scene.parent)]):
        for reference in ([], ["--out", str(tmp_path / "new"), "--reference", option[1]]):
            words = [*DEPTH, "--scene", str(scene), "--overwrite", *(reference or option)]
            refused(capsys, words, "--scene (and --(out|reference) must not contain|must lie outside of the samples)")
    assert snapshot(tmp_path) == before


def test_scores_are_no_file_of_a_sample(here, capsys):
    before = snapshot(here)
    for name in ("out/a/sample.json", "out/a/0.png", "out/sample.json"):
        refused(capsys, ["evaluate", "--generated", "out", "--out", name], "--out must not be a file of a sample; got")
    assert snapshot(here) == before


def test_a_quickstart_replaces_no_other_page(here, capsys):
    (here / "site").mkdir()
    (here / "site" / "report.html").write_text("mine")
    refused(capsys, ["quickstart", "--out", "site"], "--out must be new, empty or the folder of an earlier quickstart")
    assert (here / "site" / "report.html").read_text() == "mine"


def test_findings_of_the_doctor(here, capsys):
    (here / "run.yaml").write_text("extends: toy/pano.yaml\n")
    doctor = ["doctor", "--config", "run.yaml", "--json"]
    before = snapshot(here)
    refused(capsys, [*doctor, "pipe"], "--json: pipe must be a plain file")
    refused(capsys, [*doctor, "run.yaml"], "--config and --json must not be the same file")
    assert snapshot(here) == before
