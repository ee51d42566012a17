"""Chance level of overlap PSNR and ZNCC: the neighbour is taken from another sample.

Other samples: all of them, or `MAX_OTHERS` spread evenly over the order of sample ids where there are more. Compared
are the pixels of a grid (`PairMeasures.on_grid`) that are visible in the pair of both samples, so about 24 kB per
sample are kept instead of its images.

The number of a sample depends on the others that it meets, so an interval over these numbers would be too narrow: it
covers 67 % instead of 95 %. The interval takes its standard error from a jackknife that leaves each sample out in both
roles, as the own sample and as one of the others (own derivation; for U-statistics see Arvesen 1969).

Axes: S samples, N pairs of samples, P grid pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.intervals import FEWEST, LEVEL, Interval, jackknife_interval
from mvdiff.eval.metric import Column, MissingMetricError, Result
from mvdiff.eval.overlap import psnr_from_mse
from mvdiff.eval.overlap_metric import GRID, OverlapMetric, PairMeasures
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.warped_pairs import correlation, pixel_sums

PSNR, ZNCC = "overlap_chance", "overlap_chance_zncc"
MAX_OTHERS = 16
MASK_BYTES = GRID**2 // 8
COMPARED_AT_ONCE = 32
"""Samples whose grids are compared at once: 32 need 3 MB for a moment."""
RULE = "Student's t, jackknife of each sample in both roles"


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
            self.append("grids", sample, real, torch.cat([pack(pair) for pair in pairs])[:, None])

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Compare every sample with the neighbours of others; average over others and pairs, then samples."""
        by_depth = self.kind()
        own, real = self._by_chance(real=False), self._by_chance(real=True)
        variant = (
            f"every view with its neighbour in up to {MAX_OTHERS} other samples, at up to {GRID} x {GRID} pixels; mean "
            f"over these pairs, then samples; {self.protocol(by_depth)}"
        )
        fields = {"model": "depth and pose" if by_depth else "homography", "variant": variant}
        results: dict[str, Result | MissingMetricError] = {}
        for name in (PSNR, ZNCC):
            if own[name]:
                level, left_out, num_pairs = chance_level(own[name])
                real_level = chance_level(real[name])[0] if real[name] else {}
                result = self.mean_over_samples(level, real_level, {"num_pairs": num_pairs}, **fields)
                result.interval = self._interval(result.value, left_out)
                result.extra = {"samples_depend": True}  # no paired differences of single samples
                results[name] = result
            else:
                results[name] = MissingMetricError(
                    "no two samples share a pair of views of one size. The chance level needs at least two samples."
                )
        return results

    def _by_chance(self, real: bool) -> dict[str, list[tuple[int, int, float]]]:
        """Return PSNR and ZNCC of every pair of views, with the keys of its sample and of the other."""
        alike: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        both = zip(self.rows("pairs", real).samples, self.rows("grids", real).samples, strict=True)
        for (key, pairs), (_, packed) in both:
            for pair, grid in zip(pairs.tolist(), split_pairs(packed[:, 0].numpy()), strict=True):
                alike[tuple(pair)].append((key, grid))
        found: dict[str, list[tuple[int, int, float]]] = {PSNR: [], ZNCC: []}
        for samples in alike.values():
            keys, grids = [key for key, _ in samples], torch.stack([unpack(grid) for _, grid in samples])
            for shift in shifts(len(samples)):
                measures = compare(grids, grids.roll(-shift, 0))
                for key, other, numbers in zip(keys, keys[shift:] + keys[:shift], measures, strict=True):
                    for name, number in zip((PSNR, ZNCC), numbers, strict=True):
                        found[name] += [(key, other, number)] * (not math.isnan(number))
        places = {key: place for place, key in enumerate(self.rows("pairs", real).keys)}
        return {name: sorted(measures, key=lambda one: places[one[0]]) for name, measures in found.items()}

    @staticmethod
    def _interval(value: float, left_out: np.ndarray) -> Interval:
        if len(left_out) >= FEWEST and not np.isfinite(left_out).all():
            return Interval(value, None, None, LEVEL, "none: all samples meet one sample only")
        return jackknife_interval(value, len(left_out), left_out, how=RULE)


