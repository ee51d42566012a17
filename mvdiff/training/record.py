"""Describe a training run for model cards."""

from __future__ import annotations

import json
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging

from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.settings import LossSettings, plain
from mvdiff.training.nonfinite import NonFiniteGuard

_MODEL_SETTINGS = ("text_dropout", "snr_gamma", "seed", "prompt_prefix")
_DATA_SETTINGS = ("mode", "yaw", "height", "width")
_SHOWN = (str, int, float, bool, list, tuple)


def training_record(module: LightningModule) -> TrainingRecord:
    """Return the present state and settings of a module's training, without file paths."""
    trainer = module.trainer
    data, optimizers = trainer.datamodule, trainer.optimizers
    settings: dict[str, Any] = {"optimizer steps": trainer.global_step, "epochs begun": trainer.current_epoch + 1}
    batch = getattr(data, "batch_size", None)
    if isinstance(batch, int):
        settings["samples per step"] = batch * trainer.accumulate_grad_batches * trainer.world_size
    settings["precision"] = str(trainer.precision)
    if optimizers:
        defaults, group = optimizers[0].defaults, optimizers[0].param_groups[0]
        settings["optimizer"] = type(optimizers[0]).__name__
        settings["learning rate"] = group.get("max_lr", defaults["lr"])  # OneCycleLR goes by its own
        settings["weight decay"] = defaults.get("weight_decay")
    if trainer.lr_scheduler_configs:
        settings["schedule"] = type(trainer.lr_scheduler_configs[0].scheduler).__name__
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging):
            settings["decay of the average"] = getattr(callback, "decay", None)
        if isinstance(callback, NonFiniteGuard) and callback.skipped:
            settings["skipped steps"] = callback.skipped
    if module.changes:
        settings["changed on resume"] = list(module.changes)
    settings |= {name: getattr(module, name) for name in _MODEL_SETTINGS}
    settings |= {name: getattr(data, name) for name in _DATA_SETTINGS if isinstance(getattr(data, name, None), _SHOWN)}
    settings |= {name: value for name, value in plain(module.loss).items() if value != getattr(LossSettings, name)}
    if module.lora_config is not None:
        settings |= {f"LoRA {name}": value for name, value in module.lora_config.items()}
    settings["started from"] = "fresh weights" if module.init_adapter is None else "another adapter"
    config = module.adapter.config
    settings["attention"] = config.attention["class_path"].rpartition(".")[2]
    settings |= config.attention["init_args"]
    settings |= {"mid_place": config.mid_place, "residual": config.residual}
    recorded = json.loads(json.dumps({name: value for name, value in settings.items() if value is not None}))
    return TrainingRecord(type(data).__name__, recorded, versions=library_versions())
