"""Sampling with any diffusers scheduler: guidance, noise of each step, and the loop from noise to clean latents.

A model is a function `predict(noisy_latents, timesteps) -> prediction`, as in `mvdiff.diffusion`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from mvdiff.flow import is_flow, set_flow_sigmas
from mvdiff.keyed import keyed_generator
from mvdiff.text_states import TextStates, cat_states


def guided(
    predict: Callable[[Tensor, Tensor, TextStates], Tensor],
    encoder_hidden_states: TextStates,
    negative_hidden_states: TextStates,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Add classifier-free guidance, u + guidance_scale (c - u), to a text-conditional model (Ho and Salimans 2022).

    Each step calls the model once on a doubled batch: first the negative prompts (u), then the prompts (c). With
    `guidance_scale` <= 1 it runs only the prompts, as diffusers does.

    Args:
        predict: (noisy latents [N, V, C, h, w], timesteps [N], encoder_hidden_states [N, V, L, D]) -> prediction, with
            N = B or 2 B.
        encoder_hidden_states: [B, V, L, D] embeddings of the prompts, see `mvdiff.text_states`.
        negative_hidden_states: [B, V, L, D] embeddings of the negative (or empty) prompts.
        guidance_scale: 1 means no guidance; the paper samples with 9.
        guidance_rescale: Share, from 0 to 1, of each view's result whose standard deviation is set to that of c (Lin et
            al. 2024, section 3.4).

    Returns:
        (noisy latents [B, V, C, h, w], timesteps [B]) -> prediction [B, V, C, h, w] float32.
    """
    if guidance_scale <= 1:
        return lambda latents, timesteps: predict(latents, timesteps, encoder_hidden_states).float()
    both = cat_states([negative_hidden_states, encoder_hidden_states])

    def guided_predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        output = predict(torch.cat([latents, latents]), torch.cat([timesteps, timesteps]), both).float()
        negative, text = output.chunk(2)
        result = negative + guidance_scale * (text - negative)
        if guidance_rescale > 0:
            views = [one.flatten(0, -4) for one in (result, text)]
            result = rescale_noise_cfg(*views, guidance_rescale).view_as(result)
        return result

    return guided_predict


def step_generators(keys: Iterable[Sequence[int | str]]) -> list[torch.Generator]:
    """Make one CPU generator per sample for stochastic schedulers, keyed by (seed, sample id, ...)."""
    return [keyed_generator("scheduler-step", *key) for key in keys]


@torch.no_grad()
def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler,
    noise: Tensor,
    num_inference_steps: int,
    *,
    generators: Sequence[torch.Generator] | None = None,
    eta: float = 0.0,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    callback: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Tensor:
    """Run the reverse process from pure noise to clean latents with any diffusers scheduler.

    The loop runs in float32 on a copy of the scheduler and leaves the caller's scheduler unchanged.

    Args:
        predict: (scaled noisy latents [B, V, C, h, w] float32, timesteps [B]) -> prediction; see `guided`.
        scheduler: Any diffusers scheduler whose `step` takes (model_output, timestep, sample).
        noise: [B, V, C, h, w] or [B, C, h, w], standard normal; the loop scales it by `init_noise_sigma`.
        num_inference_steps: From 1 to the scheduler's number of training steps. Second-order schedulers call `predict`
            more often.
        generators: One per sample, for schedulers that add noise; None uses torch's global generator.
        eta: DDIM's eta, from 0 (deterministic) to 1 (DDPM); schedulers without it ignore it.
        timesteps: Timesteps to denoise at, in place of `num_inference_steps` ones that the scheduler chooses.
        sigmas: Noise levels to denoise at, likewise. In flow matching, a timestep is a sigma times the number of
            training steps, and neither is shifted again.
        callback: Called after each step with (step index, timestep, latents); a returned tensor replaces the latents.
        interrupted: Called after each step; True ends the loop.

    Returns:
        Latents in the shape of `noise`, float32, on its device.

    Raises:
        ValueError: `num_inference_steps` is out of range, the scheduler does not take `timesteps` or `sigmas`, both are
            passed or, in flow matching, do not descend, the scheduler's noise cannot be controlled by generators, or
            the model predicts noise at zero terminal SNR, where the first step would divide by zero.
    """
    scheduler = with_steps(scheduler, num_inference_steps, timesteps, sigmas, noise.device)
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"eta": eta} if "eta" in accepted else {}
    if "generator" in accepted and generators is not None:
        extra["generator"] = list(generators)
    latents = noise.float() * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = hasattr(scheduler, "scale_model_input")
        model_input = scheduler.scale_model_input(latents, timestep) if scaled else latents
        prediction = predict(model_input, timestep.expand(len(latents))).float()
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]
        if callback is not None:
            replaced = callback(index, timestep, latents)
            latents = latents if replaced is None else replaced
        if interrupted is not None and interrupted():
            break
    return latents


def with_steps(
    scheduler,
    num_inference_steps: int,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    device: torch.device | str | None = None,
):
    """Return a copy of a scheduler whose `timesteps` are set; arguments and errors: see `denoise`."""
    scheduler = copy.deepcopy(scheduler)
    check_sampler(scheduler, num_inference_steps)
    custom = {
        name: list(values) for name, values in (("timesteps", timesteps), ("sigmas", sigmas)) if values is not None
    }
    if len(custom) == 2:
        raise ValueError(f"timesteps must be left out where sigmas are set; got {custom['timesteps']}.")
    if not custom:
        scheduler.set_timesteps(num_inference_steps, device=device)
        return scheduler
    ((name, values),) = custom.items()
    if is_flow(scheduler):
        set_flow_sigmas(scheduler, name, values, device)
    elif name in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(**custom, device=device)
    else:
        raise ValueError(
            f"{name} must be left out for {type(scheduler).__name__}, which chooses its own steps; got {values}."
        )
    return scheduler


def check_sampler(scheduler, num_inference_steps: int) -> None:
    """Raise ValueError if the scheduler cannot sample correctly or reproducibly; see `denoise`."""
    if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be an integer of at least 1; got {num_inference_steps}.")
    config = scheduler.config
    num_train_timesteps = config.get("num_train_timesteps")
    if num_train_timesteps is not None and num_inference_steps > num_train_timesteps:
        raise ValueError(
            f"num_inference_steps must be at most {num_train_timesteps}, the scheduler's number of training steps; got "
            f"{num_inference_steps}."
        )
    if "noise_sampler_seed" in inspect.signature(type(scheduler).__init__).parameters:
        raise ValueError(
            f"scheduler must draw its noise from a generator; got {type(scheduler).__name__}, which seeds one noise "
            'for the whole batch. Use DPMSolverMultistepScheduler with algorithm_type="sde-dpmsolver++" instead.'
        )
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") == "epsilon":
        raise ValueError(
            "prediction_type must be v_prediction or sample if rescale_betas_zero_snr is set; got epsilon, which is "
            "undefined at zero terminal SNR."
        )
