import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mvdiff.geometry import (
    Rig,
    RingAndPolesRig,
    RingRig,
    cube_faces,
    equirectangular_directions,
    equirectangular_from_skybox,
    intrinsics_from_fov,
    overlapping_neighbours,
    perspective_from_equirectangular,
    perspective_from_skybox,
    pixel_directions,
    project_directions,
    rotation_from_yaw_pitch,
    skybox_cameras,
    skybox_from_equirectangular,
    stitch,
)

yaws, pitches = st.floats(-200, 400), st.floats(-90, 90)


def world(directions):
    """Return two smooth, asymmetric functions of unit directions [..., 3] -> [2, ...]."""
    x, y, z = directions.unbind(dim=-1)
    return torch.stack([torch.sin(2 * x + y) + z**2, y * x + torch.cos(2 * z - y)])


def skybox_of_world(size):
    return world(pixel_directions(*skybox_cameras(size), size, size)).transpose(0, 1).contiguous()


def look(directions):
    """Return cameras of one-pixel views along unit directions [V, 3], finer than any source."""
    yaw = torch.rad2deg(torch.atan2(directions[:, 0], directions[:, 2]))
    pitch = torch.rad2deg(torch.asin(-directions[:, 1].clamp(-1, 1)))
    return intrinsics_from_fov(torch.full((len(directions),), 0.01), 1, 1), rotation_from_yaw_pitch(yaw, pitch)


# Conventions, signed and asymmetric


def test_golden_equirectangular_directions():
    # 4 x 8 pixels of 45 degrees. Pixel (x = 5, y = 0): yaw (5 + 0.5) 45 - 180 = 67.5 (right), pitch 90 - 22.5 = 67.5.
    directions = equirectangular_directions(4, 8)
    c, s = math.cos(math.radians(67.5)), math.sin(math.radians(67.5))
    torch.testing.assert_close(directions[0, 5], torch.tensor([c * s, -s, c * c]))
    assert directions[1, 4, 2] > 0.8  # the image's middle looks ahead
    assert directions[2, 0, 2] < -0.8  # its left edge looks behind,
    assert directions[2, 0, 0] < 0  # just left of backwards


def test_golden_pixel_directions():
    K, R = RingRig(num_views=4, height=4, width=8).cameras()
    # View 1 looks along +x, its right is -z; f = 4, so pixel (7, 0) is 3.5/4 to the right and 1.5/4 up.
    expected = torch.nn.functional.normalize(torch.tensor([1.0, -1.5 / 4, -3.5 / 4]), dim=0)
    torch.testing.assert_close(pixel_directions(K, R, 4, 8)[1, 0, 7], expected)


@given(yaws, pitches)
def test_projecting_pixel_directions_returns_the_pixels(yaw, pitch):
    K, R = Rig([(yaw, pitch, 80)], height=5, width=9).cameras()
    xy, visible = project_directions(K[0], R[0], pixel_directions(K[0], R[0], 5, 9), 5, 9)
    expected = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(5.0), indexing="xy"), dim=-1)
    torch.testing.assert_close(xy, expected, atol=1e-4, rtol=0)
    assert visible.all()
    xy, visible = project_directions(K[0], R[0], -pixel_directions(K[0], R[0], 5, 9), 5, 9)
    assert not visible.any()
    assert torch.isfinite(xy).all()


def test_golden_skybox_cameras():
    # Columns of R: right, down, forward. World: x right, y down, z ahead; yaw 270 looks along -x with z at its right.
    x, y, z = torch.eye(3)
    expected = [
        (z, -x, -y),  # 0 up: its bottom edge points to -x, where face 1 is
        (z, y, -x),  # 1 yaw 270
        (x, y, z),  # 2 yaw 0
        (-z, y, x),  # 3 yaw 90
        (-x, y, -z),  # 4 yaw 180
        (z, x, y),  # 5 down: its top edge (minus down) points to -x as well
    ]
    _, R = skybox_cameras(4)
    torch.testing.assert_close(R, torch.stack([torch.stack(axes, dim=-1) for axes in expected]), atol=1e-6, rtol=0)


def test_golden_skybox_faces_meet_where_the_paper_says():
    # The up face's bottom row and face 1's top row lie next to each other, column by column; so do the down face's top
    # row and face 1's bottom row. (One texel of 90/64 degrees apart, so nearly parallel.)
    up, side, _, _, _, down = pixel_directions(*skybox_cameras(64), 64, 64)
    assert ((up[-1] * side[0]).sum(-1) > math.cos(math.radians(2))).all()
    assert ((down[0] * side[-1]).sum(-1) > math.cos(math.radians(2))).all()
    assert ((up[-1] * side[0].flip(0)).sum(-1) < math.cos(math.radians(2))).any()  # mirrored columns do not


