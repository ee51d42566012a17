import numpy as np
import pytest

from mvdiff.data.toyworld.primitives import Ball, Block, RayBundle, Tapered

SOLIDS = {
    "ball": (Ball((0.3, -0.2, 0.4), 0.6), lambda p: np.linalg.norm(p - [0.3, -0.2, 0.4], axis=-1) <= 0.6),
    "block": (Block((0.1, 0.2, -0.1), (0.5, 0.3, 0.8), yaw=0.6), None),
    "cylinder": (Tapered((0.2, 0.5, 0.1), 1.0, 0.4, 0.4), None),
    "cone": (Tapered((-0.1, 0.6, 0.2), 1.2, 0.7, 0.0), None),
    "frustum": (Tapered((0.0, 0.5, 0.0), 0.9, 0.3, 0.6), None),
}


def inside(name: str, points: np.ndarray) -> np.ndarray:
    """Say from the definition of each solid, point by point, whether it holds a point."""
    solid = SOLIDS[name][0]
    if isinstance(solid, Ball):
        return np.linalg.norm(points - np.array(solid.centre), axis=-1) <= solid.radius
    if isinstance(solid, Block):
        d = points - np.array(solid.centre)
        c, s = np.cos(solid.yaw), np.sin(solid.yaw)
        # A box turned right by yaw: its own x axis is (cos, 0, -sin), its z axis (sin, 0, cos).
        own = np.stack([c * d[..., 0] - s * d[..., 2], d[..., 1], s * d[..., 0] + c * d[..., 2]], axis=-1)
        return (np.abs(own) <= np.array(solid.half)).all(axis=-1)
    x, y, z = solid.base
    height = y - points[..., 1]
    radius = solid.bottom + (solid.top - solid.bottom) * height / solid.height
    reach = np.hypot(points[..., 0] - x, points[..., 2] - z)
    return (height >= 0) & (height <= solid.height) & (reach <= radius)


@pytest.mark.parametrize("name", SOLIDS)
def test_matches_marching_along_the_ray(name):
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(200, 3))
    origins = (2.5 * origins / np.linalg.norm(origins, axis=1, keepdims=True)).astype(np.float32)
    directions = (rng.normal(scale=0.5, size=(200, 3)) - origins).astype(np.float32)
    distance, normals = SOLIDS[name][0].intersect(origins, directions)
    steps = np.linspace(0, 2.5, 20001)
    for o, d, t, n in zip(origins, directions, distance, normals, strict=True):
        marched = np.nonzero(inside(name, o + steps[:, None] * d))[0]
        if len(marched) == 0:
            # The march can step over a graze, never over a deep hit.
            assert not np.isfinite(t) or not inside(name, o + (t + 2e-3) * d)
            continue
        assert t == pytest.approx(steps[marched[0]], abs=3e-4)
        assert np.linalg.norm(n) == pytest.approx(1, abs=1e-3)
        assert n @ d < 1e-3  # the outward normal looks back along the ray


def test_block_turned_right_shows_its_front_to_the_left():
    # Golden: a box turned right by 30 degrees; its front (own -z) normal is (-sin 30, 0, -cos 30) in the world.
    block = Block((0, 0, 3), (1, 1, 0.01), yaw=np.pi / 6)
    _, normals = block.intersect(np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32))
    np.testing.assert_allclose(normals[0], [-0.5, 0, -np.sqrt(3) / 2], atol=1e-6)


@pytest.mark.parametrize("name", SOLIDS)
def test_bound_never_loses_a_hit(name):
    rng = np.random.default_rng(1)
    origins = rng.uniform(-2, 2, size=(2000, 3)).astype(np.float32)
    directions = rng.normal(size=(2000, 3)).astype(np.float32)
    hit = np.nonzero(np.isfinite(SOLIDS[name][0].intersect(origins, directions)[0]))[0]
    assert len(hit) > 50
    assert np.isin(hit, RayBundle(origins, directions).near(*SOLIDS[name][0].bound())).all()


def test_rays_that_pass_far_from_a_sphere_are_left_out():
    # Own derivation: along +z from the origin, the sphere's centre is 3 m aside, 3 m behind, around, and 0.5 m aside.
    rays = RayBundle(np.zeros((1, 3), np.float32), np.array([[0, 0, 2]], np.float32))
    spheres = {(3.0, 0, 5): 0, (0, 0, -3.0): 0, (0, 0, -0.5): 1, (0.5, 0, 5.0): 1}
    for centre, expected in spheres.items():
        assert len(rays.near(np.array(centre, np.float32), 1.0)) == expected
