"""Folders of runs: each run gets one of its own, also where several start at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from mvdiff.files.locks import locked
from mvdiff.training.checkpoint_files import local_path
from mvdiff.training.run_folder import new_version, run_folder

_LOCK = ".run.lock"


class _LockRunFolder(Callback):
    """Lock the run's folder once it is known; loggers of servers know it when the run starts."""

    def __init__(self, held: ExitStack) -> None:
        self.held = held

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lock the folder on the first rank.

        Raises:
            ValueError: Another run that has not ended writes to the folder.
        """
        folder, problem = local_path(run_folder(trainer)), None
        if trainer.is_global_zero and folder is not None:
            try:
                self.held.enter_context(_locked(folder))
            except ValueError as error:
                problem = error
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem


@contextmanager
def own_folders(trainer: Trainer, locks: bool) -> Iterator[None]:
    """Give a run that starts its own version of the logs' folder, and lock the folders that it writes to.

    Lightning looks for a free `version_<n>` first and makes the folder seconds later, so that two runs that start
    together would share it.

    Args:
        trainer: Trainer of the run.
        locks: Lock the folders of checkpoints and logs until the block ends; that of the run, which some loggers
            know later, when the run starts.

    Raises:
        ValueError: Another run that has not ended writes to one of the folders.
    """
    if trainer.fast_dev_run:
        yield
        return
    if trainer.is_global_zero:
        _claim_version(trainer.loggers)
    with ExitStack() as held:
        if locks and trainer.is_global_zero:
            for folder in _folders(trainer):
                held.enter_context(_locked(folder))
        if locks:
            trainer.callbacks.insert(0, _LockRunFolder(held))
        yield


def _claim_version(loggers: list[Logger]) -> None:
    """Make the folder of the next version, or take the next but one if another run was faster."""
    versioned = [one for one in loggers if isinstance(one, TensorBoardLogger | CSVLogger) and one._version is None]
    for place, logger in enumerate(versioned):
        if local_path(logger.root_dir) is None or logger._version is not None:
            continue
        logger._version = new_version(str(local_path(logger.root_dir)))
        for other in versioned[place + 1 :]:  # loggers of one run share a folder
            if other._version is None and other.root_dir == logger.root_dir:
                other._version = logger.version


def _folders(trainer: Trainer) -> list[Path]:
    """Return the folders with logs and checkpoints of a run that are known before it starts, on this file system."""
    named = [one.log_dir for one in trainer.loggers if isinstance(one, TensorBoardLogger | CSVLogger)]
    named += [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    local = [local_path(folder) for folder in named if folder is not None]
    return list({folder.resolve(): folder for folder in local if folder is not None}.values())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, or raise ValueError."""
    with locked(folder / _LOCK) as is_free:
        if not is_free:
            raise ValueError(
                f"{folder} must not be the folder of a run that is still going on; another process writes to it. Wait "
                "for it, or name another trainer.default_root_dir or dirpath."
            )
        yield
