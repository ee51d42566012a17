"""Overlap PSNR: do views show the same thing where they overlap (paper section 5, Table 3)?

One view of a pair, the source, is warped into the other, the target, and the PSNR is taken over the pixels whose four
bilinear neighbours all lie in the source. Views that share a centre are resized first and warped by their homography.
Views with depth and pose keep their own size (192x256); each pixel of the target that has a depth is unprojected and
projected into the source, and kept where its z differs from the depth there by at most 0.5 m, the paper's test for
occlusion.

Two averages are in use and differ: the mean over pairs of each pair's PSNR (`overlap_psnr_mean_of_pairs`), and the PSNR
of the squared error pooled over all pixels of all pairs (`overlap_psnr_pooled`). Both are always reported.

Arguments of one name are the same everywhere; `overlap_psnr` and `depth_overlap_psnr` also take batches of them:
    images: [V, 3, H, W], uint8 in [0, 255] or float in [-1, 1].
    depths: [V, H, W] z-depth in metres, 0 = none.
    K: [V, 3, 3] intrinsics at H x W, pixels.
    R: [V, 3, 3] world-from-camera rotations.
    t: [V, 3] camera centres in the world, metres.
    pairs: Pairs of views, or the rule to choose them by (see `view_pairs`, `depth_view_pairs`).
    view_valid: [V] bool; pairs with a view that is False are left out.

Legend: B batch, V views, H W image. Errors are squared errors of intensities in [0, 1] (PSNR peak 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvdiff.eval.settings import PAPER_SIZE, PairRule
from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.correspondence import apply_homography, homography, overlapping_neighbours
from mvdiff.geometry.depth import DepthTolerance, depth_correspondence
from mvdiff.geometry.depth_overlap import overlap_matrix
from mvdiff.geometry.sampling import cell_centres, sample_bilinear
from mvdiff.samples import from_uint8
from mvdiff.shapes import check_shapes

PAPER_TOLERANCE = DepthTolerance(absolute=0.5, relative=0.0)
MIN_PAIR_OVERLAP = 0.3
MAX_PSNR = 100.0
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class PairErrors:
    """Squared error of the overlap of each pair of views of one sample.

    Attributes:
        pairs: `(target, source)` view indices; the source is warped into the target.
        squared_error: Sum of squared errors over a pair's pixels and channels, intensities in [0, 1].
        num_values: Pixels x channels that were compared; pairs without any are left out of `pairs`.
    """

    pairs: Pairs
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


def view_pairs(K: Tensor, R: Tensor, height: int, width: int, rule: PairRule = "adjacent") -> Pairs:
    """Choose the pairs of views that share a centre to compare.

    Args:
        K: Intrinsics.
        R: Rotations.
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

    def adjacent() -> Iterable[tuple[int, int]]:
        forward = R[:, :, 2].double()
        angle = torch.rad2deg(torch.acos((forward @ forward.T).clamp(-1, 1)))
        rows, columns = torch.triu_indices(len(R), len(R), offset=1)
        if len(rows) == 0:
            return []
        between = angle[rows, columns]
        near = between <= between.min() + 1.0
        return zip(rows[near].tolist(), columns[near].tolist(), strict=True)

    def overlapping() -> Iterable[tuple[int, int]]:
        neighbours = overlapping_neighbours(K, R, height, width).tolist()
        return {tuple(sorted((i, j))) for i, row in enumerate(neighbours) for j in row if j >= 0}

    def rightwards(i: int, j: int) -> tuple[int, int]:
        return (j, i) if float(R[i, :, 0] @ R[j, :, 2]) < -1e-6 else (i, j)

    pairs = _pairs(rule, len(R), adjacent, overlapping)
    return sorted(rightwards(i, j) for i, j in pairs) if isinstance(rule, str) else pairs


