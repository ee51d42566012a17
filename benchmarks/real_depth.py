"""Do depth correspondences lead to the same colours in a real recording? The numbers of notes/real-data.md.

    python benchmarks/real_depth.py --scene scannet/train/scene7000_00

Frames 10, 25 and 50 apart: each pixel's colour is looked up where depth and poses say that the other frame shows its
point, and compared: PSNR, and the normalised cross-correlation (NCC) of grey values, which does not mind that the
camera's exposure changes. The controls break one thing each. Means over pairs, the least NCC, the share of pixels
compared; then the overlap PSNR of the same frames.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.scannet import ScanNetScene
from mvdiff.eval.overlap import PAPER_TOLERANCE, depth_overlap_psnr, psnr_from_mse
from mvdiff.geometry import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    cell_centres,
    depth_correspondence,
    project_points,
    sample_bilinear,
    unproject,
)

Pose = tuple[Tensor, Tensor]  # R, t
View = tuple[Tensor, Tensor]  # image, depth map
CONTROLS: dict[str, tuple[DepthTolerance | None, Callable[[Pose, Pose, Pose], tuple[Pose, Pose]]]] = {
    "as they are": (DEFAULT_DEPTH_TOLERANCE, lambda source, target, other: (source, target)),
    "no occlusion test": (None, lambda source, target, other: (source, target)),
    "no motion": (None, lambda source, target, other: (source, source)),
    "rotations transposed": (None, lambda source, target, other: (transposed(source), transposed(target))),
    "poses inverted": (None, lambda source, target, other: (inverted(source), inverted(target))),
    "pose of another frame": (None, lambda source, target, other: (source, other)),
}


def transposed(pose: Pose) -> Pose:
    """Return a pose whose rotation is read as camera-from-world."""
    return pose[0].mT, pose[1]


def inverted(pose: Pose) -> Pose:
    """Return a world-from-camera pose read as camera-from-world."""
    R, t = pose
    return R.mT, -R.mT @ t


def agreement(
    source: View, target: View, K: Tensor, poses: tuple[Pose, Pose], tolerance: DepthTolerance | None
) -> tuple[float, float, float]:
    """Compare the colours of two frames where they show the same points.

    Returns:
        PSNR in dB (intensities in [0, 1]), NCC of grey values, and the share of the source's pixels compared.
    """
    xy, visible = depth_correspondence(source[1], K, *poses[0], target[1], K, *poses[1], tolerance)
    warped = (sample_bilinear(target[0][None].double(), xy[visible][None])[0] + 1) / 2
    own = (source[0][:, visible].double() + 1) / 2
    grey = [values.mean(0) - values.mean() for values in (warped, own)]
    ncc = float(grey[0] @ grey[1] / (grey[0].norm() * grey[1].norm()))
    return psnr_from_mse(float((warped - own).square().mean())), ncc, float(visible.double().mean())


def depth_differences(source: Tensor, target: Tensor, K: Tensor, source_pose: Pose, target_pose: Pose) -> Tensor:
    """Return by how much [M] a point's z differs from the target's depth there, metres, where both have a depth."""
    xy, inside = depth_correspondence(source, K, *source_pose, target, K, *target_pose, None)
    points = unproject(cell_centres(*source.shape, 1), source, K, *source_pose)
    _, z, _ = project_points(points, K, *target_pose, *target.shape)
    column, row = xy[inside].round().long().unbind(dim=-1)
    there = target[row.clamp(0, len(target) - 1), column.clamp(0, target.shape[1] - 1)]
    return (z[inside] - there).abs()[there > 0][::7]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, required=True, help="folder with color/, depth/, pose/ and intrinsic/")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), help="height and width")
    parser.add_argument("--gaps", type=int, nargs="+", default=(10, 25, 50), help="frames")
    parser.add_argument("--every", type=int, default=15, help="pairs start this many frames apart")
    options = parser.parse_args()
    scene = ScanNetScene(options.scene)
    frames, K = scene.valid_frames, scene.intrinsics(*options.size)

    @functools.cache
    def view(frame: int) -> tuple[Tensor, Tensor]:
        return scene.image(frame, *options.size), scene.depths(frame, *options.size)

    missing = torch.stack([view(frame)[1] == 0 for frame in frames[:: options.every]]).double().mean()
    size = "x".join(map(str, options.size))
    print(f"{scene.name}: {len(frames)} frames, {size}, {missing:.0%} of the depths missing")
    print(f"{'apart':7}{'poses':24}{'pairs':>5}{'PSNR, dB':>10}{'NCC':>7}{'least':>7}{'pixels':>8}")
    for gap in options.gaps:
        for name, (tolerance, change) in CONTROLS.items():
            rows = []
            for index in range(0, len(frames) - gap, options.every):
                a, b, c = frames[index], frames[index + gap], frames[(index + gap + len(frames) // 4) % len(frames)]
                poses = change(*(scene.pose(frame) for frame in (a, b, c)))
                found = agreement(view(a), view(b), K, poses, tolerance)
                if found[2] > 0.02:
                    rows.append(found)
            psnr, ncc, share = torch.tensor(rows).mean(0).tolist()
            least = min(row[1] for row in rows)
            print(f"{gap:<7}{name:24}{len(rows):5}{psnr:10.2f}{ncc:7.3f}{least:7.3f}{share:8.2f}")
    for gap in options.gaps:
        chosen = frames[::gap]
        images, depths = (torch.stack(values) for values in zip(*map(view, chosen), strict=True))
        R, t = (torch.stack(values) for values in zip(*map(scene.pose, chosen), strict=True))
        views = images, depths, K.expand(len(chosen), 3, 3), R, t
        found = [depth_overlap_psnr(*views, tolerance=rule) for rule in (PAPER_TOLERANCE, DEFAULT_DEPTH_TOLERANCE)]
        paper, strict = (psnr["overlap_psnr_mean_of_pairs"] for psnr in found)
        print(
            f"overlap PSNR of frames {gap} apart: {paper:.2f} dB, unoccluded {strict:.2f} dB, {len(chosen) - 1} pairs"
        )
    gap = options.gaps[0]
    off = torch.cat(
        [
            depth_differences(view(a)[1], view(b)[1], K, scene.pose(a), scene.pose(b))
            for a, b in zip(frames[: -gap : options.every], frames[gap :: options.every], strict=True)
        ]
    )
    half, most = off.quantile(torch.tensor([0.5, 0.9], dtype=torch.float64)).tolist()
    print(f"depths of frames {gap} apart differ by {half * 1000:.1f} mm (median), {most * 1000:.1f} mm (90%)")


if __name__ == "__main__":
    main()
