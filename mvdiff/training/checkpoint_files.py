"""CheckpointFiles: whole checkpoint files on disk, and the one before of each that is written over."""

from __future__ import annotations

import errno
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.files.refusals import plain_refusals
from mvdiff.files.writing import sync_folders, temporary_beside, whole_file
from mvdiff.models.loading import check_archive

_PREVIOUS = ".previous"
_NUMBERED = re.compile(r"hpc_ckpt_(\d+)\.ckpt")
"""Checkpoints that Lightning writes where SLURM takes a job back; it numbers them."""


class CheckpointFiles(TorchCheckpointIO):
    """Write each checkpoint beside its place, sync it and rename it; keep the one before where a file is written over.

    `last.ckpt` therefore is whole at any moment, and `last.previous.ckpt` is the one before. A damaged file is not
    loaded: the one before takes its place, with a warning. `mvdiff fit` uses this by default; elsewhere pass
    `Trainer(plugins=[CheckpointFiles()])`. Addresses of other file systems (`s3://...`) are left to Lightning.

    Lightning's own class writes to the system's temporary folder and copies the file from there to another disk: a
    process killed in the copy leaves half a file under the final name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: set[Path] = set()
        self.latest: Path | None = None
        """File that was written last; its number may be higher than asked for, see `_numbered`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Values that torch can save.
            path: File or address.
            storage_options: Must be None, as for `TorchCheckpointIO`.

        Raises:
            OSError: The disk is full or the folder cannot be written; the file that was there is left unchanged.
        """
        local = local_path(path)
        if local is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            if local.is_symlink():  # of `save_last: link`
                local.unlink()
            number = requeue_number(local)
            # Lightning would take the number of a process in the name of a temporary file for the newest checkpoint's.
            target = local if number is None else temporary_beside(local.with_name("requeued.ckpt"))
            with whole_file(target) as file:
                torch.save(checkpoint, file)
                self._keep_previous(target)
            if number is not None:
                local = _numbered(target, number)
            sync_folders(local.parent)
        except (OSError, RuntimeError) as error:
            reason = _disk_error(error)
            if reason is None or reason.errno is None:  # not of the disk, such as those of `check_plain`
                raise
            raise OSError(
                reason.errno,
                f"checkpoint {local} could not be written ({reason.strerror or reason}{_free(local, reason)}); earlier "
                "checkpoints are left as they are. Free up space, or write to another folder.",
            ) from error
        self._written.add(local)
        self.latest = local

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, or the one before with a warning where the file is damaged or missing.

        Raises:
            FileNotFoundError: There is neither the file nor one before.
            ValueError: The file is damaged, and so is the one before, or there is none; or it holds more than tensors
                and plain values.
        """
        local = local_path(path)
        with plain_refusals("checkpoint", path):
            return super().load_checkpoint(path if local is None else whole_or_previous(local), *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and the one before of the same name."""
        super().remove_checkpoint(path)
        local = local_path(path)
        if local is not None and not _NUMBERED.fullmatch(local.name):
            previous_of(local).unlink(missing_ok=True)
            self._written.discard(local)

    def _keep_previous(self, path: Path) -> None:
        """Give the present file its second name; both names exist until the new file takes the first.

        A damaged file is not kept: the one before it may be the only whole one.
        """
        if not path.is_file() or (path not in self._written and damage(path) is not None):
            return
        previous = previous_of(path)
        linked = temporary_beside(previous)
        try:
            os.link(path, linked)
        except OSError:  # file systems without hard links
            os.replace(path, linked)
        os.replace(linked, previous)


def requeue_number(path: Path) -> int | None:
    """Return n of `hpc_ckpt_<n>.ckpt`, None for other names."""
    numbered = _NUMBERED.fullmatch(path.name)
    return None if numbered is None else int(numbered[1])


def _numbered(source: Path, number: int) -> Path:
    """Move a file to `hpc_ckpt_<n>.ckpt` with the first n from `number` on that is free; two jobs may ask for one."""
    while True:
        path = source.with_name(f"hpc_ckpt_{number}.ckpt")
        try:
            os.link(source, path)
            source.unlink()
            return path
        except FileExistsError:
            number += 1
        except OSError:  # file systems without hard links
            os.replace(source, path)
            return path


def local_path(path: Any) -> Path | None:
    """Return a path of this machine; None for an address such as `s3://bucket/last.ckpt`."""
    text = os.fspath(path).removeprefix("file://")
    return None if "://" in text else Path(text)


def previous_of(path: Path) -> Path:
    """Return the name of the checkpoint before: of the number before, or with `.previous` before the suffix.

    >>> previous_of(Path("last.ckpt")).name, previous_of(Path("hpc_ckpt_3.ckpt")).name
    ('last.previous.ckpt', 'hpc_ckpt_2.ckpt')
    """
    numbered = _NUMBERED.fullmatch(path.name)
    if numbered is not None:
        return path.with_name(f"hpc_ckpt_{int(numbered[1]) - 1}.ckpt")
    return path.with_name(f"{path.stem}{_PREVIOUS}{path.suffix}")


def damage(path: Path) -> str | None:
    """Return what `check_archive` finds wrong with a file, None if nothing; an unchanged file is read once."""
    status = path.stat()
    return _damage(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _damage(path: Path, *_status: int) -> str | None:
    try:
        check_archive(path)
    except ValueError as error:
        return str(error)
    return None


def whole_or_previous(path: Path) -> Path:
    """Return a checkpoint's path if the file is whole, else with a warning that of the one before.

    Raises:
        FileNotFoundError: There is neither the file nor one before.
        ValueError: The file is damaged, and so is the one before, or there is none.
    """
    previous = previous_of(path)
    problem = damage(path) if path.is_file() else "it does not exist."
    if problem is None:
        return path
    if previous.is_file() and damage(previous) is None:
        rank_zero_warn(f"checkpoint {path} is not used: {problem} The one before is used: {previous}.")
        return previous
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be an existing file; got {path}.")
    raise ValueError(f"{problem} There is no whole {previous.name} beside it to take its place.")


def _free(path: Path, error: OSError) -> str:
    """Return what is free on a full disk, and which it is."""
    if error.errno != errno.ENOSPC:
        return ""
    disk = path.absolute().parent
    while not disk.is_mount():
        disk = disk.parent
    return f"; {shutil.disk_usage(disk).free / 1e6:,.1f} MB are free on the disk at {disk}"


def _disk_error(error: BaseException) -> OSError | None:
    """Return the error of the disk, which torch hides behind one of its own; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause
