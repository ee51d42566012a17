"""Random networks in the place of those that scores would download: Inception and CLIP."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel


class _Fresh(FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict: dict, *args: Any, **kwargs: Any) -> None:
        """Keep the fresh weights: the parent reads a file while it is built."""


def write_inception(path: Path) -> tuple[Path, str]:
    """Save random weights of FID's network; return the file and the start of its SHA-256."""
    torch.save({}, path)
    torch.manual_seed(0)
    network = _Fresh("inception-v3-compat", ["2048"], str(path))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # with the default, features hardly depend on the image
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def write_clip(folder: Path, tokenizer: Any) -> Path:
    """Save a tiny random CLIP model in transformers' layout."""
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**shared, **tokens, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    torch.manual_seed(3)  # whose scores are above 0, where they would be cut off
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
