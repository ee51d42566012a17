"""Warp existing frames into another frame by depth and pose, and prepare the result for an inpainting model.

Axes: S source frames, H W image. Poses and depths: see `mvdiff.geometry.depth`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.geometry.depth import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    depth_at,
    depths_agree,
    known_depths,
    relation,
    transfer,
)
from mvdiff.geometry.sampling import cell_centres, inside_image, sample_bilinear
from mvdiff.shapes import check_shapes

_GRID = 2**20  # positions are rounded to this fraction of a pixel, so that a rounding error does not add a neighbour
MIN_KNOWN = 0.9
"""Smallest share of known pixels of a latent cell that is filled up; see `close_cells`."""


class Views(NamedTuple):
    """Cameras and depths of frames.

    Attributes:
        depths: [..., H, W] z-depth in metres, 0 where unknown.
        K: [..., 3, 3] intrinsics in pixels.
        R: [..., 3, 3] world-from-camera.
        t: [..., 3] camera centre in the world, metres.
    """

    depths: Tensor
    K: Tensor
    R: Tensor
    t: Tensor

    def at(self, index: int) -> Views:
        """Return one frame of several."""
        return Views(*(value[index] for value in self))


@torch.no_grad()
def warp_by_depth(
    images: Tensor, sources: Views, target: Views, tolerance: DepthTolerance = DEFAULT_DEPTH_TOLERANCE
) -> tuple[Tensor, Tensor]:
    """Warp source frames backwards into a target frame whose depth is known (own derivation).

    Each target pixel with a depth is projected into the sources in turn; the first that shows its surface gives the
    colour. A source shows it if all pixels of the bilinear interpolation have a depth that agrees with the point's, so
    that neither an occluder nor a mixture across an edge is copied.

    Args:
        images: [S, 3, H, W] pictures of the sources, the preferred one first.
        sources: Cameras and depths of the sources, with a leading axis S.
        target: Camera and depths of the target.
        tolerance: Tolerance within which depths agree.

    Returns:
        [3, H, W] warped image, 0 where unknown; and [1, H, W] float32 `known`, 1 where a source shows the pixel.

    Example:
        >>> from mvdiff.geometry.cameras import intrinsics_from_fov
        >>> K, depths = intrinsics_from_fov(90.0, height=4, width=8), torch.full((4, 8), 2.0)
        >>> here = Views(depths, K, torch.eye(3), torch.zeros(3))
        >>> right = here._replace(t=torch.tensor([1.0, 0.0, 0.0]))  # f = 4, depth 2: everything moves left by 2 pixels
        >>> columns = torch.arange(8.0).expand(1, 3, 4, 8)
        >>> image, known = warp_by_depth(columns, Views(*(value[None] for value in here)), right)
        >>> image[0, 0].tolist(), known[0, 0].tolist()
        ([2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    """
    sizes = check_shapes(images=(images, "S 3 H W"), depths=(sources.depths, "S H W"), target=(target.depths, "H W"))
    height, width = sizes["H"], sizes["W"]
    image = images.new_zeros(3, height, width)
    known = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    for index in range(sizes["S"]):
        xy, visible = _positions(target, sources.at(index), tolerance)
        new = visible & ~known
        image[:, new] = sample_bilinear(images[index : index + 1].double(), xy[new][None])[0].to(image)
        known |= new
    return image, known[None].float()


def _positions(target: Views, source: Views, tolerance: DepthTolerance) -> tuple[Tensor, Tensor]:
    """Return the source positions [H, W, 2] of the target's pixels, and [H, W] bool, True where the source has them."""
    height, width = source.depths.shape
    H, e = relation(*target[1:], *source[1:])
    depth, has_depth = known_depths(target.depths)
    centres = cell_centres(*target.depths.shape, 1, device=depth.device)
    xy, z, in_front = transfer(H, e, centres, depth)
    xy = (xy * _GRID).round() / _GRID
    visible = has_depth & in_front
    left_top, right_bottom = xy.floor(), xy.ceil()
    view = torch.zeros_like(visible, dtype=torch.long)
    for corner in (
        left_top,
        right_bottom,
        torch.stack([left_top[..., 0], right_bottom[..., 1]], dim=-1),
        torch.stack([right_bottom[..., 0], left_top[..., 1]], dim=-1),
    ):
        visible = visible & inside_image(corner, height, width)
        visible = visible & depths_agree(z, depth_at(source.depths[None], view, corner), tolerance)
    return xy, visible


def close_cells(image: Tensor, known: Tensor, stride: int, min_known: float = MIN_KNOWN) -> tuple[Tensor, Tensor]:
    """Fill the small holes of a warped image, so that one missing depth does not cost a whole latent cell.

    Depth sensors and edges leave single pixels unknown. A latent cell of which at least `min_known` is known becomes
    known completely; its missing pixels are interpolated, see `fill_holes` (own derivation).

    Args:
        image: [3, H, W] warped image.
        known: [1, H, W], 1 for known pixels.
        stride: Pixels per latent cell along each side, a divisor of H and W.
        min_known: Share of a cell's pixels, in (0, 1]; 1 fills nothing.

    Returns:
        [3, H, W] image, whose unknown pixels are filled too; and [1, H, W] `known`.

    Example:
        >>> known = torch.tensor([[[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])
        >>> close_cells(torch.ones(3, 2, 4), known, stride=2, min_known=0.75)[1].tolist()
        [[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]
    """
    share = F.avg_pool2d(known[None].float(), stride)
    closed = F.interpolate((share >= min_known - 1e-6).float(), scale_factor=stride, mode="nearest")[0]
    return torch.where(known > 0.5, image, fill_holes(image, known)), torch.maximum(known.float(), closed)


def fill_holes(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels by smooth colours of their surroundings, so that an autoencoder sees no edge of a hole.

    Known pixels are averaged on coarser and coarser grids, and each unknown pixel takes the colour of the finest grid
    that has one there (pull and push; own derivation).

    Args:
        image: [3, H, W] image; unknown pixels are not read.
        known: [1, H, W], 1 for known pixels.

    Returns:
        [3, H, W] image, unchanged where known; 0 everywhere if nothing is known.

    Example:
        >>> row = torch.tensor([[[0.5, 9.0]]])
        >>> fill_holes(row.expand(3, 1, 2), torch.tensor([[[1.0, 0.0]]]))[0].tolist()
        [[0.5, 0.5]]
    """
    weight = (known > 0.5).to(image)[None]
    colour = torch.where(weight > 0, image[None], 0.0)
    levels = [(colour, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        colour, weight = (F.avg_pool2d(value, 2, ceil_mode=True) for value in (colour, weight))
        colour, weight = torch.where(weight > 0, colour / weight.clamp_min(1e-12), 0.0), (weight > 0).to(image)
        levels.append((colour, weight))
    filled = levels[-1][0]
    for colour, weight in reversed(levels[:-1]):
        filled = F.interpolate(filled, colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, colour, filled)
    return filled[0]
