"""FID: Fréchet distance between Inception features of generated and reference views.

The distance is an own implementation. Those of torch-fidelity and torchmetrics take eigenvalues of a product of
covariances, which is off by 1e-8 and becomes negative with fewer images than features
(tests/eval/test_distribution.py).

Axes: N, M images, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.intervals import FEWEST_RESAMPLED, Interval
from mvdiff.eval.metric import Column, check_finite
from mvdiff.eval.set_distance import SetDistance, drawn_weights
from mvdiff.eval.settings import FEWEST_RESAMPLES, check_resamples
from mvdiff.shapes import check_shapes


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Compute the Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    It is `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` with unbiased covariances. For any roots `A1^T A1 = S1` and
    `A2^T A2 = S2`, the trace of `(S1 S2)^(1/2)` is the sum of the singular values of `A1 A2^T` (own derivation), which
    stays real and exact for singular covariances, i.e. with fewer images than features.

    Args:
        features: [N, D] features of the generated images.
        reference: [M, D] features of the reference images.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: Shapes do not match, a set has fewer than two images, or a value is not finite.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
        >>> round(frechet_distance(x + torch.tensor([3.0, 4.0]), x), 6)
        25.0
    """
    check_shapes(features=(features, "N D"), reference=(reference, "M D"))
    return gaussian_distance(mean_and_root(features), mean_and_root(reference))


def gaussian_distance(fitted: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    """Compute the Fréchet distance of two Gaussians, each as `mean_and_root` returns it; see `frechet_distance`."""
    (mean_1, root_1), (mean_2, root_2) = fitted, reference
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum() - 2 * cross
    return max(0.0, float(distance))


def mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D] and a root A [min(N, D), D] of the unbiased covariance, `A^T A = S`, in float64."""
    num_images, num_features = features.shape
    if num_images < 2:
        raise ValueError(f"features must come from at least 2 images; got {num_images}.")
    check_finite(features=features)
    features = features.double()
    mean = features.mean(dim=0)
    root = (features - mean) / (num_images - 1) ** 0.5
    if num_images > num_features:
        values, vectors = torch.linalg.eigh(root.T @ root)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return mean, root


class ResampledFrechet:
    """Fréchet distance of resampled panoramas to a fixed reference, without a decomposition of their covariance.

    A sample drawn w times has weight w. With root B of the reference's covariance and weighted, centred features Z of
    the resample, `tr (S1 S2)^(1/2)` is the sum of the singular values of `Z B^T`: roots of the eigenvalues of its Gram
    matrix, of the smaller side (own derivation). Products with B are taken once for all resamples. It agrees with
    `frechet_distance` to about 1e-6 of the distance; small singular values lose half of their digits.

    Args:
        samples: Features [V, D] of each of S samples.
        reference: [M, D] features of the reference images.
    """

    def __init__(self, samples: Sequence[Tensor], reference: Tensor) -> None:
        self.mean, root = mean_and_root(reference)
        self.trace = root.square().sum()
        self.num_samples, sizes = len(samples), torch.tensor([len(part) for part in samples])
        self.owner = torch.arange(len(samples)).repeat_interleave(sizes)
        self.features = torch.cat(list(samples)).double()
        check_finite(features=self.features)
        self.mapped = self.features @ root.T

    def __call__(self, drawn: np.ndarray) -> float:
        """Return the distance for the indices of drawn samples."""
        weights = torch.from_numpy(drawn_weights(drawn, self.num_samples)).double()[self.owner]
        rows = weights > 0
        weights, features, mapped = weights[rows], self.features[rows], self.mapped[rows]
        count = weights.sum()
        mean = weights @ features / count
        trace = (weights @ (features - mean).square().sum(1)) / (count - 1)
        centred = (mapped - weights @ mapped / count) * (weights / (count - 1)).sqrt()[:, None]
        gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
        cross = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
        distance = (mean - self.mean).square().sum() + trace + self.trace - 2 * cross
        return max(0.0, float(distance))


class FID(SetDistance):
    """Fréchet distance between the network features of generated and reference views.

    Args:
        fid_resamples: Bootstrap resamples of the generated samples, with 30 samples or more; 0: no interval then.
            Resampling raises the distance, so the interval is shifted by the bias of the resamples.
        **options: See `SampleMetric`.
    """

    name = "fid"
    columns = (Column("fid", "FID", higher_is_better=False),)
    kind = "frechet"
    distance = staticmethod(frechet_distance)
    resampled = ResampledFrechet
    estimator = "unbiased covariance, float64"
    biased = True

    def __init__(self, *, fid_resamples: int = 0, **options: Any) -> None:
        check_resamples("fid_resamples", fid_resamples, or_none=True)
        super().__init__(**options)
        self.fid_resamples = fid_resamples

    def interval_of(self, samples: Sequence[Tensor], reference: Tensor) -> Interval | None:
        """Return the interval over samples; with 30 samples or more only if `fid_resamples` asks for it."""
        if len(samples) >= FEWEST_RESAMPLED and not self.fid_resamples:
            return None
        return self.resample(samples, reference, self.fid_resamples or FEWEST_RESAMPLES, unbiased=False)
