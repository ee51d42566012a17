"""MVDiffusionDepthPipeline: frames of a scene with known depth and poses, at once (the paper's section 4.2).

Axes: B samples, V frames of a sample, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import check_sampler, frame_noise
from mvdiff.keyed import keyed_generator
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.adapter_config import DEFAULT_ATTENTION
from mvdiff.models.attention.correspondence import DEFAULT_MIN_DEPTH_OVERLAP
from mvdiff.models.conditioning import check_depth_input, depth_condition, given_frames, image_condition
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import as_output_type, drawn_seeds
from mvdiff.pipelines.model_folder import DEPTH_TASK, BaseReference, ModelInfo
from mvdiff.pipelines.prompts import expand_prompts
from mvdiff.shapes import check_shapes


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

    task = DEPTH_TASK
    adapter_defaults: ClassVar[dict[str, Any]] = {
        "attention": {"class_path": DEFAULT_ATTENTION, "init_args": {"min_overlap": DEFAULT_MIN_DEPTH_OVERLAP}},
        "mid_place": "after_mid_block",
        "residual": True,
        "image_condition": True,
    }

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
        super().__init__(vae, text_encoder, tokenizer, unet, adapter, scheduler, prompt_prefix, base)
        self.height, self.width = height, width

    @staticmethod
    def check_base(unet: Any, latent_channels: int) -> None:
        """Raise ValueError where the base has no channel for the depth."""
        check_depth_input(unet, latent_channels)

    @property
    def model_info(self) -> ModelInfo:
        """What `mvdiff.json` says of this model; `base` is set."""
        return ModelInfo(None, self.prompt_prefix, self.base, DEPTH_TASK, self.height, self.width)

    @property
    def takes_images(self) -> bool:
        """Whether frames can be given."""
        return self.adapter.condition_blocks is not None

    @torch.no_grad()
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
            prompt_prefix: default the model's; "" for prompts that carry it already.
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
        valid, given = self._check_frames(depths, K, R, t, view_valid, images, known)
        batch, num_views = valid.shape
        prompts = expand_prompts(prompt, num_views)
        if len(prompts) != batch:
            raise ValueError(f"prompt must be of {batch} samples as the depths; got {len(prompts)}. Give one for each.")
        sample_ids = [str(i) for i in range(batch)] if sample_ids is None else list(map(str, sample_ids))
        names = [list(range(num_views))] * batch if frame_ids is None else [list(frames) for frames in frame_ids]
        if [len(frames) for frames in names] != [num_views] * batch:
            raise ValueError(f"frame_ids must be {batch} lists of {num_views} names; got {names}. Name each frame.")
        self._check_call(batch, sample_ids, output_type, neighbour_batch)
        check_sampler(self.scheduler, num_inference_steps)
        seeds = drawn_seeds(seed, generator, batch)
        device, dtype = self._execution_device, self.unet.dtype
        backbone = self._backbone()

        depth = depth_condition(depths.to(device), backbone.vae_stride)
        shape = (backbone.latent_channels, *depth.shape[-2:])
        keys = list(zip(seeds, sample_ids, names, strict=True))
        noise = torch.stack([frame_noise(*key, frames=frames, shape=shape) for *key, frames in keys]).to(device)
        valid, given = valid.to(device), given.to(device)
        condition, active = self._condition(images, given, keys, noise)
        frames = MultiViewBatch.from_cameras(K, R, *depths.shape[-2:], t, depths, valid)
        geometry = self.adapter.geometry(frames, backbone.vae_stride) if caa else None
        lenders = None if neighbour_batch is None else torch.as_tensor(list(neighbour_batch), device=device)
        unet, repeated = self._multi_view_unet(), {}

        def predict(latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            passes = len(latents) // batch  # guidance runs the batch twice
            if passes not in repeated:
                repeated[passes] = None if geometry is None else geometry.repeat(passes)
            rows = None if lenders is None else torch.cat([lenders + run * batch for run in range(passes)])
            return unet(
                torch.cat([latents, torch.cat([depth] * passes)], dim=2).to(dtype),
                timesteps,
                encoder_hidden_states.to(dtype),
                repeated[passes],
                view_valid=torch.cat([valid] * passes),
                neighbour_batch=rows,
                condition=None if condition is None else torch.cat([condition] * passes).to(dtype),
                condition_active=None if active is None else torch.cat([active] * passes),
            )

        latents = self._sample(
            predict,
            noise,
            prompts,
            negative_prompt,
            prompt_prefix,
            num_inference_steps,
            guidance_scale,
            [keyed_generator("scheduler-step", *key, *frames) for *key, frames in keys],
            eta,
            callback_on_step_end,
            attention_enabled,
            callback_on_step_end_tensor_inputs,
        )
        if output_type == "latent":
            return MVDiffusionDepthOutput(images=latents, seeds=seeds)
        return MVDiffusionDepthOutput(images=as_output_type(self._decode(latents), output_type), seeds=seeds)

    def _condition(self, images, given, keys, noise) -> tuple[Tensor | None, Tensor | None]:
        """Encode the given frames into the UNet's condition [B, V, C + 1, h, w] and which samples have any [B]."""
        if not bool(given.any()):
            return None, None
        generators = [
            keyed_generator("given", *key, frames[view])
            for (*key, frames), views in zip(keys, given.tolist(), strict=True)
            for view, is_given in enumerate(views)
            if is_given
        ]
        latents = torch.zeros_like(noise)
        latents[given] = self._backbone().encode_images(images.to(noise.device)[given], generators).to(latents)
        self.maybe_free_model_hooks()  # under CPU offload the autoencoder makes room for the UNet
        return image_condition(latents, given)

    def _check_frames(self, depths, K, R, t, view_valid, images, known) -> tuple[Tensor, Tensor]:
        """Return [B, V] which views are no padding, and which are given; raise ValueError where an input is wrong."""
        named = {"K": (K, "B V 3 3"), "R": (R, "B V 3 3"), "t": (t, "B V 3"), "view_valid": (view_valid, "B V")}
        named |= {"images": (images, "B V 3 H W"), "known": (known, "B V 1 H W")}
        there = {name: (value, shape) for name, (value, shape) in named.items() if value is not None}
        sizes = check_shapes(depths=(depths, "B V H W"), **there)
        self._check_size({"height": sizes["H"], "width": sizes["W"]}, of="depths'")
        valid = torch.ones(sizes["B"], sizes["V"], dtype=torch.bool) if view_valid is None else view_valid
        given = given_frames(known, valid)
        if not bool(given.any()):
            return valid, given
        if images is None:
            raise ValueError("images must be given where known is 1; got none. Give the pictures of the known frames.")
        if not self.takes_images:
            raise ValueError(
                "known must be left out for a model without image condition; got given frames. Train an adapter with "
                "image_condition, or give no frames."
            )
        low, high = images[given.to(images.device)].aminmax()
        if not (low >= -1.001 and high <= 1.001):
            raise ValueError(f"images must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]. Scale them and drop NaNs.")
        return valid, given
