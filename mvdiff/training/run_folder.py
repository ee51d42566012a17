"""The folder of a run: settings, checkpoints, model folder, images and samples lie there, whatever logs the run."""

from __future__ import annotations

import os
import re
from typing import Any

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

_VERSION = re.compile(r"version_(\d+)")


def run_folder(trainer: Trainer) -> str:
    """Return the run's folder, the same on all ranks; all ranks must call this."""
    return trainer.strategy.broadcast(folder_on_first_rank(trainer))


def folder_on_first_rank(trainer: Trainer) -> str:
    """Return the run's folder, which only the first rank knows: the one above the checkpoints of `ModelCheckpoint`.

    `Trainer.log_dir` is the place of all runs with any logger but TensorBoard's and the CSV logger, or None.
    """
    if not trainer.loggers:
        return trainer.default_root_dir
    logger = trainer.loggers[0]
    if isinstance(logger, TensorBoardLogger | CSVLogger):
        return logger.log_dir
    root = trainer.default_root_dir if logger.save_dir is None else logger.save_dir
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return os.path.join(root, str(logger.name), version)


class NoLogger(Logger):
    """Logger that logs nothing; it gives a run without loggers a new folder, `<save_dir>/version_<n>`.

    Args:
        save_dir: Folder of all runs.
    """

    def __init__(self, save_dir: str | os.PathLike) -> None:
        super().__init__()
        self._save_dir = os.fspath(save_dir)
        self._version: int | None = None

    @property
    def save_dir(self) -> str:
        """Folder of all runs."""
        return self._save_dir

    @property
    def name(self) -> str:
        """Empty: the versions lie in `save_dir`."""
        return ""

    @property
    def version(self) -> int:
        """Number of the run. The first rank makes its folder, so that no two runs have one number."""
        if self._version is None:
            self._version = new_version(self._save_dir) if rank_zero_only.rank == 0 else 0
        return self._version

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Do nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def new_version(root: str) -> int:
    """Make the folder `version_<n>` of the next number, and return the number; files take up numbers, too."""
    files = get_filesystem(root)
    files.makedirs(root, exist_ok=True)
    names = (os.path.basename(path.rstrip("/")) for path in files.ls(root, detail=False))
    version = max((int(match[1]) for match in map(_VERSION.fullmatch, names) if match), default=-1) + 1
    while True:
        try:
            files.makedirs(os.path.join(root, f"version_{version}"), exist_ok=False)
        except FileExistsError:  # of a run that started just now
            version += 1
        else:
            return version
