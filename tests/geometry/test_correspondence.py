import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import (
    Rig,
    RingAndPolesRig,
    RingRig,
    apply_homography,
    cell_centres,
    homography,
    neighbour_table,
    overlapping_neighbours,
    rotation_from_yaw_pitch,
    sample_bilinear,
    tap_geometry,
)

UNEVEN = Rig([(0, 5, 90), (40, -10, 70), (75, 0, 100), (190, 30, 80)], height=12, width=20)


def world_function(directions):
    """Return a smooth, asymmetric function of direction [..., 3] -> [...]."""
    x, y, z = directions.unbind(dim=-1)
    return torch.sin(2 * x + y) + 0.5 * z * y - 0.3 * z


def naive_taps(K, R, height, width, stride, neighbours, kernel_size):
    """Follow paper section 4 token by token and tap by tap, in numpy."""
    K, R = K.double().numpy(), R.double().numpy()
    h, w = math.ceil(height / stride), math.ceil(width / stride)
    V, N = neighbours.shape
    P, reach = kernel_size**2, kernel_size // 2
    taps, visible = np.zeros((V, N, h * w, P, 2)), np.zeros((V, N, h * w, P), dtype=bool)
    displacement = np.zeros_like(taps)
    for v, n, row, column in itertools.product(range(V), range(N), range(h), range(w)):
        u = int(neighbours[v, n])
        if u < 0:
            continue
        s = np.array([column * stride + (stride - 1) / 2, row * stride + (stride - 1) / 2])
        ray = R[u].T @ R[v] @ np.linalg.inv(K[v]) @ np.array([*s, 1])
        if ray[2] <= 0:
            continue
        t = (K[u] @ (ray / ray[2]))[:2]
        for p, (dx, dy) in enumerate(itertools.product(range(-reach, reach + 1), repeat=2)):
            tap_pixel = t + stride * np.array([dx, dy])
            inside = -0.5 <= tap_pixel[0] <= width - 0.5 and -0.5 <= tap_pixel[1] <= height - 0.5
            back = R[v].T @ R[u] @ np.linalg.inv(K[u]) @ np.array([*tap_pixel, 1])
            if not inside or back[2] <= 0:
                continue
            token = row * w + column
            visible[v, n, token, p] = True
            taps[v, n, token, p] = (tap_pixel - (stride - 1) / 2) / stride
            displacement[v, n, token, p] = ((K[v] @ (back / back[2]))[:2] - s) / stride
    return taps, visible, displacement


