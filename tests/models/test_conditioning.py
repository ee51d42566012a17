import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.testing import assert_close

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.conditioning import (
    NO_DEPTH,
    ImageConditionBlocks,
    add_depth_input,
    depth_condition,
    given_frames,
    image_condition,
)
from mvdiff.models.multiview_unet import MultiViewUNet
from tests.models.test_multiview_unet import UNETS, hooked, make_inputs, make_trained, make_unet, stock

SD2 = {"down_channels": [320, 640, 1280, 1280], "mid_channels": 1280, "up_channels": [1280, 1280, 640, 320]}
TOY = {"down_channels": [64, 128, 128], "mid_channels": 128, "up_channels": [128, 128, 64]}


def test_depth_channel_matches_the_formula_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    depths = 0.5 + 5 * torch.rand(2, 3, 10, 14, generator=generator)
    depths[torch.rand(depths.shape, generator=generator) < 0.3] = 0.0
    depths[0, 0, 0, 0] = math.inf
    depths[0, 1, 4, 8] = math.nan
    found = depth_condition(depths, vae_stride=4)
    assert found.shape == (2, 3, 1, 3, 4)
    for b in range(2):
        for v in range(3):
            frame = depths[b, v]
            inverse = [1 / (d + 1e-6) for d in frame.flatten().tolist() if d > 0 and math.isfinite(d)]
            for row in range(3):
                for column in range(4):
                    d = float(frame[4 * row, 4 * column])
                    expected = NO_DEPTH
                    if d > 0 and math.isfinite(d):
                        span = max(inverse) - min(inverse) + 1e-6
                        expected = 2 * (1 / (d + 1e-6) - min(inverse)) / span - 1
                    assert_close(float(found[b, v, 0, row, column]), expected, atol=2e-6, rtol=1e-5)


def test_depth_channel_golden_is_signed():
    # 1/d of 1, 2, 4 metres is 1, 0.5, 0.25: from far (-1) to near (1) the middle one stands at 2 (0.25 / 0.75) - 1.
    found = depth_condition(torch.tensor([[[[1.0, 2.0], [4.0, 0.0]]]]), vae_stride=1)
    assert_close(found[0, 0, 0], torch.tensor([[1.0, -1 / 3], [-1.0, -2.0]]), atol=1e-5, rtol=0)


def test_frames_are_scaled_one_by_one_and_may_have_no_depth():
    depths = torch.full((1, 3, 4, 6), 2.0)
    depths[0, 0, 0, 0], depths[0, 1] = 1.0, 0.0
    found = depth_condition(depths, 2)
    assert_close(found[0, 0].amax(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert (found[0, 1] == NO_DEPTH).all()
    assert (found[0, 2] == -1).all()  # one distance only
    assert_close(depth_condition(3 * depths, 2), found, atol=1e-4, rtol=0)  # metres or feet


@pytest.mark.parametrize("name", ["one level", "odd settings"])
def test_a_new_depth_channel_changes_nothing_before_training_and_is_saved(name, tmp_path):
    unet = make_unet(name)
    channels = unet.config.in_channels
    sample, timesteps, text, _ = make_inputs(unet)
    with torch.no_grad():
        expected = stock(unet, sample, timesteps, text)
        state = torch.get_rng_state()
        assert add_depth_input(unet) is unet
        assert torch.equal(torch.get_rng_state(), state)  # no draw
        depth = depth_condition(torch.rand(2, 4, 32, 32), 4)
        deep = torch.cat([sample, depth], dim=2)
        assert_close(stock(unet, deep, timesteps, text), expected, atol=1e-5, rtol=1e-5)
    unet.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config.in_channels == unet.config.in_channels == channels + 1
    with torch.no_grad():
        assert torch.equal(stock(loaded, deep, timesteps, text), stock(unet, deep, timesteps, text))
    stock(unet, deep, timesteps, text).square().mean().backward()
    assert unet.conv_in.weight.grad[:, -1].abs().max() > 0  # the new channel learns at once


def test_image_condition_keeps_clean_latents_of_given_frames_alone():
    latents = torch.randn(2, 3, 4, 2, 3)
    given = torch.tensor([[False] * 3, [True, False, True]])
    latents[0] = math.nan  # what is not given is not read
    condition, active = image_condition(latents, given)
    assert condition.shape == (2, 3, 5, 2, 3)
    assert active.tolist() == [False, True]
    assert (condition[0] == 0).all()
    assert (condition[1, 1] == 0).all()
    for view in (0, 2):
        assert torch.equal(condition[1, view, :4], latents[1, view])
        assert (condition[1, view, 4] == 1).all()


def test_given_frames_are_known_as_a_whole_and_no_padding():
    known, valid = torch.zeros(2, 3, 1, 8, 12), torch.tensor([[True] * 3, [True, True, False]])
    known[0, 0] = known[1, 1] = known[1, 2] = 1
    assert given_frames(known, valid).tolist() == [[True, False, False], [False, True, False]]
    assert not given_frames(None, valid).any()


@pytest.mark.parametrize("rows", [slice(None, 4), slice(4, None)], ids=["top", "bottom"])
def test_a_frame_known_in_part_is_refused(rows):
    known = torch.zeros(1, 2, 1, 8, 8)
    known[0, 0, 0, rows] = 1
    with pytest.raises(ValueError, match="known must be 1 or 0 on whole frames; got a frame that is known in part"):
        given_frames(known, torch.ones(1, 2, dtype=torch.bool))


def shapes_of(blocks):
    return [(block.conv1.in_channels, block.conv2.out_channels, block.conv1.stride[0]) for block in blocks]


def test_widths_strides_and_size_for_stable_diffusion_2_are_the_published_ones():
    with torch.device("meta"):
        blocks = ImageConditionBlocks(4, **SD2)
    assert sum(parameter.numel() for parameter in blocks.parameters()) == 27_900_800
    assert shapes_of(blocks.down_blocks) == [(320, 320, 1), (320, 320, 2), (320, 640, 4), (320, 1280, 8)]
    assert shapes_of(blocks.up_blocks) == [(320, 1280, 8), (320, 1280, 4), (320, 1280, 2), (320, 640, 1)]
    assert blocks.mid_block is None
    assert len(blocks.state_dict()) == 2 + 8 * 8


def test_widths_of_the_toy_base():
    blocks = ImageConditionBlocks(4, **TOY)
    assert shapes_of(blocks.down_blocks) == [(64, 64, 1), (64, 64, 2), (64, 128, 4)]
    assert shapes_of(blocks.up_blocks) == [(64, 128, 4), (64, 128, 2), (64, 128, 1)]


def test_a_mid_block_of_another_width_has_a_block_of_its_own():
    blocks = ImageConditionBlocks(4, [32, 64], 64, [64, 32])
    assert shapes_of(blocks.down_blocks) == [(32, 32, 1), (32, 32, 2)]
    assert shapes_of([blocks.mid_block]) == [(32, 64, 2)]


def trained_blocks(**channels):
    torch.manual_seed(0)
    blocks = ImageConditionBlocks(4, **channels)
    for parameter in blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return blocks


@torch.no_grad()
def test_fresh_blocks_and_samples_without_frames_add_exact_zeros():
    condition = torch.randn(2, 3, 5, 7, 9)
    fresh = ImageConditionBlocks(4, **TOY)(condition)
    assert all((added == 0).all() for added in (*fresh.down, fresh.mid, *fresh.up))
    added = trained_blocks(**TOY)(condition, torch.tensor([False, True]))
    for one in (*added.down, added.mid, *added.up):
        assert (one[:3] == 0).all()  # with trained biases, too
        assert one[3:].abs().max() > 0


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5), (1, 3)], ids=str)
@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_conditions_match_hooks_on_the_stock_unet(name, size):
    """Every size fits, also where no stride divides it; the places are those of the adapter's docstring."""
    unet = make_unet(name)
    model = make_trained(unet, image_condition=True, residual=True, mid_place="after_mid_block")
    sample, timesteps, text, geometry = make_inputs(unet, *size)
    condition, active = torch.randn(2, 4, 5, *size), torch.tensor([True, False])
    found = model(sample, timesteps, text, geometry, condition=condition, condition_active=active)
    handles = hooked(unet, model.adapter, geometry, batch=2)
    handles += added_by_hooks(unet, model.adapter.condition_blocks(condition, active))
    expected = stock(unet, sample, timesteps, text)
    for handle in handles:
        handle.remove()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    without = model(sample, timesteps, text, geometry)
    assert_close(found[1], without[1], atol=1e-6, rtol=1e-6)
    assert (found[0] - without[0]).abs().max() > 1e-3


