"""Resume: the settings of the new run are used, or the run is refused with both values; it goes on between two steps.

Lightning and torch restore the optimizer's and the schedule's settings from the checkpoint, over what was typed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from mvdiff.training.callbacks import gather
from mvdiff.training.position import Position
from mvdiff.training.schedules import LENGTHS, WarmupCosine, check_resumed

RUN_KEY = "mvdiff_run"
"""Checkpoint key of the settings that the run used, and of earlier changes to them."""

_OPTIMIZER = "model.optimizer.init_args."
_SCHEDULE = "model.lr_scheduler.init_args."
_RATE = f"{_OPTIMIZER}lr"
_DERIVED = {"params", "lr", "initial_lr", "min_lr", "max_lr", "base_momentum", "max_momentum"}
"""Keys of an optimizer's parameter groups that hold no optimizer setting, or that schedules write."""


def is_resuming(module: LightningModule) -> bool:
    """Return True while `Trainer.fit` restores a module from a checkpoint; weights loaded by hand resume nothing."""
    trainer = module._trainer
    return trainer is not None and trainer.state.fn == TrainerFn.FITTING and trainer.ckpt_path is not None


def run_settings(module: LightningModule) -> dict[str, Any]:
    """Return what a later run is compared with: optimizer, schedule, length, accumulation and average, by setting."""
    trainer = module.trainer
    average = next((one for one in trainer.callbacks if isinstance(one, WeightAveraging)), None)
    schedules = trainer.lr_scheduler_configs
    return {
        "model.optimizer": type(trainer.optimizers[0]).__name__ if trainer.optimizers else None,
        _RATE: trainer.optimizers[0].defaults.get("lr") if trainer.optimizers else None,
        "model.lr_scheduler": type(schedules[0].scheduler).__name__ if schedules else None,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.max_steps": trainer.max_steps,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "average of the weights": average and type(average).__name__,
        "decay of the average": getattr(average, "decay", None),
    }


