"""Train an inpainting base on single views: what the paper takes ready-made, for bases that have no such variant.

Axes: B samples, V views, N views chosen from the B x V of a batch, C latent channels, H W image, h w latent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.known import view_known
from mvdiff.keyed import keyed_generator
from mvdiff.models.inpainting import add_inpainting_input as widen
from mvdiff.models.inpainting import check_inpainting_input, inpainting_condition, masked_images
from mvdiff.training.inputs import SingleViewInputs
from mvdiff.training.single_view import SingleViewModule


class MaskedViewInputs(SingleViewInputs):
    """Encode the masked images of single views: noise of their own, computed each time, for masks do not come back."""

    purpose = "masked-latent"


class InpaintingSingleViewModule(SingleViewModule):
    """Train a whole UNet on single views of which a random part is given.

    What is given of a view (see `mvdiff.data.known.view_known`) is drawn anew each time, a function of (seed, epoch,
    sample index, view). Given parts are denoised and counted in the loss like the others.

    Args:
        *args: As for `SingleViewModule`.
        add_inpainting_input: Give a base without inpainting channels those, with zero weights: training starts from
            what the base does. False for an inpainting base.
        **kwargs: As for `SingleViewModule`.

    Raises:
        ValueError: The UNet has no channels for mask and masked image.
    """

    def __init__(self, *args: Any, add_inpainting_input: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if add_inpainting_input:
            widen(self.backbone.unet)
        check_inpainting_input(self.backbone.unet, self.backbone.latent_channels)
        self.masked_inputs = MaskedViewInputs(self.backbone, self.seed, cache=None, cache_latents=False)
        self._last: tuple[MultiViewBatch, Tensor] | None = None

    def known(self, batch: MultiViewBatch) -> Tensor:
        """Draw what is given of each view: [B, V, 1, H, W]."""
        height, width = batch.images.shape[-2:]
        draws = [
            view_known(height, width, keyed_generator("view-known", self.seed, batch.epoch, key))
            for key in self.inputs.view_keys(batch)
        ]
        return torch.stack(draws).unflatten(0, batch.images.shape[:2])

    def condition(self, batch: MultiViewBatch) -> Tensor:
        """Return mask and masked-image latents of a batch's views, [B, V, 1 + C, h, w]; kept for the last batch."""
        if self._last is None or self._last[0] is not batch:
            known = self.known(batch)
            masked = replace(batch, images=masked_images(batch.images, known))
            latents = self.masked_inputs.latents(masked)
            self._last = batch, inpainting_condition(known, latents, self.backbone.vae_stride)
        return self._last[1]

    def model_input(self, noisy_latents: Tensor, batch: MultiViewBatch, views: Tensor) -> Tensor:
        """Join mask and masked image on: [N, C, h, w] -> [N, 2 C + 1, h, w]."""
        condition = self.condition(batch).flatten(0, 1)[views]
        return torch.cat([noisy_latents, condition.to(noisy_latents)], dim=1)
