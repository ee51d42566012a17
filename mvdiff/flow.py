"""Flow matching: the straight path from clean latents to noise, and the timesteps that training draws.

Symbols: x0 clean latents, eps noise, sigma in [0, 1], x_sigma = (1 - sigma) x0 + sigma eps, v = eps - x0 (Lipman et al.
2023; Esser et al. 2024, section 2). A timestep is `num_train_timesteps * sigma`, a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from mvdiff.keyed import keyed_generator
from mvdiff.settings import FlowSettings

FLOW_SCHEDULERS = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)
"""Schedulers of models that predict v."""


def is_flow(scheduler) -> bool:
    """Return True for a scheduler of flow matching, False for one with discrete betas."""
    return isinstance(scheduler, FLOW_SCHEDULERS)


def flow_timesteps(scheduler, settings: FlowSettings, seed: int, epoch: int, sample_index: Iterable[int]) -> Tensor:
    """Draw one training timestep per sample, keyed by (seed, epoch, sample index).

    Args:
        scheduler: Scheduler of the training.
        settings: Distribution of the timesteps.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        sample_index: [B] indices in the data set.

    Returns:
        [B] float32 on the CPU, in [0, num_train_timesteps].
    """
    draws = []
    for index in sample_index:
        generator = keyed_generator("flow-timestep", seed, epoch, int(index))
        if settings.weighting == "uniform":
            draws.append(torch.rand((), generator=generator))
        else:
            draws.append(torch.sigmoid(settings.mean + settings.std * torch.randn((), generator=generator)))
    shift = scheduler.config.shift if settings.shift is None else settings.shift
    return shifted(torch.stack(draws), shift) * scheduler.config.num_train_timesteps


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels in [0, 1] towards 1 for a shift above 1 (Esser et al. 2024, eq. 23).

    Example:
        >>> shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0)
        tensor([0.0000, 0.7500, 1.0000])
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def set_flow_sigmas(
    scheduler,
    name: Literal["timesteps", "sigmas"],
    values: Sequence[float],
    device: torch.device | str | None = None,
) -> None:
    """Make a scheduler denoise at chosen noise levels, in place.

    The `set_timesteps` of diffusers shifts levels that are passed to it, and Heun's takes none.

    Args:
        scheduler: One of `FLOW_SCHEDULERS`.
        name: Kind of `values`: sigmas, or timesteps, which are sigmas times `num_train_timesteps`.
        values: Levels in descending order, above 0; the last step goes to 0.
        device: Device of the scheduler's tensors.

    Raises:
        ValueError: The levels do not descend or are out of range.
    """
    num_train_timesteps = scheduler.config.num_train_timesteps
    limit = num_train_timesteps if name == "timesteps" else 1
    if not values or not values[0] <= limit or not all(one > other for one, other in pairwise([*values, 0])):
        raise ValueError(f"{name} must descend from at most {limit} to above 0; got {values}.")
    sigmas = torch.tensor([*values, 0], dtype=torch.float64) / limit
    first, rest = sigmas[:1], sigmas[1:-1].repeat_interleave(scheduler.order)  # Heun calls the model twice at the rest
    scheduler.set_timesteps(len(values), device=device)
    scheduler.timesteps = (torch.cat([first, rest]) * num_train_timesteps).to(device, torch.float32)
    scheduler.sigmas = torch.cat([first, rest, sigmas[-1:]]).to(device, torch.float32)


def flow_noisy(scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return x_sigma [B, ...] float32 of latents and noise [B, ...] at timesteps [B]."""
    sigma = _sigma(scheduler, timesteps, latents)
    return (1 - sigma) * latents.float() + sigma * noise.float()


def clean_from_flow(scheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return x0 = x_sigma - sigma v, [B, ...] float32."""
    return noisy - _sigma(scheduler, timesteps, noisy) * prediction


def flow_from_clean(scheduler, clean: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return v = (x_sigma - x0) / sigma, [B, ...] float32."""
    return (noisy - clean) / _sigma(scheduler, timesteps, noisy)


def _sigma(scheduler, timesteps: Tensor, like: Tensor) -> Tensor:
    sigma = timesteps.to(device=like.device, dtype=torch.float32) / scheduler.config.num_train_timesteps
    return sigma.view(-1, *[1] * (like.ndim - 1))
