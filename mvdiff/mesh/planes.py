"""A depth map as one small plane per pixel (own derivation)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.geometry.consistency import Frame
from mvdiff.geometry.depth import unproject
from mvdiff.mesh.blocks import cells_of, cells_of_pixels

MIN_SLANT = 0.3
"""Lower bound on the slant; surfaces seen more obliquely are treated as if at this slant."""
NEAREST = 1e-6
"""Smallest depth to use, in metres; weights of nearer points overflow."""
MAX_PARTS = 8
"""Largest number of points per axis into which a pixel is divided if its surface patch exceeds the truncation."""


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
        slant: [H, W] distance from the plane in metres per metre of depth.
        furthest: Largest depth in metres, 0 if there is none.

    Args:
        frame: Frame whose depth and camera are used.
        truncation: Truncation distance in metres.
        max_depth: Largest depth to use, in metres.
    """

    def __init__(self, frame: Frame, truncation: float, max_depth: float):
        self.frame = frame
        depth = frame.depth.float()
        known = (depth >= NEAREST) & (depth <= max_depth)
        inverse = torch.where(known, 1 / depth, torch.nan)
        metres = depth.square()  # metres of depth per unit of inverse depth
        slopes, valid = [], known
        for axis in (1, 0):
            before, after = _steps(inverse, axis)
            nearer = torch.where(before.abs() <= after.abs(), before, after)
            bend = (before - after).abs_().mul_(metres)  # metres; inf or NaN if a neighbour is missing
            alone = (bend > truncation) & (bend < torch.inf) & (nearer.abs().mul_(metres) > truncation)
            slope = torch.where(bend <= truncation, (before + after).mul_(0.5), nearer)
            slopes.append(slope.nan_to_num_(0, 0, 0))
            valid = valid & ~alone
        self.valid, self.inverse = valid, torch.where(valid, inverse, 0)
        height, width = depth.shape
        x, y = torch.arange(width, dtype=torch.float32), torch.arange(height, dtype=torch.float32)[:, None]
        rest = inverse.addcmul_(slopes[0], x, value=-1).addcmul_(slopes[1], y, value=-1)  # inverse depth at (0, 0)
        planes = torch.where(valid, torch.stack([*slopes, rest]), 0)
        # n . X = 1 on the plane, n = K^T (slope_x, slope_y, rest): X = depth K^-1 (x, y, 1)
        normals = (frame.K.float().mT @ planes.reshape(3, -1)).reshape(3, height, width)
        per_normal = normals.square_().sum(dim=0).rsqrt_().masked_fill_(~valid, 0)  # metres from the camera centre
        # a border of pixels without a plane, for whatever lies outside the image
        self._padded = F.pad(torch.cat([planes, per_normal[None]]), (1, 1, 1, 1)).reshape(4, -1)
        self.slant = (self.inverse * per_normal).clamp_(min=MIN_SLANT)
        smallest = torch.where(valid, self.inverse, torch.inf).min()
        self.furthest = float(1 / smallest)

    @property
    def density(self) -> Tensor:
        """[H, W], pixels of a camera with a focal length of one pixel per square metre of surface, 0 without a plane."""
        return self.slant * self.inverse.square()

    def at(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the plane of the nearest pixel at [..., 2] (x, y) pixel coordinates.

        Returns:
            [...] inverse z-depth of the plane, 0 where unknown or outside the image, and [...] slant: distance from the
            plane in metres per metre of depth.
        """
        height, width = self.valid.shape
        x, y = xy.unbind(dim=-1)
        column = x.round().add_(1).clamp_(0, width + 1).int()
        row = y.round().add_(1).clamp_(0, height + 1).int()
        pixel = row.mul_(width + 2).add_(column).reshape(-1)
        slope_x, slope_y, inverse, per_normal = (part.index_select(0, pixel).reshape(x.shape) for part in self._padded)
        inverse = torch.addcmul(inverse, slope_x, x).addcmul_(slope_y, y).clamp_(min=0)
        return inverse, per_normal.mul_(inverse).clamp_(min=MIN_SLANT)

    def area(self) -> float:
        """Return the total area of the planes in square metres."""
        return float((1 / self.density[self.valid]).sum() / (self.frame.K[0, 0] * self.frame.K[1, 1]))

    def cells(self, size: float, spacing: float) -> list:
        """Return the cells of `size` metres, see `mvdiff.mesh.blocks`, that hold points of the planes.

        Args:
            size: Side of a cell in metres.
            spacing: Points on the planes are at most about so many metres apart.

        Raises:
            ValueError: A point is too far from the world origin for the grid.
        """
        frame, depth = self.frame, torch.where(self.valid, 1 / self.inverse, 0)
        found = [cells_of_pixels(depth, self.valid, frame.K, frame.R, frame.t, size)]
        apart = depth / self.slant / float(frame.K.diagonal()[:2].min())
        rows, columns = torch.nonzero(apart > spacing, as_tuple=True)
        parts = (apart[rows, columns] / spacing).ceil().clamp(1, MAX_PARTS).long()
        xy = torch.stack([columns, rows], dim=-1).double()
        for number in parts.unique().tolist():
            pixels = xy[parts == number]
            inside = (torch.arange(number) + 0.5).double() / number - 0.5
            for shift in torch.cartesian_prod(inside, inside):
                moved = pixels + shift
                inverse, _ = self.at(moved)
                moved, depth = moved[inverse > 0], 1 / inverse[inverse > 0]
                found.append(cells_of(unproject(moved, depth, frame.K, frame.R, frame.t), size))
        return found


def _steps(inverse: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the [H, W] differences from the previous and to the next pixel along an axis, inf where one is missing."""
    steps = inverse.diff(dim=axis).nan_to_num_(nan=torch.inf)
    steps = F.pad(steps, (1, 1) if axis == 1 else (0, 0, 1, 1), value=torch.inf)
    return steps.narrow(axis, 0, inverse.shape[axis]), steps.narrow(axis, 1, inverse.shape[axis])
