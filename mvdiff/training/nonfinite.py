"""NonFiniteGuard: no optimizer step with a loss or a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from mvdiff.samples.ids import listed_ids
from mvdiff.training.callbacks import gather
from mvdiff.training.sharded_weights import largest_norm, own_shard

OnNonFinite = Literal["stop", "skip"]

_MOST_IN_A_ROW = 20
"""Skipped steps in a row after which the training is taken for lost."""
_MOST_NAMES = 8


class NonFiniteGuard(Callback):
    """Check loss and gradients before each optimizer step, on all ranks together.

    Every module of mvdiff adds this callback (`OptimizedModule.configure_callbacks`). One step that is not finite would
    make all weights NaN. Under `precision="16-mixed"` gradients may overflow while the loss scale is above 1: the
    GradScaler then skips the step itself and lowers the scale.

    Args:
        action: "stop" raises an error; "skip" leaves the weights as they are, counts the step and goes on.

    Raises:
        ValueError: The action is unknown.
    """

    def __init__(self, action: OnNonFinite = "stop") -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite must be stop or skip; got {action!r}.")
        self.action = action
        self.skipped = 0
        """Skipped steps of the run, those before a resume included."""
        self._in_a_row = self._made = 0
        self._samples: list[list[str]] = []
        self._finite_losses: list[Tensor] = []

    @property
    def logged_names(self) -> tuple[str, ...]:
        """Names that a callback can monitor: the count of skipped steps, if steps may be skipped."""
        return ("train/skipped_steps",) * (self.action == "skip")

    def state_dict(self) -> dict[str, Any]:
        """Return the count of skipped steps."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count of skipped steps."""
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without a batch."""
        self._in_a_row = self._made = 0
        self._forget_batches()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the ids of the samples of a batch; a step may accumulate several."""
        ids = getattr(batch, "sample_id", None)
        self._samples.append([f"batch {batch_idx}"] if ids is None else [str(sample_id) for sample_id in ids])

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note whether a loss is finite, without waiting for the device."""
        self._finite_losses.append(loss.detach().isfinite().all())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Stop the run or drop the gradients if a loss or a gradient is not finite on any rank.

        Raises:
            FloatingPointError: It is not finite, and the action is "stop" or too many steps were skipped in a row.
        """
        samples, losses = self._samples, self._finite_losses
        gradients = {id(p): p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        largest = largest_norm(list(gradients.values()))
        *losses_are_finite, gradient_is_finite = torch.stack(
            [*losses, largest.isfinite().to(losses[0].device if losses else largest.device)]
        ).tolist()  # waits for the device, once
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        overflow = not gradient_is_finite and scaler is not None and scaler.get_scale() > 1
        self._forget_batches()
        wrong = not all(losses_are_finite) or not (gradient_is_finite or overflow)
        if not trainer.strategy.reduce_boolean_decision(wrong, all=False):
            self._in_a_row = 0
            self._made += 1
            if self.action == "skip":
                pl_module.log("train/skipped_steps", float(self.skipped))
            return
        of_loss = [ids for ids, finite in zip(samples, losses_are_finite, strict=False) if not finite]
        gradient = next((n for n, p in pl_module.named_parameters() if not _is_finite(gradients.get(id(p)))), None)
        text = _describe(trainer.global_step + 1, gather((of_loss, samples, gradient)))
        if self.action == "stop":
            raise FloatingPointError(
                f"{text}. Check these samples, the learning rate and trainer.precision; model.on_nonfinite: skip "
                "leaves such steps out."
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row == _MOST_IN_A_ROW:
            raise FloatingPointError(f"{text}. {_MOST_IN_A_ROW} steps in a row were skipped; training stops.")
        rank_zero_warn(f"{text}. The step is skipped, as model.on_nonfinite says.")
        pl_module.log("train/skipped_steps", float(self.skipped))
        optimizer.zero_grad(set_to_none=True)  # optimizers leave parameters without a gradient alone

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report how many steps were skipped.

        Raises:
            FloatingPointError: No step was made, so that there is nothing to write.
        """
        if not self.skipped:
            return
        if not self._made and self._in_a_row:
            raise FloatingPointError(f"nothing was trained: all of the {self._in_a_row} optimizer steps were skipped.")
        rank_zero_warn(
            f"{self.skipped} of {trainer.global_step} optimizer steps were skipped, since their loss or gradient was "
            "not finite (model.on_nonfinite: skip)."
        )

    def _forget_batches(self) -> None:
        self._samples, self._finite_losses = [], []


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(own_shard(gradient).isfinite().all())


def _describe(step: int, ranks: Sequence[tuple[list[list[str]], list[list[str]], str | None]]) -> str:
    """Describe a step from what each rank saw: samples with a wrong loss, all samples, the first wrong gradient."""
    of_loss = list(chain.from_iterable(chain.from_iterable(rank[0] for rank in ranks)))
    if of_loss:
        return f"the loss is not finite at optimizer step {step}; samples: {listed_ids(of_loss, _MOST_NAMES)}"
    gradient = next((rank[2] for rank in ranks if rank[2] is not None), "a parameter")
    every = chain.from_iterable(chain.from_iterable(rank[1] for rank in ranks))
    return (
        f"the gradient of {gradient} is not finite at optimizer step {step}; samples: {listed_ids(every, _MOST_NAMES)}"
    )
