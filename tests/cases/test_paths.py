"""Cases about names of files: hidden companions, Unicode, endings, links, ids and `~`."""

import shutil

import numpy as np
import pytest

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.geometry.cameras import RingRig

SMALL = RingRig(num_views=2, height=8, width=8)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and returns (exit status, what it printed)."""

    def ran(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return ran


def error_of(text: str) -> str:
    return next(line for line in text.splitlines() if "error" in line)


def last(text: str, *words: str) -> str:
    return next(line for line in reversed(text.splitlines()) if all(word in line for word in words))


def test_05_companions_of_macos(case, run, shows):
    folder = case(5) / "data"
    status, text = run("data", "split", folder)
    listed = sorted((folder / "train.txt").read_text().split() + (folder / "test.txt").read_text().split())
    assert (status, listed) == (0, ["a", "b", "c"])
    shows(5, "data split", last(text, "train and"))
    status, text = run("data", "check", folder)
    assert status == 0
    shows(5, "data check", last(text, "no problems"))


def test_07_names_in_other_unicode_forms(case, run, shows):
    folder = case(7) / "data"
    status, text = run("data", "check", folder)
    assert status == 0, text
    shows(7, "data check", last(text, "no problems"))
    data = EquirectangularDataModule(folder, SMALL, num_val=0)
    ids = [data.eval_dataset(split)[0]["sample_id"] for split in ("train", "test")]
    assert ids == ["caf\u00e9", "living room 01"]
    shows(7, "dataset", f"samples {ids}")


def test_09_lists_with_endings(case, run, shows):
    folder = case(9) / "data"
    status, text = run("data", "check", folder)
    assert status == 0, text
    assert len(EquirectangularDataModule(folder, SMALL, num_val=0).train_dataset()) == 1
    shows(9, "data check", last(text, "no problems"))


def test_10_pictures_of_other_formats(case, run, shows):
    folder = case(10) / "data"
    for path in folder.glob("*.tif*"):
        path.unlink()
    status, text = run("data", "check", folder)
    assert status in (1, 2)
    assert "c.hdr" in text
    assert ".png" in text
    shows(10, "data check, only c.hdr", last(text, "c.hdr"))
    shutil.copyfile(case(9) / "data" / "a.jpg", folder / "a.jpg")
    status, text = run("data", "check", folder)
    assert status in (1, 3)
    shows(10, "data check, c.hdr beside a.jpg", last(text, "c.hdr"))


def test_20_scenes_that_are_links(case, run, shows, tmp_path):
    folder = case(20)
    (folder / "data" / "train").mkdir(parents=True, exist_ok=True)
    for scene, scan in (("scene0000_00", "scanA"), ("scene0001_00", "scanB")):
        link = folder / "data" / "train" / scene
        link.unlink(missing_ok=True)  # where links were copied as files
        link.symlink_to(folder / "real" / scan / "export")
    data = RecordingDataModule(folder / "data", 24, 32, num_views=2, min_frames=1, num_val=0)
    names = [scene.name for scene in data.scenes("train")]
    assert names == ["scene0000_00", "scene0001_00"]
    dataset = data.train_dataset()
    ids = {dataset[index]["sample_id"] for index in range(len(dataset))}
    assert {name.split("_keyframes")[0] for name in ids} == set(names)
    shows(20, "dataset", f"scenes {names}, samples such as {min(ids)}")
    status, text = run(
        *("generate", "depth", "--model", "mvdiff://toy-depth", "--scene"),
        *(folder / "data" / "train" / name for name in names),
        *("--prompt", "a room", "--max_frames", "2", "--num_views", "2", "--height", "32", "--width", "32"),
        *("--num_inference_steps", "1", "--guidance_scale", "1", "--out", tmp_path / "out"),
    )
    assert status == 0, text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    shows(20, "generate depth --scene A B", last(text, "2 scenes"))
    status, text = run("data", "check", folder / "data")
    assert "scene0000_00" in text or "no problems" in text
    assert "scanA" not in text
    shows(20, "data check", last(text, "scenes"))


def test_28_upper_case_endings(case, run, shows):
    scene = case(28) / "scene"
    status, text = run("data", "check", scene)
    assert "missing" not in text, text
    shows(28, "data check", last(text, "layout"))
    for path in [*scene.glob("pose/*.txt"), *scene.glob("prompt/*.txt"), *scene.glob("intrinsic/*.txt")]:
        path.rename(path.with_suffix(".TXT"))
    again = run("data", "check", scene)
    assert again == (status, text), "poses, captions and intrinsics, too"


@pytest.mark.parametrize(
    "words",
    [("evaluate", "--generated", "gen", "--reference", "ref"), ("report", "gen"), ("video", "gen")],
    ids=lambda words: words[0],
)
def test_40_one_id_in_two_folders(case, run, shows, words):
    folder = case(40)
    if words[0] == "video":
        pytest.importorskip("av")
    status, text = run(*(folder / word if word in ("gen", "ref") else word for word in words))
    assert status in (1, 2)
    for name in ("run_a", "run_b"):
        assert str(folder / "gen" / name / "0000") in text
    shows(40, " ".join(words), error_of(text).replace(str(folder), "."))


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts_ascii.jsonl"])
def test_63_ids_longer_than_a_file_name(case, run, shows, tmp_path, name):
    file = case(63) / name
    how = ("generate", "panorama", "--model", tmp_path / "no-model", "--prompts", file, "--out", tmp_path / "out")
    status, text = run(*how)
    assert status in (1, 2)
    assert f"{name}:1" in text
    assert "255 bytes" in text
    assert not (tmp_path / "out").exists(), "said before the model is looked for"
    shows(63, f"generate --prompts {name}", error_of(text).replace(str(file.parent), "."))


def test_64_home(case, run, shows, monkeypatch):
    folder = case(64)
    monkeypatch.setenv("HOME", str(folder))
    status, text = run("data", "check", "~/pano")
    assert status == 0, text
    shows(64, "data check '~/pano'", last(text, "no problems"))
    assert len(EquirectangularDataModule("~/pano", SMALL, num_val=0).train_dataset()) > 0
    shows(64, "data.root: ~/pano", "the data set is read")


def test_79_archives_beside_what_was_unzipped(case, run, shows):
    folder = case(79) / "data"
    status, text = run("data", "check", folder)
    assert "3 in without a list" in text
    shows(79, "data check, before the lists", last(text, "panoramas"))
    status, text = run("data", "split", folder)
    rows = np.concatenate([np.load(next(folder.rglob(f"{split}.npy"))) for split in ("train", "test")])
    assert status == 0
    assert len(rows) == 3
    shows(79, "data split", last(text, "train and"))
    assert "unpacked" not in text
