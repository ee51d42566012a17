"""Inception Score: how certain and how varied a classifier's labels of the generated views are."""

from __future__ import annotations

from typing import Any

from mvdiff.eval.distribution import PAPER_SPLITS, inception_score
from mvdiff.eval.extractors import FeatureExtractor, inception_extractor
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric
from mvdiff.eval.sources import ScoredSample


class InceptionScore(SampleMetric):
    """Inception Score over the class logits of a network.

    Args:
        network: The feature network.
        num_splits: Splits, over which the score is averaged.
        batch_size: Images per forward pass.
        **options: See `SampleMetric`; `seed` also fixes the order of images.
    """

    name = "inception_score"
    columns = (Column("inception_score", "Inception Score", higher_is_better=True),)
    load_network = staticmethod(inception_extractor)

    def __init__(
        self, *, network: FeatureExtractor, num_splits: int = PAPER_SPLITS, batch_size: int = 32, **options: Any
    ) -> None:
        super().__init__(**options)
        self.network, self.num_splits, self.batch_size = network, num_splits, batch_size
        self.add_rows("logits")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Keep a sample's logits."""
        logits = self.network.of_sample(sample, self.batch_size)[1]
        if logits is not None:
            self.append("logits", sample, real, logits)

    def compute(self) -> dict[str, Result]:
        """Score the generated views, and the reference where it has as many views as there are splits."""
        generated, reference = (self.rows("logits", real=real).values for real in (False, True))
        if len(generated) == 0:
            raise MissingMetricError(f"{self.network.name} has no class logits.")
        value, deviation = inception_score(generated, self.num_splits, self.seed)
        enough = len(reference) >= self.num_splits
        result = Result(
            value,
            self.network.name,
            f"mean over {self.num_splits} splits in a seeded order; {self.network.variant}",
            n={"num_images": len(generated)},
            reference=inception_score(reference, self.num_splits, self.seed)[0] if enough else None,
            weights_hash=self.network.weights_hash,
            extra={"std_over_splits": deviation},
        )
        return {self.name: result}
