"""MVDiffusionPanoramaPipeline: all views of a panorama from text at once (the paper's section 4).

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
from mvdiff.pipelines.calls import as_output_type, call_settings, rig_batch
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.pipelines.sampling import Generated
from mvdiff.samples.photo_sphere import carry_xmp
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Task


@dataclass
class MVDiffusionPanoramaOutput(BaseOutput):
    """Generated panoramas.

    Attributes:
        images: Per output_type: "pil" lists [B][V] of images; "np" [B, V, H, W, 3] and "pt" [B, V, 3, H, W], float in
            [0, 1] as everywhere in diffusers; "uint8" a tensor [B, V, H, W, 3], rounded, as sample folders take it;
            "latent" [B, V, C, h, w].
        panoramas: The stitched views in the same form, [B] of height x 2 height, mid-grey where no view looks;
            None for latents. Saved as PNG, JPEG or WebP, "pil" images open in 360-degree viewers at view 0 (see
            `mvdiff.samples.save_panorama`).
        covered: [H, W] bool, where the rig sees the panorama; None for latents.
        seeds: [B] seeds of the samples.
    """

    images: Any
    panoramas: Any
    covered: Tensor | None
    seeds: list[int]


class MVDiffusionPanoramaPipeline(MultiViewPipeline):
    """Generate the views of panoramas with a frozen base, and correspondence-aware attention between the views.

    The other arguments are those of `MultiViewPipeline`.

    Args:
        rig: Default views; the paper's ring of 8 when None.
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

    @rig.setter
    def rig(self, rig: Rig) -> None:
        self.views["rig"] = rig

    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        rig: Rig | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
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
            prompt: One text for all views of one sample; a list of texts, one sample each; or a list of samples,
                each a text for all views or a list of one text per view.
            rig: Views to generate; default the model's. Sides must be multiples of the autoencoder's stride.
            negative_prompt: See `mvdiff.settings.Sampling`, as for `num_inference_steps`, `guidance_scale` and `eta`;
                taken without prefix, the same for all samples.
            seed: Seed of all samples; None takes one from `generator` or, without, from torch's global generator.
            generator: In place of a seed, one for all samples or one each; the seeds are drawn from it.
            latents: [B, V, C, h, w] standard normal noise to start from; default noise drawn by seed.
            sample_ids: Names of the samples, part of the noise's key; default their places "0", "1", ...
            prompt_prefix: Default the model's.
            panorama_height: Rows of the stitched panoramas; default as dense as the middle of a view.
            output_type: "pil", "np", "pt", "uint8" or "latent", see `MVDiffusionPanoramaOutput`.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors); may return a dict of tensors to go on
                with, and stop denoising by `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: Tensors that it is given: "latents" [B, V, C, h, w], "prompt_embeds"
                and "negative_prompt_embeds" [B, V, L, D].
            caa: See `mvdiff.settings.Controls`, as for `attention_enabled` and `neighbour_batch`.

        Raises:
            ValueError: An argument does not fit; the text says which.
        """
        arguments = locals()
        check_panorama_height(panorama_height)
        rig = self.rig if rig is None else rig
        batch = rig_batch(rig, expand_prompts(prompt, rig.num_views), sample_ids)
        generated = self.generate(batch, **call_settings(arguments, batch.batch_size))
        return MVDiffusionPanoramaOutput(**panorama_output(generated, rig, panorama_height, output_type))


def panorama_output(generated: Generated, rig: Rig, panorama_height: int | None, output_type: str) -> dict[str, Any]:
    """Return the fields of an output of views and panoramas, see `MVDiffusionPanoramaOutput`."""
    if generated.images is None:
        return {"images": generated.latents, "panoramas": None, "covered": None, "seeds": generated.seeds}
    panoramas, covered = stitched(generated.images, rig, panorama_height)
    views, panoramas = (as_output_type(values, output_type) for values in (generated.images, panoramas))
    if output_type == "pil":
        panoramas = [carry_xmp(panorama, rig.views[0][:2]) for panorama in panoramas]
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
