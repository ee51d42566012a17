"""Learning-rate schedules that take their length from the run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, PolynomialLR

from mvdiff.data.keyed_datamodule import MultiViewDataModule

LRInterval = Literal["epoch", "step"]

LENGTHS = ("T_max", "total_steps", "_schedule_phases", "total_iters")
"""Where the state of torch's schedules keeps their length."""

_PER_EPOCH = ("epochs", "steps_per_epoch")
"""Arguments of torch's `OneCycleLR` whose product is its length."""


class WarmupCosine(LRScheduler):
    """A linear warm-up to the optimizer's learning rate, then a cosine down to `final_lr`.

    Without a warm-up this is torch's `CosineAnnealingLR`, but for a closed form that stays at `final_lr` after the end.
    A resumed run takes only its place from the checkpoint: rates are those of the settings and length of the new run,
    as if it had had them from the beginning.

    Args:
        optimizer: Its rates are the highest ones.
        total_steps: Length of the schedule; left out in YAML: that of the run, in epochs or optimizer steps as
            `lr_interval` says, and in steps where `trainer.max_steps` ends the run before its epochs do.
        warm_up: Share of the length in which the rate rises.
        final_lr: Rate at the end.

    Raises:
        ValueError: No length, or a share outside [0, 1) or of less than one step.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warm_up: float = 0.0, final_lr: float = 1e-7
    ) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1; got {total_steps}.")
        if not 0 <= warm_up < 1:
            raise ValueError(f"warm_up must lie in [0, 1); got {warm_up}.")
        self.total_steps, self.warm_up, self.final_lr = total_steps, warm_up, final_lr
        self.num_warm_up = round(warm_up * total_steps)
        if warm_up and not self.num_warm_up:
            raise ValueError(
                f"warm_up must be at least one step of the schedule; got {warm_up} of {total_steps}. Set "
                "model.lr_interval to step, or a larger warm_up."
            )
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """Compute the rates at the present place."""
        place = self.last_epoch - self.num_warm_up
        if place < 0:
            return [base * (self.last_epoch + 1) / (self.num_warm_up + 1) for base in self.base_lrs]
        share = min(place / (self.total_steps - self.num_warm_up), 1.0)
        return [self.final_lr + (base - self.final_lr) * (1 + math.cos(math.pi * share)) / 2 for base in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the place of a checkpoint, at the rate of the present settings."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict.get("_step_count", self.last_epoch + 1)
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def scheduler_over_run(
    lr_scheduler: LRSchedulerCallable, optimizer: Optimizer, interval: LRInterval, trainer: Trainer
) -> tuple[LRScheduler, LRInterval]:
    """Build a schedule; one that takes `total_steps` and is given no length gets the run's.

    Args:
        lr_scheduler: Called with the optimizer.
        optimizer: Its rates are changed.
        interval: Unit of the schedule's steps.
        trainer: Knows the run's length.

    Returns:
        Schedule, and the unit of its steps: "step" too where a schedule of the run's length per epoch would miss that
        `max_steps` ends the run before its epochs do.

    Raises:
        ValueError: The run has no end to compute a length from, or the schedule's own length is shorter than the run.
    """
    if _follows_run(lr_scheduler):
        if interval == "epoch" and _steps_end_run(trainer):
            interval = "step"
        scheduler = lr_scheduler(optimizer, total_steps=run_length(trainer, interval))
    else:
        scheduler = lr_scheduler(optimizer)
        _check_length(scheduler, interval, trainer)
    scheduler.interval = interval  # into its state, for `check_resumed`
    return scheduler, interval


def _follows_run(lr_scheduler: LRSchedulerCallable) -> bool:
    settings = getattr(lr_scheduler, "keywords", {})  # YAML makes a partial with every argument of the class
    if any(settings.get(name) is not None for name in ("total_steps", *_PER_EPOCH)):
        return False
    return "total_steps" in settings or "total_steps" in inspect.signature(lr_scheduler).parameters


def _steps_end_run(trainer: Trainer) -> bool:
    if trainer.max_steps == -1:
        return False
    return trainer.max_epochs in (-1, None) or trainer.max_steps < trainer.max_epochs * steps_per_epoch(trainer)


def check_resumed(state: Mapping[str, Any], scheduler: LRScheduler, interval: LRInterval) -> None:
    """Check that a schedule can go on from a checkpoint.

    Args:
        state: State of the checkpoint's schedule, with the unit of its steps as `interval`.
        scheduler: Schedule of the resumed run.
        interval: Unit of its steps.

    Raises:
        ValueError: The checkpoint's schedule counts in another unit, or has another length though torch computes each
            of its rates from the one before, not from the place.
    """
    if state["interval"] != interval:
        raise ValueError(
            f"the learning-rate schedule must count {state['interval']}s, as that of ckpt_path does; got {interval}s. "
            "Schedules of the run's length count steps where trainer.max_steps ends the run before trainer.max_epochs "
            "does: end the resumed run by the same of the two, or set model.lr_interval."
        )
    if not isinstance(scheduler, CosineAnnealingLR | ConstantLR | LinearLR | PolynomialLR):
        return
    name = "T_max" if isinstance(scheduler, CosineAnnealingLR) else "total_iters"
    given, before = getattr(scheduler, name), state.get(name)
    if before not in (None, given):
        raise ValueError(
            f"model.lr_scheduler.init_args.{name} must be {before}, as in ckpt_path; got {given}. "
            "mvdiff.training.schedules.WarmupCosine can be resumed for longer."
        )


def _check_length(scheduler: LRScheduler, interval: LRInterval, trainer: Trainer) -> None:
    name = "T_max" if isinstance(scheduler, CosineAnnealingLR) else "total_steps"  # or epochs x steps_per_epoch
    if not isinstance(scheduler, CosineAnnealingLR | OneCycleLR) or not has_end(trainer):
        return
    given, length = getattr(scheduler, name), run_length(trainer, interval)
    lengths = f"got {given} for a run of {length} {interval}s"
    if given < length:
        what = "the rate would rise again" if name == "T_max" else "the schedule would end before the run"
        raise ValueError(
            f"model.lr_scheduler.init_args.{name} must be the run's length; {lengths}: {what}. Leave total_steps out, "
            "or use mvdiff.training.schedules.WarmupCosine, which follow the run."
        )
    if given > length:
        rank_zero_warn(f"model.lr_scheduler.init_args.{name}: {lengths}; the rate does not reach its end.")


def has_end(trainer: Trainer) -> bool:
    """Return True if the trainer's limits of epochs or steps end a run."""
    return trainer.max_steps != -1 or trainer.max_epochs not in (-1, None)


