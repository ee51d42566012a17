"""Overlap PSNR: agreement of views where they overlap (paper section 5, Table 3).

One view of a pair, the source, is warped into the other, the target. The PSNR covers the target pixels whose four
bilinear neighbours all lie in the source. Views that share a centre are resized first and warped by homography. Views
with depth and pose keep their size (192x256): each target pixel with a depth is unprojected and projected into the
source, and counts if its z differs from the source's depth by at most 0.5 m, the paper's occlusion test.

Two averages are in use and differ, so both are always reported: the mean over pairs of each pair's PSNR
(`overlap_psnr_mean_of_pairs`), and the PSNR of the squared error pooled over all pixels of all pairs
(`overlap_psnr_pooled`).

Arguments shared by the functions below; `overlap_psnr` and `depth_overlap_psnr` also accept batches of them:
    images: [V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
    depths: [V, H, W] z-depth in metres, 0 where unknown.
    K: [V, 3, 3] intrinsics at H x W, in pixels.
    R: [V, 3, 3] world-from-camera rotations.
    t: [V, 3] camera centres in the world, metres.
    pairs: Pairs of views, or the rule that selects them (see `view_pairs`, `depth_view_pairs`).
    view_valid: [V] bool; pairs with an invalid view are skipped.

Axes: B batch, V views, H x W image. Errors are squared errors of intensities in [0, 1] (PSNR peak 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mvdiff.eval.settings import PAPER_SIZE, PairRule
from mvdiff.eval.view_pairs import depth_view_pairs, view_pairs
from mvdiff.eval.warped_pairs import Pairs, Shown, Views, WarpedPair, shown_pixels, warp_pairs
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.depth import DepthTolerance, depth_correspondence
from mvdiff.geometry.sampling import cell_centres
from mvdiff.samples import from_uint8
from mvdiff.shapes import check_shapes

PAPER_TOLERANCE = DepthTolerance(absolute=0.5, relative=0.0)
MAX_PSNR = 100.0
NUM_CACHED_HOMOGRAPHIES = 16
"""Homographies whose common pixels are kept: 12 MB each for views of 1024 x 1024 on the paper's ring, whose
adjacent pairs share one homography."""
HOMOGRAPHY_DIGITS = 12
"""Decimals to which a homography is rounded, so that pairs alike but for the last bit share one. Positions in views of
1024 x 1024 move by about 1e-6 pixels."""
NUM_POINTS = 2**17
"""Pixels whose positions are computed at once: those of a whole view of 1024 x 1024 need 100 MB for a moment."""


@dataclass(frozen=True)
class PairErrors:
    """Squared errors in the overlaps of one sample, by pair of views.

    Attributes:
        pairs: `(target, source)` view indices; the source is warped into the target. Pairs without overlap are omitted.
        squared_error: Sum of squared errors of each pair over pixels and channels, intensities in [0, 1].
        num_values: Number of compared values (pixels x channels) of each pair.
    """

    pairs: Pairs
    squared_error: list[float]
    num_values: list[int]

    def psnr_of_pairs(self) -> list[float]:
        """Return the PSNR of each pair in dB."""
        return [psnr_from_mse(e / n) for e, n in zip(self.squared_error, self.num_values, strict=True)]

    def mean_psnr(self) -> float:
        """Return the mean PSNR of the pairs in dB; NaN without pairs."""
        return _mean(self.psnr_of_pairs())


def psnr_from_mse(mse: float) -> float:
    """Return the PSNR `-10 log10(mse)` in dB for intensities in [0, 1], capped at `MAX_PSNR`.

    Example:
        >>> psnr_from_mse(0.01), psnr_from_mse(0.0)
        (20.0, 100.0)
    """
    return min(MAX_PSNR, -10 * math.log10(mse)) if mse > 0 else MAX_PSNR


def overlap_errors(*views: Any, **options: Any) -> PairErrors:
    """Compare overlapping views of one sample whose views share a centre; arguments: see `warped_views`."""
    return errors_of(warped_views(*views, **options))


def warped_views(
    images: Tensor,
    K: Tensor,
    R: Tensor,
    size: int | tuple[int, int] | None = PAPER_SIZE,
    pairs: PairRule = "adjacent",
    view_valid: Tensor | None = None,
    covered: Tensor | None = None,
) -> Iterator[WarpedPair]:
    """Warp overlapping views of one sample whose views share a centre into each other.

    Images are first resized to `size`: a height (the width keeps the aspect ratio), `(height, width)`, or None to keep
    their size. The paper resizes from 512 to 1024. `covered` [V, 1, H, W] bool marks the pixels to compare; None: all.

    Raises:
        ValueError: A shape, dtype or value range is wrong.
    """
    sizes = check_shapes(images=(images, "V 3 H W"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    for view in images:
        unit_range(view)  # check all views before any work, one by one
    compared = view_pairs(K.cpu().double(), R.cpu().double(), sizes["H"], sizes["W"], pairs)
    K, R = K.to(images.device, torch.float64), R.to(images.device, torch.float64)
    height, width = _resized_size(sizes["H"], sizes["W"], size)
    if (height, width) != (sizes["H"], sizes["W"]):
        K = resize_intrinsics(K, width / sizes["W"], height / sizes["H"])
    views = _resized(lambda view: unit_range(images[view]), height, width)
    shown = shown_by_homography(K, R, height, width)
    if covered is None:
        return warp_pairs(views, views, compared, shown, view_valid)
    share = _resized(lambda view: covered[view].to(images.device).float(), height, width)
    return warp_pairs(views, views, compared, shown, view_valid, covered=lambda view: share(view) > 1 - 1e-6)


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
    """Compare overlapping views of one sample with depth; see `warped_depth_views`."""
    return errors_of(warped_depth_views(images, depths, K, R, t, pairs, tolerance, view_valid))


def warped_depth_views(
    images: Tensor,
    depths: Tensor,
    K: Tensor,
    R: Tensor,
    t: Tensor,
    pairs: PairRule = "adjacent",
    tolerance: DepthTolerance = PAPER_TOLERANCE,
    view_valid: Tensor | None = None,
) -> Iterator[WarpedPair]:
    """Warp overlapping views of one sample with depth into each other.

    Pixels whose z in the source camera differs from the source's depth by more than `tolerance` are discarded as
    occluded. The paper's 0.5 m misses occluders that are less than 0.5 m in front of the pixel's point;
    `DEFAULT_DEPTH_TOLERANCE` is stricter.

    Raises:
        ValueError: A shape, dtype or value range is wrong.
    """
    check_shapes(images=(images, "V 3 H W"), depths=(depths, "V H W"), K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"))
    if not min(tolerance) >= 0:
        raise ValueError(f"overlap_depth_error must be at least 0 metres; got {min(tolerance)}.")
    views = [values.to(images.device) for values in (depths, K, R, t)]
    unit = unit_range(images)

    def shown(target: int, source: int) -> tuple[Tensor, Tensor]:
        target_view, source_view = ([values[view] for values in views] for view in (target, source))
        return shown_pixels(*depth_correspondence(*target_view, *source_view, tolerance), *unit.shape[-2:])

    compared, view = depth_view_pairs(*views[1:], views[0], pairs), unit.__getitem__
    return warp_pairs(view, view, compared, shown, view_valid)


def shown_by_homography(K: Tensor, R: Tensor, height: int, width: int) -> Shown:
    """Return a function from view indices (target, source) to the `shown_pixels` of views that share a centre.

    The last `NUM_CACHED_HOMOGRAPHIES` results are kept, since all samples of a data set have the same cameras.
    """

    def shown(target: int, source: int) -> tuple[Tensor, Tensor]:
        H = homography(K[target], R[target], K[source], R[source])
        values = tuple(round(value, HOMOGRAPHY_DIGITS) for value in H.flatten().tolist())
        return _shown_by_homography(values, height, width, K.device)

    return shown


@lru_cache(maxsize=NUM_CACHED_HOMOGRAPHIES)
def _shown_by_homography(
    values: tuple[float, ...], height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    H = torch.tensor(values, dtype=torch.float64, device=device).reshape(3, 3)
    parts, rows = [], max(1, NUM_POINTS // width)
    for top in range(0, height, rows):
        xy = cell_centres(min(rows, height - top), width, 1, device=device).reshape(-1, 2)
        xy[:, 1] += top
        index, shown = shown_pixels(*apply_homography(H, xy, height, width), height, width)
        parts.append((index + top * width, shown))
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def errors_of(pairs: Iterable[WarpedPair]) -> PairErrors:
    """Sum the squared errors of each pair."""

    def row(pair: WarpedPair) -> tuple[tuple[int, int], float, int]:
        error = sum(float(channel.sums()[-1]) for channel in pair.channels())
        return (pair.target, pair.source), error, len(pair.own) * len(pair.index)

    rows = list(map(row, pairs))  # no pair is held while the next one is made
    return PairErrors(*([row[i] for row in rows] for i in range(3)))


def overlap_psnr(
    images: Tensor,
    K: Tensor,
    R: Tensor,
    size: int | tuple[int, int] | None = PAPER_SIZE,
    pairs: PairRule = "adjacent",
    view_valid: Tensor | None = None,
) -> dict[str, float]:
    """Compute both averages of the overlap PSNR for one sample or a batch; see `overlap_errors`.

    Returns:
        `{"overlap_psnr_mean_of_pairs": dB, "overlap_psnr_pooled": dB, "num_pairs": count}`; NaN without pairs.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=16, width=16).cameras()
        >>> grey = torch.zeros(8, 3, 16, 16)
        >>> overlap_psnr(grey, K, R, size=32)
        {'overlap_psnr_mean_of_pairs': 100.0, 'overlap_psnr_pooled': 100.0, 'num_pairs': 8}
    """
    if images.ndim == 5:
        check_shapes(images=(images, "B V 3 H W"), K=(K, "B V 3 3"), R=(R, "B V 3 3"))
    return combine([overlap_errors(*views, size, pairs, valid) for *views, valid in _samples(view_valid, images, K, R)])


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
    """Compute `overlap_psnr` for views with depth; see `depth_overlap_errors`.

    Example:
        >>> K = torch.tensor([[4.0, 0, 3.5], [0, 4.0, 1.5], [0, 0, 1]]).expand(2, 3, 3)
        >>> R, t = torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
        >>> images = torch.stack([torch.full((3, 4, 8), 0.1), torch.full((3, 4, 8), 0.3)])  # 0.1 apart in [0, 1]
        >>> psnr = depth_overlap_psnr(images, torch.full((2, 4, 8), 2.0), K, R, t)
        >>> round(psnr["overlap_psnr_pooled"], 4), psnr["num_pairs"]
        (20.0, 1)
    """
    if images.ndim == 5:
        batch = {"K": (K, "B V 3 3"), "R": (R, "B V 3 3"), "t": (t, "B V 3")}
        check_shapes(images=(images, "B V 3 H W"), depths=(depths, "B V H W"), **batch)
    samples = _samples(view_valid, images, depths, K, R, t)
    return combine([depth_overlap_errors(*views, pairs, tolerance, valid) for *views, valid in samples])


def combine(samples: Collection[PairErrors]) -> dict[str, float]:
    """Average the errors of samples in both ways; see `overlap_psnr`."""
    psnr = [value for sample in samples for value in sample.psnr_of_pairs()]
    error = sum(sum(sample.squared_error) for sample in samples)
    count = sum(sum(sample.num_values) for sample in samples)
    return {
        "overlap_psnr_mean_of_pairs": _mean(psnr),
        "overlap_psnr_pooled": psnr_from_mse(error / count) if count else math.nan,
        "num_pairs": len(psnr),
    }


def unit_range(images: Tensor) -> Tensor:
    """Convert uint8 or float images in [-1, 1] to float32 in [0, 1]; floats up to 1.5 in magnitude are clipped.

    Raises:
        ValueError: The dtype is another, or a value is not finite or out of range.
    """
    if images.dtype == torch.uint8:
        return from_uint8(images).add_(1).div_(2).clamp_(0, 1)
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [-1, 1]; got {images.dtype}.")
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()) or bool((images.abs() > 1.5).any()):
        raise ValueError(
            f"images must be finite and in [-1, 1]; got values from {float(images.min()):.3g} to "
            f"{float(images.max()):.3g}. Pass uint8 images for the range [0, 255]."
        )
    return ((images + 1) / 2).clamp(0, 1)


def _resized_size(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return height, width
    new_height, new_width = (size, round(width * size / height)) if isinstance(size, int) else size
    if new_height < 1 or new_width < 1:
        raise ValueError(f"overlap_size must be at least 1 pixel; got {size}.")
    return new_height, new_width


def _resized(views: Views, height: int, width: int) -> Views:
    """Return a function that resizes a view when it is asked for; eight views of 1024 x 1024 take 100 MB."""

    @lru_cache(maxsize=1)  # the source of a pair is often the target of the next
    def view(index: int) -> Tensor:
        values = views(index)
        if (height, width) == tuple(values.shape[-2:]):
            return values
        how = {"mode": "bilinear", "align_corners": False, "antialias": True}
        return F.interpolate(values[None], (height, width), **how)[0].clamp_(0, 1)

    return view


def _samples(view_valid: Tensor | None, images: Tensor, *others: Tensor) -> Iterable[tuple[Tensor | None, ...]]:
    """Yield the tensors of each sample, `view_valid` last, for one sample or a batch."""
    if images.ndim == 4:
        return [(images, *others, view_valid)]
    return zip(images, *others, [None] * len(images) if view_valid is None else view_valid, strict=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
