"""Where a pixel with a depth is seen in another view: unprojection, projection, occlusion.

Conventions: see `mvdiff.geometry`. Poses are world-from-camera, `x_world = R @ x_camera + t` with t in metres;
depths are z-depths in metres, and a depth that is not finite and positive means that there is none. All work is done in
float64, which neither autocast nor TF32 touches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import homography
from mvdiff.geometry.sampling import cell_centres, inside_image, nearest_pixel
from mvdiff.shapes import check_shapes

MIN_DEPTH = 1e-6
"""A point counts as in front of a camera when its z exceeds this, in metres."""


class DepthTolerance(NamedTuple):
    """Two depths agree when they differ by at most `absolute + relative * depth`.

    The defaults were chosen against ray-traced truth in walks through the toy world (`benchmarks/toy_depth.py`:
    depths in whole millimetres, views 12 to 60 degrees apart). At 48x64, `visible` is right for 97.4% of all
    pixels: for 96.5% of those that the other view sees, for 95.9% of those that are occluded inside its image (54%
    and 18% of all); with half the tolerance for 94.9% (slanted surfaces are lost), with twice for 97.1% (thin things
    are seen through). At 96x128 it is 98.3%, at 192x256 98.8%. What is wrong lies within two pixels of a jump in
    depth. In a real recording (Kinect, 7-Scenes) two frames 10 apart differ by 8 mm where both have a depth (median;
    90%: 28 mm, at 1.2 to 2.7 m).

    Attributes:
        absolute: Metres.
        relative: Share of the depth that the target view has.
    """

    absolute: float = 0.02
    relative: float = 0.03


DEFAULT_DEPTH_TOLERANCE = DepthTolerance()


def unproject(xy: Tensor, depth: Tensor, K: Tensor, R: Tensor, t: Tensor) -> Tensor:
    """Return the world points that pixels with a depth show: `R (depth K^-1 (x, y, 1)) + t` (paper section 4.1).

    Args:
        xy: [..., 2] (x, y) pixel coordinates.
        depth: [...] z-depth in metres.
        K: [..., 3, 3] intrinsics in pixels. The leading axes of the cameras broadcast with those of the points: for
            points [V, M, 2] and cameras [V, 3, 3] pass `K[:, None]`, `R[:, None]`, `t[:, None]`.
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
    """Project world points into a view: `K R^T (point - t)`, divided by its z (paper section 4.1).

    Args:
        points: [..., 3] world points in metres.
        K: [..., 3, 3] intrinsics in pixels; cameras broadcast with points as in `unproject`.
        R: [..., 3, 3] world-from-camera.
        t: [..., 3] camera centre in the world, metres.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        [..., 2] pixel coordinates, always finite (0 behind the camera); [...] z in the camera, metres, negative behind
        it; [...] bool `visible`: in front of the camera and inside its image. All float64 but the last.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, t = intrinsics_from_fov(90.0, height=4, width=8), torch.tensor([1.0, 0.0, 0.0])  # f = 4, 1 m right
        >>> xy, z, visible = project_points(torch.tensor([0.0, 0.0, 2.0]), K, torch.eye(3), t, 4, 8)
        >>> xy.tolist(), z.item(), visible.item()  # f / 2 to the left of the middle (3.5, 1.5)
        ([1.5, 1.5], 2.0, True)
    """
    check_shapes(points=(points, "... 3"), K=(K, "... 3 3"), R=(R, "... 3 3"), t=(t, "... 3"))
    camera = _apply(R.double().mT, points.double() - t.double())
    xy, z, in_front = _divide(*_apply(K.double(), camera).unbind(dim=-1))
    return xy, z, in_front & inside_image(xy, height, width)


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
        tolerance: How far the point's z in the target may be from the target's depth there; None: no occlusion test,
            and the target's depths do not matter.

    Returns:
        [..., H, W, 2] pixel coordinates in the target, float64, finite, and [..., H, W] bool `visible`: the pixel has
        a depth, and its point is in front of the target camera, inside its image, and not occluded.

    Raises:
        ValueError: Shapes do not fit, or a camera is not finite.

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
    depth, has_depth = known_depths(depths_source)
    H, e = relation(K_source, R_source, t_source, K_target, R_target, t_target)
    xy, z, in_front = transfer(H[..., None, None, :, :], e[..., None, None, :], centres, depth)
    visible = in_front & inside_image(xy, height, width) & has_depth
    if tolerance is not None:
        lead = xy.shape[:-3]
        depths_target = depths_target.expand(*lead, height, width).reshape(-1, height, width)
        view = torch.arange(len(depths_target), device=xy.device).reshape(*lead, 1, 1)
        visible = visible & depths_agree(z, depth_at(depths_target, view, xy), tolerance)
    return xy, visible


