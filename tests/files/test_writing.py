"""Whole files and folders: old content or new, never a part, and nothing of a user's is replaced."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mvdiff.cli.out_files import check_sample_inputs
from mvdiff.files.writing import (
    check_apart,
    check_plain,
    check_plain_folder,
    is_temporary,
    temporary_beside,
    whole_file,
    whole_folder,
    write_whole,
)
from tests.faults import every_fault, full_disk


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_file_is_replaced_and_files_beside_it_are_not(tmp_path):
    users = {"a.txt.tmp": "mine", ".a.txt.tmp": "mine", "a.partial": "mine", "a.tmp/deep": "mine"}
    write(tmp_path, users | {"a.txt": "old"})
    write_whole(tmp_path / "a.txt", "new é")
    assert content(tmp_path) == users | {"a.txt": "new é"}


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, function):
    (tmp_path / "a").write_text("old")
    full_disk(monkeypatch, call=1, function=function)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(tmp_path / "a", "new")
    assert content(tmp_path) == {"a": "old"}


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(TypeError), whole_file(tmp_path / "a") as file:
        file.writelines([b"half of", "what"])
    assert content(tmp_path) == {"a": "old"}


def test_a_killed_process_leaves_the_old_file_and_a_hidden_one(tmp_path):
    (tmp_path / "a").write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from mvdiff.files.writing import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half of'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    (left,) = (path.name for path in tmp_path.iterdir() if path.name != "a")
    assert is_temporary(left)


def targets(folder):
    (folder / "real").write_text("mine")
    (folder / "link").symlink_to(folder / "real")
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    return [folder / name for name in ("link", "dangling", "folder", "pipe")]


def test_only_plain_files_are_replaced(tmp_path):
    for path in targets(tmp_path):
        before = os.lstat(path)
        with pytest.raises(OSError, match=f"{path}.*(is a link to|must be a file|must be a plain file)"):
            write_whole(path, "new")
        assert os.lstat(path) == before
    assert (tmp_path / "real").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(OSError, match="/dev/null must be a plain file; it is a device"):
        check_plain(type(tmp_path)("/dev/null"))


def test_only_folders_are_written_to(tmp_path):
    (tmp_path / "folder_link").symlink_to(tmp_path)
    places = [path for path in targets(tmp_path) if path.name != "folder"]
    for path in (*places, tmp_path / "real", tmp_path / "folder_link"):
        before = os.lstat(path)
        with pytest.raises(OSError, match=f"{path}.*(is a link to|must be a folder)"), whole_folder(path):
            pytest.fail("the folder must be refused before anything is written")
        assert os.lstat(path) == before
    with pytest.raises(NotADirectoryError, match="/dev/null must be a folder; it is a device"):
        check_plain_folder(type(tmp_path)("/dev/null"))


def test_a_new_folder_appears_as_a_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "new") as new:
        write(new, {"a": "1", "sub/b": "2"})
        assert not (tmp_path / "deep" / "new").exists()
    assert content(tmp_path) == {"deep/new/a": "1", "deep/new/sub/b": "2"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


OLD = {"a": "old", "sub/b": "old", "sub/stale": "old", "gone/c": "old", "mine": "mine", "sub/mine": "mine"}
NEW = {"a": "new", "sub/b": "new", "fresh/d": "new"}


def rewrite(folder):
    with whole_folder(folder, replaced=lambda: [folder / "sub/stale", folder / "gone/c"], last="a") as new:
        write(new, NEW)


def test_in_a_folder_that_exists_only_its_own_files_are_replaced(tmp_path):
    write(tmp_path / "f", OLD)
    rewrite(tmp_path / "f")
    assert content(tmp_path / "f") == {**NEW, "mine": "mine", "sub/mine": "mine"}
    assert not (tmp_path / "f" / "gone").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_whichever_move_fails_the_old_folder_is_back(tmp_path, monkeypatch):
    write(tmp_path / "f", OLD)
    faults = 0
    for _ in every_fault(monkeypatch, lambda: rewrite(tmp_path / "f")):
        assert content(tmp_path / "f") == OLD
        faults += 1
    assert faults == 7  # two files removed, two set aside, three moved in
    assert content(tmp_path / "f") == {**NEW, "mine": "mine", "sub/mine": "mine"}


def test_a_link_inside_a_folder_is_not_replaced(tmp_path):
    write(tmp_path, {"elsewhere": "mine", "f/sub/b": "old"})
    (tmp_path / "f" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="f/a is a link to"):
        rewrite(tmp_path / "f")
    assert content(tmp_path) == {"elsewhere": "mine", "f/sub/b": "old", "f/a": "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_as_it_was(tmp_path):
    write(tmp_path / "f", OLD)
    (tmp_path / "f").chmod(0o555)
    with pytest.raises(PermissionError):
        rewrite(tmp_path / "f")
    (tmp_path / "f").chmod(0o755)
    assert content(tmp_path / "f") == OLD


def test_long_names_have_temporary_names(tmp_path):
    write_whole(tmp_path / ("é" * 120), "text")
    assert len(temporary_beside(tmp_path / ("é" * 120)).name.encode()) < 255


def test_inputs_and_outputs_are_compared_with_links_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"in/a": "", "other/b": ""})
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out, given in (("in", "in"), ("link", "in"), ("in/../in", tmp_path / "in"), ("new", "new"), ("in", "link/a")):
        with pytest.raises(ValueError, match=r"--given and --out must not contain each other; got .* and"):
            check_apart("--out", out, {"--other": None, "--given": ["other", given]})
    with pytest.raises(ValueError, match=r"--given and --out must not be the same file; got in/a and link/a"):
        check_apart("--out", "link/a", {"--given": "in/a"})
    check_apart("--out", "in", {"--given": "link/a"}, around=False)
    check_apart("--out", "in/new", {"--given": "link"})
    with pytest.raises(ValueError, match="must not contain each other"):
        check_apart("--out", "in/new", {"--given": "link"}, inside=True)


@pytest.mark.parametrize("home", ["~/in", "~nobody-of-this-name/in", "loop"])
def test_inputs_and_outputs_are_compared_with_home_expanded(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    there = str(tmp_path / home.replace("~/", ""))
    for out, given in ((home, there), (there, home)):
        with pytest.raises(ValueError, match="must not contain each other"):
            check_apart("--out", out, {"--given": given})
        with pytest.raises(ValueError, match="must lie outside of the samples"):
            check_sample_inputs(Path(out), ["a"], {"--given": [Path(given) / "a"]})
