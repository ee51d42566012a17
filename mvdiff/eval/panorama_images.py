"""Images of a whole panorama for metrics of its distribution: the panorama itself, rolled, and views cut from it.

All of them come from the panorama at 512x1024, so that panoramas of any size are compared at one resolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.shapes import check_shapes

HEIGHT = 512
"""Height of the panorama in pixels; its width is twice that."""
VIEW_SIZE = 299
"""Height and width of views in pixels: the input of Inception, so that nothing is resized again."""


def icosahedron_rig() -> Rig:
    """Return 20 views of 90 degrees towards the centres of the faces of an icosahedron with corners at the poles.

    The centres are the corners of a dodecahedron: rings of 5 at pitch 52.62, 10.81, -10.81 and -52.62 degrees, 72
    degrees apart, the lower two turned by 36 degrees.

    Example:
        >>> icosahedron_rig().views[:2]
        ((0.0, 52.62263186, 90.0), (72.0, 52.62263186, 90.0))
    """
    steep, flat = (round(math.degrees(math.asin(math.sqrt((5 + sign * math.sqrt(20)) / 15))), 8) for sign in (1, -1))
    rings = ((steep, 0), (flat, 0), (-flat, 36), (-steep, 36))
    views = [(first + 72.0 * step, pitch, 90.0) for pitch, first in rings for step in range(5)]
    return Rig(views, height=VIEW_SIZE, width=VIEW_SIZE)


def sized_panorama(panorama: Tensor, height: int = HEIGHT) -> Tensor:
    """Resize a panorama bilinearly with antialiasing; the filter reaches across the left and right border.

    Args:
        panorama: [3, H, 2 H] uint8.
        height: Height h of the result in pixels.

    Returns:
        [3, h, 2 h] uint8, rounded; the panorama itself if it has this size.
    """
    check_shapes(panorama=(panorama, "3 H W"))
    if panorama.shape[-2] == height:
        return panorama
    around = torch.cat([panorama] * 3, dim=-1)[None].float()
    resized = F.interpolate(around, (height, 6 * height), mode="bilinear", antialias=True, align_corners=False)
    return resized[0, :, :, 2 * height : 4 * height].round().clamp(0, 255).to(torch.uint8)


def panorama_images(panorama: Tensor) -> dict[str, Tensor]:
    """Return the images that stand for a panorama.

    Args:
        panorama: [3, H, 2 H] uint8.

    Returns:
        uint8 [N, 3, h, w] by name: `whole` and `rolled` by half its width (1 image of 512x1024 each), `ring` (8 views
        of 90 degrees, 45 degrees apart) and `icosahedron` (20 views, see `icosahedron_rig`), each of 299x299.
    """
    whole = sized_panorama(panorama)
    rigs = {"ring": RingRig(num_views=8, height=VIEW_SIZE, width=VIEW_SIZE), "icosahedron": icosahedron_rig()}
    views = {
        name: perspective_from_equirectangular(whole, *rig.cameras(), rig.height, rig.width).round().to(torch.uint8)
        for name, rig in rigs.items()
    }
    return {"whole": whole[None], "rolled": whole.roll(HEIGHT, dims=-1)[None], **views}
