"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): text and image in two streams, three text encoders, flow matching."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor

from mvdiff.models.bases.text_encoders import clip_states, own_precision
from mvdiff.models.bases.transformer import TransformerBase
from mvdiff.text_context import TextContext

T5_LENGTH = 256
"""Tokens of the T5 encoder, as in diffusers."""


class StableDiffusion3Base(TransformerBase):
    """SD3 or SD3.5. A base without T5 (`text_encoder_3`) gets zeros in its place, as in diffusers."""

    network_class: ClassVar[type] = SD3Transformer2DModel
    text_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
    }
    optional_parts: ClassVar[tuple[str, ...]] = ("text_encoder_3", "tokenizer_3")

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Embed N prompts as `hidden_states` [N, 77 + 256, D] and `pooled` [N, P]."""
        device, clip_length = self.text_device(), self.tokenizer.model_max_length
        lengths = [clip_length, clip_length, T5_LENGTH][: len(self.tokenizer.tokenizers)]
        tokens = self.tokenizer.ids(prompts, lengths, device)
        width = self.unet.config.joint_attention_dim
        with own_precision(self.text_encoder, device):
            outputs = self.text_encoder(tokens, output_hidden_states=True)
        states, pooled = clip_states(outputs[:2])
        without = states.new_zeros(len(prompts), T5_LENGTH, width)
        t5 = outputs[2][0].to(states.dtype) if len(outputs) == 3 else without
        states = torch.cat([F.pad(states, (0, width - states.shape[-1])), t5], dim=1)
        return {"hidden_states": states, "pooled": torch.cat(pooled, dim=-1)}

    def text_context(self) -> TextContext:
        """Return the context of T5, where the base has it: it reads what the CLIP encoders cut off."""
        t5 = self.tokenizer.tokenizers.get("tokenizer_3")
        return super().text_context() if t5 is None else TextContext.of_tokenizer(t5, T5_LENGTH)

    def predict(self, sample: Tensor, timesteps: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Run the transformer on N views by themselves; see `Base.predict`."""
        return self.unet(
            sample,
            encoder_hidden_states=text["hidden_states"],
            pooled_projections=text["pooled"],
            timestep=timesteps,
            return_dict=False,
        )[0]

    def check_fit(self, folder: Any) -> None:
        """Raise ValueError if the text encoders are not as wide as the network takes them."""
        super().check_fit(folder)
        encoders = list(self.text_encoder.encoders.values())[:2]
        pooled = sum(encoder.config.projection_dim for encoder in encoders)
        if pooled != self.unet.config.pooled_projection_dim:
            raise ValueError(
                f"pooled_projection_dim of the base's network must be the sum of its CLIP encoders' projection_dim, "
                f"{pooled}; got {self.unet.config.pooled_projection_dim}, in {folder}."
            )
