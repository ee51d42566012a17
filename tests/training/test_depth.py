"""Stage 1 and stage 2 of the depth task on painted walls, with a tiny real base."""

import dataclasses

import pytest
import torch
from lightning.pytorch import Trainer

from mvdiff.diffusion import sample_timesteps, training_noise
from mvdiff.keyed import keyed_generator
from mvdiff.models.backbone import load_backbone
from mvdiff.models.conditioning import depth_condition
from mvdiff.settings import CacheSettings
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.inputs import MultiViewInputs
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.single_view import SingleViewModule
from tests.training.grouped import grouped
from tests.training.test_multi_view import awaken, geometry_of
from tests.training.tiny_depth import WallData, tiny_depth_base, wall_batch


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_depth_base(tmp_path_factory.mktemp("depth"))


def make(base, **settings):
    settings = {"head_dim": 8, "num_inference_steps": 2, "num_validation_samples": 0} | settings
    module = MultiViewModule("depth", base=str(base), **grouped(**settings))
    module.configure_model()
    return module


def trainer(folder, steps, **settings):
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"enable_checkpointing": False, "num_sanity_val_steps": 0} | settings,
    )


@pytest.fixture(scope="module")
def module(base):
    return awaken(make(base))


def test_a_fresh_adapter_is_that_of_the_papers_depth_model(base):
    config = make(base).adapter.config
    attention = config.attention["init_args"]
    assert (config.mid_place, attention["min_overlap"]) == ("after_mid_block", 0.3)
    assert (config.residual, config.image_condition, attention["kernel_size"]) == (True, True, 3)
    config = make(base, residual=False, image_condition=False, min_overlap=0.1).adapter.config
    assert (config.residual, config.image_condition) == (False, False)
    assert config.attention["init_args"]["min_overlap"] == 0.1


def test_loss_matches_the_formula_written_out(module):
    """One sample to generate and one to interpolate, padded to its four views; every valid view counts."""
    batch = wall_batch(0, 1, epoch=3)
    assert batch.view_valid.tolist() == [[True, True, True, False], [True] * 4]
    found = module.noise_loss(batch, batch.prompts, reduction="none")
    for index, (loss, num_views) in enumerate(zip(found, (3, 4), strict=True)):
        one = wall_batch(index, epoch=3)
        assert one.num_views == num_views
        latents = module.backbone.encode_images(one.images[0], generator=keyed_generator("latents", 0, 3, index))
        t = sample_timesteps(1000, 0, 3, [index])
        noise = training_noise(0, 3, [index], num_views, latents.shape[1:])
        noisy = module.backbone.scheduler.add_noise(latents, noise[0], t)
        text = module.backbone.encode_prompts(one.prompts[0])
        sample = torch.cat([noisy, depth_condition(one.depths, 4)[0]], dim=1)
        condition = {}
        if index == 1:
            given = torch.tensor([1.0, 0, 0, 1]).view(4, 1, 1, 1)
            mask = given.expand(4, 1, *latents.shape[-2:])
            condition = {"condition": torch.cat([given * latents, mask], dim=1)[None]}
        predicted = module.unet(sample[None], t, text[None], geometry_of(module, one), **condition)
        torch.testing.assert_close(loss, (predicted - noise).square().mean(), atol=1e-5, rtol=1e-4)


def captured(module, batch):
    """What the UNet is given in training."""
    calls = []
    hook = module.unet.register_forward_pre_hook(
        lambda _module, inputs, kwargs: calls.append((inputs, kwargs)), with_kwargs=True
    )
    loss = module.noise_loss(batch, batch.prompts)
    hook.remove()
    ((inputs, kwargs),) = calls
    assert len(inputs) == 3  # noisy latents, timesteps, text
    return loss, inputs, kwargs


@torch.no_grad()
def test_a_sample_to_generate_is_seen_as_in_generation(module):
    """No given frame reaches it: the same as a call without any condition, whatever else is in the batch."""
    _, inputs, kwargs = captured(module, wall_batch(0, 1))
    assert kwargs["condition_active"].tolist() == [False, True]
    assert (kwargs["condition"][0] == 0).all()
    both = module.unet(*inputs, **kwargs)
    sample, timesteps, text = inputs
    alone = geometry_of(module, wall_batch(0))
    plain = module.unet(sample[:1, :3], timesteps[:1], text[:1, :3], alone)
    torch.testing.assert_close(both[:1, :3], plain, atol=1e-5, rtol=1e-5)
    clean = module.inputs.latents(wall_batch(0, 1))
    for given in (0, 3):
        assert torch.equal(kwargs["condition"][1, given, :4], clean[1, given])
    assert (kwargs["condition"][1, 1:3] == 0).all()


