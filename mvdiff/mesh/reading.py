"""Read mesh files for the 3D viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvdiff.mesh.surface import OPENCV_UP, SUFFIXES, Mesh, turned_upright

GREY = 160


def read_mesh(path: str | Path, up: np.ndarray | None = None) -> Mesh:
    """Read a mesh with its colours into glTF axes (y up); meshes without colours become grey.

    Args:
        path: `.glb` (y up by definition; its linear colours become sRGB) or `.ply` (in the axes of the poses).
        up: [3] up direction of a `.ply`; None: OpenCV's (0, -1, 0).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is neither `.ply` nor `.glb`, or the file is unreadable or holds no triangles.
    """
    import trimesh

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"mesh must be a file; got {path}.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"mesh must end in {' or '.join(SUFFIXES)}; got {path.name!r}.")
    try:
        scene = trimesh.load_scene(path, process=False)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]  # scene.dump() would lose colours
        parts = [(scene.geometry[name], place) for place, name in placed if _has_triangles(scene.geometry[name])]
    except Exception as error:  # parsers of untrusted bytes raise dozens of exception types
        raise ValueError(f"mesh {path} cannot be read ({error!r}).") from error
    if not parts:
        raise ValueError(f"mesh must have triangles; got none, in {path}.")
    first = np.cumsum([0, *(len(part.vertices) for part, _ in parts)])[:-1]
    vertices = np.concatenate([trimesh.transform_points(part.vertices, place) for part, place in parts])
    faces = np.concatenate([np.asarray(part.faces, np.int64) + n for (part, _), n in zip(parts, first, strict=True)])
    colours = np.concatenate([_colours(part) for part, _ in parts])  # from 0 to 1
    if not np.isfinite(vertices).all():
        raise ValueError(f"mesh must have finite vertices; got NaN or inf, in {path}.")
    if suffix == ".glb":
        return Mesh(vertices, faces, _bytes(_srgb(colours)))
    return turned_upright(Mesh(vertices, faces, _bytes(colours)), OPENCV_UP if up is None else up)


def _has_triangles(part) -> bool:
    return len(getattr(part, "faces", ())) > 0


def _colours(part) -> np.ndarray:
    """Return vertex colours [N, 3] from 0 to 1: from vertices or faces, else from a texture, else grey."""
    visual, colours = part.visual, None
    if visual.kind in ("vertex", "face"):
        colours = visual.vertex_colors
    elif visual.kind == "texture":
        colours = visual.vertex_attributes.get("color")  # trimesh's place for vertex colours beside a material
        if colours is None and visual.uv is not None:
            colours = visual.to_color().vertex_colors
    if colours is None or len(colours) != len(part.vertices):
        return np.full((len(part.vertices), 3), GREY / 255)
    colours = np.asarray(colours)[:, :3]
    return colours / np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else np.clip(colours, 0, 1)


def _srgb(light: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB (IEC 61966-2-1), both from 0 to 1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.round(255 * colours).astype(np.uint8)
