"""Meshes that the page's 3D viewer shows: packed into the page, and the frame that mesh_viewer.js fills."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mvdiff.report.galleries import Strip, strip_figures
from mvdiff.report.markup import Html, markup, tag

GRID = 65535
"""Positions are stored in steps of 1/65535 of the mesh's extent: 0.1 mm in a room of 7 m."""


class ColouredMesh(Protocol):
    """Triangles with a colour at each vertex, as `mvdiff.mesh.Mesh` has them.

    Attributes:
        vertices: [N, 3] in metres, in glTF's axes: x right, y up, z towards the viewer (`mvdiff.mesh.turned_upright`).
        faces: [M, 3] whole numbers, indices of vertices, counter-clockwise as seen from in front.
        colours: [N, 3] uint8.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class MeshEntry:
    """One scene of the 3D viewer, as several methods coloured it.

    Attributes:
        title: Name of the scene.
        meshes: Method name -> mesh. All are seen from the same place, which the first one fixes.
        strips: What stands below the viewer, such as frames over ground truth.
    """

    title: str
    meshes: Mapping[str, ColouredMesh]
    strips: Sequence[Strip] = ()

    def __post_init__(self) -> None:
        if not self.meshes:
            raise ValueError(f"MeshEntry({self.title!r}).meshes must hold a mesh; got none.")


def packed_mesh(name: str, mesh: ColouredMesh) -> dict:
    """Pack a mesh for the page: bounds, counts, and compressed bytes as base64.

    The bytes are the vertices [N, 3] uint16 on a grid between the bounds, the faces [M, 3] int32 as differences of
    consecutive numbers (they compress well), and the colours [N, 3] uint8; little-endian, zlib.

    Args:
        name: What the user calls this mesh, for the error text.
        mesh: The mesh.

    Raises:
        ValueError: If shapes or dtypes do not fit, a vertex is not finite, or a face names a vertex that is not there.
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
        raise ValueError(f"{name} must have finite vertices and faces between them; got others. Build the mesh again.")
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


def mesh_payload(meshes: Sequence[MeshEntry]) -> str:
    """Write what the viewer needs as JSON that may stand inside a `<script>` element."""
    entries = []
    for entry in meshes:
        methods = [
            {"name": method, **packed_mesh(f"MeshEntry({entry.title!r}).meshes[{method!r}]", mesh)}
            for method, mesh in entry.meshes.items()
        ]
        entries.append({"title": entry.title, "methods": methods})
    return json.dumps(entries).replace("<", "\\u003c")


def mesh_section(meshes: Sequence[MeshEntry]) -> Html:
    """Draw the frame that mesh_viewer.js fills, the meshes for it, and the strips below.

    Raises:
        ValueError: If a mesh or an image has a wrong form.
    """
    label = "3D view of the mesh; arrow keys turn it, plus and minus zoom"
    status = [
        tag("output", class_="readout", aria_live="off"),
        tag("button", "Reset", type="button", data_action="reset", title="See the whole mesh again (Home)"),
        tag("button", "Full screen", type="button", data_action="fullscreen"),
    ]
    stage = tag(
        "div",
        tag("canvas", tabindex=0, role="img", aria_label=label),
        tag("div", class_="methods", role="group", aria_label="Method"),
        tag("div", status, class_="status"),
        class_="stage mesh",
    )
    viewer = tag(
        "div",
        stage,
        tag("div", class_="scenes", role="group", aria_label="Scene"),
        tag("noscript", tag("p", "The 3D viewer needs JavaScript.", class_="note")),
        tag(
            "p",
            "Drag, or use the arrow keys, to turn the mesh; with shift, the right button or two fingers to move it; "
            "wheel, pinch or + and − to zoom; number keys switch the method. Surfaces show from the side from which "
            "they were seen: the nearest walls are left out.",
            class_="note",
        ),
        tag("script", Html(mesh_payload(meshes)), type="application/json"),
        class_="viewer card",
        id="mesh-viewer",
    )
    strips = [strip for entry in meshes for strip in entry.strips]
    return markup([viewer, *strip_figures(strips)])
