"""`config.yaml` of a run: written into the run's folder, never over the settings of another run."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from mvdiff.files.text import read_lines, read_text
from mvdiff.files.writing import write_whole
from mvdiff.training.callbacks import keep_scores
from mvdiff.training.checkpoint_files import local_path
from mvdiff.training.run_folder import run_folder
from mvdiff.training.slurm_jobs import slurm_job

_COMMAND = "# mvdiff "
"""Begins the first line of `config.yaml`; the command follows."""


class SaveRunConfig(SaveConfigCallback):
    """Write the settings of a run as `config.yaml` into its folder when it starts.

    Settings of an earlier run in the folder stay: those of a resumed run, or of validate, test and predict, are then
    `config-2.yaml`, `config-3.yaml` and so on. A new training is refused there.
    """

    settings_file: Path | None = None
    """File with the settings of this run, known on the first rank once they are written."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the scores of the resumed run, whether or not it writes a model folder."""
        keep_scores(trainer, checkpoint)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file on the first rank.

        Raises:
            ValueError: A new training has the folder of another.
        """
        if self.already_saved:
            return
        folder, problem = local_path(run_folder(trainer)), None
        if folder is None:
            super().setup(trainer, pl_module, stage)
            return
        if trainer.is_global_zero:
            command = TrainerFn(stage).value
            text = f"{_COMMAND}{command}\n{self.parser.dump(self.config, skip_none=False)}"
            try:
                self.settings_file = write_settings(
                    folder, text, is_new=stage == "fit" and not resumes(trainer, self.config.get("ckpt_path"))
                )
            except (ValueError, OSError) as error:
                problem = error
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem
        self.already_saved = True


def resumes(trainer: Trainer, ckpt_path: object) -> bool:
    """Return True if `fit` continues a run: from `ckpt_path`, from what SLURM's requeue saved, or a requeued job's.

    A job that SLURM requeued before its first checkpoint has nothing to resume from, but the folder is its own.
    """
    job = slurm_job(os.environ)
    if ckpt_path is not None or (job is not None and job["restarts"] > 0):
        return True
    return SLURMEnvironment.detect() and trainer._checkpoint_connector._hpc_resume_path is not None


def fingerprint(parser: LightningArgumentParser, config: Namespace) -> str:
    """Return a hash of a run's settings, which tells it from other runs of its SLURM job.

    Left out are `ckpt_path`, and what depends on the machines that a requeued job gets.
    """
    settings = json.loads(parser.dump(config, skip_none=False, format="json"))
    settings.pop("ckpt_path", None)
    for name in ("accelerator", "strategy", "devices", "num_nodes", "precision"):
        settings.get("trainer", {}).pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def prepare_folders(trainer: Trainer, is_new: bool) -> None:
    """Make the folder of the versions; refuse the folder of another training; keep the numbers of earlier starts.

    The version of loggers other than TensorBoard's and the CSV logger is known later; `SaveRunConfig` looks there.

    Raises:
        ValueError: A new training has the folder of another.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger | CSVLogger) and local_path(logger.root_dir) is not None:
            os.makedirs(logger.root_dir, exist_ok=True)  # otherwise Lightning warns of a missing folder
            if is_new and trainer.is_global_zero and logger is trainer.loggers[0]:
                check_unused(Path(logger.log_dir))
            if trainer.is_global_zero and isinstance(logger, CSVLogger):
                keep_metrics(Path(logger.log_dir) / "metrics.csv")


def keep_metrics(path: Path) -> None:
    """Give `metrics.csv` of an earlier start of a run the first free name of `metrics-1.csv`, `metrics-2.csv`, ...

    Lightning's CSVLogger removes a file that it finds under its own name.
    """
    if path.is_file():
        names = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
        path.rename(next(name for name in names if not name.exists()))


def check_unused(folder: Path) -> None:
    """Raise ValueError if a folder has the settings of a training."""
    for path in sorted(folder.glob("config*.yaml")):
        first = next(iter(read_lines(path)), "")
        if not first.startswith(_COMMAND) or first == f"{_COMMAND}fit":
            raise ValueError(
                f"a training must have a folder of its own; {folder} has that of another run ({path.name}). Resume "
                "that run with --ckpt_path, or set another version of trainer.logger."
            )


def write_settings(folder: Path, text: str, is_new: bool) -> Path:
    """Write settings under the first free name of `config.yaml`, `config-2.yaml`, ...; the same text only once.

    Args:
        folder: Folder of the run; made if missing.
        text: YAML.
        is_new: The run is a training that continues no other.

    Returns:
        File with the settings.

    Raises:
        ValueError: See `check_unused`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder / ("config.yaml" if number == 1 else f"config-{number}.yaml")
        try:
            path.touch(exist_ok=False)  # of two runs that start together, one has the name
        except FileExistsError:
            if is_new:
                check_unused(folder)
            if read_text(path) == text:
                return path
        else:
            write_whole(path, text)
            return path
