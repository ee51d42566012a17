"""Files of the layout that docs/checkpoints.md describes: names and shapes written out from there, random weights."""

from collections import OrderedDict
from pathlib import Path

import torch

WIDTHS = (320, 640, 1280, 1280)


def attention_layout(widths=WIDTHS, depth=False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything but the base."""
    places = {f"cp_blocks_encoder.{i}": C for i, C in enumerate(widths)}
    places["cp_blocks_mid"] = widths[-1]
    places |= {f"cp_blocks_decoder.{i}": C for i, C in enumerate(widths[::-1])}
    shapes = {}
    for place, C in places.items():
        block = f"mv_base_model.{place}." + ("attn1." if depth else "")
        shapes[block + "pe.freq_bands"] = (1, 1, C // 2 if depth else C // 4)
        for name in ("to_q", "to_k", "to_v", "to_out"):
            shapes[f"{block}transformer.attn1.{name}.weight"] = (C, C)
        shapes[f"{block}transformer.attn1.to_out.bias"] = (C,)
        shapes[f"{block}transformer.ff.net.0.proj.weight"] = (8 * C, C)
        shapes[f"{block}transformer.ff.net.0.proj.bias"] = (8 * C,)
        shapes[f"{block}transformer.ff.net.2.weight"] = (C, 4 * C)
        shapes[f"{block}transformer.ff.net.2.bias"] = (C,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}transformer.{norm}.{kind}": (C,) for kind in ("weight", "bias")}
        if depth:
            resnet = f"mv_base_model.{place}.resnet."
            shapes |= {f"{resnet}conv{i}.weight": (C, C, 3, 3) for i in (1, 2)}
            shapes |= {f"{resnet}bn{i}.{kind}": (C,) for i in (1, 2) for kind in ("weight", "bias")}
    if depth:
        first = widths[0]
        shapes["mv_base_model.condition_conv_in.weight"] = (first, 5, 3, 3)
        shapes["mv_base_model.condition_conv_in.bias"] = (first,)
        inputs = {"condition_downblocks": (first, *widths[:-1]), "condition_upblocks": (widths[-1], *widths[:0:-1])}
        for blocks, channels in inputs.items():
            for i, C in enumerate(channels):
                block = f"mv_base_model.{blocks}.{i}."
                shapes |= {f"{block}norm1.{kind}": (first,) for kind in ("weight", "bias")}
                shapes |= {f"{block}conv1.weight": (C, first, 3, 3), f"{block}conv1.bias": (C,)}
                shapes |= {f"{block}norm2.{kind}": (C,) for kind in ("weight", "bias")}
                shapes |= {f"{block}conv2.weight": (C, C, 1, 1), f"{block}conv2.bias": (C,)}
    return shapes


def attention_weights(widths, depth=False, seed=0) -> dict[str, torch.Tensor]:
    """Random weights of the layout; frequencies that no formula gives, so that they have to be loaded."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in attention_layout(widths, depth).items():
        value = 0.2 * torch.randn(shape, generator=generator)
        if name.endswith("freq_bands"):
            value = 1.7 ** torch.arange(shape[-1]) + 0.01 * torch.rand(shape, generator=generator)
        weights[name] = value + 1 if "norm" in name and name.endswith("weight") else value
    return weights


def base_weights(backbone) -> dict[str, torch.Tensor]:
    """A base under the names of upstream's time: the text encoder's prefix, the autoencoder's old attention."""
    weights = {f"text_encoder.text_model.{k}": v for k, v in backbone.text_encoder.state_dict().items()}
    weights["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for name, value in backbone.vae.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        weights[f"vae.{name}"] = value
    weights |= {f"mv_base_model.unet.{k}": v for k, v in backbone.unet.state_dict().items()}
    return weights


def write_file(path: Path, weights, **entries) -> Path:
    """Save a Lightning checkpoint."""
    state = OrderedDict((name, value.detach().clone()) for name, value in weights.items())
    torch.save({"state_dict": state, "epoch": 9, "global_step": 100, **entries}, path)
    return path
