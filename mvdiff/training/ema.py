"""Exponential moving average of the trained weights, exact across a kill and a resume."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mvdiff.training.trained_part import TrainedPartModule


class TrainedWeightsEMA(EMAWeightAveraging):
    """Average the trained part of a module, validate with the average, and end training with it.

    Lightning's callback copies the whole module, frozen base included, and cannot resume where the base is left out
    of checkpoints. This one hands only `module.trained()` to it. A checkpoint's `state_dict` holds the average,
    `current_model_state` the weights that training goes on from.

    Args:
        decay: Weight of the old average in each update, in (0, 1).
        update_every_n_steps: Optimizer steps between two updates.
        update_starting_at_step: Zero-based optimizer step of the first update; None for the first step.
        warm_up: Average faster at first, so that the weights of the first steps are soon forgotten: after n updates
            the next one's decay is min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage with
            `num_updates`.

    Raises:
        ValueError: A decay outside (0, 1).
    """

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
        if warm_up:  # Lightning's average has none; torch's AveragedModel takes it and counts the updates
            self._kwargs["avg_fn"] = _warming_up(decay)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the trained part, on the training device."""
        if stage != "fit":
            return
        if not isinstance(pl_module, TrainedPartModule):
            raise ValueError(
                f"TrainedWeightsEMA must be used with a TrainedPartModule; got {type(pl_module).__name__}. "
                "Use lightning.pytorch.callbacks.EMAWeightAveraging for modules that are trained whole."
            )
        pl_module.configure_model()
        device = trainer.strategy.root_device
        self._average_model = AveragedModel(pl_module.trained(), device=device, use_buffers=False, **self._kwargs)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Update the average after an optimizer step."""
        super().on_train_batch_end(trainer, pl_module.trained(), outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Update the average after an epoch where asked for."""
        super().on_train_epoch_end(trainer, pl_module.trained())

    def on_train_end(self, trainer, pl_module) -> None:
        """Leave the average in the module."""
        super().on_train_end(trainer, pl_module.trained())

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        """Validate with the average."""
        super().on_validation_epoch_start(trainer, pl_module.trained())

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Put the current weights back."""
        super().on_validation_epoch_end(trainer, pl_module.trained())

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Write the average as `state_dict`, the current weights as `current_model_state`."""
        averaging = self._average_model is not None
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if averaging:
            prefix = f"{pl_module.trained_part}."
            checkpoint["state_dict"] = {prefix + name: value for name, value in checkpoint["state_dict"].items()}

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Restore the average and the current weights; a checkpoint without an average starts one from its weights."""
        if self._average_model is None:  # outside fit: `state_dict`, already loaded, is the average
            return
        prefix = f"{pl_module.trained_part}."
        average = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items()}
        self._average_model.module.load_state_dict(average)
        if "averaging_state" in checkpoint:
            with torch.no_grad():
                self._average_model.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
            pl_module.load_state_dict(checkpoint["current_model_state"])


def _warming_up(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def update(average: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        decay_now = ((1 + num_averaged) / (10 + num_averaged)).clamp(max=decay).to(average.dtype)
        return torch.lerp(current, average, decay_now)

    return update
