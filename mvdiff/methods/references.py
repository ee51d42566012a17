"""Upper bounds for every method: the real views, and their reconstruction by the autoencoder.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.methods.method import Method
from mvdiff.models.autoencoder import decode_latents, encode_images
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.settings import Sampling


class GroundTruth(Method):
    """The real views of a batch."""

    is_sampled: ClassVar[bool] = False

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return the batch's own images."""
        return batch.images.cpu()

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return `paste_back: False` for tasks that can paste known pixels back."""
        return {"paste_back": False} if getattr(self.task, "paste_back", False) else {}


class AutoencoderRoundTrip(GroundTruth):
    """The real views, encoded and decoded: the best images that a latent model can render.

    Args:
        name: See `Method`.
        pipeline: Pipeline whose autoencoder and task are used.
    """

    def __init__(self, name: str, pipeline: MultiViewPipeline) -> None:
        super().__init__(name, pipeline.task)
        self.vae = pipeline.vae

    @torch.no_grad()
    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Encode the batch's images to mean latents and decode them, one sample at a time."""
        device = next(self.vae.parameters()).device
        images = [decode_latents(self.vae, encode_images(self.vae, views.to(device))) for views in batch.images]
        return torch.stack(images).cpu()
