"""ZNCC of neighbouring views where they overlap: the companion of overlap PSNR that contrast does not change."""

from __future__ import annotations

import math
from typing import Any

import torch

from mvdiff.eval.metric import Column, MissingMetricError, Result
from mvdiff.eval.overlap_metric import OverlapMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.warped_pairs import mean_of_known


class OverlapZNCC(OverlapMetric):
    """Zero-mean normalised cross-correlation of the pixels that overlap PSNR compares (own protocol).

    A PSNR after matching mean and variance to fixed values is a function of it: `-10 log10(2 (1 - ZNCC))` plus a
    constant. Pairs of which one view is flat count as 0, pairs of two flat views are left out.

    Args:
        **options: See `OverlapMetric`.
    """

    name = "overlap_zncc"
    columns = (Column("overlap_zncc", "overlap correlation (ZNCC)", higher_is_better=True, digits=3),)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_rows("correlations")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Correlate the overlapping views of a sample.

        Raises:
            ValueError: See `OverlapMetric.overlaps`.
        """
        found = [pair.correlation for pair in self.overlaps(sample, real) if not math.isnan(pair.correlation)]
        self.append("correlations", sample, real, torch.tensor(found, dtype=torch.float64).reshape(-1, 1))

    def compute(self) -> dict[str, Result]:
        """Average over pairs, then samples."""
        by_depth = self.kind()
        own, real = (
            {key: mean_of_known(rows.flatten().tolist()) for key, rows in self.rows("correlations", side).samples}
            for side in (False, True)
        )
        if not own:
            raise MissingMetricError("no views that overlap have any contrast there.")
        totals = {"num_pairs": len(self.rows("correlations", real=False).values)}
        variant = f"channels about their means; mean over pairs, then samples; {self.protocol(by_depth)}"
        model = "depth and pose" if by_depth else "homography"
        return {self.name: self.mean_over_samples(own, real, totals, model=model, variant=variant)}
