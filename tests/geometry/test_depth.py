import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import (
    DepthTolerance,
    depth_correspondence,
    intrinsics_from_fov,
    overlap_matrix,
    overlap_neighbours,
    project_points,
    rotation_from_yaw_pitch,
    unproject,
)

HEIGHT, WIDTH = 12, 20
EYE, ORIGIN = torch.eye(3), torch.zeros(3)
K90 = intrinsics_from_fov(90.0, HEIGHT, WIDTH)  # f = 10, centre (9.5, 5.5)


def uneven_cameras(num_views=4, seed=0):
    """Cameras that look about along z from near the origin, all different."""
    rng = torch.Generator().manual_seed(seed)
    angles = torch.rand(num_views, 2, generator=rng, dtype=torch.float64) * 40 - 20
    K = intrinsics_from_fov(60 + 40 * torch.rand(num_views, generator=rng, dtype=torch.float64), HEIGHT, WIDTH)
    K[:, 1, 1] *= 1.1
    K[:, 0, 1] = 0.3
    t = torch.rand(num_views, 3, generator=rng, dtype=torch.float64) - 0.5
    depths = 1.5 + 2 * torch.rand(num_views, HEIGHT, WIDTH, generator=rng, dtype=torch.float64)
    depths[torch.rand(num_views, HEIGHT, WIDTH, generator=rng) < 0.1] = 0
    return K, rotation_from_yaw_pitch(angles[:, 0], angles[:, 1]), t, depths


def naive_correspondence(source, target, tolerance):
    """Follow one pixel at a time through world coordinates, in numpy with 4x4 poses."""
    (K, R, t, depths), (K_target, R_target, t_target, depths_target) = (
        [tensor.double().numpy() for tensor in view] for view in (source, target)
    )
    pose, pose_target = np.eye(4), np.eye(4)
    pose[:3, :3], pose[:3, 3], pose_target[:3, :3], pose_target[:3, 3] = R, t, R_target, t_target
    target_from_source = np.linalg.inv(pose_target) @ pose
    xy, visible = np.zeros((*depths.shape, 2)), np.zeros(depths.shape, dtype=bool)
    for row, column in np.ndindex(*depths.shape):
        if not depths[row, column] > 0:
            continue
        ray = np.linalg.inv(K) @ [column, row, 1]
        point = (target_from_source @ [*(ray * depths[row, column]), 1])[:3]
        if point[2] <= 0:
            continue
        x, y = (K_target @ point)[:2] / point[2]
        xy[row, column] = x, y
        if not (-0.5 <= x <= WIDTH - 0.5 and -0.5 <= y <= HEIGHT - 0.5):
            continue
        if tolerance is None:
            visible[row, column] = True
            continue
        there = depths_target[min(round(y), HEIGHT - 1), min(round(x), WIDTH - 1)]
        allowed = tolerance.absolute + tolerance.relative * there
        visible[row, column] = there > 0 and abs(there - point[2]) <= allowed
    return xy, visible


@pytest.mark.parametrize("tolerance", [None, DepthTolerance(0.1, 0.05)])
def test_correspondence_matches_a_naive_loop(tolerance):
    views = list(zip(*uneven_cameras(), strict=True))
    for source, target in ((0, 1), (2, 3), (3, 0)):
        (K, R, t, depths), (K2, R2, t2, depths2) = views[source], views[target]
        xy, visible = depth_correspondence(depths, K, R, t, depths2, K2, R2, t2, tolerance)
        expected_xy, expected = naive_correspondence(views[source], views[target], tolerance)
        assert 0.05 < expected.mean() < 0.95
        assert torch.equal(visible, torch.from_numpy(expected))
        torch.testing.assert_close(xy[visible], torch.from_numpy(expected_xy)[visible], atol=1e-9, rtol=0)


def test_golden_a_camera_that_moves_right_sees_points_move_left():
    # f = 10 px. A camera 1 m to the right sees what is 2 m ahead f * 1 / 2 = 5 px farther left, what is 5 m ahead 2 px.
    points = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 5.0]])
    xy, z, visible = project_points(points, K90, EYE, torch.tensor([1.0, 0.0, 0.0]), HEIGHT, WIDTH)
    torch.testing.assert_close(xy, torch.tensor([[4.5, 5.5], [7.5, 5.5]]).double())
    assert (z.tolist(), visible.tolist()) == ([2.0, 5.0], [True, True])


