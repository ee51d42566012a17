"""Position: where a resumed training goes on, between two optimizer steps.

A checkpoint may be written within an accumulation window, whose gradients it does not hold, within a batch, within a
validation, or between two epochs. Lightning goes on after the last batch, and its own counters drift apart where it
resumes within a batch or at the end of an epoch. A `Position` is the start of the window instead, so that the whole
window is repeated: its samples and all random numbers depend on keys, and the weights did not change since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loops.evaluation_loop import RestartStage as ValidationRestart
from lightning.pytorch.loops.training_epoch_loop import RestartStage
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

_EPOCHS = "epoch_progress"
_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"
_COUNTS = ("ready", "started", "processed", "completed")


@dataclass(frozen=True)
class Position:
    """Place between two optimizer steps.

    Attributes:
        epoch: Epoch, counted from 0.
        batches: Batches of the epoch on each device before this place.
        left_out: Batches after this place that the checkpoint had seen without making a step.
        is_last: True if the epoch has no more batches, but has not ended.
        validates: True if a validation that is due after these batches is still to be made.
        steps: Optimizer steps before this place.
    """

    epoch: int
    batches: int
    left_out: int
    is_last: bool
    validates: bool
    steps: int

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], accumulate: int) -> Position:
        """Return the place of a checkpoint that was written by a run with `accumulate` batches per step."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop[_EPOCHS]["current"], loop[_BATCHES]["current"]
        epoch, done, steps = epochs["processed"], batches["processed"], checkpoint["global_step"]
        is_last = bool(loop[_BATCHES]["is_last_batch"]) and done == batches["ready"]
        if epochs["started"] <= epoch and (is_last or not done):  # between two epochs
            return cls(epoch, 0, 0, False, False, steps)
        if epochs["started"] <= epoch:  # max_steps or an early stop ended the epoch before its last batch
            epoch -= 1
        left_out = 0 if is_last else done % accumulate
        validates = not left_out and done == batches["ready"] and not _is_validated(loop)
        return cls(epoch, done - left_out, left_out, is_last, validates, steps)

    def write(self, checkpoint: dict[str, Any], data: LightningDataModule | None) -> bool:
        """Set the counters of a loaded checkpoint, and the place in the data, to this place.

        Returns:
            False, with a warning, if the data go on after the window's last batch and cannot be set to another place.
        """
        loop = checkpoint["loops"]["fit_loop"]
        key = "" if data is None else type(data).__qualname__
        set_data = getattr(data, "state_at", None)
        if key in checkpoint and set_data is not None:
            checkpoint[key] = set_data(checkpoint[key], self.epoch, self.batches, self.is_last)
        elif self.left_out and (key in checkpoint or loop.get("state_dict", {}).get("combined_loader")):
            rank_zero_warn(
                f"ckpt_path was written {self.left_out} batches after an optimizer step. {key or 'The loader'} cannot "
                "go back to them, so that their gradients are left out."
            )
            return False
        ends = self.epoch + bool(self.batches)  # epochs begun
        epochs = {"ready": ends, "started": ends, "processed": self.epoch, "completed": self.epoch}
        total = loop[_BATCHES]["total"]["processed"] - self.left_out
        loop[_EPOCHS] = {"total": dict(epochs), "current": dict(epochs)}
        loop[_BATCHES] = _counted(total, self.batches, self.is_last)
        loop[_VALIDATION] = _counted(0, 0, False)
        return True

    def start(self, trainer: Trainer) -> None:
        """Make the loops of Lightning go on from here; call this in `on_train_start`, after they have looked around."""
        fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
        fit._restarting = False  # else it leaves out the schedules that follow a metric at the end of this epoch
        loop.reset_restart_stage()
        loop.val_loop.reset_restart_stage()
        logged = self.steps  # steps that loggers were told of
        if loop.restarting:
            logged -= 1  # the loop counts the last step again as it restarts
        is_due = self.batches > 0 and loop._should_check_val_fx(fit._data_fetcher)
        if is_due and self.validates:
            loop.val_loop._restart_stage = ValidationRestart.RESTARTED_MID_EVALUATION  # it begins again
            logged -= 1  # the step is counted after its validation
        elif is_due and self.is_last:
            loop._restart_stage = RestartStage.RESTARTED_ON_LAST  # leave out the validation, end the epoch
        elif self.is_last:
            fit._data_fetcher.done = True  # no more batches: end the epoch
        loop._batches_that_stepped = logged


def _is_validated(loop: Mapping[str, Any]) -> bool:
    """Return True if training stood after a validation, or had nothing to validate; False in or before one."""
    batches, validation = loop[_BATCHES]["current"], loop[_VALIDATION]["current"]
    is_over = bool(loop[_VALIDATION]["is_last_batch"]) and validation["completed"] == validation["ready"]
    return batches["completed"] == batches["processed"] and is_over


def _counted(total: int, current: int, is_last: bool) -> dict[str, Any]:
    counts = {"total": dict.fromkeys(_COUNTS, total), "current": dict.fromkeys(_COUNTS, current)}
    return counts | {"is_last_batch": is_last}