def run_length(trainer: Trainer, interval: LRInterval, per_epoch: int | None = None) -> int:
    """Return the length of a run in epochs or optimizer steps, from the trainer's limits, accumulation and the data.

    `Trainer.estimated_stepping_batches` would lose the place of a loader that resumes.

    Args:
        trainer: Its limits count.
        interval: Unit of the length.
        per_epoch: Optimizer steps of an epoch; None: counted from the trainer's data where they are needed.

    Raises:
        ValueError: Neither `max_epochs` nor `max_steps` is set.
    """
    if not has_end(trainer):
        raise ValueError(
            "trainer.max_epochs or trainer.max_steps must be set for a learning-rate schedule of the run's length; got "
            "neither."
        )
    epochs = math.inf if trainer.max_epochs in (-1, None) else max(trainer.max_epochs, 1)
    steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if interval == "epoch":
        if steps == math.inf:
            return int(epochs)
        return int(min(epochs, math.ceil(steps / (per_epoch or steps_per_epoch(trainer)))))
    return int(steps if epochs == math.inf else min(steps, epochs * (per_epoch or steps_per_epoch(trainer))))


def steps_per_epoch(trainer: Trainer, batches: int | None = None) -> int:
    """Return the number of optimizer steps of an epoch.

    Args:
        trainer: Its accumulation counts.
        batches: Batches of an epoch on each device; None: counted from the trainer's data.

    Raises:
        ValueError: The data has no length.
    """
    if batches is None:
        batches = _batches_per_epoch(trainer)
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def limited(trainer: Trainer, batches: int) -> int:
    """Return how many of the batches of a whole epoch the trainer's `limit_train_batches` leaves."""
    limit = trainer.limit_train_batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def _batches_per_epoch(trainer: Trainer) -> int:
    if isinstance(trainer.datamodule, MultiViewDataModule):
        return limited(trainer, trainer.datamodule.num_train_batches())
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    trainer.fit_loop._combined_loader = None  # the loader is made again once its state can be restored
    if batches == math.inf:
        raise ValueError("data must have a length for a learning-rate schedule of the run's length; got a stream.")
    return batches


def describe(settings: Mapping[str, Any]) -> str | None:
    """Describe the schedule of a run's settings in a line; None where the rate does not change.

    >>> schedule = {"class_path": "mvdiff.training.schedules.WarmupCosine", "init_args": {"total_steps": None}}
    >>> model = {"init_args": {"lr_scheduler": schedule, "lr_interval": "epoch"}}
    >>> describe({"model": model, "trainer": {"max_epochs": 20, "max_steps": -1}})
    'learning rate: WarmupCosine over 20 epochs (trainer.max_epochs)'
    """
    model, trainer = (settings.get("model") or {}).get("init_args") or {}, settings.get("trainer") or {}
    schedule = model.get("lr_scheduler")
    if not isinstance(schedule, Mapping):
        return None
    given = schedule.get("init_args") or {}
    own = next((f"{given[name]} {model['lr_interval']}s ({name})" for name in LENGTHS[:2] if given.get(name)), None)
    if own is None and all(given.get(name) for name in _PER_EPOCH):
        own = f"{math.prod(given[name] for name in _PER_EPOCH)} {model['lr_interval']}s ({' x '.join(_PER_EPOCH)})"
    limits = []
    if (trainer.get("max_steps") or -1) > 0:
        limits.append(f"{trainer['max_steps']} steps (trainer.max_steps)")
    if (trainer.get("max_epochs") or -1) > 0:
        limits.append(f"{trainer['max_epochs']} epochs (trainer.max_epochs)")
    if own is None and not ("total_steps" in given and limits):
        return None
    return f"learning rate: {schedule['class_path'].rpartition('.')[2]} over {own or ', at most '.join(limits)}"
