"""Outpainting training with a tiny real base: the loss, caches, and a whole run."""

import dataclasses

import pytest
import torch

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.diffusion import sample_timesteps, training_noise
from mvdiff.eval.metrics.given import known_psnr
from mvdiff.keyed import keyed_generator
from mvdiff.models.inpainting import generation_mask
from mvdiff.pipelines.checkpoint import export_checkpoint
from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
from mvdiff.samples import find_samples, read_sample
from mvdiff.settings import CacheSettings
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.settings import OutputSettings
from tests.pipelines.test_outpaint import tiny_inpainting_base
from tests.training.grouped import grouped
from tests.training.test_depth import trainer
from tests.training.test_multi_view import PREFIX, RIG, awaken, batch_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_inpainting_base(tmp_path_factory.mktemp("inpainting"))


def make(base, **settings):
    settings = {"head_dim": 8, "num_inference_steps": 2, "num_validation_samples": 1} | settings
    module = MultiViewModule("outpaint", base=str(base), **grouped(**settings))
    module.configure_model()
    return module


def data_of(tiny_folder, **settings):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2, **{"known": "random"} | settings)


@pytest.fixture(scope="module")
def module(base):
    return awaken(make(base))


def test_loss_matches_the_formula_written_out(module, tiny_folder):
    """All views count, given or not; the condition is [mask | latent of the image, 0 where unknown]."""
    batch = batch_of(data_of(tiny_folder), (3, 1))
    assert 0 < batch.known.mean() < 1
    found = module.noise_loss(batch, batch.prompts)
    base = module.backbone
    latents = base.encode_images(batch.images[0], keyed_generator("latents", 0, 3, 1))
    masked = base.encode_images(batch.images[0] * batch.known[0], keyed_generator("masked-latents", 0, 3, 1))
    t = sample_timesteps(1000, 0, 3, [1])
    noise = training_noise(0, 3, [1], 3, latents.shape[1:])[0]
    noisy = base.scheduler.add_noise(latents, noise, t)
    sample = torch.cat([noisy, generation_mask(batch.known[0], 4), masked], dim=1)[None]
    text = base.encode_prompts([f"{PREFIX}{prompt}" for prompt in batch.prompts[0]])[None]
    predicted = module.unet(sample, t, text, module.adapter.geometry(batch, module.backbone.vae_stride))
    torch.testing.assert_close(found, (predicted[0] - noise).square().mean(), atol=1e-5, rtol=1e-4)


def test_cached_latents_of_other_masks_are_others(base, tiny_folder, tmp_path):
    """With a cache the loss is the same on the second call, and another mask gives another condition."""
    module = make(base, cache=CacheSettings(dir=str(tmp_path / "cache"), latents=True))
    batch = batch_of(data_of(tiny_folder, known="first", yaw=[0]), (0, 1))
    losses = [module.noise_loss(batch, batch.prompts) for _ in range(2)]
    assert torch.equal(*losses)
    latents = module.inputs.latents(batch)
    pictures = module.inputs.encoder(batch, latents).pictures(batch.images, "masked-latent")
    assert not torch.equal(pictures, latents)  # one image, two purposes: noise of their own
    assert torch.equal(module.inputs.encoder(batch, latents).pictures(batch.images, "masked-latent"), pictures)
    moved = dataclasses.replace(batch, known=batch.known.roll(1, dims=1))
    assert not torch.equal(module.noise_loss(moved, batch.prompts), losses[0])


def test_caching_random_masks_is_refused(base, tiny_folder, tmp_path):
    module = make(base, cache=CacheSettings(dir=str(tmp_path), latents=True))
    with pytest.raises(ValueError, match=r"data.known must be 'first' when model.cache.latents is true; got 'random'"):
        trainer(tmp_path, 1).fit(module, data_of(tiny_folder, yaw=[0]))


def test_data_must_say_what_is_given(module, tiny_folder, tmp_path):
    batch = batch_of(data_of(tiny_folder, known=None), (0, 0))
    with pytest.raises(ValueError, match="known is required for every view"):
        module.noise_loss(batch, batch.prompts)


def test_bases_without_inpainting_are_refused(tiny_folder):
    with pytest.raises(ValueError, match=r"UNet with 9 input channels.*; got 4"):
        make(tiny_folder / "base")


def test_a_run_trains_validates_tests_and_exports(base, tiny_folder, tmp_path):
    module = make(base, output=OutputSettings(dir=str(tmp_path / "samples"), metrics=["given", "sharpness"]))
    data = data_of(tiny_folder, known="mixed", batch_size=2)
    fit = trainer(tmp_path, 2, val_check_interval=2, enable_checkpointing=True)
    before = {name: value.clone() for name, value in module.backbone.unet.named_parameters()}
    fit.fit(module, data)
    assert {"val/loss", "val/overlap_psnr"} <= set(fit.logged_metrics)
    assert all(torch.equal(before[name], value) for name, value in module.backbone.unet.named_parameters())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    info = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "model")
    assert (info.task.name, info.views) == ("outpaint", {"rig": RIG})
    loaded = MVDiffusionOutpaintPipeline.from_pretrained(tmp_path / "model")
    for name, value in loaded.adapter.state_dict().items():
        torch.testing.assert_close(value, module.adapter.state_dict()[name])
    fit.test(module, data)
    folders = find_samples(tmp_path / "samples" / "generated")
    assert len(folders) == 2
    scores = []
    for folder in folders:
        sample = read_sample(folder)
        given, known = sample.given()
        assert known.mean(dim=(1, 2, 3)).tolist() == [1.0, 0.0, 0.0]  # the paper's form
        assert sample.record.settings["paste_back"] is False
        scores.append(known_psnr(sample.images_uint8(), given, known))
    assert float(fit.logged_metrics["test/known_psnr"]) == pytest.approx(sum(scores) / 2, abs=1e-3)
    assert "test/given_overlap_psnr" in fit.logged_metrics
