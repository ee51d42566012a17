"""CLIP score of every view with its own prompt, averaged over views, then samples."""

from __future__ import annotations

from typing import Any

from mvdiff.eval.clip_score import ClipScorer, clip_scorer
from mvdiff.eval.metric import Column, PerSampleMetric
from mvdiff.eval.sources import ScoredSample


class ClipScore(PerSampleMetric):
    """CLIP score.

    Args:
        network: The CLIP model.
        batch_size: Images per forward pass.
        **options: See `SampleMetric`.
    """

    name = "clip_score"
    columns = (Column("clip_score", "CLIP score", higher_is_better=True),)
    load_network = staticmethod(clip_scorer)
    variant = "100 max(0, cosine), mean over views, then samples"
    totals = ("num_images",)

    def __init__(self, *, network: ClipScorer, batch_size: int = 32, **options: Any) -> None:
        super().__init__(network=network, **options)
        self.batch_size = batch_size

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Score a sample's views."""
        scores = self.network(sample.images_uint8, sample.prompts, self.batch_size)
        return {"clip_score": float(scores.mean()), "num_images": len(scores)}
