"""Upstream's geometry (docs/checkpoints.md): numbers worked out from its description."""

import math

import pytest
import torch
from torch.testing import assert_close

from mvdiff.geometry.cameras import Rig, RingRig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.correspondence import tap_geometry
from mvdiff.interop.geometry import (
    _inverse_rotations,
    ring_tap_geometry,
    rounded_rotations,
    upstream_depth_tap_geometry,
)

RING = RingRig(num_views=8, height=512, width=512)


def same_place(shift_x=0.0, size=64):
    """Two views of one camera, the second with its principal point moved: a pixel x is seen at x + shift."""
    K, R = Rig([(0, 0, 90), (0, 0, 90)], size, size).cameras()
    K[1, 0, 2] += shift_x
    return K, R


def test_neighbours_are_the_view_before_and_the_view_after():
    [taps] = ring_tap_geometry(*RingRig(num_views=8, height=16, width=16).cameras(), 16, 16, [8])
    assert taps.neighbours.tolist() == [[7, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7], [6, 0]]
    assert taps.taps_xy.shape[1] * taps.taps_xy.shape[3] == 18


def test_taps_run_over_x_outside_and_y_inside():
    [taps] = ring_tap_geometry(*same_place(), 64, 64, [8])
    inner = taps.taps_xy[0, 0, 8 * 3 + 4]  # row 3, column 4; the same camera sees it at the same cell
    expected = [[4 + dx, 3 + dy] for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    assert_close(inner, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


def test_cameras_have_the_centre_and_focal_length_of_upstream():
    # f = 0.5 * 512 / tan(45) = 256, centre (512 - 1) / 2 = 255.5; yaw 45 to the right: the view axis is (s, 0, s).
    K, R = RING.cameras()
    assert K[0].tolist() == [[256, 0, 255.5], [0, 256, 255.5], [0, 0, 1]]
    assert_close(R[1][:, 2], torch.tensor([math.sqrt(0.5), 0, math.sqrt(0.5)]))


def test_where_a_token_is_seen_and_how_far_a_tap_is_displaced():
    # Column 63, row 31 of view 0 in cells of 8: pixel (8 * 63 + 4, 8 * 31 + 4) = (508, 252), ray ((508 - 255.5) / 256,
    # (252 - 255.5) / 256, 1) = (0.986328, -0.013672, 1). View 1 looks 45 degrees to the right: x' = (0.986328 - 1) s,
    # z' = (0.986328 + 1) s with s = sqrt(1/2): x = 255.5 + 256 * -0.0068830 = 253.73794 and
    # y = 255.5 + 256 * -0.013672 / (1.986328 s) = 253.00811. In cells: x / 8 - 0.5 = 31.21724, y / 8 - 0.5 = 31.12601.
    [taps] = ring_tap_geometry(*RING.cameras(), 512, 512, [8])
    token, middle = 31 * 64 + 63, 4
    assert_close(taps.taps_xy[0, 1, token, middle], torch.tensor([31.21724, 31.12601]), atol=2e-5, rtol=0)
    assert_close(taps.encoded[0, 1, token, middle], torch.zeros(2), atol=2e-4, rtol=0)
    # The tap one cell to the right, x = 261.73794: x' = 6.23794 / 256 = 0.0243670, back in view 0
    # (1 + x') / (1 - x') = 1.0499512, x = 255.5 + 268.78750 = 524.28750; displacement (524.28750 - 508) / 8 = 2.03594.
    # y' = -2.49189 / 256 = -0.0097340; y = 255.5 + 256 * y' / (s (1 - x')) = 251.88797; (251.88797 - 252) / 8 = -0.014.
    right = 2 * 3 + 1
    assert taps.valid[0, 1, token, right]
    assert_close(taps.encoded[0, 1, token, right], torch.tensor([2.03594, -0.01400]), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("shift", "valid", "cell"),
    [(-3.9, True, -0.4875), (-4.0, False, 0.0), (-4.1, False, 0.0), (59.9, True, 7.4875), (60.0, False, 0.0)],
)
def test_a_tap_is_valid_strictly_inside_the_image(shift, valid, cell):
    # The first token stands at pixel 4, seen at 4 + shift. At -3.9: 0.1, inside (0, 64), cell 0.1 / 8 - 0.5 = -0.4875;
    # at -4 exactly 0: not strictly inside. At 59.9: 63.9, cell 7.4875; at 60 exactly 64, the size.
    [taps] = ring_tap_geometry(*same_place(shift), 64, 64, [8])
    # The y coordinate is that of row 0, 4, inside.
    assert bool(taps.valid[0, 0, 0, 4]) == valid
    assert taps.taps_xy[0, 0, 0, 4, 0].item() == pytest.approx(cell, abs=1e-5)


def test_nothing_is_tested_for_being_behind_the_camera():
    # Views back to back: (d, e, 1) is (-d, e, -1) in the other, which divided is (d, -e): the column stays, the row is
    # mirrored. Row 1, column 2 of 8 in cells of 8: pixel (20, 12) is seen at (20, 63 - 12 = 51): cells 2 and 5.875.
    K, R = Rig([(0, 0, 90), (180, 0, 90)], 64, 64).cameras()
    [taps] = ring_tap_geometry(K, R, 64, 64, [8])
    assert taps.valid[0, 0, 8 * 1 + 2, 4]
    assert_close(taps.taps_xy[0, 0, 8 * 1 + 2, 4], torch.tensor([2.0, 5.875]), atol=1e-4, rtol=0)
    assert not tap_geometry(K, R, 64, 64, 8, torch.tensor([[1], [0]])).visible.any()  # the house does test


def test_inverses_of_the_ring_are_inverses_and_the_same_on_every_processor():
    R = rounded_rotations(RingRig(num_views=8, height=64, width=64).cameras()[1])
    found = _inverse_rotations(R)
    assert_close(found @ R, torch.eye(3).expand(8, 3, 3), atol=2e-7, rtol=0)
    # 45 degrees: the transpose's first element, and the one below it in the last row, by one unit in the last place
    corners = found[1, [0, 0, 2, 2], [0, 2, 0, 2]].view(torch.int32) - R[1].T[[0, 0, 2, 2], [0, 2, 0, 2]].view(
        torch.int32
    )
    assert corners.tolist() == [1, 0, -1, 0]
    turned = rotation_from_yaw_pitch(torch.tensor([10.0, 55.0]), torch.tensor([0.0, 0.0]))
    assert torch.equal(_inverse_rotations(turned), torch.inverse(turned))


def test_order_of_operations_is_upstreams_to_the_last_bit():
    K, R = Rig([(10 + 45 * view, 0, 90) for view in range(8)], 64, 64).cameras()
    [taps] = ring_tap_geometry(K, R, 64, 64, [8])
    source, target = torch.arange(8).repeat_interleave(2), taps.neighbours.flatten()
    H = torch.bmm(torch.bmm(torch.bmm(K[target], R[target].inverse()), R[source]), K[source].inverse())
    grid = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy")).flatten(1).float()
    seen = torch.bmm(H, torch.cat([grid, torch.ones(1, 4096)]).expand(16, -1, -1))
    seen = (seen[:, :2] / seen[:, 2:]).view(8, 2, 2, 64, 64)[..., 4::8, 4::8].flatten(-2).transpose(-1, -2)
    middle = seen / 8 - 0.5
    valid = taps.valid[..., 4]
    assert torch.equal(taps.taps_xy[..., 4, :][valid], middle[valid])
    other = K[target] @ (R[target].mT @ R[source]) @ K[source].inverse()  # the same in exact arithmetic
    assert not torch.equal(H, other)


def test_neither_autocast_nor_reduced_precision_reaches_it():
    arguments = (*RingRig(num_views=8, height=64, width=64).cameras(), 64, 64, [8])
    [expected] = ring_tap_geometry(*arguments)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            [found] = ring_tap_geometry(*arguments)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.encoded, expected.encoded)


# Depth. Two cameras side by side, 64 m before a wall: moving by b metres shifts by f b / 64 = b / 8 pixels with f = 8,
# and 64 + 1e-6 is 64 in float32, so positions are exact.


def walls(*steps, depth=64.0):
    num_views = len(steps)
    K = intrinsics_from_fov(90.0, 8, 16).expand(num_views, 3, 3)
    K = K.clone()
    K[:, :2, 2] = torch.tensor([8.0, 4.0])  # whole numbers, so that pixels stay exact
    t = torch.zeros(num_views, 3)
    t[:, 0] = torch.tensor(steps)
    return K, torch.eye(3).expand(num_views, 3, 3), t, torch.full((num_views, 8, 16), depth)


@pytest.mark.parametrize(("shift", "rounded"), [(0.5, 6), (1.5, 4), (1.25, 5), (2.75, 3)])
def test_coordinates_are_rounded_half_to_even(shift, rounded):
    # The first token stands at pixel (2, 2) in cells of 4, the second at (6, 2). A camera b metres to the right sees it
    # b / 8 pixels to the left: at 5.5 -> 6 (even), at 4.5 -> 4 (even), at 4.75 -> 5, at 3.25 -> 3.
    K, R, t, depths = walls(0.0, 8 * shift)
    for column in range(16):  # only the column that counts has a depth
        one = depths.clone()
        one[1, :, torch.arange(16) != column] = 0
        [taps] = upstream_depth_tap_geometry(K, R, t, one, [4], min_overlap=0.0)
        assert bool(taps.valid[0, 0, 1, 0]) == (column == rounded)
        if column == rounded:  # features are sampled where the point is, not at the rounded pixel
            assert taps.taps_xy[0, 0, 1, 0].tolist() == [(6 - shift) / 4 - 0.5, 0.0]


@pytest.mark.parametrize(("shift", "valid"), [(2.5, True), (2.75, False), (-13.25, True), (-13.5, False)])
def test_a_tap_with_depth_is_valid_from_0_to_below_the_size(shift, valid):
    # The first token, pixel 2: at -0.5, which rounds to 0; at -0.75, which rounds to -1. At 15.25, which rounds to 15;
    # at 15.5, which rounds to 16, the size.
    K, R, t, depths = walls(0.0, 8 * shift)
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4], min_overlap=0.0)
    assert bool(taps.valid[0, 0, 0, 0]) == valid


