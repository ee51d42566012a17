"""Blocks of voxels, looked up by their integer positions (Niessner et al. 2013)."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""Voxels along a side of a block."""
CELLS = 2
"""Cells along the truncation: points in the same cell need nearly the same blocks, which are listed once for all."""
_REACH = 2**20  # positions are packed into 21 bits per axis


def block_keys(points: Tensor, voxel_size: float, truncation: float) -> np.ndarray:
    """Return the packed positions [N], ascending, of all blocks within the truncation of [M, 3] world points.

    Raises:
        ValueError: A point is too far from the world origin for the grid.
    """
    return blocks_around(cells_of(points, truncation / CELLS), voxel_size, truncation)


def cells_of(points: Tensor, size: float) -> np.ndarray:
    """Return the packed positions [N], ascending, of the cells with sides of `size` metres that hold [M, 3] points.

    Raises:
        ValueError: A point is too far from the world origin for the grid.
    """
    return np.unique(packed(_within_reach((points / size).floor(), size).long().numpy()))


def cells_of_pixels(depth: Tensor, valid: Tensor, K: Tensor, R: Tensor, t: Tensor, size: float) -> np.ndarray:
    """Return the cells, as `cells_of`, that hold the points of pixels with a depth.

    Args:
        depth: [H, W] float32 z-depth in metres, finite.
        valid: [H, W] bool, pixels to use.
        K: [3, 3] intrinsics in pixels.
        R: [3, 3] world-from-camera.
        t: [3] camera centre in the world, metres.
        size: Side of a cell in metres.

    Raises:
        ValueError: A point is too far from the world origin for the grid.
    """
    height, width = depth.shape
    # float32 is exact enough near the camera, so count cells from the cell of the camera centre
    rays = R.double() @ torch.linalg.inv(K.double()) / size
    first = (t.double() / size).floor()
    shift = (t.double() / size - first).tolist()
    x, y = torch.arange(width), torch.arange(height)[:, None]
    keys = torch.zeros(height, width, dtype=torch.int64)
    for axis, (along_x, along_y, ahead) in enumerate(rays.tolist()):
        ray = (x * along_x).float() + (y * along_y + ahead).float()
        cells = ray.mul_(depth).add_(shift[axis]).floor_()
        _within_reach(torch.stack(cells.aminmax()).double() + first[axis], size)
        keys = keys.bitwise_left_shift_(21).add_(cells.long()).add_(int(first[axis]) + _REACH)
    keys = keys[valid].numpy()
    if not len(keys):
        return keys
    return np.unique(keys[np.concatenate([[True], keys[1:] != keys[:-1]])])  # neighbours mostly share a cell


def _within_reach(cells: Tensor, size: float) -> Tensor:
    """Return positions of cells of `size` metres after checking that they can be packed."""
    furthest = float(cells.abs().max()) if len(cells) else 0.0
    if furthest >= _REACH - 2:
        raise ValueError(
            f"surfaces must lie within {size * (_REACH - 2):g} m of the world origin; got a point "
            f"{furthest * size:g} m away. Check the poses."
        )
    return cells


def blocks_around(cells: np.ndarray, voxel_size: float, truncation: float) -> np.ndarray:
    """Return the packed positions [N], ascending, of all blocks within the truncation of cells of truncation / CELLS."""
    size, side = truncation / CELLS, BLOCK * voxel_size
    across = size + 2 * truncation  # a cell and its margins
    steps = np.linspace(-truncation, size + truncation, int(np.ceil(across / side)) + 1)
    around = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    blocks = np.floor((unpacked(cells) * size + around) / side).astype(np.int64)
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
