"""Read LoRA files as they are, and refuse those of which diffusers would use a part and leave out the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import _fetch_state_dict
from torch import Tensor

_PARTS_OF_A_LORA = (
    r"lora(_down|_up)\.weight",  # kohya
    r"lora\.(down|up)\.weight",
    r"lora_linear_layer\.(down|up)\.weight",
    r"lora_[AB](\.\w+)?\.weight",  # peft
    r"(to_\w+|[qkv]|out)_lora\.(down|up)\.weight",  # attention processors of old diffusers
    r"alpha",
)
_PART = re.compile(rf"\.(processor\.)?({'|'.join(_PARTS_OF_A_LORA)})$")
_DOWN = re.compile(r"(lora_down|down|lora_A(\.\w+)?)\.weight$")
_OTHER_FORMS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid\.": "a LoRA of convolutions with a middle factor",
    r"\.(diff|diff_b|w_norm|b_norm)$": "whole weights beside a LoRA",
}
_SDXL_FORMS = {
    r"^(lora_te2_|text_encoder_2\.)": "a LoRA for SDXL's second text encoder",
    r"^(lora_unet_(input|middle|output)_block|lora_te1_)": "a LoRA with names of SDXL or of the original code",
}


def count_layers(state: dict[str, Tensor], for_sdxl: bool = False) -> int:
    """Count the layers for which a file has low-rank weights.

    Args:
        state: Weights as the file has them.
        for_sdxl: The base is SDXL, whose files also name a second text encoder and the blocks of the original code.

    Raises:
        ValueError: A weight belongs to another form (DoRA, LoHa, LoKr, ...) or part, which would be left out.
    """
    forms = _OTHER_FORMS if for_sdxl else _OTHER_FORMS | _SDXL_FORMS
    for pattern, form in forms.items():
        if names := [name for name in state if re.search(pattern, name)]:
            raise ValueError(f"{form}, which is not supported ({len(names)} weights, such as {names[0]})")
    if names := [name for name in state if not _PART.search(name)]:
        raise ValueError(f"{len(names)} weights with names that no LoRA has, such as {names[0]}")
    return sum(bool(_DOWN.search(name)) for name in state)


def file_tensors(
    source: str | Path | dict[str, Tensor], weight_name: str | None = None, **kwargs: Any
) -> dict[str, Tensor]:
    """Return the weights as the file has them; for the arguments see `LoraOfBase.load_lora_weights`."""
    names = ("local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder")
    state, _ = _fetch_state_dict(
        source,
        weight_name=weight_name,
        use_safetensors=kwargs.get("use_safetensors", True),
        allow_pickle=kwargs.get("use_safetensors") is None,
        user_agent={},
        **{name: kwargs.get(name) for name in names},
    )
    return state
