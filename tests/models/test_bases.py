"""All families of bases: the stock model bit for bit, gradients, which views see which, files, and diffusers."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.testing import assert_close

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.text_states import cat_states, map_states
from tests import tiny_bases

FAMILIES = tuple(tiny_bases.FAMILIES)
TRANSFORMERS = ("sana", "sd3", "z_image")
SETTINGS = {"attention": {"init_args": {"head_dim": 8}}}
VIEWS, ROWS, COLUMNS = 4, 8, 12


@pytest.fixture(scope="module")
def bases():
    made = {}

    def base(name):
        if name not in made:
            made[name] = tiny_bases.make(name)
        return made[name]

    return base


def texts(base, batch):
    prompts = ["a red room", "a lamp and a chair", "", "wall"] * batch
    with torch.no_grad():
        alone = [base.encode_prompts([prompt]) for prompt in dict.fromkeys(prompts)]
    by_prompt = dict(zip(dict.fromkeys(prompts), alone, strict=True))
    states = cat_states([by_prompt[prompt] for prompt in prompts])
    return map_states(lambda one: one.unflatten(0, (batch, VIEWS)), states)


def inputs(base, adapter, batch=2, views=VIEWS, fov_deg=100.0):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, views, base.latent_channels, ROWS, COLUMNS, generator=generator)
    rig = RingRig(num_views=views, fov_deg=fov_deg, height=ROWS * base.vae_stride, width=COLUMNS * base.vae_stride)
    K, R = (camera.expand(batch, *camera.shape) for camera in rig.cameras())
    cameras = MultiViewBatch.from_cameras(K, R, rig.height, rig.width)
    geometry = adapter.geometry(cameras, base.vae_stride)
    text = map_states(lambda one: one[:, :views], texts(base, batch))
    return sample, torch.tensor([7.0, 801.0])[:batch], text, geometry


def stock(base, sample, timesteps, text):
    rows = (sample.flatten(0, 1), timesteps.repeat_interleave(sample.shape[1]))
    return base.predict(*rows, map_states(lambda one: one.flatten(0, 1), text)).unflatten(0, sample.shape[:2])


def trained(base, **settings):
    torch.manual_seed(3)
    adapter = base.new_adapter(**SETTINGS, **settings)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return base.multi_view(adapter)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_fresh_adapter_one_view_and_no_geometry_are_the_stock_model_bit_for_bit(bases, name, batch):
    base = bases(name)
    fresh, model = base.multi_view(base.new_adapter(**SETTINGS)), trained(base)
    sample, timesteps, text, geometry = inputs(base, model.adapter, batch)
    expected = stock(base, sample, timesteps, text)
    assert torch.equal(fresh(sample, timesteps, text, geometry), expected)
    assert torch.equal(model(sample, timesteps, text, None), expected)
    one = sample[:, :1], timesteps, map_states(lambda states: states[:, :1], text)
    assert torch.equal(model(*one, geometry), stock(base, *one))
    assert (model(sample, timesteps, text, geometry) - expected).abs().max() > 1e-3
    assert torch.equal(stock(base, sample, timesteps, text), expected), "nothing stays in the network"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_output_projection_gets_gradient_and_the_base_none(bases, name):
    base = bases(name)
    model = base.multi_view(base.new_adapter(**SETTINGS)).train()
    model(*inputs(base, model.adapter)).square().mean().backward()
    for block in model.adapter.blocks:
        assert block.to_out.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in base.parameters())
    assert {id(p) for p in model.trainable_parameters()} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_no_gradient_even_with_two_scenes_before_the_backward_pass(bases, name):
    """The second scene must not take the place of the first when its blocks run again."""
    base = bases(name)
    model = trained(base).train()
    first = inputs(base, model.adapter, batch=1)
    second = inputs(base, model.adapter, batch=1, fov_deg=140.0)

    def gradients():
        model.zero_grad()
        (model(*first).square().mean() + model(*second).square().mean()).backward()
        return [parameter.grad.clone() for parameter in model.trainable_parameters()]

    plain = gradients()
    model.enable_gradient_checkpointing()
    for one, other in zip(plain, gradients(), strict=True):
        assert torch.isfinite(one).all()
        assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert not getattr(base.unet, "gradient_checkpointing", False), "nothing stays in the network"


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_changed_view_changes_only_the_views_that_see_it(bases, name):
    """In a ring of four views of 100 degrees a view sees its two neighbours; a place passes it one view on."""
    base = bases(name)
    depth = {} if name == "sdxl" else {"every": 4}  # one place; the UNet has several
    model = trained(base, **depth)
    for block in model.adapter.blocks if name == "sdxl" else ():
        block.to_out.weight.data.mul_(0 if block is not model.adapter.mid_block else 1)
        block.to_out.bias.data.zero_()
    sample, timesteps, text, geometry = inputs(base, model.adapter, batch=1)
    before = model(sample, timesteps, text, geometry)
    touched = sample.clone()
    touched[:, 2] += 1.0
    change = (model(touched, timesteps, text, geometry) - before).abs().amax((2, 3, 4))[0]
    assert change[0] == 0
    assert (change[1:] > 1e-6).all()
    foreign = model(sample, timesteps, text, geometry, neighbour_batch=torch.tensor([0]))
    assert torch.equal(foreign, before)
    valid = torch.tensor([[True, True, False, True]])
    padded = [model(one, timesteps, text, geometry, view_valid=valid) for one in (sample, touched)]
    assert torch.equal(padded[0][:, [0, 1, 3]], padded[1][:, [0, 1, 3]])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_saved_bases_and_adapters_load_and_predict_the_same(bases, name, tmp_path):
    base = bases(name)
    loaded = load_backbone(tiny_bases.write(tmp_path / "base", name))
    assert type(loaded) is type(base)
    assert loaded.weights_hash() == base.weights_hash()
    assert loaded.scheduler.config.get("shift") == base.scheduler.config.get("shift")
    model = trained(base)
    model.adapter.save_pretrained(str(tmp_path / "adapter"))
    again = loaded.multi_view(MultiViewAdapter.from_pretrained(tmp_path / "adapter"))
    rows = inputs(base, model.adapter)
    assert torch.equal(again(*rows), model(*rows))
    for states, other in zip(texts(base, 1).values(), texts(loaded, 1).values(), strict=True):
        assert torch.equal(states, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_say_where_attention_stands_and_what_is_predicted(bases, name):
    base = bases(name)
    sites, modules = base.sites(), dict(base.unet.named_modules())
    assert [site.channels for site in sites] == [block.channels for block in base.new_adapter(**SETTINGS).blocks]
    assert all(site.after in modules for site in sites)
    cells = {"sdxl": [1, 2, 2, 2, 1], "sana": [1] * 4, "sd3": [2] * 4, "z_image": [2] * 4}
    assert [site.cell for site in sites] == cells[name]
    assert base.prediction_type == ("epsilon" if name == "sdxl" else "flow")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_places_follow_the_setting_and_another_network_is_refused(bases, name):
    base = bases(name)
    assert len(base.new_adapter(**SETTINGS).blocks) == 4
    adapter = base.new_adapter(**SETTINGS, every=2)
    assert [place.rsplit(".", 1)[1] for place in adapter.config.sites["after"]] == ["1", "3"]
    with pytest.raises(ValueError, match=r"every must be from 1 to 4.*got 5"):
        base.new_adapter(every=5)
    with pytest.raises(ValueError, match="image_condition"):
        base.new_adapter(**SETTINGS, image_condition=True)
    other = bases("sana" if name != "sana" else "sd3")
    with pytest.raises(ValueError, match="another model"):
        other.multi_view(adapter if name != "sana" else base.new_adapter(**SETTINGS, residual=True))
    with pytest.raises(ValueError, match=r"views_per_chunk must be null.*got 2\. In training, .*; in sampling, "):
        base.multi_view(adapter).set_views_per_chunk(2)


def test_a_unet_that_takes_a_guidance_scale_is_refused(tmp_path):
    folder = tiny_bases.write(tmp_path / "base", "sdxl")
    base = load_backbone(folder)
    base.unet = UNet2DConditionModel.from_config(dict(base.unet.config) | {"time_cond_proj_dim": 8})
    base.unet.save_pretrained(str(folder / "unet"))
    with pytest.raises(ValueError, match=r"time_cond_proj_dim of the base's UNet must be null; got 8 .*, in .*base"):
        load_backbone(folder)
    with pytest.raises(ValueError, match=r"unet.config.time_cond_proj_dim must be None; got 8"):
        base.new_adapter(**SETTINGS)


@torch.no_grad()
def test_sdxls_autoencoder_does_not_run_in_float16():
    base = tiny_bases.make("sdxl")
    base.vae.half()
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0)) * 1e3
    images = base.decode_latents(latents)
    back = base.encode_images(images)
    assert base.vae.dtype == torch.float16
    base.vae.float()
    assert torch.equal(base.decode_latents(latents), images)
    assert torch.equal(base.encode_images(images), back)


@torch.no_grad()
def test_sdxl_takes_the_channels_of_inpainting():
    base, task = tiny_bases.make("sdxl"), OutpaintTask()
    task.add_input(base.unet)
    task.check_base(base.unet, base.latent_channels)
    model = base.multi_view(base.new_adapter(**SETTINGS))
    sample, timesteps, text, geometry = inputs(base, model.adapter)
    plain = stock(base, torch.cat([sample, torch.zeros_like(sample), sample[:, :, :1]], dim=2), timesteps, text)
    assert plain.shape == sample.shape
    assert_close(plain, stock(tiny_bases.make("sdxl"), sample, timesteps, text))  # new channels have zero weights
    channels = torch.cat([sample, sample, sample[:, :, :1]], dim=2)
    assert torch.equal(model(channels, timesteps, text, geometry), stock(base, channels, timesteps, text))


@torch.no_grad()
def test_sd3_reads_with_t5_what_clip_cuts_off():
    """The 333 states are 77 of CLIP and 256 of T5, whose tokenizer here counts words as CLIP's does."""
    base = tiny_bases.make("sd3")
    ends = [" ".join(["red"] * 150 + [word]) for word in ("lamp", "sofa")]
    one, other = (base.encode_prompts([text]) for text in ends)
    assert torch.equal(one["pooled"], other["pooled"])
    differs = (one["hidden_states"] != other["hidden_states"])[0].any(-1).nonzero()[:, 0]
    assert differs.min() >= 77
    assert base.text_context().describe_cut(ends) is None
    assert "than the 256 that the text encoder reads" in base.text_context().describe_cut(["red " * 300])
    del base.tokenizer.tokenizers["tokenizer_3"], base.text_encoder.encoders["text_encoder_3"]
    assert "than the 77 that the text encoder reads" in base.text_context().describe_cut(ends)


@pytest.mark.parametrize("name", ["sana", "z_image"])
@torch.no_grad()
def test_caches_keep_no_padding_and_restore_what_the_network_reads(bases, name):
    base = bases(name)
    text = map_states(lambda one: one[0], base.encode_prompts(["a red room"]))
    kept = base.to_cache(text)
    assert len(kept["hidden_states"]) == int(text["mask"].sum()) < len(text["mask"])
    back = base.from_cache(kept)
    assert torch.equal(back["mask"], text["mask"])
    assert torch.equal(back["hidden_states"][text["mask"]], text["hidden_states"][text["mask"]])
