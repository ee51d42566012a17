"""The inputs that outpainting adds to a UNet: the mask of cells to generate, and the latents of the known pixels.

An inpainting UNet takes [noisy latent C | mask 1 | masked-image latent C]. The UNet's mask is 1 where content is to be
generated; everywhere outside this module, `known` is 1 where content is known.

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
    """Set the pixels to generate to 0 (mid-grey in [-1, 1]), as Stable Diffusion's inpainting does.

    Args:
        images: [..., 3, H, W] in [-1, 1]; unknown pixels are not read and may be NaN.
        known: [..., 1, H, W], 1 for known pixels, 0 for pixels to generate.

    Returns:
        [..., 3, H, W] in the dtype and on the device of `images`.

    Example:
        >>> images = torch.tensor([0.5, float("nan")]).expand(3, 1, 2)
        >>> masked_images(images, torch.tensor([[[1.0, 0.0]]]))[0].tolist()
        [[0.5, 0.0]]
    """
    check_shapes(images=(images, "... 3 H W"), known=(known, "... 1 H W"))
    return torch.where(known.to(images.device) > 0.5, images, 0.0)


def generation_mask(known: Tensor, vae_stride: int) -> Tensor:
    """Compute the UNet's mask channel: 0 in latent cells that are known completely, 1 in all others.

    Stable Diffusion's inpainting takes every `vae_stride`-th pixel of the mask instead, which may call a cell known
    although only one of its pixels is, so that the blank pixels around it are kept as if they were the picture. The two
    rules agree for views that are known completely or not at all, as in the paper. The known pixels of a partly known
    cell still enter the latent of the masked image (own derivation).

    Args:
        known: [..., 1, H, W], 1 for known pixels, 0 for pixels to generate.
        vae_stride: Pixels per latent cell along each side.

    Returns:
        [..., 1, ceil(H / vae_stride), ceil(W / vae_stride)] float32.

    Raises:
        ValueError: `known` has another shape, or `vae_stride` is below 1.

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
    """Concatenate mask and masked-image latents in the order of Stable Diffusion's inpainting UNet.

    Source: paper, outpainting.

    Args:
        known: [..., 1, H, W], 1 for known pixels, 0 for pixels to generate.
        masked_latents: [..., C, h, w] scaled latents of `masked_images`.
        vae_stride: Pixels per latent cell along each side.

    Returns:
        [..., 1 + C, h, w] in the dtype and on the device of `masked_latents`.

    Raises:
        ValueError: H or W is not a multiple of the stride, or the shapes do not agree.
    """
    sides = known.shape[-2:]
    if any(side % vae_stride for side in sides):
        raise ValueError(
            f"height and width of the views must be multiples of {vae_stride}, the autoencoder's stride; got "
            f"{list(sides)}."
        )
    mask = generation_mask(known, vae_stride).to(masked_latents)
    check_shapes(mask=(mask, "... 1 h w"), masked_latents=(masked_latents, "... C h w"))
    return torch.cat([mask, masked_latents], dim=-3)


def add_inpainting_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Add the 1 + C input channels of `inpainting_condition` to a text-to-image UNet, see `add_input_channels`.

    Raises:
        ValueError: The UNet already has other input channels than the latents.
    """
    channels = unet.config.out_channels
    if unet.config.in_channels != channels:
        raise ValueError(
            f"add_input must be false for a base whose input is more than the latents; got true, with a UNet of "
            f"{unet.config.in_channels} input channels."
        )
    return add_input_channels(unet, 1 + channels)


def check_inpainting_input(unet: UNet2DConditionModel, latent_channels: int) -> None:
    """Raise ValueError unless the UNet's input is latents, mask and masked-image latents."""
    channels, expected = unet.config.in_channels, 2 * latent_channels + 1
    if channels != expected:
        raise ValueError(
            f"base must have a UNet with {expected} input channels: latents, mask and masked image; got {channels}. "
            "Choose an inpainting base, such as sd2-community/stable-diffusion-2-inpainting, or make one "
            "(docs/train.md)."
        )
