"""MVDiffusionOutpaintPipeline: extend pictures to a full panorama (the paper's outpainting, or extrapolation).

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
from mvdiff.pipelines.calls import call_settings, check_range, rig_batch
from mvdiff.pipelines.given import Picture, given_images, given_views
from mvdiff.pipelines.panorama import (
    MVDiffusionPanoramaOutput,
    MVDiffusionPanoramaPipeline,
    check_panorama_height,
    panorama_output,
)
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.shapes import check_shapes
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.tasks.task import Task


@dataclass
class MVDiffusionOutpaintOutput(MVDiffusionPanoramaOutput):
    """Generated panoramas, and the known pixels that they extend.

    Attributes:
        known: [B, V, 1, H, W] float, 1 for known pixels.
        known_psnr: [B] PSNR in dB between the known pixels and the model's own rendering of them, before they are
            pasted back; None for latents.
    """

    known: Tensor | None = None
    known_psnr: list[float] | None = None


class MVDiffusionOutpaintPipeline(MVDiffusionPanoramaPipeline):
    """Extend pictures to full panoramas, with a frozen inpainting base and attention between the views.

    The base's UNet takes [noisy latent | mask | masked-image latent].
    """

    @classmethod
    def face_task(cls) -> Task:
        """Return the task: outpainting."""
        return OutpaintTask()

    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        image: Picture | Sequence[Picture] | None = None,
        fov_deg: float | Sequence[float] | None = None,
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
    ) -> MVDiffusionOutpaintOutput:
        """Extend pictures to panoramas.

        Pass either `image`: pictures with their angles, which are projected into every view that sees them, the same
        for all samples; or `images` and `known`: views and masks of each sample, as data modules return them (in the
        paper view 0 is known as a whole).

        For arguments that are not listed see `MVDiffusionPanoramaPipeline.__call__`.

        Args:
            image: One or several pictures, see `mvdiff.pipelines.given.given_images`; where they overlap, the first
                one is used.
            fov_deg: Field of view across the width of the upright pictures in degrees, in (0, 180); one number for
                all, or one each. None: that of the focal length in a picture's EXIF, else 90.
            yaw_deg: Yaw of the picture's centre in degrees, in [-360, 360], positive to the right.
            pitch_deg: Pitch of the picture's centre in degrees, in [-90, 90], positive upwards.
            images: [B, V, 3, H, W] in [-1, 1], in place of `image`; read only where `known` is 1. For pictures of other
                cameras K, R see `mvdiff.geometry.given.warp_given`.
            known: [B, V, 1, H, W], with `images`: 1 for known pixels, 0 for pixels to generate.
            paste_back: Paste the known pixels into the decoded views; latents are not changed.

        Raises:
            FileNotFoundError: A picture file does not exist.
            ValueError: An argument is invalid; the message names it.
        """
        arguments = locals()
        check_panorama_height(panorama_height)
        rig = self.rig if rig is None else rig
        prompts = expand_prompts(prompt, rig.num_views)
        images, known = _given(rig, len(prompts), image, (fov_deg, yaw_deg, pitch_deg), images, known)
        batch = rig_batch(rig, prompts, sample_ids, images=images, known=known)
        settings = call_settings(arguments, batch.batch_size)
        generated = self.generate(batch, **settings, paste_back=paste_back)
        fields = panorama_output(generated, rig, panorama_height, output_type)
        if generated.rendered is not None:
            rows = zip(generated.rendered, images, known, strict=True)
            fields["known_psnr"] = [known_psnr(*row) for row in rows]
        return MVDiffusionOutpaintOutput(**fields, known=known)


def _given(rig: Rig, count: int, image, angles, images, known) -> tuple[Tensor, Tensor]:
    """Return images and known masks of `count` samples, [B, V, 3, H, W] and [B, V, 1, H, W] on the CPU."""
    if (image is None) == (images is None) or (images is None) != (known is None):
        passed = {"image": image, "images": images, "known": known}
        got = " and ".join(name for name, value in passed.items() if value is not None) or "none"
        raise ValueError(f"Pass `image`, or both `images` and `known`; got {got}.")
    if image is not None:
        views = given_views(given_images(image, *angles), rig)
        return tuple(part.expand(count, -1, -1, -1, -1) for part in (views.images, views.known))
    if not (isinstance(images, Tensor) and isinstance(known, Tensor)):
        got = ", ".join(type(value).__name__ for value in (images, known))
        raise ValueError(f"images and known must be tensors; got {got}. Convert them, or pass pictures as `image`.")
    sizes = check_shapes(images=(images, "B V 3 H W"), known=(known, "B V 1 H W"))
    expected = {"B": count, "V": rig.num_views, "H": rig.height, "W": rig.width}
    if sizes != expected:
        raise ValueError(f"sizes of images must be those of the prompts and the rig, {expected}; got {sizes}.")
    images, known = masked_images(images.float().cpu(), known.float().cpu()), known.float().cpu()
    check_range("images", images)
    return images, known
