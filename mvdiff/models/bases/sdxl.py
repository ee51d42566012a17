"""Stable Diffusion XL (Podell et al. 2023): a UNet that also takes a pooled text and sizes; two text encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.bases.stable_diffusion import UNetBase
from mvdiff.models.bases.text_encoders import clip_states, own_precision
from mvdiff.models.multiview_unet import MultiViewUNet, size_ids

NUM_IDS = 6
"""Numbers that say an image's size, the corner of its crop, and the size to generate."""


class StableDiffusionXLBase(UNetBase):
    """SDXL base 1.0 and its finetunes, also with the input channels of inpainting or depth."""

    network_class: ClassVar[type] = UNet2DConditionModel
    text_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    }

    index_settings: ClassVar[tuple[str, ...]] = ("force_zeros_for_empty_prompt",)
    force_zeros_for_empty_prompt: bool = True
    """Take zeros for the empty prompt, as diffusers does where no negative prompt is given."""

    def encode_prompts(self, prompts: list[str], clip_skip: int | None = None) -> dict[str, Tensor]:
        """Embed N prompts as `hidden_states` [N, 77, D1 + D2] and `pooled` [N, P].

        `clip_skip` leaves out further layers at the end.
        """
        device, length = self.text_device(), self.tokenizer.model_max_length
        tokens = self.tokenizer.ids(prompts, [length, length], device)
        with own_precision(self.text_encoder, device):
            states, firsts = clip_states(self.text_encoder(tokens, output_hidden_states=True), clip_skip or 0)
        if not self.force_zeros_for_empty_prompt:
            return {"hidden_states": states, "pooled": firsts[1]}
        says = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=states.device).to(states.dtype)
        return {"hidden_states": states * says[:, None, None], "pooled": firsts[1] * says[:, None]}

    def text_settings(self, negative: bool) -> str:
        """Return how the empty prompt is encoded, unless it is zeros; see `Base.text_settings`."""
        return "" if self.force_zeros_for_empty_prompt else " with empty prompts"

    def predict(self, sample: Tensor, timesteps: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Run the UNet on N views by themselves; see `Base.predict`."""
        added = {"text_embeds": text["pooled"], "time_ids": size_ids(sample, self.vae_stride)}
        return self.unet(
            sample,
            timesteps,
            encoder_hidden_states=text["hidden_states"],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def encode_images(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Encode images to scaled latents, never in float16; see `Base.encode_images`."""
        with self._without_overflow():
            return super().encode_images(images, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents, never in float16; see `Base.decode_latents`."""
        with self._without_overflow():
            return super().decode_latents(latents)

    @contextmanager
    def _without_overflow(self) -> Iterator[None]:
        """Hold the autoencoder in float32 where float16 would overflow, as diffusers does (`force_upcast`)."""
        upcast = self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", True)
        if upcast:
            self.vae.to(torch.float32)
        try:
            yield
        finally:
            if upcast:
                self.vae.to(torch.float16)

    def multi_view(self, adapter: MultiViewAdapter) -> MultiViewUNet:
        """Combine the UNet with an adapter; see `Base.multi_view`."""
        return MultiViewUNet(self.unet, adapter, self.vae_stride)

    def check_fit(self, folder: Any) -> None:
        """Raise ValueError if the UNet takes other numbers than size, crop and target size, or other text widths."""
        super().check_fit(folder)
        first, second = self.text_encoder.encoders.values()
        config = self.unet.config
        width = first.config.hidden_size + second.config.hidden_size
        if config.cross_attention_dim != width:
            raise ValueError(
                "cross_attention_dim of the base's UNet must be the sum of its text encoders' hidden_size, "
                f"{width}; got {config.cross_attention_dim}, in {folder}."
            )
        numbers = config.projection_class_embeddings_input_dim - second.config.projection_dim
        if numbers != NUM_IDS * config.addition_time_embed_dim:
            raise ValueError(
                "the base's UNet must take a size, a crop and a target size, as SDXL base does; got one that takes "
                f"{numbers / config.addition_time_embed_dim:.4g} numbers, such as a refiner, in {folder}."
            )
