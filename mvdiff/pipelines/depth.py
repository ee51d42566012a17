"""MVDiffusionDepthPipeline: generate frames of a scene with known depths and poses (the paper's section 4).

Axes: B samples, V frames of a sample, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.conditioning import given_frames
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import as_output_type, call_settings, check_range, named_samples
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.shapes import check_shapes
from mvdiff.tasks.depth import DepthTask
from mvdiff.tasks.task import Task


@dataclass
class MVDiffusionDepthOutput(BaseOutput):
    """Generated frames.

    Attributes:
        images: See `MVDiffusionPanoramaOutput`. Known frames are the model's rendering, not the input; padded frames
            are undefined.
        seeds: Seed of each of the B samples.
    """

    images: Any
    seeds: list[int]


class MVDiffusionDepthPipeline(MultiViewPipeline):
    """Generate frames that are consistent wherever their depths and poses show the same surface.

    The base's UNet has an input channel for depth. For arguments that are not listed see `MultiViewPipeline`.

    Args:
        height: Height in pixels of the frames that the model was trained on (paper: 192); other sizes work too.
        width: Width of the same frames (paper: 256).
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: MultiViewAdapter,
        scheduler: Any,
        height: int = 192,
        width: int = 256,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> None:
        views = {"height": height, "width": width}
        super().__init__(
            vae, text_encoder, tokenizer, unet, adapter, scheduler, self.face_task(), views, prompt_prefix, base
        )

    @classmethod
    def face_task(cls) -> Task:
        """Return the task: depth to images."""
        return DepthTask()

    @property
    def height(self) -> int:
        """Height in pixels of the frames that the model was trained on."""
        return self.views["height"]

    @height.setter
    def height(self, height: int) -> None:
        self.views["height"] = height

    @property
    def width(self) -> int:
        """Width in pixels of the frames that the model was trained on."""
        return self.views["width"]

    @width.setter
    def width(self, width: int) -> None:
        self.views["width"] = width

    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        depths: Tensor,
        K: Tensor,
        R: Tensor,
        t: Tensor,
        view_valid: Tensor | None = None,
        images: Tensor | None = None,
        known: Tensor | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        sample_ids: Sequence[str] | None = None,
        frame_ids: Sequence[Sequence[int | str]] | None = None,
        prompt_prefix: str | None = None,
        eta: float = 0.0,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        caa: bool = True,
        attention_enabled: bool = True,
        neighbour_batch: Sequence[int] | None = None,
    ) -> MVDiffusionDepthOutput:
        """Generate all frames of each sample jointly.

        Noise is drawn on the CPU in float32 from (seed, sample id, frame id) alone, so a sample does not depend on the
        rest of its batch, and a frame starts from the same noise in any set of frames. Known frames are encoded as in
        training, with noise from the same keys.

        For arguments that are not listed see `MVDiffusionPanoramaPipeline.__call__`; frames take the place of views.

        Args:
            depths: [B, V, H, W] z-depth in metres, 0: no depth; H and W must be multiples of the autoencoder's stride.
            K: [B, V, 3, 3] intrinsics in pixels of the depths.
            R: [B, V, 3, 3] world-from-camera rotations.
            t: [B, V, 3] camera centres in the world, metres.
            view_valid: [B, V] bool, False for padding, which no frame attends to; default: no padding.
            images: [B, V, 3, H, W] in [-1, 1]; only known frames are read.
            known: [B, V, 1, H, W], all 1 on a known frame and all 0 on a frame to generate; default: no known frames.
                The model was trained without known frames, or with the first and the last one known.
            frame_ids: [B][V] names of the frames, part of the noise's key; default: 0, 1, ...

        Raises:
            ValueError: An argument is invalid; the message names it.
        """
        arguments = locals()
        cameras = {"depths": depths, "K": K, "R": R, "t": t}
        batch = _frame_batch(prompt, cameras, view_valid, images, known, sample_ids, frame_ids)
        generated = self.generate(batch, **call_settings(arguments, batch.batch_size))
        shown = generated.latents if generated.images is None else as_output_type(generated.images, output_type)
        return MVDiffusionDepthOutput(images=shown, seeds=generated.seeds)


def _frame_batch(prompt, cameras, view_valid, images, known, sample_ids, frame_ids) -> MultiViewBatch:
    depths = cameras["depths"]
    shaped = {
        "depths": (depths, "B V H W"),
        "K": (cameras["K"], "B V 3 3"),
        "R": (cameras["R"], "B V 3 3"),
        "t": (cameras["t"], "B V 3"),
        "view_valid": (view_valid, "B V"),
        "images": (images, "B V 3 H W"),
        "known": (known, "B V 1 H W"),
    }
    optional = ("view_valid", "images", "known")
    sizes = check_shapes(**{name: part for name, part in shaped.items() if not (name in optional and part[0] is None)})
    count, num_views = sizes["B"], sizes["V"]
    prompts = expand_prompts(prompt, num_views)
    if len(prompts) != count:
        raise ValueError(f"prompt must be for {count} samples, as depths has; got {len(prompts)}.")
    names = None if frame_ids is None else [list(frames) for frames in frame_ids]
    if names is not None and [len(frames) for frames in names] != [num_views] * count:
        raise ValueError(f"frame_ids must be {count} lists of {num_views} names; got {names}.")
    valid = torch.ones(count, num_views, dtype=torch.bool) if view_valid is None else view_valid
    given = given_frames(known, valid)
    shown = torch.zeros(()).expand(count, num_views, 3, sizes["H"], sizes["W"])
    if bool(given.any()):
        if images is None:
            raise ValueError("images are required where known is 1; got None.")
        given = given.to(images.device)
        shown = torch.where(given[:, :, None, None, None], images, 0.0)
        check_range("images", shown)
    frames = MultiViewBatch.from_cameras(
        cameras["K"], cameras["R"], sizes["H"], sizes["W"], cameras["t"], depths, valid
    )
    return replace(
        frames,
        images=shown,
        prompts=prompts,
        sample_id=named_samples(sample_ids, count),
        known=known,
        view_names=names,
    )
