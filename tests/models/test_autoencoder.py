import json

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file
from torch.testing import assert_close

from mvdiff.models.autoencoder import autoencoder_stride, decode_latents, encode_images, load_autoencoder


@pytest.fixture(scope="module")
def variational():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=3,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()


def images(number=2, height=16, width=24):
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


@torch.no_grad()
def test_latents_are_shifted_scaled_and_drawn_from_the_given_generator(variational):
    # Latent = ((mean + std * noise) - 0.25) * 0.5, with the noise of the generator given and of no other.
    pixels = images()
    distribution = variational.encode(pixels).latent_dist
    noise = torch.randn(distribution.mean.shape, generator=torch.Generator().manual_seed(7))
    before = torch.get_rng_state()
    found = encode_images(variational, pixels, torch.Generator().manual_seed(7))
    assert torch.equal(before, torch.get_rng_state())
    assert_close(found, (distribution.mean + distribution.std * noise - 0.25) * 0.5)
    assert_close(encode_images(variational, pixels), (distribution.mean - 0.25) * 0.5)
    decoded = variational.decode(found / 0.5 + 0.25).sample.clamp(-1, 1)
    assert_close(decode_latents(variational, found), decoded)


def test_numbers_per_channel_of_the_latents_are_refused(variational, tmp_path):
    variational.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latents_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(ValueError, match="latents_mean of the vae must be null; got a value for each latent channel"):
        load_autoencoder(tmp_path)


@torch.no_grad()
def test_a_generator_per_image_makes_an_image_independent_of_its_batch(variational):
    pixels = images(3)
    together = encode_images(variational, pixels, [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    alone = encode_images(variational, pixels[1:2], [torch.Generator().manual_seed(2)])
    assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="one per image; got 1 for 3 images"):
        encode_images(variational, pixels, [torch.Generator()])


@torch.no_grad()
def test_half_precision_autoencoders_return_float32(variational):
    half = AutoencoderKL.from_config(variational.config)
    half.load_state_dict(variational.state_dict())
    half.to(torch.bfloat16)
    latents = encode_images(half, images())
    assert latents.dtype == torch.float32
    assert decode_latents(half, latents).dtype == torch.float32


def test_opens_diffusers_folders_of_any_class(variational, tmp_path):
    variational.save_pretrained(tmp_path / "kl")
    torch.manual_seed(0)
    plain = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    plain.save_pretrained(tmp_path / "base" / "vae")
    for folder, original in ((tmp_path / "kl", variational), (tmp_path / "base", plain)):
        loaded = load_autoencoder(folder)
        assert type(loaded) is type(original)
        assert autoencoder_stride(loaded) == 2
        with torch.no_grad():
            latents = encode_images(loaded, images(), torch.Generator().manual_seed(1))
            assert_close(latents, encode_images(original, images(), torch.Generator().manual_seed(1)))
            assert decode_latents(loaded, latents).shape == images().shape


def test_raw_taesd_files_are_the_same_model_with_the_decoder_one_layer_later(tmp_path):
    torch.manual_seed(0)
    original = AutoencoderTiny()
    raw = {"encoder": {}, "decoder": {}}
    for key, tensor in original.state_dict().items():
        part, _, layer, rest = key.split(".", 3)
        raw[part][f"{int(layer) + (part == 'decoder')}.{rest}"] = tensor
    for part, tensors in raw.items():
        save_file(tensors, tmp_path / f"taesd_{part}.safetensors")
    loaded = load_autoencoder(tmp_path)
    for key, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
    save_file(raw["encoder"], tmp_path / "taesd_decoder.safetensors")
    with pytest.raises(ValueError, match="vae must have TAESD's weights"):
        load_autoencoder(tmp_path)
    (tmp_path / "taesd_decoder.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"readable safetensors file; got .*taesd_decoder\.safetensors"):
        load_autoencoder(tmp_path)


@torch.no_grad()
def test_real_taesd_gives_a_real_picture_back(test_data):
    folder = test_data / "weights" / "taesd"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    photo = next((test_data / "data" / "mp3d_skybox").glob("old_hall/*/*_skybox2_sami.jpg"))
    pixels = pil_to_tensor(Image.open(photo))[None, :, 128:384, 128:384].float() / 127.5 - 1
    vae = load_autoencoder(folder)
    assert autoencoder_stride(vae) == 8
    back = decode_latents(vae, encode_images(vae, pixels))
    psnr = 10 * torch.log10(4 / (back - pixels).square().mean())
    assert psnr > 20


def test_errors_name_the_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match="vae must be an existing folder or a hub id"):
        load_autoencoder(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"got no config\.json, in "):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ValueError, match=r"vae must be .*; got class 'UNet2DConditionModel'"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json must (be|hold a) JSON .*\. Download"):
        load_autoencoder(tmp_path)
