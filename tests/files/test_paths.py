"""Names of files: what is listed, what a name finds, and which names a list may have."""

import os
import unicodedata
from pathlib import Path

import pytest

import mvdiff
from mvdiff.files.paths import (
    below,
    existing,
    expanded,
    expanded_values,
    first_existing,
    kind_of,
    lack_of,
    listed_name,
    own_name,
    visible,
    walk,
)

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def touched(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_home_is_expanded_in_settings_of_any_depth(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(expanded("~/pano")) == "/home/me/pano"
    assert str(expanded("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"
    settings = {"data": {"root": "~/pano", "num": 3, "lists": ["~", "a~/b"]}, "pair": ("~/x", None)}
    assert expanded_values(settings) == {
        "data": {"root": "/home/me/pano", "num": 3, "lists": ["/home/me", "a~/b"]},
        "pair": ("/home/me/x", None),
    }


def test_hidden_names_are_not_listed(tmp_path):
    for name in (
        "b.JPG",
        "a.jpg",
        "._a.jpg",
        ".DS_Store",
        "__MACOSX/a.jpg",
        "Thumbs.db",
        "desktop.ini",
        "Desktop.ini",
        "c.txt",
    ):
        touched(tmp_path / name)
    assert [path.name for path in visible(tmp_path)] == ["a.jpg", "b.JPG", "c.txt"]
    assert [path.name for path in visible(tmp_path, ".jpg", ".png")] == ["a.jpg", "b.JPG"]
    assert [(folder, names) for folder, _, names in walk(tmp_path)] == [(tmp_path, ["a.jpg", "b.JPG", "c.txt"])]


def test_links_are_followed_and_each_folder_is_visited_once(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    touched(root / "z" / "1.jpg")
    touched(disk / "deep" / "2.jpg")
    (root / "a").symlink_to(root / "z")  # sorted before the folder, which keeps its own name
    (root / "far").symlink_to(disk)
    (disk / "up").symlink_to(root)
    (root / "z" / "self").symlink_to(root / "z")
    found = sorted((folder / name).relative_to(root).as_posix() for folder, _, names in walk(root) for name in names)
    assert found == ["far/deep/2.jpg", "z/1.jpg"]


def test_a_caller_may_leave_folders_out(tmp_path):
    touched(tmp_path / "a" / "x")
    touched(tmp_path / "b" / "x")
    seen = []
    for folder, subfolders, _ in walk(tmp_path):
        seen.append(folder.name)
        subfolders[:] = [name for name in subfolders if name != "a"]
    assert seen == [tmp_path.name, "b"]


@pytest.mark.parametrize(
    ("stored", "asked"), [(f"{NFD}.jpg", f"{NFC}.jpg"), (f"{NFC}.JPG", f"{NFD}.jpg"), ("0.PNG", "0.png")]
)
def test_a_file_is_found_in_another_form(tmp_path, stored, asked):
    path = touched(tmp_path / stored)
    assert existing(tmp_path / asked) == path
    assert existing(path) == path
    for other in ("1.png", "0.txt", "CAFÉ.jpg"):
        assert existing(tmp_path / other) == tmp_path / other
    assert existing(tmp_path / "nowhere" / "x") == tmp_path / "nowhere" / "x"


def test_a_new_file_is_found_after_its_folder_was_read(tmp_path):
    assert existing(tmp_path / "a.jpg") == tmp_path / "a.jpg"
    path = touched(tmp_path / "a.JPG")
    os.utime(tmp_path, (2e9, 2e9))  # as if time had passed
    assert existing(tmp_path / "a.jpg") == path


def test_every_folder_on_the_way_is_found(tmp_path):
    path = touched(tmp_path / NFD / "faces" / "0.JPG")
    assert below(tmp_path, f"{NFC}/faces/0.jpg") == path


def test_a_link_is_called_by_its_own_name(tmp_path, monkeypatch):
    target = tmp_path / "scan" / "export"
    target.mkdir(parents=True)
    link = tmp_path / NFD
    link.symlink_to(target)
    assert own_name(link) == NFC
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    assert own_name(expanded(".")) == NFC
    monkeypatch.setenv("PWD", "/somewhere/else")
    assert own_name(expanded(".")) == "export"


def test_names_of_lists(tmp_path):
    assert [listed_name(name, "x") for name in ("./a.jpg", "rooms/b/", NFD)] == ["a.jpg", "rooms/b", NFC]
    for name, reason in (
        ("", "name a file or folder"),
        ("..", "name a file or folder"),
        ("a/../../b", "below the folder"),
        ("/etc/passwd", "below the folder"),
        (r"rooms\b", "backslash"),
        (f"a/{'é' * 128}", "have names of at most 255 bytes"),
        ("\ud800", "Unicode"),
        ("a\0b", "name a file or folder"),
    ):
        with pytest.raises(ValueError, match=rf"^train\.txt:3 must .*{reason}.*got "):
            listed_name(name, "train.txt:3")
        if "below" not in reason:
            with pytest.raises(ValueError, match=reason):
                listed_name(name, "train.txt:3", inside=False)


def test_names_of_files_that_are_only_read_may_lie_anywhere(tmp_path):
    path = touched(tmp_path / "images" / f"{NFC}.JPG")
    (tmp_path / "scene").mkdir()
    for name in (f"../images/{NFC}.jpg", f"{tmp_path}/images/{NFC}.jpg", f"./../scene/..//images/{NFD}.jpg"):
        assert below(tmp_path / "scene", listed_name(name, "x", inside=False)).samefile(path)


def broken_links(folder, name="latest{}"):
    """Make links to themselves, to nothing, and to what cannot be asked for, as in a folder that must not be read."""
    links = [folder / name.format(number) for number in range(3)]
    for link, target in zip(links, (links[0].name, "gone", "x" * 300), strict=True):
        link.symlink_to(target)
    return links


def test_broken_links_are_left_out_and_named(tmp_path, caplog):
    path = touched(tmp_path / "sub" / "0.png")
    (tmp_path / "linked").symlink_to(path)
    links = broken_links(tmp_path)
    assert [kind_of(one) for one in links] == 3 * ["broken link"]
    assert [kind_of(one) for one in (tmp_path, path, tmp_path / "linked", tmp_path / "no")] == [
        "folder", "file", "file", "nothing"
    ]  # fmt: skip
    assert [lack_of(one) for one in (tmp_path, path, links[0])] == ["is a folder", "is empty", "is a broken link"]
    assert [(folder.name, names) for folder, _, names in walk(tmp_path)] == [
        (tmp_path.name, ["linked"]), ("sub", ["0.png"])
    ]  # fmt: skip
    assert [link.name in caplog.text for link in links] == 3 * [True]
    for link in links:
        assert existing(link) == below(tmp_path, link.name) == link
        assert first_existing([link, path]) == path


def test_home_is_expanded_in_one_place():
    """`Path.expanduser` raises RuntimeError for an unknown user."""
    package = Path(mvdiff.__file__).parent
    users = {path for path in package.rglob("*.py") if ".expanduser(" in path.read_text(encoding="utf-8")}
    assert users == {package / "files" / "paths.py"}