def test_a_token_without_depth_has_no_valid_key():
    K, R, t, depths = walls(0.0, 8.0)
    depths[0, 2, 6] = 0
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4])
    assert taps.valid[0, 0, :, 0].tolist() == [True, False] + [True] * 6
    assert taps.taps_xy[0, 0, 1, 0].tolist() == [0.0, 0.0]


def test_the_divisor_is_z_plus_a_millionth():
    # z = 0.01: 8 * 0.001 / (0.01 + 1e-6) = 0.79992 pixels, not 0.8.
    K, R, t, depths = walls(0.0, 0.001, depth=0.01)
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4])
    # x (in front: (6 - 8) / 8 * 0.01 - 0.001 = -0.0035; 8 * -0.0035 + 8 * 0.01 = 0.052, / 0.010001 = 5.19948.
    assert taps.taps_xy[0, 0, 1, 0, 0].item() == pytest.approx(5.19948 / 4 - 0.5, abs=1e-5)


def test_keys_are_encoded_by_differences_of_z_in_pairs():
    # Three views, so two keys a token in the order (token, neighbour): view 0's pairs are a token's two keys. The
    # second view stands 1 m farther back (65 m for 64 m), the third 2 m (66 m): differences 1 and 2.
    K, R, t, depths = walls(0.0, 0.0, 0.0)
    t[:, 2] = torch.tensor([0.0, -1.0, -2.0])
    depths += torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4])
    assert taps.neighbours.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert torch.equal(taps.encoded[0, :, :, 0], torch.tensor([1.0, 2.0]).expand(2, 8, 2))
    assert taps.second[0, :, :, 0].tolist() == [[False] * 8, [True] * 8]
    # Two views: one key a token, so a pair is two tokens. No depth at the second token's point there: the key is
    # invalid and counts as 1,000,000 m: |64 - 1,000,000| = 999,936, also for its valid partner.
    depths[1, 2, 6] = 0
    [taps] = upstream_depth_tap_geometry(K[:2], R[:2], t[:2] * 0, depths[:2], [4])
    assert taps.valid[0, 0, :2, 0].tolist() == [True, False]
    assert taps.encoded[0, 0, :4, 0].tolist() == [[1.0, 999936.0], [1.0, 999936.0], [1.0, 1.0], [1.0, 1.0]]
    assert taps.second[0, 0, :4, 0].tolist() == [False, True, False, True]


