"""Counts of a training, known before it begins: parameters, samples of an optimizer step, steps, epochs."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from mvdiff.files.sizes import plural
from mvdiff.training.schedules import has_end, limited, run_length, steps_per_epoch


@dataclass(frozen=True)
class Steps:
    """Counts of a run; None where the run has no end.

    Attributes:
        batches: Batches of an epoch on each device.
        per_epoch: Optimizer steps of an epoch.
        total: Optimizer steps of the run.
        epochs: Epochs of the run, the last one perhaps cut short.
    """

    batches: int
    per_epoch: int
    total: int | None
    epochs: int | None

    @classmethod
    def of(cls, trainer: Trainer, batches: int) -> Steps:
        """Count by the Trainer's limits; `batches` are those of a whole epoch on each device."""
        batches = limited(trainer, batches)
        per_epoch = steps_per_epoch(trainer, batches)
        if not has_end(trainer):
            return cls(batches, per_epoch, None, None)
        return cls(batches, per_epoch, *(run_length(trainer, unit, per_epoch) for unit in ("step", "epoch")))


def has_validation(trainer: Trainer, data: LightningDataModule | None) -> bool:
    """Return False if the Trainer's limits, or `num_val` of its data, leave nothing to validate."""
    return trainer.limit_val_batches != 0 and getattr(data, "num_val", None) != 0


def parameter_counts(model: LightningModule) -> tuple[int, int]:
    """Return the numbers of trained and of frozen parameters."""
    counts = [0, 0]
    for parameter in model.parameters():
        counts[not parameter.requires_grad] += parameter.numel()
    return counts[0], counts[1]


def effective_batch(trainer: Trainer, batch_size: int) -> str:
    """Return the samples of an optimizer step, as a product: batch x devices x nodes x accumulation."""
    devices, accumulate = trainer.world_size // trainer.num_nodes, trainer.accumulate_grad_batches
    factors = f"{batch_size} per device x {plural(devices, 'device')} x {plural(trainer.num_nodes, 'node')}"
    return f"{batch_size * trainer.world_size * accumulate} = {factors} x {accumulate} accumulated"
