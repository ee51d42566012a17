"""Base class of the metrics over overlapping views; those with the same settings share the warp of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mvdiff.eval.metric import OWN_SIZE, MissingMetricError, SampleMetric, check_finite
from mvdiff.eval.overlap import warped_depth_views, warped_views
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import PAPER_SIZE, PairRule
from mvdiff.eval.warped_pairs import WarpedPair, correlation
from mvdiff.geometry.depth import DepthTolerance

GRID = 32
"""Largest number of rows and columns of the grid on which the pixels of a pair are kept."""


@dataclass(frozen=True)
class PairMeasures:
    """Numbers and some pixels of one pair of views.

    Attributes:
        target: Index of the target view.
        source: Index of the source view, which is warped into the target.
        size: Height and width of the compared images in pixels.
        squared_error: Sum of squared errors over pixels and channels, intensities in [0, 1].
        num_values: Number of compared values (pixels x channels).
        correlation: ZNCC, see `mvdiff.eval.warped_pairs.correlation`.
        on_grid: bool [GRID, GRID] on the CPU, the grid pixels that are compared.
        grid_values: uint8 [6, n] on the CPU, these pixels: three channels in the target, three in the warped source.
    """

    target: int
    source: int
    size: tuple[int, int]
    squared_error: float
    num_values: int
    correlation: float
    on_grid: Tensor
    grid_values: Tensor


class OverlapMetric(SampleMetric):
    """A metric over pairs of overlapping views.

    Args:
        overlap_size: Height in pixels to which views that share a centre are resized; 0 keeps their size. Views with
            depth always keep theirs.
        overlap_pairs: Pairs to compare, see `view_pairs` and `depth_view_pairs`.
        overlap_depth_error: Largest depth error in metres of a compared pixel (views with depth).
        device: Device on which images are warped.
        **options: See `SampleMetric`.
    """

    reads_covered: ClassVar[bool] = True
    needs: ClassVar = {
        "overlap": "no sample has two views that overlap. An image alone has one view; docs/evaluate.md shows samples."
    }

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
        self.add_rows("by_depth")

    def overlaps(self, sample: ScoredSample, real: bool) -> list[PairMeasures]:
        """Measure the pairs of a sample, once for all metrics with the same settings.

        Raises:
            ValueError: Only some samples have depths, views without depths do not share a centre, or a depth or camera
                is not finite.
        """
        check_comparable(sample)
        by_depth = sample.depths is not None
        kinds = (*self.by_depth_generated, *self.by_depth_real)
        if kinds and bool(kinds[0][0]) != by_depth:
            raise ValueError(
                "samples of an overlap PSNR must all have depths or all have none; got both. Score them separately, "
                "each with a reference of the same kind."
            )
        settings = ("overlaps", self.size, repr(self.pairs), self.depth_error, self.image_device)
        found = sample.once(settings, lambda: list(map(measured, self._warped(sample))))
        if found:
            self.append("by_depth", sample, real, torch.tensor([[by_depth]]))
        return found

    def views(self, sample: ScoredSample) -> tuple[Tensor, ...]:
        """Return images, depths, K, R and t of a sample with depths."""
        return sample.images_uint8.to(self.image_device), sample.depths, sample.K, sample.R, centres(sample)

    def kind(self) -> bool:
        """Return True if the samples have depths.

        Raises:
            MissingMetricError: No generated sample has views that overlap.
            ValueError: Only some samples have depths.
        """
        own, real = (self.rows("by_depth", side).values.flatten().tolist() for side in (False, True))
        if not own:
            raise MissingMetricError(self.needs["overlap"])
        if len({*own, *real}) > 1:
            raise ValueError("samples of an overlap PSNR must all have depths or all have none; got both.")
        return bool(own[0])

    def protocol(self, by_depth: bool) -> str:
        """Describe pairs, size and compared pixels."""
        rule = self.pairs if isinstance(self.pairs, str) else "given"
        if by_depth:
            rule = "consecutive" if rule == "adjacent" else rule
            return f"{rule} pairs; {OWN_SIZE}; pixels whose depth is off by at most {self.depth_error:g} m"
        size = OWN_SIZE if self.size is None else f"images resized to {self.size}"
        return f"{rule} pairs; {size}; pixels whose warped mask is exactly one"

    def _warped(self, sample: ScoredSample) -> Iterator[WarpedPair]:
        if sample.depths is not None:
            return warped_depth_views(*self.views(sample), self.pairs, DepthTolerance(self.depth_error, 0.0))
        images = sample.images_uint8.to(self.image_device)
        return warped_views(images, sample.K, sample.R, self.size, self.pairs, covered=sample.covered)


def check_comparable(sample: ScoredSample) -> None:
    """Check that the views of a sample can be warped into each other.

    Raises:
        ValueError: A depth or camera is not finite, or views without depths do not share a centre.
    """
    check_finite(depths=sample.depths, K=sample.K, R=sample.R, t=sample.t)
    if sample.depths is None and sample.t is not None and bool((sample.t - sample.t[:1]).norm(dim=-1).max() > 1e-4):
        raise ValueError(
            "views with different centres need depths for an overlap PSNR; got none. Write depth/<i>.png into the "
            "samples."
        )


def centres(sample: ScoredSample) -> Tensor:
    """Return the camera centres [V, 3] in metres; views without centres share one."""
    return sample.R.new_zeros(len(sample.R), 3) if sample.t is None else sample.t


def measured(pair: WarpedPair) -> PairMeasures:
    """Compare the views of a pair, and keep the pixels on a grid: every k-th, with the smallest k that fits `GRID`."""
    height, width = pair.own.shape[-2:]
    step = -(-max(height, width) // GRID)
    rows, columns = (torch.arange(step // 2, length, step, device=pair.index.device) for length in (height, width))
    places = rows[:, None] * width + columns
    found = torch.searchsorted(pair.index, places).clamp(max=len(pair.index) - 1)
    compared = pair.index[found] == places
    found = found[compared]
    sums, values = zip(*((channel.sums(), channel.at(found)) for channel in pair.channels()), strict=True)
    sums, values = torch.stack(sums), torch.stack(values, dim=1).flatten(0, 1)
    on_grid = torch.zeros(GRID, GRID, dtype=torch.bool)
    on_grid[: len(rows), : len(columns)] = compared
    return PairMeasures(
        target=pair.target,
        source=pair.source,
        size=(height, width),
        squared_error=float(sums[:, -1].sum()),
        num_values=len(sums) * len(pair.index),
        correlation=correlation(sums, len(pair.index)),
        on_grid=on_grid,
        grid_values=(values * 255).round().to("cpu", torch.uint8),
    )
