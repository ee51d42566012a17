"""Timesteps and noise of training as `LossSettings` has them, keyed by (seed, epoch, sample index).

The defaults draw what `sample_timesteps` and `training_noise` do, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from mvdiff.diffusion import sample_timesteps, training_noise
from mvdiff.flow import flow_timesteps, is_flow
from mvdiff.keyed import keyed_generator
from mvdiff.settings import FlowSettings, LossSettings


def timesteps_of(
    scheduler: Any, loss: LossSettings, flow: FlowSettings, seed: int, epoch: int, sample_index: Iterable[int]
) -> Tensor:
    """Draw one training timestep per sample, [B]: by `flow` for a scheduler of flow matching, else by `loss`."""
    if is_flow(scheduler):
        return flow_timesteps(scheduler, flow, seed, epoch, sample_index)
    return draw_timesteps(loss, scheduler.config.num_train_timesteps, seed, epoch, sample_index)


def check_loss(loss: LossSettings, flow: FlowSettings, snr_gamma: float | None, scheduler: Any, base: str) -> None:
    """Raise ValueError if settings of noise levels do not apply to the scheduler; the message names `base`."""
    if is_flow(scheduler) and snr_gamma is not None:
        raise ValueError(
            f"model.snr_gamma must be null for {base}, a base of flow matching; got {snr_gamma}. Set "
            "model.flow.weighting."
        )
    if is_flow(scheduler) and (loss.timestep_sampling != "uniform" or loss.zero_terminal_snr):
        raise ValueError(
            "loss.timestep_sampling and loss.zero_terminal_snr do not apply to a base of flow matching "
            f"({base}); model.flow sets its noise levels."
        )
    if not is_flow(scheduler) and flow != FlowSettings():
        raise ValueError(f"model.flow must be left out for {base}, which is no base of flow matching.")


def draw_timesteps(
    loss: LossSettings, num_train_timesteps: int, seed: int, epoch: int, sample_index: Iterable[int]
) -> Tensor:
    """Draw one training timestep per sample, [B] int64 in [0, num_train_timesteps).

    Other distributions than the uniform one are those of diffusers' `compute_density_for_timestep_sampling` (Esser et
    al. 2024, section 3.1): a fraction u of the schedule, 0 at clean images and 1 at noise.

    Args:
        loss: Settings.
        num_train_timesteps: Timesteps of the noise schedule.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        sample_index: [B] indices in the data set.
    """
    if loss.timestep_sampling == "uniform":
        return sample_timesteps(num_train_timesteps, seed, epoch, sample_index)
    from diffusers.training_utils import compute_density_for_timestep_sampling

    how = (loss.timestep_sampling, 1, loss.logit_mean, loss.logit_std, loss.mode_scale)
    fractions = torch.cat(
        [
            compute_density_for_timestep_sampling(
                *how, generator=keyed_generator("timestep-density", seed, epoch, int(index))
            )
            for index in sample_index
        ]
    )
    return (fractions * num_train_timesteps).long().clamp(0, num_train_timesteps - 1)


def draw_noise(
    loss: LossSettings, seed: int, epoch: int, sample_index: Sequence[int], num_views: int, shape: Sequence[int]
) -> Tensor:
    """Draw noise [B, V, C, h, w], float32 on the CPU, plus `offset_noise` times a normal number per channel and view.

    Args:
        loss: Settings.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        sample_index: [B] indices in the data set.
        num_views: Number of views V.
        shape: Shape [C, h, w] of one view's latents.
    """
    noise = training_noise(seed, epoch, sample_index, num_views, shape)
    if not loss.offset_noise:
        return noise
    offsets = [
        torch.randn((shape[0], 1, 1), generator=keyed_generator("offset-noise", seed, epoch, int(index), view))
        for index in sample_index
        for view in range(num_views)
    ]
    return noise + loss.offset_noise * torch.stack(offsets).unflatten(0, noise.shape[:2])


def zero_terminal_snr(scheduler: Any) -> DDIMScheduler:
    """Return the scheduler with betas rescaled to an SNR of zero at the last timestep, where sampling then starts.

    Source: Lin et al. 2024, sections 3.1 and 3.3. Training, validation and model folders share the scheduler.

    Raises:
        ValueError: The base predicts noise, which says nothing about the image at zero SNR.
    """
    if scheduler.config.prediction_type == "epsilon":
        raise ValueError(
            "model.loss.zero_terminal_snr must be false for a base that predicts epsilon; got true. Choose a base with "
            "prediction_type v_prediction."
        )
    return DDIMScheduler.from_config(scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
