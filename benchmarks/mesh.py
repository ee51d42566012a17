"""What does the check before fusing see, and how near is a fused mesh to the truth? The numbers of docs/mesh.md.

    python benchmarks/mesh.py poses --scene scannet/train/scene7000_00   # or without --scene: a walk of the toy world
    python benchmarks/mesh.py toy --width 64 --voxel_size 0.04

`poses` breaks one thing about a recording's cameras at a time and prints what `mvdiff mesh` would say of it. `toy`
fuses a walk of 60 frames and compares the vertices with the points that 192 x 256 rays of each of them meet.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from mvdiff.data.toyworld.write import write_walk
from mvdiff.geometry import cell_centres, unproject
from mvdiff.geometry.consistency import check_consistency
from mvdiff.mesh import Frame, SelectedFrames, extract_mesh, fuse
from mvdiff.mesh.frames import open_frames

Break = Callable[[Frame, Callable[[int], Frame], int], Frame]
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
BREAKS: dict[str, Break] = {
    "as they are": lambda one, frame, i: one,
    "rotations transposed": lambda one, frame, i: one._replace(R=one.R.mT),
    "poses read as camera-from-world": lambda one, frame, i: one._replace(R=one.R.mT, t=-one.R.mT @ one.t),
    "cameras with OpenGL's axes": lambda one, frame, i: one._replace(R=one.R @ OPENGL),
    "centres in other units (1/1000)": lambda one, frame, i: one._replace(t=one.t / 1000),
    "poses 30 frames late": lambda one, frame, i: one._replace(R=frame(i + 30).R, t=frame(i + 30).t),
    "poses 6 frames late": lambda one, frame, i: one._replace(R=frame(i + 6).R, t=frame(i + 6).t),
    "focal length x 1.3": lambda one, frame, i: one._replace(K=one.K * torch.tensor([[1.3], [1.3], [1.0]])),
    "focal length x 1.1": lambda one, frame, i: one._replace(K=one.K * torch.tensor([[1.1], [1.1], [1.0]])),
    "depth x 2": lambda one, frame, i: one._replace(depth=one.depth * 2),
    "images mirrored": lambda one, frame, i: one._replace(image=one.image.flip(1)),
}


def poses(scene: Path, every: int, size: tuple[int, int]) -> None:
    """Print what the check says of a scene with each of BREAKS; lateness counts frames of the recording."""
    frames = list(SelectedFrames(open_frames(scene), every, size))

    def late(number: int) -> Frame:
        return frames[min(number // every, len(frames) - 1)]

    for name, change in BREAKS.items():
        found = check_consistency([change(one, late, i * every) for i, one in enumerate(frames)])
        print(f"{name:32s} {found}; {found.problem(real_colours=True) or 'fused'}", flush=True)


def toy(width: int, voxel_size: float, truncation: float | None, room: int) -> None:
    """Print how near the vertices of a fused toy room are to what rays meet, and how much of that has a vertex near."""
    with tempfile.TemporaryDirectory() as folder:
        truth = list(SelectedFrames(open_frames(Path(folder) / write_walk(Path(folder), 0, room, 256, 60))))
    with tempfile.TemporaryDirectory() as folder:
        frames = list(SelectedFrames(open_frames(Path(folder) / write_walk(Path(folder), 0, room, width, 60))))
    start = time.process_time()
    mesh = extract_mesh(fuse(frames, voxel_size, truncation))
    seconds = time.process_time() - start
    met = [unproject(cell_centres(*one.depth.shape, 1), one.depth, one.K, one.R, one.t).reshape(-1, 3) for one in truth]
    met, colours = torch.cat(met).numpy(), torch.cat([one.image.reshape(-1, 3) for one in truth]).numpy()
    away, nearest = cKDTree(met).query(mesh.vertices)
    difference = np.abs(mesh.colours.astype(int) - colours[nearest]).mean()
    covered = (cKDTree(mesh.vertices).query(met[::20])[0] < 2 * voxel_size).mean()
    print(f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles in {seconds:.1f} s")
    print(f"{(away < voxel_size).mean():.1%} of vertices within a voxel of the truth", end="; ")
    print(f"median {1000 * np.median(away):.1f} mm, 95%: {1000 * np.quantile(away, 0.95):.0f} mm", end="; ")
    print(f"colours {difference:.1f} of 255 apart; {covered:.1%} of the truth has a vertex within two voxels")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("poses")
    task.add_argument("--scene", type=Path)
    task.add_argument("--every", type=int, default=2)
    task.add_argument("--size", type=int, nargs=2, default=(120, 160))
    task = tasks.add_parser("toy")
    task.add_argument("--width", type=int, default=64)
    task.add_argument("--voxel_size", type=float, default=0.04)
    task.add_argument("--truncation", type=float)
    task.add_argument("--room", type=int, default=3)
    args = vars(parser.parse_args())
    if args.pop("task") == "toy":
        toy(**args)
    elif args["scene"] is not None:
        poses(args["scene"], args["every"], tuple(args["size"]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            poses(Path(folder) / write_walk(Path(folder), 0, 3, 64, 120), args["every"], (48, 64))


if __name__ == "__main__":
    main()
