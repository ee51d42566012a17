"""Export training checkpoints to model folders.

A Lightning checkpoint of `MultiViewModule` has the adapter's weights in `state_dict` (with EMA, their average; the
current weights are in `current_model_state`) and, under `CHECKPOINT_KEY`, a description of the model in plain values.
Exporting therefore needs neither the base nor the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mvdiff.eval.results_file import flat_numbers
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.files.text import read_json_object
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.loading import check_archive, opening
from mvdiff.models.schedulers import build_scheduler, scheduler_class
from mvdiff.models.trained_lora import TrainedLora
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import ModelInfo, check_new_model_folder, write_model_folder

CHECKPOINT_KEY = "mvdiff"


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    use_ema: bool = True,
    results: str | Path | None = None,
    overwrite: bool = False,
) -> ModelInfo:
    """Write a checkpoint's weights as a model folder.

    Args:
        checkpoint: Lightning checkpoint of multi-view training; no code in it is run.
        out: Model folder to write, see `write_model_folder`.
        use_ema: Export the averaged weights if the checkpoint has them; otherwise the current weights.
        results: `results.json` of `mvdiff test` or `mvdiff evaluate`, whose scores go into the model card.
        overwrite: Replace a model folder at `out`.

    Returns:
        Description of the exported model.

    Raises:
        FileExistsError: `out` is a model folder and `overwrite` is False, or it has other files.
        FileNotFoundError: The checkpoint or the results file does not exist.
        ValueError: The checkpoint cannot be read, or belongs to another model.
        OSError: The folder cannot be written.
    """
    check_new_model_folder(out, overwrite)
    values = read_checkpoint(checkpoint)
    described = values.get(CHECKPOINT_KEY)
    if not isinstance(described, Mapping) or not {"info", "adapter", "scheduler"} <= set(described):
        keys = ", ".join(sorted({str(key).split(".")[0] for key in values.get("state_dict", values)})[:8]) or "nothing"
        raise ValueError(
            f"checkpoint must be from mvdiff's multi-view training; got a checkpoint of another model, with {keys}, "
            f"in {checkpoint}. For a checkpoint of the 2023 release, run `mvdiff convert upstream`."
        )
    info = ModelInfo.from_dict(described["info"], where=str(checkpoint))
    state = values["state_dict"] if use_ema else values.get("current_model_state", values["state_dict"])
    with opening("checkpoint", MultiViewAdapter.__name__, Path(checkpoint)):
        adapter = MultiViewAdapter.from_config(dict(described["adapter"]))
        name, config = described["scheduler"]
        config = dict(config)
    scheduler = build_scheduler(scheduler_class(name), config, Path(checkpoint))
    lora = described.get("lora") and TrainedLora(described["lora"], part_of(state, "lora"))
    try:
        adapter.load_state_dict(part_of(state, "adapter"))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"weights of the checkpoint must match the adapter that it describes; got a checkpoint of another model: "
            f"{error}, in {checkpoint}."
        ) from error
    if results is not None:
        record = info.training or TrainingRecord(data="not recorded")
        info = replace(info, training=replace(record, scores=read_scores(results), measured=f"in {Path(results).name}"))
    write_model_folder(out, adapter, scheduler, info, lora)
    return info


def part_of(state: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the weights of one part of a checkpoint ("adapter", "lora"), without the part's name."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def read_scores(path: str | Path) -> dict[str, float]:
    """Read the scores of a `results.json`, by name.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file was not written by mvdiff.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"results must be an existing file; got {path}. Pass the results.json of `mvdiff test`."
        )
    try:
        return flat_numbers(read_json_object(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"results must be a results.json with metrics; got another file ({error!r}), in {path}."
        ) from error


def read_checkpoint(path: str | Path, lazy: bool = False) -> dict[str, Any]:
    """Read a Lightning checkpoint onto the CPU; only tensors and plain values are unpickled.

    Args:
        path: Checkpoint file.
        lazy: Memory-map the tensors, to inspect a file without reading all of it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file cannot be read, or has no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint must be an existing file; got {path}. Pass a .ckpt file that `mvdiff fit` wrote."
        )
    if not lazy:
        check_archive(path)
    try:
        with plain_refusals("checkpoint", path):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except UnsafeFile:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = plain_text(error).strip().split("\n")[0][:300] or type(error).__name__
        raise ValueError(
            f"checkpoint must be a readable file of tensors and plain values; got {reason}, in {path}."
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("state_dict"), dict):
        raise ValueError(
            f"checkpoint must be a Lightning checkpoint with a state_dict; got {type(values).__name__}, in {path}."
        )
    return values
