import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import (
    DepthTolerance,
    Rig,
    cell_centres,
    depth_tap_geometry,
    inside_image,
    intrinsics_from_fov,
    pixel_directions,
    rotation_from_yaw_pitch,
    tap_geometry,
)
from tests.geometry.depth_views import EYE, HEIGHT, K90, ORIGIN, WIDTH, uneven_views

NEIGHBOURS = torch.tensor([[1, 2], [2, 0], [0, 3], [2, -1]])
LOOSE = DepthTolerance(0.2, 0.1)


def naive_taps(K, R, t, depths, stride, neighbours, kernel_size, tolerance, max_displacement):
    """Follow every token and tap by 4x4 poses, one at a time, in numpy."""
    K, R, t, depths = (values.double().numpy() for values in (K, R, t, depths))
    V, height, width = depths.shape
    h, w = math.ceil(height / stride), math.ceil(width / stride)
    N, P, reach = neighbours.shape[1], kernel_size**2, kernel_size // 2
    poses = np.tile(np.eye(4), (V, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = R, t
    taps, visible = np.zeros((V, N, h * w, P, 2)), np.zeros((V, N, h * w, P), dtype=bool)
    displacement = np.zeros_like(taps)

    def nearest(view, xy):
        row, column = (math.floor(xy[1] + 0.5 + 1e-6), math.floor(xy[0] + 0.5 + 1e-6))
        return depths[view, min(row, height - 1), min(column, width - 1)]

    def moved(view, other, xy, depth):
        point = np.linalg.inv(poses[other]) @ poses[view] @ [*(np.linalg.inv(K[view]) @ [*xy, 1] * depth), 1]
        return (K[other] @ point[:3])[:2] / point[2], point[2]

    def inside(xy):
        return -0.5 <= xy[0] <= width - 0.5 and -0.5 <= xy[1] <= height - 0.5

    for v, n, row, column in itertools.product(range(V), range(N), range(h), range(w)):
        u, token = int(neighbours[v, n]), row * w + column
        s = np.array([column * stride + (stride - 1) / 2, row * stride + (stride - 1) / 2])
        if u < 0 or nearest(v, s) == 0:
            continue
        xy, z = moved(v, u, s, nearest(v, s))
        if z <= 0 or not inside(xy) or nearest(u, xy) == 0:
            continue
        if abs(z - nearest(u, xy)) > tolerance.absolute + tolerance.relative * nearest(u, xy):
            continue
        for p, (dx, dy) in enumerate(itertools.product(range(-reach, reach + 1), repeat=2)):
            tap = xy + stride * np.array([dx, dy])
            if not inside(tap) or nearest(u, tap) == 0:
                continue
            back, z = moved(u, v, tap, nearest(u, tap))
            if z <= 0 or np.linalg.norm(back - s) / stride > max_displacement:
                continue
            visible[v, n, token, p] = True
            taps[v, n, token, p] = (tap - (stride - 1) / 2) / stride
            displacement[v, n, token, p] = (back - s) / stride
    return taps, visible, displacement


@pytest.mark.parametrize(("stride", "kernel_size", "farthest"), [(1, 1, 4.0), (4, 3, 1.5), (3, 5, 4.0)])
def test_matches_a_naive_loop(stride, kernel_size, farthest):
    views = uneven_views()
    geometry = depth_tap_geometry(*views, stride, NEIGHBOURS, kernel_size, LOOSE, farthest)
    taps, visible, displacement = naive_taps(*views, stride, NEIGHBOURS, kernel_size, LOOSE, farthest)
    assert 0.02 < visible.mean() < 0.9
    assert torch.equal(geometry.visible, torch.from_numpy(visible))
    torch.testing.assert_close(geometry.taps_xy, torch.from_numpy(taps).float(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(geometry.displacement, torch.from_numpy(displacement).float(), atol=1e-5, rtol=1e-6)
    assert (geometry.height, geometry.width) == (math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride))


def test_golden_a_camera_that_moves_right_has_its_taps_to_the_left():
    # f = 10, depth 2: 0.8 m to the right moves all by f * 0.8 / 2 = 4 pixels, one cell. On a plane that faces both, s*
    # lies from s as the tap from t.
    K, R, t = K90.expand(2, 3, 3), EYE.expand(2, 3, 3), torch.tensor([[0.0, 0.0, 0.0], [0.8, 0.0, 0.0]])
    geometry = depth_tap_geometry(K, R, t, torch.full((2, HEIGHT, WIDTH), 2.0), 4, torch.tensor([[1], [0]]))
    token = 1 * 5 + 2  # cell (2, 1) of 5 x 3
    steps = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 2)  # outer x, inner y
    assert geometry.visible[:, 0, token].all()
    torch.testing.assert_close(geometry.taps_xy[0, 0, token], torch.tensor([1.0, 1.0]) + steps)
    torch.testing.assert_close(geometry.taps_xy[1, 0, token], torch.tensor([3.0, 1.0]) + steps)
    torch.testing.assert_close(geometry.displacement[:, 0, token], steps.expand(2, 9, 2), atol=1e-6, rtol=0)
    seen_at_the_left_border = geometry.visible[0, 0, 0 * 5]  # t is one cell beyond the border
    assert not seen_at_the_left_border.any()


def test_golden_a_tap_on_another_surface_goes_back_with_its_own_depth():
    # View 1 stands 0.8 m to the right of view 0 and sees a wall at 4 m, before its right half a board at 2 m. For the
    # wall the shift is f * 0.8 / 4 = 2 px, half a cell, for the board 4 px, one cell: seen from view 0, a tap on the
    # board lies half a cell farther to the right than one on the wall.
    K, R, t = K90.expand(2, 3, 3), EYE.expand(2, 3, 3), torch.tensor([[0.0, 0.0, 0.0], [0.8, 0.0, 0.0]])
    depths = torch.full((2, HEIGHT, WIDTH), 4.0)
    depths[1, :, 10:] = 2.0
    geometry = depth_tap_geometry(K, R, t, depths, 4, torch.tensor([[1], [0]]))
    token = 1 * 5 + 2  # pixel 9.5, seen at 7.5, on the wall; its taps to the right at 11.5, on the board
    d, visible = geometry.displacement[0, 0, token], geometry.visible[0, 0, token]
    assert visible.all()
    expected_x = torch.tensor([-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.5, 1.5, 1.5])
    torch.testing.assert_close(d[:, 0], expected_x, atol=1e-6, rtol=0)
    assert not geometry.visible[0, 0, 1 * 5 + 3].any()  # pixel 13.5, seen at 11.5: the board hides the wall there
    near = depth_tap_geometry(K, R, t, depths, 4, torch.tensor([[1], [0]]), max_displacement=1.45)
    assert near.visible[0, 0, token].tolist() == [True] * 6 + [False] * 3
    # corners are at sqrt(2) = 1.414 from s: the length counts, not the larger of |x| and |y|
    near = depth_tap_geometry(K, R, t, depths, 4, torch.tensor([[1], [0]]), max_displacement=1.2)
    assert near.visible[0, 0, token].tolist() == [False, True, False, True, True, True, False, False, False]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_one_tap_at_the_same_pose_is_the_token_itself(stride):
    K, R, t, depths = (values[:1].expand(2, *values.shape[1:]) for values in uneven_views())
    for dtype in (torch.float64, torch.float32):  # float32 poses: the nearest pixel must not flip by rounding errors
        cameras = (values.to(dtype) for values in (K, R, t))
        geometry = depth_tap_geometry(*cameras, depths, stride, torch.tensor([[1], [0]]), kernel_size=1)
        centre = cell_centres(HEIGHT, WIDTH, stride)
        row, column = (centre[..., axis].add(0.5).floor().long() for axis in (1, 0))
        has_depth = (depths[0, row.clamp(max=HEIGHT - 1), column.clamp(max=WIDTH - 1)] > 0) & inside_image(
            centre, HEIGHT, WIDTH
        )
        visible = geometry.visible[0, 0, :, 0]
        assert torch.equal(visible, has_depth.flatten())
        own = torch.cartesian_prod(torch.arange(geometry.height), torch.arange(geometry.width)).flip(-1).float()
        torch.testing.assert_close(geometry.taps_xy[0, 0, visible, 0], own[visible], atol=1e-4, rtol=0)
        assert geometry.displacement.abs().max() < 1e-4


def test_pure_rotation_gives_the_taps_of_the_homography():
    # Views that share a centre, in a sphere of 50 m: the depth says nothing about where a point is seen.
    rig = Rig([(0, 5, 90), (40, -10, 70), (75, 0, 100), (190, 30, 80)], height=24, width=40)
    K, R = rig.cameras()
    directions = pixel_directions(K, R, 24, 40)
    ahead = torch.einsum(
        "vhwi,vi->vhw", torch.nn.functional.normalize(directions.double(), dim=-1), R[:, :, 2].double()
    )
    t = torch.tensor([3.0, -1.0, 2.0]).expand(4, 3)
    by_depth = depth_tap_geometry(
        K, R, t, 50 * ahead, 4, NEIGHBOURS, tolerance=DepthTolerance(0, 0.2), max_displacement=1e9
    )
    by_homography = tap_geometry(K, R, 24, 40, 4, NEIGHBOURS)
    # The homography also has taps inside the image around a t^l that is outside; there no depth can tell occlusion.
    middle = by_homography.visible[..., 4:5]
    assert middle.double().mean() > 0.1
    assert torch.equal(by_depth.visible, by_homography.visible & middle)
    seen = by_depth.visible
    torch.testing.assert_close(by_depth.taps_xy[seen], by_homography.taps_xy[seen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_depth.displacement[seen], by_homography.displacement[seen], atol=1e-4, rtol=1e-5)


@given(
    st.floats(-180, 180), st.floats(-90, 90), st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10),
    st.integers(0, 5),
)  # fmt: skip
def test_moving_all_cameras_changes_nothing(yaw, pitch, x, y, z, seed):
    K, R, t, depths = uneven_views(seed=seed)
    turn = rotation_from_yaw_pitch(torch.tensor(yaw).double(), torch.tensor(pitch).double())
    moved = t @ turn.mT + torch.tensor([x, y, z], dtype=torch.float64)
    a = depth_tap_geometry(K, R, t, depths, 4, NEIGHBOURS, tolerance=LOOSE)
    b = depth_tap_geometry(K, turn @ R, moved, depths, 4, NEIGHBOURS, tolerance=LOOSE)
    assert torch.equal(a.visible, b.visible)
    torch.testing.assert_close(a.taps_xy, b.taps_xy, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(a.displacement, b.displacement, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("none", [0.0, -2.0, math.nan, math.inf])
def test_nothing_is_seen_without_depth_and_all_is_finite(none):
    K, R, t, depths = uneven_views()
    depths[1] = none
    geometry = depth_tap_geometry(K, R, t, depths, 4, NEIGHBOURS, tolerance=LOOSE)
    assert not geometry.visible[1].any()  # as source
    assert not geometry.visible[0, 0].any()  # as neighbour
    assert geometry.visible[0, 1].any()
    for values in (geometry.taps_xy, geometry.displacement):
        assert torch.isfinite(values).all()
        assert (values[~geometry.visible] == 0).all()


def test_nothing_is_seen_behind_or_through_padding():
    K, depths = K90.expand(2, 3, 3), torch.full((2, HEIGHT, WIDTH), 2.0)
    back_to_back = torch.stack([EYE, rotation_from_yaw_pitch(180.0, 0.0)])
    geometry = depth_tap_geometry(K, back_to_back, ORIGIN.expand(2, 3), depths, 4, torch.tensor([[1], [0]]))
    assert not geometry.visible.any()
    assert torch.isfinite(geometry.displacement).all()
    geometry = depth_tap_geometry(K, EYE.expand(2, 3, 3), ORIGIN.expand(2, 3), depths, 4, torch.tensor([[1], [-1]]))
    assert geometry.visible[0].any()
    assert not geometry.visible[1].any()


def test_a_tap_whose_point_lies_behind_the_source_is_not_visible():
    # View 1 looks back at view 0 from 2 m ahead. Both see something between them, but in its left half view 1 sees past
    # it, 4 m far: 2 m behind view 0.
    K, R = K90.expand(2, 3, 3), torch.stack([EYE, rotation_from_yaw_pitch(180.0, 0.0)])
    depths, t = torch.ones(2, HEIGHT, WIDTH), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    depths[1, :, :10] = 4.0
    geometry = depth_tap_geometry(K, R, t, depths, 4, torch.tensor([[1], [0]]))
    token = 1 * 5 + 2  # the middle of both images; taps 0 to 2 lie to the left of it
    assert geometry.visible[0, 0, token].tolist() == [False] * 3 + [True] * 6
    torch.testing.assert_close(geometry.displacement[0, 0, token, 7], torch.tensor([-1.0, 0.0]))  # left is right there


def test_autocast_changes_nothing_and_kinds_are_those_of_the_homography():
    views = uneven_views()
    plain = depth_tap_geometry(*views, 4, NEIGHBOURS, tolerance=LOOSE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = depth_tap_geometry(*views, 4, NEIGHBOURS, tolerance=LOOSE)
    assert torch.equal(plain.taps_xy, cast.taps_xy)
    assert torch.equal(plain.displacement, cast.displacement)
    assert (plain.taps_xy.dtype, plain.displacement.dtype, plain.visible.dtype, plain.neighbours.dtype) == (
        torch.float32, torch.float32, torch.bool, torch.int64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd and positive; got 2"),
        ({"stride": 0}, "stride must be at least 1 pixel per cell; got 0"),
        ({"max_displacement": 0.0}, "max_displacement must be positive, in cells; got 0.0"),
        ({"neighbours": torch.tensor([[4], [0], [1], [2]])}, "neighbours must be view indices from 0 to 3"),
        ({"neighbours": torch.tensor([[1, 2]])}, "neighbours must have shape [V, N]; got [1, 2]"),
        ({"t": torch.full((4, 3), math.nan)}, "t must be finite; got NaN or inf at index [0, 0]"),
        ({"depths": torch.ones(3, HEIGHT, WIDTH)}, "depths must have shape [V, H, W]; got [3, 12, 20]"),
    ],
)
def test_errors(settings, message):
    views = dict(zip(("K", "R", "t", "depths"), uneven_views(), strict=True))
    with pytest.raises(ValueError, match="must") as error:
        depth_tap_geometry(**{**views, "stride": 4, "neighbours": NEIGHBOURS, **settings})
    assert message in str(error.value)


def test_another_field_of_view_scales_displacements():
    # The neighbour sees the same with twice the focal length: one of its cells is half a cell of the source.
    K = torch.stack([K90, K90])
    K[1, 0, 0] = K[1, 1, 1] = 20.0
    geometry = depth_tap_geometry(
        K, EYE.expand(2, 3, 3), ORIGIN.expand(2, 3), torch.full((2, HEIGHT, WIDTH), 3.0), 4, torch.tensor([[1], [0]])
    )
    token = 1 * 5 + 2
    steps = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 2)
    torch.testing.assert_close(geometry.displacement[0, 0, token], steps / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(geometry.displacement[1, 0, token], steps * 2, atol=1e-6, rtol=0)
    assert intrinsics_from_fov(90.0, HEIGHT, WIDTH)[0, 0] == 10
