"""`mvdiff mesh`: fuse frames with depth and pose into a mesh with colours."""

import argparse
from pathlib import Path

from mvdiff.cli.opening import add_data_option


def add_parser(subparsers) -> None:
    """Add the `mesh` command."""
    parser = subparsers.add_parser(
        "mesh",
        help="fuse a sample's or a recording's frames into a coloured mesh",
        description="Fuse the frames of a sample (of `mvdiff generate depth`) or of a recording with depth and pose "
        "into a mesh with colours at its vertices. Before that, say how far the frames agree; where they contradict "
        "each other, their poses or intrinsics are wrong, and nothing is fused.",
        epilog="example: mvdiff mesh out/scene0707_00 --out mesh.glb",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a sample folder, or a scene in any layout")
    add_data_option(parser)
    out_help = "mesh.ply (axes of the poses) or mesh.glb (y up, opens in 3D viewers and browsers)"
    add("--out", type=Path, required=True, metavar="FILE", help=out_help)
    add("--voxel_size", type=float, metavar="M", help="side of a voxel in metres (default: 0.02)")
    add("--truncation", type=float, metavar="M", help="how thick a surface is kept (default: 3 voxels)")
    add("--max_depth", type=float, metavar="M", help="leave out what is farther away (default: 8)")
    add("--every", type=int, default=1, metavar="N", help="take every N-th frame (default: %(default)s)")
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="resize frames first (default: as they are)")
    add("--max_memory", type=float, metavar="GIB", help="how large the volume may become (default: 4)")
    add("--force", action="store_true", help="fuse frames that contradict each other, too")


def run(args: argparse.Namespace) -> int:
    """Check, fuse, write; return the exit status."""
    from mvdiff.cli.progress import progress_bar
    from mvdiff.data.layouts import Source
    from mvdiff.data.recorded_frames import SelectedFrames
    from mvdiff.geometry.consistency import check_consistency
    from mvdiff.mesh.frames import SampleFrames, open_frames
    from mvdiff.mesh.surface import check_mesh_path, extract_mesh, up_axis, write_mesh
    from mvdiff.mesh.tsdf import check_settings, fuse
    from mvdiff.samples.folders import DEPTH_NAME

    check_mesh_path(args.out)
    names = ("voxel_size", "truncation", "max_depth", "max_memory")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    check_settings(**settings)
    source = open_frames(args.source, Source.of_option(args.data))
    frames = SelectedFrames(source, args.every, None if args.size is None else tuple(args.size))
    poses = frames.poses()
    found = check_consistency(frames, poses)
    print(f"{args.source}: {len(frames)} frames; {found}")
    problem = found.problem(real_colours=not isinstance(source, SampleFrames))
    if problem is not None:
        if found.lacks_depth:
            is_sample = isinstance(source, SampleFrames)
            folder = args.source / DEPTH_NAME if is_sample else source.scene.file("depth", source.numbers[0]).parent
            units = 1000 if is_sample else source.scene.depth_units_per_metre
            wrong = f"the frames of SOURCE must have depth; got ones that do not: {problem}, in {folder}. "
            advice = f"Put depth images there (uint16, {units:g} a metre, 0 where there is none)"
        else:
            folder = args.source
            wrong = f"the frames of SOURCE must agree with each other; got ones that do not: {problem}, in {folder}. "
            advice = "Its poses (world-from-camera?) or intrinsics are wrong"
        if not args.force:
            raise ValueError(f"{wrong}{advice}; --force fuses it anyway.")
        print(f"warning: {wrong}{advice}; fused because of --force.")
    with progress_bar() as bar:
        task = bar.add_task("fusing", total=2 * len(frames))
        volume = fuse(frames, **settings, progress=lambda: bar.advance(task))
    mesh = extract_mesh(volume)
    write_mesh(args.out, mesh, up_axis(poses[0]))
    print(f"{args.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles; voxels of {volume.voxel_size:g} m")
    return 0
