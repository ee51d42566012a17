"""Overlap PSNR of neighbouring views, by homography or, for samples with depth, by depth and pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.metric import Column, Result, Rows, sample_counts, with_reference
from mvdiff.eval.overlap import PairErrors, combine, depth_overlap_errors, psnr_from_mse
from mvdiff.eval.overlap_metric import OverlapMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.geometry.depth import DEFAULT_DEPTH_TOLERANCE

MEAN, POOLED = "overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"
_AVERAGES = {  # functions of [S, 4] sums per sample: PSNRs, pairs, squared errors, values
    MEAN: lambda sums: float(sums[:, 0].sum() / sums[:, 1].sum()),
    POOLED: lambda sums: psnr_from_mse(float(sums[:, 2].sum() / sums[:, 3].sum())),
}
_AVERAGE_NAMES = {MEAN: "mean over pairs", POOLED: "squared error pooled over all pixels"}


class OverlapPSNR(OverlapMetric):
    """Overlap PSNR, averaged over pairs and pooled over pixels; see `mvdiff.eval.overlap`.

    The mean over pairs also reports `per_sample` means and, with a reference, `mean_of_pair_ratios`. Views with depth
    also get `unoccluded`: the same number over pixels within the stricter `DEFAULT_DEPTH_TOLERANCE`.

    Args:
        **options: See `OverlapMetric`.
    """

    name = "overlap_psnr"
    columns = (
        Column(MEAN, "overlap PSNR, mean of pairs", "dB", higher_is_better=True),
        Column(POOLED, "overlap PSNR, pooled", "dB", higher_is_better=True),
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_rows("pairs")
        self.add_rows("unoccluded")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Compare the overlapping views of a sample.

        Raises:
            ValueError: See `OverlapMetric.overlaps`.
        """
        rows = [(pair.target, pair.source, pair.squared_error, pair.num_values) for pair in self.overlaps(sample, real)]
        self._append("pairs", sample, real, rows)
        if sample.depths is not None:
            strict = depth_overlap_errors(*self.views(sample), self.pairs, DEFAULT_DEPTH_TOLERANCE)
            rows = zip(strict.pairs, strict.squared_error, strict.num_values, strict=True)
            self._append("unoccluded", sample, real, [(*pair, error, count) for pair, error, count in rows])

    def compute(self) -> dict[str, Result]:
        """Average the pairs of all samples in both ways."""
        by_depth = self.kind()
        own, real = self.rows("pairs", real=False), self.rows("pairs", real=True)
        generated, reference = _errors(own), _errors(real)
        numbers = combine([errors for _, errors in generated])
        sums = [(sum(e.psnr_of_pairs()), len(e.pairs), sum(e.squared_error), sum(e.num_values)) for _, e in generated]
        results = {}
        for name, average in _AVERAGES.items():
            results[name] = Result(
                numbers[name],
                "depth and pose" if by_depth else "homography",
                f"{_AVERAGE_NAMES[name]}; {self.protocol(by_depth)}",
                n={"num_pairs": numbers["num_pairs"]} | sample_counts(own.keys, real.keys),
                interval=self.interval(average, np.array(sums)),
                extra=self._unoccluded(name),
                **_beside(numbers[name], reference, name),
            )
        results[MEAN].extra |= _mean_of_ratios(generated, dict(reference))
        results[MEAN].per_sample = {key: errors.mean_psnr() for key, errors in generated}
        return results

    def _append(self, name: str, sample: ScoredSample, real: bool, rows: list[tuple[float, ...]]) -> None:
        self.append(name, sample, real, torch.tensor(rows, dtype=torch.float64).reshape(-1, 4))

    def _unoccluded(self, name: str) -> dict[str, Any]:
        own = combine([errors for _, errors in _errors(self.rows("unoccluded", real=False))])
        if not own["num_pairs"]:
            return {}
        beside = _beside(own[name], _errors(self.rows("unoccluded", real=True)), name)
        return {"unoccluded": {"value": own[name], "num_pairs": own["num_pairs"]} | beside}


def _errors(rows: Rows) -> list[tuple[int, PairErrors]]:
    """Return (key, errors) of each sample with pairs."""

    def errors(part: Tensor) -> PairErrors:
        pairs, values = part[:, :2].long().tolist(), part[:, 2:].tolist()
        return PairErrors([(i, j) for i, j in pairs], [v[0] for v in values], [int(v[1]) for v in values])

    return [(key, errors(part)) for key, part in rows.samples]


def _beside(value: float, reference: list[tuple[int, PairErrors]], name: str) -> dict[str, float]:
    theirs = combine([errors for _, errors in reference])
    return with_reference(value, [theirs[name]]) if theirs["num_pairs"] else {}


def _mean_of_ratios(own: list[tuple[int, PairErrors]], theirs: dict[int, PairErrors]) -> dict[str, float]:
    """Average the PSNR ratios of single pairs over shared samples; this is not the ratio of means."""
    ratios = []
    for key, errors in own:
        if key in theirs and theirs[key].pairs == errors.pairs:
            both = zip(errors.psnr_of_pairs(), theirs[key].psnr_of_pairs(), strict=True)
            ratios += [a / b for a, b in both if b > 0]
    return {"mean_of_pair_ratios": float(np.mean(ratios))} if ratios else {}
