import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import cell_centres, unproject
from mvdiff.mesh import extract_mesh, fuse
from mvdiff.mesh.blocks import BLOCK, block_keys, cells_of, cells_of_pixels, packed, unpacked
from mvdiff.mesh.planes import LocalPlanes
from mvdiff.mesh.volume import TsdfVolume
from tests.mesh.worlds import EYE, HEIGHT, ORIGIN, WIDTH, camera, frame, plane_frame

INF, NAN = math.inf, math.nan
SLANTED = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])


def distances(volume):
    """Voxel centres [M, 3] that were seen, their mean distance [M], and mean colour [M, 3]."""
    offsets = torch.cartesian_prod(*[torch.arange(BLOCK)] * 3)
    centres = (volume.corners[:, None] + offsets).reshape(-1, 3).double().numpy() * volume.voxel_size
    sums = volume.sums.reshape(-1, 6).double().numpy()
    seen = sums[:, 1] > 0
    return centres[seen], sums[seen, 0] / sums[seen, 1], sums[seen, 3:] / np.maximum(sums[seen, 2:3], 1e-9)


def test_matches_the_distance_to_a_slanted_plane():
    # n . x = 2: the signed distance of a point before it is 2 - n . x, whatever the camera's own slant to it
    volume = fuse([plane_frame(SLANTED, 2.0)], voxel_size=0.05, truncation=0.2)
    centres, found, colours = distances(volume)
    expected = (2.0 - centres @ SLANTED) / 0.2
    assert len(found) > 20_000
    assert expected.min() > -1.001
    np.testing.assert_allclose(found, np.minimum(expected, 1), atol=1e-4)
    near = expected < 0.99
    np.testing.assert_allclose(colours[near], np.broadcast_to([200, 100, 50], colours[near].shape), atol=0.01)


def test_golden_one_camera_before_a_wall():
    # wall at z = 2; truncation 0.4: 0.2 m before it is 0.5, 0.1 m behind it is -0.25, at 0.5 m behind nothing is known
    volume = fuse([plane_frame((0, 0, 1), 2.0)], voxel_size=0.1, truncation=0.4)
    centres, found, _ = distances(volume)
    value = {tuple(np.round(centre, 3)): distance for centre, distance in zip(centres, found, strict=True)}
    assert value[0.0, 0.0, 1.8] == pytest.approx(0.5, abs=1e-5)
    assert value[0.5, -0.3, 2.1] == pytest.approx(-0.25, abs=1e-5)
    assert value[0.0, 0.0, 1.6] == pytest.approx(1, abs=1e-5)
    assert (0.0, 0.0, 2.5) not in value
    assert (2.2, 0.0, 2.0) not in value  # 90 degrees of view: x <= z, up to half a pixel


def test_golden_a_camera_turned_right():
    # R_y(+90) looks along +x; its transpose would look along -x and put the wall there
    K, R, t = camera(yaw=90.0, t=(1.0, 0.5, -0.5))
    volume = fuse([frame(np.full((HEIGHT, WIDTH), 2.0), K, R, t)], voxel_size=0.1)
    centres, found, _ = distances(volume)
    on_wall = centres[np.abs(found) < 1e-4]
    assert len(on_wall) > 100
    np.testing.assert_allclose(on_wall[:, 0], 3.0, atol=1e-9)
    np.testing.assert_allclose(on_wall[:, 1:].mean(axis=0), [0.5, -0.5], atol=0.06)


def test_weights_count_pixels_per_area():
    # from twice as far a quarter; the slant of a wall at 60 degrees, straight ahead, halves it
    weights = []
    for normal, offset in (((0, 0, 1), 1.0), ((0, 0, 1), 2.0), ((3**0.5 / 2, 0, 0.5), 0.5)):
        surface = LocalPlanes(plane_frame(normal, offset, height=31, width=41), truncation=1.0, max_depth=9.0)
        inverse, slant = surface.at(torch.tensor([[20.0, 15.0]], dtype=torch.float64))
        weights.append(float(slant * inverse**2))
    np.testing.assert_allclose(weights, [1, 0.25, 0.5], rtol=1e-5)


