"""Taps of samples with depth: each sample's own, padding left out."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from mvdiff.geometry import depth_tap_geometry, intrinsics_from_fov, rotation_from_yaw_pitch
from tests.geometries import depth_geometry
from tests.models.test_attention import trained_block
from tests.plain_attention import reference_attention

HEIGHT, WIDTH, STRIDE = 24, 32, 4


def wall(num_views, step=0.4, slope=0.2, seed=0):
    """Cameras that walk to the right before the wall z = 3 + slope x: K, R, t and exact depths [1, V, ...]."""
    K = intrinsics_from_fov(80.0, HEIGHT, WIDTH).expand(num_views, 3, 3)
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(num_views, 2, generator=generator, dtype=torch.float64) * 10 - 5
    R = torch.stack([rotation_from_yaw_pitch(yaw, pitch) for yaw, pitch in turns.tolist()])
    t = torch.zeros(num_views, 3, dtype=torch.float64)
    t[:, 0] = step * torch.arange(num_views)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    rays = torch.einsum("vij,hwj->vhwi", R.double() @ torch.linalg.inv(K.double()), pixels)
    normal = torch.tensor([-slope, 0.0, 1.0], dtype=torch.float64)
    depths = (3 - t @ normal).view(-1, 1, 1) / (rays @ normal)
    return K[None].float(), R[None].float(), t[None].float(), depths[None].float()


def padded(sample, num_views):
    """What collating makes of fewer views."""
    missing = num_views - sample[0].shape[1]
    eye = torch.eye(3).expand(1, missing, 3, 3)
    fills = (eye, eye, torch.zeros(1, missing, 3), torch.zeros(1, missing, HEIGHT, WIDTH))
    return tuple(torch.cat([value, fill], dim=1) for value, fill in zip(sample, fills, strict=True))


def mixed_batch():
    """Four views, and two views with two of padding."""
    samples = [wall(4), padded(wall(2, slope=-0.3, seed=1), 4)]
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    return [torch.cat(values) for values in zip(*samples, strict=True)], valid


def uneven_batch():
    """Six views that all see each other, and two with four of padding: most slots of one table stay empty."""
    samples = [wall(6, step=0.15), padded(wall(2, slope=-0.3, seed=1), 6)]
    return [torch.cat(values) for values in zip(*samples, strict=True)], torch.tensor(
        [[True] * 6, [True] * 2 + [False] * 4]
    )


def build(values, valid=None, levels=2):
    return depth_geometry(*values, STRIDE, levels, view_valid=valid)


def hidden_for(taps, batch, seed=1):
    return torch.randn(
        batch, taps.num_views, 16, taps.height, taps.width, generator=torch.Generator().manual_seed(seed)
    )


@torch.no_grad()
def test_a_batch_attends_as_its_samples_do_alone():
    values, valid = mixed_batch()
    block = trained_block()
    geometry = build(values, valid)
    alone = [build(wall(4)), build(wall(2, slope=-0.3, seed=1))]
    for level, taps in enumerate(geometry.levels):
        hidden = hidden_for(taps, 2)
        together = block(hidden, taps, valid)
        for b, num_views in enumerate((4, 2)):
            own = block(hidden[b : b + 1, :num_views], alone[b].levels[level])
            assert_close(together[b : b + 1, :num_views], own, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_matches_the_plain_twin_on_the_taps_of_the_geometry():
    values = wall(3)
    geometry = build(values, levels=1)
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1]])  # what these cameras see of each other is above 30%
    taps = depth_tap_geometry(*(value[0] for value in values), STRIDE, neighbours)
    block, hidden = trained_block(), hidden_for(geometry.levels[0], 1)
    assert taps.visible.any(dim=(2, 3)).all()
    expected = reference_attention(block, hidden, taps)
    assert_close(block(hidden, geometry.levels[0]), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_nobodys_neighbour_and_has_none():
    values, valid = mixed_batch()
    geometry = build(values, valid)
    for taps in geometry.levels:
        assert taps.visible[1, :2].any()
        assert taps.views[1][taps.visible[1]].max() <= 1
        assert not taps.visible[1, 2:].any()
        hidden = hidden_for(taps, 2)
        broken = hidden.clone()
        broken[1, 2:] = 100.0
        block = trained_block()
        assert torch.equal(block(broken, taps)[1, :2], block(hidden, taps)[1, :2])


def test_views_that_hardly_overlap_attend_to_those_before_and_after():
    K, R, t, depths = wall(4, step=0.05)
    taps = build((K, R, t, depths), levels=1).levels[0]
    assert set(taps.views[0, 0][taps.visible[0, 0]].tolist()) == {1, 2, 3}
    far = build(wall(4, step=9.0, slope=0.0), levels=1).levels[0]  # nobody sees another
    assert not far.visible.any()
    near = build((K, R, t, depths.masked_fill(torch.arange(WIDTH) > 7, 0.0)), levels=1).levels[0]  # 25% has a depth
    assert set(near.views[0, 2][near.visible[0, 2]].tolist()) == {1, 3}
    assert set(near.views[0, 0][near.visible[0, 0]].tolist()) == {1}


def test_a_sample_of_one_view_has_no_neighbours():
    values = padded(wall(1), 3)
    taps = build(values, torch.tensor([[True, False, False]]), levels=1).levels[0]
    assert not taps.visible.any()


def test_parts_of_tokens_attend_as_one_table_does():
    """Values and gradients, also of samples that lend each other their views; every token with a tap is in one part."""
    values, valid = uneven_batch()
    block, lenders = trained_block(), torch.tensor([1, 0])
    taps = build(values, valid, levels=1).levels[0]
    assert taps.parts
    rows = torch.cat([rows for rows, _ in taps.parts])
    assert torch.equal(rows.sort().values, taps.visible.any(-1).flatten().nonzero()[:, 0])
    assert 2 * sum(part.visible.numel() for _, part in taps.parts) < taps.visible.numel()
    hidden = hidden_for(taps, 2).requires_grad_()
    outputs = [block(hidden, one, valid, lenders) for one in (taps, dataclasses.replace(taps, parts=()))]
    assert_close(*outputs, atol=1e-5, rtol=1e-5)
    into = [hidden, *block.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), into) for output in outputs]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-4)


def test_parts_compile_without_graph_breaks():
    values, valid = uneven_batch()
    taps, block = build(values, valid, levels=1).levels[0], trained_block()
    assert taps.parts
    hidden = hidden_for(taps, 2)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    assert_close(compiled(hidden, taps, valid), block(hidden, taps, valid))


def test_where_nobody_sees_another_every_weight_still_gets_a_gradient():
    taps = build(wall(4, step=9.0, slope=0.0), levels=1).levels[0]
    block, hidden = trained_block(), hidden_for(taps, 1)
    block(hidden, taps).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@torch.no_grad()
def test_repeating_serves_guidance():
    values, valid = uneven_batch()
    taps = build(values, valid, levels=1).levels[0]
    twice = build(values, valid, levels=1).repeat(2).levels[0]
    block, hidden = trained_block(), hidden_for(taps, 2)
    both = block(torch.cat([hidden, hidden + 1]), twice)
    assert_close(both[:2], block(hidden, taps), atol=1e-6, rtol=1e-6)
    assert_close(both[2:], block(hidden + 1, taps), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"hidden_states must have 2 samples.*; got 4"):
        block(torch.cat([hidden, hidden]), taps)
