"""ControlNetInpainting: keep what earlier frames show, inpaint the holes under the control of depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import ControlNetModel
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.weights import tensors_hash
from mvdiff.files.sharing import shared_name
from mvdiff.methods.frame_by_frame import BASE_ALONE, FrameByFrame
from mvdiff.methods.inpainting import NextViewTask
from mvdiff.methods.parts import Parts
from mvdiff.models.autoencoder import autoencoder_stride
from mvdiff.models.controlnet import ControlledUNet, check_controlnet
from mvdiff.models.inpainting import inpainting_condition, masked_images
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.settings import Sampling
from mvdiff.tasks.task import Condition, Encoder, Task


class FrameInpaintingTask(NextViewTask):
    """Inpaint single frames; a frame of which nothing is known is generated as a whole."""

    paste_back = False
    view_fields = ("height", "width")

    def condition(self, batch: MultiViewBatch, encoder: Encoder) -> Condition:
        """Encode the masked images, with noise keyed by frame, and compute the mask."""
        masked = encoder.given(torch.ones_like(batch.view_valid))
        return Condition(channels=inpainting_condition(batch.known, masked, encoder.vae_stride))


class ControlNetPipeline(MultiViewPipeline):
    """An inpainting base with a ControlNet; see `MultiViewPipeline`.

    Args:
        controlnet: ControlNet that fits the base.
        **parts: See `MultiViewPipeline`.
    """

    scale: float = 1.0
    """Factor of the control."""

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: Any,
        scheduler: Any,
        controlnet: ControlNetModel,
        task: Task | None = None,
        views: Any = None,
        prompt_prefix: str = "",
        base: Any = None,
    ) -> None:
        self._frames: MultiViewBatch | None = None
        super().__init__(vae, text_encoder, tokenizer, unet, adapter, scheduler, task, views, prompt_prefix, base)
        self.register_modules(controlnet=controlnet)
        check_controlnet(controlnet, unet, vae.config.latent_channels, autoencoder_stride(vae))

    @classmethod
    def of(cls, pipeline: MultiViewPipeline, controlnet: ControlNetModel) -> Self:
        """Add a ControlNet to a pipeline."""
        described = {name: getattr(pipeline, name) for name in ("task", "views", "prompt_prefix", "base")}
        controlled = cls(**pipeline.components, controlnet=controlnet, **described)
        controlled._opened = pipeline._opened
        return controlled

    def generate(self, batch: MultiViewBatch, *args: Any, **options: Any) -> Any:
        """Generate frames under the control of their depths; see `SamplingPipeline.generate`."""
        self._frames = batch
        try:
            return super().generate(batch, *args, **options)
        finally:
            self._frames = None
            self.maybe_free_model_hooks()

    def _multi_view_unet(self) -> Any:
        unet = super()._multi_view_unet()
        if self._frames is None:
            return unet
        return ControlledUNet(unet, self.controlnet, self._frames.depths.to(self._execution_device), self.scale)


class ControlNetInpainting(FrameByFrame):
    """Warp earlier frames into the next one and inpaint the holes: Table 2's "depth ControlNet + inpainting".

    It needs an inpainting base (`--base`) and a depth ControlNet for the same version of Stable Diffusion
    (`--controlnet`). A frame without depth is inpainted without control.

    Args:
        pipeline: Pipeline of the inpainting base, of `FrameInpaintingTask`.
        controlnet: The ControlNet.
        name: See `Method`.
        scale: Factor of the control; 1 is that of the training.
        controlnet_name: Place of the ControlNet, for `sample.json`.
        **options: See `FrameByFrame`.

    Raises:
        ValueError: The ControlNet does not fit the base.
    """

    name = "controlnet-inpainting"

    def __init__(
        self,
        pipeline: MultiViewPipeline,
        controlnet: ControlNetModel,
        name: str | None = None,
        scale: float = 1.0,
        controlnet_name: str | None = None,
        **options: Any,
    ) -> None:
        pipeline = ControlNetPipeline.of(pipeline, controlnet)
        pipeline.scale = scale
        super().__init__(pipeline, name, **options)
        self.controlnet_name = controlnet_name
        self._controlnet_hash = tensors_hash(controlnet.state_dict())

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the inpainting base and the ControlNet; see `Method.open`."""
        controlnet = parts.open_controlnet(cls.name)  # the smaller part first
        pipeline = parts.open_base(cls.name, FrameInpaintingTask(), "an inpainting base")
        return cls(pipeline, controlnet, controlnet_name=str(parts.controlnet))

    def paint(self, frames: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Inpaint frames; see `FrameByFrame.paint`."""
        frames = replace(frames, images=masked_images(frames.images, frames.known))
        return self.pipeline.generate(frames, sampling, seed=seed, controls=BASE_ALONE).images

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings, with those of the ControlNet; see `FrameByFrame.describe`."""
        return super().describe(sampling) | {
            "controlnet": None if self.controlnet_name is None else shared_name(self.controlnet_name),
            "controlnet_weights_hash": self._controlnet_hash,
            "controlnet_scale": self.pipeline.scale,
        }
