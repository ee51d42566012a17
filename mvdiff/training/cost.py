"""Seconds per step and peak memory of a training."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mvdiff.samples import write_json
from mvdiff.training.run_folder import run_folder

FILE = "cost.json"


class TrainingCost(Callback):
    """Measure a training and write `cost.json` into the run's folder when it ends.

    The file holds `seconds_per_step` and `cpu_seconds_per_step`, medians over all optimizer steps from one's end to the
    next one's, so that reading data counts and pauses do not; `num_steps` of them; and `peak_memory_bytes`, the most
    memory that the process (on a GPU: torch) held since the training began. Steps and peak of earlier starts of a
    resumed run count, as far as its checkpoint goes.
    """

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []
        self.peak = 0
        self._step, self._now = 0, (0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the steps and the peak so far."""
        return {"seconds": [list(pair) for pair in self.seconds], "peak": self.peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the steps and the peak of the run so far."""
        self.seconds, self.peak = [tuple(pair) for pair in state_dict["seconds"]], state_dict["peak"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        reset_peak_memory(pl_module.device)
        self._step, self._now = trainer.global_step, _now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note an optimizer step, which may take several batches."""
        if trainer.global_step > self._step:
            now = _now()
            self.seconds.append((now[0] - self._now[0], now[1] - self._now[1]))
            self._step, self._now = trainer.global_step, now
            self.peak = max(self.peak, peak_memory(pl_module.device))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file on the first rank."""
        folder = Path(run_folder(trainer))
        if not self.seconds or not trainer.is_global_zero or trainer.fast_dev_run:
            return
        wall, cpu = (statistics.median(values) for values in zip(*self.seconds, strict=True))
        folder.mkdir(parents=True, exist_ok=True)
        cost = {"seconds_per_step": wall, "cpu_seconds_per_step": cpu, "num_steps": len(self.seconds)}
        write_json(folder / FILE, cost | {"peak_memory_bytes": self.peak})


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # outside of Linux
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of the resident size, see proc(5)


def peak_memory(device: torch.device) -> int:
    """Return the most memory since `reset_peak_memory`, in bytes: torch's on a GPU, else that of the process.

    Outside of Linux it is the most since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
