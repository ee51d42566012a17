"""MVDiffusionPanoramaPipeline: all views of a panorama from text at once (the paper's section 4.1).

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import check_sampler, step_generators, view_noise
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.geometry.panorama import stitch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.conditioning import check_latent_input
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import as_output_type, drawn_seeds
from mvdiff.pipelines.model_folder import PANORAMA_TASK, BaseReference, ModelInfo
from mvdiff.pipelines.prompts import expand_prompts


@dataclass
class MVDiffusionPanoramaOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: per output_type: "pil" lists [B][V] of images; "np" [B, V, H, W, 3] and "pt" [B, V, 3, H, W], float in
            [0, 1] as everywhere in diffusers; "uint8" a tensor [B, V, H, W, 3], rounded, as sample folders take it;
            "latent" [B, V, C, h, w].
        panoramas: the stitched views in the same form, [B] of height x 2 height, mid-grey where no view looks;
            None for latents.
        covered: [H, W] bool, where the rig sees the panorama; None for latents.
        seeds: [B] the seed of each sample.
    """

    images: Any
    panoramas: Any
    covered: Tensor | None
    seeds: list[int]


class RigStart(NamedTuple):
    """Samples to generate: rig, B x V prompts, B keys (seed, sample id), noise [B, V, C, h, w] on the device."""

    rig: Rig
    prompts: list[list[str]]
    keys: list[tuple[int, str]]
    noise: Tensor


