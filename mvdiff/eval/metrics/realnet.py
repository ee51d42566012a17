"""Fréchet and kernel distance of EfficientNet-Lite0 features: a network of real photographs without a download.

The formulas are those of FID and KID. The network is another one, so these numbers are neither, and compare only with
each other.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mvdiff.eval.metric import Column, Result, SampleMetric
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.kid import KID
from mvdiff.eval.realnet import realnet_extractor
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import check_resamples
from mvdiff.eval.shared_rows import distance_of_rows


class Realnet(SampleMetric):
    """Fréchet and kernel distance between EfficientNet-Lite0 features of generated and reference views.

    Args:
        fid_resamples: Bootstrap resamples for the interval of the Fréchet distance, see `FID`.
        **options: See `SampleMetric`.
    """

    name = "realnet"
    columns = (
        Column("realnet_distance", "EfficientNet distance", higher_is_better=False),
        Column("realnet_kid", "EfficientNet kernel distance", higher_is_better=False, digits=4),
    )
    needs: ClassVar = FID.needs
    load_network = staticmethod(realnet_extractor)

    def __init__(self, *, fid_resamples: int = 0, **options: Any) -> None:
        check_resamples("fid_resamples", fid_resamples, or_none=True)
        super().__init__(**options)
        self.fid_resamples = fid_resamples
        self.add_rows("features")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Store the features of a sample."""
        self.append("features", sample, real, self.network.of_sample(sample, self.batch_size)[0])

    def compute(self) -> dict[str, Result]:
        """Compute both distances between generated and reference features."""
        frechet = distance_of_rows(self, "features", FID, fid_resamples=self.fid_resamples)
        return {"realnet_distance": frechet, "realnet_kid": distance_of_rows(self, "features", KID)}
