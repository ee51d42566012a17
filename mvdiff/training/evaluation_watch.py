"""EvaluationWatch: prints lines about validate, test and predict where no bar can be shown."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from mvdiff.data.counts import check_counts
from mvdiff.files.sizes import duration_text, time_left_text


class EvaluationWatch(Callback):
    """Print a line after the first batch, every N batches and the last one: batches, samples per second, time left.

    `mvdiff validate`, `test` and `predict` add this callback where the output is no terminal. The first rank prints for
    all: batches are those of each device, samples those of all devices. Speed and time left are those of the batches
    since the line before, since `predict` skips samples that are complete, and `validate` generates only the first.
    While `test` scores, samples of the first rank are counted in the same way.

    Args:
        every_n_batches: Batches, or scored samples, between two lines.

    Raises:
        ValueError: `every_n_batches` is below 1.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        check_counts(every_n_batches=every_n_batches)
        self.every_n_batches = every_n_batches

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._since = time.monotonic()
        self._begin("")

    def _begin(self, scored: str) -> None:
        """Count from 0 since the last line; `scored` is the kind of samples in scoring, and empty before."""
        self._scored, self._started = scored, self._since
        self._done = self._samples = self._printed = 0

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch; print a line if it is due. Validations of a training have none."""
        if trainer.state.fn == TrainerFn.FITTING:
            return
        self._done += 1
        size = getattr(batch, "batch_size", None)
        self._samples += size * trainer.world_size if isinstance(size, int) else 0
        total = _num_batches(trainer)
        if self._done in (1, total) or self._done % self.every_n_batches == 0:
            self._print(trainer, total)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_sample_scored(self, trainer: Trainer, which: str, total: int) -> None:
        """Count a sample that `test` has read to score it; print a line if it is due.

        Args:
            trainer: Trainer of the test.
            which: "generated" or "reference".
            total: Samples of this kind on this device.
        """
        if which != self._scored:
            self._begin(which)
        self._done += 1
        self._samples += trainer.world_size
        if self._done in (1, total) or self._done % self.every_n_batches == 0:
            self._print(trainer, total)

    def _print(self, trainer: Trainer, total: float) -> None:
        now = time.monotonic()
        seconds, batches = max(now - self._since, 1e-9), self._done - self._printed
        of_all = f"/{total:,}" if math.isfinite(total) else ""
        counted = f"scoring, {self._scored} sample" if self._scored else "batch"
        parts = [f"{trainer.state.fn.value}: {counted} {self._done:,}{of_all}"]
        if self._samples:
            parts.append(f"{self._samples / seconds:.3g} samples/s")
        if self._done == total:
            what = "samples scored" if self._scored else "batches done"
            parts.append(f"all {what} in {duration_text(now - self._started)}")
        elif math.isfinite(total):
            parts.append(time_left_text(seconds / batches * (total - self._done)))
        self._since, self._printed, self._samples = now, self._done, 0
        if trainer.is_global_zero:
            print("  ".join(parts), flush=True)


def _num_batches(trainer: Trainer) -> float:
    """Return the batches of all loaders on this device; infinite if one of them has no length."""
    counts = {
        TrainerFn.VALIDATING: trainer.num_val_batches,
        TrainerFn.TESTING: trainer.num_test_batches,
        TrainerFn.PREDICTING: trainer.num_predict_batches,
    }
    return sum(counts[trainer.state.fn])