@pytest.mark.parametrize(
    ("t", "yaw", "pitch", "expected"),
    [
        ((0.0, 0.5, 0.0), 0, 0, (9.5, 5.5 - 10 * 0.5 / 2)),  # moved down (y is down): the point goes up
        ((0.0, 0.0, 1.0), 0, 0, (9.5, 5.5)),  # moved ahead: the middle stays
        ((0.0, 0.0, 0.0), 20, 0, (9.5 - 10 * math.tan(math.radians(20)), 5.5)),  # turned right: goes left
        ((0.0, 0.0, 0.0), 0, 20, (9.5, 5.5 + 10 * math.tan(math.radians(20)))),  # pitched up: goes down
        ((1.0, 0.0, 2.0), -90, 0, (9.5, 5.5)),  # stands 1 m to the right of the point and looks left at it
        ((1.0, 0.0, 1.0), -90, 0, (9.5 + 10, 5.5)),  # the same, 1 m nearer to us: the point is 45 degrees to its right
    ],
)
def test_golden_signs_of_moves(t, yaw, pitch, expected):
    point = torch.tensor([0.0, 0.0, 2.0])
    R = rotation_from_yaw_pitch(float(yaw), float(pitch))
    xy, z, _ = project_points(point, K90, R, torch.tensor(t), HEIGHT, WIDTH)
    assert z > 0
    torch.testing.assert_close(xy, torch.tensor(expected).double(), atol=1e-5, rtol=0)


def test_golden_unproject_uses_z_depth_and_world_from_camera():
    # Pixel (19.5, 5.5) is 45 degrees right of the middle; a camera turned right by 90 degrees looks along world x, and
    # its right is world -z: the point is 3 m ahead (x) and 3 m to the right (-z) of t = (1, 2, 3).
    R = rotation_from_yaw_pitch(90.0, 0.0)
    point = unproject(torch.tensor([19.5, 5.5]), torch.tensor(3.0), K90, R, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(point, torch.tensor([4.0, 2.0, 0.0]).double(), atol=1e-5, rtol=0)


@given(
    st.floats(-179, 179), st.floats(-89, 89), st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1), st.floats(0.01, 100)
)
def test_there_and_back_returns_pixel_and_depth(yaw, pitch, x, y, depth):
    K, t = K90.double(), torch.tensor([3.0, -2.0, 5.0]).double()
    K[0, 1] = 0.4
    R = rotation_from_yaw_pitch(torch.tensor(yaw).double(), torch.tensor(pitch).double())
    xy = torch.tensor([x, y], dtype=torch.float64)
    point = unproject(xy, torch.tensor(depth), K, R, t)
    back, z, visible = project_points(point, K, R, t, HEIGHT, WIDTH)
    torch.testing.assert_close(back, xy, atol=1e-8, rtol=0)
    torch.testing.assert_close(z.item(), float(torch.tensor(depth)), atol=1e-9, rtol=1e-9)
    assert visible


def test_points_behind_are_finite_and_not_visible():
    points = torch.tensor([[0.0, 0.0, -2.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 1e-9]])
    xy, z, visible = project_points(points, K90, EYE, ORIGIN, HEIGHT, WIDTH)
    assert not visible.any()
    assert torch.equal(xy, torch.zeros_like(xy))
    assert z.tolist()[:2] == [-2.0, 0.0]


@pytest.mark.parametrize("none", [0.0, -1.0, math.nan, math.inf])
def test_a_pixel_without_depth_is_finite_and_seen_nowhere(none):
    depths, holes = torch.full((HEIGHT, WIDTH), 2.0), torch.full((HEIGHT, WIDTH), 2.0)
    holes[4, 7] = none
    xy, visible = depth_correspondence(holes, K90, EYE, ORIGIN, depths, K90, EYE, ORIGIN)
    assert torch.isfinite(xy).all()
    assert torch.nonzero(~visible).tolist() == [[4, 7]]
    xy, visible = depth_correspondence(depths, K90, EYE, ORIGIN, holes, K90, EYE, ORIGIN)
    assert torch.nonzero(~visible).tolist() == [[4, 7]]
    assert depth_correspondence(depths, K90, EYE, ORIGIN, holes, K90, EYE, ORIGIN, None)[1].all()


def test_a_wall_before_the_point_occludes_it():
    # A wall at 4 m; the other camera stands 1 m to the right and has something 1 m before it in its left half.
    far, other = torch.full((HEIGHT, WIDTH), 4.0), torch.full((HEIGHT, WIDTH), 4.0)
    other[:, :10] = 1.0
    t = torch.tensor([1.0, 0.0, 0.0])
    xy, visible = depth_correspondence(far, K90, EYE, ORIGIN, other, K90, EYE, t)
    torch.testing.assert_close(xy[0, :, 0], torch.arange(WIDTH).double() - 2.5)
    assert visible[0].tolist() == [False] * 12 + [True] * 8  # x - 2.5 rounds to 10 from x = 12 on (ties go right)
    _, visible = depth_correspondence(other, K90, EYE, t, far, K90, EYE, ORIGIN)
    assert visible[0].tolist() == [False] * 10 + [True] * 8 + [False] * 2  # right end: beyond 19.5


