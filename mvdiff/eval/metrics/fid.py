"""FID: the Fréchet distance of Inception features, generated against reference views."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from mvdiff.eval.bootstrap import bootstrap
from mvdiff.eval.distribution import frechet_distance
from mvdiff.eval.extractors import FeatureExtractor, inception_extractor
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric
from mvdiff.eval.sources import ScoredSample


class FID(SampleMetric):
    """Fréchet distance over the features of a network.

    Attributes:
        distance: Distance of two sets of features.
        estimator: How the distance is estimated, for the variant.
        biased: Whether it depends on the number of images.

    Args:
        network: The feature network.
        batch_size: Images per forward pass.
        intervals: Bootstrap resamples of the generated samples; 0 for no interval. A resampled set lies further away
            than the set itself.
        **options: See `SampleMetric`.
    """

    name = "fid"
    columns = (Column("fid", "FID", higher_is_better=False),)
    needs: ClassVar = {"reference": "no reference images. Give --reference DIR or --config YAML."}
    load_network = staticmethod(inception_extractor)
    distance = staticmethod(frechet_distance)
    estimator = "unbiased covariance, float64"
    biased = True

    def __init__(self, *, network: FeatureExtractor, batch_size: int = 32, intervals: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.network, self.batch_size, self.intervals = network, batch_size, intervals
        self.add_rows("features")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Keep a sample's features."""
        self.append("features", sample, real, self.network.of_sample(sample, self.batch_size)[0])

    def compute(self) -> dict[str, Result]:
        """Compare the two sets."""
        generated, reference = self.rows("features", real=False), self.rows("features", real=True).values
        if len(reference) == 0:
            raise MissingMetricError(self.needs["reference"])
        size = self.network.num_features
        few = self.biased and min(len(generated.values), len(reference)) <= size
        result = Result(
            self.distance(generated.values, reference),
            self.network.name,
            f"{size} features; {self.network.variant}; {self.estimator}",
            n={"num_images": len(generated.values), "num_reference_images": len(reference)},
            weights_hash=self.network.weights_hash,
            note=f"fewer images than {size} features: compare only with numbers from as many images" if few else None,
        )
        features = [part for _, part in generated.samples]
        if self.intervals and len({part.shape for part in features}) == 1:

            def distance(drawn: np.ndarray) -> float:
                return self.distance(torch.from_numpy(drawn).flatten(0, 1), reference)

            stacked = torch.stack(features).numpy()
            interval = bootstrap(distance, stacked, num_resamples=self.intervals, seed=self.seed)
            result.interval = (interval.low, interval.high)
        return {self.name: result}
