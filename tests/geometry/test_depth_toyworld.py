"""Depth correspondences against the toy world, where ray tracing says exactly what is occluded and where a tap lies."""

import numpy as np
import pytest
import torch

from mvdiff.data.toyworld.render import trace
from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.geometry import (
    cell_centres,
    depth_correspondence,
    depth_tap_geometry,
    intrinsics_from_fov,
    overlap_matrix,
    overlap_neighbours,
    pixel_from_cell,
    project_points,
    unproject,
)

HEIGHT, WIDTH = 48, 64
ON_SURFACE = 0.01  # metres between two points of one surface
K = intrinsics_from_fov(65.0, HEIGHT, WIDTH).double()


@pytest.fixture(scope="module")
def walks():
    """Every second of 24 frames of three walks of 60: (scene, K, R, t, depths in whole millimetres, as on disk)."""
    found = []
    for room in (0, 1, 2):
        scene, poses = make_walk(0, room), walk_poses(0, room, 60)[:24:2]
        R, t = (torch.from_numpy(np.stack(values)) for values in zip(*poses, strict=True))
        depths = [render_view(scene, K, r, c, HEIGHT, WIDTH).distance for r, c in zip(R, t, strict=True)]
        found.append((scene, K.expand(len(R), 3, 3), R, t, torch.from_numpy(np.stack(depths)).mul(1000).round() / 1000))
    return found


def is_unoccluded(scene, points, t):
    """Trace from the camera centre towards each point: is it the first thing that is met?"""
    directions = (points - t).numpy().reshape(-1, 3)
    reached = trace(scene, t.numpy(), directions).distance.reshape(points.shape[:-1])
    return torch.from_numpy(np.abs(reached - 1)) * (points - t).norm(dim=-1) < ON_SURFACE


def test_visible_agrees_with_the_traced_truth(walks):
    agree, seen, hidden, at_edges = [], [], [], []
    for scene, K, R, t, depths in walks:
        for source in range(0, 8, 2):
            for target in (source + 1, source + 2, source + 3):
                view, other = (depths[source], K[0], R[source], t[source]), (depths[target], K[0], R[target], t[target])
                xy, visible = depth_correspondence(*view, *other)
                points = unproject(cell_centres(HEIGHT, WIDTH, 1), depths[source], *view[1:])
                _, _, inside = project_points(points, *other[1:], HEIGHT, WIDTH)
                truth = inside & is_unoccluded(scene, points, t[target])
                agree.append((visible == truth).flatten())
                seen.append(visible[truth])
                hidden.append(~visible[inside & ~truth])
                at_edges.append(_near_an_edge(depths[target], xy)[visible != truth])
    agree, seen, hidden, at_edges = (torch.cat(values).double() for values in (agree, seen, hidden, at_edges))
    assert agree.mean() > 0.97
    assert seen.mean() > 0.96
    assert hidden.mean() > 0.94
    assert len(hidden) > 0.1 * len(agree)
    assert at_edges.mean() > 0.98  # within two pixels of a jump in depth: sampling, not geometry


def _near_an_edge(depths, xy):
    """Tell which positions have a jump in depth of more than 5 % within two pixels."""
    padded = torch.nn.functional.pad(depths[None, None], (2, 2, 2, 2), mode="replicate")
    farthest = torch.nn.functional.max_pool2d(padded, 5, stride=1)[0, 0]
    nearest = -torch.nn.functional.max_pool2d(-padded, 5, stride=1)[0, 0]
    column, row = xy.round().long().unbind(dim=-1)
    return (farthest / nearest > 1.05)[row.clamp(0, HEIGHT - 1), column.clamp(0, WIDTH - 1)]


@pytest.mark.parametrize("stride", [4, 8])
def test_taps_go_back_to_where_the_traced_ray_leads(walks, stride):
    errors, matching = [], []
    for scene, K, R, t, depths in walks:
        neighbours = overlap_neighbours(overlap_matrix(K, R, t, depths))
        geometry = depth_tap_geometry(K, R, t, depths, stride, neighbours)
        s = cell_centres(HEIGHT, WIDTH, stride).reshape(-1, 1, 2)
        for view, row in enumerate(neighbours.tolist()):
            for n, other in enumerate(row):
                visible = geometry.visible[view, n]
                if other < 0 or not visible.any():
                    continue
                taps = pixel_from_cell(geometry.taps_xy[view, n].double(), stride)
                rays = unproject(taps, torch.ones(taps.shape[:-1]), K[0], R[other], t[other]) - t[other]
                reached = trace(scene, t[other].numpy(), rays.numpy().reshape(-1, 3)).distance.reshape(taps.shape[:-1])
                points = t[other] + rays * torch.from_numpy(reached)[..., None]
                s_star, _, _ = project_points(points, K[0], R[view], t[view], HEIGHT, WIDTH)
                off = (geometry.displacement[view, n] - (s_star - s) / stride).norm(dim=-1)
                errors.append(off[visible])
                point = points[:, 4][visible[:, 4]]  # what t^l shows must be what s shows
                matching.append(is_unoccluded(scene, point, t[view]))
    errors, matching = torch.cat(errors), torch.cat(matching).double()
    assert errors.median() < 0.01  # cells; the depth of the nearest pixel is not quite that of the tap
    assert errors.quantile(0.95) < 0.15
    assert matching.mean() > 0.97


def test_overlap_is_the_traced_one(walks):
    for scene, K, R, t, depths in walks:
        overlap = overlap_matrix(K, R, t, depths)
        xy = cell_centres(HEIGHT, WIDTH, 1)[2::4, 2::4]
        for view in (0, 5):
            points = unproject(xy, depths[view, 2::4, 2::4], K[view], R[view], t[view])
            for other in (0, 2, 7, 11):
                _, _, inside = project_points(points, K[other], R[other], t[other], HEIGHT, WIDTH)
                truth = (inside & is_unoccluded(scene, points, t[other])).double().mean()
                assert abs(overlap[view, other] - truth) < 0.05
        neighbours = overlap_neighbours(overlap).tolist()
        for view, row in enumerate(neighbours):  # a walk's frames overlap those before and after them
            assert {view - 1, view + 1} & set(range(len(neighbours))) <= set(row)
