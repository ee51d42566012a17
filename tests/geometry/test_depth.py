import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import (
    DepthTolerance,
    depth_correspondence,
    project_points,
    rotation_from_yaw_pitch,
    unproject,
)
from tests.geometry.depth_views import EYE, HEIGHT, K90, ORIGIN, WIDTH, uneven_views


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
    views = list(zip(*uneven_views(), strict=True))
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
    lenient = DepthTolerance(10.0, 0.0)  # whatever is allowed, no depth agrees with none
    _, visible = depth_correspondence(depths, K90, EYE, ORIGIN, holes, K90, EYE, ORIGIN, lenient)
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
    K, R, t, depths = uneven_views()
    small = depths[:, : HEIGHT // 2]
    xy, visible = depth_correspondence(depths[:2], K[:2], R[:2], t[:2], small[2:], K[2:], R[2:], t[2:])
    assert (xy.shape, visible.shape, xy.dtype) == ((2, HEIGHT, WIDTH, 2), (2, HEIGHT, WIDTH), torch.float64)
    for b in range(2):
        one = depth_correspondence(depths[b], K[b], R[b], t[b], small[2 + b], K[2 + b], R[2 + b], t[2 + b])
        torch.testing.assert_close(xy[b], one[0], rtol=1e-12, atol=1e-9)  # batched products may sum in another order
        assert torch.equal(visible[b], one[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
