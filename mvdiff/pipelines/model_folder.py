"""Model folders: the output of training that a pipeline loads, without the base's weights.

    <folder>/model_index.json        diffusers' index: the pipeline's class, adapter and scheduler
             adapter/                config.json and safetensors of the MultiViewAdapter
             scheduler/              scheduler_config.json
             lora/                   LoRA of the base's UNet in the format of diffusers, if one was trained
             README.md               the model card, generated from mvdiff.json
             mvdiff.json             schema, task, views, prompt prefix, the base (id, revision, weights hash), the
                                     adapter's hash and, if known, the record of the training

A local base is recorded relative to the folder, or as `~/...` in the home folder, so that the folder can be shared.

The views of a panorama or outpainting model are a rig; a depth model takes any frames and records its training size.

A folder is written to a hidden place, and moved when it is complete, `mvdiff.json` last. In an earlier model folder,
only the model's own files are replaced: `.git`, a licence and a README that was edited stay.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError

from mvdiff.class_paths import packages_of
from mvdiff.eval.weights import tensors_hash
from mvdiff.files.paths import expanded, visible
from mvdiff.files.text import read_text
from mvdiff.files.writing import check_plain, check_plain_folder, whole_folder, write_whole
from mvdiff.geometry.cameras import MAX_SIDE, Rig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.finite import check_finite
from mvdiff.models.loading import PACKAGED, forget_source, is_hub_id, packaged_folder, read_object, resolve_folder
from mvdiff.models.schedulers import build_scheduler, scheduler_class
from mvdiff.models.trained_lora import TrainedLora
from mvdiff.pipelines.base_reference import BaseReference
from mvdiff.pipelines.model_card import TrainingRecord, model_card
from mvdiff.samples import write_json
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task

SCHEMA = 1
INFO_NAME = "mvdiff.json"
CARD_NAME = "README.md"
ADAPTER_HASH = "adapter_weights_hash"
LORA_HASH = "lora_weights_hash"
CARD_HASH = "card_hash"
_PATTERNS = [INFO_NAME, CARD_NAME, "model_index.json", "*/*.json", "*/*.safetensors"]

_OF_A_REPOSITORY = (CARD_NAME, "LICENSE", "LICENSE.md", "LICENSE.txt")
"""Files of a new repository, beside hidden ones, to which a model may be added; they are not replaced."""

_PARTS = ("adapter", "scheduler", "lora")
_PART_SUFFIXES = (".json", ".safetensors", ".bin")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """Content of `mvdiff.json`: the description of a model without its weights.

    Args:
        task: Task of the model.
        views: Views that the model was trained on, with the keys `Task.view_fields`: `rig`, or `height` and `width` in
            pixels.
        prompt_prefix: Text put before every prompt.
        base: Base that the adapter needs.
        training: Record of the training, for the model card; None: unknown.

    Raises:
        ValueError: The keys of `views` are not those of the task.
    """

    task: Task
    views: Mapping[str, Any]
    prompt_prefix: str
    base: BaseReference
    training: TrainingRecord | None = None

    def __post_init__(self) -> None:
        missing = [name for name in self.task.view_fields if self.views.get(name) is None]
        unknown = sorted(set(self.views) - set(self.task.view_fields))
        if missing or unknown:
            raise ValueError(
                f"views of a model for the task {self.task.name} must be {', '.join(self.task.view_fields)}; got "
                f"{', '.join(self.views) or 'none'}."
            )
        for side in {"height", "width"} & set(self.views):
            pixels = self.views[side]
            if isinstance(pixels, bool) or not isinstance(pixels, int) or not 1 <= pixels <= MAX_SIDE:
                raise ValueError(f"{side} must be a whole number of pixels, from 1 to {MAX_SIDE}; got {pixels!r}.")
        if not isinstance(self.prompt_prefix, str):
            raise ValueError(f"prompt_prefix must be a text; got {self.prompt_prefix!r}.")

    @property
    def shown(self) -> str:
        """Description of the views, such as "8 views"."""
        rig = self.views.get("rig")
        if rig is not None:
            return f"{rig.num_views} views"
        if {"height", "width"} <= set(self.views):
            return f"frames of {self.views['width']} x {self.views['height']} pixels"
        return "views"

    @property
    def title(self) -> str:
        """Description of the model in one phrase.

        Example:
            >>> from mvdiff.tasks.opening import task_from
            >>> ModelInfo(task_from("depth"), {"height": 192, "width": 256}, "", BaseReference("owner/base")).title
            'a depth model of frames of 256 x 192 pixels on the base owner/base'
        """
        return f"{model_of(self.task.name)} of {self.shown} on the base {self.base.id}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as in `mvdiff.json`."""
        return {
            "schema": SCHEMA,
            "task": self.task.spec(),
            **{name: value.to_dict() if isinstance(value, Rig) else value for name, value in self.views.items()},
            "prompt_prefix": self.prompt_prefix,
            "base": self.base.to_dict(),
            **({} if self.training is None else {"training": self.training.to_dict()}),
        }

    @classmethod
    def from_dict(cls, values: Any, where: str = INFO_NAME) -> ModelInfo:
        """Build a ModelInfo from the output of `to_dict`.

        Args:
            values: Content of an `mvdiff.json`.
            where: File that the values come from, for error messages.

        Raises:
            ValueError: The schema or the task is unknown, or a key is missing or unknown.
        """
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            schema = values.get("schema") if isinstance(values, dict) else type(values).__name__
            raise ValueError(
                f"schema must be {SCHEMA}; got {schema!r}, in {where}. Export the checkpoint again with this mvdiff."
            )
        task = task_from(values.get("task"), where)
        try:
            views = {name: values[name] for name in task.view_fields}
            if "rig" in views:
                views["rig"] = Rig.from_dict(views["rig"])
            training = TrainingRecord(**values["training"]) if values.get("training") else None
            return cls(task, views, values["prompt_prefix"], BaseReference(**values["base"]), training)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"model description must have {', '.join(task.view_fields)}, prompt_prefix and base; got {error}, in "
                f"{where}."
            ) from error


