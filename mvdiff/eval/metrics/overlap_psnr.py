"""Overlap PSNR of neighbouring views, by homography or, for samples with depth, by depth and pose."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.metric import (
    Column,
    MissingMetricError,
    Result,
    Rows,
    SampleMetric,
    check_finite,
    sample_counts,
    with_reference,
)
from mvdiff.eval.overlap import (
    PairErrors,
    combine,
    depth_overlap_errors,
    overlap_errors,
    psnr_from_mse,
)
from mvdiff.eval.settings import PAPER_SIZE, PairRule
from mvdiff.eval.sources import ScoredSample
from mvdiff.geometry.depth import DEFAULT_DEPTH_TOLERANCE, DepthTolerance

MEAN, POOLED = "overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"
_AVERAGES = {  # functions of [S, 4] sums per sample: PSNRs, pairs, squared errors, values
    MEAN: lambda sums: float(sums[:, 0].sum() / sums[:, 1].sum()),
    POOLED: lambda sums: psnr_from_mse(float(sums[:, 2].sum() / sums[:, 3].sum())),
}
_AVERAGE_NAMES = {MEAN: "mean over pairs", POOLED: "squared error pooled over all pixels"}
_BY_DEPTH = 4  # index in a pair's row: target, source, squared error, number of values, by depth


class OverlapPSNR(SampleMetric):
    """Overlap PSNR, averaged over pairs and pooled over pixels; see `mvdiff.eval.overlap`.

    The mean over pairs also reports `per_sample` means and, with a reference, `mean_of_pair_ratios`. Views with depth
    also get `unoccluded`: the same number over pixels within the stricter `DEFAULT_DEPTH_TOLERANCE`.

    Args:
        overlap_size: Height in pixels to which views that share a centre are resized; 0 keeps their size. Views with
            depth always keep theirs.
        overlap_pairs: Pairs to compare, see `view_pairs` and `depth_view_pairs`.
        overlap_depth_error: Largest depth error in metres of a compared pixel (views with depth).
        device: Device on which images are warped.
        **options: See `SampleMetric`.
    """

    name = "overlap_psnr"
    reads_covered: ClassVar[bool] = True
    needs: ClassVar = {
        "overlap": "no sample has two views that overlap. An image alone has one view; docs/evaluate.md shows samples."
    }
    columns = (
        Column(MEAN, "overlap PSNR, mean of pairs", "dB", higher_is_better=True),
        Column(POOLED, "overlap PSNR, pooled", "dB", higher_is_better=True),
    )

    def __init__(
        self,
        *,
        overlap_size: int = PAPER_SIZE,
        overlap_pairs: PairRule = "adjacent",
        overlap_depth_error: float = 0.5,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size, self.pairs, self.depth_error = overlap_size or None, overlap_pairs, overlap_depth_error
        self.image_device = torch.device(device)
        self.add_rows("pairs")
        self.add_rows("unoccluded")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Compare the overlapping views of a sample.

        Raises:
            ValueError: Only some samples have depths, views without depths do not share a centre, or a depth or camera
                is not finite.
        """
        check_finite(depths=sample.depths, K=sample.K, R=sample.R, t=sample.t)
        by_depth = sample.depths is not None
        before = next((part for part in (*self.pairs_generated, *self.pairs_real) if len(part)), None)
        if before is not None and bool(before[0, _BY_DEPTH]) != by_depth:
            raise ValueError(
                "samples of an overlap PSNR must all have depths or all have none; got both. Score them separately, "
                "each with a reference of the same kind."
            )
        images = sample.images_uint8.to(self.image_device)
        if sample.depths is None:
            if sample.t is not None and bool((sample.t - sample.t[:1]).norm(dim=-1).max() > 1e-4):
                raise ValueError(
                    "views with different centres need depths for an overlap PSNR; got none. Write depth/<i>.png into "
                    "the samples."
                )
            views = images, sample.K, sample.R
            self._append("pairs", sample, real, overlap_errors(*views, self.size, self.pairs, covered=sample.covered))
            return
        t = sample.R.new_zeros(len(sample.R), 3) if sample.t is None else sample.t
        views = images, sample.depths, sample.K, sample.R, t, self.pairs
        tolerance = DepthTolerance(self.depth_error, 0.0)
        self._append("pairs", sample, real, depth_overlap_errors(*views, tolerance))
        self._append("unoccluded", sample, real, depth_overlap_errors(*views, DEFAULT_DEPTH_TOLERANCE))

    def compute(self) -> dict[str, Result]:
        """Average the pairs of all samples in both ways."""
        own, real = self.rows("pairs", real=False), self.rows("pairs", real=True)
        if not own.samples:
            raise MissingMetricError(self.needs["overlap"])
        by_depth = bool(own.values[0, _BY_DEPTH])
        if bool((torch.cat([own.values, real.values.reshape(-1, 5)])[:, _BY_DEPTH] != by_depth).any()):
            raise ValueError("samples of an overlap PSNR must all have depths or all have none; got both.")
        generated, reference = _errors(own), _errors(real)
        numbers = combine([errors for _, errors in generated])
        sums = [(sum(e.psnr_of_pairs()), len(e.pairs), sum(e.squared_error), sum(e.num_values)) for _, e in generated]
        results = {}
        for name, average in _AVERAGES.items():
            results[name] = Result(
                numbers[name],
                "depth and pose" if by_depth else "homography",
                f"{_AVERAGE_NAMES[name]}; {self._protocol(by_depth)}",
                n={"num_pairs": numbers["num_pairs"]} | sample_counts(own.keys, real.keys),
                interval=self.interval(average, np.array(sums)),
                extra=self._unoccluded(name),
                **_beside(numbers[name], reference, name),
            )
        results[MEAN].extra |= _mean_of_ratios(generated, dict(reference))
        results[MEAN].per_sample = {key: errors.mean_psnr() for key, errors in generated}
        return results

    def _append(self, name: str, sample: ScoredSample, real: bool, errors: PairErrors) -> None:
        by_depth = float(sample.depths is not None)
        pairs = zip(errors.pairs, errors.squared_error, errors.num_values, strict=True)
        rows = [(*pair, error, count, by_depth) for pair, error, count in pairs]
        self.append(name, sample, real, torch.tensor(rows, dtype=torch.float64).reshape(-1, 5))

    def _unoccluded(self, name: str) -> dict[str, Any]:
        own = combine([errors for _, errors in _errors(self.rows("unoccluded", real=False))])
        if not own["num_pairs"]:
            return {}
        beside = _beside(own[name], _errors(self.rows("unoccluded", real=True)), name)
        return {"unoccluded": {"value": own[name], "num_pairs": own["num_pairs"]} | beside}

    def _protocol(self, by_depth: bool) -> str:
        rule = self.pairs if isinstance(self.pairs, str) else "given"
        if by_depth:
            rule = "consecutive" if rule == "adjacent" else rule
            return f"{rule} pairs; the images' own size; pixels whose depth is off by at most {self.depth_error:g} m"
        size = "the images' own size" if self.size is None else f"images resized to {self.size}"
        return f"{rule} pairs; {size}; pixels whose warped mask is exactly one"


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
