"""Sharpness of views: gradient energy and variance of the Laplacian; reveals consistency gained by blurring.

Axes: N images of H x W pixels. Grey is the mean of the three channels, in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvdiff.eval.metric import OWN_SIZE, Column, PerSampleMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.shapes import check_shapes


class Sharpness(PerSampleMetric):
    """Gradient energy and Laplacian variance; higher is not always better, since noise raises both (own protocol)."""

    name = "sharpness"
    columns = (
        Column("sharpness_gradient_energy", "sharpness, gradient energy", "grey²", digits=5),
        Column("sharpness_laplacian_variance", "sharpness, variance of the Laplacian", "grey²", digits=5),
    )
    model = "finite differences"
    variant = f"grey in [0, 1] at {OWN_SIZE}, mean over views, then samples"

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Average both measures over a sample's views."""
        views = sample.images_uint8.split(1)  # all at once need much memory in float64
        return {
            "sharpness_gradient_energy": float(torch.cat([gradient_energy(view) for view in views]).mean()),
            "sharpness_laplacian_variance": float(torch.cat([laplacian_variance(view) for view in views]).mean()),
        }


def gradient_energy(images: Tensor) -> Tensor:
    """Return the mean squared difference between neighbouring pixels, summed over x and y.

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
    return sum(grey.diff(dim=axis).square().mean(dim=(1, 2)) for axis in (2, 1))


def laplacian_variance(images: Tensor) -> Tensor:
    """Return the variance of the four-neighbour Laplacian over the inner pixels (Pech-Pacheco et al. 2000).

    Args:
        images: [N, 3, H, W] with H, W >= 3, uint8 in [0, 255] or float in [-1, 1].

    Returns:
        [N] float64; 0 for any linear ramp.
    """
    grey = _grey(images)
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * grey[:, 1:-1, 1:-1]).flatten(1).var(dim=1, correction=0)


def _grey(images: Tensor) -> Tensor:
    check_shapes(images=(images, "N 3 H W"))
    unit = images.double() / 255 if images.dtype == torch.uint8 else (images.double() + 1) / 2
    return unit.mean(dim=1)