# Skybox -> views


def test_faces_are_returned_as_they_are():
    faces = torch.rand(6, 3, 16, 16)
    torch.testing.assert_close(perspective_from_skybox(faces, *skybox_cameras(16), 16, 16), faces, atol=1e-5, rtol=0)


@given(yaws, pitches, st.floats(40, 120))
def test_skybox_views_are_seamless(yaw, pitch, fov):
    K, R = Rig([(yaw, pitch, fov), (yaw + 45, 0, 90)], height=40, width=64).cameras()
    views = perspective_from_skybox(skybox_of_world(96), K, R, 40, 64)
    expected = world(pixel_directions(K, R, 40, 64)).transpose(0, 1)
    assert (views - expected).abs().max() < 3e-3  # repeating edge texels would give 1e-2 and more


def test_skybox_is_seamless_exactly_at_edges_and_corners():
    corners = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]).float()
    along = torch.linspace(-1, 1, 33)
    edges = [torch.stack([a * torch.ones(33), b * torch.ones(33), along], -1) for a in (-1, 1) for b in (-1, 1)]
    edges = torch.cat([edge.roll(shift, dims=-1) for edge in edges for shift in range(3)])
    directions = torch.nn.functional.normalize(torch.cat([corners, edges]), dim=-1)
    for size in (32, 64):
        seen = perspective_from_skybox(skybox_of_world(size), *look(directions), 1, 1)[:, :, 0, 0]
        # The error of bilinear interpolation: it falls with the square of the texel. (Repeating edge texels: 2 / size.)
        assert (seen - world(directions).T).abs().max() < 5 / size**2


def test_crossing_an_edge_makes_no_jump():
    size = 32
    angles = torch.linspace(44, 46, 81)  # degrees of yaw across the edge of faces 2 and 3, near and far from corners
    for height in (0.0, 0.5, 0.97):
        directions = torch.stack([angles.deg2rad().sin(), torch.full((81,), -height * 0.7), angles.deg2rad().cos()], -1)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        seen = perspective_from_skybox(skybox_of_world(size), *look(directions), 1, 1)[:, :, 0, 0]
        steps = seen.diff(dim=0)
        assert (steps.diff(dim=0).abs() < 2e-3).all()


def test_golden_cube_faces_meet_as_viewers_lay_them_out():
    # Laid out as a cross, up above front and down below it: the middle of each edge is halfway to the face
    # beside it, so that faces that share an edge show the same there. x right, y down, z forward.
    axes = {"front": (0, 0, 1), "right": (1, 0, 0), "back": (0, 0, -1), "left": (-1, 0, 0)}
    axes |= {"up": (0, -1, 0), "down": (0, 1, 0)}
    beside = {  # left, right, top, bottom
        "front": ("left", "right", "up", "down"),
        "right": ("front", "back", "up", "down"),
        "back": ("right", "left", "up", "down"),
        "left": ("back", "front", "up", "down"),
        "up": ("left", "right", "back", "front"),
        "down": ("left", "right", "front", "back"),
    }
    faces = cube_faces(equirectangular_directions(128, 256).permute(2, 0, 1))
    assert list(faces) == list(axes)
    for name, face in faces.items():
        assert face.shape == (3, 81, 81)  # 256 / pi
        edges = face[:, 40, 0], face[:, 40, -1], face[:, 0, 40], face[:, -1, 40]
        for edge, other in zip(edges, beside[name], strict=True):
            expected = (torch.tensor(axes[name]) + torch.tensor(axes[other])) / math.sqrt(2)
            torch.testing.assert_close(edge, expected, atol=0.02, rtol=0)


def test_matches_a_naive_pixel_loop():
    faces = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    K, R = Rig([(20, 0, 80), (130, 70, 60), (250, -50, 70)], height=10, width=14).cameras()  # finer than the faces
    views = perspective_from_skybox(faces, K, R, 10, 14)
    K_faces, R_faces = (matrix.double().numpy() for matrix in skybox_cameras(8))
    compared = 0
    for v in range(3):
        for row in range(10):
            for column in range(14):
                ray = R[v].double().numpy() @ np.linalg.inv(K[v].double().numpy()) @ np.array([column, row, 1.0])
                face = int(np.argmax(R_faces[:, :, 2] @ ray))
                local = R_faces[face].T @ ray
                x, y, _ = K_faces[face] @ (local / local[2])
                if min(x, y) >= 0 and max(x, y) <= 7:  # the outer half texels belong to the seam, tested above
                    expected = map_coordinates(faces[face, 0].numpy(), [[y], [x]], order=1)[0]
                    assert views[v, 0, row, column].item() == pytest.approx(expected, abs=1e-4)
                    compared += 1
    assert compared > 200


