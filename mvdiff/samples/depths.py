"""Depth map files: 16-bit PNG in whole millimetres, 0 where unknown, as in ScanNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from mvdiff.files import images
from mvdiff.samples.pixels import naming_broken

MAX_DEPTH = 65.534
"""Largest depth in metres that a 16-bit map in millimetres can hold; 65535 means no depth."""


def to_millimetres(depths: Tensor | np.ndarray, where: str) -> np.ndarray:
    """Round z-depths to millimetres.

    Args:
        depths: [..., H, W] metres; 0 or non-finite where unknown.
        where: Sample or file named in errors.

    Returns:
        [..., H, W] uint16, 0 where unknown.

    Raises:
        ValueError: A depth is negative or above `MAX_DEPTH`.

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
    """Read a depth map as float32 [H, W] in metres, 0 where unknown.

    Raises:
        ValueError: The file cannot be decoded or is not a 16-bit image of one channel.
    """
    with naming_broken("depth", path):
        return images.read_depth(path)
