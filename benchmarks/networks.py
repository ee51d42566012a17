"""Networks of published shapes with random weights, which benchmarks run: Stable Diffusion 2, SDXL, SANA, smaller ones.

A shape whose whole network does not fit a small machine is also there at its true width with fewer layers; `more` says
which layers the whole network has beyond those, so that totals can be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, SanaTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.sana import SanaBase
from mvdiff.models.bases.sdxl import StableDiffusionXLBase
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.text_states import TextStates

SD2 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY_SDXL = SDXL | {
    "block_out_channels": (32, 32, 64),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (2, 2, 4),
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
TINY_SANA = {
    **{"in_channels": 4, "out_channels": 4, "num_layers": 4, "caption_channels": 32, "sample_size": 8},
    **{"num_attention_heads": 2, "attention_head_dim": 16, "num_cross_attention_heads": 2},
    **{"cross_attention_head_dim": 16, "cross_attention_dim": 32},
}


@dataclass(frozen=True)
class Shape:
    """A published network.

    Attributes:
        family: Family of the base.
        network: Settings of the whole network.
        text: Tokens and width of the text embeddings.
        small: Settings that differ in a network with fewer layers; empty: it is always whole.
        more: Layers that the whole network has beyond the small one: names of equal layers in that one, and counts.
        every: Blocks per place of attention in the whole transformer; None: a UNet's places.
        small_every: The same in the small one.
        stride: Pixels per latent cell.
    """

    family: type[Base]
    network: Mapping[str, Any]
    text: tuple[int, int]
    small: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, int] = field(default_factory=dict)
    every: int | None = None
    small_every: int | None = None
    stride: int = 8


def _layers_beyond_one(lower: int) -> dict[str, int]:
    """Return the layers that SDXL has beyond one per transformer: 5 transformers have 2, and 6 have `lower` layers."""
    names = [f"down_blocks.{level}.attentions.0.transformer_blocks.0" for level in (1, 2)]
    return dict(zip(names, (5, 6 * (lower - 1)), strict=True))


SHAPES = {
    "tiny": Shape(
        StableDiffusionBase,
        {"block_out_channels": (32, 64), "cross_attention_dim": 32, "norm_num_groups": 8},
        (77, 32),
    ),
    "35M": Shape(
        StableDiffusionBase, {"block_out_channels": (96, 192, 224, 224), "cross_attention_dim": 256}, (77, 256)
    ),
    "sd2": Shape(StableDiffusionBase, SD2, (77, 1024)),
    "sdxl": Shape(StableDiffusionXLBase, SDXL, (77, 2048), {"transformer_layers_per_block": 1}, _layers_beyond_one(10)),
    "sana": Shape(
        SanaBase, {}, (300, 2304), {"num_layers": 2}, {"transformer_blocks.0": 18}, every=3, small_every=2, stride=32
    ),
    "tiny-sdxl": Shape(
        StableDiffusionXLBase, TINY_SDXL, (77, 64), {"transformer_layers_per_block": 1}, _layers_beyond_one(3)
    ),
    "tiny-sana": Shape(
        SanaBase, TINY_SANA, (77, 32), {"num_layers": 2}, {"transformer_blocks.0": 2}, every=2, small_every=2
    ),
}


def network_of(shape: Shape, whole: bool = True) -> nn.Module:
    """Make the network of a shape, on torch's current default device."""
    settings = {**shape.network, **({} if whole else shape.small)}
    if shape.family is SanaBase:
        return SanaTransformer2DModel(**settings)
    levels = len(settings["block_out_channels"])
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
    }
    return UNet2DConditionModel(**blocks | settings)


def autoencoder_of(shape: Shape) -> nn.Module:
    """Make an autoencoder of the stride and latent channels of a shape, on torch's current default device."""
    channels = shape.network.get("in_channels", 32 if shape.family is SanaBase else 4)
    if shape.stride == 32:
        kinds = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
        sampling = {"upsample_block_type": "interpolate", "downsample_block_type": "Conv"}
        return AutoencoderDC(encoder_block_types=kinds, decoder_block_types=kinds, scaling_factor=0.41407, **sampling)
    widths = (8, 16, 16, 16) if shape.text[1] < 256 else (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        norm_num_groups=min(32, widths[0]),
        sample_size=512,
    )


def filled(module: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Give a module on the meta device random weights that keep features near their size, in place."""
    nn.Module.to(module, dtype)  # diffusers' own warns of modules to keep in float32, and there are none
    module.to_empty(device=device)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.7 * (weight.numel() / weight.shape[0]) ** -0.5)
            else:
                weight.fill_(float("norm" in name and name.endswith("weight")))
    return module


def base_of(shape: Shape, whole: bool = True, **parts: Any) -> Base:
    """Make a frozen base on the meta device; `text_encoder`, `tokenizer` and `scheduler` may be passed."""
    given = {"text_encoder": None, "tokenizer": None, "scheduler": None} | parts
    with torch.device("meta"):
        return shape.family(vae=autoencoder_of(shape), unet=network_of(shape, whole), **given).freeze()


def build(size: str, device: str, dtype: torch.dtype, whole: bool = True) -> nn.Module:
    """Make a multi-view network with random weights, in the base and in the adapter."""
    shape = SHAPES[size]
    base = base_of(shape, whole)
    with torch.device("meta"):
        adapter = base.new_adapter(every=shape.every if whole else shape.small_every)
    torch.manual_seed(0)
    for part in (base.unet, adapter):
        filled(part, device, dtype)
    return base.multi_view(adapter)


def rig(height: int, views: int) -> RingRig:
    """Make a ring whose neighbours overlap by half."""
    return RingRig(num_views=views, fov_deg=720.0 / views if views > 4 else 90.0, height=height, width=height)


def geometry_of(model: nn.Module, latent: int, views: int, stride: int = 8) -> MultiViewGeometry:
    """Build the geometry of such a ring, for every level."""
    ring = rig(latent * stride, views)
    batch = MultiViewBatch.from_cameras(*ring.cameras(), ring.height, ring.width)
    return model.adapter.geometry(batch, stride)


def inputs(size: str, latent: int, views: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, TextStates]:
    """Draw noisy latents, a timestep and text embeddings of one sample."""
    shape = SHAPES[size]
    generator = torch.Generator().manual_seed(1)
    normal: Callable[..., Tensor] = partial(torch.randn, generator=generator)
    tokens, width = shape.text
    channels = shape.network.get("in_channels", 32 if shape.family is SanaBase else 4)
    sample = normal(1, views, channels, latent, latent).to(device, dtype)
    text: Any = normal(1, views, tokens, width).to(device, dtype)
    if shape.family is StableDiffusionXLBase:
        numbers = 6 * shape.network["addition_time_embed_dim"]
        pooled = normal(1, views, shape.network["projection_class_embeddings_input_dim"] - numbers)
        text = {"hidden_states": text, "pooled": pooled.to(device, dtype)}
    elif shape.family is SanaBase:
        text = {"hidden_states": text, "mask": torch.ones(1, views, tokens, dtype=torch.bool, device=device)}
    return sample, torch.tensor([500], device=device), text
