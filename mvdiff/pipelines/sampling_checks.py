"""Sampling settings that do not fit a base, found before anything is computed."""

from __future__ import annotations

from mvdiff.denoising import with_steps
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.stable_diffusion import UNetBase
from mvdiff.settings import Sampling


def check_sampling(base: Base, sampling: Sampling, encodes_text: bool = True) -> None:
    """Raise ValueError if steps or `clip_skip` do not fit a base or its scheduler, or are out of range.

    Args:
        base: Base to sample with.
        sampling: Sampling settings.
        encodes_text: False if text embeddings come from a cache.
    """
    with_steps(base.scheduler, sampling.num_inference_steps, sampling.timesteps, sampling.sigmas)
    clip_skip = sampling.clip_skip
    if clip_skip is None:
        return
    if not encodes_text or not isinstance(base, UNetBase):
        raise ValueError(
            "clip_skip must be left out for transformers and with cache.text_only; it is for the text encoders of "
            f"Stable Diffusion 1, 2 and XL; got {clip_skip}."
        )
    layers = base.text_encoder.config.num_hidden_layers
    if not 0 <= clip_skip < layers:
        raise ValueError(f"clip_skip must lie between 0 and {layers - 1}; got {clip_skip}.")
