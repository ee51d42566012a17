"""Load autoencoders (variational or deterministic, diffusers folders or TAESD files); encode and decode images."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from mvdiff.models.loading import build_from_config, load_strictly, read_object, read_tensors, resolve_folder

VAE_PATTERNS = ["*.json", "*.safetensors", "vae/*.json", "vae/*.safetensors"]


def load_autoencoder(
    pretrained_model_name_or_path: str | Path,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    with_weights: bool = True,
) -> nn.Module:
    """Load an autoencoder onto the CPU.

    Args:
        pretrained_model_name_or_path: Folder or hub id, also "owner/name@revision", with a diffusers autoencoder
            (`config.json` names its class), at the top level or in a `vae` subfolder, or with TAESD's original files,
            `taesd_encoder.safetensors` and `taesd_decoder.safetensors`.
        revision: Branch, tag or commit on the hub.
        dtype: Weight precision; default float32.
        with_weights: False builds a diffusers autoencoder from its config.json alone, with random weights.

    Raises:
        FileNotFoundError: There is no autoencoder at that path or id.
        ValueError: The weights cannot be read or belong to another model.
    """
    folder = resolve_folder(pretrained_model_name_or_path, revision, "vae", VAE_PATTERNS)
    if (folder / "taesd_encoder.safetensors").is_file():
        return _load_taesd(folder).to(dtype or torch.float32)
    if not (folder / "config.json").is_file() and (folder / "vae").is_dir():
        folder = folder / "vae"
    config = folder / "config.json"
    name = str(read_object(config).get("_class_name", "AutoencoderKL")) if config.is_file() else "AutoencoderKL"
    if not name.startswith("Autoencoder") or not hasattr(diffusers, name):
        raise ValueError(f"vae must be a diffusers autoencoder; got class {name!r}, in {config}.")
    if not with_weights:
        return build_from_config(getattr(diffusers, name), folder)
    vae = load_strictly(getattr(diffusers, name), folder, dtype)
    for setting in ("scaling_factor", "shift_factor"):
        value = vae.config.get(setting, 1.0) or 0.0
        if not isinstance(value, int | float) or not isfinite(value) or (setting == "scaling_factor" and value == 0):
            raise ValueError(f"{setting} of the vae must be a finite number; got {value!r}, in {config}.")
    for setting in ("latents_mean", "latents_std"):
        if vae.config.get(setting) is not None:
            raise ValueError(f"{setting} of the vae must be null; got a value for each latent channel, in {config}.")
    return vae


def autoencoder_stride(vae: nn.Module) -> int:
    """Return the pixels per latent cell along each side: every block but one halves the resolution."""
    config = vae.config
    channels = config.get("block_out_channels") or config.encoder_block_out_channels  # the latter: AutoencoderDC
    return 2 ** (len(channels) - 1)


def enable_slicing(vae: nn.Module) -> None:
    """Make an autoencoder process a batch one image at a time, to save memory.

    Raises:
        ValueError: The autoencoder's class has no slicing.
    """
    if not hasattr(vae, "use_slicing"):
        raise ValueError(f"vae must support slicing when vae_slicing is on; got {type(vae).__name__}.")
    vae.enable_slicing()


def encode_images(
    vae: nn.Module, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None
) -> Tensor:
    """Encode images to latents that are shifted and scaled as the UNet expects.

    Args:
        vae: A diffusers autoencoder.
        images: [N, 3, H, W] in [-1, 1].
        generator: CPU generator, or one per image, that samples a variational autoencoder's latents in float32; None
            returns their mean. The global random state is never used.

    Returns:
        [N, C, h, w] float32.

    Raises:
        ValueError: There are neither one nor N generators.
    """
    encoded = vae.encode(images.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        latents = encoded.latent_dist.mean.float()
        if generator is not None:
            noise = _noise(latents.shape, generator).to(latents.device)
            latents = latents + encoded.latent_dist.std.float() * noise
    else:
        latents = (encoded.latents if hasattr(encoded, "latents") else encoded.latent).float()
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def decode_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """Decode scaled latents [N, C, h, w] to images [N, 3, H, W], float32, clamped to [-1, 1]."""
    latents = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    return vae.decode(latents.to(vae.dtype)).sample.float().clamp(-1.0, 1.0)


def _noise(shape: torch.Size, generator: torch.Generator | list[torch.Generator]) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    if len(generator) != shape[0]:
        raise ValueError(f"Pass one generator, or one per image; got {len(generator)} for {shape[0]} images.")
    return torch.stack([torch.randn(shape[1:], generator=one) for one in generator])


def _load_taesd(folder: Path) -> AutoencoderTiny:
    """Load TAESD's original files, whose decoder counts a leading clamp as layer 0; that of diffusers does not."""
    state = {}
    for name, first in (("encoder", 0), ("decoder", 1)):
        for key, tensor in read_tensors(folder / f"taesd_{name}.safetensors").items():
            layer, rest = key.split(".", 1)
            state[f"{name}.layers.{int(layer) - first}.{rest}"] = tensor.float()
    vae = AutoencoderTiny()
    try:
        vae.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"vae must have TAESD's weights; got other tensors ({error}), in {folder}.") from error
    return vae
