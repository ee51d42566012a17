import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.testing import assert_close

from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.multiview_unet import MultiViewUNet
from tests.geometries import camera_geometry

UNETS = {
    "one level": {
        "block_out_channels": (32,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "two levels, plain blocks": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    },
    "three levels, two layers, linear projections": {
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "use_linear_projection": True,
    },
    "odd settings": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "in_channels": 9,
        "center_input_sample": True,
        "time_embedding_act_fn": "silu",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": (4, 8),
    },
}
VIEWS, STRIDE = 4, 4


def make_unet(name="three levels, two layers, linear projections", seed=0):
    torch.manual_seed(seed)
    settings = {"layers_per_block": 1, "attention_head_dim": 8} | UNETS[name]
    return UNet2DConditionModel(sample_size=8, norm_num_groups=8, cross_attention_dim=16, **settings).eval()


def make_inputs(unet, height=8, width=8, batch=2, views=VIEWS):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, views, unet.config.in_channels, height, width, generator=generator)
    text = torch.randn(batch, views, 5, 16, generator=generator)
    K, R = RingRig(num_views=views, fov_deg=120.0, height=height * STRIDE, width=width * STRIDE).cameras()
    geometry = camera_geometry(K, R, height, width, STRIDE, len(unet.down_blocks))
    return sample, torch.tensor([7, 801])[:batch], text, geometry


def make_trained(unet, **settings):
    torch.manual_seed(3)
    adapter = MultiViewAdapter.from_unet(unet, **settings)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return MultiViewUNet(unet, adapter)


def stock(unet, sample, timesteps, text):
    views = sample.shape[1]
    flat = unet(sample.flatten(0, 1), timesteps.repeat_interleave(views), text.flatten(0, 1)).sample
    return flat.unflatten(0, sample.shape[:2])


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 5)], ids=str)
@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_fresh_adapter_one_view_and_no_geometry_are_the_stock_unet_bit_for_bit(name, size):
    unet = make_unet(name).requires_grad_(False)  # torch multiplies by frozen weights in another way
    sample, timesteps, text, geometry = make_inputs(unet, *size)
    expected = stock(unet, sample, timesteps, text)
    assert torch.equal(MultiViewUNet.from_unet(unet)(sample, timesteps, text, geometry), expected)
    trained = make_trained(unet)
    assert torch.equal(trained(sample, timesteps, text, None), expected)
    one = sample[:, :1], timesteps, text[:, :1]
    assert torch.equal(trained(*one, geometry), stock(unet, *one))
    assert (trained(sample, timesteps, text, geometry) - expected).abs().max() > 1e-3


def hooked(unet, adapter, geometry, batch):
    """The oracle of the places: the stock UNet with the attention hung into it by hooks."""

    def attend(block, level):
        def run(hidden):
            return block(hidden.unflatten(0, (batch, -1)), geometry.levels[level]).flatten(0, 1)

        return run

    handles = []
    last = len(unet.down_blocks) - 1

    def before(module, run):
        def hook(_, inputs, kwargs):
            return ((run(inputs[0]), *inputs[1:]), kwargs)

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    for level, block in enumerate(unet.down_blocks):
        before(unet.mid_block if level == last else block.downsamplers[0], attend(adapter.down_blocks[level], level))
    middle = attend(adapter.mid_block, last)
    place = unet.mid_block.resnets[0] if adapter.config.mid_place == "after_first_resnet" else unet.mid_block
    handles.append(place.register_forward_hook(lambda _module, _inputs, output: middle(output)))
    for index, block in enumerate(unet.up_blocks):
        target = unet.conv_norm_out if index == last else block.upsamplers[0]
        before(target, attend(adapter.up_blocks[index], last - index))
    return handles


