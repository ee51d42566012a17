"""Mip levels: halved copies of an image, so that a view that shows it smaller does not alias.

Conventions: see `mvdiff.geometry`. Halving keeps an image's extent: texel i of level l covers the texels
2**l * i .. 2**l * (i + 1) - 1 of the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.shapes import check_shapes


def mip_level(source_focal: float, target_focal: float) -> int:
    """Return the mip level whose texels are nearest to the target's pixels in angle (own derivation).

    Args:
        source_focal: Focal length of the source in texels (texels per radian at its centre).
        target_focal: Focal length of the target in pixels.

    Returns:
        0 where the target is at least as fine as the source, else round(log2(source_focal / target_focal)).

    Example:
        >>> [mip_level(512, f) for f in (1024, 512, 256, 64)]
        [0, 0, 1, 3]
    """
    return max(0, round(math.log2(source_focal / target_focal)))


def at_mip_level(images: Tensor, level: int) -> Tensor:
    """Return images halved `level` times by averaging 2 x 2 texels, as float32.

    Args:
        images: [N, C, H, W] float, or uint8; values keep their range.
        level: Number of halvings; they stop at one texel.

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
