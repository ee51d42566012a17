"""Shards that the manifest does not name, which other tools would read."""

import fsspec
import pytest

from mvdiff.cli.main import main
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.writing import write_shards
from tests.data.folders import write_matterport3d
from tests.data.shards.servers import serving


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_matterport3d(tmp_path_factory.mktemp("mp3d"), num_train=5, num_test=2)


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_what_a_stopped_run_of_another_plan_left_is_refused_or_removed(source, tmp_path, kind, capsys):
    """Without a manifest, and without the first shards, whose names the new plan has, too."""
    out = str(tmp_path / "out") if kind == "folder" else f"memory://{tmp_path.name}/out"
    write_shards(image_content(source), out, 30_000)
    files, root = fsspec.core.url_to_fs(out)
    for name in ("manifest.json", "train-000000.json", "train-000000.tar", "test-000000.json", "train-000002.json"):
        files.rm_file(f"{root}/{name}")
    files.pipe_file(f"{root}/notes-000001.json", b"{}")
    command = ["data", "shard", str(source), "--out", out]
    assert main(command) == 1
    assert "train-000001.json is of others" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert {path.rpartition("/")[2] for path in files.ls(root, detail=False)} == {
        "manifest.json",
        "notes-000001.json",
        *(f"{split}-000000.{end}" for split in ("test", "train") for end in ("json", "tar")),
    }


def test_extra_shards_are_named_and_refused(source, tmp_path, capsys):
    """Those beside a whole set, as earlier versions left them."""
    command = ["data", "shard", str(source), "--out", str(tmp_path)]
    assert main(command) == 0
    extra = tmp_path / "train-000001.tar"
    extra.write_bytes((tmp_path / "train-000000.tar").read_bytes())
    assert main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"extra shard: {extra}" in said
    assert "1 problem: 1 x extra shard\n" in said
    assert main(command) == 1
    assert "train-000001.tar is of others" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert not extra.exists()
    assert main(["data", "check", str(tmp_path)]) == 0


def test_a_server_that_lists_nothing_is_checked_without_a_look_for_extra_shards(source, tmp_path, capsys):
    assert main(["data", "shard", str(source), "--out", str(tmp_path)]) == 0
    with serving(tmp_path) as server:
        assert main(["data", "check", server.url]) == 0
    said = capsys.readouterr().out
    assert "not checked: whether there are shards beside these; the files there cannot be listed\n" in said
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "not checked" not in capsys.readouterr().out