def model_of(task: str) -> str:
    """Return a phrase for a model of a task, with its article.

    Example:
        >>> model_of("outpaint"), model_of("depth")
        ('an outpaint model', 'a depth model')
    """
    return f"{'an' if task[0] in 'aeiou' else 'a'} {task} model"


def check_new_model_folder(folder: str | Path, overwrite: bool) -> None:
    """Check that a model folder may be written; make nothing.

    Raises:
        FileExistsError: The folder has a model and `overwrite` is False, or other files and no model.
        OSError: It is a file, a link or a device, or a file of the model in it is a link, a folder or a device.
    """
    folder = Path(folder)
    check_plain_folder(folder)
    for path in (folder / INFO_NAME, folder / "model_index.json", folder / CARD_NAME, *_own_files(folder)):
        check_plain(path)
    if (folder / INFO_NAME).is_file():
        if not overwrite:
            raise FileExistsError(
                f"out must be a new or empty folder; got {folder}, which has a model. Pass --overwrite to replace it."
            )
    elif folder.is_dir() and (others := [path.name for path in visible(folder) if path.name not in _OF_A_REPOSITORY]):
        raise FileExistsError(
            f"model folder must be new, empty or an earlier model folder; got {folder}, which has {others[0]}."
        )


def write_model_folder(
    folder: str | Path, adapter: MultiViewAdapter, scheduler: Any, info: ModelInfo, lora: TrainedLora | None = None
) -> Path:
    """Write a model folder, replacing the files of an earlier model; log a warning that names what is kept.

    Args:
        folder: Output folder: new, empty or an earlier model folder.
        adapter: Trained adapter.
        scheduler: Any diffusers scheduler; its config is written.
        info: Description of the model.
        lora: LoRA that was trained beside the adapter.

    Returns:
        The folder.

    Raises:
        FloatingPointError: A weight is NaN or infinite; an earlier model folder is left unchanged.
        FileExistsError: The folder has files but is not a model folder.
        OSError: The disk is full or the folder cannot be written; an earlier model folder is left unchanged.
    """
    folder = Path(folder)
    for weights in (adapter.state_dict(), {} if lora is None else lora.weights):
        check_finite(weights, f"model folder {folder} is not written", "Take an earlier checkpoint.")
    check_new_model_folder(folder, overwrite=True)
    own, edited = _own_files(folder), _has_edited_card(folder)
    info = replace(info, base=info.base.for_folder(folder))
    try:
        with whole_folder(folder, replaced=lambda: own, last=INFO_NAME) as new:
            adapter.save_pretrained(str(new / "adapter"))
            forget_source(new / "adapter" / "config.json")
            scheduler.save_pretrained(str(new / "scheduler"))
            write_json(new / "model_index.json", _index(scheduler, info))
            card = _card(info, adapter.config.attention["class_path"])
            if not edited:
                write_whole(new / CARD_NAME, card)
            hashes = {ADAPTER_HASH: _adapter_hash(adapter), CARD_HASH: _card_hash(card)}
            if lora is not None:
                lora.save(new / "lora")
                hashes[LORA_HASH] = tensors_hash(lora.weights)
            write_json(new / INFO_NAME, info.to_dict() | hashes)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:  # of `check_plain`, not of the disk
            raise
        raise OSError(
            f"model folder {folder} must be writable; got {error}. Free up space, or choose another folder."
        ) from error
    if edited:
        logger.warning("%s: kept %s, which was edited; delete it to get the card of this model.", folder, CARD_NAME)
    return folder


def _own_files(folder: Path) -> list[Path]:
    """List the files of an earlier model that a new one may not have, such as weights in several files."""
    paths = [path for part in _PARTS if (folder / part).is_dir() for path in sorted((folder / part).iterdir())]
    return [path for path in paths if path.suffix in _PART_SUFFIXES and path.is_file()]


