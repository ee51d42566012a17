"""SamplingPipeline: generate latents and images for a batch, with keyed noise, guidance and callbacks.

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from numbers import Integral
from typing import Any, ClassVar

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.denoising import denoise, guided, step_generators, with_steps
from mvdiff.diffusion import frame_noise
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.opening import family_of_network
from mvdiff.models.bases.stable_diffusion import PARTS
from mvdiff.models.block_caches import fresh_block_cache
from mvdiff.models.deep_cache import DeepCache
from mvdiff.models.prompts import PromptEncoder, text_notes
from mvdiff.pipelines.prompt_files import expand_negative_prompt
from mvdiff.pipelines.sampling_checks import check_sampling
from mvdiff.pipelines.sampling_encoder import SamplingEncoder
from mvdiff.pipelines.speed import SpeedSwitches
from mvdiff.pipelines.switches import MemorySwitches
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.task import NO_CONTROLS, Condition, Task, denoiser
from mvdiff.text_context import TextContext, is_empty
from mvdiff.text_states import TextStates, map_states, stack_states, states_to

logger = logging.getLogger(__name__)

PAPER_SAMPLING = Sampling()

Coupling = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function (prediction [B, V, C, h, w], noisy latents, timesteps [B]) -> prediction, called after guidance."""


@dataclass(frozen=True)
class StepCallback:
    """Function to call after each denoising step, see `MVDiffusionPanoramaPipeline.__call__`.

    Args:
        function: Called as (pipeline, step, timestep, tensors); None: no callback.
        tensor_inputs: Names of the tensors that the function gets.
    """

    function: Callable[..., dict[str, Any] | None] | None = None
    tensor_inputs: Sequence[str] = ("latents",)


NO_CALLBACK = StepCallback()


@dataclass(frozen=True)
class Generated:
    """Views that a pipeline generated.

    Attributes:
        latents: [B, V, C, h, w] float32.
        rendered: [B, V, 3, H, W] in [-1, 1] on the CPU, the model's own rendering of every view; None if not decoded.
        images: `rendered`, with known pixels pasted back if `paste_back` was set.
        seeds: Seed of each of the B samples.
    """

    latents: Tensor
    rendered: Tensor | None
    images: Tensor | None
    seeds: list[int]


