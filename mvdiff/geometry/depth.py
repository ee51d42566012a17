"""Where a pixel with a depth is seen in other views: unprojection, projection, occlusion, and how much views overlap.

Conventions: see :mod:`mvdiff.geometry`. Poses are world-from-camera, ``x_world = R @ x_camera + t`` with t in metres;
depths are z-depths in metres, and a depth that is not finite and positive means that there is none. V views, U the
other view, M points. All work is done in float64, which neither autocast nor TF32 touches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mvdiff.geometry.sampling import cell_centres, inside_image
from mvdiff.shapes import check_shapes

MIN_DEPTH = 1e-6
"""A point counts as in front of a camera when its z exceeds this, in metres."""
TIE = 1e-4
"""Pixels by which a position is moved right and down before the nearest pixel is taken, so that the centres of cells of
an even stride, which lie exactly between pixels, do not fall to either side by rounding errors."""


class DepthTolerance(NamedTuple):
    """Two depths agree when they differ by at most ``absolute + relative * depth``.

    Attributes:
        absolute: metres.
        relative: share of the depth that the target view has.
    """

    absolute: float = 0.05
    relative: float = 0.03


DEFAULT_DEPTH_TOLERANCE = DepthTolerance()


def unproject(xy: Tensor, depth: Tensor, K: Tensor, R: Tensor, t: Tensor) -> Tensor:
    """Return the world points that pixels with a depth show: ``R (depth K^-1 (x, y, 1)) + t`` (paper section 4.1).

    Args:
        xy: [..., 2] (x, y) pixel coordinates.
        depth: [...] z-depth in metres.
        K: [..., 3, 3] intrinsics in pixels. The leading axes of the cameras broadcast with those of the points: for
            points [V, M, 2] and cameras [V, 3, 3] pass ``K[:, None]``, ``R[:, None]``, ``t[:, None]``.
        R: [..., 3, 3] world-from-camera.
        t: [..., 3] camera centre in the world, metres.

    Returns:
        [..., 3] world points in metres, float64.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, t = intrinsics_from_fov(90.0, height=4, width=8), torch.tensor([0.0, 0.0, 10.0])
        >>> unproject(torch.tensor([7.5, 1.5]), torch.tensor(2.0), K, torch.eye(3), t).tolist()  # 45 degrees right
        [2.0, 0.0, 12.0]
    """
    check_shapes(xy=(xy, "... 2"), K=(K, "... 3 3"), R=(R, "... 3 3"), t=(t, "... 3"))
    xy = xy.double()
    rays = _apply(torch.linalg.inv(K.double()), torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1))
    return _apply(R.double(), rays * depth.double()[..., None]) + t.double()


def project_points(
    points: Tensor, K: Tensor, R: Tensor, t: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project world points into a view: ``K R^T (point - t)``, divided by its z (paper section 4.1).

    Args:
        points: [..., 3] world points in metres.
        K: [..., 3, 3] intrinsics in pixels; cameras broadcast with points as in :func:`unproject`.
        R: [..., 3, 3] world-from-camera.
        t: [..., 3] camera centre in the world, metres.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        [..., 2] pixel coordinates, always finite (0 behind the camera); [...] z in the camera, metres, negative behind
        it; [...] bool ``visible``: in front of the camera and inside its image. All float64 but the last.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, t = intrinsics_from_fov(90.0, height=4, width=8), torch.tensor([1.0, 0.0, 0.0])  # f = 4, 1 m right
        >>> xy, z, visible = project_points(torch.tensor([0.0, 0.0, 2.0]), K, torch.eye(3), t, 4, 8)
        >>> xy.tolist(), z.item(), visible.item()  # f / 2 to the left of the middle (3.5, 1.5)
        ([1.5, 1.5], 2.0, True)
    """
    check_shapes(points=(points, "... 3"), K=(K, "... 3 3"), R=(R, "... 3 3"), t=(t, "... 3"))
    camera = _apply(R.double().mT, points.double() - t.double())
    x, y, z = _apply(K.double(), camera).unbind(dim=-1)
    in_front = z > MIN_DEPTH
    scale = torch.where(in_front, 1 / torch.where(in_front, z, 1), 0)
    xy = torch.stack([x * scale, y * scale], dim=-1)
    return xy, camera[..., 2].expand_as(z), in_front & inside_image(xy, height, width)


