"""FID: Fréchet distance between Inception features of generated and reference views.

The distance is an own implementation. Those of torch-fidelity and torchmetrics take eigenvalues of a product of
covariances, which is off by 1e-8 and becomes negative with fewer images than features
(tests/eval/test_distribution.py).

Axes: N, M images, D features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.intervals import interval
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric, check_finite, sample_counts
from mvdiff.eval.sources import ScoredSample
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


class FID(SampleMetric):
    """Fréchet distance between the network features of generated and reference views.

    Attributes:
        distance: Function of two sets of features, [N, D] and [M, D].
        estimator: Description of the estimator, part of the variant.
        biased: True if the distance depends on the number of images.

    Args:
        intervals: Bootstrap resamples of the generated samples; 0: no interval. Resampling increases the distance, so
            a bootstrap interval is biased upwards.
        **options: See `SampleMetric`.
    """

    name = "fid"
    columns = (Column("fid", "FID", higher_is_better=False),)
    needs: ClassVar = {"reference": "no reference images. Pass --reference DIR or --config YAML."}
    load_network = staticmethod(inception_extractor)
    distance = staticmethod(frechet_distance)
    estimator = "unbiased covariance, float64"
    biased = True

    def __init__(self, *, intervals: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.intervals = intervals
        self.add_rows("features")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Store the features of a sample."""
        self.append("features", sample, real, self.network.of_sample(sample, self.batch_size)[0])

    def compute(self) -> dict[str, Result]:
        """Compute the distance between generated and reference features."""
        generated, real = self.rows("features", real=False), self.rows("features", real=True)
        reference = real.values
        if len(reference) == 0:
            raise MissingMetricError(self.needs["reference"])
        size = self.network.num_features
        few = self.biased and min(len(generated.values), len(reference)) <= size
        result = Result(
            self.distance(generated.values, reference),
            variant=f"{size} features; {self.network.variant}; {self.estimator}",
            n={"num_images": len(generated.values), "num_reference_images": len(reference)}
            | sample_counts(generated.keys, real.keys),
            **self.network_fields,
            note=f"no more images than {size} features: compare only with equally many images" if few else None,
        )
        features = [part for _, part in generated.samples]
        if self.intervals and len({part.shape for part in features}) == 1:

            def distance(drawn: np.ndarray) -> float:
                return self.distance(torch.from_numpy(drawn).flatten(0, 1), reference)

            stacked = torch.stack(features).numpy()
            result.interval = interval(distance, stacked, num_resamples=self.intervals, seed=self.seed)
        return {self.name: result}
