"""All-view attention against the formula, one token at a time, and what every attention across views must keep."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.attention import UpstreamAttention
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.attention import AllViewAttention, CorrespondenceAwareAttention, Level
from mvdiff.models.multiview_unet import MultiViewUNet
from tests.geometries import camera_geometry
from tests.models.test_depth_geometry import wall
from tests.models.test_multiview_unet import gradients_of, make_inputs, make_trained, make_unet, stock

HEIGHT, WIDTH, STRIDE = 2, 1, 8
RIG = RingRig(num_views=4, fov_deg=100.0, height=HEIGHT * STRIDE, width=WIDTH * STRIDE)
RAYS = pytest.mark.parametrize("rays", [False, True])


def taps_of(rays=False, rig=RIG):
    height, width = rig.height // STRIDE, rig.width // STRIDE
    [taps] = camera_geometry(*rig.cameras(), height, width, STRIDE, 1, kind=AllViewAttention, rays=rays).levels
    return taps


def trained_block(rays=False, channels=16, head_dim=8):
    torch.manual_seed(0)
    block = AllViewAttention(channels, head_dim=head_dim, rays=rays)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def maps(batch=2, views=4, channels=16):
    return torch.randn(batch, views, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def gamma(rig, view, row, column, channels):
    """Encode the direction of a cell's centre, by the pinhole's tangent and a turn about the vertical axis."""
    x = (STRIDE * column + (STRIDE - 1) / 2) - (rig.width - 1) / 2
    y = (STRIDE * row + (STRIDE - 1) / 2) - (rig.height - 1) / 2
    z = rig.width / 2 / math.tan(math.radians(100) / 2)
    yaw, length = math.radians(90 * view), math.sqrt(x * x + y * y + z * z)
    ray = [(x * math.cos(yaw) + z * math.sin(yaw)) / length, y / length]
    ray.append((z * math.cos(yaw) - x * math.sin(yaw)) / length)
    bands = channels // 6
    waves = [4.0 * (0.2 / 4.0) ** (k / (bands - 1)) for k in range(bands)]
    angles = [2 * math.pi * value / wave for value in ray for wave in waves]
    encoded = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(encoded + [0.0] * (channels - len(encoded)))


def plain(block, hidden, valid, lenders):
    """Compute the block from its formula, one query, one head and one key at a time."""
    outputs = torch.zeros_like(hidden)
    places = [(v, y, x) for v in range(hidden.shape[1]) for y in range(HEIGHT) for x in range(WIDTH)]

    def seen(b, v, y, x):
        token = hidden[b, v, :, y, x]
        return block.norm1(token + gamma(RIG, v, y, x, block.channels) if block.rays else token)

    for b in range(hidden.shape[0]):
        lent = [seen(int(lenders[b]), *place) for place in places if valid[lenders[b], place[0]]]
        keys, values = [block.to_k(token) for token in lent], [block.to_v(token) for token in lent]
        for v, y, x in places:
            token = hidden[b, v, :, y, x]
            query, heads = block.to_q(seen(b, v, y, x)), []
            for start in range(0, block.channels, block.head_dim):
                part = slice(start, start + block.head_dim)
                logits = torch.stack([query[part] @ key[part] / math.sqrt(block.head_dim) for key in keys])
                weights = torch.softmax(logits, dim=0)
                heads.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
            token = token + block.to_out(torch.cat(heads))
            value, gate = block.ff.net[0].proj(block.norm2(token)).chunk(2)
            outputs[b, v, :, y, x] = token + block.ff.net[2](value * F.gelu(gate))
    return outputs


@RAYS
def test_matches_the_formula_forward_and_gradients(rays):
    block, hidden = trained_block(rays), maps().requires_grad_()
    valid, lenders = torch.tensor([[True] * 4, [True, True, False, True]]), torch.tensor([1, 0])
    fast = block(hidden, taps_of(rays), valid, lenders)
    slow = plain(block, hidden, valid, lenders)
    assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    target = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2))
    into = [hidden, *block.parameters()]
    for found, expected in zip(*(torch.autograd.grad((out * target).sum(), into) for out in (fast, slow)), strict=True):
        assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)


@RAYS
def test_chunks_of_views_change_rounding_only(rays):
    block, taps, hidden = trained_block(rays), taps_of(rays), maps()
    valid = torch.tensor([[True] * 4, [True, True, False, True]])
    for views in (1, 2, 6, 100):
        assert_close(block(hidden, taps, valid, views_per_chunk=views), block(hidden, taps, valid))


@RAYS
def test_a_changed_view_changes_every_view_and_no_other_sample(rays):
    block, taps, hidden = trained_block(rays), taps_of(rays), maps()
    touched = hidden.clone()
    touched[0, 2] += torch.randn(touched[0, 2].shape, generator=torch.Generator().manual_seed(3))
    changed = (block(touched, taps) - block(hidden, taps)).abs().amax(dim=(2, 3, 4)) > 1e-4
    assert changed.tolist() == [[True] * 4, [False] * 4]


def test_only_rays_tell_cells_apart():
    # Equal features everywhere: without rays all tokens are one, with them each has an answer of its own.
    same = maps()[:, :1, :, :1, :1].expand(2, 4, 16, HEIGHT, WIDTH)
    for rays, spread in ((False, False), (True, True)):
        output = trained_block(rays)(same, taps_of(rays))
        assert ((output - output[:, :1, :, :1, :1]).abs().max() > 1e-3) == spread


def test_padding_is_never_attended_to_and_a_sample_without_views_passes_unchanged():
    block, taps, hidden = trained_block(), taps_of(), maps()
    for part in (block.ff.net[2].weight, block.ff.net[2].bias):
        torch.nn.init.zeros_(part)
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    broken = hidden.clone()
    broken[0, 2] = 1e6
    outputs = [block(one, taps, valid) for one in (hidden, broken)]
    assert torch.equal(*(output[0, [0, 1, 3]] for output in outputs))
    assert torch.equal(outputs[0][1], hidden[1])
    assert not torch.allclose(block(hidden, taps)[0], outputs[0][0])


def test_switched_off_attention_leaves_the_feed_forward():
    block, taps, hidden = trained_block(), taps_of(), maps()
    block.attention_enabled = False
    off = block(hidden, taps)
    block.attention_enabled = True
    assert_close(off, block(hidden, taps, torch.zeros(2, 4, dtype=torch.bool)))
    assert not torch.allclose(off, block(hidden, taps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@RAYS
def test_dtype_is_kept_and_values_stay_near(rays, dtype):
    block, taps, hidden = trained_block(rays), taps_of(rays), maps()
    expected = block(hidden, taps)
    found = block.to(dtype)(hidden.to(dtype), taps)
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-5)


ATTENTION = {"class_path": "mvdiff.models.attention.AllViewAttention", "init_args": {"head_dim": 8, "rays": True}}


def unet_inputs(unet, views=4):
    sample, timesteps, text, _ = make_inputs(unet, views=views)
    K, R = RingRig(num_views=views, fov_deg=120.0, height=32, width=32).cameras()
    return sample, timesteps, text, camera_geometry(K, R, 8, 8, 4, 3, kind=AllViewAttention, rays=True)


@torch.no_grad()
def test_a_fresh_adapter_is_the_stock_unet_bit_for_bit_and_a_trained_one_is_not():
    unet = make_unet().requires_grad_(False)
    inputs = unet_inputs(unet)
    expected = stock(unet, *inputs[:3])
    assert torch.equal(MultiViewUNet.from_unet(unet, MultiViewAdapter.from_unet(unet, ATTENTION))(*inputs), expected)
    assert (make_trained(unet, attention=ATTENTION)(*inputs) - expected).abs().max() > 1e-3


def test_recomputed_activations_and_chunks_give_the_same_gradients():
    model = make_trained(make_unet(), attention=ATTENTION).train()
    inputs = unet_inputs(model.unet)
    loss, expected = gradients_of(model, inputs)
    model.enable_gradient_checkpointing()
    model.set_views_per_chunk(3)
    again, found = gradients_of(model, inputs)
    assert_close(again, loss)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_views_with_depth_are_attended_to_without_rays():
    K, R, t, depths = wall(3, step=0.4)
    batch = MultiViewBatch.from_cameras(K, R, *depths.shape[-2:], t, depths)
    level = Level(HEIGHT, WIDTH, STRIDE)
    [taps] = AllViewAttention(16, head_dim=8).build_taps(batch, [level])
    block, hidden = trained_block(), maps(batch=1, views=3)
    assert_close(
        block(hidden, taps), plain(block, hidden, torch.ones(1, 3, dtype=torch.bool), [0]), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"rays must be false for frames with depth; got true"):
        AllViewAttention(16, head_dim=8, rays=True).build_taps(batch, [level])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CorrespondenceAwareAttention, {"kernel_size": 1}),
        (CorrespondenceAwareAttention, {"wavelengths": None}),
        (UpstreamAttention, {}),
        (AllViewAttention, {}),
        (AllViewAttention, {"rays": True}),
    ],
)
def test_all_attentions_have_the_parameters_of_the_papers(kind, settings):
    def count(block):
        return sum(parameter.numel() for parameter in block.parameters())

    assert count(kind(64, **settings)) == count(CorrespondenceAwareAttention(64)) == 16 * 64**2 + 14 * 64


def test_taps_with_rays_belong_to_attention_with_rays():
    for own, other in ((False, True), (True, False)):
        with pytest.raises(ValueError, match=rf"taps must have rays only if .* \(rays: {own}\)"):
            trained_block(own)(maps(), taps_of(other))