def relation(
    K_source: Tensor, R_source: Tensor, t_source: Tensor, K_target: Tensor, R_target: Tensor, t_target: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what takes a pixel with a depth from one view to another: the homography at infinity and the epipole.

    Unprojection and projection in one (own derivation): `z (x', y', 1) = depth H (x, y, 1) + e` with
    `H = K_t R_t^T R_s K_s^-1` and `e = K_t R_t^T (t_s - t_t)`; z is the point's depth in the target.

    Args:
        K_source: [..., 3, 3] intrinsics in pixels; all leading axes broadcast.
        R_source: [..., 3, 3] world-from-camera.
        t_source: [..., 3] camera centre in the world, metres.
        K_target: [..., 3, 3].
        R_target: [..., 3, 3].
        t_target: [..., 3].

    Returns:
        [..., 3, 3] H and [..., 3] e, float64.
    """
    H = homography(K_source.double(), R_source, K_target, R_target)
    e = _apply(K_target.double(), _apply(R_target.double().mT, t_source.double() - t_target.double()))
    return H, e


def transfer(H: Tensor, e: Tensor, xy: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map pixels with a depth by a `relation`.

    Args:
        H: [..., 3, 3], its leading axes broadcast with those of the pixels.
        e: [..., 3].
        xy: [..., 2] (x, y) source pixel coordinates.
        depth: [...] z-depth in metres.

    Returns:
        [..., 2] target pixel coordinates, finite (0 behind the camera); [...] z in the target, metres; [...] bool: in
        front of the target camera.
    """
    x, y = xy.unbind(dim=-1)
    return _divide(*((H[..., i, 0] * x + H[..., i, 1] * y + H[..., i, 2]) * depth + e[..., i] for i in range(3)))


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
    column, row = nearest_pixel(xy).clamp(-1, max(height, width)).long().unbind(dim=-1)
    found = depths[view, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(torch.isfinite(found) & (found > 0), found, 0)


def depths_agree(z: Tensor, depth: Tensor, tolerance: DepthTolerance) -> Tensor:
    """Tell where [...] z, in metres, agrees with [...] depth (0 = none: never)."""
    depth = depth.double()
    return (depth > 0) & ((z - depth).abs() <= tolerance.absolute + tolerance.relative * depth)


def check_finite_cameras(**cameras: Tensor) -> None:
    """Check that K, R and t are finite.

    Raises:
        ValueError: One is not; the text names it.
    """
    for name, values in cameras.items():
        if not bool(torch.isfinite(values).all()):
            first = torch.nonzero(~torch.isfinite(values))[0].tolist()
            raise ValueError(f"{name} must be finite; got NaN or inf at index {first}. Leave such frames out.")


def _divide(u: Tensor, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return [..., 2] (u / z, v / z), 0 where not in front; [...] z; [...] bool in front."""
    in_front = z > MIN_DEPTH
    scale = torch.where(in_front, 1 / torch.where(in_front, z, 1), 0)
    return torch.stack([u * scale, v * scale], dim=-1), z, in_front


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Multiply [..., 3, 3] matrices with [..., 3] vectors, leading axes broadcast."""
    x, y, z = vectors.unbind(dim=-1)
    return torch.stack([matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] * z for i in range(3)], -1)
