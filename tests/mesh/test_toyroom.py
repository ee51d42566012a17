"""A toy room, fused: its surfaces are where rays meet them, in the colours that the rays see."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.geometry import cell_centres, intrinsics_from_fov, unproject
from mvdiff.mesh import extract_mesh, fuse
from tests.mesh.worlds import frame

VOXEL = 0.05
POSES = walk_poses(0, 3, 60)[::3]


def walk(height, width):
    scene, K = make_walk(0, 3), intrinsics_from_fov(65.0, height, width)
    for R, t in POSES:
        hits = render_view(scene, K, torch.from_numpy(R), t, height, width)
        yield frame(hits.distance, K, torch.from_numpy(R), torch.from_numpy(t), np.round(hits.colour * 255))


@pytest.fixture(scope="module")
def truth():
    """Points [M, 3] that rays of 20 views of 150 x 200 meet, and their colours [M, 3]."""
    points, colours = [], []
    for shown in walk(150, 200):
        points.append(unproject(cell_centres(150, 200, 1), shown.depth, shown.K, shown.R, shown.t).reshape(-1, 3))
        colours.append(shown.image.reshape(-1, 3))
    return cKDTree(torch.cat(points).numpy()), torch.cat(colours).numpy()


@pytest.fixture(scope="module")
def mesh():
    return extract_mesh(fuse(list(walk(48, 64)), VOXEL))


def test_vertices_lie_on_surfaces_and_have_their_colours(mesh, truth):
    points, colours = truth
    away, nearest = points.query(mesh.vertices)
    assert (away < VOXEL).mean() > 0.95
    assert np.median(away) < VOXEL / 4
    difference = np.abs(mesh.colours.astype(int) - colours[nearest]).mean(axis=1)
    assert difference.mean() < 5
    assert (difference < 30).mean() > 0.97


def test_nearly_all_that_was_seen_is_there(mesh, truth):
    away, _ = cKDTree(mesh.vertices).query(truth[0].data[::50])
    assert (away < 2 * VOXEL).mean() > 0.97


def test_faces_look_at_the_camera(mesh):
    # the walk goes round the room's middle: floors look up (y is down), ceilings down
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    level = corners[..., 1].mean(axis=1)
    floor = np.abs(level) < VOXEL / 2
    assert floor.sum() > 1000
    upwards = normals[floor, 1] < -0.9 * areas[floor]
    assert areas[floor][upwards].sum() > 0.9 * areas[floor].sum()
