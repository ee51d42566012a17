"""Registration of colour to depth: do other placements of the colours fit the geometry better than the stored one?

Own derivation. If the colour image is registered to the depth image, a point of the world has the same colour in both
of two frames that see it. If the colour camera has another field of view or position, colours are read beside their
points; sampling them a little farther in, farther out or to the side then makes the frames agree better.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvdiff.geometry.sampling import sample_bilinear

MIN_SPREAD = 10.0
"""Least standard deviation of compared brightness, in grey levels; on plain walls and in the dark, noise decides."""


class Placement(NamedTuple):
    """Position of the colour image over the depth image.

    A point at p, relative to the middle of the depth image, has its colour at zoom * p + shift. Zooms are factors per
    axis; shifts are shares of the image's width and height. (1, 1, 0, 0) is the stored, registered placement.
    """

    zoom_x: float = 1.0
    zoom_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def __str__(self) -> str:
        if self.shift_x or self.shift_y:
            side = ("right", "left") if self.shift_x else ("down", "up")
            amount = self.shift_x or self.shift_y
            return f"shifted {side[amount < 0]} by {abs(amount):.0%} of the {'width' if self.shift_x else 'height'}"
        if self.zoom_x == self.zoom_y:
            return f"enlarged {self.zoom_x:g} times" if self.zoom_x > 1 else f"reduced to {self.zoom_x:g}"
        side, zoom = ("width", self.zoom_x) if self.zoom_y == 1 else ("height", self.zoom_y)
        return f"stretched {zoom:g} times in {side}" if zoom > 1 else f"squeezed to {zoom:g} in {side}"

    def apply(self, xy: Tensor, height: int, width: int) -> Tensor:
        """Return the places [..., 2] of colours, in pixels, of points at `xy` [..., 2] in the depth image."""
        middle = xy.new_tensor([(width - 1) / 2, (height - 1) / 2])
        zoom, shift = xy.new_tensor([self.zoom_x, self.zoom_y]), xy.new_tensor([self.shift_x, self.shift_y])
        return middle + (xy - middle) * zoom + shift * xy.new_tensor([width, height])


STORED = Placement()
OTHERS = (
    *(Placement(zoom, zoom) for zoom in (0.7, 0.83, 0.91, 1.1, 1.2, 1.4)),
    *(Placement(zoom_x=zoom) for zoom in (0.75, 1.33)),
    *(Placement(zoom_y=zoom) for zoom in (0.75, 1.33)),
    *(Placement(shift_x=shift) for shift in (-0.08, -0.04, 0.04, 0.08)),
    *(Placement(shift_y=shift) for shift in (-0.08, -0.04, 0.04, 0.08)),
)
"""Placements of colour cameras that are not registered: other fields of view, cropped sides, a camera beside."""


def colour_correlations(source: Tensor, target: Tensor, source_xy: Tensor, target_xy: Tensor) -> list[float]:
    """Correlate the brightness of points in two frames, for the stored placement of colours and each of `OTHERS`.

    Args:
        source: [H, W] brightness in [0, 255].
        target: [H, W] brightness of the other frame.
        source_xy: [M, 2] pixels of the points in the source.
        target_xy: [M, 2] pixels of the points in the target.

    Returns:
        Correlations in [-1, 1]; NaN without points, or where brightness varies by less than `MIN_SPREAD`.
    """
    return [
        correlation(*(_placed(grey, xy, placement) for grey, xy in ((source, source_xy), (target, target_xy))))
        for placement in (STORED, *OTHERS)
    ]


def _placed(grey: Tensor, xy: Tensor, placement: Placement) -> Tensor:
    return sample_bilinear(grey[None, None], placement.apply(xy, *grey.shape)[None], padding="border")[0, 0]


def correlation(a: Tensor, b: Tensor) -> float:
    """Correlate two [M] brightness vectors in [0, 255]; NaN if one varies by less than `MIN_SPREAD`."""
    if not len(a):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    spread = torch.stack([a.square().mean().sqrt(), b.square().mean().sqrt()])
    return float((a * b).mean() / spread.prod()) if float(spread.min()) >= MIN_SPREAD else float("nan")