def test_finer_faces_do_not_alias():
    checkerboard = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    faces = (255 * checkerboard).to(torch.uint8).expand(6, 3, 256, 256)
    views = perspective_from_skybox(faces, *RingRig(height=64, width=64).cameras(10), 64, 64)
    torch.testing.assert_close(views, torch.full_like(views, 127.5))


def test_uint8_and_float_faces_agree():
    faces = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    cameras = RingRig(height=8, width=12).cameras(3)
    a, b = perspective_from_skybox(faces, *cameras, 8, 12), perspective_from_skybox(faces.float(), *cameras, 8, 12)
    torch.testing.assert_close(a, b)
    assert a.dtype == torch.float32


# Equirectangular -> views, and both ways


@given(yaws, pitches, st.floats(40, 120))
def test_equirectangular_views_are_seamless(yaw, pitch, fov):
    K, R = Rig([(yaw, pitch, fov), (180, 0, 90), (0, 90, 90), (30, -90, 90)], height=72, width=128).cameras()
    views = perspective_from_equirectangular(world(equirectangular_directions(128, 256)), K, R, 72, 128)
    expected = world(pixel_directions(K, R, 72, 128)).transpose(0, 1)
    assert (views - expected).abs().max() < 1e-3


def test_equirectangular_is_right_exactly_at_the_poles_and_the_wrap():
    directions = torch.tensor([[0.0, -1, 0], [0.0, 1, 0], [0.0, 0, -1], [0.0, -0.6, -0.8]])
    for height in (32, 64):
        image = world(equirectangular_directions(height, 2 * height))
        seen = perspective_from_equirectangular(image, *look(directions), 1, 1)[:, :, 0, 0]
        assert (seen - world(directions).T).abs().max() < 16 / height**2


def test_equirectangular_matches_scipy():
    image = torch.rand(1, 16, 32, generator=torch.Generator().manual_seed(0))
    K, R = Rig([(170, 20, 70), (40, -30, 60)], height=14, width=18).cameras()
    x, y, z = pixel_directions(K, R, 14, 18).double().unbind(-1)
    column = (torch.atan2(x, z).rad2deg() + 180) / 360 * 32 - 0.5
    row = (90 - torch.asin(-y).rad2deg()) / 180 * 16 - 0.5
    expected = map_coordinates(image[0].numpy(), [row.numpy(), column.numpy()], order=1, mode="grid-wrap")
    views = perspective_from_equirectangular(image, K, R, 14, 18)
    torch.testing.assert_close(views[:, 0], torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_skybox_and_equirectangular_agree():
    faces, image = skybox_of_world(64), world(equirectangular_directions(96, 192))
    assert (equirectangular_from_skybox(faces, 96, 192) - image).abs().max() < 3e-3
    assert (skybox_from_equirectangular(image, 64) - faces).abs().max() < 3e-3


# Stitching


def crop_and_stitch(rig, height, yaw=0.0):
    panorama = world(equirectangular_directions(height, 2 * height))
    K, R = rig.cameras(yaw)
    views = perspective_from_equirectangular(panorama, K, R, rig.height, rig.width)
    return panorama, *stitch(views, K, R, height, 2 * height)


@pytest.mark.parametrize(
    "rig",
    [RingRig(height=64, width=64), RingAndPolesRig(height=48, width=48), RingRig(5, 110.0, 10.0, height=48, width=80)],
)
def test_stitching_crops_returns_the_panorama(rig):
    panorama, stitched, covered = crop_and_stitch(rig, height=64, yaw=13)
    assert (stitched - panorama)[:, covered].abs().max() < 0.03
    assert (stitched - panorama)[:, covered].abs().mean() < 2e-3
    assert (stitched[:, ~covered] == 0).all()


def test_covered_is_what_some_view_sees():
    rig = RingRig(5, 80.0, 20.0, height=30, width=50)
    _, _, covered = crop_and_stitch(rig, height=32)
    K, R = rig.cameras()
    seen = [project_directions(K[v], R[v], equirectangular_directions(32, 64), 30, 50)[1] for v in range(5)]
    assert torch.equal(covered, torch.stack(seen).any(dim=0))
    assert covered.any()
    assert not covered.all()


def test_a_ring_leaves_the_poles_uncovered_and_pole_views_cover_them():
    _, _, ring = crop_and_stitch(RingRig(height=32, width=32), height=64)
    assert not ring[0].any()
    assert not ring[-1].any()
    assert ring[17:47].all()  # the lowest top edge is half-way between two views: atan(cos 22.5) = 42.7 degrees
    _, _, sphere = crop_and_stitch(RingAndPolesRig(height=32, width=32), height=64)
    assert sphere.all()


def test_golden_a_view_to_the_right_stands_right_of_the_middle():
    K, R = Rig([(90, 0, 40), (0, 60, 40)], height=8, width=8).cameras()
    views = torch.tensor([[1.0], [2.0]]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    panorama, covered = stitch(views, K, R, 32, 64)
    assert panorama[0, 16, 48] == 1  # yaw 90 is three quarters along; the middle row is pitch 0
    assert panorama[0, 5, 32] == 2  # pitch 60 is a sixth of the height from the top
    assert not covered[16, 16]  # yaw -90
    assert not covered[27, 32]  # pitch -60


def test_no_seam_at_the_wrap_or_at_view_borders():
    # Every view has another grey: jumps would be as large as 1. Feathering spreads them over overlaps of 45 degrees.
    rig = RingAndPolesRig(height=32, width=32, pole_fov_deg=110)
    K, R = rig.cameras(22)
    greys = torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1, 0, 1]).view(10, 1, 1, 1).expand(10, 1, 32, 32)
    panorama, covered = stitch(greys, K, R, 128, 256)
    assert covered.all()
    band = panorama[0, 32:96]
    steps = torch.cat([band, band[:, :1]], dim=1).diff(dim=1).abs()
    assert steps.max() < 0.1
    assert (band[:, 0] - band[:, -1]).abs().max() < 0.1
    assert band.max() - band.min() > 0.9  # the greys are all still there


