"""Optimizer, learning-rate schedule and gradient accumulation, shared by every LightningModule here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import AdamW

from mvdiff.training.schedules import LENGTHS, LRInterval, check_resumed, scheduler_over_run


def adamw(params: Iterable[nn.Parameter]) -> AdamW:
    """Build the paper's optimizer: AdamW, learning rate 2e-4, library defaults (paper, section 5.1)."""
    return AdamW(params, lr=2e-4)


class OptimizedModule(LightningModule):
    """A module with an optimizer and a learning-rate schedule from its settings.

    Attributes:
        optimizer: Called with the parameters that require gradients.
        lr_scheduler: Called with the optimizer; None keeps the rate. A class with the argument `total_steps` gets the
            run's length where it is left out.
        lr_interval: Unit of the schedule's steps; see `scheduler_over_run`.
    """

    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None
    lr_interval: LRInterval
    _resumed: Sequence[Mapping[str, Any]] = ()
    """States of the schedules in the checkpoint that was loaded last."""

    def trained(self) -> nn.Module:
        """Return the part that is trained, here all of the module."""
        return self

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer, and the schedule over the run's length.

        Raises:
            ValueError: No parameter requires gradients, or the schedule does not fit the run.
        """
        trained = [parameter for parameter in self.trained().parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("the model must have at least one trainable parameter; got none.")
        optimizer = self.optimizer(trained)
        if self.lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler, interval = scheduler_over_run(self.lr_scheduler, optimizer, self.lr_interval, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the length of the schedule to the resumed run, which may be longer."""
        self._resumed = [dict(state) for state in checkpoint.get("lr_schedulers", ())]
        for state in checkpoint.get("lr_schedulers", ()):
            for name in LENGTHS:
                state.pop(name, None)

    def on_train_start(self) -> None:
        """Check that the schedule can go on from the checkpoint that the run was resumed from."""
        resumed = self._resumed if self.trainer.ckpt_path is not None else ()  # weights alone may come from another run
        for state, config in zip(resumed, self.trainer.lr_scheduler_configs, strict=False):
            check_resumed({"interval": self.lr_interval} | state, config.scheduler, config.interval)


def accumulation_steps(total_batch_size: int, batch_size: int, world_size: int) -> int:
    """Return the number of batches of one optimizer step of `total_batch_size` samples over all devices and nodes.

    Raises:
        ValueError: The total is not a multiple of the samples of one batch on every device.

    >>> accumulation_steps(total_batch_size=4, batch_size=1, world_size=2)
    2
    """
    per_step = batch_size * world_size
    if total_batch_size < 1 or total_batch_size % per_step:
        raise ValueError(
            f"total_batch_size must be a positive multiple of data.batch_size x devices x nodes = "
            f"{batch_size} x {world_size} = {per_step}; got {total_batch_size}."
        )
    return total_batch_size // per_step
