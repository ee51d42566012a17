"""MVDiffusionDepthPipeline: frames of a scene with known depth and poses, at once (the paper's section 4.2).

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
from mvdiff.pipelines.calls import as_output_type, check_output_type, drawn_seeds, named_samples
from mvdiff.pipelines.model_folder import BaseReference
from mvdiff.pipelines.prompt_files import expand_prompts
from mvdiff.pipelines.sampling import StepCallback
from mvdiff.settings import Controls, Sampling
from mvdiff.shapes import check_shapes
from mvdiff.tasks.depth import DepthTask
from mvdiff.tasks.task import Task


@dataclass
class MVDiffusionDepthOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: per output_type: "pil" lists [B][V] of images; "np" [B, V, H, W, 3] and "pt" [B, V, 3, H, W], float in
            [0, 1] as everywhere in diffusers; "uint8" a tensor [B, V, H, W, 3], rounded, as sample folders take it;
            "latent" [B, V, C, h, w]. Frames that were given come back as the model renders them, not as they were
            given; what stands in the place of padding means nothing.
        seeds: [B] the seed of each sample.
    """

    images: Any
    seeds: list[int]


class MVDiffusionDepthPipeline(MultiViewPipeline):
    """Generate frames that agree with each other where their depths and poses say that they show the same.

    Args:
        vae: autoencoder of the base.
        text_encoder: of the base.
        tokenizer: of the base.
        unet: of the base, with an input channel for the depth.
        adapter: the trained attention, residual and image-condition blocks.
        scheduler: any diffusers scheduler; replace `pipeline.scheduler` at will.
        height: rows of the frames that the model was trained on (paper: 192); other sizes are possible.
        width: their columns (paper: 256).
        prompt_prefix: put before every prompt, as in training.
        base: which base this is, for `save_pretrained`.

    Raises:
        ValueError: the adapter is another base's, or the base has no channel for the depth.
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
        """Rows of the frames that the model was trained on."""
        return self.views["height"]

    @property
    def width(self) -> int:
        """Their columns."""
        return self.views["width"]

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
        sample_ids: Sequence[str] | None = None,
        frame_ids: Sequence[Sequence[int | str]] | None = None,
        prompt_prefix: str | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        caa: bool = True,
        attention_enabled: bool = True,
        neighbour_batch: Sequence[int] | None = None,
    ) -> MVDiffusionDepthOutput:
        """Generate frames; all frames of a sample at once.

        Noise is drawn on the CPU in float32 from (seed, sample id, frame id) alone: a sample does not depend on its
        batch, and a frame starts from the same noise whichever frames it is generated with. Given frames are encoded
        as in training, with noise from the same key.

        Args:
            prompt: one text for all frames of one sample; a list of texts, one sample each; or a list of samples,
                each a text for all frames or a list of one text per frame.
            depths: [B, V, H, W] z-depth in metres, 0 = none; sides must be multiples of the autoencoder's stride.
            K: [B, V, 3, 3] intrinsics in pixels of the depths.
            R: [B, V, 3, 3] world-from-camera rotations.
            t: [B, V, 3] camera centres in the world, metres.
            view_valid: [B, V] bool, False for padding, which no frame attends to; default: no padding.
            images: [B, V, 3, H, W] in [-1, 1]; those of frames that are not given are not read.
            known: [B, V, 1, H, W], 1 on the whole of a given frame and 0 on the others; default: none is given. The
                model was trained with none, or with the first and the last.
            negative_prompt: what to steer away from, without prefix: one text for all frames, or a list of one per
                frame, the same for all samples; default the empty prompt.
            num_inference_steps: of the scheduler; the paper uses 50 (DDIM).
            guidance_scale: classifier-free guidance, 9 in the paper; 1 or less runs the text alone, at half the cost.
            seed: of all samples; None takes one from `generator` or, without, from torch's global generator.
            generator: in place of a seed, one for all samples or one each; the seeds are drawn from it.
            sample_ids: names of the samples, part of the noise's key; default their places "0", "1", ...
            frame_ids: [B][V] names of the frames, part of the noise's key; default their places 0, 1, ...
            prompt_prefix: default the model's.
            eta: of DDIM, 0 deterministic .. 1.
            output_type: "pil", "np", "pt", "uint8" or "latent", see `MVDiffusionDepthOutput`.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); may return a dict of tensors to go on
                with, and stop denoising by `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: which tensors it is given: "latents" [B, V, C, h, w], "prompt_embeds"
                and "negative_prompt_embeds" [B, V, L, D].
            caa: False runs the base, frame by frame, with what is given (a control).
            attention_enabled: False switches the attention of CAA off, its other layers stay (a control).
            neighbour_batch: [B] which sample of the batch lends its frames as neighbours (a control); default its own.

        Raises:
            ValueError: an argument does not fit; the text says which.
        """
        check_output_type(output_type)
        cameras = {"depths": depths, "K": K, "R": R, "t": t}
        batch = _frame_batch(prompt, cameras, view_valid, images, known, sample_ids, frame_ids)
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
        shown = generated.latents if generated.images is None else as_output_type(generated.images, output_type)
        return MVDiffusionDepthOutput(images=shown, seeds=generated.seeds)


def _frame_batch(prompt, cameras, view_valid, images, known, sample_ids, frame_ids) -> MultiViewBatch:
    """Make a batch of frames of a call's arguments; raise ValueError where one does not fit."""
    depths = cameras["depths"]
    named = {name: (cameras[name], shape) for name, shape in (("K", "B V 3 3"), ("R", "B V 3 3"), ("t", "B V 3"))}
    optional = {
        "view_valid": (view_valid, "B V"),
        "images": (images, "B V 3 H W"),
        "known": (known, "B V 1 H W"),
    }
    named |= {name: (value, shape) for name, (value, shape) in optional.items() if value is not None}
    sizes = check_shapes(depths=(depths, "B V H W"), **named)
    count, num_views = sizes["B"], sizes["V"]
    prompts = expand_prompts(prompt, num_views)
    if len(prompts) != count:
        raise ValueError(f"prompt must be of {count} samples as the depths; got {len(prompts)}.")
    names = None if frame_ids is None else [list(frames) for frames in frame_ids]
    if names is not None and [len(frames) for frames in names] != [num_views] * count:
        raise ValueError(f"frame_ids must be {count} lists of {num_views} names; got {names}.")
    valid = torch.ones(count, num_views, dtype=torch.bool) if view_valid is None else view_valid
    given = given_frames(known, valid)
    shown = torch.zeros(()).expand(count, num_views, 3, sizes["H"], sizes["W"])
    if bool(given.any()):
        if images is None:
            raise ValueError("images must be given where known is 1; got none.")
        given = given.to(images.device)
        shown = torch.where(given[:, :, None, None, None], images, 0.0)
        low, high = shown.aminmax()
        if not (low >= -1.001 and high <= 1.001):
            raise ValueError(f"images must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]. Scale them and drop NaNs.")
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
