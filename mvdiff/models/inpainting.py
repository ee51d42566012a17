"""The inputs that outpainting adds to a UNet: a mask of what to generate, and the latent of what is known.

An inpainting UNet takes [noisy latent C | mask 1 | masked-image latent C]. Only here is the mask 1 where content is to
be generated; everywhere else `known` is 1 where content is known.

Axes: B samples, V views, C latent channels, H W image, h w latent rows and columns.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from mvdiff.models.conditioning import add_input_channels
from mvdiff.shapes import check_shapes


def masked_images(images: Tensor, known: Tensor) -> Tensor:
    """Blank what is to be generated: 0 in [-1, 1] (mid-grey), as Stable Diffusion's inpainting does.

    Args:
        images: [..., 3, H, W] in [-1, 1]; where nothing is known they are not read, and may be NaN.
        known: [..., 1, H, W], 1 where known, 0 where to be generated.

    Example:
        >>> images = torch.tensor([0.5, float("nan")]).expand(3, 1, 2)
        >>> masked_images(images, torch.tensor([[[1.0, 0.0]]]))[0].tolist()
        [[0.5, 0.0]]
    """
    check_shapes(images=(images, "... 3 H W"), known=(known, "... 1 H W"))
    return torch.where(known.to(images.device) > 0.5, images, 0.0)


def generation_mask(known: Tensor, vae_stride: int) -> Tensor:
    """Make the UNet's mask channel: 1 in each latent cell with a pixel to generate, 0 in those given whole.

    Stable Diffusion's inpainting takes every `vae_stride`-th pixel. For views known whole or not at all, the paper's
    form, this is the same. Where an edge cuts a cell, that rule may call the cell known though all but one of its
    pixels are blank, and the blank would be kept as if it were the picture. Here a cell counts as known only if all of
    it is; the known pixels of a cut cell still enter the masked image's latent (own derivation).

    Args:
        known: [..., 1, H, W], 1 where known, 0 where to be generated.
        vae_stride: Pixels per latent cell.

    Returns:
        [..., 1, ceil(H / vae_stride), ceil(W / vae_stride)] float32.

    Raises:
        ValueError: `known` has another shape or the stride is below 1.

    Example:
        >>> generation_mask(torch.tensor([[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]]), vae_stride=2).tolist()
        [[[0.0, 1.0]]]
    """
    check_shapes(known=(known, "... 1 H W"))
    if vae_stride < 1:
        raise ValueError(f"vae_stride must be at least 1 pixel per cell; got {vae_stride}.")
    unknown = (known <= 0.5).float()
    cells = F.max_pool2d(unknown.flatten(0, -4) if known.ndim > 3 else unknown[None], vae_stride, ceil_mode=True)
    return cells.reshape(*known.shape[:-2], *cells.shape[-2:])


def inpainting_condition(known: Tensor, masked_latents: Tensor, vae_stride: int) -> Tensor:
    """Join mask and masked-image latent, in the order of Stable Diffusion's inpainting UNet (paper, outpainting).

    Args:
        known: [..., 1, H, W], 1 where known, 0 where to be generated.
        masked_latents: [..., C, h, w] scaled latents of `masked_images`.
        vae_stride: Pixels per latent cell.

    Returns:
        [..., 1 + C, h, w] in the dtype and on the device of `masked_latents`.

    Raises:
        ValueError: The sides of the images are no multiples of the stride, or shapes do not agree.
    """
    sides = known.shape[-2:]
    if any(side % vae_stride for side in sides):
        raise ValueError(
            f"views must have sides that are multiples of {vae_stride}, the autoencoder's stride; got {list(sides)}."
        )
    mask = generation_mask(known, vae_stride).to(masked_latents)
    check_shapes(mask=(mask, "... 1 h w"), masked_latents=(masked_latents, "... C h w"))
    return torch.cat([mask, masked_latents], dim=-3)


def add_inpainting_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Add the 1 + C input channels of `inpainting_condition` to a text-to-image UNet, see `add_input_channels`.

    Raises:
        ValueError: The UNet takes more than latents already.
    """
    channels = unet.config.out_channels
    if unet.config.in_channels != channels:
        raise ValueError(
            f"add_input must be false for a base that takes more than latents; got true, with a UNet of "
            f"{unet.config.in_channels} input channels."
        )
    return add_input_channels(unet, 1 + channels)


def check_inpainting_input(unet: UNet2DConditionModel, latent_channels: int) -> None:
    """Raise ValueError unless a UNet takes latents, mask and masked-image latents."""
    found, wanted = unet.config.in_channels, 2 * latent_channels + 1
    if found != wanted:
        raise ValueError(
            f"base must have a UNet of {wanted} input channels, latents, mask and masked image; got {found}. Name an "
            "inpainting base, such as sd2-community/stable-diffusion-2-inpainting, or make one (docs/train.md)."
        )
