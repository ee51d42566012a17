"""Several text encoders, or tokenizers, as the one part that pipelines, hashes and offload hooks know.

Axes: N prompts, L tokens, D width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class TextEncoders(nn.Module):
    """Text encoders of one base, in the order of `text_encoder`, `text_encoder_2`, ...

    Args:
        encoders: The encoders by the names of their folders.
    """

    def __init__(self, encoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    @property
    def config(self) -> Any:
        """Config of the first encoder."""
        return next(iter(self.encoders.values())).config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, tokens: Sequence[Tensor], **settings: Any) -> list[Any]:
        """Run each encoder on its token ids [N, L]; `settings` are arguments of each call."""
        return [encoder(ids, **settings) for encoder, ids in zip(self.encoders.values(), tokens, strict=True)]


class Tokenizers:
    """Tokenizers of one base; as a tokenizer, it is the first.

    Args:
        tokenizers: The tokenizers by the names of their folders.
    """

    def __init__(self, tokenizers: dict[str, Any]) -> None:
        self.tokenizers = tokenizers

    @property
    def first(self) -> Any:
        """The first tokenizer."""
        return next(iter(self.tokenizers.values()))

    @property
    def model_max_length(self) -> int:
        """Context of the first tokenizer."""
        return self.first.model_max_length

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tokenize with the first tokenizer."""
        return self.first(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Write tokens of the first tokenizer as text."""
        return self.first.decode(*args, **kwargs)

    def ids(self, prompts: list[str], lengths: Sequence[int], device: torch.device) -> list[Tensor]:
        """Return token ids [N, length] of each tokenizer."""
        return [
            tokenizer(
                prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(device)
            for tokenizer, length in zip(self.tokenizers.values(), lengths, strict=True)
        ]


def clip_states(outputs: Sequence[Any], skip: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Return what SDXL and SD3 take of CLIP encoders: their last but one layers and their first outputs.

    Args:
        outputs: Outputs with `hidden_states`.
        skip: Further layers to leave out at the end.

    Returns:
        [N, L, D1 + D2 + ...], and the first output of each encoder: `text_embeds` [N, P] of one with a projection.
    """
    states = [output.hidden_states[-(skip + 2)] for output in outputs]
    return torch.cat(states, dim=-1), [output[0] for output in outputs]


def own_precision(encoder: nn.Module, device: torch.device) -> Any:
    """Return a context without autocast for an encoder in half precision; autocast is for float32 weights."""
    return torch.autocast(device.type, enabled=False) if encoder.dtype != torch.float32 else nullcontext()