def depth_view_pairs(K: Tensor, R: Tensor, t: Tensor, depths: Tensor, rule: PairRule = "adjacent") -> Pairs:
    """Choose the pairs of views with depth to compare: `(target, source)`.

    The rule `"adjacent"` takes consecutive views, (0, 1), (1, 2), ... (the paper); `"overlapping"` every pair of which
    each view shows more than 0.3 of the other, the source after the target; or give a list of pairs.

    Raises:
        ValueError: An unknown rule, or a pair outside the views.

    Example:
        >>> eye, t, depths = torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3), torch.ones(3, 4, 4)
        >>> depth_view_pairs(eye, eye, t, depths), depth_view_pairs(eye, eye, t, depths, [(0, 2)])
        ([(0, 1), (1, 2)], [(0, 2)])
    """

    def overlapping() -> Iterable[tuple[int, int]]:
        overlap = overlap_matrix(K, R, t, depths, min(4, *depths.shape[-2:]))
        shared = torch.minimum(overlap, overlap.mT).triu(diagonal=1) > MIN_PAIR_OVERLAP
        return map(tuple, shared.nonzero().tolist())

    return _pairs(rule, len(R), lambda: ((view, view + 1) for view in range(len(R) - 1)), overlapping)


def overlap_errors(
    images: Tensor,
    K: Tensor,
    R: Tensor,
    size: int | tuple[int, int] | None = PAPER_SIZE,
    pairs: PairRule = "adjacent",
    view_valid: Tensor | None = None,
) -> PairErrors:
    """Compare the overlaps of one sample whose views share a centre.

    Images are first resized to `size`: the height (the width follows), `(height, width)`, or None for their own. The
    paper: 1024 (from 512).

    Raises:
        ValueError: Shapes, dtype or values do not fit.
    """
    sizes = check_shapes(images=(images, "V 3 H W"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    compared = view_pairs(K.cpu().double(), R.cpu().double(), sizes["H"], sizes["W"], pairs)
    K, R = K.to(images.device, torch.float64), R.to(images.device, torch.float64)
    unit, K = _resize(unit_range(images), K, size)
    return pair_errors(unit, unit, compared, homographies(K, R, *unit.shape[-2:]), view_valid)


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

    Pixels whose z in the source differs from its depth by more than `tolerance` are discarded. The paper's 0.5 m leaves
    in what is occluded by something less than 0.5 m before it; `DEFAULT_DEPTH_TOLERANCE` does not.

    Raises:
        ValueError: Shapes, dtype or values do not fit.
    """
    check_shapes(images=(images, "V 3 H W"), depths=(depths, "V H W"), K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"))
    if not min(tolerance) >= 0:
        raise ValueError(f"overlap_depth_error must be at least 0 metres; got {min(tolerance)}.")
    views = [values.to(images.device) for values in (depths, K, R, t)]
    unit = unit_range(images)

    def correspond(target: int, source: int) -> tuple[Tensor, Tensor]:
        target_view, source_view = ([values[view] for values in views] for view in (target, source))
        return depth_correspondence(*target_view, *source_view, tolerance)

    return pair_errors(unit, unit, depth_view_pairs(*views[1:], views[0], pairs), correspond, view_valid)


def homographies(K: Tensor, R: Tensor, height: int, width: int) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Return a function of target and source: where the target's pixels lie in the source, and which face it."""
    centres = cell_centres(height, width, 1, device=K.device)
    return lambda target, source: apply_homography(
        homography(K[target], R[target], K[source], R[source]), centres, height, width
    )


def pair_errors(
    targets: Tensor,
    sources: Tensor,
    pairs: Pairs,
    correspond: Callable[[int, int], tuple[Tensor, Tensor]],
    view_valid: Tensor | None = None,
    known: Tensor | None = None,
) -> PairErrors:
    """Warp the source of each pair into its target and compare.

    Args:
        targets: [V, 3, H, W] in [0, 1].
        sources: [V, 3, H, W] in [0, 1].
        pairs: `(target, source)` views.
        correspond: Target and source -> pixels (x, y) [H, W, 2] of the source and whether it sees them [H, W].
        view_valid: [V] bool.
        known: [V, 1, H, W] bool. Compare at pixels of the target where it is False and whose four bilinear neighbours
            in the source are True; None: wherever all four lie in the image.
    """
    last = torch.tensor([targets.shape[-1] - 1, targets.shape[-2] - 1], device=targets.device)
    kept, errors, counts = [], [], []
    for target, source in pairs:
        if view_valid is not None and not (view_valid[target] and view_valid[source]):
            continue
        xy, visible = correspond(target, source)
        compared = visible & ((xy >= 0) & (xy <= last)).all(dim=-1)
        if known is not None:
            compared &= ~known[target, 0]
            whole = sample_bilinear(known[source : source + 1].double(), xy[compared][None])[0, 0] > 1 - 1e-6
            compared[compared.clone()] = whole
        count = int(compared.sum()) * targets.shape[1]
        if count == 0:
            continue
        warped = sample_bilinear(sources[source : source + 1].double(), xy[compared][None])[0]
        errors.append(float((warped - targets[target][:, compared].double()).square().sum()))
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
    """Compute the overlap PSNR of one sample or of a batch, both averages, see `overlap_errors`.

    Returns:
        `{"overlap_psnr_mean_of_pairs": dB, "overlap_psnr_pooled": dB, "num_pairs": count}`; NaN without any pair.

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
    """Compute what `overlap_psnr` does, of views with depth, see `depth_overlap_errors`.

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
    """Average samples' errors in both ways, see `overlap_psnr`."""
    psnr = [value for sample in samples for value in sample.psnr_of_pairs()]
    error = sum(sum(sample.squared_error) for sample in samples)
    count = sum(sum(sample.num_values) for sample in samples)
    return {
        "overlap_psnr_mean_of_pairs": _mean(psnr),
        "overlap_psnr_pooled": psnr_from_mse(error / count) if count else math.nan,
        "num_pairs": len(psnr),
    }


def unit_range(images: Tensor) -> Tensor:
    """Return images, uint8 or float in [-1, 1], as float32 in [0, 1].

    Raises:
        ValueError: Another dtype, or values that are not finite and in [-1, 1].
    """
    if images.dtype == torch.uint8:
        images = from_uint8(images)
    elif not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [-1, 1]; got {images.dtype}.")
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()) or bool((images.abs() > 1.5).any()):
        raise ValueError(
            f"images must be finite and in [-1, 1]; got values from {float(images.min()):.3g} to "
            f"{float(images.max()):.3g}. Pass uint8 images for the range [0, 255]."
        )
    return ((images + 1) / 2).clamp(0, 1)


def _pairs(
    rule: PairRule,
    num_views: int,
    adjacent: Callable[[], Iterable[tuple[int, int]]],
    overlapping: Callable[[], Iterable[tuple[int, int]]],
) -> Pairs:
    rules = {"adjacent": adjacent, "overlapping": overlapping}
    if isinstance(rule, str):
        if rule not in rules:
            raise ValueError(f"overlap_pairs must be 'adjacent', 'overlapping' or a list of pairs; got {rule!r}.")
        return list(rules[rule]())
    pairs = [(int(i), int(j)) for i, j in rule]
    for i, j in pairs:
        if not (0 <= i < num_views and 0 <= j < num_views and i != j):
            raise ValueError(f"pairs must name two of {num_views} views; got ({i}, {j}). Count views from 0.")
    return pairs


def _resize(unit: Tensor, K: Tensor, size: int | tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    height, width = unit.shape[-2:]
    if size is None:
        return unit, K
    new_height, new_width = (size, round(width * size / height)) if isinstance(size, int) else size
    if new_height < 1 or new_width < 1:
        raise ValueError(f"overlap_size must be at least 1 pixel; got {size}.")
    if (new_height, new_width) == (height, width):
        return unit, K
    resized = F.interpolate(unit, (new_height, new_width), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1), resize_intrinsics(K, new_width / width, new_height / height)


def _samples(view_valid: Tensor | None, images: Tensor, *others: Tensor) -> Iterable[tuple[Tensor | None, ...]]:
    """Yield the tensors of each sample, `view_valid` last, of one sample or of a batch."""
    if images.ndim == 4:
        return [(images, *others, view_valid)]
    return zip(images, *others, [None] * len(images) if view_valid is None else view_valid, strict=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
