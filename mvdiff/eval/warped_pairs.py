"""Warp one view of a pair into the other and compare them pixel by pixel.

Axes: V views, H x W image, N compared pixels. Intensities are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap

from torch import Tensor

from mvdiff.geometry.sampling import sample_bilinear

Pairs = list[tuple[int, int]]
Views = Callable[[int], Tensor]
"""Function from the index of a view to its values [C, H, W], so that not all views need to be in memory."""
Shown = Callable[[int, int], tuple[Tensor, Tensor]]
"""Function from (target, source) to what `shown_pixels` returns."""

LEAST_CONTRAST = 0.5 / 255
"""Standard deviation below which pixels count as flat: half a grey level."""


@dataclass(frozen=True)
class WarpedPair:
    """A target view and the source view warped into it.

    Attributes:
        target: Index of the target view.
        source: Index of the source view.
        size: Height and width of the views in pixels.
        index: [N] long, the target pixels that both views show, row by row: y * W + x.
        own: [3, N] float64, the target view at these pixels.
        warped: [3, N] float64, the source view at these pixels.
    """

    target: int
    source: int
    size: tuple[int, int]
    index: Tensor
    own: Tensor
    warped: Tensor

    def squared_error(self) -> float:
        """Return the sum of squared differences over pixels and channels."""
        return _dot(*[self.warped - self.own] * 2)

    def correlation(self) -> float:
        """Return the zero-mean normalised cross-correlation (ZNCC) of both views; see `correlation`."""
        return correlation(self.own, self.warped)


def shown_pixels(xy: Tensor, visible: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Select the target pixels whose four bilinear neighbours lie in the source.

    Args:
        xy: [..., 2] source positions (x, y) of the target's pixels, row by row.
        visible: [...] bool, the target pixels that the source shows.
        height: Height of the source in pixels.
        width: Width of the source in pixels.

    Returns:
        [N] long, the places of the selected pixels among all, and [N, 2] their source positions.
    """
    inside = visible & ((xy >= 0) & (xy <= xy.new_tensor([width - 1, height - 1]))).all(dim=-1)
    index = inside.flatten().nonzero()[:, 0]
    return index, xy.reshape(-1, 2)[index]


def warp_pairs(
    targets: Views,
    sources: Views,
    pairs: Pairs,
    shown: Shown,
    view_valid: Tensor | None = None,
    known: Views | None = None,
    covered: Views | None = None,
) -> Iterator[WarpedPair]:
    """Warp the source view of each pair into its target view; skip pairs that share no pixel.

    Args:
        targets: [3, H, W] in [0, 1] of each view.
        sources: [3, H, W] in [0, 1] of each view.
        pairs: `(target, source)` view indices.
        shown: Function from (target, source) to what `shown_pixels` returns.
        view_valid: [V] bool; pairs with an invalid view are skipped. None: all valid.
        known: [1, H, W] bool of each view. Compare only target pixels that are unknown and whose four bilinear
            neighbours in the source are known. None: all pixels whose four neighbours lie in the image.
        covered: [1, H, W] bool of each view. Compare only covered target pixels whose four neighbours are covered.
            None: all.
    """

    def warped(target: int, source: int) -> WarpedPair | None:
        index, xy = shown(target, source)
        for mask, wanted in ((known, False), (covered, True)):
            if mask is not None:
                kept = mask(target).flatten()[index] == wanted
                index, xy = index[kept], xy[kept]
                kept = sample_bilinear(mask(source)[None].double(), xy[None])[0, 0] > 1 - 1e-6
                index, xy = index[kept], xy[kept]
        if not len(index):
            return None
        other = sample_bilinear(sources(source)[None].double(), xy[None])[0]
        view = targets(target)
        own = view.flatten(1).index_select(1, index).double()
        return WarpedPair(target, source, (view.shape[-2], view.shape[-1]), index, own, other)

    valid = [pair for pair in pairs if view_valid is None or all(view_valid[view] for view in pair)]
    return filter(None, starmap(warped, valid))  # no pair is held while the next one is made


def correlation(own: Tensor, warped: Tensor) -> float:
    """Compute the ZNCC of two sets of pixels, each channel about its own mean, all channels together.

    It does not change with the brightness of a channel or the contrast of a view (own derivation: the cosine of the
    centred values).

    Args:
        own: [3, N] in [0, 1].
        warped: [3, N] in [0, 1].

    Returns:
        A number in [-1, 1]; 0 if one of the two is flat (`LEAST_CONTRAST`), NaN if both are.

    Example:
        >>> import torch
        >>> ramp = torch.linspace(0, 1, 5, dtype=torch.float64).expand(3, 5)
        >>> round(correlation(ramp, 0.1 * ramp + 0.7), 6), round(correlation(ramp, 1 - ramp), 6)
        (1.0, -1.0)
    """
    a, b = (values - values.mean(dim=1, keepdim=True) for values in (own, warped))
    return zncc_from_moments(*(_dot(x, y) / x.numel() for x, y in ((a, b), (a, a), (b, b))))


def zncc_from_moments(covariance: float, own_variance: float, warped_variance: float) -> float:
    """Return the ZNCC from moments averaged over pixels and channels; see `correlation`."""
    flat = [variance < LEAST_CONTRAST**2 for variance in (own_variance, warped_variance)]
    if any(flat):
        return math.nan if all(flat) else 0.0
    return min(1.0, max(-1.0, covariance / math.sqrt(own_variance * warped_variance)))


def mean_of_known(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _dot(x: Tensor, y: Tensor) -> float:
    return float(x.flatten() @ y.flatten())
