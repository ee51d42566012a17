import os
import re
import shutil

import pytest

from mvdiff.cli.main import main
from tests.cli.last_lines import next_commands
from tests.report.folders import write_panorama


@pytest.fixture
def out(tmp_path):
    write_panorama(tmp_path / "out", "a")
    return tmp_path / "out"


def test_two_methods_on_one_page(out, tmp_path, capsys):
    write_panorama(tmp_path / "other", "a")
    (write_panorama(tmp_path / "other", "b") / "0.png").unlink()
    page = tmp_path / "new" / "report.html"
    command = ["report", str(out), str(tmp_path / "other"), "--names", "mine", "theirs", "--out", str(page)]
    assert main([*command, "--title", "Both"]) == 3
    printed = capsys.readouterr().out
    assert re.search(r"left out .*other/b must hold every view", printed)
    assert re.search(r"report\.html: 1 of 1 sample; \d+\.\d MB", printed)
    written = page.read_text(encoding="utf-8")
    assert "<h1>Both</h1>" in written
    assert '"name": "theirs"' in written


def test_without_out_the_page_lies_in_the_first_folder(out, tmp_path, capsys):
    folder = shutil.copytree(out, tmp_path / "mine")
    for _ in range(2):  # the page is no sample
        assert main(["report", str(folder)]) == 0
        said = capsys.readouterr().out
        assert f"{folder / 'report.html'}: " in said
        assert next_commands(said) == ["xdg-open"]
    assert "mine" in (folder / "report.html").read_text()


def test_user_errors_are_one_line(out, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    wrong = {
        "report.pdf": r"--out must end in \.html; got 'report\.pdf'\.",
        "file/report.html": r"--out must lie in a folder that can be written; got .*file",
    }
    for name, expected in wrong.items():
        assert main(["report", str(out), "--out", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert re.search(expected, error)
        assert error.count("\n") == 1
    (tmp_path / "folder.html").mkdir()
    assert main(["report", str(out), "--out", str(tmp_path / "folder.html")]) == 1
    assert re.search(r"--out must be a file; got .*folder\.html \(a folder\)", capsys.readouterr().err)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 1
    assert re.search(r"that can be written; got .* \(Permission denied\)", capsys.readouterr().err)


def test_where_there_is_no_source_nothing_is_made(out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    wrong = [
        (["typo/sub"], r"DIR must exist; got typo/sub\."),
        (["typo/sub", "--out", "new/page.html"], r"DIR must exist; got typo/sub\."),
        (["empty", "--out", "new/page.html"], r"DIR must have samples, results or meshes; got none, in empty\."),
        (["out", "--max_samples", "0", "--out", "new/page.html"], r"--max_samples must be at least 1; got 0\."),
    ]
    for arguments, expected in wrong:
        assert main(["report", *arguments]) == 1
        error = capsys.readouterr().err
        assert re.search(expected, error), error
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["report", "out", "--out", "new/deep/page.html"]) == 0
    assert (tmp_path / "new" / "deep" / "page.html").is_file()


def test_the_report_goes_on_without_a_record_that_contradicts_itself(out, capsys):
    path = write_panorama(out, "b") / "sample.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": "a"'))
    assert main(["report", str(out)]) == 3
    printed = capsys.readouterr().out
    assert f"left out seed must be a whole number or null; got 'a', in {path}." in printed
    assert "report.html: 1 of 1 sample" in printed