class MVDiffusionPanoramaPipeline(MultiViewPipeline):
    """Generate the views of panoramas with a frozen base, and correspondence-aware attention between the views.

    Args:
        vae: autoencoder of the base.
        text_encoder: of the base.
        tokenizer: of the base.
        unet: of the base.
        adapter: the trained attention blocks.
        scheduler: any diffusers scheduler; replace `pipeline.scheduler` at will.
        rig: default views; the paper's ring of 8 when None.
        prompt_prefix: put before every prompt, as in training.
        base: which base this is, for `save_pretrained`.
    """

    task = PANORAMA_TASK

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: MultiViewAdapter,
        scheduler: Any,
        rig: Rig | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, adapter, scheduler, prompt_prefix, base)
        self.rig = RingRig() if rig is None else rig

    @staticmethod
    def check_base(unet: Any, latent_channels: int) -> None:
        """Raise ValueError where the base takes more than latents: it is one for another task."""
        check_latent_input(unet, latent_channels)

    @property
    def model_info(self) -> ModelInfo:
        """What `mvdiff.json` says of this model; `base` is set."""
        return ModelInfo(self.rig, self.prompt_prefix, self.base, self.task)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        rig: Rig | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sample_ids: Sequence[str] | None = None,
        prompt_prefix: str | None = None,
        eta: float = 0.0,
        panorama_height: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        caa: bool = True,
        attention_enabled: bool = True,
        neighbour_batch: Sequence[int] | None = None,
    ) -> MVDiffusionPanoramaOutput:
        """Generate panoramas.

        Noise is drawn on the CPU in float32 from (seed, sample id, view) alone: a sample does not depend on its batch.

        Args:
            prompt: one text for all views of one sample; a list of texts, one sample each; or a list of samples,
                each a text for all views or a list of one text per view.
            rig: views to generate; default the model's. Sides must be multiples of the autoencoder's stride.
            negative_prompt: what to steer away from, without prefix: one text for all views, or a list of one per
                view, the same for all samples; default the empty prompt.
            num_inference_steps: of the scheduler; the paper uses 50 (DDIM).
            guidance_scale: classifier-free guidance, 9 in the paper; 1 or less runs the text alone, at half the cost.
            seed: of all samples; None takes one from `generator` or, without, from torch's global generator.
            generator: in place of a seed, one for all samples or one each; the seeds are drawn from it.
            sample_ids: names of the samples, part of the noise's key; default their places "0", "1", ...
            prompt_prefix: default the model's; "" for prompts that carry it already.
            eta: of DDIM, 0 deterministic .. 1.
            panorama_height: rows of the stitched panoramas; default as dense as the middle of a view.
            output_type: "pil", "np", "pt", "uint8" or "latent", see `MVDiffusionPanoramaOutput`.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); may return a dict of tensors to go on
                with, and stop denoising by `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: which tensors it is given: "latents" [B, V, C, h, w], "prompt_embeds"
                and "negative_prompt_embeds" [B, V, L, D].
            caa: False runs the plain base, view by view (a control).
            attention_enabled: False switches the attention of CAA off, its feed-forward layers stay (a control).
            neighbour_batch: [B] which sample of the batch lends its views as neighbours (a control); default its own.

        Raises:
            ValueError: an argument does not fit; the text says which.
        """
        check_panorama_height(panorama_height)
        start = self._start(prompt, rig, seed, generator, sample_ids, num_inference_steps, output_type, neighbour_batch)
        latents = self._sample(
            self._predictor(start, caa, neighbour_batch),
            start.noise,
            start.prompts,
            negative_prompt,
            prompt_prefix,
            num_inference_steps,
            guidance_scale,
            [step_generators(one, [name])[0] for one, name in start.keys],
            eta,
            callback_on_step_end,
            attention_enabled,
            callback_on_step_end_tensor_inputs,
        )
        return self._output(latents, start, panorama_height, output_type)

    def _start(
        self, prompt, rig, seed, generator, sample_ids, num_inference_steps, output_type, neighbour_batch
    ) -> RigStart:
        """Check the arguments of a call and draw its noise."""
        rig = self.rig if rig is None else rig
        prompts = expand_prompts(prompt, rig.num_views)
        sample_ids = [str(i) for i in range(len(prompts))] if sample_ids is None else list(map(str, sample_ids))
        self._check_size({"height": rig.height, "width": rig.width}, of="rig")
        self._check_call(len(prompts), sample_ids, output_type, neighbour_batch)
        check_sampler(self.scheduler, num_inference_steps)
        keys = list(zip(drawn_seeds(seed, generator, len(prompts)), sample_ids, strict=True))
        backbone = self._backbone()
        stride = backbone.vae_stride
        shape = (backbone.latent_channels, rig.height // stride, rig.width // stride)
        noise = torch.stack([view_noise(*key, num_views=rig.num_views, shape=shape) for key in keys])
        return RigStart(rig, prompts, keys, noise.to(self._execution_device))

    def _predictor(
        self, start: RigStart, caa: bool, neighbour_batch: Sequence[int] | None, condition: Tensor | None = None
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return what predicts the noise from latents, timesteps and text.

        Args:
            start: the samples.
            caa: whether views attend to each other.
            neighbour_batch: [B] which sample lends its views as neighbours.
            condition: [B, V, channels, h, w] joined to the latents in the UNet's input.
        """
        batch, device, geometry = len(start.prompts), start.noise.device, None
        if caa:
            cameras = MultiViewBatch.from_cameras(*start.rig.cameras(), start.rig.height, start.rig.width)
            geometry = self.adapter.geometry(cameras, self._backbone().vae_stride)
        unet = self._multi_view_unet()
        lenders = None if neighbour_batch is None else torch.as_tensor(list(neighbour_batch), device=device)

        def predict(latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            passes = range(len(latents) // batch)  # guidance runs the batch twice
            rows = None if lenders is None else torch.cat([lenders + run * batch for run in passes])
            dtype = self.unet.dtype
            if condition is not None:
                latents = torch.cat([latents, torch.cat([condition for _ in passes])], dim=2)
            return unet(latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), geometry, neighbour_batch=rows)

        return predict

    def _output(self, latents, start: RigStart, panorama_height, output_type) -> MVDiffusionPanoramaOutput:
        seeds = [seed for seed, _ in start.keys]
        if output_type == "latent":
            return MVDiffusionPanoramaOutput(images=latents, panoramas=None, covered=None, seeds=seeds)
        images = self._decode(latents)
        panoramas, covered = self._stitched(images, start.rig, panorama_height)
        views, panoramas = (as_output_type(values, output_type) for values in (images, panoramas))
        return MVDiffusionPanoramaOutput(images=views, panoramas=panoramas, covered=covered, seeds=seeds)

    def _stitched(self, images: Tensor, rig: Rig, panorama_height: int | None) -> tuple[Tensor, Tensor]:
        """Stitch views [B, V, 3, H, W] to panoramas [B, 3, height, 2 height]; tell what of them is covered."""
        K, R = rig.cameras()
        height = panorama_height or round(math.pi * float(K[:, 0, 0].max()))
        stitched = [stitch(views, K, R, height, 2 * height) for views in images]
        return torch.stack([panorama for panorama, _ in stitched]), stitched[0][1]


def check_panorama_height(height: int | None) -> None:
    """Raise ValueError where a panorama cannot have so many rows."""
    if height is not None and (not isinstance(height, int) or height < 1):
        raise ValueError(f"panorama_height must be at least 1, and whole; got {height}. Leave it out.")
