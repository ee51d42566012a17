"""Overlap PSNR: do views that share a centre show the same thing where they overlap (paper section 5, Table 3)?

Protocol: images are resized, one view of a pair is warped into the other by the homography, and the PSNR is taken over
the pixels whose warped mask is exactly one, i.e. whose four bilinear neighbours all lie in the warped image. Two
averages are in use and differ: the mean over pairs of each pair's PSNR (`overlap_psnr_mean_of_pairs`), and the PSNR
of the squared error pooled over all pixels of all pairs (`overlap_psnr_pooled`). Both are always reported.

Legend: B batch, V views, H W image, N pairs. Errors are squared errors of intensities in [0, 1] (PSNR peak 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.correspondence import apply_homography, homography, overlapping_neighbours
from mvdiff.geometry.sampling import cell_centres, sample_bilinear
from mvdiff.samples import from_uint8
from mvdiff.shapes import check_shapes

PAPER_SIZE = 1024
MAX_PSNR = 100.0
PairRule = str | Sequence[tuple[int, int]]


@dataclass(frozen=True)
class PairErrors:
    """Squared error of the overlap of each pair of views of one sample.

    Attributes:
        pairs: `(target, source)` view indices; the source is warped into the target.
        squared_error: Sum of squared errors over a pair's pixels and channels, intensities in [0, 1].
        num_values: Pixels x channels that were compared; pairs without any are left out of `pairs`.
    """

    pairs: list[tuple[int, int]]
    squared_error: list[float]
    num_values: list[int]

    def psnr_of_pairs(self) -> list[float]:
        """PSNR of each pair in dB."""
        return [psnr_from_mse(e / n) for e, n in zip(self.squared_error, self.num_values, strict=True)]

    def mean_psnr(self) -> float:
        """Mean PSNR of the pairs in dB; NaN where there is none."""
        return _mean(self.psnr_of_pairs())


def psnr_from_mse(mse: float) -> float:
    """Return `-10 log10(mse)` dB for intensities in [0, 1], at most `MAX_PSNR` (identical up to rounding).

    Example:
        >>> psnr_from_mse(0.01), psnr_from_mse(0.0)
        (20.0, 100.0)
    """
    return min(MAX_PSNR, -10 * math.log10(mse)) if mse > 0 else MAX_PSNR


def view_pairs(K: Tensor, R: Tensor, height: int, width: int, rule: PairRule = "adjacent") -> list[tuple[int, int]]:
    """Choose the pairs of views to compare.

    Args:
        K: [V, 3, 3] intrinsics.
        R: [V, 3, 3] world-from-camera rotations.
        height: Image height that K refers to.
        width: Image width that K refers to.
        rule: `"adjacent"`: the pairs whose viewing directions differ least (within 1 degree of the smallest angle):
            on the paper's ring the 8 pairs 45 degrees apart. `"overlapping"`: every pair that overlaps by more than
            a sliver. Or a list of `(target, source)`.

    Returns:
        `(target, source)` pairs; for the named rules the source is the view farther to the right, so numbering the
        views differently changes nothing.

    Raises:
        ValueError: An unknown rule, or a pair outside the views.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=64, width=64).cameras()
        >>> view_pairs(K, R, 64, 64)
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 0)]
    """
    num_views = len(R)
    if not isinstance(rule, str):
        return checked_pairs(rule, num_views)
    if rule == "overlapping":
        neighbours = overlapping_neighbours(K, R, height, width).tolist()
        unordered = {tuple(sorted((i, j))) for i, row in enumerate(neighbours) for j in row if j >= 0}
    elif rule == "adjacent":
        forward = R[:, :, 2].double()
        angle = torch.rad2deg(torch.acos((forward @ forward.T).clamp(-1, 1)))
        rows, columns = torch.triu_indices(num_views, num_views, offset=1)
        if len(rows) == 0:
            return []
        between = angle[rows, columns]
        near = between <= between.min() + 1.0
        unordered = set(zip(rows[near].tolist(), columns[near].tolist(), strict=True))
    else:
        raise ValueError(
            f"overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got {rule!r}. Choose one of them."
        )
    return sorted(_rightwards(i, j, R) for i, j in unordered)


def checked_pairs(pairs: Sequence[tuple[int, int]], num_views: int) -> list[tuple[int, int]]:
    """Return pairs given by hand as integers.

    Raises:
        ValueError: A pair does not name two of the views.
    """
    pairs = [(int(i), int(j)) for i, j in pairs]
    for i, j in pairs:
        if not (0 <= i < num_views and 0 <= j < num_views and i != j):
            raise ValueError(f"pairs must name two of {num_views} views; got ({i}, {j}). Count views from 0.")
    return pairs


def overlap_errors(
    images: Tensor,
    K: Tensor,
    R: Tensor,
    size: int | tuple[int, int] | None = PAPER_SIZE,
    pairs: PairRule = "adjacent",
    view_valid: Tensor | None = None,
) -> PairErrors:
    """Compare the overlaps of one sample.

    Args:
        images: [V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
        K: [V, 3, 3] intrinsics at H x W, pixels.
        R: [V, 3, 3] world-from-camera rotations.
        size: Size to which images are resized first: the height (the width follows), `(height, width)`, or None for
            their own. The paper: 1024 (from 512).
        pairs: Which views, see `view_pairs`.
        view_valid: [V] bool; pairs with a view that is False are left out.

    Raises:
        ValueError: Shapes, dtype or values do not fit.
    """
    sizes = check_shapes(images=(images, "V 3 H W"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    chosen = view_pairs(K.cpu().double(), R.cpu().double(), sizes["H"], sizes["W"], pairs)
    K, R = K.to(images.device, torch.float64), R.to(images.device, torch.float64)
    if view_valid is not None:
        chosen = [(i, j) for i, j in chosen if bool(view_valid[i]) and bool(view_valid[j])]
    unit = unit_range(images)
    unit, K = _resize(unit, K, size)
    height, width = unit.shape[-2:]
    centres = cell_centres(height, width, 1, device=unit.device).to(torch.float64)
    kept, errors, counts = [], [], []
    for target, source in chosen:
        H = homography(K[target], R[target], K[source], R[source])
        xy, visible = apply_homography(H, centres, height, width)
        inside = visible & (xy >= 0).all(dim=-1) & (xy[..., 0] <= width - 1) & (xy[..., 1] <= height - 1)
        count = int(inside.sum()) * unit.shape[1]
        if count == 0:
            continue
        warped = sample_bilinear(unit[source : source + 1].double(), xy[inside][None])[0]
        errors.append(float((warped - unit[target][:, inside].double()).square().sum()))
        counts.append(count)
        kept.append((target, source))
    return PairErrors(kept, errors, counts)


def overlap_psnr(
    images: Tensor,
    K: Tensor,
    R: Tensor,
    size: int | tuple[int, int] | None = PAPER_SIZE,
    pairs: PairRule = "adjacent",
    view_valid: Tensor | None = None,
) -> dict[str, float]:
    """Compute the overlap PSNR of one sample or of a batch, both averages.

    Args:
        images: [V, 3, H, W] or [B, V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
        K: [V, 3, 3] or [B, V, 3, 3] intrinsics at H x W, pixels.
        R: World-from-camera rotations, shaped like K.
        size: Size to which images are resized first, see `overlap_errors`.
        pairs: Which views, see `view_pairs`.
        view_valid: [V] or [B, V] bool.

    Returns:
        `{"overlap_psnr_mean_of_pairs": dB, "overlap_psnr_pooled": dB, "num_pairs": count}`; NaN without any pair.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=16, width=16).cameras()
        >>> grey = torch.zeros(8, 3, 16, 16)
        >>> overlap_psnr(grey, K, R, size=32)
        {'overlap_psnr_mean_of_pairs': 100.0, 'overlap_psnr_pooled': 100.0, 'num_pairs': 8}
    """
    if images.ndim == 4:
        return combine([overlap_errors(images, K, R, size, pairs, view_valid)])
    num_samples = check_shapes(images=(images, "B V 3 H W"), K=(K, "B V 3 3"), R=(R, "B V 3 3"))["B"]
    valid = [None] * num_samples if view_valid is None else view_valid
    return combine([overlap_errors(images[b], K[b], R[b], size, pairs, valid[b]) for b in range(num_samples)])


def combine(samples: Collection[PairErrors]) -> dict[str, float]:
    """Average samples' errors in both ways, see `overlap_psnr`."""
    psnr = [value for sample in samples for value in sample.psnr_of_pairs()]
    error = sum(sum(sample.squared_error) for sample in samples)
    count = sum(sum(sample.num_values) for sample in samples)
    return {
        "overlap_psnr_mean_of_pairs": _mean(psnr),
        "overlap_psnr_pooled": psnr_from_mse(error / count) if count else math.nan,
        "num_pairs": len(psnr),
    }


def _rightwards(i: int, j: int, R: Tensor) -> tuple[int, int]:
    """Order two views as (target, source) so that the source looks to the right of the target."""
    right_of_i = float(R[i, :, 0] @ R[j, :, 2])
    return (j, i) if right_of_i < -1e-6 else (i, j)


def unit_range(images: Tensor) -> Tensor:
    """Return images, uint8 or float in [-1, 1], as float32 in [0, 1].

    Raises:
        ValueError: Another dtype, or values that are not finite and in [-1, 1].
    """
    if images.dtype == torch.uint8:
        images = from_uint8(images)
    elif not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [-1, 1]; got {images.dtype}. Use to_uint8.")
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()) or bool((images.abs() > 1.5).any()):
        raise ValueError(
            f"images must be finite and in [-1, 1]; got values from {float(images.min()):.3g} to "
            f"{float(images.max()):.3g}. Pass uint8 images for the range [0, 255]."
        )
    return ((images + 1) / 2).clamp(0, 1)


def _resize(unit: Tensor, K: Tensor, size: int | tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    height, width = unit.shape[-2:]
    if size is None:
        return unit, K
    new_height, new_width = (size, round(width * size / height)) if isinstance(size, int) else size
    if new_height < 1 or new_width < 1:
        raise ValueError(f"overlap_size must be at least 1 pixel; got {size}. The paper uses {PAPER_SIZE}.")
    if (new_height, new_width) == (height, width):
        return unit, K
    resized = F.interpolate(unit, (new_height, new_width), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1), resize_intrinsics(K, new_width / width, new_height / height)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
