"""RePaint: keep what earlier frames show, repaint the rest with a depth-conditioned base."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import RePaintScheduler
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.methods.frame_by_frame import BASE_ALONE, FrameByFrame
from mvdiff.methods.parts import Parts
from mvdiff.models.autoencoder import autoencoder_stride, encode_images
from mvdiff.models.inpainting import generation_mask
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.settings import Sampling
from mvdiff.tasks.depth import DepthTask
from mvdiff.tasks.task import Task

_LEAST_ABAR = 2.0**-24  # in place of 0 at zero terminal SNR, as in diffusers' EulerDiscreteScheduler


class RePaint(FrameByFrame):
    """Warp earlier frames into the next one and repaint the rest: Table 2's "RePaint" (Lugmayr et al. 2022).

    Latent cells that the warped frames cover are set to their noisy latents at each step; the others follow the
    depth-conditioned base. The process jumps back to more noise several times, which harmonises both. A frame that no
    earlier frame reaches is sampled as by the method independent.

    It needs a depth model, whose base it runs, or a depth base (`--model` or `--base`).

    Args:
        pipeline: Pipeline whose base takes depth.
        name: See `Method`.
        jump_length: Steps of one jump back, j in the paper (10).
        jump_n_sample: Number of times that each stretch of j steps is denoised, r in the paper (10); 1: no jumps.
        **options: See `FrameByFrame`.

    Raises:
        ValueError: A jump setting is below 1, or the base takes no depth.
    """

    name = "repaint"
    unused_parts = ("controlnet",)

    def __init__(
        self,
        pipeline: MultiViewPipeline,
        name: str | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(pipeline, name, **options)
        for setting, value in (("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
            if value < 1:
                raise ValueError(f"{setting} must be at least 1; got {value}.")
        DepthTask().check_base(pipeline.unet, pipeline.vae.config.latent_channels)
        self.jump_length, self.jump_n_sample = jump_length, jump_n_sample

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the model's base, else the base; see `Method.open`."""
        if parts.model is not None:
            return cls(parts.open_model(cls.name, DepthTask()))
        return cls(parts.open_base(cls.name, DepthTask(), "a depth base, or a --model"))

    def paint(self, frames: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Repaint frames that are known in part; sample the others with the base; see `FrameByFrame.paint`."""
        kept = 1 - generation_mask(frames.known, autoencoder_stride(self.pipeline.vae))
        reached = kept.flatten(1).any(1)
        images = torch.zeros_like(frames.images)
        for rows in (reached.nonzero()[:, 0].tolist(), (~reached).nonzero()[:, 0].tolist()):
            if not rows:
                continue
            part = replace(frames.rows(rows), known=None)
            with self._steps(part, kept[rows], sampling):
                images[rows] = self.pipeline.generate(part, sampling, seed=seed, controls=BASE_ALONE).images
        return images

    @contextmanager
    def _steps(self, frames: MultiViewBatch, kept: Tensor, sampling: Sampling) -> Iterator[None]:
        """Run the pipeline with the steps of RePaint while something is kept, and restore its scheduler."""
        own = self.pipeline.scheduler
        if bool(kept.any()):
            device = self.pipeline._execution_device
            latents = encode_images(self.pipeline.vae, frames.images[:, 0].to(device))[:, None]
            self.pipeline.maybe_free_model_hooks()
            steps = RePaintSteps(own, latents, kept.to(latents), sampling.eta, self.jump_length, self.jump_n_sample)
            self.pipeline.scheduler = steps
        try:
            yield
        finally:
            self.pipeline.scheduler = own

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings, with those of the jumps; see `FrameByFrame.describe`."""
        jumps = {"jump_length": self.jump_length, "jump_n_sample": self.jump_n_sample}
        return super().describe(sampling) | jumps


class RePaintSteps:
    """The steps of diffusers' `RePaintScheduler` as a scheduler for `mvdiff.denoising.denoise`.

    It adds what RePaintScheduler lacks: bases that predict v or x0, zero-terminal-SNR noise schedules, and exact jumps
    back where a step spans several training timesteps. RePaintScheduler counts a step's training timesteps from its
    end, so that a jump back (`undo_step`) adds the noise of the timesteps after the step instead of those within it.
    Here each step starts at its last training timestep ("trailing" spacing) and a jump adds the noise of its own.

    Args:
        scheduler: Scheduler of the base, for its betas and prediction type.
        latents: [B, 1, C, h, w] clean latents of what is known.
        kept: [B, 1, 1, h, w], 1 for the cells to keep.
        eta: Noise of each step, from 0 (DDIM) to 1 (DDPM).
        jump_length: See `RePaint`.
        jump_n_sample: See `RePaint`.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self, scheduler: Any, latents: Tensor, kept: Tensor, eta: float, jump_length: int, jump_n_sample: int
    ) -> None:
        abar = scheduler.alphas_cumprod.double().clamp_min(_LEAST_ABAR)
        betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
        self.config = scheduler.config
        self._repaint = RePaintScheduler(trained_betas=betas.float().numpy(), eta=eta, clip_sample=False)
        self._latents, self._kept = latents, kept
        self._jumps = {"jump_length": jump_length, "jump_n_sample": jump_n_sample}
        self.timesteps, self._undone, self._index = torch.empty(0), [], 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Plan the steps to denoise, `timesteps`, and the jumps back after each of them."""
        self._repaint.set_timesteps(num_inference_steps, **self._jumps)
        steps, undone, last = [], [], None
        for timestep in self._repaint.timesteps.tolist():
            if last is None or timestep < last:
                steps.append(timestep + self._span - 1)
                undone.append([])
            else:
                undone[-1].append(last)
            last = timestep
        self.timesteps, self._undone, self._index = torch.tensor(steps, device=device), undone, 0

    @property
    def _span(self) -> int:
        """Training timesteps per step."""
        return self._repaint.config.num_train_timesteps // self._repaint.num_inference_steps

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: list[torch.Generator] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Denoise by one step, then add the noise of the jump that follows, if one does.

        Args:
            model_output: [B, 1, C, h, w] prediction of the base, of its own prediction type.
            timestep: Training timestep of the step.
            sample: [B, 1, C, h, w] noisy latents.
            generator: One CPU generator per sample.
            return_dict: Ignored; the result is a tuple.
        """
        timestep = int(timestep)
        noise = self._as_noise(model_output, timestep, sample)
        known = {"original_image": self._latents, "mask": self._kept, "generator": generator}
        sample = self._repaint.step(noise, timestep, sample, **known).prev_sample
        for undone in self._undone[self._index]:
            sample = self._repaint.undo_step(sample, undone, generator)
        self._index += 1
        return (sample,)

    def _as_noise(self, prediction: Tensor, timestep: int, sample: Tensor) -> Tensor:
        """Convert a prediction to the noise eps that RePaintScheduler expects."""
        kind, abar = self.config.get("prediction_type", "epsilon"), self._repaint.alphas_cumprod[timestep]
        if kind == "v_prediction":
            return abar.sqrt() * prediction + (1 - abar).sqrt() * sample
        if kind == "sample":
            return (sample - abar.sqrt() * prediction) / (1 - abar).sqrt()
        return prediction

    def __deepcopy__(self, memo: dict[int, Any]) -> RePaintSteps:
        """Copy the plan; the latents are only read."""
        new = copy.copy(self)
        new._repaint = copy.deepcopy(self._repaint, memo)
        return new