def test_neighbours_overlap_by_more_than_three_tenths_both_ways():
    # A shift of n of 16 columns leaves (16 - n) / 16: views at 0, 8 and 11 columns. 0 and 8: 1/2; 8 and 11: 13/16;
    # 0 and 11: 5/16 = 0.3125, above 0.3; at 12 columns it is 1/4, so view 0 has view 1 alone.
    for third, first_row in ((11, [1, 2]), (12, [1, -1])):
        [taps] = upstream_depth_tap_geometry(*walls(0.0, 64.0, 8.0 * third), [4])
        assert taps.neighbours[0].tolist() == first_row
    # Of all pixels, the smaller direction counts: with depth in half of view 0, 1/4 of it is in view 1 (1/2 back).
    K, R, t, depths = walls(0.0, 64.0, 88.0)
    depths[0, 4:] = 0
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4])
    assert taps.neighbours.tolist() == [[1], [2], [1]]  # 1/4 of view 0 is in view 1: not enough, it takes i + 1
    # No test for occlusion: a wall one metre before the second camera hides nothing.
    K, R, t, depths = walls(0.0, 8.0, 16.0)
    depths[1] = 1.0
    [taps] = upstream_depth_tap_geometry(K, R, t, depths, [4])
    assert 2 in taps.neighbours[0].tolist()


def test_without_overlap_neighbours_stand_before_and_after_without_wrapping():
    [taps] = upstream_depth_tap_geometry(*walls(0.0, 1000.0, 2000.0, 3000.0), [4])
    assert taps.neighbours.tolist() == [[1, -1], [0, 2], [1, 3], [2, -1]]
    assert not taps.valid.any()
