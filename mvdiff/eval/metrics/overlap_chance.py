"""Chance level of overlap PSNR and ZNCC: the neighbour is taken from another sample.

Other samples: all of them, or `MAX_OTHERS` spread evenly over the order of sample ids where there are more. Compared
are the pixels of a grid (`mvdiff.eval.overlap_metric.grid_pixels`) that are visible in the pair of both samples, so a
few kilobytes per sample are kept instead of its images.

Axes: S samples, P grid pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.intervals import LEVEL, Interval
from mvdiff.eval.metric import Column, MissingMetricError, Result
from mvdiff.eval.overlap import psnr_from_mse
from mvdiff.eval.overlap_metric import GRID, OverlapMetric
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.warped_pairs import mean_of_known, zncc_from_moments

PSNR, ZNCC = "overlap_chance", "overlap_chance_zncc"
MAX_OTHERS = 16
NO_INTERVAL = "none: the value of each sample also depends on other samples"


class OverlapChance(OverlapMetric):
    """Overlap PSNR and ZNCC of views of different samples, the level that unrelated views reach (own protocol).

    Args:
        **options: See `OverlapMetric`.
    """

    name = "overlap_chance"
    columns = (
        Column(PSNR, "overlap PSNR by chance", "dB"),
        Column(ZNCC, "overlap correlation by chance", digits=3),
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_rows("pairs")
        self.add_rows("grids")

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Keep the grid pixels of a sample's pairs.

        Raises:
            ValueError: See `OverlapMetric.overlaps`.
        """
        pairs = self.overlaps(sample, real)
        if pairs:
            numbers = [(pair.target, pair.source, *pair.size) for pair in pairs]
            self.append("pairs", sample, real, torch.tensor(numbers))
            self.append("grids", sample, real, torch.stack([pair.grid.flatten() for pair in pairs]))

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Compare every sample with the neighbours of others; average over others and pairs, then samples."""
        by_depth = self.kind()
        own, num_pairs = self._by_chance(real=False)
        real, _ = self._by_chance(real=True)
        variant = (
            f"every view with its neighbour in up to {MAX_OTHERS} other samples, at up to {GRID} x {GRID} pixels; mean "
            f"over these pairs, then samples; {self.protocol(by_depth)}"
        )
        fields = {"model": "depth and pose" if by_depth else "homography", "variant": variant}
        results: dict[str, Result | MissingMetricError] = {}
        for name in (PSNR, ZNCC):
            if own[name]:
                result = self.mean_over_samples(own[name], real[name], {"num_pairs": num_pairs}, **fields)
                # Values of samples share the views of other samples, so an interval over them would be too narrow.
                result.interval = Interval(result.value, None, None, LEVEL, NO_INTERVAL)
                results[name] = result
            else:
                results[name] = MissingMetricError(
                    "no two samples share a pair of views of one size. The chance level needs at least two samples."
                )
        return results

    def _by_chance(self, real: bool) -> tuple[dict[str, dict[int, float]], int]:
        """Return PSNR and ZNCC by sample, and the number of pairs of views behind them."""
        alike: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        both = zip(self.rows("pairs", real).samples, self.rows("grids", real).samples, strict=True)
        for (key, pairs), (_, grids) in both:
            for pair, grid in zip(pairs.tolist(), grids.reshape(-1, 7, GRID**2), strict=True):
                alike[tuple(pair)].append((key, grid))
        found: dict[str, dict[int, list[float]]] = {PSNR: defaultdict(list), ZNCC: defaultdict(list)}
        for samples in alike.values():
            grids = torch.stack([grid for _, grid in samples])
            for shift in shifts(len(samples)):
                for (key, _), (psnr, zncc) in zip(samples, compare(grids, grids.roll(-shift, 0)), strict=True):
                    found[PSNR][key].append(psnr)
                    found[ZNCC][key].append(zncc)
        means = {
            name: {key: value for key, values in one.items() if not math.isnan(value := mean_of_known(values))}
            for name, one in found.items()
        }
        return means, sum(not math.isnan(value) for values in found[PSNR].values() for value in values)


def shifts(num_samples: int) -> list[int]:
    """Return by how many places in the order of ids the other samples follow a sample, counted in a circle.

    Example:
        >>> shifts(1), shifts(4), shifts(33)
        ([], [1, 2, 3], [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31])
    """
    others = num_samples - 1
    chosen = min(others, MAX_OTHERS)
    return [1 + index * others // chosen for index in range(chosen)]


def compare(grids: Tensor, others: Tensor) -> list[tuple[float, float]]:
    """Compare the targets of some pairs with the warped sources of others.

    Args:
        grids: uint8 [S, 7, P] of `grid_pixels`.
        others: uint8 [S, 7, P].

    Returns:
        PSNR in dB and ZNCC per sample, from exact integer sums; NaN without common pixels.
    """
    mask = (grids[:, :1] & others[:, :1]).int()
    own, warped = grids[:, 1:4] * mask, others[:, 4:] * mask
    num = mask.sum(dim=(1, 2))
    sums = [values.sum(dim=2) for values in (own, warped, own * warped, own * own, warped * warped)]
    results = []
    for count, *moments in zip(num.tolist(), *(values.double() for values in sums), strict=True):
        if not count:
            results.append((math.nan, math.nan))
            continue
        a, b, ab, aa, bb = (values / count for values in moments)
        mse = float((aa + bb - 2 * ab).mean()) / 255**2
        centred = (float((xy - x * y).mean()) / 255**2 for xy, x, y in ((ab, a, b), (aa, a, a), (bb, b, b)))
        results.append((psnr_from_mse(mse), zncc_from_moments(*centred)))
    return results
