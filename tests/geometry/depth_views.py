"""Small views with depth and pose, for the tests of what is computed from them."""

import torch

from mvdiff.geometry import intrinsics_from_fov, rotation_from_yaw_pitch

HEIGHT, WIDTH = 12, 20
EYE, ORIGIN = torch.eye(3), torch.zeros(3)
K90 = intrinsics_from_fov(90.0, HEIGHT, WIDTH)  # f = 10, centre (9.5, 5.5)


def uneven_views(num_views=4, seed=0):
    """Cameras (K, R, t) that look about along z from near the origin, all different, and rugged depths with holes."""
    rng = torch.Generator().manual_seed(seed)
    angles = torch.rand(num_views, 2, generator=rng, dtype=torch.float64) * 40 - 20
    K = intrinsics_from_fov(60 + 40 * torch.rand(num_views, generator=rng, dtype=torch.float64), HEIGHT, WIDTH)
    K[:, 1, 1] *= 1.1
    K[:, 0, 1] = 0.3
    t = torch.rand(num_views, 3, generator=rng, dtype=torch.float64) - 0.5
    depths = 1.5 + 2 * torch.rand(num_views, HEIGHT, WIDTH, generator=rng, dtype=torch.float64)
    depths[torch.rand(num_views, HEIGHT, WIDTH, generator=rng) < 0.1] = 0
    return K, rotation_from_yaw_pitch(angles[:, 0], angles[:, 1]), t, depths
