import json
import math
import pickle

import jsonargparse
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mvdiff.geometry import (
    Rig,
    RingAndPolesRig,
    RingRig,
    intrinsics_from_fov,
    resize_intrinsics,
    rotation_from_yaw_pitch,
)

angles = st.floats(-400, 400)


def test_golden_yaw_turns_right_and_pitch_looks_up():
    # R @ (0, 0, 1) of yaw 30, pitch 20: x = sin 30 cos 20, y = -sin 20 (y points down), z = cos 30 cos 20.
    forward = rotation_from_yaw_pitch(30.0, 20.0)[:, 2]
    torch.testing.assert_close(forward, torch.tensor([0.469846, -0.342020, 0.813798]), atol=1e-6, rtol=0)


def test_golden_up_view_of_a_skybox():
    # Yawed to 270 (looking along -x, world z at its right), then pitched up: bottom edge towards -x.
    expected = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # columns: right, down, forward
    torch.testing.assert_close(rotation_from_yaw_pitch(270.0, 90.0), expected, atol=1e-6, rtol=0)


@given(angles, angles)
def test_matches_scipy(yaw, pitch):
    expected = torch.from_numpy(Rotation.from_euler("YX", [yaw, pitch], degrees=True).as_matrix())
    R = rotation_from_yaw_pitch(torch.tensor(yaw, dtype=torch.float64), torch.tensor(pitch, dtype=torch.float64))
    torch.testing.assert_close(R, expected)
    assert R[1, 0] == 0  # the horizon is level


def test_rotation_broadcasts_and_keeps_dtype():
    R = rotation_from_yaw_pitch(torch.zeros(4, 1), torch.zeros(3))
    assert R.shape == (4, 3, 3, 3)
    assert R.dtype == torch.float32
    assert rotation_from_yaw_pitch(torch.zeros(2, dtype=torch.float64), 0.0).dtype == torch.float64


@given(st.floats(5, 170), st.integers(1, 9), st.integers(1, 9))
def test_image_edges_lie_at_half_the_field_of_view(fov, height, width):
    K = intrinsics_from_fov(torch.tensor(fov, dtype=torch.float64), height, width)
    left = torch.linalg.inv(K) @ torch.tensor([-0.5, (height - 1) / 2, 1], dtype=torch.float64)
    assert math.degrees(math.atan(left[0])) == pytest.approx(-fov / 2)
    assert left[1] == pytest.approx(0, abs=1e-12)
    assert K[0, 0] == K[1, 1]


@pytest.mark.parametrize("fov", [0.0, 180.0, -20.0, float("nan")])
def test_field_of_view_out_of_range(fov):
    with pytest.raises(ValueError, match="fov_deg must lie between 0 and 180 degrees; got"):
        intrinsics_from_fov(fov, 4, 4)


def test_golden_resizing_moves_the_centre_with_its_half_pixel():
    K = torch.tensor([[10.0, 0.5, 3.0], [0.0, 20.0, 7.0], [0.0, 0.0, 1.0]])
    # cx: 2 (3 + 0.5) - 0.5 = 6.5; cy: 0.25 (7 + 0.5) - 0.5 = 1.375; the skew scales with x.
    expected = torch.tensor([[20.0, 1.0, 6.5], [0.0, 5.0, 1.375], [0.0, 0.0, 1.0]])
    assert torch.equal(resize_intrinsics(K, scale_x=2.0, scale_y=0.25), expected)


@given(st.floats(10, 150), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_resizing_equals_the_intrinsics_of_the_resized_image(fov, height, width, scale):
    small, large = intrinsics_from_fov(fov, height, width), intrinsics_from_fov(fov, height * scale, width * scale)
    torch.testing.assert_close(resize_intrinsics(small, scale, scale), large)


def test_ring_of_eight_is_the_papers():
    rig = RingRig()
    assert rig.yaw_deg == [0, 45, 90, 135, 180, 225, 270, 315]
    assert (rig.pitch_deg, rig.fov_deg, rig.num_views) == ([0.0] * 8, [90.0] * 8, 8)
    K, R = rig.cameras()
    assert (K.shape, R.shape, K.dtype, R.dtype) == ((8, 3, 3), (8, 3, 3), torch.float32, torch.float32)
    torch.testing.assert_close(K[3], torch.tensor([[256.0, 0, 255.5], [0, 256.0, 255.5], [0, 0, 1]]))
    torch.testing.assert_close(R[2][:, 2], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)


def test_ring_and_poles_puts_up_before_down():
    _, R = RingAndPolesRig(num_views=4, height=8, width=16).cameras()
    assert R.shape == (6, 3, 3)
    torch.testing.assert_close(R[4:, :, 2], torch.tensor([[0.0, -1, 0], [0.0, 1, 0]]), atol=1e-6, rtol=0)


@given(angles)
def test_yaw_offset_turns_the_whole_rig(offset):
    rig = RingAndPolesRig(num_views=3, height=4, width=6)
    turned = rotation_from_yaw_pitch(offset, 0.0) @ rig.cameras()[1]
    torch.testing.assert_close(rig.cameras(offset)[1], turned, atol=2e-6, rtol=0)


def test_rigs_are_values():
    ring = RingRig(num_views=2, height=4, width=6)
    same = Rig([[0, 0, 90], [180, 0, 90]], height=4, width=6)
    assert ring == same
    assert hash(ring) == hash(same)
    assert ring != RingRig(num_views=2, height=6, width=4)
    assert ring != "ring"
    assert Rig.from_dict(json.loads(json.dumps(ring.to_dict()))) == ring
    assert pickle.loads(pickle.dumps(ring)) == ring
    assert ring.resized(8, 12) == RingRig(num_views=2, height=8, width=12)
    assert repr(ring) == "Rig(views=((0.0, 0.0, 90.0), (180.0, 0.0, 90.0)), height=4, width=6)"
    with pytest.raises(AttributeError):
        ring.height = 8


def test_rigs_are_read_from_yaml():
    class Data:
        def __init__(self, rig: Rig):
            self.rig = rig

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Data, "data")
    ring = {"class_path": "mvdiff.geometry.RingRig", "init_args": {"num_views": 4, "height": 64, "width": 96}}
    plain = {"class_path": "mvdiff.geometry.Rig", "init_args": {"views": [[0, 10, 90], [45, 0, 80]], "height": 8}}
    for entry, expected in [(ring, RingRig(4, height=64, width=96)), (plain, Rig([(0, 10, 90), (45, 0, 80)], 8, 512))]:
        read = parser.instantiate(parser.parse_object({"data": {"rig": entry}}))
        assert read.data.rig == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rig([], 4, 4), "views must hold at least one"),
        (lambda: Rig([(0, 0)], 4, 4), "got (0, 0) for view 0"),
        (lambda: Rig([(0, 0, 90), (0, 0, 180)], 4, 4), "fov must lie between 0 and 180 degrees; got 180 for view 1"),
        (lambda: Rig([(0, 0, 90)], 0, 4), "height must be at least 1 pixel and at most 65536; got 0"),
        (lambda: RingRig(num_views=0), "num_views must be at least 1; got 0"),
        (
            lambda: Rig.from_dict({"views": [], "size": 3}),
            "keys views, height, width; got ['size', 'views']",
        ),
    ],
)
def test_rig_errors(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared below
        make()
    assert message in str(error.value)