class SamplingPipeline(SpeedSwitches, MemorySwitches):
    """The sampling part of a pipeline; `MultiViewPipeline` adds loading and saving."""

    task: Task
    prompt_prefix: str
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    _guidance_scale: float = 1.0
    _num_timesteps: int = 0
    _interrupt: bool = False
    _told: frozenset[str] = frozenset()
    wrapped: Any = None
    """The multi-view UNet of a training, whose weights may be sharded under it; None: wrap UNet and adapter."""
    _opened: Base | None = None
    """The base that the pipeline was made of, without its parts; None: one of the package's family for the network."""
    embed_texts: Callable[[list[str], torch.device, bool], TextStates] | None = None
    """Embeds texts, prefix included, in place of the text encoder, such as from a cache; the last argument says whether
    they are negative prompts. None: the text encoder."""

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the current call; a callback may set `_guidance_scale` for the remaining steps."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of denoising steps of the current call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """True after a callback has stopped the current call by `pipeline._interrupt = True`."""
        return self._interrupt

    @property
    def takes_images(self) -> bool:
        """True if the adapter has blocks that take known frames as input."""
        return self.adapter.condition_blocks is not None

    @torch.no_grad()
    def generate(
        self,
        batch: MultiViewBatch,
        sampling: Sampling = PAPER_SAMPLING,
        *,
        seed: int | Sequence[int] = 0,
        controls: Controls = NO_CONTROLS,
        latents: Tensor | None = None,
        prompt_prefix: str | None = None,
        callback: StepCallback = NO_CALLBACK,
        paste_back: bool = False,
        decode: bool = True,
        coupling: Coupling | None = None,
    ) -> Generated:
        """Generate all views of a batch.

        Noise is drawn on the CPU in float32 from (seed, sample id, view name) alone, so a sample does not depend on the
        rest of its batch.

        Args:
            batch: Prompts, cameras and the other fields of the task; images are read only where they are known.
            sampling: Number of steps, guidance, negative prompt and eta.
            seed: One seed for all samples, or one per sample.
            controls: Parts of the model to switch off.
            latents: [B, V, C, h, w] standard normal noise to start from, in place of the keyed noise.
            prompt_prefix: Text put before every prompt; default: the model's.
            callback: Function to call after each step.
            paste_back: Paste known pixels into the decoded views.
            decode: If False, return latents only; `rendered` and `images` are None.
            coupling: Function that couples the views' predictions at every step, for methods without training.

        Raises:
            ValueError: The batch lacks a field of the task, or a setting is out of range.
        """
        backbone, device = self._backbone(), self._execution_device
        check_sampling(backbone, sampling, encodes_text=self.embed_texts is None)
        self._check_size(batch)
        self._check_controls(batch, controls)
        self.task.check_batch(batch)
        seeds = [int(seed)] * batch.batch_size if isinstance(seed, Integral) else list(seed)
        batch = batch.to(device)
        noise = self._noise(batch, seeds, latents)
        encoder = SamplingEncoder(backbone, batch, seeds, like=noise)
        condition = self.task.condition(batch, encoder)
        self._check_condition(condition)
        if encoder.used:
            self.maybe_free_model_hooks()  # under CPU offload, move the autoencoder out before the UNet comes in
        geometry = None
        if controls.caa:
            geometry = self.adapter.geometry(self.task.correspondences(batch), backbone.vae_stride)
        deep_cache = None if self.deep_cache is None else DeepCache(self.deep_cache)
        predict = denoiser(self._multi_view_unet(), batch, condition, geometry, controls, deep_cache)
        with self._attention(controls.attention_enabled), fresh_block_cache(self.unet):
            latents = self._denoise(predict, batch, noise, seeds, sampling, prompt_prefix, callback, coupling)
        if not decode:
            return Generated(latents, None, None, seeds)
        rendered = self._decode(latents)
        return Generated(latents, rendered, self.task.finish(rendered, batch) if paste_back else rendered, seeds)

    def _noise(self, batch: MultiViewBatch, seeds: Sequence[int], latents: Tensor | None) -> Tensor:
        backbone = self._backbone()
        height, width = batch.images.shape[-2:]
        shape = (backbone.latent_channels, height // backbone.vae_stride, width // backbone.vae_stride)
        if latents is not None:
            expected = (*batch.images.shape[:2], *shape)
            if latents.shape != expected:
                raise ValueError(f"latents must have the shape {list(expected)}; got {list(latents.shape)}.")
            return latents.float().to(batch.images.device)
        draws = [
            frame_noise(seed, sample_id, frames=batch.names_of(i), shape=shape)
            for i, (seed, sample_id) in enumerate(zip(seeds, batch.sample_id, strict=True))
        ]
        return torch.stack(draws).to(batch.images.device)

    def _denoise(
        self,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        batch: MultiViewBatch,
        noise: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        prompt_prefix: str | None,
        callback: StepCallback,
        coupling: Coupling | None,
    ) -> Tensor:
        input_names = self._callback_inputs(callback)
        pairs = zip(chain.from_iterable(batch.prompts), batch.view_valid.flatten().tolist(), strict=True)
        self.warn_of_texts([prompt for prompt, is_valid in pairs if is_valid], sampling, prompt_prefix)
        if not math.isfinite(sampling.guidance_scale):
            raise ValueError(f"guidance_scale must be finite; got {sampling.guidance_scale}. 1 means no guidance.")
        prefix = self.prompt_prefix if prompt_prefix is None else prompt_prefix
        encode = partial(self._encode_texts, clip_skip=sampling.clip_skip)
        text = PromptEncoder(encode, prefix, partial(self._encode_texts, negative=True))
        negative = expand_negative_prompt(sampling.negative_prompt, batch.num_views)
        tensors = {
            "prompt_embeds": text(batch.prompts),
            "negative_prompt_embeds": text.negative([negative] * batch.batch_size),
        }
        self._guidance_scale, self._interrupt = sampling.guidance_scale, False
        self._num_timesteps = sampling.num_inference_steps
        if sampling.timesteps is not None or sampling.sigmas is not None:  # of sigmas, some schedulers end at the last
            steps = with_steps(self.scheduler, self._num_timesteps, sampling.timesteps, sampling.sigmas).timesteps
            self._num_timesteps = -(-len(steps) // self.scheduler.order)

        def guided_predict(latents: Tensor, timesteps: Tensor) -> Tensor:
            text_states, negative_states = tensors["prompt_embeds"], tensors["negative_prompt_embeds"]
            guidance = (self.guidance_scale, sampling.guidance_rescale)
            output = guided(predict, text_states, negative_states, *guidance)(latents, timesteps)
            return output if coupling is None else coupling(output, latents, timesteps)

        with self.progress_bar(total=self._num_timesteps) as progress:

            def after_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
                if (index + 1) % self.scheduler.order == 0:
                    progress.update()
                if callback.function is None:
                    return None
                current = {"latents": latents, **tensors}
                returned = callback.function(self, index, timestep, {name: current[name] for name in input_names}) or {}
                for name in current.keys() & returned.keys():
                    expected, got = _shapes(current[name]), _shapes(returned[name])
                    if expected != got:
                        raise ValueError(f"callback_on_step_end must return {name} of shape {expected}; got {got}.")
                tensors.update({name: returned[name] for name in tensors.keys() & returned.keys()})
                return returned.get("latents")

            latents = denoise(
                guided_predict,
                self.scheduler,
                noise,
                sampling.num_inference_steps,
                generators=step_generators(
                    (seed, batch.sample_id[i], *self.task.scheduler_keys(batch, i)) for i, seed in enumerate(seeds)
                ),
                eta=sampling.eta,
                timesteps=sampling.timesteps,
                sigmas=sampling.sigmas,
                callback=after_step,
                interrupted=lambda: self.interrupt,
            )
        self.maybe_free_model_hooks()  # under CPU offload, move UNet and adapter out before the autoencoder comes in
        return latents

    def text_notes(self, prompts: Sequence[str], sampling: Sampling = PAPER_SAMPLING) -> dict[str, Any]:
        """Describe, for `sample.json`, which texts of a sample are cut or empty; see `mvdiff.models.prompts`."""
        return text_notes(self._text_context(), prompts, self.prompt_prefix, _negative_texts(sampling))

    def warn_of_texts(
        self, prompts: Sequence[str], sampling: Sampling = PAPER_SAMPLING, prompt_prefix: str | None = None
    ) -> None:
        """Log a warning about texts that the text encoder reads only in part, and about empty prompts, each text once.

        Args:
            prompts: Prompts without prefix, of all views.
            sampling: Sampling settings with the negative prompt.
            prompt_prefix: Text put before every prompt; default: the model's.
        """
        prefix = self.prompt_prefix if prompt_prefix is None else prompt_prefix
        context, texts = self._text_context(), [prefix + prompt for prompt in prompts]
        for noun, some in (("prompt", texts), ("negative prompt", _negative_texts(sampling))):
            if line := context.describe_cut([text for text in some if text not in self._told], noun):
                logger.warning("%s.", line)
        empty = sum(is_empty(prompt) and text not in self._told for prompt, text in zip(prompts, texts, strict=True))
        if empty:
            logger.warning("%d of %d prompts are empty.", empty, len(texts))
        self._told = self._told.union(texts, _negative_texts(sampling))

    def _text_context(self) -> TextContext:
        return self._backbone().text_context()

    def _encode_texts(self, texts: list[str], clip_skip: int | None = None, negative: bool = False) -> TextStates:
        """Embed N texts, each distinct text once and alone, so that no embedding depends on the others."""
        backbone, device = self._backbone(), self._execution_device
        skipped = {} if clip_skip is None else {"clip_skip": clip_skip}

        def alone(text: str) -> TextStates:
            if self.embed_texts is not None:
                embedded = self.embed_texts([text], device, negative)
            elif negative:
                embedded = backbone.encode_negative_prompts([text])
            else:
                embedded = backbone.encode_prompts([text], **skipped)
            states = map_states(lambda one: one[0], embedded)
            return states_to(states, device, self.unet.dtype)

        embeddings = {text: alone(text) for text in dict.fromkeys(texts)}
        return stack_states([embeddings[text] for text in texts])

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, V, C, h, w], sample by sample, to images [B, V, 3, H, W] in [-1, 1] on the CPU."""
        backbone = self._backbone()
        images = torch.stack([backbone.decode_latents(views).float().cpu() for views in latents]).clamp(-1, 1)
        self.maybe_free_model_hooks()
        return images

    def _backbone(self) -> Base:
        parts = {name: getattr(self, name) for name in PARTS}
        return family_of_network(self.unet)(**parts) if self._opened is None else self._opened.with_parts(**parts)

    def _multi_view_unet(self) -> Any:
        """Wrap network and adapter, restoring the adapter's training mode, which wrapping resets; or take `wrapped`."""
        training = self.adapter.training
        unet = self._backbone().multi_view(self.adapter) if self.wrapped is None else self.wrapped
        if self._compile is not None and self.wrapped is None:
            unet = self._compiled_once(unet)
        unet.set_views_per_chunk(self.views_per_chunk)
        self.adapter.train(training)
        return unet

    @contextmanager
    def _attention(self, enabled: bool) -> Iterator[None]:
        """Run the adapter in evaluation mode, with or without its attention, and restore its state afterwards."""
        training = self.adapter.training
        self.adapter.eval()
        self.adapter.set_attention_enabled(enabled)
        try:
            yield
        finally:
            self.adapter.set_attention_enabled(True)
            self.adapter.train(training)

    def _callback_inputs(self, callback: StepCallback) -> list[str]:
        names = callback.tensor_inputs
        if isinstance(callback.function, PipelineCallback | MultiPipelineCallbacks):
            names = callback.function.tensor_inputs
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be among {', '.join(self._callback_tensor_inputs)}; got "
                f"{', '.join(map(repr, unknown))}."
            )
        return list(names)

    def _check_size(self, batch: MultiViewBatch) -> None:
        backbone = self._backbone()
        stride, reason = backbone.size_multiple, "the autoencoder's stride"
        if stride != backbone.vae_stride:
            reason = "the pixels of a token"
        for side, pixels in zip(("height", "width"), batch.images.shape[-2:], strict=True):
            if pixels % stride:
                lower = pixels - pixels % stride
                raise ValueError(
                    f"{side} of the views must be a multiple of {stride}, {reason}; got {pixels}. Use "
                    f"{lower or stride} or {lower + stride}."
                )

    def _check_condition(self, condition: Condition) -> None:
        if condition.active is not None and bool(condition.active.any()) and not self.takes_images:
            raise ValueError(
                "known must be left out for a model without image_condition; got known frames. Train an adapter with "
                "image_condition."
            )

    def _check_controls(self, batch: MultiViewBatch, controls: Controls) -> None:
        lenders, count = controls.neighbour_batch, batch.batch_size
        if lenders is not None and not (len(lenders) == count and all(0 <= i < count for i in lenders)):
            raise ValueError(
                f"neighbour_batch must be {count} indices below {count}, one per sample; got {list(lenders)}."
            )


def _shapes(states: TextStates) -> Any:
    return map_states(lambda one: list(one.shape), states)


def _negative_texts(sampling: Sampling) -> list[str]:
    """Return the negative prompts that are texts; `expand_negative_prompt` refuses all others."""
    negative = sampling.negative_prompt or ""
    texts = negative if isinstance(negative, Sequence) and not isinstance(negative, str) else [negative]
    return [text for text in texts if isinstance(text, str)]
