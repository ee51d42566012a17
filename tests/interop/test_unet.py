"""Upstream's UNet (docs/checkpoints.md): where the blocks stand, and that the gather is grid_sample."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.attention import CLASS_PATH, UpstreamAttention
from mvdiff.interop.geometry import ring_tap_geometry
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.multiview_unet import MultiViewUNet
from tests.geometries import camera_geometry
from tests.models.test_multiview_unet import hooked, make_inputs, make_trained, make_unet, stock

UPSTREAM = {"class_path": CLASS_PATH}
RIG = RingRig(num_views=4, fov_deg=120.0, height=32, width=48)


def ring(levels):
    return camera_geometry(*RIG.cameras(), 8, 12, 4, levels, kind=UpstreamAttention)


@torch.no_grad()
def test_features_are_those_of_grid_sample_with_aligned_corners_and_zeros():
    [taps] = ring(1).levels
    hidden = torch.randn(1, 4, 32, 8, 12)
    tokens = hidden.flatten(-2).transpose(-1, -2).contiguous()
    found = UpstreamAttention(32)._gather(tokens, taps, torch.zeros(1, 1, 1, dtype=torch.long))[0]
    [geometry] = ring_tap_geometry(*RIG.cameras(), 32, 48, [4])
    border = ((geometry.taps_xy < 0) | (geometry.taps_xy > torch.tensor([11.0, 7.0]))).any(-1) & geometry.valid
    assert border.any()  # between the outermost cells and the image's border
    for view in range(4):
        for slot, other in enumerate(geometry.neighbours[view].tolist()):
            grid = geometry.taps_xy[view, slot] / torch.tensor([11.0, 7.0]) * 2 - 1
            expected = F.grid_sample(hidden[:, other], grid[None], align_corners=True, padding_mode="zeros")[0]
            expected = expected.permute(1, 2, 0) * geometry.valid[view, slot, ..., None]
            assert_close(found[view, :, 9 * slot : 9 * slot + 9], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mid_place", ["after_first_resnet", "after_mid_block"])
@torch.no_grad()
def test_places_match_hooks_on_the_stock_unet(mid_place):
    unet = make_unet()
    sample, timesteps, text, _ = make_inputs(unet, 8, 12)
    model = make_trained(unet, attention=UPSTREAM, mid_place=mid_place)
    geometry = ring(3)
    found = model(sample, timesteps, text, geometry)
    handles = hooked(unet, model.adapter, geometry, batch=2)
    expected = stock(unet, sample, timesteps, text)
    for handle in handles:
        handle.remove()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - stock(unet, sample, timesteps, text)).abs().max() > 1e-3


@torch.no_grad()
def test_a_fresh_adapter_and_one_view_are_the_stock_unet_bit_for_bit():
    unet = make_unet()
    sample, timesteps, text, _ = make_inputs(unet, 8, 12)
    fresh = MultiViewUNet(unet, MultiViewAdapter.from_unet(unet, UPSTREAM))
    assert torch.equal(fresh(sample, timesteps, text, ring(3)), stock(unet, sample, timesteps, text))
    trained = make_trained(unet, attention=UPSTREAM)
    one = sample[:, :1], timesteps, text[:, :1]
    geometry = camera_geometry(
        *RingRig(num_views=1, height=32, width=48).cameras(), 8, 12, 4, 3, kind=UpstreamAttention
    )
    assert torch.equal(trained(*one, geometry), stock(unet, *one))


def test_settings_that_upstream_has_not_are_refused():
    unet = make_unet()
    for settings, text in (
        ({"neighbours": [[1], [0]]}, "UpstreamAttention has unknown neighbours; it takes depth"),
        ({"depth": True, "kernel_size": 3}, "kernel_size must be 1 or left out when depth is true; got 3"),
        ({"min_overlap": 0.3}, r"min_overlap must be left out when depth is false; got 0\.3"),
    ):
        with pytest.raises(ValueError, match=text):
            MultiViewAdapter.from_unet(unet, UPSTREAM | {"init_args": settings})


@torch.no_grad()
def test_views_in_chunks_change_nothing():
    unet = make_unet()
    sample, timesteps, text, _ = make_inputs(unet, 8, 12)
    model = make_trained(unet, attention=UPSTREAM)
    geometry = ring(3)
    expected = model(sample, timesteps, text, geometry)
    for views in (1, 3):
        model.set_views_per_chunk(views)
        assert_close(model(sample, timesteps, text, geometry), expected, atol=1e-5, rtol=1e-5)
