"""FID of whole panoramas: of the panorama, rolled by half its width, of 8 views around and of 20 views all over.

A wrong wrap is at the border of the panorama, where the first number hardly sees it, and in the middle of the rolled
one. Wrong poles show in the 20 views. The numbers are for methods that make the panorama as one image; panoramas
stitched from views have no wrap of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.panorama_images import HEIGHT, VIEW_SIZE, panorama_images
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import check_resamples
from mvdiff.eval.shared_rows import distance_of_rows

_WHOLE = f"panorama.png at {HEIGHT}x{2 * HEIGHT}"
IMAGES = {
    "whole": _WHOLE,
    "rolled": f"{_WHOLE}, rolled by half its width",
    "ring": f"8 views of {VIEW_SIZE} pixels and 90 degrees, 45 degrees apart, of {_WHOLE}",
    "icosahedron": f"20 views of {VIEW_SIZE} pixels and 90 degrees at the face centres of an icosahedron, of {_WHOLE}",
}
"""Images of a panorama by name, see `mvdiff.eval.panorama_images`, with their description in results."""


def panorama_columns(name: str, title: str) -> tuple[Column, ...]:
    """Return the columns of a metric, in the order of `IMAGES`."""
    parts = {"": "", "_rolled": ", rolled", "_8_views": ", 8 views", "_20_views": ", 20 views"}
    return tuple(Column(name + suffix, title + words, higher_is_better=False) for suffix, words in parts.items())


class PanoramaFID(SampleMetric):
    """Fréchet distances between Inception features of generated and reference panoramas as a whole.

    Args:
        fid_resamples: Bootstrap resamples for the interval of each distance, see `FID`.
        **options: See `SampleMetric`.
    """

    name = "erp_fid"
    columns = panorama_columns("erp_fid", "FID of panoramas")
    needs: ClassVar = FID.needs
    load_network = staticmethod(inception_extractor)

    def __init__(self, *, fid_resamples: int = 0, **options: Any) -> None:
        check_resamples("fid_resamples", fid_resamples, or_none=True)
        super().__init__(**options)
        self.fid_resamples = fid_resamples
        for name in IMAGES:
            self.add_rows(name)

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Store the features of a sample's panorama.

        Raises:
            ValueError: The sample has no panorama, or a feature is not finite.
        """
        for name, images in panorama_images(sample.panorama_uint8).items():
            features, _ = self.network.of_sample(replace(sample, images_uint8=images), self.batch_size)
            self.append(name, sample, real, features)

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Compute the distance between generated and reference panoramas, for each way to take images of them."""
        results = {}
        for column, (name, description) in zip(self.columns, IMAGES.items(), strict=True):
            result = distance_of_rows(self, name, FID, fid_resamples=self.fid_resamples)
            result.variant = f"{description}; {result.variant}"
            result.extra = {}  # entries by which other tools find the features of the views
            results[column.name] = result
        return results
