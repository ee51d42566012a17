"""Correspondences as upstream's code computes them; its published weights were trained on these.

They differ from the conventions of `mvdiff.geometry` (see docs/checkpoints.md; upstream's half pixels are in
`mvdiff.geometry.sampling`): float32 throughout, matrix products from left to right, cells sampled at pixels other than
their centres, no test for points behind a camera. The order of operations matters: the encoding of displacements has
frequencies up to 2^79, so a rounding error in the last bit changes the result. Everything runs on the CPU, without TF32
and autocast. Use `mvdiff.geometry.correspondence` and `depth_taps` for anything else.

Cameras are K [V, 3, 3] intrinsics in pixels of the image, R [V, 3, 3] world-from-camera and t [V, 3] centres in metres;
`scales` are pixels per cell of each map, and must divide height and width.

Axes: V views, N neighbours of a view, T tokens (cells, row by row), P taps, H W image, h w cells of a map.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mvdiff.geometry.cameras import rotation_from_yaw_pitch
from mvdiff.geometry.depth import check_finite_cameras
from mvdiff.geometry.depth_overlap import overlap_neighbours
from mvdiff.geometry.sampling import upstream_cell_from_pixel, upstream_pixel_from_cell
from mvdiff.shapes import check_shapes

FAR_OUTSIDE = -1e6
"""Coordinate, in pixels, that stands for the projection of a pixel without depth."""
INVALID_Z = 1e6
"""Depth, in metres, of an invalid key."""
_INVERSE_ULPS = ((1, 0, 0, 1), (1, 2, 0, -1), (3, 0, 0, 1), (3, 0, 2, -1), (3, 2, 0, -1), (5, 0, 0, 1), (7, 0, 0, -1))
"""View, row, column, and units in the last place by which the release's inverse exceeds the transpose in size."""


@dataclass(frozen=True, eq=False)
class UpstreamTapGeometry:
    """Upstream's taps at one resolution, including invalid taps, which are keys too (null tokens).

    Taps are ordered with x in the outer and y in the inner loop.

    Attributes:
        neighbours: [V, N] long, index of the neighbour view; -1 for padding, which is not a key.
        taps_xy: [V, N, T, P, 2] float32, (x, y) cell coordinates in the neighbour's map; 0 for invalid taps.
        valid: [V, N, T, P] bool.
        encoded: [V, N, T, P, 2] float32, the two numbers that encode a key: for views that share a centre, the
            displacement in source cells, 0 for invalid taps; for views with depth, the differences of z in metres of
            the pair of keys.
        second: [V, N, T, P] bool, True for the second key of a pair; None for views that share a centre.
        height: Height of the maps in cells.
        width: Width of the maps in cells.
    """

    neighbours: Tensor
    taps_xy: Tensor
    valid: Tensor
    encoded: Tensor
    second: Tensor | None
    height: int
    width: int


