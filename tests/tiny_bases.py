"""Tiny random bases of every family, in memory and as folders: seconds for all of them."""

import json
from pathlib import Path

import torch

from tests.tiny import tiny_tokenizer

TEXT_WIDTH = 16
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}


def tokenizer_with_chat():
    """The tiny tokenizer, with the template that Z-Image's text encoder asks for."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return tokenizer


def clip(kind, projection=TEXT_WIDTH):
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=projection,
        )
    )


def decoder_settings():
    """Settings of a decoder-only language model."""
    return {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }


def vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def sdxl():
    """SDXL in small: two text encoders, and a UNet that takes a pooled text and sizes."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from mvdiff.models.bases.sdxl import StableDiffusionXLBase
    from mvdiff.models.bases.text_encoders import TextEncoders, Tokenizers

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )
    encoders = {"text_encoder": clip(CLIPTextModel), "text_encoder_2": clip(CLIPTextModelWithProjection)}
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    tokenizers = Tokenizers({"tokenizer": tiny_tokenizer(), "tokenizer_2": tiny_tokenizer()})
    return StableDiffusionXLBase(vae(), TextEncoders(encoders), tokenizers, unet, scheduler)


def sana():
    """SANA in small, with its kind of autoencoder and language model."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    from mvdiff.models.bases.sana import SanaBase

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=TEXT_WIDTH,
        sample_size=8,
        patch_size=1,
    )
    sides = {"block_types": ("ResBlock",) * 3, "block_out_channels": (8, 8, 8), "layers_per_block": (1, 1, 1)}
    sides |= {"qkv_multiscales": ((), (), ())}
    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        scaling_factor=0.4,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
    )
    encoder = Gemma2Model(Gemma2Config(**decoder_settings()))
    return SanaBase(autoencoder, encoder, tiny_tokenizer(), transformer, FlowMatchEulerDiscreteScheduler(**FLOW))


def sd3():
    """SD3.5 in small: two streams, the first block with a second attention to images, three text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    from mvdiff.models.bases.sd3 import StableDiffusion3Base
    from mvdiff.models.bases.text_encoders import TextEncoders, Tokenizers

    width = 48
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=width,
        caption_projection_dim=32,
        pooled_projection_dim=2 * TEXT_WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    t5 = T5Config(
        vocab_size=len(tiny_tokenizer()), d_model=width, d_ff=16, d_kv=8, num_layers=2, num_heads=2, pad_token_id=0
    )
    kinds = (CLIPTextModelWithProjection, CLIPTextModelWithProjection)
    encoders = dict(zip(("text_encoder", "text_encoder_2"), map(clip, kinds), strict=True))
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    return StableDiffusion3Base(
        vae(),
        TextEncoders(encoders | {"text_encoder_3": T5EncoderModel(t5)}),
        Tokenizers({name: tiny_tokenizer() for name in names}),
        transformer,
        FlowMatchEulerDiscreteScheduler(**FLOW),
    )


def z_image():
    """Z-Image in small: caption and image in one sequence, with refiner blocks before."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    from mvdiff.models.bases.z_image import ZImageBase

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[8, 8, 8],
        axes_lens=[1024, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)  # some versions of diffusers leave them uninitialised
    encoder = Qwen3Model(Qwen3Config(**decoder_settings()))
    return ZImageBase(vae(), encoder, tokenizer_with_chat(), transformer, FlowMatchEulerDiscreteScheduler(**FLOW))


FAMILIES = {"sdxl": sdxl, "sana": sana, "sd3": sd3, "z_image": z_image}
PIPELINES = {
    "sdxl": "StableDiffusionXLPipeline",
    "sana": "SanaPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "z_image": "ZImagePipeline",
}


def make(name: str, seed: int = 0):
    """Build the tiny base of a family, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = FAMILIES[name]()
        for parameter in base.unet.parameters():  # zero-initialised gates would hide everything behind them
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.05)
        return base.freeze()


def parts_of(base, network: str) -> dict:
    """The parts of a base by the names of a diffusers folder."""
    texts = dict(getattr(base.text_encoder, "encoders", {"text_encoder": base.text_encoder}).items())
    tokenizers = getattr(base.tokenizer, "tokenizers", {"tokenizer": base.tokenizer})
    return {"vae": base.vae, network: base.unet, "scheduler": base.scheduler, **texts, **tokenizers}


def write(folder: Path, name: str, seed: int = 0) -> Path:
    """Write the tiny base of a family as a diffusers folder."""
    base = make(name, seed)
    parts = parts_of(base, "unet" if name == "sdxl" else "transformer")
    for part, model in parts.items():
        model.save_pretrained(str(folder / part))
    index = {part: [type(model).__module__.split(".")[0], type(model).__name__] for part, model in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": PIPELINES[name]}))
    return folder
