"""Sharpness of views: gradient energy and variance of the Laplacian."""

from __future__ import annotations

from mvdiff.eval.metric import Column, PerSampleMetric
from mvdiff.eval.sharpness import gradient_energy, laplacian_variance
from mvdiff.eval.sources import ScoredSample


class Sharpness(PerSampleMetric):
    """Both measures of sharpness; neither has a better direction, since noise raises them, too."""

    name = "sharpness"
    columns = (
        Column("sharpness_gradient_energy", "sharpness, gradient energy", "grey²", digits=5),
        Column("sharpness_laplacian_variance", "sharpness, variance of the Laplacian", "grey²", digits=5),
    )
    model = "finite differences"
    variant = "grey in [0, 1] at the images' own size, mean over views, then samples"

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Measure a sample's views."""
        return {
            "sharpness_gradient_energy": float(gradient_energy(sample.images_uint8).mean()),
            "sharpness_laplacian_variance": float(laplacian_variance(sample.images_uint8).mean()),
        }
