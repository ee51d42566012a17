"""Taps of correspondence-aware attention for views with depth and pose.

Conventions: see `mvdiff.geometry`. Axes: V views, N neighbours of a view, T tokens (cells in row-major order), P taps
around the corresponding position. Everything is computed in float64, which autocast and TF32 leave alone.
"""

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import TapGeometry, check_taps, tap_displacements
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
from mvdiff.geometry.sampling import cell_centres, cell_from_pixel, inside_image, pixel_from_cell
from mvdiff.shapes import check_shapes

DEFAULT_MAX_DISPLACEMENT = 4.0


@torch.no_grad()
def depth_tap_geometry(
    K: Tensor,
    R: Tensor,
    t: Tensor,
    depths: Tensor,
    stride: int,
    neighbours: Tensor,
    kernel_size: int = 3,
    tolerance: DepthTolerance = DEFAULT_DEPTH_TOLERANCE,
    max_displacement: float = DEFAULT_MAX_DISPLACEMENT,
) -> TapGeometry:
    """Compute the taps of correspondence-aware attention for views with depth and pose.

    Source: paper section 4, equations 1 and 2, with unprojection and projection as the correspondence. The centre of
    token s, at the depth of the nearest pixel, maps to t^l in its neighbour l. The taps are t^l plus integer
    displacements in cells. Each tap maps back to s* with *its own* depth in the neighbour, so taps beyond the edge of
    an object land elsewhere. A tap is visible if t^l is in front of the neighbour, inside its image and not occluded,
    the tap is inside the neighbour's image and has a depth, s* is in front of the source view, and |s* - s| is at most
    `max_displacement` (own rule: larger displacements belong to another surface, and the encoding of displacements is
    ambiguous beyond about this length).

    Args:
        K: [V, 3, 3] intrinsics in pixels of the image.
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres in the world, metres.
        depths: [V, H, W] z-depth in metres, 0 where unknown.
        stride: Pixels per cell of the feature maps.
        neighbours: [V, N] long, padded with -1; see `mvdiff.geometry.overlap_neighbours`.
        kernel_size: Side length of the square of taps, odd.
        tolerance: Largest difference between the token's z in the neighbour and the neighbour's depth at t^l at which
            the token is not occluded.
        max_displacement: Largest |s* - s| of a visible tap, in source cells; above 0.

    Returns:
        The geometry for maps of ceil(H / stride) x ceil(W / stride) cells, on the device of `depths`.

    Raises:
        ValueError: Shapes do not match, a camera is not finite, `kernel_size` is even, `stride` is below 1,
            `max_displacement` is not positive, or a neighbour is not a view index.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, R = intrinsics_from_fov(90.0, height=8, width=16).expand(2, 3, 3), torch.eye(3).expand(2, 3, 3)
        >>> t, neighbours = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[1], [0]])
        >>> taps = depth_tap_geometry(K, R, t, torch.full((2, 8, 16), 2.0), 4, neighbours)
        >>> taps.taps_xy[0, 0, 2, 4].tolist()  # cell (2, 0) is seen f / 2 = 4 pixels, one cell, to the left
        [1.0, 0.0]
    """
    sizes = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"), depths=(depths, "V H W"))
    check_finite_cameras(K=K, R=R, t=t)
    check_shapes(K=(K, "V 3 3"), neighbours=(neighbours, "V N"))
    check_taps(neighbours, stride, kernel_size)
    if not max_displacement > 0:
        raise ValueError(f"max_displacement must be positive, in cells; got {max_displacement}.")
    height, width = sizes["H"], sizes["W"]
    K, R, t, neighbours = (values.to(depths.device) for values in (K, R, t, neighbours))
    present_VN, others_VN = neighbours >= 0, neighbours.clamp(min=0)
    centres = cell_centres(height, width, stride, device=depths.device)
    s = centres.reshape(-1, 2)
    views = torch.arange(sizes["V"], device=depths.device)

    source, target = [x[:, None] for x in (K, R, t)], [x[others_VN] for x in (K, R, t)]
    forward = [x[:, :, None] for x in relation(*source, *target)]
    backward = [x[:, :, None, None] for x in relation(*target, *source)]

    depth_VT, has_depth_VT = known_depths(depth_at(depths, views[:, None], s))
    xy, z, in_front = transfer(*forward, s, depth_VT[:, None])
    visible = in_front & inside_image(xy, height, width) & has_depth_VT[:, None] & present_VN[..., None]
    visible = visible & depths_agree(z, depth_at(depths, others_VN[..., None], xy), tolerance)

    taps = cell_from_pixel(xy, stride)[..., None, :] + tap_displacements(kernel_size, depths.device)
    taps_pixel = pixel_from_cell(taps, stride)
    tap_depth, tap_has_depth = known_depths(depth_at(depths, others_VN[..., None, None], taps_pixel))
    s_star, _, s_star_in_front = transfer(*backward, taps_pixel, tap_depth)
    displacement = (s_star - s[:, None]) / stride
    visible = visible[..., None] & inside_image(taps_pixel, height, width) & tap_has_depth
    visible = visible & s_star_in_front & (displacement.norm(dim=-1) <= max_displacement)
    return TapGeometry(
        neighbours=neighbours,
        taps_xy=taps.masked_fill(~visible[..., None], 0).float(),
        visible=visible,
        displacement=displacement.masked_fill(~visible[..., None], 0).float(),
        height=centres.shape[0],
        width=centres.shape[1],
    )
