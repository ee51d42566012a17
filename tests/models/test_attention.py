import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import Conv2d, GroupNorm, ReLU, Sequential
from torch.testing import assert_close

from mvdiff.geometry.cameras import Rig, RingAndPolesRig, RingRig
from mvdiff.geometry.correspondence import tap_geometry
from mvdiff.models.attention import CorrespondenceAwareAttention
from mvdiff.models.attention.taps import PackedTaps
from mvdiff.models.residual import ResidualBlock
from tests.plain_attention import reference_attention

RIGS = {
    "ring": (RingRig(num_views=8, height=24, width=40), 3),
    "ring of narrow views, blind middles": (RingRig(num_views=6, fov_deg=70.0, height=40, width=40), 3),
    "ring and poles": (RingAndPolesRig(num_views=5, height=24, width=24), 1),
    "two views": (Rig([(0.0, 0.0, 90.0), (30.0, 10.0, 70.0)], height=24, width=32), 3),
}


def make(rig, kernel_size=3):
    geometry = tap_geometry(*rig.cameras(), rig.height, rig.width, 8, kernel_size=kernel_size)
    return geometry, PackedTaps.from_geometry(geometry)


def trained_block(channels=16, head_dim=8, seed=0, residual=False, **settings):
    torch.manual_seed(seed)
    block = CorrespondenceAwareAttention(channels, head_dim=head_dim, **settings)
    block.residual = ResidualBlock(channels) if residual else None
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def hidden_for(taps, batch=2, channels=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, taps.num_views, channels, taps.height, taps.width, generator=generator)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", RIGS)
def test_matches_the_plain_twin_forward_and_gradients(name, residual):
    rig, kernel_size = RIGS[name]
    geometry, taps = make(rig, kernel_size)
    block = trained_block(residual=residual)
    hidden = hidden_for(taps).requires_grad_()
    valid = torch.ones(2, taps.num_views, dtype=torch.bool)
    valid[1, 1] = False
    fast = block(hidden, taps, valid, torch.tensor([1, 0]))
    plain = reference_attention(block, hidden, geometry, valid, torch.tensor([1, 0]))
    assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    into = [hidden, *block.parameters()]
    target = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((out * target).sum(), into) for out in (fast, plain)]
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)


def test_without_wavelengths_a_tap_does_not_say_where_it_lies():
    rig, kernel_size = RIGS["ring"]
    geometry, taps = make(rig, kernel_size)
    block, hidden = trained_block(wavelengths=None), hidden_for(taps)
    assert_close(block(hidden, taps), reference_attention(block, hidden, geometry), atol=1e-5, rtol=1e-5)
    moved = replace(taps, displacement=taps.displacement + 1, _encodings={})
    assert torch.equal(block(hidden, moved), block(hidden, taps))
    assert not torch.allclose(trained_block()(hidden, moved), trained_block()(hidden, taps))


def test_fresh_block_returns_its_input_bit_for_bit():
    _, taps = make(RIGS["ring"][0])
    hidden = hidden_for(taps)
    block = CorrespondenceAwareAttention(16, head_dim=8)
    assert torch.equal(block(hidden, taps), hidden)
    block.residual = ResidualBlock(16)
    assert torch.equal(block(hidden, taps), hidden)


def test_residual_block_is_that_of_torchs_own_layers():
    block = trained_block(channels=64, residual=True).residual
    plain = Sequential(
        *(GroupNorm(32, 64), ReLU(), Conv2d(64, 64, 3, padding=1, bias=False)),
        *(GroupNorm(32, 64), ReLU(), Conv2d(64, 64, 3, padding=1, bias=False)),
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), block.state_dict().values(), strict=True)))
    hidden = torch.randn(3, 64, 5, 7)
    assert_close(block(hidden), hidden + plain(hidden))


def test_view_on_the_right_speaks_to_the_right_half():
    # Signed golden: view 1 looks 45 degrees to the right of view 0, so it shows what view 0's right half shows; view 7
    # shows the left half. Five columns: 0 and 1 are left, 3 and 4 right.
    _, taps = make(RIGS["ring"][0])
    block = trained_block()
    hidden = hidden_for(taps, batch=1)
    for other, changed in ((1, [False, False, True, True]), (7, [True, True, False, False])):
        touched = hidden.clone()
        touched[:, other] += torch.randn_like(touched[:, other])
        difference = (block(touched, taps) - block(hidden, taps))[0, 0].abs().amax(dim=(0, 1))
        assert (difference > 1e-3)[[0, 1, 3, 4]].tolist() == changed


