"""Throughput of a training: samples per second, the share of time that it waits for data, peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import distributed as dist

from mvdiff.training.cost import peak_memory
from mvdiff.training.step_log import over_ranks

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Name that Lightning's training loop gives to fetching a batch."""


@dataclass(frozen=True)
class Reading:
    """Counts since the training began, on this device.

    Attributes:
        samples: Samples that were trained on; None if batches do not say how many they hold.
        busy: Seconds within batches: not those of validation, of saving, and of fetching the next batch.
        waited: Seconds in which the training loop waited for a batch.
    """

    samples: int | None
    busy: float
    waited: float


@dataclass(frozen=True)
class Rates:
    """Throughput between two readings.

    Attributes:
        samples_per_second: Over all devices; None if unknown.
        data_wait: Share of the time spent waiting for data, in [0, 1], of the device that waits longest.
        peak_memory: Bytes, of the device that took most since the training began; see `peak_memory`.
    """

    samples_per_second: float | None
    data_wait: float
    peak_memory: int


class Meter:
    """Clock of batches and of the waiting for them. `install` it, and tell it when batches begin and end."""

    def __init__(self) -> None:
        self._samples: int | None = 0
        self._busy, self._since = 0.0, None
        self._fetching = _FetchTimer(PassThroughProfiler())

    def install(self, trainer: Trainer) -> None:
        """Time the training loader, in place of the Trainer's profiler, which goes on behind."""
        self._fetching = _FetchTimer(trainer.profiler)
        trainer.profiler = self._fetching

    def remove(self, trainer: Trainer) -> None:
        """Give the Trainer its profiler back."""
        if trainer.profiler is self._fetching:
            trainer.profiler = self._fetching.inner

    def begin(self, batch: Any, trainer: Trainer) -> None:
        """Begin a batch."""
        size = getattr(batch, "batch_size", None)
        size = size if isinstance(size, int) else getattr(trainer.datamodule, "batch_size", None)
        self._samples = None if size is None or self._samples is None else self._samples + size
        self._since = perf_counter()

    def end(self) -> None:
        """End a batch."""
        self._busy, self._since = self.read().busy, None

    def read(self) -> Reading:
        """Return the counts up to now."""
        running = 0.0 if self._since is None else perf_counter() - self._since
        return Reading(self._samples, self._busy + running, self._fetching.seconds)

    def rates(self, since: Reading, trainer: Trainer, module: LightningModule) -> Rates:
        """Return the throughput since an earlier reading; all ranks must call this."""
        now = self.read()
        seconds, waited = now.busy - since.busy, now.waited - since.waited
        total = max(seconds + waited, 1e-9)
        own = torch.tensor([waited / total, peak_memory(module.device)], dtype=torch.float32, device=module.device)
        data_wait, memory = over_ranks(own, dist.ReduceOp.MAX).tolist()
        samples = None if now.samples is None else (now.samples - since.samples) * trainer.world_size / total
        return Rates(samples, data_wait, round(memory))


class _FetchTimer(Profiler):
    """Profiler that adds up the time of fetching training batches, and passes everything on to another one."""

    def __init__(self, inner: Profiler) -> None:
        super().__init__()
        self.inner, self.seconds, self._since = inner, 0.0, 0.0

    def start(self, action_name: str) -> None:
        if action_name == _FETCH:
            self._since = perf_counter()
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        self.inner.stop(action_name)
        if action_name == _FETCH:
            self.seconds += perf_counter() - self._since

    def summary(self) -> str:
        return self.inner.summary()

    def describe(self) -> None:
        self.inner.describe()
