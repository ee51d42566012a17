"""The taps of correspondence-aware attention for views with depth and pose.

Conventions: see `mvdiff.geometry`. V views, N neighbours of a view, T tokens (cells, row by row), P taps around
the corresponding position. All work is done in float64, which neither autocast nor TF32 touches.
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

    Source: paper section 4.1, equations 1 and 2, with unprojection and projection as the correspondence. The token s of
    a view, its centre at the depth of the nearest pixel, corresponds to t^l in its neighbour l where it is in front of
    the neighbour, inside its image and not occluded; the taps are t^l plus integer displacements in cells. Each tap
    goes back to s* with *its own* depth in the neighbour, so around the edge of an object the taps beyond the edge land
    elsewhere. A tap is visible when t^l is, the tap lies inside the neighbour's image and has a depth there, s* is in
    front of the source view, and |s* - s| is at most `max_displacement` (own rule: farther displacements belong to
    another surface, and the encoding of displacements is unambiguous only up to about this length).

    Args:
        K: [V, 3, 3] intrinsics in pixels of the image.
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres in the world, metres.
        depths: [V, H, W] z-depth in metres, 0 = none.
        stride: Pixels per cell of the feature maps.
        neighbours: [V, N] long with -1 as padding, see `mvdiff.geometry.overlap_neighbours`.
        kernel_size: Side of the square of taps, odd.
        tolerance: How far the token's z in the neighbour may be from the neighbour's depth at t^l.
        max_displacement: Largest |s* - s| of a visible tap, source cells.

    Returns:
        The geometry for maps of ceil(H / stride) x ceil(W / stride) cells, on the device of `depths`.

    Raises:
        ValueError: Shapes do not fit, a camera is not finite, an even kernel size, a stride below 1, a displacement
            that is not positive, or neighbours that are no views.

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
        raise ValueError(f"max_displacement must be positive, in cells; got {max_displacement}. The default is 4.")
    height, width = sizes["H"], sizes["W"]
    K, R, t, neighbours = (values.to(depths.device) for values in (K, R, t, neighbours))
    present_VN, others_VN = neighbours >= 0, neighbours.clamp(min=0)
    centres = cell_centres(height, width, stride, device=depths.device)
    s = centres.reshape(-1, 2)
    views = torch.arange(sizes["V"], device=depths.device)

    source, target = [x[:, None] for x in (K, R, t)], [x[others_VN] for x in (K, R, t)]
    there = [x[:, :, None] for x in relation(*source, *target)]
    back = [x[:, :, None, None] for x in relation(*target, *source)]

    depth_VT, has_depth_VT = known_depths(depth_at(depths, views[:, None], s))
    xy, z, in_front = transfer(*there, s, depth_VT[:, None])
    visible = in_front & inside_image(xy, height, width) & has_depth_VT[:, None] & present_VN[..., None]
    visible = visible & depths_agree(z, depth_at(depths, others_VN[..., None], xy), tolerance)

    taps = cell_from_pixel(xy, stride)[..., None, :] + tap_displacements(kernel_size, depths.device)
    taps_pixel = pixel_from_cell(taps, stride)
    tap_depth, tap_has_depth = known_depths(depth_at(depths, others_VN[..., None, None], taps_pixel))
    s_star, _, s_star_in_front = transfer(*back, taps_pixel, tap_depth)
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