def test_rolling_the_views_of_a_ring_rolls_the_result():
    _, taps = make(RingRig(num_views=8, height=32, width=48))
    block = trained_block()
    hidden = hidden_for(taps)
    rolled = block(hidden.roll(3, dims=1), taps)
    assert_close(rolled, block(hidden, taps).roll(3, dims=1), atol=1e-4, rtol=1e-4)


def test_padding_is_never_attended_to_and_a_token_without_taps_passes_unchanged():
    rig, _ = RIGS["ring of narrow views, blind middles"]
    _, taps = make(rig)
    blind = ~taps.visible.any(-1).unflatten(-1, (taps.height, taps.width))
    assert blind.any()
    assert not blind.all()
    block = trained_block()
    torch.nn.init.zeros_(block.ff.net[2].weight)
    torch.nn.init.zeros_(block.ff.net[2].bias)
    hidden = hidden_for(taps).requires_grad_()
    output = block(hidden, taps)
    same = (output == hidden).all(dim=2)
    assert torch.equal(same, blind.expand_as(same))

    valid = torch.ones(2, taps.num_views, dtype=torch.bool)
    valid[:, 2] = False
    broken = hidden.detach().clone()
    broken[:, 2] = 1e6
    kept = [view for view in range(taps.num_views) if view != 2]
    assert torch.equal(block(hidden, taps, valid)[:, kept], block(broken, taps, valid)[:, kept])
    none_valid = torch.zeros_like(valid)
    alone = block(hidden, taps, none_valid)
    assert torch.equal(alone, hidden)
    (output.sum() + alone.sum()).backward()
    assert all(torch.isfinite(gradient).all() for gradient in (hidden.grad, block.to_q.weight.grad))


def test_huge_features_of_invisible_cells_do_not_leak():
    # The middle columns of view 1 are the right edge of view 0 and beyond; its right edge nobody in view 0 sees.
    _, taps = make(RIGS["ring"][0])
    block = trained_block()
    hidden = hidden_for(taps, batch=1)
    touched = hidden.clone()
    touched[:, 1, :, :, -1] = float("inf")
    assert torch.equal(block(touched, taps)[:, 0], block(hidden, taps)[:, 0])


def test_switched_off_attention_leaves_the_feed_forward():
    _, taps = make(RIGS["ring"][0])
    block = trained_block()
    hidden = hidden_for(taps)
    block.attention_enabled = False
    off = block(hidden, taps)
    alone = torch.zeros(2, taps.num_views, dtype=torch.bool)
    block.attention_enabled = True
    assert_close(off, block(hidden, taps, alone))
    assert not torch.allclose(off, block(hidden, taps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_kept_and_values_stay_near(dtype):
    _, taps = make(RIGS["ring"][0])
    block = trained_block()
    hidden = hidden_for(taps)
    expected = block(hidden, taps)
    found = block.to(dtype)(hidden.to(dtype), taps)
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_autocast_trains_with_finite_gradients():
    _, taps = make(RIGS["ring"][0])
    block = trained_block()
    hidden = hidden_for(taps).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = block(hidden, taps)
    assert output.dtype == torch.float32
    output.square().mean().backward()
    assert torch.isfinite(hidden.grad).all()
    assert (block(hidden, taps) - output).abs().max() / output.abs().max() < 0.05


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("kernel_size", value) for value in (0, -1, 2)),
        *(("head_dim", value) for value in (0, -8)),
        *(("wavelengths", value) for value in ([0.5], [0, -1], [0, 4], [16, 0.5], [2, 2], [1, 2, 3], [1, math.inf])),
        *(("min_overlap", value) for value in (-0.1, 1.5, math.nan)),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} must .*got {re.escape(str(value))}"):
        CorrespondenceAwareAttention(32, **{name: value})


def test_errors_say_what_to_do():
    _, taps = make(RIGS["ring"][0])
    with pytest.raises(ValueError, match=r"must have 8 views of 3x5 cells.*; got 8 views of 5x3"):
        trained_block()(hidden_for(taps).transpose(-1, -2), taps)
    with pytest.raises(ValueError, match=r"divisible by 4 and by head_dim = 32; got 48"):
        CorrespondenceAwareAttention(48)
