"""Panoramas per second and core: one gather per pixel against warping all six faces for every view.

Cuts the training views (ring of 8, FoV 90, 512 x 512, a new random yaw each time, so nothing can be cached) out of
uint8 skyboxes of 1024 x 1024 faces, decoding excluded. Both ways run in turn in one process on one thread, get the same
mip level (that part costs both the same), and compute their lookups anew for every panorama. Time is CPU time of
the process, so other work on the machine counts little; the ratio is taken of the medians.

    python benchmarks/cut_views.py
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from mvdiff.geometry import (
    RingRig,
    apply_homography,
    cell_centres,
    homography,
    normalized_from_pixel,
    perspective_from_skybox,
    skybox_cameras,
)
from mvdiff.geometry.mipmaps import at_mip_level, mip_level


def warp_six_faces(faces, K, R, height, width):
    """The plain way: warp every face into every view by its homography, and keep what falls inside."""
    faces = at_mip_level(faces, mip_level(faces.shape[-1] / 2, K[0, 0, 0].item()))
    size = faces.shape[-1]
    K_faces, R_faces = skybox_cameras(size)
    xy = cell_centres(height, width, stride=1).float()
    views = torch.zeros(len(K), faces.shape[1], height, width)
    for view, K_view, R_view in zip(views, K, R, strict=True):
        for face, K_face, R_face in zip(faces, K_faces, R_faces, strict=True):
            face_from_view = homography(K_view, R_view, K_face, R_face)
            xy_face, visible = apply_homography(face_from_view, xy, size, size)
            grid = normalized_from_pixel(xy_face, size, size)
            warped = F.grid_sample(face[None], grid[None], padding_mode="border", align_corners=False)[0]
            view.copy_(torch.where(visible, warped, view))
    return views


def cpu_seconds(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--face_size", type=int, default=1024)
    parser.add_argument("--view_size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rig = RingRig(num_views=8, fov_deg=90.0, height=options.view_size, width=options.view_size)
    # Smooth faces, so that the two results can be compared away from the seams of the plain way.
    coarse = torch.rand(6, 3, 8, 8, generator=generator)
    faces = (255 * F.interpolate(coarse, size=options.face_size, mode="bilinear")).round().to(torch.uint8)

    seconds = {"six warps": [], "one gather": []}
    differences = []
    for repeat in range(options.repeats + 1):
        yaw = int(torch.randint(360, (), generator=generator))
        arguments = (faces, *rig.cameras(yaw), options.view_size, options.view_size)
        plain_seconds, plain = cpu_seconds(warp_six_faces, *arguments)
        gather_seconds, gather = cpu_seconds(perspective_from_skybox, *arguments)
        differences.append((plain - gather).abs().median().item())
        if repeat > 0:  # the first is a warm-up
            seconds["six warps"].append(plain_seconds)
            seconds["one gather"].append(gather_seconds)

    face, view = options.face_size, options.view_size
    print(f"{face} x {face} uint8 faces -> 8 x {view} x {view}, 1 thread")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        spread = f"{min(seconds[name]):.3f} .. {max(seconds[name]):.3f}"
        print(f"{name:>10}: {1 / median:6.2f} panoramas/s/core  ({median:.3f} s CPU, {spread})")
    print(f"     ratio: {medians['six warps'] / medians['one gather']:.2f}x")
    print(f"median difference of the results: {max(differences):.4f} of 255")


if __name__ == "__main__":
    main()
