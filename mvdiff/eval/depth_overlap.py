"""Overlap PSNR of views with depth and pose: do they show the same thing where they see the same points (Table 3)?

Protocol (paper section 5): consecutive views at their own size (192x256). Each pixel of the first that has a depth is
unprojected and projected into the second; pixels are kept whose four bilinear neighbours all lie in the second view and
whose z there differs from its depth by at most 0.5 m: that is the paper's test for occlusion. Averages, errors and
their accumulation are those of `mvdiff.eval.overlap`.

Legend: B batch, V views, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvdiff.eval.overlap import PairErrors, PairRule, checked_pairs, combine, unit_range
from mvdiff.geometry.depth import DepthTolerance, depth_correspondence
from mvdiff.geometry.depth_overlap import overlap_matrix
from mvdiff.geometry.sampling import sample_bilinear
from mvdiff.shapes import check_shapes

PAPER_TOLERANCE = DepthTolerance(absolute=0.5, relative=0.0)
MIN_PAIR_OVERLAP = 0.3


def depth_view_pairs(
    K: Tensor, R: Tensor, t: Tensor, depths: Tensor, rule: PairRule = "adjacent"
) -> list[tuple[int, int]]:
    """Choose the pairs of views with depth to compare.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera rotations.
        t: [V, 3] camera centres in the world, metres.
        depths: [V, H, W] z-depth in metres, 0 = none.
        rule: `"adjacent"`: consecutive views, (0, 1), (1, 2), ... (the paper). `"overlapping"`: every pair of which
            each view shows more than 0.3 of the other. Or a list of `(target, source)`.

    Returns:
        `(target, source)` pairs; for the named rules the source comes after the target.

    Raises:
        ValueError: An unknown rule, or a pair outside the views.

    Example:
        >>> eye, t, depths = torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3), torch.ones(3, 4, 4)
        >>> depth_view_pairs(eye, eye, t, depths), depth_view_pairs(eye, eye, t, depths, [(0, 2)])
        ([(0, 1), (1, 2)], [(0, 2)])
    """
    num_views = len(R)
    if not isinstance(rule, str):
        return checked_pairs(rule, num_views)
    if rule == "adjacent":
        return [(view, view + 1) for view in range(num_views - 1)]
    if rule == "overlapping":
        overlap = overlap_matrix(K, R, t, depths, min(4, *depths.shape[-2:]))
        shared = torch.minimum(overlap, overlap.mT).triu(diagonal=1) > MIN_PAIR_OVERLAP
        return [(i, j) for i, j in torch.nonzero(shared).tolist()]
    raise ValueError(
        f"overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got {rule!r}. Choose one of them."
    )


def depth_overlap_errors(
    images: Tensor,
    depths: Tensor,
    K: Tensor,
    R: Tensor,
    t: Tensor,
    pairs: PairRule = "adjacent",
    tolerance: DepthTolerance = PAPER_TOLERANCE,
    view_valid: Tensor | None = None,
) -> PairErrors:
    """Compare the overlaps of one sample with depth.

    Args:
        images: [V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
        depths: [V, H, W] z-depth in metres, 0 = none.
        K: [V, 3, 3] intrinsics at H x W, pixels.
        R: [V, 3, 3] world-from-camera rotations.
        t: [V, 3] camera centres in the world, metres.
        pairs: Which views, see `depth_view_pairs`.
        tolerance: Pixels whose z in the source differs more from its depth are discarded. The paper's 0.5 m leaves in
            what is occluded by something less than 0.5 m before it; `DEFAULT_DEPTH_TOLERANCE` does not.
        view_valid: [V] bool; pairs with a view that is False are left out.

    Raises:
        ValueError: Shapes, dtype or values do not fit.
    """
    sizes = check_shapes(
        images=(images, "V 3 H W"), depths=(depths, "V H W"), K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3")
    )
    if not min(tolerance) >= 0:
        raise ValueError(f"overlap_depth_error must be at least 0 metres; got {min(tolerance)}. The paper: 0.5.")
    valid = torch.ones(sizes["V"], dtype=torch.bool) if view_valid is None else view_valid
    depths, K, R, t = (values.to(images.device) for values in (depths, K, R, t))
    unit = unit_range(images)
    last = torch.tensor([sizes["W"] - 1, sizes["H"] - 1], device=images.device)
    kept, errors, counts = [], [], []
    for i, j in depth_view_pairs(K, R, t, depths, pairs):
        if not (valid[i] and valid[j]):
            continue
        target, source = ((depths[v], K[v], R[v], t[v]) for v in (i, j))
        xy, visible = depth_correspondence(*target, *source, tolerance)
        compared = visible & ((xy >= 0) & (xy <= last)).all(dim=-1)
        count = int(compared.sum()) * unit.shape[1]
        if count == 0:
            continue
        warped = sample_bilinear(unit[j : j + 1].double(), xy[compared][None])[0]
        errors.append(float((warped - unit[i][:, compared].double()).square().sum()))
        counts.append(count)
        kept.append((i, j))
    return PairErrors(kept, errors, counts)


def depth_overlap_psnr(
    images: Tensor,
    depths: Tensor,
    K: Tensor,
    R: Tensor,
    t: Tensor,
    pairs: PairRule = "adjacent",
    tolerance: DepthTolerance = PAPER_TOLERANCE,
    view_valid: Tensor | None = None,
) -> dict[str, float]:
    """Compute the overlap PSNR of one sample with depth or of a batch, both averages.

    Args:
        images: [V, 3, H, W] or [B, V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
        depths: [(B,) V, H, W] z-depth in metres, 0 = none.
        K: [(B,) V, 3, 3] intrinsics at H x W, pixels.
        R: [(B,) V, 3, 3] world-from-camera rotations.
        t: [(B,) V, 3] camera centres in the world, metres.
        pairs: Which views, see `depth_view_pairs`.
        tolerance: See `depth_overlap_errors`.
        view_valid: [(B,) V] bool.

    Returns:
        `{"overlap_psnr_mean_of_pairs": dB, "overlap_psnr_pooled": dB, "num_pairs": count}`; NaN without any pair.

    Example:
        >>> K = torch.tensor([[4.0, 0, 3.5], [0, 4.0, 1.5], [0, 0, 1]]).expand(2, 3, 3)
        >>> R, t = torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
        >>> images = torch.stack([torch.full((3, 4, 8), 0.1), torch.full((3, 4, 8), 0.3)])  # 0.1 apart in [0, 1]
        >>> psnr = depth_overlap_psnr(images, torch.full((2, 4, 8), 2.0), K, R, t)
        >>> round(psnr["overlap_psnr_pooled"], 4), psnr["num_pairs"]
        (20.0, 1)
    """
    samples: Sequence[Sequence[Tensor]] = [(images, depths, K, R, t)]
    valid: Sequence[Tensor | None] = [view_valid]
    if images.ndim == 5:
        check_shapes(
            images=(images, "B V 3 H W"), depths=(depths, "B V H W"), K=(K, "B V 3 3"), R=(R, "B V 3 3"), t=(t, "B V 3")
        )
        samples = list(zip(images, depths, K, R, t, strict=True))
        valid = [None] * len(samples) if view_valid is None else list(view_valid)
    errors = [depth_overlap_errors(*s, pairs, tolerance, v) for s, v in zip(samples, valid, strict=True)]
    return combine(errors)
