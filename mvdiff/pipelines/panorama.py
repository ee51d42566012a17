"""MVDiffusionPanoramaPipeline: generate all views of a panorama from text (the paper's section 4).

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
        images: Views in the form of `output_type`: "pil", lists [B][V] of PIL images; "np", an array [B, V, H, W, 3],
            and "pt", a tensor [B, V, 3, H, W], float in [0, 1] as in diffusers; "uint8", a tensor [B, V, H, W, 3], as
            in sample folders; "latent", a tensor [B, V, C, h, w].
        panoramas: B stitched panoramas of height x 2 height pixels in the same form, mid-grey where no view sees them;
            None for latents. "pil" images that are saved as PNG, JPEG or WebP open in 360-degree viewers at view 0
            (see `mvdiff.samples.save_panorama`).
        covered: [height, 2 height] bool, True where a view sees the panorama; None for latents.
        seeds: Seed of each of the B samples.
    """

    images: Any
    panoramas: Any
    covered: Tensor | None
    seeds: list[int]


class MVDiffusionPanoramaPipeline(MultiViewPipeline):
    """Generate the views of panoramas with a frozen base, and correspondence-aware attention between the views.

    For arguments that are not listed see `MultiViewPipeline`.

    Args:
        rig: Rig of the views to generate by default; None: the paper's ring of 8 views.
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
        """Rig of the views to generate by default."""
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
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        panorama_height: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        caa: bool = True,
        attention_enabled: bool = True,
        neighbour_batch: Sequence[int] | None = None,
    ) -> MVDiffusionPanoramaOutput:
        """Generate panoramas.

        Noise is drawn on the CPU in float32 from (seed, sample id, view) alone, so a sample does not depend on the rest
        of its batch.

        Args:
            prompt: One text for one sample; or a list of samples, each a text for all its views or a list of one text
                per view.
            rig: Rig of the views to generate; default: the model's. Height and width must be multiples of the
                autoencoder's stride.
            negative_prompt: One text for all views, or one per view, without prefix and the same for all samples; see
                `mvdiff.settings.Sampling`, also for `num_inference_steps`, `guidance_scale`, `eta`, `timesteps`,
                `sigmas`, `guidance_rescale` and `clip_skip`.
            seed: Random seed of all samples; None: draw seeds from `generator`.
            generator: Generator to draw seeds from, one for all samples or one each; None: torch's global generator.
            latents: [B, V, C, h, w] standard normal noise to start from; default: noise drawn by seed.
            sample_ids: Names of the samples, part of the noise's key; default: "0", "1", ...
            prompt_prefix: Text put before every prompt; default: the model's.
            panorama_height: Height of the stitched panoramas in pixels; default: the pixel density at the centre of a
                view.
            output_type: "pil", "np", "pt", "uint8" or "latent", see `MVDiffusionPanoramaOutput`.
            callback_on_step_end: Called after each step as (pipeline, step, timestep, tensors); may return a dict of
                replacement tensors, and may stop denoising by `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: Names of the tensors to pass to the callback: "latents"
                [B, V, C, h, w], "prompt_embeds" and "negative_prompt_embeds" [B, V, L, D].
            caa: See `mvdiff.settings.Controls`, also for `attention_enabled` and `neighbour_batch`.

        Raises:
            ValueError: An argument is invalid; the message names it.
        """
        arguments = locals()
        check_panorama_height(panorama_height)
        rig = self.rig if rig is None else rig
        batch = rig_batch(rig, expand_prompts(prompt, rig.num_views), sample_ids)
        generated = self.generate(batch, **call_settings(arguments, batch.batch_size))
        return MVDiffusionPanoramaOutput(**panorama_output(generated, rig, panorama_height, output_type))


def panorama_output(generated: Generated, rig: Rig, panorama_height: int | None, output_type: str) -> dict[str, Any]:
    """Stitch generated views and return the fields of a `MVDiffusionPanoramaOutput`."""
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
        rig: Rig of the views.
        panorama_height: Height of a panorama in pixels; default: the pixel density at the centre of a view.

    Returns:
        Panoramas [B, 3, height, 2 height] in [-1, 1], and [height, 2 height] bool, True where a view sees the panorama.
    """
    K, R = rig.cameras()
    height = panorama_height or round(math.pi * float(K[:, 0, 0].max()))
    panoramas = [stitch(views, K, R, height, 2 * height) for views in images]
    return torch.stack([panorama for panorama, _ in panoramas]), panoramas[0][1]


def check_panorama_height(height: int | None) -> None:
    """Raise ValueError unless `height` is None or a positive integer."""
    if height is not None and (not isinstance(height, int) or height < 1):
        raise ValueError(f"panorama_height must be an integer of at least 1; got {height}.")
