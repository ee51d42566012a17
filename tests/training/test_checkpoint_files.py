"""Checkpoint files: whole at any moment, the one before beside them, and read with care."""

import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mvdiff.models.loading import check_archive
from mvdiff.training import checkpoint_files
from mvdiff.training.checkpoint_files import CheckpointFiles, previous_of, whole_or_previous
from tests.training.one_weight import OneWeight, numbers, quiet_trainer

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and limits of file sizes")


def values(number: int) -> dict:
    return {"global_step": number, "state_dict": {"weight": torch.full((50_000,), float(number))}}


def loaded(path: Path) -> int:
    checkpoint = CheckpointFiles().load_checkpoint(path, weights_only=True)
    assert (checkpoint["state_dict"]["weight"] == checkpoint["global_step"]).all()
    return checkpoint["global_step"]


def save(path: Path, *numbers: int) -> CheckpointFiles:
    files = CheckpointFiles()
    for number in numbers:
        files.save_checkpoint(values(number), path)
    return files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "one byte":
        content[len(content) // 2] ^= 1
    elif kind == "zeros":
        content = bytearray(len(content))
    else:
        content = content[: {"cut": len(content) // 2, "end": len(content) - 1, "empty": 0}[kind]]
    path.write_bytes(content)


DAMAGES = ["one byte", "zeros", "cut", "end", "empty"]


# Writing


def test_a_file_that_is_written_over_is_kept_as_the_one_before(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    save(path, 1)
    assert names(path.parent) == ["last.ckpt"]
    save(path, 2, 3)
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]
    assert (loaded(path), loaded(previous_of(path))) == (3, 2)
    assert path.stat().st_mode == (tmp_path / "new").joinpath("last.previous.ckpt").stat().st_mode


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_not_kept_as_the_one_before(tmp_path, kind):
    path = tmp_path / "last.ckpt"
    save(path, 1, 2)
    damage(path, kind)
    save(path, 3)  # by another run
    assert (loaded(path), loaded(previous_of(path))) == (3, 1)


def test_without_hard_links_there_is_one_before_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "last.ckpt", 1, 2)
    assert (loaded(tmp_path / "last.ckpt"), loaded(tmp_path / "last.previous.ckpt")) == (2, 1)


def test_a_link_is_replaced_and_its_target_left(tmp_path):
    save(tmp_path / "best.ckpt", 1)
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")  # as `save_last: link` does
    save(tmp_path / "last.ckpt", 2)
    assert (loaded(tmp_path / "best.ckpt"), loaded(tmp_path / "last.ckpt")) == (1, 2)


def test_removing_a_checkpoint_removes_the_one_before(tmp_path):
    files = save(tmp_path / "best.ckpt", 1, 2)
    save(tmp_path / "hpc_ckpt_1.ckpt", 1)
    save(tmp_path / "hpc_ckpt_2.ckpt", 2)
    files.remove_checkpoint(tmp_path / "best.ckpt")
    files.remove_checkpoint(tmp_path / "hpc_ckpt_2.ckpt")
    assert names(tmp_path) == ["hpc_ckpt_1.ckpt"]


def test_two_jobs_that_ask_for_one_number_get_two(tmp_path, monkeypatch):
    for number in (1, 2):
        save(tmp_path / "hpc_ckpt_1.ckpt", number)
    assert names(tmp_path) == ["hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"]
    assert [loaded(tmp_path / name) for name in names(tmp_path)] == [1, 2]


def test_other_file_systems_are_left_to_lightning():
    files, path = CheckpointFiles(), "memory://mvdiff/last.ckpt"
    files.save_checkpoint(values(4), path)
    assert files.load_checkpoint(path, weights_only=True)["global_step"] == 4
    files.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        files.load_checkpoint(path)
    assert not Path("memory:").exists()


def in_child(work, limit: int | None = None, killed: bool = True) -> int:
    """Run work in a forked process that dies, or gets an error, at byte `limit` of any file; return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if killed else signal.SIG_IGN)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            work()
        except OSError as error:
            os._exit(77 if "earlier checkpoints are left as they are. Free up space" in str(error) else 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@needs_fork
@pytest.mark.parametrize("limit", [0, 700, 200_000])
def test_a_process_killed_in_the_write_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "last.ckpt"
    save(path, 1, 2)
    assert path.stat().st_size > 200_000
    status = in_child(lambda: save(path, 3), limit)
    assert os.WIFSIGNALED(status)
    assert (loaded(path), loaded(previous_of(path))) == (2, 1)
    save(path, 4)
    assert (loaded(path), loaded(previous_of(path))) == (4, 2)


@needs_fork
@pytest.mark.parametrize("limit", [700, 200_000])
def test_a_disk_that_is_full_is_a_clear_error_and_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "last.ckpt"
    save(path, 1, 2)
    status = in_child(lambda: save(path, 3), limit, killed=False)
    assert os.waitstatus_to_exitcode(status) == 77
    assert names(tmp_path) == ["last.ckpt", "last.previous.ckpt"]
    assert (loaded(path), loaded(previous_of(path))) == (2, 1)


def test_the_error_of_a_full_disk_names_file_and_reason(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save(path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvdiff.files.writing.os.fsync", full)
    reason = r"\(No space left on device; [\d.,]+ MB are free on the disk at /.*\)"
    with pytest.raises(OSError, match=rf"checkpoint .*last\.ckpt could not be written {reason}; earlier"):
        save(path, 2)
    monkeypatch.undo()
    assert loaded(path) == 1


# Reading


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_falls_back_to_the_one_before(tmp_path, kind):
    path = tmp_path / "last.ckpt"
    save(path, 1, 2)
    damage(path, kind)
    with pytest.warns(UserWarning, match=r"last\.ckpt is not used: .*The one before is used: .*last\.previous\.ckpt"):
        assert loaded(path) == 1


def test_a_missing_file_falls_back_to_the_one_before(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, 1, 2)
    path.unlink()
    with pytest.warns(UserWarning, match=r"last\.ckpt is not used: it does not exist"):
        assert loaded(path) == 1


def test_of_numbered_checkpoints_the_one_before_is_used(tmp_path):
    for number in (1, 2):
        save(tmp_path / f"hpc_ckpt_{number}.ckpt", number)
    damage(tmp_path / "hpc_ckpt_2.ckpt", "cut")
    with pytest.warns(UserWarning, match=r"The one before is used: .*hpc_ckpt_1\.ckpt"):
        assert loaded(tmp_path / "hpc_ckpt_2.ckpt") == 1


@needs_fork
def test_a_numbered_checkpoint_whose_write_was_killed_is_not_the_newest(tmp_path):
    save(tmp_path / "hpc_ckpt_1.ckpt", 1)
    in_child(lambda: save(tmp_path / "hpc_ckpt_2.ckpt", 2), limit=700)
    assert len(names(tmp_path)) == 2  # and what the killed process left
    connector = quiet_trainer(tmp_path)._checkpoint_connector
    assert connector._hpc_resume_path == str(tmp_path / "hpc_ckpt_1.ckpt")


def test_without_a_whole_file_there_is_an_error(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be an existing file; got .*last\.ckpt"):
        loaded(path)
    save(path, 1, 2)
    damage(path, "cut")
    damage(previous_of(path), "one byte")
    with pytest.raises(ValueError, match=r"end is missing, in .*There is no whole last\.previous\.ckpt beside it"):
        loaded(path)


def test_checkpoints_of_old_torch_are_refused(tmp_path):
    torch.save(values(1), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"must be a zip archive, as torch\.save writes since torch 1\.6; .*old\.ckpt"):
        loaded(tmp_path / "old.ckpt")


def test_a_checkpoint_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path, reads = tmp_path / "last.ckpt", []
    save(path, 1)
    monkeypatch.setattr(checkpoint_files, "check_archive", lambda path: reads.append(path) or check_archive(path))
    assert whole_or_previous(path) == path  # as `mvdiff fit --ckpt_path` does before it loads the file
    assert (loaded(path), len(reads)) == (1, 1)
    damage(path, "end")
    with pytest.raises(ValueError, match="end is missing"):
        loaded(path)


# In a run


def fit(folder, **settings):
    last = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    module = settings.pop("module", None) or OneWeight()
    trainer = quiet_trainer(folder, callbacks=[last], plugins=[CheckpointFiles()], max_epochs=1)
    trainer.fit(module, numbers(2, 2, 2, 2), weights_only=True, **settings)
    return module


class Limited(OneWeight):
    """Dies in the write of the checkpoint of step 3."""

    def on_before_optimizer_step(self, optimizer):
        if self.trainer.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))

    def backward(self, loss):  # autograd does not work after a fork
        self.adapter.weight.grad = torch.ones(1, 1)


class Unlimited(Limited):
    def on_before_optimizer_step(self, optimizer):
        pass


@needs_fork
@pytest.mark.parametrize("ckpt_path", ["last", "last.ckpt"])
def test_a_run_killed_in_the_write_of_its_checkpoint_goes_on_from_the_one_before(tmp_path, ckpt_path):
    whole = fit(tmp_path / "whole", module=Unlimited())
    status = in_child(partial(fit, tmp_path / "run", module=Limited()))
    assert os.WIFSIGNALED(status)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 2
    path = ckpt_path if ckpt_path == "last" else tmp_path / "run" / ckpt_path
    assert fit(tmp_path / "run", module=Unlimited(), ckpt_path=path).weight == whole.weight


def test_the_last_checkpoint_falls_back_to_the_one_before(tmp_path):
    whole = fit(tmp_path)
    damage(tmp_path / "last.ckpt", "cut")
    with pytest.warns(UserWarning, match=r"The one before is used: .*last\.previous\.ckpt"):
        resumed = fit(tmp_path, ckpt_path="last")
    assert resumed.rates == whole.rates[:1]  # the step after the one before
    assert resumed.weight == whole.weight