@torch.no_grad()
def test_the_images_of_frames_to_generate_reach_the_model_as_noise_alone(module):
    """No leak: other clean images change nothing that the model is given but the noisy latents."""
    batch = wall_batch(0, 1)
    other = dataclasses.replace(batch, images=batch.images.clone())
    other.images[0], other.images[1, 1:3] = 0.5, -0.5
    (_, inputs, kwargs), (_, changed, given) = captured(module, batch), captured(module, other)
    assert not torch.equal(inputs[0][:, :, :4], changed[0][:, :, :4])
    assert torch.equal(inputs[0][:, :, 4:], changed[0][:, :, 4:])
    assert torch.equal(kwargs["condition"], given["condition"])


@torch.no_grad()
def test_given_frames_and_other_views_change_what_is_predicted(module):
    batch = wall_batch(1)
    loss = module.noise_loss(batch, batch.prompts)
    nothing = dataclasses.replace(batch, known=torch.zeros_like(batch.known))
    assert not torch.isclose(loss, module.noise_loss(nothing, batch.prompts))
    absent = dataclasses.replace(batch, known=None)
    assert torch.equal(module.noise_loss(nothing, batch.prompts), module.noise_loss(absent, batch.prompts))


def test_an_adapter_without_image_condition_generates_and_refuses_given_frames(base):
    module = awaken(make(base, image_condition=False))
    assert torch.isfinite(module.noise_loss(wall_batch(0), wall_batch(0).prompts))
    with pytest.raises(ValueError, match=r"condition must be .* without image_condition"):
        module.noise_loss(wall_batch(1), wall_batch(1).prompts)


def test_cached_latents_are_kept_frame_by_frame(module, tmp_path):
    cache = CacheSettings(dir=str(tmp_path), latents=True)
    inputs, batch = MultiViewInputs(module.backbone, 0, "", cache, views_return=True), wall_batch(0, 1)
    latents = inputs.latents(batch)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 + 4 + 1  # and one of padding
    turned = dataclasses.replace(batch, images=batch.images.flip(1), epoch=5, sample_id=["a", "b"])
    assert torch.equal(inputs.latents(turned), latents.flip(1))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8
    torch.testing.assert_close(latents, module.inputs.latents(batch), atol=2.0, rtol=0)  # other noise, the same means
    assert not torch.equal(latents, module.inputs.latents(batch))
    assert not torch.equal(MultiViewInputs(module.backbone, 1, "", cache, views_return=True).latents(batch), latents)


def test_gradients_reach_the_whole_adapter_and_nothing_else(base):
    module = awaken(make(base))
    batch = wall_batch(0, 1)
    module.noise_loss(batch, batch.prompts).backward()
    names = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert names == {f"unet.adapter.{name}" for name, _ in module.adapter.named_parameters()}
    assert all(torch.isfinite(p.grad).all() for p in module.adapter.parameters())
    for part in (module.adapter.condition_blocks, module.adapter.mid_block.residual):
        assert all(p.grad.abs().max() > 0 for p in part.parameters())
    assert {name.split(".")[0] for name in module.state_dict()} == {"adapter"}
    module.lr_scheduler = None
    optimized = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert {id(p) for p in optimized} == {id(p) for p in module.adapter.parameters()}


def test_training_from_scratch_lowers_the_held_out_loss_of_both_modes(base, tmp_path):
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3)  # noqa: E731
    module = make(base, optimizer=optimizer, lr_scheduler=None)
    frozen = {name: value.clone() for name, value in module.backbone.named_parameters() if "adapter" not in name}
    (before,) = trainer(tmp_path, 1).validate(make(base), WallData(), verbose=False)
    assert before["val/loss"] == pytest.approx((before["val/loss_generation"] + before["val/loss_interpolation"]) / 2)
    fit = trainer(tmp_path, 48, callbacks=[TrainedWeightsEMA(decay=0.8)], check_val_every_n_epoch=12)
    fit.fit(module, datamodule=WallData())
    for mode in ("generation", "interpolation"):
        assert float(fit.callback_metrics[f"val/loss_{mode}"]) < 0.9 * before[f"val/loss_{mode}"]
    assert all(torch.equal(value, frozen[name]) for name, value in module.backbone.named_parameters())


