"""One real optimizer step of a run on one device of this machine, and the memory that the run takes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from torch import Tensor

from mvdiff.cli.doctor.findings import Finding, size
from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.training.cost import peak_memory, reset_peak_memory
from mvdiff.training.strategies import spreads_weights

_LESS_MEMORY = (
    "Set model.memory.gradient_checkpointing, model.memory.views_per_chunk or trainer.precision bf16-mixed "
    "(docs/memory.md)."
)
_ALMOST_ALL = 0.95


class _StepDone(Exception):
    """The step is made; nothing else of the fit shall run, least of all what writes the trained model."""


@dataclass
class OneStep(Callback):
    """Time the first optimizer step, measure its memory, and stop the fit."""

    seconds: float = math.nan
    loss: float = math.nan
    peak: int = 0
    backward_peak: int = 0
    optimizer_bytes: int = 0
    on_gpu: bool = False
    _start: float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the first batch end in an optimizer step."""
        trainer.accumulate_grad_batches = 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to measure."""
        reset_peak_memory(pl_module.device)
        self._start = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note the peak of forward and backward pass: the optimizer has no state yet, which later steps have."""
        self.backward_peak = peak_memory(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what was measured; raise `_StepDone`."""
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else math.nan
        self.loss = float(loss)  # waits for the device
        self.seconds = time.perf_counter() - self._start
        self.peak = peak_memory(pl_module.device)
        self.on_gpu = pl_module.device.type == "cuda"  # afterwards the Trainer takes the model off it
        states = (state for optimizer in trainer.optimizers for state in optimizer.state.values())
        self.optimizer_bytes = _bytes(value for state in states for value in state.values())
        raise _StepDone


def check_step(run: RunToCheck) -> Iterator[Finding]:
    """Make one optimizer step of one batch as fit does, throw it away, and add up the run's memory."""
    step = None
    if run.settings.no_step:
        yield Finding("not checked", "the training step: --no_step")
    elif not run.devices.any_here:
        yield Finding(
            "not checked",
            f"the training step: it needs a {run.devices.kind}",
            "Run this command on a node with the GPUs of the run.",
        )
    elif missing := {"data", "model", "trainer"} - run.opened:
        yield Finding("not checked", f"the training step: it needs the {' and the '.join(sorted(missing))}")
    else:
        step = OneStep()
        finding = _try(run, step)
        yield finding
        if finding.status == "problem":
            return
    if "model" not in run.opened:
        yield Finding("not checked", "memory: it needs the model")
        return
    yield _memory(run, step)


def _try(run: RunToCheck, step: OneStep) -> Finding:
    try:
        _step_trainer(run, step).fit(run.model, datamodule=run.data)
    except _StepDone:
        pass
    except torch.OutOfMemoryError as error:
        return Finding.of_error(ValueError(error), "one training step", remedy=_LESS_MEMORY)
    except Exception as error:  # of a user's model or data, which may raise any
        return Finding.of_error(error, "one training step")
    if math.isnan(step.seconds):
        return Finding("problem", "one training step: the training loader gave no batch", "Check the data.")
    peak = "GPU memory" if step.on_gpu else "memory of the process"
    text = f"one training step in {step.seconds:.1f} s (the first, slower than others)"
    text += f", loss {step.loss:.3g}, peak {peak} {size(step.peak)}"
    if not math.isfinite(step.loss) and run.model.automatic_optimization:
        return Finding("problem", text, "A loss must be finite: check images, learning rate and precision.")
    return Finding("ok", text)


def _step_trainer(run: RunToCheck, step: OneStep) -> Trainer:
    """Return a Trainer as the run's that makes one step on one device, and writes to the scratch folder alone."""
    given, planned = run.trainer_settings, run.planned_trainer
    plugins = given.get("plugins") or []
    plugins = [one for one in plugins if not isinstance(one, ClusterEnvironment)] if isinstance(plugins, list) else []
    changes = {
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "plugins": [*plugins, LightningEnvironment()],
        "logger": True,
        "default_root_dir": str(run.scratch),
        "callbacks": [*_averages(run), step],
        "max_time": None,
        "accumulate_grad_batches": planned.accumulate_grad_batches * planned.world_size,  # the run's length stays
        "limit_val_batches": 0,
        "val_check_interval": None,
        "check_val_every_n_epoch": 1,
        "num_sanity_val_steps": 0,
        "overfit_batches": 0.0,
        "fast_dev_run": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "profiler": None,
        "log_every_n_steps": 1,
    }
    return Trainer(**given | changes)


def _averages(run: RunToCheck) -> list[Callback]:
    """Return the run's callbacks that hold a copy of the trained weights."""
    callbacks = run.trainer_settings.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]


def _memory(run: RunToCheck, step: OneStep | None) -> Finding:
    """Add up weights, gradients and optimizer state by parameters, and what a GPU measured beyond them.

    The step runs on one device with whole weights; of a sharded run, a device has its share of what is sharded.
    """
    model, devices = run.model, run.devices.asked * run.devices.num_nodes
    weights = _bytes((*model.parameters(), *model.buffers()))
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    averaged = trained * len(_averages(run)) if "trainer" in run.opened else 0
    parts = {"weights": weights, "average": averaged, "gradients": trained}
    measured = step is not None and step.on_gpu
    if measured:
        parts["activations (measured)"] = max(0, step.backward_peak - sum(parts.values()))
    parts["optimizer"] = 2 * trained if step is None else step.optimizer_bytes  # as of Adam, before it was seen
    text = "memory per device"
    if devices > 1 and spreads_weights(run.settings.trainer.strategy):
        text += f" (sharded over {devices}, the layer that runs is gathered beside this)"
        parts = _shares(model, parts, trained, devices)
    elif devices > 1:
        parts["buckets of DDP"] = trained
    total = sum(parts.values())
    text += f": {' + '.join(f'{size(value)} {name}' for name, value in parts.items() if value)} = {size(total)}"
    if not measured:
        text += ", and activations" + ("" if run.devices.kind == "cpu" else ", which a step on a GPU measures")
    if run.devices.kind != "gpu" or not torch.cuda.is_available():
        return Finding("ok", text)
    there = torch.cuda.get_device_properties(0).total_memory
    text += f", of {size(there)}"
    return Finding("ok", text) if total < _ALMOST_ALL * there else Finding("warning", text, _LESS_MEMORY)


def _shares(model: LightningModule, parts: dict[str, int], trained: int, devices: int) -> dict[str, int]:
    """Return the parts of one device of a sharded run; autoencoder and text encoder are whole while they encode."""
    of_trained = devices if model.memory.shard_adapter else 1
    shares = {name: parts[name] // of_trained for name in ("average", "gradients", "optimizer")}
    weights = (parts["weights"] - trained) // devices + trained // of_trained
    encoders = _bytes((*model.backbone.vae.parameters(), *model.backbone.text_encoder.parameters()))
    return parts | {"weights": weights} | shares | {"gathered encoders": encoders - encoders // devices}


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
