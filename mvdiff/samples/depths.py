"""Depth maps as files: 16-bit PNG in whole millimetres, 0 where there is no depth, as in the ScanNet layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvdiff.samples.pixels import read_pixels

MAX_DEPTH = 65.535
"""Metres; what 16 bits of millimetres hold."""


def to_millimetres(depths: Tensor | np.ndarray, where: str) -> np.ndarray:
    """Round z-depths [..., H, W] in metres (0 or not finite = none) to uint16 millimetres; errors name `where`.

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
            f"{millimetres.max() / 1000:g}, in {where}."
        )
    return millimetres.astype(np.uint16)


def read_depth(path: Path) -> Tensor:
    """Read a depth map of a sample: float32 [H, W] metres, 0 = none.

    Raises:
        ValueError: It cannot be decoded, or is no map of 16-bit numbers.
    """
    values = read_pixels(path, "depth")
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise ValueError(
            f"depth must be a 16-bit PNG of one channel; got {values.dtype} {list(values.shape)}, in {path}."
        )
    return torch.from_numpy(values.astype(np.float32) / 1000)
