"""Paths as files that people share tell them."""

import os
from pathlib import Path

import pytest

from mvdiff.files.sharing import distinct_names, opened_from, shared_name, shared_path, shared_text, shared_values


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "people" / "annabelle"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("target", "folder", "expected"),
    [
        ("runs/m/base", "runs/m", "base"),
        ("runs/base", "runs/m", "../base"),
        ("in/my base", "runs/x/m", "../../../in/my base"),
        ("people/annabelle/base", "runs/m", "~/base"),
        ("people/annabelle/base", "people/annabelle/runs/m", "~/base"),
        ("people/annabelle/m/base", "people/annabelle/m", "base"),
    ],
)
def test_a_path_that_is_opened_again_leads_back(home, tmp_path, target, folder, expected):
    path = tmp_path / target
    path.mkdir(parents=True, exist_ok=True)
    shared = shared_path(path, tmp_path / folder)
    assert shared == expected
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    assert os.path.expanduser(opened_from(shared, tmp_path / folder)) == str(path.resolve())


@pytest.mark.parametrize("name", ["owner/name", "mvdiff://toy-base", "models/sd2", "~/sd2", "base"])
def test_names_that_tell_nothing_stay(name, tmp_path):
    assert shared_path(name, tmp_path) == shared_name(name) == shared_text(name) == name
    assert opened_from(name, tmp_path) == name


def test_a_place_that_shares_only_the_root_stays_as_typed(home, tmp_path):
    assert shared_path("/nowhere/sd2", tmp_path / "m") == "/nowhere/sd2"
    other = tmp_path / "people" / "bob" / "sd2"  # only the folder of all homes holds both
    assert shared_path(other, home / "runs" / "m") == str(other)


def test_a_linked_folder_is_left_through_its_target(tmp_path):
    (tmp_path / "real" / "deep" / "m").mkdir(parents=True)
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    shared = shared_path(tmp_path / "base", tmp_path / "link" / "m")
    assert shared == "../../../base"
    assert opened_from(shared, tmp_path / "link" / "m") == str((tmp_path / "base").resolve())


def test_sentences(home, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = tmp_path / "a b"
    for sentence, expected in {
        f"{root}/s0/0.png must be a whole image file.": "a b/s0/0.png must be a whole image file.",
        f"base must be a folder; got '{tmp_path}/in/sd2'.": "base must be a folder; got 'sd2'.",
        f"run: mvdiff fit --config={tmp_path}/in/run.yaml": "run: mvdiff fit --config=run.yaml",
        f"{home}/My Pictures/x.png": "~/My Pictures/x.png",
        f"no file {tmp_path}/work/out/x.json, so": "no file out/x.json, so",
        "a / b and 1/2 of https://example.org/a/b": "a / b and 1/2 of https://example.org/a/b",
        "prompts and/or masks, ../base, ~/base/x": "prompts and/or masks, ../base, ~/base/x",
    }.items():
        assert shared_text(sentence, [root]) == expected


def test_values(tmp_path):
    root = tmp_path / "in" / "my samples"
    (root / "s0").mkdir(parents=True)
    values = {
        "path": str(root),
        "unreadable": [{"folder": f"{root}/s0", "reason": f"{root}/s0/0.png is broken"}],
        "seed": 3,
        "none": None,
        "per_sample": {"/odd/id": 1.5},
    }
    assert shared_values(values, tmp_path / "out") == {
        "path": "../in/my samples",
        "unreadable": [{"folder": "../in/my samples/s0", "reason": "s0/0.png is broken"}],
        "seed": 3,
        "none": None,
        "per_sample": {"/odd/id": 1.5},
    }


def test_names_that_tell_folders_apart():
    assert distinct_names([Path("/a/out"), Path("/b/other")]) == ["out", "other"]
    assert distinct_names([Path("/a/x/out"), Path("/b/x/out")]) == ["a/x/out", "b/x/out"]
    assert distinct_names([Path("/a"), Path("/a")]) == ["a", "a"]
