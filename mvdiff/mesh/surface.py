"""Triangulate a fused volume into a mesh with vertex colours, simplify it and write it.

Surfaces lie where the distance is zero; scikit-image's marching cubes (Lewiner et al. 2003) extract them one chunk of
blocks at a time. A mesh is in the world axes of the recording's poses, so y points down for OpenCV poses. glTF (`.glb`)
has y up, so `write_mesh` rotates the mesh for it; PLY defines no axes and keeps the world's.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.files.writing import check_plain, whole_file
from mvdiff.mesh.blocks import BLOCK, packed, unpacked
from mvdiff.mesh.volume import TsdfVolume

CHUNK = 8
"""Blocks along a side of a chunk, the unit of triangulation: 65 x 65 x 65 voxels; neighbours share the last layer."""
SUFFIXES = (".ply", ".glb")
OPENCV_UP = np.array([0.0, -1.0, 0.0])
STEEPEST = 2.0
"""Largest change of the distance within a cube, relative to that across a plane. A larger change jumps from behind one
surface to in front of another, with no surface in between (skirts behind silhouettes; own derivation)."""
_WELD = 2.0**12  # merge vertices of adjacent chunks that agree to 1/4096 of a voxel


@dataclass(frozen=True)
class Mesh:
    """Triangle mesh with vertex colours."""

    vertices: np.ndarray  # [N, 3] float64, metres
    faces: np.ndarray  # [M, 3] int64, vertex indices, counter-clockwise seen from the front
    colours: np.ndarray  # [N, 3] uint8 RGB


def extract_mesh(volume: TsdfVolume, min_weight: float = 0.0) -> Mesh:
    """Triangulate the surfaces of a volume, in world axes; triangles face the side from which they were observed.

    Only cubes of voxels whose eight corners were all observed are triangulated, so surfaces end where observations end.

    Args:
        volume: Fused frames.
        min_weight: Weight that a voxel must exceed; one head-on observation from 1 m has weight 1.

    Raises:
        ValueError: The volume holds no surface.
    """
    blocks = unpacked(volume.keys)
    chunks = np.unique(np.floor_divide(blocks, CHUNK), axis=0)
    parts = [part for chunk in chunks if (part := _triangulate(volume, chunk, min_weight)) is not None]
    if not parts:
        raise ValueError(
            f"the frames must show a surface at a voxel_size of {volume.voxel_size:g} m; got none in {len(blocks)} "
            "blocks. Use a larger voxel_size or truncation, or check the depth images."
        )
    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in parts)])
    vertices, colours = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
    faces = np.concatenate([part[1] + start for part, start in zip(parts, starts, strict=False)])
    first, inverse = _first_of_equal(np.round(vertices * _WELD))
    return compacted(Mesh(vertices[first] * volume.voxel_size, inverse[faces], colours[first]))


def _first_of_equal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the first of each set of equal rows [N, 3], and which set each row belongs to."""
    order = np.lexsort(rows.T[::-1])
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (np.diff(rows[order], axis=0) != 0).any(axis=1)
    inverse = np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(fresh) - 1
    return order[fresh], inverse


def _triangulate(volume: TsdfVolume, chunk: np.ndarray, min_weight: float):
    """Return (vertices [N, 3] in voxels, faces [M, 3], colours [N, 3] uint8) of a chunk, or None."""
    from skimage.measure import marching_cubes

    places, sums = _blocks_of(volume, chunk)
    total, weight, near = _dense(places, sums[:, :3])
    distance = np.where(weight > 0, total / np.maximum(weight, 1e-12), 1)
    seen = _of_corners(np.logical_and, (weight > min_weight) & (near > 0))
    largest, smallest = _of_corners(np.maximum, distance), _of_corners(np.minimum, distance)
    steep = largest - smallest > STEEPEST * 3**0.5 * volume.voxel_size / volume.truncation
    whole = np.zeros(distance.shape, bool)  # scikit-image reads the mask at a cube's corner with the largest indices
    whole[1:, 1:, 1:] = seen & (largest > 0) & (smallest <= 0) & ~steep
    if not whole.any():
        return None
    vertices, faces, _, _ = marching_cubes(distance, 0.0, mask=whole, gradient_direction="descent")
    # a vertex lies between the two voxels of a grid edge (rarely: between opposite corners of a cube)
    low, high = np.floor(vertices).astype(int), np.ceil(vertices).astype(int)
    share = np.abs(vertices - low).max(axis=1, keepdims=True)
    colours = _colours(places, sums, low) * (1 - share) + _colours(places, sums, high) * share
    vertices = vertices.astype(np.float64) + chunk * (CHUNK * BLOCK)
    return vertices, faces.astype(np.int64), np.round(colours.clip(0, 255)).astype(np.uint8)


