"""SIGTERM ends every command with status 143; what is there is whole, the old or the new."""

import shutil
import sys

import numpy as np
import pytest

from mvdiff.cli.main import main
from tests.data.folders import write_matterport3d
from tests.faults import sigterm_before

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_split_is_the_old_or_the_new_one(tmp_path, monkeypatch, capsys, function):
    before = write_matterport3d(tmp_path / "before")
    names = tmp_path / "scenes.txt"
    names.write_text("scene4\nscene6\n")
    stopped = 0
    for call in range(1, 20):
        root = shutil.copytree(before, tmp_path / f"{function}{call}")
        with monkeypatch.context() as patch:
            count = sigterm_before(patch, call, function)
            status = main(["data", "split", str(root), "--test_scenes", str(names), "--overwrite"])
        assert sum(len(np.load(root / f"{part}.npy")) for part in ("train", "test")) == 7
        assert not list(root.rglob(".*"))
        if count[0] < call:
            assert status == 0
            break
        assert status == 143
        assert "mvdiff data split: stopped by SIGTERM\n" in capsys.readouterr().err
        stopped += 1
    assert stopped >= 2
