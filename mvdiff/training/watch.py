"""TrainingWatch: says what a training is about, logs its throughput, and prints lines where no bar can be shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn

from mvdiff.data.counts import check_counts
from mvdiff.files.sizes import duration_text, size_text, time_left_text
from mvdiff.training.cost import reset_peak_memory
from mvdiff.training.run_folder import run_folder
from mvdiff.training.start_report import num_steps, savers, start_report
from mvdiff.training.throughput import Meter, Rates

_TENTH = 10
"""Step of a start after which the time left is known well enough to be said."""


class TrainingWatch(Callback):
    """Report a training: before its first step, after ten steps, then every N steps.

    `mvdiff fit` adds this callback. It logs `train/samples_per_second`, `train/data_wait` (share of the time spent
    waiting for data, of the device that waits longest) and `train/peak_memory` (GB, of the device that takes most:
    torch's on a GPU, else the process's) every `trainer.log_every_n_steps`. The first rank prints.

    Args:
        every_n_steps: Optimizer steps between two lines; None: `trainer.log_every_n_steps`.
        lines: Print these lines, as where the output is no terminal; otherwise only what concerns the start.

    Raises:
        ValueError: `every_n_steps` is below 1.
    """

    logged_names = ("train/samples_per_second", "train/data_wait", "train/peak_memory")

    def __init__(self, every_n_steps: int | None = None, lines: bool = True) -> None:
        check_counts(every_n_steps=every_n_steps)
        self.every_n_steps, self.lines = every_n_steps, lines

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what is trained, how long and where; begin to measure."""
        folder = run_folder(trainer)  # a collective call of all ranks
        reset_peak_memory(pl_module.device)
        self._meter = Meter()
        self._meter.install(trainer)
        self._logged = self._printed = self._meter.read()
        self._first = self._step = trainer.global_step
        self._total = num_steps(trainer)
        self._saved = _steps_saved(trainer)
        self._started = self._begun = time.monotonic()  # `_begun`: after the first step, which is a slow one
        self._say(trainer, start_report(trainer, pl_module, folder))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say which checkpoints were written since the batch before; begin a batch."""
        self._say_saved(trainer)
        self._meter.begin(batch, trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a batch; after an optimizer step, log its throughput and print a line if they are due."""
        self._meter.end()
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        done = self._step - self._first
        if done == 1:
            self._begun = time.monotonic()
        if trainer._logger_connector.should_update_logs:
            rates = self._meter.rates(self._logged, trainer, pl_module)
            self._logged = self._meter.read()
            for name, value in _named(rates).items():
                pl_module.log(f"train/{name}", value)
        every = self.every_n_steps or trainer.log_every_n_steps or 1
        if done in (1, _TENTH) or self._step % every == 0 or self._step == self._total:  # the same on all ranks
            rates = self._meter.rates(self._printed, trainer, pl_module)
            self._printed = self._meter.read()
            if self.lines or done == _TENTH:
                self._say(trainer, "  ".join(self._parts(trainer, rates)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was validated."""
        if not self.lines or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if numbers:
            listed = "  ".join(f"{name} {value:.4g}{_unit(name)}" for name, value in numbers.items())
            self._say(trainer, f"step {trainer.global_step:,}: validation  {listed}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which checkpoints were written after the last batch."""
        self._say_saved(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop measuring."""
        if hasattr(self, "_meter"):
            self._meter.remove(trainer)

    def _parts(self, trainer: Trainer, rates: Rates) -> Iterator[str]:
        total = "" if self._total is None else f"/{self._total:,}"
        yield f"step {self._step:,}{total}"
        epochs = trainer.max_epochs
        yield f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs is not None and epochs > 0 else "")
        shown = {name: value for name, value in trainer.progress_bar_metrics.items() if name.startswith("train/")}
        if not shown and "train/loss" in trainer.callback_metrics:
            shown = {"train/loss": trainer.callback_metrics["train/loss"]}
        for name, value in shown.items():
            yield f"{name.removeprefix('train/')} {float(value):.4g}"
        if "train/lr" in trainer.callback_metrics:
            yield f"lr {float(trainer.callback_metrics['train/lr']):.3g}"
        if rates.samples_per_second is not None:
            yield f"{rates.samples_per_second:.3g} samples/s"
        yield f"{rates.data_wait:.0%} waiting for data"
        yield f"peak memory {size_text(rates.peak_memory)}" + (" a process" if trainer.world_size > 1 else "")
        left = self._seconds_left(trainer)
        if self._step == self._total:
            yield f"all steps made in {duration_text(time.monotonic() - self._started)}"
        elif left is not None:
            yield time_left_text(left)

    def _seconds_left(self, trainer: Trainer) -> float | None:
        """Return the time left at the pace since the first step, validations and checkpoints so far included."""
        done = self._step - self._first
        limits = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]
        if self._total is not None and done >= _TENTH:
            limits.append((time.monotonic() - self._begun) / (done - 1) * (self._total - self._step))
        return min((limit for limit in limits if limit is not None), default=None)

    def _say_saved(self, trainer: Trainer) -> None:
        """Print a line for each ModelCheckpoint that has written since the last call."""
        before, self._saved = self._saved, _steps_saved(trainer)
        for saver in savers(trainer) if self.lines else ():
            step = self._saved[id(saver)]
            if step != before.get(id(saver)):
                self._say(trainer, f"step {step:,}: checkpoint {saver._last_checkpoint_saved}")

    def _say(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            print(text, flush=True)


def _steps_saved(trainer: Trainer) -> dict[int, int]:
    """Return the step of each ModelCheckpoint's last checkpoint; Lightning has no public name for it."""
    return {id(saver): saver._last_global_step_saved for saver in savers(trainer)}


def _unit(name: str) -> str:
    return " dB" if "psnr" in name else ""


def _named(rates: Rates) -> dict[str, float]:
    named = {"data_wait": rates.data_wait, "peak_memory": rates.peak_memory / 1e9}
    samples = rates.samples_per_second
    return named if samples is None else named | {"samples_per_second": samples}
