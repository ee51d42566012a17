"""Upstream's attention (docs/checkpoints.md): the block against the plain twin and numbers worked out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.attention import UpstreamAttention
from mvdiff.interop.geometry import upstream_depth_tap_geometry
from mvdiff.interop.taps import encode_keys, frequency_bands
from mvdiff.models.residual import ResidualBlock
from tests.geometries import camera_geometry, depth_geometry
from tests.interop.plain import depth_attention, reference_residual, ring_attention
from tests.models.test_depth_geometry import HEIGHT, WIDTH, padded, wall

RING = RingRig(num_views=8, height=32, width=32)


def trained_block(channels=64, depth=False, highest=2.0**4, seed=0):
    """A block with weights that do something; its frequencies are cut, since float64 and float32 agree only there."""
    torch.manual_seed(seed)
    block = UpstreamAttention(channels, depth=depth)
    block.residual = ResidualBlock(channels) if depth else None
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    block.freq_bands.clamp_(max=highest)
    return block


def ring_geometry(rig=RING, stride=8, levels=1):
    return camera_geometry(
        *rig.cameras(), rig.height // stride, rig.width // stride, stride, levels, kind=UpstreamAttention
    )


def hidden_for(taps, batch=1, channels=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, taps.num_views, channels, taps.height, taps.width, generator=generator)


@torch.no_grad()
def test_matches_the_plain_twin_on_a_ring():
    [taps] = ring_geometry().levels
    block, hidden = trained_block(), hidden_for(taps)
    assert taps.valid.shape == (8, 16, 18)
    assert 0.3 < taps.valid.float().mean() < 0.7  # null tokens take part
    expected = ring_attention(block.double(), hidden[0].double(), *RING.cameras(), (32, 32))
    assert_close(block.float()(hidden, taps)[0], expected.float(), atol=2e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("views", [2, 3, 4])
def test_matches_the_plain_twin_on_views_with_depth(views):
    K, R, t, depths = (value[0] for value in wall(views, step=0.6 if views < 4 else 0.2))
    depths[0, : HEIGHT // 2, : WIDTH // 3] = 0.0  # no depth there
    neighbours = [[other for other in range(views) if other != view] for view in range(views)]
    geometry = depth_geometry(*(value[None] for value in (K, R, t, depths)), 4, 1, kind=UpstreamAttention, depth=True)
    [taps] = geometry.levels
    assert taps.present.all()
    assert 0.1 < (~taps.valid).float().mean() < 0.8
    block = trained_block(depth=True)
    block.freq_bands.copy_(2.0 ** torch.linspace(-6, 3, 32).round())  # exact products, also with |z - 1,000,000|
    hidden = hidden_for(taps)
    twin = block.double()
    expected = depth_attention(twin, hidden[0].double(), K, R, t, depths, neighbours)
    expected = reference_residual(twin.residual, expected)
    assert_close(block.float()(hidden, taps)[0], expected.float(), atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_an_invalid_key_is_the_norms_bias_and_takes_its_share():
    # Wq = 0: all 18 keys weigh 1/18, the null ones too. Features 0 and frequencies 0: a valid key is [0 | 1] before the
    # norm, mean 1/2, variance 1/4: -1 and 1 (eps 1e-5 moves them by 2e-5), plus the bias b. An invalid key is b alone.
    # With Wv = Wo = 1 the update is b + m/18 (-1 or 1) for m valid keys. The query's encoding never comes back.
    [taps] = ring_geometry().levels
    block = UpstreamAttention(32)
    block.freq_bands.zero_()
    block.to_q.weight.zero_()
    for linear in (block.to_v, block.to_out):
        linear.weight.copy_(torch.eye(32))
    bias = torch.linspace(-1, 1, 32)
    block.norm1.bias.copy_(bias)
    update = block(torch.zeros(1, 8, 32, 4, 4), taps)[0].flatten(-2).transpose(-1, -2)
    share = taps.valid.sum(-1, keepdim=True) / 18
    sign = torch.cat([-torch.ones(16), torch.ones(16)])
    assert len(share.unique()) > 2
    assert_close(update, bias + share * sign, atol=1e-4, rtol=0)


@torch.no_grad()
def test_layer_norm_has_eps_1e_5_and_linears_have_no_bias_but_the_last():
    block = UpstreamAttention(320)
    assert block.norm1.eps == block.norm2.eps == 1e-5
    assert [layer.bias is None for layer in (block.to_q, block.to_k, block.to_v, block.to_out)] == [True] * 3 + [False]
    assert (block.num_heads, block.head_dim) == (10, 32)  # C / 32 heads of 32


def test_frequencies_are_powers_of_two_or_of_a_root_of_5000():
    # 320 channels: 80 bands, base 2, the last 2^79. 640 channels: 160 bands, 5000^(2.5 * 159 / 160) = e^(2.484375 * ln
    # 5000) = e^(2.484375 * 8.517193) = e^21.159902 = 1.5476e9. Depth, 320 channels: 160 bands, never base 2.
    assert UpstreamAttention(320).freq_bands.log2().tolist() == list(range(80))
    assert UpstreamAttention(640).freq_bands[-1].item() == pytest.approx(1.5476e9, rel=1e-4)
    assert UpstreamAttention(320, depth=True).freq_bands[-1].item() == pytest.approx(1.5476e9, rel=1e-4)
    assert frequency_bands(16, base_two=False)[1].item() == pytest.approx(5000 ** (2.5 / 16))


def test_encoding_of_a_displacement_in_blocks():
    # Bands 1 and 2, displacement (0.5, -1): [sin 0.5, sin 1 | sin -1, sin -2 | cos 0.5, cos 1 | cos 1, cos 2].
    found = encode_keys(torch.tensor([0.5, -1.0]), None, torch.tensor([1.0, 2.0]))
    expected = [0.479426, 0.841471, -0.841471, -0.909297, 0.877583, 0.540302, 0.540302, -0.416147]
    assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_highest_frequency_is_exact_where_the_product_is():
    # 0.25 * 2^79 = 2^77 has one bit, so float32 and float64 hold the same angle; libm reduces it exactly.
    found = encode_keys(torch.tensor([0.25, 0.5]), None, frequency_bands(80))
    for index, exponent in ((0 * 80 + 79, 77), (1 * 80 + 79, 78), (0 * 80 + 40, 38)):
        assert found[index].item() == pytest.approx(math.sin(2.0**exponent), abs=1e-6)


def test_encoding_of_a_pair_of_keys():
    # Differences 0.5 and 2 with bands 1 and 3: the first key gets [sin 0.5, sin 1.5 | sin 2, sin 6], the second
    # [cos 0.5, cos 1.5 | cos 2, cos 6].
    pair = torch.tensor([[0.5, 2.0], [0.5, 2.0]])
    found = encode_keys(pair, torch.tensor([False, True]), torch.tensor([1.0, 3.0]))
    expected = [[0.479426, 0.997495, 0.909297, -0.279415], [0.877583, 0.070737, -0.416147, 0.960170]]
    assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_last_bit_of_the_geometry_changes_the_update_above_the_frequencies_that_are_cut():
    """Why another order of operations gives other numbers, and why structure is tested below 2^10."""
    rig = RingRig(num_views=8, height=64, width=64)
    [taps] = ring_geometry(rig).levels
    torch.manual_seed(0)
    block = UpstreamAttention(320)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.nn.init.ones_(block.norm1.weight)
    torch.nn.init.zeros_(block.ff.net[2].weight)
    torch.nn.init.zeros_(block.ff.net[2].bias)
    hidden = hidden_for(taps, channels=320)
    nudged = taps._map(torch.clone)
    nudged.encoded.copy_(torch.nextafter(nudged.encoded, torch.tensor(torch.inf)))
    updates = [block(hidden, one) - hidden for one in (taps, nudged)]
    change = (updates[0] - updates[1]).norm() / updates[0].norm()
    assert change > 0.2
    block.freq_bands.clamp_(max=2.0**10)
    updates = [block(hidden, one) - hidden for one in (taps, nudged)]
    assert (updates[0] - updates[1]).norm() / updates[0].norm() < 0.01


def test_a_fresh_block_returns_its_input():
    [taps] = ring_geometry().levels
    hidden = hidden_for(taps, batch=2)
    assert torch.equal(UpstreamAttention(64)(hidden, taps), hidden)
    geometry = depth_geometry(*wall(3), 4, 2, kind=UpstreamAttention, depth=True)
    hidden = hidden_for(geometry.levels[1])
    assert torch.equal(UpstreamAttention(64, depth=True)(hidden, geometry.levels[1]), hidden)


@torch.no_grad()
def test_padding_is_no_key_and_a_batch_is_its_samples():
    one, other = wall(4, step=0.2), wall(2, step=0.4, slope=-0.3, seed=1)
    values = [torch.cat(pair) for pair in zip(one, padded(other, 4), strict=True)]
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    settings = {"stride": 4, "num_levels": 2, "kind": UpstreamAttention, "depth": True}
    batch = depth_geometry(*values, view_valid=valid, **settings)
    alone = [depth_geometry(*sample, **settings) for sample in (one, other)]
    block = trained_block(depth=True)
    for level, taps in enumerate(batch.levels):
        hidden = hidden_for(taps, batch=2)
        together = block(hidden, taps, valid)
        for b, views in enumerate((4, 2)):
            expected = block(hidden[b : b + 1, :views], alone[b].levels[level])
            assert_close(together[b : b + 1, :views], expected, atol=1e-5, rtol=1e-5)
        twice = batch.repeat(2).levels[level]
        both = block(torch.cat([hidden, hidden]), twice, torch.cat([valid, valid]))
        assert_close(both[2:], together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frequencies_stay_float32(dtype):
    block = UpstreamAttention(320).to(dtype)
    assert block.to_q.weight.dtype == dtype
    assert block.freq_bands.dtype == torch.float32
    assert block.freq_bands[-1].item() == 2.0**79  # infinity in half precision
    [taps] = ring_geometry().levels
    assert torch.isfinite(block(hidden_for(taps, channels=320).to(dtype), taps).float()).all()


def test_gradients_are_finite_under_autocast():
    [taps] = ring_geometry().levels
    block = trained_block()
    hidden = hidden_for(taps).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = block(hidden, taps)
    output.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in block.parameters())


def test_compiles_without_graph_breaks():
    [taps] = ring_geometry().levels
    block, hidden = trained_block(), hidden_for(taps)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    assert_close(compiled(hidden, taps), block(hidden, taps))


def test_errors_say_what_to_do():
    [ring] = ring_geometry().levels
    paper = camera_geometry(*RING.cameras(), 4, 4, 8, 1).levels[0]
    with pytest.raises(ValueError, match="taps of UpstreamAttention must be UpstreamTaps; got PackedTaps"):
        trained_block()(hidden_for(ring), paper)
    with pytest.raises(ValueError, match=r"geometry must be for views with depth .*; got one for views that"):
        trained_block(depth=True)(hidden_for(ring), ring)
    K, R, t, depths = (value[0] for value in wall(2))
    with pytest.raises(ValueError, match="height and width must be multiples of 16 pixels, the largest cells"):
        upstream_depth_tap_geometry(K, R, t, depths, [4, 16])
    with pytest.raises(ValueError, match=r"an even number of cells .* got 24x24 in cells of 8 pixels"):
        upstream_depth_tap_geometry(K, R, t, depths[:, :, :24], [8])