def test_the_order_of_frames_changes_nothing():
    frames = [plane_frame(SLANTED, 2.0, colour=(90 * i, 30, 60), yaw=12.0 * i, t=(0.1 * i, 0, 0)) for i in range(3)]
    one, other = fuse(frames, 0.05), fuse(frames[::-1], 0.05)
    np.testing.assert_array_equal(one.keys, other.keys)
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_split_into_batches_changes_nothing(batch):
    shown = plane_frame(SLANTED, 2.0, yaw=10.0)
    whole = fuse([shown], 0.05)
    split = TsdfVolume(whole.voxel_size, whole.truncation)
    split.integrate(shown, batch=batch)
    split.carve(batch=batch)
    torch.testing.assert_close(split.sums, whole.sums, rtol=1e-6, atol=1e-5)


def test_the_same_frame_twice_counts_twice():
    shown = plane_frame(SLANTED, 2.0)
    torch.testing.assert_close(fuse([shown] * 2, 0.05).sums, 2 * fuse([shown], 0.05).sums)


def test_every_voxel_near_a_surface_has_a_block_however_coarse_the_pixels():
    shown = plane_frame(SLANTED, 3.0, height=6, width=8)  # pixels of 0.75 m, voxels of 0.04 m
    centres, found, _ = distances(fuse([shown], voxel_size=0.04))
    inside = []
    for x in np.arange(-1.5, 1.5, 0.25):  # points of the plane: their nearest voxel is there and near zero
        z = (3.0 - SLANTED[0] * x) / SLANTED[2]
        inside.append(np.abs(centres - [x, 0, z]).max(axis=1).min())
        assert np.abs(found[np.abs(centres - [x, 0, z]).max(axis=1).argmin()]) < 0.25
    assert max(inside) <= 0.02 + 1e-9


def test_planes_between_pixels_are_exact_also_at_edges():
    shown = plane_frame(SLANTED, 2.0)
    depth = shown.depth.clone()
    depth[:, 20:] += 1.5  # another plane behind it
    surface = LocalPlanes(shown._replace(depth=depth), truncation=0.1, max_depth=9.0)
    assert bool(surface.valid.all())
    for x, y in ((5.3, 9.8), (19.4, 12.25)):  # the second on the last column before the jump
        K, _, _ = camera()
        ray = np.array([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], 1.0])
        found, _ = surface.at(torch.tensor([[x, y]], dtype=torch.float64))
        assert float(1 / found) == pytest.approx(2.0 / (ray @ SLANTED), rel=1e-5)


def test_pixels_between_two_surfaces_belong_to_none():
    depth = np.full((HEIGHT, WIDTH), 3.0)
    depth[:, :20] = 1.0
    depth[:, 20] = 1.4  # a mixture
    depth[3, 30] = 2.0  # a speckle
    surface = LocalPlanes(frame(depth, *camera()), truncation=0.1, max_depth=9.0)
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[:, 20] = expected[3, 30] = False
    np.testing.assert_array_equal(surface.valid.numpy(), expected)


