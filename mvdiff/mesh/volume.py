"""Sparse volume of a truncated signed distance function (TSDF).

Each frame is read once. Its voxels in blocks near its own surfaces are handled one by one. In all other blocks that it
sees, nothing can change but the free space in front of surfaces, which removes what other frames saw there by mistake.
That is done last, for groups of voxels, when all blocks are known, from a reduced depth map of each frame.

Axes: N blocks of `BLOCK ** 3` voxels, H x W image, M voxels or groups of a block.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.geometry.cameras import resize_intrinsics
from mvdiff.geometry.consistency import Frame
from mvdiff.geometry.depth import project_points
from mvdiff.geometry.sampling import sample_bilinear
from mvdiff.mesh.blocks import BLOCK, CELLS, blocks_around, unpacked
from mvdiff.mesh.planes import NEAREST, LocalPlanes

SUMS = 6
"""Sums per voxel: weight * distance, weight, weight near the surface, and the latter times red, green and blue."""
DEFAULT_MAX_DEPTH = 8.0
DEFAULT_MAX_MEMORY = 4.0
BATCH = 128
"""Blocks to integrate at a time: few enough for intermediate results to stay in the processor's cache."""
GROUP = 2
"""Voxels along a side of a group, the unit of free space."""
BYTES_PER_BLOCK = BLOCK**3 * SUMS * 4 + (BLOCK // GROUP) ** 3 * 4
GROWTH = 1.25
"""Factor by which the storage of blocks grows when it is full."""


class _Seen(NamedTuple):
    """Free space in front of the surfaces of a frame, for blocks that are not near them."""

    near: np.ndarray  # [N'] int32, rows of the blocks near the surfaces
    inverse: Tensor  # [h, w] largest inverse depth in each cell of the image, 0 where unknown
    weight: Tensor  # [h, w] mean weight in each cell
    K: Tensor  # [3, 3] intrinsics of the reduced image
    R: Tensor  # [3, 3] world-from-camera
    t: Tensor  # [3] camera centre in the world, metres
    furthest: float  # largest depth, metres


class TsdfVolume:
    """Sparse volume: blocks of voxels with sums over the integrated frames.

    Attributes:
        voxel_size: Voxel size in metres.
        truncation: Truncation distance in metres.
        max_memory: Largest size in GiB.
        keys: [N] int64, packed positions of the blocks, ascending.
    """

    def __init__(self, voxel_size: float, truncation: float, max_memory: float = DEFAULT_MAX_MEMORY):
        self.voxel_size, self.truncation, self.max_memory = voxel_size, truncation, max_memory
        self.keys = np.zeros(0, np.int64)
        self._rows = np.zeros(0, np.int64)  # where in the storage the blocks of `keys` are
        self._storage = np.zeros((0, SUMS, BLOCK**3), np.float32)  # rows in order of appearance; some are spare
        self._seen: list[_Seen] = []
        self._free = torch.zeros(0, (BLOCK // GROUP) ** 3)  # in the order of `keys`

    @property
    def corners(self) -> Tensor:
        """[N, 3] long, the voxel of each block with the smallest coordinates."""
        return torch.from_numpy(unpacked(self.keys) * BLOCK)

    def blocks(self, positions: np.ndarray) -> Tensor:
        """Return the sums [P, SUMS, BLOCK, BLOCK, BLOCK] float32 of the blocks at positions [P] in `keys`.

        Spatial axes are x, y, z. Free space that frames see far from their own surfaces counts once `carve` was called.
        """
        sums = torch.from_numpy(self._storage[self._rows[positions]])
        if len(self._free):
            sides = [BLOCK // GROUP, 1] * 3
            free = self._free[positions].reshape(-1, 1, *sides)
            sums.view(-1, SUMS, *[BLOCK // GROUP, GROUP] * 3)[:, :2] += free
        return sums.view(-1, SUMS, BLOCK, BLOCK, BLOCK)

    @property
    def sums(self) -> Tensor:
        """[N, BLOCK, BLOCK, BLOCK, SUMS] float32, a copy of the sums of all blocks; spatial axes x, y, z."""
        return self.blocks(np.arange(len(self.keys))).movedim(1, -1)

    def integrate(self, frame: Frame, max_depth: float = DEFAULT_MAX_DEPTH, batch: int = BATCH) -> None:
        """Add the observations of a frame, except for free space far from its surfaces; see `carve`.

        Args:
            frame: Image, depth and camera.
            max_depth: Largest depth to use, in metres.
            batch: Blocks to process at a time; does not affect the result.

        Raises:
            ValueError: The volume would exceed `max_memory`, or a surface is too far from the world origin.
        """
        planes = LocalPlanes(frame, self.truncation, max_depth)
        if not planes.furthest:
            return
        keys = self._blocks_near(planes)
        rows = torch.from_numpy(self._allocated(keys))
        image = frame.image.permute(2, 0, 1)[None].float()
        corners = torch.from_numpy(unpacked(keys) * BLOCK)
        starts, steps = _projected(corners, _offsets(1), self.voxel_size, frame.K, frame.R, frame.t)
        storage = torch.from_numpy(self._storage)
        for first in range(0, len(rows), batch):
            some = slice(first, first + batch)
            self._observe(storage, rows[some], planes, image, *_divided(starts[:, some], steps, planes.valid.shape))
        self._seen.append(self._reduced(planes, rows.numpy()))

    def _blocks_near(self, planes: LocalPlanes) -> np.ndarray:
        """Return the packed positions, ascending, of the blocks within the truncation of the surfaces of a frame."""
        side = BLOCK * self.voxel_size
        least = int(planes.area * max(side, 2 * self.truncation) / side**3)
        self._check_memory(max(least, len(self.keys)))  # before listing the blocks takes that much
        cells = planes.cells(self.truncation / CELLS, self.truncation)
        return blocks_around(cells, self.voxel_size, self.truncation)

    def _check_memory(self, num_blocks: int) -> None:
        needed = num_blocks * BYTES_PER_BLOCK / 2**30
        if needed > self.max_memory:
            raise ValueError(
                f"the volume must fit in max_memory ({self.max_memory:g} GiB); voxel_size {self.voxel_size:g} m needs "
                f"at least {needed:.3g} GiB. Use at least {self.voxel_size * (needed / self.max_memory) ** 0.5:.2g} m, "
                "a smaller max_depth or a larger max_memory."
            )

    def _allocated(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows [N] of blocks at packed positions [N], ascending, after adding those that are new."""
        old = len(self.keys)
        new = np.setdiff1d(keys, self.keys, assume_unique=True)
        needed = old + len(new)
        self._check_memory(needed)
        if needed > len(self._storage):
            # in place: the system maps the pages anew, so that memory is not needed twice
            most = self.max_memory * 2**30 / BYTES_PER_BLOCK
            rows = max(needed, int(min(GROWTH * old, most)))
            self._storage.resize((rows, *self._storage.shape[1:]), refcheck=False)
        merged = np.concatenate([self.keys, new])
        order = np.argsort(merged, kind="stable")
        self.keys, self._rows = merged[order], np.concatenate([self._rows, np.arange(old, needed)])[order]
        return self._rows[np.searchsorted(self.keys, keys)]

    def _observe(
        self, storage: Tensor, rows: Tensor, planes: LocalPlanes, image: Tensor, xy: Tensor, z: Tensor
    ) -> None:
        """Add what a frame sees at voxels with pixel coordinates xy [B, M, 2] and depths [B, M] to B rows."""
        inverse, slant = planes.at(xy)
        distance = inverse.reciprocal().sub_(z).mul_(slant).mul_(1 / self.truncation)
        # pixels per surface area, fading out behind the surface, where the other side of a thin wall may be
        fade = (1 + distance).clamp_(0, 1)
        weight = slant.mul_(inverse).mul_(inverse).mul_(fade)
        near = (1 - distance).clamp_(0, 1).ceil_().mul_(weight)  # where distance < 1, several times faster than masks
        # colours of the sixth of all voxels that is near a surface; NumPy lists and PyTorch places them fastest
        some = torch.from_numpy(np.flatnonzero(near.numpy() > 0))
        here = torch.stack([part.reshape(-1).index_select(0, some) for part in xy.unbind(dim=-1)]).mT
        colour = sample_bilinear(image, here[None], padding="border")[0] * near.reshape(-1).index_select(0, some)
        added = torch.zeros(len(z), SUMS, BLOCK**3)
        torch.mul(distance.clamp_(max=1), weight, out=added[:, 0])
        added[:, 1], added[:, 2] = weight, near
        places = some + (some // BLOCK**3) * ((SUMS - 1) * BLOCK**3)
        for channel, values in enumerate(colour, start=3):
            added.view(-1).scatter_(0, places + channel * BLOCK**3, values)
        storage.index_add_(0, rows, added)

    def _reduced(self, planes: LocalPlanes, near: np.ndarray) -> _Seen:
        """Reduce a frame to cells about as large as a group of voxels at its mean inverse depth."""
        frame, (height, width) = planes.frame, planes.valid.shape
        mean = planes.inverse.sum() / planes.valid.sum()
        group = GROUP * self.voxel_size * float(frame.K.diagonal()[:2].min() * mean)  # pixels
        cell = max(1, min(int(group), height, width))
        return _Seen(
            near.astype(np.int32),
            F.max_pool2d(planes.inverse[None], cell, ceil_mode=True)[0],
            F.avg_pool2d(planes.density[None], cell, ceil_mode=True)[0],
            resize_intrinsics(frame.K, 1 / cell, 1 / cell),
            frame.R,
            frame.t,
            planes.furthest,
        )

    def carve(self, batch: int = 16 * BATCH) -> None:
        """Add the free space that each frame sees in the blocks that are not near its own surfaces.

        Args:
            batch: Blocks to process at a time; does not affect the result.
        """
        self._free = torch.zeros(len(self.keys), (BLOCK // GROUP) ** 3)
        corners, offsets = self.corners, _offsets(GROUP)
        for seen in self._seen:
            height, width = seen.inverse.shape
            others = np.ones(len(self.keys), bool)
            others[seen.near] = False
            in_view = self._in_view(corners, seen) & torch.from_numpy(others[self._rows])
            for blocks in torch.nonzero(in_view)[:, 0].split(batch):
                starts, steps = _projected(corners[blocks], offsets, self.voxel_size, seen.K, seen.R, seen.t)
                xy, z = _divided(starts, steps, (height, width))
                column, row = xy.round().int().unbind(dim=-1)
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                cell = (row * width + column).where(inside, 0).reshape(-1)
                inverse, weight = (
                    part.reshape(-1).index_select(0, cell).reshape(z.shape) for part in (seen.inverse, seen.weight)
                )
                self._free.index_add_(0, blocks, weight.where(inside & (z * inverse < 1), 0))

    def _in_view(self, corners: Tensor, seen: _Seen) -> Tensor:
        """Return [N] bool, True for the blocks that may be visible in front of the surfaces of a frame."""
        middles = (corners.double() + (BLOCK - 1) / 2) * self.voxel_size
        radius = BLOCK * self.voxel_size  # more than half the diagonal
        height, width = seen.inverse.shape
        xy, z, _ = project_points(middles, seen.K, seen.R, seen.t, height, width)
        margin = radius * seen.K[:2].abs().sum(dim=1).double() / z[:, None].clamp(min=NEAREST)
        low, high = xy.new_tensor([-0.5, -0.5]) - margin, xy.new_tensor([width - 0.5, height - 0.5]) + margin
        inside = ((xy >= low) & (xy <= high)).all(dim=1) | (z.abs() <= 2 * radius)
        return inside & (z > -radius) & (z < seen.furthest + radius)


def _offsets(group: int) -> Tensor:
    """Return the middles [M, 3] of the groups of voxels in a block, in voxels from its first one."""
    return torch.cartesian_prod(*[torch.arange(0, BLOCK, group)] * 3).double() + (group - 1) / 2


def _projected(
    corners: Tensor, offsets: Tensor, voxel_size: float, K: Tensor, R: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Project blocks into a camera: depth times pixel coordinates is affine in the voxel.

    Args:
        corners: [N, 3] long, first voxels of the blocks.
        offsets: [M, 3] offsets from them, in voxels.
        voxel_size: Voxel size in metres.
        K: [3, 3] intrinsics in pixels.
        R: [3, 3] world-from-camera.
        t: [3] camera centre in the world, metres.

    Returns:
        [3, N] and [3, M] float32 whose sums are (depth * x, depth * y, depth). Only differences from the camera centre
        are rounded, so worlds may lie far from their origin.
    """
    pixel_from_world = K.double() @ R.double().mT
    starts = pixel_from_world @ (corners.double() * voxel_size - t.double()).mT
    return starts.float(), (pixel_from_world @ (offsets * voxel_size).mT).float()


def _divided(starts: Tensor, steps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return [B, M, 2] (x, y) pixel coordinates, one pixel outside the image if not in it, and [B, M] depths."""
    height, width = size
    x, y, z = homogeneous = starts[:, :, None] + steps[:, None]
    homogeneous[:2] /= z.clamp(min=NEAREST)
    x.clamp_(-1, width)
    y.clamp_(-1, height)
    if len(z) and float(z.min()) <= 0:
        x.masked_fill_(z <= 0, -1)
    return homogeneous[:2].movedim(0, -1), z
