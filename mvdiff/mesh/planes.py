"""A depth map as one small plane per pixel (own derivation)."""

import numpy as np
import torch
from torch import Tensor

from mvdiff.geometry.consistency import Frame
from mvdiff.geometry.depth import unproject
from mvdiff.mesh.blocks import STRIP, cells_of, cells_of_pixels, distinct

MIN_SLANT = 0.3
"""Lower bound on the slant; surfaces seen more obliquely are treated as if at this slant."""
NEAREST = 1e-6
"""Smallest depth to use, in metres; weights of nearer points overflow."""
MAX_PARTS = 8
"""Largest number of points per axis into which a pixel is divided if its surface patch exceeds the truncation."""
GAP = np.float32(1e20)
"""Difference of inverse depths between pixels of which one has no depth."""
TINY = np.float32(1e-30)
TIE = 1e-6
"""Share of an image by which positions may lie outside it, for rounding errors."""


class LocalPlanes:
    """The planes of a frame, float32.

    The inverse depth of a plane is affine in the pixel coordinates, so a plane is an inverse depth and its slope along
    x and y. The slope is the mean of those towards the two neighbours. If these differ by more than the truncation, or
    one is missing, it is the slope towards the neighbour closer in depth, which at an edge lies on the same surface. A
    pixel that differs from both neighbours by more than the truncation and is not in line with them, such as a mixed
    depth at an edge, belongs to no surface and is dropped.

    Attributes:
        valid: [H, W] bool, pixels with a plane.
        inverse: [H, W] inverse depth at the pixel's centre, 0 where there is no plane.
        density: [H, W] weight, 0 without a plane: pixels per square metre of surface, for a focal length of one pixel.
        depth: [H, W] depth in metres, finite where there is no plane, too.
        area: Total area of the planes in square metres.
        furthest: Largest depth in metres, 0 if there is none.

    Args:
        frame: Frame whose depth and camera are used.
        truncation: Truncation distance in metres.
        max_depth: Largest depth to use, in metres.
    """

    def __init__(self, frame: Frame, truncation: float, max_depth: float):
        self.frame = frame
        height, width = frame.depth.shape
        depth = frame.depth.float().numpy()
        # slope x, slope y, inverse depth at (0, 0), 1 / |n|; a border without planes is for what lies outside the image
        self._padded = np.zeros((height + 2, width + 2, 4), np.float32)
        valid, found = np.zeros(depth.shape, bool), np.zeros((3, height, width), np.float32)
        area, rows = 0.0, max(1, STRIP // max(width, 1))
        for top in range(0, height, rows):
            strip = slice(top, min(top + rows, height))
            planes = self._padded[top + 1 : strip.stop + 1, 1:-1]
            area += _fit(depth, strip, frame.K.float().numpy(), truncation, max_depth, valid, found, planes)
        self.area = float(area / (frame.K[0, 0] * frame.K[1, 1]))
        self.valid = torch.from_numpy(valid)
        self.depth, self.inverse, self.density = torch.from_numpy(found)
        self.furthest = float(np.max(found[0], where=valid, initial=0))

    def at(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the plane of the nearest pixel at [..., 2] (x, y) pixel coordinates.

        Returns:
            [...] inverse z-depth of the plane, 0 where unknown or outside the image, and [...] slant: distance from the
            plane in metres per metre of depth.
        """
        height, width = self.valid.shape
        x, y = xy.unbind(dim=-1)
        column, row = (
            # shrink towards the middle: the image's own border belongs to its pixels
            part.mul(1 - TIE).add_(1 + TIE * (size - 1) / 2).round_().clamp_(0, size + 1).int()
            for part, size in ((x, width), (y, height))
        )
        pixel = row.mul_(width + 2).add_(column).reshape(-1)
        # all four at once: NumPy takes 16 bytes as fast as 4
        planes = self._padded.view(np.complex128).reshape(-1).take(pixel.numpy(), mode="clip").view(np.float32)
        planes = torch.from_numpy(np.ascontiguousarray(planes.reshape(-1, 4).T)).reshape(4, *x.shape)
        slope_x, slope_y, inverse, per_normal = planes
        inverse = torch.addcmul(inverse, slope_x, x).addcmul_(slope_y, y).clamp_(min=0)
        return inverse, per_normal.mul_(inverse).clamp_(min=MIN_SLANT)

    def cells(self, size: float, spacing: float) -> np.ndarray:
        """Return the cells of `size` metres, see `mvdiff.mesh.blocks`, that hold points of the planes.

        Args:
            size: Side of a cell in metres.
            spacing: Points on the planes are at most about so many metres apart.

        Raises:
            ValueError: A point is too far from the world origin for the grid.
        """
        frame, focal = self.frame, float(self.frame.K.diagonal()[:2].min())
        found = [cells_of_pixels(self.depth.numpy(), self.valid.numpy(), frame.K, frame.R, frame.t, size)]
        if self.furthest <= MIN_SLANT * focal * spacing:  # no two pixels of a plane are farther apart
            return found[0]
        apart = (self.inverse / self.density.clamp(min=float(TINY)) / focal).numpy()  # metres: depth / slant / focal
        rows, columns = np.nonzero(apart > spacing)
        parts = np.clip(np.ceil(apart[rows, columns] / spacing), 1, MAX_PARTS)
        xy = torch.from_numpy(np.stack([columns, rows], axis=-1)).double()
        for number in np.unique(parts.astype(int)).tolist():
            pixels = xy[torch.from_numpy(parts == number)]
            inside = (torch.arange(number) + 0.5).double() / number - 0.5
            for shift in torch.cartesian_prod(inside, inside):
                moved = pixels + shift
                inverse, _ = self.at(moved)
                moved, depth = moved[inverse > 0], 1 / inverse[inverse > 0]
                found.append(cells_of(unproject(moved, depth, frame.K, frame.R, frame.t), size))
        return distinct(np.concatenate(found))


def _fit(
    depth: np.ndarray,
    strip: slice,
    K: np.ndarray,
    truncation: float,
    max_depth: float,
    valid: np.ndarray,
    found: np.ndarray,
    planes: np.ndarray,
) -> float:
    """Fit planes to a strip of rows of a depth map [H, W].

    Writes into those rows of valid [H, W] and found [3, H, W] (depth, finite everywhere; inverse depth; density) and
    into planes [h, W, 4]. Returns the area of the planes in square metres, for a focal length of one pixel.
    """
    around = slice(max(strip.start - 1, 0), strip.stop + 1)
    inner = slice(strip.start - around.start, strip.stop - around.start)
    known = (depth[around] >= NEAREST) & (depth[around] <= max_depth)
    metres = np.where(known, depth[around], 1)
    found[0, strip] = metres[inner]
    inverse = known / metres
    metres *= metres  # metres of depth per unit of inverse depth
    slopes, good = [], known[inner]
    for axis in (1, 0):
        before, after = (steps[inner] for steps in _steps(inverse, known, axis))
        apart, sizes = np.abs(before - after), (np.abs(before), np.abs(after))
        bent = apart * metres[inner] > truncation
        good = good & ~(bent & (apart < GAP / 2) & (np.minimum(*sizes) * metres[inner] > truncation))
        slope = (before + after) * np.float32(0.5)
        closer = sizes[0] <= sizes[1]
        np.putmask(slope, bent & closer, before)
        np.putmask(slope, bent & ~closer, after)
        slopes.append(slope * (np.abs(slope) < GAP / 2))
    valid[strip] = good
    inverse = np.multiply(inverse[inner], good, out=found[1, strip])
    x, y = np.arange(depth.shape[1], dtype=np.float32), np.arange(strip.start, strip.stop, dtype=np.float32)[:, None]
    normals = np.stack([*slopes, inverse - slopes[0] * x - slopes[1] * y])
    normals *= good
    for number, part in enumerate(normals):
        planes[..., number] = part
    # n . X = 1 on the plane, n = K^T (slope_x, slope_y, rest): X = depth K^-1 (x, y, 1)
    normals = (K.T @ normals.reshape(3, -1)).reshape(normals.shape)
    normals *= normals
    per_normal = good / np.sqrt(np.maximum(normals.sum(axis=0), TINY))  # distance of the plane from the camera centre
    planes[..., 3] = per_normal
    density = inverse * inverse * np.maximum(inverse * per_normal, np.float32(MIN_SLANT))
    found[2, strip] = density
    return float((good / np.maximum(density, TINY)).sum())


def _steps(inverse: np.ndarray, known: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the [H, W] differences from the previous and to the next pixel along an axis, GAP where one is missing."""
    steps = np.full([size + (a == axis) for a, size in enumerate(inverse.shape)], GAP, np.float32)
    if axis == 1:
        steps[:, 1:-1] = inverse[:, 1:] - inverse[:, :-1] + ~(known[:, 1:] & known[:, :-1]) * GAP
        return steps[:, :-1], steps[:, 1:]
    steps[1:-1] = inverse[1:] - inverse[:-1] + ~(known[1:] & known[:-1]) * GAP
    return steps[:-1], steps[1:]
