"""Sharpness: how much fine structure images have; guards against consistency bought by blur (own protocol).

Legend: N images, H W image. Grey is the mean of the three channels, in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvdiff.shapes import check_shapes


def _grey(images: Tensor) -> Tensor:
    check_shapes(images=(images, "N 3 H W"))
    unit = images.double() / 255 if images.dtype == torch.uint8 else (images.double() + 1) / 2
    return unit.mean(dim=1)


def gradient_energy(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, x and y added.

    Args:
        images: [N, 3, H, W], uint8 in [0, 255] or float in [-1, 1].

    Returns:
        [N] float64; 0 for a constant image.

    Example:
        >>> ramp = torch.linspace(-1, 1, 5).expand(1, 3, 4, 5)  # steps of 0.25 in [0, 1], along x only
        >>> gradient_energy(ramp).tolist()
        [0.0625]
    """
    grey = _grey(images)
    along_x = grey.diff(dim=2).square().mean(dim=(1, 2))
    along_y = grey.diff(dim=1).square().mean(dim=(1, 2))
    return along_x + along_y


def laplacian_variance(images: Tensor) -> Tensor:
    """Return the variance of the four-neighbour Laplacian over the inner pixels (Pech-Pacheco et al. 2000).

    Args:
        images: [N, 3, H, W] with H, W >= 3, uint8 in [0, 255] or float in [-1, 1].

    Returns:
        [N] float64; 0 for any linear ramp.
    """
    grey = _grey(images)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * inner).flatten(1).var(dim=1, correction=0)
