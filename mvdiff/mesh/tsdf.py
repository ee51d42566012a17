"""Fuse depth and colour into a sparse truncated signed distance function (TSDF).

Source: Curless and Levoy 1996 (weighted averages of projective signed distances), with blocks of voxels near surfaces,
looked up by integer position, after Niessner et al. 2013. The local planes and the weights are our own derivation.

Voxel (i, j, k) is centred at `voxel_size * (i, j, k)` in the world, so the grid does not depend on the recording.
Distances are positive in front of a surface, in units of the truncation, at most 1. Voxels hold plain sums, so the
order of frames and the batching of blocks do not matter (up to rounding).

Axes: N blocks of `BLOCK ** 3` voxels, H x W image, M points.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.recorded_frames import checked
from mvdiff.geometry.consistency import Frame, Frames
from mvdiff.geometry.depth import known_depths, project_points, unproject
from mvdiff.geometry.sampling import cell_centres, sample_bilinear

BLOCK = 8
"""Voxels along a side of a block."""
SUMS = 6
"""Sums per voxel: weight * distance, weight, weight near the surface, and the latter times red, green and blue."""
DEFAULT_VOXEL_SIZE = 0.02
DEFAULT_MAX_DEPTH = 8.0
DEFAULT_MAX_MEMORY = 4.0
LENGTHS = 1e-6, 1e6
"""Range of lengths in settings, metres; beyond it, volumes overflow or underflow floats."""
BATCH = 1024
"""Blocks to integrate at a time: half a million voxels, about 100 MB."""
MIN_SLANT = 0.3
"""Lower bound on the slant; surfaces seen more obliquely are treated as if at this slant."""
BYTES_PER_BLOCK = BLOCK**3 * SUMS * 4
MAX_PARTS = 8
"""Largest number of points per axis into which a pixel is divided if its surface patch exceeds the truncation."""
_REACH = 2**20  # block positions are packed into 21 bits per axis


class TsdfVolume:
    """Sparse volume: blocks of voxels with sums over the integrated frames.

    Attributes:
        voxel_size: Voxel size in metres.
        truncation: Truncation distance in metres.
        keys: [N] int64, packed positions of the blocks, ascending.
        sums: [N, BLOCK, BLOCK, BLOCK, SUMS] float32, spatial axes x, y, z.
    """

    def __init__(self, voxel_size: float, truncation: float, keys: np.ndarray):
        self.voxel_size, self.truncation, self.keys = voxel_size, truncation, keys
        self.sums = torch.zeros(len(keys), BLOCK, BLOCK, BLOCK, SUMS)

    @property
    def corners(self) -> Tensor:
        """[N, 3] long, the voxel of each block with the smallest coordinates."""
        return torch.from_numpy(unpacked(self.keys) * BLOCK)

    def integrate(self, frame: Frame, max_depth: float = DEFAULT_MAX_DEPTH, batch: int = BATCH) -> None:
        """Add the observations of a frame.

        Args:
            frame: Image, depth and camera.
            max_depth: Largest depth to use, in metres.
            batch: Blocks to process at a time; does not affect the result.
        """
        surface = LocalPlanes(frame, self.truncation, max_depth)
        near = self._blocks_in_view(frame, surface.furthest + self.truncation)
        offsets = torch.cartesian_prod(*[torch.arange(BLOCK)] * 3)
        image = frame.image.permute(2, 0, 1)[None].float()
        corners = self.corners
        for blocks in near.split(batch):
            points = (corners[blocks][:, None] + offsets).double() * self.voxel_size
            added = self._observed(frame, surface, image, points.reshape(-1, 3))
            self.sums[blocks] += added.reshape(-1, BLOCK, BLOCK, BLOCK, SUMS)

    def _blocks_in_view(self, frame: Frame, furthest: float) -> Tensor:
        """Return the indices of the blocks that may be visible in a frame."""
        middles = (self.corners.double() + (BLOCK - 1) / 2) * self.voxel_size
        radius = BLOCK * self.voxel_size  # more than half the diagonal
        height, width = frame.depth.shape
        xy, z, _ = project_points(middles, frame.K, frame.R, frame.t, height, width)
        margin = radius * frame.K[:2].abs().sum(dim=1).double() / z[:, None].clamp(min=1e-6)
        low, high = xy.new_tensor([-0.5, -0.5]) - margin, xy.new_tensor([width - 0.5, height - 0.5]) + margin
        inside = ((xy >= low) & (xy <= high)).all(dim=1) | (z.abs() <= 2 * radius)
        return torch.nonzero(inside & (z > -radius) & (z < furthest + radius))[:, 0]

    def _observed(self, frame: Frame, surface: "LocalPlanes", image: Tensor, points: Tensor) -> Tensor:
        """Return the sums [M, SUMS] float32 that a frame adds to the voxels at [M, 3] points."""
        height, width = frame.depth.shape
        xy, z, visible = project_points(points, frame.K, frame.R, frame.t, height, width)
        rows = torch.nonzero(visible)[:, 0]
        depth, slant = surface.at(xy[rows])
        distance = (depth - z[rows]) * slant / self.truncation
        seen = (depth > 0) & (distance > -1)
        rows, depth, slant, distance = rows[seen], depth[seen], slant[seen], distance[seen]
        # pixels per surface area, fading out behind the surface, where the other side of a thin wall may be
        weight = slant / depth.square() * (1 + distance).clamp(max=1)
        near = torch.where(distance < 1, weight, 0)
        colour = sample_bilinear(image, xy[rows][None], padding="border")[0]
        added = torch.zeros(len(points), SUMS)
        sums = [weight * distance.clamp(max=1), weight, near, *(near * colour)]
        added[rows] = torch.stack(sums, dim=-1).float()
        return added


class LocalPlanes:
    """A depth map as one small plane per pixel (own derivation).

    The inverse depth of a plane is affine in the pixel coordinates, so a plane is an inverse depth and its slope along
    x and y. The slope is the mean of those towards the two neighbours. If these differ by more than the truncation, or
    one is missing, it is the slope towards the neighbour closer in depth, which at an edge lies on the same surface. A
    pixel that differs from both neighbours by more than the truncation and is not in line with them, such as a mixed
    depth at an edge, belongs to no surface and is dropped.

    Args:
        frame: Frame whose depth and K are used.
        truncation: Truncation distance in metres.
        max_depth: Largest depth to use, in metres.
    """

    def __init__(self, frame: Frame, truncation: float, max_depth: float):
        depth, valid = known_depths(frame.depth)
        valid = valid & (depth <= max_depth)
        inverse = 1 / depth
        slopes = []
        for axis in (1, 0):
            before, after = _steps(inverse, valid, axis)
            nearer = torch.where(before.abs() <= after.abs(), before, after)
            bend = (before - after).abs() * depth.square()  # metres; inf or NaN if a neighbour is missing
            slopes.append(torch.where(bend <= truncation, (before + after) / 2, nearer))
            alone = torch.isfinite(bend) & (torch.minimum(nearer.abs() * depth.square(), bend) > truncation)
            valid = valid & ~alone
        slope_x, slope_y = (torch.where(torch.isfinite(slope), slope, 0) for slope in slopes)
        # n . X = 1 on the plane, n = K^T (slope_x, slope_y, rest): X = depth K^-1 (x, y, 1)
        xy = cell_centres(*depth.shape, 1)
        rest = inverse - slope_x * xy[..., 0] - slope_y * xy[..., 1]
        normal = torch.stack([slope_x, slope_y, rest], dim=-1) @ frame.K.double()
        self.normal_size = normal.norm(dim=-1)
        self.inverse = torch.where(valid, inverse, 0)
        self.slopes = torch.stack([slope_x, slope_y], dim=-1)
        self.depth, self.valid, self.xy = depth, valid, xy
        self.furthest = float(depth[valid].max()) if bool(valid.any()) else 0.0

    def at(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the plane of the nearest pixel at [M, 2] (x, y) pixel coordinates inside the image.

        Returns:
            [M] z-depth of the plane in metres, 0 where unknown, and [M] slant: distance from the plane in metres per
            metre of depth.
        """
        height, width = self.depth.shape
        column, row = xy.round().long().unbind(dim=-1)
        column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        inverse = self.inverse[row, column]
        away = xy - self.xy[row, column]
        inverse_at_xy = inverse + (self.slopes[row, column] * away).sum(dim=-1)
        known = (inverse > 0) & (inverse_at_xy > 0)
        slant = (inverse_at_xy / self.normal_size[row, column]).clamp(min=MIN_SLANT)
        return torch.where(known, 1 / torch.where(known, inverse_at_xy, 1), 0), slant

    def area(self, frame: Frame) -> float:
        """Return the total area of the planes in square metres."""
        depth, slant = self.at(self.xy[self.valid])
        return float((depth.square() / slant).sum() / (frame.K[0, 0] * frame.K[1, 1]))

    def points(self, frame: Frame, spacing: float) -> Tensor:
        """Sample [M, 3] world points on all planes, at most about `spacing` metres apart."""
        rows, columns = torch.nonzero(self.valid, as_tuple=True)
        xy = self.xy[rows, columns]
        depth, slant = self.at(xy)
        apart = depth / frame.K.double().diagonal()[:2].min() / slant
        points = []
        parts = (apart / spacing).ceil().clamp(1, MAX_PARTS).long()
        for number in parts.unique().tolist():
            pixels = xy[parts == number]
            inside = (torch.arange(number) + 0.5).double() / number - 0.5
            for shift in torch.cartesian_prod(inside, inside):
                moved = pixels + shift
                depth, _ = self.at(moved)
                points.append(unproject(moved[depth > 0], depth[depth > 0], frame.K, frame.R, frame.t))
        return torch.cat(points) if points else torch.zeros(0, 3, dtype=torch.float64)


