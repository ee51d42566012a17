"""Views in chunks: the same output to within rounding, whatever is switched on beside it."""

import pytest
import torch
from torch.testing import assert_close

from mvdiff.models.conditioning import image_condition
from mvdiff.models.multiview_unet import MultiViewUNet
from tests.geometries import depth_geometry
from tests.models.test_depth_geometry import padded, wall
from tests.models.test_multiview_unet import UNETS, gradients_of, make_inputs, make_trained, make_unet

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CHUNKS = [1, 2, 3, 5, 8, 100]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)], ids=str)
@torch.no_grad()
def test_chunks_change_nothing(size, batch):
    model = make_trained(make_unet())
    inputs = make_inputs(model.unet, *size, batch=batch)
    expected = model(*inputs)
    assert (model(*inputs[:3], None) - expected).abs().max() > 1e-2  # attention does something that could be lost
    for views in CHUNKS:
        model.set_views_per_chunk(views)
        assert_close(model(*inputs), expected, **CLOSE)
    model.set_views_per_chunk(None)
    assert torch.equal(model(*inputs), expected)


@pytest.mark.parametrize("mid_place", ["after_first_resnet", "after_mid_block"])
@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_of_every_kind_of_unet(name, mid_place):
    model = make_trained(make_unet(name), mid_place=mid_place)
    inputs = make_inputs(model.unet)
    expected = model(*inputs)
    model.set_views_per_chunk(3)
    assert_close(model(*inputs), expected, **CLOSE)


def depth_inputs(model: MultiViewUNet, num_levels: int):
    """Two samples of unlike geometry with padding, and one given frame in the first: what the depth task runs on."""
    samples = [padded(wall(count, step=0.4, slope=0.2, seed=count), 4) for count in (4, 3)]
    K, R, t, depths = (torch.cat(values) for values in zip(*samples, strict=True))
    valid = torch.arange(4) < torch.tensor([4, 3])[:, None]
    geometry = depth_geometry(K, R, t, depths, 4, num_levels, view_valid=valid)
    generator = torch.Generator().manual_seed(2)
    height, width = geometry.levels[0].height, geometry.levels[0].width
    sample = torch.randn(2, 4, 4, height, width, generator=generator)
    text = torch.randn(2, 4, 5, 16, generator=generator)
    given = torch.tensor([[True, False, False, False], [False] * 4])
    condition, active = image_condition(torch.randn(2, 4, 4, height, width, generator=generator), given)
    arguments = sample, torch.tensor([7, 801]), text, geometry, valid
    return arguments, {"condition": condition, "condition_active": active}


@torch.no_grad()
def test_with_given_frames_residual_blocks_padding_and_each_sample_its_own_geometry():
    model = make_trained(make_unet(), residual=True, image_condition=True)
    arguments, conditions = depth_inputs(model, 3)
    expected = model(*arguments, **conditions)
    for parted in (False, True):  # few taps make no parts of themselves
        if parted:
            for level in arguments[3].levels:
                object.__setattr__(level, "parts", in_two(level))
            assert_close(model(*arguments, **conditions), expected, **CLOSE)
        for views in CHUNKS:
            model.set_views_per_chunk(views)
            assert_close(model(*arguments, **conditions), expected, **CLOSE)
        model.set_views_per_chunk(None)


def in_two(level):
    """Part a level's tokens by whether they see more than half of what the luckiest sees."""
    counts = level.visible.sum(-1).flatten()
    most = int(counts.max())
    parts = []
    for low, high in ((0, most // 2), (most // 2, most)):
        rows = ((counts > low) & (counts <= high)).nonzero()[:, 0]
        if len(rows):
            parts.append((rows, level._map(lambda values, r=rows: values.flatten(0, 2)[r])))
    return tuple(parts)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same(checkpointing):
    model = make_trained(make_unet()).train()
    inputs = make_inputs(model.unet)
    loss, expected = gradients_of(model, inputs)
    model.enable_gradient_checkpointing(checkpointing)
    model.set_views_per_chunk(3)
    chunked, found = gradients_of(model, inputs)
    assert_close(chunked, loss)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_plain_layers_never_see_more_views_than_asked_for():
    model = make_trained(make_unet())
    inputs = make_inputs(model.unet)
    seen = {}

    def note(module, args, output):
        seen.setdefault(type(module).__name__, set()).add(len(args[0]))

    layers = [m for m in model.unet.modules() if type(m).__name__ in ("ResnetBlock2D", "Transformer2DModel", "Conv2d")]
    handles = [layer.register_forward_hook(note) for layer in layers]
    for views, expected in ((None, {8}), (3, {3, 2}), (1, {1})):
        seen.clear()
        model.set_views_per_chunk(views)
        model(*inputs)
        assert seen == dict.fromkeys(("ResnetBlock2D", "Transformer2DModel", "Conv2d"), expected)
    for handle in handles:
        handle.remove()


def test_controls_still_hold_and_a_wrong_count_is_refused():
    model = make_trained(make_unet())
    sample, timesteps, text, geometry = make_inputs(model.unet)
    order = torch.tensor([1, 0])
    with torch.no_grad():
        expected = model(sample, timesteps, text, geometry, neighbour_batch=order)
        model.set_views_per_chunk(1)
        assert_close(model(sample, timesteps, text, geometry, neighbour_batch=order), expected, **CLOSE)
    for wrong in (0, 2.5, "2", True):
        with pytest.raises(ValueError, match=rf"views_per_chunk must be .* at least 1; got {wrong!r}\."):
            model.set_views_per_chunk(wrong)
    assert model.views_per_chunk == 1