@pytest.mark.parametrize("mid_place", ["after_first_resnet", "after_mid_block"])
@pytest.mark.parametrize("name", ["two levels, plain blocks", "three levels, two layers, linear projections"])
@torch.no_grad()
def test_places_match_hooks_on_the_stock_unet(name, mid_place):
    unet = make_unet(name)
    model = make_trained(unet, mid_place=mid_place)
    sample, timesteps, text, geometry = make_inputs(unet, 6, 10)
    found = model(sample, timesteps, text, geometry)
    handles = hooked(unet, model.adapter, geometry, batch=2)
    expected = stock(unet, sample, timesteps, text)
    for handle in handles:
        handle.remove()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch_and_scalars_are_timesteps():
    unet = make_unet()
    model = make_trained(unet)
    sample, timesteps, text, geometry = make_inputs(unet)
    both = model(sample, timesteps, text, geometry)
    for index in range(2):
        alone = model(sample[index : index + 1], int(timesteps[index]), text[index : index + 1], geometry)
        assert_close(alone, both[index : index + 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padded_views_count_for_nothing():
    model = make_trained(make_unet())
    sample, timesteps, text, geometry = make_inputs(model.unet)
    valid = torch.tensor([[True, True, True, False]]).expand(2, -1)
    broken = sample.clone()
    broken[:, 3] = 100.0
    outputs = [model(one, timesteps, text, geometry, view_valid=valid)[:, :3] for one in (sample, broken)]
    assert_close(*outputs, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_controls_foreign_neighbours_and_switched_off_attention():
    model = make_trained(make_unet())
    sample, timesteps, text, geometry = make_inputs(model.unet)
    own = model(sample, timesteps, text, geometry)
    same = model(sample, timesteps, text, geometry, neighbour_batch=torch.tensor([0, 1]))
    foreign = model(sample, timesteps, text, geometry, neighbour_batch=torch.tensor([1, 0]))
    assert torch.equal(own, same)
    assert not torch.allclose(own, foreign)
    model.adapter.set_attention_enabled(False)
    off = model(sample, timesteps, text, geometry)
    touched = sample.clone()
    touched[:, 1:] += 1.0
    assert_close(model(touched, timesteps, text, geometry)[:, 0], off[:, 0], atol=1e-6, rtol=1e-6)
    model.adapter.set_attention_enabled(True)
    assert torch.equal(model(sample, timesteps, text, geometry), own)


def gradients_of(model, inputs):
    model.zero_grad()
    loss = model(*inputs).square().mean()
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.trainable_parameters()]


def test_only_the_adapter_trains_and_checkpointing_changes_nothing():
    model = make_trained(make_unet()).train()
    assert model.adapter.training
    assert not model.unet.training
    inputs = make_inputs(model.unet)
    loss, plain = gradients_of(model, inputs)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.unet.parameters())
    assert {id(p) for p in model.trainable_parameters()} == {id(p) for p in model.parameters() if p.requires_grad}
    model.enable_gradient_checkpointing()
    again, checkpointed = gradients_of(model, inputs)
    assert loss == again
    for one, other in zip(plain, checkpointed, strict=True):
        assert torch.isfinite(one).all()
        assert_close(one, other)


def test_fresh_model_learns_from_its_first_step():
    model = MultiViewUNet.from_unet(make_unet())
    gradients_of(model, make_inputs(model.unet))
    for block in (*model.adapter.down_blocks, model.adapter.mid_block, *model.adapter.up_blocks):
        assert block.to_out.weight.grad.abs().max() > 0


def test_compiles_without_graph_breaks():
    model = make_trained(make_unet("one level"))
    inputs = make_inputs(model.unet)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    loss = compiled(*inputs).square().mean()  # no encoding is cached yet: computed within the graph
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.trainable_parameters()]
    expected, gradients = gradients_of(model, inputs)
    assert_close(loss.item(), expected)
    for one, other in zip(found, gradients, strict=True):
        assert_close(one, other)


@torch.no_grad()
def test_bfloat16_weights_and_autocast_stay_near_float32():
    model = make_trained(make_unet())
    sample, timesteps, text, geometry = make_inputs(model.unet)
    expected = model(sample, timesteps, text, geometry)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(sample, timesteps, text, geometry)
    half = model.to(torch.bfloat16)(sample.bfloat16(), timesteps, text.bfloat16(), geometry)
    assert half.dtype == torch.bfloat16
    for found in (cast, half):
        assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_any_prediction_type_samples(prediction_type):
    model = make_trained(make_unet("two levels, plain blocks"))
    sample, _, text, geometry = make_inputs(model.unet)
    scheduler = DDIMScheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(2)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(model(sample, timestep, text, geometry), timestep, sample).prev_sample
    assert torch.isfinite(sample).all()


def test_errors_name_the_other_model():
    unet = make_unet("one level")
    with pytest.raises(ValueError, match=r"down_channels must be \[32\].*; got \[32, 64\].*another model"):
        MultiViewUNet(unet, MultiViewAdapter([32, 64], 32, [64, 32]))
    torch.manual_seed(0)
    attention = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        norm_num_groups=8,
        cross_attention_dim=16,
        layers_per_block=1,
    )
    with pytest.raises(ValueError, match=r"unet blocks must be .*CrossAttnDownBlock2D.*got AttnDownBlock2D"):
        MultiViewUNet.from_unet(attention)


def test_a_unet_without_a_mid_block_is_refused_wherever_it_enters():
    """Distilled UNets may have none."""
    torch.manual_seed(0)
    settings = UNETS["two levels, plain blocks"] | {"layers_per_block": 1, "mid_block_type": None}
    unet = UNet2DConditionModel(norm_num_groups=8, cross_attention_dim=16, **settings)
    text = r"unet\.mid_block must be a UNetMidBlock2DCrossAttn; got none"
    adapter = MultiViewAdapter([32, 64], 64, [64, 32])
    for enter in (MultiViewAdapter.from_unet, MultiViewUNet.from_unet, lambda unet: MultiViewUNet(unet, adapter)):
        with pytest.raises(ValueError, match=text):
            enter(unet)
