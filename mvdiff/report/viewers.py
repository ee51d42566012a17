"""Viewers embedded in a page with their data: 360-degree panoramas, and meshes in 3D."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mvdiff.report.blocks import Block
from mvdiff.report.images import checked_image, data_uri, paint_uncovered
from mvdiff.samples.photo_sphere import photo_sphere_xmp

if TYPE_CHECKING:
    from mvdiff.mesh import Mesh

GRID = 65535
"""Number of steps that vertex positions are quantized to over the mesh's extent: 0.1 mm in a room of 7 m."""


@dataclass(frozen=True)
class PanoramaEntry:
    """A scene of the 360-degree viewer, with one panorama per method.

    Attributes:
        title: Name below the thumbnail.
        captions: Prompts, shown next to the viewer.
        methods: Maps each method to its equirectangular panorama [H, 2 H, 3] uint8 (yaw 0 at the centre, growing to the
            right; row 0 is up), or to (panorama, covered) with covered [H, 2 H] bool; uncovered parts are shown in
            grey. The first panorama is the thumbnail.
    """

    title: str
    captions: Sequence[str]
    methods: Mapping[str, object]

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError(f"PanoramaEntry({self.title!r}).methods must have at least one panorama; got none.")

    def packed(self) -> dict:
        """Return the entry as JSON values for viewer.js.

        Raises:
            ValueError: A panorama is not a uint8 array [H, 2 H, 3], or its mask has another size.
        """
        methods = []
        for method, value in self.methods.items():
            name = f"PanoramaEntry({self.title!r}).methods[{method!r}]"
            image, covered = value if isinstance(value, tuple | list) else (value, None)
            panorama = checked_image(name, image)
            height, width = panorama.shape[:2]
            if width != 2 * height:
                raise ValueError(f"{name} must be twice as wide as high; got {width} x {height} pixels.")
            painted = paint_uncovered(panorama, covered, f"{name} covered")
            methods.append({"name": method, "image": data_uri(painted, photo_sphere_xmp(height, width))})
        return {"title": self.title, "captions": list(self.captions), "methods": methods}


@dataclass(frozen=True)
class MeshEntry:
    """A scene of the 3D viewer, with one mesh per method.

    Attributes:
        title: Name of the scene.
        meshes: Maps each method to its mesh in metres, in glTF's axes: x right, y up, z towards the viewer
            (`mvdiff.mesh.turned_upright`). All meshes share one camera, which is set by the first mesh.
    """

    title: str
    meshes: Mapping[str, Mesh]

    def __post_init__(self) -> None:
        if not self.meshes:
            raise ValueError(f"MeshEntry({self.title!r}).meshes must have at least one mesh; got none.")

    def packed(self) -> dict:
        """Return the entry as JSON values for mesh_viewer.js.

        Raises:
            ValueError: A mesh is invalid, see `packed_mesh`.
        """
        methods = [
            {"name": method, **packed_mesh(f"MeshEntry({self.title!r}).meshes[{method!r}]", mesh)}
            for method, mesh in self.meshes.items()
        ]
        return {"title": self.title, "methods": methods}


@dataclass(frozen=True)
class PanoramaViewer(Block):
    """The 360-degree viewer, with at least one scene."""

    entries: Sequence[PanoramaEntry]
    template: ClassVar[str] = "panorama_viewer.html"
    scripts: ClassVar[tuple[str, ...]] = ("stage.js", "viewer.js")


@dataclass(frozen=True)
class MeshViewer(Block):
    """The 3D viewer, with at least one scene."""

    entries: Sequence[MeshEntry]
    template: ClassVar[str] = "mesh_viewer.html"
    scripts: ClassVar[tuple[str, ...]] = ("stage.js", "mesh_viewer.js")


def packed_mesh(name: str, mesh: Mesh) -> dict:
    """Pack a mesh for the page: bounds, counts, and compressed bytes as base64.

    The bytes are the vertices [N, 3] uint16, quantized between the bounds; the faces [M, 3] int32, as differences of
    consecutive numbers (which compress well); and the colours [N, 3] uint8; little-endian, compressed by zlib.

    Args:
        name: Name of the mesh, for error messages.
        mesh: Mesh to pack.

    Raises:
        ValueError: Shapes or dtypes do not agree, a vertex is not finite, or a face has an invalid vertex index.
    """
    vertices, faces, colours = (np.asarray(part) for part in (mesh.vertices, mesh.faces, mesh.colours))
    shapes = [list(part.shape) for part in (vertices, faces, colours)]
    if not all(part.ndim == 2 and part.shape[1] == 3 and len(part) for part in (vertices, faces, colours)):
        raise ValueError(f"{name} must have vertices [N, 3], faces [M, 3] and colours [N, 3]; got {shapes}.")
    if len(colours) != len(vertices) or colours.dtype != np.uint8 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(
            f"{name} must have one uint8 colour per vertex and integer faces; got {colours.dtype} and {faces.dtype} of "
            f"shapes {shapes}."
        )
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"{name} must have finite vertices and face indices below {len(vertices)}; got vertices or faces out of "
            "range."
        )
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    on_grid = np.round((vertices - low) / np.maximum(high - low, 1e-9) * GRID).astype("<u2")
    steps = np.diff(faces.reshape(-1), prepend=0).astype("<i4")
    content = zlib.compress(on_grid.tobytes() + steps.tobytes() + colours.tobytes(), level=9)
    return {
        "vertices": len(vertices),
        "faces": len(faces),
        "low": low.tolist(),
        "high": high.tolist(),
        "data": base64.b64encode(content).decode("ascii"),
    }
