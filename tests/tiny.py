"""Tiny *real* components in the shape of Stable Diffusion: a base folder of 3.6 MB that every test can afford."""

import json
from pathlib import Path

import torch

WORDS = (
    "this is one view of a scene room with red green blue yellow wall floor ceiling window "
    "table chair lamp ball an and the in on photo"
)


def tiny_base(folder, prediction_type: str = "epsilon", zero_terminal_snr: bool = False, seed: int = 0) -> Path:
    """Write a tiny Stable-Diffusion-shaped diffusers folder (UNet of 2 levels, VAE stride 4) and return its path.

    Args:
        folder: where to write; made if missing.
        prediction_type: what the scheduler says the UNet predicts.
        zero_terminal_snr: rescaled betas and trailing timesteps (needs prediction_type="v_prediction" to sample).
        seed: of the random weights; other seeds give other bases.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=32,
            norm_num_groups=8,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(str(folder / name))
    library = {"text_encoder": "transformers", "tokenizer": "transformers"}
    index = {name: [library.get(name, "diffusers"), type(part).__name__] for name, part in parts.items()}
    index |= {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def tiny_tokenizer():
    """A CLIPTokenizer whose vocabulary is the bytes and a few whole words."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    vocab = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS.split():
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            symbols[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                vocab.append("".join(pair))
    vocab = list(dict.fromkeys([*vocab, "<|startoftext|>", "<|endoftext|>"]))
    ids = {token: index for index, token in enumerate(vocab)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77)
