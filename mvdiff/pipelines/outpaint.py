"""MVDiffusionOutpaintPipeline: given pictures become a full panorama (the paper's outpainting, or extrapolation).

Axes: B samples, V views, C latent channels, h w latent, H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.metrics.given import known_psnr
from mvdiff.geometry.cameras import Rig
from mvdiff.models.inpainting import masked_images
from mvdiff.pipelines.calls import check_output_type, drawn_seeds, rig_batch
from mvdiff.pipelines.given import Picture, given_images, given_views
from mvdiff.pipelines.panorama import (
    MVDiffusionPanoramaOutput,
    MVDiffusionPanoramaPipeline,
    check_panorama_height,
    panorama_output,
)
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.pipelines.sampling import StepCallback
from mvdiff.settings import Controls, Sampling
from mvdiff.shapes import check_shapes
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.tasks.task import Task


@dataclass
class MVDiffusionOutpaintOutput(MVDiffusionPanoramaOutput):
    """What the pipeline returns: what the panorama pipeline does, and what was given.

    Attributes:
        known: [B, V, 1, H, W] float, 1 where pixels were given.
        known_psnr: [B] dB between the given pixels and what the model makes in their place, before they are put back;
            None for latents.
    """

    known: Tensor | None = None
    known_psnr: list[float] | None = None


class MVDiffusionOutpaintPipeline(MVDiffusionPanoramaPipeline):
    """Continue given pictures all around, with a frozen inpainting base and attention between the views.

    Args:
        vae: autoencoder of the base.
        text_encoder: of the base.
        tokenizer: of the base.
        unet: of the base, which takes [noisy latent | mask | masked-image latent].
        adapter: the trained attention blocks.
        scheduler: any diffusers scheduler; replace `pipeline.scheduler` at will.
        rig: default views; the paper's ring of 8 when None.
        prompt_prefix: put before every prompt, as in training.
        base: which base this is, for `save_pretrained`.

    Raises:
        ValueError: the adapter is another base's, or the base is no inpainting base.
    """

    @classmethod
    def face_task(cls) -> Task:
        """Return the task: outpainting."""
        return OutpaintTask()

    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        image: Picture | Sequence[Picture] | None = None,
        fov_deg: float | Sequence[float] = 90.0,
        yaw_deg: float | Sequence[float] = 0.0,
        pitch_deg: float | Sequence[float] = 0.0,
        images: Tensor | None = None,
        known: Tensor | None = None,
        paste_back: bool = True,
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
    ) -> MVDiffusionOutpaintOutput:
        """Generate panoramas around what is given.

        What is given is either pictures with their angles, which go into every view that they reach, the same for all
        samples of the call; or views and masks for each sample, as data modules give them (the paper's form: view 0
        known as a whole).

        Args:
            prompt: see the panorama pipeline.
            image: a picture or several, see `mvdiff.pipelines.given.given_images`; where several reach, the first
                counts.
            fov_deg: their horizontal field of view in degrees, one number for all or one for each.
            yaw_deg: where their middle looks, degrees to the right of yaw 0.
            pitch_deg: degrees upwards.
            images: in place of `image`, [B, V, 3, H, W] in [-1, 1]; not read where `known` is 0. Pictures of other
                cameras K, R: see `mvdiff.geometry.given.warp_given`.
            known: with `images`, [B, V, 1, H, W], 1 where given, 0 where to be generated.
            paste_back: put the given pixels back into the decoded views (latents are left as they are).
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
            output_type: "pil", "np", "pt", "uint8" or "latent", see the panorama pipeline's output.
            callback_on_step_end: see the panorama pipeline.
            callback_on_step_end_tensor_inputs: which tensors it is given, see there.
            caa: False runs the plain inpainting base, view by view (a control).
            attention_enabled: False switches the attention of CAA off, its feed-forward layers stay (a control).
            neighbour_batch: [B] which sample of the batch lends its views as neighbours (a control); default its own.

        Raises:
            FileNotFoundError: a picture is not there.
            ValueError: an argument does not fit; the text says which.
        """
        check_panorama_height(panorama_height)
        check_output_type(output_type)
        rig = self.rig if rig is None else rig
        prompts = expand_prompts(prompt, rig.num_views)
        images, known = _given(rig, len(prompts), image, (fov_deg, yaw_deg, pitch_deg), images, known)
        batch = rig_batch(rig, prompts, sample_ids, images=images, known=known)
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
            paste_back=paste_back,
            decode=output_type != "latent",
        )
        fields = panorama_output(generated, rig, panorama_height, output_type)
        if generated.rendered is not None:
            rows = zip(generated.rendered, images, known, strict=True)
            fields["known_psnr"] = [known_psnr(*row) for row in rows]
        return MVDiffusionOutpaintOutput(**fields, known=known)


def _given(rig: Rig, count: int, image, angles, images, known) -> tuple[Tensor, Tensor]:
    """Return what is given of each of `count` samples, [B, V, 3, H, W] and [B, V, 1, H, W] on the CPU."""
    if (image is None) == (images is None) or (images is None) != (known is None):
        there = {"image": image, "images": images, "known": known}
        got = " and ".join(name for name, value in there.items() if value is not None) or "none"
        raise ValueError(f"Pass `image`, or both `images` and `known`; got {got}.")
    if image is not None:
        views = given_views(given_images(image, *angles), rig)
        return tuple(part.expand(count, -1, -1, -1, -1) for part in (views.images, views.known))
    if not (isinstance(images, Tensor) and isinstance(known, Tensor)):
        got = ", ".join(type(value).__name__ for value in (images, known))
        raise ValueError(f"images and known must be tensors; got {got}. Convert them, or give pictures as image.")
    sizes = check_shapes(images=(images, "B V 3 H W"), known=(known, "B V 1 H W"))
    wanted = {"B": count, "V": rig.num_views, "H": rig.height, "W": rig.width}
    if sizes != wanted:
        raise ValueError(f"images must have the sizes of the samples and the rig, {wanted}; got {sizes}.")
    images, known = masked_images(images.float().cpu(), known.float().cpu()), known.float().cpu()
    low, high = images.aminmax()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(f"images must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]. Scale them and drop NaNs.")
    return images, known