def _steps(values: Tensor, valid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the [H, W] differences from the previous and to the next pixel along an axis, inf where one is invalid."""
    steps = torch.where(
        valid.narrow(axis, 1, valid.shape[axis] - 1) & valid.narrow(axis, 0, valid.shape[axis] - 1),
        values.diff(dim=axis),
        torch.inf,
    )
    edge = torch.full_like(values.narrow(axis, 0, 1), torch.inf)
    return torch.cat([edge, steps], dim=axis), torch.cat([steps, edge], dim=axis)


def check_settings(
    voxel_size: float = DEFAULT_VOXEL_SIZE,
    truncation: float | None = None,
    max_depth: float = DEFAULT_MAX_DEPTH,
    max_memory: float = DEFAULT_MAX_MEMORY,
) -> None:
    """Check the settings of `fuse` before any frame is read.

    Raises:
        ValueError: A length is outside `LENGTHS`, `truncation` is below `voxel_size`, or `max_memory` is not positive.
    """
    shortest, longest = LENGTHS
    length = f"a length from {shortest:g} to {longest:g} metres"
    for name, value, least, requirement in (
        ("voxel_size", voxel_size, shortest, length),
        ("truncation", truncation, voxel_size, f"at least a voxel, {voxel_size:g} m, and at most {longest:g} m"),
        ("max_depth", max_depth, shortest, length),
    ):
        if value is not None and not least <= value <= longest:
            raise ValueError(f"{name} must be {requirement}; got {value:g}.")
    if not max_memory > 0:
        raise ValueError(f"max_memory must be a positive number of GiB, or inf; got {max_memory:g}.")


def fuse(
    frames: Frames,
    voxel_size: float = DEFAULT_VOXEL_SIZE,
    truncation: float | None = None,
    max_depth: float = DEFAULT_MAX_DEPTH,
    max_memory: float = DEFAULT_MAX_MEMORY,
    progress: Callable[[], Any] = lambda: None,
) -> TsdfVolume:
    """Fuse frames into a volume, in two passes: one to allocate blocks near surfaces, one to integrate.

    Args:
        frames: Frames; each is read twice and not held in memory.
        voxel_size: Voxel size in metres.
        truncation: Distance in metres, in front of and behind a surface, within which distances are stored; None:
            3 voxels.
        max_depth: Largest depth to use, in metres.
        max_memory: Largest size of the volume in GiB.
        progress: Called after each of the 2 x V reads of a frame.

    Raises:
        ValueError: A setting is out of range, the volume would exceed `max_memory`, or no frame has a depth.
    """
    check_settings(voxel_size, truncation, max_depth, max_memory)
    truncation = 3 * voxel_size if truncation is None else truncation
    keys, side = np.zeros(0, np.int64), BLOCK * voxel_size
    for index in range(len(frames)):
        frame = checked(frames[index])
        surface = LocalPlanes(frame, truncation, max_depth)
        least = int(surface.area(frame) * max(side, 2 * truncation) / side**3)
        _check_memory(max(least, len(keys)), max_memory, voxel_size)  # before listing the blocks takes that much
        keys = np.union1d(keys, block_keys(surface.points(frame, truncation), voxel_size, truncation))
        _check_memory(len(keys), max_memory, voxel_size)
        progress()
    if not len(keys):
        where = f", such as {frames[0].name}" if len(frames) else ""
        raise ValueError(
            f"frames must have depths within max_depth ({max_depth:g} m); got none in {len(frames)} frames{where}. "
            "Check the depth images (uint16, millimetres), or raise max_depth."
        )
    volume = TsdfVolume(voxel_size, truncation, keys)
    for index in range(len(frames)):
        volume.integrate(checked(frames[index]), max_depth)
        progress()
    return volume


def _check_memory(num_blocks: int, max_memory: float, voxel_size: float) -> None:
    needed = num_blocks * BYTES_PER_BLOCK / 2**30
    if needed > max_memory:
        raise ValueError(
            f"the volume must fit in max_memory ({max_memory:g} GiB); voxel_size {voxel_size:g} m needs at least "
            f"{needed:.3g} GiB. Use at least {voxel_size * (needed / max_memory) ** 0.5:.2g} m, a smaller max_depth or "
            "a larger max_memory."
        )


def block_keys(points: Tensor, voxel_size: float, truncation: float) -> np.ndarray:
    """Return the packed positions [N], ascending, of all blocks within the truncation of [M, 3] world points.

    Raises:
        ValueError: A point is too far from the world origin for the grid.
    """
    cells = (points / truncation).floor().long()  # points of a cell need nearly the same blocks: handle each cell once
    if not len(cells):
        return np.zeros(0, np.int64)
    side = BLOCK * voxel_size
    if float(cells.abs().max()) >= _REACH - 2:
        raise ValueError(
            f"surfaces must lie within {truncation * (_REACH - 2):g} m of the world origin; got a point "
            f"{float(points.abs().max()):g} m away. Check the poses."
        )
    cells = unpacked(np.unique(packed(cells.numpy())))
    steps = np.linspace(-1, 2, int(np.ceil(3 * truncation / side)) + 1) * truncation  # a cell and its margins
    around = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    blocks = np.floor((cells * truncation + around) / side).astype(np.int64)
    return np.unique(packed(blocks.reshape(-1, 3)))


def packed(positions: np.ndarray) -> np.ndarray:
    """Pack [N, 3] integers in [-2**20, 2**20) into [N] int64 that sort by x, then y, then z.

    Example:
        >>> unpacked(packed(np.array([[-3, 0, 1048575]]))).tolist()
        [[-3, 0, 1048575]]
    """
    x, y, z = (positions.astype(np.int64) + _REACH).T
    return (x << 42) | (y << 21) | z


def unpacked(keys: np.ndarray) -> np.ndarray:
    """Unpack [N] keys into [N, 3] int64 positions: the inverse of `packed`."""
    return np.stack([keys >> 42, (keys >> 21) & (2 * _REACH - 1), keys & (2 * _REACH - 1)], axis=-1) - _REACH
