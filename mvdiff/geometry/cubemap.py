"""A skybox as one padded atlas image, so that sampling it in any direction takes one gather.

Conventions: see `mvdiff.geometry`; own derivation. The six faces are stacked vertically, ordered by the world axis
along which they look: -z, +z, -x, +x, -y, +y, so face index = 2 * axis + (looks along +axis), axes z, x, y. The up and
down faces (-y and +y) are stored transposed. With A the component along the face's axis,

    axis z: column p = x / A, row q = y / |A|
    axis x: column p = -z / A, row q = y / |A|
    axis y: column p = x / A, row q = z / |A|

where p and q run from -1 to 1 over the face. Every face has a border of one texel, read from the adjacent faces, that
continues its image plane; bilinear interpolation therefore crosses edges and corners without a seam.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STORED_FACES = (4, 2, 1, 3, 0, 5)
"""Skybox index (0 up, 1..4 yaw 270, 0, 90, 180, 5 down) of each face of the atlas, from top to bottom."""


def atlas_from_faces(faces: Tensor) -> Tensor:
    """Pack the faces of a skybox into an atlas with seamless borders.

    Args:
        faces: [6, C, S, S] float, in skybox order (convention 7).

    Returns:
        [1, C, 6 * (S + 2), S + 2] atlas.
    """
    C, S = faces.shape[1:3]
    tiles = faces.new_empty(C, 6, S + 2, S + 2)
    for slot, face in enumerate(STORED_FACES):
        tiles[:, slot, 1:-1, 1:-1] = faces[face].mT if face in (0, 5) else faces[face]
    tiles[..., 0], tiles[..., -1] = tiles[..., 1], tiles[..., -2]
    tiles[..., 0, :], tiles[..., -1, :] = tiles[..., 1, :], tiles[..., -2, :]

    atlas = tiles.view(1, C, 6 * (S + 2), S + 2)
    borders = F.grid_sample(atlas, _border_grid(S).to(faces.device), mode="bilinear", align_corners=False)
    left, right, top, bottom = borders[0].unflatten(-2, (4, 6)).unbind(dim=1)  # each [C, 6, S]
    tiles[..., 1:-1, 0], tiles[..., 1:-1, -1] = left, right
    tiles[..., 0, 1:-1], tiles[..., -1, 1:-1] = top, bottom
    low, high = torch.aminmax(faces)
    for row, inner_row in ((0, 1), (-1, -2)):
        for column, inner_column in ((0, 1), (-1, -2)):
            beside, above = tiles[..., inner_row, column], tiles[..., row, inner_column]
            plane = beside + above - tiles[..., inner_row, inner_column]  # no face covers a corner: extrapolate
            tiles[..., row, column] = plane.clamp(low, high)
    return atlas


def edge_steps(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how well the faces of a skybox continue each other (own derivation).

    Args:
        faces: [6, C, S, S] float, in skybox order (convention 7), S > 1.

    Returns:
        Two tensors [6, 4], in the units of `faces`, by face and edge (left, right, top, bottom): the mean absolute step
        from the outermost line of texels to the face beyond, and that between the two outermost lines.

    Example:
        >>> steps, inside = edge_steps(torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 4, 4))
        >>> steps[2].tolist(), inside[2].tolist()  # yaw 0 has yaw 270 to its left, 90 to its right, up and down
        ([1.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0])
    """
    C, S = faces.shape[1:3]
    tiles = atlas_from_faces(faces).view(C, 6, S + 2, S + 2)
    steps, inside = torch.empty(6, 4), torch.empty(6, 4)
    for slot, face in enumerate(STORED_FACES):
        tile = tiles[:, slot].mT if face in (0, 5) else tiles[:, slot]  # with a border of one texel
        columns, rows = tile[:, 1:-1], tile[:, :, 1:-1].mT
        edges = columns[..., :3], columns[..., -3:].flip(-1), rows[..., :3], rows[..., -3:].flip(-1)
        for number, lines in enumerate(edges):  # [C, S, 3]: beyond, outermost, inside
            steps[face, number], inside[face, number] = lines.diff(dim=-1).abs().mean(dim=(0, 1))
    return steps, inside


def atlas_grid(x: Tensor, y: Tensor, z: Tensor, size: int) -> Tensor:
    """Return the atlas positions of world directions, for grid_sample with `align_corners=False`.

    Args:
        x: [...] world x (right) of the directions; any non-zero length.
        y: [...] world y (down).
        z: [...] world z (forward).
        size: Face size S in texels.

    Returns:
        [..., 2] grid coordinates in [-1, 1].
    """
    return _grid(*_face_coordinates(x, y, z), size)


def _face_coordinates(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the atlas face of each direction and its position (p, q) in [-1, 1] on that face.

    `lerp` with weights of exactly 0 or 1 selects values; on a CPU it takes a tenth of the time of `where`.
    """
    abs_x, abs_z = x.abs(), z.abs()
    is_x = (abs_x > abs_z).to(x.dtype)
    is_y = (y.abs() > torch.maximum(abs_x, abs_z)).to(x.dtype)
    along = torch.lerp(torch.lerp(z, x, is_x), y, is_y)
    p = torch.lerp(torch.lerp(x, -z, is_x), x, is_y).div_(along)
    q = torch.lerp(y, z, is_y).div_(along.abs())
    axis = torch.maximum(is_x, is_y.mul_(2))
    face = axis.mul_(2).add_(along > 0)
    return face, p, q


def _grid(face: Tensor, p: Tensor, q: Tensor, size: int) -> Tensor:
    """Return the grid_sample coordinates of position (p, q) on an atlas face."""
    inner = size / (size + 2)
    grid = torch.empty(*p.shape, 2, dtype=p.dtype, device=p.device)
    torch.mul(p, inner, out=grid[..., 0])
    torch.add(face.mul(1 / 3).add_(1 / 6 - 1), q, alpha=inner / 6, out=grid[..., 1])
    return grid


@lru_cache(maxsize=8)
def _border_grid(size: int) -> Tensor:
    """Return the atlas positions that face borders are read from: [1, 4 * 6, S, 2]; left, right, top, bottom."""
    centres = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
    beyond = torch.full_like(centres, 1 + 1 / size)
    p = torch.stack([-beyond, beyond, centres, centres])[:, None]
    q = torch.stack([centres, centres, -beyond, beyond])[:, None]
    face = torch.arange(6, dtype=torch.float64)[:, None].expand(4, 6, size)
    face, p, q = _face_coordinates(*_directions(face, p, q))
    last = 1 - 1 / size  # outermost texel centre: read adjacent faces without their own borders
    return _grid(face, p.clamp(-last, last), q.clamp(-last, last), size).float().view(1, 24, size, 2)


def _directions(face: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the world direction (x, y, z) of position (p, q) on a face: the inverse of `_face_coordinates`."""
    along = 2 * (face % 2) - 1
    axis = face // 2
    x = torch.where(axis == 1, along, p * along)
    y = torch.where(axis == 2, along, q)
    z = torch.where(axis == 0, along, torch.where(axis == 1, -p * along, q))
    return x, y, z
