"""Given pictures in the views of a rig: against a loop per pixel, and what a turned camera must and must not change."""

import math

import pytest
import torch

from mvdiff.geometry.cameras import Rig, RingRig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.given import overlay_given, views_of_given, warp_given

RIG = Rig([(0, 0, 90), (40, 10, 70), (180, 0, 90)], height=10, width=14)


def camera(fov, yaw, pitch, h, w):
    return intrinsics_from_fov(fov, h, w), rotation_from_yaw_pitch(yaw, pitch)


def bilinear(image, x, y):
    """Read one position of [C, h, w], clamped at the border pixels' centres."""
    h, w = image.shape[-2:]
    x, y = min(max(x, 0.0), w - 1.0), min(max(y, 0.0), h - 1.0)
    x0, y0 = min(int(x), w - 2), min(int(y), h - 2)
    a, b = x - x0, y - y0
    top = (1 - a) * image[:, y0, x0] + a * image[:, y0, x0 + 1]
    return (1 - b) * top + b * ((1 - a) * image[:, y0 + 1, x0] + a * image[:, y0 + 1, x0 + 1])


def test_matches_a_loop_over_pixels():
    """Directions by trigonometry, not by matrices: yaw right, pitch up, square pixels."""
    h, w, fov, yaw, pitch = 9, 16, 90.0, 15.0, -12.0
    image = torch.rand(3, h, w, generator=torch.Generator().manual_seed(0))
    images, known = warp_given(image, *camera(fov, yaw, pitch, h, w), *RIG.cameras(), RIG.height, RIG.width)
    focal = w / 2 / math.tan(math.radians(fov / 2))
    count = 0
    for view, (view_yaw, view_pitch, view_fov) in enumerate(RIG.views):
        view_focal = RIG.width / 2 / math.tan(math.radians(view_fov / 2))
        for row in range(RIG.height):
            for column in range(RIG.width):
                x, y, z = (column - 6.5) / view_focal, (row - 4.5) / view_focal, 1.0
                for angle, axis in ((view_pitch, "x"), (view_yaw, "y"), (-yaw, "y"), (-pitch, "x")):
                    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                    if axis == "x":  # up is -y
                        y, z = c * y - s * z, s * y + c * z
                    else:
                        x, z = c * x + s * z, -s * x + c * z
                u, v = (focal * x / z + 7.5, focal * y / z + 4.0) if z > 0 else (-9.0, -9.0)
                inside = -0.5 <= u <= w - 0.5 and -0.5 <= v <= h - 0.5
                assert bool(known[view, 0, row, column]) == inside
                expected = bilinear(image, u, v) if inside else torch.zeros(3)
                torch.testing.assert_close(images[view, :, row, column], expected, atol=1e-4, rtol=0)
                count += inside
    assert count > 40


def test_the_camera_of_a_view_gives_its_own_pixels():
    K, R = RIG.cameras()
    image = torch.rand(3, RIG.height, RIG.width, generator=torch.Generator().manual_seed(1))
    images, known = warp_given(image, K[1], R[1], K, R, RIG.height, RIG.width)
    assert bool((known[1] == 1).all())
    torch.testing.assert_close(images[1], image, atol=1e-5, rtol=0)
    assert not known[2].any()
    assert not images[2].any()


def test_signed_golden_a_picture_to_the_right_and_up():
    """At yaw 25 and pitch 20 a narrow picture lies right of and above the middle of view 0."""
    rig = RingRig(num_views=8, height=32, width=32)
    known = views_of_given(*camera(40.0, 25.0, 20.0, 8, 8), 8, 8, *rig.cameras(), 32, 32)
    rows, columns = known[0, 0].nonzero().float().mean(dim=0).tolist()
    assert columns == pytest.approx(15.5 + 16 * math.tan(math.radians(25)), abs=1.5)
    assert rows < 15.5 - 4
    assert known.flatten(1).any(1).tolist() == [True, True, True, False, False, False, False, False]


def test_a_fine_picture_does_not_alias():
    """Of 64 random pixels of a picture eight times as fine, a pixel shows the mean, not a few of them."""
    K, R = RIG.cameras()
    size = 8 * RIG.height, 8 * RIG.width
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images, _ = warp_given(noise, *camera(90.0, 0, 0, *size), K, R, RIG.height, RIG.width)
    assert images[0].std() < 1.3 * noise.std() / 8


def test_cut_out_parts_are_not_known_nor_mixed_in():
    K, R = RIG.cameras()
    image, shown = torch.ones(3, RIG.height, RIG.width), torch.ones(1, RIG.height, RIG.width)
    shown[..., :5] = 0
    image[:, :, :5] = 7  # must not bleed
    images, known = warp_given(image, K[0], R[0], K, R, RIG.height, RIG.width, shown)
    assert known[0, 0, 0].tolist() == [0.0] * 5 + [1.0] * 9
    for view in (0, 1):
        assert images[view].max() <= 1 + 1e-5


def test_of_several_pictures_the_first_counts():
    layers = [(torch.full((2, 3, 1, 2), value), torch.tensor(where).view(2, 1, 1, 2)) for value, where in (
        (1.0, [1.0, 0.0, 0.0, 0.0]), (2.0, [1.0, 1.0, 0.0, 0.0]))]  # fmt: skip
    layers = [(images * known, known) for images, known in layers]
    images, known = overlay_given(layers)
    assert images[:, 0, 0].tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert known[:, 0, 0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert layers[0][1][0, 0, 0].tolist() == [1.0, 0.0]  # its input is left alone


def test_shapes_are_checked():
    K, R = RIG.cameras()
    with pytest.raises(ValueError, match=r"shown must have shape \[1, h, w\]"):
        warp_given(torch.ones(3, 4, 4), K[0], R[0], K, R, 4, 4, shown=torch.ones(3, 4, 4))