def token_pixels(values: Tensor, scale: int) -> Tensor:
    """Sample a map [..., H, W] at the pixels of upstream's tokens, scale // 2 + scale * i.

    Example:
        >>> token_pixels(torch.arange(24).expand(8, 24), scale=8).tolist()
        [[4, 12, 20]]
    """
    return values[..., scale // 2 :: scale, scale // 2 :: scale]


def neighbours_in_ring(num_views: int) -> Tensor:
    """Return the neighbours [V, 2] of the views in a ring: the previous view, then the next.

    Example:
        >>> neighbours_in_ring(8)[[0, 7]].tolist()
        [[7, 1], [6, 0]]
    """
    views = torch.arange(num_views)
    return torch.stack([(views - 1) % num_views, (views + 1) % num_views], dim=1)


def rounded_rotations(R: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] of level cameras as upstream's code makes them.

    It rounds an angle in radians to float32 before it takes sine and cosine, so most of its rotations differ from ours
    in the last bit, which the highest frequencies of the encoding turn into another number. The angles are read from
    `R`, and snapped to thousandths of a degree where they are that close. A rotation with roll stays as it is.

    Args:
        R: float32, R_y(yaw) R_x(pitch), world-from-camera.

    Example:
        >>> from mvdiff.geometry.cameras import rotation_from_yaw_pitch
        >>> R = rotation_from_yaw_pitch(90.0, 0.0)
        >>> R[0, 0].item(), rounded_rotations(R)[0, 0].item()  # cos 90 degrees
        (6.123234262925839e-17, -4.371138828673793e-08)
    """
    exact = R.double()
    angles = torch.stack(
        [torch.atan2(-exact[..., 2, 0], exact[..., 0, 0]), torch.atan2(-exact[..., 1, 2], exact[..., 1, 1])]
    )
    degrees = angles.rad2deg()
    thousandths = degrees.round(decimals=3)
    degrees = torch.where((degrees - thousandths).abs() < 1e-4, thousandths, degrees)
    degrees[0] %= 360  # upstream's yaws are positive
    (sin_y, sin_p), (cos_y, cos_p) = (f(degrees.deg2rad().float().double()) for f in (torch.sin, torch.cos))
    zero = torch.zeros_like(sin_y)
    rows = [[cos_y, sin_y * sin_p, sin_y * cos_p], [zero, cos_p, -sin_p], [-sin_y, cos_y * sin_p, cos_y * cos_p]]
    rounded = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2).to(R.dtype)
    level = ((rounded - R).abs() < 1e-6).flatten(-2).all(-1)
    return torch.where(level[..., None, None], rounded, R)


@torch.no_grad()
def ring_tap_geometry(
    K: Tensor, R: Tensor, height: int, width: int, scales: Sequence[int], kernel_size: int = 3
) -> list[UpstreamTapGeometry]:
    """Compute the taps of views in a ring; each view attends to the previous and the next view.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera rotations.
        height: Height of the views in pixels.
        width: Width of the views in pixels.
        scales: Pixels per cell of each map.
        kernel_size: Side of the square of taps in cells, odd.

    Returns:
        One geometry per scale, on the CPU.

    Raises:
        ValueError: Shapes do not agree, or a scale does not divide height and width.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=64, width=64).cameras()
        >>> [level.taps_xy.shape for level in ring_tap_geometry(K, R, 64, 64, [8, 16])]  # [V, N, T, P, 2]
        [torch.Size([8, 2, 64, 9, 2]), torch.Size([8, 2, 16, 9, 2])]
    """
    V = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"))["V"]
    _check_scales(height, width, scales)
    with _plain_float32():
        K, R = K.detach().cpu().float(), R.detach().cpu().float()
        neighbours = neighbours_in_ring(V)
        source, target = torch.arange(V).repeat_interleave(2), neighbours.flatten()
        there = _homography(K[source], R[source], K[target], R[target])
        back = _homography(K[target], R[target], K[source], R[source])
        pixels = _pixels(height, width)
        seen = _apply_homography(there, pixels).view(V, 2, height, width, 2)
        return [_ring_level(seen, back, pixels, neighbours, scale, kernel_size) for scale in scales]


def _ring_level(
    seen: Tensor, back: Tensor, pixels: Tensor, neighbours: Tensor, scale: int, kernel_size: int
) -> UpstreamTapGeometry:
    V, N, H, W, _ = seen.shape
    own = _tokens(pixels[:2].view(2, H, W), scale)  # [2, T]
    steps = torch.arange(kernel_size, dtype=torch.float32) - kernel_size // 2
    steps = torch.cartesian_prod(steps, steps).view(-1, 2)  # outer loop x, inner loop y
    at = _tokens(seen.movedim(-1, 2), scale).movedim(2, -1)  # [V, N, T, 2]
    taps_xy = upstream_cell_from_pixel(at, scale).unsqueeze(-2) + steps
    coordinates = upstream_pixel_from_cell(taps_xy, scale)
    valid = ((coordinates > 0) & (coordinates < coordinates.new_tensor([W, H]))).all(-1)
    points = torch.cat([coordinates, torch.ones_like(coordinates[..., :1])], dim=-1)
    came_from = _apply_homography(back, points.view(V * N, -1, 3).transpose(1, 2)).view_as(coordinates)
    displacement = (came_from - own.T[:, None]) / scale
    return UpstreamTapGeometry(
        neighbours=neighbours,
        taps_xy=torch.where(valid[..., None], taps_xy, 0),
        valid=valid,
        encoded=torch.where(valid[..., None], displacement, 0),
        second=None,
        height=H // scale,
        width=W // scale,
    )


def _homography(K_source: Tensor, R_source: Tensor, K_target: Tensor, R_target: Tensor) -> Tensor:
    return K_target @ _inverse_rotations(R_target) @ R_source @ torch.inverse(K_source)


@cache
def _ring_rotations() -> tuple[Tensor, Tensor]:
    """Return the eight rotations of the paper's ring and their inverses, [8, 3, 3] each, as in the 2023 release.

    `torch.inverse` gives other last bits on each kind of processor. These inverses reproduce the predictions of the
    release's own code; they are transposes but for `_INVERSE_ULPS`.
    """
    yaws = torch.arange(0.0, 360.0, 45.0)
    R = rounded_rotations(rotation_from_yaw_pitch(yaws, torch.zeros(8)))
    bits = R.transpose(1, 2).contiguous().view(torch.int32)
    for view, row, column, ulps in _INVERSE_ULPS:
        bits[view, row, column] += ulps
    return R, bits.view(torch.float32)


def _inverse_rotations(R: Tensor) -> Tensor:
    ring, inverses = _ring_rotations()
    same = (R[:, None] == ring).flatten(2).all(-1)
    return torch.where(same.any(1)[:, None, None], inverses[same.int().argmax(1)], torch.inverse(R))


def _apply_homography(H: Tensor, points: Tensor) -> Tensor:
    """Map [..., 3, M] homogeneous pixels by [M', 3, 3] homographies to [M', M, 2], even behind the camera."""
    mapped = H @ points
    return (mapped[..., :2, :] / mapped[..., 2:, :]).transpose(-1, -2)


@torch.no_grad()
def upstream_depth_tap_geometry(
    K: Tensor,
    R: Tensor,
    t: Tensor,
    depths: Tensor,
    scales: Sequence[int],
    min_overlap: float = 0.3,
    views: Sequence[int] | None = None,
) -> list[UpstreamTapGeometry]:
    """Compute the taps of views with depth and pose: one per neighbour, at the projection of the token's point.

    Args:
        K: [V, 3, 3] intrinsics in pixels of the depths.
        R: [V, 3, 3] world-from-camera rotations.
        t: [V, 3] camera centres in metres.
        depths: [V, H, W] z-depth in metres, 0: no depth.
        scales: Pixels per cell of each map.
        min_overlap: Two views are neighbours if the smaller of their overlaps, in [0, 1], exceeds this.
        views: Indices of the views that are not padding; padding has no neighbours. Default: all.

    Returns:
        One geometry per scale, on the CPU, with P = 1.

    Raises:
        ValueError: Shapes do not agree, a camera is not finite, a scale does not divide the image, or a map has an odd
            number of cells (the keys are encoded in pairs).

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, R = intrinsics_from_fov(90.0, height=8, width=16).expand(2, 3, 3), torch.eye(3).expand(2, 3, 3)
        >>> t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> [level] = upstream_depth_tap_geometry(K, R, t, torch.full((2, 8, 16), 2.0), [4])
        >>> level.taps_xy[0, 0, 2, 0, 0].round(decimals=3).item()  # f / depth = 4 pixels, one cell, to the left
        1.0
    """
    sizes = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"), depths=(depths, "V H W"))
    check_finite_cameras(K=K, R=R, t=t)
    V, height, width = sizes["V"], sizes["H"], sizes["W"]
    _check_scales(height, width, scales)
    odd = [scale for scale in scales if (height // scale) * (width // scale) % 2]
    if odd:
        raise ValueError(
            f"height and width must give an even number of cells at each level for the 2023 release's depth attention, "
            f"which encodes keys in pairs; got {height}x{width} in cells of {odd[0]} pixels."
        )
    with _plain_float32():
        K, R, t, depths = (values.detach().cpu().float() for values in (K, R, t, depths))
        depths = torch.where(torch.isfinite(depths) & (depths > 0), depths, 0)
        poses = torch.eye(4).repeat(V, 1, 1)
        poses[:, :3, :3], poses[:, :3, 3] = R, t
        views = torch.arange(V) if views is None else torch.as_tensor(views, dtype=torch.long)
        seen = [_seen_with_depth(K, poses, depths, view, views) for view in views.tolist()]
        inside = [_inside(values, height, width).double().mean((-1, -2)) for values in seen]
        rows = overlap_neighbours(torch.stack(inside), min_overlap) if len(views) else views.view(0, 1)
        neighbours = torch.full((V, rows.shape[1]), -1)
        neighbours[views] = torch.where(rows >= 0, views[rows.clamp(min=0)], -1)
        near = torch.full((V, rows.shape[1], height, width, 2), FAR_OUTSIDE)
        for row, view in enumerate(views.tolist()):
            near[view] = torch.where((rows[row] >= 0).view(-1, 1, 1, 1), seen[row][rows[row].clamp(min=0)], near[view])
        return [_depth_level(near, depths, neighbours, scale) for scale in scales]


def _seen_with_depth(K: Tensor, poses: Tensor, depths: Tensor, view: int, targets: Tensor) -> Tensor:
    """Project every pixel of a view into other views: [targets, H, W, 2], `FAR_OUTSIDE` without depth."""
    H, W = depths.shape[1:]
    points = torch.inverse(K[view]) @ _pixels(H, W) * depths[view].flatten()
    points = torch.cat([points, torch.ones_like(points[:1])])
    target_from_source = torch.inverse(poses[targets]) @ poses[view]
    mapped = K[targets] @ (target_from_source @ points)[:, :3]
    xy = (mapped[:, :2] / (mapped[:, 2:] + 1e-6)).transpose(1, 2).view(-1, H, W, 2)
    return torch.where((depths[view] > 0)[..., None], xy, FAR_OUTSIDE)


def _depth_level(near: Tensor, depths: Tensor, neighbours: Tensor, scale: int) -> UpstreamTapGeometry:
    H, W = depths.shape[1:]
    at = _tokens(near.movedim(-1, 2), scale).movedim(2, -1)  # [V, N, T, 2]
    taps_xy = upstream_cell_from_pixel(at, scale)
    rounded = upstream_pixel_from_cell(taps_xy, scale).round()  # half to even
    own_z = _tokens(depths, scale)  # [V, T]
    column = rounded[..., 0].nan_to_num(FAR_OUTSIDE).clamp(0, W - 1).long()
    row = rounded[..., 1].nan_to_num(FAR_OUTSIDE).clamp(0, H - 1).long()
    there_z = depths[neighbours.clamp(min=0)[..., None], row, column]
    inside = _inside(rounded, H, W)
    valid = inside & (there_z > 0) & (own_z > 0)[:, None] & (neighbours >= 0)[..., None]
    difference = (own_z[:, None] - torch.where(valid, there_z, INVALID_Z)).abs()
    encoded, second = _paired(difference, (neighbours >= 0).sum(1).tolist())
    return UpstreamTapGeometry(
        neighbours=neighbours,
        taps_xy=torch.where(valid[..., None], taps_xy, 0).unsqueeze(-2),
        valid=valid.unsqueeze(-1),
        encoded=encoded.unsqueeze(-2),
        second=second.unsqueeze(-1),
        height=H // scale,
        width=W // scale,
    )


def _paired(difference: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Pair consecutive keys of each view, in the order (token, neighbour).

    Args:
        difference: [V, N, T] one number per key.
        counts: [V] number of neighbours among the N.

    Returns:
        [V, N, T, 2] both numbers of each key's pair, and [V, N, T] bool, True for the second key of a pair.
    """
    pairs = torch.zeros(*difference.shape, 2)
    second = torch.zeros(difference.shape, dtype=torch.bool)
    for view, count in enumerate(counts):
        if count:
            keys = difference[view, :count].T.reshape(-1, 2)  # [T * count / 2, 2]
            both = keys.repeat_interleave(2, dim=0).view(-1, count, 2)
            pairs[view, :count] = both.transpose(0, 1)
            is_second = torch.arange(keys.numel()) % 2 == 1
            second[view, :count] = is_second.view(-1, count).T
    return pairs, second


def _inside(xy: Tensor, height: int, width: int) -> Tensor:
    return ((xy >= 0) & (xy < xy.new_tensor([width, height]))).all(-1)


def _pixels(height: int, width: int) -> Tensor:
    """Return [3, H * W] homogeneous integer pixels (x, y, 1), row by row."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)]).float()


def _tokens(values: Tensor, scale: int) -> Tensor:
    """Sample a map [..., H, W] at upstream's tokens: [..., T]."""
    return token_pixels(values, scale).flatten(-2)


def _check_scales(height: int, width: int, scales: Sequence[int]) -> None:
    for scale in scales:
        if height % scale or width % scale:
            raise ValueError(
                f"height and width must be multiples of {max(scales)} pixels, the largest cells, for the 2023 "
                f"release's attention; got {height}x{width}."
            )


@contextmanager
def _plain_float32() -> Iterator[None]:
    """Run matrix products in full float32, regardless of autocast and reduced-precision settings."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
