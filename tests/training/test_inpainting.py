"""Training of an inpainting base on single views, with a tiny real base."""

import dataclasses

import pytest
import torch

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.known import view_known
from mvdiff.diffusion import sample_timesteps, view_noise
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.backbone import load_backbone
from mvdiff.models.inpainting import generation_mask
from mvdiff.training.single_view import SingleViewModule
from tests.training.grouped import grouped
from tests.training.test_depth import trainer
from tests.training.test_multi_view import PREFIX, RIG, batch_of


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2, batch_size=2)


def make(folder, out, **settings):
    settings = {"num_inference_steps": 2, "num_validation_samples": 2, "add_input": True} | settings
    return SingleViewModule(out=str(out), task="outpaint", base=str(folder / "base"), **grouped(**settings))


@pytest.fixture(scope="module")
def module(tiny_folder, tmp_path_factory):
    module = make(tiny_folder, tmp_path_factory.mktemp("inpainting") / "out")
    with torch.no_grad():
        module.backbone.unet.conv_in.weight[:, 4:].normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return module


def test_loss_matches_the_formula_written_out(module, data):
    """Every view by itself: its own mask, timestep and noise; given parts count like the others."""
    batch = batch_of(data, (3, 1))
    found = module.noise_loss(batch, batch.prompts)
    base, losses = module.backbone, []
    for view in range(3):
        key = keyed_int("view", 1, view)
        image = batch.images[0, view]
        known = view_known(16, 16, keyed_generator("view-known", 0, 3, key))
        latents = base.encode_images(image[None], [keyed_generator("latent", 0, 3, key)])
        masked = base.encode_images((image * known)[None], [keyed_generator("masked-latent", 0, 3, key)])
        t = sample_timesteps(1000, 0, 3, [key])
        noise = view_noise(0, 3, key, num_views=1, shape=latents.shape[1:])
        sample = torch.cat(
            [base.scheduler.add_noise(latents, noise, t), generation_mask(known, 4)[None], masked], dim=1
        )
        text = base.encode_prompts([f"{PREFIX}{batch.prompts[0][view]}"])
        losses.append((base.unet(sample, t, encoder_hidden_states=text).sample - noise).square().mean())
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)


def test_masks_are_keyed_by_sample_epoch_and_view(module, data):
    batch = batch_of(data, (0, 0), (0, 1))
    known = module.task.single_views(batch, 0).known
    assert known.shape == (2, 3, 1, 16, 16)
    swapped = module.task.single_views(batch_of(data, (0, 1), (0, 0)), 0).known
    assert torch.equal(swapped.flip(0), known)
    assert not torch.equal(module.task.single_views(dataclasses.replace(batch, epoch=1), 0).known, known)


def test_fit_writes_an_inpainting_base(tiny_folder, data, tmp_path):
    module = make(tiny_folder, tmp_path / "out")
    before = load_backbone(tiny_folder / "base")
    trainer(tmp_path, 2, limit_val_batches=1, val_check_interval=2).fit(module, data)
    written = load_backbone(tmp_path / "out")
    assert written.unet.config.in_channels == 9
    assert written.unet.conv_in.weight[:, 4:].abs().max() > 0
    assert written.weights_hashes(["text_encoder"]) == module.backbone.weights_hashes(["text_encoder"])
    assert not torch.equal(written.unet.conv_out.weight, before.unet.conv_out.weight)
    SingleViewModule(out=str(tmp_path / "more"), task="outpaint", base=str(tmp_path / "out"))  # training can go on


def test_bases_without_inpainting_are_refused(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"UNet with 9 input channels.*; got 4"):
        make(tiny_folder, tmp_path, add_input=False)
