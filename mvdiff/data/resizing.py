"""Size of a recording's frames: how depths and intrinsics follow when a frame is resized."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import interpolate

from mvdiff.geometry.cameras import resize_intrinsics

Resizing = Literal["exact", "released"]
"""Rule by which depths and intrinsics are resized: that of this package, or that of the 2023 release's data code."""


def check_resizing(resizing: str) -> None:
    """Raise ValueError for an unknown rule."""
    if resizing not in ("exact", "released"):
        raise ValueError(f'resizing must be "exact" or "released"; got {resizing!r}.')


def resized_intrinsics(K: Tensor, scale_x: float, scale_y: float, resizing: Resizing = "exact") -> Tensor:
    """Return the intrinsics [..., 3, 3] of a resized image; "released" scales everything, without half pixels.

    Example:
        >>> import torch
        >>> K = torch.tensor([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
        >>> [resized_intrinsics(K, 0.5, 0.5, rule)[0, 2].item() for rule in ("exact", "released")]
        [159.5, 159.75]
    """
    if resizing == "exact":
        return resize_intrinsics(K, scale_x=scale_x, scale_y=scale_y)
    return K * K.new_tensor([scale_x, scale_y, 1.0])[:, None]


def resize_depths(depths: Tensor, height: int, width: int) -> Tensor:
    """Resize depths [H, W] by nearest neighbour (no mixed depths at edges); ties go right and down.

    Example:
        >>> import torch
        >>> resize_depths(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 1, 2).tolist()
        [[2.0, 4.0]]
    """
    return interpolate(depths[None, None], (height, width), mode="nearest-exact")[0, 0]


def resized_depths(depths: Tensor, height: int, width: int, resizing: Resizing = "exact") -> Tensor:
    """Resize depths [H, W] by nearest neighbour; "released" takes the pixel at floor(scale x index).

    Example:
        >>> import torch
        >>> depths = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> [resized_depths(depths, 1, 2, rule).tolist() for rule in ("exact", "released")]
        [[[2.0, 4.0]], [[1.0, 3.0]]]
    """
    if resizing == "exact":
        return resize_depths(depths, height, width)
    return interpolate(depths[None, None], (height, width), mode="nearest")[0, 0]
