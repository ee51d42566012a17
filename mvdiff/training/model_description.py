"""DescribedModule: a multi-view module that describes its model in checkpoints and model folders."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import BaseReference, ModelInfo, write_model_folder
from mvdiff.settings import plain
from mvdiff.tasks.task import Task
from mvdiff.training.record import training_record
from mvdiff.training.sample_writing import SampleWritingModule


class DescribedModule(SampleWritingModule):
    """A module whose checkpoints export as model folders, and load into a module of the same task and base only."""

    trained_part = "adapter"
    task: Task
    base: str
    revision: str | None
    vae: str | None
    text_dtype: str | None
    prompt_prefix: str
    backbone: Backbone | None

    @property
    @abstractmethod
    def adapter(self) -> MultiViewAdapter:
        """The trained part."""

    def keep_settings(self, arguments: Mapping[str, Any], ignore: Sequence[str]) -> None:
        """Keep the arguments of `__init__` as plain values, for loggers and checkpoints.

        Args:
            arguments: All of `locals()`.
            ignore: Arguments that have no plain value.
        """
        names = [name for name in arguments if name not in (*ignore, "self", "__class__")]
        self.save_hyperparameters({name: _plain_setting(arguments[name]) for name in names})

    def model_info(self) -> ModelInfo:
        """Describe the model: task, the views that the data module cuts, prompt prefix, base.

        Raises:
            ValueError: The data module does not say which views it cuts.
        """
        data, wanted = self.trainer.datamodule, self.task.view_fields
        missing = [name for name in wanted if not hasattr(data, name)]
        if missing:
            raise ValueError(
                f"data must be a LightningDataModule with {' and '.join(f'`{name}`' for name in wanted)}; got "
                f"{type(data).__name__} without {', '.join(missing)}. See mvdiff.data.keyed_datamodule."
            )
        base = BaseReference(self.base, self.revision, self.backbone.weights_hash(), self.vae, self.text_dtype)
        return ModelInfo(self.task, {name: getattr(data, name) for name in wanted}, self.prompt_prefix, base)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain values that `mvdiff export` makes a model folder of."""
        checkpoint[CHECKPOINT_KEY] = {
            "info": replace(self.model_info(), training=training_record(self)).to_dict(),
            "adapter": _plain_config(self.adapter.config),
            "scheduler": [type(self.backbone.scheduler).__name__, _plain_config(self.backbone.scheduler.config)],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another task or on another base."""
        super().on_load_checkpoint(checkpoint)
        described = checkpoint.get(CHECKPOINT_KEY)
        if described is None:
            raise ValueError(
                f"the checkpoint must be one of a {type(self).__name__}; got a checkpoint of another model."
            )
        task = described["info"]["task"]
        if task != self.task.spec():
            raise ValueError(
                f"the checkpoint must be one of the task {self.task.spec()}; got a checkpoint of another task, {task}."
            )
        there, here = described["info"]["base"], self.backbone.weights_hash()
        if there["weights_hash"] != here:
            raise ValueError(
                f"model.base must be the base of the checkpoint, {there['id']} (weights {there['weights_hash']}); got "
                f"{self.base} (weights {here}), with model.vae {self.vae}."
            )

    def save_model_folder(
        self,
        folder: str | Path,
        state_dict: dict[str, Tensor] | None = None,
        record: TrainingRecord | None = None,
    ) -> None:
        """Write weights as in a checkpoint as a model folder, by default the module's present ones and their record."""
        adapter = MultiViewAdapter.from_config(self.adapter.config)
        prefix = f"{self.trained_part}."
        weights = self.state_dict() if state_dict is None else state_dict
        adapter.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
        info = replace(self.model_info(), training=training_record(self) if record is None else record)
        write_model_folder(folder, adapter, self.backbone.scheduler, info)


def _plain_setting(value: Any) -> Any:
    if isinstance(value, Task):
        return value.spec()
    return plain(value) if is_dataclass(value) else value


def _plain_config(config: Any) -> dict[str, Any]:
    """Turn a diffusers config into values that a weights-only load accepts."""
    return json.loads(json.dumps({name: value for name, value in config.items() if not name.startswith("_")}))
