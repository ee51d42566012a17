"""How often depth correspondences are right in the toy world, where ray tracing says what is occluded.

    python benchmarks/toy_depth.py --size 48 64

The numbers of `mvdiff.geometry.DepthTolerance`: for each tolerance the share of all pixels whose `visible` is right, of
those that the other view sees, and of those that fall into its image but are occluded there. Walks of 60 frames, pairs
2, 4, 6 and 10 frames apart; depths in whole millimetres. Then the overlap PSNR of true frames (docs/evaluate.md).
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.toyworld.render import trace
from mvdiff.data.toyworld.scene import Scene, make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.eval.overlap import depth_overlap_psnr
from mvdiff.geometry import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    cell_centres,
    depth_correspondence,
    intrinsics_from_fov,
    project_points,
    unproject,
)

NUM_FRAMES, STEP = 60, 2
GAPS = (2, 4, 6, 10)  # frames
ON_SURFACE = 0.01  # metres


def is_unoccluded(scene: Scene, points: Tensor, t: Tensor) -> Tensor:
    """Trace towards points [..., 3] from t [3]: is each the first thing that is met?"""
    directions = points - t
    reached = trace(scene, t.numpy(), directions.numpy().reshape(-1, 3)).distance.reshape(points.shape[:-1])
    return torch.from_numpy(np.abs(reached - 1)) * directions.norm(dim=-1) < ON_SURFACE


def count(room: int, size: tuple[int, int], tolerances: list[DepthTolerance]) -> Tensor:
    """Return [tolerances, 6]: pixels told right, pixels; seen and told so, seen; occluded and told so, occluded."""
    scene = make_walk(0, room)
    K = intrinsics_from_fov(65.0, *size).double()
    views = []
    for R, t in walk_poses(0, room, NUM_FRAMES)[::STEP]:
        depths = np.round(render_view(scene, K, R, t, *size).distance * 1000) / 1000
        views.append((torch.from_numpy(depths), K, torch.from_numpy(R), torch.from_numpy(t)))
    counts = torch.zeros(len(tolerances), 6, dtype=torch.float64)
    for gap in GAPS:
        for first in range(0, len(views), 3):
            source, target = views[first], views[(first + gap // STEP) % len(views)]
            points = unproject(cell_centres(*size, 1), *source)
            _, _, inside = project_points(points, *target[1:], *size)
            unoccluded = is_unoccluded(scene, points, target[3])
            seen, occluded = inside & unoccluded, inside & ~unoccluded
            for row, tolerance in zip(counts, tolerances, strict=True):
                _, visible = depth_correspondence(*source, *target, tolerance)
                row += torch.stack(
                    [
                        (visible == seen).sum(), torch.tensor(seen.numel()),
                        (visible & seen).sum(), seen.sum(),
                        (~visible & occluded).sum(), occluded.sum(),
                    ]
                )  # fmt: skip
    return counts


def overlap_psnr(rooms: int, gap: int, size: tuple[int, int], num_views: int = 12) -> list[float]:
    """Return the overlap PSNR (mean of pairs, dB) of true frames: the paper's, unoccluded, with R transposed."""
    K = intrinsics_from_fov(65.0, *size).double()
    samples = []
    for room in range(rooms):
        scene, poses = make_walk(0, room), walk_poses(0, room, NUM_FRAMES)[::gap][:num_views]
        views = [render_view(scene, K, R, t, *size, supersampling=2) for R, t in poses]
        images = torch.from_numpy(np.stack([np.round(view.colour * 255) for view in views])).permute(0, 3, 1, 2)
        R, t = (torch.from_numpy(np.stack(values)) for values in zip(*poses, strict=True))
        depths = torch.from_numpy(np.stack([view.distance for view in views]))
        samples.append((images.to(torch.uint8), depths, K.expand(len(R), 3, 3), R, t))
    batch = [torch.stack(values) for values in zip(*samples, strict=True)]
    images, depths, K, R, t = batch
    found = (
        depth_overlap_psnr(*batch),
        depth_overlap_psnr(*batch, tolerance=DEFAULT_DEPTH_TOLERANCE),
        depth_overlap_psnr(images, depths, K, R.mT, t),
    )
    return [psnr["overlap_psnr_mean_of_pairs"] for psnr in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(48, 64), help="height and width")
    parser.add_argument("--rooms", type=int, default=6)
    options = parser.parse_args()
    absolute, relative = DEFAULT_DEPTH_TOLERANCE
    tolerances = [DepthTolerance(absolute * factor, relative * factor) for factor in (0.25, 0.5, 1, 2, 4)]
    counts = sum(count(room, tuple(options.size), tolerances) for room in range(options.rooms))
    print(f"{options.size[0]}x{options.size[1]}, {options.rooms} walks")
    print("tolerance              right   of seen   of occluded")
    for tolerance, row in zip(tolerances, counts, strict=True):
        right, seen, occluded = (row[0::2] / row[1::2]).tolist()
        print(f"{tolerance.absolute:.3f} m + {tolerance.relative:.4f} d  {right:.4f}   {seen:.4f}    {occluded:.4f}")
    shares = counts[0, 1::2] / counts[0, 1]
    print(f"seen: {shares[1]:.3f} of all pixels, occluded inside the image: {shares[2]:.3f}")
    for gap in (1, 2, 5):
        paper, unoccluded, wrong = overlap_psnr(min(3, options.rooms), gap, tuple(options.size))
        print(f"overlap PSNR, {gap} apart: {paper:.2f} dB, unoccluded {unoccluded:.2f}, R transposed {wrong:.2f}")


if __name__ == "__main__":
    main()
