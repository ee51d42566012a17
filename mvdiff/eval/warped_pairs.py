"""Warp one view of a pair into the other and compare them pixel by pixel.

Axes: V views, H x W image, N compared pixels. Intensities are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap

import torch
from torch import Tensor

from mvdiff.geometry.sampling import normalized_from_pixel, sample_normalized

Pairs = list[tuple[int, int]]
Views = Callable[[int], Tensor]
"""Function from the index of a view to its values [C, H, W], so that not all views need to be in memory."""
Shown = Callable[[int, int], tuple[Tensor, Tensor]]
"""Function from (target, source) to what `shown_pixels` returns."""

LEAST_CONTRAST = 0.5 / 255
"""Standard deviation below which pixels count as flat: half a grey level."""
BLOCK = 2**16
"""Pixels compared at once: all of a pair of 1024 x 1024 take 30 MB more for a moment."""


@dataclass(frozen=True)
class WarpedPair:
    """A target view and the source view to be warped into it; at least one pixel is compared.

    Attributes:
        target: Index of the target view.
        source: Index of the source view.
        own: [C, H, W], the target view.
        other: [C, H, W], the source view.
        index: See `shown_pixels`.
        xy: See `shown_pixels`.
    """

    target: int
    source: int
    own: Tensor
    other: Tensor
    index: Tensor
    xy: Tensor

    def channels(self) -> Iterator[WarpedChannel]:
        """Yield one channel after the other, since float64 views are large."""
        for own, other in zip(self.own, self.other, strict=True):
            yield WarpedChannel(own.flatten(), other[None, None].double(), self.index, self.xy)


@dataclass(frozen=True)
class WarpedChannel:
    """One channel of a `WarpedPair`.

    Attributes:
        own: [H * W], the target view.
        other: [1, 1, H, W] float64, the source view.
        index: See `shown_pixels`.
        xy: See `shown_pixels`.
    """

    own: Tensor
    other: Tensor
    index: Tensor
    xy: Tensor

    def at(self, places: slice | Tensor = slice(None)) -> Tensor:
        """Return the target and the warped source, [2, n] float64, at some of the N compared pixels."""
        own = self.own[self.index[places]].double()
        return torch.stack([own, sample_normalized(self.other, self.xy[None, places])[0, 0]])

    def sums(self) -> Tensor:
        """Return the `pixel_sums` [6] over all compared pixels."""
        starts = range(0, len(self.index), BLOCK)
        return sum(pixel_sums(*self.at(slice(start, start + BLOCK))) for start in starts)


def shown_pixels(xy: Tensor, visible: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Select the target pixels whose four bilinear neighbours lie in the source.

    Args:
        xy: [..., 2] source positions (x, y) of the target's pixels, row by row.
        visible: [...] bool, the target pixels that the source shows.
        height: Height of the source in pixels.
        width: Width of the source in pixels.

    Returns:
        index: [N] long, the places of the selected pixels among all, in ascending order: y * W + x.
        xy: [N, 2] float64, their source positions as grid_sample coordinates (`normalized_from_pixel`).
    """
    inside = visible & ((xy >= 0) & (xy <= xy.new_tensor([width - 1, height - 1]))).all(dim=-1)
    index = inside.flatten().nonzero()[:, 0]
    return index, normalized_from_pixel(xy.reshape(-1, 2)[index].double(), height, width)


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
                kept = sample_normalized(mask(source)[None].double(), xy[None])[0, 0] > 1 - 1e-6
                index, xy = index[kept], xy[kept]
        if not len(index):
            return None
        return WarpedPair(target, source, targets(target), sources(source), index, xy)

    valid = [pair for pair in pairs if view_valid is None or all(view_valid[view] for view in pair)]
    return filter(None, starmap(warped, valid))  # no pair is held while the next one is made


def pixel_sums(own: Tensor, warped: Tensor) -> Tensor:
    """Sum over the last axis, the pixels of a channel.

    Args:
        own: [..., N] of the target.
        warped: [..., N] of the warped source.

    Returns:
        [..., 6]: sums of own, warped, own * warped, own², warped² and (own - warped)².
    """
    products = own, warped, own * warped, own.square(), warped.square(), (own - warped).square()
    return torch.stack([values.sum(dim=-1) for values in products], dim=-1)


def correlation(sums: Tensor, num_pixels: int) -> float:
    """Compute the ZNCC of two sets of pixels, each channel about its own mean, all channels together.

    It does not change with the brightness of a channel or the contrast of a view (own derivation: the cosine of the
    centred values).

    Args:
        sums: [C, 6] of `pixel_sums`, float64, of intensities in [0, 1].
        num_pixels: Number of pixels that were summed.

    Returns:
        A number in [-1, 1]; 0 if one of the two is flat (`LEAST_CONTRAST`), NaN if both are.

    Example:
        >>> import torch
        >>> ramp = torch.linspace(0, 1, 5, dtype=torch.float64).expand(3, 5)
        >>> [round(correlation(pixel_sums(ramp, other), 5), 6) for other in (0.1 * ramp + 0.7, 1 - ramp)]
        [1.0, -1.0]
    """
    own, warped, *products = (sums[:, :5] / num_pixels).unbind(dim=1)
    means = own * warped, own.square(), warped.square()
    covariance, *variances = (float((a - b).mean()) for a, b in zip(products, means, strict=True))
    flat = [variance < LEAST_CONTRAST**2 for variance in variances]
    if any(flat):
        return math.nan if all(flat) else 0.0
    return min(1.0, max(-1.0, covariance / math.sqrt(math.prod(variances))))


def mean_of_known(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
