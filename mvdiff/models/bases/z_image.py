"""Z-Image (2025): caption and image in one sequence, padded per sample; Qwen 3 as text encoder, flow matching."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from mvdiff.models.bases.text_encoders import own_precision
from mvdiff.models.bases.transformer import TransformerBase, padded, trimmed


class ZImageBase(TransformerBase):
    """Z-Image. Image tokens stand first in a block's sequence; then padding to a multiple of 32, and the caption."""

    network_class: ClassVar[type] = ZImageTransformer2DModel
    text_classes: ClassVar[dict[str, tuple[str, ...]]] = {"text_encoder": ("Qwen3Model", "Qwen3ForCausalLM")}
    blocks: ClassVar[str] = "layers"
    text_length: ClassVar[int] = 512

    @property
    def patch_size(self) -> int:
        """Latent cells per token along each side."""
        return self.unet.config.all_patch_size[0]

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return self.unet.config.dim

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Embed N prompts as `hidden_states` [N, 512, D] and `mask` [N, 512], with the tokenizer's chat template."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for prompt in prompts
        ]
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        device = self.text_device()
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device).bool()
        with own_precision(self.text_encoder, device):
            states = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        return {"hidden_states": states, "mask": mask}

    def to_cache(self, text: Any) -> Any:
        """Return the embeddings without padding."""
        return trimmed(text)

    def from_cache(self, text: Any) -> Any:
        """Return the embeddings with padding."""
        return padded(text)

    def predict(self, sample: Tensor, timesteps: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Run the transformer on N views by themselves; see `Base.predict`.

        The transformer counts time from noise (0) to images (1), and predicts x0 - eps.
        """
        steps = self.scheduler.config.num_train_timesteps
        captions = [states[mask] for states, mask in zip(text["hidden_states"], text["mask"], strict=True)]
        outputs = self.unet(
            list(sample.unsqueeze(2)),
            (steps - timesteps) / steps,
            captions,
            patch_size=self.patch_size,
            f_patch_size=self.unet.config.all_f_patch_size[0],
            return_dict=False,
        )[0]
        return -torch.stack(list(outputs)).squeeze(2)
