"""Blocks of voxels, looked up by their integer positions (Niessner et al. 2013)."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""Voxels along a side of a block."""
CELLS = 2
"""Cells along the truncation: points in the same cell need nearly the same blocks, which are listed once for all."""
STRIP = 32768
"""Pixels to handle at a time: few enough for intermediate results to stay in the processor's cache."""
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
    cells = np.floor(points.numpy() / size)
    _check_reach(np.abs(cells).max(initial=0), size)
    return distinct(packed(cells))


def cells_of_pixels(depth: np.ndarray, valid: np.ndarray, K: Tensor, R: Tensor, t: Tensor, size: float) -> np.ndarray:
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
    rays = (R.double() @ torch.linalg.inv(K.double()) / size).numpy()
    centre = t.double().numpy() / size
    first = np.floor(centre)
    found, rows = [], max(1, STRIP // width)
    for top in range(0, height, rows):
        here, used = depth[top : top + rows], valid[top : top + rows].reshape(-1)
        x, y = np.arange(width), np.arange(top, top + len(here))[:, None]
        keys = np.zeros(here.shape, np.int64)
        for (along_x, along_y, ahead), base, start in zip(rays, first, centre, strict=True):
            cells = ((x * along_x).astype(np.float32) + (y * along_y + ahead).astype(np.float32)) * here
            cells = np.floor(cells + np.float32(start - base))
            _check_reach(max(-(base + cells.min()), base + cells.max()), size)
            keys <<= 21
            keys += cells.astype(np.int64)
            keys += int(base) + _REACH
        keys = keys.reshape(-1)
        fresh = used.copy()
        fresh[1:] &= (keys[1:] != keys[:-1]) | ~used[:-1]  # neighbours mostly share a cell
        found.append(keys[fresh])
    return distinct(np.concatenate(found))


def _check_reach(furthest: float, size: float) -> None:
    """Check that cells of `size` metres whose positions go up to `furthest` can be packed."""
    if furthest >= _REACH - 2:
        raise ValueError(
            f"surfaces must lie within {size * (_REACH - 2):g} m of the world origin; got a point "
            f"{furthest * size:g} m away. Check the poses."
        )


def blocks_around(cells: np.ndarray, voxel_size: float, truncation: float) -> np.ndarray:
    """Return the blocks, ascending, within the truncation of cells of truncation / CELLS; all positions are packed."""
    size, side = truncation / CELLS, BLOCK * voxel_size
    across = size + 2 * truncation  # a cell and its margins
    steps = np.linspace(-truncation, size + truncation, int(np.ceil(across / side)) + 1)
    positions = (np.floor((unpacked(cells)[:, :, None] * size + steps) / side)).astype(np.int64) + _REACH
    x, y, z = positions.transpose(1, 0, 2)
    return distinct(((x << 42)[:, :, None, None] | (y << 21)[:, None, :, None] | z[:, None, None]).reshape(-1))


def distinct(keys: np.ndarray) -> np.ndarray:
    """Return the distinct keys [N], ascending: `np.unique` is several times slower on them."""
    keys = np.sort(keys)
    return keys[np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]])]


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
