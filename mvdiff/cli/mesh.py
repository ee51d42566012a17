"""`mvdiff mesh`: fuse frames with depth and pose into a mesh with colours."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.cli.command import Command, done, typed
from mvdiff.cli.opening import DataReader


@dataclass(frozen=True, kw_only=True)
class MeshOptions(DataReader):
    """Frames and mesh."""

    source: Path = field(kw_only=False)
    """a sample folder written by mvdiff generate depth, or a scene in any supported layout (docs/data.md)"""
    out: Path
    """mesh file to write: .ply (in the coordinates of the poses) or .glb (y up, for 3D viewers and browsers)"""
    voxel_size: float | None = None
    """side of a voxel in metres (default: 0.02)"""
    truncation: float | None = None
    """TSDF truncation distance in metres (default: 3 voxels)"""
    max_depth: float | None = None
    """ignore depths beyond this, in metres (default: 8)"""
    every: int = 1
    """take every N-th frame"""
    height: int | None = None
    """height in pixels to which frames are resized before fusing; needs --width (default: their own)"""
    width: int | None = None
    """width in pixels to which frames are resized before fusing; needs --height (default: their own)"""
    max_memory: float | None = None
    """memory limit of the voxel volume in GiB (default: 4)"""
    force: bool = False
    """fuse the frames even if they contradict each other"""

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError("--height and --width must be given together.")

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns that frames are resized to."""
        return None if self.height is None else (self.height, self.width)

    def fusing(self) -> dict[str, float]:
        """Return the settings of `mvdiff.mesh.tsdf.fuse` that are not its defaults."""
        names = ("voxel_size", "truncation", "max_depth", "max_memory")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def run(options: MeshOptions) -> int:
    """Check, fuse, write; return the exit status."""
    # Threads that wait for each other sleep; spinning, they more than double the time beside other work. The OpenMP
    # library reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mvdiff.cli.progress import progress_bar
    from mvdiff.data.agreement import measure_agreement
    from mvdiff.data.layouts import Source
    from mvdiff.data.recorded_frames import SelectedFrames
    from mvdiff.mesh.frames import SampleFrames, open_frames
    from mvdiff.mesh.surface import check_mesh_path, extract_mesh, up_axis, write_mesh
    from mvdiff.mesh.tsdf import check_settings, fuse
    from mvdiff.samples.folders import DEPTH_NAME

    check_mesh_path(options.out)  # a file .ply or .glb, which replaces no file of SOURCE
    settings = options.fusing()
    check_settings(**settings)
    source = open_frames(options.source, Source.of_option(options.data))
    frames = SelectedFrames(source, options.every, options.size)
    poses = frames.poses()
    is_sample = isinstance(source, SampleFrames)
    agreement = measure_agreement(frames, None if is_sample else source.scene, real_colours=not is_sample)
    found = agreement.consistency
    print(f"{options.source}: {len(frames)} frames; {found}")
    for warning in agreement.warning_texts:
        print(f"warning: {warning}")
    if agreement.problem:
        if found.lacks_depth:
            folder = options.source / DEPTH_NAME if is_sample else source.scene.file("depth", source.numbers[0]).parent
            units = 1000 if is_sample else source.scene.depth_units_per_metre
            wrong = f"the frames of SOURCE must have depth; got ones that do not: {agreement.problem}, in {folder}. "
            wrong += f"Put depth images there (uint16, {units:g} a metre, 0 where there is none)"
        else:
            wrong = f"the frames of SOURCE must agree with each other; got ones that do not, in {options.source}: "
            wrong += agreement.problem
        if not options.force:
            raise ValueError(f"{wrong}; --force fuses it anyway.")
        print(f"warning: {wrong}; fused because of --force.")
    with progress_bar() as bar:
        task = bar.add_task("fusing", total=len(frames))
        volume = fuse(frames, **settings, progress=lambda: bar.advance(task))
    mesh = extract_mesh(volume)
    write_mesh(options.out, mesh, up_axis(poses[0]))
    size = f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles; voxels of {volume.voxel_size:g} m"
    shown = options.source if isinstance(source, SampleFrames) else "out"
    done(f"{options.out}: {size}", typed("mvdiff", "report", shown, "--mesh", options.out))
    return 0


COMMANDS = (
    Command(
        name="mesh",
        summary="fuse a sample's or a recording's frames into a coloured mesh",
        description="Fuse frames with depth and pose into a mesh with colours at its vertices, and write it to --out. "
        "First prints how well the frames agree. If they contradict each other, the poses or intrinsics are wrong, and "
        "the command stops (see --force).",
        example="mvdiff mesh out/toy00008 --out mesh.glb",
        settings=(MeshOptions,),
        run=run,
    ),
)
