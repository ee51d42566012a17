"""SamplingEncoder: encodes the pictures that a task's condition needs while it samples.

Axes: B samples, V views, C latent channels, H W image, h w latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.keyed import keyed_generator
from mvdiff.models.bases.base import Base


@dataclass
class SamplingEncoder:
    """`mvdiff.tasks.task.Encoder` for sampling, with noise keyed by (purpose, seed, sample id[, view name]).

    Args:
        backbone: Base with the autoencoder.
        batch: The batch, on the device of the call.
        seeds: One seed per sample.
        like: [B, V, C, h, w] tensor whose dtype and device the latents get.
    """

    backbone: Base
    batch: MultiViewBatch
    seeds: Sequence[int]
    like: Tensor
    used: bool = field(default=False, init=False)

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell along each side."""
        return self.backbone.vae_stride

    def pictures(self, images: Tensor, purpose: str) -> Tensor:
        """Encode images [B, V, 3, H, W], one sample at a time; see `mvdiff.tasks.task.Encoder`."""
        self.used = True
        keys = zip(self.seeds, self.batch.sample_id, strict=True)
        generators = [keyed_generator(f"{purpose}s", *key) for key in keys]
        samples = zip(images.to(self.like.device), generators, strict=True)
        return torch.stack([self.backbone.encode_images(*sample) for sample in samples]).to(self.like)

    def given(self, views: Tensor) -> Tensor:
        """Encode the known views, [B, V] bool; the latents of other views are zeros."""
        latents = torch.zeros_like(self.like)
        if not bool(views.any()):
            return latents
        self.used = True
        generators = [
            keyed_generator("given", self.seeds[i], self.batch.sample_id[i], self.batch.names_of(i)[view])
            for i, view in views.nonzero().tolist()
        ]
        images = self.batch.images.to(self.like.device)[views]
        latents[views] = self.backbone.encode_images(images, generators).to(latents)
        return latents
