"""What single-view training keeps on disk: embeddings of texts and latents of views, each under all it depends on."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderTiny

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.settings import CacheSettings
from mvdiff.training.inputs import MultiViewInputs, SingleViewInputs
from mvdiff.training.single_view import VALIDATION_EPOCH
from tests.training.test_single_view import RIG, batch_of, make


@pytest.fixture(scope="module")
def data(tiny_folder):
    return EquirectangularDataModule(tiny_folder / "data", rig=RIG, num_val=2, batch_size=2)


@pytest.fixture(scope="module")
def module(tiny_folder):
    return make(tiny_folder)


def test_cached_text_gives_the_same_loss(tiny_folder, module, data, tmp_path):
    cached, batch = make(tiny_folder, cache=CacheSettings(dir=str(tmp_path))), batch_of(data, (0, 0), (0, 1))
    for _ in range(2):
        torch.testing.assert_close(
            cached.noise_loss(batch, batch.prompts), module.noise_loss(batch, batch.prompts), rtol=1e-5, atol=1e-6
        )
    prompts = {prompt for row in batch.prompts for prompt in row}
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(prompts)


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_cached_latents_give_the_same_loss(tiny_folder, data, tmp_path, train_text_encoder):
    """An autoencoder without noise encodes an image to the same latents at any time."""
    AutoencoderTiny(
        encoder_block_out_channels=[8] * 3,
        decoder_block_out_channels=[8] * 3,
        num_encoder_blocks=[1] * 3,
        num_decoder_blocks=[1] * 3,
    ).save_pretrained(tmp_path / "vae")
    settings = {"vae": str(tmp_path / "vae"), "train_text_encoder": train_text_encoder}
    plain = make(tiny_folder, **settings)
    cached = make(tiny_folder, **settings, cache=CacheSettings(dir=str(tmp_path / "cache"), latents=True))
    batch = batch_of(data, (0, 0), (0, 1))
    for epoch in (0, 0, 1):
        batch.epoch = epoch
        torch.testing.assert_close(
            cached.noise_loss(batch, batch.prompts), plain.noise_loss(batch, batch.prompts), rtol=1e-5, atol=1e-6
        )
    prompts = {prompt for row in batch.prompts for prompt in row}
    # one entry per sample; the embeddings of a text encoder in training are not kept
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 + (0 if train_text_encoder else len(prompts))


def test_cached_latents_are_drawn_once_and_for_each_view(module, data, tmp_path):
    cached = SingleViewInputs(module.backbone, 0, "", CacheSettings(dir=str(tmp_path), latents=True))
    batch = batch_of(data, (0, 0))
    batch.images[0, 1] = batch.images[0, 0]
    first = cached.latents(batch)
    assert torch.equal(cached.latents(dataclasses.replace(batch, epoch=VALIDATION_EPOCH)), first)
    assert not torch.equal(first[0, 0], first[0, 1])  # the same image, another view
    of_others = MultiViewInputs(module.backbone, 0, "", CacheSettings(dir=str(tmp_path), latents=True)).latents(batch)
    alone = MultiViewInputs(module.backbone, 0, "", CacheSettings(dir=str(tmp_path / "x"), latents=True)).latents(batch)
    assert torch.equal(of_others, alone)  # multi-view training draws its own, whoever fills the folder first
    unturned = dataclasses.replace(batch, yaw_deg=None, mirrored=None)
    assert cached.latents(unturned).shape == first.shape


def test_a_view_keeps_its_latents_when_views_are_added(module, data):
    batch = batch_of(data, (2, 1))
    fewer = dataclasses.replace(batch, images=batch.images[:, :2])
    torch.testing.assert_close(module.inputs.latents(batch)[:, :2], module.inputs.latents(fewer), rtol=1e-5, atol=1e-5)


def test_a_trained_unet_finds_the_cache_of_the_fresh_one(tiny_folder, data, tmp_path):
    """Latents and embeddings are those of frozen parts, whatever the UNet has become."""
    batch, written = batch_of(data, (0, 0)), []
    for step in range(2):
        module = make(tiny_folder, cache=CacheSettings(dir=str(tmp_path), latents=True))
        with torch.no_grad():
            module.backbone.unet.conv_in.weight.add_(step)
        module.noise_loss(batch, batch.prompts)
        written.append(set(tmp_path.rglob("*.safetensors")))
    assert written[0] == written[1] != set()
