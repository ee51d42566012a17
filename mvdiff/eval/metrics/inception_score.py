"""Inception Score: confidence and diversity of a classifier's labels for the generated views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric, check_finite, sample_counts
from mvdiff.eval.sample import ScoredSample
from mvdiff.shapes import check_shapes

PAPER_SPLITS = 10


def inception_score(logits: Tensor, num_splits: int = PAPER_SPLITS, seed: int = 0) -> tuple[float, float]:
    """Compute the Inception Score `exp(E KL(p(y|x) || p(y)))` over splits (Salimans et al. 2016, section 4).

    A seeded shuffle first spreads the views of a panorama over the splits; equal seeds give equal scores.

    Args:
        logits: [N, C] class logits.
        num_splits: Number of splits S; split k holds images `k N // S` to `(k + 1) N // S - 1` of the shuffled order.
        seed: Random seed of the shuffle.

    Returns:
        Mean and population standard deviation over splits.

    Raises:
        ValueError: `num_splits` is below 1 or above N, or a logit is not finite.
    """
    count = check_shapes(logits=(logits, "N C"))["N"]
    check_finite(logits=logits)
    if not 1 <= num_splits <= count:
        raise ValueError(f"num_splits must be between 1 and the number of images ({count}); got {num_splits}.")
    from torch_fidelity.metric_isc import isc_features_to_metric

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    scores = isc_features_to_metric(logits.cpu()[order], splits=num_splits, shuffle=False)
    return scores["inception_score_mean"], scores["inception_score_std"]


class InceptionScore(SampleMetric):
    """Inception Score from the class logits of a network.

    Args:
        num_splits: Number of splits over which the score is averaged.
        **options: See `SampleMetric`; `seed` also seeds the shuffle of images.
    """

    name = "inception_score"
    columns = (Column("inception_score", "Inception Score", higher_is_better=True),)
    load_network = staticmethod(inception_extractor)

    def __init__(self, *, num_splits: int = PAPER_SPLITS, **options: Any) -> None:
        super().__init__(**options)
        self.num_splits = num_splits
        self.add_rows("logits")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Store the logits of a sample."""
        logits = self.network.of_sample(sample, self.batch_size)[1]
        if logits is not None:
            self.append("logits", sample, real, logits)

    def compute(self) -> dict[str, Result]:
        """Score the generated views, and the reference if it has at least `num_splits` views."""
        own, real = (self.rows("logits", real=real) for real in (False, True))
        generated, reference = own.values, real.values
        if len(generated) == 0:
            raise MissingMetricError(f"{self.network.name} has no class logits.")
        value, deviation = inception_score(generated, self.num_splits, self.seed)
        enough = len(reference) >= self.num_splits
        result = Result(
            value,
            variant=f"mean over {self.num_splits} splits in a seeded order; {self.network.variant}",
            n={"num_images": len(generated)} | sample_counts(own.keys, real.keys if enough else ()),
            reference=inception_score(reference, self.num_splits, self.seed)[0] if enough else None,
            **self.network_fields,
            extra={"std_over_splits": deviation},
        )
        return {self.name: result}
