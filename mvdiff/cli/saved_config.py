"""SaveConfig: the settings of a run in its folder, beside those of an earlier run in the same one."""

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from mvdiff.training.checkpoint_files import local_path, previous_of


class SaveConfig(SaveConfigCallback):
    """Write `config.yaml`; `fit` keeps one of an earlier run as `config.previous.yaml`, other commands write no second.

    Runs share a folder only where the user names it: without a logger, or with a fixed version.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file when the first stage is set up, on the first rank."""
        folder = local_path(trainer.log_dir)  # a collective call of all ranks
        path = None if folder is None else Path(folder) / self.config_filename
        exists = trainer.strategy.broadcast(path is not None and path.is_file())
        if exists and not self.already_saved:
            if stage != "fit":
                return
            if trainer.is_global_zero:
                os.replace(path, previous_of(path))
        super().setup(trainer, pl_module, stage)
