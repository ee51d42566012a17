"""KID: kernel distance between Inception features; unlike FID's, its estimate is unbiased for any number of images.

The distance is an own implementation, because that of torchmetrics needs sets of equal size; both agree there.

Axes: S, T groups of images, N, M images, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.intervals import Interval
from mvdiff.eval.metric import Column, check_finite
from mvdiff.eval.set_distance import SetDistance, drawn_weights
from mvdiff.shapes import check_shapes

_ROWS = 1024
"""Rows of a kernel matrix that are in memory at once."""


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Compute KID, the unbiased squared MMD with kernel `(x y / D + 1)^3`, over all images (Binkowski et al. 2018).

    The usual mean over random subsets estimates the same number with more noise.

    Args:
        features: [N, D] features of the generated images.
        reference: [M, D] features of the reference images.

    Returns:
        The estimate; may be slightly negative.

    Raises:
        ValueError: Shapes do not match, a set has fewer than two images, or a value is not finite.
    """
    sizes = check_shapes(features=(features, "N D"), reference=(reference, "M D"))
    if min(sizes["N"], sizes["M"]) < 2:
        raise ValueError(f"features must come from at least 2 images; got {sizes['N']} and {sizes['M']}.")
    check_finite(features=features, reference=reference)
    own, real = [features.double()], [reference.double()]
    pairs = sizes["N"] * sizes["M"]
    cross = float(_kernel_sums(own, real)) / pairs
    return _mean_of_others(own) + _mean_of_others(real) - 2 * cross


class ResampledKernel:
    """KID of resampled panoramas to a fixed reference, from sums of the kernel over pairs of samples.

    A sample drawn w times counts w times, but its copies are not compared with each other: an image has kernel value 1
    or more with itself, which would raise the distance.

    Args:
        samples: Features [V, D] of each of S samples.
        reference: [M, D] features of the reference images.
    """

    def __init__(self, samples: Sequence[Tensor], reference: Tensor) -> None:
        own, real = [part.double() for part in samples], [reference.double()]
        check_finite(features=torch.cat(own), reference=real[0])
        self.sizes = np.array([len(part) for part in own])
        sums = _kernel_sums(own, own).numpy()
        self.inside = np.diagonal(sums) - np.array([_kernel_with_itself(part) for part in own])
        self.between = sums - np.diag(np.diagonal(sums))
        self.cross = _kernel_sums(own, real)[:, 0].numpy() / len(reference)
        self.real = _mean_of_others(real)

    def __call__(self, drawn: np.ndarray) -> float:
        """Return the distance for the indices of drawn samples."""
        weights = drawn_weights(drawn, len(self.sizes))
        counts = weights * self.sizes
        pairs = counts.sum() ** 2 - (counts**2).sum() + (weights * self.sizes * (self.sizes - 1)).sum()
        own = (weights @ self.between @ weights + weights @ self.inside) / pairs
        return float(own + self.real - 2 * (weights @ self.cross) / counts.sum())


class KID(SetDistance):
    """Kernel distance between the network features of generated and reference views; shares FID's forward pass."""

    name = "kid"
    columns = (Column("kid", "KID", higher_is_better=False, digits=4),)
    kind = "kernel"
    distance = staticmethod(kernel_distance)
    resampled = ResampledKernel
    estimator = "unbiased squared MMD of all images, cubic kernel, float64"
    biased = False

    def interval_of(self, samples: Sequence[Tensor], reference: Tensor) -> Interval:
        """Return the interval over samples."""
        return self.resample(samples, reference, self.num_resamples)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _kernel_sums(groups: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Sum the kernel over all pairs of images of two groups: [S, T]."""
    own, real = torch.cat(list(groups)), torch.cat(list(others))
    owners, real_owners = (
        torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        for parts in (groups, others)
    )
    sums = torch.zeros(len(groups), len(others), dtype=torch.float64)
    for start in range(0, len(own), _ROWS):
        rows = slice(start, start + _ROWS)
        values = _kernel(own[rows], real)
        by_group = torch.zeros(len(values), len(others), dtype=torch.float64).index_add_(1, real_owners, values)
        sums.index_add_(0, owners[rows], by_group)
    return sums


def _kernel_with_itself(images: Tensor) -> float:
    return float(((images.square().sum(1) / images.shape[1] + 1) ** 3).sum())


def _mean_of_others(images: Sequence[Tensor]) -> float:
    """Return the mean kernel of all pairs of different images of one group."""
    count = len(images[0])
    return (float(_kernel_sums(images, images)) - _kernel_with_itself(images[0])) / (count * (count - 1))