@pytest.mark.parametrize("none", [0.0, float("nan"), float("inf"), -1.0, 9.0])
def test_no_depth_adds_nothing(none):
    shown = plane_frame((0, 0, 1), 2.0)
    half = shown.depth.clone()
    half[:, : WIDTH // 2] = none
    centres, _, _ = distances(fuse([shown._replace(depth=half)], 0.1))
    assert (centres[:, 0] > -0.1).all()


@given(st.lists(st.tuples(*[st.integers(-(2**20), 2**20 - 1)] * 3), min_size=1, max_size=20))
def test_packing_is_undone_and_keeps_the_order(positions):
    keys = packed(np.array(positions))
    np.testing.assert_array_equal(unpacked(keys), positions)
    assert np.argsort(keys, kind="stable").tolist() == sorted(range(len(positions)), key=lambda i: positions[i])


@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.floats(0.03, 0.3),
    st.sampled_from([1.0, 3.0, 4.0, 20.0]),
)
def test_blocks_hold_all_voxels_within_the_truncation(point, voxel_size, voxels):
    truncation = voxels * voxel_size
    keys = block_keys(torch.tensor([point], dtype=torch.float64), voxel_size, truncation)
    found = {tuple(position) for position in unpacked(keys).tolist()}
    nearest = [
        [math.ceil((x - 0.999 * truncation) / voxel_size), math.floor((x + 0.999 * truncation) / voxel_size)]
        for x in point
    ]
    for corner in itertools.product(*nearest):  # the outermost voxels of the cube around the point
        assert tuple(voxel // BLOCK for voxel in corner) in found


def test_a_volume_that_is_too_large_is_refused_with_its_size():
    # 4 x 3 m of wall at 1 cm: at least 12 / 0.08^2 = 1875 blocks of 12 KiB, 0.021 GiB
    wall = plane_frame((0, 0, 1), 2.0)
    with pytest.raises(ValueError, match=r"max_memory \(0.01 GiB\); voxel_size 0.01 m needs at least 0.021. GiB"):
        fuse([wall], voxel_size=0.01, max_memory=0.01)
    with pytest.raises(ValueError, match=r"max_memory \(4 GiB\)"):
        fuse([wall], voxel_size=1e-6)  # refused before that many blocks are listed
    with pytest.raises(ValueError, match=r"max_memory \(4 GiB\)"):
        fuse([wall], voxel_size=0.01, truncation=50.0)


def test_frames_together_are_too_large_where_one_is_not():
    frames = [plane_frame((0, 0, 1), 2.0 + i, t=(0, 0, i)) for i in range(4)]
    fuse(frames[:1], voxel_size=0.02, max_memory=0.02)
    with pytest.raises(ValueError, match=r"max_memory \(0.02 GiB\)"):
        fuse(frames, voxel_size=0.02, max_memory=0.02)


def test_empty_depth():
    with pytest.raises(ValueError, match=r"max_depth \(8 m\); got none in 2 frames, such as frame 7\."):
        fuse([frame(np.zeros((HEIGHT, WIDTH)), *camera())._replace(name="frame 7")] * 2)
    with pytest.raises(ValueError, match=r"max_depth \(8 m\); got none in 0 frames\."):
        fuse([])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"voxel_size": 0.0}, r"voxel_size must be a length from 1e-06 to 1e\+06 metres; got 0"),
        ({"voxel_size": NAN}, "voxel_size must be a length .*; got nan"),
        ({"voxel_size": INF}, "voxel_size must be a length .*; got inf"),
        ({"voxel_size": 1e-120}, "voxel_size must be a length .*; got 1e-120"),
        ({"voxel_size": 0.1, "truncation": 0.05}, "truncation must be at least a voxel, 0.1 m, .*; got 0.05"),
        ({"truncation": 0.0}, "truncation must be at least a voxel, 0.02 m, .*; got 0"),
        ({"truncation": NAN}, "truncation must be at least a voxel, .*; got nan"),
        ({"truncation": INF}, r"truncation must be .* at most 1e\+06 m; got inf"),
        ({"max_depth": -1.0}, "max_depth must be a length"),
        ({"max_depth": NAN}, "max_depth must be a length .*; got nan"),
        ({"max_depth": INF}, "max_depth must be a length .*; got inf"),
        ({"max_memory": 0.0}, r"max_memory must be a positive number of GiB, or inf; got 0"),
        ({"max_memory": -1.0}, "max_memory must be a positive number of GiB, or inf; got -1"),
        ({"max_memory": NAN}, "max_memory must be a positive number of GiB, or inf; got nan"),
    ],
)
def test_settings_out_of_range(settings, text):
    with pytest.raises(ValueError, match=text):
        fuse([plane_frame((0, 0, 1), 2.0)], **settings)


def test_a_pose_far_away():
    with pytest.raises(ValueError, match="surfaces must lie within"):
        fuse([plane_frame((0, 0, 1), 1e7 + 2.0, t=(0, 0, 1e7))], voxel_size=0.01)


