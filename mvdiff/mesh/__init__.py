"""Coloured meshes from frames with depth and pose: fusion into a signed distance function, triangulation, export.

Conventions: see `mvdiff.geometry`; poses are world-from-camera, depths are z-depths in metres.
"""

from mvdiff.data.recorded_frames import SelectedFrames
from mvdiff.geometry.consistency import Frame
from mvdiff.mesh.surface import Mesh, extract_mesh, simplified, turned_upright, up_axis, write_mesh
from mvdiff.mesh.tsdf import fuse
from mvdiff.mesh.volume import TsdfVolume

__all__ = [
    "Frame",
    "Mesh",
    "SelectedFrames",
    "TsdfVolume",
    "extract_mesh",
    "fuse",
    "simplified",
    "turned_upright",
    "up_axis",
    "write_mesh",
]