def pack(pair: PairMeasures) -> Tensor:
    """Return the pixels of a pair on the grid as bytes [`MASK_BYTES` + 6 n]: which are compared, and their values."""
    mask = torch.from_numpy(np.packbits(pair.on_grid.numpy()))
    return torch.cat([mask, pair.grid_values.flatten()])


def split_pairs(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Split the bytes of several pairs, see `pack`, into those of each."""
    while len(pairs):
        end = MASK_BYTES + 6 * int(np.unpackbits(pairs[:MASK_BYTES]).sum())
        yield pairs[:end]
        pairs = pairs[end:]


def unpack(pair: np.ndarray) -> Tensor:
    """Return uint8 [7, P]: 1 for compared pixels, their channels in the target and in the warped source; else 0."""
    mask = np.unpackbits(pair[:MASK_BYTES])
    grid = np.zeros((7, GRID**2), dtype=np.uint8)
    grid[0] = mask
    grid[1:, mask == 1] = pair[MASK_BYTES:].reshape(6, -1)
    return torch.from_numpy(grid)


def chance_level(measures: Sequence[tuple[int, int, float]]) -> tuple[dict[int, float], np.ndarray, int]:
    """Average over pairs, and once more without each sample.

    Args:
        measures: Key of a sample, key of the other, and their number; several for different pairs of views.

    Returns:
        Mean over others and pairs of views by sample, in the order in which samples first appear; the mean of these
        means without each of the S samples that appear in either role, NaN if none is left; and the number of measures.

    Example:
        >>> level, left_out, _ = chance_level([(1, 2, 3.0), (1, 3, 5.0), (2, 1, 3.0), (2, 3, 9.0), (3, 1, 7.0)])
        >>> level, left_out.tolist()  # without 1: 9 for sample 2; without 2: 5 and 7; without 3: 3 and 3
        ({1: 4.0, 2: 6.0, 3: 7.0}, [9.0, 6.0, 3.0])
    """
    own, others, numbers = (np.array(column) for column in zip(*measures, strict=True))
    keys, index = np.unique(np.stack([own, others]), return_inverse=True)
    size, (row, column) = len(keys), index.reshape(2, -1)
    cells, cell = np.unique(row * size + column, return_inverse=True)
    sums, counts, (row, column) = np.bincount(cell, numbers), np.bincount(cell), np.divmod(cells, size)
    total, count = np.bincount(row, sums, size), np.bincount(row, minlength=size, weights=counts)
    known, values = count > 0, total / np.maximum(count, 1)
    remaining = count[row] - counts  # of a sample, without one of the others
    without = np.where(remaining > 0, (total[row] - sums) / np.maximum(remaining, 1), 0.0)
    left_sum = values.sum() - values + np.bincount(column, without - values[row], size)
    left_count = known.sum() - known - np.bincount(column, remaining == 0, size)
    left_out = np.where(left_count > 0, left_sum / np.maximum(left_count, 1), np.nan)
    level = dict(zip(keys[known].tolist(), values[known].tolist(), strict=True))
    return {key: level[key] for key in dict.fromkeys(own.tolist())}, left_out, len(numbers)


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
        grids: uint8 [S, 7, P], see `unpack`.
        others: uint8 [S, 7, P].

    Returns:
        PSNR in dB and ZNCC per sample, from exact integer sums; NaN without common pixels.
    """
    results = []
    for part in zip(grids.split(COMPARED_AT_ONCE), others.split(COMPARED_AT_ONCE), strict=True):
        grid, other = (values.int() for values in part)
        mask = grid[:, :1] & other[:, :1]
        sums = pixel_sums(grid[:, 1:4] * mask, other[:, 4:] * mask).double()
        sums /= torch.tensor([255, 255, *[255**2] * 4])
        for count, pair in zip(mask.sum(dim=(1, 2)).tolist(), sums, strict=True):
            mse = float(pair[:, -1].sum()) / (3 * count) if count else math.nan
            results.append((psnr_from_mse(mse), correlation(pair, count)) if count else (math.nan, math.nan))
    return results
