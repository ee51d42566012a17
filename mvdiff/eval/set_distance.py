"""Base class of distances between the features of two sets of images, with intervals over samples.

Axes: S samples, N, M images, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.intervals import Interval, interval
from mvdiff.eval.metric import MissingMetricError, Result, SampleMetric, sample_counts
from mvdiff.eval.sample import ScoredSample

Resampled = Callable[[np.ndarray], float]
"""Function of the indices of drawn samples that returns the distance of their images to the reference."""


class SetDistance(SampleMetric):
    """Distance between the network features of generated and reference views.

    Attributes:
        kind: Name of the distance in `results.json`, by which `mvdiff compare` finds it.
        distance: Function of two sets of features, [N, D] and [M, D].
        resampled: Function of the features [V, D] of each generated sample and those of the reference [M, D] that
            returns the distance as a function of drawn samples, much faster than `distance` of their features.
        estimator: Description of the estimator, part of the variant.
        biased: True if the distance depends on the number of images.
    """

    needs: ClassVar = {"reference": "no reference images. Pass --reference DIR or --config YAML."}
    load_network = staticmethod(inception_extractor)
    kind: ClassVar[str]
    distance: ClassVar[Callable[[Tensor, Tensor], float]]
    resampled: ClassVar[Callable[[Sequence[Tensor], Tensor], Resampled]]
    estimator: ClassVar[str]
    biased: ClassVar[bool]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_rows("features")

    @abstractmethod
    def interval_of(self, samples: Sequence[Tensor], reference: Tensor) -> Interval | None:
        """Return the interval of the distance from the features [V, D] of each sample, or None."""

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Store the features of a sample."""
        self.append("features", sample, real, self.network.of_sample(sample, self.batch_size)[0])

    def compute(self) -> dict[str, Result]:
        """Compute the distance between generated and reference features."""
        generated, real = self.rows("features", real=False), self.rows("features", real=True)
        own, reference = generated.values, real.values
        if len(reference) == 0:
            raise MissingMetricError(self.needs["reference"])
        size = self.network.num_features
        few = self.biased and min(len(own), len(reference)) <= size
        result = Result(
            self.distance(own, reference),
            variant=f"{size} features; {self.network.variant}; {self.estimator}",
            n={"num_images": len(own), "num_reference_images": len(reference)}
            | sample_counts(generated.keys, real.keys),
            **self.network_fields,
            note=f"no more images than {size} features: compare only with equally many images" if few else None,
            extra={"distance": self.kind, "network_variant": self.network.variant},
        )
        result.interval = self.interval_of([part for _, part in generated.samples], reference)
        return {self.name: result}

    def resample(self, samples: Sequence[Tensor], reference: Tensor, num_resamples: int, **options: Any) -> Interval:
        """Return the interval over samples, with the reference as it is; options: see `mvdiff.eval.intervals`."""
        indices = np.arange(len(samples))
        options = {"num_resamples": num_resamples, "seed": self.seed} | options
        return interval(self.resampled(samples, reference), indices, **options)


def drawn_weights(drawn: np.ndarray, num_samples: int) -> np.ndarray:
    """Return how often each of S samples was drawn.

    Example:
        >>> drawn_weights(np.array([2.0, 0.0, 2.0]), 4)
        array([1, 0, 2, 0])
    """
    return np.bincount(drawn.astype(int), minlength=num_samples)