class Resume:
    """Settings and place of the run that wrote a checkpoint, kept until training starts.

    Args:
        checkpoint: Checkpoint of Lightning; its counters are set back to the last optimizer step.
        module: Module that is restored; its trainer has the new settings.

    Raises:
        ValueError: The run is longer than `trainer.max_steps`, or stopped within an optimizer step of another size.
    """

    def __init__(self, checkpoint: dict[str, Any], module: LightningModule) -> None:
        trainer, record = module.trainer, checkpoint.get(RUN_KEY, {})
        self.step: int = checkpoint["global_step"]
        self.settings: Mapping[str, Any] = record.get("settings", {})
        self.changes: list[str] = list(record.get("changes", ()))
        self.schedules = [dict(state) for state in checkpoint.get("lr_schedulers", ())]
        self._groups: list[dict[str, Any]] = []
        self._schedule: dict[str, Any] = {}
        if trainer.max_steps != -1 and self.step > trainer.max_steps:
            raise ValueError(
                f"trainer.max_steps must be at least {self.step}, the steps of ckpt_path; got {trainer.max_steps}."
            )
        accumulate = trainer.accumulate_grad_batches
        before = self.settings.get("trainer.accumulate_grad_batches", accumulate)
        self._position: Position | None = Position.of(checkpoint, before)
        done = 0 if self._position.is_last else self._position.batches
        if before != accumulate and done % accumulate:
            raise ValueError(
                f"trainer.accumulate_grad_batches must be {before}, as in ckpt_path, which goes on after {done} "
                f"batches of an epoch; got {accumulate}. Keep data.batch_size x devices and total_batch_size as before,"
                " or resume from the end of an epoch."
            )
        if not self._position.write(checkpoint, trainer.datamodule):
            self._position = None

    def check_classes(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        """Raise ValueError if the checkpoint's optimizer or schedule is of a class that the new one cannot follow."""
        for name, new in (("model.optimizer", optimizer), ("model.lr_scheduler", scheduler)):
            before, now = self.settings.get(name), None if new is None else type(new).__name__
            if name in self.settings and before != now and not isinstance(new, WarmupCosine | None):
                raise ValueError(
                    f"{name} must be {before or 'null'}, as in ckpt_path; got {now}."
                    + (" WarmupCosine can follow any other." if new is scheduler else "")
                )

    def keep(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        """Keep the new settings before the checkpoint's state replaces them."""
        self.check_classes(optimizer, scheduler)
        self._groups = [{k: deepcopy(v) for k, v in one.items() if k != "params"} for one in optimizer.param_groups]
        self._schedule = {} if scheduler is None else _settings_of(scheduler, scheduler.state_dict())

    def apply(self, module: LightningModule) -> None:
        """Put the new settings back, and say which differ from the checkpoint's.

        Where a module builds optimizers of its own, so that `keep` was not called, theirs stay as restored.

        Raises:
            ValueError: The schedule cannot go on with the new settings, or ranks resume from other steps.
        """
        trainer = module.trainer
        if len(steps := sorted(set(gather(self.step)))) > 1:
            raise ValueError(f"ckpt_path must be the same checkpoint for every process; got steps {steps}.")
        if self._position is not None:
            self._position.start(trainer)
        optimizer, configs = trainer.optimizers[0], trainer.lr_scheduler_configs
        scheduler = configs[0].scheduler if configs else None
        changed = [
            f"{name} {before} -> {now}"
            for name, now in run_settings(module).items()
            if name in self.settings and (before := self.settings[name]) != now
        ]
        for state, config in zip(self.schedules, configs, strict=False):
            interval = getattr(module, "lr_interval", config.interval)
            check_resumed({"interval": interval} | state, config.scheduler, config.interval)
        if scheduler is not None and not self.schedules:
            _start_at(scheduler, trainer.global_step if configs[0].interval == "step" else trainer.current_epoch)
        if self._groups:
            changed += self._change_schedule(scheduler)
            changed += self._change_optimizer(optimizer, scheduler)
            if isinstance(scheduler, OneCycleLR):
                _recompute(scheduler)
        if changed:
            rank_zero_warn(f"ckpt_path is resumed at step {self.step} with other settings: {'; '.join(changed)}.")
            self.changes += [f"step {self.step}: {change}" for change in changed]

    def _change_schedule(self, scheduler: LRScheduler | None) -> list[str]:
        """Return the changed settings of the schedule; only WarmupCosine and OneCycleLR compute rates from them."""
        if scheduler is None or not self.schedules:
            return []
        before = _settings_of(scheduler, self.schedules[0])
        changed = {n: (before[n], now) for n, now in self._schedule.items() if n in before and before[n] != now}
        if not isinstance(scheduler, WarmupCosine | OneCycleLR):
            bases = self.schedules[0].get("base_lrs") or [None]
            old, new = self.settings.get(_RATE, bases[0]), scheduler.optimizer.defaults.get("lr")
            if "base_lr" not in before and old not in (None, new):
                raise ValueError(_refused(_RATE, old, new, scheduler))
            for name, (old, new) in changed.items():
                raise ValueError(_refused(_SCHEDULE + name, old, new, scheduler))
        return [f"{_SCHEDULE}{name} {old} -> {new}" for name, (old, new) in changed.items()]

    def _change_optimizer(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> list[str]:
        """Set the optimizer's new settings; return those that changed, but for the rate."""
        cycled = {"betas", "momentum"} if getattr(scheduler, "cycle_momentum", False) else set()
        computed = set() if scheduler is None else {"lr"}
        if not isinstance(scheduler, OneCycleLR):  # whose rates and momenta are computed again from its settings
            computed |= cycled
        changed: dict[str, None] = {}
        for group, new in zip(optimizer.param_groups, self._groups, strict=True):
            for key in sorted(new.keys() - _DERIVED - cycled):
                if group.get(key) != new[key]:
                    changed[f"{_OPTIMIZER}{key} {group.get(key)} -> {new[key]}"] = None
            if isinstance(scheduler, OneCycleLR) and group["max_lr"] != new["max_lr"]:
                changed[f"{_SCHEDULE}max_lr {group['max_lr']} -> {new['max_lr']}"] = None
            group.update({key: value for key, value in new.items() if key not in computed})
        return list(changed)


def _settings_of(scheduler: LRScheduler, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a schedule that its state has; some states add an s for one value per group."""
    names = [name for name in inspect.signature(type(scheduler)).parameters if name != "last_epoch"]
    stored = {name: next((key for key in (name, f"{name}s") if key in state), None) for name in names}
    known = {name: key for name, key in stored.items() if key is not None and name not in LENGTHS}  # see check_resumed
    return {name: state[key] for name, key in known.items()}


def _start_at(scheduler: LRScheduler, place: int) -> None:
    """Put a WarmupCosine at a place, where the checkpoint has no schedule."""
    if isinstance(scheduler, WarmupCosine):
        scheduler.load_state_dict({"last_epoch": place, "_step_count": place + 1})


def _recompute(scheduler: OneCycleLR) -> None:
    """Set the rates of the present place; torch does so at the next step only."""
    with warnings.catch_warnings(action="ignore"):  # torch expects this call in its own step
        rates: Sequence[float] = scheduler.get_lr()
    scheduler._last_lr = list(rates)
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _refused(name: str, before: Any, now: Any, scheduler: LRScheduler) -> str:
    return (
        f"{name} must be {before}, as in ckpt_path, which {type(scheduler).__name__} goes on with; got {now}. "
        "mvdiff.training.schedules.WarmupCosine can be resumed with another."
    )
