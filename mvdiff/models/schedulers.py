"""Diffusers schedulers that fit latent diffusion models with discrete betas, and those of flow matching."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch

from mvdiff.flow import FLOW_SCHEDULERS
from mvdiff.models.loading import opening

MAX_TRAIN_TIMESTEPS = 100_000
"""Most steps of a noise schedule that is opened."""


def scheduler_class(name: str) -> type:
    """Return the diffusers scheduler class of a name, which may omit the suffix "Scheduler".

    Raises:
        ValueError: Diffusers has no such scheduler for models that predict eps, v or x0, or the velocity of flow
            matching; the message lists the choices.

    Example:
        >>> scheduler_class("DDIM").__name__
        'DDIMScheduler'
    """
    for candidate in (name, f"{name}Scheduler"):
        scheduler = getattr(diffusers, candidate, None) if candidate.endswith("Scheduler") else None
        if scheduler is not None and (_usable(scheduler) or scheduler in FLOW_SCHEDULERS):
            return scheduler
    raise ValueError(f"scheduler must be one of {', '.join(scheduler_names() + flow_names())}; got {name!r}.")


def flow_names() -> list[str]:
    """List the schedulers of flow matching, without the suffix "Scheduler"."""
    return [scheduler.__name__.removesuffix("Scheduler") for scheduler in FLOW_SCHEDULERS]


def scheduler_names() -> list[str]:
    """List the usable schedulers with discrete betas of the installed diffusers, without the suffix "Scheduler"."""
    classes = ((name, getattr(diffusers, name)) for name in dir(diffusers) if name.endswith("Scheduler"))
    return sorted(name.removesuffix("Scheduler") for name, scheduler in classes if _usable(scheduler))


def _usable(scheduler: Any) -> bool:
    """Return False for classes of flow matching, inversion and video, and for placeholders of missing libraries."""
    if not inspect.isclass(scheduler) or scheduler.__name__.startswith("CogVideoX") or "Inverse" in scheduler.__name__:
        return False
    return takes(scheduler, "beta_start") and takes(scheduler, "prediction_type")


def takes(scheduler: type, setting: str) -> bool:
    """Return True if the constructor of a scheduler class has the argument `setting`."""
    return setting in inspect.signature(scheduler.__init__).parameters


def ddim_defaults(name: str) -> dict[str, Any]:
    """Return the settings with which DDIM does what another scheduler class does by default."""
    return {"clip_sample": False} | ({"set_alpha_to_one": False} if name == "PNDMScheduler" else {})


def build_scheduler(kind: type, config: Mapping[str, Any], where: Path) -> Any:
    """Build a scheduler from the config that a file holds, and prove on one number that it can denoise.

    Diffusers checks few of the settings when it builds a scheduler, so a wrong one would end a later run.

    Args:
        kind: Scheduler class.
        config: The config.
        where: File of the config, for error messages.

    Raises:
        ValueError: A setting is wrong.
    """
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise ValueError(
            f"num_train_timesteps must be a whole number from 1 to {MAX_TRAIN_TIMESTEPS}; got {steps!r}, in {where}."
        )
    with opening("scheduler", kind.__name__, where), torch.random.fork_rng(devices=[]):
        scheduler = kind.from_config(config)
        trial = deepcopy(scheduler)
        trial.set_timesteps(min(10, steps))
        noise = torch.ones(1, 1, 1, 1)
        scaled = trial.scale_model_input(noise, trial.timesteps[0]) if hasattr(trial, "scale_model_input") else noise
        denoised = trial.step(noise, trial.timesteps[0], scaled)
        if not bool(torch.isfinite(denoised.prev_sample).all()):
            raise ValueError("it computes numbers that are not finite")
    return scheduler
