import pytest
import torch
from torch.testing import assert_close

from mvdiff.geometry.cameras import RingAndPolesRig, RingRig
from mvdiff.geometry.correspondence import tap_geometry
from mvdiff.geometry.sampling import sample_bilinear
from mvdiff.models.attention.taps import DEFAULT_WAVELENGTHS, PackedTaps, encode_displacement
from tests.geometries import camera_geometry


def ring(num_views=8, height=24, width=40, yaw=0.0):
    return RingRig(num_views=num_views, height=height, width=width).cameras(yaw_offset_deg=yaw)


def test_encoding_golden_is_signed_and_tells_x_from_y():
    # One band, of wavelength 16: x = 4 is a quarter turn to the right, y = -2 an eighth of a turn up.
    half = 0.5**0.5
    found = encode_displacement(torch.tensor([4.0, -2.0]), 4)
    assert_close(found, torch.tensor([1.0, -half, 0.0, half]), atol=1e-6, rtol=0)


def test_encoding_bands_run_from_the_longest_to_the_shortest_wavelength():
    found = encode_displacement(torch.tensor([0.125, 0.0]), 8, wavelengths=(0.5, 16.0))
    sines = [torch.sin(torch.tensor(2 * torch.pi * 0.125 / wave)) for wave in (16.0, 0.5)]
    assert_close(found[:2], torch.stack(sines))
    assert found[1] == 1.0


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_packed_taps_match_the_geometry_tap_by_tap(kernel_size):
    K, R = RingAndPolesRig(num_views=6, height=24, width=40).cameras()
    geometry = tap_geometry(K, R, 24, 40, 8, kernel_size=kernel_size)
    packed = PackedTaps.from_geometry(geometry)
    num_views, num_tokens = packed.visible.shape[:2]
    features = torch.randn(num_views, 5, packed.height, packed.width)
    table = features.flatten(2).transpose(1, 2).flatten(0, 1)
    sampled = (table[packed.cells] * packed.weights.unsqueeze(-1)).sum(-2)
    for view in range(num_views):
        for token in range(num_tokens):
            expected = []
            for n, neighbour in enumerate(geometry.neighbours[view].tolist()):
                seen = geometry.visible[view, n, token]
                xy = geometry.taps_xy[view, n, token, seen]
                if len(xy):
                    values = sample_bilinear(features[neighbour][None], xy[None], padding="border")[0].T
                    where = torch.full((len(xy), 1), float(neighbour))
                    expected.append(torch.cat([where, geometry.displacement[view, n, token, seen], values], dim=1))
            filled = packed.visible[view, token]
            found = torch.cat([packed.views.unsqueeze(-1), packed.displacement, sampled], dim=-1)[view, token]
            expected = torch.cat(expected) if expected else found.new_zeros(0, 8)
            assert filled.sum() == len(expected)
            assert_close(found[filled], expected, atol=1e-5, rtol=1e-5)
            assert (found[~filled] == 0).all()


def test_packing_halves_the_taps_of_a_ring():
    K, R = ring(height=64, width=64)
    geometry = tap_geometry(K, R, 64, 64, 8)
    packed = PackedTaps.from_geometry(geometry)
    assert geometry.visible[:, :, 0].numel() // len(K) == 18
    assert packed.visible.shape[-1] <= 9
    assert packed.visible.sum() == geometry.visible.sum()


def test_weights_of_visible_taps_sum_to_one():
    K, R = ring()
    packed = PackedTaps.from_geometry(tap_geometry(K, R, 24, 40, 8))
    assert_close(packed.weights.sum(-1), packed.visible.float())


def test_levels_halve_upwards_and_turning_the_rig_changes_nothing():
    sizes = [(5, 7), (3, 4), (2, 2)]
    geometries = []
    for yaw in (0.0, 123.0):
        K, R = ring(height=20, width=28, yaw=yaw)
        geometries.append(camera_geometry(K, R, 5, 7, stride=4, num_levels=3))
    assert [(level.height, level.width) for level in geometries[0].levels] == sizes
    for one, turned in zip(*(geometry.levels for geometry in geometries), strict=True):
        # float32 rotations: a tap on the very edge may fall either way, so compare tokens with as many taps in both
        same = one.visible.sum(-1) == turned.visible.sum(-1)
        assert same.float().mean() > 0.75
        for name in ("displacement", "weights"):
            sums = [getattr(level, name)[same].flatten(1).sum(-1) for level in (one, turned)]
            assert_close(sums[0], sums[1], atol=1e-3, rtol=0)


def test_displacements_stay_where_the_encoding_is_unambiguous():
    K, R = ring(height=256, width=256)
    geometry = camera_geometry(K, R, 32, 32, stride=8, num_levels=4)
    assert max(level.displacement.abs().max() for level in geometry.levels) < DEFAULT_WAVELENGTHS[1] / 4


def test_encoding_is_kept_and_serves_training_after_inference_mode():
    K, R = ring()
    packed = PackedTaps.from_geometry(tap_geometry(K, R, 24, 40, 8))
    with torch.inference_mode():
        first = packed.encoding(8, DEFAULT_WAVELENGTHS, torch.float32)
    assert packed.encoding(8, DEFAULT_WAVELENGTHS, torch.float32) is first
    weight = torch.ones(8, requires_grad=True)
    (first * weight).sum().backward()
    assert packed.encoding(8, DEFAULT_WAVELENGTHS, torch.bfloat16).dtype == torch.bfloat16
    moved = packed.to("cpu")
    assert moved._encodings == {}
    assert torch.equal(moved.cells, packed.cells)
