"""Exponential moving average of the trained weights, exact across kills and resumes."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mvdiff.models.named_weights import NamedWeights
from mvdiff.training.sharded_weights import spread_weights, whole_weights
from mvdiff.training.trained_part import TrainedPartModule


class TrainedWeightsEMA(EMAWeightAveraging):
    """Average the trained part of a module; validate with the average and keep it when training ends.

    Lightning's own callback copies the whole module, frozen base included, and cannot resume from checkpoints without
    the base. This one averages `module.trained()` only. A checkpoint has the average in `state_dict` and the current
    weights in `current_model_state`.

    Args:
        decay: Weight of the old average in each update, in (0, 1).
        update_every_n_steps: Optimizer steps between two updates.
        update_starting_at_step: Zero-based optimizer step of the first update; None: the first step.
        warm_up: Use a smaller decay at first, so that the weights of the first steps soon lose influence: after n
            updates the next decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage with
            `num_updates`.

    Raises:
        ValueError: `decay` is not in (0, 1).
    """

    logged_names = ("train/ema_decay",)

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        warm_up: bool = False,
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1; got {decay}.")
        super().__init__(
            use_buffers=False,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )
        self.decay = decay
        self._is_restored = self._has_started = False
        self._is_swapped = False  # the average is in the module, as in validation
        self.warm_up = warm_up
        if warm_up:  # Lightning's callback has no warm-up; torch's AveragedModel accepts one and counts the updates
            self._kwargs["avg_fn"] = _warming_up(decay)

    @property
    def next_decay(self) -> float:
        """Weight of the old average in the next update; 0 in the first one, which copies the weights."""
        updates = 0 if self._average_model is None else int(self._average_model.n_averaged)
        if not updates:
            return 0.0
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warm_up else self.decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the trained part to the training device."""
        if stage != "fit":
            return
        if not isinstance(pl_module, TrainedPartModule):
            raise ValueError(
                f"TrainedWeightsEMA requires a TrainedPartModule; got {type(pl_module).__name__}. "
                "Use lightning.pytorch.callbacks.EMAWeightAveraging for modules that are trained as a whole."
            )
        pl_module.configure_model()
        device = trainer.strategy.root_device
        self._average_model = AveragedModel(nn.Module(), device=device, use_buffers=False, **self._kwargs)
        self._average_model.module = NamedWeights.copy_of(pl_module.trained()).to(device)

    def on_train_start(self, trainer, pl_module) -> None:
        """Update the average if the checkpoint was written after an optimizer step, but before its update."""
        self._has_started = True
        if self._is_restored:
            self.on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_fit_end(self, trainer, pl_module) -> None:
        """Copy the average into the module after a resume that had no step left, where Lightning ends no training."""
        if self._is_restored and not self._has_started:
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Update the average after an optimizer step."""
        super().on_train_batch_end(trainer, pl_module.trained(), outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Update the average after an epoch if Lightning's callback does so."""
        super().on_train_epoch_end(trainer, pl_module.trained())

    def on_train_end(self, trainer, pl_module) -> None:
        """Copy the average into the module."""
        super().on_train_end(trainer, pl_module.trained())

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        """Swap the average into the module for validation."""
        super().on_validation_epoch_start(trainer, pl_module.trained())
        self._is_swapped = True

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Swap the current weights back into the module."""
        super().on_validation_epoch_end(trainer, pl_module.trained())
        self._is_swapped = False

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Write the average as `state_dict`, the current weights as `current_model_state`."""
        averaging = self._average_model is not None
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if averaging:
            average = whole_weights(checkpoint["state_dict"])
            current = checkpoint["current_model_state"]
            checkpoint["state_dict"] = current if self._is_swapped else average  # written in a validation
            checkpoint["current_model_state"] = average if self._is_swapped else current

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Restore average and current weights; without an average in the checkpoint, start one from its weights."""
        if self._average_model is None:  # outside fit: `state_dict`, already loaded, is the average
            return
        copy = self._average_model.module
        copy.load_state_dict(spread_weights(checkpoint["state_dict"], copy))
        if "averaging_state" in checkpoint:
            with torch.no_grad():
                self._average_model.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
            pl_module.load_state_dict(checkpoint["current_model_state"])
            self._is_restored = True


def _warming_up(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def update(average: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        decay_now = ((1 + num_averaged) / (10 + num_averaged)).clamp(max=decay).to(average.dtype)
        return torch.lerp(current, average, decay_now)

    return update