@pytest.mark.parametrize("turn", [1, 7, 40])
def test_turning_the_rig_rolls_the_panorama(turn):
    rig = RingRig(height=16, width=20)
    views = torch.rand(8, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    panorama, covered = stitch(views, *rig.cameras(), 32, 64)
    turned, covered_turned = stitch(views, *rig.cameras(turn * 360 / 64), 32, 64)
    torch.testing.assert_close(turned, panorama.roll(turn, dims=-1), atol=1e-3, rtol=0)
    assert torch.equal(covered_turned, covered.roll(turn, dims=-1))


def test_equal_views_stay_as_they_are():
    images = torch.full((8, 3, 16, 16), 200, dtype=torch.uint8)
    panorama, covered = stitch(images, *RingRig(height=16, width=16).cameras(), 32, 64)
    torch.testing.assert_close(panorama[:, covered], torch.full_like(panorama[:, covered], 200.0))


# Contract


CAMERAS = RingAndPolesRig(height=12, width=16).cameras(10)
SOURCE = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "compute",
    [
        lambda: RingAndPolesRig(height=12, width=16).cameras(10),
        lambda: (equirectangular_directions(16, 32), pixel_directions(*CAMERAS, 12, 16)),
        lambda: project_directions(CAMERAS[0][1], CAMERAS[1][1], equirectangular_directions(16, 32), 12, 16),
        lambda: (perspective_from_equirectangular(torch.cat([*SOURCE[:2]], dim=-1), *CAMERAS, 12, 16),),
        lambda: (
            perspective_from_skybox(SOURCE[:6], *CAMERAS, 12, 16),
            equirectangular_from_skybox(SOURCE[:6], 16, 32),
        ),
        lambda: stitch(SOURCE[..., :12, :], *CAMERAS, 16, 32),
        lambda: (overlapping_neighbours(*CAMERAS, 12, 16),),
    ],
    ids=["cameras", "directions", "project", "equirectangular", "skybox", "stitch", "neighbours"],
)
def test_autocast_changes_nothing(compute):
    plain = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = compute()
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_errors():
    K, R = RingRig(num_views=2, height=4, width=4).cameras()
    with pytest.raises(ValueError, match=r"image width must be twice the height .* got 30 x 16"):
        perspective_from_equirectangular(torch.zeros(3, 16, 30), K, R, 4, 4)
    with pytest.raises(ValueError, match="width must be twice the height"):
        stitch(torch.zeros(2, 3, 4, 4), K, R, 16, 30)
    with pytest.raises(ValueError, match=r"faces must have shape \[6, C, S, S\]; got \[5, 3, 8, 8\]"):
        perspective_from_skybox(torch.zeros(5, 3, 8, 8), K, R, 4, 4)
    with pytest.raises(ValueError, match=r"R must have shape \[V, 3, 3\].*V is 2 in K"):
        perspective_from_skybox(torch.zeros(6, 3, 8, 8), K, R[:1], 4, 4)