def _has_edited_card(folder: Path) -> bool:
    """Return True if a folder has a README that is not the card that was written with its model."""
    if not (folder / CARD_NAME).exists():
        return False
    try:
        text, written = read_text(folder / CARD_NAME), read_object(folder / INFO_NAME).get(CARD_HASH)
        if written is None:  # by an earlier version, which did not record it
            attention = read_object(folder / "adapter" / "config.json")["attention"]["class_path"]
            return text.strip() != _card(ModelInfo.from_dict(read_object(folder / INFO_NAME)), attention).strip()
        return _card_hash(text) != written
    except (OSError, ValueError, KeyError, TypeError):  # no model, or a damaged one
        return True


def _card(info: ModelInfo, attention: str) -> str:
    """Return the model card of a model whose attention has this class path."""
    return model_card(
        info.to_dict(), info.shown, info.task, sorted(packages_of(info.task.spec(), attention, info.base.family or ""))
    )


def _card_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_model_info(folder: str | Path) -> ModelInfo:
    """Read a model folder's `mvdiff.json`; paths of local bases are those that lead there from the current folder.

    Raises:
        FileNotFoundError: The folder does not exist or is not a model folder.
        ValueError: The file is not JSON, or not a model description.
    """
    path = Path(folder) / INFO_NAME
    if not path.is_file():
        raise FileNotFoundError(f"model must be a model folder with {INFO_NAME}; got {folder}{_instead(path.parent)}")
    info = ModelInfo.from_dict(read_object(path), where=str(path))
    return replace(info, base=info.base.found_from(path.parent))


def _instead(place: Path) -> str:
    """Explain why a path is not a model folder."""
    if place.is_file():
        return (
            f", which is a file. Convert it to a model folder: run `mvdiff export {place} --out DIR` for a checkpoint "
            f"of `mvdiff fit`, or `mvdiff convert upstream {place} --task TASK --out DIR` for one of the 2023 release."
        )
    if (place / "unet").is_dir():
        return (
            ", which is a base without an adapter. Choose a model folder, and pass this base as --base if it is to "
            "replace the recorded one."
        )
    return ". Make one with `mvdiff export CKPT --out DIR`, or use the folder that `mvdiff fit` wrote."


def load_scheduler(folder: str | Path) -> Any:
    """Load the scheduler of a model folder; `model_index.json` names its class.

    Raises:
        ValueError: `model_index.json` cannot be read, or does not name a diffusers scheduler.
    """
    path = Path(folder) / "model_index.json"
    try:
        scheduler = scheduler_class(str(read_object(path)["scheduler"][1]))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"model_index.json must name the scheduler's class; got {error!r}, in {path}. Export the checkpoint again."
        ) from error
    path = Path(folder) / "scheduler" / "scheduler_config.json"
    return build_scheduler(scheduler, read_object(path), path)


def load_adapter(folder: str | Path) -> MultiViewAdapter:
    """Load the adapter of a model folder and check its hash, if `mvdiff.json` has one (earlier versions wrote none).

    Raises:
        FileNotFoundError: The folder has no adapter.
        ValueError: The weights cannot be read, or belong to another model.
    """
    folder = Path(folder).resolve()  # absolute: never taken for a hub id
    adapter = MultiViewAdapter.from_pretrained(folder / "adapter")
    expected = read_object(folder / INFO_NAME).get(ADAPTER_HASH)
    if expected is not None and (weights_hash := _adapter_hash(adapter)) != expected:
        raise ValueError(
            f"adapter must be the one that {INFO_NAME} describes, with weights {expected}; got weights {weights_hash}, "
            f"in {folder}. Copy the model folder as a whole."
        )
    return adapter


def load_lora(folder: str | Path) -> TrainedLora | None:
    """Load the LoRA of a model folder and check its hash; None: `mvdiff.json` names none.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The weights cannot be read, or belong to another model.
    """
    folder = Path(folder)
    expected = read_object(folder / INFO_NAME).get(LORA_HASH)
    if expected is None:
        return None
    lora = TrainedLora.read(folder / "lora")
    if (found := tensors_hash(lora.weights)) != expected:
        raise ValueError(
            f"LoRA must be the one that {INFO_NAME} describes, with weights {expected}; got weights {found}, in "
            f"{folder}. Copy the model folder as a whole."
        )
    return lora


def _adapter_hash(adapter: MultiViewAdapter) -> str:
    """Hash the weights as sample records do in a float32 run."""
    return tensors_hash({name: value.float() for name, value in adapter.state_dict().items()})


def model_location(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloading it from the hub if it is not cached.

    Args:
        name: Path, hub id "owner/name", or `mvdiff://NAME` of a packaged model.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: The package has no model of that name, or the hub's model cannot be downloaded.
    """
    if str(name).startswith(PACKAGED):
        return packaged_folder(str(name), "model", INFO_NAME)
    return resolve_folder(name, revision, "model", _PATTERNS) if is_hub_id(name) else expanded(name)


def _index(scheduler: Any, info: ModelInfo) -> dict[str, Any]:
    return {
        "_class_name": info.task.pipeline.rpartition(".")[2],
        "_diffusers_version": diffusers.__version__,
        "adapter": ["mvdiff.models.adapter", "MultiViewAdapter"],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
