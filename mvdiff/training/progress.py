"""Progress bar that counts what ends a training: optimizer steps, or epochs."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class TrainingProgressBar(RichProgressBar):
    """Rich's bar; a training that `max_steps` alone ends has one bar of its steps, others a bar for each epoch.

    Lightning's counts the batches of each epoch, and calls them "Epoch 0/-2" where there is no last epoch.

    Args:
        refresh_rate: Redraws per second.
        leave: Keep the bars of earlier epochs.
        **options: See `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 10, leave: bool = True, **options: Any) -> None:
        super().__init__(refresh_rate, leave, **options)

    @property
    def counts_steps(self) -> bool:
        """True where optimizer steps end the training, and no number of epochs."""
        return self.trainer.max_steps > 0 and not self._max_epochs

    @property
    def total_train_batches(self) -> int | float:
        """Length of the bar: steps of the training, or batches of an epoch."""
        return self.trainer.max_steps if self.counts_steps else super().total_train_batches

    @property
    def _max_epochs(self) -> int | None:
        epochs = self.trainer.max_epochs
        return epochs if epochs is not None and epochs > 0 else None

    def _get_train_description(self, current_epoch: int) -> str:
        if self.counts_steps:
            return "Training"
        return f"Epoch {current_epoch + 1}" + (f"/{self._max_epochs}" if self._max_epochs else "")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar; that of steps goes on through all epochs, and after a resume where the training stood."""
        if not self.counts_steps:
            super().on_train_epoch_start(trainer, pl_module)
        elif self.train_progress_bar_id is None and self.is_enabled:
            super().on_train_epoch_start(trainer, pl_module)
            self.progress.reset(self.train_progress_bar_id, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar to the batch of the epoch, or to the optimizer step."""
        position = trainer.global_step - 1 if self.counts_steps else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, position)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin without bars of scoring."""
        super().on_test_start(trainer, pl_module)
        self._scoring: dict[str, Any] = {}

    def on_sample_scored(self, trainer: Trainer, which: str, total: int) -> None:
        """Advance the bar of the generated or the reference samples that `test` has read to score them."""
        if not self.is_enabled or self.progress is None:
            return
        if which not in self._scoring:
            self._scoring[which] = self._add_task(total, f"Scoring, {which}")
        self.progress.advance(self._scoring[which])
        self.refresh()
