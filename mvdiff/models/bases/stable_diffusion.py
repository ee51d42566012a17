"""Stable Diffusion 1 and 2: a UNet, and one CLIP text encoder.

Axes: N prompts or views, C latent channels, h w latent, L text tokens, D text width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from mvdiff.files.writing import whole_folder
from mvdiff.models.adapter import MultiViewAdapter, unet_channels
from mvdiff.models.bases.base import Base, Site
from mvdiff.models.bases.text_encoders import own_precision
from mvdiff.models.loading import forget_source
from mvdiff.models.multiview_unet import MultiViewUNet

PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")


class UNetBase(Base):
    """Base of the families whose network is a `UNet2DConditionModel`, with the places of the paper's figure 2."""

    def predict(self, sample: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Run the UNet on N views by themselves; see `Base.predict`."""
        return self.unet(sample, timesteps, encoder_hidden_states=text, return_dict=False)[0]

    def sites(self) -> list[Site]:
        """Return the places: the end of each down block before its downsampler, the mid block, each up block.

        `after` names the block; within it, `MultiViewUNet` knows the place.
        """
        channels, last = unet_channels(self.unet), len(self.unet.down_blocks) - 1
        down = [Site(f"down_blocks.{i}", c, 2**i) for i, c in enumerate(channels["down_channels"])]
        up = [Site(f"up_blocks.{i}", c, 2 ** (last - i)) for i, c in enumerate(channels["up_channels"])]
        return [*down, Site("mid_block", channels["mid_channels"], 2**last), *up]

    def new_adapter(self, attention: Mapping[str, Any] | None = None, **settings: Any) -> MultiViewAdapter:
        """Make a fresh adapter with a block at every site; see `Base.new_adapter`."""
        if settings.pop("every", None) is not None:
            raise ValueError("adapter.every must be null for a UNet, whose places are fixed; it is for transformers.")
        return MultiViewAdapter.from_unet(self.unet, attention, **settings)

    def multi_view(self, adapter: MultiViewAdapter) -> MultiViewUNet:
        """Combine the UNet with an adapter; see `Base.multi_view`."""
        return MultiViewUNet(self.unet, adapter)

    def check_fit(self, folder: Any) -> None:
        """Raise ValueError if the parts do not fit each other, or the UNet takes a guidance scale."""
        super().check_fit(folder)
        check_no_guidance_input(self.unet, folder)


class StableDiffusionBase(UNetBase):
    """Stable Diffusion 1 or 2, with any text width, heads, prediction type and input channels."""

    def encode_prompts(self, prompts: list[str], clip_skip: int | None = None) -> Tensor:
        """Embed N prompts, padded or truncated to the tokenizer's length: [N, L, D] in the text encoder's dtype.

        `clip_skip` leaves out the last layers but for the last normalisation, as in diffusers.
        """
        length = {"padding": "max_length", "truncation": True, "max_length": self.tokenizer.model_max_length}
        tokens = self.tokenizer(prompts, return_tensors="pt", **length)
        device = self.text_device()
        uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if uses_mask else None
        with own_precision(self.text_encoder, device):
            if clip_skip is None:
                return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
            output = self.text_encoder(tokens.input_ids.to(device), attention_mask=mask, output_hidden_states=True)
            encoder = getattr(self.text_encoder, "text_model", self.text_encoder)
            return encoder.final_layer_norm(output.hidden_states[-(clip_skip + 1)])

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a diffusers folder that `StableDiffusionPipeline.from_pretrained` and `load_backbone` can load.

        Args:
            folder: Output folder.
            dtype: Precision of the written weights; None: unchanged.
        """
        parts = {name: getattr(self, name) for name in PARTS}
        if dtype is not None:
            weights = ("unet", "text_encoder", "vae")
            parts |= {name: copy.deepcopy(parts[name]).to(dtype) for name in weights}
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        with whole_folder(Path(folder)) as new:
            pipeline.save_pretrained(str(new))
            for part in ("unet", "vae"):
                forget_source(new / part / "config.json")


def check_no_guidance_input(unet: UNet2DConditionModel, folder: Any) -> None:
    """Raise ValueError if a UNet takes the guidance scale as input, which nothing passes to it; names `folder`."""
    if (width := unet.config.get("time_cond_proj_dim")) is not None:
        raise ValueError(
            f"time_cond_proj_dim of the base's UNet must be null; got {width} (a guidance embedding, as of "
            f"LCM-distilled UNets), in {folder}."
        )