@pytest.mark.parametrize(("stride", "kernel_size"), [(1, 1), (4, 3), (3, 5)])
def test_tap_geometry_matches_a_naive_loop(stride, kernel_size):
    K, R = UNEVEN.cameras()
    neighbours = torch.tensor([[1, 2], [2, 0], [0, 3], [2, -1]])
    geometry = tap_geometry(K, R, 12, 20, stride, neighbours, kernel_size)
    taps, visible, displacement = naive_taps(K, R, 12, 20, stride, neighbours, kernel_size)
    assert visible.any()
    assert not visible.all()
    assert torch.equal(geometry.visible, torch.from_numpy(visible))
    torch.testing.assert_close(geometry.taps_xy, torch.from_numpy(taps).float(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(geometry.displacement, torch.from_numpy(displacement).float(), atol=1e-4, rtol=1e-5)
    assert (geometry.height, geometry.width) == (math.ceil(12 / stride), math.ceil(20 / stride))


def test_golden_homography_of_a_view_turned_right():
    # f = 4, cx = 3.5, cy = 1.5. A ray at yaw 45 leaves view 0 at x = 7.5 and is the middle, 3.5, of view 1 (yaw 45).
    # A ray through pixel (5.5, 0.5) of view 0 is (0.5, -0.25, 1): turned left by 45 degrees it is
    # ((0.5 - 1) c, -0.25, (0.5 + 1) c), c = sqrt(1/2), so u = 4 (-1/3) + 3.5, v = 4 (-0.25 / (1.5 c)) + 1.5.
    K, R = RingRig(num_views=8, height=4, width=8).cameras()
    H = homography(K[0], R[0], K[1], R[1])
    xy, visible = apply_homography(H, torch.tensor([[7.5, 1.5], [5.5, 0.5], [-0.4, 1.5]]), 4, 8)
    expected = torch.tensor([[3.5, 1.5], [3.5 - 4 / 3, 1.5 - 1 / (1.5 * math.sqrt(0.5))]])
    torch.testing.assert_close(xy[:2], expected, atol=1e-5, rtol=0)
    assert visible.tolist() == [True, True, False]


def test_visible_ends_with_the_outer_half_pixels():
    xy = torch.tensor([[-0.5, -0.5], [7.5, 3.5], [-0.51, 0.0], [7.51, 0.0], [0.0, -0.51], [0.0, 3.51]])
    _, visible = apply_homography(torch.eye(3), xy, height=4, width=8)
    assert visible.tolist() == [True, True, False, False, False, False]


def test_points_behind_are_finite_and_not_visible():
    K, R = RingRig(num_views=2, height=6, width=8).cameras()  # back to back
    xy, visible = apply_homography(homography(K[0], R[0], K[1], R[1]), cell_centres(6, 8, 1).float(), 6, 8)
    assert not visible.any()
    assert torch.equal(xy, torch.zeros_like(xy))
    K, R = RingRig(num_views=4, height=6, width=9).cameras()  # the middle column lies exactly in the other's plane
    xy, visible = apply_homography(homography(K[0], R[0], K[1], R[1]), cell_centres(6, 9, 1).float(), 6, 9)
    assert torch.isfinite(xy).all()
    assert not visible.any()


@given(st.floats(-60, 60), st.floats(-40, 40), st.floats(50, 110), st.floats(0, 19), st.floats(0, 11))
def test_there_and_back_returns_the_pixel(yaw, pitch, fov, x, y):
    K, R = Rig([(10, -5, 90), (10 + yaw, pitch, fov)], height=12, width=20).cameras()
    K, R = K.double(), R.double()
    there, back = homography(K[0], R[0], K[1], R[1]), homography(K[1], R[1], K[0], R[0])
    xy = torch.tensor([x, y], dtype=torch.float64)
    xy_target, visible = apply_homography(there, xy, 12, 20)
    if visible:
        xy_back, visible_back = apply_homography(back, xy_target, 12, 20)
        torch.testing.assert_close(xy_back, xy, atol=1e-5, rtol=0)
        assert visible_back


@given(st.floats(0, 360), st.floats(-90, 90))
def test_turning_all_cameras_changes_nothing(yaw, pitch):
    K, R = UNEVEN.cameras()
    turn = rotation_from_yaw_pitch(yaw, pitch)
    neighbours = torch.tensor([[1, 2], [2, 0], [0, 3], [2, -1]])
    a, b = tap_geometry(K, R, 12, 20, 4, neighbours), tap_geometry(K, turn @ R, 12, 20, 4, neighbours)
    both = a.visible & b.visible
    assert (a.visible ^ b.visible).float().mean() < 0.005  # taps on the very edge may fall to either side
    torch.testing.assert_close(a.taps_xy[both], b.taps_xy[both], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(a.displacement[both], b.displacement[both], atol=1e-3, rtol=1e-4)


def test_taps_see_the_same_world_as_their_token():
    K, R = UNEVEN.resized(96, 160).cameras()
    stride, (h, w) = 4, (24, 40)
    geometry = tap_geometry(K, R, 96, 160, stride)
    cells = cell_centres(96, 160, stride).float()
    rays = torch.cat([cells, torch.ones(h, w, 1)], dim=-1)
    directions = torch.einsum("vij,vjk,hwk->vhwi", R, torch.linalg.inv(K), rays)
    maps = world_function(torch.nn.functional.normalize(directions, dim=-1))  # [V, h, w]
    for v, row in enumerate(geometry.neighbours.tolist()):
        for n, u in enumerate(row):
            middle = geometry.taps_xy[v, n, :, 4]
            between_centres = ((middle >= 0) & (middle <= middle.new_tensor([w - 1, h - 1]))).all(dim=-1)
            inside = geometry.visible[v, n, :, 4] & between_centres
            if u >= 0:
                assert inside.any()
                seen = sample_bilinear(maps[u, None, None], middle[None])[0, 0]
                assert (seen - maps[v].flatten())[inside].abs().max() < 4e-3


def test_golden_displacements_of_a_ring():
    K, R = RingRig(num_views=8, height=64, width=64).cameras()
    geometry = tap_geometry(K, R, 64, 64, stride=8)
    middle = geometry.visible[..., 4]
    assert geometry.displacement[..., 4, :][middle].abs().max() < 1e-5  # the middle tap is t itself, so s* = s
    # Tap order: outer x, inner y. In view 1 (to the right) of view 0, tap 1 is one cell left of t, tap 7 one right;
    # seen from view 0 that is left (dx < 0) and right as well; tap 3 is one cell up (dy < 0), tap 5 one down.
    assert geometry.neighbours[0].tolist() == [7, 1]
    token = 3 * 8 + 6
    d = geometry.displacement[0, 1, token]
    assert geometry.visible[0, 1, token].all()
    assert d[1, 0] < -0.5 < 0.5 < d[7, 0]
    assert d[3, 1] < -0.5 < 0.5 < d[5, 1]
    t = geometry.taps_xy[0, 1, token]
    torch.testing.assert_close(t - t[4], torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 2), atol=1e-5, rtol=0)


def test_nothing_is_seen_through_padding_or_outside():
    K, R = UNEVEN.cameras()
    geometry = tap_geometry(K, R, 12, 20, 4, torch.tensor([[-1, 1], [-1, -1], [3, -1], [-1, 2]]))
    assert not geometry.visible[geometry.neighbours < 0].any()
    for values in (geometry.taps_xy, geometry.displacement):
        assert torch.isfinite(values).all()
        assert (values[~geometry.visible] == 0).all()


def test_the_ring_has_two_neighbours_each():
    for size in (8, 64, 512):
        K, R = RingRig(num_views=8, fov_deg=90, height=size, width=size).cameras(yaw_offset_deg=23)
        expected = [[(view - 1) % 8, (view + 1) % 8] for view in range(8)]
        assert overlapping_neighbours(K, R, size, size).tolist() == expected


def test_neighbour_table_pads_and_tap_geometry_takes_it():
    table = neighbour_table([[2], [], [0, 1]], num_views=3)
    assert table.tolist() == [[2, -1], [-1, -1], [0, 1]]
    assert table.dtype == torch.int64
    assert neighbour_table([[]], num_views=1).tolist() == [[-1]]
    K, R = RingRig(num_views=3, fov_deg=150.0, height=16, width=16).cameras()
    taps = tap_geometry(K, R, 16, 16, 4, table)
    assert taps.visible.any(dim=(2, 3)).tolist() == [[True, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("lists", "text"),
    [
        ([[1], [0]], r"neighbours must have one list per view \(3\); got 2 lists"),
        ([[1], [3], [0]], r"neighbours of view 1 .*got \[3\]"),
        ([[1], [-1], [0]], r"neighbours of view 1 .*got \[-1\]"),
        ([[1], [2], [2]], r"neighbours of view 2 .*got \[2\]"),
        ([[1, 1], [2], [0]], r"neighbours of view 0 .*got \[1, 1\]"),
    ],
)
def test_wrong_neighbour_lists_are_named(lists, text):
    with pytest.raises(ValueError, match=text):
        neighbour_table(lists, num_views=3)


def test_wider_views_have_more_neighbours():
    K, R = RingRig(num_views=8, fov_deg=120, height=64, width=64).cameras()
    assert overlapping_neighbours(K, R, 64, 64)[1].tolist() == [7, 0, 2, 3]
    assert overlapping_neighbours(K, R, 64, 64, min_overlap=0.4)[1].tolist() == [0, 2]


def test_poles_overlap_the_views_towards_their_corners():
    # Up and down views of FoV 90 at yaw 0 reach down to 45 degrees at yaw 0, 90, ... (just touching those views) but to
    # 35 degrees at yaw 45, 135, ...: they overlap the views 1, 3, 5, 7 only.
    K, R = RingAndPolesRig(height=64, width=64).cameras()
    neighbours = overlapping_neighbours(K, R, 64, 64)
    sets = [set(row) - {-1} for row in neighbours.tolist()]
    assert (
        sets
        == [{7, 1}, {0, 2, 8, 9}, {1, 3}, {2, 4, 8, 9}, {3, 5}, {4, 6, 8, 9}, {5, 7}, {6, 0, 8, 9}] + [{1, 3, 5, 7}] * 2
    )
    assert neighbours[0].tolist() == [7, 1, -1, -1]  # padding stands at the end


def test_a_narrow_view_inside_a_wide_one_is_a_neighbour_of_it():
    K, R = Rig([(0, 0, 120), (10, 5, 5)], height=64, width=64).cameras()
    assert overlapping_neighbours(K, R, 64, 64).tolist() == [[1], [0]]


def test_one_view_has_only_padding():
    K, R = RingRig(num_views=1, height=8, width=8).cameras()
    geometry = tap_geometry(K, R, 8, 8, stride=4)
    assert geometry.neighbours.tolist() == [[-1]]
    assert not geometry.visible.any()


def test_autocast_changes_nothing():
    K, R = RingRig(num_views=8, height=64, width=64).cameras()
    plain = tap_geometry(K, R, 64, 64, stride=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tap_geometry(K, R, 64, 64, stride=8)
        H = homography(K[0], R[0], K[1], R[1])
    assert torch.equal(plain.taps_xy, cast.taps_xy)
    assert torch.equal(plain.displacement, cast.displacement)
    assert torch.equal(H, homography(K[0], R[0], K[1], R[1]))
    assert (plain.taps_xy.dtype, plain.neighbours.dtype, H.dtype) == (torch.float32, torch.int64, torch.float32)


def test_to_moves_every_tensor():
    K, R = RingRig(num_views=4, fov_deg=100, height=8, width=8).cameras()
    moved = tap_geometry(K, R, 8, 8, stride=4).to("meta")
    assert {t.device.type for t in (moved.neighbours, moved.taps_xy, moved.visible, moved.displacement)} == {"meta"}
    assert (moved.height, moved.width) == (2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd and positive; got 2"),
        ({"stride": 0}, "stride must be at least 1 pixel per cell; got 0"),
        ({"neighbours": torch.tensor([[4], [0], [1], [2]])}, "neighbours must be view indices from 0 to 3"),
        (
            {"neighbours": torch.tensor([[1, 2]])},
            "neighbours must have shape [V, N]; got [1, 2]",
        ),
    ],
)
def test_errors(settings, message):
    K, R = UNEVEN.cameras()
    with pytest.raises(ValueError, match="must") as error:
        tap_geometry(K, R, 12, 20, **{"stride": 4, **settings})
    assert message in str(error.value)