def test_a_module_trains_after_it_was_validated(base, tmp_path):
    """Validation by itself runs in inference mode; nothing that it leaves may be needed in training."""
    module = make(base, num_validation_samples=1)
    first, again = (trainer(tmp_path, 1).validate(module, WallData(), verbose=False)[0] for _ in range(2))
    assert first == again
    trainer(tmp_path, 4).fit(module, datamodule=WallData())
    (after,) = trainer(tmp_path, 1).validate(module, WallData(), verbose=False)
    assert after["val/loss"] != first["val/loss"]


def test_data_of_one_mode_logs_that_mode_alone(base, tmp_path):
    (numbers,) = trainer(tmp_path, 1).validate(make(base), WallData("keyframes"), verbose=False)
    assert numbers["val/loss_generation"] == pytest.approx(numbers["val/loss"])
    assert "val/loss_interpolation" not in numbers


def test_stage_1_makes_a_depth_base_of_one_without(base, tmp_path):
    plain = base.parent / "plain"
    settings = {"out": str(tmp_path / "out"), "num_inference_steps": 2, "num_validation_samples": 2}
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=2e-3)  # noqa: E731
    module = SingleViewModule(task="depth", base=str(plain), add_input=True, optimizer=optimizer, **grouped(**settings))
    batch = wall_batch(0, 1, mode="frames")
    with torch.no_grad():
        text = module.inputs.text([[prompt for (prompt,) in batch.prompts]])[0]
        noisy, t = torch.randn(2, 4, 6, 8), torch.tensor([10, 700])
        given = []
        hook = module.backbone.unet.register_forward_pre_hook(lambda _unet, inputs: given.append(inputs[0]))
        predict = module.denoiser(batch, module.inputs.latents(batch), torch.tensor([0, 1]))
        predicted = predict(noisy, t, text)
        hook.remove()
        torch.testing.assert_close(given[0][:, 4:], depth_condition(batch.depths, 4)[:, 0])
        old = load_backbone(plain).unet(noisy, t, encoder_hidden_states=text).sample
        torch.testing.assert_close(predicted, old)
    (before,) = trainer(tmp_path, 1).validate(module, WallData("frames"), verbose=False)
    fit = trainer(tmp_path, 32, check_val_every_n_epoch=8)
    fit.fit(module, datamodule=WallData("frames"))
    assert float(fit.callback_metrics["val/loss"]) < 0.95 * before["val/loss"]
    assert list((tmp_path / "images").glob("val_samples_*.png"))
    written = load_backbone(tmp_path / "out").unet
    assert written.config.in_channels == 5
    assert written.conv_in.weight[:, 4].abs().max() > 0
    assert torch.isfinite(make(tmp_path / "out").noise_loss(wall_batch(0, 1), wall_batch(0, 1).prompts))


def test_bases_without_depth_are_refused(base, tmp_path):
    plain = str(base.parent / "plain")
    with pytest.raises(ValueError, match=r"base must have a UNet with 4 \+ 1 input channels, .*; got 4\."):
        make(plain)
    with pytest.raises(ValueError, match=r"input channels, latents and depth; got 4\. .*model.add_input"):
        SingleViewModule(out=str(tmp_path), task="depth", base=plain)
    with pytest.raises(ValueError, match="add_input must be false for a base"):
        SingleViewModule(out=str(tmp_path), task="depth", base=str(base), add_input=True)


def test_data_without_depth_or_of_a_wrong_size_is_named(module):
    batch = dataclasses.replace(wall_batch(0), depths=None)
    with pytest.raises(ValueError, match="depths are required for every frame"):
        module.noise_loss(batch, batch.prompts)
    batch = wall_batch(0)
    batch = dataclasses.replace(batch, images=batch.images[..., :30], depths=batch.depths[..., :30], known=None)
    with pytest.raises(ValueError, match=r"height and width must be multiples of 4, .*got \[24, 30\]"):
        module.noise_loss(batch, batch.prompts)


def test_lists_of_neighbours_are_refused(base):
    with pytest.raises(ValueError, match="neighbours must be left out for frames with depth"):
        make(base, neighbours=[[1], [0]])  # before any data are read


def test_single_frames_without_depth_are_named(base, tmp_path):
    module = SingleViewModule(out=str(tmp_path), task="depth", base=str(base))
    batch = dataclasses.replace(wall_batch(0, mode="frames"), depths=None)
    with pytest.raises(ValueError, match="depths are required for every frame"):
        module.noise_loss(batch, batch.prompts)
