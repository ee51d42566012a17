"""PixArt as a base: one transformer with cross-attention to T5's embeddings, discrete betas."""

from typing import ClassVar

from diffusers import PixArtTransformer2DModel

from mvdiff.models.bases.transformer import TransformerBase


class PixArtBase(TransformerBase):
    """PixArt-Sigma; attention across views follows every k-th block."""

    network_class = PixArtTransformer2DModel
    text_classes: ClassVar = {"text_encoder": ("T5EncoderModel",)}
    text_length = 300

    def encode_prompts(self, prompts):
        length = {"padding": "max_length", "truncation": True, "max_length": self.text_length}
        tokens = self.tokenizer(prompts, return_tensors="pt", **length).to(self.text_device())
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return {"hidden_states": states, "mask": tokens.attention_mask.bool()}

    def predict(self, sample, timesteps, text):
        output = self.unet(
            sample,
            encoder_hidden_states=text["hidden_states"],
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=text["mask"],
            return_dict=False,
        )[0]
        return output[:, : self.latent_channels]  # the rest is a variance
