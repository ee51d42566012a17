"""Checkpoint files of all runs of one kind, in the folders that such runs write to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Trainer

from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.checkpoint_files import local_path

TRAINING_KEYS = ("pytorch-lightning_version", "optimizer_states", "loops")
"""Keys that a checkpoint needs for a resume."""
_BELOW_ROOT = ("hpc_ckpt_*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt")


def checkpoint_roots(trainer: Trainer) -> list[Path]:
    """Return the folders below which runs of this kind write, each once.

    They are `trainer.default_root_dir` and the folder in which the first logger keeps its versions.
    """
    folders = [trainer.default_root_dir]
    for logger in trainer.loggers[:1]:  # Lightning puts checkpoints beside the first one's logs
        if logger.save_dir is not None and logger.name is not None:
            folders.append(Path(logger.save_dir) / str(logger.name))
    roots = {}
    for folder in folders:
        local = local_path(folder)
        if local is not None:
            roots.setdefault(local.resolve(), local)
    return list(roots.values())


def checkpoints_by_time(trainer: Trainer) -> list[Path]:
    """Return the checkpoint files below `checkpoint_roots` and in the `dirpath` of every ModelCheckpoint.

    The file that was written last comes first, by the time of the file. SLURM's files and `NAME.previous.ckpt` count
    like any other.
    """
    times = {}
    for path in _files(trainer):
        with suppress(FileNotFoundError):  # another run removed it just now
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: (times[path], path.name), reverse=True)


def resumable(path: Path) -> bool:
    """Return True if a whole checkpoint holds more than weights."""
    return all(key in read_checkpoint(path, lazy=True) for key in TRAINING_KEYS)


def _files(trainer: Trainer) -> set[Path]:
    files = {path for root in checkpoint_roots(trainer) for pattern in _BELOW_ROOT for path in root.glob(pattern)}
    for callback in trainer.checkpoint_callbacks:
        folder = getattr(callback, "dirpath", None)
        if folder is not None and (local := local_path(folder)) is not None:
            files.update(local.glob("*.ckpt"))
    return {path for path in files if path.is_file()}
