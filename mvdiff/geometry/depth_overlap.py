"""Overlap of views with depth and pose, and the neighbours chosen by it.

Conventions: see `mvdiff.geometry`. Axes: V views, M sampled pixels. Everything is computed in float64.
"""

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import neighbour_table
from mvdiff.geometry.depth import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    check_finite_cameras,
    depth_at,
    depths_agree,
    known_depths,
    relation,
    transfer,
)
from mvdiff.geometry.sampling import cell_centres, inside_image
from mvdiff.shapes import check_shapes


@torch.no_grad()
def overlap_matrix(
    K: Tensor,
    R: Tensor,
    t: Tensor,
    depths: Tensor,
    stride: int = 4,
    tolerance: DepthTolerance | None = DEFAULT_DEPTH_TOLERANCE,
) -> Tensor:
    """Return the share of each view's pixels visible in every other view (own derivation).

    The 2023 release computes it without an occlusion test.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres in the world, metres.
        depths: [V, H, W] z-depth in metres, 0 where unknown.
        stride: Sample every stride-th pixel of every stride-th row, starting at stride // 2.
        tolerance: See `depth_correspondence`; None skips the occlusion test.

    Returns:
        [V, V] float64 in [0, 1]: entry (i, j) is the share of sampled pixels of view i that are visible in view j. A
        pixel without depth counts as invisible, so the diagonal is the share of pixels with a depth.

    Raises:
        ValueError: Shapes do not match, a camera is not finite, or the stride leaves no pixel.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, R = intrinsics_from_fov(90.0, height=4, width=8).expand(2, 3, 3), torch.eye(3).expand(2, 3, 3)
        >>> t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> overlap_matrix(K, R, t, torch.full((2, 4, 8), 2.0), stride=1).tolist()
        [[1.0, 0.75], [0.75, 1.0]]
    """
    sizes = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"), depths=(depths, "V H W"))
    check_finite_cameras(K=K, R=R, t=t)
    height, width = sizes["H"], sizes["W"]
    if not 1 <= stride <= min(height, width):
        raise ValueError(
            f"stride must be between 1 and {min(height, width)}, the image's smaller side in pixels; got {stride}."
        )
    sampled = slice(stride // 2, None, stride)
    xy = cell_centres(height, width, 1, device=depths.device)[sampled, sampled].reshape(-1, 2)
    depth_VM, has_depth_VM = known_depths(depths[:, sampled, sampled].flatten(1))
    views = torch.arange(len(K), device=depths.device)[:, None]
    rows = []
    for view in range(len(K)):  # one view at a time: memory grows with V, not with V * V
        H, e = relation(K[view], R[view], t[view], K, R, t)
        xy_target, z, in_front = transfer(H[:, None], e[:, None], xy, depth_VM[view])
        visible = in_front & inside_image(xy_target, height, width) & has_depth_VM[view]
        if tolerance is not None:
            visible = visible & depths_agree(z, depth_at(depths, views, xy_target), tolerance)
        rows.append(visible.double().mean(dim=-1))
    return torch.stack(rows)


def overlap_neighbours(overlap: Tensor, min_overlap: float = 0.3, max_neighbours: int | None = None) -> Tensor:
    """List the neighbours of each view: the views that overlap it in both directions.

    View j is a neighbour of view i if both `overlap[i, j]` and `overlap[j, i]` exceed `min_overlap`. A view without
    such neighbours gets the views before and after it, without wrap-around. This is the rule of the 2023 release
    (docs/checkpoints.md) for frames with depth; for views that share a centre see
    `mvdiff.geometry.correspondence.overlapping_neighbours`.

    Args:
        overlap: [V, V] shares in [0, 1] from `overlap_matrix`.
        min_overlap: Overlap that neighbours must exceed, in [0, 1].
        max_neighbours: Keep at most this many neighbours with the largest overlap; None keeps all.

    Returns:
        [V, N] long, ascending, padded with -1 at the end of rows; N is the largest number of neighbours, at least 1.

    Raises:
        ValueError: The matrix is not square, or `max_neighbours` is less than 1.

    Example:
        >>> overlap_neighbours(torch.tensor([[1.0, 0.5, 0.9], [0.4, 1.0, 0.1], [0.2, 0.1, 1.0]])).tolist()
        [[1], [0], [1]]
    """
    V = check_shapes(overlap=(overlap, "V V"))["V"]
    if max_neighbours is not None and max_neighbours < 1:
        raise ValueError(f"max_neighbours must be at least 1, or None for all; got {max_neighbours}.")
    both_ways = torch.minimum(overlap, overlap.mT).tolist()
    rows = []
    for view in range(V):
        neighbours = [other for other in range(V) if other != view and both_ways[view][other] > min_overlap]
        neighbours = neighbours or [other for other in (view - 1, view + 1) if 0 <= other < V]
        best = sorted(neighbours, key=lambda other: (-both_ways[view][other], abs(other - view)))
        rows.append(sorted(best[:max_neighbours]))
    return neighbour_table(rows, V).to(overlap.device)
