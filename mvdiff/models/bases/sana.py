"""SANA (Xie et al. 2024): linear attention, cells of 32 pixels, Gemma 2 as text encoder, flow matching."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, ClassVar

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from torch import Tensor

from mvdiff.models.bases.text_encoders import own_precision
from mvdiff.models.bases.transformer import TransformerBase, padded, trimmed

TransformerBlockRegistry.register(SanaTransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class SanaBase(TransformerBase):
    """SANA; its autoencoder, AutoencoderDC, has 32 pixels per cell.

    A small base of this shape may have a CLIP text encoder, which reads prompts without the instruction, up to the
    tokenizer's length.
    """

    network_class: ClassVar[type] = SanaTransformer2DModel
    text_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM", "CLIPTextModel")
    }

    @property
    def is_instructed(self) -> bool:
        """True for a language model as text encoder, False for CLIP."""
        return self.text_encoder.config.model_type != "clip_text_model"

    @property
    def text_length(self) -> int:
        """Most tokens of a prompt that the text encoder reads."""
        return 300 if self.is_instructed else self.tokenizer.model_max_length

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Embed N prompts as `hidden_states` [N, L, D] and `mask` [N, L], L = 300 for SANA's own text encoder.

        There a prompt that says something follows SANA's instruction to the language model. As in diffusers, the first
        token and what follows the instruction are kept.
        """
        return self._encode_all(prompts, self.is_instructed)

    def encode_negative_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Embed N negative prompts, without the instruction, as in diffusers."""
        return self._encode_all(prompts, False)

    def text_settings(self, negative: bool) -> str:
        """Return the role of the text, if it changes embeddings; see `Base.text_settings`."""
        return " negative" if negative and self.is_instructed else ""

    def _encode_all(self, prompts: list[str], instructed: bool) -> dict[str, Tensor]:
        encoded = [self._encode(prompt, instructed) for prompt in prompts]
        return {name: torch.stack([one[name] for one in encoded]) for name in encoded[0]}

    def _encode(self, prompt: str, instructed: bool) -> dict[str, Tensor]:
        instruction = _instruction() if prompt and instructed else ""
        length = self.text_length
        if instruction:
            length += len(self.tokenizer.encode(instruction)) - 2
        tokens = self.tokenizer(
            [instruction + prompt.lower().strip()],
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        device = self.text_device()
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        with own_precision(self.text_encoder, device):
            states = self.text_encoder(ids, attention_mask=mask)[0]
        kept = [0, *range(length - self.text_length + 1, length)]
        return {"hidden_states": states[0, kept], "mask": mask[0, kept].bool()}

    def to_cache(self, text: Any) -> Any:
        """Return the embeddings without padding."""
        return trimmed(text)

    def from_cache(self, text: Any) -> Any:
        """Return the embeddings with padding."""
        return padded(text)

    def predict(self, sample: Tensor, timesteps: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Run the transformer on N views by themselves; see `Base.predict`."""
        velocity = self.unet(
            sample,
            encoder_hidden_states=text["hidden_states"],
            timestep=timesteps * self.unet.config.timestep_scale,
            encoder_attention_mask=text["mask"],
            return_dict=False,
        )[0]
        return velocity[:, : self.latent_channels]  # some versions also learn a variance

    def check_fit(self, folder: Any) -> None:
        """Raise ValueError if the parts do not fit each other, or the network takes a guidance scale."""
        super().check_fit(folder)
        if (width := self.text_encoder.config.hidden_size) != self.unet.config.caption_channels:
            raise ValueError(
                f"caption_channels of the base's network must be the text encoder's hidden_size, {width}; got "
                f"{self.unet.config.caption_channels}, in {folder}."
            )
        if self.unet.config.guidance_embeds:
            raise ValueError(f"guidance_embeds of the base must be false; got true (SANA-Sprint), in {folder}.")


@cache
def _instruction() -> str:
    """Return the instruction that diffusers' pipeline puts before prompts."""
    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)