def test_a_broken_frame_is_named():
    shown = plane_frame((0, 0, 1), 2.0)._replace(name="frame 7")
    with pytest.raises(ValueError, match=r"t must be finite.*frame 7"):
        fuse([shown._replace(t=ORIGIN / 0)])
    with pytest.raises(ValueError, match=r"depth must have shape.*frame 7"):
        fuse([shown._replace(depth=shown.depth[:5])])
    with pytest.raises(ValueError, match=r"image must be uint8; got torch.float32, in frame 7"):
        fuse([shown._replace(image=shown.image.float(), R=EYE)])


def test_pixels_lie_in_the_cells_of_their_points_also_far_from_the_origin():
    for t in ((0.0, 0.0, 0.0), (-4.3e4, 0.2, 1.7e4)):
        shown = plane_frame(SLANTED, 2.0 + np.dot(SLANTED, t), yaw=30.0, t=t)
        valid = torch.rand(shown.depth.shape) < 0.7
        points = unproject(cell_centres(HEIGHT, WIDTH, 1), shown.depth, shown.K, shown.R, shown.t)[valid]
        found = cells_of_pixels(shown.depth.numpy(), valid.numpy(), shown.K, shown.R, shown.t, 0.1)
        expected = cells_of(points, 0.1)
        assert len(set(found) ^ set(expected)) <= 2  # points on the border between two cells


def test_what_one_frame_saw_by_mistake_is_carved_by_those_that_look_through():
    # a wrong depth in one of 9 frames, 1 m before the wall: the blocks there are not near the surfaces of the others
    K, R, t = camera(height=60, width=80)
    wall = frame(np.full((60, 80), 3.0), K, R, t)
    wrong = wall.depth.clone()
    wrong[20:40, 30:50] = 2.0
    mistaken = fuse([wall._replace(depth=wrong)], 0.05)
    assert (extract_mesh(mistaken).vertices[:, 2] < 2.5).sum() > 50
    for frames in ([wall._replace(depth=wrong)] + [wall] * 8, [wall] * 8 + [wall._replace(depth=wrong)]):
        vertices = extract_mesh(fuse(frames, 0.05)).vertices
        assert np.abs(vertices[:, 2] - 3).max() < 0.05


def test_free_space_is_not_carved_beside_or_behind_what_was_seen():
    # the second camera sees a near wall in its left half and nothing in the right: it says nothing of what is behind it
    far = frame(np.full((HEIGHT, WIDTH), 3.0), *camera())
    half = np.full((HEIGHT, WIDTH), 1.0)
    half[:, WIDTH // 2 :] = 0
    alone, both = fuse([far], 0.05), fuse([far, frame(half, *camera())], 0.05)
    for volume in (alone, both):
        centres, found, _ = distances(volume)
        beyond = centres[:, 2] > 2.0
        if volume is alone:
            expected = found[beyond]
    np.testing.assert_allclose(found[beyond], expected)


def test_blocks_keep_their_sums_while_the_volume_grows():
    frames = [plane_frame((0, 0, 1), 2.0, colour=(60 * i, 0, 0), t=(2.0 * i, 0, 0)) for i in range(4)]
    together = fuse(frames, 0.05)
    apart = {}
    for one in frames:
        volume = fuse([one], 0.05)
        for key, sums in zip(volume.keys, volume.sums, strict=True):
            apart[key] = apart.get(key, 0) + sums
    assert list(together.keys) == sorted(apart)
    for key, sums in zip(together.keys, together.sums, strict=True):
        torch.testing.assert_close(sums[..., 2:], apart[key][..., 2:], rtol=1e-5, atol=1e-4)


def test_points_at_the_camera_do_not_spoil_the_volume():
    shown = plane_frame((0, 0, 1), 2.0)
    depth = shown.depth.clone()
    depth[5, 5] = 1e-30
    assert bool(torch.isfinite(fuse([shown._replace(depth=depth)], 0.1).sums).all())
