"""The mesh of one sequence, coloured by what was generated and by the real frames, on the same depths."""

from __future__ import annotations

from mvdiff.mesh import Mesh, SelectedFrames, extract_mesh, fuse, simplified, turned_upright, up_axis, write_mesh
from mvdiff.mesh.frames import SampleFrames
from mvdiff.quickstart.depth.interpolation import FOLDERS, INDEPENDENT, INTERPOLATED, REAL, opened
from mvdiff.quickstart.depth.settings import DepthSettings
from mvdiff.report import MeshEntry

VOXEL_SIZE = 0.04
"""Metres; a pixel of a toy frame covers about as much of a wall."""
EVERY = 2
"""One frame of so many is fused: a walk sees everything more often than a mesh needs."""
SHOWN_FACES = 60_000
NAMES = {INTERPOLATED: "two stages, with CAA", INDEPENDENT: "base, frame by frame", REAL: "ground truth"}


def fuse_sequences(settings: DepthSettings) -> list[MeshEntry]:
    """Fuse the first sequence as each method made it; write `meshes/<method>.glb`, return what the report shows."""
    shown: dict[str, Mesh] = {}
    for method, name in NAMES.items():
        sample = next(iter(opened(settings, method).values()))
        frames = SelectedFrames(SampleFrames(sample), EVERY)
        mesh, up = extract_mesh(fuse(frames, voxel_size=VOXEL_SIZE)), up_axis(frames.poses()[0])
        write_mesh(settings.out / "meshes" / f"{FOLDERS[method]}.glb", mesh, up)
        shown[name] = turned_upright(simplified(mesh, SHOWN_FACES), up)
    return [MeshEntry("held-out room 1", shown)]
