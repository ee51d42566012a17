"""How outpainting treats what is given: does it come back, and do the other views continue it?

Own derivation. `known_psnr` compares the given pixels with what a model makes in their place, before they are put back.
`given_overlap_errors` warps what is given of a view into the views that see it too, and compares it with what was
generated there, over pixels that were not themselves given.

Legend: V views, H W image. Errors are squared errors of intensities in [0, 1] (PSNR peak 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvdiff.eval.overlap import PairErrors, psnr_from_mse, unit_range
from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.sampling import cell_centres, sample_bilinear
from mvdiff.shapes import check_shapes


def known_psnr(images: Tensor, given: Tensor, known: Tensor) -> float:
    """Return the PSNR of a sample's known pixels in dB; NaN where none is known.

    Args:
        images: [V, 3, H, W] generated, uint8 or float in [-1, 1].
        given: [V, 3, H, W] uint8 or float in [-1, 1]; read where known.
        known: [V, 1, H, W], 1 where given.

    Example:
        >>> known = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
        >>> given = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
        >>> round(known_psnr(torch.zeros(1, 3, 1, 2), given, known), 3)  # 0.1 off in [0, 1]
        20.0
    """
    check_shapes(images=(images, "V 3 H W"), given=(given, "V 3 H W"), known=(known, "V 1 H W"))
    where = (known > 0.5).expand_as(images)
    if not bool(where.any()):
        return math.nan
    made, wanted = (unit_range(torch.where(where, values, 0).to(values.dtype))[where] for values in (images, given))
    return psnr_from_mse(float((made.double() - wanted.double()).square().mean()))


def given_overlap_errors(images: Tensor, given: Tensor, known: Tensor, K: Tensor, R: Tensor) -> PairErrors:
    """Compare what is given of each view with what the other views show of the same directions.

    Args:
        images: [V, 3, H, W] generated, uint8 or float in [-1, 1].
        given: [V, 3, H, W] uint8 or float in [-1, 1]; read where known.
        known: [V, 1, H, W], 1 where given.
        K: [V, 3, 3] intrinsics at H x W, pixels.
        R: [V, 3, 3] world-from-camera.

    Returns:
        Errors by pair (target, source): the given pixels of the source in the target, at pixels of the target that were
        not given and whose four bilinear neighbours in the source were.
    """
    sizes = check_shapes(
        images=(images, "V 3 H W"),
        given=(given, "V 3 H W"),
        known=(known, "V 1 H W"),
        K=(K, "V 3 3"),
        R=(R, "V 3 3"),
    )
    height, width = sizes["H"], sizes["W"]
    mask = known > 0.5
    unit = unit_range(images).double()
    source_layers = torch.cat([unit_range(torch.where(mask, given, 0).to(given.dtype)).double(), mask.double()], dim=1)
    K, R = K.double(), R.double()
    centres = cell_centres(height, width, 1)
    pairs, errors, counts = [], [], []
    for source in mask.flatten(1).any(1).nonzero()[:, 0].tolist():
        for target in range(sizes["V"]):
            if target == source:
                continue
            xy, visible = apply_homography(
                homography(K[target], R[target], K[source], R[source]), centres, height, width
            )
            inside = visible & (xy >= 0).all(dim=-1) & (xy[..., 0] <= width - 1) & (xy[..., 1] <= height - 1)
            inside &= ~mask[target, 0]
            warped = sample_bilinear(source_layers[source : source + 1], xy[inside][None])[0]
            whole = warped[3] > 1 - 1e-6
            if not bool(whole.any()):
                continue
            difference = warped[:3, whole] - unit[target][:, inside][:, whole]
            pairs.append((target, source))
            errors.append(float(difference.square().sum()))
            counts.append(difference.numel())
    return PairErrors(pairs, errors, counts)
