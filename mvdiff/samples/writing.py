"""Write sample folders so that a killed run leaves none that looks complete."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mvdiff.samples.folders import PANORAMA_NAME, is_complete, numbered
from mvdiff.samples.pixels import png_bytes
from mvdiff.samples.record import RECORD_NAME, SampleRecord


def write_sample(
    folder: str | Path,
    record: SampleRecord,
    views: Tensor | np.ndarray,
    panorama: Tensor | np.ndarray | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one sample folder; ``sample.json`` comes last, so a killed run leaves no complete-looking folder.

    Args:
        folder: The sample's own folder, made when absent.
        record: What to write into ``sample.json``; one prompt per view.
        views: uint8 [V, H, W, 3].
        panorama: uint8 [H', W', 3], or None.
        overwrite: Replace a complete sample.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds a complete sample and ``overwrite`` is False.
        ValueError: Shapes, dtypes or counts do not fit.
        OSError: The folder cannot be written (full disk, no permission); the sample stays incomplete.
    """
    folder = Path(folder)
    views = _check_uint8(views, "views", "[V, H, W, 3]", 4)
    if panorama is not None:
        panorama = _check_uint8(panorama, "panorama", "[H, W, 3]", 3)
    if len(record.prompts) != len(views):
        raise ValueError(
            f"prompts must be one per view ({len(views)}); got {len(record.prompts)}, in sample {record.sample_id!r}. "
            "Repeat a prompt that serves every view."
        )
    if is_complete(folder) and not overwrite:
        raise FileExistsError(f"{folder} must not hold a complete sample; got one. Skip it, or pass overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_NAME).unlink(missing_ok=True)
        for stale in [*numbered(folder, ".png"), folder / PANORAMA_NAME]:
            stale.unlink(missing_ok=True)
        for i, view in enumerate(views):
            (folder / f"{i}.png").write_bytes(png_bytes(view))
        if panorama is not None:
            (folder / PANORAMA_NAME).write_bytes(png_bytes(panorama))
        write_json(folder / RECORD_NAME, asdict(record))
    except OSError as error:
        raise OSError(
            error.errno,
            f"sample folder {folder} must be writable; got {error.strerror or error}. Free space or choose another "
            "folder, then run again: complete samples are kept",
        ) from error
    return folder


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically: a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: The file cannot be written; nothing half-written stays behind.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _check_uint8(values: Tensor | np.ndarray, name: str, shape: str, ndim: int) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3:
        raise ValueError(
            f"{name} must be uint8 of shape {shape}; got {array.dtype} {list(array.shape)}. "
            "Use to_uint8 and put the channels last."
        )
    return array
