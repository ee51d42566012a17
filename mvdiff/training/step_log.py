"""Numbers of an optimizer step: means over its samples, learning rate, gradient norm, decay of the average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

QUARTERS = tuple(f"train/loss_q{number}" for number in range(1, 5))
"""Names of the loss by quarter of the timesteps, from the quarter with the least noise on."""


def over_ranks(values: Tensor, operation: dist.ReduceOp) -> Tensor:
    """Reduce a tensor over all ranks, in place; all ranks must call this. `Strategy.reduce` adds a barrier."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values, operation)
    return values


class StepMeans:
    """Means over the samples of an optimizer step: those of all its batches, on all ranks.

    Sums and counts are added up, so that a mean does not depend on how the samples are split into batches and ranks.
    All ranks must add the same names.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, counted: Tensor | None = None) -> None:
        """Add values of samples.

        Args:
            name: Name of the mean.
            values: [N] floats.
            counted: [N] bool, False for values to leave out; None: all count.
        """
        values = values.detach().float()
        counted = torch.ones_like(values, dtype=torch.bool) if counted is None else counted.to(values.device)
        pair = torch.stack([torch.where(counted, values, 0).sum(), counted.sum().to(values)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def take(self) -> dict[str, float]:
        """Return the means that at least one sample counts for, and clear all sums; all ranks must call this."""
        sums, self._sums = self._sums, {}
        if not sums:
            return {}
        totals = over_ranks(torch.stack([sums[name] for name in sorted(sums)]), dist.ReduceOp.SUM).tolist()
        return {name: total / count for name, (total, count) in zip(sorted(sums), totals, strict=True) if count}

    def clear(self) -> None:
        """Forget what was added."""
        self._sums = {}


def add_quarters(means: StepMeans, losses: Tensor, timesteps: Tensor, num_train_timesteps: int) -> None:
    """Add losses [N] by the quarter of the timesteps [N] that they were computed at."""
    quarter = timesteps.to(losses.device) * len(QUARTERS) // num_train_timesteps
    for number, name in enumerate(QUARTERS):
        means.add(name, losses, quarter == number)


class StepLog(Callback):
    """Log the numbers of each optimizer step, after its batches and before it is made.

    Every module of mvdiff adds this callback (`OptimizedModule.configure_callbacks`). It logs the means of
    `OptimizedModule.step_means`, `train/lr`, `train/grad_norm` (the Euclidean norm over all trained parameters, before
    clipping) and, with `TrainedWeightsEMA`, `train/ema_decay`. None of them depends on the time or the machine.
    """

    logged_names = ("train/lr", "train/grad_norm")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without a batch."""
        pl_module.step_means.clear()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the numbers of the step; a collective call of all ranks."""
        means = pl_module.step_means.take()
        log_sparse(trainer, {name: means.pop(name) for name in QUARTERS if name in means})
        for name, value in means.items():
            pl_module.log(name, value, prog_bar=True)
        pl_module.log("train/lr", float(optimizer.param_groups[0]["lr"]))
        pl_module.log("train/grad_norm", gradient_norm(optimizer))
        for callback in trainer.callbacks:
            if hasattr(callback, "next_decay"):  # TrainedWeightsEMA, which lies above this file
                pl_module.log("train/ema_decay", callback.next_decay)


def log_sparse(trainer: Trainer, numbers: Mapping[str, float]) -> None:
    """Log numbers that some steps do not have, where the step is logged.

    `LightningModule.log` would log the number of an earlier step again.
    """
    if numbers and trainer._logger_connector.should_update_logs:
        for logger in trainer.loggers:
            logger.log_metrics(dict(numbers), step=trainer.fit_loop.epoch_loop._batches_that_stepped)


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the Euclidean norm of all gradients of an optimizer, a scalar; that of sharded ones is a collective call.

    DTensors have the norm of the whole tensor.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
