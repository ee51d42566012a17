"""Which pairs of views are compared: neighbours, all that overlap, or those of a list.

Axes: V views, H x W image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mvdiff.eval.settings import PairRule
from mvdiff.eval.warped_pairs import Pairs
from mvdiff.geometry.correspondence import overlapping_neighbours
from mvdiff.geometry.depth_overlap import overlap_matrix

MIN_PAIR_OVERLAP = 0.3


def view_pairs(K: Tensor, R: Tensor, height: int, width: int, rule: PairRule = "adjacent") -> Pairs:
    """Select the pairs to compare among views that share a centre.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        height: Image height in pixels to which K refers.
        width: Image width in pixels to which K refers.
        rule: `"adjacent"`: the pairs whose viewing directions are closest, within 1 degree of the smallest angle (on
            the paper's ring, the 8 pairs 45 degrees apart). `"overlapping"`: every pair of
            `mvdiff.geometry.overlapping_neighbours`. Or a list of `(target, source)` pairs.

    Returns:
        `(target, source)` pairs. With a named rule the source is the view farther to the right, so the result does not
        depend on the order of the views.

    Raises:
        ValueError: The rule is unknown, or a pair names a view that does not exist.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=64, width=64).cameras()
        >>> view_pairs(K, R, 64, 64)
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 0)]
    """

    def adjacent() -> Iterable[tuple[int, int]]:
        forward = R[:, :, 2].double()
        angle = torch.rad2deg(torch.acos((forward @ forward.T).clamp(-1, 1)))
        rows, columns = torch.triu_indices(len(R), len(R), offset=1)
        if len(rows) == 0:
            return []
        between = angle[rows, columns]
        near = between <= between.min() + 1.0
        return zip(rows[near].tolist(), columns[near].tolist(), strict=True)

    def overlapping() -> Iterable[tuple[int, int]]:
        neighbours = overlapping_neighbours(K, R, height, width).tolist()
        return {tuple(sorted((i, j))) for i, row in enumerate(neighbours) for j in row if j >= 0}

    def rightwards(i: int, j: int) -> tuple[int, int]:
        return (j, i) if float(R[i, :, 0] @ R[j, :, 2]) < -1e-6 else (i, j)

    pairs = _pairs(rule, len(R), adjacent, overlapping)
    return sorted(rightwards(i, j) for i, j in pairs) if isinstance(rule, str) else pairs


def depth_view_pairs(K: Tensor, R: Tensor, t: Tensor, depths: Tensor, rule: PairRule = "adjacent") -> Pairs:
    """Select the `(target, source)` pairs to compare among views with depth.

    `"adjacent"` selects consecutive views (0, 1), (1, 2), ..., as in the paper. `"overlapping"` selects every pair
    whose overlap exceeds 0.3 in both directions, with the later view as the source. A list of pairs is used as it is.

    Raises:
        ValueError: The rule is unknown, or a pair names a view that does not exist.

    Example:
        >>> eye, t, depths = torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3), torch.ones(3, 4, 4)
        >>> depth_view_pairs(eye, eye, t, depths), depth_view_pairs(eye, eye, t, depths, [(0, 2)])
        ([(0, 1), (1, 2)], [(0, 2)])
    """

    def overlapping() -> Iterable[tuple[int, int]]:
        overlap = overlap_matrix(K, R, t, depths, min(4, *depths.shape[-2:]))
        shared = torch.minimum(overlap, overlap.mT).triu(diagonal=1) > MIN_PAIR_OVERLAP
        return map(tuple, shared.nonzero().tolist())

    return _pairs(rule, len(R), lambda: ((view, view + 1) for view in range(len(R) - 1)), overlapping)


def _pairs(
    rule: PairRule,
    num_views: int,
    adjacent: Callable[[], Iterable[tuple[int, int]]],
    overlapping: Callable[[], Iterable[tuple[int, int]]],
) -> Pairs:
    rules = {"adjacent": adjacent, "overlapping": overlapping}
    if isinstance(rule, str):
        if rule not in rules:
            raise ValueError(f"overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got {rule!r}.")
        return list(rules[rule]())
    pairs = [(int(i), int(j)) for i, j in rule]
    for i, j in pairs:
        if not (0 <= i < num_views and 0 <= j < num_views and i != j):
            raise ValueError(f"pairs must name two different views from 0 to {num_views - 1}; got ({i}, {j}).")
    return pairs
