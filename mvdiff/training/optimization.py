"""Optimizer, learning-rate schedule and gradient accumulation, shared by every LightningModule here."""

from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

LRInterval = Literal["epoch", "step"]


def adamw(params: Iterable[Parameter]) -> AdamW:
    """Build the paper's optimizer: AdamW, learning rate 2e-4, library defaults (paper, section 5.1)."""
    return AdamW(params, lr=2e-4)


def cosine_over_ten_epochs(optimizer: Optimizer) -> CosineAnnealingLR:
    """Build the panorama schedule: a cosine over ten epochs, down to 1e-7, stepped once per epoch."""
    return CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-7)


def configure_optimizers(
    parameters: Iterable[Parameter],
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None = None,
    interval: LRInterval = "epoch",
) -> dict[str, Any]:
    """Return Lightning's dictionary of optimizer and schedule for the parameters that require gradients.

    Raises:
        ValueError: None does.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("the model must have at least one trainable parameter; got none.")
    built = optimizer(trained)
    if lr_scheduler is None:
        return {"optimizer": built}
    return {"optimizer": built, "lr_scheduler": {"scheduler": lr_scheduler(built), "interval": interval}}


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
