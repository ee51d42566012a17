"""Report of a training before its first step: what is trained, how long, and where everything will be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.files.sizes import duration_text
from mvdiff.training.callbacks import SaveModelFolder
from mvdiff.training.plan import Steps, effective_batch, parameter_counts

_WIDTH = 14


def start_report(trainer: Trainer, module: LightningModule, folder: str) -> str:
    """Describe a training that is about to begin, one fact a line.

    Args:
        trainer: Trainer in `on_train_start`.
        module: Module that is trained.
        folder: Folder of the run.
    """
    task = getattr(getattr(module, "task", None), "name", None)
    title = f"Training: {type(module).__name__}" + (f", task {task}" if task else "")
    facts = (
        *_model(module),
        *_optimizer(trainer),
        *_data(trainer),
        *_length(trainer),
        *_places(trainer, module, folder),
    )
    return "\n".join([title, *(f"  {name:<{_WIDTH}}{text}" for name, text in facts)])


def num_steps(trainer: Trainer) -> int | None:
    """Return the optimizer step that ends a training, or None if it has no such end or the data no length."""
    steps = _steps(trainer)
    return None if steps is None else steps.total


def savers(trainer: Trainer) -> list[ModelCheckpoint]:
    """Return the callbacks of a training that write checkpoints."""
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _steps(trainer: Trainer) -> Steps | None:
    try:
        return Steps.of(trainer, len(trainer.train_dataloader))
    except TypeError:  # a loader without a length
        return None


def _model(module: LightningModule) -> Iterator[tuple[str, str]]:
    trained, frozen = parameter_counts(module)
    part = getattr(module, "trained_part", None)
    if part is not None and isinstance(modules := module.trained(), nn.ModuleDict):
        part = " and ".join(modules)
    yield "trained", f"{trained:,} parameters" + (f" ({part})" if part else "")
    base = getattr(module, "base", None)
    if frozen:
        yield "frozen", f"{frozen:,} parameters" + (f" (of the base {base})" if base else "")


def _optimizer(trainer: Trainer) -> Iterator[tuple[str, str]]:
    for optimizer in trainer.optimizers:
        text = f"{type(optimizer).__name__}, learning rate {optimizer.param_groups[0]['lr']:.3g}"
        for config in trainer.lr_scheduler_configs:
            text += f" now, {type(config.scheduler).__name__} per {config.interval}"
        yield "optimizer", text


def _data(trainer: Trainer) -> Iterator[tuple[str, str]]:
    counts = [f"{count:,} for {use}" for use, count in _samples(trainer) if count is not None]
    if counts:
        yield "samples", ", ".join(counts)
    size = getattr(trainer.datamodule, "batch_size", None)
    if size is not None:
        yield "batch", f"{effective_batch(trainer, size)}, the samples of an optimizer step"


def _samples(trainer: Trainer) -> Iterator[tuple[str, int | None]]:
    data, loader = trainer.datamodule, trainer.train_dataloader
    try:
        yield "training", len(loader.dataset)
    except (AttributeError, TypeError):  # several loaders, or a stream
        yield "training", None
    if isinstance(data, MultiViewDataModule) and data.num_val:
        yield "validation", len(data.val_dataset())


def _length(trainer: Trainer) -> Iterator[tuple[str, str]]:
    steps = _steps(trainer)
    if steps is None or steps.total is None:
        yield "steps", "no end is set"
    else:
        epochs = steps.total / steps.per_epoch
        total = f"{steps.total:,} optimizer step{'s' * (steps.total != 1)}"
        each = f"{steps.per_epoch:,} step{'s' * (steps.per_epoch != 1)}"
        yield "steps", f"{total}; {epochs:.3g} epoch{'s' * (epochs != 1)} of {each}"
    if trainer.ckpt_path is not None:
        yield "resumes", f"after step {trainer.global_step:,}, from {trainer.ckpt_path}"
    yield "precision", str(trainer.precision)
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    yield "devices", f"{trainer.world_size} x {name}, {type(trainer.strategy).__name__}"


def _places(trainer: Trainer, module: LightningModule, folder: str) -> Iterator[tuple[str, str]]:
    if trainer.fast_dev_run:
        yield "run folder", "none: trainer.fast_dev_run writes nothing"
        return
    yield "run folder", folder
    if trainer.loggers:
        yield "logs", ", ".join(type(logger).__name__ for logger in trainer.loggers)
    for saver in savers(trainer):
        yield "checkpoints", f"{saver.dirpath}/{saver.filename or '{epoch}-{step}'}.ckpt: {_when(saver)}"
    for callback in trainer.callbacks:
        if isinstance(callback, SaveModelFolder):
            weights = "the best checkpoint" if any(saver.monitor for saver in savers(trainer)) else "the last weights"
            yield "model folder", f"{callback.dirpath or Path(folder) / 'model'}, when training ends: {weights}"
    if isinstance(out := getattr(module, "out", None), str):
        yield "weights", f"{out}, when training ends"


def _when(saver: Any) -> str:
    """Say which checkpoints are kept, and how often they are written."""
    kept = {-1: "all", 0: "last.ckpt alone" if saver.save_last else "none"}.get(saver.save_top_k)
    if saver.monitor is not None and kept is None:
        count = "the" if saver.save_top_k == 1 else f"the {saver.save_top_k}"
        return f"{count} {'highest' if saver.mode == 'max' else 'lowest'} {saver.monitor}"
    if saver._train_time_interval is not None:
        often = f"every {duration_text(saver._train_time_interval.total_seconds())}"
    else:
        steps = saver._every_n_train_steps
        count, unit = (steps, "step") if steps else (saver._every_n_epochs, "epoch")
        often = f"every {unit}" if count == 1 else f"every {count:,} {unit}s"
    return f"{often}, {kept or 'the last'}"