def depth_correspondence(
    depths_source: Tensor,
    K_source: Tensor,
    R_source: Tensor,
    t_source: Tensor,
    depths_target: Tensor,
    K_target: Tensor,
    R_target: Tensor,
    t_target: Tensor,
    tolerance: DepthTolerance | None = DEFAULT_DEPTH_TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Say where every pixel of a view is seen in another view (paper section 4.1: unprojection and projection).

    Args:
        depths_source: [..., H, W] z-depth in metres, 0 = none.
        K_source: [..., 3, 3] intrinsics in pixels.
        R_source: [..., 3, 3] world-from-camera.
        t_source: [..., 3] camera centre in the world, metres.
        depths_target: [..., H', W'] z-depth of the other view, the same leading axes.
        K_target: [..., 3, 3].
        R_target: [..., 3, 3].
        t_target: [..., 3].
        tolerance: how far the point's z in the target may be from the target's depth there; None: no occlusion test,
            and the target's depths do not matter.

    Returns:
        [..., H, W, 2] pixel coordinates in the target, float64, finite, and [..., H, W] bool ``visible``: the pixel has
        a depth, and its point is in front of the target camera, inside its image, and not occluded.

    Raises:
        ValueError: shapes do not fit, or a camera is not finite.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, eye, two = intrinsics_from_fov(90.0, height=4, width=8), torch.eye(3), torch.full((4, 8), 2.0)
        >>> xy, visible = depth_correspondence(two, K, eye, torch.zeros(3), two, K, eye, torch.tensor([1.0, 0.0, 0.0]))
        >>> xy[1, 4].tolist(), visible[1].tolist()  # f = 4, depth 2: everything moves left by 2 pixels
        ([2.0, 1.0], [False, False, True, True, True, True, True, True])
    """
    check_shapes(
        depths_source=(depths_source, "... H W"),
        K_source=(K_source, "... 3 3"),
        R_source=(R_source, "... 3 3"),
        t_source=(t_source, "... 3"),
        depths_target=(depths_target, "... h w"),
        K_target=(K_target, "... 3 3"),
        R_target=(R_target, "... 3 3"),
        t_target=(t_target, "... 3"),
    )
    check_finite_cameras(K=K_source, R=R_source, t=t_source)
    check_finite_cameras(K=K_target, R=R_target, t=t_target)
    height, width = depths_target.shape[-2:]
    centres = cell_centres(*depths_source.shape[-2:], 1, device=depths_source.device)
    source = (camera[..., None, None, :, :] for camera in (K_source, R_source))
    target = (camera[..., None, None, :, :] for camera in (K_target, R_target))
    depth, has_depth = known_depths(depths_source)
    points = unproject(centres, depth, *source, t_source[..., None, None, :])
    xy, z, visible = project_points(points, *target, t_target[..., None, None, :], height, width)
    visible = visible & has_depth
    if tolerance is not None:
        lead = xy.shape[:-3]
        depths_target = depths_target.expand(*lead, height, width).reshape(-1, height, width)
        view = torch.arange(len(depths_target), device=xy.device).reshape(*lead, 1, 1)
        visible = visible & depths_agree(z, depth_at(depths_target, view, xy), tolerance)
    return xy, visible


@torch.no_grad()
def overlap_matrix(
    K: Tensor,
    R: Tensor,
    t: Tensor,
    depths: Tensor,
    stride: int = 4,
    tolerance: DepthTolerance | None = DEFAULT_DEPTH_TOLERANCE,
) -> Tensor:
    """Return how much of each view every other view shows (own derivation; upstream's has no occlusion test).

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres in the world, metres.
        depths: [V, H, W] z-depth in metres, 0 = none.
        stride: every stride-th pixel of every stride-th row is looked at, from stride // 2 on.
        tolerance: see :func:`depth_correspondence`; None: no occlusion test.

    Returns:
        [V, V] float64 in [0, 1]: entry (i, j) is the share of all the pixels looked at in view i that view j shows. A
        pixel without depth counts as not shown, so the diagonal is the share of pixels with a depth.

    Raises:
        ValueError: shapes do not fit, a camera is not finite, or the stride leaves no pixel.

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
            f"stride must be between 1 and the image's smaller side, {min(height, width)} pixels; got {stride}. "
            "Use a smaller one."
        )
    looked_at = slice(stride // 2, None, stride)
    xy = cell_centres(height, width, 1, device=depths.device)[looked_at, looked_at].reshape(-1, 2)
    depth_VM, has_depth_VM = known_depths(depths[:, looked_at, looked_at].flatten(1))
    views = torch.arange(len(K), device=depths.device)[:, None]
    rows = []
    for view in range(len(K)):  # one view at a time: memory grows with V, not with V * V
        points = unproject(xy, depth_VM[view], K[view], R[view], t[view])
        there, z, visible = project_points(points, K[:, None], R[:, None], t[:, None], height, width)
        visible = visible & has_depth_VM[view]
        if tolerance is not None:
            visible = visible & depths_agree(z, depth_at(depths, views, there), tolerance)
        rows.append(visible.double().mean(dim=-1))
    return torch.stack(rows)


def overlap_neighbours(overlap: Tensor, min_overlap: float = 0.3, max_neighbours: int | None = None) -> Tensor:
    """List the views that each view attends to: those that overlap it both ways (PAPER.md 5.7, rule of upstream).

    View j is a neighbour of view i where the smaller of ``overlap[i, j]`` and ``overlap[j, i]`` exceeds
    ``min_overlap``. A view without any has the views before and after it, without wrapping around.

    Args:
        overlap: [V, V] shares in [0, 1], see :func:`overlap_matrix`.
        min_overlap: what the smaller share must exceed.
        max_neighbours: keep this many, those that overlap most; None: all.

    Returns:
        [V, N] long, N the largest number of neighbours (at least 1), ascending, -1 as padding at the end.

    Raises:
        ValueError: the matrix is not square, or ``max_neighbours`` is less than 1.

    Example:
        >>> overlap_neighbours(torch.tensor([[1.0, 0.5, 0.9], [0.4, 1.0, 0.1], [0.2, 0.1, 1.0]])).tolist()
        [[1], [0], [1]]
    """
    V = check_shapes(overlap=(overlap, "V V"))["V"]
    if max_neighbours is not None and max_neighbours < 1:
        raise ValueError(f"max_neighbours must be at least 1, or None for all; got {max_neighbours}. Use None or more.")
    both_ways = torch.minimum(overlap, overlap.mT).tolist()
    rows = []
    for view in range(V):
        found = [other for other in range(V) if other != view and both_ways[view][other] > min_overlap]
        found = found or [other for other in (view - 1, view + 1) if 0 <= other < V]
        best = sorted(found, key=lambda other: (-both_ways[view][other], abs(other - view)))
        rows.append(sorted(best[:max_neighbours]))
    N = max(1, *(len(row) for row in rows)) if rows else 1
    return torch.tensor([row + [-1] * (N - len(row)) for row in rows], dtype=torch.long, device=overlap.device)


def known_depths(depths: Tensor) -> tuple[Tensor, Tensor]:
    """Return depths [...] as float64 with 1 where there is none, and [...] bool where there is one."""
    has_depth = torch.isfinite(depths) & (depths > 0)
    return torch.where(has_depth, depths.double(), 1), has_depth


def depth_at(depths: Tensor, view: Tensor, xy: Tensor) -> Tensor:
    """Look up the depth of the pixel nearest to a position; positions outside take the border's.

    Args:
        depths: [V, H, W] metres.
        view: [...] long, index of the depth map, broadcast with the positions.
        xy: [..., 2] (x, y) pixel coordinates, finite.

    Returns:
        [...] metres, in the depths' dtype; 0 where there is none.
    """
    height, width = depths.shape[-2:]
    column, row = ((xy + (0.5 + TIE)).floor().clamp(-1, max(height, width)).long()).unbind(dim=-1)
    found = depths[view, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(torch.isfinite(found) & (found > 0), found, 0)


def depths_agree(z: Tensor, depth: Tensor, tolerance: DepthTolerance) -> Tensor:
    """Tell where [...] z, in metres, agrees with [...] depth (0 = none: never)."""
    depth = depth.double()
    return (depth > 0) & ((z - depth).abs() <= tolerance.absolute + tolerance.relative * depth)


def check_finite_cameras(**cameras: Tensor) -> None:
    """Check that K, R and t are finite.

    Raises:
        ValueError: one is not; the text names it.
    """
    for name, values in cameras.items():
        if not bool(torch.isfinite(values).all()):
            first = torch.nonzero(~torch.isfinite(values))[0].tolist()
            raise ValueError(f"{name} must be finite; got NaN or inf at index {first}. Leave such frames out.")


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Multiply [..., 3, 3] matrices with [..., 3] vectors, leading axes broadcast."""
    x, y, z = vectors.unbind(dim=-1)
    return torch.stack([matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] * z for i in range(3)], -1)
