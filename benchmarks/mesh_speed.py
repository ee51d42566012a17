"""Measure time and memory of fusing, and distances to Open3D's surface, for notes/mesh.md.

    python benchmarks/mesh_speed.py --scene scannet/train/scene7000_00
    python benchmarks/mesh_speed.py --scene DIR --before ../older --packages ../o3d/lib/python3.12/site-packages

Fuses the first frames of a recording and triangulates the result, each engine in a process of its own: this code, the
code in the folder `--before`, and Open3D's voxel-block grid where it is installed (`--packages`: a folder to look for
it in). The exit status is 1 if an engine fails.
Seconds of CPU and of the clock include reading the frames, for which all use the same code, but not imports.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def fused_by_mvdiff(frames, voxel_size: float):
    """Return the vertices and faces of this project's mesh."""
    from mvdiff.mesh import extract_mesh, fuse

    mesh = extract_mesh(fuse(frames, voxel_size))
    return mesh.vertices, mesh.faces


def fused_by_open3d(frames, voxel_size: float):
    """Return the vertices and faces of Open3D's mesh, with the same truncation and largest depth."""
    import open3d as o3d
    import open3d.core as o3c

    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), (o3c.float32,) * 3, ((1), (1), (3)), voxel_size, 8, 20_000, o3c.Device("CPU:0")
    )
    for index in range(len(frames)):
        frame = frames[index]
        depth = o3d.t.geometry.Image(o3c.Tensor((frame.depth * 1000).round().numpy().astype(np.uint16)))
        colour = o3d.t.geometry.Image(o3c.Tensor(frame.image.contiguous().numpy()))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = frame.R.numpy(), frame.t.numpy()
        camera = o3c.Tensor(frame.K.double().numpy()), o3c.Tensor(np.linalg.inv(pose))
        blocks = grid.compute_unique_block_coordinates(depth, *camera, 1000.0, 8.0, 3.0)
        grid.integrate(blocks, depth, colour, *camera, 1000.0, 8.0, 3.0)
    mesh = grid.extract_triangle_mesh(0.0)
    return mesh.vertex.positions.numpy(), mesh.triangle.indices.numpy()


ENGINES = {"mvdiff": fused_by_mvdiff, "Open3D": fused_by_open3d}


def measure(engine: str, scene: Path, count: int, voxel_size: float, out: Path) -> None:
    """Fuse in this process; write the mesh and the measurements."""
    from mvdiff.mesh.frames import open_frames

    if engine == "Open3D":
        import open3d  # noqa: F401 - before the clock starts
    opened = open_frames(scene)

    class First:
        reading = 0.0

        def __len__(self) -> int:
            return min(count, len(opened))

        def __getitem__(self, index: int):
            start = time.process_time()
            frame = opened[index]
            self.reading += time.process_time() - start
            return frame

    frames = First()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    vertices, faces = ENGINES[engine](frames, voxel_size)
    found = {
        "frames": len(frames),
        "cpu": time.process_time() - cpu,
        "reading": frames.reading,
        "wall": time.perf_counter() - wall,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imports": before / 1024,
    }
    np.savez(out, vertices=vertices, faces=faces, found=json.dumps(found))


def distances(points: np.ndarray, mesh) -> np.ndarray:
    """Return the distances [N] of points from a mesh, from the 16 triangles with the nearest centres."""
    import trimesh
    from scipy.spatial import cKDTree

    corners = mesh["vertices"][mesh["faces"]].astype(np.float64)
    _, near = cKDTree(corners.mean(axis=1)).query(points, k=16)
    found = np.full(len(points), np.inf)
    for candidate in near.T:
        nearest = trimesh.triangles.closest_point(corners[candidate], points)
        found = np.minimum(found, np.linalg.norm(nearest - points, axis=1))
    return found


def main() -> int:
    """Run what the command line asks for; return 1 if an engine fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="frames to fuse")
    parser.add_argument("--voxel_size", type=float, default=0.02)
    parser.add_argument("--before", type=Path, help="folder with the code to compare with")
    parser.add_argument("--packages", type=Path, help="folder of packages to search last, with Open3D")
    parser.add_argument("--keep", type=Path, help="folder for the meshes, .npz")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.packages is not None:
        sys.path.append(str(args.packages))
    if args.engine is not None:
        measure(args.engine, args.scene, args.count, args.voxel_size, args.out)
        return 0
    runs = {"this code": ("mvdiff", None), "before": ("mvdiff", args.before), "Open3D": ("Open3D", None)}
    if args.before is None:
        del runs["before"]
    if importlib.util.find_spec("open3d") is None:
        print("Open3D is left out: it is not installed")
        del runs["Open3D"]
    meshes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (engine, code) in runs.items():
            out = (args.keep or Path(folder)) / f"{name.replace(' ', '_')}.npz"
            where = {
                "OMP_WAIT_POLICY": "passive",
                **os.environ,
                **({} if code is None else {"PYTHONPATH": str(code.resolve())}),
            }
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--engine", engine, "--out", out], env=where
            )
            if done.returncode:
                print(f"{name}: failed with status {done.returncode}")
                continue
            mesh = meshes[name] = dict(np.load(out))
            print(
                "{name}: {size} vertices".format(name=name, size=len(mesh["vertices"])), json.loads(str(mesh["found"]))
            )
    ours = meshes.get("this code")
    for name, other in meshes.items():
        if ours is not None and other is not ours:
            for text, points, surface in ((f"ours from {name}", ours, other), (f"{name} from ours", other, ours)):
                away = 1000 * distances(points["vertices"][::5].astype(np.float64), surface)
                shares = ", ".join(f"{one:.2f}" for one in np.quantile(away, [0.5, 0.95, 0.99, 0.999]))
                print(f"{text}: {shares} mm (50, 95, 99, 99.9%), largest {away.max():.1f}")
    return int(len(meshes) < len(runs))


if __name__ == "__main__":
    sys.exit(main())
