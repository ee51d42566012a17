"""What the calls of all pipelines take and give alike: seeds, and forms of output."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mvdiff.samples import to_uint8

OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")


def drawn_seeds(seed: int | None, generator: Any, count: int) -> list[int]:
    """Return one seed per sample: `seed` for all, or drawn from generators (None: torch's global one).

    Raises:
        ValueError: both are given, or there are neither one nor `count` generators.
    """
    if seed is not None and generator is not None:
        raise ValueError("seed must be left out where generator is given; got both. Give one of them.")
    if seed is not None:
        return [int(seed)] * count
    generators = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, count):
        raise ValueError(
            f"generator must be one or one per sample ({count}); got {len(generators)}. Give a seed instead."
        )
    drawn = []
    for one in generators:
        device = "cpu" if one is None else one.device
        drawn.append(int(torch.randint(2**63 - 1, (), generator=one, device=device)))
    return drawn * (count // len(drawn))


def as_output_type(images: Tensor, output_type: str) -> Any:
    """Turn images [..., 3, H, W] in [-1, 1] into the form that was asked for."""
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.movedim(-3, -1)
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    pixels = to_uint8(channels_last)
    return pixels if output_type == "uint8" else _as_pil(pixels)


def _as_pil(pixels: Tensor) -> Any:
    if pixels.ndim > 3:
        return [_as_pil(one) for one in pixels]
    return Image.fromarray(pixels.contiguous().numpy())
