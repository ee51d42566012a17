"""Border ratio: how much of a seam stands where the field of view of a neighbour ends (own protocol).

The step between two pixels next to each other in a row is their absolute difference, averaged over the channels. Both
views of each pair (`overlap_pairs`) are neighbours of each other. A border lies in a row of a view where one of two
pixels next to each other lies in the image of the neighbour and the other does not; on the paper's ring that is the
middle column, and above and below the neighbour the slanted lines at which its image ends. The ratio is the mean step
over all borders of a sample, divided by the mean step `NEAREST` to `FARTHEST` columns from them in the same rows. Views
keep their size. In views with depth, steps over an edge in depth (`MAX_DEPTH_STEP`) and next to unknown depths do not
count, and what is hidden still lies in the field of view.

Axes: V views, H x W image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.metric import OWN_SIZE, Column, MissingMetricError, PerSampleMetric, Result
from mvdiff.eval.overlap import unit_range
from mvdiff.eval.overlap_metric import centres, check_comparable
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import PairRule
from mvdiff.eval.view_pairs import depth_view_pairs, view_pairs
from mvdiff.eval.warped_pairs import Pairs
from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.depth import depth_correspondence
from mvdiff.geometry.sampling import cell_centres

NEAREST, FARTHEST = 2, 8
MAX_DEPTH_STEP = 0.05
"""Largest step in depth between two pixels of one surface, as a share of the smaller depth."""


class BorderRatio(PerSampleMetric):
    """Step at the borders of the neighbours' fields of view over the step around them; best is the truth's, about 1.

    Args:
        overlap_pairs: Pairs of neighbours, see `view_pairs` and `depth_view_pairs`.
        **options: See `SampleMetric`.
    """

    name = "border_ratio"
    columns = (Column("border_ratio", "step at neighbours' borders / around"),)
    variant = (
        f"step in a row at the border of a neighbour's field of view over the steps {NEAREST} to {FARTHEST} columns "
        f"away; {OWN_SIZE}; pooled within a sample, then their mean"
    )
    model = "finite differences"

    def __init__(self, *, overlap_pairs: PairRule = "adjacent", **options: Any) -> None:
        super().__init__(**options)
        self.pairs = overlap_pairs

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Divide the mean step at borders by the mean step around them; no number without both.

        Raises:
            ValueError: A depth or camera is not finite, or views without depths do not share a centre.
        """
        check_comparable(sample)
        K, R, (height, width) = sample.K.double(), sample.R.double(), sample.images_uint8.shape[-2:]
        if sample.depths is None:
            pairs = view_pairs(K, R, height, width, self.pairs)
            pixels = cell_centres(height, width, 1)

            def visible(target: int, source: int) -> Tensor:
                H = homography(K[target], R[target], K[source], R[source])
                return apply_homography(H, pixels, height, width)[1]

            ratio = border_ratio(sample.images_uint8, pairs, visible)
        else:
            views = sample.depths, K, R, centres(sample)
            pairs = depth_view_pairs(*views[1:], sample.depths, self.pairs)

            def visible(target: int, source: int) -> Tensor:
                both = [values[view] for view in (target, source) for values in views]
                return depth_correspondence(*both, tolerance=None)[1]

            ratio = border_ratio(sample.images_uint8, pairs, visible, same_surface(sample.depths))
        return {} if ratio is None else {"border_ratio": ratio}

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples."""
        result = self.mean_of("border_ratio")
        if isinstance(result, MissingMetricError):
            result = MissingMetricError("no sample has a view in which the field of view of a neighbour ends.")
        return {"border_ratio": result}


def border_ratio(
    images: Tensor, pairs: Pairs, visible: Callable[[int, int], Tensor], counted: Tensor | None = None
) -> float | None:
    """Compute the border ratio of one sample.

    Args:
        images: [V, 3, H, W], uint8 or float in [-1, 1].
        pairs: Pairs of neighbours.
        visible: Function from (target, source) to the pixels [H, W] bool of the target in the source's field of view.
        counted: [V, H, W - 1] bool, the steps that may count; None: all.

    Returns:
        The ratio; None without a border or without contrast around it.

    Example:
        >>> left = torch.arange(20) < 10  # the neighbour shows the left half; steps of 0.1 there, of 0.01 elsewhere
        >>> row = (torch.arange(20) + 9 * (torch.arange(20) > 9)) / 100
        >>> images = (2 * row - 1).expand(2, 3, 4, 20)
        >>> round(border_ratio(images, [(0, 1)], lambda target, source: left.expand(4, 20)), 4)
        10.0
    """
    steps = torch.cat([unit_range(view).double().diff(dim=-1).abs().mean(dim=1) for view in images.split(1)])
    counted = torch.ones_like(steps, dtype=torch.bool) if counted is None else counted
    sums, counts = [0.0, 0.0], [0, 0]
    for target, source in [both for pair in pairs for both in (pair, pair[::-1])]:
        inside = visible(target, source)
        rows, columns = (inside[:, 1:] != inside[:, :-1]).nonzero(as_tuple=True)
        for offset in (0, *(side * distance for distance in range(NEAREST, FARTHEST + 1) for side in (-1, 1))):
            in_row = (columns + offset >= 0) & (columns + offset < steps.shape[-1])
            places = target, rows[in_row], columns[in_row] + offset
            values = steps[places][counted[places]]
            sums[offset != 0] += float(values.sum())
            counts[offset != 0] += len(values)
    if not all(counts) or not sums[1]:
        return None
    return (sums[0] / counts[0]) / (sums[1] / counts[1])


def same_surface(depths: Tensor) -> Tensor:
    """Return [V, H, W - 1] bool, True where two pixels next to each other have depths [V, H, W] close to each other."""
    left, right = depths[..., :-1].double(), depths[..., 1:].double()
    nearer = torch.minimum(left, right)
    return (nearer > 0) & ((left - right).abs() <= MAX_DEPTH_STEP * nearer)
