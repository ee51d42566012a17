"""Viewers that run in the page: panoramas all around, and meshes in 3D, both packed into it."""

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
"""Positions are stored in steps of 1/65535 of the mesh's extent: 0.1 mm in a room of 7 m."""


@dataclass(frozen=True)
class PanoramaEntry:
    """A scene of the 360-degree viewer, as several methods made it.

    Attributes:
        title: Name below its thumbnail.
        captions: Its prompts, shown beside the viewer.
        methods: Method name -> panorama: [H, 2 H, 3] uint8 equirectangular (centre yaw 0, yaw grows right, row 0 up),
            or (panorama, covered) with covered [H, 2 H] bool; what is not covered is shown in grey. The first method's
            image is the thumbnail.
    """

    title: str
    captions: Sequence[str]
    methods: Mapping[str, object]

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError(f"PanoramaEntry({self.title!r}).methods must hold a panorama; got none.")

    def packed(self) -> dict:
        """Return the entry as viewer.js reads it.

        Raises:
            ValueError: A panorama is no uint8 image [H, 2 H, 3], or its mask has another size.
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
    """A scene of the 3D viewer, as several methods coloured it.

    Attributes:
        title: Name of the scene.
        meshes: Method name -> mesh, in metres, in glTF's axes: x right, y up, z towards the viewer
            (`mvdiff.mesh.turned_upright`). All are seen from the same place, which the first one fixes.
    """

    title: str
    meshes: Mapping[str, Mesh]

    def __post_init__(self) -> None:
        if not self.meshes:
            raise ValueError(f"MeshEntry({self.title!r}).meshes must hold a mesh; got none.")

    def packed(self) -> dict:
        """Return the entry as mesh_viewer.js reads it.

        Raises:
            ValueError: A mesh has a wrong form.
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

    The bytes are the vertices [N, 3] uint16 on a grid between the bounds, the faces [M, 3] int32 as differences of
    consecutive numbers (they compress well), and the colours [N, 3] uint8; little-endian, zlib. Errors name the mesh.

    Raises:
        ValueError: Shapes or dtypes do not fit, a vertex is not finite, or a face names a vertex that is not there.
    """
    vertices, faces, colours = (np.asarray(part) for part in (mesh.vertices, mesh.faces, mesh.colours))
    shapes = [list(part.shape) for part in (vertices, faces, colours)]
    if not all(part.ndim == 2 and part.shape[1] == 3 and len(part) for part in (vertices, faces, colours)):
        raise ValueError(f"{name} must have vertices [N, 3], faces [M, 3] and colours [N, 3]; got {shapes}.")
    if len(colours) != len(vertices) or colours.dtype != np.uint8 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(
            f"{name} must have a uint8 colour for each vertex and whole numbers as faces; got {colours.dtype} and "
            f"{faces.dtype} of shapes {shapes}."
        )
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{name} must have finite vertices and faces between them; got others.")
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
