"""Checkpoints on real disks: a kill in mid-write onto another file system, and a file system that is full."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.files.writing import is_temporary
from mvdiff.training.checkpoint_files import CheckpointFiles
from tests.training.signalled import weight_of, yaml_config
from tests.training.tiny_run import write_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, kill and mount")


def run(folder, checkpoints, *flags) -> int:
    """Train one weight for two epochs; keep `last.ckpt` of each epoch in `checkpoints`."""
    config = yaml_config(folder)
    config["trainer"]["callbacks"][0]["init_args"]["dirpath"] = str(checkpoints)
    folder.mkdir(exist_ok=True)
    return main(["fit", "--config", str(write_config(folder / "run.yaml", config)), *map(str, flags)])


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system than that of temporary files, here memory."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system, such as /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


def save_for_ever(path: Path) -> None:
    """Write the checkpoint again and again, with 4 MB of small tensors, which take a while."""
    checkpoint = torch.load(path, weights_only=True) | {"filler": [torch.ones(2_500) for _ in range(400)]}
    files = CheckpointFiles()
    while True:
        files.save_checkpoint(checkpoint, path)


def test_a_kill_in_mid_write_onto_another_file_system_leaves_a_checkpoint_to_resume(tmp_path, other_disk):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    last = other_disk / "last.ckpt"
    assert run(tmp_path / "whole", tmp_path / "whole") == 0
    assert run(tmp_path / "run", other_disk, "--trainer.max_epochs", 1) == 0
    for _ in range(3):  # kills, each in the middle of a write
        child = os.fork()
        if child == 0:
            tempfile.tempdir = str(temporary)  # as TMPDIR
            save_for_ever(last)
        end = time.monotonic() + 20
        while True:
            sizes = [size(path) for path in partials(other_disk)]
            if any(100_000 < one < 3_900_000 for one in sizes) or time.monotonic() > end:
                break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = partials(other_disk)
        assert left, "the kill must come in mid-write"
        assert all(path.stat().st_dev == other_disk.stat().st_dev != temporary.stat().st_dev for path in left)
        for path in left:
            path.unlink()
    assert list(temporary.iterdir()) == []
    assert run(tmp_path / "run", other_disk, "--ckpt_path", last) == 0
    assert weight_of(last) == weight_of(tmp_path / "whole" / "last.ckpt")


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # renamed in the meantime
        return 0


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_temporary(path.name)]


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_run_with_one_sentence_and_keeps_the_checkpoint(tmp_path, small_disk, capsys):
    assert run(tmp_path / "run", small_disk, "--trainer.max_epochs", 1) == 0
    last = small_disk / "last.ckpt"
    before = last.read_bytes()
    free = shutil.disk_usage(small_disk).free
    with open(small_disk / "filler", "wb") as file:
        file.write(bytes(free - 4096 - 1))
    capsys.readouterr()
    assert run(tmp_path / "run", small_disk, "--ckpt_path", last) == 3
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert line == (
        f"mvdiff fit: error: checkpoint {last} could not be written (No space left on device; 0.0 MB are free on "
        f"the disk at {small_disk}); earlier checkpoints are left as they are. Free up "
        "space, or write to another folder."
    )
    assert sorted(path.name for path in small_disk.iterdir()) == [".run.lock", "filler", "last.ckpt"]
    assert last.read_bytes() == before
    (small_disk / "filler").unlink()
    assert run(tmp_path / "run", small_disk, "--ckpt_path", last) == 0