def _blocks_of(volume: TsdfVolume, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places [B, 3], from 0 to CHUNK, and sums of the blocks of a chunk and of the layer after it."""
    places = np.indices([CHUNK + 1] * 3).reshape(3, -1).T
    keys = packed(places + chunk * CHUNK)
    positions = np.searchsorted(volume.keys, keys).clip(max=len(volume.keys) - 1)
    present = volume.keys[positions] == keys
    return places[present], volume.blocks(positions[present]).numpy()


def _dense(places: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return sums [B, C, BLOCK, BLOCK, BLOCK] of blocks as [C, S, S, S], S = CHUNK * BLOCK + 1; 0 where absent."""
    side, size = CHUNK + 1, CHUNK * BLOCK + 1
    dense = np.zeros((sums.shape[1], *[side * BLOCK] * 3), np.float32)
    of_blocks = dense.reshape(-1, *[side, BLOCK] * 3).transpose(1, 3, 5, 0, 2, 4, 6)
    of_blocks[tuple(places.T)] = sums
    return dense[:, :size, :size, :size]


def _colours(places: np.ndarray, sums: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return the mean colours [N, 3] of voxels [N, 3] of a chunk that were seen near a surface."""
    block = np.zeros([CHUNK + 1] * 3, np.int64)
    block[tuple(places.T)] = np.arange(len(places))
    found = sums[block[tuple(voxels.T // BLOCK)], 2:, *(voxels.T % BLOCK)]
    return found[:, 1:] / np.maximum(found[:, :1], 1e-12)


def _of_corners(combine: np.ufunc, voxels: np.ndarray) -> np.ndarray:
    """Combine the eight corner voxels of each cube; the result is one shorter along each axis."""
    voxels = combine(voxels[1:], voxels[:-1])
    voxels = combine(voxels[:, 1:], voxels[:, :-1])
    return combine(voxels[:, :, 1:], voxels[:, :, :-1])


def compacted(mesh: Mesh) -> Mesh:
    """Return a mesh without degenerate triangles and unused vertices."""
    a, b, c = mesh.faces.T
    faces = mesh.faces[(a != b) & (b != c) & (c != a)]
    used = np.zeros(len(mesh.vertices), bool)
    used[faces] = True
    number = np.cumsum(used) - 1
    return Mesh(mesh.vertices[used], number[faces], mesh.colours[used])


def simplified(mesh: Mesh, max_faces: int) -> Mesh:
    """Return a coarser mesh of at most `max_faces` triangles by vertex clustering (Rossignac and Borrel 1993).

    Vertices in the same cell of a grid are merged; their positions and colours are averaged. Cells grow until the
    number of triangles is small enough.

    Raises:
        ValueError: `max_faces` is less than 1.
    """
    check_counts(max_faces=max_faces)
    coarse = mesh
    sides = mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]
    cell = float(np.median(np.linalg.norm(sides, axis=1))) * (len(mesh.faces) / max_faces) ** 0.5
    while len(coarse.faces) > max_faces:
        _, group, counts = np.unique(np.floor(mesh.vertices / cell), axis=0, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        mean = [
            np.stack([np.bincount(group, column) for column in values.T], axis=1) / counts[:, None]
            for values in (mesh.vertices, mesh.colours.astype(np.float64))
        ]
        coarse = compacted(Mesh(mean[0], group[mesh.faces], np.round(mean[1]).astype(np.uint8)))
        cell *= max(1.1, (len(coarse.faces) / max_faces) ** 0.5)
    return coarse


def up_axis(R: Tensor) -> np.ndarray:
    """Return the world axis [3] closest to the mean up direction of cameras R [V, 3, 3], assumed to be held upright.

    The result, float64, is (0, -1, 0) for OpenCV axes and (0, 0, 1) for ScanNet's.

    Example:
        >>> import torch
        >>> up_axis(torch.eye(3)[None]).tolist()
        [0.0, -1.0, 0.0]
    """
    up = -R.double().mean(dim=0)[:, 1]
    axis = int(up.abs().argmax())
    return np.where(np.arange(3) == axis, np.sign(float(up[axis])), 0.0)


def turned_upright(mesh: Mesh, up: np.ndarray) -> Mesh:
    """Rotate a mesh into glTF axes (x right, y up, z towards the viewer) by the shortest rotation from `up` to y.

    Args:
        mesh: Mesh in world axes.
        up: [3] unit vector that points up in the world.

    Example:
        >>> point = Mesh(np.array([[1.0, 2.0, 3.0]]), np.zeros((0, 3), int), np.zeros((1, 3), np.uint8))
        >>> turned_upright(point, np.array([0.0, -1.0, 0.0])).vertices.tolist()  # OpenCV axes: half a turn about x
        [[1.0, -2.0, -3.0]]
        >>> turned_upright(point, np.array([0.0, 0.0, 1.0])).vertices.tolist()  # z up: a quarter turn
        [[1.0, 3.0, -2.0]]
    """
    cosine = float(up[1])
    if cosine <= -1 + 1e-9:
        rotation = np.diag([1.0, -1.0, -1.0])
    else:
        x, y, z = np.cross(up, [0.0, 1.0, 0.0])
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + cross + cross @ cross / (1 + cosine)
    return replace(mesh, vertices=mesh.vertices @ rotation.T)


def check_mesh_path(path: str | Path) -> Path:
    """Check the suffix of a mesh path and create its folder; return the path.

    Raises:
        ValueError: The suffix is neither `.ply` nor `.glb`.
        OSError: The folder cannot be written, or the path is a link, a device or a pipe.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out must end in {' or '.join(SUFFIXES)}; got {path.name!r}.")
    with _writable(path):
        check_plain(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise PermissionError("it is a folder, or its folder is read-only")
    return path


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"out must be a file that can be written; got {path} ({error.strerror or error}).") from error


def write_mesh(path: str | Path, mesh: Mesh, up: np.ndarray | None = None) -> Path:
    """Write a mesh atomically and return the path.

    Args:
        path: `.ply` (binary, world axes) or `.glb` (glTF: y up, linear colours, unlit material).
        mesh: Mesh in world axes.
        up: [3] up direction in the world, for `.glb`; None: OpenCV's (0, -1, 0).

    Raises:
        ValueError: The suffix is neither `.ply` nor `.glb`.
        OSError: The file cannot be written.
    """
    path = check_mesh_path(path)
    if path.suffix.lower() == ".glb":
        content = _glb(turned_upright(mesh, OPENCV_UP if up is None else up))
    else:
        content = _trimesh(mesh).export(file_type="ply")
    with _writable(path), whole_file(path) as file:
        file.write(content)
    return path


def _trimesh(mesh: Mesh):
    import trimesh

    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colours, process=False)


def _glb(mesh: Mesh) -> bytes:
    """Write colours as normalised 16-bit integers: in linear light, 8 bits merge the darkest levels of sRGB."""
    import trimesh

    colours = mesh.colours / 255  # sRGB (IEC 61966-2-1) to linear light
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    rgba = np.full((len(linear), 4), 65535, np.uint16)  # four channels: glTF aligns attributes to 4 bytes
    rgba[:, :3] = np.round(linear * 65535)
    # trimesh writes vertex colours in 8 bits, but other attributes, which begin with an underscore, as they are.
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_attributes={"_COLOR": rgba}, process=False)

    def name_parts(tree: dict) -> None:
        material = {"extensions": {"KHR_materials_unlit": {}}, "pbrMetallicRoughness": {"metallicFactor": 0}}
        tree["materials"] = [material]
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        for primitive in (part for one in tree["meshes"] for part in one["primitives"]):
            primitive["material"] = 0
            colour = primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR")
            tree["accessors"][colour]["normalized"] = True

    return plain.export(file_type="glb", tree_postprocessor=name_parts)
