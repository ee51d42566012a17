"""MVDiffusionPanoramaPipeline: all views of a panorama from text at once (the paper's section 4.1).

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.geometry.panorama import stitch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import as_output_type, check_output_type, drawn_seeds, rig_batch
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.pipelines.sampling import Generated, StepCallback
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Task


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
        views = {"rig": RingRig() if rig is None else rig}
        super().__init__(
            vae, text_encoder, tokenizer, unet, adapter, scheduler, self.face_task(), views, prompt_prefix, base
        )

    @classmethod
    def face_task(cls) -> Task:
        """Return the task: text to panorama."""
        return PanoramaTask()

    @property
    def rig(self) -> Rig:
        """Default views."""
        return self.views["rig"]

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
            prompt_prefix: default the model's.
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
        check_output_type(output_type)
        rig = self.rig if rig is None else rig
        batch = rig_batch(rig, expand_prompts(prompt, rig.num_views), sample_ids)
        generated = self.generate(
            batch,
            Sampling(
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                eta=eta,
            ),
            seed=drawn_seeds(seed, generator, batch.batch_size),
            controls=Controls(caa=caa, attention_enabled=attention_enabled, neighbour_batch=neighbour_batch),
            prompt_prefix=prompt_prefix,
            callback=StepCallback(callback_on_step_end, callback_on_step_end_tensor_inputs),
            decode=output_type != "latent",
        )
        return MVDiffusionPanoramaOutput(**panorama_output(generated, rig, panorama_height, output_type))


def panorama_output(generated: Generated, rig: Rig, panorama_height: int | None, output_type: str) -> dict[str, Any]:
    """Return the fields of an output of views and panoramas, see `MVDiffusionPanoramaOutput`."""
    if generated.images is None:
        return {"images": generated.latents, "panoramas": None, "covered": None, "seeds": generated.seeds}
    panoramas, covered = stitched(generated.images, rig, panorama_height)
    views, panoramas = (as_output_type(values, output_type) for values in (generated.images, panoramas))
    return {"images": views, "panoramas": panoramas, "covered": covered, "seeds": generated.seeds}


def stitched(images: Tensor, rig: Rig, panorama_height: int | None = None) -> tuple[Tensor, Tensor]:
    """Stitch views to panoramas.

    Args:
        images: [B, V, 3, H, W] in [-1, 1].
        rig: The views.
        panorama_height: Rows of a panorama; default as dense as the middle of a view.

    Returns:
        [B, 3, height, 2 height], and [height, 2 height] bool, where the rig sees the panorama.
    """
    K, R = rig.cameras()
    height = panorama_height or round(math.pi * float(K[:, 0, 0].max()))
    panoramas = [stitch(views, K, R, height, 2 * height) for views in images]
    return torch.stack([panorama for panorama, _ in panoramas]), panoramas[0][1]


def check_panorama_height(height: int | None) -> None:
    """Raise ValueError where a panorama cannot have so many rows."""
    if height is not None and (not isinstance(height, int) or height < 1):
        raise ValueError(f"panorama_height must be at least 1, and whole; got {height}. Leave it out.")
