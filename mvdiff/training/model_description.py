"""DescribedModule: a multi-view module that stores a description of its model in checkpoints and model folders."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.bases.base import Base
from mvdiff.models.trained_lora import TrainedLora, add_lora, lora_weights
from mvdiff.pipelines.base_reference import reference_to
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY, part_of
from mvdiff.pipelines.extras import require
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import ModelInfo, write_model_folder
from mvdiff.settings import LoraSettings, plain
from mvdiff.tasks.task import Task
from mvdiff.training.record import training_record
from mvdiff.training.sample_writing import SampleWritingModule
from mvdiff.training.sharded_weights import whole_weights


class DescribedModule(SampleWritingModule):
    """Module whose checkpoints can be exported to model folders, and load only for the same task and base."""

    trained_part = "adapter"
    task: Task
    base: str
    revision: str | None
    vae: str | None
    text_dtype: str | None
    prompt_prefix: str
    backbone: Base | None
    lora_config: Mapping[str, Any] | None = None
    """Config of the LoRA of the base that is trained; None: there is none."""

    @property
    @abstractmethod
    def adapter(self) -> MultiViewAdapter:
        """Adapter that is trained."""

    def keep_settings(self, arguments: Mapping[str, Any], ignore: Sequence[str]) -> None:
        """Save the arguments of `__init__` as plain hyperparameters, for loggers and checkpoints.

        Args:
            arguments: `locals()` of `__init__`.
            ignore: Names of arguments without a plain value.
        """
        names = [name for name in arguments if name not in (*ignore, "self", "__class__")]
        self.save_hyperparameters({name: _plain_setting(arguments[name]) for name in names})

    def add_lora(self, lora: LoraSettings, seed: int) -> None:
        """Add a fresh LoRA to the base's UNet if its rank is above 0; the base's hash stays that without it.

        Raises:
            ValueError: peft is not installed, or a layer does not exist.
        """
        if lora.rank:
            require("peft", "model.lora")
            self.backbone.weights_hash()
            self.lora_config = add_lora(self.backbone.unet, lora.rank, lora.alpha, lora.target_modules, seed)

    def trained(self) -> nn.ModuleDict:
        """Return the adapter and, if there is one, the LoRA."""
        parts = super().trained()
        if self.lora_config is not None:
            parts["lora"] = lora_weights(self.backbone.unet)
        return parts

    def model_info(self) -> ModelInfo:
        """Return the description of the model: task, views of the data module, prompt prefix and base.

        Raises:
            ValueError: The data module lacks an attribute of `Task.view_fields`.
        """
        data, fields = self.trainer.datamodule, self.task.view_fields
        missing = [name for name in fields if not hasattr(data, name)]
        if missing:
            raise ValueError(
                f"data must be a LightningDataModule with {' and '.join(f'`{name}`' for name in fields)}; got "
                f"{type(data).__name__} without {', '.join(missing)}. See mvdiff.data.keyed_datamodule."
            )
        base = reference_to(self.backbone, self.base, self.revision, self.vae, self.text_dtype)
        return ModelInfo(self.task, {name: getattr(data, name) for name in fields}, self.prompt_prefix, base)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the model, in plain values, for `mvdiff export`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = {
            "info": replace(self.model_info(), training=training_record(self)).to_dict(),
            "adapter": _plain_config(self.adapter.config),
            "lora": self.lora_config,
            "scheduler": [type(self.backbone.scheduler).__name__, _plain_config(self.backbone.scheduler.config)],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the weights were trained for another task or on another base."""
        super().on_load_checkpoint(checkpoint)
        described = checkpoint.get(CHECKPOINT_KEY)
        if described is None:
            raise ValueError(f"the checkpoint must be from a {type(self).__name__}; got a checkpoint of another model.")
        task = described["info"]["task"]
        if task != self.task.spec():
            raise ValueError(
                f"the checkpoint must be for the task {self.task.spec()}; got a checkpoint of another task, {task}."
            )
        base, weights_hash = described["info"]["base"], self.backbone.weights_hash()
        if base["weights_hash"] != weights_hash:
            raise ValueError(
                f"model.base must be the base of the checkpoint, {base['id']} (weights {base['weights_hash']}); got "
                f"{self.base} (weights {weights_hash}), with model.vae {self.vae}."
            )
        trained_with = described["scheduler"][1].get("rescale_betas_zero_snr", False)
        if trained_with != (now := self.backbone.scheduler.config.get("rescale_betas_zero_snr", False)):
            raise ValueError(
                f"the noise schedule must be that of the checkpoint, with zero terminal SNR {trained_with}; got {now}. "
                "Set model.loss.zero_terminal_snr as in its training."
            )
        if (before := described.get("lora")) != self.lora_config:
            raise ValueError(f"model.lora must be that of the checkpoint, {before}; got {self.lora_config}.")

    def save_model_folder(
        self,
        folder: str | Path,
        state_dict: dict[str, Tensor] | None = None,
        record: TrainingRecord | None = None,
    ) -> None:
        """Write a model folder on the first rank; all ranks must call this.

        Args:
            folder: Output folder, see `write_model_folder`.
            state_dict: Weights with the keys of a checkpoint; default: the module's current weights.
            record: Record of the training; default: the current one.
        """
        weights = whole_weights(self.state_dict()) if state_dict is None else state_dict
        if not self.trainer.is_global_zero:
            return
        adapter = MultiViewAdapter.from_config(self.adapter.config)
        adapter.load_state_dict(part_of(weights, self.trained_part))
        lora = None if self.lora_config is None else TrainedLora(self.lora_config, part_of(weights, "lora"))
        info = replace(self.model_info(), training=training_record(self) if record is None else record)
        write_model_folder(folder, adapter, self.backbone.scheduler, info, lora)


def _plain_setting(value: Any) -> Any:
    if isinstance(value, Task):
        return value.spec()
    return plain(value) if is_dataclass(value) else value


def _plain_config(config: Any) -> dict[str, Any]:
    """Convert a diffusers config to plain values, which a weights-only load accepts."""
    return json.loads(json.dumps({name: value for name, value in config.items() if not name.startswith("_")}))
