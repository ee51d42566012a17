"""Depth maps as files: 16-bit PNG in whole millimetres, 0 where there is no depth, as in the ScanNet layout."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvdiff.samples.pixels import UNREADABLE

MAX_DEPTH = 65.535
"""Metres; what 16 bits of millimetres hold."""


def to_millimetres(depths: Tensor | np.ndarray, where: str) -> np.ndarray:
    """Round z-depths in metres to uint16 millimetres.

    Args:
        depths: [..., H, W] float, metres; 0 or not finite = none.
        where: named in errors.

    Returns:
        The same shape, uint16.

    Raises:
        ValueError: A depth is negative, or more than 16 bits hold.

    Example:
        >>> to_millimetres(np.array([[1.2345, 0.0, np.nan]]), "doctest").tolist()
        [[1234, 0, 0]]
    """
    metres = np.asarray(depths.detach().cpu() if isinstance(depths, Tensor) else depths, dtype=np.float64)
    millimetres = np.round(np.where(np.isfinite(metres), metres, 0.0) * 1000)
    if millimetres.size and not (millimetres.min() >= 0 and millimetres.max() <= MAX_DEPTH * 1000):
        raise ValueError(
            f"depths must lie in [0, {MAX_DEPTH}] metres; got {millimetres.min() / 1000:g} to "
            f"{millimetres.max() / 1000:g}, in {where}. Give metres, and 0 where there is no depth."
        )
    return millimetres.astype(np.uint16)


def depth_bytes(millimetres: np.ndarray) -> bytes:
    """Encode a depth map [H, W] uint16 as 16-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(millimetres)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def read_depth(path: Path) -> Tensor:
    """Read a depth map of a sample: float32 [H, W] metres, 0 = none.

    Raises:
        ValueError: It cannot be decoded, or is no map of 16-bit numbers.
    """
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except UNREADABLE as error:
        raise ValueError(f"depth must be readable; got {error}, in {path}. Generate the sample again.") from error
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise ValueError(
            f"depth must be a 16-bit PNG of one channel; got {values.dtype} {list(values.shape)}, in {path}. "
            "Generate the sample again."
        )
    return torch.from_numpy(values.astype(np.float32) / 1000)
