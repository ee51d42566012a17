"""Tiny random CLIP models, for tests: an open_clip architecture with its weight file, and a transformers folder."""

import json
from pathlib import Path

import torch

from tests.tiny import tiny_tokenizer

TINY_NAME = "tiny-clip-for-tests"


def write_open_clip(folder: Path) -> Path:
    """Register a tiny architecture under `TINY_NAME` and save random weights for it."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = folder / f"{TINY_NAME}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    net = open_clip.create_model(TINY_NAME)
    sharpen(net.visual)
    with torch.no_grad():
        net.visual.proj.neg_()  # fresh cosines are negative, and all scores 0
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def write_transformers_clip(folder: Path) -> Path:
    """Save a tiny random CLIPModel with tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = tiny_tokenizer()
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPConfig(
        text_config={**shared, **tokens, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    net = CLIPModel(config)
    sharpen(net.vision_model)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}, {"height": 32, "width": 32}
    CLIPImageProcessor(size=size[0], crop_size=size[1]).save_pretrained(folder)
    return folder


def sharpen(tower: torch.nn.Module) -> None:
    """Enlarge the weights of a fresh image encoder, whose embeddings of any two images are else nearly the same."""
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if weight.ndim > 1 and "position" not in name:
                weight.mul_(8)
