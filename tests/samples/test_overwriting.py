"""Replacing samples: a complete one stays until its successor is complete, and so does everything that is no sample."""

import shutil

import numpy as np
import pytest

from mvdiff.samples import SampleRecord, SampleWriter, find_samples, read_sample, scan_samples, write_sample
from tests.faults import every_fault
from tests.test_samples import RIG, record, views

PANORAMA = np.zeros((5, 10, 3), np.uint8)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def first(folder):
    depths, given = np.ones((4, 6, 10)), np.full((4, 6, 10, 4), 255, np.uint8)
    write_sample(folder, record(), views(), PANORAMA, depths=depths, given=given)
    (folder / "notes.txt").write_text("mine")
    (folder / "depth" / "notes.txt").write_text("mine")
    (folder / "sample.json.tmp").write_text("mine")
    (folder / "panorama.jpg").write_bytes(b"made of the panorama")
    return folder


def second(folder):
    fewer = SampleRecord("room/1", ["a", "b"], cameras={"height": 6, "width": 10, "views": [camera(), camera()]})
    return write_sample(folder, fewer, views(2, seed=1), overwrite=True, depths=np.full((2, 6, 10), 2.0))


def camera():
    return {"K": np.eye(3).tolist(), "R": np.eye(3).tolist()}


def test_a_new_sample_replaces_its_own_files_alone(tmp_path):
    second(first(tmp_path / "s"))
    second(tmp_path / "fresh")
    mine = {"notes.txt": b"mine", "depth/notes.txt": b"mine", "sample.json.tmp": b"mine"}
    assert content(tmp_path / "s") == content(tmp_path / "fresh") | mine


def test_whatever_fails_the_old_sample_is_kept(tmp_path, monkeypatch):
    before = content(first(tmp_path / "s"))
    for function in ("fsync", "replace"):
        faults = 0
        for error in every_fault(monkeypatch, lambda: second(tmp_path / "s"), function):
            assert "sample folder" in str(error)
            assert content(tmp_path / "s") == before
            faults += 1
        assert faults >= 4  # at the least, one for each picture
        assert read_sample(tmp_path / "s").num_views == 2
        shutil.rmtree(tmp_path / "s")
        assert content(first(tmp_path / "s")) == before


def test_a_stopped_writer_keeps_the_old_sample_and_its_part_is_no_sample(tmp_path):
    before = content(first(tmp_path / "s"))
    writer = SampleWriter(tmp_path / "s", overwrite=True)
    writer.add(0, views()[0])  # and the process is killed
    assert find_samples(tmp_path) == [tmp_path / "s"]
    assert {name: data for name, data in content(tmp_path / "s").items() if ".partial/" not in name} == before
    SampleWriter(tmp_path / "s", overwrite=True).discard()
    assert content(tmp_path / "s") == before
    assert not list((tmp_path / "s").glob(".*"))


def test_a_sample_whose_replacement_was_killed_is_incomplete_and_is_made_again(tmp_path):
    second(tmp_path / "fresh")
    write_sample(tmp_path / "s", record(), views(), PANORAMA)
    (tmp_path / "s" / ".new.1-2.partial" / "depth").mkdir(parents=True)
    (tmp_path / "s" / ".new.1-2.partial" / "depth" / "0.png").write_bytes(b"new")
    (tmp_path / "s" / ".old.1-2.partial").mkdir()
    for name in ("sample.json", "0.png"):  # these go first
        (tmp_path / "s" / name).rename(tmp_path / "s" / ".old.1-2.partial" / name)
    assert scan_samples(tmp_path / "s")[0] == []
    second(tmp_path / "s")
    assert content(tmp_path / "s") == content(tmp_path / "fresh")
    assert not list((tmp_path / "s").glob(".*"))


def test_a_hidden_folder_is_no_sample(tmp_path):
    write_sample(tmp_path / ".a.1-2.partial", record(), views())
    write_sample(tmp_path / "a", record(), views())
    assert scan_samples(tmp_path) == ([tmp_path / "a"], [])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("files", [["0.png", "prompt.txt"], ["color/0.png", "depth/0.png"], ["depth/0.png", "depth/a"]])
def test_folders_that_are_no_sample_are_left_alone(tmp_path, files, overwrite):
    for name in files:
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"mine")
    before = content(tmp_path / "s")
    with pytest.raises(FileExistsError, match=r"s must be new, empty or a sample folder; it has .* and no sample.json"):
        write_sample(tmp_path / "s", record(), views(), overwrite=overwrite)
    assert content(tmp_path / "s") == before


def test_an_incomplete_sample_is_made_again(tmp_path):
    first(tmp_path / "s")
    for name in ("sample.json", "notes.txt", "depth/notes.txt", "sample.json.tmp"):
        (tmp_path / "s" / name).unlink()
    (tmp_path / "s" / ".DS_Store").write_bytes(b"")
    for name in (".3.png.1-2.partial", "given/.3.png.1-2.partial"):  # left by a killed run
        (tmp_path / "s" / name).write_bytes(b"half of")
    write_sample(tmp_path / "s", record(), views())
    assert sorted(content(tmp_path / "s")) == [".DS_Store", *(f"{i}.png" for i in range(4)), "sample.json"]
    assert read_sample(tmp_path / "s").record.rig == RIG.to_dict()