def added_by_hooks(unet, added):
    """What enters a skip connection is the output of conv_in and of the downsamplers, so it is added there."""

    def after(module, value):
        return module.register_forward_hook(lambda _module, _inputs, output: output + value)

    def before(module, value):
        def hook(_, inputs, kwargs):
            if inputs:
                return (inputs[0] + value, *inputs[1:]), kwargs
            return inputs, kwargs | {"hidden_states": kwargs["hidden_states"] + value}

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    handles = [after(unet.conv_in, added.down[0])]
    for block, value in zip(unet.down_blocks[:-1], added.down[1:], strict=True):
        handles.append(after(block.downsamplers[0], value))
    handles.append(before(unet.mid_block, added.mid))
    handles += [before(block, value) for block, value in zip(unet.up_blocks, added.up, strict=True)]
    return handles


@torch.no_grad()
def test_a_fresh_depth_adapter_is_the_stock_unet_bit_for_bit():
    unet = make_unet()
    settings = {"image_condition": True, "residual": True, "mid_place": "after_mid_block"}
    model = MultiViewUNet(unet, MultiViewAdapter.from_unet(unet, **settings))
    sample, timesteps, text, geometry = make_inputs(unet, 7, 9)
    condition = torch.randn(2, 4, 5, 7, 9)
    found = model(sample, timesteps, text, geometry, condition=condition)
    assert torch.equal(found, stock(unet, sample, timesteps, text))


def test_every_trained_parameter_gets_a_gradient_without_given_frames():
    """So that processes which meet other samples in a step reduce the same gradients."""
    unet = make_unet("two levels, plain blocks")
    model = make_trained(unet, image_condition=True, residual=True)
    inputs = make_inputs(unet)
    condition = torch.zeros(2, 4, 5, 8, 8)
    model(*inputs, condition=condition, condition_active=torch.tensor([False, False])).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.trainable_parameters())
    assert all((p.grad == 0).all() for p in model.adapter.condition_blocks.parameters())
    model.zero_grad()
    model(*inputs, condition=condition, condition_active=torch.tensor([True, False])).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.adapter.condition_blocks.parameters() if p.ndim == 1)


def test_a_condition_needs_blocks_for_it():
    model = make_trained(make_unet("one level"))
    inputs = make_inputs(model.unet)
    with pytest.raises(ValueError, match=r"condition must be .* without image_condition"):
        model(*inputs, condition=torch.zeros(2, 4, 5, 8, 8))
