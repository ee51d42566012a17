"""Tiny bases, as the folders of Stable Diffusion 1.4, 1.5, 2.0 and 2.1 are written: files by hand, real weights."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_tokenizer

_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "trained_betas": None,
}


@dataclass(frozen=True)
class BaseShape:
    """What tells one base from another.

    Args:
        text_width: of the text encoder: 768 (CLIP ViT-L) or 1024 (OpenCLIP ViT-H).
        unet: settings of the UNet as its config.json says them; what an old config leaves unsaid is left out.
        scheduler: scheduler_config.json, with its class.
        old_names: keys of the weights as older libraries wrote them.
        variant: of the weight files: None or "fp16".
    """

    text_width: int
    unet: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    old_names: bool = False
    variant: str | None = None


PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False}
DDIM = {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False}
V = {"prediction_type": "v_prediction"}
HEADS = {"attention_head_dim": [2, 4], "use_linear_projection": True}
BASES = {
    "1.4": BaseShape(768, {"attention_head_dim": 8}, PNDM, old_names=True),
    "1.5, fp16 files": BaseShape(768, {"attention_head_dim": 8}, PNDM, variant="fp16"),
    "1.5, a config without clip_sample": BaseShape(
        768, {"attention_head_dim": 8}, {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    ),
    "2.0 base": BaseShape(1024, HEADS | {"dual_cross_attention": False}, PNDM),
    "2.1": BaseShape(1024, HEADS | {"upcast_attention": True}, DDIM | V),
    "2.0, Euler": BaseShape(1024, HEADS, {"_class_name": "EulerDiscreteScheduler"} | V),
}
DEPTH = BaseShape(1024, HEADS | {"in_channels": 5}, PNDM)
INPAINTING = BaseShape(1024, HEADS | {"in_channels": 9}, PNDM)


def write_base(folder: Path, shape: BaseShape, seed: int = 0) -> Path:
    """Write a base of a shape and return its folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(folder)
    unet = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [32, 64],
        "center_input_sample": False,
        "cross_attention_dim": shape.text_width,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 8,
        "out_channels": 4,
        "sample_size": 16,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    } | shape.unet
    vae = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": 64,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    }
    tokenizer = tiny_tokenizer()
    text = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(tokenizer),
        "hidden_size": shape.text_width,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": shape.text_width // 64,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu" if shape.text_width == 768 else "gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write(folder / "unet", "diffusion_pytorch_model", unet, UNet2DConditionModel.from_config(unet), shape)
        _write(folder / "vae", "diffusion_pytorch_model", vae, AutoencoderKL.from_config(vae), shape)
        encoder = CLIPTextModel(CLIPTextConfig(**{k: v for k, v in text.items() if k != "architectures"}))
        _write(folder / "text_encoder", "model", text, encoder, shape)
    if shape.old_names:
        _rename_as_of_old(folder)
    _write_tokenizer(folder / "tokenizer", tokenizer)
    scheduler = {"_diffusers_version": "0.6.0"} | _NOISE | shape.scheduler
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", shape.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", {"crop_size": 224})
    _write_json(folder / "safety_checker" / "config.json", {"model_type": "clip"})  # its weights are not there
    return folder


def _write(folder: Path, name: str, config: dict[str, Any], model: torch.nn.Module, shape: BaseShape) -> None:
    _write_json(folder / "config.json", config)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    if shape.variant == "fp16":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    suffix = f".{shape.variant}" if shape.variant else ""
    save_file(state, folder / f"{name}{suffix}.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path, tokenizer) -> None:
    """Write vocab.json and merges.txt, without the tokenizer.json that today's transformers write."""
    written = folder / "today"
    tokenizer.save_pretrained(str(written))
    model = json.loads((written / "tokenizer.json").read_text())["model"]
    _write_json(folder / "vocab.json", model["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    markers = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", markers | {"pad_token": "<|endoftext|>"})
    _write_json(
        folder / "tokenizer_config.json",
        markers | {"model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"},
    )
    for path in written.iterdir():
        path.unlink()
    written.rmdir()


def _rename_as_of_old(folder: Path) -> None:
    """Give text encoder and autoencoder the key names that Stable Diffusion 1.4 came with."""
    path = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{key}": value for key, value in load_file(path).items()}
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path, metadata={"format": "pt"})
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for new, old in _OLD_ATTENTION.items():
        state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    save_file(state, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
