"""Optimizer, learning-rate schedule and gradient accumulation, shared by every LightningModule here."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import AdamW

from mvdiff.models.finite import check_finite
from mvdiff.training.monitors import check_monitors
from mvdiff.training.nonfinite import NonFiniteGuard, OnNonFinite
from mvdiff.training.plan import has_validation
from mvdiff.training.resume import RUN_KEY, Resume, is_resuming, run_settings
from mvdiff.training.schedules import LENGTHS, LRInterval, scheduler_over_run
from mvdiff.training.step_log import StepLog, StepMeans
from mvdiff.training.strategies import check_strategy


def adamw(params: Iterable[nn.Parameter]) -> AdamW:
    """Build the paper's optimizer: AdamW, learning rate 2e-4, library defaults (paper, section 5.1)."""
    return AdamW(params, lr=2e-4)


class OptimizedModule(LightningModule):
    """A module with an optimizer and a learning-rate schedule from its settings.

    A resumed run uses its own settings, or is refused (`mvdiff.training.resume`). A loss or gradient that is not finite
    stops the run or skips the step (`NonFiniteGuard`), and no checkpoint has weights that are not finite.

    Attributes:
        optimizer: Called with the parameters that require gradients.
        lr_scheduler: Called with the optimizer; None keeps the rate. A class with the argument `total_steps` gets the
            run's length where it is left out.
        lr_interval: Unit of the schedule's steps; see `scheduler_over_run`.
        on_nonfinite: See `NonFiniteGuard`.
        step_means: Numbers of samples that `StepLog` logs as means over each optimizer step.
    """

    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None
    lr_interval: LRInterval
    on_nonfinite: OnNonFinite = "stop"
    changes: Sequence[str] = ()
    """Settings that changed where the run was resumed, for the model card."""
    shards: ClassVar[bool] = False
    """True if `configure_model` spreads the weights over the devices of a `ShardedStrategy`."""
    logged_names: Sequence[str] = ()
    """Names that this module logs and a callback can monitor, or patterns of them; see `check_monitors`."""
    _resume: Resume | None = None

    def __init__(self) -> None:
        super().__init__()
        self.step_means = StepMeans()

    def trained(self) -> nn.Module:
        """Return the part that is trained, here all of the module."""
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Add the log of steps, and the guard against steps that are not finite, unless the Trainer has them.

        Lightning calls this first.

        Raises:
            ValueError: The Trainer's strategy cannot train this module, or a callback monitors what is not logged.
        """
        check_strategy(self.trainer, self)
        added = [StepLog(), NonFiniteGuard(self.on_nonfinite)]  # the guard may drop the gradients that are logged
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_monitors(self.trainer.callbacks, self, has_validation(self.trainer, self.trainer.datamodule))
        present = {type(callback) for callback in self.trainer.callbacks}
        return [callback for callback in added if type(callback) not in present]

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimizer, and the schedule over the run's length.

        Raises:
            ValueError: No parameter requires gradients, or the schedule does not fit the run or the checkpoint.
        """
        trained = [parameter for parameter in self.trained().parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("the model must have at least one trainable parameter; got none.")
        optimizer, built = self.optimizer(trained), {}
        if self.lr_scheduler is not None:
            scheduler, interval = scheduler_over_run(self.lr_scheduler, optimizer, self.lr_interval, self.trainer)
            built = {"lr_scheduler": {"scheduler": scheduler, "interval": interval}}
        if self._resume is not None:
            self._resume.keep(optimizer, built["lr_scheduler"]["scheduler"] if built else None)
        return {"optimizer": optimizer} | built

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings of the run; refuse weights that are not finite.

        Raises:
            FloatingPointError: A weight is not finite; earlier checkpoints stay.
        """
        for name in ("state_dict", "current_model_state"):
            what = f"no checkpoint is written at step {checkpoint.get('global_step')}"
            remedy = "Resume from an earlier checkpoint, with a lower learning rate or another trainer.precision."
            check_finite(checkpoint.get(name, {}), what, remedy)
        if self._trainer is not None:
            checkpoint[RUN_KEY] = {"settings": run_settings(self), "changes": list(self.changes)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the settings to the resumed run: length and rates of the schedule, and whether weights are averaged."""
        self._resume = Resume(checkpoint, self) if is_resuming(self) else None
        for state in checkpoint.get("lr_schedulers", ()):
            for name in LENGTHS:
                state.pop(name, None)
        averages = self._resume is None or any(isinstance(one, WeightAveraging) for one in self.trainer.callbacks)
        if not averages and "current_model_state" in checkpoint:
            checkpoint["state_dict"] = checkpoint["current_model_state"]  # what was trained, not its average

    def on_train_start(self) -> None:
        """Put the settings back that the checkpoint's optimizer and schedule replaced.

        Raises:
            ValueError: The schedule cannot go on from the checkpoint with the new settings.
        """
        if self._resume is not None:
            self._resume.apply(self)
            self.changes, self._resume = self._resume.changes, None


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