def test_target_of_another_size_and_leading_axes():
    K, R, t, depths = uneven_cameras()
    small = depths[:, : HEIGHT // 2]
    xy, visible = depth_correspondence(depths[:2], K[:2], R[:2], t[:2], small[2:], K[2:], R[2:], t[2:])
    assert (xy.shape, visible.shape, xy.dtype) == ((2, HEIGHT, WIDTH, 2), (2, HEIGHT, WIDTH), torch.float64)
    for b in range(2):
        one = depth_correspondence(depths[b], K[b], R[b], t[b], small[2 + b], K[2 + b], R[2 + b], t[2 + b])
        assert torch.equal(xy[b], one[0])
        assert torch.equal(visible[b], one[1])


def test_overlap_matrix_is_the_share_of_visible_pixels():
    K, R, t, depths = uneven_cameras()
    for tolerance in (None, DepthTolerance(0.1, 0.05)):
        overlap = overlap_matrix(K, R, t, depths, stride=1, tolerance=tolerance)
        assert (overlap.shape, overlap.dtype) == ((4, 4), torch.float64)
        for i in range(4):
            for j in range(4):
                view = depths[i], K[i], R[i], t[i], depths[j], K[j], R[j], t[j]
                assert overlap[i, j] == depth_correspondence(*view, tolerance)[1].double().mean()
        torch.testing.assert_close(overlap.diagonal(), (depths > 0).double().mean(dim=(1, 2)))


def test_golden_overlap_of_a_move_to_the_right():
    # f = 10, depth 2: 1 m to the right moves all by 5 of 20 pixels; behind each other's back nothing is shared.
    K, depths = K90.expand(3, 3, 3), torch.full((3, HEIGHT, WIDTH), 2.0)
    R = torch.stack([EYE, EYE, rotation_from_yaw_pitch(180.0, 0.0)])
    t = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[1.0, 0.75, 0.0], [0.75, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert overlap_matrix(K, R, t, depths, stride=1).tolist() == expected
    torch.testing.assert_close(
        overlap_matrix(K, R, t, depths, stride=4), torch.tensor(expected).double(), atol=0.1, rtol=0
    )


def test_an_empty_depth_map_overlaps_nothing():
    K, R, t, depths = uneven_cameras()
    depths[1] = 0
    overlap = overlap_matrix(K, R, t, depths, stride=2)
    assert overlap[1].tolist() == [0.0] * 4
    assert overlap[:, 1].tolist() == [0.0] * 4
    assert (overlap_matrix(K, R, t, depths, stride=2, tolerance=None)[[0, 2, 3], 1] > 0).all()  # no occlusion test


def test_neighbours_follow_the_two_way_rule():
    overlap = torch.eye(5, dtype=torch.float64)
    overlap[0, 2], overlap[2, 0] = 0.9, 0.31
    overlap[0, 3], overlap[3, 0] = 0.9, 0.3  # not above
    overlap[0, 4], overlap[4, 0] = 0.5, 0.5
    assert overlap_neighbours(overlap).tolist() == [[2, 4], [0, 2], [0, -1], [2, 4], [0, -1]]
    assert overlap_neighbours(overlap, min_overlap=0.29)[0].tolist() == [2, 3, 4]
    assert overlap_neighbours(overlap, max_neighbours=1).tolist() == [[4], [0], [0], [2], [0]]


def test_lonely_views_take_those_before_and_after():
    assert overlap_neighbours(torch.eye(4)).tolist() == [[1, -1], [0, 2], [1, 3], [2, -1]]
    assert overlap_neighbours(torch.eye(1)).tolist() == [[-1]]
    assert overlap_neighbours(torch.eye(2)).dtype == torch.int64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap_neighbours(torch.zeros(2, 3)), "overlap must have shape [V, V]; got [2, 3]"),
        (lambda: overlap_neighbours(torch.eye(2), max_neighbours=0), "max_neighbours must be at least 1, or None"),
        (
            lambda: overlap_matrix(K90[None], EYE[None], ORIGIN[None] / 0, torch.ones(1, 4, 5)),
            "t must be finite; got NaN or inf at index [0, 0]. Leave such frames out.",
        ),
        (
            lambda: overlap_matrix(K90[None], EYE[None], ORIGIN[None], torch.ones(1, 4, 5), stride=5),
            "stride must be between 1 and the image's smaller side, 4 pixels; got 5",
        ),
        (
            lambda: depth_correspondence(torch.ones(4, 5), K90, EYE, ORIGIN, torch.ones(4, 5), K90, EYE / 0, ORIGIN),
            "R must be finite; got NaN or inf at index [0, 0]",
        ),
        (
            lambda: depth_correspondence(torch.ones(4), K90, EYE, ORIGIN, torch.ones(4, 5), K90, EYE, ORIGIN),
            "depths_source must have shape [..., H, W]; got [4]",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)
