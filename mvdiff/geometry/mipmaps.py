"""Mip levels: repeatedly halved copies of an image, which keep coarser views of it from aliasing.

Conventions: see `mvdiff.geometry`. Halving keeps the image's extent: texel i of level l covers texels
2**l * i .. 2**l * (i + 1) - 1 of the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.shapes import check_shapes


def mip_level(source_focal: float, target_focal: float) -> int:
    """Return the mip level whose texels best match the angular size of the target's pixels (own derivation).

    Args:
        source_focal: Focal length of the source in texels (texels per radian at its centre).
        target_focal: Focal length of the target in pixels.

    Returns:
        max(0, round(log2(source_focal / target_focal))).

    Example:
        >>> [mip_level(512, f) for f in (1024, 512, 256, 64)]
        [0, 0, 1, 3]
    """
    return max(0, round(math.log2(source_focal / target_focal)))


def at_mip_level(images: Tensor, level: int) -> Tensor:
    """Return images halved `level` times by averaging 2 x 2 texels, as float32.

    Args:
        images: [N, C, H, W] float or uint8; the value range stays.
        level: Number of halvings; a side never drops below one texel.

    Returns:
        [N, C, H / 2**level, W / 2**level] float32.

    Example:
        >>> at_mip_level(torch.tensor([[0, 4], [8, 12]], dtype=torch.uint8)[None, None], level=1).item()
        6.0
    """
    check_shapes(images=(images, "N C H W"))
    for _ in range(level):
        images = _halved(images)
    return images.float()


def _halved(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        return F.adaptive_avg_pool2d(images.float(), (max(1, height // 2), max(1, width // 2)))
    if images.dtype != torch.uint8:
        return F.avg_pool2d(images.float(), 2)
    halved = torch.empty(*images.shape[:2], height // 2, width // 2, device=images.device)
    planes = images.contiguous().flatten(0, 1)
    for target, plane in zip(halved.flatten(0, 1), planes, strict=True):  # plane by plane: each fits the cache
        pairs = plane.view(torch.int16)  # two neighbours in one word: a tenth of the time of averaging floats
        sums = (pairs & 255).add_((pairs >> 8).bitwise_and_(255))
        torch.mul(sums[0::2].add_(sums[1::2]), 0.25, out=target)
    return halved
